"""SqlToQCacheOperator as a task of a real Airflow."""

from __future__ import annotations

import json

import pytest

from scripts.airflow_runs import Run, Runner
from tests.harness.nodes import Nodes


@pytest.fixture(scope="module")
def done(runner: Runner, session_nodes: Nodes) -> Run:
    session_nodes.all_up()
    return runner.run("sql")


def rows_under(nodes: Nodes, key: str) -> list[dict[str, object]]:
    (holder,) = nodes.holding(key)
    rows: list[dict[str, object]] = json.loads(nodes.ask(nodes.urls.index(holder), "GET", key).body)
    return rows


def test_a_file_and_partitions(done: Run, nodes: Nodes) -> None:
    task = done["by_file"]
    assert task.state == "success", task.log[-3000:]
    assert {name: task.result[name] for name in ("stored", "rows")} == {"stored": 6, "rows": 6}
    for region in "ns":
        for day in (1, 2, 3):
            expected = {"region": region, "day": f"2024-05-0{day}", "zip": "00501", "amount": day / 2}
            assert rows_under(nodes, f"sales_{region}_2024-05-0{day}") == [expected]
        assert nodes.holding(f"sales_{region}_2024-05-04") == []
    assert "Read 6 rows from sql by a cursor into 6 tables" in task.log
    assert "Stored 6 tables: " in task.log


def test_a_parameter_of_another_task(done: Run, nodes: Nodes) -> None:
    assert done["by_parameter"].state == "success", done["by_parameter"].log[-3000:]
    assert [row["day"] for row in rows_under(nodes, "sales_one")] == ["2024-05-02"] * 2


def test_mapped(done: Run, nodes: Nodes) -> None:
    assert [task.state for task in done.mapped("mapped")] == ["success"] * 2
    assert rows_under(nodes, "sales_a") == rows_under(nodes, "sales_b") == [{"n": 10}]


def test_no_rows(done: Run) -> None:
    assert done["empty"].state == "skipped"


def test_what_no_retry_makes_better_fails_at_once(done: Run) -> None:
    assert done["bad_key"].state == "failed"
    assert len(done["bad_key"].logs) == 1
    assert "partition a='a.b': 'sales_a.b' is not a key of QCache" in done["bad_key"].log


def test_what_the_database_says_is_retried(done: Run) -> None:
    assert done["bad_sql"].state == "failed"
    assert len(done["bad_sql"].logs) == 2
    assert "no such table: nowhere" in done["bad_sql"].log
