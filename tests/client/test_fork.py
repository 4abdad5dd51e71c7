"""A client that is in use during a fork: parent and child each get their own answers."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from airflow_provider_qcache.client import QClient
from airflow_provider_qcache.client.nodes import NodeState
from tests.client.kinds import ON_EACH_SERVER, make_server
from tests.harness import faults
from tests.harness.faults import FaultyNode, Peer, Received
from tests.harness.fork import CHILD_TIMEOUT, run_in_forked_child
from tests.harness.servers import Certificates

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@ON_EACH_SERVER
def test_parent_and_child_each_read_their_own_rows(kind: str, tls: bool, certificates: Certificates) -> None:
    options = (f"--cert-file={certificates.server}",) if tls else ()
    with make_server(kind, *options, tls=certificates.context() if tls else None) as node:
        client = QClient([node.url], 5, 5, verify=str(certificates.ca), trust_env=False)
        for number in range(20):
            client.post(f"k{number}", f"a\n{number}\n")
        (kept,) = (connection.sock for connection in client._transports[node.url]._idle)

        def read(numbers: range) -> None:
            for number in [*numbers] * 20:
                result = client.get(f"k{number}", {})
                assert result is not None
                assert result.content == b'[{"a":%d}]' % number

        child = run_in_forked_child(lambda: read(range(10)))
        read(range(10, 20))
        # The child's exit must not close the parent's connection.
        assert [connection.sock for connection in client._transports[node.url]._idle] == [kept]
        assert child() == 0
        read(range(10, 20))
        assert [connection.sock for connection in client._transports[node.url]._idle] == [kept]
        client.close()


def test_a_child_inherits_no_locks_probes_or_requests() -> None:
    requested = threading.Event()

    def slow(peer: Peer, request: Received) -> None:
        requested.set()
        peer.wait(0.5)
        peer.send(faults.success_head(request, len(faults.ROWS)) + faults.ROWS)

    with FaultyNode(slow) as node, QClient([node.url], 5, 5, trust_env=False) as client:
        results: list[object] = []
        thread = threading.Thread(target=lambda: results.append(client.get("k", {})))
        thread.start()
        assert requested.wait(CHILD_TIMEOUT)

        def work() -> None:
            assert client.node_status()[node.url].state is NodeState.FAILING
            assert not client._active
            client._pool._nodes[node.url].due_at = 0.0
            assert client.get("k", {}) is not None
            assert client.node_status()[node.url].alive
            client.close()

        with client._pool._lock:  # another thread may hold it during the fork
            client._pool._nodes[node.url].state = NodeState.PROBED
            client._pool.failing |= {node.url}
            child = run_in_forked_child(work)
        assert child() == 0
        thread.join(CHILD_TIMEOUT)
        assert results[0] is not None


def test_the_client_runs_on_a_platform_without_fork() -> None:
    code = """
import os, sys
del os.fork, os.register_at_fork
from airflow_provider_qcache.client import QClient
with QClient([sys.argv[1]], 30, 30, trust_env=False) as client:
    client.post("k", b"a\\n1\\n")
    print(client.get("k", {}).content)
"""
    node, tables = faults.healthy_node()
    with node:
        command = [sys.executable, "-c", code, node.url]
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"{faults.ROWS!r}\n", "")
    assert tables.tables == {"k": b"a\n1\n"}
