"""An abandoned store or delete is never applied after the same client's next write to that node."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_qcache.client import (
    CertificateRejected,
    DeadlineExceeded,
    NoCacheAvailable,
    OperationCancelled,
    QClient,
    QClientException,
    StoreUncertain,
    transport,
)
from airflow_provider_qcache.client.errors import Outcome
from airflow_provider_qcache.client.operation import _STATUSES_AFTER_WRITE
from airflow_provider_qcache.client.outcome import RequestKind
from airflow_provider_qcache.client.tables.upload import Upload
from airflow_provider_qcache.client.transport import Limit
from tests.client.interrupts import Interrupted, interrupted_after
from tests.client.kinds import key_with_home, make_server
from tests.client.simulated import Scripted, SimulatedCluster
from tests.harness import faults
from tests.harness.faults import FaultyNode, Peer, Received
from tests.harness.servers import Server, WireRequest

OLD, NEW = b"a\n0\n", b"a\n2\n"
TIMEOUT = 20.0
COUNT = WireRequest(
    "GET",
    "/qcache/dataset/turns?q=%7B%22select%22:%5B%5B%22count%22%5D%5D%7D",
    (("Accept", "application/json"),),
)


@pytest.fixture(scope="module", params=["real", "dev"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with make_server(request.param) as started:
        yield started


@contextlib.contextmanager
def stopped(server: Server) -> Iterator[None]:
    """The node is stopped in the block, and continues 0.1 s after it."""
    server.pause()
    try:
        yield
    except BaseException:
        server.resume()
        raise
    resume = threading.Timer(0.1, server.resume)
    resume.start()


def by_deadline(client: QClient, act: Callable[[], object]) -> None:
    client._deadline = 0.5
    # A delete on all nodes that no node confirmed raises NoCacheAvailable for any reason.
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


ABANDON = {"deadline": by_deadline, "cancel": by_cancel, "interrupt": by_interrupt}
NEXT_OPERATIONS = {
    "post": lambda client, key: client.post(key, NEW),
    "delete": lambda client, key: client.delete(key),
    "delete everywhere": lambda client, key: client.delete(key, all_nodes=True),
    "delete_many": lambda client, key: client.delete_many([key], all_nodes=True),
    "post_many": lambda client, key: client.post_many({key: NEW}),
}


def stored_rows(client: QClient, key: str) -> bytes | None:
    """The table's first row, once the node has had time for everything it was sent."""
    time.sleep(0.2)
    client.node_status(probe=True)
    result = client.get(key, {"limit": 1})
    return None if result is None else result.content


@pytest.mark.parametrize(
    ("ended", "rows", "following"),
    [
        *(("deadline", 20_000, following) for following in NEXT_OPERATIONS),
        ("deadline", 1_000_000, "post"),
        ("cancel", 1, "post"),
        ("cancel", 20_000, "delete everywhere"),
        ("interrupt", 20_000, "post"),
    ],
)
def test_an_abandoned_store_undoes_no_later_write(
    server: Server, ended: str, rows: int, following: str
) -> None:
    with QClient([server.url], 5, 5, deadline=30, trust_env=False) as client:
        client.post("k", OLD)
        with stopped(server):
            ABANDON[ended](client, lambda: client.post("k", b"a\n" + b"1111111\n" * rows))
        NEXT_OPERATIONS[following](client, "k")
        assert stored_rows(client, "k") == (b'[{"a":2}]' if "post" in following else None)
        assert not any(client._pool.abandoned_writes.values())


def is_idle(server: Server) -> bool:
    """Whether the server's process sleeps, as in epoll."""
    return Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def test_an_abandoned_store_is_applied_before_the_last_status_reply(server: Server) -> None:
    """The node has read a part; then it finds the rest, a reset, and the status requests, all at once."""
    status = WireRequest("GET", "/qcache/status")
    with contextlib.ExitStack() as stack:
        # The order in which the node's event loop serves its connections depends on their number and age.
        for rows in range(3, 9):
            table = b"a\n" + b"1\n" * rows
            chunks = (("Content-Type", "text/csv"), ("Transfer-Encoding", "chunked"))
            sent = WireRequest("POST", "/qcache/dataset/turns", chunks).encode()
            sent += b"%x\r\n%b\r\n" % (len(table), table)
            store = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            store.sendall(sent)
            other = stack.enter_context(server.connect())
            for _ in range(2):
                assert other.ask(status).status == 200
                while not is_idle(server):  # wait until it has read everything so far
                    time.sleep(0.001)
            server.pause()
            try:
                store.sendall(b"0\r\n\r\n")
                store.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                store.close()
                after = stack.enter_context(server.connect())
                after.send(status.encode() * _STATUSES_AFTER_WRITE + COUNT.encode())
            finally:
                server.resume()
            for _ in range(_STATUSES_AFTER_WRITE):
                assert after.receive().status == 200
            assert after.receive().body == b'[{"count":%d}]' % rows


@pytest.mark.parametrize(("ended", "all_nodes"), [("deadline", False), ("deadline", True), ("cancel", False)])
def test_an_abandoned_delete_deletes_no_later_table(server: Server, ended: str, all_nodes: bool) -> None:
    with QClient([server.url], 5, 5, deadline=30, trust_env=False) as client:
        for _ in range(3):  # the node's event loop does not always choose the dangerous order
            client.post("k", OLD)
            with stopped(server):
                ABANDON[ended](client, lambda: client.delete("k", all_nodes=all_nodes))
            client.post("k", NEW)
            assert stored_rows(client, "k") == b'[{"a":2}]'


def test_an_eviction_that_the_deadline_ended_deletes_no_later_table(server: Server) -> None:
    with make_server(server.name) as home:
        nodes = [home.url, server.url]
        with QClient(nodes, 5, 5, deadline=30, trust_env=False) as client:
            key, other = key_with_home(client, nodes[0]), key_with_home(client, nodes[1])
            client.post(other, OLD)
            with stopped(server):
                client._deadline = 0.5
                assert client.post(key, OLD, evict_stale=True).may_hold_old == (nodes[1],)
                client._deadline = 30
            assert [node for node in nodes if client._pool.abandoned_writes[node]] == [nodes[1]]
            client.post(other, NEW)
            assert not any(client._pool.abandoned_writes.values())


def silent_once(kind: str) -> tuple[FaultyNode, faults.Tables]:
    """A node that never answers the first request of the kind."""
    tables = faults.Tables()
    unanswered: list[Received] = []

    def answer(peer: Peer, request: Received) -> None:
        if request.kind == kind and not unanswered:
            unanswered.append(request)
            peer.wait_for_ever()
        tables.answer(peer, request)

    return FaultyNode(answer), tables


@pytest.mark.parametrize("following", ["get", "delete", "post"])
@pytest.mark.parametrize("kind", ["store", "delete"])
def test_the_statuses_are_requested_only_before_the_first_operation_after_an_abandoned_write(
    kind: str, following: str
) -> None:
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
    assert [request.kind for request in node.requests] == [
        kind,
        *["status"] * _STATUSES_AFTER_WRITE,
        then,
        then,
    ]


def test_a_store_right_after_a_cancel_waits_until_the_cancelled_one_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The cancelled thread is slow to close its connection."""
    order: list[str] = []
    close = transport._close_at_once

    def close_slowly(connection: Any, *, reset: bool) -> None:
        time.sleep(0.1)
        close(connection, reset=reset)
        order.append("closed")

    monkeypatch.setattr(transport, "_close_at_once", close_slowly)
    sent = threading.Event()

    def status(peer: Peer, request: Received) -> None:
        order.append("status")
        faults.answer_ok(peer, request)

    def answer(peer: Peer, request: Received) -> None:
        if not sent.is_set():
            sent.set()
            peer.wait_for_ever()
        peer.send(faults.head(201, 0))

    node = FaultyNode(answer, status=status)
    ended: list[BaseException] = []

    def store() -> None:
        try:
            client.post("k", OLD)
        except OperationCancelled as error:
            ended.append(error)

    with node, QClient([node.url], 5, 60, trust_env=False) as client:
        thread = threading.Thread(target=store)
        thread.start()
        assert sent.wait(TIMEOUT)
        client.cancel()
        client.post("k", NEW)
        thread.join(TIMEOUT)
    assert ended
    assert order == ["closed", *["status"] * _STATUSES_AFTER_WRITE]
    assert [request.kind for request in node.requests] == ["store", *order[1:], "store"]


def test_each_status_request_has_the_full_timeouts() -> None:
    """All of them together may take longer, at a distant or busy node."""

    def status(peer: Peer, request: Received) -> None:
        peer.wait(0.2)
        faults.answer_ok(peer, request)

    node = FaultyNode(lambda peer, _: peer.send(faults.head(201, 0)), status=status)
    with node, QClient([node.url], 0.5, 0.5, deadline=TIMEOUT, trust_env=False) as client:
        client._pool.abandoned_writes[node.url].add(Limit(time.monotonic, 0))
        client.post("k", NEW)
    assert [request.kind for request in node.requests].count("status") == _STATUSES_AFTER_WRITE


def test_status_requests_do_not_settle_a_write_abandoned_after_they_began() -> None:
    late = Limit(time.monotonic, 0)

    def status(peer: Peer, request: Received) -> None:
        client._pool.abandoned_writes[node.url].add(late)
        faults.answer_ok(peer, request)

    node = FaultyNode(lambda peer, _: peer.send(faults.head(201, 0)), status=status)
    with node, QClient([node.url], 5, 60, trust_env=False) as client:
        client._pool.abandoned_writes[node.url].add(Limit(time.monotonic, 0))
        client.post("k", NEW)
        assert client._pool.abandoned_writes[node.url] == {late}
        client.post("k", NEW)
        assert not client._pool.abandoned_writes[node.url]


@pytest.mark.parametrize("where", ["begin", "__init__"])
def test_an_interrupt_resets_a_write_s_connection_at_any_stage_of_its_answer(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if something keeps a reference to the response, which nobody closes."""
    kept: list[object] = []
    reset = threading.Event()
    done = getattr(transport._Response, where)

    def interrupted(response: Any, *arguments: Any, **options: Any) -> None:
        if where == "__init__":
            done(response, *arguments, **options)
        kept.append(response)
        raise Interrupted

    def answer(peer: Peer, request: Received) -> None:
        del request
        try:
            peer._more()
        except faults.HungUp as error:
            if isinstance(error.__cause__, ConnectionResetError):
                reset.set()
            raise

    with FaultyNode(answer) as node, QClient([node.url], 5, 60, trust_env=False) as client:
        with monkeypatch.context() as patch:
            patch.setattr(transport._Response, where, interrupted)
            with pytest.raises(Interrupted):
                client.post("k", OLD)
        assert reset.wait(TIMEOUT)
    assert kept


def test_an_exception_after_the_last_byte_was_sent_does_not_fail_the_store(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A signal handler raises it in the source; the node has the whole table by then."""
    path = tmp_path / "table.csv"
    path.write_bytes(NEW)
    body_of = Upload.body

    def body(upload: Upload, *arguments: Any) -> tuple[Generator[bytes, None, None], int | None]:
        pieces, length = body_of(upload, *arguments)
        assert length == len(NEW)
        assert not isinstance(pieces, bytes)
        whole = b"".join(pieces)

        def stream() -> Generator[bytes, None, None]:
            yield whole
            raise LookupError("raised by a signal handler")

        return stream(), length

    monkeypatch.setattr(Upload, "body", body)
    node, tables = faults.healthy_node()
    with node, QClient([node.url], 5, 60, trust_env=False) as client:
        assert client.post("k", path).bytes == len(NEW)
    assert tables.tables == {"k": NEW}


def test_no_status_is_requested_after_an_abandoned_query_or_a_failed_source() -> None:
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


def test_a_store_after_an_abandoned_one_is_not_sent_while_the_node_is_silent() -> None:
    for deadline in (1.0, None):
        with (
            FaultyNode(faults.silent, status=faults.silent) as node,
            QClient([node.url], 5, 0.3, deadline=deadline, store_timeout=0.5, trust_env=False) as client,
        ):
            with pytest.raises(StoreUncertain):
                client.post("k", OLD)
            with pytest.raises(
                DeadlineExceeded, match="may still apply an earlier store or delete, which was abandoned"
            ) as raised:
                client.post("k", NEW)
            assert raised.value.attempts
            assert [request.kind for request in node.requests].count("store") == 1
            with pytest.raises(QClientException) as raised:
                client.get("k", {})
            assert raised.value.attempts


@pytest.mark.parametrize("kind", RequestKind)
@pytest.mark.parametrize(
    "status",
    [Outcome.REFUSED, Outcome.CONNECT_TIMEOUT, Outcome.CLOSED, Outcome.UNAVAILABLE, Outcome.NOT_QCACHE],
)
def test_a_node_that_fails_the_status_after_an_abandoned_write_fails_over(
    kind: RequestKind, status: Outcome
) -> None:
    cluster = SimulatedCluster([Scripted()], [Scripted(status)])
    cluster.pool.abandoned_writes[cluster.nodes[0]].add(Limit(cluster.clock.now, 0))
    done = cluster.run(kind)
    assert done.node == cluster.nodes[1]
    assert [attempt.outcome for attempt in done.attempts] == [status]
    assert cluster.pool.failing == {cluster.nodes[0]}


def test_a_refused_status_after_an_abandoned_write_does_not_stop_the_request() -> None:
    cluster = SimulatedCluster([Scripted(status=429), Scripted()], [Scripted(Outcome.UNAUTHORIZED)])
    cluster.pool.abandoned_writes[cluster.nodes[0]].add(Limit(cluster.clock.now, 0))
    assert cluster.run(RequestKind.STORE).node == cluster.nodes[0]
    cluster = SimulatedCluster([Scripted()], [Scripted(Outcome.CERTIFICATE_REJECTED)])
    cluster.pool.abandoned_writes[cluster.nodes[0]].add(Limit(cluster.clock.now, 0))
    with pytest.raises(CertificateRejected):
        cluster.run(RequestKind.STORE)
