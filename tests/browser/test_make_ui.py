"""`make ui`: Airflow with nodes, connection and examples, and nothing of it after Ctrl-C."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import psutil

from tests.browser.shown import OLD, START, Ui
from tests.harness.servers import ROOT

TIMEOUT = 240.0

# 2.11 takes seconds for each task: that one has a single task.
EXAMPLE = "qcache_scheduled_invalidation" if OLD else "qcache_many_tables"


def test_an_example_runs_on_its_nodes(ui: Ui) -> None:
    """On the connection and the pool that it needs."""
    examples = {file.name for file in (ROOT / "example_dags").glob("*.py")}
    deadline = time.monotonic() + TIMEOUT
    # Airflow reads them one after the other, once it is up.
    while (shown := {Path(dag["fileloc"]).name for dag in ui.ask("/dags")["dags"]}) != examples:
        assert time.monotonic() < deadline, shown
        time.sleep(0.5)
    assert ui.ask("/pools/qcache")["slots"] == 3
    ui.ask(f"/dags/{EXAMPLE}", {"is_paused": False}, "PATCH")
    run = ui.ask(f"/dags/{EXAMPLE}/dagRuns", {} if OLD else {"logical_date": None})
    deadline = time.monotonic() + TIMEOUT
    while run["state"] in ("queued", "running") and time.monotonic() < deadline:
        time.sleep(0.5)
        run = ui.ask(f"/dags/{EXAMPLE}/dagRuns/{run['dag_run_id']}")
    assert run["state"] == "success"


def test_ctrl_c_leaves_nothing(ui: Ui) -> None:
    processes = ui.processes()
    assert len(processes) > 8, "three nodes, and the parts of Airflow"
    assert listening_elsewhere_than_on_loopback(processes) == []
    assert ui.interrupt() == 0
    assert "Airflow and the nodes have ended." in ui.said
    assert left(ui, processes) == []


def test_ctrl_c_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    with contextlib.closing(Ui(tmp_path)) as ui:
        ui.start(until=START)
        time.sleep(2)  # somewhere in the middle of it
        processes = ui.processes()
        assert len(processes) > 3, "three nodes, and a part of Airflow"
        assert ui.interrupt() == 0
        assert left(ui, processes) == []


def listening_elsewhere_than_on_loopback(processes: list[psutil.Process]) -> list[Any]:
    """Addresses that other machines could reach."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [connection for connection in process.net_connections("tcp") if is_open(connection)]
    return found


def is_open(connection: Any) -> bool:
    return connection.status == psutil.CONN_LISTEN and not connection.laddr.ip.startswith("127.")


def left(ui: Ui, processes: list[psutil.Process]) -> list[str]:
    """Processes that are alive, and files."""
    alive = [str(process) for process in {*processes, *ui.processes()} if is_alive(process)]
    return alive + [str(path) for path in ui.directory.iterdir()]


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs or is stopped; a zombie does neither."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
