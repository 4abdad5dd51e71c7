"""How late the machine is: what a limit measured on the wall may be passed by without the client's doing."""

from __future__ import annotations

import threading
import time
from typing import Self

TICK = 0.01
NOTHING = 0.005


class Lateness:
    """Sums, while it is open, by how much a thread that only sleeps was woken late.

    On a quiet machine that is near nothing, so that a bound with it added is as tight as without.
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
            if late > NOTHING:
                self.seconds += late
            before = now

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
