"""Read a query's rows into a spool, in the fastest way of its database, on a thread that can be cancelled."""

from __future__ import annotations

import contextlib
import contextvars
import datetime as dt
import itertools
import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, wait
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.client.errors import InvalidTable, OperationCancelled
from airflow_provider_qcache.transfers._copy import (
    CopyQuery,
    NoCursor,
    NotByCopy,
    driver_of,
    prepare_session,
    with_parameters,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_provider_qcache.transfers._arrow import ArrowStream
    from airflow_provider_qcache.transfers._tables import QueryTables

_log = logging.getLogger("airflow_provider_qcache.transfers")

_FIRST_ROWS: Final = 16
_MOST_ROWS: Final = 4000
"""The most rows in a batch: larger batches do not fit into the processor's caches."""
_ROWS_AT_A_TIME: Final = 128
"""The most rows that are fetched at a time. 700 new tuples would start Python's garbage collector, which then
searches everything that Airflow has loaded."""
_MEASURED: Final = 4
"""Rows of each fetch whose width is measured."""
_CHUNK: Final = 128
"""Rows that libpq holds at a time."""
_BATCH_BYTES: Final = 4 << 20
"""Approximate bytes of the values in a batch; as Python objects it takes several times as much memory."""
_GRACE: Final = 5.0
"""Seconds in which a cancelled query must end; after that its thread is left running."""

_SLICE: Final = 0.5

_MYSQL_DRIVERS: Final = frozenset({"MySQLdb", "pymysql", "mysql"})
"""The packages of mysqlclient, PyMySQL and mysql-connector-python."""

_MYSQL_TIMESTAMP: Final = 7
"""The protocol's number for TIMESTAMP, which has a zone; DATETIME (12) has none."""

_MULTI_STATEMENTS_OFF: Final = 1
"""MYSQL_OPTION_MULTI_STATEMENTS_OFF."""

COPY: Final = "COPY"
ARROW: Final = "Arrow"
CURSOR: Final = "a cursor"

_SILENT_DRIVERS: Final = ("duckdb", "_duckdb", "adbc_driver_")
"""Prefixes of drivers that return the rows of one of several statements, without an error."""

_NO_QUERY: Final = "the SQL returns no rows to store: pass a query"


class SqlSource:
    """Reads a query once, by a DbApiHook. ``cancel`` may be called from any thread."""

    def __init__(self, hook: Any, sql: str, parameters: Sequence[Any] | Mapping[str, Any] | None) -> None:
        self._hook = hook
        self._sql = _without_end(hook.strip_sql_string(sql))
        self._parameters = parameters or None
        self._running: tuple[Any, ...] = ()
        """What can be cancelled: the connection, and the cursor, which is a connection itself in DuckDB."""
        self._cancelled = False

    def read(self, tables: QueryTables) -> str:
        """Run the query, write its rows to the tables, and return how: ``COPY``, ``ARROW`` or ``CURSOR``.

        It runs on its own thread: Airflow ends a task by a signal, which Python does not handle while a
        driver waits for its database. Raises OperationCancelled after cancel().
        """
        try:
            return self._read_on_a_thread(tables)
        except Exception as error:
            if self._cancelled:
                raise OperationCancelled("the query was cancelled") from error
            raise

    def _read_on_a_thread(self, tables: QueryTables) -> str:
        # Not the thread's join: after it was interrupted, Python 3.11 believes that the thread has ended.
        how: Future[str] = Future()

        def run() -> None:
            try:
                how.set_result(self._read(tables))
            except BaseException as error:  # noqa: BLE001  # raised in the caller's thread
                how.set_exception(error)

        known = contextvars.copy_context()
        threading.Thread(target=known.run, args=(run,), name="qcache-sql", daemon=True).start()
        # Cancelled again and again, since between two statements there is nothing to cancel.
        try:
            while not wait([how], _SLICE).done:
                if self._cancelled:
                    self.cancel()
        except BaseException:
            end = time.monotonic() + _GRACE
            self.cancel()
            while not wait([how], _SLICE).done and time.monotonic() < end:
                self.cancel()
            raise
        return how.result()

    def cancel(self) -> None:
        self._cancelled = True
        for running in self._running:
            # cancel: psycopg and many others; interrupt: sqlite3, duckdb; adbc_cancel: ADBC.
            names = ("cancel", "interrupt", "adbc_cancel")
            end = next((getattr(running, name) for name in names if hasattr(running, name)), None)
            if callable(end):
                with contextlib.suppress(Exception):  # the query may have ended
                    end()

    def _check(self) -> None:
        if self._cancelled:
            raise OperationCancelled("the query was cancelled")

    def _read(self, tables: QueryTables) -> str:
        self._check()
        with contextlib.closing(self._hook.get_conn()) as connection:
            self._running = (connection,)
            self._check()
            try:
                driver = driver_of(connection)
                if driver in ("psycopg", "psycopg2"):
                    return self._read_postgres(connection, tables)
                if driver.startswith(_SILENT_DRIVERS):
                    _check_one_statement(self._sql)
                if driver in _MYSQL_DRIVERS:
                    cursor = _mysql_cursor(connection)
                else:
                    from airflow_provider_qcache.transfers._arrow import of_connection  # noqa: PLC0415  # pyarrow

                    if (run := of_connection(connection)) is not None:
                        return self._read_arrow(run(self._sql, self._parameters), tables)
                    cursor = connection.cursor()
                how = self._read_cursor(cursor, self._sql, self._parameters, tables)
                _check_nothing_follows(cursor)
                return how
            finally:
                self._running = ()

    def _read_postgres(self, connection: Any, tables: QueryTables) -> str:
        connection.autocommit = False  # a cursor lives in a transaction, which is never committed
        prepare_session(connection)
        sql = with_parameters(connection, self._sql, self._parameters)
        try:
            query = CopyQuery(connection, sql)
            self._check()
            query.read(tables)
        except NotByCopy as why:
            _log.info("Reading the query row by row and not by COPY: %s", str(why).strip().splitlines()[0])
            connection.rollback()
            _keep_months(connection)
            cursor = _postgres_cursor(connection, is_query=not isinstance(why, NoCursor))
            return self._read_cursor(cursor, sql, None, tables)
        return COPY

    def _read_arrow(self, stream: ArrowStream, tables: QueryTables) -> str:
        from airflow_provider_qcache.client.tables.arrow import Encoder, plans_of  # noqa: PLC0415  # pyarrow

        with contextlib.closing(stream):
            if not stream.schema.names:
                raise InvalidTable(_NO_QUERY)
            self._check()
            tables.begin(stream.schema.names)
            encoder = Encoder(plans_of(stream.schema, tables.requested))
            for batch in stream.batches():
                self._check()
                tables.add(*encoder.encode(batch, tables.positions), batch.num_rows)
            tables.columns = encoder.columns
        return ARROW

    def _read_cursor(self, cursor: Any, sql: str, parameters: Any, tables: QueryTables) -> str:
        """Run the query and read it as Arrow, or by rows if the cursor has no Arrow; returns how."""
        from airflow_provider_qcache.client.tables.cursors import RowEncoder  # noqa: PLC0415  # pyarrow
        from airflow_provider_qcache.transfers._arrow import of_cursor  # noqa: PLC0415

        self._running = (*self._running, cursor)
        self._check()
        if parameters is None:
            cursor.execute(sql)
        else:
            cursor.execute(sql, parameters)
        stream = of_cursor(cursor)
        if stream is not None and (stream.schema.names or not cursor.description):
            return self._read_arrow(stream, tables)
        batches = _batches(cursor)
        columns = next(batches, None)
        if cursor.description is None:
            raise InvalidTable(_NO_QUERY)
        names = [column[0] for column in cursor.description]
        tables.begin(names)
        encoder = RowEncoder(names, tables.requested)
        while columns is not None:
            self._check()
            tables.add(*encoder.encode(columns, tables.positions), len(columns[0]))
            columns = next(batches, None)
        tables.columns = encoder.columns
        return CURSOR


def _batches(cursor: Any) -> Iterator[list[list[Any]]]:
    """A query's rows by column, in batches of bounded size."""
    at_a_time = _FIRST_ROWS
    ended = False
    while not ended:
        columns: list[list[Any]] = []
        count = size = 0
        while count < _MOST_ROWS and size < _BATCH_BYTES and not ended:
            rows = _fetch(cursor, min(at_a_time, _MOST_ROWS - count))
            count += len(rows)
            ended = not rows
            for number, values in enumerate(zip(*rows, strict=True)):
                if number == len(columns):
                    columns.append([])
                columns[number].extend(values)
            # The widest of a few rows: measuring every value would take as long as encoding it.
            widest = max((_width(row) for row in rows[:: 1 + len(rows) // _MEASURED]), default=0)
            size += widest * len(rows)
            fitting = _BATCH_BYTES // 4 // max(1, widest)
            at_a_time = max(1, min(fitting, 4 * at_a_time, _ROWS_AT_A_TIME))
        if columns:
            yield columns


def _fetch(cursor: Any, count: int) -> Sequence[Sequence[Any]]:
    with contextlib.suppress(AttributeError):  # duckdb has none; many drivers fetch that many rows
        cursor.arraysize = count
    # Some server-side cursors, which have a name, have no description before their first rows.
    if cursor.description is None and not getattr(cursor, "name", None):
        return ()
    rows: Sequence[Any] = cursor.fetchmany(count)
    if rows and isinstance(rows[0], Mapping):
        return [tuple(row.values()) for row in rows]
    return rows


def _width(row: Sequence[Any]) -> int:
    """The length of a row's texts, and 16 for every value."""
    return sum([16 + len(value) if isinstance(value, str | bytes) else 16 for value in row])


class _Stream:
    """psycopg 3's ``stream`` as a cursor: the server sends rows while earlier ones are encoded."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._rows: Iterator[Any] = iter(())
        self.description: list[tuple[str]] | None = None
        """The columns' names; None where the statement gives no rows, and is not run."""

    def execute(self, sql: str) -> None:
        """Start the query. Raises psycopg.Error."""
        from psycopg import pq  # type: ignore[import-not-found]  # noqa: PLC0415  # the connection's own
        from psycopg.errors import error_from_result  # type: ignore[import-not-found]  # noqa: PLC0415

        # psycopg itself has the columns only with the first row, and not at all without rows.
        with self._connection.lock:
            made = self._connection.pgconn.prepare(b"qcache_columns", sql.encode())
            if made.status == pq.ExecStatus.COMMAND_OK:
                made = self._connection.pgconn.describe_prepared(b"qcache_columns")
        if made.status != pq.ExecStatus.COMMAND_OK:
            raise error_from_result(made)
        if made.nfields:
            self.description = [(made.fname(at).decode(),) for at in range(made.nfields)]
            self._rows = self._cursor.stream(sql, size=_CHUNK)

    def fetchmany(self, count: int) -> list[Any]:
        return list(itertools.islice(self._rows, count))


def _postgres_cursor(connection: Any, *, is_query: bool) -> Any:
    """A cursor whose rows PostgreSQL keeps until they are fetched.

    In psycopg 2, and in psycopg 3 with a libpq before 17, only a query can have one.
    """
    if driver_of(connection) == "psycopg" and _streams_in_chunks():
        return _Stream(connection)
    return connection.cursor("qcache_rows") if is_query else connection.cursor()


def _streams_in_chunks() -> bool:
    try:
        from psycopg import capabilities  # noqa: PLC0415  # the connection's own
    except ImportError:  # psycopg before 3.2
        return False
    return bool(capabilities.has_stream_chunked())  # the libpq may be older, too


def _mysql_cursor(connection: Any) -> _MySqlCursor:
    """A cursor of MySQL or MariaDB, for one statement, in UTC, whose rows the server keeps until fetched.

    Raises the driver's errors.
    """
    driver = driver_of(connection)
    # One statement only: the server would run a second one, and the driver would hide its rows and error.
    if driver == "mysql":
        flag = import_module("mysql.connector.constants").ClientFlag.MULTI_STATEMENTS
        connection.client_flags = [-flag]
        connection.reconnect()
        connection.set_charset_collation("utf8mb4")
        cursor = connection.cursor()
    else:
        if driver == "MySQLdb":
            connection.set_server_option(_MULTI_STATEMENTS_OFF)
        connection.set_character_set("utf8mb4")
        cursor = connection.cursor(import_module(f"{driver}.cursors").SSCursor)
    cursor.execute("SET time_zone = '+00:00'")
    return _MySqlCursor(cursor)


class _MySqlCursor:
    """A driver's cursor that adds the session's zone, UTC, to TIMESTAMPs."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def fetchmany(self, count: int) -> Sequence[Sequence[Any]]:
        rows: Sequence[Sequence[Any]] = self._cursor.fetchmany(count)
        moments = {
            place for place, column in enumerate(self.description or ()) if column[1] == _MYSQL_TIMESTAMP
        }
        if not moments:
            return rows
        return [
            [
                value.replace(tzinfo=dt.UTC) if place in moments and isinstance(value, dt.datetime) else value
                for place, value in enumerate(row)
            ]
            for row in rows
        ]


class _IntervalOfMonths:
    """Stands for an interval with months or years, which a driver would convert to days."""


_IntervalOfMonths.__name__ = "an interval of months or years"


def _keep_months(connection: Any) -> None:
    """Make psycopg return intervals of months or years as _IntervalOfMonths."""
    if driver_of(connection) == "psycopg2":
        extensions = import_module("psycopg2.extensions")

        def cast(value: str | None, cursor: Any) -> Any:
            if value is not None and ("mon" in value or "year" in value):
                return _IntervalOfMonths()
            return extensions.PYINTERVAL(value, cursor)

        kind = extensions.new_type(extensions.PYINTERVAL.values, "INTERVAL", cast)
        extensions.register_type(kind, connection)
        return
    loader: Any = import_module("psycopg.types.datetime").IntervalLoader

    class Loader(loader):
        def load(self, data: Any) -> Any:
            text = bytes(data)
            return _IntervalOfMonths() if b"mon" in text or b"year" in text else super().load(data)

    connection.adapters.register_loader("interval", Loader)


def _without_end(sql: str) -> str:
    """A statement without the ';' at its end and the comments after it, as files have them."""
    if ";" not in sql:
        return sql
    sqlparse = import_module("sqlparse")  # it comes with Airflow's DbApiHook
    tokens = [token for statement in sqlparse.parse(sql) for token in statement.flatten()]
    end = None
    for at in reversed(range(len(tokens))):
        token = tokens[at]
        if token.ttype is sqlparse.tokens.Punctuation and token.value == ";":
            end = at
        # Not '#', which is a comment to MySQL, and to sqlparse, and an operator to PostgreSQL.
        elif not (token.is_whitespace or token.value.startswith(("--", "/*"))):
            break
    return sql if end is None else "".join(token.value for token in tokens[:end])


def _check_one_statement(sql: str) -> None:
    sqlparse = import_module("sqlparse")
    if (count := len(sqlparse.split(sql))) > 1:
        raise InvalidTable(
            f"the SQL has {count} statements, and this driver returns the result of only one: pass one "
            "query, and use a task for each query"
        )


def _check_nothing_follows(cursor: Any) -> None:
    """Raise the error of a second statement, or InvalidTable if it returns rows."""
    next_result = getattr(cursor, "nextset", None)  # optional in DB-API
    while next_result is not None:
        try:
            if not next_result():
                return
        except Exception as error:
            if type(error).__name__ == "NotSupportedError":
                return
            raise
        if cursor.description is not None:
            raise InvalidTable(
                "the SQL returns more than one result: pass one query, and use a task for each query"
            )
