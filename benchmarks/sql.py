"""From SQL to a stored table: SqlToQCacheOperator, compared with fetchall, csv and qcache-client 0.5.1.

Each contender runs in a new process; contenders take turns, and medians are compared. A peak is the memory
that the work added to its process.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb
import psycopg2

from airflow_provider_qcache.client import QClient
from tests.harness.postgres import HOW_TO_GET_POSTGRES, Postgres, postgres_programs
from tests.harness.servers import HOW_TO_GET_THE_REAL_SERVER, ROOT, Server, ServerFailedError, real_python

ROWS = int(os.environ.get("QCACHE_BENCH_ROWS", "1000000"))
NODE_SIZE = "--size=16000000000"
PARTITIONS = 1000
WARM_UP = 1
MEMORY_GOAL = 0.1
GOALS = {"PostgreSQL by COPY": 2.5, "PostgreSQL by a cursor": 1.2, "SQLite": 1.2}
PROCESSOR_GOALS = {"DuckDB by Arrow": 3.0}
"""For this process's processor time: the node takes the same time for both."""

QUERY = "SELECT * FROM mixed"
MIXED = """
CREATE TABLE mixed AS
SELECT
    number AS id,
    number % 1000 * 919 % 1000 AS shop,
    (number % 100000 * 31 % 100000)::float8 / 100 AS price,
    sin(number) AS ratio,
    CASE WHEN number % 10 < 7 THEN (number % 50)::float8 / 100 END AS discount,
    number % 2 = 0 AS open,
    (ARRAY['JP', 'IN', 'CH', 'NO', 'BR'])[number % 5 + 1] AS country,
    'sku-' || lpad((number % 100000 * 7 % 100000)::text, 6, '0') AS sku,
    CASE WHEN number % 10 > 0 THEN 'sold, ' || number % 100 || ' times' END AS note,
    timestamp '2024-01-01' + number * interval '31 seconds' AS seen
FROM generate_series(0, {rows} - 1) AS number
"""
IN_DUCKDB = """
CREATE TABLE mixed AS
SELECT
    number AS id,
    number % 1000 * 919 % 1000 AS shop,
    (number % 100000 * 31 % 100000)::DOUBLE / 100 AS price,
    sin(number) AS ratio,
    CASE WHEN number % 10 < 7 THEN (number % 50)::DOUBLE / 100 END AS discount,
    number % 2 = 0 AS open,
    ['JP', 'IN', 'CH', 'NO', 'BR'][number % 5 + 1] AS country,
    'sku-' || lpad((number % 100000 * 7 % 100000)::VARCHAR, 6, '0') AS sku,
    CASE WHEN number % 10 > 0 THEN 'sold, ' || number % 100 || ' times' END AS note,
    TIMESTAMP '2024-01-01' + to_seconds(number * 31) AS seen
FROM range({rows}) AS t(number)
"""
IN_SQLITE = (
    "CREATE TABLE mixed (id integer, shop integer, price real, ratio real, discount real, open integer, "
    "country text, sku text, note text, seen text)"
)


def fill(postgres: Postgres, sqlite: Path, duck: Path) -> None:
    """Create the same table in all three databases."""
    with contextlib.closing(duckdb.connect(str(duck))) as target:
        target.execute(IN_DUCKDB.format(rows=ROWS))
    with contextlib.closing(psycopg2.connect(postgres.uri)) as source:
        source.autocommit = True
        with source.cursor() as cursor:
            cursor.execute(MIXED.format(rows=ROWS))
            cursor.execute("VACUUM ANALYZE mixed")
        source.autocommit = False
        with (
            contextlib.closing(sqlite3.connect(sqlite)) as target,
            target,
            source.cursor("rows") as cursor,
        ):
            target.execute(IN_SQLITE)
            cursor.itersize = 20_000
            cursor.execute(
                "SELECT id, shop, price, ratio, discount, open::int, country, sku, note, seen::text "
                "FROM mixed"
            )
            target.executemany(f"INSERT INTO mixed VALUES ({', '.join('?' * 10)})", cursor)


def measured(environment: dict[str, str], *arguments: str) -> dict[str, float]:
    """Run a contender and return its measurements."""
    command = [sys.executable, "-m", "benchmarks._sql_store", *arguments]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )
    if done.returncode:
        raise ServerFailedError(f"{' '.join(arguments)}:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(runs: int) -> str:
    """Measure everything and return the tables.

    Raises:
        ServerFailedError: the real server or PostgreSQL is not installed, or a server does not start.
    """
    if real_python() is None:
        raise ServerFailedError(HOW_TO_GET_THE_REAL_SERVER)
    if postgres_programs() is None:
        raise ServerFailedError(HOW_TO_GET_POSTGRES)
    with (
        tempfile.TemporaryDirectory() as directory,
        Postgres() as postgres,
        Server.real(NODE_SIZE) as server,
    ):
        sqlite, duck = Path(directory) / "mixed.db", Path(directory) / "mixed.duckdb"
        fill(postgres, sqlite, duck)
        node = f"http://127.0.0.1:{server.port}"
        environment = {
            **os.environ,
            "AIRFLOW_HOME": directory,
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
            "AIRFLOW_CONN_POSTGRES": postgres.uri,
            "AIRFLOW_CONN_SQLITE": f"sqlite://{sqlite}",
            "QCACHE_BENCH_DUCKDB": str(duck),
            "AIRFLOW_CONN_QCACHE_DEFAULT": json.dumps(
                {"conn_type": "qcache", "extra": {"nodes": [node], "read_timeout": 300}}
            ),
        }
        return report(environment, node, runs)


def report(environment: dict[str, str], node: str, runs: int) -> str:
    partitioned = ("--key", "table_{shop}", "--partition-by", "shop")
    contenders = {
        "PostgreSQL: fetchall, csv, qcache-client": ("theirs", "postgres"),
        "PostgreSQL by COPY": ("ours", "postgres"),
        "PostgreSQL by a cursor": ("by a cursor", "postgres"),
        f"PostgreSQL by COPY, as {PARTITIONS:,} tables": ("ours", "postgres", *partitioned),
        "SQLite: fetchall, csv, qcache-client": ("theirs", "sqlite"),
        "SQLite": ("ours", "sqlite"),
        f"SQLite, as {PARTITIONS:,} tables": ("ours", "sqlite", *partitioned),
        "DuckDB: a cursor": ("by a cursor", "duckdb"),
        "DuckDB by Arrow": ("ours", "duckdb"),
    }
    bases = {name.partition(":")[0]: name for name in contenders if ":" in name}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    with QClient([node], 5, 300, deadline=600) as client:
        for turn in range(WARM_UP + runs):
            for name, (contender, connection, *options) in contenders.items():
                result = measured(environment, contender, connection, QUERY, node, *options)
                check(client, partitioned=bool(options))
                if turn >= WARM_UP:
                    found[name].append(result)
    middle = {
        name: {
            field: statistics.median(one[field] for one in results)
            for field in ("seconds", "processor", "peak")
        }
        for name, results in found.items()
    }
    head = (
        f"{ROWS:,} rows of 10 mixed columns, to the real node. Medians of {runs}. "
        f"Python {platform.python_version()}, {versions()}; {os.cpu_count()} cores for all."
    )
    lines = [
        head,
        "",
        (
            "| from | s | times as fast | goal | processor, s | times less | goal "
            "| peak, MB | of its rival's | goal |"
        ),
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, one in middle.items():
        base = middle[bases[first_word(name)]]
        goal = f">= {GOALS[name]:.1f}" if name in GOALS else ""
        against_theirs = contenders[bases[first_word(name)]][0] == "theirs"
        memory_goal = f"<= {MEMORY_GOAL:.2f}" if name in GOALS and against_theirs else ""
        processor_goal = f">= {PROCESSOR_GOALS[name]:.1f}" if name in PROCESSOR_GOALS else ""
        lines.append(
            f"| {name} | {one['seconds']:.2f} | {base['seconds'] / one['seconds']:.2f} | {goal} "
            f"| {one['processor']:.2f} | {base['processor'] / max(one['processor'], 1e-9):.2f} "
            f"| {processor_goal} "
            f"| {one['peak'] / 1e6:.0f} | {one['peak'] / max(base['peak'], 1):.2f} | {memory_goal} |"
        )
    return "\n".join(lines)


def first_word(name: str) -> str:
    """The database of a contender, which is the first word of its name."""
    return name.replace(":", " ").split()[0].rstrip(",")


def check(client: QClient, *, partitioned: bool) -> None:
    """Raise AssertionError unless the node has all rows; delete the tables."""
    numbers = range(min(PARTITIONS, ROWS))
    keys = [f"table_{number * 919 % PARTITIONS}" for number in numbers] if partitioned else ["table"]
    rows = 0
    for key in keys:
        result = client.get(key, {"select": [["count"]]})
        rows += json.loads(result.content)[0]["count"] if result is not None else 0
        client.delete(key)
    if rows != ROWS:
        raise AssertionError(f"the node has {rows:,} rows and not {ROWS:,}")


def versions() -> str:
    names = ("apache-airflow", "psycopg", "psycopg2-binary", "duckdb", "pyarrow")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
