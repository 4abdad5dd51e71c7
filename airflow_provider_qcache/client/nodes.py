"""What the client knows of each node: alive, failing until a time, or being probed; and the probes.

NodePool does no I/O. Prober asks failing nodes for their status in the background, so that no caller whose
key lives elsewhere waits for them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import itertools
import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from airflow_provider_qcache.client.errors import Outcome, redacted
from airflow_provider_qcache.client.outcome import OUTCOMES_OF_LIVING_NODES, Failure
from airflow_provider_qcache.plain import Plain

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Sequence

    from airflow_provider_qcache.client.settings import Clock
    from airflow_provider_qcache.client.transport import Limit

PROBE_EVERY: Final = 10
"""Every so many operations make failing nodes due for a probe, as in qclient."""

_BACKOFF_INITIAL: Final = 0.5
_BACKOFF_MAX: Final = 30.0
"""Seconds: the first, and the longest, time until a failing node is due for a probe."""

_SLICE: Final = 0.05
"""Seconds a wait for probes goes on at most before it looks again."""

_SAME_WAIT: Final = 1.0
"""Seconds by which the ends of two waits for a node may differ and be announced as one."""


class NodeState(enum.StrEnum):
    """The states of a node."""

    ALIVE = "alive"
    FAILING = "failing"
    PROBED = "being probed"


@dataclasses.dataclass(frozen=True, slots=True)
class NodeStatus(Plain):
    """A node as the client knows it.

    ``gone`` says that the node refused the last connection: its process has ended, and its tables with it.
    ``last_error`` is the last error that made it fail, ``probe_in`` the seconds until the next probe.
    """

    node: str
    state: NodeState
    gone: bool
    failures: int
    last_error: str | None
    probe_in: float | None

    @property
    def alive(self) -> bool:
        """Whether requests are sent to it."""
        return self.state is NodeState.ALIVE


def new_counters() -> dict[str, int]:
    """One node's statistics, by qclient's names."""
    return {
        "connect_timeout": 0,
        "connection_error": 0,
        "read_timeout": 0,
        "unknown_error": 0,
        "resurrections": 0,
        "retry_error": 0,
    }


class _Node:
    __slots__ = ("due_at", "epoch", "failures", "last_error", "refused_at", "state")

    def __init__(self) -> None:
        self.state = NodeState.ALIVE
        self.epoch = 0
        self.failures = 0
        self.due_at = 0.0
        self.refused_at: float | None = None
        """When the node refused the last connection; None if it did not."""
        self.last_error: str | None = None


class NodePool:
    """The states of all nodes.

    A failing node is due for a probe after min(30, 0.5 x 2^(n-1)) seconds, n the
    incidents and failed probes in a row, times a random factor between a half and one; every tenth operation
    makes it due at once. Thread-safe: one lock, held for no more than these lines.
    """

    def __init__(
        self,
        nodes: Iterable[str],
        *,
        clock: Clock,
        rng: random.Random,
        on_change: Callable[[str, bool, str | None], None] | None = None,
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._on_change = on_change
        self._lock = threading.Lock()
        self._nodes = {node: _Node() for node in nodes}
        self._operations = itertools.count(1)
        self._waited_until = float("-inf")
        self.failing: frozenset[str] = frozenset()
        """The nodes no request is sent to; replaced, never changed, so that it is read without the lock."""
        self.abandoned_writes: dict[str, set[Limit]] = {node: set() for node in self._nodes}
        """The abandoned stores and deletes of each node that it may still apply. No lock is needed: each is
        added in one step of the interpreter, from a signal handler too."""
        self.statistics: defaultdict[str, dict[str, int]] = defaultdict(new_counters)

    def ticket(self, node: str) -> int:
        """A number for ``fail``, taken when a request begins: it changes when the node fails or recovers."""
        return self._nodes[node].epoch

    def fail(self, node: str, ticket: int, error: str, *, gone: bool = False) -> bool:
        """Mark a node as failing; False if the request began before the node last failed or recovered."""
        with self._lock:
            known = self._nodes[node]
            if known.epoch != ticket or known.state is not NodeState.ALIVE:
                return False
            known.state = NodeState.FAILING
            known.epoch += 1
            known.refused_at = self._clock.now() if gone else None
            known.last_error = error
            self._back_off(known)
            self.failing |= {node}
        self._notify(node, alive=False, error=error)
        return True

    def _back_off(self, known: _Node) -> None:
        known.failures += 1
        delay = min(_BACKOFF_MAX, _BACKOFF_INITIAL * 2.0 ** min(known.failures - 1, 60))
        known.due_at = self._clock.now() + delay * self._rng.uniform(0.5, 1.0)

    def operation(self) -> None:
        """Count an operation: every tenth makes the failing nodes due for a probe."""
        if next(self._operations) % PROBE_EVERY == 0 and self.failing:
            now = self._clock.now()
            with self._lock:
                for node in self.failing:
                    self._nodes[node].due_at = min(self._nodes[node].due_at, now)

    def due(self) -> list[str]:
        """The failing nodes whose backoff has passed and that are not being probed."""
        if not self.failing:
            return []
        now = self._clock.now()
        with self._lock:
            return [
                node
                for node in self.failing
                if self._nodes[node].state is NodeState.FAILING and self._nodes[node].due_at <= now
            ]

    def begin_probe(self, node: str) -> int | None:
        """Claim a failing node for a probe: a ticket for ``end_probe``, or None if it is not failing."""
        with self._lock:
            known = self._nodes[node]
            if known.state is not NodeState.FAILING:
                return None
            known.state = NodeState.PROBED
            return known.epoch

    def end_probe(self, node: str, ticket: int, error: str | None, *, gone: bool = False) -> None:
        """End a probe: ``error`` is None if the node responded."""
        with self._lock:
            known = self._nodes[node]
            if known.state is not NodeState.PROBED or known.epoch != ticket:
                return
            if error is None:
                known.state = NodeState.ALIVE
                known.epoch += 1
                known.failures = 0
                known.refused_at = None
                self.failing -= {node}
                self.statistics[node]["resurrections"] += 1
            else:
                known.state = NodeState.FAILING
                known.refused_at = self._clock.now() if gone else None
                known.last_error = error
                self._back_off(known)
                self.statistics[node]["retry_error"] += 1
        if error is None:
            self._notify(node, alive=True, error=None)

    def abandon_probe(self, node: str, ticket: int) -> None:
        """End a probe that has no result."""
        with self._lock:
            known = self._nodes[node]
            if known.state is NodeState.PROBED and known.epoch == ticket:
                known.state = NodeState.FAILING

    def start_anew(self) -> None:
        """Have a child process that was forked go on without the threads that it lacks.

        What they held is free again, and the nodes that they probed are failing.
        """
        self._lock = threading.Lock()
        for known in self._nodes.values():
            if known.state is NodeState.PROBED:
                known.state = NodeState.FAILING

    def begin_wait(self, until: float) -> bool:
        """Note that an operation waits for nodes until then; False if another one waits as long."""
        with self._lock:
            longer = until > self._waited_until + _SAME_WAIT
            if longer:
                self._waited_until = until
        return longer

    def count(self, node: str, counter: str) -> None:
        """Add one to a node's statistics."""
        with self._lock:
            self.statistics[node][counter] += 1

    def take_statistics(self) -> defaultdict[str, dict[str, int]]:
        """Return the statistics since the last call, and start again at zero."""
        with self._lock:
            taken, self.statistics = self.statistics, defaultdict(new_counters)
        return taken

    def is_gone(self, node: str, since: float = float("-inf")) -> bool:
        """Whether a failing node refused the last connection, at ``since`` or later."""
        refused_at = self._nodes[node].refused_at
        return refused_at is not None and refused_at >= since

    def last_error(self, node: str) -> str | None:
        """The last error of a node's requests and probes."""
        return self._nodes[node].last_error

    def snapshot(self) -> dict[str, NodeStatus]:
        """Every node, in the order of the list."""
        now = self._clock.now()
        with self._lock:
            return {
                node: NodeStatus(
                    node=redacted(node),
                    state=known.state,
                    gone=known.refused_at is not None,
                    failures=known.failures,
                    last_error=known.last_error,
                    probe_in=max(0.0, known.due_at - now) if known.state is NodeState.FAILING else None,
                )
                for node, known in self._nodes.items()
            }

    def _notify(self, node: str, *, alive: bool, error: str | None) -> None:
        if self._on_change is not None:
            self._on_change(node, alive, error)


class Prober:
    """Probes failing nodes, each in a thread of its own, one probe of a node at a time.

    ``ask`` raises Failure if a node does not respond to a status request within a connect and a read timeout.
    """

    def __init__(self, pool: NodePool, ask: Callable[[str], None], clock: Clock) -> None:
        self._pool = pool
        self._ask = ask
        self._clock = clock
        self._threads: set[threading.Thread] = set()
        self._finished = threading.Event()
        self._closed = False
        self._local: dict[str, BaseException] = {}
        """By node, the error of this machine that prevented its last probe."""

    def start(self, nodes: Iterable[str]) -> None:
        """Start to probe the nodes that are failing and not being probed."""
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
                self._local[node] = error

    def _start_one(self, node: str) -> None:
        ticket = self._pool.begin_probe(node)
        if ticket is None:
            return
        self._local.pop(node, None)
        thread = threading.Thread(target=self._probe, args=(node, ticket), name="qcache-probe", daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except BaseException:
            if thread.ident is None:
                self._threads.discard(thread)
            raise

    def wait(self, nodes: Sequence[str], until: float, check: Callable[[], None]) -> BaseException | None:
        """Return when one of the nodes is alive, when none is being probed, or at ``until``.

        Gives this machine's own error, if one kept a probe from being made and no node is alive.
        """
        while True:
            self._finished.clear()
            states = self._pool.snapshot()
            if any(states[node].alive for node in nodes):
                return None
            left = until - self._clock.now()
            if left <= 0 or not any(states[node].state == "being probed" for node in nodes):
                return next((self._local[node] for node in nodes if node in self._local), None)
            check()
            self._finished.wait(min(left, _SLICE))

    def _probe(self, node: str, ticket: int) -> None:
        try:
            self._ask(node)
        except Failure as failure:
            if failure.outcome is Outcome.LOCAL:
                self._local[node] = failure.cause or failure
            if failure.outcome in (Outcome.CANCELLED, Outcome.LOCAL):
                self._pool.abandon_probe(node, ticket)
            elif failure.outcome in OUTCOMES_OF_LIVING_NODES:
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
        """Forget the threads: a forked child process does not have them."""
        self._threads = set()
        self._local = {}
        self._finished = threading.Event()

    def close(self, timeout: float) -> None:
        """Start no more probes, and wait up to ``timeout`` seconds for those that run."""
        self._closed = True
        end = self._clock.now() + timeout
        for thread in list(self._threads):
            # One that another thread is about to start cannot be joined, and ends with its first request.
            if thread.ident is not None:
                with contextlib.suppress(RuntimeError):
                    thread.join(max(0.0, end - self._clock.now()))
