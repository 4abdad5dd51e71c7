"""A package that is not installed fails the task for good and is named: no retry installs it."""

from __future__ import annotations

import json
import sys

import pytest

from airflow_provider_qcache.compat import AirflowFailException
from tests.harness.needs import need_mariadb
from tests.transfers.conftest import run_task


@pytest.mark.parametrize(
    ("conn_type", "what_to_do"),
    [
        ("snowflake", "Install its provider: pip install apache-airflow-providers-snowflake"),
        ("mssql", "Install its provider: pip install apache-airflow-providers-microsoft-mssql"),
        ("duckdb", "`airflow providers hooks` lists all"),
    ],
)
def test_a_missing_provider(monkeypatch, nodes, conn_type, what_to_do):
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": conn_type, "host": "warehouse"}))
    with pytest.raises(AirflowFailException, match=f"no installed provider.*'{conn_type}'") as caught:
        run_task(sql_conn_id="warehouse")
    assert what_to_do in str(caught.value)


@pytest.mark.parametrize(
    ("client", "module", "package"),
    [
        ("mysqlclient", "MySQLdb", "pip install mysqlclient"),
        ("mysql-connector-python", "mysql.connector", "mysql-connector-python"),
    ],
)
def test_a_missing_driver_of_the_hook(monkeypatch, nodes, client, module, package):
    """The hook raises errors of its own for it."""
    need_mariadb()
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", f"mysql://localhost/?client={client}")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(AirflowFailException, match=package):
        run_task(sql_conn_id="warehouse")


def test_a_missing_extra(monkeypatch, nodes, sqlite):
    monkeypatch.delitem(sys.modules, "airflow_provider_qcache.client.tables.cursors", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(AirflowFailException, match=r"needs pyarrow.*extra 'sql': pip install '\.\[sql\]'"):
        run_task(sql="SELECT 1 AS n")


def test_a_database_that_does_not_answer_is_retried(monkeypatch, nodes):
    """Its error is the driver's own."""
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", "postgresql://127.0.0.1:1/none")
    with pytest.raises(Exception, match="refused") as caught:
        run_task(sql_conn_id="warehouse")
    assert not isinstance(caught.value, AirflowFailException)
