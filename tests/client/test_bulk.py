"""Bulk operations: those on one key are done in order, and a node gets one store at a time."""

from __future__ import annotations

import contextlib
import gc
import itertools
import re
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from airflow_provider_qcache.client import BulkError, LocalResourceError, NoCacheAvailable, QClient
from airflow_provider_qcache.client.many import run_bulk
from airflow_provider_qcache.client.operation import Operation
from tests.client.interrupts import Interrupted, interrupted_after
from tests.client.kinds import key_with_home
from tests.harness import faults
from tests.harness.faults import FaultyNode, Peer, Received, Tables, healthy_node
from tests.harness.ports import closed_port


def test_operations_on_one_key_are_done_in_order_even_if_its_node_changes() -> None:
    nodes = itertools.cycle("ab")
    running = threading.Lock()
    done: list[int] = []
    together = []

    def work(key: str, content: int) -> None:
        together.append(not running.acquire(blocking=False))
        time.sleep(0.03 if content % 2 else 0.0)
        done.append(content)
        running.release()

    run_bulk(
        [("key", number) for number in range(10)],
        work,
        nodes="ab",
        node_for_key=lambda key: next(nodes),
        operation=Operation(float("inf")),
    )
    assert done == list(range(10))
    assert not any(together)


def test_a_node_gets_one_store_at_a_time_also_by_failovers() -> None:
    lock, together = threading.Lock(), []
    tables = Tables()

    def one_at_a_time(peer: Peer, request: Received) -> None:
        together.append(not lock.acquire(blocking=False))
        time.sleep(0.002)
        if not together[-1]:
            lock.release()
        tables.answer(peer, request)

    dead = [f"http://127.0.0.1:{closed_port()}" for _ in range(2)]
    with FaultyNode(one_at_a_time) as node, QClient([*dead, node.url], trust_env=False) as client:
        report = client.post_many({f"key{number}": b"a\n1\n" for number in range(100)})
    assert len(report.succeeded) == len(tables.tables) == 100
    assert not any(together)


def test_the_source_is_read_only_as_fast_as_tables_are_stored() -> None:
    ahead: list[int] = []
    node, tables = healthy_node()

    def pairs() -> Iterator[tuple[str, bytes]]:
        for number in range(300):
            ahead.append(number - len(tables.tables))
            yield f"key{number}", b"a\n1\n"

    node._before_reading = lambda peer: peer.wait(0.001)
    with node, QClient([node.url], trust_env=False) as client:
        client.post_many(pairs())
    assert max(ahead) < 20


def test_other_nodes_are_given_tables_while_one_node_is_slow() -> None:
    """Of 24 tables that may wait, 20 wait for the slow node."""
    may_go_on, done = threading.Event(), threading.Semaphore(0)

    def work(key: int, node: str) -> None:
        if node == "slow":
            assert may_go_on.wait(60)
        else:
            done.release()

    items = [(number, "slow") for number in range(21)] + [(number, "a") for number in range(21, 51)]
    with contextlib.ExitStack() as stack:
        stack.callback(may_go_on.set)
        caller = threading.Thread(
            target=run_bulk,
            args=(items, work),
            kwargs={
                "nodes": ("slow", "a", "b"),
                "node_for_key": lambda key: items[key][1],
                "operation": Operation(float("inf")),
            },
        )
        caller.start()
        stored = all(done.acquire(timeout=30) for _ in range(30))
    caller.join(60)
    assert stored


def test_the_report_has_the_error_of_each_failed_key() -> None:
    dead = f"http://127.0.0.1:{closed_port()}"
    with QClient([dead], trust_env=False) as client:
        report = client.post_many({"a": b"a\n1\n", "b": b""}, raise_on_failure=False)
        assert {key: type(error).__name__ for key, error in report.failed.items()} == {
            "a": "NoCacheAvailable",
            "b": "InvalidTable",
        }


def test_a_refusing_node_is_reported_as_gone_with_a_limit_of_one_too() -> None:
    dead = f"http://127.0.0.1:{closed_port()}"
    healthy, _ = healthy_node()
    with healthy, QClient([dead, healthy.url], trust_env=False, consecutive_error_count_limit=1) as client:
        assert client.delete("a", all_nodes=True).outcomes == {dead: "gone", healthy.url: "confirmed"}


def test_a_delete_that_no_node_confirmed_is_an_error() -> None:
    """A wrong port refuses connections just as a stopped node does, and then the table still exists."""
    dead = [f"http://127.0.0.1:{closed_port()}" for _ in range(2)]
    silent = FaultyNode(faults.silent, status=faults.silent)
    with silent, QClient([*dead, silent.url], 0.5, 0.3, trust_env=False) as client:
        outcomes = {dead[0]: "gone", dead[1]: "gone", silent.url: "unreachable"}
        with pytest.raises(NoCacheAvailable, match="no node confirmed the delete") as raised:
            client.delete("a", all_nodes=True)
        assert "of 3 nodes 2 refused the connection and 1 could not be reached" in str(raised.value)
        assert [node for node in outcomes if node not in str(raised.value)] == []
        assert raised.value.result is not None
        assert raised.value.result.outcomes == outcomes
        assert not raised.value.result.complete
        report = client.delete_many(["a", "b"], all_nodes=True, raise_on_failure=False)
        assert report.succeeded == {}
        for error in report.failed.values():
            assert isinstance(error, NoCacheAvailable)
            assert error.result is not None
            assert error.result.outcomes == outcomes
        with pytest.raises(BulkError) as many:
            client.delete_many(["a"], all_nodes=True)
        assert many.value.transient


def test_the_error_of_a_delete_that_no_node_confirmed_has_each_node_s_reason() -> None:
    dead = f"http://127.0.0.1:{closed_port()}"
    silent = FaultyNode(faults.silent, status=faults.silent)
    with silent, QClient([dead, silent.url], 0.5, 0.3, trust_env=False, refused_means_gone=False) as client:
        with pytest.raises(NoCacheAvailable, match="no node confirmed the delete") as raised:
            client.delete("a", all_nodes=True)
        report = client.delete_many(["a"], all_nodes=True, raise_on_failure=False)
    for error in (raised.value, report.failed["a"]):  # at the second delete the nodes are known to fail
        assert isinstance(error, NoCacheAvailable)
        assert re.match(r"unreachable: .*refused", error.nodes[dead])
        assert re.match(r"unreachable: .*timed out", error.nodes[silent.url])


def test_a_delete_logs_a_warning_for_nodes_that_refused(caplog: pytest.LogCaptureFixture) -> None:
    dead = f"http://127.0.0.1:{closed_port()}"
    healthy, _ = healthy_node()
    with healthy, QClient([dead, healthy.url], trust_env=False) as client:
        result = client.delete("a", all_nodes=True)
    assert (result.confirmed, result.gone, result.complete) == ((healthy.url,), (dead,), True)
    (warned,) = [record for record in caplog.records if "its tables are lost" in record.message]
    assert warned.levelname == "WARNING"
    assert f"{dead} refused the connection" in warned.message


def test_a_silent_node_is_unreachable_and_may_hold_an_old_table() -> None:
    (healthy, _), silent = healthy_node(), FaultyNode(faults.silent, status=faults.silent)
    with healthy, silent, QClient([healthy.url, silent.url], 0.5, 0.3, trust_env=False) as client:
        key = key_with_home(client, healthy.url)
        result = client.delete(key, all_nodes=True)
        assert result.outcomes == {healthy.url: "confirmed", silent.url: "unreachable"}
        assert (result.complete, result.unreachable) == (False, (silent.url,))
        stored = client.post(key, b"a\n1\n", evict_stale=True, copies=2)
        assert (stored.may_hold_old, stored.copies) == ((silent.url,), ())
        assert list(stored.failed_copies) == [silent.url]


def test_the_errors_of_a_failed_post_many_keep_no_table_in_memory() -> None:
    tables = 40
    dead = f"http://127.0.0.1:{closed_port()}"

    def pairs() -> Iterator[tuple[str, bytes]]:
        for number in range(tables):
            yield f"key{number}", b"a\n" + (b"1" * 1000 + b"\n") * 200

    gc.collect()
    tracemalloc.start()
    try:
        with QClient([dead], trust_env=False) as client:
            report = client.post_many(pairs(), raise_on_failure=False)
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(report.failed) == tables
    assert kept < 2_000_000


def test_the_result_of_a_failover_keeps_no_table_in_memory() -> None:
    dead = f"http://127.0.0.1:{closed_port()}"
    (node, _) = healthy_node()
    with node, QClient([dead, node.url], trust_env=False) as client:
        key = key_with_home(client, dead)
        tracemalloc.start()
        try:
            result = client.post(key, b"a\n" + (b"1" * 1000 + b"\n") * 2000)
            gc.collect()
            kept = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    assert result.failed_over
    assert kept < 3_000_000  # which includes the table at the test's node


def test_a_system_exit_in_a_source_is_raised_at_once() -> None:
    def exits() -> Iterator[bytes]:
        yield b"a\n"
        raise SystemExit(3)

    node, _ = healthy_node()
    with node, QClient([node.url], trust_env=False) as client, pytest.raises(SystemExit):
        client.post_many((f"key{number}", exits) for number in range(100))


def test_nothing_more_is_stored_after_the_caller_was_interrupted() -> None:
    node, tables = healthy_node()
    node._before_reading = lambda peer: peer.wait(0.1)
    with node, QClient([node.url], trust_env=False) as client:
        with interrupted_after(0.15), pytest.raises(Interrupted):
            client.post_many((f"key{number}", b"a\n1\n") for number in range(8))
        time.sleep(1.0)
    assert len(tables.tables) < 5


def test_the_first_of_several_errors_of_on_done_is_raised() -> None:
    both_run = threading.Barrier(2)
    raised: list[KeyError] = []

    def on_done(key: str, outcome: object) -> None:
        raised.append(KeyError(key))
        raise raised[-1]

    with pytest.raises(KeyError) as error:
        run_bulk(
            [("a", 1), ("b", 2)],
            lambda key, content: both_run.wait(30),
            nodes="ab",
            node_for_key=lambda key: key,
            operation=Operation(float("inf")),
            on_done=on_done,
        )
    assert len(raised) == 2
    assert error.value is raised[0]


def bulk_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "qcache-bulk"]


def have_ended(threads: list[threading.Thread]) -> bool:
    for thread in threads:
        thread.join(10)
    return not any(thread.is_alive() for thread in threads)


def callers_of(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def interrupted_at(line: int, pairs: Callable[[], Iterator[tuple[str, int]]]) -> bool:
    """Interrupt a bulk call at its n-th line in client/many.py; False if it runs fewer lines."""
    lines = itertools.count()
    hit = []

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., object] | None:
        if not frame.f_code.co_filename.endswith("client/many.py"):
            return None
        # Python ignores what a finalizer raises.
        if any(caller.f_code.co_filename.endswith("weakref.py") for caller in callers_of(frame)):
            return None
        if event == "line" and next(lines) == line:
            hit.append(line)
            raise Interrupted
        return trace

    before = sys.gettrace()  # that of coverage.py
    sys.settrace(trace)
    try:
        with contextlib.suppress(Interrupted):
            run_bulk(
                pairs(),
                lambda key, content: key,
                nodes="ab",
                node_for_key=lambda key: "ab"[len(key) % 2],
                operation=Operation(float("inf")),
            )
    finally:
        sys.settrace(before)
    return bool(hit)


@pytest.mark.parametrize("earlier", [False, True], ids=["the only one", "after another"])
def test_no_thread_is_left_wherever_an_interrupt_occurs(earlier: bool) -> None:
    def pairs() -> Iterator[tuple[str, int]]:
        yield "k", 1
        yield "kk", 2
        if earlier:
            raise Interrupted

    line = 0
    while interrupted_at(line, pairs):
        assert have_ended(bulk_threads()), f"threads are left by an interrupt at line {line}"
        line += 1
    assert line > 50


def test_no_thread_is_left_if_not_all_could_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    start, left = threading.Thread.start, iter([True, True, False])

    def some(self: threading.Thread) -> None:
        if self.name == "qcache-bulk" and not next(left):
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", some)
    nodes = [f"http://127.0.0.1:{closed_port()}" for _ in range(3)]
    with QClient(nodes, trust_env=False) as client:
        with pytest.raises(LocalResourceError, match="can't start new thread"):
            client.post_many({"k": b"a\n1\n"})
        assert have_ended(bulk_threads())


def test_an_interrupt_while_a_thread_starts_is_raised_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread has an ident by then but does not count as started, so that it cannot be joined."""

    def start(thread: threading.Thread) -> None:
        thread._set_ident()  # type: ignore[attr-defined]  # private, but old
        raise KeyboardInterrupt

    with QClient([f"http://127.0.0.1:{closed_port()}" for _ in range(3)], 5, 5) as client:
        monkeypatch.setattr(threading.Thread, "start", start)
        with pytest.raises(KeyboardInterrupt):
            client.post_many({"a": "a\n1\n", "b": "a\n1\n"})
        with pytest.raises(KeyboardInterrupt):
            client.locate("a")
