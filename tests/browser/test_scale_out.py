"""`make cluster`: CeleryExecutor with two workers, one of which is killed while it stores many tables."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from airflow_provider_qcache.client import QClient
from tests.airflow.readers import Reader
from tests.browser.running import Ui
from tests.browser.test_make_ui import left, listening_elsewhere_than_on_loopback
from tests.harness.needs import need_postgres, need_redis
from tests.harness.nodes import Nodes
from tests.harness.servers import ROOT

TIMEOUT = 200.0
TABLES = 5000
REGIONS = 6


@pytest.fixture
def cluster(nodes: Nodes) -> Iterator[Ui]:
    """The Airflow of `make cluster`, on the nodes of the tests."""
    need_postgres()
    need_redis()
    environment = {"QCACHE_NODES": " ".join(nodes.urls)}
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)  # root runs PostgreSQL as nobody, whom pytest's tmp_path keeps out
        with contextlib.closing(Ui(Path(directory), "cluster.py", environment)) as cluster:
            cluster.start()
            yield cluster


class Run:
    """A run of the DAG, as Airflow's REST API shows it."""

    def __init__(self, cluster: Ui) -> None:
        self._cluster = cluster
        self._path = f"/dags/scale_out/dagRuns/{self._begun()}"

    def _begun(self) -> str:
        begun: str = self._cluster.ask("/dags/scale_out/dagRuns", {"logical_date": None})["dag_run_id"]
        return begun

    @property
    def state(self) -> str:
        return self._cluster.ask(self._path)["state"]

    def tasks(self, task_id: str) -> list[dict[str, Any]]:
        """The instances of a task; one that is not mapped has one."""
        return self._cluster.ask(f"{self._path}/taskInstances?task_id={task_id}")["task_instances"]

    def log(self, task_id: str, number: int) -> str:
        """What a try of a task has logged so far."""
        text = self._cluster.ask(f"{self._path}/taskInstances/{task_id}/logs/{number}")
        return "\n".join(str(line["event"]) for line in text["content"])

    def result(self, task_id: str) -> dict[str, Any]:
        """What a task returned."""
        path = f"{self._path}/taskInstances/{task_id}/xcomEntries/return_value?deserialize=true"
        return self._cluster.ask(path)["value"]


def wait_until(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {TIMEOUT:g} s"
        time.sleep(0.2)


def kill_session(session: int) -> None:
    """Kill a worker and its tasks at once, as the loss of their machine does.

    A task has a process group of its own, and would go on without its worker.
    """
    family = [process for process in psutil.process_iter() if is_of(process, session)]
    assert len(family) > 3, "the worker, two processes of its pool, a task"
    for process in family:
        process.suspend()
    for process in family:
        process.kill()


def is_of(process: psutil.Process, session: int) -> bool:
    try:
        return os.getsid(process.pid) == session
    except ProcessLookupError:
        return False


def stores_of(nodes: Nodes) -> int:
    """How many stores the nodes have counted since they were last asked."""
    with QClient(nodes.urls, 5, 30, trust_env=False) as client:
        found = client.node_statistics().values()
    return sum(statistics.get("store_count", 0) for statistics in found if isinstance(statistics, dict))


def most_at_once(tasks: list[dict[str, Any]]) -> int:
    """How many of the tasks ran at the same time."""
    return max(
        sum(other["start_date"] <= task["start_date"] < other["end_date"] for other in tasks)
        for task in tasks
    )


def test_the_docs_show_the_dag_and_the_settings() -> None:
    """Those that the next test runs."""
    page = (ROOT / "docs" / "howto" / "scale-out.md").read_text()
    dag = (ROOT / "scripts" / "cluster_dags" / "scale_out.py").read_text()
    assert re.findall(r"```python\n(.*?)```", page, re.DOTALL) == [dag.partition("\n\n")[2]]
    script = (ROOT / "scripts" / "cluster.py").read_text()
    for name, setting in (
        ("HEARTBEAT_TIMEOUT", "task_instance_heartbeat_timeout"),
        ("VISIBILITY_TIMEOUT", "visibility_timeout"),
    ):
        seconds = re.search(rf"^{name} = (\d+)$", script, re.MULTILINE)
        assert seconds is not None
        assert re.search(rf"{setting}` \| [\d,]+ s \| {seconds[1]} s \|", page)


@pytest.mark.timeout(900)
def test_the_other_worker_finishes_what_a_killed_one_began(cluster: Ui, nodes: Nodes) -> None:
    """It stores those of thousands of tables that the killed worker had not stored."""
    sessions = re.findall(r"^To kill worker-\d: pkill -9 -s (\d+)$", cluster.output, re.MULTILINE)
    workers = {int(session) for session in sessions}
    assert len(workers) == 2
    processes = cluster.processes()
    assert listening_elsewhere_than_on_loopback(processes) == []

    stores_of(nodes)
    run = Run(cluster)

    def task() -> dict[str, Any]:
        return run.tasks("warm_customers")[0]

    wait_until(
        "the first tables are stored",
        lambda: task()["pid"] is not None and "Stored " in run.log("warm_customers", 1),
    )
    regions = run.tasks("warm_regions")
    assert [region["state"] for region in regions] == ["success"] * REGIONS
    assert most_at_once(regions) <= len(nodes.urls), "the slots of the pool"
    assert stores_of(nodes) < REGIONS + TABLES
    killed = os.getsid(task()["pid"])
    assert killed in workers
    kill_session(killed)

    def is_noticed() -> bool:
        stores_of(nodes)  # what was on its way when the worker was killed
        return task()["state"] != "running"

    wait_until("the scheduler notices", is_noticed)

    def is_tried_again() -> bool:
        found = task()
        ended = found["state"] in ("success", "failed")
        assert not ended, f"{found}\n{run.log('warm_customers', found['try_number'])}"
        return (found["state"], found["try_number"]) == ("running", 2)

    wait_until("the next try", is_tried_again)
    assert os.getsid(task()["pid"]) in workers - {killed}
    wait_until("the run ends", lambda: run.state in ("success", "failed"))
    assert run.state == "success", run.log("warm_customers", 2)

    result = run.result("warm_customers")
    assert result["were_there"] > 0
    assert result["stored"] == TABLES - result["were_there"]
    assert stores_of(nodes) == result["stored"]
    reader = Reader(nodes)
    assert [n for n in range(TABLES) if not reader.has(f"customer_{n}")] == []

    processes += cluster.processes()
    assert cluster.interrupt() == 0
    assert left(cluster, processes) == []
