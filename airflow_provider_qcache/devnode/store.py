"""What a node holds: tables by key, the least recently used evicted first, and its statistics."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from airflow_provider_qcache.devnode.errors import RequestError

_ENTRY_OVERHEAD = 100
"""Bytes that an entry takes beside its table, as QCache estimates it."""

Clock = Callable[[], float]


@dataclass
class _Entry:
    table: pd.DataFrame
    size: int
    created: float
    last_access: float = field(default=0.0)


class Store:
    """Tables by key, in at most ``max_size`` bytes where that can be kept.

    Args:
        max_size: bytes to hold.
        max_age: seconds after which a table is gone, checked when it is asked for; 0 for never.
        clock: seconds since some fixed moment.
    """

    def __init__(self, max_size: int, max_age: float, clock: Clock = time.time) -> None:
        self._max_size = max_size
        self._max_age = max_age
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self.size = 0.0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def get(self, key: str) -> pd.DataFrame:
        """The table under ``key``, which becomes the most recently used."""
        entry = self._entries[key]
        entry.last_access = self._clock()
        return entry.table

    def put(self, key: str, table: pd.DataFrame) -> None:
        """Hold a table under ``key``; room is not looked for here, so the store can outgrow its size."""
        if key in self:
            self.delete(key)
        now = self._clock()
        size = _ENTRY_OVERHEAD + int(table.memory_usage(index=True, deep=True).sum())
        self._entries[key] = _Entry(table, size, created=now, last_access=now)
        self.size += size

    def delete(self, key: str) -> None:
        """Forget the table under ``key``."""
        self.size -= self._entries.pop(key).size

    def expire(self, key: str) -> bool:
        """Forget the table under ``key`` if it is too old, and tell whether it was."""
        expired = bool(self._max_age) and self._clock() > self._entries[key].created + self._max_age
        if expired:
            self.delete(key)
        return expired

    def make_room(self, byte_count: int) -> list[float]:
        """Evict the least recently used tables until ``byte_count`` bytes are free.

        Returns:
            The seconds that each evicted table had been held.

        Raises:
            RequestError: 500 where ``byte_count`` is more than the store's whole size.
        """
        if byte_count > self._max_size:
            raise RequestError(500, f"{byte_count} bytes do not fit a cache of {self._max_size} bytes")
        now = self._clock()
        held = []
        for key in sorted(self._entries, key=lambda key: self._entries[key].last_access):
            if self._max_size - self.size >= byte_count:
                break
            held.append(now - self._entries[key].created)
            self.delete(key)
        return held


class Statistics:
    """Counters and the last durations of each kind; reading them starts them anew.

    Args:
        buffer_size: how many durations of a kind are kept, the newest ones.
        clock: seconds since some fixed moment.
    """

    def __init__(self, buffer_size: int, clock: Clock = time.time) -> None:
        self._buffer_size = buffer_size
        self._clock = clock
        self._reset()

    def _reset(self) -> None:
        self._since = self._clock()
        self._counts: dict[str, int] = {}
        self._lists: dict[str, deque[float]] = {}

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter; it appears in the statistics even if nothing is added."""
        self._counts[name] = self._counts.get(name, 0) + by

    def extend(self, name: str, values: Iterable[float]) -> None:
        """Append to a list, which keeps the newest ``buffer_size`` values."""
        self._lists.setdefault(name, deque(maxlen=self._buffer_size)).extend(values)

    def read(self) -> dict[str, Any]:
        """The statistics since the last reading, and start anew."""
        result = {
            "statistics_buffer_size": self._buffer_size,
            "statistics_duration": self._clock() - self._since,
            **self._counts,
            **{name: list(values) for name, values in self._lists.items()},
        }
        self._reset()
        return result
