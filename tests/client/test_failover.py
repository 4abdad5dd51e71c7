"""Which node an operation goes to: nodes that come back unseen, refuse, stay silent, or are alive in part."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest

from airflow_provider_qcache.client import (
    HomeNodeUnavailable,
    NoCacheAvailable,
    QClient,
    RequestRetry,
    StoreUncertain,
)
from airflow_provider_qcache.client.errors import Outcome
from airflow_provider_qcache.client.nodes import NodeState
from airflow_provider_qcache.client.operation import Operation
from airflow_provider_qcache.client.outcome import RequestKind
from tests.client.kinds import ON_EACH_SERVER, key_with_home, make_server
from tests.client.simulated import Scripted, SimulatedCluster
from tests.harness import faults
from tests.harness.faults import FaultyNode, Peer, Received, healthy_node
from tests.harness.ports import closed_port
from tests.harness.servers import Certificates

TABLE = b"a\n1\n"


# A node that was gone and is back, unseen.


@ON_EACH_SERVER
def test_a_table_on_a_home_that_is_back_is_neither_missed_nor_left_there_by_a_delete(kind: str) -> None:
    home = make_server(kind)
    with make_server(kind) as other:
        nodes = [home.url, other.url]
        with QClient(nodes, trust_env=False, confirm_miss=True) as client, QClient(nodes) as elsewhere:
            keys = (f"k{number}" for number in range(99))
            first, second = [key for key in keys if client.node_for_key(key) == home.url][:2]
            assert client.get(first, {}) is None  # it refuses: its memory is gone
            with home:
                for key in (first, second):
                    assert elsewhere.post(key, TABLE).node == home.url
                assert client.get(first, {}) is not None
                # Again as it was, for the delete.
                client._pool.fail(home.url, client._pool.ticket(home.url), "refused", gone=True)
                assert client.delete(second).outcomes == {home.url: "confirmed"}
                assert elsewhere.get(second, {}) is None


def test_a_home_that_is_gone_still_is_asked_once_for_each_miss_and_costs_no_failure() -> None:
    world = SimulatedCluster([Scripted(Outcome.REFUSED), Scripted(status=404)], [Scripted(Outcome.REFUSED)])
    for _ in range(3):
        done = world.run()
        assert (done.answer, done.unknown) == (None, ())
    status = world.pool.snapshot()[world.nodes[0]]
    assert (status.gone, status.failures, status.state) == (True, 1, NodeState.FAILING)
    assert world.pool.statistics[world.nodes[0]]["retry_error"] == 0


@pytest.mark.parametrize("kind", [RequestKind.QUERY, RequestKind.DELETE])
def test_a_home_that_was_gone_and_is_silent_now_is_not_known(kind: RequestKind) -> None:
    world = SimulatedCluster(
        [
            Scripted(Outcome.REFUSED),
            Scripted(status=404),
            Scripted(status=404 if kind is RequestKind.QUERY else 200),
        ],
        [Scripted(Outcome.TIMEOUT)],
    )
    assert world.run().unknown == ()
    assert world.run(kind).unknown == (world.nodes[0],)
    assert not world.pool.is_gone(world.nodes[0])


def test_a_home_that_answers_again_is_asked_though_a_stand_in_answered_first() -> None:
    world = SimulatedCluster(
        [Scripted(Outcome.REFUSED), Scripted(status=404), Scripted(status=404), Scripted()]
    )
    assert world.run().answer is None
    done = world.run()
    assert done.answer is not None
    assert (done.node, done.attempts) == (world.nodes[0], ())
    assert [node for node, _ in world.wire.sent] == [*world.nodes[:2], world.nodes[1], world.nodes[0]]


def test_a_result_of_a_stand_in_has_no_node_asked_for_it() -> None:
    world = SimulatedCluster([Scripted(Outcome.REFUSED), Scripted()], [Scripted(Outcome.TIMEOUT)])
    for _ in range(3):
        assert world.run().answer is not None
    assert world.pool.is_gone(world.nodes[0])


def test_a_silent_home_that_refused_once_makes_the_miss_uncertain() -> None:
    port = closed_port()
    sound, _ = healthy_node()
    home = f"http://127.0.0.1:{port}"
    with sound, QClient([home, sound.url], 0.5, 0.3, trust_env=False, confirm_miss=True) as client:
        key = key_with_home(client, home)
        assert client.get(key, {}) is None
        with silent_at(port):
            with pytest.raises(HomeNodeUnavailable):
                client.get(key, {})
            client._pool.fail(home, client._pool.ticket(home), "refused", gone=True)
            with pytest.raises(HomeNodeUnavailable):
                client.delete(key)


@pytest.mark.parametrize("silent", [False, True])
def test_a_delete_names_the_node_that_answered_and_those_before_it(silent: bool) -> None:
    port = closed_port()
    sound, tables = healthy_node()
    home = f"http://127.0.0.1:{port}"
    with sound, QClient([home, sound.url], 0.5, 0.3, trust_env=False) as client:
        key = key_with_home(client, home)
        tables.tables[key] = TABLE
        with silent_at(port) if silent else nullcontext():
            result = client.delete(key)
            report = client.delete_many([key])
        assert result.outcomes == {home: "unreachable" if silent else "gone", sound.url: "confirmed"}
        assert list(result.outcomes) == [home, sound.url]
        assert (list(result.errors), result.complete) == ([home] if silent else [], not silent)
        assert report.succeeded[key].outcomes == result.outcomes
        assert tables.tables == {}


@contextmanager
def silent_at(port: int) -> Iterator[FaultyNode]:
    node = FaultyNode(faults.silent, status=faults.silent)
    node.listener.close()
    node.listener = faults.socket.create_server(("127.0.0.1", port))
    node.port = port
    with node:
        yield node


def test_a_node_is_gone_to_a_delete_only_if_it_refuses_this_one() -> None:
    port = closed_port()
    node = f"http://127.0.0.1:{port}"
    sound, _ = faults.healthy_node()
    with sound, QClient([node, sound.url], 5, 5, trust_env=False, deadline=0.5) as client:
        assert client.delete("k", all_nodes=True).gone == (node,)
        with silent_at(port):
            # The deadline ends the probe; what the node did before says nothing of now.
            assert client.delete("k", all_nodes=True).unreachable == (node,)


def test_what_a_busy_node_refused_before_it_came_back_does_not_fail_it() -> None:
    world = SimulatedCluster([Scripted(Outcome.TIMEOUT), Scripted()], [Scripted(Outcome.REFUSED), Scripted()])
    ask = world.wire.status

    def while_another_operation_sees_it_fail_and_recover(node: str, operation: Operation) -> None:
        pool = world.pool
        if node not in pool.failing and not world.changes:
            pool.fail(node, pool.ticket(node), "refused", gone=True)
            probe = pool.begin_probe(node)
            assert probe is not None
            pool.end_probe(node, probe, None)
        ask(node, operation)

    world.wire.status = while_another_operation_sees_it_fail_and_recover  # type: ignore[method-assign]
    assert world.run(RequestKind.STORE).node == world.nodes[0]
    assert [alive for _, alive, _ in world.changes] == [False, True]


# Waits of nothing.


@pytest.mark.parametrize("kind", [RequestKind.QUERY, RequestKind.STORE])
def test_a_policy_without_waits_does_not_ask_for_statuses_without_end(kind: RequestKind) -> None:
    policy = RequestRetry(wait_initial=0, wait_max=0, wait_for_nodes=True)
    met = Outcome.REFUSED if kind is RequestKind.QUERY else Outcome.TIMEOUT
    world = SimulatedCluster([Scripted(met)], [Scripted(Outcome.CLOSED)], policy=policy)
    with pytest.raises(NoCacheAvailable if kind is RequestKind.QUERY else StoreUncertain):
        world.run(kind, 5.0)
    assert 50 < len(world.clock.slept) <= 101


# Nodes that are alive only in part.


def test_a_node_is_alive_again_when_its_status_was_answered_twice() -> None:
    answers = iter([True, False, True, True])

    def status(peer: Peer, request: Received) -> None:
        peer.send(faults.head(200, 2) + b"OK" if next(answers) else faults.head(503, 0))

    tables = faults.Tables()
    with (
        FaultyNode(tables.answer, status=status) as node,
        QClient([node.url], 5, 5, trust_env=False) as client,
    ):
        client._pool.fail(node.url, client._pool.ticket(node.url), "silent")
        with pytest.raises(NoCacheAvailable):
            client.post("k", TABLE)
        assert tables.tables == {}
        client.post("k", TABLE)
    assert [request.kind for request in node.requests] == ["status"] * 4 + ["store"]


@pytest.mark.parametrize("known", [False, True], ids=["unknown", "known to fail"])
def test_a_silent_node_is_not_called_evicted(known: bool) -> None:
    home, _ = healthy_node()
    with (
        home,
        FaultyNode(faults.silent, status=faults.silent) as silent,
        QClient(
            [home.url, silent.url, f"http://127.0.0.1:{closed_port()}"], 0.3, 0.3, trust_env=False
        ) as client,
    ):
        key = key_with_home(client, home.url)
        if known:
            client._pool.fail(silent.url, client._pool.ticket(silent.url), "silent")
        result = client.post(key, TABLE, evict_stale=True)
        assert result.may_hold_old == (silent.url,)
        assert len(result.evicted) == 1  # what refuses connections holds nothing
        assert silent.url not in result.evicted


@pytest.mark.parametrize("then", ["silent", "hangs up", "fails"])
def test_a_store_that_timed_out_goes_to_no_other_node(then: str) -> None:
    stores = iter(range(9))

    def answer(peer: Peer, request: Received) -> None:
        if next(stores) == 0 or then == "silent":
            peer.wait_for_ever()
        if then == "fails":
            peer.send(faults.head(503, 0))
        raise faults.HungUp

    def status(peer: Peer, request: Received) -> None:
        if then == "hangs up" and sum(met.kind == "store" for met in home.requests) > 1:
            raise faults.HungUp  # after the store that came second
        peer.send(faults.head(200, 2) + b"OK")

    other, tables = healthy_node()
    home = FaultyNode(answer, status=status)
    with home, other, QClient([home.url, other.url], 5, 0.3, trust_env=False, store_timeout=0.3) as client:
        with pytest.raises(StoreUncertain):
            client.post(key_with_home(client, home.url), TABLE)
        assert tables.tables == {}
        assert other.requests == []


def test_a_node_that_refuses_credentials_is_alive_when_it_is_asked() -> None:
    def answer(peer: Peer, request: Received) -> None:
        peer.send(faults.head(401, 0))

    with (
        FaultyNode(answer, status=answer) as node,
        QClient([node.url], 5, 5, auth=("user", "s3cret"), trust_env=False) as client,
    ):
        assert client.node_status(probe=True)[node.url].alive
        assert not client.get_statistics()


def test_a_node_whose_certificate_is_rejected_is_alive_when_it_is_asked(certificates: Certificates) -> None:
    options = f"--cert-file={certificates.server}"
    with (
        make_server("dev", options, tls=certificates.context()) as node,
        QClient([node.url], 5, 5, trust_env=False) as client,
    ):
        assert client.node_status(probe=True)[node.url].alive


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_an_idle_connection_that_ends_as_it_is_used_makes_no_node_fail(reset: bool) -> None:
    tables = faults.Tables()
    cuts = faults.CutsIdleConnections(tables, reset)

    def status(peer: Peer, request: Received) -> None:
        if any(peer is other for other in cuts.seen):
            if reset:
                peer.reset()
            raise faults.HungUp
        cuts.seen.append(peer)
        peer.send(faults.head(200, 2) + (b"OK" if request.kind == "status" else b"{}"))

    def answer(peer: Peer, request: Received) -> None:
        (cuts if "/dataset/" in request.target else status)(peer, request)

    with FaultyNode(answer, status=status) as node, QClient([node.url], 5, 5, trust_env=False) as client:
        for _ in range(2):
            client.post("k", TABLE)
            assert client.node_status(probe=True)[node.url].alive
            client.post("k", TABLE)
            assert client.node_statistics()[node.url] == {}
            client.post("k", TABLE)
            client._pool.fail(node.url, client._pool.ticket(node.url), "silent")
            assert client.node_status(probe=True)[node.url].alive  # which probes it


@pytest.mark.parametrize(
    ("hosts", "gone"),
    [
        (["127.0.0.1", "127.0.0.2"], True),
        (["127.0.0.1", "255.255.255.255"], False),
        (["255.255.255.255", "127.0.0.1"], False),
    ],
)
def test_a_name_is_gone_only_where_all_its_addresses_refuse(
    hosts: list[str], gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = closed_port()
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in hosts]
    node = f"http://qcache.invalid:{port}"
    with QClient([node], 5, 5, trust_env=False) as client:
        # connect() to a broadcast address fails here, and nothing leaves the machine.
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        with pytest.raises(NoCacheAvailable) as raised:
            client.delete("k", all_nodes=True)
        assert raised.value.result is not None
        assert raised.value.result.outcomes == {node: "gone" if gone else "unreachable"}


def test_nodes_that_differ_in_credentials_only_are_one_process() -> None:
    nodes = ["http://host1:9401", "http://a:hunter2@host2:9401", "http://b:hunter3@host2:9401"]
    with pytest.raises(ValueError, match="host2:9401") as raised:
        QClient(nodes)
    assert "hunter" not in str(raised.value)
    QClient(nodes[:2]).close()
