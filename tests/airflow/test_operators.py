"""What other tasks give the operators, mapped or not, and what Airflow shows of it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import Any

import airflow
import pytest

from scripts.airflow_runs import AirflowHome, Run, Runner
from tests.harness.nodes import Nodes

AIRFLOW_2 = airflow.__version__.startswith("2.")


@pytest.fixture(scope="module")
def stored(runner: Runner, session_nodes: Nodes) -> Run:
    """A run of the DAG that stores, on nodes that all answer."""
    session_nodes.all_up()
    return runner.run("operators_store")


def rendered_fields(home: AirflowHome, dag_id: str, task_id: str) -> list[dict[str, Any]]:
    """What Rendered Templates shows of a task: for each of its instances, each field."""
    with closing(sqlite3.connect(home.path / "airflow.db")) as database:
        found = database.execute(
            "SELECT rendered_fields FROM rendered_task_instance_fields "
            "WHERE dag_id = ? AND task_id = ? ORDER BY map_index",
            (dag_id, task_id),
        )
        return [json.loads(fields) for (fields,) in found]


def rows_under(nodes: Nodes, key: str) -> Any:
    """The one table under the key."""
    (holder,) = nodes.holding(key)
    return json.loads(nodes.ask(nodes.urls.index(holder), "GET", key).body)


def test_every_task_that_stores_succeeds_at_once(stored: Run) -> None:
    assert stored.state == "success", {name: task.log[-3000:] for name, task in stored.tasks.items()}
    assert {len(task.logs) for task in stored.tasks.values()} == {1}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("rows", [{"n": n, "text": "{{ 1 / 0 }}"} for n in range(20_000)]),
        ("text", [{"n": 0, "text": "{{ 1 / 0 }}"}]),
        ("path", [{"n": 0, "text": "from a file"}]),
        ("frame", [{"zip": "00501", "text": "{{ 1 / 0 }}"}]),
        ("polars", [{"zip": "00501", "text": "a"}]),
        ("files", [{"zip": "00501", "text": "a"}, {"zip": "00501", "text": "b"}]),
        ("file_b_operators_store", [{"zip": "00501", "text": "b"}]),
        ("mapped", [{"n": n, "text": "{{ 1 / 0 }}"} for n in range(3)]),
        ("key_0", [{"n": 0, "text": "{{ 1 / 0 }}"}]),
        ("key_1", [{"n": 0, "text": "{{ 1 / 0 }}"}]),
        ("both_0", [{"n": 1}]),
        ("both_1", [{"n": 1}, {"n": 2}]),
    ],
)
def test_what_a_task_gives_is_stored_and_not_rendered(
    stored: Run, nodes: Nodes, key: str, expected: list[dict[str, Any]]
) -> None:
    """The text is a template that would fail."""
    assert rows_under(nodes, key) == expected


@pytest.mark.parametrize("task_id", ["over_content", "group.store"])
def test_content_is_mapped(stored: Run, task_id: str) -> None:
    assert [task.result["rows"] for task in stored.mapped(task_id)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("task_id", "sizes"),
    [
        ("from_rows", ["20,000 rows"]),
        ("from_text", ["21 characters"]),
        ("from_mapped", ["3 rows"]),
        ("over_content", ["1 row", "6 characters", "3 rows"]),
        ("over_key", ["21 characters", "21 characters"]),
        ("group.store", ["1 row", "6 characters", "3 rows"]),
    ],
)
def test_content_is_shown_by_its_size(
    stored: Run, airflow_home: AirflowHome, task_id: str, sizes: list[str]
) -> None:
    """Rendered Templates has no more than that of a table."""
    fields = rendered_fields(airflow_home, "operators_store", task_id)
    assert [each["content"] for each in fields] == sizes
    assert "1 / 0" not in json.dumps(fields)


def test_queries_are_mapped(stored: Run, runner: Runner, airflow_home: AirflowHome, nodes: Nodes) -> None:
    """A dict, a string, and a file."""
    run = runner.run("operators_query")
    assert [task.result for task in run.mapped("ask")] == [
        [{"n": 0, "text": "{{ 1 / 0 }}"}],
        [{"n": n, "text": "{{ 1 / 0 }}"} for n in range(2)],
        [{"count": 20_000}],
    ]
    assert [task.xcoms["unsliced_length"] for task in run.mapped("ask")] == [20_000, 2, 1]
    assert [fields["query"] for fields in rendered_fields(airflow_home, "operators_query", "ask")] == [
        {"limit": 1},
        '{"where": ["<", "n", 2]}',
        # Airflow 2.11 shows what it rendered before the task ran, and has nothing that changes it afterwards.
        "count.json" if AIRFLOW_2 else '{"select": [["count"]]}',
    ]


def test_keys_are_mapped_or_from_a_task(
    stored: Run, runner: Runner, airflow_home: AirflowHome, nodes: Nodes
) -> None:
    run = runner.run("operators_delete")
    assert list(run["of_mapped"].result) == ["both_0", "both_1"]
    (fields,) = rendered_fields(airflow_home, "operators_delete", "of_mapped")
    assert fields["keys"] == ["both_0", "both_1"]
    assert run["listed"].result == {key: dict.fromkeys(nodes.urls, "confirmed") for key in ("rows", "text")}
    assert [list(task.result) for task in run.mapped("mapped")] == [["key_0"], ["key_1"]]
    assert [key for key in ("rows", "text", "key_0", "key_1") if nodes.holding(key)] == []


def test_nothing_from_a_task_fails_for_good_by_the_argument_s_name(runner: Runner, nodes: Nodes) -> None:
    """There is a retry, and it is not used."""
    run = runner.run("operators_nothing")
    for name in ("key", "query", "content"):
        assert (run[name].state, len(run[name].logs)) == ("failed", 1), run[name].log[-3000:]
        assert f"ValueError: {name}: " in run[name].log
        assert "rendered to " in run[name].log
    good, bad = run.mapped("mapped")
    assert good.state == "success"
    assert (bad.state, len(bad.logs)) == ("failed", 1)
    assert "InvalidArgument: key='a b'" in bad.log
