"""Many tables in one task of a real Airflow: its tries, and what is kept between them."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import airflow
import pytest

from airflow_provider_qcache.client import QClient
from scripts.airflow_runs import AirflowHome, Runner, Task
from tests.airflow.conftest import connection
from tests.airflow.readers import Reader
from tests.harness.nodes import Nodes

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


def wait_for(pattern: str, runner: Runner) -> None:
    """Wait until the run has logged this."""
    deadline = time.monotonic() + 200
    while not re.search(pattern, runner.printed()):
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


def on_airflow_3(test: Callable[..., None]) -> Callable[..., None] | None:
    """No test on 2.11, which keeps nothing of a task that was killed."""
    return None if AIRFLOW_2 else test


@on_airflow_3
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


@pytest.fixture
def empty(nodes: Nodes) -> Nodes:
    """Nodes without a table, each started anew: what a test misses nothing older hides."""
    for i in range(3):
        nodes.kill(i)
    return nodes.all_up()


@pytest.fixture
def go_on(tmp_path: Path) -> Iterator[Path]:
    """The file that a task waits for in the middle; a test that fails does not leave it waiting."""
    file = tmp_path / "go_on"
    yield file
    file.touch()


def is_lost_and_stored_by_the_retry(task: Task, tables: int, pattern: str) -> int:
    """The first try says how many were lost, the second stores at least those; gives how many."""
    assert (task.state, len(task.logs)) == ("success", 2), task.log[-4000:]
    text = re.search(pattern, task.logs[0])
    assert "TablesEvicted" in task.logs[0]
    assert text is not None, task.logs[0][-4000:]
    lost = int(text[1].replace(",", ""))
    done = task.result
    assert done["stored"] + done["were_there"] == tables
    assert {name: done[name] for name in ("failed", "evicted", "lost")} == {
        "failed": 0,
        "evicted": 0,
        "lost": 0,
    }
    assert done["stored"] == (tables if AIRFLOW_2 else lost)
    return lost


def test_what_a_killed_node_had_is_stored_by_the_retry(runner: Runner, empty: Nodes, go_on: Path) -> None:
    """On the next node, where readers look while it is down."""
    runner.begin("many_tables_lost", conf={"go_on": str(go_on)})
    wait_for("Stored 60 tables", runner)
    there = [f"many_{n}" for n in range(60) if empty.ask(0, "GET", f"many_{n}").status == 200]
    empty.kill(0)
    go_on.touch()
    task = runner.finish()["store"]

    lost = is_lost_and_stored_by_the_retry(task, 90, r"TablesEvicted: (\d+) tables could not be checked: ")
    assert lost == len(there) > 0
    assert f"could not be checked: {empty.urls[0]} went down" in task.logs[0]
    assert task.result["failed_over"] >= lost
    reader = Reader(empty)
    for n in range(90):
        assert reader.rows(f"many_{n}") == [{"part": n, "n": n, "text": f"of {n}"}]


def test_what_a_restarted_node_had_is_stored_by_the_retry(runner: Runner, empty: Nodes, go_on: Path) -> None:
    """On itself; tables that it received since then are left."""
    runner.begin("many_tables_lost", conf={"go_on": str(go_on)})
    wait_for("Stored 60 tables", runner)
    there = [f"many_{n}" for n in range(60) if empty.ask(0, "GET", f"many_{n}").status == 200]
    empty.kill(0)
    empty.all_up()
    go_on.touch()
    task = runner.finish()["store"]

    lost = is_lost_and_stored_by_the_retry(task, 90, r"TablesEvicted: (\d+) tables evicted by their nodes")
    assert lost == len(there) > 0
    assert f"{empty.urls[0]} lacks {lost} of its " in task.logs[0]
    reader = Reader(empty)
    for n in range(90):
        assert reader.rows(f"many_{n}") == [{"part": n, "n": n, "text": f"of {n}"}]
    assert all(empty.holding(key) == [empty.urls[0]] for key in there)


def test_a_node_is_killed_while_partitions_are_stored(runner: Runner, empty: Nodes) -> None:
    """In the middle of a store, or between two."""
    runner.begin("many_partitions_lost")
    wait_for(r"Stored [1-9][\d,]* of 900 tables", runner)
    empty.kill(1)
    task = runner.finish()["store"]

    lost = is_lost_and_stored_by_the_retry(
        task, 900, r"TablesEvicted: ([\d,]+) tables could not be checked: "
    )
    assert 0 < lost < 900
    assert f"could not be checked: {empty.urls[1]} went down" in task.logs[0]
    assert set(task.result["nodes"]) <= {empty.urls[0], empty.urls[2]}
    reader = Reader(empty)
    for n in range(900):
        assert reader.has(f"many_{n}")
    for n in range(0, 900, 9):
        rows = [{"part": n, "n": m, "text": f"of {m}"} for m in (n, n + 900)]
        assert reader.rows(f"many_{n}") == rows
