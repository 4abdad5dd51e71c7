"""Three nodes to test the client against: real ones, and the same tests over dev nodes."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from airflow_provider_qcache.client import QClient
from tests.conftest import need_the_real_server
from tests.servers import Server

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", params=["real", "dev"])
def servers(request: pytest.FixtureRequest) -> Iterator[list[Server]]:
    if request.param == "real":
        need_the_real_server()
    with ExitStack() as stack:
        started = [Server.real() if request.param == "real" else Server.dev() for _ in range(3)]
        for server in started:
            stack.callback(server.stop)
            server.launch()
        yield [server.wait_until_up() for server in started]


@pytest.fixture
def nodes(servers: list[Server]) -> list[str]:
    return [f"http://127.0.0.1:{server.port}" for server in servers]


@pytest.fixture
def client(nodes: list[str]) -> Iterator[QClient]:
    with QClient(nodes, connect_timeout=5, read_timeout=20, deadline=60) as client:
        yield client
