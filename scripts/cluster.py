"""Start Airflow scaled out, to try it: CeleryExecutor with two workers, Redis and PostgreSQL, on loopback.

It runs the api-server, scheduler, triggerer, DAG processor and two Celery workers of Airflow 3.3 on three dev
nodes, or on those of QCACHE_NODES="http://host1:8888 http://host2:8888". Ctrl-C ends every process and
removes every file.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from contextlib import ExitStack
from typing import Any

from ui import RELEASE, ROOT, START_TIMEOUT, Airflow, Failed, free_port, say

from airflow_provider_qcache.devnode import LocalCluster, NodeStartError
from tests.harness.postgres import HOW_TO_GET_POSTGRES, Postgres, postgres_programs
from tests.harness.servers import ServerFailedError

DAGS = ROOT / "scripts" / "cluster_dags"
HOW_TO_GET_REDIS = "no Redis server: `apt-get install redis-server` brings it"
WORKERS = ("worker-1", "worker-2")
PARTS = ("api-server", "scheduler", "dag-processor", "triggerer")

HEARTBEAT_TIMEOUT = 20
"""Seconds without a heartbeat after which the scheduler fails a task. Airflow's default is 300."""
VISIBILITY_TIMEOUT = 600
"""Seconds after which Redis gives the message of a task to another worker; longer than any task here."""


class Cluster(Airflow):
    """The parts of Airflow as separate processes, on a running PostgreSQL."""

    def __init__(self, interrupted: threading.Event, postgres: Postgres) -> None:
        self._redis_port = free_port()
        self.workers: dict[str, int] = {}
        """The session of each worker, which its tasks belong to."""
        settings = {
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres.uri.replace("://", "+psycopg2://"),
            "AIRFLOW__CELERY__BROKER_URL": f"redis://127.0.0.1:{self._redis_port}/0",
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": "2",
            "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": str(VISIBILITY_TIMEOUT),
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(HEARTBEAT_TIMEOUT),
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
        }
        super().__init__(interrupted, DAGS, settings)

    def _launch(self) -> bool:
        redis = ("--bind", "127.0.0.1", "--port", str(self._redis_port), "--save", "")
        self._spawn("redis", "redis-server", *redis)
        # The first command writes the file of settings with the secrets that the others share.
        migration = self._spawn("migration", self._airflow, "db", "migrate", may_end=True)
        if not self._wait_for("the database", lambda: migration.poll() is not None):
            return False
        if migration.returncode:
            raise Failed(f"airflow db migrate failed; the end of its log:\n{self._end_of_logs()}")
        for part in PARTS:
            self._spawn(part, self._airflow, part)
        for name in WORKERS:
            options = ("--celery-hostname", name, "--without-mingle", "--without-gossip", "--skip-serve-logs")
            self.workers[name] = self._spawn(name, self._airflow, "celery", "worker", *options).pid
        return True

    def wait(self) -> None:
        """Wait until interrupted, even if a worker is killed."""
        self._may_end |= set(self.workers)
        super().wait()

    def _is_up(self) -> bool:
        ready = all(f"{name} ready" in self._log(name).read_text(errors="replace") for name in WORKERS)
        return ready and super()._is_up() and self._knows("scale_out")

    def _knows(self, dag_id: str) -> bool:
        """Whether the DAG processor has read the DAG."""
        found: dict[str, Any] = self.ask("/api/v2/dags")
        return dag_id in {dag["dag_id"] for dag in found["dags"]}


def main() -> int:
    """Run until interrupted."""
    interrupted = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: interrupted.set())
    try:
        show(interrupted)
    except (Failed, NodeStartError, ServerFailedError) as error:
        print(f"make cluster: {error}", file=sys.stderr)
        return 1
    say("Every process has ended.")
    return 0


def show(interrupted: threading.Event) -> None:
    """Start everything, print its addresses, and wait."""
    if postgres_programs() is None:
        raise Failed(HOW_TO_GET_POSTGRES)
    if shutil.which("redis-server") is None:
        raise Failed(HOW_TO_GET_REDIS)
    nodes = os.environ.get("QCACHE_NODES", "").replace(",", " ").split()
    with ExitStack() as stack:
        if not nodes:
            nodes = stack.enter_context(LocalCluster(nodes=3, start_timeout=START_TIMEOUT)).node_list
        postgres = stack.enter_context(Postgres())
        airflow = stack.enter_context(Cluster(interrupted, postgres))
        say(f"QCache nodes: {', '.join(nodes)}")
        say(f"Airflow {RELEASE} with CeleryExecutor is starting, which takes about a quarter of a minute ...")
        if airflow.start():
            airflow.connect(nodes)
            say(f"Airflow is up, and asks for no login: {airflow.address}")
            say(f"A DAG to trigger: {airflow.address}/dags/scale_out")
            for name, session in airflow.workers.items():
                say(f"To kill {name}: pkill -9 -s {session}")
            say(f"A killed task is noticed after {HEARTBEAT_TIMEOUT} s. Its AIRFLOW_HOME: {airflow.home}")
            say("Ctrl-C ends every process, and removes every file.")
            airflow.wait()


if __name__ == "__main__":
    raise SystemExit(main())
