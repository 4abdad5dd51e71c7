"""Failing nodes are asked for their status in the background: no caller whose key lives elsewhere waits."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Final

from airflow_provider_qcache.client.errors import Outcome
from airflow_provider_qcache.client.outcome import MET_ON_A_LIVING_NODE
from airflow_provider_qcache.client.transport import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from airflow_provider_qcache.client.clock import Clock
    from airflow_provider_qcache.client.nodes import NodePool

_SLICE: Final = 0.05


class Prober:
    """Probes failing nodes, each by one thread at a time that ends with the probe.

    ``ask`` raises Failure where a node does not answer its status, within a connect and a read timeout.
    """

    def __init__(self, pool: NodePool, ask: Callable[[str], None], clock: Clock) -> None:
        self._pool = pool
        self._ask = ask
        self._clock = clock
        self._threads: set[threading.Thread] = set()
        self._finished = threading.Event()
        self._closed = False

    def start(self, nodes: Iterable[str]) -> None:
        """Begin to probe those of the nodes that are failing and that nobody probes."""
        for node in nodes:
            if self._closed:
                return
            epoch = self._pool.ticket(node)
            try:
                self._start_one(node)
            except BaseException as error:
                # However far it came: nobody may be left to say how the probe ended. One that has begun all
                # the same is the node's next one.
                self._pool.abandon_probe(node, epoch)
                # The interpreter is ending, or the machine has no thread left.
                if not isinstance(error, RuntimeError):
                    raise

    def _start_one(self, node: str) -> None:
        ticket = self._pool.begin_probe(node)
        if ticket is None:
            return
        thread = threading.Thread(target=self._probe, args=(node, ticket), name="qcache-probe", daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except BaseException:
            if thread.ident is None:
                self._threads.discard(thread)
            raise

    def wait(self, nodes: Sequence[str], until: float, check: Callable[[], None]) -> None:
        """Return when one of the nodes is alive, when none is being probed, or at ``until``."""
        while True:
            self._finished.clear()
            states = self._pool.snapshot()
            if any(states[node].alive for node in nodes):
                return
            if not any(states[node].state == "being probed" for node in nodes):
                return
            left = until - self._clock.now()
            if left <= 0:
                return
            check()
            self._finished.wait(min(left, _SLICE))

    def _probe(self, node: str, ticket: int) -> None:
        try:
            self._ask(node)
        except Failure as failure:
            if failure.outcome is Outcome.CANCELLED:
                self._pool.abandon_probe(node, ticket)
            elif failure.outcome in MET_ON_A_LIVING_NODE:
                self._pool.end_probe(node, ticket, None)
            else:
                self._pool.end_probe(
                    node,
                    ticket,
                    f"status: {failure.outcome}: {failure}",
                    gone=failure.outcome is Outcome.REFUSED,
                )
        except BaseException:
            self._pool.abandon_probe(node, ticket)
            raise
        else:
            self._pool.end_probe(node, ticket, None)
        finally:
            self._threads.discard(threading.current_thread())
            self._finished.set()

    def start_anew(self) -> None:
        """Forget the threads, which a child process that was forked does not have."""
        self._threads = set()
        self._finished = threading.Event()

    def close(self, timeout: float) -> None:
        """Start no more, and wait so many seconds for those that run."""
        self._closed = True
        end = self._clock.now() + timeout
        for thread in list(self._threads):
            # One that another thread is about to start cannot be joined, and ends with its first request.
            if thread.ident is not None:
                with contextlib.suppress(RuntimeError):
                    thread.join(max(0.0, end - self._clock.now()))
