"""What a task does about each misfortune, read from its state, its tries and its log.

Every task has one retry: what may be gone at the next try is tried twice, what can never succeed once.
"""

from __future__ import annotations

import base64
import signal
import time

import pytest

from airflow_provider_qcache.compat import BaseOperator
from scripts.airflow_runs import AirflowHome, Runner, Task
from tests.airflow.conftest import PASSWORD, WRONG_PASSWORD
from tests.harness.nodes import Nodes

OLD_TABLE = b"a,b\n1,old\n2,old\n"
KEY = "orders"


@pytest.fixture
def home(runner: Runner, nodes: Nodes) -> int:
    """The number of the node that has the key, with the old table on it and on no other."""
    assert done(runner, "store_patient").state == "success"
    found = nodes.urls.index(nodes.holding(KEY)[0])
    assert nodes.ask(found, "POST", KEY, OLD_TABLE).status == 201
    return found


def done(runner: Runner, dag_id: str) -> Task:
    """The only task of a DAG, after a run."""
    return runner.run(dag_id)["task"]


def succeeds_at_once(task: Task) -> None:
    """One try, which succeeds."""
    assert (task.state, len(task.logs)) == ("success", 1), task.log[-4000:]


def fails_for_good(task: Task, error: str) -> None:
    """One try, in spite of the retry there would be, and the error by its name in the log."""
    assert (task.state, len(task.logs)) == ("failed", 1), task.log[-4000:]
    assert "AirflowFailException" in task.log
    assert error in task.log


def is_retried(task: Task, error: str) -> None:
    """Two tries, the error by its name in the log of each."""
    assert (task.state, len(task.logs)) == ("failed", 2), task.log[-4000:]
    assert all(error in log for log in task.logs)
    assert "AirflowFailException" not in task.log


class TestADeadNode:
    def test_a_store_goes_to_the_next_node(self, runner: Runner, nodes: Nodes, home: int) -> None:
        """The task succeeds and warns that the table is not at home."""
        nodes.kill(home)
        task = done(runner, "store_patient")
        succeeds_at_once(task)
        assert task.result["failed_over"]
        assert task.result["home_node"] == nodes.urls[home]
        assert "connection refused" in task.log

    def test_a_query_finds_nothing_elsewhere_and_is_tried_again(
        self, runner: Runner, nodes: Nodes, home: int
    ) -> None:
        """Its process is gone and the table with it: that is a miss, and the next load may fill it."""
        nodes.kill(home)
        is_retried(done(runner, "query_patient"), "TableMissing")

    def test_a_delete_counts_it_as_gone(self, runner: Runner, nodes: Nodes, home: int) -> None:
        """What it held is gone with it."""
        nodes.kill(home)
        task = done(runner, "delete_patient")
        succeeds_at_once(task)
        assert task.result[KEY][nodes.urls[home]] == "gone"

    @pytest.mark.parametrize("operation", ["query", "store"])
    def test_where_all_are_dead_the_task_waits_until_its_deadline_and_is_tried_again(
        self, runner: Runner, nodes: Nodes, operation: str
    ) -> None:
        """No node is left: a transient error that names them."""
        for i in range(3):
            nodes.kill(i)
        task = done(runner, f"{operation}_hasty")
        is_retried(task, "NoCacheAvailable")
        # On 3.3 the operators' own policy was asked.
        assert ("a node does not answer" in task.log) == hasattr(BaseOperator, "has_retry_policy")
        assert all(url in task.log for url in nodes.urls)


class TestAHungNode:
    def test_a_query_is_not_answered_by_a_miss_of_another_node(
        self, runner: Runner, nodes: Nodes, home: int
    ) -> None:
        """The silent node may have the table."""
        nodes.pause(home)
        is_retried(done(runner, "query_patient"), "HomeNodeUnavailable")

    def test_a_store_is_sent_to_no_other_node(self, runner: Runner, nodes: Nodes, home: int) -> None:
        """It may be busy with this very table."""
        nodes.pause(home)
        is_retried(done(runner, "store_hasty"), "StoreUncertain")
        nodes.all_up()
        assert set(nodes.holding(KEY)) <= {nodes.urls[home]}

    def test_a_delete_that_does_not_reach_it_is_tried_again(
        self, runner: Runner, nodes: Nodes, home: int
    ) -> None:
        """The node may still have the table; the others deleted it."""
        nodes.pause(home)
        is_retried(done(runner, "delete_hasty"), "NodesUnreachable")


class TestABusyNode:
    def test_a_store_waits_until_the_node_has_time(self, runner: Runner, nodes: Nodes, home: int) -> None:
        """Longer than a read timeout, and stored there after all, in the first try."""
        nodes.pause(home)
        runner.begin("store_patient")
        nodes.wait_until_connected(home, runner.process.pid)
        time.sleep(2)  # two read timeouts
        nodes.resume(home)
        task = runner.finish()["task"]
        succeeds_at_once(task)
        assert task.result["node"] == nodes.urls[home]
        assert nodes.holding(KEY) == [nodes.urls[home]]


class TestWhatCanNeverSucceed:
    @pytest.mark.usefixtures("home")
    def test_a_malformed_query(self, runner: Runner) -> None:
        """The node refuses it, and would again."""
        fails_for_good(done(runner, "malformed_query"), "MalformedQueryException")

    def test_an_invalid_table_in_the_dag(self, runner: Runner, nodes: Nodes, home: int) -> None:
        """It is refused before the node can act on it: the old table stays."""
        fails_for_good(done(runner, "invalid_literal"), "InvalidTable")
        assert b"old" in nodes.ask(home, "GET", KEY).body

    def test_a_result_of_the_hook_in_xcom(self, runner: Runner) -> None:
        """It has two retries, and the first try says what to return instead."""
        task = done(runner, "returns_a_result")
        assert (task.state, task.retries, len(task.logs)) == ("failed", 2, 1), task.log[-4000:]
        assert "StoreResult cannot be passed to other tasks by XCom: return its as_dict()" in task.log

    @pytest.mark.parametrize("operation", ["query", "store", "delete"])
    def test_a_wrong_password(self, runner: Runner, operation: str) -> None:
        """No retry makes it right; neither password is shown."""
        task = done(runner, f"{operation}_wrong_password")
        fails_for_good(task, "AuthenticationFailed")
        assert WRONG_PASSWORD not in runner.printed()

    @pytest.mark.parametrize("operation", ["query", "store", "delete"])
    def test_a_certificate_of_an_unknown_authority(self, runner: Runner, operation: str) -> None:
        """It says what to check instead of claiming that no node is there."""
        task = done(runner, f"{operation}_unknown_ca")
        fails_for_good(task, "CertificateRejected")
        assert PASSWORD not in runner.printed()


def test_an_invalid_table_of_a_function_is_tried_again(runner: Runner, nodes: Nodes, home: int) -> None:
    """It may be whole at the next try; until then the old table stays."""
    is_retried(done(runner, "invalid_result"), "InvalidTable")
    assert b"old" in nodes.ask(home, "GET", KEY).body


def test_the_right_password_and_authority(runner: Runner) -> None:
    """The same nodes are content with them: what fails above fails for its own reason."""
    for operation in ("store", "query", "delete"):
        succeeds_at_once(done(runner, f"{operation}_right"))


def test_no_password_is_in_any_file_of_airflow(runner: Runner, airflow_home: AirflowHome) -> None:
    """Logs, and the database with its XComs and rendered fields, after runs that used both passwords."""
    for connection in ("right", "wrong_password", "unknown_ca"):
        done(runner, f"store_{connection}")
    files = {file: file.read_bytes() for file in airflow_home.path.rglob("*") if file.is_file()}
    assert any(b"store_wrong_password" in held for held in files.values())
    assert any(file.name.startswith("airflow.db") and b"store_right" in held for file, held in files.items())
    for password in (PASSWORD, WRONG_PASSWORD):
        spellings = (password.encode(), base64.b64encode(f"airflow:{password}".encode()))
        assert [file for file, held in files.items() if any(word in held for word in spellings)] == []


class TestATaskThatIsEnded:
    """A store to nodes that are all silent, and that would go on for a minute at least."""

    def test_by_a_signal(self, runner: Runner, nodes: Nodes, home: int) -> None:
        """SIGTERM, with which Airflow ends a task, ends the request."""
        for i in range(3):
            nodes.pause(i)
        runner.begin("store_killed")
        nodes.wait_until_connected(home, runner.process.pid)
        began = time.monotonic()
        runner.process.send_signal(signal.SIGTERM)
        task = runner.finish()["task"]
        assert task.state == "failed"
        assert time.monotonic() - began < 10

    def test_by_its_timeout(self, runner: Runner, nodes: Nodes) -> None:
        """``execution_timeout`` ends the request."""
        for i in range(3):
            nodes.pause(i)
        began = time.monotonic()
        task = done(runner, "store_timed_out")
        assert task.state == "failed"
        assert "AirflowTaskTimeout" in task.log
        assert time.monotonic() - began < 20
