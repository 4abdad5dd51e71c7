"""The retry policy for tasks that use QCache, on Airflow 3.3 and later.

The client retries a failed request within one try of the task, until the connection's deadline. When the try
fails, the policy decides whether Airflow starts another try, and how long it waits before that.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.operators.errors import FOR_GOOD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import ExceptionRetryPolicy

__all__ = ["qcache_retry_policy"]

ERROR_WAIT: Final = timedelta(seconds=30)
"""How long the next try waits after errors that pass soon."""

_NODE_DOWN: Final = ("NoCacheAvailable", "HomeNodeUnavailable", "NodesUnreachable", "StoredOnFailover")
_PASSING: Final = (
    "TooManyConsecutiveErrors",
    "DeadlineExceeded",
    "StoreUncertain",
    "NodeOverloaded",
    "LocalResourceError",
    "RowCountMismatch",
)
_MODULES: Final = {
    "MissingExtra": "extras",
    "NodesUnreachable": "operators.errors",
    "StoredOnFailover": "operators.errors",
}
"""The modules of the errors that are not the client's."""


class _Rules:
    """The rules of a policy, made when they are used.

    A RetryRule imports its exceptions when it is made, and those load the client, for which a DAG that is
    parsed should not wait.
    """

    def __init__(self, node_wait: timedelta | None, error_wait: timedelta | None) -> None:
        self._waits = (node_wait, error_wait)

    def __iter__(self) -> Iterator[Any]:
        from airflow.sdk import RetryAction, RetryRule  # noqa: PLC0415  # Airflow before 3.3 lacks them

        node_wait, error_wait = self._waits
        for names, action, wait, reason in (
            (sorted(FOR_GOOD), RetryAction.FAIL, None, "no retry helps this error"),
            # Somebody has to start the node.
            (_NODE_DOWN, RetryAction.RETRY, node_wait, "a node does not answer"),
            (_PASSING, RetryAction.RETRY, error_wait, "the nodes answer slowly or wrongly, which passes"),
        ):
            errors = [f"airflow_provider_qcache.{_MODULES.get(name, 'client')}.{name}" for name in names]
            yield RetryRule(exception=errors, action=action, retry_delay=wait, reason=reason)


def qcache_retry_policy(
    node_wait: timedelta | float | None = None, error_wait: timedelta | float | None = ERROR_WAIT
) -> ExceptionRetryPolicy:
    """The retry policy by the errors of the client: for ``retry_policy=`` of any task that uses QCache.

    It is the default of this package's operators and sensors; pass it to a task of your own that uses
    QCacheHook. Whatever it says, a task has no more tries than its ``retries`` allow.

    Args:
        node_wait: How long to wait for the next try, in seconds or as a timedelta, when a node is down
            (NoCacheAvailable, HomeNodeUnavailable, NodesUnreachable, StoredOnFailover). None for the task's
            own ``retry_delay``, which is five minutes unless it is set.
        error_wait: The same when the nodes answer, but slowly or wrongly (TooManyConsecutiveErrors,
            DeadlineExceeded, StoreUncertain, NodeOverloaded, LocalResourceError, RowCountMismatch).

    Returns:
        An ExceptionRetryPolicy. Permanent errors (refused credentials, a malformed query, an invalid key)
        fail at once; all other errors are left to Airflow's own retries.

    Raises:
        RuntimeError: Airflow is older than 3.3, which has no retry policies.
        ValueError: a negative wait.
    """
    try:
        from airflow.sdk import ExceptionRetryPolicy  # noqa: PLC0415
    except ImportError as error:
        raise RuntimeError(
            "qcache_retry_policy needs Airflow 3.3: this Airflow has no retry policies. Use retries and "
            "retry_delay; permanent errors of the operators fail at once on every Airflow."
        ) from error
    waits = []
    for name, value in (("node_wait", node_wait), ("error_wait", error_wait)):
        wait = timedelta(seconds=value) if isinstance(value, int | float) else value
        if wait is not None and wait < timedelta(0):
            raise ValueError(f"{name}={value!r}: expected seconds or a timedelta, 0 or more")
        waits.append(wait)
    return ExceptionRetryPolicy(rules=_Rules(*waits))
