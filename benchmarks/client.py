"""The client's overhead beside qcache-client 0.5.1 and the libraries beneath both: calls, ring, many tables.

Contenders take turns, one call each, so that other load on the machine affects all of them. Medians are
compared.
"""

from __future__ import annotations

import http.client
import multiprocessing
import os
import platform
import socket
import statistics
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.parse import quote_plus, urlsplit

import qclient
import requests
from qclient.node_ring import NodeRing

from airflow_provider_qcache.client import QClient
from airflow_provider_qcache.client.nodes import NodePool
from airflow_provider_qcache.client.ring import Ring
from airflow_provider_qcache.client.settings import SystemClock
from tests.harness.servers import Server

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

CALLS_PER_RUN = 300
TABLES = 10_000
MOST_ROUNDS = 3

TABLE = b"id,name,price,flag\n" + b"".join(b"%d,some name %d,%d.5,true\n" % (i, i, i) for i in range(37))
RESULT = b'[{"id":1,"name":"some name 1","price":1.5,"flag":true}]'
QUERY = {"select": ["id", "name", "price", "flag"], "where": ["==", "id", 1]}
GET_ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: TornadoServer/5.1.1\r\nDate: Mon, 23 Nov 2026 06:00:00 GMT\r\n"
    b"Content-Type: application/json; charset=utf-8\r\nX-Qcache-Unsliced-Length: 1\r\n"
    b'Etag: "da39a3ee5e6b4b0d3255bfef95601890afd80709"\r\nContent-Length: %d\r\n\r\n' % len(RESULT)
) + RESULT
POST_ANSWER = (
    b"HTTP/1.1 201 Created\r\nServer: TornadoServer/5.1.1\r\nDate: Mon, 23 Nov 2026 06:00:00 GMT\r\n"
    b"Content-Type: text/html; charset=UTF-8\r\nContent-Length: 0\r\n\r\n"
)


def read_request(sock: socket.socket) -> bytes | None:
    """The head of one request, after reading its body; None at the end of the connection."""
    data = sock.recv(65536)
    while data and b"\r\n\r\n" not in data:
        data += sock.recv(65536)
    if not data:
        return None
    head, _, body = data.partition(b"\r\n\r\n")
    at = head.lower().find(b"content-length: ")
    if at >= 0:
        length = int(head[at + 16 :].split(b"\r\n", 1)[0])
        size = len(body)
        while size < length:
            size += len(sock.recv(65536))
    return head


def serve_stub(listener: socket.socket) -> None:
    """Answer every request with the same bytes."""

    def serve(sock: socket.socket) -> None:
        while (head := read_request(sock)) is not None:
            sock.sendall(POST_ANSWER if head.startswith(b"POST") else GET_ANSWER)

    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(sock,), daemon=True).start()


class RawSocket:
    """Sends prepared bytes, and reads no more of an answer than necessary."""

    def __init__(self, node: str) -> None:
        parts = urlsplit(node)
        self.sock = socket.create_connection((parts.hostname, parts.port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> bytes:
        self.sock.sendall(request)
        data = self.sock.recv(65536)
        while b"\r\n\r\n" not in data:
            data += self.sock.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0])
        while len(body) < length:
            body += self.sock.recv(65536)
        return body


def post_bytes(key: str, table: bytes, *lines: str) -> bytes:
    """A store request as bytes, with more header lines."""
    fields = "".join(f"{line}\r\n" for line in ("Host: x", "Content-Type: text/csv", *lines))
    head = f"POST /qcache/dataset/{key} HTTP/1.1\r\n{fields}"
    return f"{head}Content-Length: {len(table)}\r\n\r\n".encode() + table


def contenders(node: str) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Each contender's get and post of the same table."""
    query = quote_plus('{"select": ["id", "name", "price", "flag"], "where": ["==", "id", 1]}')
    path = "/qcache/dataset/foo"
    ours, theirs, session = QClient([node], 5, 60, deadline=600), qclient.QClient([node]), requests.Session()
    parts = urlsplit(node)
    plain = http.client.HTTPConnection(parts.hostname or "", parts.port)
    raw = RawSocket(node)
    get_bytes = f"GET {path}?q={query} HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n\r\n".encode()
    store_bytes = post_bytes("foo", TABLE)

    def plain_get() -> None:
        plain.request("GET", f"{path}?q={query}", headers={"Accept": "application/json"})
        plain.getresponse().read()

    def plain_post() -> None:
        plain.request("POST", path, body=TABLE, headers={"Content-Type": "text/csv"})
        plain.getresponse().read()

    accept = {"Accept": "application/json"}
    url = node + path
    return {
        "this client": (lambda: ours.get("foo", QUERY), lambda: ours.post("foo", TABLE)),
        "qcache-client 0.5.1": (lambda: theirs.get("foo", QUERY), lambda: theirs.post("foo", TABLE)),
        "requests.Session": (
            lambda: session.get(f"{url}?q={query}", headers=accept).content,
            lambda: session.post(url, data=TABLE, headers={"Content-Type": "text/csv"}).content,
        ),
        "http.client": (plain_get, plain_post),
        "raw socket": (lambda: raw.ask(get_bytes), lambda: raw.ask(store_bytes)),
    }


def compare_calls(title: str, node: str, calls_each: int) -> str:
    """Median times of the contenders, in microseconds."""
    runners = contenders(node)
    lines = [
        f"| {title} | get, µs | of qcache-client | post, µs | of qcache-client |",
        "|---|---|---|---|---|",
    ]
    names = list(runners)
    medians: dict[str, list[float]] = {name: [] for name in names}
    for operation in (1, 0):
        times: dict[str, list[float]] = {name: [] for name in runners}
        for number in range(calls_each + 50):
            # QCache collects garbage at every tenth query: in a fixed order it always hits the same ones.
            turns = names[number % len(names) :] + names[: number % len(names)]
            for name in turns:
                calls = runners[name]
                started = time.perf_counter()
                calls[operation]()
                if number >= 50:
                    times[name].append(time.perf_counter() - started)
        for name in runners:
            medians[name].insert(0, statistics.median(times[name]))
    base = medians["qcache-client 0.5.1"]
    for name, (get, post) in medians.items():
        lines.append(
            f"| {name} | {get * 1e6:.0f} | {get / base[0]:.2f} | {post * 1e6:.0f} | {post / base[1]:.2f} |"
        )
    return "\n".join(lines)


def against_a_stub(calls_each: int) -> str:
    """Against a server with fixed answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    process = multiprocessing.get_context("fork").Process(target=serve_stub, args=(listener,), daemon=True)
    process.start()
    try:
        return compare_calls("stub", f"http://127.0.0.1:{listener.getsockname()[1]}", calls_each)
    finally:
        process.terminate()
        process.join()


def against_a_real_node(calls_each: int) -> str:
    """Against a real QCache 0.9.3."""
    with Server.real() as server:
        return compare_calls("QCache 0.9.3", f"http://127.0.0.1:{server.port}", calls_each)


class _Fixed:
    """Replaces the jitter, which does not matter here."""

    @staticmethod
    def uniform(low: float, high: float) -> float:
        return (low + high) / 2


def timed(call: Callable[[], object], number: int) -> float:
    started = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - started) / number


def ring() -> str:
    """Look-ups of keys, failures of a node, and the construction of a ring."""
    three = [f"http://host{number}:9401" for number in (1, 2, 3)]
    hundred = [f"http://host{number}:9401" for number in range(100)]
    their_ring, our_ring = NodeRing(three), Ring(three)
    rng: random.Random = _Fixed()  # type: ignore[assignment]
    pool = NodePool(three, clock=SystemClock(), rng=rng)

    def their_failure() -> None:
        their_ring.remove_node(three[0])
        their_ring.add_node(three[0])

    def our_failure() -> None:
        pool.fail(three[0], pool.ticket(three[0]), "x")
        ticket = pool.begin_probe(three[0])
        assert ticket is not None
        pool.end_probe(three[0], ticket, None)

    pairs = {
        "look-up of a key, 3 nodes": (
            lambda: our_ring.node_for_key("foo"),
            lambda: their_ring.get_node("foo"),
            2000,
        ),
        "a node fails and comes back": (our_failure, their_failure, 20),
        "construction, 100 nodes": (lambda: Ring(hundred), lambda: NodeRing(hundred), 3),
    }
    lines = ["| ring | this client, µs | qcache-client, µs | ratio |", "|---|---|---|---|"]
    for name, (ours, theirs, number) in pairs.items():
        times = [(timed(ours, number), timed(theirs, number)) for _ in range(51)]
        our_median, their_median = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = our_median / their_median
        lines.append(f"| {name} | {our_median * 1e6:.2f} | {their_median * 1e6:.2f} | {ratio:.4f} |")
    return "\n".join(lines)


def many_tables(rounds: int) -> str:
    """Many tables of 1 kB at three real QCache 0.9.3 nodes."""
    with ExitStack() as stack:
        servers = [stack.enter_context(Server.real()) for _ in range(3)]
        nodes = [f"http://127.0.0.1:{server.port}" for server in servers]
        keys = [f"table{number}" for number in range(TABLES)]
        ring = Ring(nodes)
        by_node: dict[str, list[bytes]] = {node: [] for node in nodes}
        for key in keys:
            by_node[ring.node_for_key(key)].append(post_bytes(key, TABLE))

        def ours() -> None:
            with QClient(nodes, 5, 60) as client:
                client.post_many((key, TABLE) for key in keys)

        def theirs() -> None:
            client = qclient.QClient(nodes)
            for key in keys:
                client.post(key, TABLE)

        def generator() -> None:
            def load(node: str) -> None:
                raw = RawSocket(node)
                for request in by_node[node]:
                    raw.ask(request)

            threads = [threading.Thread(target=load, args=(node,)) for node in nodes]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        runners = {
            "this client, post_many": ours,
            "qcache-client in a loop": theirs,
            "load generator": generator,
        }
        times: dict[str, list[float]] = {name: [] for name in runners}
        generator()  # so that every measured store replaces a table
        for _ in range(rounds):
            for name, run in runners.items():
                times[name].append(timed(run, 1))
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    lines = [
        f"| {TABLES} tables of {len(TABLE)} bytes | s | tables/s | of qcache-client | of the generator |",
        "|---|---|---|---|---|",
    ]
    for name, seconds in medians.items():
        ratios = medians["qcache-client in a loop"] / seconds, medians["load generator"] / seconds
        lines.append(
            f"| {name} | {seconds:.1f} | {TABLES / seconds:.0f} | {ratios[0]:.2f} | {ratios[1]:.2f} |"
        )
    return "\n".join(lines)


def run(runs: int) -> str:
    """All parts: ``runs`` times 300 calls per contender, and up to three rounds of many tables."""
    calls_each = runs * CALLS_PER_RUN
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores, {calls_each} calls each."
    return "\n\n".join(
        [
            machine,
            against_a_stub(calls_each),
            against_a_real_node(calls_each),
            ring(),
            many_tables(min(runs, MOST_ROUNDS)),
        ]
    )
