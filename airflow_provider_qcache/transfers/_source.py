"""A query's rows to a spool, by the fastest way its database has, on a thread that can be cancelled."""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import logging
import threading
import time
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TypeVar

from airflow_provider_qcache.client.errors import InvalidTable, OperationCancelled
from airflow_provider_qcache.transfers._copy import CopyQuery, NoCursor, NotByCopy, driver_of, with_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from airflow_provider_qcache.transfers._spool import Spool, SpooledTable
    from airflow_provider_qcache.transfers._tables import QueryTables

_log = logging.getLogger("airflow_provider_qcache.transfers")

_FIRST_ROWS: Final = 16
_MOST_ROWS: Final = 4000
"""Rows in a batch: with more of them the processor's caches do not hold what is turned into columns."""
_ROWS_AT_A_TIME: Final = 128
"""Rows that are fetched at a time, whatever their width turns out to be. At 700 new tuples Python would look
for garbage, too, time and again in all that Airflow has loaded."""
_LOOKED_AT: Final = 4
"""Of so many rows at a time the width is looked at."""
_CHUNK: Final = 128
"""Rows that libpq has at a time, whatever their width."""
_BATCH_BYTES: Final = 4 << 20
"""CSV in a batch, about: as Python objects it takes several times as much memory."""
_GRACE: Final = 5.0
"""Seconds that a cancelled query has to end in; then its thread is left to the end of the process."""

_SLICE: Final = 0.5

_Got = TypeVar("_Got")

COPY: Final = "COPY"
CURSOR: Final = "a cursor"


class SqlSource:
    """One reading of a query, by a DbApiHook. ``cancel`` may be called from any thread."""

    def __init__(self, hook: Any, sql: str, parameters: Sequence[Any] | Mapping[str, Any] | None) -> None:
        self._hook = hook
        self._sql = _without_end(hook.strip_sql_string(sql))
        self._parameters = parameters or None
        self._running: tuple[Any, ...] = ()
        """What may be cancelled: the connection, and the cursor, in DuckDB a connection of its own."""
        self._cancelled = False

    def read(self, spool: Spool, tables: QueryTables) -> str:
        """Run the query, its rows to the tables in the spool; tells how: ``COPY`` or ``CURSOR``.

        It runs on a thread of its own, since a driver that waits for its database lets no signal through,
        and Airflow ends a task by one.

        Raises:
            InvalidTable: the rows hold what a node cannot.
            InvalidKey: a partition's values make no key, or that of another.
            OperationCancelled: cancel() was called.
            Exception: what the database's driver raises.
        """
        try:
            return _on_a_thread(lambda: self._read(spool, tables), self.cancel, lambda: self._cancelled)
        except Exception as error:
            if self._cancelled:
                raise OperationCancelled("the query was cancelled") from error
            raise

    def cancel(self) -> None:
        """End the query, where the driver can."""
        self._cancelled = True
        for running in self._running:
            # cancel: psycopg and many others; interrupt: sqlite3, duckdb.
            end = getattr(running, "cancel", None) or getattr(running, "interrupt", None)
            if callable(end):
                with contextlib.suppress(Exception):  # it may have ended meanwhile
                    end()

    def _check(self) -> None:
        if self._cancelled:
            raise OperationCancelled("the query was cancelled")

    def _read(self, spool: Spool, tables: QueryTables) -> str:
        self._check()
        with contextlib.closing(self._hook.get_conn()) as connection:
            self._running = (connection,)
            self._check()
            try:
                if driver_of(connection) not in ("psycopg", "psycopg2"):
                    self._read_rows(_streaming_cursor(connection), self._sql, self._parameters, spool, tables)
                    return CURSOR
                return self._read_postgres(connection, spool, tables)
            finally:
                self._running = ()

    def _read_postgres(self, connection: Any, spool: Spool, tables: QueryTables) -> str:
        connection.autocommit = False  # a cursor lives in a transaction, which is never committed
        if hasattr(connection, "set_client_encoding"):
            connection.set_client_encoding("UTF8")
        else:
            connection.execute("SET client_encoding = 'UTF8'")
            connection.commit()
        sql = with_parameters(connection, self._sql, self._parameters)
        try:
            query = CopyQuery(connection, sql)
            self._check()
            query.read(spool, tables)
        except NotByCopy as why:
            _log.info("The query is read row by row and not by COPY: %s", str(why).strip().splitlines()[0])
            connection.rollback()
            _tell_months(connection)
            cursor = _postgres_cursor(connection, is_query=not isinstance(why, NoCursor))
            self._read_rows(cursor, sql, None, spool, tables)
            return CURSOR
        return COPY

    def _read_rows(self, cursor: Any, sql: str, parameters: Any, spool: Spool, tables: QueryTables) -> None:
        from airflow_provider_qcache.transfers._rows import RowEncoder, lines_of  # noqa: PLC0415  # pyarrow

        self._running = (*self._running, cursor)
        self._check()
        if parameters is None:
            cursor.execute(sql)
        else:
            cursor.execute(sql, parameters)
        batches = _Batches(cursor)
        columns = batches.next()
        if cursor.description is None:
            raise InvalidTable("the SQL gives no rows to store: a query is wanted")
        names = [column[0] for column in cursor.description]
        whole = tables.begin(names)
        encoder = RowEncoder(names, tables.wanted)
        known: dict[Any, SpooledTable] = {}
        while columns:
            self._check()
            data, keys = encoder.encode(columns, tables.positions)
            rows = len(columns[0])
            if whole is not None:
                spool.add(whole, data, rows)
            else:
                groups: dict[Any, list[bytes]] = {}
                pairs = zip(keys, lines_of(data, rows), strict=True)
                for number, (key, line) in enumerate(pairs, spool.rows + 1):
                    group = groups.get(key)
                    if group is None:
                        group = groups[key] = []
                        if key not in known:
                            known[key] = tables.partition(key, number)
                    group.append(line)
                for key, lines in groups.items():
                    spool.add(known[key], b"\n".join(lines) + b"\n", len(lines))
            batches.took(rows, len(data))
            columns = batches.next()
        tables.columns = encoder.columns


class _Batches:
    """A query's rows by column, in batches that are sized by what rows took so far."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor
        self._size = _MOST_ROWS
        self._at_a_time = _FIRST_ROWS
        self._ended = False

    def next(self) -> list[list[Any]]:
        """The next rows, each column's values in a list; no columns after the last."""
        columns: list[list[Any]] = []
        count = size = 0
        while count < self._size and size < _BATCH_BYTES and not self._ended:
            rows = self._fetch(min(self._at_a_time, self._size - count))
            count += len(rows)
            self._ended = not rows
            for number, values in enumerate(zip(*rows, strict=True)):
                if number == len(columns):
                    columns.append([])
                columns[number].extend(values)
            # The widest of some rows: what every value takes would cost as much time as its encoding.
            widest = max((_width(row) for row in rows[:: 1 + len(rows) // _LOOKED_AT]), default=0)
            size += widest * len(rows)
            fitting = _BATCH_BYTES // 4 // max(1, widest)
            self._at_a_time = max(1, min(fitting, 4 * self._at_a_time, _ROWS_AT_A_TIME))
        return columns

    def _fetch(self, count: int) -> Sequence[Sequence[Any]]:
        cursor = self._cursor
        with contextlib.suppress(AttributeError):  # duckdb has none; many drivers fetch as many as it says
            cursor.arraysize = count
        if not _is_named(cursor) and cursor.description is None:
            return ()
        rows: Sequence[Any] = cursor.fetchmany(count)
        if rows and isinstance(rows[0], Mapping):
            return [tuple(row.values()) for row in rows]
        return rows

    def took(self, rows: int, bytes_: int) -> None:
        """Tell what a batch took as CSV."""
        fitting = rows * _BATCH_BYTES // max(1, bytes_)
        self._size = max(1, min(fitting, _MOST_ROWS))


def _width(row: Sequence[Any]) -> int:
    """The length of a row's texts, and a little for every value."""
    return sum([16 + len(value) if isinstance(value, str | bytes) else 16 for value in row])


class _Stream:
    """psycopg 3's ``stream`` as a cursor: the server sends rows while those before them become CSV."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._rows: Iterator[Any] = iter(())
        self.description: list[tuple[str]] | None = None
        """The columns' names; None where the statement gives no rows, and is not run."""

    def execute(self, sql: str) -> None:
        """Begin. Raises psycopg.Error."""
        # psycopg tells the columns with the first row, and where there is none not at all.
        if columns := _described(self._connection, sql):
            self.description = columns
            self._rows = self._cursor.stream(sql, size=_CHUNK)

    def fetchmany(self, count: int) -> list[Any]:
        """So many rows, or those that are left. Raises psycopg.Error."""
        return list(itertools.islice(self._rows, count))


def _described(connection: Any, sql: str) -> list[tuple[str]]:
    """The names of a statement's columns, by psycopg 3, without running it: none where it gives no rows."""
    from psycopg import pq  # type: ignore[import-not-found]  # noqa: PLC0415  # the connection's own
    from psycopg.errors import error_from_result  # type: ignore[import-not-found]  # noqa: PLC0415

    with connection.lock:
        made = connection.pgconn.prepare(b"qcache_columns", sql.encode())
        if made.status == pq.ExecStatus.COMMAND_OK:
            made = connection.pgconn.describe_prepared(b"qcache_columns")
    if made.status != pq.ExecStatus.COMMAND_OK:
        raise error_from_result(made)
    return [(made.fname(at).decode(),) for at in range(made.nfields)]


def _postgres_cursor(connection: Any, *, is_query: bool) -> Any:
    """A cursor whose rows stay with PostgreSQL until they are fetched.

    By psycopg 2, and by psycopg 3 with a libpq before 17, there is one for queries only.
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


def _is_named(cursor: Any) -> bool:
    """Whether it is a server-side cursor, some of which have no description before their first rows."""
    return bool(getattr(cursor, "name", None))


class _IntervalOfMonths:
    """In place of an interval with months or years, of which a driver makes days; no node can hold it."""


_IntervalOfMonths.__name__ = "an interval of months or years"


def _tell_months(connection: Any) -> None:
    """Have psycopg give intervals of months or years as such."""
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
    """A statement without the ';' at its end and the comments after that, as files have them."""
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


def _streaming_cursor(connection: Any) -> Any:
    """A cursor that leaves its rows with the server, where the driver would else fetch all of them."""
    package = driver_of(connection)
    if package in ("MySQLdb", "pymysql"):
        return connection.cursor(import_module(f"{package}.cursors").SSCursor)
    return connection.cursor()


def _on_a_thread(work: Callable[[], _Got], cancel: Callable[[], None], cancelled: Callable[[], bool]) -> _Got:
    """What ``work`` returns or raises; ``cancel`` ends it when this thread is interrupted.

    It is called again and again, since between two statements there is nothing that it could end.
    """
    got: list[_Got] = []
    failed: list[BaseException] = []
    done = threading.Event()  # a join that is interrupted has Python 3.11 take the thread for ended

    def run() -> None:
        try:
            got.append(work())
        except BaseException as error:  # noqa: BLE001  # raised again where it is waited for
            failed.append(error)
        finally:
            done.set()

    thread = threading.Thread(
        target=contextvars.copy_context().run, args=(run,), name="qcache-sql", daemon=True
    )
    thread.start()
    try:
        while not done.wait(_SLICE):
            if cancelled():
                cancel()
    except BaseException:
        end = time.monotonic() + _GRACE
        cancel()
        while not done.wait(_SLICE) and time.monotonic() < end:
            cancel()
        raise
    if failed:
        raise failed[0]
    return got[0]
