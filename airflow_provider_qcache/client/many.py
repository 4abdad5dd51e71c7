"""Many operations at once: a thread for each node runs the operations on its keys."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from airflow_provider_qcache.client.errors import (
    LocalResourceError,
    NoCacheAvailable,
    OperationCancelled,
    QClientException,
    forget_frames,
    local_resource_error,
    redacted,
)
from airflow_provider_qcache.client.results import BulkReport, DeleteOutcome, DeleteResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from airflow_provider_qcache.client.operation import Operation

_WAITING_PER_NODE: Final = 8
_SLICE: Final = 0.2

_Queue: TypeAlias = "queue.SimpleQueue[tuple[Any, Any] | None]"
_LEAVE_WITHIN: Final = 0.5
"""Seconds an interrupted caller waits for the threads whose requests it cancelled. A thread in a name
look-up, or in the caller's own code, continues until that ends."""

_Item = TypeVar("_Item")
_Got = TypeVar("_Got")


class _Bulk:
    """The state of one call: its threads, its running operations, and the outcomes of the others.

    Only calls of ``on_done`` take a lock. Queues pass operations to the threads, which note an outcome in one
    step of the interpreter; the caller, which alone waits for room in the queues, checks again every 0.2 s.
    """

    def __init__(
        self,
        work: Callable[[Any, Any], Any],
        nodes: Sequence[Any],
        operation: Operation,
        on_done: Callable[[Any, Any], object] | None,
    ) -> None:
        self._on_done = on_done
        self._reporting = threading.Lock()
        self._work = work
        self._operation = operation
        self._queues: dict[Any, _Queue] = {node: queue.SimpleQueue() for node in nodes}
        self._most_waiting = _WAITING_PER_NODE * len(self._queues)
        self._pending: set[Any] = set()
        self._is_ready: Callable[[], bool] | None = None
        """What the caller waits for. A thread after whose step it is true wakes the caller."""
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.succeeded: dict[Any, Any] = {}
        self.failed: dict[Any, Exception] = {}
        self.reported = {True: 0, False: 0}
        """The number of successes and failures that were passed to ``on_done``."""
        self.stopped = False
        self.ended_by: BaseException | None = None
        # Not Thread.join: after an interrupted join, Python 3.11 reports a running thread as ended.
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._running = 0
        self._threads = [
            threading.Thread(target=self._serve, args=(waiting,), name="qcache-bulk", daemon=True)
            for waiting in self._queues.values()
        ]

    def start(self) -> None:
        """Start the threads; raises LocalResourceError if this machine is out of threads."""
        for thread in self._threads:
            try:
                thread.start()
            except RuntimeError as error:
                raise local_resource_error("start a thread for each node", error) from error
            self._running += 1

    def join(self, end: float = float("inf")) -> None:
        """Return when all threads have ended, or at ``end``."""

        def left() -> float | None:
            return None if end == float("inf") else max(0.0, end - time.monotonic())

        while self._running:
            try:
                self._ended.get(timeout=left())
            except queue.Empty:
                return
            self._running -= 1
        for thread in self._threads:
            # A thread that was not started, or whose start was interrupted, cannot be joined.
            with contextlib.suppress(RuntimeError):
                thread.join(left())

    def add(self, node: Any, key: Any, content: Any) -> None:
        """Queue one operation, when there is room and no other operation on its key is running."""
        # If a node fails between two stores of one key, they go to two nodes, and may arrive in any order.
        self._wait_until(lambda: key not in self._pending)
        while self._waiting() >= self._most_waiting:
            # Not for room for one only: the caller would wake at every operation. But most of them may wait
            # for one slow node, while the others have nothing to do.
            self._wait_until(lambda: self._waiting() <= self._most_waiting // 2, or_a_slice=True)
        self._check()
        self._pending.add(key)
        self._queues[node].put((key, content))

    def _waiting(self) -> int:
        return sum([waiting.qsize() for waiting in self._queues.values()])

    def _wait_until(self, is_ready: Callable[[], bool], *, or_a_slice: bool = False) -> None:
        self._is_ready = is_ready
        while not is_ready():
            self._check()
            try:
                self._wake.get(timeout=_SLICE)
            except queue.Empty:
                if or_a_slice:
                    break
        self._is_ready = None

    def _wake_caller(self) -> None:
        is_ready = self._is_ready
        if is_ready is not None and is_ready():
            self._wake.put(None)

    def _check(self) -> None:
        if self.ended_by is not None:
            raise self.ended_by
        if self._operation.cancelled:
            raise OperationCancelled("many operations: cancelled")

    def note(self, key: Any, result: Any = None, error: Exception | None = None) -> None:
        if self._on_done is not None:
            with self._reporting:
                self.reported[error is None] += 1
                try:
                    self._on_done(key, result if error is None else error)
                except BaseException as raised:  # noqa: BLE001  # raised when the call ends
                    if self.ended_by is None:
                        self.ended_by = raised
                    self.stopped = True
        elif error is None:
            self.failed.pop(key, None)
            self.succeeded[key] = result
        else:
            self.succeeded.pop(key, None)
            self.failed[key] = error
        self._pending.discard(key)
        self._wake_caller()

    def _serve(self, waiting: _Queue) -> None:
        try:
            while (item := waiting.get()) is not None:
                self._wake_caller()
                self._do(*item)
                del item  # with its content, while this thread waits for the next one
        finally:
            self._ended.put(None)

    def _do(self, key: Any, content: Any) -> None:
        if self.stopped or self._operation.cancelled:
            self.note(key, error=OperationCancelled(f"{key!r}: cancelled before it began"))
            return
        try:
            result = self._work(key, content)
        except Exception as error:  # noqa: BLE001
            # The errors of many operations must not keep their tables in memory.
            forget_frames(error)
            del content  # this frame is not cleared, since it runs
            self.note(key, error=error)
        except BaseException as error:  # noqa: BLE001
            # The caller raises it. This thread continues, to empty its queue.
            self.ended_by, self.stopped = error, True
            self._operation.cancel()
            self.note(key, error=OperationCancelled(f"{key!r}: ended by {error!r}"))
        else:
            self.note(key, result)

    def end(self) -> None:
        """Wait until the threads have emptied their queues; raises what ended the call."""
        self._release()
        self.join()
        if self.ended_by is not None:
            raise self.ended_by

    def abandon(self) -> None:
        """Begin no more operations, cancel the running ones, and do not wait for the threads."""
        self.stopped = True
        self._operation.cancel()
        self._release()

    def _release(self) -> None:
        for waiting in self._queues.values():
            waiting.put(None)


def run_bulk(
    pairs: Iterable[tuple[Any, Any]],
    work: Callable[[Any, Any], Any],
    nodes: Sequence[Any],
    node_for_key: Callable[[Any], Any],
    operation: Operation,
    on_done: Callable[[Any, Any], object] | None = None,
) -> BulkReport:
    """Do ``work(key, content)`` for every pair, each in the thread of its key's node.

    An operation on a key begins when the one before it on the same key has ended. With ``on_done`` the report
    is empty: the threads call it with each key and its result or Exception, one at a time. An error that it
    raises ends the call, after the running operations have ended and were reported.

    Raises OperationCancelled, and what ``pairs`` raises, after the running operations have ended. An
    interrupt (a BaseException) is raised at once, and cancels the running operations.
    """
    started = time.monotonic()
    bulk = _Bulk(work, nodes, operation, on_done)
    # An interrupt may come at any line, also while another one is handled. Then the finalizer of an object
    # that exists as long as this frame ends the threads.
    of_this_frame: set[None] = set()
    weakref.finalize(of_this_frame, bulk.abandon).atexit = False
    try:
        bulk.start()
        try:
            for key, content in pairs:
                try:
                    node = node_for_key(key)
                except QClientException as error:
                    bulk.note(key, error=error)
                    continue
                bulk.add(node, key, content)
        except Exception:
            bulk.stopped = True
            bulk.end()
            raise
        bulk.end()
    except BaseException:
        bulk.abandon()
        bulk.join(time.monotonic() + _LEAVE_WITHIN)
        raise
    report = BulkReport(succeeded=bulk.succeeded, failed=bulk.failed, seconds=time.monotonic() - started)
    if operation.cancelled:
        ended = OperationCancelled(
            f"many operations: cancelled; {len(bulk.succeeded) + bulk.reported[True]} succeeded, "
            f"{len(bulk.failed) + bulk.reported[False]} failed"
        )
        ended.report = report
        raise ended
    return report


def ask_all(items: Sequence[_Item], ask: Callable[[_Item], _Got], operation: Operation) -> list[_Got]:
    """Return ``ask(item)`` for every item, all at once; raises the first item's error when all have ended.

    Raises OperationCancelled if the operation was cancelled. An interrupt of the caller cancels the
    operation, and is raised within half a second.
    """
    pairs = ((item, None) for item in items)
    report: Any = run_bulk(pairs, lambda item, _: ask(item), items, lambda item: item, operation)
    for item in items:
        if item in report.failed:
            raise report.failed[item]
    return [report.succeeded[item] for item in items]


def gathered_delete(
    key: str, by_node: Mapping[str, tuple[DeleteOutcome, QClientException | None] | Exception]
) -> DeleteResult | Exception:
    """A key's result from the outcome and error on each node, or the error to raise, which has the result."""
    outcomes = {}
    errors: dict[str, QClientException] = {}
    for node, found in by_node.items():
        if isinstance(found, Exception):
            return found
        outcomes[redacted(node)], error = found
        if found[0] is DeleteOutcome.UNREACHABLE and error is not None:
            errors[redacted(node)] = error
    result = DeleteResult(key=key, outcomes=outcomes, errors=errors)
    # Wrong credentials, say: the node is up.
    raised = next((error for error in errors.values() if not error.transient), None)
    if raised is None and result.confirmed:
        return result
    if raised is None:
        local = (error for error in errors.values() if isinstance(error, LocalResourceError))
        raised = next(local, None) or _unconfirmed_delete(result)
    raised.result = result
    return raised


def _unconfirmed_delete(result: DeleteResult) -> NoCacheAvailable:
    """The error for a delete that no node confirmed. A wrong port refuses connections, too."""
    refused, others = len(result.gone), len(result.unreachable)
    counts = [f"{refused} refused the connection"] * bool(refused)
    counts += [f"{others} could not be reached"] * bool(others)
    return NoCacheAvailable(
        f"delete table {result.key!r}: no node confirmed the delete: of {len(result.outcomes)} nodes "
        f"{' and '.join(counts)}. Check that the nodes run, and that their addresses are right: a wrong port "
        "refuses connections as well.",
        attempts=[attempt for error in result.errors.values() for attempt in error.attempts],
        nodes={
            node: "connection refused" if outcome is DeleteOutcome.GONE else _unreachable(node, result)
            for node, outcome in result.outcomes.items()
        },
    )


def _unreachable(node: str, result: DeleteResult) -> str:
    error = result.errors[node]
    why = error.nodes.get(node) if isinstance(error, NoCacheAvailable) else None
    if why is None:
        why = error.attempts[-1].reason if error.attempts else str(error).partition("\n")[0]
    return f"unreachable: {why}" if why else "unreachable"
