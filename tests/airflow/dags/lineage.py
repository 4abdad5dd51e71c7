"""Tasks whose lineage Airflow's OpenLineage provider reports."""

import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pendulum
from airflow.providers.common.compat.sdk import DAG, chain, task

from airflow_provider_qcache.hooks.qcache import QCacheHook
from airflow_provider_qcache.operators.qcache import (
    QCacheDeleteOperator,
    QCachePostOperator,
    QCacheQueryOperator,
)
from airflow_provider_qcache.transfers.sql_to_qcache import SqlToQCacheOperator

HERE = Path(tempfile.gettempdir())
DATABASE = HERE / "lineage.db"
os.environ["AIRFLOW_CONN_LINEAGE_DB"] = f"sqlite://{DATABASE}"
CONTENT = "n,zip\n1,00501\n2,00502\n"


@task
def by_hook():
    with QCacheHook() as hook:
        hook.post("lineage_hook", CONTENT)
        hook.get("lineage_hook", {})
        hook.get("lineage_never", {})
        hook.delete("lineage_gone")
        hook.post_many({"lineage_a": CONTENT, "lineage_b": CONTENT})
        hook.delete_many(["lineage_a", "lineage_b"])


@task
def prepare():
    for name in ("a", "b"):
        (HERE / f"lineage_{name}.csv").write_text(CONTENT)
    with closing(sqlite3.connect(DATABASE)) as database, database:
        database.execute("CREATE TABLE sales AS SELECT 'n' AS region, 1.5 AS amount, 7 AS n")
        database.execute("CREATE TABLE regions AS SELECT 'n' AS region")


with DAG("lineage", schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC")):
    chain(
        # First: in this process all tasks share Airflow's collector, which has a task to itself elsewhere.
        by_hook(),
        prepare(),
        QCachePostOperator(
            task_id="post", key="lineage_post", content=CONTENT, column_types={"zip": "string"}
        ),
        QCachePostOperator(task_id="rows", key="lineage_rows", content=[{"n": 1, "text": "a", "x": 0.5}]),
        QCachePostOperator(task_id="files", key="lineage_files", source_path=str(HERE / "lineage_*.csv")),
        QCachePostOperator(task_id="each", key="{stem}", source_path=str(HERE / "lineage_*.csv")),
        SqlToQCacheOperator(
            task_id="sql",
            sql="SELECT region, sum(amount) AS amount FROM sales JOIN regions USING (region) GROUP BY region",
            sql_conn_id="lineage_db",
            key="lineage_sql",
        ),
        SqlToQCacheOperator(
            task_id="partitions",
            sql="SELECT * FROM sales",
            sql_conn_id="lineage_db",
            key="lineage_{region}",
            partition_by="region",
        ),
        QCacheQueryOperator(task_id="query", key="lineage_post", query={"where": ["==", "n", 1]}),
        QCacheQueryOperator(
            task_id="report",
            key="lineage_post",
            query={"select": ["zip"], "limit": 1},
            accept="text/csv",
            output_path=str(HERE / "lineage_report.csv"),
        ),
        QCacheQueryOperator(
            task_id="loaded", key="lineage_loaded", query={}, load_callable=lambda: [{"n": 1}]
        ),
        QCacheDeleteOperator(task_id="delete", key="lineage_post"),
        QCacheDeleteOperator(task_id="deletes", keys=["lineage_rows", "lineage_files"]),
    )
