"""Thousands of keys deleted in one task: progress, and a summary that stays small."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.operators._arguments import counted
from airflow_provider_qcache.operators._failures import ends_the_task, fail_for_good
from airflow_provider_qcache.operators._progress import Ticker, shown_time
from airflow_provider_qcache.operators.errors import NodesUnreachable

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping, Sequence

    from airflow_provider_qcache.hooks.qcache import QCacheHook

MOST_TOLD: Final = 1000
"""Keys whose every outcome is returned; of more there are counts, and the exceptions."""

_MOST_EXCEPTIONS: Final = 100


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
    log: logging.Logger,
) -> dict[str, Any]:
    """Delete many keys, and give the summary for XCom.

    Raises:
        AirflowFailException: a key met what no retry makes better: wrong credentials, say.
        NodesUnreachable: some keys may be left on nodes that could not be asked.
    """
    run = _Run(hook, len(keys), log)
    with Ticker(run.tick):
        try:
            hook.delete_many(keys, all_nodes=all_nodes, raise_on_failure=False, on_done=run.note)
        except _Stop as stop:
            more = f"\nAsked about {run.done:,} of {len(keys):,} keys"
            raise fail_for_good(stop.met, more) from stop.met
    return run.end(ignore_unreachable=ignore_unreachable)


class _Run:
    def __init__(self, hook: QCacheHook, total: int, log: logging.Logger) -> None:
        self._hook = hook
        self._total = total
        self._log = log
        self._started = time.monotonic()
        self._counts = {"confirmed": 0, "gone": 0, "unreachable": 0}
        self._unreachable = 0
        self._exceptions: dict[str, dict[str, str]] = {}
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
            self._take(key, {"": "unreachable"}, f"{type(outcome).__name__}: {outcome}")
        else:
            found = {node: str(each) for node, each in outcome.outcomes.items()}
            error = next(iter(outcome.errors.values()), None)
            self._take(key, found, None if error is None else f"{type(error).__name__}: {error}")

    def _take(self, key: str, outcomes: Mapping[str, str], error: str | None) -> None:
        for outcome in outcomes.values():
            self._counts[outcome] += 1
        left = [node for node, outcome in outcomes.items() if outcome == "unreachable"]
        if left:
            self._unreachable += 1
            self._nodes.update(filter(None, left))
        if len(self._exceptions) < _MOST_EXCEPTIONS:
            others = {node: outcome for node, outcome in outcomes.items() if outcome != "confirmed"}
            if others:
                self._exceptions[key] = {
                    node or self._hook.node_for_key(key): outcome for node, outcome in others.items()
                }
                if error is not None:
                    self._errors[key] = error[:300]

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

    def end(self, *, ignore_unreachable: bool) -> dict[str, Any]:
        """The summary, or NodesUnreachable."""
        seconds = round(time.monotonic() - self._started, 3)
        counts = ", ".join(f"{number:,} {outcome}" for outcome, number in self._counts.items() if number)
        said = f"Deleted {counted(self.done, 'table')}: {counts}, {seconds:.1f} s"
        summary = {"keys": self.done, **self._counts, "seconds": seconds, "not_confirmed": self._exceptions}
        if not self._unreachable:
            self._log.info("%s", said)
            return summary
        listed = "".join(f"\n  {key}: {error}" for key, error in list(self._errors.items())[:10])
        if not ignore_unreachable:
            raise NodesUnreachable(
                f"{self._unreachable:,} of {self._total:,} keys may be left on nodes that could not be asked"
                f" ({', '.join(sorted(self._nodes))}):{listed}",
                outcomes=self._exceptions,
            )
        self._log.warning("%s; tables may be left on %s", said, ", ".join(sorted(self._nodes)))
        return summary
