"""Query a table in the cache and report on the answer.

Shows:
    A query whose rows the next task gets by XCom, and the same answer as a CSV file. If the table is not in
    the cache, the report is skipped.

Needs:
    A connection ``qcache_default``. The DAG stores the table that it queries. The file goes to the temporary
    directory; any path that Airflow's ObjectStoragePath knows will do, such as ``s3://bucket/report.csv``.
"""

import tempfile
from datetime import timedelta
from pathlib import Path

import pendulum
from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_qcache.operators.qcache import QCachePostOperator, QCacheQueryOperator

REPORT = Path(tempfile.gettempdir()) / "qcache_example_report.csv"

LARGEST_COUNTRIES = {
    "select": ["country", ["sum", "population"]],
    "where": [">", "population", 1_000_000],
    "group_by": ["country"],
    "order_by": ["-population"],
    "limit": 2,
}

CITIES = [
    {"city": "Tokyo", "country": "JP", "population": 37_036_200},
    {"city": "Osaka", "country": "JP", "population": 18_921_600},
    {"city": "Delhi", "country": "IN", "population": 34_665_600},
    {"city": "Mumbai", "country": "IN", "population": 22_089_000},
    {"city": "Cairo", "country": "EG", "population": 23_074_200},
    {"city": "Vaduz", "country": "LI", "population": 5_774},
]

with DAG(
    "qcache_query_report",
    description="Query a table and report on the answer",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    max_active_runs=1,  # one writer per key
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    tags=["qcache", "example"],
):
    warm = QCachePostOperator(task_id="warm", key="cities", content=CITIES)

    largest = QCacheQueryOperator(task_id="largest", key="cities", query=LARGEST_COUNTRIES, on_miss="skip")

    to_file = QCacheQueryOperator(
        task_id="to_file",
        key="cities",
        query=LARGEST_COUNTRIES,
        output_path=str(REPORT),
        accept="text/csv",
        on_miss="skip",
    )

    @task
    def report(rows: list[dict]) -> str:
        """One line about the countries."""
        return ", ".join(f"{row['country']}: {row['population'] / 1e6:.1f} million" for row in rows)

    warm >> [largest, to_file]
    report(largest.output)
