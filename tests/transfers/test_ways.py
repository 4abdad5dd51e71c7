"""Each way in docs/contributing/architecture.md runs through the files that it lists, at most twelve."""

from __future__ import annotations

import contextlib
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

import airflow_provider_qcache
from airflow_provider_qcache.client import QClient
from airflow_provider_qcache.operators.qcache import QCachePostOperator
from tests.harness.nodes import Nodes
from tests.harness.postgres import Postgres
from tests.harness.servers import ROOT
from tests.operators.test_many import context
from tests.transfers.conftest import run_task

MOST_FILES = 12
PACKAGE = Path(airflow_provider_qcache.__file__).parent
ROWS = [{"region": "eu", "sales": 1}, {"region": "us", "sales": 2}]
SALES = "SELECT * FROM (VALUES ('eu', 1), ('us', 2)) AS sales(region, sales)"
STORE, QUERY, TASK, MANY, COPY = (
    "Store rows",
    "Query while the home node hangs",
    "What every task does",
    "Store many tables, and resume",
    "Partitions of a query, by COPY",
)


def listed(way: str) -> set[str]:
    """The files in a section of the page."""
    page = (ROOT / "docs" / "contributing" / "architecture.md").read_text()
    (section,) = re.findall(rf"^## {way}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    return set(re.findall(r"`([a-z_/]+\.py)`", section))


@contextlib.contextmanager
def files_entered() -> Iterator[set[str]]:
    """The files of the package, except the dev node's, in which a function is called, in any thread."""
    codes: set[str] = set()

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name != "<module>":
            codes.add(frame.f_code.co_filename)

    entered: set[str] = set()
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield entered
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]  # it ends the profile of new threads
    files = {Path(name).relative_to(PACKAGE) for name in codes if Path(name).is_relative_to(PACKAGE)}
    entered |= {file.as_posix() for file in files if file.parts[0] != "devnode"}


def entered_by(run: Callable[[], object]) -> set[str]:
    run()  # imports what is imported at its first use
    with files_entered() as entered:
        run()
    return entered


@pytest.fixture
def client(nodes: Nodes) -> Iterator[QClient]:
    with QClient(nodes.urls, 5, 1, deadline=20, trust_env=False) as client:
        yield client


@pytest.mark.parametrize("way", [STORE, QUERY, MANY, COPY])
def test_a_way_lists_twelve_files_at_most(way: str) -> None:
    assert 0 < len(listed(way)) <= MOST_FILES


def test_rows_of_the_client(client: QClient) -> None:
    assert entered_by(lambda: client.post_table("orders", ROWS)) == listed(STORE)


def test_a_query_while_the_home_node_hangs(client: QClient, nodes: Nodes) -> None:
    client.post_table("orders", ROWS, copies=2)
    home = nodes.servers[nodes.urls.index(client.node_for_key("orders"))]
    home.pause()
    try:
        with files_entered() as entered:
            assert client.get("orders", {}) is not None
    finally:
        home.resume()
    assert entered == listed(QUERY)


def test_a_task(nodes: Nodes) -> None:
    def run() -> None:
        QCachePostOperator(task_id="store", key="orders", content=ROWS).execute({})

    entered = entered_by(run)
    assert entered - listed(STORE) - listed(QUERY) == listed(TASK)


def test_many_tables_with_resume(nodes: Nodes) -> None:
    task = QCachePostOperator(task_id="store", tables={"eu": ROWS, "us": ROWS}, durable=True)
    entered = entered_by(lambda: task.execute(context()))
    assert entered - listed(STORE) - listed(QUERY) - listed(TASK) == listed(MANY)


def test_partitions_by_copy(nodes: Nodes, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", postgres.uri)
    entered = entered_by(
        lambda: run_task(sql_conn_id="warehouse", sql=SALES, key="sales_{region}", partition_by=["region"])
    )
    known = listed(STORE) | listed(QUERY) | listed(TASK) | listed(MANY)
    assert entered - known == listed(COPY)
