"""Parts 3, 4, 7 and 8 of the protocol, on the connection: keep-alive, head limits, TLS, credentials."""

from __future__ import annotations

import base64
import select
import socket
import ssl

import pytest

from tests.harness.servers import Server, ServerFailedError, WireRequest

CSV = b"a\n1\n2\n"
STATUS = WireRequest("GET", "/qcache/status")
STORE = WireRequest("POST", "/qcache/dataset/t", (("Content-Type", "text/csv"),), CSV)
QUERY = WireRequest("POST", "/qcache/dataset/t/q", (), b"{}")
MISS = WireRequest("POST", "/qcache/dataset/missing/q", (), b"{}")
HEAD_LIMIT = 65_536


def basic(credentials: str) -> dict[str, str]:
    """An Authorization header."""
    return {"Authorization": "Basic " + base64.b64encode(credentials.encode()).decode()}


# Keep-alive and pipelining


def test_connections_are_persistent(pair):
    """For any number and kind of requests."""
    for server in pair.servers:
        with server.connect() as connection:
            for request, status in ((STATUS, 200), (STORE, 201), (QUERY, 200), (STATUS, 200)) * 3:
                answer = connection.ask(request)
                assert answer.status == status
                assert answer.header("Connection") is None


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(MISS, 404, id="404"),
        pytest.param(WireRequest("POST", "/qcache/dataset/t/q", (), b"{"), 400, id="400"),
        pytest.param(WireRequest("POST", "/qcache/dataset/t/q", (("Accept", "*/*"),), b"{}"), 406, id="406"),
        pytest.param(WireRequest("POST", "/qcache/dataset/t", (("Content-Type", "x"),), CSV), 415, id="415"),
        pytest.param(WireRequest("POST", "/qcache/dataset/t", (), b""), 500, id="500"),
        pytest.param(WireRequest("PUT", "/qcache/status", (), b""), 405, id="405"),
        pytest.param(WireRequest("POST", "/nosuch", (), b"body"), 404, id="404 with a body"),
    ],
)
def test_connections_are_persistent_after_errors(pair, request_, status):
    """The node answers the next request on it."""
    for server in pair.servers:
        with server.connect() as connection:
            answer = connection.ask(request_)
            assert (answer.status, answer.header("Connection")) == (status, None)
            assert connection.is_open()


def test_connection_close_is_obeyed(pair):
    """The answer has the same header, and the node closes the connection."""
    for server in pair.servers:
        with server.connect() as connection:
            answer = connection.ask(STATUS.with_headers(("Connection", "close")))
            assert (answer.status, answer.header("Connection")) == (200, "close")
            assert not connection.is_open()


def test_http_1_0_closes_the_connection(pair):
    """Unless the request has `Connection: Keep-Alive`."""
    for server in pair.servers:
        for header, kept in ((b"", False), (b"Connection: Keep-Alive\r\n", True)):
            with server.connect() as connection:
                connection.send(b"GET /qcache/status HTTP/1.0\r\n" + header + b"\r\n")
                assert connection.receive().status == 200
                assert connection.is_open() is kept


def test_pipelined_requests_are_answered_in_order(pair):
    """Including errors."""
    requests = [STATUS, STORE, QUERY, MISS, WireRequest("PUT", "/qcache/status", (), b""), QUERY, STATUS]
    for server in pair.servers:
        with server.connect() as connection:
            connection.send(b"".join(request.encode() for request in requests))
            statuses = [connection.receive(request.method).status for request in requests]
            assert statuses == [200, 201, 200, 404, 405, 200, 200]


def test_a_pipelined_query_sees_the_store_before_it(pair):
    """The node handles them one after the other."""
    stores = [WireRequest("POST", "/qcache/dataset/t", (), b"a\n%d\n" % number) for number in range(5)]
    for server in pair.servers:
        with server.connect() as connection:
            connection.send(b"".join(store.encode() + QUERY.encode() for store in stores))
            for number in range(5):
                assert connection.receive().status == 201
                assert connection.receive().body == b'[{"a":%d}]' % number


# Heads


def head_of(size: int, target: str = "/qcache/status") -> bytes:
    """A GET whose head has `size` bytes, including the final empty line."""
    start = f"GET {target} HTTP/1.1\r\nHost: t\r\nX-Long: ".encode()
    return start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"


def test_a_head_of_64_kib_is_answered(pair):
    """65,536 bytes for the request line, headers and the empty line."""
    for server in pair.servers:
        with server.connect() as connection:
            connection.send(head_of(HEAD_LIMIT))
            assert connection.receive().status == 200


@pytest.mark.parametrize("size", [HEAD_LIMIT + 1, HEAD_LIMIT + 5000])
def test_a_longer_head_closes_the_connection_without_an_answer(pair, size):
    """So to a client a healthy node looks dead."""
    for server in pair.servers:
        with server.connect() as connection:
            connection.send(head_of(size))
            assert connection.receive().status == 0


def test_a_long_query_in_a_get_exceeds_the_same_limit(pair):
    """A POST query has no such limit."""
    target = "/qcache/dataset/t?q=" + "x" * HEAD_LIMIT
    for server in pair.servers:
        with server.connect() as connection:
            connection.send(WireRequest("GET", target).encode())
            assert connection.receive().status == 0
        assert (
            server.ask(
                WireRequest("POST", "/qcache/dataset/missing/q", (), b'{"where": "' + b"x" * 200_000 + b'"}')
            ).status
            == 404
        )


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n", b"GET\r\n\r\n", b"GET /qcache/status\r\n\r\n", b"GET /qcache/status HTTP/2.0\r\n\r\n",
        b"GET /qcache/status HTTP/1.1\r\nno colon\r\n\r\n", b"\r\n\r\nGET /qcache/status HTTP/1.1\r\nHost: t\r\n\r\n",
        b"POST /qcache/dataset/t HTTP/1.1\r\nHost: t\r\nContent-Length: x\r\n\r\n",
    ],
)  # fmt: skip
def test_the_node_survives_data_that_is_no_http(pair, data):
    """Whatever it answers, it still answers other requests afterwards."""
    for server in pair.servers:
        with server.connect(timeout=5) as connection:
            connection.send(data)
            connection.half_close()
            connection.receive()
        assert server.ask(STATUS).status == 200


# Stores that are cut off


def test_a_store_whose_client_went_away_after_sending_all_is_stored(pair):
    """Although nobody read the 201."""
    for server in pair.servers:
        server.ask(STORE)
        with server.connect() as connection:
            connection.send(WireRequest("POST", "/qcache/dataset/t", (), b"a\n9\n").encode())
        for _ in range(100):
            body = server.ask(QUERY).body
            if body == b'[{"a":9}]':
                break
        assert body == b'[{"a":9}]'


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(b"Content-Length: 7\r\n\r\na\n9\n10", id="one byte short"),
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\n4\r\na\n9\n\r\n", id="no last chunk"),
        pytest.param(b"Content-Length: 7\r\n\r\n", id="no body at all"),
    ],
)
def test_a_store_cut_off_before_its_end_leaves_the_old_table(pair, start):
    for server in pair.servers:
        server.ask(STORE)
        with server.connect() as connection:
            connection.send(b"POST /qcache/dataset/t HTTP/1.1\r\nHost: t\r\n" + start)
            assert server.ask(STATUS).status == 200
        for _ in range(5):
            assert server.ask(QUERY).body == b'[{"a":1},{"a":2}]'


def test_a_node_handles_one_request_at_a_time(pair):
    """During a query it does not even answer its status, but it accepts connections."""
    body = "a\n" + "".join(f"text{number * 7919 % 200_003}\n" for number in range(200_000))
    slow = WireRequest("POST", "/qcache/dataset/t/q", (), b'{"order_by": ["a"], "limit": 1}')
    pair.csv(body)
    for server in pair.servers:
        with server.connect() as first, server.connect() as second:
            first.ask(STATUS)
            second.ask(STATUS)
            first.send(slow.encode())
            readable, _, _ = select.select([first._socket], [], [], 0.05)
            second.send(STATUS.encode())
            assert second.receive().status == 200
            # The query was answered before the status: its answer is here already.
            readable, _, _ = select.select([first._socket], [], [], 0)
            assert readable
            assert first.receive().unsliced_length == 200_000


# TLS


def handshake(server, context: ssl.SSLContext) -> bool:
    """Whether a request over TLS is answered."""
    try:
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            connection.sendall(STATUS.encode())
            return connection.recv(12) == b"HTTP/1.1 200"
    except (ssl.SSLError, ConnectionError):
        return False


def test_requests_are_answered_over_tls(pair_with, certificates):
    """`--cert-file`: everything works over TLS, with the given certificate."""
    pair = pair_with("--cert-file", str(certificates.server), tls=certificates.context())
    assert pair.csv("a,b\n1,x\n").status == 201
    assert pair.rows() == [{"a": 1, "b": "x"}]
    for server in pair.servers:
        assert not handshake(server, ssl.create_default_context())


def test_plain_http_to_a_tls_port_gets_no_answer(pair_with, certificates):
    """The node closes the connection."""
    pair = pair_with("--cert-file", str(certificates.server), tls=certificates.context())
    for server in pair.servers:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain:
            plain.sendall(STATUS.encode())
            try:
                received = plain.recv(1000)
            except ConnectionResetError:
                received = b""
            assert b"HTTP/1.1" not in received
        assert server.ask(STATUS).status == 200


def test_ca_file_requires_client_certificates(pair_with, certificates):
    """A client without one, or with one of another CA, fails in the handshake."""
    options = ("--cert-file", str(certificates.server), "--ca-file", str(certificates.ca))
    pair = pair_with(*options, tls=certificates.context(certificates.client))
    assert pair.csv("a\n1\n").status == 201
    assert pair.has()
    for server in pair.servers:
        assert handshake(server, certificates.context(certificates.client))
        assert not handshake(server, certificates.context())
        assert not handshake(server, certificates.context(certificates.stranger))


# Credentials


@pytest.fixture
def guarded(pair_with, certificates):
    """Both servers with `--basic-auth user:secret`."""
    options = ("--cert-file", str(certificates.server), "--basic-auth", "user:secret")
    return pair_with(*options, tls=certificates.context())


def test_correct_credentials_are_accepted(guarded):
    """For stores, queries, deletes, the status and the statistics."""
    correct = basic("user:secret")
    assert guarded.csv("a\n1\n", correct).status == 201
    assert guarded.rows({}, correct) == [{"a": 1}]
    assert guarded.status("GET", "/qcache/status", correct) == 200
    assert guarded.status("DELETE", "/qcache/dataset/t", correct) == 200
    for answer in guarded.ask_raw("GET", "/qcache/statistics", correct):
        assert answer.status == 200


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="none"),
        pytest.param(basic("user:wrong"), id="wrong password"),
        pytest.param(basic("other:secret"), id="wrong user"),
        pytest.param(basic("User:secret"), id="user in another case"),
        pytest.param(basic(":"), id="both empty"),
        pytest.param({"Authorization": "Bearer x"}, id="another scheme"),
        pytest.param(
            {"Authorization": "basic " + base64.b64encode(b"user:secret").decode()}, id="scheme in lower case"
        ),
        pytest.param({"Authorization": ""}, id="empty header"),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/status"), ("GET", "/statistics"), ("GET", "/dataset/t?q={}"), ("POST", "/dataset/t/q"), ("POST", "/dataset/t"),
     ("DELETE", "/dataset/t"), ("PUT", "/status")],
)  # fmt: skip
def test_wrong_or_missing_credentials_are_401(guarded, method, path, headers):
    """With an empty body and `WWW-Authenticate: Basic realm=Restricted`, on every route and method."""
    answer = guarded.same(method, "/qcache" + path, headers, b"{}" if method in ("POST", "PUT") else None)
    assert (answer.status, answer.body) == (401, b"")
    assert answer.header("WWW-Authenticate") == "Basic realm=Restricted"


def test_a_401_is_never_compressed_and_keeps_the_connection(guarded):
    """The next request on it may have credentials."""
    for server in guarded.servers:
        with server.connect() as connection:
            answer = connection.ask(STATUS.with_headers(("Accept-Encoding", "gzip")))
            assert (answer.status, answer.header("Content-Encoding")) == (401, None)
            assert connection.ask(STATUS.with_headers(*basic("user:secret").items())).status == 200


def test_an_unknown_path_is_404_without_credentials(guarded):
    """And also with wrong ones."""
    assert guarded.status("GET", "/nosuch") == 404
    assert guarded.status("GET", "/qcache/dataset/a.b?q={}", basic("user:wrong")) == 404


@pytest.mark.parametrize(
    "authorization",
    [
        pytest.param(basic("user:se:cret")["Authorization"], id="a colon in the password"),
        pytest.param(basic("user")["Authorization"], id="no colon at all"),
        pytest.param("Basic a", id="no base64"),
        pytest.param("Basic ", id="nothing after the scheme"),
        pytest.param("Basic", id="the scheme alone"),
        pytest.param("Basic " + base64.b64encode("user:sécret".encode("latin-1")).decode(), id="latin-1"),
        pytest.param("Basic dXNlcjpzZWNyZXQ", id="base64 without its padding"),
        pytest.param("Basic dXNl cjpz ZWNyZXQ=", id="base64 with blanks"),
        pytest.param("Basic *dXNlcjpzZWNyZXQ=*", id="base64 with other characters"),
    ],
)
def test_a_malformed_authorization_is_answered_alike(guarded, authorization):
    """If the node cannot parse it, it closes the connection without an answer."""
    answer = guarded.same("GET", "/qcache/status", {"Authorization": authorization})
    assert answer.status in (0, 200, 401)


def test_credentials_without_exactly_one_colon_close_the_connection(guarded):
    assert guarded.status("GET", "/qcache/status", basic("user:se:cret")) == 0
    assert guarded.status("GET", "/qcache/status", basic("user")) == 0
    assert guarded.status("GET", "/qcache/status", basic("user:secret")) == 200


def test_basic_auth_without_tls_is_refused_at_the_start(real):
    """By both servers."""
    for make in (Server.real, Server.dev):
        with pytest.raises(ServerFailedError, match="TLS"), make("--basic-auth", "user:secret"):
            pass
