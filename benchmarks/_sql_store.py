"""One contender of benchmarks/sql.py in its own process: prints its seconds and its peak memory.

The peak is what the work adds to the process: Python, Airflow and all libraries are loaded before it.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import qclient
from airflow.providers.common.compat.sdk import BaseHook
from airflow.providers.common.sql.hooks.sql import DbApiHook

from airflow_provider_qcache.client.tables import cursors  # noqa: F401
from airflow_provider_qcache.hooks import qcache  # noqa: F401
from airflow_provider_qcache.transfers import _arrow, _copy, _source, _tables  # noqa: F401
from airflow_provider_qcache.transfers.sql_to_qcache import SqlToQCacheOperator

TYPES = "country=enum;sku=string;note=string;seen=string"


class DuckDB(DbApiHook):
    """A hook for DuckDB, for which Airflow has no provider."""

    conn_name_attr = "duckdb_conn_id"

    def get_conn(self) -> Any:
        return duckdb.connect(os.environ["QCACHE_BENCH_DUCKDB"], read_only=True)


def hook_of(connection: str) -> Any:
    return DuckDB() if connection == "duckdb" else BaseHook.get_connection(connection).get_hook()


class Store(SqlToQCacheOperator):
    def get_db_hook(self, sql_conn_id: str, hook_params: Mapping[str, Any] | None) -> Any:  # noqa: ARG002
        return hook_of(sql_conn_id)


def theirs(connection: str, sql: str, node: str) -> None:
    """The code that people write by hand today."""
    with contextlib.closing(hook_of(connection).get_conn()) as opened:
        cursor = opened.cursor()
        cursor.execute(sql)
        rows = cursor.fetchall()
        names = [column[0] for column in cursor.description]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(names)
    writer.writerows(rows)
    nodes = qclient.QClient([node], read_timeout=300)
    nodes.post("table", text.getvalue(), post_headers={"X-QCache-types": TYPES})


def ours(connection: str, sql: str, key: str, partition_by: list[str] | None) -> None:
    task = Store(task_id="store", sql=sql, key=key, sql_conn_id=connection, partition_by=partition_by)
    task.execute({})


def memory(name: str) -> int:
    """A field of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contender", choices=["theirs", "ours", "by a cursor"])
    parser.add_argument("connection")
    parser.add_argument("sql")
    parser.add_argument("node")
    parser.add_argument("--key", default="table")
    parser.add_argument("--partition-by", nargs="*")
    arguments = parser.parse_args()
    pa.array([None])  # this loads pandas if it is installed
    # Load the hook's module and try its connection before the work.
    hook_of(arguments.connection).get_conn().close()
    if arguments.contender == "by a cursor":

        def refuse(*_: object) -> None:
            raise _copy.NotByCopy("this measures a cursor")

        _source.CopyQuery = refuse  # type: ignore[assignment,misc]
        _arrow.of_connection = _arrow.of_cursor = lambda _: None  # type: ignore[assignment]
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    before = memory("VmRSS")
    started, processor = time.perf_counter(), time.process_time()
    if arguments.contender == "theirs":
        theirs(arguments.connection, arguments.sql, arguments.node)
    else:
        ours(arguments.connection, arguments.sql, arguments.key, arguments.partition_by)
    seconds = time.perf_counter() - started
    processor = time.process_time() - processor
    json.dump({"seconds": seconds, "processor": processor, "peak": memory("VmHWM") - before}, sys.stdout)


if __name__ == "__main__":
    main()
