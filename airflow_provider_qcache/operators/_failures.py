"""Which errors of the client end a task for good, and which leave it to the task's retries."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from airflow_provider_qcache.compat import AirflowFailException

if TYPE_CHECKING:
    from collections.abc import Iterator

FOR_GOOD: Final = frozenset(
    {
        "AuthenticationFailed",
        "CertificateRejected",
        "InvalidKey",
        "MalformedQueryException",
        "UnsupportedAcceptType",
    }
)
"""Names of the classes whose errors no retry of the same task makes better. By name, since their module
loads the client. The table in docs/operators.md says the same of every class."""

FOR_GOOD_IF_LITERAL: Final = frozenset({"InvalidTable"})
"""Those that end a task only where the table is written in the DAG: what a file, a callable or another task
gives may be whole at the next try."""


def ends_the_task(error: BaseException, *, literal_table: bool = False) -> bool:
    """Whether the task fails at once, without its remaining retries."""
    names = {kind.__name__ for kind in type(error).__mro__}
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
