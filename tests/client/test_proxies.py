"""Nodes behind a proxy: tunnels, deadlines, and errors that name the proxy."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest

from airflow_provider_qcache.client import AuthenticationFailed, DeadlineExceeded, NoCacheAvailable, QClient
from airflow_provider_qcache.client.errors import Outcome, QClientException
from airflow_provider_qcache.hooks.node_check import check_nodes
from tests.client.interrupts import Interrupted, interrupted_after
from tests.client.kinds import ON_EACH_SERVER, make_server
from tests.harness import faults
from tests.harness.faults import FaultyNode
from tests.harness.ports import closed_port
from tests.harness.servers import Certificates

TABLE = b"a\n1\n"
TIMEOUT = 20.0


class ConnectProxy:
    """A proxy that opens tunnels, or fails at every request in the way that ``mode`` names."""

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
            if self.mode == "requires credentials":
                echo = b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n"
                sock.sendall(echo + b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(head), head))
                return
            if self.mode.isdecimal():
                sock.sendall(f"HTTP/1.1 {self.mode} Nothing\r\nContent-Length: 0\r\n\r\n".encode())
            if self.mode.isdecimal() or self.mode == "closes":
                sock.shutdown(socket.SHUT_RDWR)
                return
            if self.mode == "resets":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
                return
            if self.mode == "not HTTP":
                sock.sendall(b"220 mail.example.com ESMTP\r\n")
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


@ON_EACH_SERVER
def test_https_goes_through_a_tunnel_and_the_proxy_sees_no_request(
    kind: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (f"--cert-file={certificates.server}", "--basic-auth=user:s3cret")
    with (
        through_a_proxy("works", monkeypatch) as proxy,
        make_server(kind, *options, tls=certificates.context()) as node,
        QClient([node.url], 5, 5, verify=str(certificates.ca), auth=("user", "s3cret")) as client,
    ):
        assert client.post("k", TABLE).attempts == ()
        result = client.get("k", {})
        assert result is not None
        assert client.delete("k").complete
        assert client.get("k", {}) is None
        assert len(proxy.heads) == 1  # one tunnel for all requests
        assert proxy.heads[0].startswith(f"CONNECT 127.0.0.1:{node.port} ".encode())
        assert b"\r\nProxy-Authorization: Basic dXNlcjpodW50ZXIy\r\n" in proxy.heads[0]
        assert b"\r\nAuthorization:" not in proxy.heads[0]


@pytest.mark.parametrize("proxy", ["https://user:hunter2@127.0.0.1:1", "HTTPS://127.0.0.1:1"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_https_proxy_is_refused(proxy: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY", f"{scheme}_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(f"{scheme}_proxy", proxy)
    with pytest.raises(ValueError, match="is an https:// proxy, which is not supported") as refused:
        QClient([f"{scheme}://qcache.invalid:9401"])
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("mode", ["hangs", "hangs after", "drips"])
def test_a_proxy_that_hangs_does_not_delay_an_operation_beyond_its_deadline(
    mode: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = FaultyNode(faults.silent)
    with through_a_proxy(mode, monkeypatch), node:
        address = node.url.replace("http:", "https:")
        with QClient([address], 60, 60, verify=str(certificates.ca), deadline=0.5) as client:
            started = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                client.get("k", {})
            assert time.monotonic() - started < TIMEOUT
        with QClient([address], 0.3, 60, verify=str(certificates.ca)) as client:
            started = time.monotonic()
            with pytest.raises(NoCacheAvailable, match="connect timeout"):
                client.post("k", TABLE)
            assert time.monotonic() - started < TIMEOUT
            assert not client.node_status()[address].gone


def test_an_interrupt_while_a_proxy_opens_a_tunnel_is_raised_unchanged(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "https://10.0.0.1:9401"
    with (
        through_a_proxy("hangs", monkeypatch) as proxy,
        QClient([address], 60, 60, verify=str(certificates.ca)) as client,
    ):
        with interrupted_after(0.3), pytest.raises(Interrupted):
            client.get("k", {})
        assert len(proxy.heads) == 1
        assert client.node_status()[address].alive


@pytest.mark.parametrize("mode", ["forbids", "refuses"])
def test_a_refusal_by_a_proxy_does_not_mark_the_node_as_gone(
    mode: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with through_a_proxy(mode, monkeypatch) as proxy:
        if mode == "refuses":
            monkeypatch.setenv("HTTPS_PROXY", f"http://user:hunter2@127.0.0.1:{closed_port()}")
        address = f"https://127.0.0.1:{closed_port()}"
        with QClient([address], 5, 5, verify=str(certificates.ca)) as client:
            message = "403" if mode == "forbids" else "refuses connections"
            with pytest.raises(NoCacheAvailable, match=message) as raised:
                client.get("k", {})
            assert {attempt.outcome for attempt in raised.value.attempts} == {Outcome.CONNECT_FAILED}
            assert not client.node_status()[address].gone
            assert "hunter2" not in str(raised.value)
        assert bool(proxy.heads) == (mode == "forbids")


OPERATIONS: dict[str, Callable[[QClient], Any]] = {
    "get": lambda client: client.get("k", {}),
    "post": lambda client: client.post("k", TABLE),
    "delete": lambda client: client.delete("k"),
}
VARIABLES = {
    "http": ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"],
    "https": ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
}


def all_texts_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error) + repr(getattr(error, "attempts", ""))


def use_proxy(monkeypatch: pytest.MonkeyPatch, variable: str, url: str) -> None:
    for name in {"no_proxy", "NO_PROXY", *VARIABLES["http"], *VARIABLES["https"]}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, url)


def check_of(address: str) -> str:
    """What the connection's Test button says about a node."""
    settings = {"connect_timeout": 1, "read_timeout": 1, "verify": True, "cert": None, "auth": None}
    (check,) = check_nodes({"node_list": [address], **settings, "trust_env": True}, longest=5)
    return str(check)


@pytest.mark.parametrize(
    ("scheme", "variable"), [(scheme, name) for scheme in VARIABLES for name in VARIABLES[scheme]]
)
def test_a_proxy_that_refuses_connections_is_named_with_its_setting(
    scheme: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = closed_port()
    use_proxy(monkeypatch, variable, f"http://user:hunter2@127.0.0.1:{port}")
    address = f"{scheme}://10.0.0.1:9401"
    message = f"the proxy http://***@127.0.0.1:{port}, set by {variable}, refuses connections"
    for operation in OPERATIONS.values():
        with QClient([address], 5, 5) as client:
            with pytest.raises(NoCacheAvailable) as raised:
                operation(client)
            assert message in str(raised.value)
            assert "hunter2" not in all_texts_of(raised.value)
            assert not client.node_status()[address].gone
    assert message in check_of(address)
    assert "hunter2" not in check_of(address)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("login", ["", "user:hunter2@"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_proxy_that_answers_407_is_named_and_not_retried(
    operation: str, login: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectProxy("requires credentials") as proxy:
        use_proxy(monkeypatch, "ALL_PROXY", f"http://{login}{proxy.address}")
        address = f"{scheme}://10.0.0.1:9401"
        proxy_in_message = f"http://{'***@' if login else ''}{proxy.address}"
        refusal = "refuses the login and password of its URL" if login else "asks for a login and password"
        message = f"the proxy {proxy_in_message}, set by ALL_PROXY, {refusal} (407)"
        with QClient([address], 5, 5) as client:
            with pytest.raises(AuthenticationFailed) as raised:
                OPERATIONS[operation](client)
            assert message in str(raised.value)
            assert "hunter2" not in all_texts_of(raised.value)
            assert client.node_status()[address].state == "alive"
            # The first request never reached the node, so the second does not ask for its status first.
            with pytest.raises(AuthenticationFailed):
                OPERATIONS[operation](client)
        assert len(proxy.heads) == 2
        assert message in check_of(address)
        assert "hunter2" not in check_of(address)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("forbids", "opens no tunnel to the node: it answers 403 Forbidden"),
        ("not HTTP", "does not answer as an HTTP proxy"),
        ("resets", "cannot be reached or opens no tunnel (["),
        ("hangs", "did not take a connection and open a tunnel to the node in time"),
    ],
)
def test_a_proxy_that_opens_no_tunnel_is_named(
    mode: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectProxy(mode) as proxy:
        use_proxy(monkeypatch, "HTTPS_PROXY", f"http://user:hunter2@{proxy.address}")
        address = "https://10.0.0.1:9401"
        with QClient([address], 0.3, 5) as client, pytest.raises(QClientException) as raised:
            client.get("k", {})
        for text in (str(raised.value), check_of(address)):
            assert f"the proxy http://***@{proxy.address}, set by HTTPS_PROXY, {message}" in text
        assert "hunter2" not in all_texts_of(raised.value) + check_of(address)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        *((status, f"answers {status} for the node") for status in ("502", "503", "504")),
        ("closes", "closed the connection without an answer"),
    ],
)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_proxy_that_answers_for_the_node_is_named(
    operation: str, mode: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectProxy(mode) as proxy:
        use_proxy(monkeypatch, "http_proxy", f"http://user:hunter2@{proxy.address}")
        address = "http://10.0.0.1:9401"
        message = f"the proxy http://***@{proxy.address}, set by http_proxy, {message}. Check the proxy"
        with QClient([address], 5, 5) as client:
            with pytest.raises(NoCacheAvailable) as raised:
                OPERATIONS[operation](client)
            assert message in str(raised.value.attempts[0])
            assert [error for error in raised.value.nodes.values() if message not in error] == []
            assert not client.node_status()[address].gone
        assert message in check_of(address)
        assert "hunter2" not in all_texts_of(raised.value) + check_of(address)


def test_a_502_through_a_tunnel_is_not_blamed_on_the_proxy(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes from a proxy in front of the node, at the node's own address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server)

    def answer(peer: faults.Peer, request: object) -> None:
        peer.send(faults.head(502, 0))

    with (
        through_a_proxy("works", monkeypatch),
        FaultyNode(answer, tls=context, status=answer) as node,
        QClient([node.url], 5, 5, verify=str(certificates.ca)) as client,
        pytest.raises(NoCacheAvailable, match="a proxy in front of the node answers for it") as raised,
    ):
        client.get("k", {})
    assert "HTTPS_PROXY" not in str(raised.value)


def test_a_proxy_whose_name_is_unknown_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    use_proxy(monkeypatch, "http_proxy", "http://user:hunter2@proxy.invalid:3128")
    with QClient(["http://10.0.0.1:9401"], 5, 5) as client, pytest.raises(NoCacheAvailable) as raised:
        client.get("k", {})
    message = (
        "the proxy http://***@proxy.invalid:3128, set by http_proxy, has a name that cannot be looked up"
    )
    assert message in str(raised.value)
    assert message in check_of("http://10.0.0.1:9401")
    assert "hunter2" not in all_texts_of(raised.value)


def test_a_socks_proxy_is_refused_with_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    use_proxy(monkeypatch, "ALL_PROXY", "socks5://user:hunter2@127.0.0.1:1080")
    message = r"the proxy socks5://\*\*\*@127\.0\.0\.1:1080, set by ALL_PROXY, is a SOCKS proxy"
    with pytest.raises(ValueError, match=message):
        QClient(["http://10.0.0.1:9401"])
