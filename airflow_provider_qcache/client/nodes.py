"""What the client knows of each node: alive, failing until a time, or being probed. No I/O is done here."""

from __future__ import annotations

import dataclasses
import enum
import itertools
import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from airflow_provider_qcache.client.errors import shown

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable

    from airflow_provider_qcache.client.clock import Clock

PROBE_EVERY: Final = 10
"""Every so many operations make failing nodes due for a probe, as in qclient."""


class NodeState(enum.StrEnum):
    """What a node is to the client."""

    ALIVE = "alive"
    FAILING = "failing"
    PROBED = "being probed"


@dataclasses.dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node as the client knows it.

    ``gone`` says that the last thing it did was to refuse the connection: its process, and so every table it
    held, is gone. ``last_error`` is the last thing that made it fail, ``probe_in`` the seconds until it is
    probed again.
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
        """When the node refused a connection, if that is the last thing it did."""
        self.last_error: str | None = None


class NodePool:
    """The states of all nodes.

    A failing node is due for a probe after min(backoff_max, backoff_initial x 2^(n-1)) seconds, n the
    incidents and failed probes in a row, times a random factor between a half and one; every tenth operation
    makes it due at once. Thread-safe: one lock, held for no more than these lines.
    """

    def __init__(
        self,
        nodes: Iterable[str],
        *,
        clock: Clock,
        rng: random.Random,
        backoff_initial: float = 0.5,
        backoff_max: float = 30.0,
        on_change: Callable[[str, bool, str | None], None] | None = None,
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._backoff_initial = backoff_initial
        self._backoff_max = backoff_max
        self._on_change = on_change
        self._lock = threading.Lock()
        self._nodes = {node: _Node() for node in nodes}
        self._operations = itertools.count(1)
        self.failing: frozenset[str] = frozenset()
        """The nodes no request is sent to; replaced, never changed, so that it is read without the lock."""
        self.unsettled: dict[str, int] = {}
        """The nodes that were sent a store or a delete which was then given up, and may act on it yet, with a
        number that each such one makes another."""
        self._given_up = itertools.count(1)
        self.statistics: defaultdict[str, dict[str, int]] = defaultdict(new_counters)

    def ticket(self, node: str) -> int:
        """Taken when a request begins, for ``fail``: tells a new incident from one that is over."""
        return self._nodes[node].epoch

    def fail(self, node: str, ticket: int, error: str, *, gone: bool = False) -> bool:
        """Note that a request failed; False where it began before the node last failed or came back."""
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
        self._tell(node, alive=False, error=error)
        return True

    def _back_off(self, known: _Node) -> None:
        known.failures += 1
        delay = min(self._backoff_max, self._backoff_initial * 2.0 ** min(known.failures - 1, 60))
        known.due_at = self._clock.now() + delay * self._rng.uniform(0.5, 1.0)

    def operation(self) -> None:
        """Note that an operation starts: every tenth makes the failing nodes due."""
        if next(self._operations) % PROBE_EVERY == 0 and self.failing:
            now = self._clock.now()
            with self._lock:
                for node in self.failing:
                    self._nodes[node].due_at = min(self._nodes[node].due_at, now)

    def due(self) -> list[str]:
        """The failing nodes whose backoff has passed and whom nobody probes."""
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
        """Claim a failing node for a probe: a ticket for ``end_probe``, or None if there is none to claim."""
        with self._lock:
            known = self._nodes[node]
            if known.state is not NodeState.FAILING:
                return None
            known.state = NodeState.PROBED
            return known.epoch

    def end_probe(self, node: str, ticket: int, error: str | None, *, gone: bool = False) -> None:
        """Note what a probe met: None where the node answered."""
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
            self._tell(node, alive=True, error=None)

    def abandon_probe(self, node: str, ticket: int) -> None:
        """Note that a probe was given up without a result."""
        with self._lock:
            known = self._nodes[node]
            if known.state is NodeState.PROBED and known.epoch == ticket:
                known.state = NodeState.FAILING

    def unsettle(self, node: str) -> None:
        """Note that a store or a delete was given up that had been sent, or partly."""
        with self._lock:
            self.unsettled[node] = next(self._given_up)

    def settle(self, node: str, given_up: int | None) -> None:
        """Note that a node has answered what came after the store or delete of that number."""
        with self._lock:
            if given_up is not None and self.unsettled.get(node) == given_up:
                del self.unsettled[node]

    def start_anew(self) -> None:
        """Have a child process that was forked go on without the threads that it lacks.

        What they held is free again, and the nodes that they probed are failing.
        """
        self._lock = threading.Lock()
        for known in self._nodes.values():
            if known.state is NodeState.PROBED:
                known.state = NodeState.FAILING

    def count(self, node: str, counter: str) -> None:
        """Add one to a node's statistics."""
        with self._lock:
            self.statistics[node][counter] += 1

    def take_statistics(self) -> defaultdict[str, dict[str, int]]:
        """The statistics since this was last called, which start again at nothing."""
        with self._lock:
            taken, self.statistics = self.statistics, defaultdict(new_counters)
        return taken

    def is_gone(self, node: str, since: float = float("-inf")) -> bool:
        """Whether the last thing a failing node did was to refuse the connection, at ``since`` or later."""
        refused_at = self._nodes[node].refused_at
        return refused_at is not None and refused_at >= since

    def last_error(self, node: str) -> str | None:
        """The last thing that made a node fail, or a probe of it."""
        return self._nodes[node].last_error

    def snapshot(self) -> dict[str, NodeStatus]:
        """Every node, in the order of the list."""
        now = self._clock.now()
        with self._lock:
            return {
                node: NodeStatus(
                    node=shown(node),
                    state=known.state,
                    gone=known.refused_at is not None,
                    failures=known.failures,
                    last_error=known.last_error,
                    probe_in=max(0.0, known.due_at - now) if known.state is NodeState.FAILING else None,
                )
                for node, known in self._nodes.items()
            }

    def _tell(self, node: str, *, alive: bool, error: str | None) -> None:
        if self._on_change is not None:
            self._on_change(node, alive, error)
