"""A clock for server processes that a test sets forward, so that no test waits for a table to age."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Runs at the start of every Python, 2.7 too, that finds it in PYTHONPATH.
_SITECUSTOMIZE = """
import time
system_time = time.time

def shifted_time():
    with open({ahead!r}) as file:
        return system_time() + float(file.read())

time.time = shifted_time
"""


class Clock:
    """The system's clock plus the seconds that it was set forward."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        """Belongs in the PYTHONPATH of the server processes."""
        self._ahead = directory / "ahead"
        self._seconds = 0.0
        self.advance(0)
        (directory / "sitecustomize.py").write_text(_SITECUSTOMIZE.format(ahead=str(self._ahead)))

    def advance(self, seconds: float) -> None:
        """Set it forward."""
        self._seconds += seconds
        written = self._ahead.with_suffix(".new")
        written.write_text(repr(self._seconds))
        written.replace(self._ahead)  # a server reads the one or the other
