"""What was given up does not come after, and so undo, what the same client does next on that node."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from airflow_provider_qcache.client import (
    CertificateRejected,
    DeadlineExceeded,
    NoCacheAvailable,
    OperationCancelled,
    QClient,
    QClientException,
    StoreUncertain,
)
from airflow_provider_qcache.client.errors import Outcome
from airflow_provider_qcache.client.outcome import RequestKind
from tests.client.kinds import a_key_of, a_server
from tests.client.simulated import Meets
from tests.client.test_cancellation import Interrupted, interrupted_after
from tests.client.test_retry import World
from tests.harness import faults
from tests.harness.faults import FaultyNode, Peer, Received
from tests.harness.servers import Server

OLD, NEW = b"a\n0\n", b"a\n2\n"
CAP = 20.0


@pytest.fixture(scope="module", params=["real", "dev"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with a_server(request.param) as started:
        yield started


@contextlib.contextmanager
def stopped(server: Server) -> Iterator[None]:
    """The node does nothing inside, and goes on 0.1 s after."""
    server.pause()
    try:
        yield
    except BaseException:
        server.resume()
        raise
    goes_on = threading.Timer(0.1, server.resume)
    goes_on.start()


def by_deadline(client: QClient, act: Callable[[], object]) -> None:
    client._deadline = 0.5
    # A delete on all nodes that none confirmed is NoCacheAvailable, whatever kept each from it.
    with pytest.raises((StoreUncertain, DeadlineExceeded, NoCacheAvailable)):
        act()
    client._deadline = 30.0


def by_cancel(client: QClient, act: Callable[[], object]) -> None:
    timer = threading.Timer(0.4, client.cancel)
    timer.start()
    with pytest.raises(OperationCancelled):
        act()


def by_interrupt(client: QClient, act: Callable[[], object]) -> None:
    del client
    with interrupted_after(0.4), pytest.raises(Interrupted):
        act()


GIVEN_UP = {"deadline": by_deadline, "cancel": by_cancel, "interrupt": by_interrupt}
NEXT = {
    "post": lambda client, key: client.post(key, NEW),
    "delete": lambda client, key: client.delete(key),
    "delete everywhere": lambda client, key: client.delete(key, all_nodes=True),
    "delete_many": lambda client, key: client.delete_many([key], all_nodes=True),
    "post_many": lambda client, key: client.post_many({key: NEW}),
}


def holds(client: QClient, key: str) -> bytes | None:
    """What is there when the node has had the time for anything it was sent."""
    time.sleep(0.2)
    client.node_status(probe=True)
    result = client.get(key, {"limit": 1})
    return None if result is None else result.content


@pytest.mark.parametrize(
    ("ended", "rows", "following"),
    [
        *(("deadline", 20_000, following) for following in NEXT),
        ("deadline", 1_000_000, "post"),
        ("cancel", 1, "post"),
        ("cancel", 20_000, "delete everywhere"),
        ("interrupt", 20_000, "post"),
    ],
)
def test_a_store_that_was_given_up_undoes_nothing(
    server: Server, ended: str, rows: int, following: str
) -> None:
    with QClient([server.url], 5, 5, deadline=30, trust_env=False) as client:
        client.post("k", OLD)
        with stopped(server):
            GIVEN_UP[ended](client, lambda: client.post("k", b"a\n" + b"1111111\n" * rows))
        NEXT[following](client, "k")
        assert holds(client, "k") == (b'[{"a":2}]' if "post" in following else None)
        assert client._pool.abandoned_writes == {}


@pytest.mark.parametrize(("ended", "all_nodes"), [("deadline", False), ("deadline", True), ("cancel", False)])
def test_a_delete_that_was_given_up_loses_nothing(server: Server, ended: str, all_nodes: bool) -> None:
    with QClient([server.url], 5, 5, deadline=30, trust_env=False) as client:
        for _ in range(3):  # the order is the loop's, which is not always the wrong one
            client.post("k", OLD)
            with stopped(server):
                GIVEN_UP[ended](client, lambda: client.delete("k", all_nodes=all_nodes))
            client.post("k", NEW)
            assert holds(client, "k") == b'[{"a":2}]'


def test_a_delete_of_a_stale_table_that_met_the_deadline_loses_nothing(server: Server) -> None:
    with a_server(server.name) as home:
        nodes = [home.url, server.url]
        with QClient(nodes, 5, 5, deadline=30, trust_env=False) as client:
            key, other = a_key_of(client, nodes[0]), a_key_of(client, nodes[1])
            client.post(other, OLD)
            with stopped(server):
                client._deadline = 0.5
                assert client.post(key, OLD, evict_stale=True).may_hold_old == (nodes[1],)
                client._deadline = 30
            assert list(client._pool.abandoned_writes) == [nodes[1]]
            client.post(other, NEW)
            assert client._pool.abandoned_writes == {}


def silent_once(wanted: str) -> tuple[FaultyNode, faults.Tables]:
    """A node that never answers the first request of a kind."""
    tables = faults.Tables()
    met: list[Received] = []

    def answer(peer: Peer, request: Received) -> None:
        if request.kind == wanted and not met:
            met.append(request)
            peer.wait_for_ever()
        tables.answer(peer, request)

    return FaultyNode(answer), tables


@pytest.mark.parametrize("following", ["get", "delete", "post"])
@pytest.mark.parametrize("kind", ["store", "delete"])
def test_the_status_is_asked_for_before_whatever_comes_next_and_only_once(kind: str, following: str) -> None:
    node, _ = silent_once(kind)
    with node, QClient([node.url], 5, 5, deadline=0.3, trust_env=False) as client:
        with pytest.raises(QClientException):
            client.post("k", OLD) if kind == "store" else client.delete("k")
        client._deadline = 30
        act = {
            "get": lambda: client.get("k", {}),
            "delete": lambda: client.delete("k"),
            "post": lambda: client.post("k", NEW),
        }[following]
        act()
        act()
    then = "query" if following == "get" else "store" if following == "post" else "delete"
    assert [request.kind for request in node.requests] == [kind, *["status"] * 4, then, then]


def test_nothing_is_asked_after_a_query_that_was_given_up_or_a_body_whose_source_failed() -> None:
    node, _ = silent_once("query")

    def failing() -> Iterator[bytes]:
        yield b"a\n"
        raise LookupError

    with node, QClient([node.url], 5, 5, deadline=0.3, trust_env=False) as client:
        with pytest.raises(DeadlineExceeded):
            client.get("k", {})
        client._deadline = 30
        with pytest.raises(LookupError):
            client.post("k", failing)
        client.post("k", NEW)
    assert [request.kind for request in node.requests] == ["query", "store"]


def test_a_store_to_a_node_that_stays_silent_says_that_nothing_was_sent() -> None:
    for deadline in (1.0, None):
        with (
            FaultyNode(faults.silent, status=faults.silent) as node,
            QClient([node.url], 5, 0.3, deadline=deadline, store_timeout=0.5, trust_env=False) as client,
        ):
            with pytest.raises(StoreUncertain):
                client.post("k", OLD)
            with pytest.raises(DeadlineExceeded, match="was abandoned and may still be applied") as met:
                client.post("k", NEW)
            assert met.value.attempts
            assert [request.kind for request in node.requests].count("store") == 1
            with pytest.raises(QClientException) as met:
                client.get("k", {})
            assert met.value.attempts


@pytest.mark.parametrize("kind", RequestKind)
@pytest.mark.parametrize(
    "status",
    [Outcome.REFUSED, Outcome.CONNECT_TIMEOUT, Outcome.CLOSED, Outcome.UNAVAILABLE, Outcome.NOT_QCACHE],
)
def test_a_node_that_is_down_when_it_is_to_be_settled_is_left_for_the_next(
    kind: RequestKind, status: Outcome
) -> None:
    world = World([Meets()], [Meets(status)])
    world.pool.note_abandoned_write(world.nodes[0])
    done = world.run(kind)
    assert done.node == world.nodes[1]
    assert [attempt.outcome for attempt in done.attempts] == [status]
    assert world.pool.failing == {world.nodes[0]}


def test_what_a_living_node_answers_to_its_status_is_the_requests_to_meet() -> None:
    world = World([Meets(status=429), Meets()], [Meets(Outcome.UNAUTHORIZED)])
    world.pool.note_abandoned_write(world.nodes[0])
    assert world.run(RequestKind.STORE).node == world.nodes[0]
    world = World([Meets()], [Meets(Outcome.CERTIFICATE_REJECTED)])
    world.pool.note_abandoned_write(world.nodes[0])
    with pytest.raises(CertificateRejected):
        world.run(RequestKind.STORE)
