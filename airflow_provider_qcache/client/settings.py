"""The settings of a client, which are checked when they are made, and the clock.

An error about a setting names the setting, its value and what is allowed. Tests pass in a clock of their own.
"""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Any, Final

_MOST_SECONDS: Final = 1e9
"""Thirty years: a time that every clock and socket supports."""


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be True or False")  # noqa: TRY004


def check_seconds(name: str, value: Any, *, zero: bool = False) -> None:
    """Raise ValueError unless the value is a number of seconds above 0 (with ``zero``, or 0), up to 1e9."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (0 <= value <= _MOST_SECONDS) or (value == 0 and not zero):
        allowed = "0 or more" if zero else "above 0"
        raise ValueError(f"{name}={value!r} must be a number of seconds, {allowed} and at most 1e9")


def check_count(name: str, value: Any) -> None:
    """Raise ValueError unless the value is an integer of 1 or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r} must be an integer of 1 or more")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RequestRetry:
    """How the client retries failed requests. Raises ValueError, naming the field, for an invalid value."""

    consecutive_error_count_limit: int | None = None
    """The number of failed requests that ends an operation; None for the client's. The lower one applies."""

    wait_initial: float = 0.1
    """Seconds: the n-th wait before a retry on the same node is uniform in 0 .. min(wait_max, wait_initial x
    2^(n-1)). A failover to another living node does not wait."""

    wait_max: float = 5.0
    """Seconds: the longest such wait."""

    wait_for_nodes: bool = False
    """If no node responds, wait until one does or the deadline passes, which is required then. The client
    probes the nodes after such waits, of at least 0.05 s."""

    def __post_init__(self) -> None:
        if self.consecutive_error_count_limit is not None:
            check_count("consecutive_error_count_limit", self.consecutive_error_count_limit)
        check_seconds("wait_initial", self.wait_initial, zero=True)
        check_seconds("wait_max", self.wait_max, zero=True)
        _check_flag("wait_for_nodes", self.wait_for_nodes)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """The settings of a client; see QClient. Raises ValueError, naming the field; the repr has no secrets."""

    connect_timeout: float
    read_timeout: float
    store_timeout: float | None
    max_response_bytes: int | None
    verify: bool | str
    cert: str | tuple[str, str] | None
    auth: Any = dataclasses.field(repr=False)
    trust_env: bool
    refused_means_gone: bool = True
    deadline: float | None = None
    consecutive_error_count_limit: int = 10
    request_retry: RequestRetry | None = None
    confirm_miss: bool = False

    def __post_init__(self) -> None:
        check_seconds("connect_timeout", self.connect_timeout)
        check_seconds("read_timeout", self.read_timeout)
        for name in ("store_timeout", "deadline"):
            if getattr(self, name) is not None:
                check_seconds(name, getattr(self, name))
        if self.max_response_bytes is not None:
            check_count("max_response_bytes", self.max_response_bytes)
        check_count("consecutive_error_count_limit", self.consecutive_error_count_limit)
        if not isinstance(self.verify, bool | str | os.PathLike):
            raise ValueError(f"verify={self.verify!r} must be True, False or the path of a CA bundle")  # noqa: TRY004
        pair: tuple[Any, ...] = self.cert if isinstance(self.cert, tuple) else (self.cert, self.cert)
        if self.cert is not None and (
            len(pair) != 2 or not all(isinstance(path, str | os.PathLike) for path in pair)
        ):
            raise ValueError(f"cert={self.cert!r} must be a path, (certificate, key) or None")
        for name in ("trust_env", "refused_means_gone", "confirm_miss"):
            _check_flag(name, getattr(self, name))
        if not (self.request_retry is None or isinstance(self.request_retry, RequestRetry)):
            raise ValueError(f"request_retry={self.request_retry!r} must be a RequestRetry or None")
        if self.request_retry is not None and self.request_retry.wait_for_nodes and self.deadline is None:
            raise ValueError("request_retry: wait_for_nodes needs a `deadline`, which ends the wait: set one")


class SystemClock:
    """The machine's monotonic clock, in seconds."""

    now = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)
