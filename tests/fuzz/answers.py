"""Fuzzes all operations of the client with answers that are nearly valid HTTP, QCache's or complete."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from airflow_provider_qcache.client import QClient, QClientException, RequestRetry
from airflow_provider_qcache.client.compression import compress_lz4
from airflow_provider_qcache.hooks.node_check import check_nodes
from tests.fuzz.mutate import damaged, rewritten

_ROWS = b'[{"a":1,"b":"x"},{"a":null,"b":"\\u00e4"}]'
_CSV = b'a,b\n1,x\n,"y,""z"\n'
_WORDS = (
    b"\r\n", b"\n", b"\r", b": ", b":", b" ", b"\0", b"\xff", b"HTTP/1.1 200 OK\r\n\r\n", b"Content-Length: 5\r\n",
    b"Content-Length: -1\r\n", b"Content-Length: 99999999999999999999\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Content-Encoding: gzip\r\n", b"Content-Encoding: lz4\r\n", b"Content-Encoding: br, gzip\r\n", b"Connection: close\r\n",
    b"X-QCache-unsliced-length: x\r\n", b"X-QCache-unsliced-length: " + b"9" * 5000 + b"\r\n", b"Retry-After: 1e400\r\n",
    b"Retry-After: Mon, 01 Jan 0001 00:00:00 GMT\r\n", b"Location: http://127.0.0.1:1/\r\n", b"f" * 20 + b"\r\n", b"0\r\n\r\n",
    b"-1\r\n", b"0x10\r\n", b"Set-Cookie: a=b\r\n", b"Content-Type: text/html\r\n", b"Content-Type: \xff\r\n", b"x" * 70_000,
    b"X: y\r\n" * 200, b"[" * 3000, b"9" * 5000, b"\\ud800",
)  # fmt: skip


def _answer(random: Random) -> bytes:
    body, kind = random.choice(
        ((_ROWS, "application/json"), (_CSV, "text/csv"), (b"[]", "application/json"), (b"", "text/html"))
    )
    if random.random() < 0.3:
        body = rewritten(
            random,
            body,
            (b"[", b"{", b"}", b"]", b'"', b",", b"\\", b"\xff", b"1e999", b"NaN", b"[" * 3000, b"\\ud800"),
        )
    status = random.choice(
        (
            200,
            200,
            200,
            200,
            201,
            204,
            101,
            100,
            301,
            304,
            400,
            401,
            404,
            404,
            406,
            415,
            429,
            500,
            502,
            503,
            999,
            600,
        )
    )
    lines = [b"HTTP/1.1 %d Some" % status, b"Content-Type: %s; charset=utf-8" % kind.encode()]
    if random.random() < 0.85:
        lines.append(b"X-QCache-unsliced-length: 2")
    if status in (429, 503):
        lines.append(
            b"Retry-After: "
            + random.choice((b"0", b"-1", b"x", b"1e9", b"Mon, 01 Jan 2001 00:00:00 GMT", b"\xff"))
        )
    encoding = random.random()
    if encoding < 0.2:
        body = gzip.compress(body)
        lines.append(b"Content-Encoding: gzip")
    elif encoding < 0.4:
        body = compress_lz4(body)
        lines.append(b"Content-Encoding: lz4")
    if random.random() < 0.2:
        body = damaged(random, body)
    if random.random() < 0.3:
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        lines.append(b"Transfer-Encoding: chunked")
    else:
        lines.append(b"Content-Length: %d" % (len(body) + random.choice((0,) * 12 + (1, -1))))
    answer = b"\r\n".join([*lines, b"", body])
    if random.random() < 0.6:
        answer = rewritten(random, answer, _WORDS) if random.random() < 0.7 else damaged(random, answer)
    return answer


class _Node:
    """Reads the head of a request, sends the case's answer and hangs up."""

    def __init__(self) -> None:
        self.answers: Callable[[], bytes] = lambda: b""
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), sock:
                sock.settimeout(2)
                seen = b""
                while b"\r\n\r\n" not in seen and (more := sock.recv(1 << 16)):
                    seen += more
                if b"chunked" in seen:
                    while not seen.endswith(b"0\r\n\r\n") and (more := sock.recv(1 << 16)):
                        seen += more
                sock.sendall(self.answers())
                # A reset, because of data that the client still sends, would discard the answer before it is read.
                sock.shutdown(socket.SHUT_WR)
                sock.settimeout(0.05)
                while sock.recv(1 << 16):
                    pass


_SECONDS = 1.0
_READ_TIMEOUT = 0.3


@contextlib.contextmanager
def answers() -> Iterator[Callable[[Random], None]]:
    """Operations at nodes with such answers. Each ends in time; a result is readable or raises ValueError."""
    first, second = _Node(), _Node()
    urls = [f"http://127.0.0.1:{node.port}" for node in (first, second)]
    retry = RequestRetry(wait_initial=0.001, wait_max=0.01)

    def case(random: Random) -> None:
        lock = threading.Lock()

        def next_answer() -> bytes:
            with lock:
                return _answer(random)

        first.answers = second.answers = next_answer
        began = time.monotonic()
        kind = random.random()
        accept = random.choice(("application/json", "text/csv"))
        try:
            if kind < 0.05:
                _test(urls)
            else:
                with QClient(
                    urls[: random.choice((1, 2))], 0.3, _READ_TIMEOUT, deadline=_SECONDS, trust_env=False,
                    max_response_bytes=1 << 20, request_retry=retry, confirm_miss=random.random() < 0.5,
                    consecutive_error_count_limit=3,
                ) as client:  # fmt: skip
                    _operate(client, random, kind, accept)
        finally:
            if (took := time.monotonic() - began) > _SECONDS + 5:
                raise AssertionError(f"it took {took:.1f} s at a deadline of {_SECONDS} s")

    yield case
    for node in (first, second):
        node.listener.close()


def _operate(client: QClient, random: Random, kind: float, accept: str) -> None:
    if kind < 0.55:
        result = client.get("k", {"where": ["==", "a", 1]}, accept, post_query=kind < 0.15)
        if result is not None:
            for read in (result.to_arrow, result.to_pandas, result.to_polars):
                with contextlib.suppress(QClientException):
                    _read(read)
    elif kind < 0.75:
        client.post(
            "k", b"a\n1\n", copies=1 if kind < 0.65 else len(client.node_status()), check_row_count=kind < 0.6
        )
    elif kind < 0.8:
        client.post_table("k", [{"a": 1}], evict_stale=True)
    elif kind < 0.9:
        client.delete("k", all_nodes=kind < 0.85)
    elif kind < 0.95:
        client.node_statistics()
        client.node_status(probe=True)
    else:
        client.post_many({"k": b"a\n1\n", "l": b"b\n2\n"}.items(), evict_stale=True).raise_for_failures()


def _read(read: Callable[[], Any]) -> None:
    try:
        read()
    except ValueError as error:
        if type(error) is not ValueError:
            raise AssertionError(f"{read.__name__}: {type(error).__name__}: {error}") from error


def _test(urls: list[str]) -> None:
    check_nodes(
        {
            "node_list": urls,
            "connect_timeout": 0.3,
            "read_timeout": _READ_TIMEOUT,
            "verify": True,
            "cert": None,
            "auth": None,
            "trust_env": False,
        },
        longest=_SECONDS,
    )
