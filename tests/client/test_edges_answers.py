"""Answers whose heads are odd, and connections that are kept."""

from __future__ import annotations

import http.client
import io
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_qcache.client import QClient, TooManyConsecutiveErrors
from airflow_provider_qcache.client.errors import Outcome
from airflow_provider_qcache.client.transport import Headers, Limit, _DeadlineSocket, _Response
from tests.client import faults
from tests.client.faults import Node, Peer, Request, sound_node

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
