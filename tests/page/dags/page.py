"""Tables that the cluster page shows: one that is stored, and one that is deleted."""

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_qcache.operators.qcache import QCacheDeleteOperator, QCachePostOperator

with DAG("page", schedule=None, start_date=pendulum.datetime(2026, 1, 1)):
    (
        QCachePostOperator(
            task_id="store", key="orders", content="city,orders\nTokyo,7\nDelhi,12\n", emit_asset=True
        )
        >> QCachePostOperator(task_id="store_old", key="old", content="a\n1\n")
        >> QCacheDeleteOperator(task_id="delete", key="old", emit_asset=True)
    )
