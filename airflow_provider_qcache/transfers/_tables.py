"""Collect the rows of a query in tables: one table, or one for each partition."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.client.errors import InvalidKey, InvalidTable
from airflow_provider_qcache.client.ring import check_key
from airflow_provider_qcache.client.tables import types as rules
from airflow_provider_qcache.client.tables.headers import column_headers
from airflow_provider_qcache.client.tables.spool import SpooledTable
from airflow_provider_qcache.client.tables.types import ColumnType, csv_header, fits_csv
from airflow_provider_qcache.client.tables.upload import Upload
from airflow_provider_qcache.protocol import CSV

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from airflow_provider_qcache.client.tables.spool import Spool
    from airflow_provider_qcache.client.tables.types import Column

_ROWS: Final = re.compile(rb'((?:[^"\n]++|"[^"]*+")*+)\n').findall


class QueryTables:
    """Tables by key, filled while rows are read. Call ``begin`` first; set ``columns`` after all rows.

    ``key`` is the one table's, or has each column of ``partition_by`` in braces; the operator checked it.
    """

    def __init__(
        self,
        spool: Spool,
        key: str,
        partition_by: Sequence[str] = (),
        column_types: Mapping[str, str] | None = None,
    ) -> None:
        self.spool = spool
        self._key = key
        self._column_types = column_types
        self._tables: dict[str, SpooledTable] = {}
        self._by_values: dict[tuple[str | None, ...], SpooledTable] = {}
        self.whole: SpooledTable | None = None
        """The one table, if there are no partitions."""
        self._head = b""
        self._names: tuple[str, ...] = ()
        self.partition_by = tuple(partition_by)
        self.positions: tuple[int, ...] = ()
        """The places of the columns in the key."""
        self.requested: dict[str, ColumnType] = {}
        """The types in column_types."""
        self.columns: tuple[Column, ...] = ()

    def begin(self, names: Sequence[str]) -> None:
        """Set the columns' names. Raises InvalidTable if they do not fit CSV or the operator's arguments."""
        rules.check_names(names)
        for name in names:
            if not fits_csv(name):
                rules.refuse(
                    name,
                    "its name cannot be sent in CSV or headers: use an alias of printable ASCII in the SQL, "
                    "without ';', '=' and '\"', and without spaces around it",
                )
        self.requested = rules.check_column_types(self._column_types, names)
        for name in self.partition_by:
            if name not in names:
                what = f"partition_by names column {name!r}, which the query does not have; it has "
                raise InvalidTable(what + ", ".join(names), column=name)
        self.positions = tuple(map(list(names).index, self.partition_by))
        self._names = tuple(names)
        self._head = csv_header(names)
        if not self.partition_by:
            self.whole = self._new(self._key)

    def add(self, data: bytes, keys: Sequence[Any], rows: int) -> None:
        """Add rows, from their CSV and the values of each row's partition."""
        if self.whole is not None:
            self.spool.add(self.whole, data, rows)
            return
        groups: dict[Any, list[bytes]] = {}
        pairs = zip(keys, lines_of(data, rows), strict=True)
        for number, (values, line) in enumerate(pairs, self.spool.rows + 1):
            group = groups.get(values)
            if group is None:
                self.partition(values, number)
                group = groups[values] = []
            group.append(line)
        for values, lines in groups.items():
            self.spool.add(self._by_values[values], b"\n".join(lines) + b"\n", len(lines))

    def partition(self, values: Sequence[str | None], row: int) -> SpooledTable:
        """The table of a partition, created if it is new; ``row``, from 1, is for errors.

        Raises InvalidTable for a null; InvalidKey if a key cannot contain a value, or is another partition's.
        """
        table = self._by_values.get(tuple(values))
        if table is None:
            table = self._by_values[tuple(values)] = self._new(self._new_key(values, row))
        return table

    def _new_key(self, values: Sequence[str | None], row: int) -> str:
        for column, value in zip(self.partition_by, values, strict=True):
            if value is None:
                what = "a null, which partition_by cannot use in a key; replace it with coalesce() in the SQL"
                rules.refuse(column, what, row=row)
        key = self._key.format_map(dict(zip(self.partition_by, values, strict=True)))
        try:
            check_key(key)
        except InvalidKey as error:
            raise InvalidKey(f"partition {self._description(values)}: {error}") from None
        if key in self._tables:
            other = next(one for one, table in self._by_values.items() if table is self._tables[key])
            raise InvalidKey(
                f"partitions {self._description(other)} and {self._description(values)} have the same key "
                f"{key!r}: change the key, or the values in the SQL"
            )
        return key

    def _description(self, values: Sequence[str | None]) -> str:
        pairs = zip(self.partition_by, values, strict=True)
        return ", ".join(f"{column}={value!r}" for column, value in pairs)

    def check_rows(self) -> None:
        """Raise RuntimeError if the tables do not have every row that was spooled."""
        held = sum(table.rows for table in self._tables.values())
        if held != self.spool.rows:
            raise RuntimeError(
                f"{self.spool.rows:,} rows were read, and the tables have {held:,}: this is a bug, so "
                "nothing is stored"
            )

    def _new(self, key: str) -> SpooledTable:
        table = self._tables[key] = SpooledTable(self.spool, self._names, self._head)
        return table

    @property
    def keys(self) -> list[str]:
        """Every table's key, sorted, so that a retry has the same order whatever the order of the rows."""
        return sorted(self._tables)

    def uploads(self, compression: str | None = None) -> Iterator[tuple[str, Upload]]:
        """Pairs of key and Upload, in the order of ``keys``, created one by one."""
        headers = column_headers(rules.typed(self.columns))
        for key in self.keys:
            yield key, Upload(self._tables[key], CSV, headers, compression)


def lines_of(data: bytes, rows: int) -> list[bytes]:
    """The ``rows`` rows of a CSV, without their line ends. A text may contain line breaks."""
    lines = data.split(b"\n")
    lines.pop()
    return lines if len(lines) == rows else _ROWS(data)
