"""Databases to read from, nodes to store on, and the connections to both."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_provider_qcache.client import QClient
from airflow_provider_qcache.client.tables.headers import column_headers
from airflow_provider_qcache.client.tables.spool import Spool
from airflow_provider_qcache.client.tables.types import typed
from airflow_provider_qcache.transfers import _copy, _source
from airflow_provider_qcache.transfers._source import COPY, CURSOR, SqlSource
from airflow_provider_qcache.transfers._tables import QueryTables
from airflow_provider_qcache.transfers.sql_to_qcache import SqlToQCacheOperator
from tests.harness.nodes import Nodes
from tests.harness.postgres import Postgres
from tests.harness.sql import Hook

# These run once, on 3.3. Of Airflow they use only the hook class of common.sql, and both Airflows have
# the same version of it: tests/test_package.py compares the pins.
ON_ONE_AIRFLOW = ["benchmark", "reading", "round_trip", "spool", "types", "ways"]
collect_ignore = (
    [] if importlib.util.find_spec("airflow.sdk") else [f"test_{name}.py" for name in ON_ONE_AIRFLOW]
)

DRIVERS = ("psycopg", "psycopg2")


@pytest.fixture
def client(nodes: Nodes) -> Iterator[QClient]:
    with QClient(nodes.urls, connect_timeout=5, read_timeout=20, deadline=60) as client:
        yield client


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> Any:
    """Versions 2 and 3 of psycopg: which of them the hook of PostgreSQL uses depends on Airflow's version."""
    return importlib.import_module(request.param)


@pytest.fixture
def postgres_hook(postgres: Postgres, driver: Any) -> Hook:
    return Hook(lambda: driver.connect(postgres.uri))


@pytest.fixture(params=[COPY, CURSOR])
def way(request, monkeypatch):
    """By COPY, and by the cursor that is left where COPY cannot be used."""
    if request.param == CURSOR:

        def refuse(*_):
            raise _copy.NotByCopy("the test wants a cursor")

        monkeypatch.setattr(_source, "CopyQuery", refuse)
    return request.param


@pytest.fixture
def duckdb_hook(tmp_path: Path) -> Hook:
    """No provider of Airflow's has a hook for DuckDB; its connection is one of DB-API."""
    return Hook(lambda: duckdb.connect(str(tmp_path / "test.duckdb")))


@pytest.fixture
def sqlite_hook(tmp_path: Path) -> Hook:
    return Hook(lambda: sqlite3.connect(tmp_path / "test.db"))


def run(hook: Hook, *statements: str) -> None:
    """Run statements and commit them."""
    with contextlib.closing(hook.get_conn()) as connection:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        connection.commit()


class Read:
    """What a query became: ``how`` it was read, the ``types`` header, and each table's text by key."""

    def __init__(self, how: str, tables: QueryTables) -> None:
        self.how = how
        self.types = column_headers(typed(tables.columns)).get("X-QCache-types", "")
        self.tables = {key: b"".join(upload.body()[0]).decode() for key, upload in tables.uploads()}

    @property
    def text(self) -> str:
        """The one table."""
        (text,) = self.tables.values()
        return text


def read(
    hook: Hook,
    sql: str,
    parameters: Any = None,
    *,
    key: str = "key",
    partition_by: tuple[str, ...] = (),
    column_types: dict[str, str] | None = None,
    held: int = 1 << 20,
) -> Read:
    """Read a query as the operator does."""
    with Spool(held) as spool:
        tables = QueryTables(spool, key, partition_by, column_types)
        how = SqlSource(hook, sql, parameters).read(tables)
        spool.flush()
        return Read(how, tables)


def stored(client: QClient, hook: Hook, sql: str, **options: Any) -> tuple[str, list[dict[str, Any]]]:
    """Read a query to a table on a node: how it was read, and what the node answers."""
    with Spool() as spool:
        tables = QueryTables(spool, "key", (), options.pop("column_types", None))
        how = SqlSource(hook, sql, options.pop("parameters", None)).read(tables)
        spool.flush()
        ((key, upload),) = tables.uploads()
        sent = client.post(key, upload, check_row_count=True)
        assert sent.rows == spool.rows
    answer = client.get(key, {})
    assert answer is not None
    rows: list[dict[str, Any]] = json.loads(answer.content)
    return how, rows


@pytest.fixture
def sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sqlite3.Connection:
    """A database in a file, and the connection ``lite`` to it."""
    path = tmp_path / "lite.db"
    monkeypatch.setenv("AIRFLOW_CONN_LITE", f"sqlite://{path}")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        yield database


def run_task(**arguments: Any) -> Any:
    """Make a task of these arguments, render it and run it."""
    defaults = {"task_id": "store", "sql_conn_id": "lite", "key": "zips", "sql": "SELECT * FROM zips"}
    task = SqlToQCacheOperator(**{**defaults, **arguments})
    task.render_template_fields({"ds": "2024-05-01", "empty": ""})
    return task.execute({})
