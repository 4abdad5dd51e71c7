"""The lineage that Airflow's OpenLineage provider reports for tasks, read from the file that it writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from scripts.airflow_runs import AirflowHome
from tests.airflow.conftest import connection
from tests.harness.nodes import Nodes

QCACHE = "qcache://qcache_default"
SIZE = 22
"""Of the text that the DAG stores, in bytes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the DAG has its files."""
    return tmp_path_factory.mktemp("lineage")


@pytest.fixture(scope="module")
def events(
    airflow_home: AirflowHome,
    session_nodes: Nodes,
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, dict[str, Any]]:
    """The event of each task's end, by the task's id, from an Airflow that writes its events to a file."""
    dags = tmp_path_factory.mktemp("dags")
    shutil.copy(Path(__file__).parent / "dags" / "lineage.py", dags)
    file = folder / "events.json"
    environment = {
        "AIRFLOW_CONN_QCACHE_DEFAULT": connection(session_nodes.all_up().urls),
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
            {"type": "file", "log_file_path": str(file), "append": True}
        ),
        "TMPDIR": str(folder),
    }
    with airflow_home.runner(dags, environment) as runner:
        run = runner.run("lineage")
    assert run.state == "success", {name: task.log[-3000:] for name, task in run.tasks.items()}
    written = [json.loads(line) for line in file.read_text().splitlines()]
    return {
        event["job"]["name"].removeprefix("lineage."): event
        for event in written
        if event["eventType"] == "COMPLETE" and "." in event["job"]["name"]
    }


def parts(event: dict[str, Any], side: str) -> list[tuple[str, str]]:
    return [(part["namespace"], part["name"]) for part in event.get(side, ())]


def schema(part: dict[str, Any]) -> dict[str, str | None]:
    return {field["name"]: field.get("type") for field in part["facets"]["schema"]["fields"]}


def statistics(part: dict[str, Any]) -> tuple[int | None, int | None]:
    found = part["outputFacets"]["outputStatistics"]
    return found.get("rowCount"), found.get("size")


def change(part: dict[str, Any]) -> str | None:
    found: str | None = part["facets"].get("lifecycleStateChange", {}).get("lifecycleStateChange")
    return found


def test_a_post(events: dict[str, dict[str, Any]]) -> None:
    (output,) = events["post"]["outputs"]
    assert parts(events["post"], "inputs") == []
    assert parts(events["post"], "outputs") == [(QCACHE, "lineage_post")]
    assert schema(output) == {"n": None, "zip": "string"}
    assert statistics(output) == (2, SIZE)
    assert change(output) == "OVERWRITE"


def test_a_post_of_rows_reports_their_types(events: dict[str, dict[str, Any]]) -> None:
    (output,) = events["rows"]["outputs"]
    assert schema(output) == {"n": "int", "text": "string", "x": "float"}


def test_files(events: dict[str, dict[str, Any]], folder: Path) -> None:
    (output,) = events["files"]["outputs"]
    files = [("file", str(folder / f"lineage_{name}.csv")) for name in ("a", "b")]
    assert parts(events["files"], "inputs") == parts(events["each"], "inputs") == files
    assert (output["name"], schema(output), statistics(output)[0]) == (
        "lineage_files",
        {"n": None, "zip": None},
        4,
    )
    (output,) = events["each"]["outputs"]
    assert (output["name"], statistics(output)) == ("{stem}", (4, 2 * SIZE))


def test_sql(events: dict[str, dict[str, Any]], folder: Path) -> None:
    """SQLite's hook does not support OpenLineage; the tables still come from the SQL."""
    database = f"sqlite://{folder / 'lineage.db'}"
    assert sorted(parts(events["sql"], "inputs")) == [(database, "regions"), (database, "sales")]
    assert events["sql"]["job"]["facets"]["sql"]["query"].startswith("SELECT region, sum(amount)")
    (output,) = events["sql"]["outputs"]
    assert (output["name"], schema(output)) == ("lineage_sql", {"region": "string", "amount": "float"})
    assert statistics(output)[0] == 1


def test_partitions_are_one_dataset(events: dict[str, dict[str, Any]]) -> None:
    (output,) = events["partitions"]["outputs"]
    assert (output["name"], statistics(output)[0]) == ("lineage_{region}", 1)
    assert schema(output) == {"region": "string", "amount": "float", "n": "int"}


def test_a_query(events: dict[str, dict[str, Any]], folder: Path) -> None:
    (read,) = events["query"]["inputs"]
    assert parts(events["query"], "inputs") == [(QCACHE, "lineage_post")]
    assert schema(read) == {"n": "int", "zip": "string"}
    assert parts(events["query"], "outputs") == []
    (read,), (written,) = events["report"]["inputs"], events["report"]["outputs"]
    assert "schema" not in read["facets"]  # those are columns of the answer
    assert (written["namespace"], written["name"]) == ("file", str(folder / "lineage_report.csv"))
    assert schema(written) == {"zip": None}
    assert statistics(written) == (1, len(b"zip\n00501\n"))


def test_a_query_that_loads(events: dict[str, dict[str, Any]]) -> None:
    (output,) = events["loaded"]["outputs"]
    assert (output["name"], schema(output), change(output)) == ("lineage_loaded", {"n": "int"}, "OVERWRITE")


def test_a_delete(events: dict[str, dict[str, Any]]) -> None:
    assert parts(events["delete"], "outputs") == [(QCACHE, "lineage_post")]
    assert parts(events["deletes"], "outputs") == [(QCACHE, "lineage_rows"), (QCACHE, "lineage_files")]
    assert {change(part) for task in ("delete", "deletes") for part in events[task]["outputs"]} == {"DROP"}


def test_a_function_with_the_hook(events: dict[str, dict[str, Any]]) -> None:
    """By Airflow's lineage collector, as the asset's converter has it; a miss is no input."""
    event = events["by_hook"]
    assert parts(event, "inputs") == [(QCACHE, "lineage_hook")]
    assert [(part["name"], change(part)) for part in event["outputs"]] == [
        ("lineage_hook", "OVERWRITE"),
        ("lineage_gone", "DROP"),
        ("lineage_*", "OVERWRITE"),
        ("lineage_*", "DROP"),
    ]
    assert statistics(event["outputs"][0]) == (2, SIZE)
