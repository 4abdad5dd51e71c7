"""Read the statistics of the nodes every five minutes, and keep them for the cluster page.

Shows:
    The one reader of a cluster's statistics: reading resets them, so nothing else should. The task's result
    becomes an event of the asset, where the cluster page finds it; Airflow's metrics get it too.

Needs:
    A connection ``qcache_default`` to at least one node. The page is for Airflow 3.1 and newer.
"""

from datetime import timedelta

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_qcache.assets.qcache import qcache_statistics_asset
from airflow_provider_qcache.operators.qcache import QCacheStatisticsOperator

with DAG(
    "qcache_cluster_statistics",
    description="Keep the nodes' statistics for the cluster page",
    schedule=timedelta(minutes=5),
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,  # the one reader
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["qcache", "example"],
):
    QCacheStatisticsOperator(task_id="read", outlets=[qcache_statistics_asset("qcache_default")])
