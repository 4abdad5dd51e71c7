"""The errors of tasks, in addition to those of the client, and which errors fail a task for good.

The classes here are transient: Airflow retries them, or its retry policy decides. An error that can never
succeed is raised as AirflowFailException instead.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.compat import AirflowException, AirflowFailException

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "CheckFailed",
    "InvalidArgument",
    "NodesUnreachable",
    "QueryEmpty",
    "StoredOnFailover",
    "TableMissing",
    "TablesEvicted",
    "TablesFailed",
]


class _Transient(AirflowException):
    transient = True


class _Stored(_Transient):
    """The base of errors of tasks that have stored something: ``result`` is what they would have returned."""

    def __init__(self, message: str = "", *, result: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.result = dict(result or {})


class StoredOnFailover(_Stored):
    """With ``require_home``: the table is stored, but on a fallback node, since its home node was down.

    ``result`` is what the task would have returned.
    """


class TableMissing(_Transient):
    """With ``on_miss="fail"``: no table is stored under the key.

    The message says what each node answered, and which of them is the key's home.
    """


class CheckFailed(_Transient):
    """A table does not satisfy the condition of QCacheCheckOperator; the message has what was found."""


class NodesUnreachable(_Transient):
    """With ``on_unreachable="fail"``: some nodes could not be asked, or no node confirmed a delete.

    ``outcomes`` maps each key to each node's outcome.
    """

    def __init__(self, message: str = "", *, outcomes: Mapping[str, Mapping[str, str]] | None = None) -> None:
        super().__init__(message)
        self.outcomes = {key: dict(nodes) for key, nodes in (outcomes or {}).items()}


class TablesFailed(_Stored):
    """More of many tables failed than ``max_failed_keys``; the others are stored.

    ``result`` is what the task would have returned, with the failed keys. It is also pushed as XCom.
    """


class TablesEvicted(TablesFailed):
    """Some of many stored tables are not on their nodes any more; ``result`` is as in TablesFailed."""


class QueryEmpty(_Transient):
    """SqlToQCacheOperator with ``on_empty="fail"``: the query returned no rows. Nothing was stored."""


class InvalidArgument(AirflowFailException, ValueError):
    """An invalid argument: a ValueError when the DAG is parsed; a task fails for good."""


_OURS: Final = "airflow_provider_qcache."

FOR_GOOD: Final = frozenset(
    {
        "AuthenticationFailed",
        "CertificateRejected",
        "InvalidKey",
        "MalformedQueryException",
        "MissingExtra",
        "UnsupportedAcceptType",
    }
)
"""Names of the error classes that no retry of the same task helps. Names, since importing the classes loads
the client. The table in docs/reference/errors.md has every class."""


def ends_the_task(error: BaseException, *, literal_table: bool = False) -> bool:
    """Whether the task fails at once, without its remaining retries.

    For an InvalidTable only if the table is written in the DAG: a file, a function or another task may have
    a valid table at the next try.
    """
    # Not by name alone: an author's function may raise a class of the same name.
    names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith(_OURS)}
    return bool(names & FOR_GOOD) or (literal_table and "InvalidTable" in names)


def fail_for_good(error: BaseException, more: str = "") -> AirflowFailException:
    """The AirflowFailException with the error's message; raise it ``from`` the error."""
    return AirflowFailException(f"{type(error).__name__}: {error}{more}")


@contextlib.contextmanager
def permanent(*kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of these classes into AirflowFailException."""
    try:
        yield
    except kinds as error:
        raise fail_for_good(error) from error
