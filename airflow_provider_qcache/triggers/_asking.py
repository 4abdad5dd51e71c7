"""Ask nodes about tables, many at a time: once, without retries that wait, without failover to other nodes.

Sensors ask from a worker and triggers from the triggerer, both by ``ask``.
"""

from __future__ import annotations

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from airflow_provider_qcache.client import Absence, QClientException
from airflow_provider_qcache.client.errors import redacted
from airflow_provider_qcache.operators._condition import ONE_ROW, Condition

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_provider_qcache.client import NodeStatus, QueryResult
    from airflow_provider_qcache.hooks.qcache import QCacheHook

ASK_ONCE: Final[Mapping[str, Any]] = {"wait_for_nodes": False}
"""The fields of RequestRetry for a question: the sensor or trigger waits for a node, not the request."""

_MOST_THREADS: Final = 32
"""Nodes that are asked at the same time."""

_MOST_NAMED: Final = 5
"""Tables or nodes that one line names."""

_UNUSED_KEY: Final = "airflow-sensor-asks-whether-this-node-answers"


class Question(NamedTuple):
    """What is asked about one key.

    ``query`` is JSON; None asks only whether the table exists, which disturbs its node least. With
    ``on_home`` the key's home node alone is asked, else the first living node in the key's order, as by
    readers.
    """

    key: str
    query: str | None = None
    on_home: bool = True


def question(key: str, query: Mapping[str, Any] | None, *, on_home: bool = True) -> Question:
    """The Question for a key and a query."""
    if query is None and not on_home:
        query = ONE_ROW  # only a query is routed as readers' are
    text = None if query is None else json.dumps(query, sort_keys=True)
    return Question(key, text, on_home)


State: TypeAlias = Literal["there", "missing", "down", "failed"]
"""What one question says about a table: the node has it; the node answers and does not have it; the node does
not answer, so it cannot say; or the question cannot succeed, as with refused credentials."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """The answer to a Question. ``error`` is set if the state is "failed"."""

    key: str
    node: str
    state: State
    why: str
    result: QueryResult | None = None
    error: Exception | None = None

    @property
    def rows(self) -> int | None:
        """The rows that the query has before offset and limit; None if they were not asked for."""
        return None if self.result is None else self.result.unsliced_result_len


def ask(hook: QCacheHook, questions: Iterable[Question]) -> dict[Question, Finding]:
    """Ask every question once, all nodes at the same time and each node one question at a time.

    A node that refused the connection is asked whatever its backoff, since that takes no time. A node that
    is known to be silent is not asked: each question would cost a timeout. An error of a question is that
    question's Finding; an error that concerns all questions, such as a connection that does not exist, is
    raised.
    """
    questions = dict.fromkeys(questions)
    status = hook.node_status()
    found: dict[Question, Finding] = {}
    absences: dict[tuple[str, str], Question] = {}
    by_node: dict[str, list[Question]] = {}
    for one in questions:
        home = redacted(hook.node_for_key(one.key))
        if one.on_home and is_silent(status[home]):
            found[one] = _finding(one.key, home, status[home], Absence.UNKNOWN)
        elif one.query is None:
            absences[one.key, home] = one
        else:
            by_node.setdefault(home, []).append(one)
    if absences:
        found |= _find_absent(hook, absences)
    found |= _query_all(hook, by_node)
    return found


def is_silent(status: NodeStatus) -> bool:
    """Whether a question to the node costs a timeout; a node that refuses the connection does not."""
    return not status.alive and not status.gone


def problem(finding: Finding, condition: Condition) -> str | None:
    """Why a table does not satisfy the condition yet; None if it does. Raises the finding's error."""
    if finding.error is not None:
        raise finding.error
    if finding.state != "there":
        return f"table {finding.key!r}: {finding.why}"
    violation = None if finding.result is None else condition.violation(finding.result)
    return violation and f"table {finding.key!r} on {finding.node}: {violation}"


def too_few(status: Mapping[str, NodeStatus], min_nodes: int | None) -> str | None:
    """Which nodes do not answer, if fewer than ``min_nodes`` do (None for all); else None."""
    required = min_nodes or len(status)
    down = {node: one.last_error for node, one in status.items() if not one.alive}
    if len(status) - len(down) >= required:
        return None
    nodes = some(f"{node} does not answer: {why}" for node, why in down.items())
    return f"{len(status) - len(down)} of {len(status)} nodes answer, and {required} are required. {nodes}"


def some(texts: Iterable[str]) -> str:
    """The first few of several texts in one line."""
    every = list(texts)
    more = len(every) - _MOST_NAMED
    return "; ".join(every[:_MOST_NAMED]) + (f"; and {more:,} more" if more > 0 else "")


def checked_nodes(hook: QCacheHook) -> dict[str, NodeStatus]:
    """Every node's status, each asked just now. Raises AuthenticationFailed, CertificateRejected."""
    status = hook.node_status(probe=True)
    # A node's status page says nothing about the credentials that its tables need.
    absent = hook.find_absent([(_UNUSED_KEY, node) for node, one in status.items() if one.alive])
    if any(absence is not Absence.MISSING for absence in absent.values()):
        return hook.node_status()
    return status


def _find_absent(hook: QCacheHook, places: Mapping[tuple[str, str], Question]) -> dict[Question, Finding]:
    try:
        absent = hook.find_absent(places)
    except QClientException as error:
        return {one: _failed(hook, one.key, node, error) for (_, node), one in places.items()}
    status = hook.node_status()
    return {one: _finding(*place, status[place[1]], absent.get(place)) for place, one in places.items()}


def _query_all(hook: QCacheHook, by_node: Mapping[str, list[Question]]) -> dict[Question, Finding]:
    def ask_one_node(node: str) -> dict[Question, Finding]:
        findings: dict[Question, Finding] = {}
        for one in by_node[node]:
            status = hook.node_status()[node]
            if one.on_home and is_silent(status):
                findings[one] = _finding(one.key, node, status, Absence.UNKNOWN)
            else:
                findings[one] = _query(hook, status, node, one)
        return findings

    if len(by_node) < 2:
        answers = [ask_one_node(node) for node in by_node]
    else:
        with ThreadPoolExecutor(min(len(by_node), _MOST_THREADS), "qcache-ask") as threads:
            answers = list(threads.map(ask_one_node, by_node))
    return {one: finding for answer in answers for one, finding in answer.items()}


def _query(hook: QCacheHook, status: NodeStatus, home: str, one: Question) -> Finding:
    assert one.query is not None  # noqa: S101
    try:
        result = hook.get(one.key, json.loads(one.query), node=home if one.on_home else None)
    except QClientException as error:
        return _failed(hook, one.key, home, error)
    if result is None:
        return _finding(one.key, home, status, Absence.MISSING)
    return _finding(one.key, redacted(result.node), status, None, result)


def _finding(
    key: str, node: str, status: NodeStatus, absence: Absence | None, result: QueryResult | None = None
) -> Finding:
    """The Finding for a node's answer; ``absence`` is None if the node has the table."""
    if absence is None:
        return Finding(key, node, "there", f"{node} has the table", result)
    if absence is Absence.MISSING:
        return Finding(key, node, "missing", f"{node} answers and does not have the table")
    why = f"its home node {node} does not answer: {status.last_error}"
    return Finding(key, node, "down", why)


def _failed(hook: QCacheHook, key: str, node: str, error: QClientException) -> Finding:
    if not error.transient:
        return Finding(key, node, "failed", f"{type(error).__name__}: {error}", error=error)
    status = hook.node_status()[node]
    if not status.alive:
        return _finding(key, node, status, Absence.UNKNOWN)
    first = str(error).splitlines()[0]
    return Finding(key, node, "down", f"cannot ask for it: {type(error).__name__}: {first}")
