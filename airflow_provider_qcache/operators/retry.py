"""The retry policy for tasks that use QCache, on Airflow 3.3 and later.

The client retries a failed request within one try of the task, until the connection's deadline. When the try
fails, the policy decides whether Airflow starts another try, and how long it waits before that.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from airflow_provider_qcache.operators.errors import FOR_GOOD

if TYPE_CHECKING:
    from airflow.sdk import ExceptionRetryPolicy

__all__ = ["qcache_retry_policy"]

ERROR_WAIT: Final = timedelta(seconds=30)
"""How long the next try waits after errors that pass soon."""

_CLIENT: Final = "airflow_provider_qcache.client"
_ERRORS: Final = "airflow_provider_qcache.operators.errors"

NODE_ERRORS: Final = (
    f"{_CLIENT}.NoCacheAvailable",
    f"{_CLIENT}.HomeNodeUnavailable",
    f"{_ERRORS}.NodesUnreachable",
    f"{_ERRORS}.StoredOnFailover",
)
"""A node is down until somebody starts it."""

PASSING_ERRORS: Final = (
    f"{_CLIENT}.TooManyConsecutiveErrors",
    f"{_CLIENT}.DeadlineExceeded",
    f"{_CLIENT}.StoreUncertain",
    f"{_CLIENT}.NodeOverloaded",
    f"{_CLIENT}.LocalResourceError",
    f"{_CLIENT}.RowCountMismatch",
)
"""The nodes answer, but slowly or wrongly."""

PERMANENT_ERRORS: Final = tuple(
    "airflow_provider_qcache.extras.MissingExtra" if name == "MissingExtra" else f"{_CLIENT}.{name}"
    for name in sorted(FOR_GOOD)
)
"""No retry helps these errors."""


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
        from airflow_provider_qcache.operators._policy import QCacheRetryPolicy  # noqa: PLC0415
    except ImportError as error:
        raise RuntimeError(
            "qcache_retry_policy needs Airflow 3.3: this Airflow has no retry policies. Use retries and "
            "retry_delay; permanent errors of the operators fail at once on every Airflow."
        ) from error
    waits = [_timedelta("node_wait", node_wait), _timedelta("error_wait", error_wait)]
    return QCacheRetryPolicy(*waits)


def _timedelta(name: str, value: timedelta | float | None) -> timedelta | None:
    wait = timedelta(seconds=value) if isinstance(value, int | float) else value
    if wait is not None and wait < timedelta(0):
        raise ValueError(f"{name}={value!r}: expected seconds or a timedelta, 0 or more")
    return wait
