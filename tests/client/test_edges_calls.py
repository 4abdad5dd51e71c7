"""Callers that are interrupted, clients that are closed, and parts of an operation that fail."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airflow_provider_qcache.client import (
    AuthenticationFailed,
    BulkError,
    ClientClosed,
    InvalidTable,
    OperationCancelled,
    QClient,
    RowCountMismatch,
    UnexpectedServerResponse,
    encoding,
    transport,
)
from airflow_provider_qcache.client.body import Content, PathBody
from airflow_provider_qcache.client.clock import SystemClock
from airflow_provider_qcache.client.threads import Call, ask_all
from tests.client import faults
from tests.client.faults import Node, Peer, Request, closed_port, sound_node
from tests.client.test_edges import OF_BOTH, a_key_of, a_server, url

TABLE = b"a\n1\n"
CAP = 10.0  # generous; what is interrupted has timeouts of 60 s


class Interrupted(BaseException):
    """As Airflow's timeout is."""


@contextlib.contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def threads_left() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("qcache-")]


MANY = {
    "delete everywhere": lambda client: client.delete("k", all_nodes=True),
    "evict_stale": lambda client: client.post("k", TABLE, evict_stale=True),
    "copies": lambda client: client.post("k", TABLE, copies=2),
    "post_many": lambda client: client.post_many({f"k{number}": TABLE for number in range(99)}),
    "delete_many": lambda client: client.delete_many(f"k{number}" for number in range(99)),
    "delete_many everywhere": lambda client: client.delete_many(["k", "l"], all_nodes=True),
    "statistics": lambda client: client.node_statistics(),
    "status": lambda client: client.node_status(probe=True),
}


@pytest.mark.parametrize("operation", MANY.values(), ids=MANY)
def test_an_interrupted_caller_of_many_nodes_is_gone_at_once_with_its_threads(
    operation: Callable[[QClient], object],
) -> None:
    first, second = (Node(faults.silent, status=faults.silent) for _ in range(2))
    with first, second, QClient([first.url, second.url], 60, 60, trust_env=False) as client:
        started = time.monotonic()
        with interrupted_after(0.3), pytest.raises(Interrupted):
            operation(client)
        assert time.monotonic() - started < CAP
        assert threads_left() == []
        assert not client._active


@pytest.mark.parametrize("failing", [False, True])
def test_an_interrupt_ends_the_operations_of_its_own_call_only(failing: bool) -> None:
    """Other threads' requests go on, and the client serves the next call."""
    answers = threading.Event()
    sound, tables = sound_node()
    tables.tables["k"] = TABLE

    def slow(peer: Peer, request: Request) -> None:
        while not answers.is_set():
            peer.wait(0.02)
        if request.kind == "query":
            tables.answer(peer, request)
        else:
            peer.send(faults.head(200, 0))

    node, other = Node(slow), Node(slow)
    with sound, node, other, QClient([node.url, other.url], 60, 60, trust_env=False) as client:
        if failing:
            client._pool.fail(other.url, client._pool.ticket(other.url), "silent")
        results: list[object] = []
        thread = threading.Thread(target=lambda: results.append(client.get("k", {})))
        thread.start()
        with interrupted_after(0.3), pytest.raises(Interrupted):
            client.delete("k", all_nodes=True)
        answers.set()
        thread.join(CAP)
        assert results[0] is not None
        assert client.delete("k", all_nodes=True).complete


def test_code_of_the_caller_that_does_not_end_does_not_hold_an_interrupted_one() -> None:
    goes_on = threading.Event()

    def endless() -> Iterator[bytes]:
        yield b"a\n"
        goes_on.wait(60)

    node, _ = sound_node()
    with node, QClient([node.url], trust_env=False) as client:
        started = time.monotonic()
        with interrupted_after(0.3), pytest.raises(Interrupted):
            client.post_many({"k": endless})
        assert time.monotonic() - started < CAP
        goes_on.set()


def test_what_is_asked_of_all_comes_in_their_order_and_the_first_error_is_raised_at_the_end() -> None:
    items = list(range(80))
    ended: list[int] = []

    def ask(item: int) -> int:
        time.sleep(0.001 * (item % 3))
        ended.append(item)
        if item in (7, 50):
            raise LookupError(item)
        return -item

    with pytest.raises(LookupError, match="7"):
        ask_all(items, ask, Call())
    assert sorted(ended) == items
    assert ask_all(items[:7], ask, Call()) == [-item for item in items[:7]]


def test_a_cancel_makes_no_node_fail_and_no_statistics_an_error() -> None:
    nodes = [Node(faults.silent, status=faults.silent) for _ in range(2)]
    with nodes[0], nodes[1], QClient([node.url for node in nodes], 60, 60, trust_env=False) as client:
        for operation in (MANY["statistics"], MANY["status"]):
            threading.Timer(0.2, client.cancel).start()
            with pytest.raises(OperationCancelled):
                operation(client)
        assert all(status.alive for status in client.node_status().values())


@pytest.mark.parametrize(
    "operation", [*MANY.values(), lambda client: client.get("k", {})], ids=[*MANY, "get"]
)
def test_a_client_closed_as_an_operation_begins_says_so(
    operation: Callable[[QClient], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, _ = sound_node()
    with node, QClient([node.url, f"http://127.0.0.1:{closed_port()}"], trust_env=False) as client:
        span = client._span

        def close_first(*args: object) -> object:
            # Between the start of the call and the moment it becomes one that a close would cancel.
            client.close()
            return span(*args)

        monkeypatch.setattr(client, "_span", close_first)
        with pytest.raises(ClientClosed):
            operation(client)


@pytest.mark.parametrize(
    "operation", [*MANY.values(), lambda client: client.get("k", {})], ids=[*MANY, "get"]
)
def test_a_cancel_as_an_operation_begins_ends_it(
    operation: Callable[[QClient], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, _ = sound_node()
    dead = f"http://127.0.0.1:{closed_port()}"
    with node, QClient([node.url, dead], trust_env=False, deadline=60) as client:

        class Clock(SystemClock):
            def now(self) -> float:  # type: ignore[override]
                monkeypatch.undo()
                client.cancel()
                return time.monotonic()

        monkeypatch.setattr(client, "_clock", Clock())  # asked first for the deadline
        with pytest.raises(OperationCancelled):
            operation(client)


def get_until_it_fails(client: QClient, raised: list[BaseException]) -> None:
    try:
        while True:
            client.get("k", {})
    except BaseException as error:  # noqa: BLE001
        raised.append(error)


def test_a_client_closed_in_the_midst_of_32_threads_is_never_said_to_have_no_cache() -> None:
    node, _ = sound_node()
    with node:
        for _ in range(3):
            client = QClient([node.url], trust_env=False)
            raised: list[BaseException] = []

            threads = [threading.Thread(target=get_until_it_fails, args=(client, raised)) for _ in range(32)]
            for thread in threads:
                thread.start()
            time.sleep(0.1)
            client.close()
            for thread in threads:
                thread.join(CAP)
            assert len(raised) == 32
            assert {type(error) for error in raised} <= {ClientClosed, OperationCancelled}


def test_a_close_while_a_probe_is_about_to_begin_ends_every_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The probe's thread is known and not started, as between two steps of the one who starts it."""
    start = threading.Thread.start
    about_to, may = threading.Event(), threading.Event()

    def late(thread: threading.Thread) -> None:
        if thread.name == "qcache-probe":
            about_to.set()
            assert may.wait(CAP)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", late)
    node, _ = sound_node()
    with node:
        client = QClient([node.url, f"http://127.0.0.1:{closed_port()}"], 5, 5, trust_env=False)
        client.get(a_key_of(client, node.url), {})
        dead = client._ring.nodes[1]
        client._pool.fail(dead, client._pool.ticket(dead), "silent")
        other = threading.Thread(target=client._prober.start, args=([dead],))
        other.start()
        assert about_to.wait(CAP)
        try:
            client.close()
            assert not client._transports[node.url]._idle
        finally:
            may.set()
            other.join(CAP)


@pytest.mark.parametrize("where", ["begin_probe", "__init__", "start"])
def test_a_caller_interrupted_as_a_probe_begins_leaves_the_node_to_the_next(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, _ = sound_node()
    with node, QClient([node.url], 5, 5, deadline=CAP, trust_env=False) as client:
        client._pool.fail(node.url, client._pool.ticket(node.url), "silent")
        place = client._pool if where == "begin_probe" else threading.Thread
        done = getattr(place, where)

        def interrupted(*args: object, **options: object) -> None:
            if where != "start":
                done(*args, **options)
            raise Interrupted

        with monkeypatch.context() as patch:
            patch.setattr(place, where, interrupted)
            with pytest.raises(Interrupted):
                client._prober.start([node.url])
        assert client.node_status()[node.url].state == "failing"
        assert client.get("k", {}) is None


def test_a_second_close_does_what_an_interrupted_one_did_not(monkeypatch: pytest.MonkeyPatch) -> None:
    node, _ = sound_node()

    def interrupted(timeout: float) -> None:
        del timeout
        raise Interrupted

    with node:
        client = QClient([node.url], 5, 5, trust_env=False)
        client.get("k", {})
        with monkeypatch.context() as patch:
            patch.setattr(client._prober, "close", interrupted)
            with pytest.raises(Interrupted):
                client.close()
        assert not client._transports[node.url]._idle
        assert not client._prober._closed
        client.close()
        assert client._prober._closed


def test_a_caller_that_waits_for_nodes_when_the_client_is_closed_is_not_told_there_is_no_cache() -> None:
    node = Node(faults.silent, status=faults.silent)
    with node, QClient([node.url], 60, 60, trust_env=False) as client:
        client._pool.fail(node.url, client._pool.ticket(node.url), "silent")
        threading.Timer(0.2, client.close).start()
        with pytest.raises(OperationCancelled):
            client.get("k", {})


# Parts of a store.


def counts(rows: int, tables: faults.Tables) -> faults.Answer:
    def answer(peer: Peer, request: Request) -> None:
        if request.kind == "query":
            body = b'[{"count":%d}]' % rows
            peer.send(faults.success_head(request, len(body)) + body)
        else:
            tables.answer(peer, request)

    return answer


def test_stale_tables_are_evicted_though_the_count_is_wrong() -> None:
    tables, others = faults.Tables(), faults.Tables()
    with (
        Node(counts(2, tables)) as home,
        Node(others.answer) as other,
        QClient([home.url, other.url], trust_env=False) as client,
    ):
        key = a_key_of(client, home.url)
        others.tables[key] = b"a\n0\n"
        with pytest.raises(RowCountMismatch):
            client.post(key, TABLE, evict_stale=True, check_row_count=True)
    assert (others.tables, tables.tables) == ({}, {key: TABLE})


def test_rows_that_cannot_be_counted_are_refused_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoding, "lz4_block", None)
    node, _ = sound_node()
    packed = b"\x04\x00\x00\x00\x40a\n1\n"  # one literal run
    headers = {"Content-Encoding": "lz4"}
    with node, QClient([node.url], trust_env=False) as client:
        with pytest.raises(ValueError, match="check_row_count"):
            client.post("k", packed, post_headers=headers, check_row_count=True)
        assert node.requests == []
        assert client.post("k", packed, post_headers=headers).rows is None


@pytest.mark.parametrize("status", [400, 415, 500])
def test_a_table_that_a_standby_refuses_does_not_reach_home(status: int) -> None:
    home, tables = sound_node()
    with (
        home,
        Node(faults.status_only(status)) as standby,
        QClient([home.url, standby.url], trust_env=False) as client,
    ):
        key = a_key_of(client, home.url)
        tables.tables[key] = b"old\n1\n"
        with pytest.raises(UnexpectedServerResponse) as raised:
            client.post(key, TABLE, copies=2)
        assert raised.value.status == status
        assert tables.tables[key] == b"old\n1\n"


@OF_BOTH
def test_home_keeps_its_table_when_a_node_cannot_read_the_copy_that_comes_first(kind: str) -> None:
    text_as_float = {"X-QCache-types": "a=float"}
    with (
        a_server(kind) as first,
        a_server(kind) as second,
        QClient([url(first), url(second)], trust_env=False) as client,
        QClient([client.node_for_key("k")], trust_env=False) as home,
    ):
        client.post("k", b"a\n7\n", copies=2)
        with pytest.raises(UnexpectedServerResponse, match="a copy of table 'k'"):
            client.post("k", b"a\ntext\n", post_headers=text_as_float, copies=2)
        assert json.loads(home.get("k", {}).content) == [{"a": 7}]


@pytest.mark.parametrize("status", [401, 404, 503])
def test_a_standby_that_fails_for_itself_is_reported_and_home_gets_the_table(status: int) -> None:
    home, tables = sound_node()
    with (
        home,
        Node(faults.status_only(status)) as standby,
        QClient([home.url, standby.url], trust_env=False, consecutive_error_count_limit=2) as client,
    ):
        key = a_key_of(client, home.url)
        result = client.post(key, TABLE, copies=2)
        assert list(result.failed_copies) == [standby.url]
        assert tables.tables[key] == TABLE


def test_a_delete_that_one_node_does_not_allow_tells_what_became_of_the_others() -> None:
    sound, tables = sound_node()
    dead = f"http://127.0.0.1:{closed_port()}"
    with (
        sound,
        Node(faults.status_only(401)) as strict,
        QClient([sound.url, strict.url, dead], trust_env=False) as client,
    ):
        tables.tables["k"] = TABLE
        with pytest.raises(AuthenticationFailed) as raised:
            client.delete("k", all_nodes=True)
        assert raised.value.result is not None
        assert raised.value.result.outcomes == {
            sound.url: "confirmed",
            strict.url: "unreachable",
            dead: "gone",
        }
        assert list(raised.value.result.errors) == [strict.url]
        with pytest.raises(BulkError) as of_many:
            client.delete_many(["k"], all_nodes=True)
        assert of_many.value.report.failed["k"].result.outcomes[sound.url] == "confirmed"
    assert tables.tables == {}


def test_many_that_are_cancelled_tell_what_was_done() -> None:
    node, _ = sound_node()
    with node, QClient([node.url], trust_env=False) as client:

        def pairs() -> Iterator[tuple[str, bytes]]:
            for number in range(50):
                yield f"k{number}", TABLE
            time.sleep(0.5)
            client.cancel()

        with pytest.raises(OperationCancelled) as raised:
            client.post_many(pairs())
    report = raised.value.report
    assert set(report.succeeded) | set(report.failed) == {f"k{number}" for number in range(50)}
    assert report.succeeded


# What an error says.


@pytest.mark.parametrize(
    "node",
    [
        "user:hunter2@host:1",
        "http:/user:hunter2@host:1",
        "http://user:hun/ter2@host:1",
        "http://user:12/hunter2@host:1",
        "http://user:hunter2@ho st:1",
        "http://user:hunter2@host:99999999",
        "http://user:hunter2@[::1:1",
        "http://us?er:hunter2@host:1",
        b"http://user:hunter2@host:1",
    ],
)
def test_a_node_that_is_no_url_is_named_without_its_credentials(node: str) -> None:
    for nodes in ([node], node):
        with pytest.raises(ValueError, match="node") as raised:
            QClient(nodes)
        text = "".join(traceback.format_exception(raised.value)[-1:])
        assert not {"hun", "ter2", "user"} & set(re.findall("hun|ter2|user", text))


def test_no_result_shows_a_nodes_credentials() -> None:
    node, _ = sound_node()
    with node, QClient([node.url.replace("//", "//user:hunter2@")], trust_env=False) as client:
        stored = client.post("k", TABLE)
        result = client.get("k", {})
        assert result is not None
        assert result.node == stored.node == node.url.replace("//", "//***@")


@pytest.mark.parametrize(("status", "length", "gone"), [
    (400, 73, True), (400, 0, False), (415, 0, True), (500, 0, True),
    (200, 0, False), (202, 0, False), (302, 0, False), (404, 73, False), (405, 0, False), (413, 0, False),
])  # fmt: skip
def test_the_old_table_is_called_gone_only_where_the_node_dropped_it(
    status: int, length: int, gone: bool
) -> None:
    def answer(peer: Peer, request: Request) -> None:
        peer.send(faults.head(status, length) + b"x" * length)

    with Node(answer) as node, QClient([node.url], 5, 5, trust_env=False) as client:
        with pytest.raises(UnexpectedServerResponse) as raised:
            client.post("k", TABLE)
        assert ("is gone" in str(raised.value)) is gone


def test_one_string_is_no_list_of_keys() -> None:
    node, tables = sound_node()
    tables.tables.update(a=TABLE, abc=TABLE)
    with node, QClient([node.url], trust_env=False) as client:
        for keys in ("abc", b"abc"):
            for all_nodes in (False, True):
                with pytest.raises(TypeError, match=r"keys=b?'abc'"):
                    client.delete_many(keys, all_nodes=all_nodes)  # type: ignore[arg-type]
    assert set(tables.tables) == {"a", "abc"}


# What is uploaded.


@pytest.mark.parametrize("operation", ["get", "post query", "post"])
def test_a_callers_authorization_and_user_agent_replace_the_clients(
    operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: list[bytes] = []
    send = transport._DeadlineSocket.sendall

    def sendall(sock: transport._DeadlineSocket, data: bytes) -> None:
        heads.append(data)
        send(sock, data)

    monkeypatch.setattr(transport._DeadlineSocket, "sendall", sendall)
    given = {"authorization": "Bearer theirs", "User-agent": "theirs"}
    node, _ = sound_node()
    with node, QClient([node.url], 5, 5, auth=("user", "ours"), trust_env=False) as client:
        if operation == "post":
            client.post("k", TABLE, post_headers=given)
        else:
            client.get("k", {}, post_query=operation == "post query", query_headers=given)
        client.delete("k")
    lines = [line.lower() for line in heads[0].splitlines()]
    assert [line for line in lines if line.startswith((b"authorization", b"user-agent"))] == [
        b"authorization: bearer theirs",
        b"user-agent: theirs",
    ]
    assert any(line.startswith(b"host: ") for line in lines)
    assert b"Basic " in heads[-1]  # those of another request are left alone


def test_gzip_of_very_many_members_is_checked_in_time_and_sent(tmp_path: Path) -> None:
    packed = gzip.compress(TABLE) + gzip.compress(b"") * 400_000
    path = tmp_path / "packed"
    path.write_bytes(packed)
    node, tables = sound_node()
    headers = {"Content-Encoding": "gzip"}
    with node, QClient([node.url], 5, 60, trust_env=False) as client:
        for content in (packed, path):
            started = time.process_time()
            assert client.post("k", content, post_headers=headers).rows == 1
            assert time.process_time() - started < CAP
            assert tables.tables["k"] == packed


@pytest.mark.parametrize("size", [2 << 20, (2 << 20) + 1, 6 << 20])
@pytest.mark.parametrize("text", ["x", "é", "\U0001f600"])
def test_a_json_row_of_more_than_2_mib_is_refused_wherever_pieces_end(size: int, text: str) -> None:
    room = size - len('{"a":""}')
    some = text.encode()
    row = b'{"a":"%s"}' % (some * (room // len(some)) + b"x" * (room % len(some)))
    node, _ = sound_node()
    forms: list[object] = [b"[%s]" % row, lambda: iter([b"[", row, b"]"])]
    with node, QClient([node.url], 5, 60, trust_env=False) as client:
        for content in forms:
            if size == 2 << 20:
                assert client.post("k", content, "application/json").rows == 1
            else:
                with pytest.raises(InvalidTable, match="row 1"):
                    client.post("k", content, "application/json")


def test_a_pipe_as_a_path_is_refused_at_once_and_an_open_one_is_read_once(tmp_path: Path) -> None:
    """Also where it takes a file's place between two attempts."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    first, (second, tables) = Node(faults.close_in_the_head), sound_node()
    with first, second, QClient([first.url, second.url], 5, 5, trust_env=False, deadline=60) as client:
        started = time.monotonic()
        with pytest.raises(ValueError, match="pipe' is no regular file"):
            client.post("k", path)
        with pytest.raises(IsADirectoryError):
            client.post("k", tmp_path)
        body = PathBody(path)
        with pytest.raises(ValueError, match="no regular file"):
            next(body.pieces())
        assert time.monotonic() - started < CAP
        writer = threading.Thread(target=path.write_bytes, args=(TABLE,))
        writer.start()
        with path.open("rb") as file:
            client.post(a_key_of(client, second.url), file)
        writer.join(CAP)
        assert list(tables.tables.values()) == [TABLE]


@pytest.mark.parametrize("how", ["unbuffered", "buffered"])
def test_a_file_that_has_nothing_to_read_yet_is_not_taken_for_one_that_ends(how: str) -> None:
    node, tables = sound_node()
    tables.tables["k"] = b"old"
    out, into = os.pipe()
    os.set_blocking(out, False)
    os.write(into, TABLE)
    with node, QClient([node.url], 5, 5, trust_env=False) as client:
        with (
            os.fdopen(out, "rb", buffering=0 if how == "unbuffered" else -1) as file,
            pytest.raises(BlockingIOError, match="non-blocking"),
        ):
            client.post("k", file)
        os.close(into)
    assert tables.tables == {"k": b"old"}


@pytest.mark.parametrize(
    ("content", "stand_ins"),
    [
        (TABLE, "x='Zürich'"),
        (TABLE, b"x='Z\xfcrich'"),
        (TABLE, "x='東京'"),
        (TABLE, "x=Zürich"),
        (b'[{"Z\xc3\xbcrich": 1}]', "x=Zürich"),
        (lambda: iter([TABLE]), "x='Zürich'"),
    ],
    ids=["text", "bytes", "beyond latin-1", "no column", "JSON", "stream"],
)
def test_a_stand_in_that_is_more_than_ascii_is_refused_while_the_old_table_is_there(
    content: Content, stand_ins: str
) -> None:
    content_type = "application/json" if isinstance(content, bytes) and content[:1] == b"[" else "text/csv"
    headers = {"X-QCache-stand-in-columns": stand_ins}
    node, _ = sound_node()
    with node, QClient([node.url], trust_env=False) as client:
        with pytest.raises(InvalidTable, match="more than ASCII"):
            client.post("k", content, content_type, headers)
        with pytest.raises(BulkError, match="more than ASCII"):
            client.post_many({"k": content}, content_type, headers)
        assert node.requests == []


def test_a_stand_in_may_be_a_column_whose_name_is_more_than_ascii() -> None:
    with a_server("real") as node, QClient([url(node)], trust_env=False) as client:
        client.post("k", "a,Zürich\n1,2\n", post_headers={"X-QCache-stand-in-columns": "x=Zürich"})
        assert json.loads(client.get("k", {}).content) == [{"a": 1, "Zürich": 2, "x": 2}]
        # As the node has it: a name that is UTF-8 in the header is another one, and the type not applied.
        for name in (b"Z\xc3\xbcrich", "Zürch"):
            with pytest.raises(InvalidTable, match="does not have"):
                client.post("k", "Zürich\n1\n", post_headers={"X-QCache-types": _typed(name)})
        client.post("k", "Zürich\n01\n", post_headers={"X-QCache-types": "Zürich=string"})
        assert json.loads(client.get("k", {}).content) == [{"Zürich": "01"}]


def _typed(name: str | bytes) -> str | bytes:
    return name + (b"=string" if isinstance(name, bytes) else "=string")
