"""Delete thousands of keys in one task, with progress and a summary that stays small."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.operators._arguments import counted
from airflow_provider_qcache.operators._report import (
    ERROR_IN_XCOM,
    MOST_IN_XCOM,
    Ticker,
    is_waiting,
    log_failure,
    push_summary,
    shown_error,
    shown_speed,
    shown_time,
)
from airflow_provider_qcache.operators.errors import NodesUnreachable, ends_the_task, fail_for_good

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterable, Mapping, Sequence

    from airflow_provider_qcache.hooks.qcache import QCacheHook

MOST_RETURNED: Final = 1000
"""Keys whose every outcome is returned; of more there are counts, and the exceptions."""


class _Stop(Exception):
    """An error of one key that every other key would fail with."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def delete_tables(
    hook: QCacheHook,
    keys: Sequence[str],
    *,
    all_nodes: bool,
    ignore_unreachable: bool,
    context: Mapping[str, Any],
    log: logging.Logger,
) -> dict[str, Any]:
    """Delete many keys, and return the summary for XCom, which is also pushed before an error is raised.

    Raises:
        AirflowFailException: an error that no retry helps, such as refused credentials.
        NodesUnreachable: some keys may still be on nodes that could not be asked.
    """
    run = _Deleting(hook, len(keys), log, waits=not all_nodes)
    with Ticker(run.tick):
        try:
            hook.delete_many(keys, all_nodes=all_nodes, raise_on_failure=False, on_done=run.note)
        except _Stop as stop:
            push_summary(context, run.summary(), log)
            more = f"\nAsked about {run.done:,} of {len(keys):,} keys"
            raise fail_for_good(stop.error, more) from stop.error
    try:
        return run.end(ignore_unreachable=ignore_unreachable)
    except NodesUnreachable:
        push_summary(context, run.summary(), log)
        raise


def asked_nodes(hook: QCacheHook, key: str, error: Exception) -> list[str]:
    """The nodes that an error is about, without passwords; the key's home node if the error names none."""
    from airflow_provider_qcache.client.errors import redacted  # noqa: PLC0415  # it loads requests

    asked = [*getattr(error, "nodes", ()), *(attempt.node for attempt in getattr(error, "attempts", ()))]
    return list(dict.fromkeys(asked)) or [redacted(hook.node_for_key(key))]


def is_unconfirmed(error: Exception) -> bool:
    """Whether a delete ended because no node confirmed it: its ``result`` has the outcome on each node."""
    return getattr(error, "result", None) is not None and bool(getattr(error, "transient", False))


def left_on(outcomes: Mapping[str, str]) -> list[str]:
    """The nodes that may still have a key.

    A node that refuses the connection counts as gone only if another node confirms: a wrong port refuses
    connections, too.
    """
    confirmed = "confirmed" in outcomes.values()
    return [
        node
        for node, outcome in outcomes.items()
        if outcome == "unreachable" or (outcome == "gone" and not confirmed)
    ]


def unreachable_message(left: int, unconfirmed: int, total: int) -> str:
    """How many keys may be left, for NodesUnreachable."""
    said = f"{left:,} of {total:,} keys may still be on nodes that could not be asked"
    if unconfirmed:
        said += (
            f"; no node confirmed the delete of {unconfirmed:,}. A wrong address or port refuses connections "
            "as a stopped node does: check the nodes of the connection"
        )
    return said


def warning_after(left: Iterable[str], refused: Iterable[str], *, confirmed: bool) -> str:
    """The warning to log after a successful delete; empty if there is none."""
    said = []
    if not confirmed:
        said.append("no node confirmed a delete, so nothing was deleted")
    if left := sorted(left):
        said.append(f"tables may still be on {', '.join(left)}")
    if refused := sorted(set(refused) - set(left)):
        said.append(
            f"{', '.join(refused)} refused the connection: its tables are assumed gone with its process. If "
            "it should be running, check its address"
        )
    return "; ".join(said)


class _Deleting:
    def __init__(self, hook: QCacheHook, total: int, log: logging.Logger, *, waits: bool) -> None:
        self._hook = hook
        self._total = total
        self._log = log
        self._waits = waits
        """Whether deletes wait for a node, as those of a key's first living node do."""
        self._started = time.monotonic()
        self._counts = {"confirmed": 0, "gone": 0, "unreachable": 0}
        self._unreachable = 0
        self._left: dict[str, dict[str, str]] = {}
        """The first keys that a node may still have, with the outcomes that are not 'confirmed' by node."""
        self._gone: dict[str, dict[str, str]] = {}
        """The same for keys of which every other outcome is 'gone'."""
        self._errors: dict[str, str] = {}
        self._nodes: set[str] = set()
        self._refused: set[str] = set()
        self._unconfirmed = 0
        self.done = 0

    def note(self, key: str, outcome: Any) -> None:
        """Take what became of one key; called for one at a time."""
        if isinstance(outcome, Exception) and type(outcome).__name__ == "OperationCancelled":
            return
        self.done += 1
        if isinstance(outcome, Exception) and not is_unconfirmed(outcome):
            if ends_the_task(outcome):
                raise _Stop(outcome)
            nodes = asked_nodes(self._hook, key, outcome)
            self._take(key, dict.fromkeys(nodes, "unreachable"), outcome)
            return
        unconfirmed = outcome if isinstance(outcome, Exception) else None
        result = outcome if unconfirmed is None else unconfirmed.result  # type: ignore[attr-defined]
        found = {node: str(each) for node, each in result.outcomes.items()}
        self._take(key, found, unconfirmed or next(iter(result.errors.values()), None))

    def _take(self, key: str, outcomes: Mapping[str, str], error: Exception | None) -> None:
        for outcome in outcomes.values():
            self._counts[outcome] += 1
        others = {node: outcome for node, outcome in outcomes.items() if outcome != "confirmed"}
        left = left_on(outcomes)
        self._unconfirmed += len(others) == len(outcomes)
        self._refused.update(node for node, outcome in others.items() if outcome == "gone")
        if left:
            self._unreachable += 1
            self._nodes.update(left)
            said = f"unreachable: {', '.join(left)}" if error is None else shown_error(error)
            log_failure(self._log, key, said, self._unreachable)
            if len(self._errors) < MOST_IN_XCOM:
                self._errors[key] = said
        listed = self._left if left else self._gone
        if others and len(listed) < MOST_IN_XCOM:
            listed[key] = others

    def tick(self) -> None:
        """A line of progress."""
        said = f"Deleted {self.done:,} of {self._total:,} tables, {self._unreachable:,} unreachable; "
        seconds = max(time.monotonic() - self._started, 1e-9)
        if self._waits and is_waiting(self._hook):
            said += "waiting for a node: none answers"
        else:
            said += shown_speed(self.done, None, seconds)
            if self.done:
                said += f", {shown_time((self._total - self.done) * seconds / self.done)} left"
        self._log.info("%s", said)

    def summary(self) -> dict[str, Any]:
        """What the task returns."""
        listed = [*self._left.items(), *self._gone.items()][:MOST_IN_XCOM]
        summary: dict[str, Any] = {
            "keys": self.done,
            **self._counts,
            "seconds": round(time.monotonic() - self._started, 3),
            "not_confirmed": dict(listed),
        }
        if self._left:
            summary["failed_keys"] = {key: self._errors[key][:ERROR_IN_XCOM] for key in self._left}
        return summary

    def end(self, *, ignore_unreachable: bool) -> dict[str, Any]:
        """The summary, or NodesUnreachable."""
        summary = self.summary()
        counts = ", ".join(f"{number:,} {outcome}" for outcome, number in self._counts.items() if number)
        said = f"Deleted {counted(self.done, 'table')}: {counts}, {summary['seconds']:.1f} s"
        warning = warning_after(self._nodes, self._refused, confirmed=self._counts["confirmed"] > 0)
        if not self._unreachable:
            if warning:
                self._log.warning("%s; %s", said, warning)
            else:
                self._log.info("%s", said)
            return summary
        if ignore_unreachable:
            self._log.warning("%s; %s", said, warning)
            return summary
        nodes = ", ".join(sorted(self._nodes))
        listed = "".join(f"\n  {key}: {error}" for key, error in list(self._errors.items())[:10])
        raise NodesUnreachable(
            f"{unreachable_message(self._unreachable, self._unconfirmed, self._total)} ({nodes}):{listed}",
            outcomes=summary["not_confirmed"],
        )
