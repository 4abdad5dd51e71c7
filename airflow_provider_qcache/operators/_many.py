"""Store many tables in one task: progress, resuming by a retry, a check at the end, and a summary."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from airflow_provider_qcache import client
from airflow_provider_qcache.compat import AirflowFailException
from airflow_provider_qcache.operators import _report, errors
from airflow_provider_qcache.operators._arguments import counted, short_repr, store_options
from airflow_provider_qcache.operators._keys import KeyHandover
from airflow_provider_qcache.operators._resume import ResumeRecord

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from airflow_provider_qcache.hooks.qcache import QCacheHook

    _Tables = Callable[[], Iterable[tuple[str, Any]]]
    _Prepare = Callable[[str, Any], Any] | None


def store_tables(
    hook: QCacheHook,
    tables: _Tables,
    *,
    context: Mapping[str, Any],
    log: logging.Logger,
    arguments: Mapping[str, Any],
    literal: bool = False,
    keys: Sequence[str] | None = None,
    prepare: _Prepare = None,
) -> dict[str, Any]:
    """Store many tables, and return the summary for XCom.

    ``tables`` returns an iterable of (key, content) pairs, which is read while they are stored. It is called
    again if its keys turn out to differ from those of an earlier try. ``literal`` says that the tables are
    written in the DAG, so that an invalid one is invalid at every try. ``keys`` are all keys in their order,
    if they are known: then progress has the time left, and an earlier try's record is compared before any
    table is skipped. ``prepare`` returns, for key and content, what the client stores (any form of content,
    or an Upload); it runs in the thread of the key's node.

    Raises the errors of a QCachePostOperator with ``tables``, and what ``tables`` raises. Before any error
    except a cancel it pushes the summary, with nulls for what was not asked.
    """
    storing = _Storing(hook, context, log, arguments, keys, literal)
    tally, record, copies = storing.tally, storing.record, arguments["copies"]
    with _report.ticking(storing.tick):
        try:
            storing.run(tables, prepare)
        except Exception as error:
            log.info("%s before the task failed", tally.sentence(tally.seconds))
            if not isinstance(error, client.OperationCancelled):
                _report.push_summary(context, tally.summary(copies=copies), log)
            raise
    summary = tally.summary(copies=copies)
    advice = tally.advice(Counter(storing.residency.places.values()), storing.nodes)
    try:
        storing.raise_for_failures(summary, advice)
        storing.handover.finish(hook, record.keys, summary, failed=tally.failed, is_retry=record.is_retry)
    except Exception:
        _report.push_summary(context, summary, log)
        raise
    record.forget()
    line, is_warning = tally.last_line(summary["seconds"], advice)
    (log.warning if is_warning else log.info)("%s", line)
    return summary


class _ClusterUnusable(Exception):
    """An error of one key that all other keys would fail with too."""


class _Residency:
    """The nodes that tables were stored on, and whether readers find the tables there."""

    def __init__(self, hook: QCacheHook) -> None:
        self._hook = hook
        self.places: dict[str, str] = {}
        """Each stored key's node, in the order in which they were stored."""
        self._copies: list[tuple[str, str]] = []
        self._asked_before: dict[str, tuple[str, ...]] = {}
        """For each key whose table is on a fallback node, the nodes that readers ask before it."""
        self.to_ask = self.asked = 0
        """How many tables the nodes are asked for at the end, and how many of them they were asked for."""

    def add(self, key: str, node: str, copies: Iterable[str] = ()) -> bool:
        """Note the node of a key's table; returns whether it is a fallback node."""
        self.places[key] = sys.intern(node)
        self._copies += [(key, sys.intern(copy)) for copy in copies]
        order = tuple(map(sys.intern, self._hook.successors(key)))
        before = order[: order.index(node)] if node in order else ()
        if before:
            self._asked_before[key] = before
        return bool(before)

    def check(self) -> _report.Absent:
        before = [(key, node) for key, nodes in self._asked_before.items() for node in nodes]
        places = [*self.places.items(), *self._copies, *before]
        self.to_ask = len(places)
        found = self._hook.find_absent(self._counted(places))
        copies = set(self._copies)
        absent = _report.Absent(checked=True)
        for key, node in before:
            why = found.pop((key, node), None)
            if why is None and (key, node) not in copies:
                absent.hidden.setdefault(key, f"{node} is back with another table")
            elif why is client.Absence.MISSING:
                absent.hidden.setdefault(key, f"{node} is back without it")
        for (key, node), why in found.items():
            if self.places[key] != node:
                absent.copies += 1
            elif why is client.Absence.MISSING:
                absent.evicted[key] = node
            else:
                absent.lost[key] = str(why)
        return absent

    def _counted(self, places: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        for place in places:
            self.asked += 1
            yield place


@dataclasses.dataclass
class _Storing:
    """One call of ``store_tables``: stores the tables that an earlier try did not store."""

    hook: QCacheHook
    context: Mapping[str, Any]
    log: logging.Logger
    arguments: Mapping[str, Any]
    keys: Sequence[str] | None
    literal: bool

    def __post_init__(self) -> None:
        self.handover = KeyHandover(self.arguments, self.log)
        self.handover.check_number(len(self.keys or ()))
        durable = self.arguments["durable"]
        self.record = ResumeRecord(self.context, self.keys, self.log, durable=durable)
        self.tally = _report.Tally(None if self.keys is None else len(self.keys))
        self.residency = _Residency(self.hook)
        self.nodes = len(self.hook.node_status())

    def run(self, tables: _Tables, prepare: _Prepare) -> None:
        """Store the tables, then check them, unless it stopped because all other keys would fail too."""
        try:
            self._store(self._first_pass(tables), prepare, keep=self.record)
            if self.record.keys_differ and self.tally.kept:
                again, self.tally.kept = self.tally.kept, {}
                self._store(self._second_pass(tables, again), prepare)
        except _ClusterUnusable:
            return
        finally:
            # Even if the author's function failed or the task was killed: for the next try.
            self.record.save()
        absent = self.tally.absent = self.residency.check()
        for key in absent.not_found():
            self.record.set(key, done=False)
        if absent.not_found():
            self.record.save()

    def raise_for_failures(self, summary: Mapping[str, Any], advice: str) -> None:
        """Raise the error that the task ends with, if any."""
        tally, absent, seconds = self.tally, self.tally.absent, summary["seconds"]
        stopped, most_failed = not absent.checked, self.arguments["max_failed_keys"]
        if tally.worst is not None and (stopped or tally.failed > most_failed):
            key, error = tally.worst
            text = tally.sentence(seconds, stopped=stopped)
            text += f"\n{key}: {type(error).__name__}: {error}"
            if (stopped and self._is_for_good(error)) or tally.for_good > most_failed:
                raise AirflowFailException(text) from error
            raise errors.TablesFailed(text, result=summary) from error
        if absent.lost or absent.hidden or (absent.evicted and not self.arguments["allow_evicted"]):
            text = tally.sentence(seconds, *absent.troubles(self.residency.places))
            raise errors.TablesEvicted(text + (f". {advice}" if advice else ""), result=summary)
        if tally.failed_over and self.arguments["require_home"]:
            trouble = f"{counted(tally.failed_over, 'table')} failed over, and require_home is set"
            raise errors.StoredOnFailover(tally.sentence(seconds, trouble), result=summary)

    def _first_pass(self, tables: _Tables) -> Iterator[tuple[str, Any]]:
        for key, content in self._pairs(tables()):
            if self.keys is None:
                with errors.permanent(ValueError):
                    self.handover.check_number(self.record.add(key) + 1)
            yield key, content
        self.record.end()

    def _second_pass(self, tables: _Tables, keys: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
        left = dict(keys)
        for key, content in self._pairs(tables()):
            if left.pop(key, None) is not None:
                yield key, content
        for key in left:
            self._note_failure(
                key, ValueError(f"tables: its first call gave key {key!r}, and its second call did not")
            )

    def _pairs(self, items: Iterable[Any]) -> Iterator[tuple[str, Any]]:
        for number, pair in enumerate(items, 1):
            if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
                text = f"tables: item {number} is {short_repr(pair)}: expected a pair (key, content)"
                raise errors.fail_for_good(TypeError(text))
            yield pair[0], pair[1]

    def _store(self, pairs: Iterable[tuple[str, Any]], prepare: _Prepare, keep: Any = ()) -> None:
        self.hook.post_many(
            pairs, **store_options(self.arguments), prepare=prepare, keep=keep, on_done=self._note
        )

    def _note(self, key: str, outcome: Any) -> None:
        """Take the result or the error of one key; called for one key at a time."""
        if isinstance(outcome, Exception):
            self._note_failure(key, outcome)
        elif isinstance(outcome, client.StoreResult):
            self.tally.add_stored(outcome)
            self.tally.failed_over += self.residency.add(key, outcome.node, outcome.copies)
            # The next try could mistake an older table on a node that readers ask for this one.
            sure = not outcome.may_hold_old and (self.arguments["evict_stale"] or not outcome.failed_over)
            self.record.set(key, done=sure and not outcome.failed_copies)
        else:
            self.tally.kept[key] = outcome.node
            self.tally.failed_over += self.residency.add(key, outcome.node)

    def _note_failure(self, key: str, error: Exception) -> None:
        if isinstance(error, client.OperationCancelled):
            return  # not started, or ended with the task
        text = _report.format_error(error)
        self.tally.add_failed(key, error, text, for_good=self._is_for_good(error))
        _report.log_failure(self.log, key, text, self.tally.failed)
        with contextlib.suppress(KeyError):  # an invalid key is not in the record
            self.record.set(key, done=False)
        refused = isinstance(error, client.AuthenticationFailed | client.CertificateRejected)
        if refused or (
            isinstance(error, client.NoCacheAvailable)
            and not any(status.alive for status in self.hook.node_status(probe=True).values())
        ):
            raise _ClusterUnusable(text) from error

    def _is_for_good(self, error: Exception) -> bool:
        return isinstance(error, AirflowFailException) or errors.ends_the_task(
            error, literal_table=self.literal
        )

    def tick(self) -> None:
        tally, residency = self.tally, self.residency
        if residency.to_ask:
            line = (
                f"Stored {counted(tally.stored, 'table')}; asking the nodes whether they have every table: "
                f"{residency.asked:,} of {residency.to_ask:,}"
            )
        else:
            # Tables that an earlier try stored take next to no time.
            skipped = max(len(tally.kept), self.record.stored_before)
            line = tally.progress(skipped, waiting=_report.is_waiting(self.hook))
        # Before it is logged, so that the record has what the log has.
        self.record.save()
        if self.record.is_orphan:
            # Airflow starts the next try, which would store beside this one.
            self.hook.cancel()
        self.log.info("%s", line)
