"""One request to one node: requests' adapter and urllib3's pools, with sockets that keep the time.

Only this module handles the exceptions of requests, urllib3, http.client, ssl and socket. It turns them into
a ``Failure``, which has the phase of the request. Those exceptions do not: a TLS handshake that times out is
requests' ReadTimeout, and a send that times out its ConnectionError.

It does not use a Session, which looks up proxies, CA bundle and netrc for every request: that happens once
per node. Nor does it use urllib3's ``urlopen``, which sends a body under the connect timeout, so that a busy
node fails, and whose total timeout does not apply once bytes arrive.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import errno
import functools
import http.client
import io
import ipaddress
import os
import re
import socket
import ssl
import struct
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

import requests
import requests.adapters
import requests.auth
import requests.utils
import urllib3.exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.connection import is_connection_dropped

from airflow_provider_qcache.client import compression
from airflow_provider_qcache.client.certificates import ca_bundle, tls_context
from airflow_provider_qcache.client.errors import LOCAL_ERRORS, Outcome, Phase, redacted
from airflow_provider_qcache.client.outcome import (
    MAX_ERROR_BODY,
    UNAVAILABLE,
    Answer,
    Failure,
    RequestKind,
    count_in,
    is_complete,
)
from airflow_provider_qcache.client.secrets import Redactor, secrets_of, secrets_of_url
from airflow_provider_qcache.client.tables.headers import check_header, header_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from airflow_provider_qcache.client.settings import ClientSettings
    from airflow_provider_qcache.client.tables.upload import Upload

_FOREVER: Final = float("inf")
_POOL_SIZE: Final = 64
_READ_AT_ONCE: Final = 256 * 1024
_LEAST_PER_ADDRESS: Final = 0.1
"""Seconds that each address of a name has at least to accept a connection, whatever the connect timeout."""

_A_MOMENT: Final = 0.02
"""Seconds by which the timeout of a socket may exceed the time that its request has left."""

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: close() discards unsent data and sends a RST."""

_MAX_LINE: Final = 64 * 1024
_MAX_HEADERS: Final = 100
"""Bytes of a header line, and header lines of an answer; the limits of http.client."""

_ANSWER_TO_CONNECT: Final = re.compile(r"Tunnel connection failed: (?P<answer>(?P<status>\d+).*)", re.DOTALL)
"""The text of the OSError that http.client raises if a proxy opens no tunnel."""

_USUAL_VALUE: Final = re.compile(
    r"[0-9]{1,20}|lz4|gzip|identity|(?:application/json|text/csv|text/html|text/plain)(?:; ?charset=utf-8)?",
    re.IGNORECASE,
).fullmatch
"""Matches usual values of headers. Searching them for secrets would take time."""

_REPLACEABLE: Final = re.compile(rb"(?im)^(?:(?:proxy-)?authorization|user-agent):").search
"""Matches header lines with which the caller replaces the client's own."""

_MAX_CHUNK_LINE: Final = 1024
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\n]*)?\r?\n").fullmatch

STORE_BYTES_PER_SECOND: Final = 5_000_000
"""The slowest rate at which a node receives and parses a body; it parses JSON at 14 MB/s."""


class Peer(NamedTuple):
    """The other end of a connection: its address and port, the proxy's if there is one.

    ``is_local`` says that it is this machine, ``addresses`` are all addresses of its name. Two peers with one
    address and port are one process, or nodes behind one proxy or load balancer.
    """

    address: str
    port: int
    is_local: bool
    addresses: frozenset[str]

    def may_be(self, other: Peer) -> bool:
        """Whether both may be one process at two addresses: a process has one port."""
        return self.port == other.port and (
            (self.is_local and other.is_local) or not self.addresses.isdisjoint(other.addresses)
        )


class SkippedPeer(Exception):
    """A request was not sent, because ``Request.skip`` excluded the other end of the connection."""


class _SourceFailed(Exception):
    """Reading the body failed on this side, with the exception in ``args``, of any class."""


@dataclasses.dataclass(slots=True, eq=False)
class Request:
    """One request, to the first of ``nodes`` that is alive.

    ``target`` follows the node's ``base`` in the request line, ``headers`` are whole lines. The body is
    ``body``, or the table of ``upload``. ``accept_encoding`` is the caller's own Accept-Encoding: an answer
    in such an encoding is not decoded. If ``skip(peer)`` is true for the connection's peer, nothing is sent,
    and SkippedPeer is raised. The peer of each node that it is sent to is added to ``peers``.

    ``what`` names the operation in errors and logs. ``wait_for_nodes=False`` overrides the policy's.
    ``turns`` has a lock for each node, which is held while the request is sent.
    """

    method: str
    target: str
    headers: bytes = b""
    body: bytes | None = None
    upload: Upload | None = None
    accept_encoding: str | None = None
    skip: Callable[[Peer], bool] | None = None
    peers: dict[str, Peer] | None = None
    kind: RequestKind = RequestKind.QUERY
    what: str = ""
    nodes: Sequence[str] = ()
    repeatable: bool = True
    wait_for_nodes: bool = True
    turns: Mapping[str, threading.Lock] | None = None


@dataclasses.dataclass(slots=True, eq=False, repr=False)
class Limit:
    """The time limits of a request, which its socket checks before every operation.

    ``deadline`` is the operation's, ``stage_end`` that of the current phase, and ``idle`` the seconds of a
    single wait. ``abandoned`` says that a store or delete was sent, at least in part, and is not answered. If
    it ends so, it is added to ``abandoned_writes``, the writes that its node may still apply.
    """

    now: Callable[[], float]
    deadline: float
    abandoned_writes: set[Limit] | None = None
    stage_end: float = _FOREVER
    idle: float = _FOREVER
    phase: Phase = Phase.CONNECT
    received: bool = False
    cancelled: bool = False
    abandoned: bool = False
    sock: socket.socket | None = None

    def left(self) -> float | None:
        """Seconds the next operation of the socket may take; None for no limit.

        Raises TimeoutError if the deadline or the end of the phase has passed, Failure after ``cancel``.
        """
        if self.cancelled:
            raise Failure(Outcome.CANCELLED, self.phase)
        end = min(self.deadline, self.stage_end)
        if end == _FOREVER:
            return None if self.idle == _FOREVER else self.idle
        left = end - self.now()
        if left <= 0:
            raise TimeoutError("timed out")
        return min(left, self.idle)

    def check(self) -> None:
        """Raise Failure if the request was cancelled or its deadline passed: for work without the socket."""
        if self.cancelled:
            raise Failure(Outcome.CANCELLED, self.phase)
        if self.now() >= self.deadline:
            raise Failure(Outcome.DEADLINE, self.phase)

    def cancel(self) -> None:
        """End the request, from another thread or a signal handler. Takes no lock."""
        self.cancelled = True
        sock = self.sock
        if sock is not None:
            # Not SSLSocket.shutdown, which drops the TLS state while a read uses it.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        # The request's own thread would do so later, perhaps after the next request of cancel()'s caller.
        self.note_if_abandoned()

    def note_if_abandoned(self) -> None:
        """Add an abandoned store or delete to those that its node may still apply."""
        if self.abandoned and self.abandoned_writes is not None:
            self.abandoned_writes.add(self)


class _DeadlineSocket(socket.socket):
    """A socket that sets its timeout to the time that its request has left, before every operation."""

    limit: Limit

    def keep_limit(self) -> None:
        """Set the timeout for the next operation; raises what ``Limit.left`` raises."""
        left = self.limit.left()
        known = self.gettimeout()
        # Setting a timeout is a system call, and not needed if the timeout is only a moment too long.
        if left is None or known is None or not left <= known <= left + _A_MOMENT:
            self.settimeout(left)

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.keep_limit()
        count = super().recv_into(*args, **kwargs)
        if count:
            self.limit.received = True
        return count

    def send(self, *args: Any, **kwargs: Any) -> int:
        self.keep_limit()
        return super().send(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        self.keep_limit()
        super().sendall(*args, **kwargs)


_handshaking = threading.local()


class _DeadlineTlsSocket(_DeadlineSocket, ssl.SSLSocket):
    """The same over TLS, where sendall calls send for each record it can write."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002  # SSLSocket's signature
        # SSLContext.wrap_socket creates the socket and shakes hands in one call, which takes no limit.
        limit: Limit = _handshaking.limit
        self.limit = limit
        limit.sock = self
        limit.phase = Phase.TLS
        self.settimeout(limit.left())
        super().do_handshake(block)


class _Connection(HTTPConnection):
    """A urllib3 connection whose sockets keep a Limit. ``limit`` is set before it connects."""

    limit: Limit
    addresses: frozenset[str] = frozenset()
    reached: Any = None
    """The address that accepted the connection."""

    def _new_conn(self) -> socket.socket:
        limit = self.limit
        limit.phase = Phase.NAME
        host = self._dns_host.strip("[]")
        try:
            addresses = socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            # glibc reports an unknown name if this machine has no memory or descriptor left.
            if error.errno == socket.EAI_MEMORY:
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from error
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()  # raises the machine's own error
            raise
        limit.phase = Phase.CONNECT
        self.addresses = frozenset(str(found[4][0]) for found in addresses)
        end = limit.stage_end
        errors: list[OSError] = []
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            now = limit.now()
            # The remaining time is divided among the remaining addresses.
            limit.stage_end = now + max(_LEAST_PER_ADDRESS, (end - now) / (len(addresses) - number))
            sock = None
            try:
                sock = _DeadlineSocket(family, kind, protocol)
                sock.limit = limit
                limit.sock = sock
                for option in self.socket_options or ():
                    sock.setsockopt(*option)
                sock.settimeout(limit.left())
                sock.connect(address)
            except BaseException as error:
                if sock is not None:
                    sock.close()
                if not isinstance(error, OSError) or limit.cancelled or limit.now() >= limit.deadline:
                    raise
                errors.append(_without_source_address(family, address, error))
            else:
                self.reached = address
                limit.stage_end = max(end, limit.now() + _LEAST_PER_ADDRESS)
                sock.settimeout(limit.left())
                return sock
        raise min(errors, key=_rank, default=OSError("the name has no address"))


class _NoSourceAddress(OSError):
    """This machine has no source address for a destination, such as IPv6 on a machine without IPv6."""


def _without_source_address(family: int, address: Any, error: OSError) -> OSError:
    """The error, or a more precise one: EADDRNOTAVAIL means both "no free port" and "no source address"."""
    if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return error
    if error.errno == errno.EADDRNOTAVAIL:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect(address)  # sends nothing
        except OSError as second:
            if second.errno in LOCAL_ERRORS - {errno.EADDRNOTAVAIL}:
                return second
        else:
            return error
    if ipaddress.ip_address(address[0].partition("%")[0]).is_loopback:
        # Nothing can listen there: ``localhost`` is often ::1 too, on machines without IPv6.
        return _NoSourceAddress(str(error))
    return OSError(str(error))


def _rank(error: OSError) -> int:
    """Which error of its addresses is a name's, the lowest: "refused" only if every address refused."""
    if isinstance(error, _NoSourceAddress):
        return 3
    return 0 if error.errno in LOCAL_ERRORS else 2 if isinstance(error, ConnectionRefusedError) else 1


class _TlsConnection(_Connection, HTTPSConnection):
    """The same with TLS."""

    def connect(self) -> None:
        _handshaking.limit = self.limit
        HTTPSConnection.connect(self)


@dataclasses.dataclass(frozen=True, slots=True)
class _Proxy:
    """The proxy in front of a node: its URL without credentials, and the setting that names it."""

    url: str
    setting: str

    @classmethod
    def of(cls, scheme: str, proxies: dict[str, str]) -> _Proxy | None:
        """The proxy that requests uses for a scheme, of those that the environment sets; None for none.

        Raises ValueError for a proxy that is not supported.
        """
        kind = scheme if scheme in proxies else "all"
        if kind not in proxies:
            return None
        url = proxies[kind]
        variable = f"{kind}_proxy"
        names = [name for name in os.environ if name.lower() == variable and os.environ[name] == url]
        # The lower-case name wins, and sorts last.
        proxy = cls(redacted(url), max(names, default="the system's proxy settings"))
        if re.match("socks[^/]*://", proxy.url, re.IGNORECASE):
            raise ValueError(f"{proxy}, is a SOCKS proxy, which is not supported: use an HTTP proxy")
        if proxy.url.lower().startswith("https://"):
            # TLS within TLS would not use our sockets, which keep the time limits.
            raise ValueError(
                f"{proxy}, is an https:// proxy, which is not supported: use an http:// proxy, which "
                "supports https nodes as well"
            )
        return proxy

    def __str__(self) -> str:
        return f"the proxy {self.url}, set by {self.setting}"

    def failed(self, what: str) -> OSError:
        """The error for a failure of the proxy, with what to do."""
        return OSError(
            f"{self}, {what}. Check the proxy and {self.setting}; to reach the node without a proxy, list "
            "the node's host in no_proxy or set trust_env to false"
        )


class _Adapter(requests.adapters.HTTPAdapter):
    """requests' adapter, with one TLS context for all connections."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        super().__init__(pool_connections=1, pool_maxsize=_POOL_SIZE)

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> tuple[Any, Any]:
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {} if self._context is None else {"ssl_context": self._context}


class Headers:
    """An answer's headers, by names in any case; the first of several with one name.

    ``redactor`` replaces secrets in values: a node or a proxy may repeat those of the request.
    """

    __slots__ = ("_values", "redactor")

    def __init__(self, lines: Iterable[bytes] = ()) -> None:
        self.redactor: Callable[[], Redactor] | None = None
        values: dict[str, str] = {}
        last = ""
        for line in lines:
            text = line.decode("latin-1")
            name, colon, value = text.partition(":")
            if text[0] in " \t":  # it continues the line before
                if last:
                    values[last] = f"{values[last]} {text.strip()}"
            elif colon and (last := name.lower()) not in values:
                values[last] = value.strip()
            else:
                last = ""
        self._values = values

    def get(self, name: str) -> str | None:
        """A header's value, or None."""
        value = self._values.get(name.lower())
        if value is None or self.redactor is None or _USUAL_VALUE(value):
            return value
        return self.redactor().clean(value)

    @property
    def media_type(self) -> str:
        """The Content-Type in lower case without its parameters, or an empty string."""
        return (self.get("Content-Type") or "").partition(";")[0].strip().lower()


class _Response(http.client.HTTPResponse):
    """A response whose head and chunks are read here; http.client reads other bodies.

    http.client accepts a head that is cut off, so that a truncated response would acknowledge a store. It
    reads the chunks of a 304, which has no body, without end, and a chunk of -1 bytes until the connection
    ends. Its e-mail parser takes 39 us for a node's head, this one 11 us: the difference is more than a tenth
    of the client's own time for a request.
    """

    head: Headers

    def begin(self) -> None:
        while True:
            version, status, _ = self._read_status()  # type: ignore[attr-defined]  # private, but old
            lines = self._head_lines()
            if status == http.client.SWITCHING_PROTOCOLS or not 100 <= status < 200:
                break
        if not version.startswith(("HTTP/1.", "HTTP/0.")):
            raise http.client.UnknownProtocol(version)
        headers = self.head = Headers(lines)
        self.status = status
        self.version = 10 if version in ("HTTP/1.0", "HTTP/0.9") else 11
        self.chunked = (headers.get("Transfer-Encoding") or "").lower() == "chunked"
        self.length = None
        no_body = status in (101, 204, 304)
        chunks_of_no_body = no_body and self.chunked
        if no_body:
            self.length = 0
            self.chunked = False
        elif not self.chunked:
            self.length = count_in(headers.get("Content-Length"))
        connection = (headers.get("Connection") or "").lower()
        keeps = "keep-alive" in connection if self.version == 10 else "close" not in connection
        self.will_close = (
            not keeps
            or (self.length is None and not self.chunked)
            or status == http.client.SWITCHING_PROTOCOLS  # what follows is no HTTP
            or chunks_of_no_body  # they would be read as the next answer
        )

    def pieces(self) -> Iterator[bytes]:
        """Yield the body; raises IncompleteRead if it is cut off, or a chunk is malformed."""
        if not self.chunked:
            yield from iter(functools.partial(self.read, _READ_AT_ONCE), b"")
            return
        while left := self._chunk_size():
            while left:
                piece = self.fp.read(min(left, _READ_AT_ONCE))
                if not piece:
                    raise http.client.IncompleteRead(b"", left)
                left -= len(piece)
                yield piece
            if self.fp.readline(2) not in (b"\r\n", b"\n"):
                raise http.client.IncompleteRead(b"")
        self._head_lines()  # the trailers
        self.close()

    def _chunk_size(self) -> int:
        size = _CHUNK_SIZE(self.fp.readline(_MAX_CHUNK_LINE))
        if size is None:
            raise http.client.IncompleteRead(b"")
        return int(size[1], 16)

    def _head_lines(self) -> list[bytes]:
        lines: list[bytes] = []
        while True:
            line = self.fp.readline(_MAX_LINE + 1)
            if len(line) > _MAX_LINE:
                raise http.client.LineTooLong("header line")
            if line in (b"\r\n", b"\n"):
                return lines
            if line[-1:] != b"\n":
                raise http.client.IncompleteRead(line)
            lines.append(line)
            if len(lines) > _MAX_HEADERS:
                raise http.client.HTTPException(f"the answer has more than {_MAX_HEADERS} headers")


def _check_auth(where: str, auth: Any) -> None:
    """Raise ValueError, without the value, for an invalid auth, and basic auth that a node cannot parse."""
    if isinstance(auth, requests.auth.HTTPBasicAuth) and not isinstance(auth, requests.auth.HTTPProxyAuth):
        auth = auth.username, auth.password
    if not isinstance(auth, tuple) or len(auth) != 2:
        if auth is None or callable(auth):
            return
        raise ValueError(
            f"{where} is of type {type(auth).__name__}: it must be (login, password), None or an auth object "
            "of requests"
        )
    for name, value in zip(("login", "password"), auth, strict=True):
        text = header_text(value)
        if ":" in text:
            raise ValueError(
                f"{where}: the {name} contains a ':', on which a node closes the connection without an "
                f"answer: use a {name} without ':'"
            )
        if max(text, default="") > "\xff":
            why = "contains characters outside latin-1: pass it as encoded bytes"
            raise ValueError(f"{where}: the {name} {why}")


def _check_authorization(value: Any) -> None:
    """Raise ValueError, without the value, for an Authorization of basic auth that a node cannot parse."""
    text = header_text(value)
    if not text.startswith("Basic "):
        return  # a node answers 401
    try:
        colons = base64.b64decode(text[6:]).count(b":")
    except binascii.Error:
        colons = 0
    if colons != 1:
        raise ValueError(
            "auth: its Basic Authorization header must be the base64 of login:password with exactly one ':'. "
            "On any other a node closes the connection without an answer."
        )


class NodeTransport:
    """The connections to one node, with the settings of the environment, which are looked up once.

    ``contexts`` are the TLS contexts of the client's other nodes, by the place of their CA certificates: a
    file of certificates is read once for all nodes. Raises ValueError for a node string, proxy, certificate
    or auth that cannot be used.
    """

    def __init__(
        self, node: str, settings: ClientSettings, contexts: dict[bool | str, ssl.SSLContext]
    ) -> None:
        self.node = node
        self._settings = settings
        named, url = f"node {redacted(node)!r}", ""
        try:
            parts = urlsplit(node)
            url = requests.Request("GET", node.rstrip("/") + "/qcache/status").prepare().url or ""
        except ValueError:  # requests' InvalidURL is one; their texts may contain a password
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{named} is not an http or https URL: write it like http://host1:9401")
        if parts.query or parts.fragment:
            raise ValueError(f"{named} has a query or a fragment: write only scheme, host, port and path")
        if "@" in parts.path:
            raise ValueError(
                f"{named} has an '@' in its path: write a '/' in a login or password as %2F, and an '@' in a "
                "path as %40"
            )
        auth, where = settings.auth, "auth"
        if auth is None and any(of_url := requests.utils.get_auth_from_url(node)):
            auth, where = of_url, named
        verify = settings.verify
        proxies: dict[str, str] = {}
        if settings.trust_env:
            proxies = dict(requests.utils.get_environ_proxies(url, no_proxy=None))
            verify = ca_bundle(verify)
            if auth is None:
                auth = requests.utils.get_netrc_auth(url)
                where = f"the netrc's entry for {named}"
        _check_auth(where, auth)
        request = requests.Request("GET", url, auth=auth).prepare()
        if "Authorization" in request.headers:
            _check_authorization(request.headers["Authorization"])
        context = None
        if parts.scheme == "https":
            context = contexts.get(verify)
            if context is None:
                context = contexts[verify] = tls_context(verify, settings.cert)
                context.sslsocket_class = _DeadlineTlsSocket
        proxy = self._proxy = _Proxy.of(parts.scheme, proxies)
        adapter = _Adapter(context)
        # Any: requests' types do not declare what urllib3 returns for its subclasses.
        try:
            pool: Any = adapter.get_connection_with_tls_context(request, verify, proxies=proxies, cert=None)
        # TypeError is requests' own, for a URL of credentials alone.
        except (TypeError, requests.exceptions.InvalidProxyURL, urllib3.exceptions.LocationValueError):
            # The URL of a node has a host by now. The texts of these errors may contain a password.
            raise ValueError(f"{proxy}, is not a URL with a host, such as http://proxy:3128") from None
        target: str = adapter.request_url(request, proxies)
        self.base = target.removesuffix("/status")
        """The start of every request target: the path, or the whole URL if a proxy forwards requests."""
        pool.ConnectionCls = _Connection if context is None else _TlsConnection
        self._pool = pool
        # Not the pool's queue, which takes several locks.
        self._idle: deque[Any] = deque()
        self._closed = False
        self._tunnel = proxy is not None and context is not None
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        host += "" if parts.port is None else f":{parts.port}"
        fixed = {"Host": host, "User-Agent": "airflow-provider-qcache"}
        if not self._tunnel:
            fixed.update(pool.proxy_headers)
        if "Authorization" in request.headers:
            fixed["Authorization"] = request.headers["Authorization"]
        self._own = {
            f"\r\n{name.lower()}:".encode(): check_header(name, value) for name, value in fixed.items()
        }
        self._head = b"".join(self._own.values())
        self.secrets = secrets_of(self._head) | secrets_of_url(node)
        """Every credential in requests to the node; see ``spellings``."""
        if proxy is not None:
            lines = (check_header(name, value) for name, value in pool.proxy_headers.items())
            self.secrets |= secrets_of(b"".join(lines)).union(*map(secrets_of_url, proxies.values()))
        self._redactor: Redactor | None = None

    def head_size(self, target: str, headers: bytes) -> int:
        """Bytes of the head of a request, with the request line and the blank line."""
        return len(target) + len(self._head) + len(headers) + 32

    def exchange(self, request: Request, limit: Limit, *, fresh: bool = False) -> Answer:
        """Send one request, on a new connection if ``fresh``, and read its answer.

        Raises Failure, or what the source of its body raises.
        """
        upload, headers = request.upload, request.headers
        store = upload is not None
        settings = self._settings
        connection = None
        reused = False
        changes = False
        body, length = (request.body, None) if upload is None else upload.body(limit.check)
        try:
            limit.stage_end = limit.now() + settings.connect_timeout
            connection = self._take_connection(fresh=fresh)
            connection.limit = limit
            sock: Any = connection.sock
            reused = sock is not None
            if not reused:
                self._connect(connection)
                limit.received = False  # a proxy's answer to CONNECT is not the node's
                sock = connection.sock
            sock.limit = limit
            limit.sock = sock
            peer: Peer = connection.peer
            if request.skip is not None and request.skip(peer):
                skipped, connection = connection, None
                self._give_back(skipped)
                raise SkippedPeer(f"{peer.address}:{peer.port}")  # noqa: TRY301
            if request.peers is not None:
                request.peers[self.node] = peer
            limit.phase = Phase.SEND
            own = self._head
            if _REPLACEABLE(headers) is not None:
                given = b"\r\n" + headers.lower()
                own = b"".join(kept for name, kept in self._own.items() if name not in given)
            line = f"{request.method} {self.base}{request.target} HTTP/1.1\r\n"
            head = line.encode("latin-1") + own + headers
            limit.stage_end = limit.now() + (self.store_time(length) if store else settings.read_timeout)
            answered_early = False
            # True until the answer is read: an interrupt may come at any line.
            limit.abandoned = changes = store or request.method == "DELETE"
            try:
                if body is None:
                    sock.sendall(head + b"\r\n")
                elif not isinstance(body, bytes):
                    self._send_stream(sock, head, body, length, limit)
                else:
                    sock.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body[:_READ_AT_ONCE])
                    if len(body) > _READ_AT_ONCE:
                        sock.sendall(memoryview(body)[_READ_AT_ONCE:])
            except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
                # A node may answer and close the connection before it has read everything.
                answered_early = True
            limit.phase = Phase.HEAD
            if not store:
                limit.stage_end = limit.now() + settings.read_timeout
            response = _Response(sock, method=request.method)
            try:
                response.begin()
                response.head.redactor = functools.partial(self.redactor, headers)
                limit.phase = Phase.BODY
                limit.idle = settings.read_timeout
                # The status of any other answer is enough: its body has one read timeout.
                is_result = response.status == 200 and not changes
                limit.stage_end = _FOREVER if is_result else limit.now() + settings.read_timeout
                if answered_early and response.status < 300:
                    raise Failure(Outcome.NOT_QCACHE, Phase.HEAD, detail="it came before the body was sent")
                answer = self._read(response, limit, request.accept_encoding, is_result=is_result)
                reusable = response.isclosed() and not response.will_close and not answered_early
            finally:
                response.close()
        except BaseException as error:
            if isinstance(error, _SourceFailed):
                limit.abandoned = False  # the node does not get the end of the body
            if connection is not None:
                _close_at_once(connection, reset=changes)
            limit.sock = None
            if isinstance(error, _SourceFailed):
                raise error.args[0] from None
            if isinstance(error, Exception):
                # A node or a proxy may repeat the request's secrets.
                self.redactor(headers).clean_error(error)
            failure = self._failure(error, limit, reused=reused)
            if failure is not None and failure.before_answer and failure.outcome is Outcome.CLOSED:
                limit.abandoned = False  # the node had closed the connection before
            if failure is None:
                raise
            raise failure from error
        finally:
            if body is not None and not isinstance(body, bytes):
                # The traceback of a failure refers to the stream, with open files and batches.
                body.close()
        limit.abandoned = False
        limit.sock = None
        if reusable:
            self._give_back(connection)
        else:
            connection.close()
        proxy = self._proxy
        if proxy is None:
            return answer
        if answer.status == http.client.PROXY_AUTHENTICATION_REQUIRED:
            raise self._proxy_wants_credentials(proxy, Phase.HEAD)
        # In a tunnel, the node itself answers, or a server in front of it.
        if answer.status in UNAVAILABLE and not self._tunnel:
            from_proxy = str(proxy.failed(f"answers {answer.status} for the node"))
            return dataclasses.replace(answer, from_proxy=from_proxy)
        return answer

    def redactor(self, headers: bytes = b"") -> Redactor:
        """What removes the secrets of a request with these header lines from texts."""
        if headers and (found := secrets_of(headers)):
            return Redactor(found | self.secrets)
        if self._redactor is None:
            self._redactor = Redactor(self.secrets)
        return self._redactor

    def _give_back(self, connection: Any) -> None:
        if len(self._idle) >= _POOL_SIZE:
            connection.close()
            return
        self._idle.append(connection)
        if self._closed:
            self.close()

    def _take_connection(self, *, fresh: bool) -> Any:
        """An idle connection that is not known to be closed, or a new one."""
        try:
            connection = self._idle.pop()
        except IndexError:
            return self._pool._new_conn()
        if fresh or is_connection_dropped(connection):
            connection.close()
        return connection

    def _connect(self, connection: Any) -> None:
        pool = self._pool
        if self._tunnel:
            pool._prepare_proxy(connection)
        else:
            connection.connect()
        sock = connection.sock
        try:
            address, port = sock.getpeername()[:2]
        except OSError:  # the node has reset the connection: sending or reading raises the error
            address, port = connection.reached[:2]
        is_loopback = ipaddress.ip_address(address.partition("%")[0]).is_loopback
        is_local = is_loopback or address == sock.getsockname()[0]
        connection.peer = Peer(address, port, is_local, connection.addresses)

    def store_time(self, length: int | None) -> float:
        """Seconds a node may take to receive and parse a body of this length."""
        if self._settings.store_timeout is not None:
            return self._settings.store_timeout
        # qclient waits ten read timeouts for the answer to a store.
        return max(10 * self._settings.read_timeout, (length or 0) / STORE_BYTES_PER_SECOND)

    def _send_stream(
        self, sock: Any, head: bytes, pieces: Iterator[bytes], length: int | None, limit: Limit
    ) -> None:
        now = limit.now
        framing = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
        started = now()
        sent = 0
        own_time = 0.0
        # With a length of 0 the head alone is a complete request. So it is sent with the first piece, which
        # an empty body does not have: its check fails.
        start = head + framing + b"\r\n\r\n"
        while True:
            before = now()
            try:
                piece = next(pieces, None)
            except Exception as error:
                raise _SourceFailed(error) from error
            # The store timeout is the node's, and excludes the time that the body's source takes.
            own_time += now() - before
            if piece is None:
                break
            sent += len(piece)
            limit.stage_end = started + own_time + self.store_time(sent if length is None else length)
            sock.sendall(start + (piece if length is not None else b"%x\r\n%b\r\n" % (len(piece), piece)))
            start = b""
            if sent == length:
                break  # the node has the table: what goes wrong in the source now is no failure of the body
        limit.stage_end = started + own_time + self.store_time(sent if length is None else length)
        if length is None:
            sock.sendall(b"0\r\n\r\n")

    def _read(
        self, response: _Response, limit: Limit, accept_encoding: str | None, *, is_result: bool
    ) -> Answer:
        status = response.status
        headers = response.head
        content_encoding = headers.get("Content-Encoding")
        if is_result:
            most = self._settings.max_response_bytes or _FOREVER
            is_sized = response.length is not None or response.chunked
            stays_encoded = compression.stays_encoded(content_encoding, accept_encoding)
            try:
                # Incompressible data grows a little in gzip and lz4.
                content = raw = _read_all(response, most if stays_encoded else most * 129 / 128 + 1024)
                if not stays_encoded:
                    content = compression.decode(raw, content_encoding, most, limit.left)
            except compression.Undecodable as error:
                raise Failure(error.outcome, Phase.BODY, error, status=status) from error
            # gzip and lz4 that are cut off cannot be decoded.
            complete = is_sized or stays_encoded or content is not raw
            complete = complete or is_complete(content, headers.media_type, limit.left)
            return Answer(status, headers, content, content_encoding, complete, stays_encoded)
        try:
            raw = _read_all(response, MAX_ERROR_BODY)
        except (OSError, http.client.HTTPException, compression.Undecodable):
            response.will_close = True  # the rest would be read as the next request's answer
            return Answer(status, headers, b"", None)
        try:
            content = raw and compression.decode(raw, content_encoding, MAX_ERROR_BODY)
        except compression.Undecodable:
            content = raw  # QCache declares plain error bodies as lz4
        return Answer(status, headers, content, content_encoding)

    def _failure(self, cause: BaseException, limit: Limit, *, reused: bool) -> Failure | None:
        """The Failure for an exception of the network, None for any other. No other code maps exceptions."""
        phase = limit.phase
        if isinstance(cause, Failure):
            return cause
        if limit.cancelled and isinstance(cause, Exception):
            return Failure(Outcome.CANCELLED, phase, cause)
        if isinstance(cause, OSError) and cause.errno in LOCAL_ERRORS:
            return Failure(Outcome.LOCAL, phase, cause)
        if self._proxy is not None and phase in (Phase.NAME, Phase.CONNECT):
            return self._failure_of_proxy(self._proxy, cause, limit)
        if isinstance(cause, TimeoutError):
            return self._timeout(cause, limit)
        if isinstance(cause, ssl.SSLCertVerificationError | ssl.CertificateError):
            return Failure(Outcome.CERTIFICATE_REJECTED, phase, cause)
        if isinstance(cause, ssl.SSLError):
            # With TLS 1.3 a client learns that its certificate is missing or refused when it first reads.
            if _CERTIFICATE_ALERT.search(cause.reason or "") is not None:
                return Failure(Outcome.CERTIFICATE_REJECTED, phase, cause)
            if phase in (Phase.NAME, Phase.CONNECT, Phase.TLS):
                if cause.reason in _ANSWERS_OF_PLAIN_HTTP:
                    cause = OSError(f"{cause}: the node may serve plain HTTP")
                return Failure(Outcome.TLS_FAILED, Phase.TLS, cause)
        if isinstance(cause, socket.gaierror | UnicodeError) and phase is Phase.NAME:
            return Failure(Outcome.UNRESOLVED, phase, cause)
        if isinstance(cause, OSError):
            if phase in (Phase.NAME, Phase.CONNECT):
                # A refusal of something in front of the node says nothing about the node's process.
                refused = isinstance(cause, ConnectionRefusedError) and self._settings.refused_means_gone
                return Failure(Outcome.REFUSED if refused else Outcome.CONNECT_FAILED, phase, cause)
            if phase is Phase.TLS:
                return Failure(Outcome.TLS_FAILED, phase, cause)
            if isinstance(cause, ConnectionError) or (cause.errno is not None and cause.filename is None):
                if limit.received:
                    return Failure(Outcome.TRUNCATED, phase, cause)
                by_proxy = self._proxy is not None and not self._tunnel
                if self._proxy is not None and by_proxy:
                    cause = self._proxy.failed("closed the connection without an answer")
                return Failure(Outcome.CLOSED, phase, cause, before_answer=reused, by_proxy=by_proxy)
            return None  # raised by a signal handler of the caller
        if isinstance(cause, http.client.IncompleteRead):
            return Failure(Outcome.TRUNCATED, phase, cause)
        is_answer = phase in (Phase.HEAD, Phase.BODY)
        if isinstance(cause, http.client.HTTPException) or (isinstance(cause, ValueError) and is_answer):
            return Failure(Outcome.NOT_QCACHE, phase, cause, detail=f"not HTTP: {cause!r}")
        return None

    def _failure_of_proxy(self, proxy: _Proxy, cause: BaseException, limit: Limit) -> Failure | None:
        """The Failure of a proxy that forwarded nothing, which says nothing about the node's process."""
        phase = limit.phase
        if isinstance(cause, TimeoutError):
            outcome = self._timeout(cause, limit).outcome
            tunnel = " and open a tunnel to the node" if self._tunnel else ""
            problem = f"did not take a connection{tunnel} in time"
        elif isinstance(cause, socket.gaierror | UnicodeError):
            outcome, problem = Outcome.UNRESOLVED, f"has a name that cannot be looked up ({cause})"
        elif isinstance(cause, ConnectionRefusedError):
            outcome, problem = Outcome.CONNECT_FAILED, "refuses connections: nothing listens there"
        elif (answered := _ANSWER_TO_CONNECT.match(str(cause))) is not None:
            if answered["status"] == "407":
                return self._proxy_wants_credentials(proxy, phase)
            outcome = Outcome.CONNECT_FAILED
            problem = f"opens no tunnel to the node: it answers {answered['answer']}"
        elif isinstance(cause, http.client.HTTPException):
            outcome, problem = Outcome.CONNECT_FAILED, f"does not answer as an HTTP proxy: {cause!r}"
        elif isinstance(cause, OSError):
            outcome, problem = Outcome.CONNECT_FAILED, f"cannot be reached or opens no tunnel ({cause})"
        else:
            return None
        return Failure(outcome, phase, proxy.failed(problem), by_proxy=True)

    def _proxy_wants_credentials(self, proxy: _Proxy, phase: Phase) -> Failure:
        if self._pool.proxy_headers:
            problem = "refuses the login and password of its URL (407)"
        else:
            problem = "asks for a login and password (407), and its URL has none"
        return Failure(Outcome.UNAUTHORIZED, phase, proxy.failed(problem), status=407, by_proxy=True)

    def _timeout(self, cause: BaseException, limit: Limit) -> Failure:
        phase = limit.phase
        if phase is Phase.TLS:
            # A node that serves plain HTTP waits for the rest of what it reads as a request.
            cause = TimeoutError("no answer to the TLS handshake: the node may serve plain HTTP")
        # A timer may end a moment early.
        if limit.now() >= limit.deadline - 0.001:
            return Failure(Outcome.DEADLINE, phase, cause)
        if phase in (Phase.NAME, Phase.CONNECT, Phase.TLS):
            return Failure(Outcome.CONNECT_TIMEOUT, phase, cause)
        return Failure(Outcome.NOT_TAKEN if phase is Phase.SEND else Outcome.TIMEOUT, phase, cause)

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._closed = True
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def forget_connections(self) -> None:
        """Drop the connections in a forked child, without a TLS shutdown or RST: the parent uses them."""
        while self._idle:
            close_only_here(self._idle.pop().sock)


def _close_at_once(connection: Any, *, reset: bool) -> None:
    """Close a connection, though an interrupt may have left a response open, which would keep it so.

    With ``reset`` a RST is sent: the node must not get the rest of an abandoned request.
    """
    sock = connection.sock
    if reset and sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    close_only_here(sock)
    connection.close()


def close_only_here(sock: socket.socket | None) -> None:
    """Close only a socket's descriptor: another process may use the connection."""
    if sock is not None:
        with contextlib.suppress(OSError):
            os.close(sock.detach())


_CERTIFICATE_ALERT: Final = re.compile(
    r"ALERT_.*(CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED|HANDSHAKE_FAILURE)|CERTIFICATE_VERIFY"
)


_ANSWERS_OF_PLAIN_HTTP: Final = frozenset(
    {"HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "WRONG_VERSION_NUMBER"}
)
"""The reasons that versions of OpenSSL give for an answer without TLS."""


def _read_all(response: _Response, most: float) -> bytes:
    """The body as received; raises Undecodable if it is longer than ``most``.

    Memory is allocated for bytes that have arrived, not for a Content-Length.
    """
    length = response.length
    if length is not None and length <= min(most, _READ_AT_ONCE):
        return response.read()  # raises IncompleteRead if the body is shorter
    compression.check_size(length or 0, most)
    body = io.BytesIO()  # a list would have an object for each chunk, however small
    for piece in response.pieces():
        body.write(piece)
        compression.check_size(body.tell(), most)
    if length is not None and body.tell() < length:
        raise http.client.IncompleteRead(b"", length - body.tell())
    return body.getvalue()
