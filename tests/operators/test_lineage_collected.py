"""What Airflow's hook lineage collector gets of the files and the SQL that an operator reads."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from airflow_provider_qcache import compat
from airflow_provider_qcache.operators.qcache import QCachePostOperator
from airflow_provider_qcache.transfers.sql_to_qcache import SqlToQCacheOperator


@pytest.fixture
def collected(monkeypatch):
    """Airflow's own collector, which it leaves empty where no plugin reads it."""
    try:
        from airflow.sdk import lineage

        collector = lineage.HookLineageCollector()
        monkeypatch.setattr(lineage, "get_hook_lineage_collector", lambda: collector)
    except ImportError:
        from airflow.lineage import hook

        collector = hook.HookLineageCollector()
        monkeypatch.setattr(hook, "_hook_lineage_collector", collector)
    return lambda: compat.get_hook_lineage_collector().collected_assets


def uris(assets):
    return sorted(one.asset.uri for one in assets)


def test_files_are_inputs_and_the_table_is_an_output(nodes, tmp_path, collected):
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("n\n1\n")
    QCachePostOperator(task_id="post", key="files", source_path=f"{tmp_path}/*.csv").execute({})
    found = collected()
    assert uris(found.inputs) == [f"file://{tmp_path}/{name}.csv" for name in ("a", "b")]
    assert uris(found.outputs) == ["qcache://qcache_default/files"]


def test_sql_is_reported_with_its_parameters_and_rows(nodes, tmp_path, collected, monkeypatch):
    database = tmp_path / "db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE sales AS SELECT 'n' AS region UNION ALL SELECT 's'")
    monkeypatch.setenv("AIRFLOW_CONN_LITE", f"sqlite://{database}")
    sql = "SELECT * FROM sales WHERE region > ?"
    arguments = {"sql": sql, "parameters": ["a"], "sql_conn_id": "lite", "key": "sales"}
    SqlToQCacheOperator(task_id="sql", **arguments).execute({})
    (told,) = collected().extra
    assert (told.key, told.value) == ("sql_job", {"sql": sql, "sql_parameters": ["a"], "row_count": 2})
