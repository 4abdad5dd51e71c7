"""The suites' pytest plugin: fixtures, the rule that CI skips no test, and which tests share a worker.

Only the fixture ``operator_log`` requires Airflow.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from typing import TYPE_CHECKING, Any

import pytest
from qclient import QClient as Reader

from tests.harness.connection import connect
from tests.harness.lateness import Lateness
from tests.harness.mariadb import MariaDB
from tests.harness.needs import need_mariadb, need_postgres, need_the_real_server
from tests.harness.nodes import Nodes
from tests.harness.postgres import Postgres
from tests.harness.servers import Server, make_certificates

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from tests.harness.servers import Certificates

SHARE_AN_AIRFLOW = ("airflow", "browser")
"""Suites whose tests share one running Airflow."""

START_THEIR_OWN = ("airflow/test_tutorial", "airflow/test_demo", "browser/test_scale_out")
"""Files of these suites that start an Airflow of their own."""

SHARE_LITTLE = ("cli", "client", "conformance", "devnode", "fuzz")
"""Suites whose tests may run on any worker: their fixtures start quickly, and some files take minutes."""

LONGEST = (*START_THEIR_OWN[:1], *SHARE_AN_AIRFLOW, *START_THEIR_OWN[1:])
"""The groups to run first: a worker that began one of them late would run it while the others are idle."""


def group_of(nodeid: str) -> str:
    """The group of a test, which runs on one worker: mostly a file, whose fixtures take time to start."""
    file = nodeid.partition("::")[0].removeprefix("tests/").removesuffix(".py")
    suite = file.partition("/")[0]
    if suite in SHARE_LITTLE:
        return nodeid
    return suite if suite in SHARE_AN_AIRFLOW and file not in START_THEIR_OWN else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest groups first."""
    items.sort(key=lambda item: (*LONGEST, group := group_of(item.nodeid)).index(group))


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist there is no such hook
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give whole groups to workers. xdist's own group marks have no effect with pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByGroup(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a skipped test in CI."""
    return failed_if_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Fail a skipped module in CI."""
    return failed_if_skipped((yield))


def failed_if_skipped(report: Any) -> Any:
    """The report, made a failure if it is a skip and this is CI."""
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"Skipped, and in CI no test may be: {report.longreprtext or report.longrepr}"
    return report


@pytest.fixture(scope="session")
def real() -> Iterator[Server]:
    """A real QCache 0.9.3 with its default options."""
    need_the_real_server()
    with Server.real() as server:
        yield server


@pytest.fixture(scope="session")
def dev() -> Iterator[Server]:
    """A dev node with its default options."""
    with Server.dev() as server:
        yield server


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Key and certificate of a server and of a client, and the CA that signed both."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def late() -> Iterator[Lateness]:
    """How late this machine ran threads during this test; added to limits of wall-clock time."""
    with Lateness() as late:
        yield late


@pytest.fixture(scope="session")
def session_nodes() -> Iterator[Nodes]:
    """Three nodes for the whole session; in CI they are real servers."""
    with contextlib.suppress(pytest.skip.Exception):
        need_the_real_server()
    with Nodes() as nodes:
        yield nodes


@pytest.fixture
def nodes(session_nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> Nodes:
    """Three nodes that all answer, with the connection ``qcache_default`` to them."""
    nodes = session_nodes.all_up()
    connect(monkeypatch, nodes.urls)
    return nodes


@pytest.fixture
def reader(nodes: Nodes) -> Callable[[str], Any]:
    """A function: the rows that qcache-client reads for a key; None for a miss."""

    def rows(key: str) -> Any:
        answer = Reader(nodes.urls).get(key, {})
        return None if answer is None else json.loads(answer.content)

    return rows


@pytest.fixture
def operator_log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[[], Any]:
    """A function: the operator's log so far, as (level, message). tests/airflow reads real task logs.

    It has lines of progress, which a busy machine would add, only in a test that sets PROGRESS_EVERY.
    """
    from airflow_provider_qcache.operators import _report
    from airflow_provider_qcache.operators._base import QCacheOperator

    monkeypatch.setattr(_report, "PROGRESS_EVERY", 600.0)
    monkeypatch.setattr(QCacheOperator, "log", logging.getLogger("tests.operators"))
    caplog.set_level(logging.INFO, logger="tests.operators")
    return lambda: [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "tests.operators" and "cannot be called outside" not in record.msg
    ]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL; without one, tests are skipped, or fail in CI."""
    need_postgres()
    with Postgres() as postgres:
        yield postgres


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """A real MariaDB; without one, tests are skipped, or fail in CI."""
    need_mariadb()
    with MariaDB() as mariadb:
        yield mariadb
