"""A kit for testing DAGs: pytest fixtures with QCache nodes that a test can stop, slow down and inspect.

pytest loads this module in every session where the package is installed, so it imports nothing that a session
without these fixtures could do without. The nodes need the extra ``devnode``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_qcache.client import QClient
    from airflow_provider_qcache.testing.cluster import Cluster

__all__ = ["Cluster", "Connect"]

LIMITS: dict[str, Any] = {
    "connect_timeout": 1,
    "read_timeout": 2,
    "deadline": 20,
    "retry_wait_initial": 0.02,
    "retry_wait_max": 0.1,
}
"""Short ones: a test that pauses a node waits for them."""


class Connect(Protocol):
    """What ``qcache_connection`` is: makes a connection to the nodes for the rest of the test."""

    def __call__(self, conn_id: str = "qcache_default", **extra: Any) -> str:
        """Set the connection, with these extra fields, and return its id."""


def __getattr__(name: str) -> Any:
    if name == "Cluster":
        from airflow_provider_qcache.testing.cluster import Cluster  # noqa: PLC0415

        return Cluster
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@pytest.fixture(scope="session")
def _qcache_cluster_of_the_session() -> Iterator[Cluster]:
    from airflow_provider_qcache.testing.cluster import Cluster  # noqa: PLC0415

    with Cluster(nodes=3) as cluster:
        yield cluster


@pytest.fixture
def qcache_cluster(_qcache_cluster_of_the_session: Cluster) -> Cluster:
    """Three dev nodes, which start once in a session. For each test they are empty, and all answer."""
    _qcache_cluster_of_the_session.reset()
    return _qcache_cluster_of_the_session


@pytest.fixture
def qcache_connection(qcache_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """The connection ``qcache_default`` to ``qcache_cluster`` for this test, by its environment variable.

    The value sets further connections, or this one with other extra fields:
    ``qcache_connection("orders_cache", read_timeout=5)``. The timeouts are short.
    """

    def connect(conn_id: str = "qcache_default", **extra: Any) -> str:
        fields = {"nodes": qcache_cluster.node_list, **LIMITS, **extra}
        connection = {"conn_type": "qcache", "extra": fields}
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))
        return conn_id

    connect()
    return connect


@pytest.fixture
def qcache_client(qcache_cluster: Cluster) -> Iterator[QClient]:
    """A client of ``qcache_cluster`` with the limits of ``qcache_connection``, closed after the test."""
    from airflow_provider_qcache.client import QClient  # noqa: PLC0415
    from airflow_provider_qcache.connection import settings_for  # noqa: PLC0415

    settings = settings_for(qcache_cluster.node_list, **LIMITS)
    with QClient(**settings.client_arguments()) as client:
        yield client
