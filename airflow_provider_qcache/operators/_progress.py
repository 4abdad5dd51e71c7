"""What a long task says while it runs, and where it fails."""

from __future__ import annotations

import contextvars
import threading
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.operators._arguments import counted

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping

PROGRESS_EVERY = 5.0
"""Seconds between two lines of progress in the task log, and two records of what is stored."""

MOST_IN_LOG: Final = 1000
"""Failed keys that are logged, each with its error."""

_ERROR_IN_LOG: Final = 1000

MOST_IN_XCOM: Final = 100
"""Keys of each sort that a summary names."""

ERROR_IN_XCOM: Final = 300
"""Characters of a key's error in a summary."""


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


def shown_error(error: Exception) -> str:
    """An error for a line of the log."""
    said = str(error)
    return f"{type(error).__name__}: {said[:_ERROR_IN_LOG]}{'…' if len(said) > _ERROR_IN_LOG else ''}"


def tell_failures(log: logging.Logger, errors: Mapping[str, str], failed: int) -> None:
    """Log the keys that failed, of which there may be more than there are errors."""
    for key, said in errors.items():
        log.error("Failed: %s: %s", key, said)
    if failed > len(errors):
        log.error("and %s more", counted(failed - len(errors), "failed key"))


def push_summary(context: Mapping[str, Any], summary: Mapping[str, Any], log: logging.Logger) -> None:
    """Push what a task that fails would have returned, which Airflow takes of one that succeeds only."""
    ti = context.get("ti")
    if ti is None or not getattr(getattr(ti, "task", None), "do_xcom_push", True):
        return
    try:
        ti.xcom_push(key="return_value", value=dict(summary))
    except Exception:  # the failure itself is to be seen
        log.warning("The summary could not be pushed", exc_info=True)
