"""Collect the rows of a query in tables: one table, or one for each partition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_qcache.client.errors import InvalidTable
from airflow_provider_qcache.client.ring import check_key
from airflow_provider_qcache.client.tables import types as rules
from airflow_provider_qcache.client.tables.headers import column_headers
from airflow_provider_qcache.client.tables.spool import SpooledTable
from airflow_provider_qcache.client.tables.types import ColumnType, csv_header, fits_csv
from airflow_provider_qcache.client.tables.upload import Upload
from airflow_provider_qcache.protocol import CSV
from airflow_provider_qcache.transfers._partitions import KeyPattern

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from airflow_provider_qcache.client.tables.spool import Spool
    from airflow_provider_qcache.client.tables.types import Column


class QueryTables:
    """Tables by key, filled while rows are read. Call ``begin`` first; set ``columns`` after all rows.

    Raises ValueError or InvalidKey for a key that does not fit; see KeyPattern.
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
        self._pattern = KeyPattern(key, partition_by) if partition_by else None
        if self._pattern is None:
            check_key(key)
        self._column_types = column_types
        self._tables: dict[str, SpooledTable] = {}
        self._by_values: dict[Any, SpooledTable] = {}
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

    def __len__(self) -> int:
        return len(self._tables)

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
        if self._pattern is None:
            self.whole = self._new(self._key)

    def add(self, data: bytes, keys: Sequence[Any], rows: int) -> None:
        """Add rows, from their CSV and the values of each row's partition."""
        if self.whole is not None:
            self.spool.add(self.whole, data, rows)
            return
        from airflow_provider_qcache.client.tables.cursors import lines_of  # noqa: PLC0415  # pyarrow

        groups: dict[Any, list[bytes]] = {}
        pairs = zip(keys, lines_of(data, rows), strict=True)
        for number, (values, line) in enumerate(pairs, self.spool.rows + 1):
            group = groups.get(values)
            if group is None:
                group = groups[values] = []
                if values not in self._by_values:
                    self._by_values[values] = self.partition(values, number)
            group.append(line)
        for values, lines in groups.items():
            self.spool.add(self._by_values[values], b"\n".join(lines) + b"\n", len(lines))

    def partition(self, values: Sequence[str | None], row: int) -> SpooledTable:
        """The table of a partition, created if it is new; see ``KeyPattern.key``."""
        assert self._pattern is not None  # noqa: S101
        key = self._pattern.key(values, row)
        return self._tables[key] if key in self._tables else self._new(key)

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

    def types(self) -> dict[str, str]:
        """The type of each column that X-QCache-types must name, for every table."""
        return {column.name: column.type.header for column in self.columns if column.type.header is not None}

    @property
    def keys(self) -> list[str]:
        """Every table's key, sorted, so that a retry has the same order whatever the order of the rows."""
        return sorted(self._tables)

    def uploads(self, compression: str | None = None) -> Iterator[tuple[str, Upload]]:
        """Pairs of key and Upload, in the order of ``keys``, created one by one."""
        headers = column_headers(self.types())
        for key in self.keys:
            yield key, Upload(self._tables[key], CSV, headers, compression)
