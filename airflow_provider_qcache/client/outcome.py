"""The table of outcomes: what a thing a request met means for the node, and what is done next. Pure."""

from __future__ import annotations

import dataclasses
import datetime as dt
import email.utils
import enum
from typing import TYPE_CHECKING, Final

from airflow_provider_qcache.client.errors import Outcome

if TYPE_CHECKING:
    from airflow_provider_qcache.client.transport import Answer


class Kind(enum.StrEnum):
    """The three things asked of a table."""

    QUERY = "query"
    STORE = "store"
    DELETE = "delete"


class Action(enum.Enum):
    """What follows an outcome."""

    RETURN = enum.auto()
    MISS = enum.auto()
    NEXT_NODE = enum.auto()
    """The node is failing; the next one in the key's order is asked."""
    SUSPECT = enum.auto()
    """The node, or the request: the node's status tells."""
    BUSY = enum.auto()
    """The node is alive and has no time; the same node again, once, when its status answers."""
    WAIT = enum.auto()
    """The same node, after Retry-After."""
    RAISE = enum.auto()
    """The node is alive, and asking again would change nothing."""
    END = enum.auto()
    """The operation's own time is over."""


_ACTIONS: Final = {
    Outcome.UNRESOLVED: Action.NEXT_NODE,
    Outcome.REFUSED: Action.NEXT_NODE,
    Outcome.CONNECT_TIMEOUT: Action.NEXT_NODE,
    Outcome.CONNECT_FAILED: Action.NEXT_NODE,
    Outcome.TLS_FAILED: Action.NEXT_NODE,
    Outcome.CERTIFICATE_REJECTED: Action.RAISE,
    Outcome.CLOSED: Action.SUSPECT,
    Outcome.TIMEOUT: Action.NEXT_NODE,
    Outcome.NOT_TAKEN: Action.NEXT_NODE,
    Outcome.TRUNCATED: Action.NEXT_NODE,
    Outcome.UNDECODABLE: Action.NEXT_NODE,
    Outcome.NOT_QCACHE: Action.NEXT_NODE,
    Outcome.TOO_LARGE: Action.RAISE,
    Outcome.DEADLINE: Action.END,
    Outcome.CANCELLED: Action.END,
}

COUNTERS: Final = {
    Outcome.UNRESOLVED: "connection_error",
    Outcome.REFUSED: "connection_error",
    Outcome.CONNECT_TIMEOUT: "connect_timeout",
    Outcome.CONNECT_FAILED: "connection_error",
    Outcome.TLS_FAILED: "connection_error",
    Outcome.CERTIFICATE_REJECTED: "connection_error",
    Outcome.CLOSED: "connection_error",
    Outcome.TIMEOUT: "read_timeout",
    Outcome.NOT_TAKEN: "read_timeout",
    Outcome.TRUNCATED: "connection_error",
    Outcome.DEADLINE: "read_timeout",
}
"""qclient's counter for each outcome; every other counts as unknown_error, and CANCELLED as nothing."""

MET_ON_A_LIVING_NODE: Final = frozenset({Outcome.UNAUTHORIZED, Outcome.CERTIFICATE_REJECTED})
"""What asking for the status meets on a node that is up: a caller is to meet it too, and be told."""


def action_for(kind: Kind, outcome: Outcome) -> Action:
    """What follows an outcome that is no answer."""
    if kind is Kind.STORE and outcome in (Outcome.TIMEOUT, Outcome.NOT_TAKEN):
        # Never another node: each would be silenced in turn by a body that takes long to parse.
        return Action.BUSY
    return _ACTIONS[outcome]


@dataclasses.dataclass(frozen=True, slots=True)
class Judgement:
    """An answer, judged: ``detail`` says what is wrong with it, ``retry_after`` the seconds it asks for."""

    action: Action
    outcome: Outcome
    detail: str = ""
    retry_after: float | None = None


_RETURN: Final = Judgement(Action.RETURN, Outcome.ANSWERED)
_MISS: Final = Judgement(Action.MISS, Outcome.ANSWERED)
_SUCCESS: Final = {Kind.QUERY: 200, Kind.STORE: 201, Kind.DELETE: 200}


def judge(kind: Kind, answer: Answer) -> Judgement:
    """What an answer is worth: a result, a miss, a failure or a lie."""
    status = answer.status
    if status == _SUCCESS[kind]:
        if kind is Kind.QUERY:
            return _judge_result(answer)
        if answer.content.lstrip().startswith(
            b"<"
        ):  # QCache's is empty; this is a page of something before it
            return Judgement(Action.NEXT_NODE, Outcome.NOT_QCACHE, "it is HTML")
        return _RETURN
    if status == 404 and kind is Kind.QUERY:
        return _MISS
    if status in (502, 503, 504):
        return Judgement(Action.NEXT_NODE, Outcome.UNAVAILABLE, "a proxy before the node answers for it")
    if status == 429:
        return Judgement(
            Action.WAIT, Outcome.OVERLOADED, retry_after=_retry_after(answer.headers.get("Retry-After"))
        )
    if status == 401:
        return Judgement(Action.RAISE, Outcome.UNAUTHORIZED)
    if 300 <= status < 400:
        return Judgement(
            Action.RAISE,
            Outcome.REFUSED_REQUEST,
            f"it redirects to {answer.headers.get('Location')!r}; redirects are never followed",
        )
    return Judgement(Action.RAISE, Outcome.REFUSED_REQUEST)


def _judge_result(answer: Answer) -> Judgement:
    length = answer.headers.get("X-QCache-unsliced-length")
    content_type = (answer.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
    content = answer.content
    if content_type.endswith("html"):
        return Judgement(Action.NEXT_NODE, Outcome.NOT_QCACHE, "it is HTML")
    if length is None:
        return Judgement(Action.NEXT_NODE, Outcome.NOT_QCACHE, "it has no X-QCache-unsliced-length")
    if not length.strip().isdecimal():
        return Judgement(Action.NEXT_NODE, Outcome.NOT_QCACHE, f"its X-QCache-unsliced-length is {length!r}")
    # A body without a Content-Length ends where the connection does, wherever that was.
    if content_type == "application/json" and not (content[:1] == b"[" and content.rstrip()[-1:] == b"]"):
        return Judgement(Action.NEXT_NODE, Outcome.UNDECODABLE, "it is no JSON list")
    return _RETURN


def _retry_after(value: str | None) -> float | None:
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        at = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=dt.UTC)
    return max(0.0, (at - dt.datetime.now(dt.UTC)).total_seconds())
