"""Proxies, names with several addresses, and nodes or answers that are not what they look like."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
import time
from collections.abc import Iterator
from typing import Self

import pytest

from airflow_provider_qcache.client import DeadlineExceeded, NoCacheAvailable, QClient
from airflow_provider_qcache.client.encoding import decode
from airflow_provider_qcache.client.errors import Outcome
from tests.client import faults
from tests.client.faults import Node, Peer, Request, closed_port, sound_node
from tests.client.test_edges import OF_BOTH, a_server, url
from tests.servers import Certificates

TABLE = b"a\n1\n"
CAP = 20.0


class ConnectProxy:
    """A proxy that makes tunnels, by what ``mode`` says."""

    def __init__(self, mode: str = "works") -> None:
        self.mode = mode
        self.heads: list[bytes] = []
        self._stopping = threading.Event()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        for sock in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                if not (data := sock.recv(1)):
                    return
                head += data
            self.heads.append(head)
            if self.mode == "drips":
                for _ in range(1000):
                    sock.sendall(b"HTTP/1.1 200 OK\r\n"[:1])
                    self._stopping.wait(0.05)
            if self.mode == "hangs":
                self._stopping.wait()
            if self.mode == "forbids":
                sock.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                return
            host, _, port = head.split()[1].decode().rpartition(":")
            there = socket.create_connection((host, int(port)))
            self._sockets.append(there)
            sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            if self.mode == "hangs after":
                self._stopping.wait()
            back = threading.Thread(target=self._copy, args=(there, sock), daemon=True)
            back.start()
            self._copy(sock, there)

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def through_a_proxy(mode: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ConnectProxy]:
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    with ConnectProxy(mode) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:hunter2@{proxy.address}")
        yield proxy


@OF_BOTH
def test_https_goes_through_a_tunnel_whose_proxy_sees_no_request(
    kind: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (f"--cert-file={certificates.server}", "--basic-auth=user:s3cret")
    with (
        through_a_proxy("works", monkeypatch) as proxy,
        a_server(kind, *options, tls=certificates.context()) as node,
        QClient([url(node)], 5, 5, verify=str(certificates.ca), auth=("user", "s3cret")) as client,
    ):
        assert client.post("k", TABLE).attempts == ()
        result = client.get("k", {})
        assert result is not None
        assert client.delete("k").complete
        assert client.get("k", {}) is None
        assert len(proxy.heads) == 1  # one tunnel, kept
        assert proxy.heads[0].startswith(f"CONNECT 127.0.0.1:{node.port} ".encode())
        assert b"\r\nProxy-Authorization: Basic dXNlcjpodW50ZXIy\r\n" in proxy.heads[0]
        assert b"\r\nAuthorization:" not in proxy.heads[0]


@pytest.mark.parametrize("proxy", ["https://user:hunter2@127.0.0.1:1", "HTTPS://127.0.0.1:1"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_would_keep_no_deadline_is_refused(
    proxy: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY", f"{scheme}_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(f"{scheme}_proxy", proxy)
    with pytest.raises(ValueError, match="is spoken to by TLS") as refused:
        QClient([f"{scheme}://qcache.invalid:9401"])
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("mode", ["hangs", "hangs after", "drips"])
def test_a_proxy_that_hangs_does_not_hold_an_operation_beyond_its_deadline(
    mode: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(faults.silent)
    with through_a_proxy(mode, monkeypatch), node:
        address = node.url.replace("http:", "https:")
        with QClient([address], 60, 60, verify=str(certificates.ca), deadline=0.5) as client:
            started = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                client.get("k", {})
            assert time.monotonic() - started < CAP
        with QClient([address], 0.3, 60, verify=str(certificates.ca)) as client:
            started = time.monotonic()
            with pytest.raises(NoCacheAvailable, match="connect timeout"):
                client.post("k", TABLE)
            assert time.monotonic() - started < CAP
            assert not client.node_status()[address].gone


@pytest.mark.parametrize("mode", ["forbids", "refuses"])
def test_what_a_proxy_refuses_says_nothing_of_the_node(
    mode: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with through_a_proxy(mode, monkeypatch) as proxy:
        if mode == "refuses":
            monkeypatch.setenv("HTTPS_PROXY", f"http://user:hunter2@127.0.0.1:{closed_port()}")
        address = f"https://127.0.0.1:{closed_port()}"
        with QClient([address], 5, 5, verify=str(certificates.ca)) as client:
            with pytest.raises(NoCacheAvailable, match="403" if mode == "forbids" else "refused") as raised:
                client.get("k", {})
            assert {attempt.outcome for attempt in raised.value.attempts} == {Outcome.CONNECT_FAILED}
            assert not client.node_status()[address].gone
            assert "hunter2" not in str(raised.value)
        assert bool(proxy.heads) == (mode == "forbids")


@pytest.mark.parametrize(
    ("hosts", "gone"),
    [
        (["127.0.0.1", "127.0.0.2"], True),
        (["127.0.0.1", "255.255.255.255"], False),
        (["255.255.255.255", "127.0.0.1"], False),
    ],
)
def test_a_name_is_gone_only_where_all_its_addresses_refuse(
    hosts: list[str], gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = closed_port()
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in hosts]
    node = f"http://qcache.invalid:{port}"
    with QClient([node], 5, 5, trust_env=False) as client:
        # connect() to a broadcast address fails here, and nothing leaves the machine.
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        assert client.delete("k", all_nodes=True).outcomes == {node: "gone" if gone else "unreachable"}


def test_nodes_that_differ_in_credentials_only_are_one_process() -> None:
    nodes = ["http://host1:9401", "http://a:hunter2@host2:9401", "http://b:hunter3@host2:9401"]
    with pytest.raises(ValueError, match="host2:9401") as raised:
        QClient(nodes)
    assert "hunter" not in str(raised.value)
    QClient(nodes[:2]).close()


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "1.5", "²", ""])
def test_a_number_of_rows_that_is_none_is_no_answer_of_qcache(length: str) -> None:
    def answer(peer: Peer, request: Request) -> None:
        known = {**faults.RESULT, "X_QCache_unsliced_length": length}
        peer.send(faults.head(200, len(faults.ROWS), **known) + faults.ROWS)

    other, tables = sound_node()
    tables.tables.update({f"k{number}": TABLE for number in range(20)})
    with Node(answer) as node, other, QClient([node.url, other.url], 5, 5, trust_env=False) as client:
        key = next(key for key in tables.tables if client.node_for_key(key) == node.url)
        result = client.get(key, {})
        assert result is not None
        assert (result.node, result.unsliced_result_len) == (other.url, 1)


# An answer in gzip of very many members.

MANY_MEMBERS = gzip.compress(faults.ROWS) + gzip.compress(b"") * 300_000


def test_an_answer_of_very_many_members_is_read_in_time() -> None:
    def answer(peer: Peer, request: Request) -> None:
        peer.send(faults.success_head(request, len(MANY_MEMBERS), Content_Encoding="gzip") + MANY_MEMBERS)

    with Node(answer) as node, QClient([node.url], 5, 60, trust_env=False) as client:
        started = time.thread_time()
        result = client.get("k", {})
        assert time.thread_time() - started < 5  # it grew with the square of their number
        assert result is not None
        assert result.content == faults.ROWS


def test_the_time_is_looked_at_while_gzip_is_decoded() -> None:
    looked = 0

    def check() -> None:
        nonlocal looked
        looked += 1
        if looked == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        decode(MANY_MEMBERS, "gzip", None, check)
    assert looked == 3
