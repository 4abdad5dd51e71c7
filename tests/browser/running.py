"""The Airflow of `make ui` or `make cluster`: what it prints, its REST API, and what it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from airflow.models.connection import Connection

from tests.harness.servers import ROOT

OLD = version("apache-airflow").startswith("2.")
API = "/api/v1" if OLD else "/api/v2"

PATIENCE = 90
"""Seconds that something may take on a machine that is busy with other things."""

PATIENCE_WITH_TASKS = 240
"""Seconds that Airflow may take to read DAGs and to run some."""

ENDED = ("success", "failed")

START = re.compile(r"is starting")
UP = re.compile(r"Ctrl-C ends")


class Ui:
    """A script, in a process group of its own, with an empty directory for temporary files."""

    def __init__(
        self, directory: Path, script: str = "ui.py", environment: Mapping[str, str] | None = None
    ) -> None:
        self.directory = directory
        self._script = f"scripts/{script}"
        self._environment = environment or {}
        self.output = ""
        self._process: subprocess.Popen[str] | None = None
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def start(self, until: re.Pattern[str] = UP) -> None:
        """Start it, and read what it prints until that pattern."""
        self.output = ""
        self._process = subprocess.Popen(
            [sys.executable, self._script],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "TMPDIR": str(self.directory),
                **self._environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )
        while not until.search(self.output):
            line = self._process.stdout.readline()
            assert line, f"it ended after it printed\n{self.output}"
            self.output += line

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def interrupt(self) -> int:
        """Ctrl-C, as a terminal sends it; the exit code, once it has ended."""
        os.killpg(self._process.pid, signal.SIGINT)
        rest, _ = self._process.communicate(timeout=PATIENCE)
        self.output += rest
        return self._process.returncode

    def close(self) -> None:
        """End it, if it runs, and whatever of it a Ctrl-C does not."""
        processes = self.processes()
        if self.is_running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.interrupt()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()

    def processes(self) -> list[psutil.Process]:
        """Its processes: those below it, and those that have its directory in their environment."""
        found = set(psutil.Process(self._process.pid).children(recursive=True)) if self.is_running else set()
        for process in psutil.process_iter():
            try:
                if str(self.directory) in process.environ().get("TMPDIR", ""):
                    found.add(process)
            except psutil.Error:
                continue
        return sorted(found, key=lambda process: process.pid)

    def link(self, beginning: str) -> str:
        """The address in the line that begins so."""
        return re.search(rf"^{beginning}.*?(http\S+)$", self.output, re.MULTILINE)[1]

    @property
    def address(self) -> str:
        return self.link("Airflow is up")

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """An answer of Airflow's REST API."""
        request = urllib.request.Request(
            self.address + API + path,
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method=method,
        )
        with self._opener.open(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    def wait_for(self, path: str, holds: Callable[[Any], Any]) -> Any:
        """What ``holds`` finds in the answer of Airflow's REST API, once it finds something."""
        deadline = time.monotonic() + PATIENCE_WITH_TASKS
        while not (found := holds(answer := self.ask(path))):
            assert time.monotonic() < deadline, f"{path} still answers {answer}"
            time.sleep(0.3)
        return found

    def finished_run(self, dag: str) -> str:
        """The id of a new run of a DAG, which has succeeded."""
        self.ask(f"/dags/{dag}", {"is_paused": False}, "PATCH")
        run: str = self.ask(f"/dags/{dag}/dagRuns", {} if OLD else {"logical_date": None})["dag_run_id"]
        path = f"/dags/{dag}/dagRuns/{run}"
        state = self.wait_for(path, lambda answer: answer["state"] in ENDED and answer["state"])
        assert state == "success"
        return run

    @property
    def nodes(self) -> list[str]:
        """The nodes that `make ui` has started."""
        return re.search(r"^Three dev nodes are up: (.*)$", self.output, re.MULTILINE)[1].split(", ")

    def stored(self, conn_id: str, password: str | None = None) -> tuple[Connection, dict[str, Any]]:
        """A connection as Airflow stores it, with its extra; the API does not tell the password."""
        saved = self.ask(f"/connections/{conn_id}")
        assert saved["conn_type"] == "qcache"
        fields = {name: saved[name] for name in ("conn_type", "host", "schema", "login", "port", "extra")}
        extra = json.loads(saved["extra"] or "{}")
        return Connection(conn_id=conn_id, password=password, **fields), extra
