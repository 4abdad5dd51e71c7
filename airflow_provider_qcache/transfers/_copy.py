"""Read a query by PostgreSQL's COPY: the server writes the CSV, by the rules of docs/reference/tables.md.

The query that COPY runs converts the values. It also finds those that must be refused: each row begins with a
field that flags nulls and values beyond a limit, and names the row's partition. That field is removed here,
and is checked if it was not seen before.
"""

from __future__ import annotations

import csv
import dataclasses
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.client.tables import types as rules
from airflow_provider_qcache.client.tables.types import Column, ColumnType, refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from airflow_provider_qcache.client.tables.spool import SpooledTable
    from airflow_provider_qcache.transfers._tables import QueryTables

_FIRST_VERSION: Final = 90_000
"""The first PostgreSQL with this COPY. Redshift, which speaks its protocol, reports 8.0 and lacks it."""

_CANNOT: Final = frozenset({"42601", "42P11", "0A000"})
"""SQLSTATEs of a statement without a cursor, and so without COPY, such as INSERT … RETURNING."""

_FINE, _HAS_NULL, _LARGE, _REFUSED = "-", "n", "l", "r"
_BETWEEN: Final = "\x1f"
_NULL: Final = "\x1e"
"""The separator of the parts of the first field, and a null in it; no key can contain them."""

_PAST_NO_FLAGS: Final = len('"",')
_QUOTE: Final = ord('"')
"""How a row without flags begins: COPY writes an empty first field as "" to distinguish it from a null."""

_MOST_COLUMNS: Final = 1664
"""PostgreSQL's limit for a query (MaxTupleAttributeNumber)."""

_MOST_FLAGGED: Final = 10_000
"""First fields with flags that are remembered: with many columns, each row may have a different one."""

_MOST_PLAIN: Final = 200
"""The most characters of a decimal that is written without an exponent."""
_SMALLEST: Final = "1e-330"
"""Nearer to zero, a decimal is zero as a float."""

_ROWS_AT_A_TIME: Final = 256
_BYTES_AT_A_TIME: Final = 1 << 20

# Types by their OIDs, which never change (PostgreSQL's pg_type.dat).
_BOOL, _BYTEA, _INT8, _INT2, _INT4, _OID, _FLOAT4, _FLOAT8, _NUMERIC = 16, 17, 20, 21, 23, 26, 700, 701, 1700
_BPCHAR: Final = 1042
_DATE, _TIME, _TIMESTAMP, _TIMESTAMPTZ, _INTERVAL, _TIMETZ = 1082, 1083, 1114, 1184, 1186, 1266
_TEXTS: Final = frozenset({18, 19, 25, 114, 142, _BPCHAR, 1043, 2950, 3802})
"""char, name, text, json, xml, bpchar, varchar, uuid, jsonb."""
_TEXT_CATEGORIES: Final = frozenset("SEINVX")
"""Of other types (pg_type.typcategory): strings, enums, addresses, numbers such as money, bits, unknown."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Expression:
    """A column in the query that COPY runs."""

    type: ColumnType
    written: str
    """SQL for the value that COPY writes."""
    fine: str = ""
    """SQL that is false for a value to flag; empty if no value is flagged. Mostly null for a null."""
    flag: str = ""
    """SQL for the flag of a value; empty if ``fine`` alone decides it."""
    refuse: Callable[[str, str, int], None] | None = None
    """Raises for a value flagged as refused: takes the column's name, the value, the row."""


class NotByCopy(Exception):
    """COPY cannot write this query by the rules: its rows are read by a cursor instead."""


class NoCursor(NotByCopy):
    """The server has no cursor for the statement either."""


def _float(column: str, *, double: bool) -> _Expression:
    bound = f"{rules.MOST_FLOAT!r}::float8"
    finite = f"{column} > '-Infinity' AND {column} < 'Infinity'"
    special = f"WHEN {column} = 'Infinity' THEN 'inf' WHEN {column} = '-Infinity' THEN '-inf'"
    text = f"CASE WHEN {finite} THEN {column}::text {special} END"
    if not double:
        return _Expression(ColumnType.FLOAT, text)
    parsed = f"{column} > -{bound} AND {column} < {bound}"
    return _Expression(
        ColumnType.FLOAT,
        text,
        fine=parsed,
        flag=f"CASE WHEN {finite} AND NOT ({parsed}) THEN '{_REFUSED}' ELSE '{_FINE}' END",
        refuse=lambda name, value, row: rules.too_large_float(name, float(value), row),
    )


def _integer(value: str) -> _Expression:
    exact = f"{value} BETWEEN -{rules.EXACT} AND {rules.EXACT}"
    held = f"{value} BETWEEN {rules.INT64_MIN} AND {rules.INT64_MAX}"
    return _Expression(
        ColumnType.INT,
        value,
        fine=f"({exact}) IS TRUE",  # so that a null beside a large value is found
        flag=(
            f"CASE WHEN {value} IS NULL THEN '{_HAS_NULL}' WHEN {exact} THEN '{_FINE}'"
            f" WHEN {held} THEN '{_LARGE}' ELSE '{_REFUSED}' END"
        ),
        refuse=lambda name, found, row: rules.too_large_int(name, int(found), row),
    )


def _not_a_float(name: str, value: str, row: int) -> None:
    if value.endswith("Infinity"):
        refuse(name, f"{value} cannot be stored", row=row)
    if abs(float(value)) >= rules.MOST_FLOAT:
        rules.too_large_float(name, value, row)
    rules.too_many_digits(name, value, row)


def _written_decimal(column: str, precision: int | None) -> str:
    """SQL for a decimal as text that a node can read: a node sums all digits before it applies the point.

    A text of more than _MOST_PLAIN characters, zeros included, is written with an exponent, in 17 digits.
    """
    value = f"NULLIF({column}, 'NaN')"
    if precision is not None and precision <= _MOST_PLAIN:
        return f"{value}::text"
    short = f"ltrim(to_char({value}, '9.9999999999999999EEEE'))"
    return (
        f"CASE WHEN length({value}::text) <= {_MOST_PLAIN} THEN {value}::text"
        f" WHEN abs({value}) < {_SMALLEST} THEN '0' ELSE {short} END"
    )


def _decimal(column: str, *, exact: bool, precision: int | None) -> _Expression:
    digits = f"ltrim(rtrim(replace({column}::text, '.', ''), '0'), '-0')"
    too_large = f"abs({column}) >= {rules.MOST_FLOAT!r}::numeric"
    too_many = f" OR length({digits}) > {rules.MOST_DIGITS}" if exact else ""
    unfit = f"{column}::text LIKE '%Infinity' OR ({column} <> 'NaN' AND ({too_large}{too_many}))"
    return _Expression(
        ColumnType.FLOAT,
        _written_decimal(column, precision),
        fine=f"length({column}::text) < {len('Infinity')}",
        flag=f"CASE WHEN {unfit} THEN '{_REFUSED}' ELSE '{_FINE}' END",
        refuse=_not_a_float,
    )


def _moment(text: str, in_years: str) -> _Expression:
    return _Expression(
        ColumnType.TEXT,
        text,
        fine=in_years,
        refuse=lambda name, _, row: rules.refuse(name, rules.OUT_OF_CALENDAR, row=row),
    )


def _in_years(column: str) -> str:
    return f"{column} >= '0001-01-01' AND {column} < '10000-01-01'"


def _timestamp(value: str, zone: str) -> _Expression:
    # With a fraction, in microseconds, only if there is one.
    text = (
        f"CASE WHEN {value}::timestamp(0) = {value} THEN {value}::text"
        f" ELSE to_char({value}, 'YYYY-MM-DD HH24:MI:SS.US') END{zone}"
    )
    return _moment(text, _in_years(value))


def _time(column: str) -> _Expression:
    moment = f"('2000-01-01'::date + {column})"
    return _Expression(
        ColumnType.TEXT,
        f"CASE WHEN {column}::time(0) = {column} THEN {column}::text"
        f" ELSE to_char({moment}, 'HH24:MI:SS.US') END",
        fine=f"{column} < '24:00:00'",
        refuse=lambda name, value, row: refuse(name, f"{value} is not a time of day up to 23:59:59", row=row),
    )


def _interval(column: str) -> _Expression:
    months = f"extract(year from {column}) <> 0 OR extract(month from {column}) <> 0"
    return _Expression(
        ColumnType.FLOAT,
        f"extract(epoch from {column})::float8::text",
        fine=f"NOT ({months})",
        refuse=lambda name, _, row: refuse(
            name, "an interval of months or years, which cannot be converted to seconds", row=row
        ),
    )


def _expression(
    name: str, column: str, described: Any, category: str, requested: ColumnType | None
) -> _Expression:
    """Return the expression for a column. Raises InvalidTable for a type that cannot be stored."""
    oid = described[1]
    as_text = requested in (ColumnType.TEXT, ColumnType.ENUM)
    if oid in (_BOOL, _INT2, _INT4, _OID, _INT8, _NUMERIC) and as_text:
        value = f"NULLIF({column}, 'NaN')" if oid == _NUMERIC else column
        return _Expression(ColumnType.TEXT, f"{value}::text")
    if oid == _BOOL:
        return _Expression(
            ColumnType.BOOL, f"{column}::int::text" if requested is ColumnType.FLOAT else f"{column}::text"
        )
    if oid in (_INT2, _INT4, _OID) or (oid == _INT8 and requested is ColumnType.FLOAT):
        return _Expression(ColumnType.INT, column)
    if oid == _INT8:
        return _integer(column)
    if oid == _NUMERIC:
        if described[5] == 0 and requested is None:
            return _integer(f"NULLIF({column}, 'NaN')")
        return _decimal(column, exact=requested is None, precision=described[4])
    if oid in (_FLOAT4, _FLOAT8):
        return _float(column, double=oid == _FLOAT8)
    if oid == _INTERVAL:
        return _interval(column)
    if oid in (_DATE, _TIME, _TIMESTAMP, _TIMESTAMPTZ):
        if requested is ColumnType.FLOAT:
            refuse(name, "column_types: 'float' cannot be used for a date or a time")
        if oid == _TIME:
            return _time(column)
        if oid == _DATE:
            return _moment(f"{column}::text", _in_years(column))
        if oid == _TIMESTAMP:
            return _timestamp(column, "")
        return _timestamp(f"({column} AT TIME ZONE 'UTC')", " || '+00:00'")
    if oid == _TIMETZ:
        refuse(name, "a time of day with a time zone, which cannot be converted to UTC")
    if oid in _TEXTS or category in _TEXT_CATEGORIES:
        if requested is ColumnType.FLOAT:
            raise NotByCopy(f"column {name!r} is text, and column_types has 'float' for it")
        if oid == _BPCHAR:  # a cast would take its padding off
            return _Expression(ColumnType.TEXT, f"CASE WHEN {column} IS NOT NULL THEN concat({column}) END")
        return _Expression(ColumnType.TEXT, column)
    return refuse(
        name,
        "bytes, arrays, records, ranges and the like cannot be stored; cast them to a text "
        "or a number in the SQL",
    )


class CopyQuery:
    """A PostgreSQL query that COPY can run, on a connection of psycopg 2 or 3.

    Call ``prepare_session`` first. Raises NotByCopy, with the transaction rolled back, if COPY cannot run it.
    """

    def __init__(self, connection: Any, sql: str) -> None:
        self._connection = connection
        self._sql = sql
        self._cursor = connection.cursor()
        self._known: dict[bytes, SpooledTable] = {}
        """The table of each known first field without flags: one first field for each table."""
        self._flagged: dict[bytes, SpooledTable] = {}
        self._watched: list[tuple[int, str, _Expression]] = []
        self._null_rows: dict[str, int] = {}
        self._large_rows: dict[str, int] = {}
        try:
            self._check_session()
            self._columns = self._describe()
        except BaseException:
            connection.rollback()
            raise

    def _one(self, sql: str) -> str:
        """The single text that a query selects, whatever the type of the connection's rows."""
        self._cursor.execute(sql)
        row = self._cursor.fetchone()
        value: str = next(iter(row.values())) if isinstance(row, dict) else row[0]
        return value

    def _check_session(self) -> None:
        version = self._connection.info.server_version
        if version < _FIRST_VERSION:
            raise NotByCopy(f"the server reports version {version}, and COPY needs {_FIRST_VERSION}")
        encoding = self._one("SELECT current_setting('server_encoding')")
        if encoding == "SQL_ASCII":
            raise NotByCopy(f"the server's encoding is {encoding}")

    def _describe(self) -> list[Any]:
        """The columns, as DB-API describes them, without running the query."""
        try:
            self._cursor.execute(f"DECLARE qcache_columns NO SCROLL CURSOR FOR {self._sql}")
            self._cursor.execute("FETCH 0 FROM qcache_columns")
        except Exception as error:
            state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
            if state in _CANNOT:
                raise NoCursor(str(error)) from error
            raise
        columns = list(self._cursor.description)
        self._cursor.execute("CLOSE qcache_columns")
        return columns

    def _categories(self) -> dict[int, str]:
        oids = {column[1] for column in self._columns}
        # PostgreSQL gave these numbers.
        categories = self._one(
            "SELECT string_agg(oid::text || ' ' || typcategory::text, ',') FROM pg_type WHERE oid IN "  # noqa: S608  # nosec B608
            f"({', '.join(map(str, sorted(oids)))})"
        )
        pairs = (pair.split(" ") for pair in categories.split(","))
        return {int(oid): category for oid, category in pairs}

    def read(self, tables: QueryTables) -> None:
        """Run the query and write its rows to the tables. Raises InvalidTable, InvalidKey."""
        names = [column[0] for column in self._columns]
        tables.begin(names)
        statement = self._statement(names, tables)
        whole = tables.whole
        writer = _Writer(self._by_partition(tables) if whole is None else self._to_one(tables, whole))
        if driver_of(self._connection) == "psycopg2":
            self._cursor.copy_expert(statement, writer)
        else:
            with self._cursor.copy(statement):
                self._connection.wait(_copied(self._connection.pgconn, writer.write))
        writer.end()

    def _by_partition(self, tables: QueryTables) -> Callable[[Sequence[bytes]], None]:
        known, flagged, spool = self._known, self._flagged, tables.spool

        def take(rows: Sequence[bytes]) -> None:
            for row in rows:
                first, _, rest = row.partition(b",")
                table = known.get(first) or flagged.get(first)
                if table is None:
                    table = self._first_of(first, row, spool.rows + 1, tables)
                spool.add(table, rest)

        return take

    def _to_one(self, tables: QueryTables, whole: SpooledTable) -> Callable[[Sequence[bytes]], None]:
        watched, spool = bool(self._watched), tables.spool

        def checked(row: bytes, number: int) -> bytes:
            first, _, rest = row.partition(b",")
            if first not in self._flagged:
                self._first_of(first, row, number, tables)
            return rest

        def take(rows: Sequence[bytes]) -> None:
            all_rows = rows
            if watched:
                rows = [row[_PAST_NO_FLAGS:] for row in all_rows if row[0] == _QUOTE]
                if len(rows) != len(all_rows):
                    rows = [checked(row, number) for number, row in enumerate(all_rows, spool.rows + 1)]
            spool.add(whole, b"".join(rows), len(rows))

        return take

    def _statement(self, names: Sequence[str], tables: QueryTables) -> str:
        categories = self._categories()
        places = [f"c{number}" for number in range(len(names))]
        expressions = {
            name: _expression(name, place, column, categories.get(column[1], ""), tables.requested.get(name))
            for name, place, column in zip(names, places, self._columns, strict=True)
        }
        tables.columns = tuple(
            Column(name, tables.requested.get(name, found.type)) for name, found in expressions.items()
        )
        self._watched = [
            (number, name, found) for number, (name, found) in enumerate(expressions.items()) if found.fine
        ]
        fields = [expression.written for expression in expressions.values()]
        keys = [f"({fields[position]})::text" for position in tables.positions]
        options = "FORMAT csv"
        if len(fields) == 1:
            # A node skips a blank line, so a null is written as "", which it reads as null too.
            fields = [f"COALESCE(({fields[0]})::text, '') AS lone"]
            options += ", FORCE_QUOTE (lone)"
        if self._watched or tables.positions:
            fields = [self._first_field(keys), *fields]
        if len(fields) > _MOST_COLUMNS:
            raise NotByCopy(f"with one more column for checks it has more than {_MOST_COLUMNS} columns")
        return (  # the query is the DAG author's own
            f"COPY (SELECT {', '.join(fields)} FROM (\n{self._sql}\n) AS query({', '.join(places)}))"  # noqa: S608  # nosec B608
            f" TO STDOUT ({options})"
        )

    def _first_field(self, keys: Sequence[str]) -> str:
        flags = "''"
        if self._watched:
            watched = [expression for _, _, expression in self._watched]
            fine = " AND ".join(f"({expression.fine})" for expression in watched)
            all_flags = " || ".join(
                expression.flag
                or f"CASE WHEN ({expression.fine}) IS NOT FALSE THEN '{_FINE}' ELSE '{_REFUSED}' END"
                for expression in watched
            )
            flags = f"CASE WHEN ({fine}) IS NOT FALSE THEN '' ELSE {all_flags} END"
        parts = [flags, *(f"COALESCE({key}, chr({ord(_NULL)}))" for key in keys)]
        return f" || chr({ord(_BETWEEN)}) || ".join(parts)

    def _first_of(self, first: bytes, row: bytes, number: int, tables: QueryTables) -> SpooledTable:
        """Check a new first field. Raises InvalidTable for a flagged value, and InvalidKey."""
        fields = next(csv.reader([row.decode()]))
        flags, *values = fields[0].split(_BETWEEN)
        for flag, (place, name, expression) in zip(flags, self._watched, strict=False):
            if flag == _REFUSED and expression.refuse is not None:
                expression.refuse(name, fields[1 + place], number)
            if flag == _HAS_NULL:
                self._null_rows.setdefault(name, number)
            if flag == _LARGE:
                self._large_rows.setdefault(name, number)
            if name in self._null_rows and name in self._large_rows:
                rules.too_large_with_null(name, row=self._large_rows[name], null_row=self._null_rows[name])
        table = tables.whole
        if table is None:
            last = len(tables.positions) - 1
            values = [*values[:last], _BETWEEN.join(values[last:])]
            table = tables.partition([None if value == _NULL else value for value in values], number)
        if not flags:
            self._known[first] = table
        else:
            if len(self._flagged) >= _MOST_FLAGGED:
                self._flagged.clear()
            self._flagged[first] = table
        return table


class _Writer:
    """A file for psycopg 2, which writes single rows; ``take`` gets several at a time."""

    def __init__(self, take: Callable[[Sequence[bytes]], None]) -> None:
        self._take = take
        self._rows: list[bytes] = []
        self._bytes = 0

    def write(self, row: bytes) -> None:
        self._rows.append(row)
        self._bytes += len(row)
        if len(self._rows) == _ROWS_AT_A_TIME or self._bytes > _BYTES_AT_A_TIME:
            self.end()

    def end(self) -> None:
        self._take(self._rows)
        self._rows.clear()
        self._bytes = 0


def _copied(pgconn: Any, write: Callable[[bytes], None]) -> Generator[Any, Any, None]:
    """Write the rows of psycopg 3's COPY in one wait: its own Copy object waits for each row."""
    from psycopg.generators import copy_from  # type: ignore[import-not-found]  # noqa: PLC0415  # as below

    while isinstance(row := (yield from copy_from(pgconn)), memoryview):
        write(bytes(row))


def prepare_session(connection: Any) -> None:
    """Set how PostgreSQL writes texts, times and floats, whatever the role or the database sets.

    psycopg 2 always sets the date style ISO, and psycopg 3 cannot read all others. Neither reads intervals of
    another style. How the session reads dates (``DMY``) is not changed.
    """
    if driver_of(connection) == "psycopg2":  # else it would use the encoding from before
        connection.set_client_encoding("UTF8")
    settings = {"client_encoding": "UTF8", "datestyle": "ISO", "extra_float_digits": "2"}
    if connection.info.server_version >= _FIRST_VERSION:
        settings |= {"extra_float_digits": "3", "intervalstyle": "postgres"}
    with connection.cursor() as cursor:
        for name, value in settings.items():
            cursor.execute(f"SET {name} = '{value}'")
    connection.commit()  # a rollback would undo them


def driver_of(connection: Any) -> str:
    """The package of a connection's class."""
    return type(connection).__module__.split(".")[0]


def with_parameters(connection: Any, sql: str, parameters: Sequence[Any] | Mapping[str, Any] | None) -> str:
    """Put the parameters into a statement as literals, by psycopg: COPY has no parameters."""
    if not parameters:
        return sql
    if driver_of(connection) == "psycopg2":
        with connection.cursor() as cursor:
            whole: bytes = cursor.mogrify(sql, parameters)
        return whole.decode()
    from psycopg import ClientCursor  # type: ignore[import-not-found]  # noqa: PLC0415  # installed, since the connection is psycopg's

    text: str = ClientCursor(connection).mogrify(sql, parameters)
    return text
