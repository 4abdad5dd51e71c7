"""The body of a response is complete, or an error is raised."""

from __future__ import annotations

import http.client

import pytest

from airflow_provider_qcache.client.compression import Undecodable
from airflow_provider_qcache.client.transport import _read_all, _Response
from tests.harness.faults import ReceivedBytes

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def response(content: bytes) -> _Response:
    begun = _Response(ReceivedBytes(content))  # type: ignore[arg-type]
    begun.begin()
    return begun


@pytest.mark.parametrize(
    ("chunks", "body"),
    [
        (b"0\r\n\r\n", b""),
        (b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
        (b"3;name=value\r\nabc\r\n0\r\nTrailer: x\r\n\r\n", b"abc"),
        (b"3\nabc\n0\n\n", b"abc"),
    ],
)
def test_chunks_are_read_to_their_end(chunks: bytes, body: bytes) -> None:
    read = response(CHUNKED + chunks)
    assert _read_all(read, float("inf")) == body
    assert read.isclosed()


@pytest.mark.parametrize(
    "chunks",
    [
        b"",
        b"5\r\nab",
        b"2\r\nabX",
        b"2\r\nab",
        b"2\r\nab\r\n",
        b"-1\r\nab\r\n0\r\n\r\n",
        b"zz\r\nab\r\n0\r\n\r\n",
        b"2\r\nab\r\n0\r\n",
        b"2\r\nab\r\n0\r\nTrailer: x",
    ],
)
def test_truncated_or_malformed_chunks_are_an_error(chunks: bytes) -> None:
    with pytest.raises(http.client.IncompleteRead):
        _read_all(response(CHUNKED + chunks), float("inf"))


def test_a_body_above_the_limit_is_not_read() -> None:
    chunked = CHUNKED + b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"
    assert _read_all(response(chunked), 6) == b"abcdef"
    with pytest.raises(Undecodable):
        _read_all(response(chunked), 5)
    sized = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabcdef"
    assert _read_all(response(sized), 6) == b"abcdef"
    with pytest.raises(Undecodable):
        _read_all(response(sized), 5)
    open_ended = b"HTTP/1.1 200 OK\r\n\r\nabcdef"
    assert _read_all(response(open_ended), 6) == b"abcdef"
    with pytest.raises(Undecodable):
        _read_all(response(open_ended), 5)


@pytest.mark.parametrize("length", [7, 10_000_000])
def test_a_body_shorter_than_its_content_length_is_an_error(length: int) -> None:
    content = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nabcdef" % length
    with pytest.raises(http.client.IncompleteRead):
        _read_all(response(content), float("inf"))
