"""Triggers as a triggerer runs them: in one event loop, event triggers on Airflow's own shared streams."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Any, Self

from airflow_provider_qcache.triggers import _polling
from tests.sensors.deferred import made_anew

PATIENCE = 60
"""Seconds for a condition that is to come."""


class Store(dict):
    """In place of Airflow's accessors of an asset's state, which need its supervisor."""

    async def aget(self, key: str, default: Any = None) -> Any:
        return self.get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        self[key] = value


class Triggerer:
    """Runs triggers; ``shared=False`` is an Airflow that has no shared streams."""

    def __init__(self, *, shared: bool = True) -> None:
        self.events: list[dict[str, Any]] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._ids = itertools.count()
        self._manager: Any = None
        if shared:
            from airflow.triggers.shared_stream import SharedStreamManager

            self._manager = SharedStreamManager()

    def start(self, trigger: Any, store: Store | None = None) -> Any:
        """Run a trigger, made anew from what it is serialised to."""
        trigger = made_anew(trigger)
        trigger.asset_state_store = store
        self.tasks.append(asyncio.create_task(self._run(trigger, next(self._ids))))
        return trigger

    async def _run(self, trigger: Any, number: int) -> None:
        key = trigger.shared_stream_key() if self._manager is not None else None
        if key is None:
            events = trigger.run()
        else:
            stream = self._manager.subscribe(trigger_id=number, trigger=trigger, key=key)
            events = trigger.filter_shared_stream(stream)
        try:
            async for event in events:
                self.events.append(event.payload)
        finally:
            await events.aclose()
            if key is not None:
                await self._manager.unsubscribe(number, key)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)
        failed = [task.exception() for task in self.tasks if not task.cancelled()]
        assert [error for error in failed if error is not None] == []


@contextlib.asynccontextmanager
async def running(*triggers: Any, shared: bool = True) -> AsyncIterator[Triggerer]:
    async with Triggerer(shared=shared) as triggerer:
        for trigger in triggers:
            triggerer.start(trigger)
        yield triggerer


async def poller(conn_id: str = "qcache_default") -> _polling.Poller:
    """The poller that is in use, or will be."""
    pollers = _polling._pollers.setdefault(asyncio.get_running_loop(), {})
    await until(lambda: conn_id in pollers)
    return pollers[conn_id]


async def until(holds: Any) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110  # what is waited for sets no event
            await asyncio.sleep(0.02)


async def polls(count: int, conn_id: str = "qcache_default") -> None:
    """Wait for so many whole polls from now on."""
    used = await poller(conn_id)
    begun = used.polls
    await until(lambda: used.polls > begun + count)
