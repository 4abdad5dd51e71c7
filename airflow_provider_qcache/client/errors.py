"""What can go wrong, one class for each thing a caller can do about it.

::

    QClientException
    ├── NoCacheAvailable            no node answers                                       transient
    ├── TooManyConsecutiveErrors    the limit of failed requests was reached              transient
    ├── DeadlineExceeded            the operation's time is over                          transient
    ├── HomeNodeUnavailable         a miss that is none: the table's own node is silent   transient
    ├── StoreUncertain              a store was sent and never answered                   transient
    ├── NodeOverloaded              429 with a wait that does not fit                     transient
    ├── RowCountMismatch            the node has other rows than were sent                transient
    ├── BulkError                   some of many operations failed                        transient if one is
    ├── OperationCancelled          cancel() was called
    ├── UnexpectedServerResponse    an answer that no retry makes better
    │   ├── ClosedWithoutAnswer     a living node hangs up on this very request
    │   └── ResponseTooLarge        more bytes than max_response_bytes
    ├── MalformedQueryException     400 for a query, or one that is refused before it is sent
    ├── UnsupportedAcceptType       406
    ├── AuthenticationFailed        401
    ├── CertificateRejected         a certificate one of the sides does not accept
    ├── BodyNotRepeatable           a body that was read once was needed again
    ├── InvalidTable                content a node would refuse, after it had dropped the old table
    ├── InvalidKey                  a key that has no place in a URL of QCache
    └── ClientClosed                used after close()

The first six names of qclient (QClientException, NoCacheAvailable, TooManyConsecutiveErrors,
UnexpectedServerResponse, MalformedQueryException, UnsupportedAcceptType) mean what they mean there.
"""

from __future__ import annotations

import dataclasses
import enum
import re
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_provider_qcache.client.results import DeleteResult


class Phase(enum.StrEnum):
    """How far a request had come when something happened to it."""

    NAME = "name"
    CONNECT = "connect"
    TLS = "TLS"
    SEND = "send"
    HEAD = "head"
    BODY = "body"


class Outcome(enum.StrEnum):
    """What one request met. The words are those of error messages and logs."""

    ANSWERED = "answered"
    UNRESOLVED = "name unknown"
    REFUSED = "connection refused"
    CONNECT_TIMEOUT = "connect timeout"
    CONNECT_FAILED = "could not connect"
    TLS_FAILED = "TLS failed"
    CERTIFICATE_REJECTED = "certificate rejected"
    CLOSED = "closed without an answer"
    TIMEOUT = "no answer in time"
    NOT_TAKEN = "body not taken in time"
    TRUNCATED = "answer cut short"
    UNDECODABLE = "answer not decodable"
    NOT_QCACHE = "not an answer of QCache"
    UNAVAILABLE = "unavailable"
    OVERLOADED = "overloaded"
    UNAUTHORIZED = "not authorised"
    REFUSED_REQUEST = "request refused"
    TOO_LARGE = "answer too large"
    DEADLINE = "deadline passed"
    CANCELLED = "cancelled"


# A password may hold an @, as requests reads it; one with a '/' makes no URL, and is not shown either.
_CREDENTIALS = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*:/+)?.*@", re.DOTALL)


def shown(node: str) -> str:
    """A node's string as it may be shown: without the credentials a URL can carry."""
    return _CREDENTIALS.sub(r"\1***@", node)


def without_credentials(node: str) -> str:
    """A node's string as if it carried none."""
    return _CREDENTIALS.sub(r"\1", node)


def forget_frames(error: BaseException) -> None:
    """Empty the frames an error and those behind it passed: they hold what was sent, which may be large."""
    for one in _with_those_behind(error):
        traceback.clear_frames(one.__traceback__)


def forget_traceback(error: BaseException) -> None:
    """Drop the tracebacks altogether: even an emptied frame leads to the one that called it."""
    for one in _with_those_behind(error):
        one.__traceback__ = None


def _with_those_behind(error: BaseException) -> Iterable[BaseException]:
    found: dict[int, BaseException] = {}
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in found:
            found[id(one)] = one
            waiting += [one.__cause__, one.__context__]
    return found.values()


@dataclasses.dataclass(frozen=True, slots=True)
class Attempt:
    """One request that failed: which node, how far it came, what it met and after how long.

    ``node`` is the node's string without credentials, ``status`` the HTTP status where there was one,
    ``seconds`` the time from the start of the request, ``cause`` the exception beneath, where there was one.
    """

    node: str
    phase: Phase
    outcome: Outcome
    seconds: float
    status: int | None = None
    cause: BaseException | None = dataclasses.field(default=None, compare=False)

    def __str__(self) -> str:
        met = f"{self.outcome} ({self.status})" if self.status is not None else str(self.outcome)
        text = f"{self.node}: {met}, in {self.phase} after {self.seconds:.3f} s"
        if self.cause is not None and (said := str(self.cause)):
            text += f": {said}"
        return text


class QClientException(Exception):
    """The base of every error of the client.

    ``attempts`` holds the failed requests of the operation in order. ``transient`` says whether the same call
    may succeed later with nothing changed by its caller. ``result`` is the DeleteResult where a delete on all
    nodes met this error on one of them, which says what became of the others; else None.
    """

    transient: bool = False
    result: DeleteResult | None = None

    def __init__(self, message: str = "", *, attempts: Iterable[Attempt] = ()) -> None:
        super().__init__(message)
        self.attempts: tuple[Attempt, ...] = tuple(attempts)

    def __str__(self) -> str:
        message = super().__str__()
        if not self.attempts:
            return message
        listed = "".join(f"\n  {number}. {attempt}" for number, attempt in enumerate(self.attempts, 1))
        return f"{message}\nFailed requests:{listed}"


class NoCacheAvailable(QClientException):
    """No node answers. ``nodes`` maps every node (without credentials) to the last thing it met."""

    transient = True

    def __init__(
        self, message: str = "", *, attempts: Iterable[Attempt] = (), nodes: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message, attempts=attempts)
        self.nodes: dict[str, str] = dict(nodes or {})

    def __str__(self) -> str:
        listed = "".join(f"\n  {node}: {met}" for node, met in self.nodes.items())
        return super().__str__() + (f"\nNodes:{listed}" if listed else "")


class TooManyConsecutiveErrors(QClientException):
    """The operation met as many failed requests as ``consecutive_error_count_limit`` allows."""

    transient = True


class DeadlineExceeded(QClientException):
    """The time the operation may take is over."""

    transient = True


class HomeNodeUnavailable(QClientException):
    """A node before the one that answered was silent, so what it holds for the key is not known."""

    transient = True


class StoreUncertain(QClientException):
    """A store was sent, or partly sent, and not answered: the node may store it yet, or not."""

    transient = True


class NodeOverloaded(QClientException):
    """A node answers 429 and asks for a longer wait (``retry_after`` seconds) than there is."""

    transient = True

    def __init__(
        self, message: str = "", *, attempts: Iterable[Attempt] = (), retry_after: float | None = None
    ) -> None:
        super().__init__(message, attempts=attempts)
        self.retry_after = retry_after


class RowCountMismatch(QClientException):
    """After a store the node holds ``found`` rows where ``sent`` were sent."""

    transient = True

    def __init__(
        self,
        message: str = "",
        *,
        attempts: Iterable[Attempt] = (),
        sent: int | None = None,
        found: int | None = None,
    ) -> None:
        super().__init__(message, attempts=attempts)
        self.sent = sent
        self.found = found


class OperationCancelled(QClientException):
    """``cancel()`` was called while the operation ran.

    ``report`` is the BulkReport, so far, of many operations that were cancelled; else None.
    """

    report: Any = None


class UnexpectedServerResponse(QClientException):
    """An answer that is neither a result nor a reason to ask again. ``status`` is its HTTP status."""

    def __init__(
        self, message: str = "", *, attempts: Iterable[Attempt] = (), status: int | None = None
    ) -> None:
        super().__init__(message, attempts=attempts)
        self.status = status


class ClosedWithoutAnswer(UnexpectedServerResponse):
    """A node that answers its status at once hung up twice on this request: the request is to blame."""


class ResponseTooLarge(UnexpectedServerResponse):
    """The decoded answer is larger than ``max_response_bytes``."""


class MalformedQueryException(QClientException):
    """A query the node cannot process, or one that is not worth sending."""


class UnsupportedAcceptType(QClientException):
    """The node cannot answer in the type that was asked for."""


class AuthenticationFailed(QClientException):
    """The node refuses the credentials, or wants some."""


class CertificateRejected(QClientException):
    """The node's certificate is not trusted here, or the client's is not trusted there."""


class BodyNotRepeatable(QClientException):
    """A request failed and its body, read once, cannot be read again for another attempt."""


class InvalidTable(QClientException):
    """Content, or a header that describes it, that a node would refuse after dropping the table it had.

    ``row`` counts data rows from 1, ``column`` is a column's name, ``byte`` an offset into the (decoded)
    body; each is None where it does not apply.
    """

    def __init__(
        self,
        message: str = "",
        *,
        attempts: Iterable[Attempt] = (),
        row: int | None = None,
        column: str | None = None,
        byte: int | None = None,
    ) -> None:
        super().__init__(message, attempts=attempts)
        self.row = row
        self.column = column
        self.byte = byte


class InvalidKey(QClientException):
    """A key outside ``[A-Za-z0-9_-]+``, which is all a QCache URL takes."""


class ClientClosed(QClientException):
    """The client was used after ``close()``."""


class BulkError(QClientException):
    """Some of many operations failed: ``report`` says which. ``transient`` where any failure is."""

    def __init__(self, message: str = "", *, attempts: Iterable[Attempt] = (), report: Any = None) -> None:
        super().__init__(message, attempts=attempts)
        self.report = report
        failed: Iterable[Exception] = report.failed.values() if report is not None else ()
        self.transient = any(getattr(error, "transient", False) for error in failed)
