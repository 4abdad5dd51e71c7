"""Warm many tables with one task each, a few at a time.

Shows:
    Dynamic task mapping: the keys are found when the DAG runs, each gets a mapped task that reads and stores
    its table, and one that fails is retried alone. A QCache node has one thread, so the tasks share a pool of
    Airflow with a slot for each node. A last task invalidates the table of a region that was closed.

Needs:
    A connection ``qcache_default`` and a pool: ``airflow pools set qcache 3 "one slot for each node"``.
    The data is made up by the DAG.
"""

from datetime import timedelta

import pendulum
from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_qcache.operators.qcache import QCacheDeleteOperator, QCachePostOperator

SALES = {
    "north": [{"product": "tea", "pieces": 12}, {"product": "mate", "pieces": 40}],
    "south": [{"product": "tea", "pieces": 7}, {"product": "coffee", "pieces": 31}],
    "west": [{"product": "coffee", "pieces": 19}],
}


def read_region(region: str) -> list[dict]:
    """The rows of a region; a real DAG would ask a database here."""
    return SALES[region]


with DAG(
    "qcache_many_tables",
    description="A table per region, warmed by mapped tasks",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,  # one writer per key
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    tags=["qcache", "example"],
):

    @task
    def find_regions() -> list[dict]:
        """What each mapped task gets."""
        return [{"key": f"sales_{region}", "op_kwargs": {"region": region}} for region in SALES]

    warm = QCachePostOperator.partial(
        task_id="warm", python_callable=read_region, copies=2, pool="qcache"
    ).expand_kwargs(find_regions())

    warm >> QCacheDeleteOperator(task_id="invalidate_closed", keys=["sales_east"], pool="qcache")
