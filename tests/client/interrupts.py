"""Interrupts a caller with an exception that is no Exception, as Airflow's task timeout does."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


class Interrupted(BaseException):
    """Stands for Airflow's task timeout."""


@contextlib.contextmanager
def interrupted_after(seconds: float, error: BaseException | None = None) -> Iterator[None]:
    """Raise `Interrupted` or the error in the main thread after that time, unless the block has ended."""

    def interrupt(*_: object) -> None:
        raise error or Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
