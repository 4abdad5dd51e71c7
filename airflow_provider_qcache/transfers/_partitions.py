"""The keys of a table's partitions: ``sales_{region}_{day}`` filled in with each partition's values."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_SAID: Final = "partition_by"


class KeyPattern:
    """A key with the names of columns in braces, each of which ``partition_by`` names.

    Raises ValueError, naming the argument, where key and columns do not fit: a name in braces that is no
    partition column, or a partition column that is not in the key (its partitions would share one).
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
                f"key={key!r}: {error}; a column's value is put in by its name in braces, and formatted in "
                "the SQL"
            ) from error
        for name in names:
            if name not in self.columns:
                raise ValueError(
                    f"key={key!r}: {{{name}}} is not in {_SAID}, which names {', '.join(self.columns)}"
                )
        for name in self.columns:
            if name not in names:
                raise ValueError(
                    f"key={key!r}: {{{name}}} is missing, which {_SAID} names: partitions would share a key"
                )

    def key(self, values: Sequence[str]) -> str:
        """Return the key of a partition. Raises InvalidKey if a value cannot be part of a key."""
        # Here, since the client is not loaded where a DAG is parsed.
        from airflow_provider_qcache.client.errors import InvalidKey  # noqa: PLC0415
        from airflow_provider_qcache.client.ring import check_key  # noqa: PLC0415

        key = self._pattern.format_map(dict(zip(self.columns, values, strict=True)))
        try:
            check_key(key)
        except InvalidKey as error:
            raise InvalidKey(f"partition {self.shown(values)}: {error}") from None
        return key

    def shown(self, values: Sequence[str]) -> str:
        """A partition's values, for people."""
        pairs = zip(self.columns, values, strict=True)
        return ", ".join(f"{column}={value!r}" for column, value in pairs)


class Keys:
    """The keys of all partitions so far; two partitions with one key are an error."""

    def __init__(self, pattern: KeyPattern) -> None:
        self._pattern = pattern
        self._values: dict[str, tuple[str, ...]] = {}

    def __len__(self) -> int:
        return len(self._values)

    def key(self, values: Sequence[str | None], row: int) -> str:
        """The key of a partition, the same each time; ``row``, from 1, is said in errors.

        Raises:
            InvalidTable: a value is null.
            InvalidKey: a value has no place in a key, or another partition has the same.
        """
        from airflow_provider_qcache.client.errors import InvalidKey, InvalidTable  # noqa: PLC0415  # as above

        present: list[str] = []
        for column, value in zip(self._pattern.columns, values, strict=True):
            if value is None:
                raise InvalidTable(
                    f"column {column!r}, row {row}: a null, which {_SAID} cannot put into a key; "
                    "replace it by coalesce() in the SQL",
                    column=column,
                    row=row,
                )
            present.append(value)
        key = self._pattern.key(present)
        other = self._values.setdefault(key, tuple(present))
        if other != tuple(present):
            raise InvalidKey(
                f"partitions {self._pattern.shown(other)} and {self._pattern.shown(present)} have the same "
                f"key {key!r}"
            )
        return key
