"""The retry policy for tasks that use QCache, on Airflow 3.3 and later.

The client retries a failed request within one try of the task, until the connection's deadline. When the try
fails, the policy decides whether Airflow starts another try, and how long it waits before that.
"""

from __future__ import annotations

from datetime import timedelta
from functools import cached_property
from typing import Any, Final

from airflow_provider_qcache.operators.errors import FOR_GOOD

try:
    from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule
except ImportError:  # Airflow before 3.3
    ExceptionRetryPolicy = object

__all__ = ["qcache_retry_policy"]

ERROR_WAIT: Final = timedelta(seconds=30)
"""How long the next try waits after errors that pass soon."""

_CLIENT: Final = "airflow_provider_qcache.client"
_ERRORS: Final = "airflow_provider_qcache.operators.errors"


class QCacheRetryPolicy(ExceptionRetryPolicy):
    """An ExceptionRetryPolicy whose rules are made when they are first used.

    A RetryRule imports its exceptions when it is made, and those load the client, for which a DAG that is
    parsed should not wait.
    """

    def __init__(self, node_wait: timedelta | None, error_wait: timedelta | None) -> None:
        self.node_wait = node_wait
        self.error_wait = error_wait
        self.default = RetryAction.DEFAULT

    @cached_property
    def rules(self) -> list[Any]:
        """The rules, made of the error classes of the client and of the operators."""
        return [
            RetryRule(
                exception=[
                    f"{'airflow_provider_qcache.extras' if name == 'MissingExtra' else _CLIENT}.{name}"
                    for name in sorted(FOR_GOOD)
                ],
                action=RetryAction.FAIL,
                reason="no retry helps this error",
            ),
            RetryRule(
                exception=[
                    f"{_CLIENT}.NoCacheAvailable",
                    f"{_CLIENT}.HomeNodeUnavailable",
                    f"{_ERRORS}.NodesUnreachable",
                    f"{_ERRORS}.StoredOnFailover",
                ],
                action=RetryAction.RETRY,
                retry_delay=self.node_wait,  # somebody has to start the node
                reason="a node does not answer",
            ),
            RetryRule(
                exception=[
                    f"{_CLIENT}.TooManyConsecutiveErrors",
                    f"{_CLIENT}.DeadlineExceeded",
                    f"{_CLIENT}.StoreUncertain",
                    f"{_CLIENT}.NodeOverloaded",
                    f"{_CLIENT}.LocalResourceError",
                    f"{_CLIENT}.RowCountMismatch",
                ],
                action=RetryAction.RETRY,
                retry_delay=self.error_wait,
                reason="the nodes answer slowly or wrongly, which passes",
            ),
        ]


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
    if ExceptionRetryPolicy is object:
        raise RuntimeError(
            "qcache_retry_policy needs Airflow 3.3: this Airflow has no retry policies. Use retries and "
            "retry_delay; permanent errors of the operators fail at once on every Airflow."
        )
    waits = []
    for name, value in (("node_wait", node_wait), ("error_wait", error_wait)):
        wait = timedelta(seconds=value) if isinstance(value, int | float) else value
        if wait is not None and wait < timedelta(0):
            raise ValueError(f"{name}={value!r}: expected seconds or a timedelta, 0 or more")
        waits.append(wait)
    return QCacheRetryPolicy(*waits)
