"""Airflow's own pages for a look with one's own eyes: three dev nodes, the connection and the example DAGs.

It runs `airflow standalone` with everything it needs in a temporary AIRFLOW_HOME, on loopback, without a login,
and prints its address. Ctrl-C ends every process and removes the directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path
from socket import socket
from typing import Self

import psutil

from airflow_provider_qcache.devnode import LocalCluster

ROOT = Path(__file__).resolve().parent.parent

CONNECTION = "qcache_default"

# Airflow is up in half a minute on two idle cores.
START_TIMEOUT = 300.0
END_TIMEOUT = 5.0

# `airflow standalone` starts its parts as `airflow PART`. Two of them would open log servers on every interface,
# which nothing here needs: the pages read the logs from the disk.
AIRFLOW = """#!/bin/sh
case $1 in
scheduler | triggerer) set -- "$@" --skip-serve-logs ;;
esac
exec {python} -m airflow "$@"
"""

START = 'airflow db migrate && airflow connections add "$1" --conn-json "$2" && exec airflow standalone'

# What Airflow 2.11 has instead of a setting: whoever comes may do everything.
NO_LOGIN = """AUTH_ROLE_PUBLIC = "Admin"
WTF_CSRF_ENABLED = True
"""


class Failed(Exception):
    """Airflow did not start, or has ended."""


class Airflow:
    """`airflow standalone` in a directory of its own: `with Airflow(interrupted) as airflow`."""

    def __init__(self, interrupted: threading.Event) -> None:
        self._interrupted = interrupted
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.home = Path(tempfile.mkdtemp(prefix="qcache-ui-"))
        self._log = self.home / "standalone.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What Airflow's processes get; no setting of another Airflow of the user's is among it."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
        return inherited | {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "example_dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.address}/execution/",
            "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
            "AIRFLOW__API__BASE_URL": self.address,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__WEBSERVER__BASE_URL": self.address,
            "AIRFLOW__WEBSERVER__WEB_SERVER_HOST": "127.0.0.1",
            "AIRFLOW__WEBSERVER__WEB_SERVER_PORT": str(self.port),
            "AIRFLOW__WEBSERVER__WORKERS": "1",
            "PATH": os.pathsep.join([str(self.home / "bin"), os.environ.get("PATH", os.defpath)]),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "PYTHONUNBUFFERED": "1",
        }

    def start(self, nodes: list[str]) -> bool:
        """Start it with a connection to these nodes and wait until it is up; False where interrupted before."""
        command = self.home / "bin" / "airflow"
        command.parent.mkdir()
        command.write_text(AIRFLOW.replace("{python}", shlex.quote(sys.executable)))
        command.chmod(0o755)
        (self.home / "webserver_config.py").write_text(NO_LOGIN)
        connection = {"conn_type": "qcache", "description": "Three dev nodes", "port": 8888, "extra": {"nodes": nodes}}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", START, "ui", CONNECTION, json.dumps(connection)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                cwd=self.home,
                start_new_session=True,  # Ctrl-C in a terminal is for us alone to hear: we end the processes
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._is_up():
            if time.monotonic() > deadline:
                raise Failed(f"Airflow was not up within {START_TIMEOUT:g} s; it said\n{self._last_words()}")
            if not self._lives_for(0.3):
                return False
        return True

    def wait(self) -> None:
        """Wait until interrupted."""
        while self._lives_for(1):
            pass

    def _lives_for(self, seconds: float) -> bool:
        """Wait; False where interrupted meanwhile."""
        if self._interrupted.wait(seconds):
            return False
        if self._process.poll() is not None:
            raise Failed(f"Airflow has ended by itself; it said\n{self._last_words()}")
        return True

    def _is_up(self) -> bool:
        """Whether the pages are served and the scheduler lives: 3.x and 2.11 tell it at addresses of their own."""
        for path in ("/api/v2/monitor/health", "/health"):
            with (
                contextlib.suppress(OSError, ValueError),
                urllib.request.urlopen(self.address + path, timeout=5) as answer,
            ):
                return json.load(answer)["scheduler"]["status"] == "healthy"
        return False

    def _last_words(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])

    def end(self) -> None:
        """End every process and remove the directory."""
        if self._process is not None:
            family = self._family()
            os.killpg(self._process.pid, signal.SIGINT)  # as a terminal's Ctrl-C would
            psutil.wait_procs(family, timeout=END_TIMEOUT)
            while family := {process for process in family | self._family() if process.is_running()}:
                for process in family:
                    process.kill()
                psutil.wait_procs(family, timeout=1)
            self._process.wait()
        shutil.rmtree(self.home, ignore_errors=True)

    def _family(self) -> set[psutil.Process]:
        """The processes of the session, and those below them that have one of their own, as BashOperator's do."""
        family = set()
        for process in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                if os.getsid(process.pid) == self._process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    family |= {process, *process.children(recursive=True)}
        return family

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()


def free_port() -> int:
    """A port that was free on loopback a moment ago."""
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> int:
    """Show it until interrupted."""
    interrupted = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: interrupted.set())
    try:
        with LocalCluster(nodes=3) as cluster, Airflow(interrupted) as airflow:
            print(f"Three dev nodes are up: {', '.join(cluster.node_list)}", flush=True)
            print(
                f"Airflow {version('apache-airflow')} is starting, which takes about half a minute ...",
                flush=True,
            )
            if airflow.start(cluster.node_list):
                print(f"Airflow is up, without a login: {airflow.address}", flush=True)
                print(f"The connection {CONNECTION}: {airflow.address}/connections", flush=True)
                print(f"Its AIRFLOW_HOME: {airflow.home}", flush=True)
                print("Ctrl-C ends Airflow and the nodes, and removes what they made.", flush=True)
                airflow.wait()
    except Failed as error:
        print(f"make ui: {error}", file=sys.stderr)
        return 1
    print("Airflow and the nodes have ended.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
