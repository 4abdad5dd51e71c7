"""What importing the operators loads: a DAG file is parsed again and again."""

from __future__ import annotations

import subprocess
import sys

HEAVY = (
    *("requests", "urllib3", "tenacity", "lz4", "pandas", "pyarrow", "airflow_provider_qcache.client"),
    # Parts of this package that only a task which runs needs: together they cost a DAG file 6 ms.
    *("airflow_provider_qcache.lineage", "airflow_provider_qcache.operators._many"),
    *("airflow_provider_qcache.operators._delete", "airflow_provider_qcache.operators._output"),
)


def loaded_by(code: str, before: str, tmp_path) -> list[str]:
    """The modules of HEAVY that code loads, in a fresh process that has run ``before``."""
    program = (
        f"{before}\nimport sys\nbefore = set(sys.modules)\n{code}\n"
        f"print(*(name for name in {HEAVY!r} if name in sys.modules and name not in before))"
    )
    # Python's own path first: the test's process may have loaded more.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={"PYTHONPATH": ":".join(sys.path), "AIRFLOW_HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.splitlines()[-1].split() if done.stdout.strip() else []


AIRFLOW = "import airflow\nfrom airflow.providers.common.compat.sdk import DAG, BaseOperator, XComArg"


def test_the_operators_load_nothing_heavy(tmp_path):
    """Nor do tasks of every kind, as a DAG file makes them."""
    code = (
        "from airflow_provider_qcache.operators.qcache import *\n"
        "QCachePostOperator(task_id='a', key='k', content='a\\n1\\n', request_retry={'wait_max': 1})\n"
        "QCachePostOperator(task_id='b', key='k', source_path='s3://bucket/key.csv')\n"
        "QCacheQueryOperator(task_id='c', key='k', query={'limit': 1}, output_path='s3://bucket/key.csv')\n"
        "QCacheDeleteOperator(task_id='d', keys=['k'])"
    )
    assert loaded_by(code, AIRFLOW, tmp_path) == []


def test_the_sensors_and_triggers_load_nothing_heavy(tmp_path):
    """A DAG file makes sensors, and triggers for its assets."""
    code = (
        "from airflow_provider_qcache.sensors.qcache import *\n"
        "QCacheTableSensor(task_id='a', key='k', query={'limit': 1}, check=bool)\n"
        "QCacheClusterSensor(task_id='b', min_nodes=2)\n"
        "from airflow_provider_qcache.triggers.qcache import *\n"
        "times = dict(poll_interval=1, started=1, timeout=1)\n"
        "QCacheTableTrigger(keys=['k'], qcache_conn_id='c', **times).serialize()\n"
        "from airflow_provider_qcache.compat import BaseEventTrigger, BaseTrigger\n"
        "if BaseEventTrigger is not BaseTrigger:\n"
        "    QCacheTableMissingTrigger('k').serialize()\n"
    )
    before = f"{AIRFLOW}, BaseSensorOperator\nimport airflow.triggers.base"
    assert loaded_by(code, before, tmp_path) == []


def test_the_client_would_be_seen(tmp_path):
    assert "airflow_provider_qcache.client" in loaded_by(
        "import airflow_provider_qcache.client", AIRFLOW, tmp_path
    )
