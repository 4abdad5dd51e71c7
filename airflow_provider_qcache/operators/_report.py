"""Report what a task does: lines of progress, failed keys and results, in the log and as XCom."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.operators._arguments import counted
from airflow_provider_qcache.operators.errors import StoredOnFailover, TableMissing

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterator, Mapping

    from airflow_provider_qcache.client import StoreResult
    from airflow_provider_qcache.hooks.qcache import QCacheHook

PROGRESS_EVERY = 5.0
"""Seconds between two lines of progress in the task log, and two records of what is stored."""

MOST_IN_LOG: Final = 1000
"""Failed keys that are logged, each with its error."""

_ERROR_IN_LOG: Final = 1000

MOST_IN_XCOM: Final = 100
"""The most failed, evicted or lost keys that a summary lists."""

ERROR_IN_XCOM: Final = 300
"""Characters of a key's error in a summary."""


def format_time(seconds: float) -> str:
    """A time, for people: '12 s', '7 min', '2.5 h'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def format_speed(operations: int, size: int | None, seconds: float) -> str:
    """How many a second, and how many bytes, for people: '306/s, 272.0 kB/s'."""
    number = operations / seconds
    text = f"{number:,.0f}/s" if number >= 10 or not number else f"{number:.1f}/s"
    if size is None:
        return text
    speed = size / seconds
    return text + (f", {speed / 1e6:,.1f} MB/s" if speed >= 1e6 else f", {speed / 1e3:,.1f} kB/s")


def is_waiting(hook: QCacheHook) -> bool:
    """Whether no node answers, so that the current operation waits for a node."""
    try:
        return not any(status.alive for status in hook.node_status().values())
    except Exception:  # noqa: BLE001  # the task was killed
        return False


@contextlib.contextmanager
def ticking(tick: Callable[[], None]) -> Iterator[None]:
    """Call a function every few seconds while a block runs."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(PROGRESS_EVERY):
            tick()

    # Airflow's task log finds its task in context variables.
    known = contextvars.copy_context()
    thread = threading.Thread(target=known.run, args=(run,), name="qcache-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=2 * PROGRESS_EVERY)


def format_error(error: Exception) -> str:
    """An error for a line of the log."""
    text = str(error)
    return f"{type(error).__name__}: {text[:_ERROR_IN_LOG]}{'…' if len(text) > _ERROR_IN_LOG else ''}"


def log_failure(log: logging.Logger, key: str, error: str, number: int) -> None:
    """Log a key that failed, if its ``number`` among the failures of the task is not too high."""
    if number <= MOST_IN_LOG:
        log.error("Failed: %s: %s", key, error)
    elif number == MOST_IN_LOG + 1:
        log.error("More than %s failed: further ones are only counted", counted(MOST_IN_LOG, "key"))


def push_summary(context: Mapping[str, Any], summary: Mapping[str, Any], log: logging.Logger) -> None:
    """Push the result of a task that fails: Airflow itself pushes only that of a task that succeeds."""
    ti = context.get("ti")
    if ti is None or not getattr(getattr(ti, "task", None), "do_xcom_push", True):
        return
    try:
        ti.xcom_push(key="return_value", value=dict(summary))
    except Exception:  # the task must end with its own error
        log.warning("Cannot push the summary of this failed task to XCom", exc_info=True)


@dataclasses.dataclass
class Absent:
    """Tables that readers do not find where they were stored, with the reason."""

    evicted: dict[str, str] = dataclasses.field(default_factory=dict)
    """Keys that their node does not have any more, with the node."""
    lost: dict[str, str] = dataclasses.field(default_factory=dict)
    """Keys whose node could not be asked, with the reason."""
    hidden: dict[str, str] = dataclasses.field(default_factory=dict)
    """Keys on a fallback node while a node that readers ask before it is back, with the reason."""
    copies: int = 0
    """How many copies are missing on their node."""
    checked: bool = False
    """Whether the nodes were asked for every table."""

    def not_found(self) -> set[str]:
        return {*self.evicted, *self.lost, *self.hidden}

    def troubles(self, places: Mapping[str, str]) -> Iterator[str]:
        """The reasons, apart from evictions, why the task fails; ``places`` has each key's node."""
        if self.lost:
            nodes = ", ".join(sorted({places[key] for key in self.lost}))
            yield f"{counted(len(self.lost), 'table')} could not be checked: {nodes} went down"
        if hidden := self.hidden_alone():
            yield (
                f"readers do not find {counted(len(hidden), 'table')}, stored on another node while the home "
                f"node was down: {'; '.join(sorted(set(hidden.values())))}"
            )

    def hidden_alone(self) -> dict[str, str]:
        """The hidden keys that are neither evicted nor lost."""
        return {
            key: why for key, why in self.hidden.items() if key not in self.evicted and key not in self.lost
        }


class Tally:
    """Counts what one try did with many tables, and reports it to the log and XCom."""

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._started = time.monotonic()
        self.kept: dict[str, str] = {}
        """Keys whose table an earlier try stored and a node still has, with the node."""
        self.absent = Absent()
        self._tables_on: Counter[str] = Counter()
        self._bytes_on: Counter[str] = Counter()
        """The bytes that this try stored on each node."""
        self.stored = self._bytes = self._rows = self._attempts = 0
        self._uncounted = self._empty = 0
        self.failed = self.for_good = 0
        self.worst: tuple[str, Exception] | None = None
        """The first key that failed, with its error; a key that failed for good goes before others."""
        self._errors: dict[str, str] = {}
        self.failed_over = self._failed_copies = 0
        self._copies: Counter[str] = Counter()
        """How many copies this try stored on each node."""
        self._may_hold_old: Counter[str] = Counter()

    def add_stored(self, stored: StoreResult) -> None:
        self.stored += 1
        self._bytes += stored.bytes
        self._rows += stored.rows or 0
        self._uncounted += stored.rows is None
        self._empty += stored.rows == 0
        self._attempts += len(stored.attempts)
        self._failed_copies += len(stored.failed_copies)
        self._copies.update(stored.copies)
        self._tables_on[stored.node] += 1
        self._bytes_on[stored.node] += stored.bytes
        self._may_hold_old.update(stored.may_hold_old)

    def add_failed(self, key: str, error: Exception, text: str, *, for_good: bool) -> None:
        """Count a key that failed; ``text`` is its error as the log has it."""
        self.failed += 1
        self.for_good += for_good
        self._attempts += len(getattr(error, "attempts", ()))
        if self.worst is None or (for_good and self.for_good == 1):
            self.worst = key, error
        if len(self._errors) < MOST_IN_XCOM:
            self._errors[key] = text

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def summary(self, *, copies: int) -> dict[str, Any]:
        """The result of the task; with nulls if the nodes were not asked for every table."""
        absent = self.absent
        lost = absent.lost | absent.hidden_alone()
        summary: dict[str, Any] = {
            "stored": self.stored,
            "were_there": len(self.kept),
            "failed": self.failed,
            "evicted": len(absent.evicted) if absent.checked else None,
            "lost": len(lost) if absent.checked else None,
            "bytes": self._bytes,
            "rows": None if self._uncounted else self._rows,
            "seconds": round(self.seconds, 3),
            "attempts": self._attempts,
            "failed_over": self.failed_over,
            "may_hold_old": dict(self._may_hold_old),
            "nodes": dict(self._tables_on),
        }
        if copies > 1:
            summary["copies"] = dict(self._copies)
            summary["failed_copies"] = self._failed_copies
            summary["absent_copies"] = absent.copies if absent.checked else None
        if self._errors:
            summary["failed_keys"] = {key: text[:ERROR_IN_XCOM] for key, text in self._errors.items()}
        if absent.evicted:
            summary["evicted_keys"] = list(absent.evicted)[:MOST_IN_XCOM]
        if lost:
            summary["lost_keys"] = dict(list(lost.items())[:MOST_IN_XCOM])
        return summary

    def progress(self, skipped: int, *, waiting: bool) -> str:
        """A line of progress; ``skipped`` tables are not stored by this try."""
        line = f"Stored {self.stored:,}{'' if self._total is None else f' of {self._total:,}'} tables"
        if self.kept:
            line += f", {len(self.kept):,} kept from an earlier try"
        line += f", {self.failed:,} failed; "
        if waiting:
            return f"{line}waiting for a node: none answers"
        seconds = max(self.seconds, 1e-9)
        line += format_speed(self.stored, self._bytes, seconds)
        if self._total is not None and (tried := self.stored + self.failed):
            left = max(self._total - tried - skipped, 0)
            line += f", {format_time(left * seconds / tried)} left"
        return line

    def sentence(self, seconds: float, *troubles: str, stopped: bool = False) -> str:
        """What this try did, failures first, for the log and errors."""
        parts = []
        done = self.stored + len(self.kept) + self.failed
        if self.failed:
            parts.append(f"{self.failed:,} of {counted(self._total or done, 'table')} failed")
        if stopped:
            left = "" if self._total is None else f" {self._total - done:,}"
            parts.append(f"the other{left} were not started, since they would fail for the same reason")
        if self.absent.evicted:
            parts.append(f"{counted(len(self.absent.evicted), 'table')} evicted by their nodes")
        parts += troubles
        parts.append(f"stored {counted(self.stored, 'table')}: {self._bytes:,} bytes, {seconds:.1f} s")
        if self.kept:
            parts.append(f"{counted(len(self.kept), 'table')} kept from an earlier try")
        text = "; ".join(parts)
        return text[0].upper() + text[1:]

    def last_line(self, seconds: float, advice: str) -> tuple[str, bool]:
        """The last line of the log of a task that succeeds, and whether it is a warning."""
        line = self.sentence(seconds)
        if self._copies:
            line += "; copies: " + ", ".join(f"{number:,} on {node}" for node, number in self._copies.items())
        if self._failed_copies or self.absent.copies:
            line += f"; of the copies {self._failed_copies:,} failed, {self.absent.copies:,} are gone"
        if self._may_hold_old:
            line += f"; older tables may be on {', '.join(self._may_hold_old)}"
        if self.failed_over:
            line += f"; the home node of {counted(self.failed_over, 'table')} was down"
        if self._empty:
            line += f"; {counted(self._empty, 'table')} without rows"
        if advice:
            line += f". {advice}"
        return line, bool(self.failed or advice or self._may_hold_old or self.failed_over or self._empty)

    def advice(self, held: Mapping[str, int], nodes: int) -> str:
        """What to do about evicted tables; ``held`` has how many were stored on each node."""
        missing = Counter(self.absent.evicted.values())
        if not missing:
            return ""
        lines = [
            f"{node} lacks {number:,} of its {counted(held[node], 'table')} "
            f"({self._bytes_on[node]:,} bytes stored now)"
            for node, number in missing.items()
        ]
        if all(number == held[node] and number > 1 for node, number in missing.items()):
            todo = "A node that has none of them was restarted or emptied: store them again"
        elif len(missing) < min(nodes, len(held)):
            todo = (
                "The other nodes have all of theirs: start that node with the --size of the others or more, "
                "or check who else stores on it"
            )
        else:
            todo = (
                "A full node evicts the least recently used tables (--size), and every node those older than "
                "--age. Text takes up to four times its CSV there: add nodes, or start them with a larger "
                "--size"
            )
        return "; ".join(lines) + f". {todo}."


def report_stored(
    stored: StoreResult, log: logging.Logger, arguments: Mapping[str, Any], *, may_be_empty: bool = False
) -> dict[str, Any]:
    """Log the result of one store, and return it for XCom.

    An empty table is a warning unless ``may_be_empty``. Raises StoredOnFailover with ``require_home``.
    """
    rows = "rows not counted" if stored.rows is None else counted(stored.rows, "row")
    size = f"{rows}, {stored.bytes:,} bytes"
    line = f"Stored table {stored.key!r} on {stored.node}: {size}, {stored.seconds:.2f} s"
    names = ["key", "node", "home_node", "failed_over", "may_hold_old", "bytes", "rows"]
    names += ["seconds", "attempts"]
    plain = stored.as_dict() | {"seconds": round(stored.seconds, 3)}
    for attempt in plain["attempts"]:
        attempt["seconds"] = round(attempt["seconds"], 3)
        del attempt["cause"]
    if arguments["copies"] > 1:
        names += ["copies", "failed_copies"]
        line += f"; copies on {', '.join(stored.copies) or 'no other node'}"
        if stored.failed_copies:
            line += f", and none on {', '.join(stored.failed_copies)}"
    result = {name: plain[name] for name in names}
    if stored.may_hold_old:
        line += f"; an older table may be on {', '.join(stored.may_hold_old)}"
    if stored.failed_over:
        if arguments["require_home"]:
            trouble = f"The home node {stored.home_node} was down, and require_home is set"
            raise StoredOnFailover(f"{trouble}. {line}", result=result)
        line += f"; its home node {stored.home_node} was down"
    if stored.failed_over or (stored.rows == 0 and not may_be_empty):
        log.warning("%s", line)
    else:
        log.info("%s", line)
    return result


def table_missing(hook: QCacheHook, key: str) -> TableMissing:
    """The error for a key under which readers find no table, with the answer of each node."""
    asked = "; ".join(map(str, hook.locate(key)))
    return TableMissing(
        f"Readers find no table under {key!r}. Nodes asked: {asked}. Check that the table was stored since "
        "its node started and was not evicted, and that the writer spells the nodes exactly as the "
        "connection does: another spelling (localhost for 127.0.0.1, a trailing slash, another scheme) puts "
        "a key on another node."
    )
