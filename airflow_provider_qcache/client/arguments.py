"""Arguments are checked when they are given: an error names argument, value and what is allowed."""

from __future__ import annotations

from typing import Any, Final

_MOST_SECONDS: Final = 1e9
"""Thirty years, which every clock and socket can count."""


def check_seconds(name: str, value: Any, *, zero: bool = False) -> None:
    """Raise ValueError unless the value is a number of seconds above 0 (or 0, with ``zero``), to 1e9."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (0 <= value <= _MOST_SECONDS) or (value == 0 and not zero):
        allowed = "0 or more" if zero else "above 0"
        raise ValueError(f"{name}={value!r}: a number of seconds, {allowed} and at most 1e9, is wanted")


def check_count(name: str, value: Any) -> None:
    """Raise ValueError unless the value is an integer of 1 or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r}: an integer of 1 or more is wanted")
