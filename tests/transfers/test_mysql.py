"""MySQL, by a real MariaDB, the hook of Airflow's provider and every driver: its session is not in UTC."""

from __future__ import annotations

import contextlib
import csv
import io
from importlib import import_module

import pytest

from airflow_provider_qcache.client import InvalidTable
from airflow_provider_qcache.compat import BaseHook
from tests.transfers.conftest import Hook, read, run, run_task, stored

CLIENTS = ("mysqlclient", "mysql-connector-python")
"""The drivers that the hook of Airflow's provider knows."""


def table(hook, sql):
    """The fields of what a query becomes, its header among them."""
    return list(csv.reader(io.StringIO(read(hook, sql).text)))


@pytest.fixture(params=CLIENTS)
def mysql_hook(request, mariadb, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_MARIADB", f"{mariadb.uri}?client={request.param}")
    return BaseHook.get_connection("mariadb").get_hook()


@pytest.fixture
def moments(mysql_hook):
    """A table whose moment is known by its seconds since 1970, whatever a session's zone is."""
    run(
        mysql_hook,
        "DROP TABLE IF EXISTS moments",
        "CREATE TABLE moments (t timestamp(1) NULL, d datetime) CHARACTER SET utf8mb4",
        "INSERT INTO moments VALUES (FROM_UNIXTIME(1714990500.5), '2024-05-06 10:15:00'), (NULL, NULL)",
    )


@pytest.mark.usefixtures("moments")
def test_a_timestamp_is_in_utc(mysql_hook, mariadb):
    with contextlib.closing(mysql_hook.get_conn()) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT t FROM moments WHERE t IS NOT NULL")
        ((local,),) = cursor.fetchall()
    assert local.isoformat() == "2024-05-06T15:45:00.500000"  # what the session alone would give
    assert table(mysql_hook, "SELECT t, d FROM moments ORDER BY t DESC") == [
        ["t", "d"],
        ["2024-05-06 10:15:00.500000+00:00", "2024-05-06 10:15:00"],
        ["", ""],
    ]


@pytest.mark.usefixtures("moments")
def test_so_is_what_the_query_computes(mysql_hook):
    sql = "SELECT DATE_FORMAT(MAX(t), '%H:%i') AS hour, MAX(t) AS last FROM moments"
    assert table(mysql_hook, sql)[1:] == [["10:15", "2024-05-06 10:15:00.500000+00:00"]]
    sql = "SELECT count(*) AS n FROM moments WHERE t > '2024-05-06 10:15:00'"
    assert table(mysql_hook, sql)[1:] == [["1"]]


@pytest.mark.parametrize("second", ["SELECT 2 AS n", "SELECT 2 FROM nowhere", "DELETE FROM moments"])
@pytest.mark.usefixtures("moments")
def test_a_second_statement_is_refused_before_either_runs(mysql_hook, second):
    with pytest.raises(Exception, match="You have an error in your SQL syntax"):
        read(mysql_hook, f"SELECT 1 AS n; {second}")
    assert table(mysql_hook, "SELECT count(*) AS n FROM moments;") == [["n"], ["2"]]


def test_a_procedure_has_one_result(mysql_hook):
    run(
        mysql_hook,
        "CREATE OR REPLACE PROCEDURE one() SELECT 1 AS a, 'é' AS b",
        "CREATE OR REPLACE PROCEDURE two() BEGIN SELECT 1 AS a; SELECT 2 AS a; END",
        "CREATE OR REPLACE PROCEDURE failing() BEGIN SELECT 1 AS a; SELECT 2 FROM nowhere; END",
    )
    assert table(mysql_hook, "CALL one()") == [["a", "b"], ["1", "é"]]
    with pytest.raises(InvalidTable, match="returns more than one result"):
        read(mysql_hook, "CALL two()")
    with pytest.raises(Exception, match="nowhere"):
        read(mysql_hook, "CALL failing()")


def test_each_type(mysql_hook, client):
    sql = (
        "SELECT CAST('007' AS CHAR) AS zip, 1 AS i, CAST(1.50 AS DECIMAL(5, 2)) AS d, 0.1e0 AS f, "
        "DATE '2024-05-06' AS day, TIMESTAMP '2024-05-06 12:00:00.5' AS at, '€ и 😀' AS text, "
        "SEC_TO_TIME(-5400) AS t, NULL AS nothing"
    )
    _, rows = stored(client, mysql_hook, sql)
    assert rows == [
        {
            "zip": "007",
            "i": 1,
            "d": 1.5,
            "f": 0.1,
            "day": "2024-05-06",
            "at": "2024-05-06 12:00:00.500000",
            "text": "€ и 😀",
            "t": -5400.0,
            "nothing": None,
        }
    ]
    with pytest.raises(InvalidTable, match="bytes cannot be stored"):
        read(mysql_hook, "SELECT CAST(x'00ff' AS BINARY) AS v")


@pytest.mark.usefixtures("moments")
@pytest.mark.parametrize("driver", ["MySQLdb", "pymysql"])
def test_a_hook_of_another_driver_or_encoding(mariadb, driver):
    def connect():
        return import_module(driver).connect(
            host="127.0.0.1", port=mariadb.port, user="root", database=mariadb.database, charset="latin1"
        )

    sql = "SELECT CHAR(0xd0b8 USING utf8mb4) AS text, MAX(t) AS last FROM moments"
    assert table(Hook(connect), sql)[1:] == [["и", "2024-05-06 10:15:00.500000+00:00"]]
    with pytest.raises(Exception, match="You have an error in your SQL syntax"):
        read(Hook(connect), "SELECT 1 AS n; SELECT 2 AS n")


def test_many_rows_in_partitions(mysql_hook):
    """More than a driver has at a time, by MariaDB's own table of numbers."""
    sql = "SELECT seq AS n, seq % 3 AS part, REPEAT('x', 100) AS wide FROM seq_1_to_9000 ORDER BY seq"
    found = read(mysql_hook, sql, key="k{part}", partition_by=("part",))
    numbers = {
        key: [int(row["n"]) for row in csv.DictReader(io.StringIO(text))]
        for key, text in found.tables.items()
    }
    assert numbers == {f"k{part}": [n for n in range(1, 9001) if n % 3 == part] for part in range(3)}


def test_rows_that_are_refused_midway(mysql_hook):
    sql = f"SELECT CASE seq WHEN 5000 THEN {2**64 - 1} ELSE seq END AS n FROM seq_1_to_100000"
    with pytest.raises(InvalidTable, match="is outside"):
        read(mysql_hook, sql)


@pytest.mark.parametrize("client_name", CLIENTS)
def test_the_operator_with_parameters(mariadb, monkeypatch, nodes, reader, client_name):
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", f"{mariadb.uri}?client={client_name}")
    zips = "SELECT '00501' AS zip, 1 AS n UNION SELECT '02139', 2"
    sql = f"SELECT zip, n FROM ({zips}) AS zips WHERE n > %(least)s"
    run_task(sql_conn_id="warehouse", sql=f"{sql} -- the end\n;", parameters={"least": 1})
    assert reader("zips") == [{"zip": "02139", "n": 2}]
