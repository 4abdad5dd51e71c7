"""Results as plain values for JSON, and values in texts."""

from __future__ import annotations

import ast
import dataclasses
import enum
import json
from collections.abc import Mapping
from typing import Any, NoReturn


class Plain:
    """A dataclass whose ``as_dict()`` returns its fields as values for JSON."""

    __slots__ = ()

    def as_dict(self) -> dict[str, Any]:
        """The fields by name; an error as its text, a tuple as a list."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def serialize(self) -> NoReturn:
        """Fail a task that returns a result, without retries.

        Only Airflow calls this, when a task returns a result. Without this method Airflow would store the
        result, and the task that reads it would fail, unless the deployment allows the class.

        Raises:
            AirflowFailException: always. Airflow would retry after any other error.
        """
        # Imported here: the client, whose results these are, runs where Airflow is not installed.
        from airflow_provider_qcache.compat import AirflowFailException  # noqa: PLC0415

        raise AirflowFailException(
            f"{type(self).__name__} cannot be passed to other tasks by XCom: return its as_dict()"
        )


def literal(text: str) -> Any:
    """The value that a string holds as JSON, or else as a Python literal; ValueError if neither."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"neither JSON nor a Python literal: {error}") from error


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
