"""What the task log is told: each failover, and the node that an operation ended on."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from airflow_provider_qcache.client import ClientClosed, Listener, QClientException

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable, Iterator

    from airflow_provider_qcache.client import Attempt, QClient, StoreResult


class Way:
    """An operation: what it is, its last failed request, and the node that answered, where that is known."""

    __slots__ = ("last", "node", "what")

    def __init__(self, what: str) -> None:
        self.what = what
        self.last: Attempt | None = None
        self.node: str | None = None


class _Current(threading.local):
    """The operation that a thread is in."""

    way: Way | None = None


class Failovers(Listener):
    """Logs failovers at info, and of an operation that met none, nothing."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._current = _Current()

    def attempt_failed(self, attempt: Attempt) -> None:
        """A request failed; where the one before it went to another node, that was a failover."""
        way = self._current.way
        if way is not None:
            self._tell(way.what, way.last, attempt.node)
            way.last = attempt

    @contextlib.contextmanager
    def of(self, what: str, client: QClient, key: str) -> Iterator[Way]:
        """Follow an operation on one key; what this gives is to be told the node that answered."""
        current = self._current
        outer, way = current.way, Way(what)
        current.way = way
        try:
            yield way
        finally:
            current.way = outer
        node = way.node or _first_living(client, key)
        if node is not None:
            self._end(what, way.last, node, client.node_for_key(key))

    def told(self, key: str, store: Callable[[], StoreResult]) -> StoreResult:
        """Store a table, and tell of it."""
        try:
            result = store()
        except QClientException as error:
            self.tell_of_failed_store(key, error)
            raise
        self.tell_of_store(result)
        return result

    def tell_of_store(self, result: StoreResult) -> None:
        """Tell of a store that is over."""
        what = f"store table {result.key!r}"
        last = self._tell_of_attempts(what, result.attempts)
        self._end(what, last, result.node, result.home_node)

    def tell_of_failed_store(self, key: str, error: Exception) -> None:
        """Tell of a store that no node acknowledged."""
        self._tell_of_attempts(f"store table {key!r}", getattr(error, "attempts", ()))

    def _tell_of_attempts(self, what: str, attempts: Iterable[Attempt]) -> Attempt | None:
        last = None
        for attempt in attempts:
            self._tell(what, last, attempt.node)
            last = attempt
        return last

    def _end(self, what: str, last: Attempt | None, node: str, home: str) -> None:
        self._tell(what, last, node)
        if node != home:
            self._log.info("%s: done by %s in place of its home node %s", what, node, home)

    def _tell(self, what: str, last: Attempt | None, node: str) -> None:
        if last is not None and last.node != node:
            self._log.info("%s: failed over from %s (%s) to %s", what, last.node, last.outcome, node)


def _first_living(client: QClient, key: str) -> str | None:
    """The node a key is looked for on now: that of an operation whose result does not name it."""
    try:
        status = client.node_status()
    except ClientClosed:
        return None
    return next((node for node in client.successors(key) if status[node].alive), None)
