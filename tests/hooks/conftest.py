"""Connections as Airflow gives them, and servers that are no good."""

from __future__ import annotations

import json
import socket
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_qcache.devnode import LocalCluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
def living() -> Iterator[str]:
    """A dev node that answers."""
    with LocalCluster(nodes=1) as cluster:
        yield cluster.node_list[0]


@pytest.fixture
def dead() -> Iterator[list[str]]:
    """Three nodes that refuse connections, as after a crash: their ports are held, and nothing listens."""
    sockets = [socket.socket() for _ in range(3)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    yield [f"http://127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()


@pytest.fixture
def hung() -> Iterator[str]:
    """A node that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], str]]:
    """Start a server that answers every connection with these bytes and hangs up; gives its URL."""
    servers: list[socket.socket] = []

    def serve(server: socket.socket, answer: bytes) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(65_536)
                connection.sendall(answer)

    def start(answer: bytes) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)
        threading.Thread(target=serve, args=(server, answer), daemon=True).start()
        return f"http://127.0.0.1:{server.getsockname()[1]}"

    yield start
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
