"""Invalidate tables on a schedule.

Shows:
    A cron schedule, keys made from the logical date, and a delete on every node, so that no node brings an
    old table back. A run without a logical date, such as one that an asset starts on Airflow 3, uses the date
    it was due at.

Needs:
    A connection ``qcache_default``. The tables are those that other DAGs store each day, such as
    ``sales_20260131`` and ``visits_20260131``; a key without a table is not an error.
"""

from datetime import timedelta

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_qcache.operators.qcache import QCacheDeleteOperator

DUE = "(dag_run.logical_date or dag_run.run_after)"
A_WEEK_AGO = f"{{{{ ({DUE} - macros.timedelta(days=7)).strftime('%Y%m%d') }}}}"

with DAG(
    "qcache_scheduled_invalidation",
    description="Forget the daily tables that are a week old",
    schedule="30 4 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,  # one writer per key
    default_args={"retries": 3, "retry_delay": timedelta(minutes=1)},
    tags=["qcache", "example"],
):
    QCacheDeleteOperator(task_id="invalidate", keys=[f"sales_{A_WEEK_AGO}", f"visits_{A_WEEK_AGO}"])
