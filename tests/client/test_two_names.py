"""Two names of one node are refused if that is visible, and never lead to the loss of a stored table."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from airflow_provider_qcache.client import QClient
from tests.harness.forwarder import forwarder
from tests.harness.nodes import Nodes

OLD, NEW = b"a\n1\n", b"a\n2\n"


def resolve(monkeypatch: pytest.MonkeyPatch, names: dict[str, str]) -> None:
    """Make these names resolve to these addresses; other names resolve as before."""
    known = socket.getaddrinfo

    def found(host: str, port: Any, *args: Any, **kwargs: Any) -> Any:
        return known(names.get(host, host), port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", found)


@pytest.mark.parametrize(
    "nodes",
    [
        ("http://localhost:9401", "http://127.0.0.1:9401"),
        ("http://[::1]:9401", "http://localhost:9401"),
        ("http://host1:9401", "http://host1:9401/"),
        ("http://HOST1:9401", "http://host1:9401"),
        ("http://host1.:9401", "http://host1:9401"),
        ("http://host1", "http://host1:80"),
        ("http://a:hunter2@host1:9401", "http://b:hunter2@host1:9401"),
        ("http://host1:9401", "http://host1.example.invalid:9401"),
        ("http://host1:9401", "http://10.9.8.7:9401"),
    ],
)
def test_two_spellings_of_one_node_are_refused(
    nodes: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(monkeypatch, {"host1": "10.9.8.7", "host1.example.invalid": "10.9.8.7"})
    if "[::1]" in nodes[0]:
        resolve(monkeypatch, {"localhost": "::1"})
    with pytest.raises(ValueError, match="are two names of one node") as refused:
        QClient(["http://host3:9401", *nodes])
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "nodes",
    [
        ("http://qcache-0.example:80", "http://qcache-1.example:80"),  # behind one ingress
        ("http://gateway:80/a", "http://gateway:80/b"),
        ("http://127.0.0.1:9401", "http://localhost:9402"),
        ("http://10.9.8.7:9401", "http://unknown.invalid:9401"),
    ],
)
def test_names_that_may_be_two_nodes_are_accepted(
    nodes: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(monkeypatch, {"qcache-0.example": "10.9.8.7", "qcache-1.example": "10.9.8.7"})
    QClient(nodes).close()


def post(client: QClient, key: str, content: Any) -> tuple[str, ...]:
    return client.post(key, content, evict_stale=True).may_hold_old


def post_many(client: QClient, key: str, content: Any) -> tuple[str, ...]:
    return client.post_many({key: content}, evict_stale=True).succeeded[key].may_hold_old


def post_once(client: QClient, key: str, content: Any) -> tuple[str, ...]:
    """Stores a body that cannot be repeated."""

    class Once:
        def __init__(self) -> None:
            self.left = content

        def read(self, size: int = -1) -> bytes:
            part, self.left = self.left, b""
            return part

    return client.post(key, Once(), evict_stale=True).may_hold_old


@pytest.fixture
def second_address(nodes: Nodes) -> Iterator[str]:
    """127.0.0.2 as a second address of the first node, which itself listens at 127.0.0.1."""
    port = urlsplit(nodes.urls[0]).port or 0
    with forwarder(("127.0.0.2", port), ("127.0.0.1", port)):
        yield "127.0.0.2"


@pytest.mark.parametrize("store", [post, post_many, post_once])
@pytest.mark.parametrize("second", ["moved.invalid", "127.0.0.2"])
def test_evict_stale_does_not_delete_a_table_under_the_node_s_second_name(
    nodes: Nodes,
    second: str,
    store: Callable[..., tuple[str, ...]],
    second_address: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = urlsplit(nodes.urls[0]).port
    with QClient([nodes.urls[0], f"http://{second}:{port}"], 5, 20, trust_env=False) as client:
        # When the client was made, the name was another node's.
        resolve(monkeypatch, {"moved.invalid": "127.0.0.1"})
        for number in range(4):  # so that each name is the home of at least one
            key = f"two-names-{number}"
            may_hold_old = store(client, key, OLD)
            result = client.get(key, {})
            assert result is not None
            assert len(may_hold_old) == 1
            client.delete(key)


def test_evict_stale_still_evicts_at_other_nodes(nodes: Nodes) -> None:
    with QClient(nodes.urls, 5, 20, trust_env=False) as client:
        stored = client.post("three-nodes", NEW, evict_stale=True)
        assert len(stored.evicted) == 2
        assert stored.may_hold_old == ()
        client.delete("three-nodes")


def test_locate_reports_that_two_names_are_one_node(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    port = urlsplit(nodes.urls[0]).port
    moved = f"http://moved.invalid:{port}"
    with QClient([*nodes.urls, moved], 5, 20, trust_env=False) as client:
        resolve(monkeypatch, {"moved.invalid": "127.0.0.1"})
        same = {place.node: place.same_as for place in client.locate("where") if place.same_as is not None}
        assert list(same.items()) in ([(moved, nodes.urls[0])], [(nodes.urls[0], moved)])
