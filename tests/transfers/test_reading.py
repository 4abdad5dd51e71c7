"""A query in progress: it can be ended from outside, and takes no more memory for more rows."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import threading
import time
import tracemalloc

import psycopg
import pytest

from airflow_provider_qcache.client import InvalidKey, InvalidTable, OperationCancelled
from airflow_provider_qcache.transfers import _copy
from airflow_provider_qcache.transfers._source import SqlSource
from airflow_provider_qcache.transfers._spool import Spool
from airflow_provider_qcache.transfers._tables import QueryTables
from tests.transfers.conftest import Hook, read

SLEEP = "SELECT pg_sleep(120)::text AS slept"


def sleeping(postgres):
    """How many queries the database is busy with."""
    with contextlib.closing(psycopg.connect(postgres.uri)) as database:
        sql = (
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE state = 'active' AND query LIKE '%pg_sleep(120)%' AND pid <> pg_backend_pid()"
        )
        return database.execute(sql).fetchone()[0]


def wait_until(true):
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_cancel_ends_the_query_in_the_database(postgres, postgres_hook):
    source = SqlSource(postgres_hook, SLEEP, None)

    def cancel():
        wait_until(lambda: sleeping(postgres))
        source.cancel()

    other = threading.Thread(target=cancel)
    other.start()
    with Spool() as spool, pytest.raises(OperationCancelled):
        source.read(spool, QueryTables(spool, "key"))
    other.join()
    wait_until(lambda: not sleeping(postgres))


def test_a_cancel_between_two_statements_is_not_lost(postgres, postgres_hook, monkeypatch):
    source = SqlSource(postgres_hook, SLEEP, None)
    statement = _copy.CopyQuery._statement

    def cancelled_before(self, *arguments):
        source.cancel()
        return statement(self, *arguments)

    monkeypatch.setattr(_copy.CopyQuery, "_statement", cancelled_before)
    with Spool() as spool, pytest.raises(OperationCancelled):
        source.read(spool, QueryTables(spool, "key"))
    wait_until(lambda: not sleeping(postgres))


def test_so_does_a_timeout_of_the_task(postgres, postgres_hook):
    """Airflow raises it in the main thread, from a signal, where a driver that waits would not see it."""

    class TimedOut(BaseException):
        pass

    def ring(*_):
        raise TimedOut

    before = signal.signal(signal.SIGALRM, ring)
    source = SqlSource(postgres_hook, SLEEP, None)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1)
        with Spool() as spool, pytest.raises(TimedOut):
            source.read(spool, QueryTables(spool, "key"))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    wait_until(lambda: not sleeping(postgres))


def test_a_query_that_was_cancelled_before_it_began(postgres_hook):
    source = SqlSource(postgres_hook, SLEEP, None)
    source.cancel()
    with Spool() as spool, pytest.raises(OperationCancelled):
        source.read(spool, QueryTables(spool, "key"))


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_memory_does_not_grow_with_the_rows(postgres, kind):
    """Nor with the order in which they arrive: partitions are all open at once."""
    if kind == "sqlite":
        hook = Hook(lambda: sqlite3.connect(":memory:"))
        numbers = "WITH RECURSIVE t(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM t WHERE n < {} - 1)"
        sql = f"{numbers} SELECT n, n * 7919 % 100 AS part, hex(zeroblob(500)) AS wide FROM t"
    else:
        hook = Hook(lambda: psycopg.connect(postgres.uri))
        numbers = "generate_series(0, {} - 1) AS t(n)"
        sql = f"SELECT n, n * 7919 % 100 AS part, repeat('0', 1000) AS wide FROM {numbers}"

    def peak(rows):
        tracemalloc.start()
        try:
            with Spool(held=2 << 20) as spool:
                tables = QueryTables(spool, "k{part}", ("part",))
                SqlSource(hook, sql.format(rows), None).read(spool, tables)
                spool.flush()
                assert (spool.rows, len(tables)) == (rows, 100)
                for _, upload in tables.uploads():
                    assert sum(map(len, upload.wire_body().stream)) > rows // 100 * 1000
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1000)  # what is made once
    few, many = peak(8000), peak(24_000)
    assert many < 1.25 * few


def test_partitions_keep_the_order_of_rows(postgres_hook):
    sql = "SELECT n, n % 3 AS a, chr(97 + n % 2) AS b FROM generate_series(1, 1000) AS t(n)"
    found = read(postgres_hook, sql, key="k_{a}-{b}", partition_by=("a", "b"), held=1000)
    assert set(found.tables) == {f"k_{a}-{b}" for a in range(3) for b in "ab"}
    for key, text in found.tables.items():
        _, *rows = [line.split(",") for line in text.splitlines()]
        numbers = [int(row[0]) for row in rows]
        assert numbers == sorted(numbers)
        assert {f"k_{a}-{b}" for _, a, b in rows} == {key}
    assert sum(text.count("\n") - 1 for text in found.tables.values()) == 1000


PARTS = [
    ("true", "true"),
    ("1::bigint", "1"),
    ("date '2024-05-06'", "2024-05-06"),
    ("'it''s'", None),
    ("'a,b'", None),
    ("'a\"b'", None),
    ("'001'", "001"),
    ("''", ""),
    ("timestamp '2024-05-06'", None),
    ("1.5", None),
]


@pytest.mark.parametrize(("value", "text"), PARTS, ids=[value for value, _ in PARTS])
def test_a_value_in_a_key_is_its_text(postgres_hook, way, value, text):
    sql = f"SELECT 1 AS n, {value} AS part, 'x' AS other"
    options = {"key": "{other}_{part}_{part}", "partition_by": ("part", "other")}
    if text is None:
        with pytest.raises(InvalidKey, match="partition part="):
            read(postgres_hook, sql, **options)
        return
    found = read(postgres_hook, sql, **options)
    assert (found.how, list(found.tables)) == (way, [f"x_{text}_{text}"])


@pytest.mark.parametrize("sql", ["SELECT NULL::text AS part", "SELECT 'a' AS part UNION ALL SELECT NULL"])
def test_a_null_makes_no_key(postgres_hook, sql):
    with pytest.raises(InvalidTable, match=r"column 'part', row [12]: a null, and partition_by"):
        read(postgres_hook, sql, key="k{part}", partition_by=("part",))


def test_a_column_that_the_query_does_not_have(sqlite_hook):
    with pytest.raises(InvalidTable, match="partition_by names column 'b', which the query does not have"):
        read(sqlite_hook, "SELECT 1 AS a", key="k{b}", partition_by=("b",))


def test_rows_that_are_mappings():
    """A cursor of dicts gives the same."""

    def connect():
        connection = sqlite3.connect(":memory:")
        connection.row_factory = lambda cursor, row: dict(
            zip([column[0] for column in cursor.description], row, strict=True)
        )
        return connection

    assert read(Hook(connect), "SELECT 1 AS a, 'x' AS b").text == 'a,b\n1,"x"\n'
