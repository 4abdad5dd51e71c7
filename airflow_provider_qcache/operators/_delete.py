"""Delete the keys of one task, with progress in the log and a result that stays small."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.client import DeleteOutcome, OperationCancelled
from airflow_provider_qcache.client.errors import redacted
from airflow_provider_qcache.operators import _report
from airflow_provider_qcache.operators._arguments import counted
from airflow_provider_qcache.operators.errors import NodesUnreachable, ends_the_task, fail_for_good

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping, Sequence

    from airflow_provider_qcache.hooks.qcache import QCacheHook

MOST_RETURNED: Final = 1000
"""The most keys whose every outcome is returned. For more keys there are counts, and the outcomes that are
not 'confirmed'."""

_MOST_IN_ERROR: Final = 10


def delete_tables(
    hook: QCacheHook,
    keys: Sequence[str],
    *,
    all_nodes: bool,
    ignore_unreachable: bool,
    context: Mapping[str, Any],
    log: logging.Logger,
) -> Deletion:
    """Delete tables; every key is tried on every node. Before an error the result is pushed to XCom.

    Raises:
        AirflowFailException: a key failed with an error that no retry helps, such as refused credentials.
        NodesUnreachable: keys may still be on nodes, unless ``ignore_unreachable``.
    """
    deletion = Deletion(hook, keys, log, waits=not all_nodes)
    with _report.ticking(deletion.log_progress):
        hook.delete_many(keys, all_nodes=all_nodes, raise_on_failure=False, on_done=deletion.note)
    try:
        deletion.raise_for_failures(ignore_unreachable=ignore_unreachable)
    except Exception:
        _report.push_summary(context, deletion.result(), log)
        raise
    deletion.log_end()
    return deletion


class Deletion:
    """What became of the keys that one task deletes."""

    def __init__(self, hook: QCacheHook, keys: Sequence[str], log: logging.Logger, *, waits: bool) -> None:
        self._hook = hook
        self._keys = keys
        self._log = log
        self._waits = waits
        """Whether deletes wait for a node, as those of a key's first living node do."""
        self._started = time.monotonic()
        self.counts = dict.fromkeys(map(str, DeleteOutcome), 0)
        """On how many nodes, for all keys, a delete had each outcome."""
        self._done = 0
        self._every: dict[str, dict[str, str]] = {}
        """Each key's outcomes by node, for up to MOST_RETURNED keys."""
        self._left = 0
        """How many keys a node may still have."""
        self._left_keys: dict[str, dict[str, str]] = {}
        """The first of these keys, with the outcomes that are not 'confirmed' by node."""
        self._errors: dict[str, str] = {}
        """The errors of the same keys."""
        self._left_nodes: set[str] = set()
        self._gone_keys: dict[str, dict[str, str]] = {}
        """The first keys of which every other outcome is 'gone'."""
        self._refused: set[str] = set()
        self._unconfirmed = 0
        self._first_error: Exception | None = None
        self._permanent: Exception | None = None

    def note(self, key: str, result: Any) -> None:
        """Take the DeleteResult or the error of one key; called for one at a time."""
        if isinstance(result, OperationCancelled):
            return
        self._done += 1
        error = result if isinstance(result, Exception) else None
        if self._permanent is None and error is not None and ends_the_task(error):
            self._permanent = error
        found = result if error is None else getattr(error, "result", None)
        if found is not None:
            outcomes = {node: str(outcome) for node, outcome in found.outcomes.items()}
            error = error or next(iter(found.errors.values()), None)
        else:
            # The nodes that the error names, without passwords.
            asked = [*getattr(error, "nodes", ()), *(one.node for one in getattr(error, "attempts", ()))]
            outcomes = dict.fromkeys(asked or [redacted(self._hook.node_for_key(key))], "unreachable")
        for outcome in outcomes.values():
            self.counts[outcome] += 1
        if len(self._keys) <= MOST_RETURNED:
            self._every[key] = outcomes
        others = {node: outcome for node, outcome in outcomes.items() if outcome != "confirmed"}
        self._unconfirmed += len(others) == len(outcomes)
        self._refused.update(node for node, outcome in others.items() if outcome == "gone")
        # A node that refuses the connection counts as gone only if another node confirms: a wrong port does
        # so, too.
        is_confirmed = len(others) < len(outcomes)
        left = [node for node, outcome in others.items() if outcome == "unreachable" or not is_confirmed]
        if left:
            self._left += 1
            self._first_error = self._first_error or error
            self._left_nodes.update(left)
            reasons = dict.fromkeys(left, "unreachable") if error is None else getattr(error, "nodes", None)
            reason = "; ".join(f"{node}: {why}" for node, why in (reasons or {}).items())
            if error is not None and not reasons:
                reason = _report.format_error(error)
            _report.log_failure(self._log, key, reason, self._left)
            if len(self._errors) < _report.MOST_IN_XCOM:
                self._errors[key] = reason
        listed = self._left_keys if left else self._gone_keys
        if others and len(listed) < _report.MOST_IN_XCOM:
            listed[key] = others

    def log_progress(self) -> None:
        line = f"Deleted {self._done:,} of {len(self._keys):,} tables, {self._left:,} unreachable; "
        seconds = max(time.monotonic() - self._started, 1e-9)
        if self._waits and _report.is_waiting(self._hook):
            line += "waiting for a node: none answers"
        else:
            line += _report.format_speed(self._done, None, seconds)
            if self._done:
                line += f", {_report.format_time((len(self._keys) - self._done) * seconds / self._done)} left"
        self._log.info("%s", line)

    def result(self) -> dict[str, Any]:
        """What the task returns: every key's outcomes by node, or a summary of many keys."""
        if len(self._keys) <= MOST_RETURNED:
            return {key: self._every[key] for key in self._keys if key in self._every}
        summary: dict[str, Any] = {
            "keys": self._done,
            **self.counts,
            "seconds": round(time.monotonic() - self._started, 3),
            "not_confirmed": self._not_confirmed(),
        }
        if self._left_keys:
            summary["failed_keys"] = {
                key: self._errors[key][: _report.ERROR_IN_XCOM] for key in self._left_keys
            }
        return summary

    def _not_confirmed(self) -> dict[str, dict[str, str]]:
        return dict([*self._left_keys.items(), *self._gone_keys.items()][: _report.MOST_IN_XCOM])

    def raise_for_failures(self, *, ignore_unreachable: bool) -> None:
        if self._permanent is not None:
            others = self._left - 1
            raise fail_for_good(
                self._permanent, f"\nMore keys that failed: {others:,}" if others else ""
            ) from self._permanent
        if not self._left or ignore_unreachable:
            return
        total = counted(len(self._keys), "key")
        text = f"{self._left:,} of {total} may still be on nodes that could not be asked"
        if self._unconfirmed:
            text += (
                f"; no node confirmed the delete of {self._unconfirmed:,}. A wrong address or port refuses "
                "connections as a stopped node does: check the nodes of the connection"
            )
        errors = list(self._errors.items())[:_MOST_IN_ERROR]
        keys_of: dict[str, list[str]] = {}
        for key, error in errors:
            keys_of.setdefault(error, []).append(key)
        lines = [f"\n  {', '.join(keys)}: {error}" for error, keys in keys_of.items()]
        if self._left > len(errors):
            lines.append(f"\n  and {self._left - len(errors):,} more")
        raise NodesUnreachable(
            f"{text} ({', '.join(sorted(self._left_nodes))}):{''.join(lines)}",
            outcomes=self._every or self._not_confirmed(),
        ) from self._first_error

    def log_end(self) -> None:
        """Log what the task has done; a warning if a node may still have a table, or refused."""
        what = f"table {self._keys[0]!r}" if len(self._keys) == 1 else counted(len(self._keys), "table")
        counts = ", ".join(f"{number:,} {outcome}" for outcome, number in self.counts.items() if number)
        warnings = []
        if not self.counts["confirmed"]:
            warnings.append("no node confirmed a delete, so nothing was deleted")
        if self._left_nodes:
            warnings.append(f"tables may still be on {', '.join(sorted(self._left_nodes))}")
        if refused := sorted(self._refused - self._left_nodes):
            warnings.append(
                f"{', '.join(refused)} refused the connection: its tables are assumed gone with its process. "
                "If it should be running, check its address"
            )
        log = self._log.warning if warnings else self._log.info
        log("%s", "; ".join([f"Deleted {what}: {counts}", *warnings]))
