"""Which node an operation uses when nodes refuse, stay silent, recover, or work only in part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest

from airflow_provider_qcache.client import (
    BodyNotRepeatable,
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


# Nodes that were gone and have recovered, which the client does not know yet.


@ON_EACH_SERVER
def test_a_get_and_a_delete_find_the_table_on_a_restarted_home_node(kind: str) -> None:
    home = make_server(kind)
    with make_server(kind) as other:
        nodes = [home.url, other.url]
        with QClient(nodes, trust_env=False, confirm_miss=True) as client, QClient(nodes) as elsewhere:
            keys = (f"k{number}" for number in range(99))
            first, second = [key for key in keys if client.node_for_key(key) == home.url][:2]
            assert client.get(first, {}) is None  # the home node refuses connections: its tables are gone
            with home:
                for key in (first, second):
                    assert elsewhere.post(key, TABLE).node == home.url
                assert client.get(first, {}) is not None
                # For the delete, mark the home node as gone again.
                client._pool.fail(home.url, client._pool.ticket(home.url), "refused", gone=True)
                assert client.delete(second).outcomes == {home.url: "confirmed"}
                assert elsewhere.get(second, {}) is None


def test_a_home_node_that_stays_gone_is_probed_once_per_miss_and_not_counted_as_failed() -> None:
    cluster = SimulatedCluster([Scripted(Outcome.REFUSED), Scripted(status=404)], [Scripted(Outcome.REFUSED)])
    for _ in range(3):
        done = cluster.run()
        assert (done.answer, done.unknown) == (None, ())
    status = cluster.pool.snapshot()[cluster.nodes[0]]
    assert (status.gone, status.failures, status.state) == (True, 1, NodeState.FAILING)
    assert cluster.pool.statistics[cluster.nodes[0]]["retry_error"] == 0


@pytest.mark.parametrize("kind", [RequestKind.QUERY, RequestKind.DELETE])
def test_a_home_node_that_was_gone_and_is_now_silent_makes_the_result_unknown(kind: RequestKind) -> None:
    cluster = SimulatedCluster(
        [
            Scripted(Outcome.REFUSED),
            Scripted(status=404),
            Scripted(status=404 if kind is RequestKind.QUERY else 200),
        ],
        [Scripted(Outcome.TIMEOUT)],
    )
    assert cluster.run().unknown == ()
    assert cluster.run(kind).unknown == (cluster.nodes[0],)
    assert not cluster.pool.is_gone(cluster.nodes[0])


def test_a_recovered_home_node_is_asked_after_a_miss_on_a_fallback_node() -> None:
    cluster = SimulatedCluster(
        [Scripted(Outcome.REFUSED), Scripted(status=404), Scripted(status=404), Scripted()]
    )
    assert cluster.run().answer is None
    done = cluster.run()
    assert done.answer is not None
    assert (done.node, done.attempts) == (cluster.nodes[0], ())
    assert [node for node, _ in cluster.wire.sent] == [*cluster.nodes[:2], cluster.nodes[1], cluster.nodes[0]]


def test_no_other_node_is_asked_after_a_result_of_a_fallback_node() -> None:
    cluster = SimulatedCluster([Scripted(Outcome.REFUSED), Scripted()], [Scripted(Outcome.TIMEOUT)])
    for _ in range(3):
        assert cluster.run().answer is not None
    assert cluster.pool.is_gone(cluster.nodes[0])


def test_a_silent_home_node_that_refused_before_makes_a_miss_an_error() -> None:
    port = closed_port()
    healthy, _ = healthy_node()
    home = f"http://127.0.0.1:{port}"
    with healthy, QClient([home, healthy.url], 0.5, 0.3, trust_env=False, confirm_miss=True) as client:
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
    healthy, tables = healthy_node()
    home = f"http://127.0.0.1:{port}"
    with healthy, QClient([home, healthy.url], 0.5, 0.3, trust_env=False) as client:
        key = key_with_home(client, home)
        tables.tables[key] = TABLE
        with silent_at(port) if silent else nullcontext():
            result = client.delete(key)
            report = client.delete_many([key])
        assert result.outcomes == {home: "unreachable" if silent else "gone", healthy.url: "confirmed"}
        assert list(result.outcomes) == [home, healthy.url]
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


def test_a_delete_reports_a_node_as_gone_only_if_it_refuses_this_delete() -> None:
    port = closed_port()
    node = f"http://127.0.0.1:{port}"
    healthy, _ = faults.healthy_node()
    with healthy, QClient([node, healthy.url], 5, 5, trust_env=False, deadline=0.5) as client:
        assert client.delete("k", all_nodes=True).gone == (node,)
        with silent_at(port):
            # The deadline ends the probe, and the earlier refusal does not count.
            assert client.delete("k", all_nodes=True).unreachable == (node,)


def test_a_refusal_from_before_the_node_s_recovery_does_not_fail_it() -> None:
    cluster = SimulatedCluster(
        [Scripted(Outcome.TIMEOUT), Scripted()], [Scripted(Outcome.REFUSED), Scripted()]
    )
    ask = cluster.wire.status

    def status_while_the_node_fails_and_recovers(node: str, operation: Operation) -> None:
        pool = cluster.pool
        if node not in pool.failing and not cluster.changes:
            pool.fail(node, pool.ticket(node), "refused", gone=True)
            probe = pool.begin_probe(node)
            assert probe is not None
            pool.end_probe(node, probe, None)
        ask(node, operation)

    cluster.wire.status = status_while_the_node_fails_and_recovers  # type: ignore[method-assign]
    assert cluster.run(RequestKind.STORE).node == cluster.nodes[0]
    assert [alive for _, alive, _ in cluster.changes] == [False, True]


# Policies without waits.


@pytest.mark.parametrize("kind", [RequestKind.QUERY, RequestKind.STORE])
def test_a_policy_without_waits_limits_its_status_requests(kind: RequestKind) -> None:
    policy = RequestRetry(wait_initial=0, wait_max=0, wait_for_nodes=True)
    outcome = Outcome.REFUSED if kind is RequestKind.QUERY else Outcome.TIMEOUT
    cluster = SimulatedCluster([Scripted(outcome)], [Scripted(Outcome.CLOSED)], policy=policy)
    with pytest.raises(NoCacheAvailable if kind is RequestKind.QUERY else StoreUncertain):
        cluster.run(kind, 5.0)
    assert 50 < len(cluster.clock.slept) <= 101


# Nodes that work only in part.


def test_a_node_recovers_when_it_has_answered_its_status_twice() -> None:
    answers = iter([True, False, True, True])

    def status(peer: Peer, request: Received) -> None:
        if next(answers):
            faults.answer_ok(peer, request)
        else:
            peer.send(faults.head(503, 0))

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
def test_a_silent_node_is_not_reported_as_evicted(known: bool) -> None:
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
        assert len(result.evicted) == 1  # a node that refuses connections holds no table
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
        if then == "hangs up" and sum(earlier.kind == "store" for earlier in home.requests) > 1:
            raise faults.HungUp  # after the second store
        faults.answer_ok(peer, request)

    other, tables = healthy_node()
    home = FaultyNode(answer, status=status)
    with home, other, QClient([home.url, other.url], 5, 0.3, trust_env=False, store_timeout=0.3) as client:
        with pytest.raises(StoreUncertain):
            client.post(key_with_home(client, home.url), TABLE)
        assert tables.tables == {}
        assert other.requests == []


def test_a_probe_answered_with_401_counts_as_alive() -> None:
    def answer(peer: Peer, request: Received) -> None:
        peer.send(faults.head(401, 0))

    with (
        FaultyNode(answer, status=answer) as node,
        QClient([node.url], 5, 5, auth=("user", "s3cret"), trust_env=False) as client,
    ):
        assert client.node_status(probe=True)[node.url].alive
        assert not client.get_statistics()


def test_a_probe_whose_certificate_is_rejected_counts_as_alive(certificates: Certificates) -> None:
    options = f"--cert-file={certificates.server}"
    with (
        make_server("dev", options, tls=certificates.context()) as node,
        QClient([node.url], 5, 5, trust_env=False) as client,
    ):
        assert client.node_status(probe=True)[node.url].alive


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_an_idle_connection_that_ends_when_it_is_used_fails_no_node(reset: bool) -> None:
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
            assert client.node_status(probe=True)[node.url].alive  # probe=True probes the failing node


@pytest.mark.parametrize(
    ("hosts", "gone"),
    [
        (["127.0.0.1", "127.0.0.2"], True),
        (["127.0.0.1", "255.255.255.255"], False),
        (["255.255.255.255", "127.0.0.1"], False),
    ],
)
def test_a_node_is_gone_only_if_all_addresses_of_its_name_refuse(hosts: list[str], gone: bool) -> None:
    node = f"http://qcache.invalid:{closed_port()}"
    # connect() to a broadcast address fails on this machine; nothing is sent.
    with QClient([node], 5, 5, trust_env=False) as client, faults.names_resolve_to(*hosts):
        with pytest.raises(NoCacheAvailable) as raised:
            client.delete("k", all_nodes=True)
        assert raised.value.result is not None
        assert raised.value.result.outcomes == {node: "gone" if gone else "unreachable"}


def test_nodes_that_differ_only_in_credentials_are_refused_as_one_node() -> None:
    nodes = ["http://host1:9401", "http://a:hunter2@host2:9401", "http://b:hunter3@host2:9401"]
    with pytest.raises(ValueError, match="host2:9401") as raised:
        QClient(nodes)
    assert "hunter" not in str(raised.value)
    QClient(nodes[:2]).close()


def test_a_miss_on_a_fallback_node_is_an_error_with_confirm_miss() -> None:
    (healthy, _), silent = healthy_node(), FaultyNode(faults.silent, status=faults.silent)
    with healthy, silent:
        for confirm in (False, True):
            with QClient(
                [silent.url, healthy.url], 0.5, 0.3, trust_env=False, confirm_miss=confirm
            ) as client:
                key = key_with_home(client, silent.url)
                if not confirm:
                    assert client.get(key, {}) is None
                    continue
                with pytest.raises(HomeNodeUnavailable) as raised:
                    client.get(key, {})
                assert raised.value.transient
                with pytest.raises(HomeNodeUnavailable):
                    client.delete(key)


def test_a_miss_after_a_refused_connection_is_none_even_with_confirm_miss() -> None:
    healthy, _ = healthy_node()
    with healthy:
        dead = f"http://127.0.0.1:{closed_port()}"
        with QClient([dead, healthy.url], trust_env=False, confirm_miss=True) as client:
            assert [client.get(f"k{number}", {}) for number in range(9)] == [None] * 9


def test_a_body_that_cannot_be_repeated_is_an_error_when_a_node_fails() -> None:
    healthy, _ = healthy_node()
    with healthy:
        dead = f"http://127.0.0.1:{closed_port()}"
        with QClient([dead, healthy.url], trust_env=False) as client:
            key = key_with_home(client, dead)
            with pytest.raises(BodyNotRepeatable):
                client.post(key, iter([b"a\n", b"1\n"]))
            assert client.post(key, iter([b"a\n", b"1\n"])).failed_over


def test_a_body_that_cannot_be_repeated_is_sent_on_a_fresh_connection() -> None:
    tables = faults.Tables()
    node = FaultyNode(faults.CutsIdleConnections(tables, reset=True))
    with node, QClient([node.url], trust_env=False) as client:
        for _ in range(3):
            assert client.post("foo", iter([b"a\n", b"1\n"])).attempts == ()
