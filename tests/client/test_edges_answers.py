"""Answers whose heads are odd, and connections that are kept."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import io
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_qcache.client import (
    DeadlineExceeded,
    NoCacheAvailable,
    QClient,
    QClientException,
    StoreUncertain,
    TooManyConsecutiveErrors,
    UnexpectedServerResponse,
)
from airflow_provider_qcache.client.errors import Outcome
from airflow_provider_qcache.client.transport import Headers, Limit, _DeadlineSocket, _Response
from tests.client import faults
from tests.client.faults import Node, Peer, Request, closed_port, sound_node
from tests.client.test_edges import OF_BOTH, a_key_of, a_server, url
from tests.servers import Certificates

TABLE = b"a\n1\n"


class Bytes:
    """What an answer is read from, in the place of a socket."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def makefile(self, _: str) -> io.BufferedReader:
        return io.BufferedReader(io.BytesIO(self.data))  # type: ignore[arg-type]


NAMES = st.sampled_from(
    ["Content-Length", "content-length", "Transfer-Encoding", "Connection", "X-QCache-stats", "Via", "x"]
)
VALUES = st.one_of(
    st.sampled_from(
        ["0", "5", "-1", "5, 5", "9" * 5000, "chunked", "Chunked", "close", "keep-alive", "Close"]
    ),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=9),
)
LINES = st.lists(st.tuples(NAMES, VALUES, st.sampled_from(["", " ", "\t "])), max_size=8)


@given(
    st.sampled_from(["1.1", "1.0"]), st.sampled_from([200, 201, 204, 304, 404, 500]), LINES, st.integers(0, 3)
)
def test_a_head_is_read_as_http_client_reads_it(
    version: str, status: int, lines: list[tuple[str, str, str]], interim: int
) -> None:
    data = b"HTTP/1.1 100 Continue\r\nVia: nobody\r\n\r\n" * interim
    data += f"HTTP/{version} {status} Whatever\r\n".encode()
    data += b"".join(f"{name}:{space}{value}\r\n".encode() for name, value, space in lines) + b"\r\n12345"
    theirs, ours = http.client.HTTPResponse(Bytes(data)), _Response(Bytes(data))  # type: ignore[arg-type]
    theirs.begin()
    ours.begin()
    for name in ("status", "version", "length", "chunked", "will_close"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for name, *_ in lines:
        assert ours.head[name.upper()] == ours.head.get(name) == theirs.headers.get(name).strip()
    assert ours.head.get("absent") is None


def test_a_header_that_goes_on_in_the_next_line_is_one() -> None:
    head = Headers(
        [b"A: one\r\n", b"  two\r\n", b"no colon\r\n", b" three\r\n", b"B: four\r\n", b"a: five\r\n"]
    )
    assert (head["A"], head["b"], head.get("no colon")) == ("one two", "four", None)
    with pytest.raises(KeyError):
        head["C"]


@pytest.mark.parametrize(
    ("start", "outcome"),
    [
        (b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n", Outcome.TRUNCATED),
        (b"HTTP/1.1 201 Created\r\nContent-Len", Outcome.TRUNCATED),
        (b"HTTP/1.1 201 Created\r\nX: " + b"x" * 70_000, Outcome.NOT_QCACHE),
        (b"HTTP/1.1 201 Created\r\n" + b"X: y\r\n" * 101, Outcome.NOT_QCACHE),
        (b"HTTP/2.0 201 Created\r\n\r\n", Outcome.NOT_QCACHE),
    ],
    ids=["no blank line", "within a line", "long line", "many lines", "version"],
)
def test_a_head_without_an_end_acknowledges_nothing(start: bytes, outcome: Outcome) -> None:
    def answer(peer: Peer, request: Request) -> None:
        peer.send(start)
        raise faults.HungUp

    with (
        Node(answer) as node,
        QClient([node.url], 5, 5, trust_env=False, consecutive_error_count_limit=1) as client,
    ):
        with pytest.raises(TooManyConsecutiveErrors) as raised:
            client.post("k", TABLE)
        assert raised.value.attempts[0].outcome is outcome


def test_connections_are_kept_for_the_next_request_and_none_after_close() -> None:
    node, _ = sound_node()
    seen: set[Peer] = set()
    answers = node._answer

    def answer(peer: Peer, request: Request) -> None:
        seen.add(peer)
        answers(peer, request)

    node._answer = answer
    with node:
        client = QClient([node.url], 5, 5, trust_env=False)
        transport = client._transports[node.url]
        for _ in range(5):
            client.post("k", TABLE)
        assert (len(seen), len(transport._idle)) == (1, 1)
        [kept] = transport._idle
        client.close()
        assert (kept.sock, len(transport._idle)) == (None, 0)
        limit = Limit(time.monotonic, float("inf"))
        transport.exchange("GET", "/status", b"", None, limit)  # as one that was under way when it closed
        assert len(transport._idle) == 0


def test_a_socket_times_out_no_later_than_its_request_though_the_timeout_is_not_set_anew() -> None:
    node, _ = sound_node()
    with node:
        sock = _DeadlineSocket()
        sock.limit = limit = Limit(time.monotonic, time.monotonic() + 60)
        with sock:
            sock.keep_limit()
            first = sock.gettimeout()
            sock.keep_limit()
            assert sock.gettimeout() == first is not None  # a moment has passed, no more
            for left in (30.0, 0.5, 90.0):
                limit.deadline = time.monotonic() + left
                sock.keep_limit()
                assert left - 0.5 < sock.gettimeout() <= left
            limit.deadline = float("inf")
            sock.keep_limit()
            assert sock.gettimeout() is None
            limit.deadline = time.monotonic()
            with pytest.raises(TimeoutError):
                sock.keep_limit()


# TLS to a node that has none.


@OF_BOTH
def test_a_node_that_serves_plain_http_is_named_as_such(kind: str) -> None:
    with a_server(kind) as node:
        address = f"https://127.0.0.1:{node.port}"
        with QClient([address], 0.3, 0.3, trust_env=False) as client:
            with pytest.raises(NoCacheAvailable, match="may serve plain HTTP") as raised:
                client.get("k", {})
            assert client.get_statistics()[address]["connect_timeout"] == 1
        assert "may serve plain HTTP" in raised.value.nodes[address]
        with (
            QClient([address], 5, 5, trust_env=False, deadline=0.3) as client,
            pytest.raises(DeadlineExceeded, match="may serve plain HTTP"),
        ):
            client.get("k", {})


def test_a_plain_answer_to_a_handshake_is_named_as_such() -> None:
    def refuse(peer: Peer) -> None:
        peer.sock.recv(1000)
        peer.send(faults.head(400, 0))
        raise faults.HungUp

    with Node(faults.silent, before_reading=refuse) as node:
        address = node.url.replace("http:", "https:")
        with QClient([address], 5, 5, trust_env=False) as client:
            with pytest.raises(NoCacheAvailable, match=r"TLS failed.*may serve plain HTTP"):
                client.get("k", {})
            counters = client.get_statistics()[address]
        assert (counters["connection_error"], counters["connect_timeout"]) == (1, 0)


# The bodies of errors.


def test_an_error_is_said_by_its_status_and_its_body_waited_for_one_read_timeout() -> None:
    def drip(peer: Peer, request: Request) -> None:
        peer.send(faults.head(500, 60_000))
        peer.drip(b"x")

    with Node(drip) as node, QClient([node.url], 5, 0.3, trust_env=False) as client:
        started = time.monotonic()
        with pytest.raises(UnexpectedServerResponse, match="answered 500"):
            client.get("k", {})
        assert time.monotonic() - started < 20  # half an hour, if each byte were waited for anew


def test_the_body_of_an_error_that_comes_a_moment_later_is_told() -> None:
    said = b'{"error": "as the test wants it"}'

    def answer(peer: Peer, request: Request) -> None:
        peer.send(faults.head(400, len(said)))
        peer.wait(0.2)
        peer.send(said)

    with Node(answer) as node, QClient([node.url], 5, 20, trust_env=False) as client:
        for operation in (lambda: client.get("k", {}), lambda: client.post("k", TABLE)):
            with pytest.raises(QClientException, match="as the test wants it"):
                operation()


@pytest.mark.parametrize("status", [101, 201, 404, 500])
def test_an_answer_whose_body_is_broken_is_the_last_of_its_connection(status: int) -> None:
    """What comes after it on that connection is none of the next request's."""
    sound = faults.Tables()
    sound.tables["k"] = TABLE

    def answer(peer: Peer, request: Request) -> None:
        if request.key == "broken":
            broken = b"" if status == 101 else b"zz\r\n"
            peer.send(faults.head(status, Transfer_Encoding="chunked") + broken)
            peer.wait(0.1)
            body = b'[{"a":"of another request"}]'
            peer.send(faults.head(200, len(body), **faults.RESULT) + body)
        else:
            peer.wait(0.3)
            sound.answer(peer, request)

    with Node(answer) as node, QClient([node.url], 5, 5, trust_env=False) as client:
        with contextlib.suppress(QClientException):
            client.post("broken", TABLE) if status == 201 else client.get("broken", {})
        assert not client._transports[node.url]._idle
        result = client.get("k", {})
        assert result is not None
        assert result.content == faults.ROWS


# Nodes that are alive only in part.


def test_a_node_is_alive_again_when_its_status_was_answered_twice() -> None:
    answers = iter([True, False, True, True])

    def status(peer: Peer, request: Request) -> None:
        peer.send(faults.head(200, 2) + b"OK" if next(answers) else faults.head(503, 0))

    tables = faults.Tables()
    with Node(tables.answer, status=status) as node, QClient([node.url], 5, 5, trust_env=False) as client:
        client._pool.fail(node.url, client._pool.ticket(node.url), "silent")
        with pytest.raises(NoCacheAvailable):
            client.post("k", TABLE)
        assert tables.tables == {}
        client.post("k", TABLE)
    assert [request.kind for request in node.requests] == ["status"] * 4 + ["store"]


@pytest.mark.parametrize("known", [False, True], ids=["unknown", "known to fail"])
def test_a_silent_node_is_not_called_evicted(known: bool) -> None:
    home, _ = sound_node()
    with (
        home,
        Node(faults.silent, status=faults.silent) as silent,
        QClient(
            [home.url, silent.url, f"http://127.0.0.1:{closed_port()}"], 0.3, 0.3, trust_env=False
        ) as client,
    ):
        key = a_key_of(client, home.url)
        if known:
            client._pool.fail(silent.url, client._pool.ticket(silent.url), "silent")
        result = client.post(key, TABLE, evict_stale=True)
        assert result.may_hold_old == (silent.url,)
        assert len(result.evicted) == 1  # what refuses connections holds nothing
        assert silent.url not in result.evicted


@pytest.mark.parametrize("then", ["silent", "hangs up", "fails"])
def test_a_store_that_timed_out_goes_to_no_other_node(then: str) -> None:
    stores = iter(range(9))

    def answer(peer: Peer, request: Request) -> None:
        if next(stores) == 0 or then == "silent":
            peer.wait_for_ever()
        if then == "fails":
            peer.send(faults.head(503, 0))
        raise faults.HungUp

    def status(peer: Peer, request: Request) -> None:
        if then == "hangs up" and sum(met.kind == "store" for met in home.requests) > 1:
            raise faults.HungUp  # after the store that came second
        peer.send(faults.head(200, 2) + b"OK")

    other, tables = sound_node()
    home = Node(answer, status=status)
    with home, other, QClient([home.url, other.url], 5, 0.3, trust_env=False, store_timeout=0.3) as client:
        with pytest.raises(StoreUncertain):
            client.post(a_key_of(client, home.url), TABLE)
        assert tables.tables == {}
        assert other.requests == []


# Answers that end where the connection does.


@pytest.mark.parametrize(
    ("accept", "whole", "cut"),
    [
        ("text/csv", b"a,b\n1,2\n30,40\n", 12),
        ("text/csv", b'a\n"x\ny"\n', 5),
        ("application/json", b'[{"a":["x"]},{"a":["y"]}]', 11),
    ],
    ids=["CSV", "quoted", "JSON"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_result_without_a_length_is_one_only_where_it_may_be_whole(
    accept: str, whole: bytes, cut: int, packed: bool
) -> None:
    sent = gzip.compress(whole) if packed else whole
    headers = {"Content_Type": accept, "X_QCache_unsliced_length": "2"}
    if packed:
        headers["Content_Encoding"] = "gzip"
    short = len(sent) - 3 if packed else cut

    def answer(peer: Peer, request: Request) -> None:
        peer.send(faults.head(200, **headers) + (sent if request.key == whole_key else sent[:short]))
        raise faults.HungUp

    with (
        Node(answer) as node,
        QClient([node.url], 5, 5, trust_env=False, consecutive_error_count_limit=1) as client,
    ):
        whole_key = "whole"
        result = client.get(whole_key, {}, accept)
        assert result is not None
        assert result.content == whole
        with pytest.raises(TooManyConsecutiveErrors) as raised:
            client.get("cut", {}, accept)
        assert raised.value.attempts[0].outcome is (Outcome.UNDECODABLE if packed else Outcome.TRUNCATED)


# What is asked of a node itself.


def test_a_node_that_refuses_credentials_is_alive_when_it_is_asked() -> None:
    for status in (401, None):

        def answer(peer: Peer, request: Request, status: int | None = status) -> None:
            if status is None and "authorization" in request.headers:
                raise faults.HungUp  # as a node does on one that it cannot parse
            peer.send(faults.head(status or 200, 0))

        with (
            Node(answer, status=answer) as node,
            QClient([node.url], 5, 5, auth=("user", "s3cret"), trust_env=False) as client,
        ):
            assert client.node_status(probe=True)[node.url].alive
            assert not client.get_statistics()


def test_a_node_whose_certificate_is_rejected_is_alive_when_it_is_asked(certificates: Certificates) -> None:
    options = f"--cert-file={certificates.server}"
    with (
        a_server("dev", options, tls=certificates.context()) as node,
        QClient([url(node)], 5, 5, trust_env=False) as client,
    ):
        assert client.node_status(probe=True)[url(node)].alive


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_an_idle_connection_that_ends_as_it_is_used_makes_no_node_fail(reset: bool) -> None:
    tables = faults.Tables()
    cuts = faults.CutsIdleConnections(tables, reset)

    def status(peer: Peer, request: Request) -> None:
        if any(peer is other for other in cuts.seen):
            if reset:
                peer.reset()
            raise faults.HungUp
        cuts.seen.append(peer)
        peer.send(faults.head(200, 2) + (b"OK" if request.kind == "status" else b"{}"))

    def answer(peer: Peer, request: Request) -> None:
        (cuts if "/dataset/" in request.target else status)(peer, request)

    with Node(answer, status=status) as node, QClient([node.url], 5, 5, trust_env=False) as client:
        for _ in range(2):
            client.post("k", TABLE)
            assert client.node_status(probe=True)[node.url].alive
            client.post("k", TABLE)
            assert client.node_statistics()[node.url] == {}
            client.post("k", TABLE)
            client._pool.fail(node.url, client._pool.ticket(node.url), "silent")
            assert client.node_status(probe=True)[node.url].alive  # which probes it


@pytest.mark.parametrize("named", ["gzip", "GZIP", " Gzip "])
def test_a_content_encoding_is_read_in_any_case(named: str) -> None:
    body = gzip.compress(faults.ROWS)

    def answer(peer: Peer, request: Request) -> None:
        peer.send(faults.success_head(request, len(body), Content_Encoding=named) + body)

    with Node(answer) as node, QClient([node.url], 5, 5, trust_env=False) as client:
        result = client.get("k", {})
        assert result is not None
        assert result.content == faults.ROWS


def test_what_has_not_changed_is_no_redirect() -> None:
    with Node(faults.status_only(304)) as node, QClient([node.url], 5, 5, trust_env=False) as client:
        with pytest.raises(UnexpectedServerResponse) as raised:
            client.get("k", {}, query_headers={"If-None-Match": "x"})
        assert raised.value.status == 304
        assert "redirect" not in str(raised.value)
