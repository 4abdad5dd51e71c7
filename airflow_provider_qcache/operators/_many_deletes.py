"""Thousands of keys deleted in one task: progress, and a summary that stays small."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.operators._arguments import counted
from airflow_provider_qcache.operators._failures import ends_the_task, fail_for_good
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
from airflow_provider_qcache.operators.errors import NodesUnreachable

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping, Sequence

    from airflow_provider_qcache.hooks.qcache import QCacheHook

MOST_TOLD: Final = 1000
"""Keys whose every outcome is returned; of more there are counts, and the exceptions."""


class _Stop(Exception):
    """What a key met, every other would."""

    def __init__(self, met: Exception) -> None:
        super().__init__(str(met))
        self.met = met


def delete_tables(
    hook: QCacheHook,
    keys: Sequence[str],
    *,
    all_nodes: bool,
    ignore_unreachable: bool,
    context: Mapping[str, Any],
    log: logging.Logger,
) -> dict[str, Any]:
    """Delete many keys, and give the summary for XCom, which is pushed before an error too.

    Raises:
        AirflowFailException: a key met what no retry makes better: wrong credentials, say.
        NodesUnreachable: some keys may be left on nodes that could not be asked.
    """
    run = _Run(hook, len(keys), log)
    with Ticker(run.tick):
        try:
            hook.delete_many(keys, all_nodes=all_nodes, raise_on_failure=False, on_done=run.note)
        except _Stop as stop:
            run.tell()
            push_summary(context, run.summary(), log)
            more = f"\nAsked about {run.done:,} of {len(keys):,} keys"
            raise fail_for_good(stop.met, more) from stop.met
    try:
        return run.end(ignore_unreachable=ignore_unreachable)
    except NodesUnreachable:
        push_summary(context, run.summary(), log)
        raise


def asked_nodes(hook: QCacheHook, key: str, error: Exception) -> list[str]:
    """The nodes that a key's error was met on, as they are shown; its home where the error names none."""
    from airflow_provider_qcache.client.errors import shown  # noqa: PLC0415  # it loads requests

    asked = [*getattr(error, "nodes", ()), *(met.node for met in getattr(error, "attempts", ()))]
    return list(dict.fromkeys(asked)) or [shown(hook.node_for_key(key))]


class _Run:
    def __init__(self, hook: QCacheHook, total: int, log: logging.Logger) -> None:
        self._hook = hook
        self._total = total
        self._log = log
        self._started = time.monotonic()
        self._counts = {"confirmed": 0, "gone": 0, "unreachable": 0}
        self._unreachable = 0
        self._left: dict[str, dict[str, str]] = {}
        """Keys with a node that could not be asked, by node what is not confirmed; the first ones."""
        self._gone: dict[str, dict[str, str]] = {}
        """The same of keys that merely met nodes whose process is gone."""
        self._errors: dict[str, str] = {}
        self._nodes: set[str] = set()
        self.done = 0

    def note(self, key: str, outcome: Any) -> None:
        """One key's end; told one at a time."""
        if isinstance(outcome, Exception) and type(outcome).__name__ == "OperationCancelled":
            return
        self.done += 1
        if isinstance(outcome, Exception):
            if ends_the_task(outcome):
                raise _Stop(outcome)
            nodes = asked_nodes(self._hook, key, outcome)
            self._take(key, dict.fromkeys(nodes, "unreachable"), outcome)
        else:
            found = {node: str(each) for node, each in outcome.outcomes.items()}
            self._take(key, found, next(iter(outcome.errors.values()), None))

    def _take(self, key: str, outcomes: Mapping[str, str], error: Exception | None) -> None:
        for outcome in outcomes.values():
            self._counts[outcome] += 1
        others = {node: outcome for node, outcome in outcomes.items() if outcome != "confirmed"}
        left = [node for node, outcome in others.items() if outcome == "unreachable"]
        if left:
            self._unreachable += 1
            self._nodes.update(left)
            if len(self._errors) < MOST_IN_LOG:
                self._errors[key] = f"unreachable: {', '.join(left)}" if error is None else shown_error(error)
        told = self._left if left else self._gone
        if others and len(told) < MOST_IN_XCOM:
            told[key] = others

    def tick(self) -> None:
        """A line of progress."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        left = shown_time((self._total - self.done) * seconds / self.done) if self.done else "?"
        self._log.info(
            "Deleted %s of %s tables, %s unreachable; %s/s, %s left",
            f"{self.done:,}",
            f"{self._total:,}",
            f"{self._unreachable:,}",
            f"{self.done / seconds:,.0f}",
            left,
        )

    def summary(self) -> dict[str, Any]:
        """What the task returns."""
        told = [*self._left.items(), *self._gone.items()][:MOST_IN_XCOM]
        summary: dict[str, Any] = {
            "keys": self.done,
            **self._counts,
            "seconds": round(time.monotonic() - self._started, 3),
            "not_confirmed": dict(told),
        }
        if self._left:
            summary["failed_keys"] = {key: self._errors[key][:ERROR_IN_XCOM] for key in self._left}
        return summary

    def tell(self) -> None:
        """Log the keys that may be left, each with its error."""
        tell_failures(self._log, self._errors, self._unreachable)

    def end(self, *, ignore_unreachable: bool) -> dict[str, Any]:
        """The summary, or NodesUnreachable."""
        summary = self.summary()
        counts = ", ".join(f"{number:,} {outcome}" for outcome, number in self._counts.items() if number)
        said = f"Deleted {counted(self.done, 'table')}: {counts}, {summary['seconds']:.1f} s"
        if not self._unreachable:
            self._log.info("%s", said)
            return summary
        nodes = ", ".join(sorted(self._nodes))
        self.tell()
        if ignore_unreachable:
            self._log.warning("%s; tables may be left on %s", said, nodes)
            return summary
        listed = "".join(f"\n  {key}: {error}" for key, error in list(self._errors.items())[:10])
        raise NodesUnreachable(
            f"{self._unreachable:,} of {self._total:,} keys may be left on nodes that could not be asked"
            f" ({nodes}):{listed}",
            outcomes=summary["not_confirmed"],
        )
