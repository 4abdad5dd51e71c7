"""What Test says: every node with its time or its trouble, soon, and green only where all can be used."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_qcache.client import certificates as certificate_files
from airflow_provider_qcache.connection import InvalidConnection
from airflow_provider_qcache.hooks import node_check
from airflow_provider_qcache.hooks.qcache import QCacheHook
from tests.harness.faults import FaultyNode, black_hole, silent
from tests.harness.needs import need_the_real_server
from tests.harness.ports import closed_port
from tests.harness.servers import Server

SECRET = "hunter2-secret"


def check(connect: Any, nodes: list[str], **fields: Any) -> tuple[bool, dict[str, str], str]:
    """Whether it is green, what it says of each node, and what it says first."""
    extra = {"nodes": nodes, **fields.pop("extra", {})}
    connect(extra=extra, **fields)
    green, message = QCacheHook().test_connection()
    assert SECRET not in message
    summary, _, listed = message.partition(". ")
    reports = dict(re.split(r": ", part, maxsplit=1) for part in re.split(r"; (?=https?://)", listed))
    assert set(reports) == set(nodes)
    return green, reports, summary


@pytest.mark.parametrize("name", ["localhost", "alias.invalid"])
def test_two_names_of_one_node_are_named(name, living, connect, monkeypatch):
    """An address beside its name is refused; another name of the address may be a proxy's, and is noted."""
    found = socket.getaddrinfo
    alias = {"alias.invalid": "127.0.0.1", "other.invalid": "127.0.0.1"}

    def resolve(host, *rest, **how):
        return found(alias.get(host, host), *rest, **how)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    port = living.rpartition(":")[2]
    one = living if name == "localhost" else f"http://other.invalid:{port}"
    green, reports, _ = check(connect, [one, f"http://{name}:{port}"])
    assert green == (name != "localhost")
    text = reports[f"http://{name}:{port}"]
    assert ("under another name" if name == "localhost" else "at the same address as") in text
    assert one in text


def test_living_nodes_are_green_with_their_times(living, real, connect):
    green, reports, summary = check(connect, [living, f"http://127.0.0.1:{real.port}"])
    assert green
    assert summary == "2 nodes answer"
    assert all(re.fullmatch(r"OK, \d+ ms", each) for each in reports.values())


def test_the_real_server_is_green(real, connect):
    green, reports, summary = check(connect, [f"http://127.0.0.1:{real.port}"])
    assert green, reports
    assert summary == "the node answers"


def test_a_dead_node_is_named_before_the_living(living, dead, connect):
    green, reports, summary = check(connect, [living, dead[0]])
    assert not green
    assert summary == "1 of 2 nodes cannot be used"
    assert list(reports) == [dead[0], living]
    assert reports[dead[0]].startswith("connection refused")
    assert reports[living].startswith("OK, ")


def test_silent_nodes_are_asked_at_once_and_within_both_timeouts(connect, late):
    with contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(FaultyNode(silent, accepts=False)).url for _ in range(40)]
        started = time.monotonic()
        green, reports, _ = check(connect, nodes, extra={"connect_timeout": 1, "read_timeout": 1})
    assert time.monotonic() - started < 5 + late.seconds
    assert not green
    assert all(each.startswith("timeout: it accepts the connection") for each in reports.values())


def test_ten_seconds_are_the_most(hung, connect, monkeypatch, late):
    """read_timeout is 30 s unless set; the limit is brought near so that the test does not wait for it."""
    from airflow_provider_qcache.hooks import node_check

    assert node_check.LONGEST == 10
    monkeypatch.setattr(node_check, "LONGEST", 0.5)
    started = time.monotonic()
    green, reports, _ = check(connect, [hung])
    assert time.monotonic() - started < 1.5 + late.seconds
    assert not green
    assert reports[hung].startswith("timeout: it accepts the connection")


def test_a_connection_that_is_not_taken(connect):
    """A full backlog: the kernel answers no further connection."""
    port = closed_port()
    node = f"http://127.0.0.1:{port}"
    with black_hole("127.0.0.1", port):
        _, reports, _ = check(connect, [node], extra={"connect_timeout": 0.5, "read_timeout": 0.5})
    assert reports[node] == "timeout: no connection within 0.5 s (connect_timeout)"


def test_a_name_that_is_not_known(connect):
    _, reports, _ = check(connect, ["http://nowhere.invalid:9401"])
    assert reports["http://nowhere.invalid:9401"].startswith("name unknown: ")


def test_a_name_look_up_that_hangs_is_not_waited_for(connect, living, monkeypatch, late):
    real = socket.getaddrinfo

    def slow(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "slow.invalid":
            time.sleep(3)
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    started = time.monotonic()
    nodes = ["http://slow.invalid:1", living]
    _, reports, _ = check(connect, nodes, extra={"connect_timeout": 0.5, "read_timeout": 0.5})
    assert time.monotonic() - started < 2.5 + late.seconds
    assert reports[nodes[0]] == "timeout: its name could not be resolved within 1 s"
    assert reports[nodes[1]].startswith("OK, ")


def test_certificates(certificates, connect, monkeypatch):
    """A CA that is not known here, one that is, one that verify=false leaves out, and a wrong name."""
    with Server.dev("--cert-file", str(certificates.server), tls=certificates.context()) as server:
        node = f"https://localhost:{server.port}"
        _, reports, _ = check(connect, [node])
        assert reports[node].startswith("certificate rejected: ")
        assert "unable to get local issuer certificate" in reports[node]
        assert check(connect, [node], extra={"ca_file": str(certificates.ca)})[0]
        assert check(connect, [node], extra={"verify": False})[0]
        real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", lambda _, *args, **kw: real("127.0.0.1", *args, **kw))
        other = node.replace("localhost", "node1.invalid")
        _, reports, _ = check(connect, [other], extra={"ca_file": str(certificates.ca)})
        assert reports[other].startswith("certificate rejected: ")
        assert "node1.invalid" in reports[other]
        plain = node.replace("https", "http")
        _, reports, _ = check(connect, [plain])
        assert "does it use https" in reports[plain]


def test_https_to_a_node_that_speaks_http(living, connect):
    node = living.replace("http", "https")
    _, reports, _ = check(connect, [node], extra={"connect_timeout": 0.5})
    assert reports[node] == "timeout: no TLS within 0.5 s (connect_timeout); does it use http?"


def test_credentials(certificates, connect):
    need_the_real_server()
    options = ["--basic-auth", f"user:{SECRET}", "--cert-file", str(certificates.server)]
    with Server.real(*options, tls=certificates.context()) as server:
        node = f"https://localhost:{server.port}"
        ca = {"ca_file": str(certificates.ca)}
        assert check(connect, [node], login="user", password=SECRET, extra=ca)[0]
        for credentials in ({}, {"login": "user", "password": f"{SECRET}x"}):
            green, reports, _ = check(connect, [node], extra=ca, **credentials)
            assert not green
            assert reports[node].startswith("401: ")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000,
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    ],
    ids=["hello", "404", "redirect", "large", "ssh"],
)
def test_what_is_no_qcache(answer, answering, connect):
    node = answering(answer)
    green, reports, _ = check(connect, [node])
    assert not green
    assert reports[node].startswith("not a QCache: ")


def test_a_proxy_before_a_node_that_is_down(answering, connect):
    node = answering(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
    assert check(connect, [node])[1][node].startswith("503: a proxy answered")


def test_a_server_that_hangs_up(answering, connect):
    node = answering(b"")
    assert check(connect, [node])[1][node].startswith("closed without an answer")


def test_a_connection_that_is_not_valid(connect):
    connect(host="host1", extra={"deadlin": SECRET})
    green, message = QCacheHook().test_connection()
    assert not green
    assert "did you mean deadline" in message
    assert SECRET not in message


@pytest.mark.parametrize("field", ["ca_file", "cert_file", "key_file"])
@pytest.mark.parametrize("kind", ["FIFO", "device", "large"])
def test_a_certificate_is_a_regular_file_of_bounded_size(field, kind, certificates, connect, tmp_path):
    """Opening a FIFO waits for a writer, reading /dev/zero has no end, and the Test must end."""
    path = tmp_path / "file.pem"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(10 * 1024 * 1024 + 1)
    extra = {"nodes": ["https://127.0.0.1:1"], "cert_file": str(certificates.server), field: str(path)}
    connect(extra=extra)
    for use in (QCacheHook().test_connection, QCacheHook().get_conn):
        reports = []
        thread = threading.Thread(
            target=lambda use=use, reports=reports: reports.append(outcome(use)), daemon=True
        )
        thread.start()
        thread.join(30)
        assert reports
        assert f"({field})={str(path)!r}" in reports[0]
        assert ("10,485,761 bytes" if kind == "large" else "not a regular file") in reports[0]


def outcome(use):
    try:
        return str(use())
    except InvalidConnection as error:
        return str(error)


def test_a_storage_that_hangs_does_not_hold_the_test(certificates, connect, monkeypatch):
    """What hangs is left behind, in a thread that holds nothing."""
    monkeypatch.setattr(node_check, "LONGEST", 0.9)
    let_go = threading.Event()

    @contextlib.contextmanager
    def hang(path):
        let_go.wait(60)
        yield path

    monkeypatch.setattr(certificate_files, "_checked", hang)
    connect(extra={"nodes": ["https://127.0.0.1:1"], "ca_file": str(certificates.ca)})
    try:
        green, reports = QCacheHook().test_connection()
    finally:
        let_go.set()
    assert not green
    assert "or the certificate files could not be read, within 0." in reports
