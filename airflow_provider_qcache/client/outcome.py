"""The result of one request, an Answer or a Failure, and what the client does next. No I/O is done here."""

from __future__ import annotations

import dataclasses
import datetime as dt
import email.utils
import enum
import re
from typing import TYPE_CHECKING, Final

from airflow_provider_qcache.client.errors import Outcome, Phase, cause_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_qcache.client.transport import Headers

MAX_ERROR_BODY: Final = 64 * 1024
"""Bytes of an error's body that are read."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """A node's answer. ``content`` is decoded; of an error it is empty if longer than 64 KiB.

    ``complete`` says that no content is missing, by a length, chunks, compression, or how the content ends.
    ``still_encoded`` says that ``content`` is encoded, as the caller asked for. If the configured proxy
    answers 502, 503 or 504 for the node, ``from_proxy`` names the proxy, and what to do.
    """

    status: int
    headers: Headers
    content: bytes
    encoding: str | None
    complete: bool = True
    still_encoded: bool = False
    from_proxy: str = ""

    def text_for_error(self) -> str:
        """The first 500 bytes of the content, without the request's secrets, which a proxy may repeat."""
        content = self.content[:MAX_ERROR_BODY]
        redactor = self.headers.redactor
        if redactor is not None:
            content = redactor().clean_bytes(content)
        return content[:500].decode("utf-8", "replace")


@dataclasses.dataclass(eq=False, repr=False)
class Failure(Exception):
    """A request that has no result.

    ``detail`` says what is wrong with an answer, ``answer`` is that answer, and ``retry_after`` the seconds
    that it asks the client to wait. ``before_answer`` says that the connection was a reused one and ended
    before any byte of an answer came, ``by_proxy`` that the proxy before the node failed, or refused; the
    text then names the proxy.
    """

    outcome: Outcome
    phase: Phase
    cause: BaseException | None = None
    _: dataclasses.KW_ONLY
    status: int | None = None
    detail: str = ""
    answer: Answer | None = None
    retry_after: float | None = None
    before_answer: bool = False
    by_proxy: bool = False

    def __str__(self) -> str:
        return self.detail or str(self.outcome if self.cause is None else self.cause)

    @property
    def reason(self) -> str:
        """Why the request failed, as text: the outcome, and its cause or detail."""
        text = cause_text(self.outcome, self)
        return f"{self.outcome}: {text}" if text and text != self.outcome else str(self.outcome)


class RequestKind(enum.StrEnum):
    """What a request does with the table of its key."""

    QUERY = "query"
    STORE = "store"
    DELETE = "delete"
    PRESENCE = "presence"
    """Find out whether the table exists, by a query that a node refuses (400) if it has the table."""


class Action(enum.Enum):
    """What the client does after a failed request."""

    NEXT_NODE = enum.auto()
    """Mark the node as failing, and ask the next one in the key's order."""
    ASK_STATUS = enum.auto()
    """Ask for the node's status: if the node answers it, the request is the cause of the failure."""
    WHEN_READY = enum.auto()
    """The node is alive and busy: retry once on the same node, when it answers its status."""
    WAIT = enum.auto()
    """Retry on the same node, after Retry-After or the policy's wait."""
    RAISE = enum.auto()
    """The node is alive, and no retry helps: raise the error."""
    END = enum.auto()
    """The operation was cancelled, or its deadline passed."""


_OTHER_ACTIONS: Final = {
    Outcome.CERTIFICATE_REJECTED: Action.RAISE,
    Outcome.CLOSED: Action.ASK_STATUS,
    Outcome.UNSUPPORTED_ENCODING: Action.RAISE,
    Outcome.UNAUTHORIZED: Action.RAISE,
    Outcome.OVERLOADED: Action.WAIT,
    Outcome.REFUSED_REQUEST: Action.RAISE,
    Outcome.TOO_LARGE: Action.RAISE,
    Outcome.LOCAL: Action.WAIT,
    Outcome.DEADLINE: Action.END,
    Outcome.CANCELLED: Action.END,
}
"""The action after an outcome that is not the node's failure; after any other it is NEXT_NODE."""

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
"""qclient's counter for each outcome; unknown_error for others. CANCELLED and LOCAL do not count."""

OUTCOMES_OF_LIVING_NODES: Final = frozenset(
    {Outcome.UNAUTHORIZED, Outcome.CERTIFICATE_REJECTED, Outcome.UNSUPPORTED_ENCODING}
)
"""How a status request to a node that is up may fail. The caller's own request fails likewise."""


def action_for(kind: RequestKind, outcome: Outcome) -> Action:
    """What the client does after a failed request."""
    if kind is RequestKind.STORE and outcome in (Outcome.TIMEOUT, Outcome.NOT_TAKEN):
        # Not the next node: a table that takes long to parse would block one node after the other.
        return Action.WHEN_READY
    return _OTHER_ACTIONS.get(outcome, Action.NEXT_NODE)


_COUNT: Final = re.compile(r"[0-9]{1,20}").fullmatch
"""Python refuses to read an integer of thousands of digits, and reads more than digits, such as 1_0."""

UNAVAILABLE: Final = frozenset({502, 503, 504})
"""Statuses of a proxy that gets no answer from the node."""

_PIECE: Final = 1 << 20
"""Bytes of an answer that are examined at a time."""

_SUCCESS: Final = {
    RequestKind.QUERY: 200,
    RequestKind.STORE: 201,
    RequestKind.DELETE: 200,
    RequestKind.PRESENCE: 400,
}


def judge(kind: RequestKind, answer: Answer) -> Answer | None:
    """Return the answer if it is a result, or None for a miss; raises Failure for any other answer."""
    status = answer.status
    if status == 404 and kind in (RequestKind.QUERY, RequestKind.PRESENCE):
        return None
    outcome, detail, retry_after = Outcome.REFUSED_REQUEST, "", None
    if status == _SUCCESS[kind]:
        outcome, detail = _judge_success(kind, answer)
        if outcome is Outcome.ANSWERED:
            return answer
    elif status in UNAVAILABLE:
        outcome = Outcome.UNAVAILABLE
        detail = answer.from_proxy or "a proxy in front of the node answers for it"
    elif status == 429:
        outcome, retry_after = Outcome.OVERLOADED, _retry_after(answer.headers.get("Retry-After"))
    elif status == 401:
        outcome = Outcome.UNAUTHORIZED
    elif 300 <= status < 400 and (location := answer.headers.get("Location")) is not None:
        detail = f"it redirects to {location!r}; redirects are never followed"
    phase = Phase.BODY if status == 200 else Phase.HEAD
    raise Failure(outcome, phase, status=status, detail=detail, answer=answer, retry_after=retry_after)


def _judge_success(kind: RequestKind, answer: Answer) -> tuple[Outcome, str]:
    """ANSWERED, or what is wrong with an answer whose status says success."""
    content = answer.content
    if kind is not RequestKind.QUERY:
        start = content.lstrip()
        if kind is RequestKind.PRESENCE and not start.startswith(b'{"error"'):
            return Outcome.REFUSED_REQUEST, "it is not QCache's refusal of a query"
        if start.startswith(b"<"):  # QCache's answer is empty; this is a page of a server in front of it
            return Outcome.NOT_QCACHE, "it is HTML"
        return Outcome.ANSWERED, ""
    length = answer.headers.get("X-QCache-unsliced-length")
    content_type = answer.headers.media_type
    if content_type.endswith("html"):
        return Outcome.NOT_QCACHE, "it is HTML"
    if length is None:
        return Outcome.NOT_QCACHE, "it has no X-QCache-unsliced-length"
    if count_in(length) is None:
        return Outcome.NOT_QCACHE, f"its X-QCache-unsliced-length is {length[:100]!r}"
    if answer.still_encoded:
        return Outcome.ANSWERED, ""
    if content_type == "application/json" and not (content[:1] == b"[" and content.rstrip()[-1:] == b"]"):
        return Outcome.UNDECODABLE, "it is not a JSON list"
    if not answer.complete:
        return Outcome.TRUNCATED, "it has no Content-Length, and ends in the middle of a row"
    return Outcome.ANSWERED, ""


def is_complete(content: bytes, content_type: str, check_time: Callable[[], object] = lambda: None) -> bool:
    """Whether a result whose body ends with the connection may be complete.

    JSON is complete if every bracket outside of its strings is closed, CSV if it ends with a row.
    Brackets are counted piece by piece, in constant memory. ``check_time`` is called for each piece.
    """
    if content_type != "application/json":
        return content.endswith(b"\n") and content.count(b'"') % 2 == 0  # else the line end is in a field
    depth, in_string, held = 0, False, b""
    for start in range(0, len(content), _PIECE):
        check_time()
        piece = held + content[start : start + _PIECE]
        # Escape sequences are removed, so that each quote begins or ends a string.
        held = b"\\" if (len(piece) - len(piece.rstrip(b"\\"))) % 2 else b""
        piece = piece[: len(piece) - len(held)].replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = piece.split(b'"')
        outside = b"".join(parts[in_string::2])
        in_string ^= len(parts) % 2 == 0
        depth += outside.count(b"[") + outside.count(b"{") - outside.count(b"]") - outside.count(b"}")
    return depth == 0


def count_in(value: str | None) -> int | None:
    """The number in a header, or None if the header is missing or not a number without a sign."""
    return None if value is None or _COUNT(value) is None else int(value)


def _retry_after(value: str | None) -> float | None:
    if value is None:
        return None
    if (seconds := count_in(value)) is not None:
        return seconds
    try:
        at = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=dt.UTC)
    return max(0.0, (at - dt.datetime.now(dt.UTC)).total_seconds())
