"""What the task log is told: each failover, and the node that an operation ended on."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from airflow_provider_qcache.client import Listener

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterable, Iterator

    from airflow_provider_qcache.client import Attempt, QClient, StoreResult


class _Way(threading.local):
    """The operation a thread is in: what it is, its last failed request, and the node that answered."""

    what: str | None = None
    last: Attempt | None = None
    node: str | None = None

    def begin(self, what: str | None) -> None:
        self.what, self.last, self.node = what, None, None


class Failovers(Listener):
    """Logs failovers at info, and of an operation that met none, nothing."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._way = _Way()

    def attempt_failed(self, attempt: Attempt) -> None:
        """A request failed; where the one before it went to another node, that was a failover."""
        way = self._way
        if way.what is not None:
            self._tell(way.what, way.last, attempt.node)
            way.last = attempt

    @contextlib.contextmanager
    def of(self, what: str, client: QClient, key: str) -> Iterator[_Way]:
        """Follow an operation on one key; ``node`` of what this gives is the node that answered, if known."""
        way = self._way
        way.begin(what)
        try:
            yield way
            self._end(what, way.last, way.node or _first_living(client, key), client.node_for_key(key))
        finally:
            way.begin(None)

    def tell_of_store(self, result: StoreResult) -> None:
        """Tell of a store that is over."""
        what = f"store table {result.key!r}"
        last = None
        for attempt in result.attempts:
            self._tell(what, last, attempt.node)
            last = attempt
        self._end(what, last, result.node, result.home_node)

    def tell_of_failed_store(self, key: str, error: Exception) -> None:
        """Tell of a store that no node acknowledged."""
        last = None
        for attempt in getattr(error, "attempts", ()):
            self._tell(f"store table {key!r}", last, attempt.node)
            last = attempt

    def _end(self, what: str, last: Attempt | None, node: str, home: str) -> None:
        self._tell(what, last, node)
        if node != home:
            self._log.info("%s: done by %s in place of its home node %s", what, node, home)

    def _tell(self, what: str, last: Attempt | None, node: str) -> None:
        if last is not None and last.node != node:
            self._log.info("%s: failed over from %s (%s) to %s", what, last.node, last.outcome, node)


def _first_living(client: QClient, key: str) -> str:
    order: Iterable[str] = client.successors(key)
    status = client.node_status()
    return next((node for node in order if status[node].alive), client.node_for_key(key))
