"""Requests and responses on a connection: heads, bodies, encodings, credentials and connection reuse."""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.client
import os
import re
import socket
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from requests import PreparedRequest
from requests.auth import HTTPBasicAuth

from airflow_provider_qcache.client import (
    AuthenticationFailed,
    DeadlineExceeded,
    NoCacheAvailable,
    QClient,
    QClientException,
    QueryResult,
    ResponseTooLarge,
    TooManyConsecutiveErrors,
    UnexpectedServerResponse,
    compression,
    transport,
)
from airflow_provider_qcache.client.compression import decode
from airflow_provider_qcache.client.errors import Outcome
from airflow_provider_qcache.client.transport import Headers, Limit, Request, _DeadlineSocket, _Response
from tests.client.kinds import ON_EACH_SERVER, key_with_home, make_server
from tests.client.matrix import CERTIFICATES
from tests.harness import faults
from tests.harness.faults import FaultyNode, Peer, Received, ReceivedBytes, healthy_node
from tests.harness.servers import Certificates

TABLE = b"a\n1\n"
SECRET = "hunter2:x"
MANY_MEMBERS = gzip.compress(faults.ROWS) + gzip.compress(b"") * 300_000


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
    theirs, ours = http.client.HTTPResponse(ReceivedBytes(data)), _Response(ReceivedBytes(data))  # type: ignore[arg-type]
    theirs.begin()
    ours.begin()
    names = ["status", "version", "length", "chunked", "will_close"]
    if status in (204, 304) and theirs.chunked:
        # These allow no body: the client reads no chunks, as http.client would, and closes the connection.
        assert (ours.length, ours.chunked, ours.will_close) == (0, False, True)
        names = names[:2]
    # Python reads "+5" and "1_0" as numbers; the next test has them.
    assume(not theirs.length or (theirs.headers.get("Content-Length") or "").strip().isdecimal())
    for name in names:
        assert getattr(ours, name) == getattr(theirs, name), name
    for name, *_ in lines:
        assert ours.head.get(name.upper()) == ours.head.get(name) == theirs.headers.get(name).strip()
    assert ours.head.get("absent") is None


@pytest.mark.parametrize("length", ["1_0", "+5", "\u0665", "-1", "5, 5", ""])
def test_a_length_that_is_more_than_digits_is_none(length: str) -> None:
    response = _Response(ReceivedBytes(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n12345".encode()))  # type: ignore[arg-type]
    response.begin()
    assert (response.length, response.will_close) == (None, True)


def test_the_peer_of_a_request_that_is_sent_is_noted() -> None:
    peers: dict[str, transport.Peer] = {}
    with healthy_node()[0] as node, QClient([node.url]) as client:
        limit = Limit(time.monotonic, time.monotonic() + 5)
        to_node = client._transports[node.url]
        with pytest.raises(transport.SkippedPeer):
            to_node.exchange(Request("GET", "/status", peers=peers, skip=lambda _: True), limit)
        assert peers == {}
        to_node.exchange(Request("GET", "/status", peers=peers), limit)
    assert {name: (peer.address, peer.port) for name, peer in peers.items()} == {
        node.url: ("127.0.0.1", node.port)
    }


def test_a_folded_header_is_joined() -> None:
    head = Headers(
        [b"A: one\r\n", b"  two\r\n", b"no colon\r\n", b" three\r\n", b"B: four\r\n", b"a: five\r\n"]
    )
    assert (head.get("A"), head.get("b"), head.get("no colon")) == ("one two", "four", None)
    assert head.get("C") is None


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
def test_an_incomplete_or_invalid_head_does_not_acknowledge_a_store(start: bytes, outcome: Outcome) -> None:
    def answer(peer: Peer, request: Received) -> None:
        peer.send(start)
        raise faults.HungUp

    with (
        FaultyNode(answer) as node,
        QClient([node.url], 5, 5, trust_env=False, consecutive_error_count_limit=1) as client,
    ):
        with pytest.raises(TooManyConsecutiveErrors) as raised:
            client.post("k", TABLE)
        assert raised.value.attempts[0].outcome is outcome


def test_connections_are_reused_and_none_is_kept_after_close() -> None:
    node, _ = healthy_node()
    seen: set[Peer] = set()
    answers = node._answer

    def answer(peer: Peer, request: Received) -> None:
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
        transport.exchange(
            Request("GET", "/status"), limit
        )  # like a request that was under way during close()
        assert len(transport._idle) == 0


def test_only_so_many_connections_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_POOL_SIZE", 2)
    together = threading.Barrier(3)
    ended = threading.Semaphore(0)

    def answer(peer: Peer, request: Received) -> None:
        together.wait(30)
        peer.send(faults.success_head(request, len(faults.ROWS)) + faults.ROWS)
        try:
            peer.wait_for_more()
        finally:
            ended.release()

    with FaultyNode(answer) as node, QClient([node.url], 60, 60, trust_env=False) as client:
        with ThreadPoolExecutor(3) as threads:
            results = list(threads.map(lambda _: client.get("k", {}), range(3)))
        assert [result.content for result in results if result is not None] == [faults.ROWS] * 3
        assert ended.acquire(timeout=30)  # one connection is closed, and the others are kept
        kept = [connection.sock for connection in client._transports[node.url]._idle]
        assert len(kept) == 2
        assert None not in kept


def test_a_socket_s_timeout_follows_the_deadline_but_is_not_set_for_every_call() -> None:
    node, _ = healthy_node()
    with node:
        sock = _DeadlineSocket()
        sock.limit = limit = Limit(time.monotonic, time.monotonic() + 60)
        with sock:
            sock.keep_limit()
            first = sock.gettimeout()
            sock.keep_limit()
            assert sock.gettimeout() == first is not None  # only a moment has passed
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


# TLS to a node that serves plain HTTP.


@ON_EACH_SERVER
def test_the_error_of_tls_to_a_plain_http_node_says_so(kind: str) -> None:
    """The node waits for the rest of a request, or answers 400 if TLS's random bytes have two newlines."""
    with make_server(kind) as node:
        address = f"https://127.0.0.1:{node.port}"
        with QClient([address], 0.3, 0.3, trust_env=False) as client:
            with pytest.raises(NoCacheAvailable, match="may serve plain HTTP") as raised:
                client.get("k", {})
            counters = client.get_statistics()[address]
            assert counters["connect_timeout"] + counters["connection_error"] == 1
        assert "may serve plain HTTP" in raised.value.nodes[address]


def test_the_error_of_an_unanswered_handshake_suggests_plain_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"https://127.0.0.1:{server.getsockname()[1]}"
        with QClient([address], 0.3, 0.3, trust_env=False) as client:
            with pytest.raises(NoCacheAvailable, match="may serve plain HTTP"):
                client.get("k", {})
            assert client.get_statistics()[address]["connect_timeout"] == 1
        with (
            QClient([address], 5, 5, trust_env=False, deadline=0.3) as client,
            pytest.raises(DeadlineExceeded, match="may serve plain HTTP"),
        ):
            client.get("k", {})


def test_the_error_of_a_plain_answer_to_a_handshake_suggests_plain_http() -> None:
    def refuse(peer: Peer) -> None:
        peer.sock.recv(1000)
        peer.send(faults.head(400, 0))
        raise faults.HungUp

    with FaultyNode(faults.silent, before_reading=refuse) as node:
        address = node.url.replace("http:", "https:")
        with QClient([address], 5, 5, trust_env=False) as client:
            with pytest.raises(NoCacheAvailable, match=r"TLS failed.*may serve plain HTTP"):
                client.get("k", {})
            counters = client.get_statistics()[address]
        assert (counters["connection_error"], counters["connect_timeout"]) == (1, 0)


@pytest.mark.parametrize("alert", [b"\x15\x03\x03\x00\x02\x02\x46", None], ids=["protocol version", "reset"])
def test_the_error_of_a_handshake_that_fails_otherwise_does_not_suggest_plain_http(
    alert: bytes | None,
) -> None:
    def fail(peer: Peer) -> None:
        peer.sock.recv(1000)
        if alert is None:
            peer.reset()
        peer.send(alert)
        raise faults.HungUp

    with FaultyNode(faults.silent, before_reading=fail) as node:
        address = node.url.replace("http:", "https:")
        with QClient([address], 5, 5, trust_env=False) as client:
            with pytest.raises(NoCacheAvailable, match="TLS failed") as raised:
                client.get("k", {})
            assert {attempt.outcome for attempt in raised.value.attempts} == {Outcome.TLS_FAILED}
            assert "plain HTTP" not in str(raised.value)
            assert not client.node_status()[address].gone


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\n"], ids=["before an answer", "in an answer"])
def test_bytes_that_are_not_tls_end_a_request_like_a_closed_connection(start: bytes) -> None:
    def answer(peer: Peer, request: Received) -> None:
        peer.send(start)
        with socket.socket(fileno=os.dup(peer.sock.fileno())) as beneath_tls:
            beneath_tls.sendall(b"not TLS" * 10)
        raise faults.HungUp

    with (
        FaultyNode(answer, tls=CERTIFICATES.good) as node,
        QClient([node.url], 5, 5, verify=CERTIFICATES.ca_file, consecutive_error_count_limit=1) as client,
    ):
        with pytest.raises(TooManyConsecutiveErrors) as raised:
            client.get("k", {})
        (attempt,) = raised.value.attempts
        assert attempt.outcome is (Outcome.TRUNCATED if start else Outcome.CLOSED)


# The bodies of errors.


def test_the_body_of_an_error_is_waited_for_only_one_read_timeout() -> None:
    def drip(peer: Peer, request: Received) -> None:
        peer.send(faults.head(500, 60_000))
        peer.drip(b"x")

    with FaultyNode(drip) as node, QClient([node.url], 5, 0.3, trust_env=False) as client:
        started = time.monotonic()
        with pytest.raises(UnexpectedServerResponse, match="answered 500"):
            client.get("k", {})
        assert time.monotonic() - started < 20  # half an hour, if the timeout began anew with each byte


def test_the_body_of_an_error_may_arrive_after_its_head() -> None:
    message = b'{"error": "as the test wants it"}'

    def answer(peer: Peer, request: Received) -> None:
        peer.send(faults.head(400, len(message)))
        peer.wait(0.2)
        peer.send(message)

    with FaultyNode(answer) as node, QClient([node.url], 5, 20, trust_env=False) as client:
        for operation in (lambda: client.get("k", {}), lambda: client.post("k", TABLE)):
            with pytest.raises(QClientException, match="as the test wants it"):
                operation()


@pytest.mark.parametrize("status", [101, 201, 404, 500])
def test_a_connection_with_a_broken_body_is_not_reused(status: int) -> None:
    """What still arrives on it must not become the next request's answer."""
    healthy = faults.Tables()
    healthy.tables["k"] = TABLE

    def answer(peer: Peer, request: Received) -> None:
        if request.key == "broken":
            broken = b"" if status == 101 else b"zz\r\n"
            peer.send(faults.head(status, Transfer_Encoding="chunked") + broken)
            peer.wait(0.1)
            body = b'[{"a":"of another request"}]'
            peer.send(faults.head(200, len(body), **faults.RESULT) + body)
        else:
            peer.wait(0.3)
            healthy.answer(peer, request)

    with FaultyNode(answer) as node, QClient([node.url], 5, 5, trust_env=False) as client:
        with contextlib.suppress(QClientException):
            client.post("broken", TABLE) if status == 201 else client.get("broken", {})
        assert not client._transports[node.url]._idle
        result = client.get("k", {})
        assert result is not None
        assert result.content == faults.ROWS


# Answers without a length, which end with the connection.


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
def test_a_result_without_a_length_is_accepted_only_if_it_may_be_complete(
    accept: str, whole: bytes, cut: int, packed: bool
) -> None:
    sent = gzip.compress(whole) if packed else whole
    headers = {"Content_Type": accept, "X_QCache_unsliced_length": "2"}
    if packed:
        headers["Content_Encoding"] = "gzip"
    short = len(sent) - 3 if packed else cut

    def answer(peer: Peer, request: Received) -> None:
        peer.send(faults.head(200, **headers) + (sent if request.key == whole_key else sent[:short]))
        raise faults.HungUp

    with (
        FaultyNode(answer) as node,
        QClient([node.url], 5, 5, trust_env=False, consecutive_error_count_limit=1) as client,
    ):
        whole_key = "whole"
        result = client.get(whole_key, {}, accept)
        assert result is not None
        assert result.content == whole
        with pytest.raises(TooManyConsecutiveErrors) as raised:
            client.get("cut", {}, accept)
        assert raised.value.attempts[0].outcome is (Outcome.UNDECODABLE if packed else Outcome.TRUNCATED)


@pytest.mark.parametrize("named", ["gzip", "GZIP", " Gzip "])
def test_content_encoding_is_case_insensitive(named: str) -> None:
    body = gzip.compress(faults.ROWS)

    def answer(peer: Peer, request: Received) -> None:
        peer.send(faults.success_head(request, len(body), Content_Encoding=named) + body)

    with FaultyNode(answer) as node, QClient([node.url], 5, 5, trust_env=False) as client:
        result = client.get("k", {})
        assert result is not None
        assert result.content == faults.ROWS


def test_304_is_not_called_a_redirect() -> None:
    with FaultyNode(faults.status_only(304)) as node, QClient([node.url], 5, 5, trust_env=False) as client:
        with pytest.raises(UnexpectedServerResponse) as raised:
            client.get("k", {}, query_headers={"If-None-Match": "x"})
        assert raised.value.status == 304
        assert "redirect" not in str(raised.value)


def encoded_as(encoding: str, body: bytes) -> FaultyNode:
    return FaultyNode(faults.encoded(encoding, body))


@pytest.mark.parametrize("accept_encoding", ["lz4", "lz4, gzip", "LZ4;q=0.5", "*"])
def test_an_encoding_that_the_caller_requested_is_returned_encoded_without_its_package(
    monkeypatch: pytest.MonkeyPatch, accept_encoding: str
) -> None:
    monkeypatch.setattr(compression, "lz4_block", None)
    with encoded_as("lz4", b"whatever") as node, QClient([node.url], 5, 5, trust_env=False) as client:
        result = client.get("k", {}, query_headers={"Accept-Encoding": accept_encoding})
        assert result is not None
        assert (result.content, result.encoding) == (b"whatever", "lz4")
        with pytest.raises(ValueError, match="decode it"):
            result.to_arrow()
        assert client.node_status()[node.url].alive


def test_an_unknown_encoding_that_the_caller_requested_is_returned_encoded() -> None:
    with encoded_as("lz4-frame", b"whatever") as node, QClient([node.url], trust_env=False) as client:
        result = client.get("k", {}, query_headers={"accept-encoding": b"lz4-frame"})  # type: ignore[dict-item]
        assert result is not None
        assert (result.content, result.encoding) == (b"whatever", "lz4-frame")


@pytest.mark.parametrize("accept_encoding", [None, "identity", "lz4;q=0", "lz4-frame"])
def test_an_encoding_that_nobody_requested_is_an_error_and_does_not_fail_the_node(
    monkeypatch: pytest.MonkeyPatch, accept_encoding: str | None
) -> None:
    """A failover would end in a false miss, because the next node does not have the table."""
    monkeypatch.setattr(compression, "lz4_block", None)
    headers = None if accept_encoding is None else {"Accept-Encoding": accept_encoding}
    other, _ = healthy_node()
    home = encoded_as("lz4", b"whatever")
    with home, other, QClient([home.url, other.url], 5, 5, trust_env=False) as client:
        key = key_with_home(client, home.url)
        with pytest.raises(UnexpectedServerResponse, match="install the extra 'lz4'") as raised:
            client.get(key, {}, query_headers=headers)
        assert raised.value.attempts[0].outcome is Outcome.UNSUPPORTED_ENCODING
        assert client.node_status()[home.url].alive
        assert other.requests == []


def test_max_response_bytes_also_limits_answers_returned_encoded() -> None:
    with (
        encoded_as("lz4", b"x" * 1001) as node,
        QClient([node.url], trust_env=False, max_response_bytes=1000) as client,
        pytest.raises(ResponseTooLarge),
    ):
        client.get("k", {}, query_headers={"Accept-Encoding": "lz4"})


def test_without_max_response_bytes_an_answer_may_have_any_length() -> None:
    with encoded_as("gzip", gzip.compress(faults.ROWS)) as node:
        with (
            QClient([node.url], trust_env=False, max_response_bytes=len(faults.ROWS) - 1) as client,
            pytest.raises(ResponseTooLarge),
        ):
            client.get("k", {})
        with QClient([node.url], trust_env=False, max_response_bytes=None) as client:
            result = client.get("k", {})
        assert result is not None
        assert result.content == faults.ROWS


def test_a_chunked_answer_is_read_and_its_connection_reused() -> None:
    def answer(peer: Peer, request: Received) -> None:
        chunks = b"".join(b"%X ;x=y\r\n%b\r\n" % (len(part), part) for part in (b"[", b'{"a":1}', b"]"))
        peer.send(faults.success_head(request, Transfer_Encoding="chunked"))
        peer.send(chunks + b"0\r\nX-Trailer: z\r\n\r\n")

    connections = []
    with (
        FaultyNode(answer, before_reading=connections.append) as node,
        QClient([node.url], 5, 5, trust_env=False) as client,
    ):
        for _ in range(3):
            result = client.get("k", {})
            assert result is not None
            assert result.content == faults.ROWS
    assert len({id(peer) for peer in connections}) == 1


@pytest.mark.parametrize("content", [b"[1]", b'[{"a":1},{"b":2}]', b"[" * 100_000, b'{"a":1}'])
def test_an_answer_that_is_no_table_cannot_become_columns(content: bytes) -> None:
    with pytest.raises(ValueError, match="not a list of rows"):
        QueryResult(content, 1).to_arrow()


@pytest.mark.parametrize("status", [101, 204, 304])
@pytest.mark.parametrize("answer_to", ["table", "status"])
def test_no_body_is_read_from_a_status_that_allows_none(status: int, answer_to: str) -> None:
    """http.client would read a 304's chunks, however many, into memory."""
    sent = []

    def answer(peer: Peer, request: Received) -> None:
        peer.send(faults.head(status, Transfer_Encoding="chunked"))
        for _ in range(1000):  # 64 MB, which is more than the sockets' buffers take
            peer.send(b"10000\r\n" + b" " * 65536 + b"\r\n")
            sent.append(1)
        raise faults.HungUp

    with FaultyNode(answer, status=answer) as node, QClient([node.url], 5, 5, trust_env=False) as client:
        if answer_to == "status":
            client.node_status(probe=True)
        else:
            with pytest.raises(UnexpectedServerResponse, match=str(status)):
                client.get("k", {})
    assert len(sent) < 500


def basic_auth(request: PreparedRequest) -> PreparedRequest:
    return HTTPBasicAuth("user", SECRET)(request)


def basic_auth_without_a_colon(request: PreparedRequest) -> PreparedRequest:
    request.headers["Authorization"] = b"Basic " + base64.b64encode(b"hunter2")
    return request


@pytest.mark.parametrize(
    "options",
    [
        {"auth": ("login", SECRET)},
        {"auth": [SECRET, "password"]},
        {"auth": HTTPBasicAuth("login", SECRET)},
        {"auth": basic_auth},
        {"auth": basic_auth_without_a_colon},
        {"node_list": [f"http://login:{SECRET}@host1:9401"]},
        {"node_list": [f"http://login:{SECRET.replace(':', '%3A')}@host1:9401"]},
        {"node_list": ["http://host-of-netrc:9401"]},
    ],
    ids=["password", "login", "HTTPBasicAuth", "callable", "no colon", "node", "node, quoted", "netrc"],
)
def test_credentials_that_a_node_cannot_parse_are_refused_and_not_shown(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine host-of-netrc login user password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with pytest.raises(ValueError, match=r"auth: (the|its)|node 'http://") as raised:
        QClient(**{"node_list": ["http://host1:9401"], **options})
    assert "hunter2" not in str(raised.value)


@ON_EACH_SERVER
def test_basic_auth_and_its_refusal(kind: str, certificates: Certificates) -> None:
    options = [f"--cert-file={certificates.server}", "--basic-auth=user:s3cret"]
    node = make_server(kind, *options, tls=certificates.context())
    with node, QClient([node.url], 5, 5, verify=str(certificates.ca), auth=("user", "s3cret")) as client:
        client.post("k", TABLE)
        assert client.get("k", {}) is not None
        with (
            QClient([node.url], verify=str(certificates.ca), auth=("user", "other")) as other,
            pytest.raises(AuthenticationFailed),
        ):
            other.get("k", {})


def test_statistics_that_are_no_decimal_numbers_are_dropped() -> None:
    def answer(peer: Peer, request: Received) -> None:
        statistics = "a=1.5, b = 2e-3,c=1_0,d=nan,e=x,f,=7"
        head = faults.head(200, len(faults.ROWS), **faults.RESULT, X_QCache_stats=statistics)
        peer.send(head + faults.ROWS)

    with FaultyNode(answer) as node, QClient([node.url], 5, 5, trust_env=False) as client:
        result = client.get("k", {})
    assert result is not None
    assert result.statistics == {"get_a": 1.5, "get_b": 0.002, "get_": 7}


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "1.5", "²", "1_0", ""])
def test_an_invalid_unsliced_length_fails_over(length: str) -> None:
    def answer(peer: Peer, request: Received) -> None:
        known = {**faults.RESULT, "X_QCache_unsliced_length": length}
        peer.send(faults.head(200, len(faults.ROWS), **known) + faults.ROWS)

    other, tables = healthy_node()
    tables.tables.update({f"k{number}": TABLE for number in range(20)})
    with FaultyNode(answer) as node, other, QClient([node.url, other.url], 5, 5, trust_env=False) as client:
        key = next(key for key in tables.tables if client.node_for_key(key) == node.url)
        result = client.get(key, {})
        assert result is not None
        assert (result.node, result.unsliced_result_len) == (other.url, 1)


def test_gzip_with_very_many_members_is_decoded_in_linear_time() -> None:
    def answer(peer: Peer, request: Received) -> None:
        peer.send(faults.success_head(request, len(MANY_MEMBERS), Content_Encoding="gzip") + MANY_MEMBERS)

    with FaultyNode(answer) as node, QClient([node.url], 5, 60, trust_env=False) as client:
        started = time.thread_time()
        result = client.get("k", {})
        assert time.thread_time() - started < 5  # minutes, if the time grew with the square of the members
        assert result is not None
        assert result.content == faults.ROWS


def test_the_time_is_checked_while_gzip_is_decoded() -> None:
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        decode(MANY_MEMBERS, "gzip", float("inf"), check)
    assert checks == 3


# Credentials of nodes in errors and results.


@pytest.mark.parametrize(
    "node",
    [
        "user:hunter2@host:1",
        "http:/user:hunter2@host:1",
        "http://user:hun/ter2@host:1",
        "http://user:12/hunter2@host:1",
        "http://user:hunter2@ho st:1",
        "http://user:hunter2@host:99999999",
        "http://user:hunter2@[::1:1",
        "http://us?er:hunter2@host:1",
        b"http://user:hunter2@host:1",
    ],
)
def test_the_error_of_an_invalid_node_url_hides_its_credentials(node: str) -> None:
    for nodes in ([node], node):
        with pytest.raises(ValueError, match="node") as raised:
            QClient(nodes)
        text = "".join(traceback.format_exception(raised.value)[-1:])
        assert not {"hun", "ter2", "user"} & set(re.findall("hun|ter2|user", text))


def test_results_hide_a_node_s_credentials() -> None:
    node, _ = healthy_node()
    with node, QClient([node.url.replace("//", "//user:hunter2@")], trust_env=False) as client:
        stored = client.post("k", TABLE)
        result = client.get("k", {})
        assert result is not None
        assert result.node == stored.node == node.url.replace("//", "//***@")


# Headers of the caller.


@pytest.mark.parametrize("operation", ["get", "post query", "post"])
def test_a_caller_s_authorization_and_user_agent_replace_the_client_s(
    operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: list[bytes] = []
    send = transport._DeadlineSocket.sendall

    def sendall(sock: transport._DeadlineSocket, data: bytes) -> None:
        heads.append(data)
        send(sock, data)

    monkeypatch.setattr(transport._DeadlineSocket, "sendall", sendall)
    headers = {"authorization": "Bearer theirs", "User-agent": "theirs"}
    node, _ = healthy_node()
    with node, QClient([node.url], 5, 5, auth=("user", "ours"), trust_env=False) as client:
        if operation == "post":
            client.post("k", TABLE, post_headers=headers)
        else:
            client.get("k", {}, post_query=operation == "post query", query_headers=headers)
        client.delete("k")
    lines = [line.lower() for line in heads[0].splitlines()]
    assert [line for line in lines if line.startswith((b"authorization", b"user-agent"))] == [
        b"authorization: bearer theirs",
        b"user-agent: theirs",
    ]
    assert any(line.startswith(b"host: ") for line in lines)
    assert b"Basic " in heads[-1]  # the next request has the client's own again


def test_environment_settings_are_read_once_and_arguments_override_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login from password netrc\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "no such bundle"))
    proxy, _ = healthy_node()
    node, tables = healthy_node()
    tls = FaultyNode(tables.answer, tls=CERTIFICATES.good)
    with proxy, node, tls:
        with QClient([node.url]) as client:
            client.get("foo", {})
        with QClient([node.url], auth=("given", "too")) as client:
            client.get("foo", {})
        with QClient([node.url], trust_env=False) as client:
            client.get("foo", {})
        sent = [request.headers.get("authorization") for request in node.requests]
        assert sent == ["Basic ZnJvbTpuZXRyYw==", "Basic Z2l2ZW46dG9v", None]
        with pytest.raises(ValueError, match="no such bundle"):
            QClient([tls.url])
        for verify in (CERTIFICATES.ca_file, False):
            with QClient([tls.url], verify=verify) as client:
                assert client.get("foo", {}) is None
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        with QClient(["http://qcache.invalid:9401"]) as client:
            monkeypatch.delenv("http_proxy")
            assert client.get("foo", {}) is None
        assert proxy.requests[0].target.startswith("http://qcache.invalid:9401/qcache/dataset/foo?q=")


def test_the_client_certificate_is_presented_to_the_node() -> None:
    _, tables = healthy_node()
    tls = FaultyNode(tables.answer, tls=CERTIFICATES.client_required)
    with (
        tls,
        QClient([tls.url], verify=CERTIFICATES.ca_file, cert=CERTIFICATES.client, trust_env=False) as client,
    ):
        assert client.get("foo", {}) is None


def test_a_query_whose_get_line_exceeds_8_kib_is_sent_as_post() -> None:
    node, tables = healthy_node()
    tables.tables["k"] = b"a\n1\n"
    with node, QClient([f"{node.url}/behind/a/proxy"], trust_env=False) as client:
        methods = set()
        for size in range(8100, 8200):
            client.get("k", "x" * (size - len("/dataset/k?q=") - len("%22%22")))
            request = node.requests[-1]
            methods.add(request.method)
            assert len(f"{request.method} {request.target} HTTP/1.1\r\n") <= 8192
    assert methods == {"GET", "POST"}
