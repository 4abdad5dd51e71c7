"""A DAG that waits in the triggerer for a table that the demo stores."""

from datetime import timedelta

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_qcache.sensors.qcache import QCacheTableSensor

with DAG(
    "qcache_demo_wait",
    schedule="@once",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    default_args={"retries": 9, "retry_delay": timedelta(seconds=1)},  # the API server may come up later
):
    QCacheTableSensor(
        task_id="wait", key="qcache_demo_awaited", min_rows=0, poke_interval=2, timeout=600, deferrable=True
    )
