"""The errors that tasks raise and that are no errors of the client, and which errors end a task for good.

The classes here are transient: Airflow's retries, or a retry policy, see them as they are. What can never
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


class StoredOnFailover(AirflowException):
    """With ``require_home``: the table is stored, on a node that stands in for the key's own.

    ``result`` is what the task would have returned.
    """

    transient = True

    def __init__(self, message: str = "", *, result: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.result = dict(result or {})


class TableMissing(AirflowException):
    """With ``on_miss="fail"``: no table is stored under the key.

    The message says what each node answered, and which of them is the key's home.
    """

    transient = True


class CheckFailed(AirflowException):
    """Of QCacheCheckOperator: a table does not satisfy the condition. The message has what was found."""

    transient = True


class NodesUnreachable(AirflowException):
    """With ``on_unreachable="fail"``: some nodes could not be asked, or no node confirmed a delete.

    ``outcomes`` maps each key to each node's outcome.
    """

    transient = True

    def __init__(self, message: str = "", *, outcomes: Mapping[str, Mapping[str, str]] | None = None) -> None:
        super().__init__(message)
        self.outcomes = {key: dict(nodes) for key, nodes in (outcomes or {}).items()}


class TablesFailed(AirflowException):
    """Of many tables more could not be stored than ``max_failed_keys``; the others are.

    ``result`` is what the task would have returned, and its XCom: with the failed keys.
    """

    transient = True

    def __init__(self, message: str = "", *, result: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.result = dict(result or {})


class TablesEvicted(TablesFailed):
    """Of many tables that were stored some are on their nodes no more; ``result`` is as in TablesFailed."""


class QueryEmpty(AirflowException):
    """Of SqlToQCacheOperator with ``on_empty="fail"``: the query gave no rows. Nothing was stored."""

    transient = True


class InvalidArgument(AirflowFailException, ValueError):
    """An argument that makes no sense: a ValueError for a DAG that is parsed, and no retry helps a task."""


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
"""Names of the classes whose errors no retry of the same task makes better. By name, since their module
loads the client. The table in docs/reference/errors.md says the same of every class."""

FOR_GOOD_IF_LITERAL: Final = frozenset({"InvalidTable"})
"""Those that end a task only where the table is written in the DAG: what a file, a callable or another task
gives may be whole at the next try."""


def ends_the_task(error: BaseException, *, literal_table: bool = False) -> bool:
    """Whether the task fails at once, without its remaining retries."""
    # Not by name alone: what an author's function raises may have the name of one of ours.
    names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith(_OURS)}
    return bool(names & FOR_GOOD) or (literal_table and bool(names & FOR_GOOD_IF_LITERAL))


def fail_for_good(error: BaseException, more: str = "") -> AirflowFailException:
    """The AirflowFailException that says what the error does; raise it ``from`` the error."""
    return AirflowFailException(f"{type(error).__name__}: {error}{more}")


@contextlib.contextmanager
def permanent(*kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of these classes into AirflowFailException."""
    try:
        yield
    except kinds as error:
        raise fail_for_good(error) from error
