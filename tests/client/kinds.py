"""What tests that run on a real server and on a dev node share."""

from __future__ import annotations

from ssl import SSLContext

import pytest

from airflow_provider_qcache.client import QClient
from tests.harness.needs import need_the_real_server
from tests.harness.servers import Server

ON_EACH_SERVER = pytest.mark.parametrize("kind", ["real", "dev"])


def make_server(kind: str, *options: str, tls: SSLContext | None = None) -> Server:
    """A server, not yet started, of the kind ``real`` or ``dev``."""
    if kind == "real":
        need_the_real_server()
    return (Server.real if kind == "real" else Server.dev)(*options, tls=tls)


def key_with_home(client: QClient, node: str) -> str:
    """A key whose home node is the node."""
    return next(key for key in (f"k{number}" for number in range(99)) if client.node_for_key(key) == node)
