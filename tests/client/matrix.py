"""Every fault a node can have against every operation: ``python -m tests.client.matrix`` prints it.

The faulty node is the key's home, a sound one is the next. A cell is what one operation came to: ``home`` and
``next`` are successes there, ``miss`` is None, anything else is the error's class; after it stands what the
client thinks of the home node then.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import trustme

from airflow_provider_qcache.client import QClient, QClientException, RequestRetry
from airflow_provider_qcache.client.encoding import compress_lz4, lz4_block
from tests.client import faults
from tests.client.faults import ROWS, Node, Tables

OPERATIONS = ("get", "POST query", "post bytes", "post file", "query with load", "delete")
DEADLINE = 4.0
SMALL = b"a\n1\n"
LARGE = b"a,b\n" + b"1,some text to make it long\n" * 400_000


@dataclass(frozen=True)
class Expected:
    """What a query, a store and a delete come to, and the home's state and counters after each."""

    query: str
    store: str
    delete: str
    alive: tuple[bool, bool, bool] = (True, True, True)
    counters: tuple[dict[str, int], ...] = ({}, {}, {})

    def of(self, operation: str) -> tuple[str, bool, dict[str, int]]:
        index = 1 if operation.startswith("post ") else 2 if operation == "delete" else 0
        return (self.query, self.store, self.delete)[index], self.alive[index], self.counters[index]


def all_the_same(result: str, counter: str | None = None, times: int = 1) -> Expected:
    """The same for every operation; the home fails where the next node has to help."""
    alive = (result != "next",) * 3
    return Expected(result, result, result, alive, (({counter: times} if counter else {}),) * 3)


NEXT_CONNECTION_ERROR = all_the_same("next", "connection_error")
LIE = Expected("next", "home", "home", (False, True, True), ({"unknown_error": 1}, {}, {}))
CUT = Expected("next", "home", "home", (False, True, True), ({"connection_error": 1}, {}, {}))
SILENT_ONCE = {"read_timeout": 1}
REFUSED_STORE = ({}, {"unknown_error": 1}, {})


def refused(query: str) -> Expected:
    other = "UnexpectedServerResponse"
    return Expected(query, other, other, (True, True, True), REFUSED_STORE)


@dataclass(frozen=True)
class Fault:
    """One row: how to make the node, and what is to come of it."""

    name: str
    make: Callable[[Tables], Node | str]
    expected: Expected
    large: bool = False
    """Stores send a body that fills every buffer."""
    before: Callable[[QClient, str], None] | None = None
    verify: bool | str = True


class Certificates:
    """Certificates of a node that is trusted, of one that is not, and of one whose time is over."""

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
        self.client_wanted = self._context(self.ca.issue_cert("127.0.0.1"))
        self.ca.configure_trust(self.client_wanted)
        self.client_wanted.verify_mode = ssl.CERT_REQUIRED
        self.client = str(Path(self.directory.name) / "client.pem")
        self.ca.issue_cert("client.example").private_key_and_cert_chain_pem.write_to_path(self.client)

    @staticmethod
    def _context(certificate: trustme.LeafCert) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        return context


CERTIFICATES = Certificates()


def answering(answer: faults.Answer) -> Callable[[Tables], Node]:
    return lambda tables: Node(answer)


def sick(answer: faults.Answer) -> Callable[[Tables], Node]:
    """The same for the node's status."""
    return lambda tables: Node(answer, status=answer)


def busy(tables: Tables) -> Node:
    node = faults.Busy(tables, seconds=1.5)
    return Node(tables.answer, before_reading=node.before_reading)


def over_tls(context: ssl.SSLContext) -> Callable[[Tables], Node]:
    return lambda tables: Node(tables.answer, tls=context)


def keep_a_connection(client: QClient, key: str) -> None:
    client.post(key, SMALL)
    time.sleep(0.1)  # the node's FIN is to arrive, where it sends one


def cut_after_each_answer(tables: Tables) -> Node:
    def answer(peer: faults.Peer, request: faults.Request) -> None:
        tables.answer(peer, request)
        raise faults.HungUp

    return Node(answer)


def redirect(tables: Tables) -> Node:
    def answer(peer: faults.Peer, request: faults.Request) -> None:
        peer.send(faults.head(307, 0, Location="http://localhost:9/qcache/dataset/foo"))

    return Node(answer)


def closes(status: faults.Answer | None = None) -> Callable[[Tables], Node]:
    return lambda tables: Node(faults.reset_before_the_head, status=status)


CLOSED_TWICE = all_the_same("ClosedWithoutAnswer", "connection_error", 2)
SILENT = Expected(
    "next", "StoreUncertain", "next", (False, True, False), (SILENT_ONCE, SILENT_ONCE, SILENT_ONCE)
)
DRIPS_A_HEAD = Expected(
    "next", "StoreUncertain", "next", (False, True, False), (SILENT_ONCE, {"read_timeout": 2}, SILENT_ONCE)
)
TOO_LARGE = Expected("ResponseTooLarge", "home", "home", counters=({"unknown_error": 1}, {}, {}))

FAULTS = [
    Fault("refuses", lambda tables: f"http://127.0.0.1:{faults.closed_port()}", NEXT_CONNECTION_ERROR),
    Fault("accepts and never answers", sick(faults.silent), SILENT),
    Fault("accepts and does not read", lambda tables: Node(faults.silent, accepts=False), SILENT, large=True),
    Fault("resets before the head", closes(), CLOSED_TWICE),
    Fault("resets everything", closes(faults.reset_before_the_head), NEXT_CONNECTION_ERROR),
    Fault(
        "resets while it reads",
        lambda tables: Node(faults.silent, before_reading=faults.reset_while_reading),
        NEXT_CONNECTION_ERROR,
        large=True,
    ),
    Fault("resets during the head", answering(faults.reset_in_the_head), NEXT_CONNECTION_ERROR),
    Fault("resets during the body", answering(faults.reset_in_the_body), CUT),
    Fault(
        "closes during the head", answering(faults.close_in_the_head), all_the_same("next", "unknown_error")
    ),
    Fault("answers half and closes", answering(faults.close_in_the_body), CUT),
    Fault(
        "drips its body",
        answering(faults.drip_the_body),
        Expected("DeadlineExceeded", "home", "home", (False, True, True), (SILENT_ONCE, {}, {})),
    ),
    Fault("drips its head", answering(faults.drip_the_head), DRIPS_A_HEAD),
    Fault("drips interim responses", answering(faults.drip_interim_responses), DRIPS_A_HEAD),
    Fault("never stops sending", answering(faults.never_stop), TOO_LARGE),
    Fault(
        "Content-Length too long",
        answering(faults.length_too_long),
        Expected("next", "home", "home", (False, True, True), (SILENT_ONCE, {}, {})),
    ),
    Fault("Content-Length too short", answering(faults.length_too_short), LIE),
    Fault("bad chunk", answering(faults.bad_chunk), CUT),
    Fault("bad gzip", answering(faults.encoded("gzip", b"\x1f\x8b" + ROWS)), LIE),
    Fault("gzip bomb", answering(faults.encoded("gzip", faults.gzip_bomb())), TOO_LARGE),
    Fault("not HTTP", answering(faults.not_http), all_the_same("next", "unknown_error")),
    Fault(
        "HTML where JSON should be",
        answering(faults.html),
        all_the_same("next", "unknown_error"),
    ),
    Fault("no unsliced length", answering(faults.without_the_length), LIE),
    Fault("400", answering(faults.status_only(400)), refused("MalformedQueryException")),
    Fault("401", answering(faults.status_only(401)), all_the_same("AuthenticationFailed", "unknown_error")),
    Fault("404", answering(faults.status_only(404)), refused("miss")),
    Fault("406", answering(faults.status_only(406)), refused("UnsupportedAcceptType")),
    Fault("415", answering(faults.status_only(415)), refused("UnexpectedServerResponse")),
    Fault(
        "429 with Retry-After",
        lambda tables: Node(faults.OverloadedOnce(tables)),
        all_the_same("home", "unknown_error"),
    ),
    Fault("500", answering(faults.status_only(500)), refused("UnexpectedServerResponse")),
    Fault("502", answering(faults.status_only(502)), all_the_same("next", "unknown_error")),
    Fault("503", answering(faults.status_only(503)), all_the_same("next", "unknown_error")),
    Fault("504", answering(faults.status_only(504)), all_the_same("next", "unknown_error")),
    Fault("redirects to another host", redirect, refused("UnexpectedServerResponse")),
    Fault(
        "idle connection closed while unused",
        cut_after_each_answer,
        all_the_same("home"),
        before=keep_a_connection,
    ),
    Fault(
        "idle connection closed as it is used",
        lambda tables: Node(faults.CutsIdleConnections(tables, reset=False)),
        all_the_same("home"),
        before=keep_a_connection,
    ),
    Fault(
        "idle connection reset as it is used",
        lambda tables: Node(faults.CutsIdleConnections(tables, reset=True)),
        all_the_same("home"),
        before=keep_a_connection,
    ),
    Fault(
        "busy for longer than every timeout",
        busy,
        Expected("next", "home", "next", (False, True, False), (SILENT_ONCE, SILENT_ONCE, SILENT_ONCE)),
        large=True,
    ),
    Fault(
        "answers after the client gave up",
        lambda tables: Node(faults.answer_late(0.7, tables)),
        Expected("next", "home", "next", (False, True, False), (SILENT_ONCE, {}, SILENT_ONCE)),
    ),
    Fault("name unknown", lambda tables: "http://qcache.invalid:9401", NEXT_CONNECTION_ERROR),
    Fault(
        "TLS handshake never answered",
        lambda tables: Node(tables.answer, accepts=False, tls=CERTIFICATES.good),
        all_the_same("next", "connect_timeout"),
    ),
    Fault(
        "expired certificate",
        over_tls(CERTIFICATES.expired),
        all_the_same("CertificateRejected", "connection_error"),
        verify=CERTIFICATES.ca_file,
    ),
    Fault(
        "unknown certificate",
        over_tls(CERTIFICATES.unknown),
        all_the_same("CertificateRejected", "connection_error"),
        verify=CERTIFICATES.ca_file,
    ),
    Fault(
        "certificate of another name",
        over_tls(CERTIFICATES.wrong_name),
        all_the_same("CertificateRejected", "connection_error"),
        verify=CERTIFICATES.ca_file,
    ),
    Fault(
        "client certificate demanded",
        over_tls(CERTIFICATES.client_wanted),
        all_the_same("CertificateRejected", "connection_error"),
        verify=CERTIFICATES.ca_file,
    ),
]
if lz4_block is not None:
    LYING = b"\xff\xff\xff\x7f" + compress_lz4(ROWS)[4:]
    FAULTS.insert(19, Fault("lz4 with a lying size", answering(faults.encoded("lz4", LYING)), LIE))


@dataclass(frozen=True)
class Cell:
    """What one operation came to."""

    result: str
    alive: bool
    counters: dict[str, int]
    seconds: float
    error: QClientException | None = None

    def __str__(self) -> str:
        return f"{self.result}, {'alive' if self.alive else 'failing'}"


@contextlib.contextmanager
def faulty_home(fault: Fault) -> Iterator[tuple[QClient, str, str, Tables]]:
    """A client whose key lives on the faulty node first and on a sound one second."""
    sound, tables = faults.sound_node()
    with contextlib.ExitStack() as stack:
        stack.enter_context(sound)
        home_tables = Tables()
        made = fault.make(home_tables)
        if isinstance(made, Node):
            stack.enter_context(made)
        home = made if isinstance(made, str) else made.url
        client = QClient(
            [home, sound.url],
            connect_timeout=0.5,
            read_timeout=0.4,
            verify=fault.verify,
            trust_env=False,
            deadline=DEADLINE,
            store_timeout=0.6 if fault.large or fault.name.startswith("drips") else 1.5,
            max_response_bytes=1 << 20,
            request_retry=RequestRetry(wait_initial=0.05, wait_max=0.2),
        )
        stack.enter_context(client)
        key = next(key for key in (f"key{i}" for i in range(1000)) if client.node_for_key(key) == home)
        home_tables.tables[key] = SMALL
        yield client, key, home, tables


def run_cell(fault: Fault, operation: str) -> Cell:
    """Do one operation against a fresh pair of nodes."""
    with faulty_home(fault) as (client, key, home, tables):
        if fault.before is not None:
            fault.before(client, key)
            client.get_statistics()
        else:
            tables.tables[key] = SMALL
        content = LARGE if fault.large else SMALL
        if operation.startswith("post "):
            tables.tables.clear()
        error = None
        started = time.monotonic()
        try:
            with tempfile.NamedTemporaryFile(suffix=".csv") as file:
                file.write(content)
                file.flush()
                result = _do(client, key, home, operation, content, Path(file.name))
        except QClientException as raised:
            error = raised
            result = type(raised).__name__
        seconds = time.monotonic() - started
        if result == "next" and operation.startswith("post "):
            assert tables.tables[key] == content, "the next node did not get the whole body"
        alive = client._pool.snapshot()[home].state == "alive"
        counted = client.get_statistics()[home]
        # How often a probe met it depends on the time it had.
        counters = {
            name: count
            for name, count in counted.items()
            if count and name not in ("retry_error", "resurrections")
        }
        return Cell(result, alive, counters, seconds, error)


def _do(client: QClient, key: str, home: str, operation: str, content: bytes, path: Path) -> str:
    def where(node: str) -> str:
        return "home" if node == home else "next"

    if operation in ("get", "POST query"):
        result = client.get(key, {}, post_query=operation == "POST query")
        return "miss" if result is None else where(result.node)
    if operation.startswith("post "):
        return where(client.post(key, content if operation == "post bytes" else path).node)
    if operation == "query with load":
        return where(client.query(key, {}, lambda: content).node)
    requests = len(client._pool.failing)
    client.delete(key)
    return "home" if len(client._pool.failing) == requests else "next"


def expected_of(fault: Fault, operation: str) -> tuple[str, bool, dict[str, int]]:
    """What a cell is to be."""
    result, alive, counters = fault.expected.of(operation)
    if fault.name == "404" and operation == "query with load":
        # The miss has the table loaded, and the store is refused.
        return fault.expected.of("post bytes")
    return result, alive, counters


def table() -> str:
    """The matrix as Markdown."""
    lines = [
        "| the home node … | " + " | ".join(OPERATIONS) + " |",
        "|---|" + "---|" * len(OPERATIONS),
    ]
    for fault in FAULTS:
        cells = [str(run_cell(fault, operation)) for operation in OPERATIONS]
        lines.append(f"| {fault.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
