"""Tables as assets of a real Airflow, datasets on Airflow 2."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from scripts.airflow_runs import AirflowHome, Run, Runner
from tests.airflow.conftest import connection
from tests.harness.nodes import Nodes

WORD = "asset" if find_spec("airflow.sdk") else "dataset"


@pytest.fixture(scope="module")
def done(runner: Runner, session_nodes: Nodes) -> Run:
    session_nodes.all_up()
    run = runner.run("assets")
    assert run.state == "success", {name: task.log[-3000:] for name, task in run.tasks.items()}
    return run


@pytest.fixture(scope="module")
def events(done: Run, airflow_home: AirflowHome) -> dict[str, list[dict[str, Any]]]:
    """What the events of the run tell, by task and URI."""
    query = (
        f"SELECT event.source_task_id, asset.uri, event.extra FROM {WORD}_event AS event "
        f"JOIN {WORD} AS asset ON asset.id = event.{WORD}_id WHERE event.source_dag_id = 'assets' "
        "ORDER BY asset.uri"
    )
    with closing(sqlite3.connect(airflow_home.path / "airflow.db")) as database:
        found: dict[str, list[dict[str, Any]]] = {}
        for task, uri, extra in database.execute(query):
            found.setdefault(task, []).append({"uri": uri, **json.loads(extra)})
    return found


def test_each_task_makes_one_event_and_only_those_that_were_asked(
    events: dict[str, list[dict[str, Any]]],
) -> None:
    """Twenty tables in one task are one event, too."""
    assert {task: [event["uri"] for event in updates] for task, updates in events.items()} == {
        "one": ["qcache://qcache_default/assets_one"],
        "outlet": ["qcache://qcache_default/assets_outlet"],
        "alias": ["qcache://qcache_default/assets_alias"],
        "mapped": [
            "qcache://qcache_default/assets_mapped_a",
            "qcache://qcache_default/assets_mapped_b",
        ],
        "many": ["qcache://qcache_default/assets_many_*"],
        "partitions": ["qcache://qcache_default/assets_sales_{region}"],
        "delete": ["qcache://qcache_default/assets_gone"],
    }


@pytest.mark.parametrize("task", ["one", "alias"])
def test_the_event_has_what_the_task_returned(
    done: Run, events: dict[str, list[dict[str, Any]]], task: str
) -> None:
    (event,) = events[task]
    result = done[task].result
    assert {name: event[name] for name in ("key", "rows", "bytes", "node", "copies")} == {
        name: result[name] for name in ("key", "rows", "bytes", "node", "copies")
    }
    assert (event["rows"], len(event["copies"])) == (2, 1)


@pytest.mark.parametrize(("task", "stored"), [("many", 20), ("partitions", 2)])
def test_the_event_of_many_tables_has_their_number(
    events: dict[str, list[dict[str, Any]]], task: str, stored: int
) -> None:
    (event,) = events[task]
    assert (event["stored"], event["failed"], event["rows"]) == (stored, 0, stored)
    assert event["uri"].endswith(event["keys"])


def test_dags_that_wait_for_the_tables_are_to_start(done: Run) -> None:
    waiting = [name for name in done.waiting if name.startswith("assets_on_")]
    assert waiting == [
        f"assets_on_{name}" for name in ("alias", "delete", "many", "mapped", "one", "outlet", "partitions")
    ]


def test_the_command_where_names_the_task_that_stored_a_table(
    done: Run, airflow_home: AirflowHome, session_nodes: Nodes, tmp_path: Path
) -> None:
    """From the event that the task itself emitted."""
    log = tmp_path / "log"
    environment = {"AIRFLOW_CONN_QCACHE_DEFAULT": connection(session_nodes.urls)}
    command = ["-W", "ignore", "-m", "airflow_provider_qcache", "where", "assets_one", "--output", "json"]
    with airflow_home.start(command, log, environment=environment) as process:
        process.wait(120)
    text = log.read_text()
    assert process.returncode == 0, text
    found = json.loads(text[text.index("{\n") :])
    result = done["one"].result
    assert found["home"] == result["node"]
    if WORD == "dataset":  # whose events the command does not read
        assert found["stored_by"] is None
        return
    stored = [(each["dag_id"], each["task_id"], each["rows"], each["node"]) for each in found["stored_by"]]
    assert stored == [("assets", "one", 2, result["node"])]
