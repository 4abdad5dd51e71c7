"""The tables that SQL reads, as Airflow's OpenLineage provider names those of PostgreSQL."""

from __future__ import annotations

import contextlib

import psycopg2
import pytest

from airflow_provider_qcache.transfers.sql_to_qcache import SqlToQCacheOperator


@pytest.fixture
def sales(postgres, monkeypatch):
    """A table, and the connection ``pg`` to its database."""
    monkeypatch.setenv("AIRFLOW_CONN_PG", postgres.uri)
    with contextlib.closing(psycopg2.connect(postgres.uri)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE lineage_sales (zip text, amount float8)")
            cursor.execute("INSERT INTO lineage_sales VALUES ('00501', 1.5)")
        yield connection
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE lineage_sales")


def test_have_their_names_and_columns(sales, nodes):
    task = SqlToQCacheOperator(
        task_id="sql", sql="SELECT zip, amount FROM lineage_sales", sql_conn_id="pg", key="sales"
    )
    task.execute({})
    found = task.get_openlineage_facets_on_complete(None)
    (read,), (written,) = found.inputs, found.outputs
    parameters = sales.get_dsn_parameters()
    assert read.namespace == f"postgres://{parameters['host']}:{parameters['port']}"
    assert read.name == f"{parameters['dbname']}.public.lineage_sales"
    assert {field.name: field.type for field in read.facets["schema"].fields} == {
        "zip": "text",
        "amount": "float8",
    }
    assert (written.namespace, written.name) == ("qcache://qcache_default", "sales")
    assert written.outputFacets["outputStatistics"].rowCount == 1


def test_are_nothing_before_the_task_has_done_anything(nodes):
    task = SqlToQCacheOperator(task_id="sql", sql="SELECT 1", sql_conn_id="pg", key="sales")
    found = task.get_openlineage_facets_on_complete(None)
    assert (found.inputs, found.outputs) == ([], [])
