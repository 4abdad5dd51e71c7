"""The tables of a node by key, of which the least recently used are evicted first, and its statistics."""

import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from airflow_provider_qcache.devnode.errors import RequestError

_ENTRY_OVERHEAD = 100
"""Bytes of an entry besides its table, as QCache estimates them."""

Clock = Callable[[], float]


_SAMPLE = 1000
"""Values of a column from whose sizes the size of all is estimated."""


def estimated_size(table: pd.DataFrame) -> int:
    """Bytes of memory of a table; the texts of a long column are estimated by a sample."""
    size = 0
    for position in range(table.shape[1]):
        column = table.iloc[:, position]
        values = column.array
        size += values.nbytes
        if column.dtype == object and len(values):
            sample = values[:: -(-len(values) // _SAMPLE)]
            size += sum(map(sys.getsizeof, sample)) * len(values) // len(sample)
    return size


@dataclass
class _Entry:
    table: pd.DataFrame
    size: int
    created: float


class Store:
    """Tables by key, in at most ``max_size`` bytes if possible.

    Args:
        max_size: bytes of all tables. A change applies from the next store on.
        max_age: seconds after which a table expires, checked when it is queried; 0 for never. It may be
            changed.
        clock: seconds since a fixed moment.
    """

    def __init__(self, max_size: int, max_age: float, clock: Clock = time.time) -> None:
        self.max_size = max_size
        self.max_age = max_age
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        """The least recently used first, so that a store finds what to evict without sorting every key."""
        self.size = 0.0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def get(self, key: str) -> pd.DataFrame:
        """The table under ``key``, which becomes the most recently used."""
        self._entries.move_to_end(key)
        return self._entries[key].table

    def put(self, key: str, table: pd.DataFrame) -> None:
        """Store a table under ``key``, without making room: the store may exceed its size."""
        if key in self:
            self.delete(key)
        size = _ENTRY_OVERHEAD + estimated_size(table)
        self._entries[key] = _Entry(table, size, created=self._clock())
        self.size += size

    def delete(self, key: str) -> None:
        """Remove the table under ``key``."""
        self.size -= self._entries.pop(key).size

    def clear(self) -> None:
        """Remove every table."""
        self._entries.clear()
        self.size = 0.0

    def expire(self, key: str) -> bool:
        """Remove the table under ``key`` if it has expired: whether it had."""
        expired = bool(self.max_age) and self._clock() > self._entries[key].created + self.max_age
        if expired:
            self.delete(key)
        return expired

    def make_room(self, byte_count: int) -> list[float]:
        """Evict the least recently used tables until ``byte_count`` bytes are free.

        Returns:
            The seconds for which each evicted table was stored.

        Raises:
            RequestError: 500 if ``byte_count`` exceeds the size of the store.
        """
        if byte_count > self.max_size:
            raise RequestError(500, f"{byte_count} bytes do not fit a cache of {self.max_size} bytes")
        now = self._clock()
        held = []
        while self._entries and self.max_size - self.size < byte_count:
            key, entry = next(iter(self._entries.items()))
            held.append(now - entry.created)
            self.delete(key)
        return held


class Statistics:
    """Counters, and lists of the newest durations. Reading them resets them.

    Args:
        buffer_size: the number of durations in each list.
        clock: seconds since a fixed moment.
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
        """Add to a counter, which is in the statistics even if 0 is added."""
        self._counts[name] = self._counts.get(name, 0) + by

    def extend(self, name: str, values: Iterable[float]) -> None:
        """Append to a list, which has the newest ``buffer_size`` values."""
        self._lists.setdefault(name, deque(maxlen=self._buffer_size)).extend(values)

    def read(self) -> dict[str, Any]:
        """Return the statistics since the last reading, and reset them."""
        result = {
            "statistics_buffer_size": self._buffer_size,
            "statistics_duration": self._clock() - self._since,
            **self._counts,
            **{name: list(values) for name, values in self._lists.items()},
        }
        self._reset()
        return result
