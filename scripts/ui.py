"""Start Airflow with its own pages, three dev nodes, the connection and the example DAGs, to try them.

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

# Paths of this Airflow: its health, its API and its page of connections.
RELEASE = version("apache-airflow")
OLD = RELEASE.startswith("2.")
HEALTH = "/health" if OLD else "/api/v2/monitor/health"
API = "/api/v1" if OLD else "/api/v2"
CONNECTIONS = "/connection/list/" if OLD else "/connections"

# Variables that the caller may set: where metrics and spans go.
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

# Airflow 2.11 has no setting for this: everybody is an admin without a login.
NO_LOGIN = """AUTH_ROLE_PUBLIC = "Admin"
WTF_CSRF_ENABLED = True
"""


class Failed(Exception):
    """Airflow did not start, or ended by itself."""


class Airflow:
    """`airflow standalone` in a directory of its own: `with Airflow(interrupted) as airflow`.

    Args:
        interrupted: Set to end it.
        dags: The folder of the DAGs.
        settings: More environment variables.
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
        """The environment of Airflow's processes; of the caller's settings only metrics and traces."""
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
        """Start Airflow; True when it is up, False if it was interrupted."""
        (self.home / "tmp").mkdir()
        command = self.home / "bin" / "airflow"
        command.parent.mkdir()
        command.write_text(AIRFLOW.replace("{python}", shlex.quote(sys.executable)))
        command.chmod(0o755)
        (self.home / "webserver_config.py").write_text(NO_LOGIN)
        return self._launch() and self._wait_for("Airflow", self._is_up)

    def _launch(self) -> bool:
        """Start the processes; False if interrupted."""
        # With WAL, readers do not block a writer: on a busy machine Airflow's database would be locked.
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
                start_new_session=True,  # Ctrl-C in a terminal reaches only this process
            )
        self._processes[name] = process
        self._may_end |= {name} if may_end else set()
        return process

    def _wait_for(self, what: str, holds: Callable[[], bool]) -> bool:
        """Wait until a condition holds; False if interrupted."""
        deadline = time.monotonic() + START_TIMEOUT
        while not holds():
            if time.monotonic() > deadline:
                raise Failed(
                    f"{what} was not up within {START_TIMEOUT:g} s; its logs end:\n{self._end_of_logs()}"
                )
            if not self._lives_for(0.3):
                return False
        return True

    def connect(self, nodes: list[str]) -> None:
        """Create the connection to these nodes, and the pool of the examples."""
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
        """Wait; False if interrupted."""
        if self._interrupted.wait(seconds):
            return False
        if self._ended() - self._may_end:
            raise Failed(f"Airflow ended by itself; its logs end:\n{self._end_of_logs()}")
        return True

    def _ended(self) -> set[str]:
        return {name for name, process in self._processes.items() if process.poll() is not None}

    def _is_up(self) -> bool:
        """Whether Airflow serves its pages and its scheduler runs."""
        with contextlib.suppress(OSError, ValueError):
            return bool(self.ask(HEALTH)["scheduler"]["status"] == "healthy")
        return False

    def _make(self, kind: str, **what: Any) -> None:
        try:
            self.ask(f"{API}/{kind}", json.dumps(what).encode())
        except OSError as error:
            raise Failed(
                f"Airflow refused to create {what}: {error}; its logs end:\n{self._end_of_logs()}"
            ) from error

    def ask(self, path: str, body: bytes | None = None) -> Any:
        """An answer of Airflow; OSError if it answers with an error, or not at all."""
        request = urllib.request.Request(self.address + path, body, {"Content-Type": "application/json"})
        with self._opener.open(request, timeout=ANSWER_TIMEOUT) as answer:
            return json.load(answer)

    def _log(self, name: str) -> Path:
        return self.home / f"{name}.log"

    def _end_of_logs(self) -> str:
        names = self._ended() or self._processes
        words = [self._log(name).read_text(errors="replace").splitlines()[-20:] for name in names]
        return "\n".join(line for lines in words for line in lines)

    def _end(self) -> None:
        """Kill every process; their files are removed with the directory."""
        family: set[psutil.Process] = set()
        while more := self._family() - family:
            for process in more:  # a stopped process starts no other one while the rest are found
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
        """The processes of the sessions, and their children in other sessions, such as BashOperator's."""
        family = set()
        sessions = {process.pid for process in self._processes.values()}
        for process in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                if os.getsid(process.pid) in sessions:
                    family |= {process, *process.children(recursive=True)}
        return {process for process in family if is_alive(process)}


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs or is stopped, and is not a zombie."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def free_port() -> int:
    """A port that was free on loopback a moment ago."""
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    """Run until interrupted."""
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
                say("Ctrl-C ends Airflow and the nodes, and removes their files.")
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
