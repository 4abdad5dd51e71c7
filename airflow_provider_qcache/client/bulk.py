"""Many operations on all nodes at once: a thread and a short queue for each node."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.client.errors import OperationCancelled, QClientException, forget_frames
from airflow_provider_qcache.client.results import BulkReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from airflow_provider_qcache.client.clock import Clock

_WAITING_PER_NODE: Final = 8
_SLICE: Final = 0.2


class _Bulk:
    """One call: what is under way and what came of the rest."""

    def __init__(
        self,
        work: Callable[[str, Any, Mapping[str, threading.Lock]], Any],
        nodes: Sequence[str],
        cancelled: Callable[[], bool],
    ) -> None:
        self._work = work
        self._cancelled = cancelled
        self._turns = {node: threading.Lock() for node in nodes}
        self._queues: dict[str, queue.Queue[tuple[str, Any] | None]] = {
            node: queue.Queue(_WAITING_PER_NODE) for node in nodes
        }
        self._changed = threading.Condition()
        self._pending: set[str] = set()
        self.succeeded: dict[str, Any] = {}
        self.failed: dict[str, Exception] = {}
        self.stopped = False
        self.ended_by: BaseException | None = None
        self.threads = [
            threading.Thread(target=self._serve, args=(waiting,), name="qcache-bulk", daemon=True)
            for waiting in self._queues.values()
        ]

    def add(self, node: str, key: str, content: Any) -> None:
        """Queue one operation, when there is room and no other one on its key is under way."""
        with self._changed:
            # Two stores of one key could go to two nodes, if one fails between them, and arrive in any order.
            while key in self._pending:
                self._changed.wait(_SLICE)
            self._pending.add(key)
        while True:
            self._check()
            try:
                self._queues[node].put((key, content), timeout=_SLICE)
            except queue.Full:
                continue
            return

    def _check(self) -> None:
        if self.ended_by is not None:
            raise self.ended_by
        if self._cancelled():
            raise OperationCancelled("many operations: cancelled")

    def refuse(self, key: str, error: Exception) -> None:
        """Note an operation that was not even begun."""
        self._note(key, error=error)

    def _note(self, key: str, result: Any = None, error: Exception | None = None) -> None:
        with self._changed:
            if error is None:
                self.failed.pop(key, None)
                self.succeeded[key] = result
            else:
                self.succeeded.pop(key, None)
                self.failed[key] = error
            self._pending.discard(key)
            self._changed.notify_all()

    def _serve(self, waiting: queue.Queue[tuple[str, Any] | None]) -> None:
        while (item := waiting.get()) is not None:
            key, content = item
            if self.stopped or self._cancelled():
                self._note(key, error=OperationCancelled(f"{key!r}: not begun"))
                continue
            try:
                result = self._work(key, content, self._turns)
            except Exception as error:  # noqa: BLE001  # it is in the report
                # Where many fail, their tables are not to stay in memory with the errors.
                forget_frames(error)
                self._note(key, error=error)
            except BaseException as error:  # noqa: BLE001  # the caller's: the thread goes on, for its queue
                self.ended_by, self.stopped = error, True
                self._note(key, error=OperationCancelled(f"{key!r}: ended by {error!r}"))
            else:
                self._note(key, result)
            del item, content

    def end(self) -> None:
        """Let every thread end after what is queued for it, and wait for that."""
        self.release()
        for thread in self.threads:
            thread.join()

    def release(self) -> None:
        """Let every thread end after what is queued for it."""
        for waiting, thread in zip(self._queues.values(), self.threads, strict=True):
            while thread.is_alive():
                try:
                    waiting.put(None, timeout=_SLICE)
                except queue.Full:
                    continue
                break


def run_bulk(
    pairs: Iterable[tuple[str, Any]],
    work: Callable[[str, Any, Mapping[str, threading.Lock]], Any],
    *,
    nodes: Sequence[str],
    node_for_key: Callable[[str], str],
    clock: Clock,
    cancelled: Callable[[], bool],
) -> BulkReport:
    """Do ``work(key, content, turns)`` for every pair, each in the thread of its key's node.

    ``turns`` holds a lock for each node: who sends to a node holds its turn, so that a failover joins its
    queue. Raises what ``pairs`` raises, when what is under way has ended, and OperationCancelled.
    """
    started = clock.now()
    bulk = _Bulk(work, nodes, cancelled)
    for thread in bulk.threads:
        thread.start()
    try:
        for key, content in pairs:
            try:
                node = node_for_key(key)
            except QClientException as error:
                bulk.refuse(key, error)
                continue
            bulk.add(node, key, content)
    except BaseException:
        bulk.stopped = True
        bulk.end()
        raise
    try:
        bulk.end()
    except BaseException:
        bulk.stopped = True  # what waits in the queues is not begun
        raise
    if bulk.ended_by is not None:
        raise bulk.ended_by
    if cancelled():
        raise OperationCancelled(
            f"many operations: cancelled; {len(bulk.succeeded)} had succeeded, {len(bulk.failed)} failed"
        )
    return BulkReport(succeeded=bulk.succeeded, failed=bulk.failed, seconds=clock.now() - started)
