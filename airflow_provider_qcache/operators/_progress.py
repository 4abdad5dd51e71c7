"""What a long task says while it runs."""

from __future__ import annotations

import contextvars
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRESS_EVERY = 5.0
"""Seconds between two lines of progress in the task log, and two records of what is stored."""


def shown_time(seconds: float) -> str:
    """A time, for people: '12 s', '7 min', '2.5 h'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes / 60:.1f} h"


class Ticker:
    """Calls a function every few seconds while a block runs, whatever the block waits for."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._over = threading.Event()
        # What the task's log knows of its task.
        known = contextvars.copy_context()
        self._thread = threading.Thread(
            target=known.run, args=(self._run,), name="qcache-progress", daemon=True
        )

    def _run(self) -> None:
        while not self._over.wait(PROGRESS_EVERY):
            self._tick()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join(timeout=2 * PROGRESS_EVERY)
