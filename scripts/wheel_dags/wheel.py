"""What the wheel has for DAGs, once: three tables are stored, awaited, checked, queried and deleted."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_qcache.operators.qcache import (
    QCacheCheckOperator,
    QCacheDeleteOperator,
    QCachePostOperator,
    QCacheQueryOperator,
)
from airflow_provider_qcache.sensors.qcache import QCacheTableSensor
from airflow_provider_qcache.transfers.sql_to_qcache import SqlToQCacheOperator

# A second try, since the API inside the dag.test() of Airflow 3.2 may not be ready for the first one.
AGAIN = {"retries": 1, "retry_delay": timedelta(0)}

with DAG("wheel", schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), default_args=AGAIN):
    rows = [{"city": "Tokyo", "zip": "0001", "orders": 7}, {"city": "Delhi", "zip": "0002", "orders": 12}]
    post = QCachePostOperator(task_id="post", key="rows", content=rows, emit_asset=True)
    sql = SqlToQCacheOperator(
        task_id="sql",
        key="sql_{{ ds_nodash }}",
        sql="SELECT '007' AS code, 7 AS value",
        sql_conn_id="wheel_sql",
    )

    @task.qcache_post(key="decorated")
    def decorated() -> list[dict[str, Any]]:
        return rows[:1]

    keys = ["rows", "sql_{{ ds_nodash }}", "decorated"]
    wait = QCacheTableSensor(task_id="wait", keys=keys, poke_interval=1, timeout=60)
    check = QCacheCheckOperator(task_id="check", key="rows", query={"select": [["count"]]}, value=2)
    query = QCacheQueryOperator(task_id="query", key="rows", query={"where": ["==", "zip", "'0002'"]})
    delete = QCacheDeleteOperator(task_id="delete", keys=keys)
    post >> sql >> decorated() >> wait >> check >> query >> delete
