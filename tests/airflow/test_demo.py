"""The demo: it does what it says, and leaves nothing behind, whenever it is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.harness.nodes import Nodes
from tests.harness.servers import ROOT

TIMEOUT = 480
"""Seconds after which it hangs: it starts two Airflows, one with all its parts."""


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


@pytest.mark.timeout(TIMEOUT + 60)
def test_shows_what_it_claims(tmp_path: Path) -> None:
    """Whole, on nodes of its own."""
    with demo(tmp_path, []) as process:
        message, _ = process.communicate(timeout=TIMEOUT)

    assert process.returncode == 0, message
    assert "336,776 flights" in message
    assert "EWR - CAE       94                   44.6" in message, "as SQL on the file of flights gives it"
    assert "20 keys on 3 nodes: 60 confirmed" in message
    assert "no table on any of 3 nodes" in message
    assert "the same answer, from the fallback node" in message
    assert "none of them is killed" not in message
    assert "deferred, and done when the table was stored" in message
    assert "as qcache-client sees it" in message
    assert "the event that started the DAG: the node" in message
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("on", ["its own nodes", "existing nodes"])
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, nodes: Nodes, on: str) -> None:
    """No process and no file; on existing nodes, which go on without the demo, no table either."""
    on_existing_nodes = on == "existing nodes"
    with demo(tmp_path, nodes.urls if on_existing_nodes else []) as process:
        assert process.stdout is not None
        message = ""
        while ("warm: " if on_existing_nodes else "load: ") not in message:
            line = process.stdout.readline()
            assert line, message
            message += line
        assert ("none of them is killed" in message) == on_existing_nodes
        deadline = time.monotonic() + TIMEOUT
        while on_existing_nodes and not nodes.holding("qcache_demo_flights"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert left_behind(tmp_path), "there is something to leave behind"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
        message, _ = process.communicate(timeout=60)

    assert process.returncode == 130, message
    assert "Nothing is left running." in message
    assert left_behind(tmp_path) == []
    assert nodes.holding("qcache_demo_flights") == []
