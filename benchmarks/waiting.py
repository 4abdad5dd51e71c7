"""Waiting for tables: which query about a table disturbs a node least, and the cost of 1,000 triggers.

The queries go to a real QCache. The triggers are those of assets, in one event loop as in a triggerer, with
three real nodes that have all tables.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from urllib.parse import quote_plus

from airflow.triggers.shared_stream import SharedStreamManager

from airflow_provider_qcache.hooks.qcache import QCacheHook
from airflow_provider_qcache.triggers import _polling
from airflow_provider_qcache.triggers._asking import ask as ask_nodes
from airflow_provider_qcache.triggers._asking import question
from airflow_provider_qcache.triggers.qcache import QCacheTableMissingTrigger
from benchmarks.many import connection
from tests.harness.nodes import Nodes
from tests.harness.servers import Server, WireRequest

QUESTIONS = {
    "a clause that no node knows (whether it exists)": {"is it there": 0},
    "one row, and the count of all": {"limit": 1},
    "the count by an aggregate": {"select": [["count"]]},
    "every row": {},
}
TABLES = 1000
ROWS = 100
TABLE = "id,name,value\n" + "".join(f"{n},name {n},{n / 7}\n" for n in range(ROWS))
TINY_RUNS = 400


def ask(server: Server, key: str, query: dict) -> int:
    target = f"/qcache/dataset/{key}?q={quote_plus(json.dumps(query))}"
    return server.ask(WireRequest("GET", target, (("Accept", "application/json"),))).status


def store(server: Server, key: str, body: str) -> None:
    headers = (("Content-Type", "text/csv"),)
    answer = server.ask(WireRequest("POST", f"/qcache/dataset/{key}", headers, body.encode()))
    assert answer.status == 201, answer


def counts(server: Server) -> dict:
    """The node's statistics; reading them resets them."""
    return json.loads(server.ask(WireRequest("GET", "/qcache/statistics", ())).body)


def makes_recently_used(query: dict) -> bool:
    """Whether such a query about the older of two tables makes the younger one be evicted first."""
    body = "a\n" + "1\n" * 100_000  # 800 kB as int64: a third table needs the room of one
    with Server.real("--size=1700000") as server:
        for key in ("older", "younger"):
            store(server, key, body)
        assert ask(server, "older", {"is it there": 0}) == ask(server, "younger", {"is it there": 0}) == 400
        ask(server, "older", query)
        store(server, "third", body)
        remaining = [key for key in ("older", "younger") if ask(server, key, {"limit": 1}) == 200]
    assert len(remaining) == 1, remaining
    return remaining == ["older"]


def disturbance() -> list[str]:
    """The table with one row per query."""
    lines = ["| question | hits | misses, if it is missing | recently used | median ms | slowest 1% ms |"]
    lines.append("|---|---|---|---|---|---|")
    with Server.real() as server:
        for number in range(TABLES):
            store(server, f"t{number}", TABLE)
        for name, query in QUESTIONS.items():
            counts(server)
            times = []
            for number in range(TINY_RUNS):
                started = time.perf_counter()
                ask(server, f"t{number % TABLES}", query)
                times.append(1000 * (time.perf_counter() - started))
            hits = counts(server).get("hit_count", 0) / TINY_RUNS
            ask(server, "none", query)
            misses = counts(server).get("miss_count", 0)
            used = "yes" if makes_recently_used(query) else "no"
            median, slowest = statistics.median(times), statistics.quantiles(times, n=100)[-1]
            lines.append(f"| {name} | {hits:.0f} | {misses} | {used} | {median:.2f} | {slowest:.1f} |")
    return lines


def one_poll(query: dict | None, runs: int) -> str:
    """The cost of one poll of all tables: seconds, and processor seconds of this process."""
    keys = [f"t{number}" for number in range(TABLES)]
    asked = [question(key, query) for key in keys]
    seconds, cpu = [], []
    with QCacheHook() as hook:
        ask_nodes(hook, asked)
        for _ in range(runs):
            started, used = time.perf_counter(), time.process_time()
            ask_nodes(hook, asked)
            seconds.append(time.perf_counter() - started)
            cpu.append(time.process_time() - used)
    return f"{statistics.median(seconds):.2f} s, of them {statistics.median(cpu):.2f} s of this processor"


async def with_triggers(polls: int) -> tuple[float, float, int]:
    """1,000 triggers: processor seconds per poll, the longest time the loop was blocked, and the polls."""
    manager = SharedStreamManager()
    events: list[dict] = []

    async def run(number: int) -> None:
        trigger = QCacheTableMissingTrigger(f"t{number}", poll_interval=5.0)
        stream = manager.subscribe(trigger_id=number, trigger=trigger, key=trigger.shared_stream_key())
        async for event in trigger.filter_shared_stream(stream):
            events.append(event.payload)  # noqa: PERF401

    blocked = 0.0

    async def watch() -> None:
        nonlocal blocked
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.01)
            blocked = max(blocked, time.perf_counter() - before - 0.01)

    tasks = [asyncio.create_task(run(number)) for number in range(TABLES)]
    await asyncio.sleep(6)  # by then all have started and polled once
    (poller,) = _polling._pollers[asyncio.get_running_loop()].values()
    begun = poller.polls
    used = time.process_time()
    watcher = asyncio.create_task(watch())
    while poller.polls < begun + polls:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    await asyncio.sleep(2)
    cpu = time.process_time() - used
    made = poller.polls - begun
    for task in (*tasks, watcher):
        task.cancel()
    await asyncio.wait([*tasks, watcher])
    assert events == []
    return cpu / made, blocked, made


def run(runs: int) -> str:
    lines = ["# Which question disturbs a node least (QCache 0.9.3)", "", *disturbance(), ""]
    with Nodes(3, kind="real") as nodes:
        os.environ["AIRFLOW_CONN_QCACHE_DEFAULT"] = connection(nodes)
        with QCacheHook() as hook:
            hook.post_many((f"t{number}", TABLE) for number in range(TABLES))
        exists, rows = (one_poll(query, runs) for query in (None, {"limit": 1}))
        cpu, blocked, made = asyncio.run(with_triggers(3))
    lines += [
        f"# A poll of {TABLES:,} tables on three nodes, by one client",
        "",
        f"Whether each exists: {exists}. The rows of each: {rows}.",
        "",
        (
            f"{TABLES:,} QCacheTableMissingTrigger in one event loop, every 5 s: {made} polls, "
            f"{cpu:.2f} s of the processor for each in the triggerer, and the loop was blocked for "
            f"{1000 * blocked:.0f} ms at the most."
        ),
    ]
    return "\n".join(lines)
