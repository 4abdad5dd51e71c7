"""Results as plain values, for whoever passes them on as JSON."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any, NoReturn


class Plain:
    """A dataclass whose ``as_dict()`` gives all of it as values of JSON."""

    __slots__ = ()

    def as_dict(self) -> dict[str, Any]:
        """The fields by name; an error as text, a tuple as a list."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def serialize(self) -> NoReturn:
        """Fail the task that returns a result, without retries.

        Only Airflow calls this, on what a task returns. It would store a dataclass without this method, and
        the task that reads it would fail, unless the deployment allows the class.

        Raises:
            AirflowFailException: always; it names ``as_dict()``. Airflow retries any other error.
        """
        # Imported here: the client, whose results these are, runs where Airflow is not installed.
        from airflow_provider_qcache.compat import AirflowFailException  # noqa: PLC0415

        raise AirflowFailException(
            f"{type(self).__name__} cannot be passed to other tasks by XCom: return its as_dict()"
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Plain):
        return value.as_dict()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value
