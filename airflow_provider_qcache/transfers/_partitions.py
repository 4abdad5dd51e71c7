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
        names = []
        try:
            for _, name, form, conversion in string.Formatter().parse(key):
                if name is None:
                    continue
                if form or conversion:
                    raise ValueError(f"{{{name}}} has a format or conversion: leave only the name")  # noqa: TRY301
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

    def key(self, values: Sequence[str]) -> str:
        """Return the key of a partition. Raises InvalidKey if a value cannot be part of a key."""
        # Here, so that parsing a DAG does not load the client.
        from airflow_provider_qcache.client.errors import InvalidKey  # noqa: PLC0415
        from airflow_provider_qcache.client.ring import check_key  # noqa: PLC0415

        key = self._pattern.format_map(dict(zip(self.columns, values, strict=True)))
        try:
            check_key(key)
        except InvalidKey as error:
            raise InvalidKey(f"partition {self.description(values)}: {error}") from None
        return key

    def description(self, values: Sequence[str]) -> str:
        """A partition's values, for people."""
        pairs = zip(self.columns, values, strict=True)
        return ", ".join(f"{column}={value!r}" for column, value in pairs)


class Keys:
    """The keys of all partitions so far; two partitions with the same key are an error."""

    def __init__(self, pattern: KeyPattern) -> None:
        self._pattern = pattern
        self._values: dict[str, tuple[str, ...]] = {}

    def __len__(self) -> int:
        return len(self._values)

    def key(self, values: Sequence[str | None], row: int) -> str:
        """The key of a partition; ``row``, from 1, is for errors.

        Raises:
            InvalidTable: a value is null.
            InvalidKey: a key cannot contain a value, or another partition has the same key.
        """
        from airflow_provider_qcache.client.errors import InvalidKey, InvalidTable  # noqa: PLC0415  # as above

        present: list[str] = []
        for column, value in zip(self._pattern.columns, values, strict=True):
            if value is None:
                raise InvalidTable(
                    f"column {column!r}, row {row}: a null, which partition_by cannot use in a key; replace "
                    "it with coalesce() in the SQL",
                    column=column,
                    row=row,
                )
            present.append(value)
        key = self._pattern.key(present)
        other = self._values.setdefault(key, tuple(present))
        if other != tuple(present):
            raise InvalidKey(
                f"partitions {self._pattern.description(other)} and {self._pattern.description(present)} "
                f"have the same key {key!r}: change the key, or the values in the SQL"
            )
        return key
