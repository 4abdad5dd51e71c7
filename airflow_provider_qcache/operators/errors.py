"""What a task of ours meets that is no error of the client.

All may be gone at the next try, and are raised as they are, so that Airflow's retries and a retry policy see
them. What can never succeed is an AirflowFailException instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_qcache.compat import AirflowException

if TYPE_CHECKING:
    from collections.abc import Mapping


class StoredOnFailover(AirflowException):
    """With ``require_home``: the table is stored, on a node that stands in for the key's own.

    ``result`` is what the task would have returned.
    """

    transient = True

    def __init__(self, message: str = "", *, result: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.result = dict(result or {})


class TableMissing(AirflowException):
    """With ``on_miss="fail"``: no table is stored under the key."""

    transient = True


class NodesUnreachable(AirflowException):
    """With ``on_unreachable="fail"``: some nodes could not be asked and may still hold a table.

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
