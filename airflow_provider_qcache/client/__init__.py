"""A client for QCache that routes as qcache-client does, survives what that does not, and imports no Airflow.

``from airflow_provider_qcache import client as qclient`` runs code written for qclient 0.5.1. It needs
requests and tenacity; with lz4 installed answers come as lz4.
"""

from __future__ import annotations

from airflow_provider_qcache.client.client import Listener, QClient
from airflow_provider_qcache.client.errors import (
    Attempt,
    AuthenticationFailed,
    BodyNotRepeatable,
    BulkError,
    CertificateRejected,
    ClientClosed,
    ClosedWithoutAnswer,
    DeadlineExceeded,
    HomeNodeUnavailable,
    InvalidKey,
    InvalidTable,
    LocalResourceError,
    MalformedQueryException,
    NoCacheAvailable,
    NodeOverloaded,
    OperationCancelled,
    Outcome,
    Phase,
    QClientException,
    ResponseTooLarge,
    RowCountMismatch,
    StoreUncertain,
    TooManyConsecutiveErrors,
    UnexpectedServerResponse,
    UnsupportedAcceptType,
)
from airflow_provider_qcache.client.nodes import NodeState, NodeStatus
from airflow_provider_qcache.client.results import (
    Absence,
    BulkReport,
    DeleteOutcome,
    DeleteResult,
    KeptTable,
    Place,
    QueryResult,
    StoreResult,
)
from airflow_provider_qcache.client.ring import Ring
from airflow_provider_qcache.client.settings import RequestRetry

__all__ = [
    "Absence",
    "Attempt",
    "AuthenticationFailed",
    "BodyNotRepeatable",
    "BulkError",
    "BulkReport",
    "CertificateRejected",
    "ClientClosed",
    "ClosedWithoutAnswer",
    "DeadlineExceeded",
    "DeleteOutcome",
    "DeleteResult",
    "HomeNodeUnavailable",
    "InvalidKey",
    "InvalidTable",
    "KeptTable",
    "Listener",
    "LocalResourceError",
    "MalformedQueryException",
    "NoCacheAvailable",
    "NodeOverloaded",
    "NodeState",
    "NodeStatus",
    "OperationCancelled",
    "Outcome",
    "Phase",
    "Place",
    "QClient",
    "QClientException",
    "QueryResult",
    "RequestRetry",
    "ResponseTooLarge",
    "Ring",
    "RowCountMismatch",
    "StoreResult",
    "StoreUncertain",
    "TooManyConsecutiveErrors",
    "UnexpectedServerResponse",
    "UnsupportedAcceptType",
]
