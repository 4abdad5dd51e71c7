"""Nodes that are raw sockets on loopback: a healthy one, and one for each kind of failure.

A node answers ``/qcache/status`` and other requests as its test says. It uses no HTTP library, because faults
must be written byte for byte.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self
from unittest import mock

ROWS = b'[{"a":1}]'


class HungUp(Exception):
    """The client closed the connection, or the node is being stopped."""


@dataclass
class Received:
    """One request as the node read it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""

    @property
    def kind(self) -> str:
        if self.target.endswith("/status"):
            return "status"
        if self.method == "GET" or self.target.endswith("/q"):
            return "query"
        return "store" if self.method == "POST" else "delete"

    @property
    def key(self) -> str:
        return self.target.split("/dataset/")[1].split("?")[0].split("/")[0]


class ReceivedBytes:
    """Stands for a socket that has received these bytes and receives no more."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def makefile(self, mode: str) -> io.BytesIO:
        assert mode == "rb"
        return io.BytesIO(self.data)


class Peer:
    """The node's side of one connection."""

    def __init__(self, sock: socket.socket, node: FaultyNode) -> None:
        self.sock = sock
        self.node = node
        self._buffer = bytearray()

    def send(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except OSError as error:
            raise HungUp from error

    def _more(self) -> None:
        try:
            data = self.sock.recv(1 << 16)
        except OSError as error:
            raise HungUp from error
        if not data:
            raise HungUp
        self._buffer += data

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._more()
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._more()
        line = self._take(self._buffer.index(b"\r\n") + 2)
        return line[:-2]

    def read_head(self) -> Received:
        method, target, _ = self._line().decode("latin-1").split(" ", 2)
        headers = {}
        while line := self._line():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return Received(method, target, headers)

    def read_body(self, request: Received) -> None:
        if request.headers.get("transfer-encoding") == "chunked":
            parts = []
            while size := int(self._line(), 16):
                parts.append(self._take(size))
                self._line()
            self._line()
            request.body = b"".join(parts)
        else:
            request.body = self._take(int(request.headers.get("content-length", 0)))

    def wait(self, seconds: float) -> None:
        """Wait, unless the node is stopped."""
        if self.node.stopping.wait(seconds):
            raise HungUp

    def wait_for_ever(self) -> None:
        """Send nothing until the node is stopped."""
        self.node.stopping.wait()
        raise HungUp

    def wait_for_more(self) -> None:
        """Wait until the client sends more data or closes the connection."""
        with contextlib.suppress(HungUp):
            self._more()

    def drip(self, data: bytes, times: int = 10_000) -> None:
        """Send the same bytes again and again, with pauses."""
        for _ in range(times):
            self.send(data)
            self.wait(0.03)

    def reset(self) -> None:
        """End the connection with an RST."""
        self.wait(0.03)  # otherwise the reset discards what the client has not read yet
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
        raise HungUp


def head(status: int, length: int | None = None, **headers: str) -> bytes:
    """The head of a response; underscores in header names become dashes."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    if length is not None:
        fields["Content-Length"] = str(length)
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Reason\r\n{lines}\r\n".encode("latin-1")


RESULT = {"Content_Type": "application/json; charset=utf-8", "X_QCache_unsliced_length": "1"}
SUCCESS = {"query": 200, "store": 201, "delete": 200, "status": 200}


def success_head(request: Received, length: int | None = None, **headers: str) -> bytes:
    """The head of a healthy node's response."""
    known = RESULT if request.kind == "query" else {}
    return head(SUCCESS[request.kind], length, **{**known, **headers})


Reply = Callable[[Peer, Received], None]


def answer_ok(peer: Peer, request: Received) -> None:
    """Answer a status request as a healthy node does."""
    peer.send(head(200, 2) + b"OK")


class FaultyNode:
    """A node that reads requests and answers each one with ``answer``, in one thread per connection."""

    def __init__(
        self,
        answer: Reply,
        *,
        tls: ssl.SSLContext | None = None,
        status: Reply | None = None,
        before_reading: Callable[[Peer], None] | None = None,
        read_bodies: bool = True,
        accepts: bool = True,
        host: str = "127.0.0.1",
    ) -> None:
        self._answer = answer
        self._tls = tls
        self._status = status or answer_ok
        self._before_reading = before_reading
        self._read_bodies = read_bodies
        self._accepts = accepts
        self._host = host
        self.stopping = threading.Event()
        self.requests: list[Received] = []
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        if not accepts:
            # Small buffers, so that a large body stalls whatever the machine's buffer sizes are.
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.port = self.listener.getsockname()[1]

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.port}"

    def __enter__(self) -> Self:
        if self._accepts:
            self._start(self._accept)
        return self

    def __exit__(self, *error: object) -> None:
        self.stopping.set()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for sock in list(self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def _start(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError as error:
                if error.errno == errno.EMFILE:  # some tests use up this process's descriptors for a while
                    time.sleep(0.01)
                    continue
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.add(sock)
            self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        try:
            if self._tls is not None:
                with contextlib.suppress(KeyError):
                    self._sockets.remove(sock)
                sock.settimeout(10)
                sock = self._tls.wrap_socket(sock, server_side=True)
                self._sockets.add(sock)
            peer = Peer(sock, self)
            while True:
                if self._before_reading is not None:
                    self._before_reading(peer)
                request = peer.read_head()
                if self._read_bodies or request.kind == "status":
                    peer.read_body(request)
                self.requests.append(request)
                (self._status if request.kind == "status" else self._answer)(peer, request)
        except (HungUp, OSError):
            pass
        finally:
            with contextlib.suppress(OSError):
                sock.close()
            self._sockets.discard(sock)


class Tables:
    """A healthy node's tables, and its answers."""

    def __init__(self) -> None:
        self.tables: dict[str, bytes] = {}

    def answer(self, peer: Peer, request: Received) -> None:
        if "/dataset/" not in request.target:
            peer.send(head(404, 0))
        elif request.kind == "store":
            self.tables[request.key] = request.body
            peer.send(head(201, 0))
        elif request.kind == "delete":
            self.tables.pop(request.key, None)
            peer.send(head(200, 0))
        elif request.key in self.tables:
            peer.send(success_head(request, len(ROWS)) + ROWS)
        else:
            peer.send(head(404, 0))


def healthy_node() -> tuple[FaultyNode, Tables]:
    """A node without a fault, and its tables."""
    tables = Tables()
    return FaultyNode(tables.answer), tables


def silent(peer: Peer, request: Received) -> None:
    peer.wait_for_ever()


def status_only(status: int, **headers: str) -> Reply:
    body = json.dumps({"error": "as the test wants it"}).encode()
    return lambda peer, request: peer.send(head(status, len(body), **headers) + body)


def head_of_500_without_body(peer: Peer, request: Received) -> None:
    peer.send(head(500, 100))
    peer.wait_for_ever()


def truncated_body(peer: Peer, request: Received) -> None:
    peer.send(success_head(request, 100) + b'[{"a"')


def reset_in_the_head(peer: Peer, request: Received) -> None:
    peer.send(b"HTTP/1.1 2")
    peer.reset()


def reset_after_the_head(peer: Peer, request: Received) -> None:
    peer.send(success_head(request, 100))
    peer.reset()


def close_in_the_head(peer: Peer, request: Received) -> None:
    peer.send(b"HTTP/1.1 2")
    raise HungUp


def reset_in_the_body(peer: Peer, request: Received) -> None:
    truncated_body(peer, request)
    peer.reset()


def close_in_the_body(peer: Peer, request: Received) -> None:
    truncated_body(peer, request)
    raise HungUp


def reset_before_the_head(peer: Peer, request: Received) -> None:
    peer.reset()


def reset_while_reading(peer: Peer) -> None:
    with contextlib.suppress(OSError):
        peer.sock.recv(10)
    peer.reset()


def drip_the_body(peer: Peer, request: Received) -> None:
    peer.send(success_head(request, 10_000))
    peer.drip(b" ")


def drip_the_head(peer: Peer, request: Received) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\n")
    peer.drip(b"X: y\r\n", 90)
    peer.wait_for_ever()


def drip_interim_responses(peer: Peer, request: Received) -> None:
    peer.drip(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")


def never_stop(peer: Peer, request: Received) -> None:
    peer.send(success_head(request))
    while True:
        peer.send(b" " * 65536)
        peer.wait(0)


def length_too_long(peer: Peer, request: Received) -> None:
    peer.send(success_head(request, 100) + ROWS)
    peer.wait_for_ever()


def length_too_short(peer: Peer, request: Received) -> None:
    peer.send(success_head(request, 5) + ROWS)
    raise HungUp


def bad_chunk(peer: Peer, request: Received) -> None:
    peer.send(success_head(request, Transfer_Encoding="chunked") + b'5\r\n[{"a"\r\nzz\r\n')
    raise HungUp


def endless_chunks(peer: Peer, request: Received, status: int) -> None:
    """Endless chunks after a status that allows no body."""
    peer.send(head(status, Transfer_Encoding="chunked"))
    while True:
        peer.send(b"10000\r\n" + b" " * 65536 + b"\r\n")
        peer.wait(0)


def endless_chunk(peer: Peer, request: Received, size: bytes) -> None:
    """A chunk that claims this size and does not end."""
    peer.send(success_head(request, Transfer_Encoding="chunked") + size + b"\r\n")
    while True:
        peer.send(b" " * 65536)
        peer.wait(0)


def encoded(encoding: str, body: bytes) -> Reply:
    return lambda peer, request: peer.send(success_head(request, len(body), Content_Encoding=encoding) + body)


def gzip_bomb() -> bytes:
    written = io.BytesIO()
    with gzip.GzipFile(fileobj=written, mode="wb") as file:
        for _ in range(64):
            file.write(b" " * (1 << 20))
    return written.getvalue()


def not_http(peer: Peer, request: Received) -> None:
    peer.send(b"SSH-2.0-OpenSSH_9.9\r\n")
    raise HungUp


def html(peer: Peer, request: Received) -> None:
    page = b"<html><body>Please log in</body></html>"
    peer.send(head(SUCCESS[request.kind], len(page), Content_Type="text/html") + page)


def without_unsliced_length(peer: Peer, request: Received) -> None:
    body = ROWS if request.kind == "query" else b""
    peer.send(head(SUCCESS[request.kind], len(body), Content_Type="application/json") + body)


class Once:
    """Healthy, except that ``first`` handles the first request; it returns whether it has answered."""

    def __init__(self, tables: Tables, first: Callable[[Peer], bool]) -> None:
        self._tables = tables
        self._first: Callable[[Peer], bool] | None = first

    def __call__(self, peer: Peer, request: Received) -> None:
        first, self._first = self._first, None
        if first is None or not first(peer):
            self._tables.answer(peer, request)


def overloaded(peer: Peer) -> bool:
    """Answers 429 with Retry-After."""
    peer.send(head(429, 0, Retry_After="1"))
    return True


def late(peer: Peer) -> bool:
    """Waits until the client has stopped waiting for the answer."""
    peer.wait_for_more()
    return False


class Busy:
    """A node with one thread, which is busy until the client times out and connects again."""

    def __init__(self) -> None:
        self._connections: list[Peer] = []
        self._reconnected = threading.Event()
        self._lock = threading.Lock()

    def before_reading(self, peer: Peer) -> None:
        with self._lock:
            if not any(peer is other for other in self._connections):
                self._connections.append(peer)
            if len(self._connections) > 1:
                self._reconnected.set()
        while not self._reconnected.wait(0.01):
            peer.wait(0)


@dataclass
class CutsIdleConnections:
    """Healthy, but closes each connection when its second request arrives, before any byte of an answer."""

    tables: Tables
    reset: bool
    seen: list[Peer] = field(default_factory=list)

    def __call__(self, peer: Peer, request: Received) -> None:
        if any(peer is other for other in self.seen):
            if self.reset:
                peer.reset()
            raise HungUp
        self.seen.append(peer)
        self.tables.answer(peer, request)


@contextlib.contextmanager
def names_resolve_to(*hosts: str) -> Iterator[None]:
    """Make every name under .invalid resolve to these addresses, in this order; no other name is resolved."""

    def resolve(host: str, port: int, *args: object, **kwargs: object) -> list[object]:
        found = hosts if host.endswith(".invalid") else (host,)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    with mock.patch.object(socket, "getaddrinfo", resolve):
        yield


@contextlib.contextmanager
def black_hole(host: str, port: int) -> Iterator[None]:
    """An address where connections are neither accepted nor refused, because its backlog is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(2):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield
