"""A real Airflow that runs DAGs against real nodes, dev nodes where there are none."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from scripts.airflow_runs import AirflowHome, Runner
from tests.harness.needs import need_postgres
from tests.harness.nodes import Nodes
from tests.harness.postgres import Postgres
from tests.harness.servers import ROOT, Certificates

# What the demo shows is the same on each Airflow; a run takes half a minute. Airflow 2 has no commands of
# providers, and Airflow 3 no dry run of a task.
ON_3 = ["test_commands.py", "test_demo.py", "test_pages.py", "test_tutorial.py"]
collect_ignore = ["test_dry_run.py"] if find_spec("airflow.sdk") else ON_3

EXAMPLES = sorted((ROOT / "example_dags").glob("*.py"))
DAGS = sorted((Path(__file__).parent / "dags").glob("*.py"))

PASSWORD = "correct-horse-battery-staple"
WRONG_PASSWORD = "incorrect-horse-battery-staple"


@pytest.fixture(scope="session")
def guarded(certificates: Certificates) -> Iterator[Nodes]:
    """Nodes with TLS that want a password."""
    options = [f"--cert-file={certificates.server}", f"--basic-auth=airflow:{PASSWORD}"]
    with Nodes(2, *options, tls=certificates.context()) as nodes:
        yield nodes


@pytest.fixture(scope="session")
def postgres_to_start() -> Iterator[Postgres]:
    """A PostgreSQL that does not run yet, and whose address is known: its start costs seconds."""
    postgres = Postgres()
    yield postgres
    postgres.stop()


@pytest.fixture(scope="session")
def flights_db(postgres_to_start: Postgres) -> Postgres:
    """The PostgreSQL of the connection ``flights_db``; without one tests are skipped, and fail in CI."""
    need_postgres()
    return postgres_to_start.start()


@pytest.fixture(scope="session")
def airflow_home() -> Iterator[AirflowHome]:
    """An AIRFLOW_HOME for the whole session."""
    with AirflowHome(sys.executable) as home:
        yield home


@pytest.fixture(scope="session")
def runner(
    airflow_home: AirflowHome,
    session_nodes: Nodes,
    guarded: Nodes,
    certificates: Certificates,
    postgres_to_start: Postgres,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Runner]:
    """An Airflow that has loaded the examples and the DAGs of the tests: its start costs some ten seconds."""
    dags = tmp_path_factory.mktemp("dags")
    for file in (*EXAMPLES, *DAGS):
        shutil.copy(file, dags)
    (dags / "readme.py").write_text(readme_dag())
    nodes = session_nodes.urls
    limits = {"connect_timeout": 1, "read_timeout": 1, "retry_wait_initial": 0.05, "retry_wait_max": 0.2}
    ca = {"ca_file": str(certificates.ca)}
    connections = {
        "qcache_default": connection(nodes),
        "patient": connection(nodes, extra={**limits, "deadline": 30}),
        "hasty": connection(nodes, extra={**limits, "deadline": 2, "store_timeout": 1}),
        "stubborn": connection(nodes, extra={"read_timeout": 60, "store_timeout": 60}),
        "right": connection(guarded.urls, login="airflow", password=PASSWORD, extra=ca),
        "wrong_password": connection(guarded.urls, login="airflow", password=WRONG_PASSWORD, extra=ca),
        "unknown_ca": connection(guarded.urls, login="airflow", password=PASSWORD),
    }
    environment = {f"AIRFLOW_CONN_{name.upper()}": value for name, value in connections.items()}
    environment["AIRFLOW_CONN_FLIGHTS_DB"] = postgres_to_start.uri
    environment["TMPDIR"] = str(tmp_path_factory.mktemp("files"))
    with airflow_home.runner(dags, environment) as runner:
        yield runner


def readme_dag() -> str:
    """The DAG that the README shows, as a file."""
    code: str = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    return code


def connection(nodes: list[str], *, extra: dict[str, Any] | None = None, **fields: str) -> str:
    """An Airflow connection to these nodes, as the value of an environment variable."""
    return json.dumps({"conn_type": "qcache", "extra": {"nodes": nodes, **(extra or {})}, **fields})
