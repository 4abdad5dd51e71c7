"""What the wheel has for the triggerer: a sensor that is deferred, and on Airflow 3 watched assets."""

from __future__ import annotations

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_qcache.sensors.qcache import QCacheTableSensor

START = pendulum.datetime(2026, 1, 1, tz="UTC")

with DAG("wheel_waits", schedule=None, start_date=START):
    QCacheTableSensor(task_id="wait", key="waited", deferrable=True, poke_interval=1, timeout=600)

try:
    from airflow.sdk import Asset, AssetWatcher
except ImportError:
    pass  # Airflow 2 has no watchers
else:
    from airflow.providers.standard.operators.empty import EmptyOperator

    from airflow_provider_qcache.triggers.qcache import QCacheTableChangedTrigger, QCacheTableMissingTrigger

    TRIGGERS = {
        "missing": QCacheTableMissingTrigger("missing", poll_interval=1),
        "changed": QCacheTableChangedTrigger("waited", poll_interval=1),
    }
    watched = [
        Asset(name, watchers=[AssetWatcher(name=name, trigger=trigger)]) for name, trigger in TRIGGERS.items()
    ]
    with DAG("wheel_reacts", schedule=watched, start_date=START):
        EmptyOperator(task_id="react")
