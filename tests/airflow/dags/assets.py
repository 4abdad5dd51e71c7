"""Tables as assets: who updates which, and which DAGs that starts."""

import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pendulum
from airflow.providers.common.compat.sdk import DAG, AssetAlias, task

from airflow_provider_qcache.assets.qcache import qcache_asset
from airflow_provider_qcache.operators.qcache import QCacheDeleteOperator, QCachePostOperator
from airflow_provider_qcache.transfers.sql_to_qcache import SqlToQCacheOperator

DATABASE = Path(tempfile.gettempdir()) / "assets.db"
os.environ["AIRFLOW_CONN_ASSETS_DB"] = f"sqlite://{DATABASE}"
CONTENT = "n,zip\n1,00501\n2,00502\n"
START = pendulum.datetime(2026, 1, 1, tz="UTC")


@task
def fill():
    with closing(sqlite3.connect(DATABASE)) as database, database:
        database.execute("CREATE TABLE sales AS SELECT 'n' AS region, 1.5 AS amount UNION ALL SELECT 's', 2")


@task
def nothing():
    pass


def tables():
    return ((f"assets_many_{number}", [{"n": number}]) for number in range(20))


with DAG("assets", schedule=None, start_date=START):
    one = QCachePostOperator(
        task_id="one", key="assets_one", content=CONTENT, copies=2, emit_asset=True, content_type="text/csv"
    )
    QCachePostOperator(
        task_id="outlet",
        key="assets_{{ 'outlet' }}",
        content=CONTENT,
        outlets=[qcache_asset("assets_outlet")],
    )
    QCachePostOperator(
        task_id="alias",
        key="assets_{{ 'alias' }}",
        content=CONTENT,
        copies=2,
        emit_asset=True,
        outlets=[AssetAlias("assets_alias")],
    )
    QCachePostOperator.partial(
        task_id="mapped", content=CONTENT, emit_asset=True, outlets=[AssetAlias("assets_mapped")]
    ).expand(key=["assets_mapped_a", "assets_mapped_b"])
    QCachePostOperator(task_id="many", tables=tables, emit_asset=True, outlets=[AssetAlias("assets_many")])
    fill() >> SqlToQCacheOperator(
        task_id="partitions",
        sql="SELECT * FROM sales",
        sql_conn_id="assets_db",
        key="assets_sales_{region}",
        partition_by=["region"],
        emit_asset=True,
    )
    QCachePostOperator(task_id="silent", key="assets_silent", content=CONTENT)
    QCacheDeleteOperator(task_id="delete", key="assets_gone", emit_asset=True)

for name, schedule in {
    "one": qcache_asset("assets_one"),
    "outlet": qcache_asset("assets_outlet"),
    "alias": AssetAlias("assets_alias"),
    "mapped": AssetAlias("assets_mapped"),
    "many": AssetAlias("assets_many"),
    "partitions": qcache_asset("assets_sales_{region}"),
    "silent": qcache_asset("assets_silent"),
    "delete": qcache_asset("assets_gone"),
}.items():
    with DAG(f"assets_on_{name}", schedule=[schedule], start_date=START):
        nothing()
