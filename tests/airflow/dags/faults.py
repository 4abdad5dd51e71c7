"""A store, a query and a delete for each connection, and what can never succeed."""

from datetime import timedelta

import pendulum
from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_qcache.hooks.qcache import QCacheHook
from airflow_provider_qcache.operators.qcache import (
    QCacheDeleteOperator,
    QCachePostOperator,
    QCacheQueryOperator,
)

KEY = "orders"
CSV = "a,b\n1,new\n2,new\n3,new\n"


def dag(name, connection, **arguments):
    return DAG(
        name,
        schedule=None,
        start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
        default_args={"retries": 1, "retry_delay": timedelta(0), "qcache_conn_id": connection, **arguments},
    )


for connection in ("patient", "hasty", "wrong_password", "unknown_ca", "right"):
    with dag(f"query_{connection}", connection):
        QCacheQueryOperator(task_id="task", key=KEY, query={"order_by": ["a"]})

    with dag(f"store_{connection}", connection):
        QCachePostOperator(task_id="task", key=KEY, content=CSV)

    with dag(f"delete_{connection}", connection):
        QCacheDeleteOperator(task_id="task", key=KEY)

with dag("malformed_query", "patient"):
    QCacheQueryOperator(task_id="task", key=KEY, query={"select": ["no_such_column"]})

with dag("invalid_literal", "patient"):
    QCachePostOperator(task_id="task", key=KEY, content="a,b\n1,2,3\n")

with dag("invalid_result", "patient"):
    QCachePostOperator(task_id="task", key=KEY, python_callable=lambda: "a,b\n1,2,3\n")

with dag("returns_a_result", "patient", retries=2):

    @task(task_id="task")
    def store():
        with QCacheHook("patient") as hook:
            return hook.post(KEY, CSV)

    store()

with dag("store_killed", "stubborn", retries=0):
    QCachePostOperator(task_id="task", key=KEY, content=CSV)

with dag("store_timed_out", "stubborn", retries=0, execution_timeout=timedelta(seconds=2)):
    QCachePostOperator(task_id="task", key=KEY, content=CSV)
