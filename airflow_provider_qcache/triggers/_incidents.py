"""Decide when a missing or changed table is an event. Nothing here does I/O or reads the clock."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from airflow_provider_qcache.operators._arguments import counted

_log = logging.getLogger("airflow_provider_qcache.triggers")

_HOUR: Final = 3600.0


@dataclasses.dataclass(slots=True)
class Budget:
    """Limits the events of one key within an hour.

    ``sent`` holds the times of the events. ``warned`` says that the log already has the warning that no more
    are sent.
    """

    sent: list[float] = dataclasses.field(default_factory=list)
    warned: bool = False

    def take(self, now: float, most: int, what: str) -> bool:
        """Whether an event may be sent now, which is noted; if not, one warning is logged."""
        self.sent = [time for time in self.sent if now - _HOUR < time <= now]
        if len(self.sent) < most:
            self.sent.append(now)
            self.warned = False
            return True
        if not self.warned:
            self.warned = True
            _log.warning(
                "%s: no event is sent before %s, because %s were sent within an hour "
                "(max_events_per_hour). Tables that evict each other need nodes with a larger --size, or "
                "fewer tables.",
                what,
                _iso(self.sent[0] + _HOUR),
                counted(len(self.sent), "event"),
            )
        return False


@dataclasses.dataclass(slots=True)
class Missing:
    """What is known of a table that should be there.

    ``since`` is when the table was first seen missing, None while it is there; ``events`` counts the events
    of this incident, and ``due`` is when the next may be sent; ``was_down`` says that the home node did not
    answer since the table was last seen.
    """

    since: float | None = None
    events: int = 0
    due: float = 0.0
    was_down: bool = False
    seen: bool = False
    budget: Budget = dataclasses.field(default_factory=Budget)

    @property
    def mark(self) -> tuple[Any, ...]:
        """Differs after every change that has to be kept; cheap, since every poll reads it."""
        budget = self.budget
        return self.since, self.events, self.was_down, self.seen, len(budget.sent), budget.warned

    def is_there(self) -> None:
        """The table is at its home: any incident is over."""
        self.since, self.events, self.due, self.was_down, self.seen = None, 0, 0.0, False, True

    def is_down(self) -> None:
        self.was_down = True

    def is_missing(
        self, now: float, key: str, node: str, *, repeat_after: float, most: int
    ) -> dict[str, Any] | None:
        if self.since is None:
            self.since, self.due = now, now
        if now < self.due or not self.budget.take(now, most, f"table {key!r} is missing on {node}"):
            return None
        self.events += 1
        # Without a bound, a table that is missing for a day would have no event for the next day.
        self.due = now + min(_HOUR, repeat_after * 2.0 ** min(self.events - 1, 60))
        if self.was_down:
            why = "the node did not answer for a time, and came back without the table"
        elif self.seen:
            why = (
                "the node does not have the table any more: it was evicted, expired or deleted, or the node "
                "was restarted between two polls"
            )
        else:
            why = "the node did not have the table at the first poll"
        return {"key": key, "node": node, "why": why, "missing_since": _iso(self.since), "event": self.events}


@dataclasses.dataclass(slots=True)
class Changed:
    """What is known of a table that may change: ``last`` is what the last poll saw, None before the first.

    ``last`` holds ``rows``, and the ``digest`` of the answer if there is a query; it is empty while the table
    is missing.
    """

    last: dict[str, Any] | None = None
    budget: Budget = dataclasses.field(default_factory=Budget)

    @property
    def mark(self) -> tuple[Any, ...]:
        """As Missing's."""
        return self.last, len(self.budget.sent), self.budget.warned

    def is_missing(self) -> None:
        self.last = {}

    def is_there(
        self, now: float, key: str, node: str, seen: Mapping[str, Any], *, most: int
    ) -> dict[str, Any] | None:
        """The payload of an event, if there is one to send."""
        last, self.last = self.last, dict(seen)
        if last is None or last == seen:
            return None
        if not last:
            why = "the table was stored"
        elif last["rows"] != seen["rows"]:
            why = f"the rows were {last['rows']:,} and are {seen['rows']:,}"
        else:
            why = "the answer to the query changed"
        if not self.budget.take(now, most, f"table {key!r} on {node} has changed ({why})"):
            return None
        return {"key": key, "node": node, "why": why, "rows": seen["rows"], "rows_before": last.get("rows")}


def dumped(known: Mapping[str, Missing | Changed]) -> dict[str, Any]:
    """What is known of each key as JSON values, without the keys of which nothing is known."""
    return {key: dataclasses.asdict(one) for key, one in known.items() if one != type(one)()}


def loaded(kind: type[Missing | Changed], known: Any) -> dict[str, Any]:
    """What is known of each key, from what ``dumped`` returned."""
    if not isinstance(known, Mapping):
        return {}
    return {key: kind(**{**one, "budget": Budget(**one["budget"])}) for key, one in known.items()}


def _iso(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds")
