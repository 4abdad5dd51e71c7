"""The demo: it does what it says, and leaves nothing behind, whenever it is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import psutil

from tests.airflow.nodes import Nodes
from tests.servers import ROOT

ON_NODES_OF_ITS_OWN = not version("apache-airflow").startswith("2.")
TIMEOUT = 240


@contextmanager
def demo(tmp_path: Path, nodes: list[str]) -> Iterator[subprocess.Popen[str]]:
    """The demo, in a process group of its own, with an empty directory for temporary files."""
    files = tmp_path / "tmp"
    files.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "QCACHE_NODES": " ".join(nodes),
        "TMPDIR": str(files),
    }
    process = subprocess.Popen(
        [sys.executable, "scripts/demo.py"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def left_behind(tmp_path: Path) -> list[str]:
    """Processes that have the directory in their environment, and files in it."""
    mark = str(tmp_path)
    found = []
    for process in psutil.process_iter():
        try:
            if mark in process.environ().get("TMPDIR", ""):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found + [str(path) for path in (tmp_path / "tmp").rglob("*")]


def test_shows_what_it_claims(tmp_path: Path, nodes: Nodes) -> None:
    """Whole, on nodes of its own with Airflow 3.3, on nodes that are given with 2.11."""
    with demo(tmp_path, [] if ON_NODES_OF_ITS_OWN else nodes.urls) as process:
        said, _ = process.communicate(timeout=TIMEOUT)

    assert process.returncode == 0, said
    assert "336,776 flights" in said
    assert "EWR - CAE       94                   44.6" in said, "as SQL on the file of flights gives it"
    assert "20 keys on 3 nodes: 60 confirmed" in said
    assert "no table on any of 3 nodes" in said
    assert ("the same answer, from the standby" in said) == ON_NODES_OF_ITS_OWN
    assert ("none of them is killed" in said) != ON_NODES_OF_ITS_OWN
    assert left_behind(tmp_path) == []


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    """Whatever it is at, it ends in a few seconds, with the nodes, Airflow and every file."""
    with demo(tmp_path, []) as process:
        assert process.stdout is not None
        said = ""
        while "load: " not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        time.sleep(1)  # somewhere in the middle of it
        assert left_behind(tmp_path)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
        said, _ = process.communicate(timeout=30)

    assert process.returncode == 130, said
    assert "Nothing is left running." in said
    assert left_behind(tmp_path) == []


def test_ctrl_c_leaves_no_table_on_nodes_that_were_given(tmp_path: Path, nodes: Nodes) -> None:
    """They go on without the demo, and without its tables."""
    with demo(tmp_path, nodes.urls) as process:
        deadline = time.monotonic() + TIMEOUT
        while not nodes.holding("qcache_demo_flights"):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)

    assert process.returncode == 130, said
    assert nodes.holding("qcache_demo_flights") == []
    assert left_behind(tmp_path) == []
