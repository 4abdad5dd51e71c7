"""Many operations on all nodes at once: a thread and a short queue for each node."""

from __future__ import annotations

import functools
import itertools
import queue
import threading
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from airflow_provider_qcache.client.errors import (
    OperationCancelled,
    QClientException,
    forget_frames,
    shown,
)
from airflow_provider_qcache.client.results import BulkReport, DeleteOutcome, DeleteResult
from airflow_provider_qcache.client.threads import Call, Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from airflow_provider_qcache.client.clock import Clock

_WAITING_PER_NODE: Final = 8
_SLICE: Final = 0.2

_Queue: TypeAlias = "queue.SimpleQueue[tuple[Any, Any] | None]"


class Elsewhere:
    """What an operation still wants of other nodes: it ends when each has had its part.

    ``part(node)`` is done in a thread of that node's own, for several nodes at once; ``finish`` gives the
    result from what the parts gave, by node. A part that raises makes that the operation's error, once all
    have ended; of several the first node's.
    """

    __slots__ = ("finish", "nodes", "part")

    def __init__(
        self,
        nodes: Sequence[str],
        part: Callable[[str], Any],
        finish: Callable[[Mapping[str, Any]], Any],
    ) -> None:
        self.nodes = nodes
        self.part = part
        self.finish = finish


class _Parts:
    """The parts of an operation that are under way."""

    __slots__ = ("ended", "errors", "key", "results", "wanted")

    def __init__(self, key: Any, wanted: Elsewhere) -> None:
        self.key = key
        self.wanted = wanted
        self.results: dict[str, Any] = {}
        self.errors: dict[str, Exception] = {}
        # Taking the next number is one step of the interpreter: one thread alone takes the last.
        self.ended = itertools.count(1)


class _Bulk:
    """One call: what is under way and what came of the rest.

    Nothing is locked but the one who is told: queues hand over, what threads note is one step of the
    interpreter, and the caller, who alone waits for room, looks again after a slice of time whatever it was
    told.
    """

    def __init__(
        self,
        work: Callable[[Any, Any, Mapping[str, threading.Lock]], Any],
        nodes: Sequence[str],
        cancelled: Callable[[], bool],
        call: Call,
        on_done: Callable[[Any, Any], object] | None,
        *,
        elsewhere: bool,
    ) -> None:
        self._on_done = on_done
        self._telling = threading.Lock()
        self._work = work
        self._cancelled = cancelled
        self._call = call
        self._turns = {node: threading.Lock() for node in nodes}
        self._queues: dict[str, _Queue] = {node: queue.SimpleQueue() for node in nodes}
        self._most_waiting = _WAITING_PER_NODE * len(self._queues)
        self._pending: set[Any] = set()
        self._awaited: Any = None
        """The key whose end the caller waits for."""
        self._full = False
        """The caller waits for room: it is told when half of what waits has been taken."""
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.succeeded: dict[Any, Any] = {}
        self.failed: dict[Any, Exception] = {}
        self.told = {True: 0, False: 0}
        """How many succeeded and failed, of those the function was told of."""
        self.stopped = False
        self.ended_by: BaseException | None = None
        self._parts: dict[str, _Queue] = {node: queue.SimpleQueue() for node in nodes} if elsewhere else {}
        """What other nodes' operations want of each node. It has a thread of its own, as a store may keep the
        node's other one for a store timeout."""
        self._ended = itertools.count(1)
        works = [functools.partial(self._serve, waiting) for waiting in self._queues.values()]
        works += [functools.partial(self._serve_parts, waiting) for waiting in self._parts.values()]
        self._threads = Threads(works, "qcache-bulk", call)

    def start(self) -> None:
        """Start a thread for each node."""
        self._threads.start()

    def add(self, node: str, key: Any, content: Any) -> None:
        """Queue one operation, when there is room and no other one on its key is under way."""
        # Two stores of one key could go to two nodes, if one fails between them, and arrive in any order.
        while key in self._pending:
            self._awaited = key
            if key in self._pending:
                self._wait()
        while self._waiting() >= self._most_waiting:
            self._full = True
            if self._waiting() > self._most_waiting // 2:
                self._wait()
        self._check()
        self._pending.add(key)
        self._queues[node].put((key, content))

    def _waiting(self) -> int:
        return sum([waiting.qsize() for waiting in self._queues.values()])

    def _wait(self) -> None:
        self._check()
        try:
            self._news.get(timeout=_SLICE)
        except queue.Empty:
            return

    def _check(self) -> None:
        if self.ended_by is not None:
            raise self.ended_by
        if self._cancelled():
            raise OperationCancelled("many operations: cancelled")

    def refuse(self, key: Any, error: Exception) -> None:
        """Note an operation that was not even begun."""
        self._note(key, error=error)

    def _note(self, key: Any, result: Any = None, error: Exception | None = None) -> None:
        if self._on_done is not None:
            self._tell(self._on_done, key, result if error is None else error, succeeded=error is None)
        elif error is None:
            self.failed.pop(key, None)
            self.succeeded[key] = result
        else:
            self.succeeded.pop(key, None)
            self.failed[key] = error
        self._pending.discard(key)
        if self._awaited == key:
            self._awaited = None
            self._news.put(None)

    def _tell(
        self, on_done: Callable[[Any, Any], object], key: Any, outcome: Any, *, succeeded: bool
    ) -> None:
        with self._telling:
            self.told[succeeded] += 1
            try:
                on_done(key, outcome)
            except BaseException as error:  # noqa: BLE001  # the caller's: what is in flight is told still
                if self.ended_by is None:
                    self.ended_by = error
                self.stopped = True

    def _serve(self, waiting: _Queue) -> None:
        while (item := waiting.get()) is not None:
            if self._full and self._waiting() <= self._most_waiting // 2:
                self._full = False
                self._news.put(None)
            key, content = item
            if self.stopped or self._cancelled():
                self._note(key, error=OperationCancelled(f"{key!r}: not begun"))
                continue
            try:
                result = self._work(key, content, self._turns)
            except BaseException as error:  # noqa: BLE001
                self._note(key, error=self._met(key, error))
            else:
                if isinstance(result, Elsewhere):
                    self._share_out(_Parts(key, result))
                else:
                    self._note(key, result)
            del item, content
        if next(self._ended) == len(self._queues):
            self._release_parts()

    def _met(self, key: Any, error: BaseException) -> Exception:
        """The error of an operation that raised this."""
        if isinstance(error, Exception):
            # Where many fail, their tables are not to stay in memory with the errors.
            forget_frames(error)
            return error
        # The caller's: the thread goes on, for its queue.
        self.ended_by, self.stopped = error, True
        self._call.cancel()
        return OperationCancelled(f"{key!r}: ended by {error!r}")

    def _share_out(self, parts: _Parts) -> None:
        """Queue the parts of an operation; those for whom there is no room are done here and now."""
        here = []
        for node in parts.wanted.nodes:
            if (waiting := self._parts[node]).qsize() < _WAITING_PER_NODE:
                waiting.put((parts, node))
            else:
                here.append(node)
        for node in here:
            self._do_part(parts, node)
        if not parts.wanted.nodes:
            self._finish(parts)

    def _serve_parts(self, waiting: _Queue) -> None:
        while (item := waiting.get()) is not None:
            self._do_part(*item)
            del item

    def _do_part(self, parts: _Parts, node: str) -> None:
        try:
            parts.results[node] = parts.wanted.part(node)
        except BaseException as error:  # noqa: BLE001
            parts.errors[node] = self._met(parts.key, error)
        if next(parts.ended) == len(parts.wanted.nodes):
            self._finish(parts)

    def _finish(self, parts: _Parts) -> None:
        wanted = parts.wanted
        for node in wanted.nodes:
            if node in parts.errors:
                self._note(parts.key, error=parts.errors[node])
                return
        try:
            result = wanted.finish(parts.results)
        except BaseException as error:  # noqa: BLE001
            self._note(parts.key, error=self._met(parts.key, error))
        else:
            self._note(parts.key, result)

    def end(self) -> None:
        """Let every thread end after what is queued for it, and wait for that; raises what ended one."""
        self._release()
        self._threads.wait()
        if self.ended_by is not None:
            raise self.ended_by

    def leave(self) -> None:
        """Begin nothing more, end what is in flight, and wait no longer than that takes."""
        self.stopped = True
        self._release()
        self._release_parts()
        self._threads.leave()

    def _release(self) -> None:
        for waiting in self._queues.values():
            waiting.put(None)

    def _release_parts(self) -> None:
        for waiting in self._parts.values():
            waiting.put(None)


def run_bulk(
    pairs: Iterable[tuple[Any, Any]],
    work: Callable[[Any, Any, Mapping[str, threading.Lock]], Any],
    *,
    nodes: Sequence[str],
    node_for_key: Callable[[Any], str],
    clock: Clock,
    cancelled: Callable[[], bool],
    call: Call | None = None,
    on_done: Callable[[Any, Any], object] | None = None,
    elsewhere: bool = False,
) -> BulkReport:
    """Do ``work(key, content, turns)`` for every pair, each in the thread of its key's node.

    With ``elsewhere`` it may give an Elsewhere. The thread goes on with its next operation then, while the
    parts are done, eight waiting for each node at most: beyond that it does a part itself. An operation on
    the same key begins when all have ended.

    With ``on_done`` nothing is kept: it is told each key with its result, or the Exception, by the threads,
    one at a time. What it raises ends the call, when what is in flight has ended and was told.

    ``turns`` holds a lock for each node: who sends to a node holds its turn, so that a failover joins its
    queue. Raises what ``pairs`` raises, when what is under way has ended, and OperationCancelled. What is no
    Exception, an interrupt say, is raised at once: what is in flight is ended by ``call``.
    """
    started = clock.now()
    bulk = _Bulk(work, nodes, cancelled, call or Call(), on_done, elsewhere=elsewhere)
    try:
        bulk.start()
        try:
            for key, content in pairs:
                try:
                    node = node_for_key(key)
                except QClientException as error:
                    bulk.refuse(key, error)
                    continue
                bulk.add(node, key, content)
        except Exception:
            bulk.stopped = True
            bulk.end()
            raise
        bulk.end()
    except BaseException as error:
        if not isinstance(error, Exception):
            bulk.leave()
        raise
    report = BulkReport(succeeded=bulk.succeeded, failed=bulk.failed, seconds=clock.now() - started)
    if cancelled():
        ended = OperationCancelled(
            f"many operations: cancelled; {len(bulk.succeeded) + bulk.told[True]} had succeeded, "
            f"{len(bulk.failed) + bulk.told[False]} failed"
        )
        ended.report = report
        raise ended
    return report


class GatheredDeletes:
    """Deletes on every node, told one key and node at a time: a DeleteResult once each node has answered."""

    def __init__(self, nodes: Sequence[str], on_done: Callable[[str, Any], object] | None) -> None:
        self._nodes = tuple(nodes)
        self._on_done = on_done
        self._partly: dict[str, dict[str, Any]] = {}
        self.succeeded: dict[str, Any] = {}
        self.failed: dict[str, Exception] = {}

    def note(self, place: tuple[str, str], met: Any) -> None:
        """Take what a delete met on a node: its outcome and the error, or an Exception for the key."""
        key, node = place
        found = self._partly.setdefault(key, {})
        found[node] = met
        if len(found) < len(self._nodes):
            return
        del self._partly[key]
        outcome = self._gathered(key, found)
        if self._on_done is not None:
            self._on_done(key, outcome)
        elif isinstance(outcome, Exception):
            self.failed[key] = outcome
        else:
            self.succeeded[key] = outcome

    def _gathered(self, key: str, found: Mapping[str, Any]) -> DeleteResult | Exception:
        met = {node: found[node] for node in self._nodes}
        for one in met.values():
            if isinstance(one, Exception):
                return one
        result, error = gathered_delete(key, met)
        return result if error is None else error


def gathered_delete(
    key: str, met: Mapping[str, tuple[DeleteOutcome, QClientException | None]]
) -> tuple[DeleteResult, QClientException | None]:
    """What became of a key by what its delete met on each node, and the error that ends it if one does."""
    outcomes = {}
    errors: dict[str, QClientException] = {}
    for node, (outcome, error) in met.items():
        outcomes[shown(node)] = outcome
        if outcome is DeleteOutcome.UNREACHABLE and error is not None:
            errors[shown(node)] = error
    result = DeleteResult(key=key, outcomes=outcomes, errors=errors)
    for error in errors.values():
        # Wrong credentials, say: no node that is down, and not to be taken for one.
        if not error.transient:
            error.result = result
            return result, error
    return result, None
