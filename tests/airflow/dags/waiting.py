"""Sensors in each of their modes, on a table that a task beside them stores, and on one that never comes."""

import tempfile
from datetime import timedelta
from pathlib import Path

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_qcache.operators.qcache import QCachePostOperator
from airflow_provider_qcache.sensors.qcache import QCacheClusterSensor, QCacheTableSensor

arguments = {"start_date": pendulum.datetime(2026, 1, 1, tz="UTC"), "catchup": False, "schedule": None}
MODES = {
    "poke": {},
    "reschedule": {"mode": "reschedule"},
    "deferrable": {"deferrable": True},
}

with DAG("waiting_found", **arguments):
    store = QCachePostOperator(task_id="store", key="waited", content="a\n1\n2\n")
    for name, mode in MODES.items():
        found = QCacheTableSensor(
            task_id=f"table_{name}",
            key="{{ 'waited' }}",
            query="{{ {'where': ['>', 'a', 1]} }}",
            check=lambda rows: rows == [{"a": 2}],
            timeout=120,
            poke_interval=0.2,
            **mode,
        )
        nodes = QCacheClusterSensor(task_id=f"cluster_{name}", min_nodes=3, timeout=120, **mode)
        store >> found >> nodes


def thrice(rows: list) -> bool:
    """Passes the third time that any process calls it."""
    calls = Path(tempfile.gettempdir()) / "qcache_waiting_calls"
    with calls.open("a") as file:
        file.write("called\n")
    return len(calls.read_text().splitlines()) > 2


with DAG("waiting_rescheduled", **arguments):
    QCacheTableSensor(
        task_id="wait",
        key="waited",
        query={},
        check=thrice,
        timeout=120,
        poke_interval=1,
        mode="reschedule",
        deferrable=False,
    )

with DAG("waiting_in_vain", **arguments):
    for name, mode in MODES.items():
        QCacheTableSensor(
            task_id=name,
            key="never",
            timeout=0.5,
            poke_interval=0.2,
            soft_fail=True,
            execution_timeout=timedelta(seconds=60),
            **mode,
        )
