"""The class of the retry policy, in its own module because Airflow before 3.3 cannot import it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

from airflow_provider_qcache.operators import retry

if TYPE_CHECKING:
    from datetime import timedelta


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
        """The rules, made of the client's error classes."""
        return [
            RetryRule(
                exception=list(retry.PERMANENT_ERRORS),
                action=RetryAction.FAIL,
                reason="no retry helps this error",
            ),
            RetryRule(
                exception=list(retry.NODE_ERRORS),
                action=RetryAction.RETRY,
                retry_delay=self.node_wait,
                reason="a node does not answer",
            ),
            RetryRule(
                exception=list(retry.PASSING_ERRORS),
                action=RetryAction.RETRY,
                retry_delay=self.error_wait,
                reason="the nodes answer slowly or wrongly, which passes",
            ),
        ]
