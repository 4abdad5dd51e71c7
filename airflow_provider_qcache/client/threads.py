"""Asking several nodes at once, for one caller, who may be interrupted and is not to wait for them then."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from airflow_provider_qcache.client.transport import Limit

_MAX_THREADS: Final = 32
_LEAVE_WITHIN: Final = 0.5
"""Seconds an interrupted caller waits for the threads whose requests it ended. A name look-up, or the
caller's own code in a thread, cannot be ended: such a thread is left behind, and ends with that."""

_Item = TypeVar("_Item")
_Got = TypeVar("_Got")


class Call:
    """What one call has in flight in threads of its own, to be ended without ending what others have."""

    __slots__ = ("cancelled", "limits")

    def __init__(self) -> None:
        self.cancelled = False
        self.limits: set[Limit] = set()

    def cancel(self) -> None:
        """End every request of the call; those that begin later end at once. No lock is taken."""
        self.cancelled = True
        # Copying a set is one step of the interpreter, whatever other threads do to it.
        for limit in self.limits.copy():
            limit.cancel()


class Threads:
    """The threads of one call, which their caller can leave when it is interrupted."""

    def __init__(self, works: Iterable[Callable[[], None]], name: str, call: Call) -> None:
        self._call = call
        # Not Thread.join: interrupted, Python 3.11's takes a thread that runs for one that has ended.
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, args=(work,), name=name, daemon=True) for work in works
        ]
        self._left = 0

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            self._ended.put(None)

    def start(self) -> None:
        """Start all of them."""
        for thread in self._threads:
            thread.start()
            self._left += 1

    def wait(self) -> None:
        """Return when all have ended."""
        while self._left:
            self._ended.get()
            self._left -= 1
        for thread in self._threads:
            thread.join()

    def leave(self) -> None:
        """End every request of the call, and wait half a second at most for the threads that made them."""
        self._call.cancel()
        end = time.monotonic() + _LEAVE_WITHIN
        while self._left:
            try:
                self._ended.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                return
            self._left -= 1
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))


def ask_all(items: Sequence[_Item], ask: Callable[[_Item], _Got], call: Call) -> list[_Got]:
    """``ask(item)`` for every item, at once; raises the first item's error when all have ended.

    What interrupts the caller ends the call and is raised within half a second.
    """
    if len(items) == 1:
        return [ask(items[0])]
    waiting = deque(enumerate(items))
    answers: dict[int, _Got] = {}
    errors: dict[int, BaseException] = {}

    def work() -> None:
        while True:
            try:
                number, item = waiting.popleft()
            except IndexError:
                return
            try:
                answers[number] = ask(item)
            except BaseException as error:  # noqa: BLE001  # the caller's
                errors[number] = error

    threads = Threads([work] * min(len(items), _MAX_THREADS), "qcache-all", call)
    try:
        threads.start()
        threads.wait()
    except BaseException:
        waiting.clear()
        threads.leave()
        raise
    if errors:
        raise errors[min(errors)]
    return [answers[number] for number in range(len(items))]
