"""A test on one node of each kind: the real server and the dev node."""

from __future__ import annotations

from ssl import SSLContext

import pytest

from airflow_provider_qcache.client import QClient
from tests.harness.needs import need_the_real_server
from tests.harness.servers import Server

OF_BOTH = pytest.mark.parametrize("kind", ["real", "dev"])


def a_server(kind: str, *options: str, tls: SSLContext | None = None) -> Server:
    if kind == "real":
        need_the_real_server()
    return (Server.real if kind == "real" else Server.dev)(*options, tls=tls)


def a_key_of(client: QClient, node: str) -> str:
    """A key whose home is the node."""
    return next(key for key in (f"k{number}" for number in range(99)) if client.node_for_key(key) == node)
