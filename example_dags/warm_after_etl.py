"""Warm the cache when an ETL load has finished.

Shows:
    A load that updates an asset, and a DAG scheduled on that asset which stores the loaded table in QCache:
    typed, so that ZIP codes keep their zeros, with a copy on a second node, its rows counted on the node that
    has it. If the content is bad, the task fails, and readers go on seeing the old table.

Needs:
    A connection ``qcache_default`` to at least one node. The load makes its own data, in a SQLite file in the
    temporary directory.
"""

import csv
import io
import sqlite3
import tempfile
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pendulum
from airflow.providers.common.compat.sdk import DAG, Asset, task

from airflow_provider_qcache.operators.qcache import QCachePostOperator

WAREHOUSE = Path(tempfile.gettempdir()) / "qcache_example_warehouse.db"
CUSTOMERS = Asset("qcache-example://warehouse/customers")
RETRIES = {"retries": 2, "retry_delay": timedelta(seconds=30)}


def read_customers() -> str:
    """The table as CSV, as the warehouse has it now."""
    with closing(sqlite3.connect(WAREHOUSE)) as warehouse:
        rows = warehouse.execute("SELECT id, name, zip, orders FROM customers ORDER BY id")
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(column[0] for column in rows.description)
        writer.writerows(rows)
    return text.getvalue()


with DAG(
    "qcache_load_customers",
    description="An ETL load, which updates an asset",
    schedule="@daily",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,  # one writer per key
    default_args=RETRIES,
    tags=["qcache", "example"],
):

    @task(outlets=[CUSTOMERS])
    def load() -> None:
        """Put the customers of today in the warehouse."""
        customers = [(1, "Ada", "02139", 7), (2, "Grace", "00501", 3), (3, "Edsger", "78712", 12)]
        with closing(sqlite3.connect(WAREHOUSE)) as warehouse, warehouse:
            warehouse.execute("DROP TABLE IF EXISTS customers")
            warehouse.execute("CREATE TABLE customers (id INTEGER, name TEXT, zip TEXT, orders INTEGER)")
            warehouse.executemany("INSERT INTO customers VALUES (?, ?, ?, ?)", customers)

    load()


with DAG(
    "qcache_warm_customers",
    description="Store the table in QCache after each load",
    schedule=[CUSTOMERS],
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,  # one writer per key
    default_args=RETRIES,
    tags=["qcache", "example"],
):
    QCachePostOperator(
        task_id="warm",
        key="customers",
        python_callable=read_customers,
        column_types={"zip": "string"},
        copies=2,
        check_row_count=True,
    )
