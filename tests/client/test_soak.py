"""A short soak for CI; the whole one is ``python -m tests.client.soak``."""

from __future__ import annotations

import os

import pytest

from tests.client.soak import Soak
from tests.harness.needs import need_the_real_server
from tests.harness.servers import Server

MAX_SECONDS = 240.0


@pytest.mark.parametrize("kind", ["real", "dev"])
def test_acknowledged_tables_are_found_while_nodes_are_killed_stopped_and_restarted(kind: str) -> None:
    if kind == "real":
        need_the_real_server()
    servers = [Server.real() if kind == "real" else Server.dev() for _ in range(3)]
    try:
        for server in servers:
            server.start()
        soak = Soak(servers, operations=int(os.environ.get("QCACHE_SOAK_OPERATIONS", "800")))
        soak.run()
    finally:
        for server in servers:
            server.stop()
    assert soak.problems == []
    assert soak.abandoned
    assert soak.repaired == len(soak.last)
    assert soak.counts.total() == soak.operations
    assert soak.events["SIGKILL"] == soak.events["restart"]
    assert soak.events["SIGSTOP"] == soak.events["SIGCONT"]
    # A node is killed or stopped for each 150 operations.
    assert soak.events["SIGKILL"] + soak.events["SIGSTOP"] >= 4
    assert soak.events["SIGKILL"]
    assert soak.events["SIGSTOP"]
    assert soak.seconds < MAX_SECONDS
