"""Three nodes to test the client against: each test runs on real servers and on dev nodes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_qcache.client import QClient
from tests.harness.needs import need_the_real_server
from tests.harness.nodes import Nodes


@pytest.fixture(scope="session", params=["real", "dev"])
def nodes_of_one_kind(request: pytest.FixtureRequest) -> Iterator[Nodes]:
    if request.param == "real":
        need_the_real_server()
    with Nodes(kind=request.param) as nodes:
        yield nodes


@pytest.fixture
def nodes(nodes_of_one_kind: Nodes) -> Nodes:
    """Three nodes that all answer."""
    return nodes_of_one_kind.all_up()


@pytest.fixture
def client(nodes: Nodes) -> Iterator[QClient]:
    with QClient(nodes.urls, connect_timeout=5, read_timeout=20, deadline=60) as client:
        yield client
