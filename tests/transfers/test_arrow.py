"""Drivers that speak Arrow: DuckDB and ADBC for real, the others by cursors of their shape.

`make drivers` tries the others' own drivers.
"""

from __future__ import annotations

import contextlib
import json

import adbc_driver_postgresql.dbapi
import adbc_driver_sqlite.dbapi
import duckdb
import pyarrow as pa
import pytest

from airflow_provider_qcache.client import InvalidTable
from airflow_provider_qcache.client.tables import cursors
from airflow_provider_qcache.transfers._source import ARROW, CURSOR
from tests.transfers.conftest import Hook, read, run, stored

MIXED = """
SELECT number AS id, number % 7 AS shop, number / 4 AS price, 'sku-' || number AS sku,
    CASE WHEN number % 3 > 0 THEN 'sold, ' || number END AS note
FROM range({rows}) AS t(number)
"""


@pytest.fixture
def no_rows_in_python(monkeypatch):
    def refuse(*_):
        raise AssertionError("a row was made in Python")

    monkeypatch.setattr(cursors, "RowEncoder", refuse)


@pytest.fixture
def adbc_sqlite(tmp_path):
    return Hook(lambda: adbc_driver_sqlite.dbapi.connect(str(tmp_path / "adbc.db")))


@pytest.fixture
def adbc_postgres(postgres):
    return Hook(lambda: adbc_driver_postgresql.dbapi.connect(postgres.uri))


@pytest.mark.usefixtures("no_rows_in_python")
class TestDuckDB:
    def test_rows_are_those_that_duckdb_itself_writes_as_csv(self, duckdb_hook, tmp_path):
        """More rows than are encoded at a time, and than DuckDB gives at a time."""
        sql = MIXED.format(rows=100_000)
        found = read(duckdb_hook, sql)
        file = tmp_path / "duckdb.csv"
        with contextlib.closing(duckdb.connect()) as connection:
            connection.execute(f"COPY ({sql}) TO '{file}' (HEADER, FORMAT csv)")
            ours = tmp_path / "ours.csv"
            ours.write_text(found.text)
            same = "(SELECT * FROM '{}' EXCEPT ALL SELECT * FROM '{}')"
            (count,) = connection.execute(f"SELECT count(*) FROM '{ours}'").fetchone()
            differing = connection.execute(
                f"{same.format(ours, file)} UNION ALL {same.format(file, ours)}"
            ).fetchall()
        assert (found.how, count, differing) == (ARROW, 100_000, [])
        assert found.types == "price=float;sku=string;note=string"

    def test_partitions_have_the_rows_in_their_order(self, duckdb_hook):
        found = read(duckdb_hook, MIXED.format(rows=40_000), key="t_{shop}", partition_by=("shop",))
        assert sorted(found.tables) == [f"t_{shop}" for shop in range(7)]
        for shop in range(7):
            lines = found.tables[f"t_{shop}"].splitlines()
            assert [int(line.split(",")[0].strip('"')) for line in lines[1:]] == list(range(shop, 40_000, 7))

    @pytest.mark.parametrize(("marker", "parameters"), [("?", [7]), ("$n", {"n": 7})])
    def test_parameters(self, duckdb_hook, marker, parameters):
        assert read(duckdb_hook, f"SELECT {marker}::int AS n", parameters).text == 'n\n"7"\n'

    def test_values_keep_what_a_cursor_loses(self, duckdb_hook, client):
        sql = (
            "SELECT 0.1::FLOAT AS f, TIMESTAMP_NS '2024-05-06 12:00:00.123456789' AS ns, "
            "'b'::ENUM('a', 'b') AS e, sum(2) AS h, INTERVAL '1 day 00:00:01.5' AS i"
        )
        _, rows = stored(client, duckdb_hook, sql)
        assert rows == [{"f": 0.1, "ns": "2024-05-06 12:00:00.123456789", "e": "b", "h": 2, "i": 86401.5}]
        assert read(duckdb_hook, sql).types == "f=float;ns=string;e=enum;i=float"

    def test_no_rows_are_a_table_with_columns(self, duckdb_hook):
        found = read(duckdb_hook, "SELECT 1 AS n, 'a' AS t WHERE false")
        assert (found.text, found.types) == ("n,t\n", "t=string")

    def test_column_types_come_first(self, duckdb_hook):
        assert read(duckdb_hook, "SELECT 7 AS n", column_types={"n": "string"}).types == "n=string"

    @pytest.mark.parametrize(
        ("value", "why"),
        [
            ("[1]", "list<.*cannot be stored"),
            ("INTERVAL 1 MONTH", "row 1: an interval of months or years"),
            ("'a'::BLOB", "binary cannot be stored"),
        ],
    )
    def test_what_a_node_cannot_hold_is_refused_by_column(self, duckdb_hook, value, why):
        with pytest.raises(InvalidTable, match=f"column 'v'.*{why}"):
            read(duckdb_hook, f"SELECT {value} AS v")

    def test_an_error_in_the_middle_is_the_driver_s(self, duckdb_hook):
        value = "CASE WHEN number < 90000 THEN 1 ELSE error('broken') END"
        sql = f"SELECT {value} AS n FROM range(100000) AS t(number)"
        with pytest.raises(Exception, match="broken") as caught:
            read(duckdb_hook, sql)
        assert not isinstance(caught.value, InvalidTable)


@pytest.mark.usefixtures("no_rows_in_python")
class TestADBC:
    def test_sqlite(self, adbc_sqlite, client):
        run(adbc_sqlite, "CREATE TABLE zips (zip text, n integer, x real)")
        run(adbc_sqlite, "INSERT INTO zips VALUES ('00501', 1, 0.5), (NULL, NULL, NULL)")
        how, rows = stored(client, adbc_sqlite, "SELECT * FROM zips ORDER BY n DESC")
        assert how == ARROW
        assert rows == [{"zip": "00501", "n": 1, "x": 0.5}, {"zip": None, "n": None, "x": None}]
        sql = "SELECT * FROM zips WHERE zip = ?"
        found = read(adbc_sqlite, sql, ["00501"], key="z_{zip}", partition_by=("zip",))
        assert list(found.tables) == ["z_00501"]

    def test_postgresql(self, adbc_postgres, client):
        sql = (
            "SELECT '00501'::text AS zip, g AS n, g / 2.0::float8 AS x, date '2024-05-06' AS day, "
            "timestamptz '2024-05-06 12:00+02' AS at, g % 2 = 0 AS even FROM generate_series(1, 50000) AS g"
        )
        how, rows = stored(client, adbc_postgres, sql)
        assert (how, len(rows)) == (ARROW, 50_000)
        assert rows[1] == {
            "zip": "00501",
            "n": 2,
            "x": 1.0,
            "day": "2024-05-06",
            "at": "2024-05-06 10:00:00+00:00",
            "even": True,
        }

    def test_a_second_statement_is_refused(self, adbc_sqlite, duckdb_hook):
        """These drivers would give the rows of one of them."""
        for hook in (adbc_sqlite, duckdb_hook):
            with pytest.raises(InvalidTable, match="the SQL has 2 statements"):
                read(hook, "SELECT 1 AS n; SELECT ';' AS t -- another")
            assert read(hook, "SELECT ';' AS t; -- no other").text == 't\n";"\n'

    def test_a_statement_without_rows_is_refused(self, adbc_sqlite):
        with pytest.raises(InvalidTable, match="the SQL returns no rows to store: pass a query"):
            read(adbc_sqlite, "CREATE TABLE made (n integer)")


ROWS = [{"n": 1, "t": "00501"}, {"n": 2, "t": None}, {"n": 300, "t": "b"}]
BATCHES = [
    pa.table({"n": pa.array([1, 2], pa.int8()), "t": ["00501", None]}),
    pa.table({"n": pa.array([300], pa.int16()), "t": ["b"]}),
]
"""As Snowflake gives them: integers as wide as each batch needs."""


class NotSupportedError(Exception):
    """By the name that DB-API has for it."""


class Cursor:
    """A cursor that has rows only in a way that a test does not want."""

    description = (("n",), ("t",))

    def execute(self, sql, parameters=None):
        self.rows = [(row["n"], row["t"]) for row in ROWS] if sql != "SELECT nothing" else []

    def fetchmany(self, count):
        taken, self.rows = self.rows[:count], self.rows[count:]
        return taken


class Snowflake(Cursor):
    def fetch_arrow_batches(self):
        return iter(BATCHES if self.rows else [])


class SnowflakeShow(Cursor):
    """Some answers of Snowflake are JSON."""

    def fetch_arrow_batches(self):
        raise NotSupportedError


class Databricks(Cursor):
    def execute(self, sql, parameters=None):
        super().execute(sql)
        self.tables = [*(BATCHES if self.rows else []), *[BATCHES[0].slice(0, 0)] * 3]

    def fetchmany_arrow(self, size):
        return self.tables.pop(0) if size else self.tables[0].slice(0, 0)


class DatabricksShow(Cursor):
    """Some answers of Databricks are columns of Python's values."""

    def fetchmany_arrow(self, size):
        assert size == 0, "rows that are taken so are lost to fetchmany"
        return object()


class BigQuery(Cursor):
    """The cursor of google-cloud-bigquery's DB-API."""

    @property
    def query_job(self):
        return self

    def result(self):
        return self

    def to_arrow_iterable(self):
        return (batch for table in (BATCHES if self.rows else []) for batch in table.to_batches())


class BigQueryHook(Cursor):
    """The cursor of the hook of Airflow's provider: its job is known by an id."""

    project_id, location, job_id = "project", "US", None

    def execute(self, sql, parameters=None):
        super().execute(sql)
        self.job_id = "job"

    @property
    def hook(self):
        return self

    def get_client(self, project_id, location):
        assert (project_id, location) == ("project", "US")
        return self

    def get_job(self, job_id):
        assert job_id == "job"
        return self

    result, to_arrow_iterable = BigQuery.result, BigQuery.to_arrow_iterable


class Connection:
    def __init__(self, cursor):
        self._cursor = cursor

    def cursor(self):
        return self._cursor()

    def close(self):
        pass


@pytest.mark.parametrize(
    ("cursor", "way"),
    [
        (Snowflake, ARROW),
        (SnowflakeShow, CURSOR),
        (Databricks, ARROW),
        (DatabricksShow, CURSOR),
        (BigQuery, ARROW),
        (BigQueryHook, ARROW),
        (Cursor, CURSOR),
    ],
)
def test_other_drivers_are_known_by_their_methods(cursor, way, client):
    hook = Hook(lambda: Connection(cursor))
    how, rows = stored(client, hook, "SELECT everything")
    assert (how, rows) == (way, json.loads(json.dumps(ROWS)))
    assert read(hook, "SELECT nothing").text == "n,t\n"


def timestamps(*texts, unit):
    return pa.table({"at": pa.array(texts).cast(pa.timestamp(unit))})


def batches_of(*tables):
    class Batches(Cursor):
        description = (("at",),)

        def fetch_arrow_batches(self):
            return iter(tables)

    return Hook(lambda: Connection(Batches))


def test_times_whose_unit_changes_from_batch_to_batch_are_written_alike():
    """As Snowflake gives them: microseconds where a year has no nanoseconds."""
    found = read(
        batches_of(
            timestamps("2024-05-06 12:00:00", "2024-05-06 12:00:00.5", unit="ns"),
            timestamps("9999-12-31 00:00:00", "2024-05-06 12:00:00.5", unit="us"),
            timestamps("2024-05-06 12:00:00.5", unit="us"),
        ),
        "SELECT at",
    )
    half = "2024-05-06 12:00:00.500000000"
    expected = ["at", "2024-05-06 12:00:00", half, "9999-12-31 00:00:00", half, half]
    assert (found.how, found.text.replace('"', "").splitlines()) == (ARROW, expected)


def test_a_batch_that_does_not_fit_those_before_is_refused_by_column():
    """The texts of the first batch are written, and have no place for nanoseconds."""
    hook = batches_of(
        timestamps("9999-12-31 00:00:00", unit="us"),
        timestamps("2024-05-06 12:00:00.123456789", unit="ns"),
    )
    with pytest.raises(
        InvalidTable, match=r"column 'at': .*timestamp\[us\] first .*cast the column to a text"
    ):
        read(hook, "SELECT at")
