"""The state of each node (alive, failing, being probed), and the probes.

NodePool does no I/O. Prober asks failing nodes for their status in the background, so that operations on
other nodes do not wait for them.
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

    from airflow_provider_qcache.client.settings import SystemClock
    from airflow_provider_qcache.client.transport import Limit

PROBE_EVERY: Final = 10
"""The number of operations after which failing nodes are due for a probe, as in qclient."""

_BACKOFF_INITIAL: Final = 0.5
_BACKOFF_MAX: Final = 30.0
"""Seconds: the first, and the longest, time until a failing node is due for a probe."""

_SLICE: Final = 0.05
"""Seconds between two checks of a wait for probes."""

_SAME_WAIT: Final = 1.0
"""Seconds: of two waits for nodes whose ends differ by less, only the first is logged."""


class NodeState(enum.StrEnum):
    """The states of a node."""

    ALIVE = "alive"
    FAILING = "failing"
    PROBED = "being probed"


@dataclasses.dataclass(frozen=True, slots=True)
class NodeStatus(Plain):
    """A node as the client knows it.

    ``gone`` says that the node refused the last connection: its process has ended, and its tables are lost.
    ``failures`` counts failures and failed probes since it was last alive, ``last_error`` is the last of
    them, and ``probe_in`` the seconds until the next probe.
    """

    node: str
    state: NodeState
    gone: bool
    failures: int
    last_error: str | None
    probe_in: float | None

    @property
    def alive(self) -> bool:
        """Whether the client sends requests to it."""
        return self.state is NodeState.ALIVE


def new_counters() -> dict[str, int]:
    """One node's statistics, by qclient's names."""
    names = "connect_timeout connection_error read_timeout unknown_error resurrections retry_error"
    return dict.fromkeys(names.split(), 0)


@dataclasses.dataclass(slots=True)
class _Node:
    state: NodeState = NodeState.ALIVE
    epoch: int = 0
    failures: int = 0
    due_at: float = 0.0
    refused_at: float | None = None
    """When the node refused the last connection; None if it did not."""
    last_error: str | None = None


class NodePool:
    """The states of all nodes.

    A failing node is due for a probe after min(30, 0.5 x 2^(n-1)) seconds, where n counts its failures and
    failed probes in a row, times a random factor between a half and one. Every tenth operation makes it due
    at once. Thread-safe; no I/O is done under its lock.
    """

    def __init__(
        self,
        nodes: Iterable[str],
        *,
        clock: SystemClock,
        rng: random.Random,
        on_change: Callable[[str, bool, str | None], None] = lambda *_: None,
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._on_change = on_change
        self._lock = threading.Lock()
        self._nodes = {node: _Node() for node in nodes}
        self._operations = itertools.count(1)
        self._waited_until = float("-inf")
        self.failing: frozenset[str] = frozenset()
        """The nodes that get no requests; replaced, never changed, so that it is read without the lock."""
        self.abandoned_writes: dict[str, set[Limit]] = {node: set() for node in self._nodes}
        """The abandoned stores and deletes of each node that it may still apply. The interpreter adds to a
        set in one step, so that no lock is needed, also in a signal handler."""
        self.statistics: defaultdict[str, dict[str, int]] = defaultdict(new_counters)

    def ticket(self, node: str) -> int:
        """A number for ``fail``, taken when a request begins. It changes when the node fails or recovers."""
        return self._nodes[node].epoch

    def fail(self, node: str, ticket: int, error: str, *, gone: bool = False) -> None:
        """Mark a node as failing, unless the request began before the node last failed or recovered."""
        with self._lock:
            known = self._nodes[node]
            if known.epoch != ticket or known.state is not NodeState.ALIVE:
                return
            known.epoch += 1
            self._failed(known, error, gone=gone)
            self.failing |= {node}
        self._on_change(node, False, error)  # noqa: FBT003

    def _failed(self, known: _Node, error: str, *, gone: bool) -> None:
        known.state = NodeState.FAILING
        known.refused_at = self._clock.now() if gone else None
        known.last_error = error
        known.failures += 1
        delay = min(_BACKOFF_MAX, _BACKOFF_INITIAL * 2.0 ** min(known.failures - 1, 60))
        known.due_at = self._clock.now() + delay * self._rng.uniform(0.5, 1.0)

    def operation(self) -> list[str]:
        """Count an operation; returns the failing nodes that are due for a probe: at every tenth, all."""
        tenth = next(self._operations) % PROBE_EVERY == 0
        due: list[str] = []
        if not self.failing:
            return due
        now = self._clock.now()
        with self._lock:
            for node in self.failing:
                known = self._nodes[node]
                if tenth:
                    known.due_at = min(known.due_at, now)
                if known.state is NodeState.FAILING and known.due_at <= now:
                    due.append(node)
        return due

    def begin_probe(self, node: str) -> int | None:
        """Begin to probe a failing node: a ticket for ``end_probe``, or None if the node is not failing."""
        with self._lock:
            known = self._nodes[node]
            if known.state is not NodeState.FAILING:
                return None
            known.state = NodeState.PROBED
            return known.epoch

    def end_probe(self, node: str, ticket: int, failure: Failure | None) -> bool | None:
        """End a probe by its failure, if any: whether the node is alive, or None if that is unknown."""
        if failure is not None and failure.outcome in (Outcome.CANCELLED, Outcome.LOCAL):
            self.abandon_probe(node, ticket)
            return None
        alive = failure is None or failure.outcome in OUTCOMES_OF_LIVING_NODES
        with self._lock:
            known = self._nodes[node]
            if known.state is not NodeState.PROBED or known.epoch != ticket:
                return alive
            if failure is None or alive:
                known.state = NodeState.ALIVE
                known.epoch += 1
                known.failures = 0
                known.refused_at = None
                self.failing -= {node}
                self.statistics[node]["resurrections"] += 1
            else:
                gone = failure.outcome is Outcome.REFUSED
                self._failed(known, f"status request: {failure.reason}", gone=gone)
                self.statistics[node]["retry_error"] += 1
        if alive:
            self._on_change(node, True, None)  # noqa: FBT003
        return alive

    def abandon_probe(self, node: str, ticket: int) -> None:
        """End a probe without a result: the node is what it was."""
        with self._lock:
            known = self._nodes[node]
            if known.state is NodeState.PROBED and known.epoch == ticket:
                known.state = NodeState.FAILING

    def reset_after_fork(self) -> None:
        """Free the lock and end the probes of threads that a forked child process does not have."""
        self._lock = threading.Lock()
        for known in self._nodes.values():
            if known.state is NodeState.PROBED:
                known.state = NodeState.FAILING

    def begin_wait(self, until: float) -> bool:
        """Note that an operation waits for nodes until then: False if another operation waits as long."""
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


class Prober:
    """Probes failing nodes, each in a thread of its own, one probe of a node at a time.

    ``ask`` raises Failure if a node does not respond to a status request within a connect and a read timeout.
    """

    def __init__(self, pool: NodePool, ask: Callable[[str], None], clock: SystemClock) -> None:
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
            thread = None
            try:
                ticket = self._pool.begin_probe(node)
                if ticket is None:
                    continue
                self._local.pop(node, None)
                arguments = (node, ticket)
                thread = threading.Thread(
                    target=self._probe, args=arguments, name="qcache-probe", daemon=True
                )
                self._threads.add(thread)
                thread.start()
            except BaseException as error:
                # The thread may have started or not. If it has, its result is ignored.
                self._pool.abandon_probe(node, epoch)
                if thread is not None and thread.ident is None:
                    self._threads.discard(thread)
                # RuntimeError: the interpreter is ending, or the machine has no thread left.
                if not isinstance(error, RuntimeError):
                    raise
                self._local[node] = error

    def wait(self, nodes: Sequence[str], until: float, check: Callable[[], None]) -> BaseException | None:
        """Return when one of the nodes is alive, when none is being probed, or at ``until``.

        Returns this machine's own error if it prevented a probe and no node is alive, else None.
        """
        while True:
            self._finished.clear()
            states = self._pool.snapshot()
            if any(states[node].alive for node in nodes):
                return None
            left = until - self._clock.now()
            if left <= 0 or not any(states[node].state is NodeState.PROBED for node in nodes):
                return next((self._local[node] for node in nodes if node in self._local), None)
            check()
            self._finished.wait(min(left, _SLICE))

    def _probe(self, node: str, ticket: int) -> None:
        try:
            self._ask(node)
        except Failure as failure:
            if failure.outcome is Outcome.LOCAL:
                self._local[node] = failure.cause or failure
            self._pool.end_probe(node, ticket, failure)
        except BaseException:
            self._pool.abandon_probe(node, ticket)
            raise
        else:
            self._pool.end_probe(node, ticket, None)
        finally:
            self._threads.discard(threading.current_thread())
            self._finished.set()

    def reset_after_fork(self) -> None:
        """Forget the threads, which a forked child process does not have."""
        self._threads = set()
        self._local = {}
        self._finished = threading.Event()

    def close(self, timeout: float) -> None:
        """Start no more probes, and wait up to ``timeout`` seconds for those that run."""
        self._closed = True
        end = self._clock.now() + timeout
        for thread in list(self._threads):
            # A thread that is about to start cannot be joined, and ends with its first request.
            with contextlib.suppress(RuntimeError):
                thread.join(max(0.0, end - self._clock.now()))
