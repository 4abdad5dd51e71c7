"""A query in progress: it can be ended from outside, and takes no more memory for more rows."""

from __future__ import annotations

import contextlib
import math
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import tracemalloc

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_qcache.client import InvalidKey, InvalidTable, OperationCancelled
from airflow_provider_qcache.client.tables.spool import Spool, SpooledTable
from airflow_provider_qcache.transfers import _copy, _source
from airflow_provider_qcache.transfers._source import CURSOR, SqlSource
from airflow_provider_qcache.transfers._tables import QueryTables, lines_of
from tests.transfers.conftest import Hook, read, run

SLEEP = "SELECT pg_sleep(120)::text AS slept"


WIDE = """
import sqlite3, sys
from pathlib import Path
import psycopg
from airflow_provider_qcache.transfers import _copy, _source
from airflow_provider_qcache.client.tables.spool import Spool
from airflow_provider_qcache.transfers._tables import QueryTables
from tests.transfers.conftest import Hook

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

def refuse(*_):
    raise _copy.NotByCopy("this is about a cursor")

kind, uri = sys.argv[1:]
n = "generate_series(1, 3000) AS t(n)"
sql = f"SELECT n, repeat('x', CASE WHEN n > 1500 THEN 100000 ELSE 1 END) AS wide FROM {n}"
if kind == "sqlite":
    hook = Hook(lambda: sqlite3.connect(":memory:"))
    n = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 3000)"
    sql = f"{n} SELECT n, hex(zeroblob(CASE WHEN n > 1500 THEN 50000 ELSE 1 END)) AS wide FROM t"
elif kind == "postgres":
    hook = Hook(lambda: psycopg.connect(uri))
    _source.CopyQuery = refuse
else:
    hook = Hook(lambda: psycopg.connect(uri))
    with psycopg.connect(uri) as connection:
        connection.execute("DROP TABLE IF EXISTS wide")
        connection.execute("CREATE TABLE wide (n integer, wide text)")
    sql = f"INSERT INTO wide {sql} RETURNING n, wide"

def read(sql):
    with Spool() as spool:
        assert _source.SqlSource(hook, sql, None).read(QueryTables(spool, "key")) == _source.CURSOR
        return spool.rows

read(sql.replace("100000", "1").replace("50000", "1"))  # what is loaded once, and no row's
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
before = memory("VmRSS")
assert read(sql) == 3000
print(memory("VmHWM") - before)
"""


def sleeping(postgres):
    """How many queries the database is busy with."""
    with contextlib.closing(psycopg.connect(postgres.uri)) as database:
        sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        return database.execute(sql).fetchone()[0]


def wait_until(true):
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def read_until(source, true):
    """Read, and cancel it from another thread, a moment after this is true."""

    def cancel():
        wait_until(true)
        time.sleep(0.2)
        source.cancel()

    other = threading.Thread(target=cancel)
    other.start()
    with Spool() as spool, pytest.raises(OperationCancelled):
        source.read(QueryTables(spool, "key"))
    other.join()


@pytest.mark.usefixtures("way")
def test_cancel_ends_the_query_in_the_database(postgres, postgres_hook):
    source = SqlSource(postgres_hook, SLEEP, None)
    read_until(source, lambda: sleeping(postgres))
    wait_until(lambda: not sleeping(postgres))


def test_cancel_ends_a_query_of_duckdb(duckdb_hook):
    """By its connection, which streams Arrow; its cursor would be a connection of its own."""
    sql = "SELECT count(*) AS n FROM range(1000000) a, range(1000000) b WHERE hash(a.range + b.range) % 7 = 3"
    source = SqlSource(duckdb_hook, sql, None)

    read_until(source, lambda: source._running)
    wait_until(lambda: not any(thread.name == "qcache-sql" for thread in threading.enumerate()))


def test_a_cancel_between_two_statements_is_not_lost(postgres, postgres_hook, monkeypatch):
    source = SqlSource(postgres_hook, SLEEP, None)
    statement = _copy.CopyQuery._statement

    def cancelled_before(self, *arguments):
        source.cancel()
        return statement(self, *arguments)

    monkeypatch.setattr(_copy.CopyQuery, "_statement", cancelled_before)
    with Spool() as spool, pytest.raises(OperationCancelled):
        source.read(QueryTables(spool, "key"))
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
            source.read(QueryTables(spool, "key"))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    wait_until(lambda: not sleeping(postgres))


def test_a_query_that_was_cancelled_before_it_began(postgres_hook):
    source = SqlSource(postgres_hook, SLEEP, None)
    source.cancel()
    with Spool() as spool, pytest.raises(OperationCancelled):
        source.read(QueryTables(spool, "key"))


@pytest.mark.usefixtures("way")
def test_a_query_without_rows_has_its_columns(postgres_hook):
    found = read(postgres_hook, "SELECT 1 AS n, 'x'::text AS said WHERE false")
    assert found.text == "n,said\n"


@pytest.mark.usefixtures("way")
def test_a_query_that_fails_midway(postgres_hook):
    """After thousands of rows, which are then not stored either."""
    with pytest.raises(Exception, match="division by zero"):
        read(postgres_hook, "SELECT 1 / (5000 - n) AS part FROM generate_series(1, 10000) AS t(n)")


@pytest.mark.parametrize("end", [";", "; ;\n", ";-- the end", "; /* the; end */ -- of it\n", "-- no end"])
@pytest.mark.usefixtures("way")
def test_what_follows_a_statement(postgres_hook, end):
    found = read(postgres_hook, f"SELECT 5 AS n, ';--' AS t{end}")
    assert found.text.replace('"', "") == "n,t\n5,;--\n"


@pytest.mark.usefixtures("way")
def test_what_looks_like_a_comment_to_others_is_none(postgres_hook):
    assert read(postgres_hook, "SELECT 5 # 3 AS n;").text == "n\n" + '"6"\n'


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "returning"])
def test_rows_that_become_wide_are_not_held_by_the_thousand(postgres, kind):
    """1,500 short ones and 1,500 of 100 kB, of which a process of its own is to hold few."""
    done = subprocess.run(
        [sys.executable, "-c", WIDE, kind, postgres.uri], capture_output=True, text=True, check=True
    )
    assert int(done.stdout.splitlines()[-1]) < 150_000_000


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
                SqlSource(hook, sql.format(rows), None).read(tables)
                spool.flush()
                assert (spool.rows, len(tables.keys)) == (rows, 100)
                for _, upload in tables.uploads():
                    assert sum(map(len, upload.body()[0])) > rows // 100 * 1000
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1000)  # what is made once
    few, many = peak(8000), peak(24_000)
    assert many < 1.25 * few


def test_a_query_as_wide_as_postgresql_allows(postgres_hook):
    """COPY's has a column more."""
    found = read(
        postgres_hook, "SELECT " + ", ".join(f"{number}::bigint AS c{number}" for number in range(1664))
    )
    assert found.how == CURSOR
    assert found.text.splitlines()[1] == ",".join(map(str, range(1664)))


def test_patterns_of_flags_are_remembered_within_a_limit(postgres_hook, monkeypatch):
    """Six columns with nulls have 64 of them."""
    columns = ", ".join(f"CASE WHEN n & {1 << bit} = 0 THEN n::bigint END AS c{bit}" for bit in range(6))
    sql = f"SELECT n % 3 AS part, {columns} FROM generate_series(0, 199) AS t(n)"
    arguments = {"key": "k{part}", "partition_by": ("part",)}
    expected = read(postgres_hook, sql, **arguments).tables
    kept = []
    first_of = _copy.CopyQuery._first_of

    def watched(self, *arguments):
        table = first_of(self, *arguments)
        kept.append(len(self._flagged))
        return table

    monkeypatch.setattr(_copy.CopyQuery, "_first_of", watched)
    monkeypatch.setattr(_copy, "_MOST_FLAGGED", 5)
    assert read(postgres_hook, sql, **arguments).tables == expected
    assert max(kept) == 5


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


AMOUNTS = (
    "(VALUES ('north', 12.50::numeric(12, 2)), ('north', 12345.67), ('north', 99.99)) AS t(region, amount)"
)


def test_a_partition_keeps_rows_whose_values_are_checked(postgres_hook, way):
    """COPY flags each row's values, and looks a table up by flags and partition."""
    found = read(postgres_hook, f"SELECT * FROM {AMOUNTS}", key="k_{region}", partition_by=("region",))
    (text,) = found.tables.values()
    _, *rows = text.splitlines()
    assert found.how == way
    assert [float(row.split(",")[1]) for row in rows] == [12.5, 12345.67, 99.99]


MIXED = st.tuples(
    st.sampled_from("abc"),
    st.none() | st.decimals(-(10**9), 10**9, places=2),
    st.none() | st.integers(-(2**31), 2**31 - 1),
    st.sampled_from([0, 1, 2**53, 2**53 + 1, -(2**63), 2**63 - 1]),
    st.none() | st.floats(-1e300, 1e300) | st.just(math.nan),
    st.none() | st.sampled_from([1, 2**53, 2**53 + 1]),
)


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(rows=st.lists(MIXED, min_size=1, max_size=12))
def test_partitions_have_the_rows_of_the_whole_table(postgres_hook, way, rows):
    kinds = ("text", "numeric(12, 2)", "integer", "bigint", "double precision", "bigint")

    def literal(value, kind):
        return "NULL" if value is None else f"'{value}'::{kind}"

    values = ", ".join(f"({', '.join(map(literal, row, kinds))})" for row in rows)
    casts = ", ".join(f"c{place}::{kind}" for place, kind in enumerate(kinds))
    sql = f"SELECT {casts} FROM (VALUES {values}) AS t(c0, c1, c2, c3, c4, c5)"
    partitions = {"key": "k_{c0}", "partition_by": ("c0",)}

    def outcome(**options):
        try:
            return read(postgres_hook, sql, **options)
        except InvalidTable as error:  # an integer beyond 2**53 and a null in a column
            return str(error)

    whole, found = outcome(), outcome(**partitions)
    if isinstance(whole, str):
        assert found == whole
        return
    head, *lines = whole.text.splitlines()
    expected: dict[str, list[str]] = {}
    for row, line in zip(rows, lines, strict=True):
        expected.setdefault(f"k_{row[0]}", [head]).append(line)
    assert found.how == way
    assert {key: text.splitlines() for key, text in found.tables.items()} == expected
    assert list(found.tables) == sorted(expected)


def test_rows_that_no_table_has_are_an_error():
    with Spool() as spool:
        tables = QueryTables(spool, "k_{part}", ("part",))
        tables.begin(["part"])
        spool.add(tables.partition(["a"], 1), b"a\n")
        spool.add(tables.partition(["a"], 2), b"a\n")
        tables.check_rows()
        spool.add(SpooledTable(spool, ("part",), b"part\n"), b"a\n")
        with pytest.raises(RuntimeError, match="3 rows were read, and the tables have 2"):
            tables.check_rows()


def test_rows_are_split_at_line_ends_outside_of_quotes():
    assert lines_of(b"1,a\n2,b\n", 2) == [b"1,a", b"2,b"]
    assert lines_of(b'1,"a\n""\n"\n2,b\n', 2) == [b'1,"a\n""\n"', b"2,b"]


def test_two_partitions_with_one_key(postgres_hook, way):
    sql = (
        "SELECT * FROM (VALUES ('N_', 'X', 1.5::numeric(12, 2)), ('N', '_X', 1234567.5)) AS t(state, part, n)"
    )
    with pytest.raises(InvalidKey, match="state='N_', part='X' and state='N', part='_X' have the same key"):
        read(postgres_hook, sql, key="k_{state}{part}", partition_by=("state", "part"))


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
    with pytest.raises(InvalidTable, match=r"column 'part', row [12]: a null, which partition_by"):
        read(postgres_hook, sql, key="k{part}", partition_by=("part",))


def test_a_column_that_the_query_does_not_have(sqlite_hook):
    with pytest.raises(InvalidTable, match="partition_by names column 'b', which the query does not have"):
        read(sqlite_hook, "SELECT 1 AS a", key="k{b}", partition_by=("b",))


def test_nothing_is_left_of_what_a_query_does_to_postgresql(postgres_hook):
    run(postgres_hook, "DROP TABLE IF EXISTS kept", "CREATE TABLE kept (n integer)")
    assert read(postgres_hook, "INSERT INTO kept VALUES (1) RETURNING n").text.split() == ["n", '"1"']
    with pytest.raises(InvalidTable, match="returns no rows"):
        read(postgres_hook, "DROP TABLE kept")
    assert read(postgres_hook, "SELECT count(*) AS rows FROM kept").text.split() == ["rows", '"0"']
    run(postgres_hook, "DROP TABLE kept")


def test_what_a_query_does_elsewhere_may_stay(duckdb_hook, sqlite_hook):
    """As docs/reference/sql.md says: it is the driver's."""
    run(duckdb_hook, "CREATE TABLE kept (n integer)")
    assert read(duckdb_hook, "INSERT INTO kept VALUES (1) RETURNING n").text.split() == ["n", '"1"']
    assert read(duckdb_hook, "SELECT count(*) AS rows FROM kept").text.split() == ["rows", '"1"']
    run(sqlite_hook, "CREATE TABLE kept (n integer)")
    with pytest.raises(InvalidTable, match="returns no rows"):
        read(sqlite_hook, "DROP TABLE kept")
    assert read(sqlite_hook, "SELECT count(*) AS rows FROM sqlite_master").text.split() == ["rows", '"0"']


@pytest.mark.parametrize("way", [CURSOR], indirect=True)
@pytest.mark.parametrize("chunks", [True, False])
@pytest.mark.parametrize("row_factory", [psycopg.rows.tuple_row, psycopg.rows.dict_row])
def test_psycopg_3_with_and_without_chunks(postgres, monkeypatch, way, chunks, row_factory):
    """They need libpq 17: an older one has a server-side cursor in their place."""
    monkeypatch.setattr(_source, "_streams_in_chunks", lambda: chunks)
    hook = Hook(lambda: psycopg.connect(postgres.uri, row_factory=row_factory))
    found = read(hook, "SELECT n, 'a%' AS said FROM generate_series(1, 1000) AS t(n) ORDER BY n")
    assert found.how == way
    assert found.text == "n,said\n" + "".join(f'{n},"a%"\n' for n in range(1, 1001))


def test_rows_that_are_mappings():
    """A cursor of dicts gives the same."""

    def connect():
        connection = sqlite3.connect(":memory:")
        connection.row_factory = lambda cursor, row: dict(
            zip([column[0] for column in cursor.description], row, strict=True)
        )
        return connection

    assert read(Hook(connect), "SELECT 1 AS a, 'x' AS b").text == 'a,b\n1,"x"\n'
