"""Tables for two workers: a mapped task for each region, then thousands of tables in one task."""

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_qcache.operators.qcache import QCachePostOperator


def read_region(region: int) -> list[dict[str, Any]]:
    """The rows of a region; a real DAG would ask a database here."""
    return [{"region": region, "product": product, "pieces": region * 10 + product} for product in range(100)]


def read_customers() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A table for each customer, in the same order at each try, so that a retry stores what is left."""
    for customer in range(5000):
        time.sleep(0.002)  # as reading it would take
        yield f"customer_{customer}", [{"customer": customer, "order": order} for order in range(20)]


with DAG(
    "scale_out",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    max_active_runs=1,  # one writer per key
    default_args={"retries": 2, "retry_delay": timedelta(0), "pool": "qcache"},
):

    @task(pool="default_pool")
    def find_regions() -> list[dict[str, Any]]:
        """What each mapped task gets."""
        return [{"key": f"region_{region}", "op_kwargs": {"region": region}} for region in range(6)]

    warm_regions = QCachePostOperator.partial(
        task_id="warm_regions", python_callable=read_region
    ).expand_kwargs(find_regions())

    warm_customers = QCachePostOperator(task_id="warm_customers", tables=read_customers, pool_slots=3)

    warm_regions >> warm_customers
