"""One contender of benchmarks/sql.py, in a process of its own: prints its seconds and its peak memory.

The peak is what the work added to the process: Python, Airflow and every library are loaded before it.
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
    """The hook of DuckDB, for which no provider of Airflow's has one."""

    conn_name_attr = "duckdb_conn_id"

    def get_conn(self) -> Any:
        return duckdb.connect(os.environ["QCACHE_BENCH_DUCKDB"], read_only=True)


def hook_of(connection: str) -> Any:
    return DuckDB() if connection == "duckdb" else BaseHook.get_connection(connection).get_hook()


class Store(SqlToQCacheOperator):
    def get_db_hook(self, sql_conn_id: str, hook_params: Mapping[str, Any] | None) -> Any:  # noqa: ARG002
        return hook_of(sql_conn_id)


def theirs(connection: str, sql: str, node: str) -> None:
    """What is written by hand today."""
    with contextlib.closing(hook_of(connection).get_conn()) as opened:
        cursor = opened.cursor()
        cursor.execute(sql)
        rows = cursor.fetchall()
        names = [column[0] for column in cursor.description]
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(names)
    writer.writerows(rows)
    nodes = qclient.QClient([node], read_timeout=300)
    nodes.post("table", written.getvalue(), post_headers={"X-QCache-types": TYPES})


def ours(connection: str, sql: str, key: str, partition_by: list[str] | None) -> None:
    task = Store(task_id="store", sql=sql, key=key, sql_conn_id=connection, partition_by=partition_by)
    task.execute({})


def memory(name: str) -> int:
    """A field of /proc/self/status, in bytes."""
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
    given = parser.parse_args()
    pa.array([None])  # it loads pandas, where there is one
    # The hook's module is loaded before the work, and its connection tried.
    hook_of(given.connection).get_conn().close()
    if given.contender == "by a cursor":

        def refuse(*_: object) -> None:
            raise _copy.NotByCopy("this measures a cursor")

        _source.CopyQuery = refuse  # type: ignore[assignment,misc]
        _arrow.of_connection = _arrow.of_cursor = lambda _: None  # type: ignore[assignment]
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted from here on
    before = memory("VmRSS")
    started, processor = time.perf_counter(), time.process_time()
    if given.contender == "theirs":
        theirs(given.connection, given.sql, given.node)
    else:
        ours(given.connection, given.sql, given.key, given.partition_by)
    seconds = time.perf_counter() - started
    processor = time.process_time() - processor
    json.dump({"seconds": seconds, "processor": processor, "peak": memory("VmHWM") - before}, sys.stdout)


if __name__ == "__main__":
    main()
