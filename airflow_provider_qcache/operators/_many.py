"""Many tables in one task: progress, what is left for a retry, whether they are still there, a summary.

``store_tables`` is for any operator that has (key, content) pairs. Nothing here loads the client before it
runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.compat import AirflowFailException
from airflow_provider_qcache.operators._arguments import counted, shown
from airflow_provider_qcache.operators._failures import ends_the_task, permanent
from airflow_provider_qcache.operators._marks import Marks
from airflow_provider_qcache.operators._progress import (
    ERROR_IN_XCOM,
    MOST_IN_LOG,
    MOST_IN_XCOM,
    Ticker,
    push_summary,
    shown_error,
    shown_time,
    tell_failures,
)
from airflow_provider_qcache.operators.errors import StoredOnFailover, TablesEvicted, TablesFailed

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from airflow_provider_qcache.client import Absence, StoreResult
    from airflow_provider_qcache.hooks.qcache import QCacheHook

_OF_THE_CLUSTER: Final = frozenset({"AuthenticationFailed", "CertificateRejected"})
"""Errors that every further key would meet: nothing more is begun."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ManyOptions:
    """How many tables are stored, and when that is a failure; see QCachePostOperator."""

    copies: int = 1
    evict_stale: bool = True
    check_row_count: bool = False
    require_home: bool = False
    max_failed_keys: int = 0
    allow_evicted: bool = False
    literal: bool = False
    """The tables are written in the DAG: one that is invalid is so at every try."""


def store_tables(
    hook: QCacheHook,
    tables: Callable[[], Iterable[tuple[str, Any]]],
    *,
    context: Mapping[str, Any],
    log: logging.Logger,
    options: ManyOptions,
    keys: Sequence[str] | None = None,
    prepare: Callable[[str, Any], Any] | None = None,
) -> dict[str, Any]:
    """Store many tables, and give the summary for XCom.

    Args:
        hook: The cluster's.
        tables: Called for an iterable of (key, content) pairs, which is read as they are stored. It is called
            a second time where its keys turn out to be others than an earlier try's.
        context: The task's: its state store, and ``ti`` for the summary of a task that fails.
        log: The task's.
        options: How.
        keys: All keys in their order, where they are known before: progress then tells the time left, and
            whether an earlier try's record fits is known before anything is left out.
        prepare: Gives, from key and content, what the client stores (any form of content, or an Upload), in
            the thread of the key's node.

    Raises:
        AirflowFailException: more keys failed for what no retry makes better than ``max_failed_keys``; a key
            came twice, or something that is no pair.
        TablesFailed: more keys failed than that.
        TablesEvicted: tables are not on their nodes any more, unless allowed.
        StoredOnFailover: with ``require_home``.
        Exception: what ``tables`` raises; AuthenticationFailed, say, where the nodes are asked at the end.

    Whatever it raises but for a cancel, the summary is pushed before, with nulls for what was not asked.
    """
    run = _Run(hook, context, log, options, keys)
    return run.store(tables, prepare)


class _ClusterUnusable(Exception):
    """What some keys met, all others would."""


class _Run:
    """One call of ``store_tables``."""

    def __init__(
        self,
        hook: QCacheHook,
        context: Mapping[str, Any],
        log: logging.Logger,
        options: ManyOptions,
        keys: Sequence[str] | None,
    ) -> None:
        self._hook = hook
        self._context = context
        self._log = log
        self._options = options
        self._total = None if keys is None else len(keys)
        self._marks = Marks(context, keys, log)
        self._nodes = len(hook.node_status())
        self._started = time.monotonic()
        self._to_ask = self._asked = 0
        """How many tables are asked for at the end, and how many of them were begun."""
        self._kept: dict[str, str] = {}
        """Keys whose table an earlier try stored and a node still has, with the node."""
        self._places: dict[str, str] = {}
        """Each stored key's node, in the order in which they were stored."""
        self._copies: list[tuple[str, str]] = []
        self._asked_before: dict[str, tuple[str, ...]] = {}
        """Of a key whose table went to a stand-in, the nodes that readers ask before that."""
        self._unseen: dict[str, str] = {}
        """Keys whose stand-in has the table while a node before it is back, and what that one has."""
        self._sizes: dict[str, list[int]] = {}
        """By node: how many tables this try stored there, and their bytes."""
        self._stored = self._bytes = self._rows = self._attempts = 0
        self._uncounted = self._empty = 0
        self._failed = self._for_good = self._without_node = 0
        self._worst: tuple[str, Exception] | None = None
        """The first key that failed, with its error; one that failed for good comes before all others."""
        self._errors: dict[str, str] = {}
        self._failed_over = self._failed_copies = 0
        self._may_hold_old: dict[str, int] = {}

    # Storing.

    def store(
        self,
        tables: Callable[[], Iterable[tuple[str, Any]]],
        prepare: Callable[[str, Any], Any] | None,
    ) -> dict[str, Any]:
        stopped: Exception | None = None
        with Ticker(self._tick), self._told_of_errors():
            try:
                self._store(self._first_pass(tables), prepare, keep=self._marks)
                if self._marks.misfit and self._kept:
                    again, self._kept = self._kept, {}
                    self._store(self._second_pass(tables, again), prepare)
            except _ClusterUnusable as error:
                stopped = error
            finally:
                # Also where the callable failed, or the task is ended: for the next try.
                self._marks.save()
            absent = None if stopped else self._absent()
            if absent or self._unseen:
                self._marks.save()
        return self._end(absent, stopped)

    @contextlib.contextmanager
    def _told_of_errors(self) -> Iterator[None]:
        """Tell what was done before an error that ends it all: of the callable, or as the nodes are asked."""
        try:
            yield
        except Exception as error:
            tell_failures(self._log, self._errors, self._failed)
            self._log.info("%s before it ended", self._said(time.monotonic() - self._started))
            if type(error).__name__ != "OperationCancelled":
                push_summary(self._context, self._summary(), self._log)
            raise

    def _first_pass(self, tables: Callable[[], Iterable[tuple[str, Any]]]) -> Iterator[tuple[str, Any]]:
        for key, content in self._pairs(tables()):
            with permanent(ValueError):
                self._marks.add(key)
            yield key, content
        self._marks.end()

    def _second_pass(
        self, tables: Callable[[], Iterable[tuple[str, Any]]], wanted: Mapping[str, str]
    ) -> Iterator[tuple[str, Any]]:
        left = dict(wanted)
        for key, content in self._pairs(tables()):
            if left.pop(key, None) is not None:
                yield key, content
        for key in left:
            self._note(key, ValueError(f"tables: key {key!r} came at the first reading, and not again"))

    def _pairs(self, given: Iterable[Any]) -> Iterator[tuple[str, Any]]:
        for number, pair in enumerate(given, 1):
            if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
                with permanent(TypeError):
                    raise TypeError(f"tables: number {number} is {shown(pair)}: (key, content) is wanted")
            yield pair[0], pair[1]

    def _store(
        self,
        pairs: Iterable[tuple[str, Any]],
        prepare: Callable[[str, Any], Any] | None,
        keep: Any = (),
    ) -> None:
        options = self._options
        self._hook.post_many(
            pairs,
            copies=options.copies,
            evict_stale=options.evict_stale,
            check_row_count=options.check_row_count,
            prepare=prepare,
            keep=keep,
            on_done=self._note,
        )

    def _note(self, key: str, outcome: Any) -> None:
        """One key's end; told one at a time."""
        if isinstance(outcome, Exception):
            self._note_failure(key, outcome)
        elif hasattr(outcome, "home_node"):
            self._note_stored(key, outcome)
        else:
            self._kept[key] = self._places[key] = sys.intern(outcome.node)
            self._failed_over += self._note_stand_in(key, outcome.node)

    def _note_stored(self, key: str, stored: StoreResult) -> None:
        self._without_node = 0
        self._stored += 1
        self._bytes += stored.bytes
        self._rows += stored.rows or 0
        self._uncounted += stored.rows is None
        self._empty += stored.rows == 0
        self._attempts += len(stored.attempts)
        self._failed_over += self._note_stand_in(key, stored.node)
        self._failed_copies += len(stored.failed_copies)
        node = self._places[key] = sys.intern(stored.node)
        self._copies += [(key, sys.intern(copy)) for copy in stored.copies]
        size = self._sizes.setdefault(node, [0, 0])
        size[0] += 1
        size[1] += stored.bytes
        for other in stored.may_hold_old:
            self._may_hold_old[other] = self._may_hold_old.get(other, 0) + 1
        # An older table on a node that readers may ask would be taken for this one at the next try.
        sure = not stored.may_hold_old and (self._options.evict_stale or not stored.failed_over)
        self._marks.set(key, done=sure and not stored.failed_copies)

    def _note_stand_in(self, key: str, node: str) -> bool:
        """Whether a key's table is on another node than its home."""
        order = tuple(map(sys.intern, self._hook.successors(key)))
        before = order[: order.index(node)] if node in order else ()
        if before:
            self._asked_before[key] = before
        return bool(before)

    def _note_failure(self, key: str, error: Exception) -> None:
        name = type(error).__name__
        if name == "OperationCancelled":
            return  # not begun, or ended with the task
        self._failed += 1
        for_good = self._is_for_good(error)
        self._for_good += for_good
        self._attempts += len(getattr(error, "attempts", ()))
        if self._worst is None or (for_good and self._for_good == 1):
            self._worst = key, error
        if len(self._errors) < MOST_IN_LOG:
            self._errors[key] = shown_error(error)
        with contextlib.suppress(KeyError):  # an invalid key was never taken
            self._marks.set(key, done=False)
        self._without_node = self._without_node + 1 if name == "NoCacheAvailable" else 0
        if name in _OF_THE_CLUSTER or self._without_node >= self._nodes:
            raise _ClusterUnusable(f"{name}: {error}") from error

    def _is_for_good(self, error: Exception) -> bool:
        return isinstance(error, AirflowFailException) or ends_the_task(
            error, literal_table=self._options.literal
        )

    # Progress.

    def _tick(self) -> None:
        said = self._progress()
        # Before it is told, so that what is told is recorded.
        self._marks.save()
        self._log.info("%s", said)

    def _progress(self) -> str:
        if self._to_ask:
            said = f"Stored {counted(self._stored, 'table')}; asking the nodes whether they have every table"
            return f"{said}: {self._asked:,} of {self._to_ask:,}"
        done = self._stored + self._failed + len(self._kept)
        seconds = max(time.monotonic() - self._started, 1e-9)
        said = f"Stored {self._stored:,}"
        said += " tables" if self._total is None else f" of {self._total:,} tables"
        if self._kept:
            said += f", {len(self._kept):,} were there"
        said += f", {self._failed:,} failed; {done / seconds:,.0f}/s, {self._bytes / seconds / 1e6:,.1f} MB/s"
        if self._total is not None and done:
            said += f", {shown_time((self._total - done) * seconds / done)} left"
        return said

    # Whether they are there.

    def _absent(self) -> dict[tuple[str, str], Absence]:
        before = [(key, node) for key, nodes in self._asked_before.items() for node in nodes]
        places = [*self._places.items(), *self._copies, *before]
        self._to_ask = len(places)
        absent = self._hook.find_absent(self._counted(places))
        copies = set(self._copies)
        for key, node in before:
            why = absent.pop((key, node), None)
            if why is None and (key, node) not in copies:
                self._unseen.setdefault(key, f"{node} is back with another table")
            elif str(why) == "missing":
                self._unseen.setdefault(key, f"{node} is back without it")
        for key, node in absent:
            if self._places[key] == node:
                self._marks.set(key, done=False)
        for key in self._unseen:
            self._marks.set(key, done=False)
        return absent

    def _counted(self, places: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        for place in places:
            self._asked += 1
            yield place

    # The end.

    def _summary(self) -> dict[str, Any]:
        """What is known before the nodes are asked for every table."""
        summary: dict[str, Any] = {
            "stored": self._stored,
            "were_there": len(self._kept),
            "failed": self._failed,
            "evicted": None,
            "lost": None,
            "bytes": self._bytes,
            "rows": None if self._uncounted else self._rows,
            "seconds": round(time.monotonic() - self._started, 3),
            "attempts": self._attempts,
            "failed_over": self._failed_over,
            "may_hold_old": self._may_hold_old,
            "nodes": {node: tables for node, (tables, _) in self._sizes.items()},
        }
        if self._options.copies > 1:
            summary["failed_copies"] = self._failed_copies
            summary["absent_copies"] = None
        if self._errors:
            summary["failed_keys"] = {
                key: said[:ERROR_IN_XCOM] for key, said in list(self._errors.items())[:MOST_IN_XCOM]
            }
        return summary

    def _end(
        self, absent: Mapping[tuple[str, str], Absence] | None, stopped: Exception | None
    ) -> dict[str, Any]:
        summary = self._summary()
        gone = absent or {}
        tables_absent = {key: why for (key, node), why in gone.items() if self._places[key] == node}
        evicted = [key for key, why in tables_absent.items() if str(why) == "missing"]
        lost = {key: str(why) for key, why in tables_absent.items() if str(why) != "missing"}
        unseen = {key: why for key, why in self._unseen.items() if key not in tables_absent}
        if absent is not None:
            summary["evicted"], summary["lost"] = len(evicted), len(lost) + len(unseen)
            if self._options.copies > 1:
                summary["absent_copies"] = len(absent) - len(tables_absent)
        if evicted:
            summary["evicted_keys"] = evicted[:MOST_IN_XCOM]
        if lost or unseen:
            summary["lost_keys"] = dict([*lost.items(), *unseen.items()][:MOST_IN_XCOM])
        tell_failures(self._log, self._errors, self._failed)
        advice = self._advice(evicted)
        try:
            self._raise_for(summary, stopped, evicted, lost, unseen, advice)
        except Exception:
            push_summary(self._context, summary, self._log)
            raise
        self._marks.forget()
        self._tell_end(summary, advice)
        return summary

    def _raise_for(
        self,
        summary: Mapping[str, Any],
        stopped: Exception | None,
        evicted: Sequence[str],
        lost: Mapping[str, str],
        unseen: Mapping[str, str],
        advice: str,
    ) -> None:
        said = self._said(summary["seconds"], len(evicted))
        if stopped is not None:
            begun = self._stored + len(self._kept)
            of = "" if self._total is None else f" of {self._total:,}"
            said = f"Stopped after {begun:,}{of} tables, as no other would do better"
        too_many = self._failed > self._options.max_failed_keys
        if self._worst is not None and (stopped is not None or too_many):
            key, error = self._worst
            said += f"\n{key}: {type(error).__name__}: {error}"
            hopeless = stopped is not None and self._is_for_good(error)
            if hopeless or self._for_good > self._options.max_failed_keys:
                raise AirflowFailException(said) from error
            raise TablesFailed(said, result=summary) from error
        if lost or unseen or (evicted and not self._options.allow_evicted):
            if lost:
                gone = ", ".join(sorted({self._places[key] for key in lost}))
                said += (
                    f"; {counted(len(lost), 'table')} cannot be asked for any more: {gone} went down since"
                )
            if unseen:
                whose = "; ".join(sorted(set(unseen.values())))
                said += (
                    f"; readers do not see {counted(len(unseen), 'table')}, which went to another node while "
                    f"theirs was down: {whose}"
                )
            raise TablesEvicted(said + (f". {advice}" if advice else ""), result=summary)
        if self._failed_over and self._options.require_home:
            raise StoredOnFailover(
                f"{said}; {counted(self._failed_over, 'table')} failed over, and require_home is set",
                result=summary,
            )

    def _said(self, seconds: float, evicted: int = 0) -> str:
        said = f"Stored {counted(self._stored, 'table')}: {self._bytes:,} bytes, {seconds:.1f} s"
        if self._kept:
            said += f"; {counted(len(self._kept), 'table')} of an earlier try were there"
        for number, what in ((self._failed, "failed"), (evicted, "evicted since")):
            if number:
                said += f"; {number:,} {what}"
        return said

    def _tell_end(self, summary: Mapping[str, Any], advice: str) -> None:
        said = self._said(summary["seconds"], summary["evicted"])
        if summary.get("failed_copies") or summary.get("absent_copies"):
            said += f"; of the copies {self._failed_copies:,} failed, {summary['absent_copies']:,} are gone"
        if self._may_hold_old:
            said += f"; older tables may be on {', '.join(self._may_hold_old)}"
        if self._failed_over:
            said += f"; the home node of {self._failed_over:,} was down"
        if self._empty:
            said += f"; {counted(self._empty, 'table')} without rows"
        if advice:
            said += f". {advice}"
        troubled = self._failed or advice or self._may_hold_old or self._failed_over or self._empty
        (self._log.warning if troubled else self._log.info)("%s", said)

    def _advice(self, evicted: Sequence[str]) -> str:
        """What to do about what the nodes do not have any more."""
        if not evicted:
            return ""
        missing: dict[str, int] = {}
        held: dict[str, int] = {}
        for node in self._places.values():
            held[node] = held.get(node, 0) + 1
        for key in evicted:
            missing[self._places[key]] = missing.get(self._places[key], 0) + 1
        lines = []
        for node, number in missing.items():
            size = self._sizes.get(node, [0, 0])[1]
            lines.append(
                f"{node} lacks {number:,} of its {counted(held[node], 'table')} ({size:,} bytes stored now)"
            )
        empty = [node for node, number in missing.items() if number == held[node] and number > 1]
        if len(empty) == len(missing):
            todo = "A node that has none of them was restarted or emptied; store them again"
        elif len(missing) < min(self._nodes, len(held)):
            todo = (
                "The other nodes have theirs: give that one the --size of the others, or a larger one, or "
                "look who else stores on it"
            )
        else:
            todo = (
                "A node evicts what was least recently used when its cache is full (--size), and what is "
                "older than --age. Text takes up to four times its CSV there: add nodes, or start them with "
                "a larger --size"
            )
        return "; ".join(lines) + f". {todo}."
