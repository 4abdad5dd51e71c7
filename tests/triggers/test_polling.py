"""Triggers of deferred sensors share a client and its polls, on every Airflow."""

from __future__ import annotations

import asyncio
import time

from airflow_provider_qcache.triggers.qcache import QCacheClusterTrigger, QCacheTableTrigger
from tests.harness.nodes import Nodes
from tests.triggers.running import poller, polls, running, until

TIMES = {"qcache_conn_id": "qcache_default", "poll_interval": 0.5}


def waiting(key: str) -> QCacheTableTrigger:
    return QCacheTableTrigger(keys=[key], started=time.time(), timeout=60, **TIMES)


def test_sensors_that_wait_share_a_poll_and_fire_each_for_its_own_table(nodes: Nodes) -> None:
    keys = [f"awaited_{n}" for n in range(50)]
    for i in range(3):
        for key in keys:
            nodes.ask(i, "DELETE", key)

    async def watch() -> tuple[int, int]:
        async with running(*map(waiting, keys), shared=False) as triggerer:
            used = await poller()
            await until(lambda: used.users == len(keys))
            begun = used.polls
            await polls(2)
            made = used.polls - begun
            for i in range(3):
                nodes.ask(i, "POST", keys[0], b"a\n1\n")
            await until(lambda: triggerer.events)
            await polls(1)
            return made, len(triggerer.events)

    made, fired = asyncio.run(watch())
    assert made < len(keys), "one poll for all, and not one for each"
    assert fired == 1


def test_a_sensor_of_nodes_shares_the_client(nodes: Nodes) -> None:
    nodes.kill(1)

    async def watch() -> None:
        cluster = QCacheClusterTrigger(started=time.time(), timeout=60, **TIMES)
        async with running(cluster, waiting("never"), shared=False) as triggerer:
            used = await poller()
            await until(lambda: used.users == 2)
            await polls(2)
            assert triggerer.events == []
            nodes.all_up()
            await until(lambda: triggerer.events)

    asyncio.run(watch())


def test_a_triggerer_takes_what_an_older_worker_wrote() -> None:
    """As docs/howto/upgrade.md says: arguments that an older version does not write have defaults."""
    _, arguments = waiting("orders").serialize()
    names = ("keys", "qcache_conn_id", "poll_interval", "started", "timeout")
    older = {name: arguments[name] for name in names}
    assert QCacheTableTrigger(**older).serialize()[1] == arguments
