"""`make ui`: Airflow with nodes, connection and examples, whose scheduled tasks send metrics and spans.

After Ctrl-C nothing of it is left.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.browser.running import OLD, START, Ui
from tests.harness.servers import ROOT
from tests.harness.telemetry import Span, Telemetry

# 2.11 takes seconds for each task: that one has a single task.
EXAMPLE = "qcache_scheduled_invalidation" if OLD else "qcache_many_tables"


@pytest.fixture(scope="module")
def done(session_ui: Ui) -> str:
    """The id of a run of the example, which the scheduler has started."""
    if not session_ui.is_running:
        session_ui.start()
    examples = {file.name for file in (ROOT / "example_dags").glob("*.py")}
    # Airflow reads them one after the other, once it is up.
    session_ui.wait_for(
        "/dags", lambda answer: {Path(dag["fileloc"]).name for dag in answer["dags"]} == examples
    )
    return session_ui.finished_run(EXAMPLE)


def test_an_example_runs_on_its_nodes(ui: Ui, done: str) -> None:
    """On the connection and the pool that it needs."""
    assert done
    assert ui.ask("/pools/qcache")["slots"] == 3


@pytest.mark.usefixtures("done")
def test_its_metrics_arrive(telemetry: Telemetry) -> None:
    """From the processes in which the executor ran its tasks."""
    deletes = "airflow.qcache.delete.duration,conn_id=qcache_default,operator=QCacheDeleteOperator:"
    telemetry.wait_until(
        "the delete", lambda received: any(line.startswith(deletes) for line in received.metrics)
    )
    if OLD:
        return
    stored = re.compile(
        r"airflow\.qcache\.store\.rows,"
        r"(?=.*\bconn_id=qcache_default\b)(?=.*\boperator=QCachePostOperator\b)(?=.*\bnode=127\.0\.0\.1_\d+)"
        r"[^:]*:(\d+)\|c"
    )
    rows = [int(match[1]) for line in telemetry.metrics if (match := stored.fullmatch(line))]
    # Other tests have Airflow run more of the examples.
    assert Counter(rows) >= Counter([1, 2, 2]), telemetry.metrics


if not OLD:  # Airflow before 3.2 sets no tracer provider in a task's process

    def test_its_spans_are_below_those_of_its_tasks(ui: Ui, telemetry: Telemetry, done: str) -> None:
        """They arrive in a collector of OpenTelemetry, with what they tell of the table."""

        def ours(received: Telemetry) -> dict[str, list[Span]]:
            """The spans of this package, by the task that the span above each is of."""
            tasks = {
                span.span_id: span.name
                for span in received.spans
                if span.attributes.get("airflow.dag_run.run_id") == done and span.name.startswith("worker.")
            }
            found: dict[str, list[Span]] = {}
            for span in received.spans:
                if span.parent_id in tasks:
                    found.setdefault(tasks[span.parent_id], []).append(span)
            return found

        names = {f"worker.warm[{index}]" for index in range(3)} | {"worker.invalidate_closed"}
        telemetry.wait_until("the spans of every task", lambda received: names <= ours(received).keys())
        found = ours(telemetry)
        (delete,) = found["worker.invalidate_closed"]
        assert delete.name == "qcache.delete_many"
        rows = {}
        for index in range(3):
            (store,) = found[f"worker.warm[{index}]"]
            assert store.name == "qcache.post"
            assert store.attributes["qcache.conn_id"] == "qcache_default"
            assert store.attributes["qcache.node"] in ui.nodes
            rows[store.attributes["qcache.key"]] = store.attributes["qcache.rows"]
        assert rows == {"sales_north": 2, "sales_south": 2, "sales_west": 1}


def test_ctrl_c_leaves_nothing(ui: Ui) -> None:
    """The last test of the session's Airflow, since the next one would start it again."""
    processes = ui.processes()
    assert len(processes) > 8, "three nodes, and the parts of Airflow"
    assert listening_elsewhere_than_on_loopback(processes) == []
    assert ui.interrupt() == 0
    assert "Airflow and the nodes have ended." in ui.output
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
