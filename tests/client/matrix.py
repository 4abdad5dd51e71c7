"""Every kind of node failure against every operation: ``python -m tests.client.matrix`` prints the table.

The faulty node is the key's home, a healthy node comes next. A cell has the result of one operation and the
state of the home node afterwards. ``home`` and ``next`` are successes at that node, ``miss`` is None, and
anything else is the class of the error. Both nodes have the key's table before, except for a query with
load, which finds no table and stores one.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self
from unittest import mock

import trustme

from airflow_provider_qcache.client import (
    Attempt,
    Listener,
    QClient,
    QClientException,
    RequestRetry,
    transport,
)
from airflow_provider_qcache.client.compression import compress_lz4, lz4_block
from tests.client.kinds import key_with_home
from tests.harness import faults
from tests.harness.faults import ROWS, FaultyNode, Tables
from tests.harness.ports import closed_port

OPERATIONS = ("get", "POST query", "post bytes", "post file", "query with load", "delete")
DEADLINE = 3.0
SECRET = "hunter2-secret"
"""The password that every node is sent and that no error may show."""
READ_TIMEOUT = 0.4
SMALL = b"a\n1\n"
LARGE = b"a,b\n" + b"1,some text to make it long\n" * 400_000


@dataclass(frozen=True)
class CellOutcome:
    """The result of an operation, the failures of its requests, and what they change."""

    result: str
    failures: tuple[str, ...] = ()
    counted: str | None = None
    """The counter of qclient that each failure increments; None for no counter."""
    failing: bool = False
    """Whether the home node is marked as failing."""

    @property
    def counters(self) -> dict[str, int]:
        return {self.counted: len(self.failures)} if self.counted is not None else {}


HOME = CellOutcome("home")


@dataclass(frozen=True)
class Expected:
    """The expected outcomes of a query, a store and a delete; ``load`` defaults to ``query``."""

    query: CellOutcome
    store: CellOutcome
    delete: CellOutcome
    load: CellOutcome | None = None

    def outcome_of(self, operation: str) -> CellOutcome:
        if operation == "query with load":
            return self.load or self.query
        return self.store if operation.startswith("post ") else getattr(self, operation, self.query)


def all_the_same(outcome: CellOutcome) -> Expected:
    return Expected(outcome, outcome, outcome)


def next_after(failures: str, counted: str) -> CellOutcome:
    return CellOutcome("next", (failures,), counted, failing=True)


def next_for_all(failures: str, counted: str = "connection_error") -> Expected:
    return all_the_same(next_after(failures, counted))


def only_for_queries(outcome: CellOutcome) -> Expected:
    """Stores and deletes succeed, because they need nothing but the status."""
    return Expected(outcome, HOME, HOME)


def wrong_result(failures: str) -> Expected:
    return only_for_queries(next_after(failures, "unknown_error"))


def truncated_result(failures: str) -> Expected:
    return only_for_queries(next_after(failures, "connection_error"))


def refused(status: int, query: str = "UnexpectedServerResponse") -> Expected:
    failures = (f"head: request refused {status}",)
    store = CellOutcome("UnexpectedServerResponse", failures, "unknown_error")
    delete = CellOutcome("UnexpectedServerResponse", failures)
    if query == "miss":
        return Expected(CellOutcome("miss"), store, delete, load=store)
    return Expected(CellOutcome(query, failures), store, delete)


NO_ANSWER = "head: timed out"
TIMED_OUT = next_after(NO_ANSWER, "read_timeout")


def silent_for(store: CellOutcome) -> Expected:
    return Expected(TIMED_OUT, store, TIMED_OUT)


def uncertain(*failures: str) -> CellOutcome:
    return CellOutcome("StoreUncertain", failures, "read_timeout")


@dataclass(frozen=True)
class Fault:
    """One row of the matrix: how to make the node, and the expected outcomes."""

    name: str
    make: Callable[[Tables], FaultyNode | str]
    expected: Expected
    sending: bool = False
    """The failure concerns the sending of a body, where POST queries and files have code of their own."""
    large: bool = False
    """Stores send a body that is larger than all buffers."""
    before: Callable[[QClient, str], None] | None = None
    after: Callable[[QClient, str, str], None] | None = None
    verify: bool | str = True
    store_timeout: float = 1.5
    around: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext
    """A context that is active while the operation runs."""

    @property
    def operations(self) -> list[str]:
        """The tested operations. Without a body, a file is like any store and a POST query like any query."""
        return [name for name in OPERATIONS if self.sending or name not in ("POST query", "post file")]


class PlainHttpNode(FaultyNode):
    """A node with an https URL that answers the TLS handshake in plain HTTP."""

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"


class NodeCertificates:
    """Server certificates: trusted, unknown, expired and for another name; and a client's certificate."""

    def __init__(self) -> None:
        self.ca, stranger = trustme.CA(), trustme.CA()
        self.directory = tempfile.TemporaryDirectory()
        self.ca_file = str(Path(self.directory.name) / "ca.pem")
        self.ca.cert_pem.write_to_path(self.ca_file)
        self.good = self._context(self.ca.issue_cert("127.0.0.1"))
        self.unknown = self._context(stranger.issue_cert("127.0.0.1"))
        yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
        self.expired = self._context(self.ca.issue_cert("127.0.0.1", not_after=yesterday))
        self.wrong_name = self._context(self.ca.issue_cert("elsewhere.example"))
        self.client_required = self._context(self.ca.issue_cert("127.0.0.1"))
        self.ca.configure_trust(self.client_required)
        self.client_required.verify_mode = ssl.CERT_REQUIRED
        self.client = str(Path(self.directory.name) / "client.pem")
        self.ca.issue_cert("client.example").private_key_and_cert_chain_pem.write_to_path(self.client)

    @staticmethod
    def _context(certificate: trustme.LeafCert) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        return context


CERTIFICATES = NodeCertificates()


def answering(answer: faults.Reply) -> Callable[[Tables], FaultyNode]:
    return lambda tables: FaultyNode(answer)


def answering_status_too(answer: faults.Reply) -> Callable[[Tables], FaultyNode]:
    """The same, but the node also answers its status so."""
    return lambda tables: FaultyNode(answer, status=answer)


def busy(tables: Tables) -> FaultyNode:
    return FaultyNode(tables.answer, before_reading=faults.Busy().before_reading)


def over_tls(context: ssl.SSLContext) -> Callable[[Tables], FaultyNode]:
    return lambda tables: FaultyNode(tables.answer, tls=context)


def acknowledge_early(tables: Tables) -> FaultyNode:
    def answer(peer: faults.Peer, request: faults.Received) -> None:
        if request.kind == "store":
            peer.send(faults.head(201, 0))
            raise faults.HungUp
        peer.read_body(request)
        tables.answer(peer, request)

    return FaultyNode(answer, read_bodies=False)


def no_tls(tables: Tables) -> FaultyNode:
    def refuse(peer: faults.Peer) -> None:
        peer.sock.recv(10)
        peer.send(faults.head(400, 0))
        raise faults.HungUp

    return PlainHttpNode(tables.answer, before_reading=refuse)


def keep_a_connection(client: QClient, key: str) -> None:
    client.post(key, SMALL)
    time.sleep(0.1)  # for the node's FIN to arrive, if it sends one


def cut_after_each_answer(tables: Tables) -> FaultyNode:
    def answer(peer: faults.Peer, request: faults.Received) -> None:
        tables.answer(peer, request)
        raise faults.HungUp

    return FaultyNode(answer)


REDIRECT_TARGET = socket.create_server(("127.0.0.1", 0))
"""Where a redirect leads; nobody may connect."""
REDIRECT_TARGET.setblocking(False)


def redirect(tables: Tables) -> FaultyNode:
    place = f"http://localhost:{REDIRECT_TARGET.getsockname()[1]}/qcache/dataset/foo"

    def answer(peer: faults.Peer, request: faults.Received) -> None:
        peer.send(faults.head(307, 0, Location=place))

    return FaultyNode(answer)


def closes(status: faults.Reply | None = None) -> Callable[[Tables], FaultyNode]:
    return lambda tables: FaultyNode(faults.reset_before_the_head, status=status)


def reset_after_the_body(tables: Tables) -> FaultyNode:
    def answer(peer: faults.Peer, request: faults.Received) -> None:
        tables.answer(peer, request)
        peer.reset()

    return FaultyNode(answer)


def check_that_answers_are_not_mixed_up(client: QClient, key: str, home: str) -> None:
    """The answer that came too late must not be taken for the answer to a later request."""
    assert client.node_status(probe=True)[home].alive
    other = next(key for key in (f"other{i}" for i in range(1000)) if client.node_for_key(key) == home)
    assert client.get(other, {}) is None
    assert client.post(other, SMALL).node == home
    assert client.get(other, {}).content == ROWS


class BehindABlackHole(FaultyNode):
    """A node whose name has two addresses; nobody answers at the first one."""

    def __enter__(self) -> Self:
        super().__enter__()
        self._hole = contextlib.ExitStack()
        self._hole.enter_context(faults.black_hole("127.0.0.2", self.port))
        return self

    def __exit__(self, *error: object) -> None:
        self._hole.close()
        super().__exit__(*error)

    @property
    def url(self) -> str:
        return f"http://two.addresses.invalid:{self.port}"


@contextlib.contextmanager
def out_of_descriptors_once() -> Iterator[None]:
    """Make the client's first socket fail as in a process that has no file descriptor left."""

    class Exhausted(transport._DeadlineSocket):
        failed = False

        def __init__(self, *args: object) -> None:
            if not Exhausted.failed:
                Exhausted.failed = True
                raise OSError(errno.EMFILE, "Too many open files")
            super().__init__(*args)

    with mock.patch.object(transport, "_DeadlineSocket", Exhausted):
        yield


def echo(peer: faults.Peer, request: faults.Received) -> None:
    text = repr(request.headers).encode()
    peer.send(faults.head(500, len(text)) + text)


CLOSED = "head: connection closed without a response"
TRUNCATED = "head: response truncated"
TRUNCATED_BODY = "body: response truncated"
NOT_QCACHE = "head: not a QCache response"
NOT_DECODABLE = "body: response cannot be decoded 200"
TOO_LARGE = only_for_queries(
    CellOutcome("ResponseTooLarge", ("body: response too large 200",), "unknown_error")
)
REJECTED = all_the_same(
    CellOutcome("CertificateRejected", ("TLS: certificate rejected",), "connection_error")
)
# TLS 1.3 reports a bad client certificate only after the handshake.
REJECTED_LATER = all_the_same(
    CellOutcome("CertificateRejected", ("head: certificate rejected",), "connection_error")
)

FAULTS = [
    Fault(
        "refuses",
        lambda tables: f"http://127.0.0.1:{closed_port()}",
        next_for_all("connect: connection refused"),
    ),
    Fault("accepts and never answers", answering_status_too(faults.silent), silent_for(uncertain(NO_ANSWER))),
    Fault(
        "accepts and does not read",
        lambda tables: FaultyNode(faults.silent, accepts=False),
        silent_for(uncertain("send: send timeout")),
        large=True,
        store_timeout=0.6,
        sending=True,
    ),
    Fault(
        "resets before the head",
        closes(),
        all_the_same(CellOutcome("ClosedWithoutAnswer", (CLOSED, CLOSED), "connection_error")),
        sending=True,
    ),
    Fault("resets everything", closes(faults.reset_before_the_head), next_for_all(CLOSED), sending=True),
    Fault(
        "resets while it reads",
        lambda tables: FaultyNode(faults.silent, before_reading=faults.reset_while_reading),
        next_for_all(CLOSED),
        large=True,
        sending=True,
    ),
    Fault(
        "acknowledges before it has the body",
        acknowledge_early,
        Expected(
            HOME, next_after(NOT_QCACHE, "unknown_error"), HOME, next_after(NOT_QCACHE, "unknown_error")
        ),
        large=True,
        sending=True,
    ),
    Fault(
        "resets during the head", answering(faults.reset_in_the_head), next_for_all(TRUNCATED), sending=True
    ),
    Fault("resets after the head", answering(faults.reset_after_the_head), truncated_result(TRUNCATED_BODY)),
    Fault("resets during the body", answering(faults.reset_in_the_body), truncated_result(TRUNCATED_BODY)),
    Fault("resets after the body", reset_after_the_body, all_the_same(HOME)),
    Fault(
        "closes during the head",
        answering(faults.close_in_the_head),
        next_for_all(NOT_QCACHE, "unknown_error"),
    ),
    Fault("answers half and closes", answering(faults.close_in_the_body), truncated_result(TRUNCATED_BODY)),
    Fault(
        "drips its body",
        answering(faults.drip_the_body),
        only_for_queries(
            CellOutcome("DeadlineExceeded", ("body: deadline passed",), "read_timeout", failing=True)
        ),
        store_timeout=0.6,
    ),
    Fault(
        "drips its head",
        answering(faults.drip_the_head),
        silent_for(uncertain(NO_ANSWER, NO_ANSWER)),
        store_timeout=0.6,
    ),
    Fault(
        "drips interim responses",
        answering(faults.drip_interim_responses),
        silent_for(uncertain(NO_ANSWER, NO_ANSWER)),
        store_timeout=0.6,
    ),
    Fault("never stops sending", answering(faults.never_stop), TOO_LARGE),
    Fault(
        "Content-Length too long",
        answering(faults.length_too_long),
        only_for_queries(next_after("body: timed out", "read_timeout")),
    ),
    Fault(
        "Content-Length too short",
        answering(faults.length_too_short),
        wrong_result("body: response cannot be decoded 200"),
    ),
    Fault("bad chunk", answering(faults.bad_chunk), truncated_result(TRUNCATED_BODY)),
    Fault(
        "chunk of -1 bytes",
        answering(partial(faults.endless_chunk, size=b"-1")),
        truncated_result(TRUNCATED_BODY),
    ),
    Fault("chunk of 2^64-1 bytes", answering(partial(faults.endless_chunk, size=b"f" * 16)), TOO_LARGE),
    Fault(
        "chunk size of 20 digits",
        answering(partial(faults.endless_chunk, size=b"f" * 20)),
        truncated_result(TRUNCATED_BODY),
    ),
    *(
        Fault(
            f"{status} with endless chunks",
            answering(partial(faults.endless_chunks, status=status)),
            refused(status),
        )
        for status in (101, 204, 304)
    ),
    Fault(
        "an encoding nobody asked for",
        answering(faults.encoded("br", ROWS)),
        only_for_queries(
            CellOutcome(
                "UnexpectedServerResponse",
                ("body: unsupported response encoding 200",),
                "unknown_error",
            )
        ),
    ),
    Fault("bad gzip", answering(faults.encoded("gzip", b"\x1f\x8b" + ROWS)), wrong_result(NOT_DECODABLE)),
    Fault("gzip bomb", answering(faults.encoded("gzip", faults.gzip_bomb())), TOO_LARGE),
    Fault("not HTTP", answering(faults.not_http), next_for_all(NOT_QCACHE, "unknown_error")),
    Fault(
        "HTML where JSON should be",
        answering(faults.html),
        Expected(
            next_after("body: not a QCache response 200", "unknown_error"),
            next_after("head: not a QCache response 201", "unknown_error"),
            next_after("body: not a QCache response 200", "unknown_error"),
        ),
    ),
    Fault(
        "no unsliced length",
        answering(faults.without_unsliced_length),
        wrong_result("body: not a QCache response 200"),
    ),
    Fault("400", answering(faults.status_only(400)), refused(400, "MalformedQueryException")),
    Fault(
        "401",
        answering(faults.status_only(401)),
        all_the_same(CellOutcome("AuthenticationFailed", ("head: not authorized 401",), "unknown_error")),
    ),
    Fault("404", answering(faults.status_only(404)), refused(404, "miss")),
    Fault("406", answering(faults.status_only(406)), refused(406, "UnsupportedAcceptType")),
    Fault("415", answering(faults.status_only(415)), refused(415)),
    Fault(
        "429 with Retry-After",
        lambda tables: FaultyNode(faults.Once(tables, faults.overloaded)),
        all_the_same(CellOutcome("home", ("head: overloaded 429",), "unknown_error")),
        sending=True,
    ),
    Fault("500", answering(faults.status_only(500)), refused(500)),
    Fault("500 that echoes the request", answering(echo), refused(500)),
    Fault("500 whose body never comes", answering(faults.head_of_500_without_body), refused(500)),
    *(
        Fault(
            str(status),
            answering(faults.status_only(status)),
            next_for_all(f"head: unavailable {status}", "unknown_error"),
            sending=status == 503,
        )
        for status in (502, 503, 504)
    ),
    Fault("redirects to another host", redirect, refused(307), sending=True),
    Fault(
        "idle connection closed while unused",
        cut_after_each_answer,
        all_the_same(HOME),
        before=keep_a_connection,
    ),
    Fault(
        "idle connection closed as it is used",
        lambda tables: FaultyNode(faults.CutsIdleConnections(tables, reset=False)),
        all_the_same(HOME),
        before=keep_a_connection,
        sending=True,
    ),
    Fault(
        "idle connection reset as it is used",
        lambda tables: FaultyNode(faults.CutsIdleConnections(tables, reset=True)),
        all_the_same(HOME),
        before=keep_a_connection,
        sending=True,
    ),
    Fault(
        "busy for longer than every timeout",
        busy,
        silent_for(CellOutcome("home", ("send: send timeout",), "read_timeout")),
        large=True,
        sending=True,
    ),
    Fault(
        "answers after the client gave up",
        lambda tables: FaultyNode(faults.Once(tables, faults.late)),
        silent_for(CellOutcome("home", (NO_ANSWER,), "read_timeout")),
        after=check_that_answers_are_not_mixed_up,
        store_timeout=0.8,
        sending=True,
    ),
    Fault("name unknown", lambda tables: "http://qcache.invalid:9401", next_for_all("name: name unknown")),
    Fault(
        "has two addresses, the first a black hole",
        lambda tables: BehindABlackHole(tables.answer),
        all_the_same(HOME),
        around=lambda: faults.names_resolve_to("127.0.0.2", "127.0.0.1"),
    ),
    Fault(
        "is healthy, and this machine is out of descriptors once (EMFILE)",
        lambda tables: FaultyNode(tables.answer),
        all_the_same(CellOutcome("home", ("connect: this machine lacks a resource",))),
        around=out_of_descriptors_once,
    ),
    Fault(
        "TLS handshake never answered",
        lambda tables: FaultyNode(tables.answer, accepts=False, tls=CERTIFICATES.good),
        next_for_all("TLS: connect timeout", "connect_timeout"),
    ),
    Fault("no TLS where it should be", no_tls, next_for_all("TLS: TLS failed")),
    Fault("expired certificate", over_tls(CERTIFICATES.expired), REJECTED, verify=CERTIFICATES.ca_file),
    Fault("unknown certificate", over_tls(CERTIFICATES.unknown), REJECTED, verify=CERTIFICATES.ca_file),
    Fault(
        "certificate of another name",
        over_tls(CERTIFICATES.wrong_name),
        REJECTED,
        verify=CERTIFICATES.ca_file,
    ),
    Fault(
        "client certificate demanded",
        over_tls(CERTIFICATES.client_required),
        REJECTED_LATER,
        verify=CERTIFICATES.ca_file,
    ),
]
if lz4_block is not None:
    WRONG_SIZE = b"\xff\xff\xff\x7f" + compress_lz4(ROWS)[4:]
    BOMB = next(number for number, fault in enumerate(FAULTS) if fault.name == "gzip bomb")
    FAULTS.insert(
        BOMB + 1,
        Fault(
            "lz4 with a lying size", answering(faults.encoded("lz4", WRONG_SIZE)), wrong_result(NOT_DECODABLE)
        ),
    )


@dataclass(frozen=True)
class Cell:
    """The result of one operation at one faulty node."""

    result: str
    key: str
    home: str
    state: str
    counters: dict[str, dict[str, int]]
    attempts: list[Attempt]
    seconds: float
    error: QClientException | None = None

    @property
    def failures(self) -> tuple[str, ...]:
        """The failure of each failed request, with its node if that is not the home node."""
        return tuple(
            ("" if attempt.node == self.home else f"{attempt.node}: ")
            + f"{attempt.phase}: {attempt.outcome}"
            + ("" if attempt.status is None else f" {attempt.status}")
            for attempt in self.attempts
        )

    def __str__(self) -> str:
        return f"{self.result}, {self.state}"


@dataclass
class FaultyHome:
    """A client and a key whose home is the faulty node; a healthy node comes next."""

    client: QClient
    key: str
    home: str
    next: str
    node: FaultyNode | None
    home_tables: Tables
    next_tables: Tables


@dataclass
class AttemptRecorder(Listener):
    """Records each failed request, also those of operations that succeed."""

    attempts: list[Attempt] = field(default_factory=list)

    def attempt_failed(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)


@contextlib.contextmanager
def faulty_home(fault: Fault) -> Iterator[FaultyHome]:
    healthy, next_tables = faults.healthy_node()
    with contextlib.ExitStack() as stack:
        stack.enter_context(healthy)
        home_tables = Tables()
        made = fault.make(home_tables)
        node = made if isinstance(made, FaultyNode) else None
        if node is not None:
            stack.enter_context(node)
        home = made if isinstance(made, str) else made.url
        client = QClient(
            [home, healthy.url],
            connect_timeout=0.5,
            read_timeout=READ_TIMEOUT,
            verify=fault.verify,
            auth=("someone", SECRET),
            trust_env=False,
            deadline=DEADLINE,
            store_timeout=fault.store_timeout,
            max_response_bytes=1 << 20,
            request_retry=RequestRetry(wait_initial=0.05, wait_max=0.2),
        )
        stack.enter_context(client)
        key = key_with_home(client, home)
        yield FaultyHome(client, key, home, healthy.url, node, home_tables, next_tables)


def run_cell(fault: Fault, operation: str) -> Cell:
    """Run one operation against a new pair of nodes."""
    content = LARGE if fault.large else SMALL
    with faulty_home(fault) as faulty, tempfile.NamedTemporaryFile(suffix=".csv") as file:
        client, key, home = faulty.client, faulty.key, faulty.home
        file.write(content)
        file.flush()
        if fault.before is not None:
            fault.before(client, key)
            client.get_statistics()
        for tables in (faulty.home_tables, faulty.next_tables):
            tables.tables = {} if operation == "query with load" else {key: b"old\n1\n"}
        listener = AttemptRecorder()
        client.add_listener(listener)
        error = None
        started = time.monotonic()
        try:
            with fault.around():
                result = _do(faulty, operation, content, Path(file.name))
        except QClientException as raised:
            error = raised
            result = type(raised).__name__
        seconds = time.monotonic() - started
        attempts = listener.attempts[:]
        state = client.node_status()
        assert state[faulty.next].alive
        counters = {
            node: {name: count for name, count in counted.items() if count}
            for node, counted in client.get_statistics().items()
        }
        if fault.after is not None:
            fault.after(client, key, home)
        try:
            REDIRECT_TARGET.accept()[0].close()
            result = "followed a redirect"
        except BlockingIOError:
            pass
        return Cell(result, key, home, state[home].state, counters, attempts, seconds, error)


def _do(faulty: FaultyHome, operation: str, content: bytes, path: Path) -> str:
    client, key = faulty.client, faulty.key

    def where(node: str) -> str:
        return {faulty.home: "home", faulty.next: "next"}[node]

    def check_stored(node: str) -> None:
        if node == faulty.next:
            held = faulty.next_tables.tables.get(key)
        else:
            assert faulty.node is not None
            held = next(x.body for x in reversed(faulty.node.requests) if x.kind == "store")
        assert held == content, "the node did not get the whole body"

    if operation in ("get", "POST query"):
        result = client.get(key, {}, post_query=operation == "POST query")
        if result is None:
            return "miss"
        assert result.content == ROWS
        return where(result.node)
    if operation.startswith("post "):
        result = client.post(key, content if operation == "post bytes" else path)
        check_stored(result.node)
        return where(result.node)
    if operation == "query with load":
        loads = []

        def load() -> bytes:
            loads.append(key)
            return content

        result = client.query(key, {}, load)
        assert loads == [key]
        assert result.content == ROWS
        check_stored(result.node)
        return where(result.node)
    client.delete(key)
    if key not in faulty.next_tables.tables:
        return "next"
    assert faulty.node is not None
    assert any(request.kind == "delete" for request in faulty.node.requests)
    return "home"


def table() -> str:
    """The matrix as it stands in docs/explanation/guarantees.md: faults with the same outcomes share a row.

    tests/client/test_matrix.py checks every cell.
    """
    columns = {
        "query": "get",
        "query with load": "query with load",
        "store": "post bytes",
        "delete": "delete",
    }
    rows: dict[tuple[str, ...], list[str]] = {}
    for fault in FAULTS:
        expected = [fault.expected.outcome_of(operation) for operation in columns.values()]
        cells = tuple(f"{one.result}, {'failing' if one.failing else 'alive'}" for one in expected)
        rows.setdefault(cells, []).append(fault.name)
    lines = [("the home node …", *columns), *(("; ".join(names), *cells) for cells, names in rows.items())]
    head, *body = [f"| {' | '.join(line)} |\n" for line in lines]
    return f"{head}|{'---|' * (len(columns) + 1)}\n{''.join(body)}"


if __name__ == "__main__":
    sys.stdout.write(table())
