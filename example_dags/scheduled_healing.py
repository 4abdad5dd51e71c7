"""Check every five minutes whether a table is still in the cache, and store it again if not.

Shows:
    A sensor that asks once and is skipped if the table is missing, and a task that runs only then. This
    works on Airflow 2.11; on Airflow 3, self_healing.py reacts within seconds.

Needs:
    A connection ``qcache_default`` to at least one node.
"""

from datetime import timedelta

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_qcache.operators.qcache import QCachePostOperator
from airflow_provider_qcache.sensors.qcache import QCacheTableSensor

with DAG(
    "qcache_scheduled_healing",
    description="Store the table again if it is missing",
    schedule=timedelta(minutes=5),
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,  # one writer per key
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["qcache", "example"],
):
    # min_rows=0: the question that disturbs the node least. With soft_fail, a timeout skips the task.
    is_there = QCacheTableSensor(
        task_id="is_there", key="cities", min_rows=0, timeout=0, soft_fail=True, deferrable=False
    )
    warm = QCachePostOperator(
        task_id="warm",
        key="cities",
        content="city,country\nOslo,NO\nLima,PE\n",
        emit_asset=True,  # Airflow keeps when the table was stored, and the cluster page shows it
        trigger_rule="all_skipped",
    )
    is_there >> warm
