"""Many tables in one task, tried twice."""

import os
import time
from datetime import timedelta
from pathlib import Path

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_qcache.operators import _report
from airflow_provider_qcache.operators.qcache import QCacheDeleteOperator, QCachePostOperator
from airflow_provider_qcache.transfers.sql_to_qcache import SqlToQCacheOperator

_report.PROGRESS_EVERY = 0.3

KEYS = [f"many_{n}" for n in range(60)]
FOLDER = Path(os.environ["TMPDIR"])
os.environ["AIRFLOW_CONN_MANY"] = f"sqlite://{FOLDER / 'many.db'}"


def some_fail_at_first():
    """Every third, until there is a file."""
    tried = FOLDER / "tried"
    fails = not tried.exists()
    tried.touch()
    for n, key in enumerate(KEYS):
        yield key, "" if fails and n % 3 == 0 else f"key\n{key}\n"


def stops_in_the_middle():
    """After forty, until there is a file."""
    for n, key in enumerate(KEYS):
        while n == 40 and not (FOLDER / "go_on").exists():
            time.sleep(0.05)
        yield key, f"key\n{key}\n"


def until_there_is(file):
    """Sixty, and when there is the file thirty more."""
    for n in range(90):
        while n == 60 and not Path(file).exists():
            time.sleep(0.05)
        yield f"many_{n}", [{"part": n, "n": n, "text": f"of {n}"}]


def dag(name, **arguments):
    return DAG(
        f"many_{name}",
        schedule=None,
        start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
        default_args={"retries": 1, "retry_delay": timedelta(0)},
        **arguments,
    )


with dag("retried"):
    QCachePostOperator(task_id="store", tables=some_fail_at_first)

with dag("killed"):
    QCachePostOperator(task_id="store", tables=stops_in_the_middle)

with dag("given"):
    QCachePostOperator(
        task_id="store", tables={"many_given_a": "n\n1\n{{ 1 / 0 }}\n", "many_given_b": [{"zip": "007"}]}
    ) >> QCacheDeleteOperator(task_id="delete", keys=["many_given_a", "many_given_b"])

with dag("tables_lost"):
    QCachePostOperator(task_id="store", tables=until_there_is, op_args=["{{ dag_run.conf['go_on'] }}"])

with dag("partitions_lost"):
    SqlToQCacheOperator(
        task_id="store",
        sql_conn_id="many",
        sql="""
            WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1799)
            SELECT n % 900 AS part, n, 'of ' || n AS text FROM numbers
        """,
        key="many_{part}",
        partition_by=["part"],
    )
