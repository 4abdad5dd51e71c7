"""Task decorators and the branch, run by a real Airflow."""

from __future__ import annotations

import pytest

from scripts.airflow_runs import Run, Runner
from tests.harness.nodes import Nodes


@pytest.fixture(scope="module")
def run(runner: Runner, session_nodes: Nodes) -> Run:
    session_nodes.all_up()
    return runner.run("decorated")


def test_what_a_function_returns_is_stored(run: Run) -> None:
    """With an argument of the call, another task's result, and what it asks of the context by name."""
    assert run["warm"].state == "success", run["warm"].log[-3000:]
    result = run["warm"].result
    assert (result["key"], result["rows"]) == ("decorated_decorated", 2)


def test_the_query_that_a_function_returns_is_asked_mapped_too(run: Run) -> None:
    assert [task.result for task in run.mapped("of")] == [1, 0]


def test_a_branch_skips_the_tasks_that_are_not_chosen(run: Run) -> None:
    assert run["branch"].state == "success"
    assert (run["used"].state, run["forget"].state) == ("success", "skipped")
