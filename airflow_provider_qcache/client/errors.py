"""The client's errors, one class for each thing a caller can do about it.

docs/reference/errors.md lists them, with what a task does after each. The first six names of qclient
(QClientException, NoCacheAvailable, TooManyConsecutiveErrors, UnexpectedServerResponse,
MalformedQueryException, UnsupportedAcceptType) mean what they mean there.
"""

from __future__ import annotations

import dataclasses
import enum
import errno
import re
import traceback
import types
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.plain import Plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


LOCAL_ERRORS: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
)
"""Errors of this machine, which has no descriptor, memory or port left; the node is not the cause."""


class Phase(enum.StrEnum):
    """The phase of a request in which it failed."""

    NAME = "name"
    CONNECT = "connect"
    TLS = "TLS"
    SEND = "send"
    HEAD = "head"
    BODY = "body"


class Outcome(enum.StrEnum):
    """How one request ended. The values are used in errors and logs."""

    ANSWERED = "answered"
    UNRESOLVED = "name unknown"
    REFUSED = "connection refused"
    CONNECT_TIMEOUT = "connect timeout"
    CONNECT_FAILED = "could not connect"
    TLS_FAILED = "TLS failed"
    CERTIFICATE_REJECTED = "certificate rejected"
    CLOSED = "connection closed without a response"
    TIMEOUT = "timed out"
    NOT_TAKEN = "send timeout"
    TRUNCATED = "response truncated"
    UNDECODABLE = "response cannot be decoded"
    UNSUPPORTED_ENCODING = "unsupported response encoding"
    NOT_QCACHE = "not a QCache response"
    UNAVAILABLE = "unavailable"
    OVERLOADED = "overloaded"
    UNAUTHORIZED = "not authorized"
    REFUSED_REQUEST = "request refused"
    TOO_LARGE = "response too large"
    LOCAL = "this machine lacks a resource"
    DEADLINE = "deadline passed"
    CANCELLED = "cancelled"


_PHASE_TEXTS = {
    Phase.NAME: "looking up the name",
    Phase.CONNECT: "connecting",
    Phase.TLS: "in the TLS handshake",
    Phase.SEND: "sending the request",
    Phase.HEAD: "waiting for response headers",
    Phase.BODY: "reading the response body",
}

# As in requests, a password may contain an '@'. One with a '/' makes the URL invalid, and is removed as well.
_CREDENTIALS = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*:/+)?.*@", re.DOTALL)


def redacted(node: str) -> str:
    """A node's URL without credentials, for logs, errors and results."""
    return _CREDENTIALS.sub(r"\1***@", node)


def forget_frames(error: BaseException) -> None:
    """Clear the frames of an error and its causes: they refer to the table, which may be large."""
    for one in with_causes(error):
        traceback.clear_frames(one.__traceback__)


def forget_traceback(error: BaseException) -> None:
    """Drop the tracebacks of an error and its causes: a cleared frame still refers to its caller's."""
    for one in with_causes(error):
        one.__traceback__ = None


def with_causes(error: BaseException) -> Iterable[BaseException]:
    """An error, its causes and contexts, and the errors in their arguments; each once."""
    found: dict[int, BaseException] = {}
    waiting: list[Any] = [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseException) and id(one) not in found:
            found[id(one)] = one
            waiting += [one.__cause__, one.__context__, *one.args]
    return found.values()


def cause_text(outcome: Outcome, cause: object) -> str:
    """The text of an outcome's cause; empty where it says no more than the outcome does."""
    text = str(cause or "")
    # Of "[Errno 111] Connection refused" the outcome has the words, and readers do not need the number.
    return "" if text == "timed out" or text.partition("] ")[2].lower() == outcome else text


@dataclasses.dataclass(frozen=True, slots=True)
class Attempt(Plain):
    """One failed request: its node, how it failed, in which phase, and after how many seconds.

    ``node`` is the node's URL without credentials, ``status`` the HTTP status if there was one, ``seconds``
    the time since the request began, and ``cause`` the underlying exception if there was one.
    """

    node: str
    phase: Phase
    outcome: Outcome
    seconds: float
    status: int | None = None
    cause: BaseException | None = dataclasses.field(default=None, compare=False)

    @property
    def reason(self) -> str:
        """Why it failed: outcome, status, time, phase and cause as text, without the node."""
        outcome = f"{self.outcome} ({self.status})" if self.status is not None else str(self.outcome)
        text = f"{outcome} after {self.seconds:.3f} s {_PHASE_TEXTS[self.phase]}"
        return f"{text}: {cause}" if (cause := cause_text(self.outcome, self.cause)) else text

    def __str__(self) -> str:
        return f"{self.node}: {self.reason}"


class QClientException(Exception):
    """The base class of the client's errors.

    ``attempts`` are the operation's failed requests, in order. ``transient`` says whether the same call may
    succeed later. ``result`` is the DeleteResult if a delete on all nodes ended in this error; otherwise
    None.
    """

    transient: bool = False
    result: Any = None

    def __init__(self, message: str = "", *, attempts: Iterable[Attempt] = (), **fields: Any) -> None:
        super().__init__(message)
        self.attempts: tuple[Attempt, ...] = tuple(attempts)
        for name, value in fields.items():
            if not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__} has no field {name!r}")
            setattr(self, name, value)

    def __str__(self) -> str:
        message = super().__str__()
        if not self.attempts:
            return message
        listed = "".join(f"\n  {number}. {attempt}" for number, attempt in enumerate(self.attempts, 1))
        return f"{message}\nFailed requests:{listed}"


class _Transient(QClientException):
    transient = True


class NoCacheAvailable(_Transient):
    """No node responds. ``nodes`` maps every node (without credentials) to its last error."""

    nodes: Mapping[str, str] = types.MappingProxyType({})

    def __str__(self) -> str:
        listed = "".join(f"\n  {node}: {error}" for node, error in self.nodes.items())
        return super().__str__() + (f"\nNodes:{listed}" if listed else "")


class TooManyConsecutiveErrors(_Transient):
    """As many requests of the operation failed as ``consecutive_error_count_limit`` allows."""


class DeadlineExceeded(_Transient):
    """The operation did not end before its deadline."""


class HomeNodeUnavailable(_Transient):
    """Cannot tell whether the table exists: a node earlier in the key's order does not respond."""


class StoreUncertain(_Transient):
    """A store was sent, at least in part, and not acknowledged: the node may or may not have the table."""


class NodeOverloaded(_Transient):
    """A node answers 429 and asks for a wait (``retry_after`` seconds) beyond the deadline."""

    retry_after: float | None = None


class LocalResourceError(_Transient):
    """This machine, not a node, has no file descriptor, port, memory or thread left."""


def local_resource_error(
    what: str, cause: BaseException | None, attempts: Iterable[Attempt] = ()
) -> LocalResourceError:
    """The error for a request that this machine has no resources for."""
    return LocalResourceError(
        f"{what}: this machine cannot make a request: {cause}. The nodes are not the cause. Increase the "
        "limit of open files (ulimit -n), ports or threads, or run fewer tasks at once on this machine.",
        attempts=attempts,
    )


class RowCountMismatch(_Transient):
    """After a store of ``sent`` rows the node has ``found`` rows (None: no table)."""

    sent: int | None = None
    found: int | None = None


class OperationCancelled(QClientException):
    """``cancel()`` was called while the operation ran.

    ``report`` is the BulkReport so far if many operations were cancelled; otherwise None.
    """

    report: Any = None


class UnexpectedServerResponse(QClientException):
    """A response that is no result, and that a retry would not change. ``status`` is its HTTP status."""

    status: int | None = None


class ClosedWithoutAnswer(UnexpectedServerResponse):
    """A node that is alive closed the connection twice on this request: the request is the cause."""


class ResponseTooLarge(UnexpectedServerResponse):
    """The decoded response is larger than ``max_response_bytes``."""


class MalformedQueryException(QClientException):
    """A query that the node cannot process, or that is no JSON."""


class UnsupportedAcceptType(QClientException):
    """The node cannot answer in the requested content type."""


class AuthenticationFailed(QClientException):
    """The node, or the proxy in front of it, refuses the credentials, or requires some."""


class CertificateRejected(QClientException):
    """The client does not trust the node's certificate, or the node the client's."""


class BodyNotRepeatable(QClientException):
    """A request failed, and its body cannot be read again for a retry."""


class InvalidTable(QClientException):
    """Content, or a header that describes it, that a node would refuse after it dropped the old table.

    The client raises it before the node can act: the old table is still there.

    ``row`` counts data rows from 1, ``column`` is a column's name, ``byte`` an offset into the (decoded)
    body; each is None where it does not apply.
    """

    row: int | None = None
    column: str | None = None
    byte: int | None = None


class InvalidKey(QClientException):
    """A key that is not ``[A-Za-z0-9_-]+``, as a QCache URL requires."""


class ClientClosed(QClientException):
    """The client was used after ``close()``."""


class BulkError(QClientException):
    """Some of many operations failed: ``report`` says which. ``transient`` if any failure is."""

    report: Any = None

    def __init__(self, message: str = "", **fields: Any) -> None:
        super().__init__(message, **fields)
        failed = () if self.report is None else self.report.failed.values()
        self.transient = any(getattr(error, "transient", False) for error in failed)
