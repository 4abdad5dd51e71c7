"""Arguments are checked when they are given: an error names argument, value and what is allowed."""

from __future__ import annotations

import math
from typing import Any


def check_seconds(name: str, value: Any, *, zero: bool = False) -> None:
    """Raise ValueError unless the value is a finite number of seconds above 0 (or 0, with ``zero``)."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (0 <= value < math.inf) or (value == 0 and not zero):
        allowed = "0 or more" if zero else "above 0"
        raise ValueError(f"{name}={value!r}: a number of seconds, {allowed}, is wanted")


def check_count(name: str, value: Any) -> None:
    """Raise ValueError unless the value is an integer of 1 or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r}: an integer of 1 or more is wanted")
