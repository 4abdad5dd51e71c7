"""Make the keys of partitions: ``sales_{region}_{day}`` with each partition's values."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class KeyPattern:
    """A key with the names of columns in braces, each of which ``partition_by`` names.

    Raises ValueError if key and columns do not fit: a name in braces is not a partition column, or a
    partition column is not in the key, so that partitions would share a key.
    """

    def __init__(self, key: str, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self._pattern = key
        self._values: dict[str, tuple[str | None, ...]] = {}
        """The values of each partition so far, by its key."""
        names = []
        try:
            for _, name, form, conversion in string.Formatter().parse(key):
                if form or conversion:
                    raise ValueError(f"{{{name}}} has a format or conversion: leave only the name")  # noqa: TRY301
                if name is not None:
                    names.append(name)
        except ValueError as error:
            raise ValueError(
                f"key={key!r}: {error}; write a column's name in braces, and format its values in the SQL"
            ) from error
        for name in names:
            if name not in self.columns:
                raise ValueError(
                    f"key={key!r}: {{{name}}} is not in partition_by, which names {', '.join(self.columns)}"
                )
        for name in self.columns:
            if name not in names:
                raise ValueError(
                    f"key={key!r}: {{{name}}} is missing, which partition_by names: partitions would share a "
                    "key, so add it"
                )

    def key(self, values: Sequence[str | None], row: int) -> str:
        """The key of a partition; ``row``, from 1, is for errors.

        Raises InvalidTable for a null; InvalidKey if a key cannot contain a value, or is another partition's.
        """
        # Here, so that parsing a DAG does not load the client.
        from airflow_provider_qcache.client.errors import InvalidKey  # noqa: PLC0415
        from airflow_provider_qcache.client.ring import check_key  # noqa: PLC0415
        from airflow_provider_qcache.client.tables.types import refuse  # noqa: PLC0415

        for column, value in zip(self.columns, values, strict=True):
            if value is None:
                what = "a null, which partition_by cannot use in a key; replace it with coalesce() in the SQL"
                refuse(column, what, row=row)
        key = self._pattern.format_map(dict(zip(self.columns, values, strict=True)))
        try:
            check_key(key)
        except InvalidKey as error:
            raise InvalidKey(f"partition {self._description(values)}: {error}") from None
        other = self._values.setdefault(key, tuple(values))
        if other != tuple(values):
            raise InvalidKey(
                f"partitions {self._description(other)} and {self._description(values)} have the same key "
                f"{key!r}: change the key, or the values in the SQL"
            )
        return key

    def _description(self, values: Sequence[str | None]) -> str:
        pairs = zip(self.columns, values, strict=True)
        return ", ".join(f"{column}={value!r}" for column, value in pairs)
