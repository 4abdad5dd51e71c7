"""A refused connection means that the node's tables are gone, unless refused_means_gone is false."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from airflow_provider_qcache.client import (
    Absence,
    DeleteOutcome,
    HomeNodeUnavailable,
    NoCacheAvailable,
    QClient,
    StoreUncertain,
)
from tests.client.kinds import key_with_home
from tests.harness.faults import FaultyNode, Peer, Received, healthy_node, silent
from tests.harness.forwarder import forwarder
from tests.harness.nodes import Nodes
from tests.harness.ports import closed_port

TABLE = b"a\n1\n"
BOTH = pytest.mark.parametrize("means_gone", [True, False])


@pytest.fixture
def refusing() -> str:
    """The URL of a node that refuses connections."""
    return f"http://127.0.0.1:{closed_port()}"


@pytest.fixture
def clients(nodes: Nodes, refusing: str) -> Iterator[dict[bool, QClient]]:
    """Clients of a refusing and an answering node, by the value of refused_means_gone."""
    with (
        QClient([refusing, nodes.urls[1]], 5, 20, confirm_miss=True) as plain,
        QClient([refusing, nodes.urls[1]], 5, 20, confirm_miss=True, refused_means_gone=False) as wary,
    ):
        yield {True: plain, False: wary}


def test_a_stopped_forwarder_does_not_turn_a_table_into_a_miss(nodes: Nodes) -> None:
    port = closed_port()
    to = ("127.0.0.1", urlsplit(nodes.urls[0]).port or 0)
    home = f"http://127.0.0.1:{port}"
    with (
        QClient([home, nodes.urls[1]], 5, 20, confirm_miss=True) as plain,
        QClient([home, nodes.urls[1]], 5, 20, confirm_miss=True, refused_means_gone=False) as wary,
    ):
        key = key_with_home(wary, home)
        with forwarder(("127.0.0.1", port), to):
            assert wary.post(key, TABLE).node == home
        # The node still runs and has the table, but its address refuses connections.
        assert plain.get(key, {}) is None
        with pytest.raises(
            HomeNodeUnavailable, match=rf"its home node {home} does not respond, and fallback node"
        ):
            wary.get(key, {})
        with forwarder(("127.0.0.1", port), to):
            wary.node_status(probe=True)
            assert wary.get(key, {}) is not None
            wary.delete(key)


@BOTH
def test_a_miss_and_a_delete_on_a_fallback_node(
    clients: dict[bool, QClient], nodes: Nodes, refusing: str, means_gone: bool
) -> None:
    client = clients[means_gone]
    key = key_with_home(client, refusing)
    for _ in range(2):  # at the second call the node is known to refuse
        if means_gone:
            assert client.get(key, {}) is None
            assert client.delete(key).outcomes == {refusing: "gone", nodes.urls[1]: "confirmed"}
        else:
            for ask in (lambda: client.get(key, {}), lambda: client.delete(key)):
                with pytest.raises(HomeNodeUnavailable) as raised:
                    ask()
                assert raised.value.transient
    with QClient(
        [refusing, nodes.urls[1]], 5, 20, confirm_miss=False, refused_means_gone=means_gone
    ) as client:
        assert client.get(key, {}) is None
        before = "gone" if means_gone else "unreachable"
        assert client.delete(key).outcomes == {refusing: before, nodes.urls[1]: "confirmed"}
        assert client.node_status()[refusing].gone is means_gone


@BOTH
def test_a_delete_on_all_nodes(
    clients: dict[bool, QClient], nodes: Nodes, refusing: str, means_gone: bool
) -> None:
    client = clients[means_gone]
    refused = DeleteOutcome.GONE if means_gone else DeleteOutcome.UNREACHABLE
    for result in (
        client.delete("k", all_nodes=True),
        client.delete_many(["k"], all_nodes=True).succeeded["k"],
    ):
        assert result.outcomes == {refusing: refused, nodes.urls[1]: DeleteOutcome.CONFIRMED}
        assert result.complete is means_gone
        if not means_gone:
            assert "connection refused" in str(result.errors[refusing]).lower()
    with QClient([refusing], 5, 20, refused_means_gone=means_gone) as alone:
        with pytest.raises(NoCacheAvailable, match="no node confirmed the delete") as raised:
            alone.delete("k", all_nodes=True)
        assert raised.value.result is not None
        assert raised.value.result.outcomes == {refusing: refused}


@pytest.mark.parametrize("home_refuses", [True, False])
@BOTH
def test_may_hold_old_after_a_store(
    clients: dict[bool, QClient], nodes: Nodes, refusing: str, means_gone: bool, home_refuses: bool
) -> None:
    client = clients[means_gone]
    key = key_with_home(client, refusing if home_refuses else nodes.urls[1])
    may_hold = () if means_gone else (refusing,)
    for _ in range(2):
        stored = client.post(key, TABLE, evict_stale=True)
        assert (stored.node, stored.may_hold_old) == (nodes.urls[1], may_hold)
    many = client.post_many({key: TABLE}, evict_stale=True).succeeded[key]
    assert many.may_hold_old == may_hold
    client.delete_many([key], all_nodes=True)


@BOTH
def test_a_standby_that_refused_is_tried_for_each_copy_only_if_refused_means_gone(
    clients: dict[bool, QClient], nodes: Nodes, refusing: str, means_gone: bool
) -> None:
    """Otherwise it may be slow to reach, and is left to its probes like a silent node."""
    client = clients[means_gone]
    key = key_with_home(client, nodes.urls[1])
    first, second = (client.post(key, TABLE, copies=2).failed_copies for _ in range(2))
    assert list(first) == list(second) == [refusing]
    assert "connection refused" in second[refusing].lower()
    assert first[refusing].startswith("NoCacheAvailable: store a copy")
    assert second[refusing].startswith("NoCacheAvailable: store a copy") is means_gone
    client.delete(key)


@BOTH
def test_what_locate_and_find_absent_report(
    clients: dict[bool, QClient], nodes: Nodes, refusing: str, means_gone: bool
) -> None:
    client = clients[means_gone]
    key = key_with_home(client, refusing)
    absence = Absence.GONE if means_gone else Absence.UNKNOWN
    for _ in range(2):
        home, other = client.locate(key)
        assert (home.absence, other.absence) == (absence, Absence.MISSING)
        if means_gone:
            assert str(home) == f"{refusing} (home) refuses the connection"
        else:
            assert str(home).startswith(f"{refusing} (home) does not respond: ")
            assert "connection refused" in str(home).lower()
    assert client.find_absent([(key, refusing)]) == {(key, refusing): absence}


@BOTH
def test_a_store_whose_node_received_it_and_then_refuses_connections(means_gone: bool) -> None:
    """It fails over only if the first node's process is gone; otherwise that node may still apply it."""
    other, tables = healthy_node()

    def stop_listening(peer: Peer, request: Received) -> None:
        home.listener.shutdown(2)
        home.listener.close()
        silent(peer, request)

    with (
        FaultyNode(stop_listening, status=silent) as home,
        other,
        QClient(
            [home.url, other.url], 0.5, 0.3, store_timeout=0.3, deadline=1.5, refused_means_gone=means_gone
        ) as client,
    ):
        key = key_with_home(client, home.url)
        if means_gone:
            assert client.post(key, TABLE).node == other.url
        else:
            with pytest.raises(StoreUncertain):
                client.post(key, TABLE)
        assert (key in tables.tables) is means_gone
