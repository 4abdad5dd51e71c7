"""One client and one poll per connection, for all triggers of a triggerer.

Triggers ask a Poller, which gathers their questions, asks them together in a thread, and gives each trigger
its own answers. The triggerer's event loop never waits for a node.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

from asgiref.sync import sync_to_async

from airflow_provider_qcache.triggers._asking import (
    ASK_ONCE,
    Finding,
    Question,
    ask,
    checked_nodes,
    is_silent,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
    from concurrent.futures import Future

    from airflow_provider_qcache.client import NodeStatus
    from airflow_provider_qcache.connection import ConnectionSettings
    from airflow_provider_qcache.hooks.qcache import QCacheHook

_log = logging.getLogger("airflow_provider_qcache.triggers")
_Result = TypeVar("_Result")

_MOST_POLLS: Final = 8
"""Connections that are polled at the same time; each poll uses up to one more thread for each node."""

_GATHER: Final = 0.05
"""Seconds in which questions are gathered for one poll."""

_REREAD: Final = 60.0
"""Seconds after which a poll checks whether the Airflow connection has changed."""

_threads = ThreadPoolExecutor(_MOST_POLLS, "qcache-poll")


async def next_round(interval: float, until: float = float("inf"), after: float | None = None) -> None:
    """Sleep until the next multiple of ``interval`` seconds, when all triggers of that interval wake.

    ``after`` and ``until`` are times of the epoch: the last multiple up to ``after`` is taken if it is later
    than the next one, and the sleep ends at ``until`` at the latest.
    """
    now = time.time()
    following = now + interval - now % interval
    if after is not None:
        following = max(following, after - after % interval)
    await asyncio.sleep(max(0.0, min(following, until) - now))


class Poller:
    """Asks the nodes of one connection for all triggers of one event loop. Get it from ``poller_of``."""

    def __init__(self, conn_id: str) -> None:
        self.conn_id = conn_id
        self.users = 0
        """Triggers that use it now."""
        self.polls = 0
        """Polls that were made; for tests and measurements."""
        self._closed = False
        self._lock = threading.Lock()
        self._using = 0
        """Threads that use the hook now: only the last of them may close it."""
        self._hook: QCacheHook | None = None
        self._settings: ConnectionSettings | None = None
        self._read_at = 0.0
        self._waiting: dict[Question, asyncio.Future[Finding]] = {}
        self._round: asyncio.Task[None] | None = None
        self._nodes: asyncio.Task[dict[str, NodeStatus]] | None = None
        self._probe: Future[dict[str, NodeStatus]] | None = None
        self._watched: dict[float, Counter[Question]] = {}

    async def ask(self, questions: Iterable[Question]) -> dict[Question, Finding]:
        """The answers, from a poll that begins after this call.

        If the connection cannot be used, each Finding has the error.
        """
        loop = asyncio.get_running_loop()
        futures = {one: self._waiting.setdefault(one, loop.create_future()) for one in questions}
        if futures:
            if self._round is None or self._round.done():
                self._round = loop.create_task(self._poll_while_asked())
            # Unlike gather, wait leaves the futures alone when this trigger is cancelled: others wait, too.
            await asyncio.wait(futures.values())
        return {one: future.result() for one, future in futures.items()}

    async def _poll_while_asked(self) -> None:
        while self._waiting:
            await asyncio.sleep(_GATHER)
            taken, self._waiting = self._waiting, {}
            try:
                findings: Mapping[Question, Finding] = await self._in_thread(self._ask, list(taken))
            except Exception as error:  # noqa: BLE001  # each trigger reports it
                findings = {
                    one: Finding(one.key, "", "failed", f"{type(error).__name__}: {error}", error=error)
                    for one in taken
                }
            for one, future in taken.items():
                future.set_result(findings[one])

    async def ask_nodes(self) -> dict[str, NodeStatus]:
        """The status of every node; triggers that ask at the same time share the answer."""
        if self._nodes is None or self._nodes.done():
            self._nodes = asyncio.get_running_loop().create_task(self._in_thread(checked_nodes))
        return await asyncio.shield(self._nodes)

    async def rounds(
        self, interval: float, questions: Iterable[Question] | None = None
    ) -> AsyncIterator[dict[Question, Finding]]:
        """Ask at once and then every ``interval`` seconds: these questions, or None for all watched ones."""
        await asyncio.sleep(_GATHER)  # those that start together watch first
        while True:
            asked = list(self._watched.get(interval, ())) if questions is None else questions
            yield await self.ask(asked)
            await next_round(interval)

    @contextlib.contextmanager
    def watching(self, interval: float, questions: Iterable[Question]) -> Iterator[None]:
        """Make ``rounds`` of this interval ask these questions too, during the block."""
        asked = list(questions)
        watched = self._watched.setdefault(interval, Counter())
        watched.update(asked)
        try:
            yield
        finally:
            watched.subtract(asked)
            for one in asked:  # not all that are watched, which may be thousands
                if not watched[one]:
                    del watched[one]

    async def _in_thread(self, work: Callable[..., _Result], *arguments: Any) -> _Result:
        # Before Airflow 3.3 a connection can be read in a thread only if asgiref started it.
        run = sync_to_async(self._with_hook, thread_sensitive=False, executor=_threads)
        return await run(work, *arguments)  # type: ignore[no-any-return]

    def _ask(self, hook: QCacheHook, questions: list[Question]) -> dict[Question, Finding]:
        """Ask, and meanwhile probe silent nodes, so that no other table waits for their timeouts."""
        silent = any(map(is_silent, hook.node_status().values()))
        if silent and (self._probe is None or self._probe.done()):
            self._probe = _threads.submit(hook.node_status, probe=True)
        return ask(hook, questions)

    def _with_hook(self, work: Callable[..., _Result], *arguments: Any) -> _Result:
        failed = True
        with self._lock:
            self.polls += 1
            self._using += 1
        try:
            with self._lock:
                hook = self._current_hook()
            if self._closed:  # close() did not see this hook, if it came before the hook was made
                hook.cancel()
            found = work(hook, *arguments)
            failed = False
            return found
        finally:
            with self._lock:
                self._using -= 1
                # After an error the next poll reads the connection again: someone may have corrected it.
                if (failed or self._closed) and not self._using:
                    self._drop()

    def _current_hook(self) -> QCacheHook:
        from airflow_provider_qcache.hooks.qcache import QCacheHook  # noqa: PLC0415

        now = time.monotonic()
        if self._hook is not None and self._using == 1 and now - self._read_at >= _REREAD:
            self._read_at = now
            try:
                changed = self._hook.settings() != self._settings
            except Exception as error:  # noqa: BLE001  # the poll goes on with the client it has
                _log.warning("cannot read connection %r again: %s", self.conn_id, error)
                changed = False
            if changed:
                _log.info("connection %r has changed: using its new settings", self.conn_id)
                self._drop()
        if self._hook is None:
            hook = QCacheHook(self.conn_id, request_retry=ASK_ONCE)
            self._settings = hook.settings()
            hook.get_conn()
            self._hook, self._read_at = hook, now
        return self._hook

    def _drop(self) -> None:
        hook, self._hook = self._hook, None
        if hook is not None:
            hook.close()

    def close(self) -> None:
        """Cancel the requests in progress, without waiting for their end."""
        self._closed = True
        if (hook := self._hook) is not None:
            hook.cancel()
            _threads.submit(hook.close)


_pollers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Poller]] = (
    weakref.WeakKeyDictionary()
)


@contextlib.asynccontextmanager
async def poller_of(conn_id: str) -> AsyncIterator[Poller]:
    """The Poller of a connection, shared by all that use it at the same time; the last one closes it."""
    pollers = _pollers.setdefault(asyncio.get_running_loop(), {})
    poller = pollers.setdefault(conn_id, Poller(conn_id))
    poller.users += 1
    try:
        yield poller
    finally:
        poller.users -= 1
        if not poller.users:
            del pollers[conn_id]
            poller.close()
