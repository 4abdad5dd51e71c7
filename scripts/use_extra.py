"""Use the package with one of its extras, or without any, as the only one that is installed.

    python use_extra.py EXTRA PYTHON

EXTRA is ``none`` or the name of an extra; PYTHON is an interpreter that can run a dev node. `make wheel` runs
it in a clean environment for each of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import airflow_provider_qcache
from airflow_provider_qcache.client import QClient, QueryResult

START_TIMEOUT = 120.0

ROWS = [{"city": "Tokyo", "zip": "0001", "orders": 7}, {"city": "Delhi", "zip": "0002", "orders": None}]
KEY = "extra"


def table_of(client: QClient) -> QueryResult:
    """All rows of the table."""
    answer = client.get(KEY, {})
    assert answer is not None, f"no node has {KEY}"
    return answer


def use_none(client: QClient) -> None:
    """Rows are stored, queried and deleted; what needs an extra names it."""
    client.post_table(KEY, ROWS)
    answer = table_of(client)
    assert json.loads(answer.content) == ROWS
    assert answer.encoding is None, "answers come as lz4 only where it is installed"
    for extra, convert in (
        ("arrow", answer.to_arrow),
        ("pandas", answer.to_pandas),
        ("polars", answer.to_polars),
        ("lz4", lambda: client.post(KEY, "a\n1\n", compression="lz4")),
    ):
        try:
            convert()
        except (ImportError, ValueError) as error:
            assert f"the extra '{extra}'" in str(error), error  # noqa: PT017
        else:
            raise AssertionError(f"{extra} is installed without its extra")
    assert client.delete(KEY).confirmed


def use_lz4(client: QClient) -> None:
    """Tables are sent as lz4, and answers come as lz4."""
    client.post(KEY, "a\n" + "1\n" * 1000, compression="lz4")
    answer = client.get(KEY, {"limit": 1})
    assert answer is not None
    assert answer.encoding == "lz4", answer.encoding
    assert json.loads(answer.content) == [{"a": 1}]


def use_arrow(client: QClient) -> None:
    """A pyarrow table is stored, and comes back as one."""
    import pyarrow as pa  # noqa: PLC0415

    client.post_table(KEY, pa.Table.from_pylist(ROWS))
    assert table_of(client).to_arrow().to_pylist() == ROWS


def use_pandas(client: QClient) -> None:
    """An answer is a DataFrame."""
    client.post_table(KEY, ROWS)
    assert table_of(client).to_pandas()["zip"].tolist() == ["0001", "0002"]


def use_polars(client: QClient) -> None:
    """An answer is a DataFrame."""
    client.post_table(KEY, ROWS)
    assert table_of(client).to_polars()["zip"].to_list() == ["0001", "0002"]


def use_sql(client: QClient) -> None:
    """The operator stores the answer of a query."""
    from airflow_provider_qcache.transfers.sql_to_qcache import SqlToQCacheOperator  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "extra.db"
        with closing(sqlite3.connect(file)):
            os.environ["AIRFLOW_CONN_EXTRA_SQL"] = f"sqlite://{file}"
        nodes: dict[str, Any] = {"nodes": list(client.node_status())}
        os.environ["AIRFLOW_CONN_QCACHE_DEFAULT"] = json.dumps({"conn_type": "qcache", "extra": nodes})
        query = "SELECT '007' AS code, 7 AS value"
        store = SqlToQCacheOperator(task_id="sql", key=KEY, sql=query, sql_conn_id="extra_sql")
        assert store.execute({})["rows"] == 1
    assert json.loads(table_of(client).content) == [{"code": "007", "value": 7}]


def use_devnode(_client: QClient) -> None:
    """A node runs, and has a table stored by a client that has no other extra."""
    from airflow_provider_qcache.devnode import LocalCluster  # noqa: PLC0415

    with LocalCluster(nodes=1) as cluster, QClient(cluster.node_list) as own:
        own.post_table(KEY, ROWS)
        assert json.loads(table_of(own).content) == ROWS


USES = {
    "none": use_none,
    "lz4": use_lz4,
    "arrow": use_arrow,
    "sql": use_sql,
    "pandas": use_pandas,
    "polars": use_polars,
    "devnode": use_devnode,
}


@contextlib.contextmanager
def node_of(python: str) -> Iterator[str]:
    """A running dev node of another environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [python, "-P", "-m", "airflow_provider_qcache.devnode", f"--port={port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Use one extra."""
    extra, python = sys.argv[1:]
    place = Path(airflow_provider_qcache.__file__).resolve()
    assert "site-packages" in place.parts, place
    with node_of(python) as node, QClient([node]) as client:
        USES[extra](client)
    print(f"extra {extra}: used" if extra != "none" else "without an extra: used")


if __name__ == "__main__":
    main()
