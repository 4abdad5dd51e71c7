"""Servers to test against, a real QCache 0.9.3 and the dev node, and a client that can send them any bytes.

Both run as processes on free loopback ports and are ended by process id. Requests are bytes on a socket: a
library would add an Accept header, join duplicate headers or refuse to send what a test wants to send.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import IO, Self

import lz4.block
import trustme

from airflow_provider_qcache.devnode import LocalCluster, NodeStartError
from airflow_provider_qcache.devnode.__main__ import _parser as devnode_parser
from tests.harness.clock import Clock
from tests.harness.ports import closed_port

ROOT = Path(__file__).resolve().parents[2]

START_TIMEOUT = 120.0
"""Only for a server that hangs, on a busy machine too: one that fails ends, which is noticed at once."""
ANSWER_TIMEOUT = 30.0

HOW_TO_GET_THE_REAL_SERVER = "no Python 2.7 with QCache 0.9.3: `make real-server` installs it"

# The real server has no --host option and binds every interface. This makes it bind loopback only, and makes
# it end when the process that started it is gone.
_REAL_MAIN = """
import os, sys
import tornado.netutil, tornado.tcpserver
from tornado.ioloop import PeriodicCallback

def loopback(bind_sockets):
    return lambda port, address=None, **kwargs: bind_sockets(port, address="127.0.0.1", **kwargs)

tornado.tcpserver.bind_sockets = loopback(tornado.netutil.bind_sockets)
parent = os.getppid()
PeriodicCallback(lambda: os.getppid() == parent or os._exit(1), 500).start()

import qcache
qcache.main()
"""


class ServerFailedError(Exception):
    """A server did not start; the message has the end of its output."""


@cache
def real_python() -> str | None:
    """An interpreter that can import QCache; None if there is none."""
    named = os.environ.get("QCACHE_PYTHON")
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    installed = cache_home / "airflow-provider-qcache" / "qcache-0.9.3" / "bin" / "python"
    for candidate in (named, str(installed)):
        if candidate and Path(candidate).exists():
            found = subprocess.run([candidate, "-c", "import qcache"], capture_output=True, check=False)
            if found.returncode == 0:
                return candidate
    return None


def listens(port: int) -> bool:
    """Whether a server accepts connections on the port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def end(process: subprocess.Popen[bytes], by: signal.Signals) -> None:
    """End a process with a signal; with SIGKILL if it has not ended after 10 s."""
    if process.poll() is None:
        process.send_signal(by)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@dataclass
class Server:
    """A server process: `with Server.real("--age", "1") as server`."""

    name: str
    command: list[str]
    port: int
    tls: ssl.SSLContext | None = None
    clock: Clock | None = None
    """The server's clock, in place of the system's."""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    log: Path | None = field(default=None, repr=False)

    @classmethod
    def real(cls, *options: str, tls: ssl.SSLContext | None = None) -> Self:
        """QCache 0.9.3 with these options."""
        python = real_python()
        if python is None:
            raise ServerFailedError(HOW_TO_GET_THE_REAL_SERVER)
        port = closed_port()
        return cls("real", [python, "-c", _REAL_MAIN, f"--port={port}", *options], port, tls)

    @classmethod
    def dev(cls, *options: str, tls: ssl.SSLContext | None = None) -> Server:
        """The dev node with these options. With QCACHE_REAL_VS_REAL it is a second real server instead."""
        if os.environ.get("QCACHE_REAL_VS_REAL"):
            return cls.real(*options, tls=tls)
        return DevServer("dev", list(options), closed_port(), tls)

    @property
    def pid(self) -> int | None:
        """The process id; None if no process is running."""
        return self.process.pid if self.process is not None and self.process.poll() is None else None

    def kill(self) -> None:
        """End the process as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """Pause the process: it accepts connections and answers nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume the process after `pause`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    @property
    def url(self) -> str:
        """The node's URL."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start the process and wait until the server answers."""
        return self.launch().wait_until_up()

    def launch(self) -> Self:
        """Start the process without waiting."""
        descriptor, name = tempfile.mkstemp(prefix=f"qcache-{self.name}-", suffix=".log")
        self.log = Path(name)
        environment = {**os.environ, "PYTHONPATH": str(self.clock.directory)} if self.clock else None
        with os.fdopen(descriptor, "wb") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=ROOT
            )
        return self

    def wait_until_up(self) -> Self:
        """Wait until the server answers."""
        deadline = time.monotonic() + START_TIMEOUT
        while not listens(self.port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop(keep_log=True)
                printed = self.log.read_text(errors="replace")[-2000:]
                command = " ".join(self.command[2:])
                raise ServerFailedError(f"the {self.name} server did not start: {command}\n{printed}")
            time.sleep(0.02)
        return self

    def stop(self, *, keep_log: bool = False) -> None:
        """End the process."""
        if self.process is not None:
            end(self.process, signal.SIGTERM)
            self.process = None
        if self.log is not None and not keep_log:
            self.log.unlink(missing_ok=True)

    def printed(self) -> str:
        """The server's output so far."""
        return self.log.read_text(errors="replace") if self.log else ""

    def connect(self, timeout: float = ANSWER_TIMEOUT) -> Connection:
        """A new connection, after the TLS handshake if the server uses TLS."""
        return Connection(self, timeout)

    def ask(self, request: WireRequest) -> WireAnswer:
        """Send one request on a new connection."""
        with self.connect() as connection:
            return connection.ask(request)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()


def save_coverage(cluster: LocalCluster) -> None:
    """End the nodes by SIGTERM if coverage is measured: coverage.py writes what it measured at the end.

    `LocalCluster` ends nodes by SIGKILL.
    """
    if "COVERAGE_PROCESS_CONFIG" not in os.environ:
        return
    ends = time.monotonic() + 10
    for pid, code in zip(cluster.pids, cluster.exit_codes, strict=True):
        if code is None:
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGCONT)
    while None in cluster.exit_codes and time.monotonic() < ends:
        time.sleep(0.01)
    for number in range(len(cluster.pids)):
        cluster.kill(number)  # a slow node answers those that wait first


class DevServer(Server):
    """A dev node: a `LocalCluster` of one node, which ends with this process. ``command`` is its options."""

    _cluster: LocalCluster | None = None
    _output: IO[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id; None if no process is running."""
        return self._cluster.pids[0] if self._cluster and self._cluster.exit_codes == [None] else None

    def kill(self) -> None:
        """End the process as a crash would."""
        self._running().kill(0)

    def pause(self) -> None:
        """Pause the process: it accepts connections and answers nothing."""
        self._running().pause(0)

    def resume(self) -> None:
        """Resume the process after `pause`."""
        self._running().resume(0)

    def _running(self) -> LocalCluster:
        assert self._cluster is not None
        return self._cluster

    def launch(self) -> Self:
        """Start the node and wait until it answers."""
        options = vars(devnode_parser().parse_args(self.command))
        descriptor, name = tempfile.mkstemp(prefix=f"qcache-{self.name}-", suffix=".log")
        self.log, self._output = Path(name), os.fdopen(descriptor, "wb")
        own = ("size", "age", "statistics_buffer_size", "cert_file", "ca_file", "basic_auth")
        # The process that a LocalCluster starts uses this process's sys.path.
        clock = [str(self.clock.directory)] if self.clock else []
        sys.path[:0] = clock
        try:
            cluster = LocalCluster(
                1,
                ports=[self.port],
                start_timeout=START_TIMEOUT,
                log=self._output,
                **{option: options[option] for option in own},
            )
            cluster.start()
        except (NodeStartError, ValueError) as error:
            printed = self.printed()[-2000:]
            self.stop()
            raise ServerFailedError(f"the dev server did not start: {error}\n{printed}") from error
        finally:
            del sys.path[: len(clock)]
        self._cluster = cluster
        return self

    def wait_until_up(self) -> Self:
        """Do nothing: `launch` has waited."""
        return self

    def stop(self, *, keep_log: bool = False) -> None:
        """End the process."""
        if self._cluster is not None:
            save_coverage(self._cluster)
            self._cluster.close()
            self._cluster = None
        if self._output is not None:
            self._output.close()
            self._output = None
        super().stop(keep_log=keep_log)


@dataclass(frozen=True)
class WireRequest:
    """A request to send as it is. Only missing Host and Content-Length headers are added."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None

    def has_header(self, name: str) -> bool:
        """Whether the request has the header."""
        return any(other.lower() == name.lower() for other, _ in self.headers)

    def with_headers(self, *headers: tuple[str, str]) -> WireRequest:
        """The same request with more headers."""
        return replace(self, headers=(*self.headers, *headers))

    def encode(self) -> bytes:
        """The request as bytes."""
        lines = [f"{self.method} {self.target} HTTP/1.1"]
        if not self.has_header("Host"):
            lines.append("Host: qcache.test")
        lines += [f"{name}: {value}" for name, value in self.headers]
        if (
            self.body is not None
            and not self.has_header("Content-Length")
            and not self.has_header("Transfer-Encoding")
        ):
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + (self.body or b"")


@dataclass(frozen=True)
class WireAnswer:
    """An answer as received; `status` is 0 if the connection ended without one."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    raw_body: bytes = b""

    def header(self, name: str) -> str | None:
        """The header's value; duplicates are joined with commas; None if absent."""
        values = [value for other, value in self.headers if other.lower() == name.lower()]
        return ", ".join(values) if values else None

    @property
    def body(self) -> bytes:
        """The body, decompressed."""
        encoding = self.header("Content-Encoding")
        if encoding == "lz4":
            return lz4.block.decompress(self.raw_body)
        if encoding == "gzip":
            return gzip.decompress(self.raw_body)
        return self.raw_body

    @property
    def unsliced_length(self) -> int | None:
        """The number of rows before offset and limit."""
        value = self.header("X-QCache-unsliced-length")
        return None if value is None else int(value)


NO_ANSWER = WireAnswer(0)


@dataclass(frozen=True)
class Certificates:
    """PEM files, made for a test."""

    server: Path
    """The server's key and certificate in one file."""
    ca: Path
    client: Path
    """A client's key and certificate in one file."""
    stranger: Path
    """Key and certificate of a client that another CA signed."""

    def context(self, client: Path | None = None) -> ssl.SSLContext:
        """A client's TLS context that trusts the server."""
        context = ssl.create_default_context(cafile=self.ca)
        if client is not None:
            context.load_cert_chain(client)
        return context


def make_certificates(directory: Path) -> Certificates:
    """Make certificates for localhost and for clients."""
    ca, other_ca = trustme.CA(), trustme.CA()
    made = Certificates(*(directory / f"{name}.pem" for name in ("server", "ca", "client", "stranger")))
    ca.cert_pem.write_to_path(str(made.ca))
    ca.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(made.server))
    ca.issue_cert("client@qcache.test").private_key_and_cert_chain_pem.write_to_path(str(made.client))
    stranger = other_ca.issue_cert("stranger@qcache.test")
    stranger.private_key_and_cert_chain_pem.write_to_path(str(made.stranger))
    return made


class Connection:
    """A connection on which answers are read one by one, also those to pipelined requests."""

    def __init__(self, server: Server, timeout: float = ANSWER_TIMEOUT) -> None:
        self.server = server
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if server.tls is not None:
            self._socket = server.tls.wrap_socket(self._socket, server_hostname="localhost")
        self._stream = self._socket.makefile("rb")

    def send(self, data: bytes) -> bool:
        """Send bytes; False if the server has closed the connection."""
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            return False
        return True

    def half_close(self) -> None:
        """Close the sending side of the connection."""
        self._socket.shutdown(socket.SHUT_WR)

    def receive(self, method: str = "GET") -> WireAnswer:
        """The next answer, which may be an interim one; NO_ANSWER if the connection ended."""
        try:
            return self._receive(method)
        except (ConnectionError, ssl.SSLError):
            return NO_ANSWER

    def _receive(self, method: str) -> WireAnswer:
        first = self._stream.readline()
        if not first.endswith(b"\n"):
            return NO_ANSWER
        status = int(first.split(b" ", 2)[1])
        headers = []
        while (line := self._stream.readline()) not in (b"\r\n", b"\n"):
            if not line:
                return NO_ANSWER
            name, _, value = line.decode("latin-1").partition(":")
            headers.append((name.strip(), value.strip()))
        answer = WireAnswer(status, tuple(headers))
        if method == "HEAD" or status in (204, 304) or status < 200:
            return answer
        if (answer.header("Transfer-Encoding") or "").lower() == "chunked":
            body = self._chunks()
        elif (length := answer.header("Content-Length")) is not None:
            body = self._stream.read(int(length))
        else:
            body = self._stream.read()
        return replace(answer, raw_body=body)

    def _chunks(self) -> bytes:
        chunks = []
        while size := int(self._stream.readline().split(b";")[0], 16):
            chunks.append(self._stream.read(size))
            self._stream.readline()
        while self._stream.readline() not in (b"\r\n", b""):
            pass
        return b"".join(chunks)

    def ask(self, request: WireRequest) -> WireAnswer:
        """Send a request and read its answer, which may come before the server has read all of it."""
        self.send(request.encode())
        return self.receive(request.method)

    def is_open(self) -> bool:
        """Whether the server still answers on this connection."""
        return self.send(WireRequest("GET", "/qcache/status").encode()) and self.receive().status != 0

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self._stream.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
