"""Warm, query and invalidate a table."""

from datetime import timedelta

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_qcache.operators.qcache import (
    QCacheDeleteOperator,
    QCachePostOperator,
    QCacheQueryOperator,
)


def dag(name):
    return DAG(
        name,
        schedule=None,
        start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
        default_args={"retries": 1, "retry_delay": timedelta(0)},
        params={"day": "20260131"},
    )


KEY = "orders_{{ params.day }}"


def read():
    lines = ["id,zip,amount"] + [f"{i},{i % 7:05},{i / 4}" for i in range(1000)]
    return "\n".join(lines) + "\n"


with dag("warm"):
    QCachePostOperator(
        task_id="warm",
        key=KEY,
        python_callable=read,
        column_types={"zip": "string"},
        copies=2,
        check_row_count=True,
    )

with dag("ask"):
    QCacheQueryOperator(
        task_id="ask",
        key=KEY,
        query={"select": ["zip", ["sum", "amount"]], "group_by": ["zip"], "order_by": ["zip"], "limit": 3},
    )

with dag("invalidate"):
    QCacheDeleteOperator(task_id="invalidate", key=KEY)
