"""Connections as Airflow gives them, and servers that are no good."""

from __future__ import annotations

import contextlib
import json
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness.faults import FaultyNode, HungUp, silent
from tests.harness.ports import closed_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness.faults import Peer, Received
    from tests.harness.servers import Server

# Each Airflow has one of the two forms.
collect_ignore = ["test_old_form.py" if find_spec("airflow.sdk") else "test_new_form.py"]


@pytest.fixture(autouse=True)
def no_netrc(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what the user of this machine has in a netrc out of the tests."""
    monkeypatch.setenv("NETRC", str(tmp_path_factory.getbasetemp() / "no-netrc"))


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the connection qcache_default: `connect(host="host1", extra={"deadline": 5})`."""

    def set_connection(extra: Any = None, **fields: Any) -> None:
        if extra is not None:
            fields["extra"] = extra
        monkeypatch.setenv("AIRFLOW_CONN_QCACHE_DEFAULT", json.dumps({"conn_type": "qcache", **fields}))

    return set_connection


@pytest.fixture(scope="session")
def living(dev: Server) -> str:
    """A node that answers."""
    return dev.url


@pytest.fixture
def dead() -> list[str]:
    """Three nodes that refuse connections, as after a crash."""
    return [f"http://127.0.0.1:{port}" for port in closed_ports(3)]


@pytest.fixture
def hung() -> Iterator[str]:
    """A node that takes connections and never answers."""
    with FaultyNode(silent, status=silent) as node:
        yield node.url


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], str]]:
    """Start a server that answers every request with these bytes and hangs up; gives its URL."""
    with contextlib.ExitStack() as stack:

        def start(answer: bytes) -> str:
            def reply(peer: Peer, request: Received) -> None:
                peer.send(answer)
                raise HungUp

            return stack.enter_context(FaultyNode(reply, status=reply)).url

        yield start
