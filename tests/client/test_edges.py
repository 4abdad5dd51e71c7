"""What is easily got wrong: nodes that come back unseen, interrupted callers, answers that are traps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from airflow_provider_qcache.client import HomeNodeUnavailable, QClient
from airflow_provider_qcache.client.errors import Outcome
from airflow_provider_qcache.client.nodes import NodeState
from airflow_provider_qcache.client.outcome import Kind
from tests.client import faults
from tests.client.faults import Node, closed_port, sound_node
from tests.client.simulated import Meets
from tests.client.test_retry import World
from tests.conftest import need_the_real_server
from tests.servers import Server

TABLE = b"a\n1\n"
OF_BOTH = pytest.mark.parametrize("kind", ["real", "dev"])


def a_key_of(client: QClient, node: str) -> str:
    return next(key for key in (f"k{number}" for number in range(99)) if client.node_for_key(key) == node)


def a_server(kind: str) -> Server:
    if kind == "real":
        need_the_real_server()
    return Server.real() if kind == "real" else Server.dev()


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


# A node that was gone and is back, unseen.


@OF_BOTH
def test_a_table_on_a_home_that_is_back_is_neither_missed_nor_left_there_by_a_delete(kind: str) -> None:
    home = a_server(kind)
    with a_server(kind) as other:
        nodes = [url(home), url(other)]
        with QClient(nodes, trust_env=False, confirm_miss=True) as client, QClient(nodes) as elsewhere:
            keys = (f"k{number}" for number in range(99))
            first, second = [key for key in keys if client.node_for_key(key) == url(home)][:2]
            assert client.get(first, {}) is None  # it refuses: its memory is gone
            with home:
                for key in (first, second):
                    assert elsewhere.post(key, TABLE).node == url(home)
                assert client.get(first, {}) is not None
                # Again as it was, for the delete.
                client._pool.fail(url(home), client._pool.ticket(url(home)), "refused", gone=True)
                client.delete(second)
                assert elsewhere.get(second, {}) is None


def test_a_home_that_is_gone_still_is_asked_once_for_each_miss_and_costs_no_failure() -> None:
    world = World([Meets(Outcome.REFUSED), Meets(status=404)], [Meets(Outcome.REFUSED)])
    for _ in range(3):
        done = world.run()
        assert (done.answer, done.unknown) == (None, ())
    status = world.pool.snapshot()[world.nodes[0]]
    assert (status.gone, status.failures, status.state) == (True, 1, NodeState.FAILING)
    assert world.pool.statistics[world.nodes[0]]["retry_error"] == 0


@pytest.mark.parametrize("kind", [Kind.QUERY, Kind.DELETE])
def test_a_home_that_was_gone_and_is_silent_now_is_not_known(kind: Kind) -> None:
    world = World(
        [Meets(Outcome.REFUSED), Meets(status=404), Meets(status=404 if kind is Kind.QUERY else 200)],
        [Meets(Outcome.TIMEOUT)],
    )
    assert world.run().unknown == ()
    assert world.run(kind).unknown == (world.nodes[0],)
    assert not world.pool.is_gone(world.nodes[0])


def test_a_home_that_answers_again_is_asked_though_a_stand_in_answered_first() -> None:
    world = World([Meets(Outcome.REFUSED), Meets(status=404), Meets(status=404), Meets()])
    assert world.run().answer is None
    done = world.run()
    assert done.answer is not None
    assert (done.node, done.attempts) == (world.nodes[0], ())
    assert [node for node, _ in world.wire.sent] == [*world.nodes[:2], world.nodes[1], world.nodes[0]]


def test_a_result_of_a_stand_in_has_no_node_asked_for_it() -> None:
    world = World([Meets(Outcome.REFUSED), Meets()], [Meets(Outcome.TIMEOUT)])
    for _ in range(3):
        assert world.run().answer is not None
    assert world.pool.is_gone(world.nodes[0])


def test_a_silent_home_that_refused_once_makes_the_miss_uncertain() -> None:
    port = closed_port()
    sound, _ = sound_node()
    home = f"http://127.0.0.1:{port}"
    with sound, QClient([home, sound.url], 0.5, 0.3, trust_env=False, confirm_miss=True) as client:
        key = a_key_of(client, home)
        assert client.get(key, {}) is None
        with silent_at(port):
            with pytest.raises(HomeNodeUnavailable):
                client.get(key, {})
            client._pool.fail(home, client._pool.ticket(home), "refused", gone=True)
            with pytest.raises(HomeNodeUnavailable):
                client.delete(key)


@contextmanager
def silent_at(port: int) -> Iterator[Node]:
    node = Node(faults.silent, status=faults.silent)
    node.listener.close()
    node.listener = faults.socket.create_server(("127.0.0.1", port))
    node.port = port
    with node:
        yield node


def test_a_node_is_gone_to_a_delete_only_if_it_refuses_this_one() -> None:
    port = closed_port()
    node = f"http://127.0.0.1:{port}"
    with QClient([node], 5, 5, trust_env=False, deadline=0.5) as client:
        assert client.delete("k", all_nodes=True).outcomes == {node: "gone"}
        with silent_at(port):
            # The deadline ends the probe; what the node did before says nothing of now.
            assert client.delete("k", all_nodes=True).outcomes == {node: "unreachable"}
