"""A real Airflow that runs DAGs against real nodes, dev nodes where there are none."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scripts.airflow_runs import AirflowHome, Runner
from tests.airflow.nodes import Nodes
from tests.conftest import need_the_real_server

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


@pytest.fixture(scope="session")
def airflow_home() -> Iterator[AirflowHome]:
    """An AIRFLOW_HOME for the whole session."""
    with AirflowHome(sys.executable) as home:
        yield home


@pytest.fixture(scope="session")
def start_runner(
    airflow_home: AirflowHome, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., AbstractContextManager[Runner]]:
    """Load DAGs, files or texts, into an Airflow that has these connections and other variables."""

    def start(*dags: Path | str, connections: dict[str, str], **environment: str) -> Any:
        folder = tmp_path_factory.mktemp("dags")
        for number, dag in enumerate(dags):
            if isinstance(dag, Path):
                shutil.copy(dag, folder)
            else:
                (folder / f"dag_{number}.py").write_text(dag)
        variables = {f"AIRFLOW_CONN_{name.upper()}": value for name, value in connections.items()}
        return airflow_home.runner(folder, {**variables, **environment})

    return start


@pytest.fixture(scope="session")
def nodes_of_the_session() -> Iterator[Nodes]:
    """Three nodes; in CI they are real ones."""
    with contextlib.suppress(pytest.skip.Exception):
        need_the_real_server()
    with Nodes() as nodes:
        yield nodes


@pytest.fixture
def nodes(nodes_of_the_session: Nodes) -> Nodes:
    """Three nodes that answer."""
    return nodes_of_the_session.all_up()


def connection(nodes: list[str], **given: Any) -> str:
    """An Airflow connection to these nodes, as the value of an environment variable."""
    extra = {"nodes": nodes, **given.pop("extra", {})}
    return json.dumps({"conn_type": "qcache", "extra": extra, **given})
