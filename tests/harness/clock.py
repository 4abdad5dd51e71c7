"""A clock for server processes that a test can set forward, so that no test waits for a table to expire."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Every Python that finds this file in PYTHONPATH runs it at its start, 2.7 too.
_SITECUSTOMIZE = """
import time
system_time = time.time

def shifted_time():
    with open({ahead!r}) as file:
        return system_time() + float(file.read())

time.time = shifted_time
"""


class Clock:
    """The system's clock plus a number of seconds, which `advance` increases."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        """Put this in the PYTHONPATH of the server processes."""
        self._ahead = directory / "ahead"
        self._seconds = 0.0
        self.advance(0)
        (directory / "sitecustomize.py").write_text(_SITECUSTOMIZE.format(ahead=str(self._ahead)))

    def advance(self, seconds: float) -> None:
        """Set the clock forward."""
        self._seconds += seconds
        written = self._ahead.with_suffix(".new")
        written.write_text(repr(self._seconds))
        written.replace(self._ahead)  # atomic: a server reads the old value or the new one
