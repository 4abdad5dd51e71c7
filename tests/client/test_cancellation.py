"""Callers that are interrupted, operations that are cancelled, and clients that are closed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from airflow_provider_qcache.client import (
    ClientClosed,
    OperationCancelled,
    QClient,
)
from airflow_provider_qcache.client.many import ask_all
from airflow_provider_qcache.client.operation import Operation
from airflow_provider_qcache.client.settings import SystemClock
from tests.client.interrupts import Interrupted, interrupted_after
from tests.client.kinds import key_with_home
from tests.harness import faults
from tests.harness.faults import FaultyNode, Peer, Received, healthy_node
from tests.harness.ports import closed_port

TABLE = b"a\n1\n"
TIMEOUT = 10.0  # seconds; the timeouts of what is interrupted are 60 s


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
    "locate": lambda client: client.locate("k"),
    "find_absent": lambda client: client.find_absent([("k", client.node_for_key("k"))]),
}


@pytest.mark.parametrize("operation", MANY.values(), ids=MANY)
def test_an_interrupted_operation_on_many_nodes_ends_at_once_with_its_threads(
    operation: Callable[[QClient], object],
) -> None:
    first, second = (FaultyNode(faults.silent, status=faults.silent) for _ in range(2))
    with first, second, QClient([first.url, second.url], 60, 60, trust_env=False) as client:
        started = time.monotonic()
        with interrupted_after(0.3), pytest.raises(Interrupted):
            operation(client)
        assert time.monotonic() - started < TIMEOUT
        assert threads_left() == []
        assert not client._active


def test_an_interrupt_while_the_client_connects_is_raised_unchanged() -> None:
    port = closed_port()
    node = f"http://127.0.0.3:{port}"
    with faults.black_hole("127.0.0.3", port), QClient([node], 60, 60, trust_env=False) as client:
        with interrupted_after(0.3), pytest.raises(Interrupted):
            client.get("k", {})
        assert client.node_status()[node].alive


@pytest.mark.parametrize("failing", [False, True])
def test_an_interrupt_ends_only_the_operation_of_its_caller(failing: bool) -> None:
    """Other threads' requests go on, and the client serves the next call."""
    answers = threading.Event()
    healthy, tables = healthy_node()
    tables.tables["k"] = TABLE

    def slow(peer: Peer, request: Received) -> None:
        while not answers.is_set():
            peer.wait(0.02)
        if request.kind == "query":
            tables.answer(peer, request)
        else:
            peer.send(faults.head(200, 0))

    node, other = FaultyNode(slow), FaultyNode(slow)
    with healthy, node, other, QClient([node.url, other.url], 60, 60, trust_env=False) as client:
        if failing:
            client._pool.fail(other.url, client._pool.ticket(other.url), "silent")
        results: list[object] = []
        thread = threading.Thread(target=lambda: results.append(client.get("k", {})))
        thread.start()
        with interrupted_after(0.3), pytest.raises(Interrupted):
            client.delete("k", all_nodes=True)
        answers.set()
        thread.join(TIMEOUT)
        assert results[0] is not None
        assert client.delete("k", all_nodes=True).complete


def test_a_source_that_blocks_does_not_delay_an_interrupt() -> None:
    goes_on = threading.Event()

    def endless() -> Iterator[bytes]:
        yield b"a\n"
        goes_on.wait(60)

    node, _ = healthy_node()
    with node, QClient([node.url], trust_env=False) as client:
        started = time.monotonic()
        with interrupted_after(0.3), pytest.raises(Interrupted):
            client.post_many({"k": endless})
        assert time.monotonic() - started < TIMEOUT
        goes_on.set()


def test_ask_all_keeps_the_order_and_raises_the_first_error_at_the_end() -> None:
    items = list(range(80))
    ended: list[int] = []

    def ask(item: int) -> int:
        time.sleep(0.001 * (item % 3))
        ended.append(item)
        if item in (7, 50):
            raise LookupError(item)
        return -item

    with pytest.raises(LookupError, match="7"):
        ask_all(items, ask, Operation(60.0))
    assert sorted(ended) == items
    assert ask_all(items[:7], ask, Operation(60.0)) == [-item for item in items[:7]]


def test_cancel_marks_no_node_as_failing() -> None:
    nodes = [FaultyNode(faults.silent, status=faults.silent) for _ in range(2)]
    with nodes[0], nodes[1], QClient([node.url for node in nodes], 60, 60, trust_env=False) as client:
        for name in ("statistics", "status", "locate", "find_absent"):
            threading.Timer(0.2, client.cancel).start()
            with pytest.raises(OperationCancelled):
                MANY[name](client)
        assert [status for status in client.node_status().values() if not status.alive] == []


@pytest.mark.parametrize(
    "operation", [*MANY.values(), lambda client: client.get("k", {})], ids=[*MANY, "get"]
)
def test_an_operation_that_begins_while_the_client_closes_raises_client_closed(
    operation: Callable[[QClient], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, _ = healthy_node()
    with node, QClient([node.url, f"http://127.0.0.1:{closed_port()}"], trust_env=False) as client:
        begin = client._begin_call

        def close_first(*args: object) -> object:
            # Between the start of the call and its registration, after which a close cancels it.
            client.close()
            return begin(*args)

        monkeypatch.setattr(client, "_begin_call", close_first)
        with pytest.raises(ClientClosed):
            operation(client)


@pytest.mark.parametrize(
    "operation", [*MANY.values(), lambda client: client.get("k", {})], ids=[*MANY, "get"]
)
def test_a_cancel_while_an_operation_begins_ends_it(
    operation: Callable[[QClient], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, _ = healthy_node()
    dead = f"http://127.0.0.1:{closed_port()}"
    with node, QClient([node.url, dead], trust_env=False, deadline=60) as client:

        class Clock(SystemClock):
            def now(self) -> float:  # type: ignore[override]
                monkeypatch.undo()
                client.cancel()
                return time.monotonic()

        monkeypatch.setattr(client, "_clock", Clock())  # the operation first reads the time for its deadline
        with pytest.raises(OperationCancelled):
            operation(client)


def get_until_it_fails(client: QClient, raised: list[BaseException]) -> None:
    try:
        while True:
            client.get("k", {})
    except BaseException as error:  # noqa: BLE001
        raised.append(error)


def test_closing_a_client_used_by_32_threads_never_raises_no_cache_available() -> None:
    node, _ = healthy_node()
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
                thread.join(TIMEOUT)
            assert len(raised) == 32
            assert {type(error) for error in raised} <= {ClientClosed, OperationCancelled}


def test_closing_while_a_probe_is_about_to_start_closes_every_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The probe's thread is registered but not started, between two steps of the thread that starts it."""
    start = threading.Thread.start
    about_to_start, may_start = threading.Event(), threading.Event()

    def start_late(thread: threading.Thread) -> None:
        if thread.name == "qcache-probe":
            about_to_start.set()
            assert may_start.wait(TIMEOUT)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_late)
    node, _ = healthy_node()
    with node:
        client = QClient([node.url, f"http://127.0.0.1:{closed_port()}"], 5, 5, trust_env=False)
        client.get(key_with_home(client, node.url), {})
        dead = client._ring.nodes[1]
        client._pool.fail(dead, client._pool.ticket(dead), "silent")
        other = threading.Thread(target=client._prober.start, args=([dead],))
        other.start()
        assert about_to_start.wait(TIMEOUT)
        try:
            client.close()
            assert not client._transports[node.url]._idle
        finally:
            may_start.set()
            other.join(TIMEOUT)


@pytest.mark.parametrize("where", ["begin_probe", "__init__", "start"])
def test_a_caller_interrupted_while_a_probe_starts_leaves_the_node_to_the_next_probe(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, _ = healthy_node()
    with node, QClient([node.url], 5, 5, deadline=TIMEOUT, trust_env=False) as client:
        client._pool.fail(node.url, client._pool.ticket(node.url), "silent")
        owner = client._pool if where == "begin_probe" else threading.Thread
        done = getattr(owner, where)

        def interrupted(*args: object, **options: object) -> None:
            if where != "start":
                done(*args, **options)
            raise Interrupted

        with monkeypatch.context() as patch:
            patch.setattr(owner, where, interrupted)
            with pytest.raises(Interrupted):
                client._prober.start([node.url])
        assert client.node_status()[node.url].state == "failing"
        assert client.get("k", {}) is None


def test_a_second_close_completes_an_interrupted_one(monkeypatch: pytest.MonkeyPatch) -> None:
    node, _ = healthy_node()

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


def test_all_operations_are_cancelled_before_a_request_of_one_is_ended() -> None:
    """Else an operation that waits for a probe would take the end of the probe for a node's silence."""
    with QClient(["http://127.0.0.1:1"], trust_env=False) as client:
        operations = [client._begin("a"), client._begin("b")]
        seen = []

        class RequestInFlight:
            def cancel(self) -> None:
                seen.append([operation.cancelled for operation in operations])

        for operation in operations:
            operation.limits.add(RequestInFlight())
        client.cancel()
        assert seen == [[True, True], [True, True]]


def test_closing_while_a_caller_waits_for_nodes_raises_operation_cancelled() -> None:
    node = FaultyNode(faults.silent, status=faults.silent)
    with node, QClient([node.url], 60, 60, trust_env=False) as client:
        client._pool.fail(node.url, client._pool.ticket(node.url), "silent")
        threading.Timer(0.2, client.close).start()
        with pytest.raises(OperationCancelled):
            client.get("k", {})


def test_the_error_of_a_cancelled_delete_on_all_nodes_names_its_key() -> None:
    with FaultyNode(faults.silent) as node, QClient([node.url], 60, 60, trust_env=False) as client:
        cancel = threading.Timer(0.2, client.cancel)
        cancel.start()
        with pytest.raises(OperationCancelled, match="delete table 'k': cancelled"):
            client.delete("k", all_nodes=True)
        cancel.join()


def test_a_cancelled_post_many_reports_what_was_done() -> None:
    node, _ = healthy_node()
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
