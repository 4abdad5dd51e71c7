"""How late the machine runs threads: tests add it to limits of wall-clock time."""

from __future__ import annotations

import threading
import time
from typing import Self

TICK = 0.01
NEGLIGIBLE = 0.005


class Lateness:
    """Sums, while it is open, how much later than asked a sleeping thread was woken.

    On an idle machine the sum is nearly 0, so that adding it to a limit does not loosen the limit.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._over.wait(TICK):
            now = time.monotonic()
            late = now - before - TICK
            if late > NEGLIGIBLE:
                self.seconds += late
            before = now

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
