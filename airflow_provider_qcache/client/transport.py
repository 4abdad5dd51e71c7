"""One request to one node: requests' adapter and urllib3's pools, with sockets that keep the time.

This is the one place that knows the exceptions of requests, urllib3, http.client, ssl and socket. What goes
wrong leaves as a ``Failure`` that says how far the request had come, which those exceptions do not (a TLS
handshake that times out is requests' ReadTimeout, a send that does is its ConnectionError).

A Session is not used: what it looks up for every request (proxies, CA bundle, netrc, headers) is looked up
once per node. Nor is urllib3's ``urlopen``: it sends a body under the connect timeout, so that a node that is
merely busy is dropped, and its total timeout ends once bytes flow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import http.client
import ipaddress
import os
import re
import socket
import ssl
import struct
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

import requests
import requests.adapters
import requests.auth
import requests.utils
import urllib3.exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.connection import is_connection_dropped
from urllib3.util.proxy import connection_requires_http_tunnel
from urllib3.util.ssl_ import create_urllib3_context

from airflow_provider_qcache.client import encoding
from airflow_provider_qcache.client.checks import check_header
from airflow_provider_qcache.client.errors import Outcome, Phase, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_FOREVER: Final = float("inf")
_POOL_SIZE: Final = 64
_MAX_ERROR_BODY: Final = 64 * 1024
_READ_AT_ONCE: Final = 256 * 1024
_A_MOMENT: Final = 0.02
"""Seconds by which the timeout of a socket may be longer than what its request has left."""

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER, on and of no time: what is not sent yet is dropped, and the node is told so by a RST."""

_MAX_LINE: Final = 64 * 1024
_MAX_HEADERS: Final = 100
"""Of an answer's head, as http.client has them."""

STORE_BYTES_PER_SECOND: Final = 5_000_000
"""The slowest a body is expected to be taken and parsed: a node parses JSON at 14 MB/s."""


class Cancelled(Exception):
    """cancel() was called."""


class Failure(Exception):
    """A request that brought no answer of use.

    ``before_answer`` tells that the connection was a reused one and ended before any byte of an answer came.
    """

    def __init__(
        self,
        outcome: Outcome,
        phase: Phase,
        cause: BaseException | None = None,
        *,
        status: int | None = None,
        detail: str = "",
        before_answer: bool = False,
    ) -> None:
        super().__init__(detail or (str(cause) if cause is not None else str(outcome)))
        self.outcome = outcome
        self.phase = phase
        self.cause = cause
        self.status = status
        self.detail = detail
        self.before_answer = before_answer


class _SourceFailed(Exception):
    """Reading the body failed on this side; ``args`` holds what was raised, however it looks."""


class SendBody(Protocol):
    """A body that streams."""

    def __iter__(self) -> Iterator[bytes]:
        """The pieces, as they go on the wire but for the framing."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What a node answered; ``content`` is decoded, and empty where an error's is longer than 64 KiB.

    ``bounded`` says that its end was told, so that none of it is missing: by a length, chunks or compression.
    """

    status: int
    headers: Headers
    content: bytes
    encoding: str | None
    bounded: bool = True


class Limit:
    """The time a request has left, asked for before every operation of its socket.

    ``deadline`` ends the operation, ``stage_end`` the stage the request is in, ``idle`` a single wait. Raises
    TimeoutError when one of the first two has passed and Cancelled after ``cancel``.

    ``given_up`` tells afterwards that the request was a store or a delete, which the node was sent, or a part
    of it, and has not answered.
    """

    __slots__ = ("cancelled", "deadline", "given_up", "idle", "now", "phase", "received", "sock", "stage_end")

    def __init__(self, now: Callable[[], float], deadline: float) -> None:
        self.now = now
        self.deadline = deadline
        self.stage_end = _FOREVER
        self.idle = _FOREVER
        self.phase = Phase.CONNECT
        self.received = False
        self.cancelled = False
        self.given_up = False
        self.sock: socket.socket | None = None

    def left(self) -> float | None:
        """Seconds the next operation of the socket may take; None for no end."""
        if self.cancelled:
            raise Cancelled
        end = min(self.deadline, self.stage_end)
        if end == _FOREVER:
            return None if self.idle == _FOREVER else self.idle
        left = end - self.now()
        if left <= 0:
            raise TimeoutError("timed out")
        return min(left, self.idle)

    def cancel(self) -> None:
        """End the request from another thread or a signal handler: no lock is taken."""
        self.cancelled = True
        sock = self.sock
        if sock is not None:
            # The plain shutdown: SSLSocket's own forgets its TLS state while a read uses it.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _KeepsLimit(socket.socket):
    """A socket whose timeout is what its request has left, before everything that may wait."""

    limit: Limit

    def keep_limit(self) -> None:
        """Give the next operation the time that is left; raises what ``Limit.left`` raises."""
        left = self.limit.left()
        known = self.gettimeout()
        # A timeout that is set is a call of the system: one that is a moment longer is left as it is.
        if left is None or known is None or not left <= known <= left + _A_MOMENT:
            self.settimeout(left)

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.keep_limit()
        count = super().recv_into(*args, **kwargs)
        if count:
            self.limit.received = True
        return count

    def recv(self, *args: Any, **kwargs: Any) -> bytes:
        self.keep_limit()
        return super().recv(*args, **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> int:
        self.keep_limit()
        return super().send(*args, **kwargs)


class _DeadlineSocket(_KeepsLimit):
    """The same for plain sockets, whose timeout is for all of sendall, not for each send in it."""

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        self.keep_limit()
        super().sendall(*args, **kwargs)


_handshaking = threading.local()


class _DeadlineTlsSocket(_KeepsLimit, ssl.SSLSocket):
    """The same over TLS. SSLSocket.sendall calls send for each record it can write."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002  # SSLSocket's signature
        # SSLContext.wrap_socket makes the socket and shakes hands in one call, so that the limit comes from
        # beside it.
        limit: Limit = _handshaking.limit
        self.limit = limit
        limit.sock = self
        limit.phase = Phase.TLS
        self.settimeout(limit.left())
        super().do_handshake(block)


class _Connection(HTTPConnection):
    """A urllib3 connection whose sockets keep a Limit. ``limit`` is set before it connects."""

    limit: Limit

    def _new_conn(self) -> socket.socket:
        limit = self.limit
        limit.phase = Phase.NAME
        host = self._dns_host.strip("[]")
        addresses = socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM)
        limit.phase = Phase.CONNECT
        errors: list[OSError] = []
        told: list[OSError] = []
        for family, kind, protocol, _, address in addresses:
            sock = None
            try:
                sock = _DeadlineSocket(family, kind, protocol)
                sock.limit = limit
                limit.sock = sock
                for option in self.socket_options or ():
                    sock.setsockopt(*option)
                sock.settimeout(limit.left())
                sock.connect(address)
            except OSError as met:
                if sock is not None:
                    sock.close()
                # A timeout has used up the time of all addresses; what it hides would mislead.
                if isinstance(met, TimeoutError):
                    raise
                errors.append(met)
                if not _is_no_address_of_this_machine(address, met):
                    told.append(met)
            except BaseException:
                if sock is not None:
                    sock.close()
                raise
            else:
                sock.settimeout(limit.left())
                return sock
        # It refuses only where it does at every address.
        refusals_last = sorted(told or errors, key=lambda met: isinstance(met, ConnectionRefusedError))
        raise refusals_last[0] if refusals_last else OSError("the name has no address")


def _is_no_address_of_this_machine(address: Any, met: OSError) -> bool:
    """Whether nothing can listen there: ``localhost`` is often ::1 too, on machines without IPv6."""
    absent = met.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    return absent and ipaddress.ip_address(address[0].partition("%")[0]).is_loopback


class _TlsConnection(_Connection, HTTPSConnection):
    """The same with TLS."""

    def connect(self) -> None:
        _handshaking.limit = self.limit
        try:
            HTTPSConnection.connect(self)
        finally:
            del _handshaking.limit


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


_POOLS: Final = {"http": _Pool, "https": _TlsPool}


class _Adapter(requests.adapters.HTTPAdapter):
    """requests' adapter, giving pools of the connections above and one TLS context for all of them."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        super().__init__(pool_connections=1, pool_maxsize=_POOL_SIZE)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        if proxy.lower().startswith("socks"):
            raise ValueError(
                f"the proxy {shown(proxy)!r} is a SOCKS proxy, which is not supported; an HTTP proxy is"
            )
        if proxy.lower().startswith("https:"):
            # TLS within TLS goes over no socket of ours, so that nothing of it would keep the time.
            raise ValueError(
                f"the proxy {shown(proxy)!r} is spoken to by TLS, which is not supported: an http:// proxy "
                "is, and carries https nodes, too"
            )
        manager = super().proxy_manager_for(proxy, **proxy_kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> tuple[Any, Any]:
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {} if self._context is None else {"ssl_context": self._context}


class Headers:
    """An answer's headers by their names in any case; of several of one name the first."""

    __slots__ = ("_values",)

    def __init__(self, lines: Iterable[bytes] = ()) -> None:
        values: dict[str, str] = {}
        last = ""
        for line in lines:
            text = line.decode("latin-1")
            if text[0] in " \t":  # the line before goes on
                if last:
                    values[last] = f"{values[last]} {text.strip()}"
                continue
            name, colon, value = text.partition(":")
            last = name.lower()
            if not colon or last in values:
                last = ""
                continue
            values[last] = value.strip()
        self._values = values

    def get(self, name: str) -> str | None:
        """A header's value, or None."""
        return self._values.get(name.lower())

    def __getitem__(self, name: str) -> str:
        """A header's value; KeyError without it."""
        return self._values[name.lower()]


class _Response(http.client.HTTPResponse):
    """http.client's reading of bodies, under a head that is read without the parser for e-mail.

    That one took a fifth of a request's time. http.client also takes 100 alone for interim; 102 and 103 are
    as well.
    """

    head: Headers

    def begin(self) -> None:
        """Read the head."""
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
        self.chunk_left = None
        self.length = None
        if status in (101, 204, 304):
            self.length = 0
        elif not self.chunked:
            self.length = _content_length(headers.get("Content-Length"))
        connection = (headers.get("Connection") or "").lower()
        keeps = "keep-alive" in connection if self.version == 10 else "close" not in connection
        self.will_close = (
            not keeps
            or (self.length is None and not self.chunked)
            or status == http.client.SWITCHING_PROTOCOLS  # what follows is no HTTP
        )

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
                raise http.client.HTTPException(f"it has more than {_MAX_HEADERS} headers")


def _content_length(value: str | None) -> int | None:
    """Bytes of a body, or None where nothing, or nothing that makes sense, is said."""
    try:
        length = int(value or "")
    except ValueError:
        return None
    return length if length >= 0 else None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TransportSettings:
    """How nodes are reached. Credentials stay out of its repr."""

    connect_timeout: float
    read_timeout: float
    store_timeout: float | None
    max_response_bytes: int | None
    verify: bool | str
    cert: str | tuple[str, str] | None
    auth: Any = dataclasses.field(repr=False)
    trust_env: bool


def _tls_context(settings: TransportSettings, *, verify: bool | str) -> ssl.SSLContext:
    context = create_urllib3_context()
    context.sslsocket_class = _DeadlineTlsSocket
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        bundle = requests.utils.DEFAULT_CA_BUNDLE_PATH if verify is True else verify
        path = os.path.expanduser(bundle)  # noqa: PTH111  # as requests reads it
        try:
            if os.path.isdir(path):  # noqa: PTH112
                context.load_verify_locations(capath=path)
            else:
                context.load_verify_locations(cafile=path)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(
                f"verify={verify!r}: no CA certificates could be read there ({error})"
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
        context.check_hostname = True
    if settings.cert is not None:
        certificate, key = (settings.cert, None) if isinstance(settings.cert, str) else settings.cert
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(
                f"cert={settings.cert!r}: no certificate and key could be read there ({error})"
            ) from error
    return context


def _check_credentials(where: str, login: Any, password: Any) -> None:
    for name, value in (("login", login), ("password", password)):
        colon: Any = b":" if isinstance(value, bytes) else ":"
        if isinstance(value, str | bytes) and colon in value:
            raise ValueError(
                f"{where}: the {name} holds a ':', on which a node hangs up without an answer; one without "
                "it is wanted"
            )
        if isinstance(value, str) and not _is_latin_1(value):
            raise ValueError(
                f"{where}: the {name} holds characters outside latin-1; as bytes it is sent as it is"
            )


def _is_latin_1(text: str) -> bool:
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def check_auth(auth: Any) -> None:
    """Raise ValueError, without the value, for what is no auth and basic auth that a node cannot parse."""
    if not (auth is None or callable(auth) or (isinstance(auth, tuple) and len(auth) == 2)):
        raise ValueError(
            f"auth is a {type(auth).__name__}: (login, password), None or what requests takes for auth is "
            "wanted"
        )
    if isinstance(auth, tuple) and len(auth) == 2:
        _check_credentials("auth", *auth)
    elif isinstance(auth, requests.auth.HTTPBasicAuth) and not isinstance(auth, requests.auth.HTTPProxyAuth):
        _check_credentials("auth", auth.username, auth.password)


class NodeTransport:
    """One node: its connections, and everything about it that is looked up once.

    Raises ValueError for a node string, proxy or certificate that cannot be used.
    """

    def __init__(self, node: str, settings: TransportSettings) -> None:
        self.node = node
        self._settings = settings
        try:
            parts = urlsplit(node)
            requests.Request("GET", node.rstrip("/") + "/qcache/status").prepare()
        except ValueError:  # requests' InvalidURL is one; what they say may hold a password
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"node {shown(node)!r} is no http or https URL, such as http://host1:9401")
        if parts.query or parts.fragment:
            raise ValueError(
                f"node {shown(node)!r} has a query or a fragment; a URL of host, port and path is wanted"
            )
        if "@" in parts.path:
            raise ValueError(
                f"node {shown(node)!r} has an '@' in its path; a '/' in a login or password is written %2F, "
                "and an '@' in a path %40"
            )
        if settings.auth is None:
            _check_credentials(f"node {shown(node)!r}", *requests.utils.get_auth_from_url(node))
        request = requests.Request("GET", node.rstrip("/") + "/qcache/status", auth=settings.auth).prepare()
        verify = settings.verify
        proxies: dict[str, str] = {}
        if settings.trust_env:
            # An empty dict, not None: the environment's settings alone.
            proxies = dict(requests.utils.get_environ_proxies(request.url or "", no_proxy=None))
            if verify is True:
                verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
            if "Authorization" not in request.headers:
                found = requests.utils.get_netrc_auth(request.url or "")
                if found is not None:
                    requests.auth.HTTPBasicAuth(*found)(request)
        context = _tls_context(settings, verify=verify) if parts.scheme == "https" else None
        self._adapter = _Adapter(context)
        # What urllib3 gives its own subclasses, requests' types do not show.
        pool: Any = self._adapter.get_connection_with_tls_context(request, verify, proxies=proxies, cert=None)
        target: str = self._adapter.request_url(request, proxies)
        self.base = target.removesuffix("/status")
        """What a request target starts with: the path, or the whole URL where a proxy forwards."""
        self._pool = pool
        # Not the pool's queue, which costs several locks.
        self._idle: deque[Any] = deque()
        self._closed = False
        self.proxied = pool.proxy is not None
        self._tunnel = connection_requires_http_tunnel(
            self._pool.proxy, self._pool.proxy_config, parts.scheme
        )
        fixed = {"Host": _host_header(parts.hostname, parts.port), "User-Agent": "airflow-provider-qcache"}
        if self.proxied and not self._tunnel:
            fixed.update(pool.proxy_headers)
        self._anonymous_head = b"".join(check_header(name, value) for name, value in fixed.items())
        self._head = self._anonymous_head
        if "Authorization" in request.headers:
            self._head += check_header("Authorization", request.headers["Authorization"])

    @property
    def authorized(self) -> bool:
        """Whether requests carry an Authorization."""
        return self._head is not self._anonymous_head

    def head_size(self, target: str, headers: bytes) -> int:
        """Bytes of the head of a request, the line and the blank one included."""
        return len(target) + len(self._head) + len(headers) + 32

    def exchange(
        self,
        method: str,
        target: str,
        headers: bytes,
        body: bytes | None,
        limit: Limit,
        *,
        stream: SendBody | None = None,
        length: int | None = None,
        store: bool = False,
        body_wanted: bool = True,
        fresh: bool = False,
        anonymous: bool = False,
    ) -> Answer:
        """Send one request and read its answer; raises Failure, Cancelled, or what ``stream`` raises.

        ``target`` is what follows ``base``, ``headers`` whole lines, ``stream`` a body in pieces of
        ``length`` bytes in all, or None to send it chunked. Of an answer whose body is not ``body_wanted``
        no more is read than of an error's. ``fresh`` asks for a connection that was never used, ``anonymous``
        leaves Authorization out.
        """
        settings = self._settings
        connection = None
        reused = False
        changes = False
        store_body_length = len(body) if body is not None else length
        try:
            limit.received = False
            limit.phase = Phase.CONNECT
            limit.idle = _FOREVER
            limit.stage_end = limit.now() + settings.connect_timeout
            connection = self._take_connection(fresh=fresh)
            connection.limit = limit
            sock: Any = connection.sock
            reused = sock is not None
            if not reused:
                self._connect(connection)
                limit.received = False  # what a proxy answered to CONNECT is none of the node's
                sock = connection.sock
            sock.limit = limit
            limit.sock = sock
            limit.phase = Phase.SEND
            own = self._anonymous_head if anonymous else self._head
            if _ALSO_OWN.search(headers) is not None:
                own = _without_given(own, headers)
            head = f"{method} {self.base}{target} HTTP/1.1\r\n".encode("latin-1") + own + headers
            if store:
                start = limit.now()
                limit.stage_end = start + self.store_time(store_body_length)
            else:
                limit.stage_end = limit.now() + settings.read_timeout
            answered_early = False
            changes = store or method == "DELETE"
            try:
                if stream is not None:
                    self._send_stream(sock, head, stream, length, limit)
                elif body is not None:
                    head += b"Content-Length: %d\r\n\r\n" % len(body)
                    if len(body) <= _READ_AT_ONCE:
                        sock.sendall(head + body)
                    else:
                        sock.sendall(head)
                        sock.sendall(body)
                else:
                    sock.sendall(head + b"\r\n")
            except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
                # A node may answer and hang up before it has read everything: its answer can be read.
                answered_early = True
            limit.phase = Phase.HEAD
            if not store:
                limit.stage_end = limit.now() + settings.read_timeout
            response = _Response(sock, method=method)
            try:
                response.begin()
                limit.phase = Phase.BODY
                limit.idle = settings.read_timeout
                # An error, or an acknowledgement, is said by its status; its body is waited for no longer.
                wanted = body_wanted and response.status == 200
                limit.stage_end = _FOREVER if wanted else limit.now() + settings.read_timeout
                if answered_early and response.status < 300:
                    raise Failure(Outcome.NOT_QCACHE, Phase.HEAD, detail="it answered before it had the body")
                answer = self._read(response, limit, wanted=wanted)
                reusable = response.isclosed() and not response.will_close and not answered_early
            finally:
                response.close()
        except BaseException as error:
            # Of a body whose source failed the node never gets the end.
            limit.given_up = changes and not isinstance(error, _SourceFailed)
            if connection is not None:
                if changes:
                    _drop_what_is_unsent(connection)
                connection.close()
            limit.sock = None
            if isinstance(error, _SourceFailed):
                raise error.args[0] from None
            failure = self._failure(error, limit, reused=reused)
            if failure is not None and failure.before_answer and failure.outcome is Outcome.CLOSED:
                limit.given_up = False  # the node had closed the connection, and reads nothing of it
            if failure is None:
                raise
            raise failure from error
        limit.sock = None
        if reusable and len(self._idle) < _POOL_SIZE:
            self._idle.append(connection)
            if self._closed:
                self._close_idle()
        else:
            connection.close()
        return answer

    def _take_connection(self, *, fresh: bool) -> Any:
        """An idle connection that the node has not closed as far as is known, or a new one."""
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

    def store_time(self, length: int | None) -> float:
        """Seconds a body of so many bytes may take to be received and parsed."""
        settings = self._settings
        if settings.store_timeout is not None:
            return settings.store_timeout
        # qclient gives a store ten times the read timeout for its answer.
        return max(10 * settings.read_timeout, (length or 0) / STORE_BYTES_PER_SECOND)

    def _send_stream(
        self, sock: Any, head: bytes, stream: SendBody, length: int | None, limit: Limit
    ) -> None:
        now = limit.now
        framing = (
            b"Transfer-Encoding: chunked\r\n\r\n"
            if length is None
            else b"Content-Length: %d\r\n\r\n" % length
        )
        started = now()
        sent = 0
        own_time = 0.0
        grows = length is None and self._settings.store_timeout is None
        pieces = iter(stream)
        # The head alone is a whole request where the length is 0: nothing is sent before the first piece is
        # there, which an empty body fails to give.
        start = head + framing
        while True:
            before = now()
            try:
                piece = next(pieces, None)
            except Exception as error:
                raise _SourceFailed(error) from error
            # The store timeout is the node's; what the body's own source takes is not held against it.
            own_time += now() - before
            if piece is None:
                break
            sent += len(piece)
            limit.stage_end = started + own_time + self.store_time(sent if grows else length)
            sock.sendall(start + (piece if length is not None else b"%x\r\n%b\r\n" % (len(piece), piece)))
            start = b""
        limit.stage_end = started + own_time + self.store_time(sent if grows else length)
        if length is None:
            sock.sendall(b"0\r\n\r\n")

    def _read(self, response: _Response, limit: Limit, *, wanted: bool) -> Answer:
        status = response.status
        headers = response.head
        content_encoding = headers.get("Content-Encoding")
        most = self._settings.max_response_bytes
        if wanted:
            bounded = response.length is not None or response.chunked
            # What is incompressible grows a little in gzip and lz4.
            raw = _read_all(response, None if most is None else most + most // 128 + 1024)
            if raw is None:
                raise Failure(Outcome.TOO_LARGE, Phase.BODY, status=status)
            try:
                content = encoding.decode(raw, content_encoding, most, limit.left)
            except encoding.TooLarge:
                raise Failure(Outcome.TOO_LARGE, Phase.BODY, status=status) from None
            except encoding.Undecodable as error:
                raise Failure(Outcome.UNDECODABLE, Phase.BODY, error, status=status) from error
            compressed = content is not raw  # gzip and lz4 that are cut short are not decodable
            return Answer(status, headers, content, content_encoding, bounded or compressed)
        try:
            raw = _read_all(response, _MAX_ERROR_BODY)
        except (OSError, http.client.HTTPException):
            raw = None
        if raw is None:
            response.will_close = True  # the rest of it would be read as the next request's answer
            return Answer(status, headers, b"", None)
        try:
            content = encoding.decode(raw, content_encoding, _MAX_ERROR_BODY)
        except (encoding.Undecodable, encoding.TooLarge):  # Qocache marks plain error bodies as lz4
            content = raw
        return Answer(status, headers, content, content_encoding)

    def _failure(self, error: BaseException, limit: Limit, *, reused: bool) -> Failure | None:
        """The one place that turns foreign exceptions into ours; None for what is none of the network's."""
        phase = limit.phase
        if isinstance(error, Failure):
            return error
        if limit.cancelled and isinstance(error, Exception):
            return Failure(Outcome.CANCELLED, phase, error)
        cause: BaseException = error
        if isinstance(error, urllib3.exceptions.HTTPError):
            inner = error.__cause__ or next(
                (part for part in error.args if isinstance(part, BaseException)), None
            )
            cause = inner or error
            if isinstance(error, urllib3.exceptions.SSLError) and not isinstance(cause, ssl.SSLError):
                return Failure(Outcome.CERTIFICATE_REJECTED, phase, error)
        before_answer = reused and not limit.received
        if isinstance(cause, TimeoutError):
            return self._timeout(cause, limit)
        if isinstance(cause, ssl.SSLCertVerificationError | ssl.CertificateError):
            return Failure(Outcome.CERTIFICATE_REJECTED, phase, cause)
        if isinstance(cause, ssl.SSLError):
            if _is_about_certificates(cause):
                return Failure(Outcome.CERTIFICATE_REJECTED, phase, cause)
            if phase in (Phase.NAME, Phase.CONNECT, Phase.TLS):
                if cause.reason in _ANSWERS_OF_PLAIN_HTTP:
                    cause = OSError(f"{cause}: the node may serve plain HTTP")
                return Failure(Outcome.TLS_FAILED, Phase.TLS, cause)
            return Failure(
                Outcome.TRUNCATED if limit.received else Outcome.CLOSED,
                phase,
                cause,
                before_answer=before_answer,
            )
        if isinstance(cause, socket.gaierror | UnicodeError) and phase is Phase.NAME:
            return Failure(Outcome.UNRESOLVED, phase, cause)
        if isinstance(cause, OSError):
            if phase in (Phase.NAME, Phase.CONNECT):
                # Behind a proxy it is the proxy that refuses, which says nothing about the node's process.
                refused = isinstance(cause, ConnectionRefusedError) and not self.proxied
                return Failure(Outcome.REFUSED if refused else Outcome.CONNECT_FAILED, phase, cause)
            if phase is Phase.TLS:
                return Failure(Outcome.TLS_FAILED, phase, cause)
            if isinstance(cause, ConnectionError) or _came_from_the_socket(cause):
                outcome = Outcome.TRUNCATED if limit.received else Outcome.CLOSED
                return Failure(outcome, phase, cause, before_answer=before_answer)
            return None  # a file that cannot be read, say
        if isinstance(cause, http.client.HTTPException) or (
            isinstance(cause, ValueError) and phase in (Phase.HEAD, Phase.BODY)
        ):
            if isinstance(cause, http.client.IncompleteRead):
                return Failure(Outcome.TRUNCATED, phase, cause)
            return Failure(Outcome.NOT_QCACHE, phase, cause, detail=f"not HTTP: {cause!r}")
        if isinstance(error, urllib3.exceptions.HTTPError):
            return Failure(Outcome.CONNECT_FAILED, phase, error)
        return None

    def _timeout(self, cause: BaseException, limit: Limit) -> Failure:
        phase = limit.phase
        if phase is Phase.TLS:
            # A node that serves plain HTTP waits for the rest of what it takes for a request.
            cause = TimeoutError("the TLS handshake was not answered: the node may serve plain HTTP")
        # A timer may go off a moment early.
        if limit.now() >= limit.deadline - 0.001:
            return Failure(Outcome.DEADLINE, phase, cause)
        if phase in (Phase.NAME, Phase.CONNECT, Phase.TLS):
            return Failure(Outcome.CONNECT_TIMEOUT, phase, cause)
        return Failure(Outcome.NOT_TAKEN if phase is Phase.SEND else Outcome.TIMEOUT, phase, cause)

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._closed = True
        self._close_idle()
        self._adapter.close()
        self._pool.close()

    def forget_connections(self) -> None:
        """Have a child process that was forked share no connection with its parent, which goes on with its.

        No TLS shutdown is sent, nor is a RST: the parent's socket stays as it is.
        """
        while self._idle:
            close_only_here(self._idle.pop().sock)

    def _close_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()


_ALSO_OWN: Final = re.compile(
    rb"^(?:authorization|proxy-authorization|user-agent):", re.IGNORECASE | re.MULTILINE
)


def _without_given(own: bytes, headers: bytes) -> bytes:
    """The client's own header lines without those that a caller's replace."""
    given = {line.lower() for line in _ALSO_OWN.findall(headers)}
    lines = own.splitlines(keepends=True)
    return b"".join(line for line in lines if line.partition(b":")[0].lower() + b":" not in given)


def _drop_what_is_unsent(connection: Any) -> None:
    """Have closing it end the connection with a RST: the node is not to get the rest of what is given up."""
    with contextlib.suppress(OSError):
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def close_only_here(sock: socket.socket | None) -> None:
    """Close a socket's descriptor and nothing else: another process may have it open."""
    if sock is not None:
        with contextlib.suppress(OSError):
            os.close(sock.detach())


def once_more_fresh(exchange: Callable[[bool], Answer], *, fresh: bool = False) -> Answer:
    """``exchange(fresh)``, and once more where it met a used connection that the node had closed.

    Nothing is wrong with the node then, and nothing was answered. Raises what the last exchange raises.
    """
    try:
        return exchange(fresh)
    except Failure as failure:
        if not (failure.before_answer and failure.outcome is Outcome.CLOSED):
            raise
    return exchange(True)  # noqa: FBT003


def _came_from_the_socket(error: OSError) -> bool:
    return error.errno is not None and error.filename is None


def _host_header(hostname: str, port: int | None) -> str:
    host = f"[{hostname}]" if ":" in hostname else hostname
    return host if port is None else f"{host}:{port}"


_CERTIFICATE_ALERT: Final = re.compile(
    r"ALERT_.*(CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED|HANDSHAKE_FAILURE)|CERTIFICATE_VERIFY"
)


_ANSWERS_OF_PLAIN_HTTP: Final = frozenset(
    {"HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "WRONG_VERSION_NUMBER"}
)
"""What OpenSSL, by its version, calls an answer that is no TLS."""


def _is_about_certificates(error: ssl.SSLError) -> bool:
    # TLS 1.3 tells a client that its certificate is missing or bad only when it reads for the first time.
    return _CERTIFICATE_ALERT.search(error.reason or "") is not None


def _read_all(response: http.client.HTTPResponse, most: int | None) -> bytes | None:
    """The body as it is on the wire, or None where it is longer than ``most``.

    A Content-Length is believed no further than bytes have come: no memory is set aside for what it promises.
    """
    length = response.length
    if length is not None:
        if most is not None and length > most:
            return None
        if length <= _READ_AT_ONCE:
            return response.read()  # raises IncompleteRead where the body is shorter
    parts: list[bytes] = []
    size = 0
    while part := response.read(_READ_AT_ONCE):
        size += len(part)
        if most is not None and size > most:
            return None
        parts.append(part)
    if length is not None and size < length:
        raise http.client.IncompleteRead(b"", length - size)
    return b"".join(parts)
