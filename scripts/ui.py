"""Airflow's own pages for a look with one's own eyes: three dev nodes, the connection and the example DAGs.

It runs `airflow standalone` with everything it needs in a temporary AIRFLOW_HOME, on loopback, without a
login, and prints its address. Ctrl-C ends every process and removes the directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from socket import socket
from typing import Any, Self

import psutil

from airflow_provider_qcache.devnode import LocalCluster, NodeStartError

ROOT = Path(__file__).resolve().parent.parent

# Where this Airflow tells how it is, takes orders and shows connections.
RELEASE = version("apache-airflow")
OLD = RELEASE.startswith("2.")
HEALTH = "/health" if OLD else "/api/v2/monitor/health"
API = "/api/v1" if OLD else "/api/v2"
CONNECTIONS = "/connection/list/" if OLD else "/connections"

# What the caller may set: where metrics and spans go.
PASSED_ON = ("AIRFLOW__METRICS__", "AIRFLOW__TRACES__")

# On two idle cores Airflow takes half a minute, a node a second.
START_TIMEOUT = 300.0
ANSWER_TIMEOUT = 30.0
END_TIMEOUT = 10.0

# `airflow standalone` starts its parts as `airflow PART`. Two of them would open log servers on every
# interface, which nothing here needs: the pages read the logs from the disk.
AIRFLOW = """#!/bin/sh
case $1 in
scheduler | triggerer) set -- "$@" --skip-serve-logs ;;
esac
exec {python} -m airflow "$@"
"""

# What Airflow 2.11 has instead of a setting: whoever comes may do everything.
NO_LOGIN = """AUTH_ROLE_PUBLIC = "Admin"
WTF_CSRF_ENABLED = True
"""


class Failed(Exception):
    """Airflow did not start, or has ended."""


class Airflow:
    """`airflow standalone` in a directory of its own: `with Airflow(interrupted) as airflow`.

    Args:
        interrupted: Set when it is to end.
        dags: The folder of the DAGs.
        settings: Further variables of the environment.
    """

    def __init__(
        self,
        interrupted: threading.Event,
        dags: Path = ROOT / "example_dags",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._interrupted = interrupted
        self._dags = dags
        self._settings = settings or {}
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._may_end: set[str] = set()
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.home = Path()

    def __enter__(self) -> Self:
        self.home = Path(tempfile.mkdtemp(prefix="qcache-ui-"))
        return self

    def __exit__(self, *error: object) -> None:
        self._end()
        shutil.rmtree(self.home, ignore_errors=True)

    @property
    def environment(self) -> dict[str, str]:
        """What Airflow's processes get: of another Airflow's settings only those of metrics and traces."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("AIRFLOW") or name.startswith(PASSED_ON)
        }
        if OLD:
            server = {
                "AIRFLOW__WEBSERVER__WEB_SERVER_HOST": "127.0.0.1",
                "AIRFLOW__WEBSERVER__WEB_SERVER_PORT": str(self.port),
                "AIRFLOW__WEBSERVER__WEB_SERVER_MASTER_TIMEOUT": f"{START_TIMEOUT:g}",
                "AIRFLOW__WEBSERVER__BASE_URL": self.address,
                "AIRFLOW__WEBSERVER__WORKERS": "1",
            }
        else:
            server = {
                "AIRFLOW__API__HOST": "127.0.0.1",
                "AIRFLOW__API__PORT": str(self.port),
                "AIRFLOW__API__BASE_URL": self.address,
                "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.address}/execution/",
                "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            }
        return {
            **inherited,
            **server,
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self._dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "PATH": os.pathsep.join([str(self.home / "bin"), os.environ.get("PATH", os.defpath)]),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self.home / "tmp"),  # the examples write files there
            **self._settings,
        }

    def start(self) -> bool:
        """Start it; True once it is up, False where interrupted before."""
        (self.home / "tmp").mkdir()
        command = self.home / "bin" / "airflow"
        command.parent.mkdir()
        command.write_text(AIRFLOW.replace("{python}", shlex.quote(sys.executable)))
        command.chmod(0o755)
        (self.home / "webserver_config.py").write_text(NO_LOGIN)
        return self._launch() and self._wait_for("Airflow", self._is_up)

    def _launch(self) -> bool:
        """Start the processes; False where interrupted meanwhile."""
        # Readers do not block a writer then: on a busy machine Airflow's parts find the database locked.
        with contextlib.closing(sqlite3.connect(self.home / "airflow.db")) as database:
            database.execute("PRAGMA journal_mode=WAL")
        self._spawn("standalone", self._airflow, "standalone")
        return True

    @property
    def _airflow(self) -> str:
        return str(self.home / "bin" / "airflow")

    def _spawn(self, name: str, *command: str, may_end: bool = False) -> subprocess.Popen[bytes]:
        """Start a process, which writes to the log of this name."""
        with self._log(name).open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                cwd=self.home,
                start_new_session=True,  # Ctrl-C in a terminal is for us alone to hear: we end the processes
            )
        self._processes[name] = process
        self._may_end |= {name} if may_end else set()
        return process

    def _wait_for(self, what: str, holds: Callable[[], bool]) -> bool:
        """Wait until something holds; False where interrupted before."""
        deadline = time.monotonic() + START_TIMEOUT
        while not holds():
            if time.monotonic() > deadline:
                raise Failed(f"{what} was not up within {START_TIMEOUT:g} s; it said\n{self._last_words()}")
            if not self._lives_for(0.3):
                return False
        return True

    def connect(self, nodes: list[str]) -> None:
        """Make the connection to these nodes, and the pool of the examples."""
        self._make(
            "connections",
            connection_id="qcache_default",
            conn_type="qcache",
            description="Three dev nodes",
            port=8888,
            extra=json.dumps({"nodes": nodes}),
        )
        self._make("pools", name="qcache", slots=len(nodes), description="One slot for each node")

    def wait(self) -> None:
        """Wait until interrupted."""
        while self._lives_for(1):
            pass

    def _lives_for(self, seconds: float) -> bool:
        """Wait; False where interrupted meanwhile."""
        if self._interrupted.wait(seconds):
            return False
        if self._ended() - self._may_end:
            raise Failed(f"Airflow has ended by itself; it said\n{self._last_words()}")
        return True

    def _ended(self) -> set[str]:
        return {name for name, process in self._processes.items() if process.poll() is not None}

    def _is_up(self) -> bool:
        """Whether the pages are served, and tasks would be run."""
        with contextlib.suppress(OSError, ValueError):
            return self.ask(HEALTH)["scheduler"]["status"] == "healthy"
        return False

    def _make(self, kind: str, **what: Any) -> None:
        try:
            self.ask(f"{API}/{kind}", json.dumps(what).encode())
        except OSError as error:
            raise Failed(f"Airflow did not take {what}: {error}; it said\n{self._last_words()}") from error

    def ask(self, path: str, body: bytes | None = None) -> Any:
        """What Airflow answers; OSError if it answers with an error, or not at all."""
        request = urllib.request.Request(self.address + path, body, {"Content-Type": "application/json"})
        with self._opener.open(request, timeout=ANSWER_TIMEOUT) as answer:
            return json.load(answer)

    def _log(self, name: str) -> Path:
        return self.home / f"{name}.log"

    def _last_words(self) -> str:
        names = self._ended() or self._processes
        words = [self._log(name).read_text(errors="replace").splitlines()[-20:] for name in names]
        return "\n".join(line for lines in words for line in lines)

    def _end(self) -> None:
        """Kill every process: what they would tidy up is removed with the directory."""
        family: set[psutil.Process] = set()
        while more := self._family() - family:
            for process in more:  # one that is stopped starts no other while the rest are looked for
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.suspend()
            family |= more
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        deadline = time.monotonic() + END_TIMEOUT
        while any(is_alive(process) for process in family) and time.monotonic() < deadline:
            time.sleep(0.05)
        for started in self._processes.values():
            started.wait()

    def _family(self) -> set[psutil.Process]:
        """The processes of the sessions, and those below them with one of their own, as BashOperator's."""
        family = set()
        sessions = {process.pid for process in self._processes.values()}
        for process in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                if os.getsid(process.pid) in sessions:
                    family |= {process, *process.children(recursive=True)}
        return {process for process in family if is_alive(process)}


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs or is stopped; a zombie does neither."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


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
        with (
            LocalCluster(nodes=3, start_timeout=START_TIMEOUT) as cluster,
            Airflow(interrupted, settings={"AIRFLOW__QCACHE__CLUSTER_PAGE": "True"}) as airflow,
        ):
            say(f"Three dev nodes are up: {', '.join(cluster.node_list)}")
            say(f"Airflow {RELEASE} is starting, which takes about half a minute ...")
            if airflow.start():
                airflow.connect(cluster.node_list)
                say(f"Airflow is up, and asks for no login: {airflow.address}")
                say(f"The connection qcache_default: {airflow.address}{CONNECTIONS}")
                if not OLD:
                    say(f"The cluster page: {airflow.address}/plugin/qcache")
                say(f"Its AIRFLOW_HOME: {airflow.home}")
                say("Ctrl-C ends Airflow and the nodes, and removes what they made.")
                airflow.wait()
    except (Failed, NodeStartError) as error:
        print(f"make ui: {error}", file=sys.stderr)
        return 1
    say("Airflow and the nodes have ended.")
    return 0


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    print(line, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
