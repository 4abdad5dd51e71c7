"""The table of outcomes: what a thing a request met means for the node, and what is done next. Pure."""

from __future__ import annotations

import dataclasses
import datetime as dt
import email.utils
import enum
import json
from typing import TYPE_CHECKING, Final

from airflow_provider_qcache.client.errors import Outcome

if TYPE_CHECKING:
    from airflow_provider_qcache.client.transport import Answer


class Kind(enum.StrEnum):
    """The things asked of a table."""

    QUERY = "query"
    STORE = "store"
    DELETE = "delete"
    PRESENCE = "presence"
    """Whether it is there, by a query that is refused (400) where it is."""


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


_MOST_DIGITS: Final = 20
"""Of a number of rows: Python refuses to read an integer of thousands of digits."""

_RETURN: Final = Judgement(Action.RETURN, Outcome.ANSWERED)
_MISS: Final = Judgement(Action.MISS, Outcome.ANSWERED)
_SUCCESS: Final = {Kind.QUERY: 200, Kind.STORE: 201, Kind.DELETE: 200, Kind.PRESENCE: 400}


def judge(kind: Kind, answer: Answer) -> Judgement:
    """What an answer is worth: a result, a miss, a failure or a lie."""
    status = answer.status
    if status == _SUCCESS[kind]:
        if kind is Kind.QUERY:
            return _judge_result(answer)
        if kind is Kind.PRESENCE and not answer.content.lstrip().startswith(b'{"error"'):
            return Judgement(Action.RAISE, Outcome.REFUSED_REQUEST, "it is no refusal of QCache's")
        if answer.content.lstrip().startswith(
            b"<"
        ):  # QCache's is empty; this is a page of something before it
            return Judgement(Action.NEXT_NODE, Outcome.NOT_QCACHE, "it is HTML")
        return _RETURN
    if status == 404 and kind in (Kind.QUERY, Kind.PRESENCE):
        return _MISS
    if status in (502, 503, 504):
        return Judgement(Action.NEXT_NODE, Outcome.UNAVAILABLE, "a proxy before the node answers for it")
    if status == 429:
        return Judgement(
            Action.WAIT, Outcome.OVERLOADED, retry_after=_retry_after(answer.headers.get("Retry-After"))
        )
    if status == 401:
        return Judgement(Action.RAISE, Outcome.UNAUTHORIZED)
    if 300 <= status < 400 and answer.headers.get("Location") is not None:
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
    if len(length) > _MOST_DIGITS or not length.strip().isdecimal():
        return Judgement(
            Action.NEXT_NODE, Outcome.NOT_QCACHE, f"its X-QCache-unsliced-length is {length[:100]!r}"
        )
    if content_type == "application/json" and not (content[:1] == b"[" and content.rstrip()[-1:] == b"]"):
        return Judgement(Action.NEXT_NODE, Outcome.UNDECODABLE, "it is no JSON list")
    if not answer.bounded and not _is_whole(content, content_type):
        return Judgement(
            Action.NEXT_NODE, Outcome.TRUNCATED, "it has no Content-Length, and ends in the middle of a row"
        )
    return _RETURN


def _is_whole(content: bytes, content_type: str) -> bool:
    """Whether a result whose body ends where the connection does, wherever that was, can be all there is."""
    if content_type != "application/json":
        return content.endswith(b"\n") and content.count(b'"') % 2 == 0  # else the line end is a text's
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


def _retry_after(value: str | None) -> float | None:
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        at = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=dt.UTC)
    return max(0.0, (at - dt.datetime.now(dt.UTC)).total_seconds())
