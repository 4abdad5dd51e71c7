"""Many tables in one task of a real Airflow: its tries, and what is kept between them."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import airflow
import pytest

from airflow_provider_qcache.client import QClient
from scripts.airflow_runs import AirflowHome, Runner
from tests.airflow.conftest import connection
from tests.airflow.nodes import Nodes

AIRFLOW_2 = airflow.__version__.startswith("2.")
KEYS = [f"many_{n}" for n in range(60)]


def stores_of(nodes: Nodes) -> int:
    """How many stores the nodes have counted since they were last asked."""
    with QClient(nodes.urls, 5, 30, trust_env=False) as client:
        found = client.node_statistics().values()
    return sum(statistics.get("store_count", 0) for statistics in found if isinstance(statistics, dict))


def forget(nodes: Nodes) -> None:
    """Nothing is stored, and nothing counted."""
    with QClient(nodes.urls, 5, 30, trust_env=False) as client:
        client.delete_many(KEYS, all_nodes=True)
    stores_of(nodes)


def wait_for(text: str, runner: Runner) -> None:
    """Wait until the run has logged this."""
    deadline = time.monotonic() + 60
    while text not in runner.printed():
        assert time.monotonic() < deadline, runner.printed()[-3000:]
        assert runner.process.poll() is None, runner.printed()[-3000:]
        time.sleep(0.05)


def test_a_retry_does_what_is_left_where_airflow_can_keep_it(runner: Runner, nodes: Nodes) -> None:
    """On 2.11 it does everything again."""
    forget(nodes)
    run = runner.run("many_retried")
    task = run["store"]
    assert (run.state, len(task.logs)) == ("success", 2), task.log[-3000:]
    assert "many_0: InvalidTable" in task.logs[0]
    expected = (60, 0) if AIRFLOW_2 else (20, 40)
    assert (task.result["stored"], task.result["were_there"]) == expected
    assert stores_of(nodes) == 40 + expected[0]
    assert all(len(nodes.holding(key)) == 1 for key in KEYS)


def test_a_mapping_is_not_rendered(runner: Runner, nodes: Nodes) -> None:
    run = runner.run("many_given")
    assert run.state == "success", run["store"].log[-3000:]
    assert run["store"].result["stored"] == 2


@pytest.mark.skipif(AIRFLOW_2, reason="Airflow 2.11 keeps nothing of a task that was killed")
def test_after_a_kill_the_next_try_stores_what_is_left(
    airflow_home: AirflowHome, nodes: Nodes, tmp_path: Path
) -> None:
    forget(nodes)
    dags = tmp_path / "dags"
    dags.mkdir()
    shutil.copy(Path(__file__).parent / "dags" / "many.py", dags)
    environment = {"AIRFLOW_CONN_QCACHE_DEFAULT": connection(nodes.urls), "TMPDIR": str(tmp_path)}
    with airflow_home.runner(dags, environment) as runner:
        runner.begin("many_killed")
        wait_for("Stored 40 tables", runner)
    # That was SIGKILL, to the task and the process that ran it.
    assert stores_of(nodes) == 40
    (tmp_path / "go_on").touch()
    log = tmp_path / "next_try.log"
    script = str(Path(__file__).parent / "next_try.py")
    with airflow_home.start([script, "many_killed"], log, dags, environment) as process:
        process.wait(120)
    printed = log.read_text(errors="replace")
    assert "[NEXT TRY] try 2: success" in printed, printed[-3000:]
    assert stores_of(nodes) == 20
    assert all(len(nodes.holding(key)) == 1 for key in KEYS)
