"""Keep a table in the cache: store it after each load, and again as soon as it is missing.

Shows:
    A DAG that stores a table in QCache and is scheduled by the load's asset **or** by the table's absence. On
    Airflow 3 a trigger asks the table's home node every five seconds whether it has the table. If the node
    was restarted, or evicted the table, the trigger sends an event, and Airflow starts the DAG within
    seconds. Airflow 2.11 has no such triggers, and the DAG is scheduled by the load alone: see
    scheduled_healing.py.

Needs:
    A connection ``qcache_default`` to at least one node, and on Airflow 3 a running triggerer. The load makes
    its own data, in a CSV file in the temporary directory.
"""

import tempfile
from datetime import timedelta
from pathlib import Path

import pendulum
from airflow.providers.common.compat.sdk import DAG, Asset, task

from airflow_provider_qcache.operators.qcache import QCachePostOperator

try:
    from airflow.sdk import AssetWatcher
except ImportError:  # Airflow 2.11
    AssetWatcher = None

FILE = Path(tempfile.gettempdir()) / "qcache_example_regions.csv"
LOADED = Asset("qcache-example://files/regions")
SCHEDULE = [LOADED]
if AssetWatcher is not None:
    from airflow_provider_qcache.triggers.qcache import QCacheTableMissingTrigger

    trigger = QCacheTableMissingTrigger("regions", poll_interval=5)
    MISSING = Asset(
        "qcache-example://missing/regions", watchers=[AssetWatcher(name="missing", trigger=trigger)]
    )
    SCHEDULE = LOADED | MISSING

ARGUMENTS = {
    "start_date": pendulum.datetime(2026, 1, 1, tz="UTC"),
    "catchup": False,
    "max_active_runs": 1,  # one writer per key
    "default_args": {"retries": 2, "retry_delay": timedelta(seconds=10)},
    "tags": ["qcache", "example"],
}


def read_regions() -> str:
    """The table as CSV; on the first day, before any load, it has no rows."""
    return FILE.read_text() if FILE.exists() else "region,sales\n"


with DAG("qcache_load_regions", description="Load, and update an asset", schedule="@daily", **ARGUMENTS):

    @task(outlets=[LOADED])
    def load() -> None:
        """Put today's sales in the file."""
        FILE.write_text("region,sales\nnorth,17\nsouth,4\neast,11\nwest,9\n")

    load()


with DAG(
    "qcache_self_healing",
    description="Store the table after each load, and when it is missing",
    schedule=SCHEDULE,
    **ARGUMENTS,
):
    QCachePostOperator(task_id="warm", key="regions", python_callable=read_regions)
