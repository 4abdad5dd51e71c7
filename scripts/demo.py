"""A year of flights in the cache: real DAGs on a real Airflow load, warm, query and invalidate tables.

It uses three dev nodes on this machine, or the nodes of QCACHE_NODES="http://host1:8888 http://host2:8888",
and kills none of those. It leaves no process, file or table behind; Ctrl-C ends it at any time.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from airflow_runs import ROOT, AirflowFailed, AirflowHome, Run, Runner
from qclient import QClient as Reader
from ui import RELEASE, Airflow, Failed

from airflow_provider_qcache.client import DeleteResult, QClient, QClientException
from airflow_provider_qcache.devnode import LocalCluster, NodeStartError

DAGS = ROOT / "scripts" / "demo_dags"
HEALING = ROOT / "example_dags" / "self_healing.py"
ALL_FLIGHTS = "qcache_demo_flights"
PROGRESS_SECONDS = 5.0
HEALED_WITHIN = 240.0
"""Seconds after which the demo fails: it takes some ten on a machine with nothing else to do."""

WORST_ROUTES_SQL = """SELECT origin, dest, COUNT(*), AVG(arr_delay) AS delay FROM flights
    WHERE arr_delay IS NOT NULL GROUP BY origin, dest ORDER BY delay DESC LIMIT 10"""


class Interrupted(BaseException):
    """Ctrl-C, or another signal to end."""


class DemoFailed(Exception):
    """A check of the demo failed."""


class Demo:
    """The steps so far, and how they are printed."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.signal: int | None = None
        self.interrupted = threading.Event()
        self.steps: list[tuple[str, str, float]] = []
        self._printed_at = self.began
        self._may_end_at_once = False

    def listen(self) -> None:
        """Note a signal instead of dying from it in the middle of a step: `end_if_asked` raises it."""

        def note(number: int, _: object) -> None:
            if self.signal is None:
                self.signal = number
                self.interrupted.set()
                os.write(1, b"\nInterrupted, ending ...\n")
                if self._may_end_at_once:
                    raise Interrupted

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, note)

    def end_if_asked(self) -> None:
        """Raise Interrupted if there was a signal."""
        if self.signal is not None:
            raise Interrupted

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a signal interrupt the block at once, which may take long and cleans up after itself."""
        self._may_end_at_once = True
        try:
            self.end_if_asked()
            yield
        finally:
            self._may_end_at_once = False

    def heed(self, doing: str) -> None:
        """Print progress; raise Interrupted if there was a signal."""
        self.end_if_asked()
        now = time.monotonic()
        if sys.stdout.isatty():
            print(f"\r\033[K  {now - self.began:3.0f} s  {doing}", end="", flush=True)
        elif now - self._printed_at > PROGRESS_SECONDS:
            print(f"  {now - self.began:3.0f} s  {doing}", flush=True)
            self._printed_at = now

    def say(self, text: str) -> None:
        """Print a line, in place of the last line of progress."""
        self.end_if_asked()
        print(f"\r\033[K{text}" if sys.stdout.isatty() else text, flush=True)
        self._printed_at = time.monotonic()

    @contextlib.contextmanager
    def step(self, name: str, intent: str) -> Iterator[list[str]]:
        """One step; the block appends its results to the list, the first of them for the summary."""
        self.say(f"\n{name}: {intent}")
        began = time.monotonic()
        results: list[str] = []
        yield results
        self.steps.append((name, results[0], time.monotonic() - began))
        for line in results:
            self.say(f"  {line}")

    def summary(self) -> str:
        """The table of all steps."""
        width = max(len(name) for name, _, _ in self.steps)
        lines = [f"{name:{width}}  {seconds:5.1f} s  {results}" for name, results, seconds in self.steps]
        return "\n".join(["What happened", *(f"  {line}" for line in lines)])


def finished(run: Run) -> Run:
    """A run, if it succeeded."""
    if run.state != "success":
        failed = [(name, task) for (name, _), task in run.tasks.items() if task.state != "success"]
        logs = "\n".join(f"{name} {task.state}:\n{task.log[-3000:]}" for name, task in failed)
        raise DemoFailed(f"the DAG {run.dag_id} ended as {run.state}\n{logs}")
    return run


def check(holds: bool, what: str) -> None:  # noqa: FBT001
    """Raise DemoFailed if a claim of the demo does not hold."""
    if not holds:
        raise DemoFailed(f"expected, and not so: {what}")


def same_routes(rows: list[dict[str, Any]], expected: list[tuple[Any, ...]]) -> bool:
    """Whether the cache and the database have the same routes with the same figures."""
    return len(rows) == len(expected) and all(
        (row["origin"], row["dest"], row["flight"]) == (origin, dest, flights)
        and math.isclose(row["arr_delay"], delay, rel_tol=1e-9)
        for row, (origin, dest, flights, delay) in zip(rows, expected, strict=True)
    )


def holders(nodes: list[str], keys: list[str]) -> dict[str, list[str]]:
    """The keys that each node has; each node is asked for all keys."""
    held = {}
    for node in nodes:
        with QClient([node], read_timeout=30, deadline=60) as client:
            held[node] = [key for key in keys if client.get(key, {"limit": 1}) is not None]
    return held


def nothing_to_do(airflow: Airflow) -> bool:
    """Whether the DAGs have run, and no event is queued to start one again."""
    try:
        for dag in ("qcache_load_regions", "qcache_self_healing"):
            runs = airflow.ask(f"/api/v2/dags/{dag}/dagRuns")["dag_runs"]
            if not runs or any(run["state"] != "success" for run in runs):
                return False
        queued = airflow.ask("/api/v2/dags/qcache_self_healing/assets/queuedEvents")
    except HTTPError as error:
        return error.code == 404  # there are no such events
    return not queued["total_entries"]


def state_of_sensor(airflow: Airflow) -> str | None:
    """The state of the task of awaited.py."""
    found = airflow.ask("/api/v2/dags/qcache_demo_wait/dagRuns/~/taskInstances")["task_instances"]
    return found[0]["state"] if found else None


def forget(nodes: list[str], database: Path) -> None:
    """Delete the tables of an interrupted demo from existing nodes."""
    keys = [ALL_FLIGHTS]
    with contextlib.suppress(sqlite3.Error), closing(sqlite3.connect(database)) as opened:
        for by in ("carrier", "origin"):
            found = opened.execute(f"SELECT DISTINCT {by} FROM flights")
            keys += [f"{ALL_FLIGHTS}_{by}_{value}" for (value,) in found]
    with QClient(nodes, deadline=10) as client:
        report = client.delete_many(keys, all_nodes=True, raise_on_failure=False)
    if report.failed or not all(
        isinstance(deleted, DeleteResult) and deleted.complete for deleted in report.succeeded.values()
    ):
        print(f"Tables named {ALL_FLIGHTS}* may be left on a node that could not be asked.", file=sys.stderr)


class Tour:
    """The steps of the demo."""

    def __init__(self, demo: Demo, runner: Runner, nodes: list[str], database: Path) -> None:
        self.demo = demo
        self.runner = runner
        self.nodes = nodes
        self.database = database
        self.keys: list[str] = []
        self.holder = ""
        self.answer: list[dict[str, Any]] = []

    def load(self) -> None:
        """Run the ETL."""
        with self.demo.step("load", "the DAG flights_load puts the flights of 2013 into SQLite") as results:
            run = finished(self.runner.run("flights_load"))
            counts = run["load"].result
            results.append(", ".join(f"{count:,} {name}" for name, count in counts.items()))
            check("flights_warm" in run.waiting, "the DAG flights_warm is started by the load")
            results.append("its asset is updated, so Airflow is to start flights_warm")

    def warm(self) -> None:
        """Store the tables, each on its home node and a fallback node."""
        intent = "the DAG flights_warm stores a table per carrier, per origin airport, and one of all"
        with self.demo.step("warm", intent) as results:
            stored = [task.result for task in finished(self.runner.run("flights_warm")).mapped("warm")]
            self.keys = [result["key"] for result in stored]
            self.holder = next(result["node"] for result in stored if result["key"] == ALL_FLIGHTS)
            rows, size = (sum(result[what] for result in stored) for what in ("rows", "bytes"))
            held = holders(self.nodes, self.keys)
            copies = Counter(key for keys in held.values() for key in keys)
            number = min(2, len(self.nodes))
            check(set(copies.values()) == {number}, f"each table is on {number} nodes: {copies}")
            results.append(
                f"{len(stored)} tables, {rows:,} rows, {size / 1e6:.0f} MB of CSV, each on {number} nodes"
            )
            results.append(", ".join(f"{len(keys)} on {node}" for node, keys in held.items()))

    def query(self) -> None:
        """Compare the cache's answer with the database's."""
        intent = "the DAG flights_report asks for the ten routes with the worst mean delay"
        with self.demo.step("query", intent) as results:
            self.answer = finished(self.runner.run("flights_report"))["worst_routes"].result
            with closing(sqlite3.connect(self.database)) as database:
                expected = database.execute(WORST_ROUTES_SQL).fetchall()
            check(same_routes(self.answer, expected), "the cache answers what SQLite does")
            results.append("the same ten routes as SQLite finds")
        self.demo.say("    route      flights  mean delay in minutes")
        for row in self.answer:
            self.demo.say(
                f"    {row['origin']} - {row['dest']}  {row['flight']:7,}  {row['arr_delay']:21.1f}"
            )

    def kill(self, cluster: LocalCluster) -> None:
        """Kill the node that has the table; the query still succeeds."""
        with self.demo.step("kill", f"{self.holder} holds the table, and is killed") as results:
            cluster.kill(cluster.node_list.index(self.holder))
            results.append(f"{self.holder} refuses connections, its tables are gone")
        with self.demo.step("query again", "the DAG flights_report runs once more") as results:
            again = finished(self.runner.run("flights_report"))["worst_routes"].result
            check(again == self.answer, "the answer is the same without the node")
            results.append("the same answer, from the fallback node")

    def restart(self, cluster: LocalCluster) -> None:
        """Start the node again."""
        with self.demo.step("node back", f"{self.holder} is started again") as results:
            with self.demo.at_once():
                cluster.restart(cluster.node_list.index(self.holder))
            held = holders([self.holder], self.keys)[self.holder]
            check(not held, f"a node that was killed comes back empty: {held}")
            results.append("it answers, and is empty: tables live in a node's memory")

    def heal(self, cluster: LocalCluster, airflow: Airflow) -> None:
        """Let a trigger store a table again after its node lost it."""
        with self.demo.step("watch", f"Airflow runs all its parts, with {HEALING.name}") as results:
            airflow.start()
            self.demo.end_if_asked()
            self._wait_until(lambda: self._regions() == 4 and nothing_to_do(airflow), "storing the table")
            results.append("its trigger watches the table of regions, which has 4 rows")
        with self.demo.step(
            "defer", "the DAG qcache_demo_wait waits for a table, in the triggerer"
        ) as results:
            self._wait_until(lambda: state_of_sensor(airflow) == "deferred", "waiting until it is deferred")
            with QClient(self.nodes) as client:
                client.post("qcache_demo_awaited", "a\n1\n")
            self._wait_until(lambda: state_of_sensor(airflow) == "success", "waiting until it is done")
            results.append("deferred, and done when the table was stored")
        with QClient(self.nodes) as client:
            home = client.node_for_key("regions")
        with self.demo.step("heal", f"{home}, which has that table, is killed and started again") as results:
            killed = datetime.now(UTC)
            cluster.kill(cluster.node_list.index(home))
            with self.demo.at_once():
                cluster.restart(cluster.node_list.index(home))
            began = time.monotonic()
            self._wait_until(lambda: self._regions() == 4, "waiting until the table is back")
            seconds = time.monotonic() - began
            results.append(f"warm again {seconds:.0f} s after the restart, as qcache-client sees it")
            event = airflow.ask("/api/v2/assets/events?order_by=-timestamp&limit=1")["asset_events"][0]
            check(datetime.fromisoformat(event["timestamp"]) > killed, "an event of the trigger started it")
            results.append(f"the event that started the DAG: {event['extra']['payload']['why']}")

    def _regions(self) -> int | None:
        """The rows that an application finds."""
        answer = Reader(self.nodes).get("regions", {})
        return None if answer is None else answer.unsliced_result_len

    def _wait_until(self, holds: Callable[[], bool], doing: str) -> None:
        deadline = time.monotonic() + HEALED_WITHIN
        while not holds():
            check(time.monotonic() < deadline, f"{doing}: it is so within {HEALED_WITHIN:g} s")
            self.demo.heed(doing)
            time.sleep(0.2)

    def invalidate(self) -> None:
        """Delete every table from every node."""
        with self.demo.step("invalidate", "the DAG flights_invalidate deletes every table") as results:
            run = finished(self.runner.run("flights_invalidate", conf={"keys": self.keys}))
            outcomes = [outcome for nodes in run["invalidate"].result.values() for outcome in nodes.values()]
            counted = ", ".join(f"{outcomes.count(name)} {name}" for name in sorted(set(outcomes)))
            results.append(f"{len(self.keys)} keys on {len(self.nodes)} nodes: {counted}")
        with self.demo.step("look", "each node is asked for each key") as results:
            held = holders(self.nodes, self.keys)
            check(not any(held.values()), f"no node holds a table: {held}")
            results.append(f"no table on any of {len(self.nodes)} nodes")


def show(demo: Demo, existing_nodes: list[str]) -> None:
    """Run the whole demo, on existing nodes or on its own."""
    with ExitStack() as stack:
        cluster = LocalCluster(nodes=3)
        stack.callback(cluster.close)
        if existing_nodes:
            nodes = existing_nodes
            with demo.at_once():
                holders(nodes, [ALL_FLIGHTS])  # fails now if a node does not answer
            demo.say(f"The nodes of QCACHE_NODES are used, and none of them is killed: {', '.join(nodes)}")
        else:
            demo.say("Three dev nodes are being started ...")
            with demo.at_once():
                cluster.start()
            nodes = cluster.node_list
            demo.say(f"Three dev nodes are up: {', '.join(nodes)}")
        demo.say(f"Airflow {version('apache-airflow')} is being made ready, in a home of its own ...")
        home = stack.enter_context(AirflowHome(sys.executable, demo.heed))
        database = home.path / "flights.db"
        connection = {"conn_type": "qcache", "extra": {"nodes": nodes}}
        environment = {
            "AIRFLOW_CONN_QCACHE_DEFAULT": json.dumps(connection),
            "DEMO_DATABASE": str(database),
            "DEMO_COPIES": "2",
        }
        ended_early = stack.enter_context(ExitStack())
        if existing_nodes:
            ended_early.callback(forget, nodes, database)
        runner = stack.enter_context(home.runner(DAGS, environment))
        tour = Tour(demo, runner, nodes, database)
        tour.load()
        tour.warm()
        tour.query()
        if not existing_nodes:
            tour.kill(cluster)
            tour.restart(cluster)
        tour.invalidate()
        ended_early.pop_all()
        if not existing_nodes and not RELEASE.startswith("2."):  # which has no triggers of assets
            dags = home.path / "healing"
            dags.mkdir()
            for file in (HEALING, DAGS / "awaited.py"):
                shutil.copy(file, dags)
            settings = {
                "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
                "AIRFLOW_CONN_QCACHE_DEFAULT": json.dumps(connection),
            }
            tour.heal(cluster, stack.enter_context(Airflow(demo.interrupted, dags, settings)))


def main() -> int:
    """Run the demo."""
    demo = Demo()
    demo.listen()
    try:
        show(demo, os.environ.get("QCACHE_NODES", "").replace(",", " ").split())
    except Interrupted:
        print("Nothing is left running.")
        return 128 + (demo.signal or signal.SIGINT)
    except (DemoFailed, AirflowFailed, Failed, NodeStartError, QClientException, ValueError) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    took = time.monotonic() - demo.began
    print(f"\n{demo.summary()}\nAll of it took {took:.0f} s; nothing is left running.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
