"""Many operations: those on one key follow each other, and a failover joins the queue of its node."""

from __future__ import annotations

import contextlib
import gc
import itertools
import re
import signal
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
from airflow_provider_qcache.client.settings import SystemClock
from tests.harness import faults
from tests.harness.faults import FaultyNode, Peer, Received, Tables, healthy_node
from tests.harness.ports import closed_port


def test_operations_on_one_key_follow_each_other_even_if_its_node_changes() -> None:
    nodes = itertools.cycle("ab")
    under_way = threading.Lock()
    done: list[int] = []
    together = []

    def work(key: str, content: int) -> None:
        together.append(not under_way.acquire(blocking=False))
        time.sleep(0.03 if content % 2 else 0.0)
        done.append(content)
        under_way.release()

    run_bulk(
        [("key", number) for number in range(10)],
        work,
        nodes="ab",
        node_for_key=lambda key: next(nodes),
        clock=SystemClock(),
        operation=Operation(float("inf")),
    )
    assert done == list(range(10))
    assert not any(together)


def test_a_node_gets_one_store_at_a_time_though_others_fail_over_to_it() -> None:
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


def test_tables_are_asked_for_as_they_are_stored() -> None:
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


def test_a_failure_that_is_transient_makes_the_whole_transient() -> None:
    dead = f"http://127.0.0.1:{closed_port()}"
    with QClient([dead], trust_env=False) as client:
        report = client.post_many({"a": b"a\n1\n", "b": b""}, raise_on_failure=False)
        assert {key: type(error).__name__ for key, error in report.failed.items()} == {
            "a": "NoCacheAvailable",
            "b": "InvalidTable",
        }


def test_a_node_that_is_gone_is_so_with_a_limit_of_one_too() -> None:
    dead = f"http://127.0.0.1:{closed_port()}"
    sound, _ = healthy_node()
    with sound, QClient([dead, sound.url], trust_env=False, consecutive_error_count_limit=1) as client:
        assert client.delete("a", all_nodes=True).outcomes == {dead: "gone", sound.url: "confirmed"}


def test_a_delete_that_no_node_confirmed_is_an_error() -> None:
    """A wrong port refuses connections as a stopped node does, and the table is still where it was."""
    dead = [f"http://127.0.0.1:{closed_port()}" for _ in range(2)]
    silent = FaultyNode(faults.silent, status=faults.silent)
    with silent, QClient([*dead, silent.url], 0.5, 0.3, trust_env=False) as client:
        outcomes = {dead[0]: "gone", dead[1]: "gone", silent.url: "unreachable"}
        with pytest.raises(NoCacheAvailable, match="no node confirmed the delete") as raised:
            client.delete("a", all_nodes=True)
        assert "of 3 nodes 2 refused the connection and 1 could not be reached" in str(raised.value)
        assert all(node in str(raised.value) for node in outcomes)
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


def test_a_delete_that_no_node_confirmed_says_why_of_each_node() -> None:
    dead = f"http://127.0.0.1:{closed_port()}"
    silent = FaultyNode(faults.silent, status=faults.silent)
    with silent, QClient([dead, silent.url], 0.5, 0.3, trust_env=False, refused_means_gone=False) as client:
        with pytest.raises(NoCacheAvailable, match="no node confirmed the delete") as raised:
            client.delete("a", all_nodes=True)
        report = client.delete_many(["a"], all_nodes=True, raise_on_failure=False)
    for error in (raised.value, report.failed["a"]):  # the second time the nodes are known to be failing
        assert isinstance(error, NoCacheAvailable)
        assert re.match(r"unreachable: .*refused", error.nodes[dead])
        assert re.match(r"unreachable: .*timed out", error.nodes[silent.url])


def test_a_delete_warns_of_the_nodes_that_refused(caplog: pytest.LogCaptureFixture) -> None:
    dead = f"http://127.0.0.1:{closed_port()}"
    sound, _ = healthy_node()
    with sound, QClient([dead, sound.url], trust_env=False) as client:
        result = client.delete("a", all_nodes=True)
    assert (result.confirmed, result.gone, result.complete) == ((sound.url,), (dead,), True)
    (warned,) = [record for record in caplog.records if "its tables are lost" in record.message]
    assert warned.levelname == "WARNING"
    assert f"{dead} refused the connection" in warned.message


def test_a_silent_node_is_unreachable_and_may_hold_what_is_old() -> None:
    (sound, _), silent = healthy_node(), FaultyNode(faults.silent, status=faults.silent)
    with sound, silent, QClient([sound.url, silent.url], 0.5, 0.3, trust_env=False) as client:
        key = next(k for k in (f"k{i}" for i in range(99)) if client.node_for_key(k) == sound.url)
        result = client.delete(key, all_nodes=True)
        assert result.outcomes == {sound.url: "confirmed", silent.url: "unreachable"}
        assert (result.complete, result.unreachable) == (False, (silent.url,))
        stored = client.post(key, b"a\n1\n", evict_stale=True, copies=2)
        assert (stored.may_hold_old, stored.copies) == ((silent.url,), ())
        assert list(stored.failed_copies) == [silent.url]


def test_of_many_that_fail_no_table_stays_in_memory_with_its_error() -> None:
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


def test_a_result_that_failed_over_does_not_keep_its_table() -> None:
    dead = f"http://127.0.0.1:{closed_port()}"
    (node, _) = healthy_node()
    with node, QClient([dead, node.url], trust_env=False) as client:
        key = next(k for k in (f"k{i}" for i in range(99)) if client.node_for_key(k) == dead)
        tracemalloc.start()
        try:
            result = client.post(key, b"a\n" + (b"1" * 1000 + b"\n") * 2000)
            gc.collect()
            kept = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    assert result.failed_over
    assert kept < 3_000_000  # the node of the test keeps its own


def test_what_ends_the_program_in_the_midst_of_many_is_raised_and_hangs_nothing() -> None:
    def ends() -> Iterator[bytes]:
        yield b"a\n"
        raise SystemExit(3)

    node, _ = healthy_node()
    with node, QClient([node.url], trust_env=False) as client, pytest.raises(SystemExit):
        client.post_many((f"key{number}", ends) for number in range(100))


def test_after_an_exception_in_the_caller_nothing_more_is_begun() -> None:
    class Timeout(BaseException):
        """As Airflow's is."""

    def end(*_: object) -> None:
        raise Timeout

    node, tables = healthy_node()
    node._before_reading = lambda peer: peer.wait(0.1)
    before = signal.signal(signal.SIGALRM, end)
    try:
        with node, QClient([node.url], trust_env=False) as client:
            signal.setitimer(signal.ITIMER_REAL, 0.15)
            with pytest.raises(Timeout):
                client.post_many((f"key{number}", b"a\n1\n") for number in range(8))
            time.sleep(1.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(tables.tables) < 5


class Interrupted(BaseException):
    """What may come at any line."""


def bulk_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "qcache-bulk"]


def ended(threads: list[threading.Thread]) -> bool:
    for thread in threads:
        thread.join(10)
    return not any(thread.is_alive() for thread in threads)


def callers_of(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def interrupted_at(line: int, pairs: Callable[[], Iterator[tuple[str, int]]]) -> bool:
    """Run a call that is interrupted at its so many-th line of the client; False where it has fewer."""
    lines = itertools.count()
    hit = []

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., object] | None:
        if not frame.f_code.co_filename.endswith("client/many.py"):
            return None
        # What a finalizer raises goes nowhere.
        if any(caller.f_code.co_filename.endswith("weakref.py") for caller in callers_of(frame)):
            return None
        if event == "line" and next(lines) == line:
            hit.append(line)
            raise Interrupted
        return trace

    sys.settrace(trace)
    try:
        with contextlib.suppress(Interrupted):
            run_bulk(
                pairs(),
                lambda key, content: key,
                nodes="ab",
                node_for_key=lambda key: "ab"[len(key) % 2],
                clock=SystemClock(),
                operation=Operation(float("inf")),
            )
    finally:
        sys.settrace(None)
    return bool(hit)


@pytest.mark.parametrize("earlier", [False, True], ids=["the only one", "after another"])
def test_no_thread_is_left_wherever_an_interrupt_comes(earlier: bool) -> None:
    def pairs() -> Iterator[tuple[str, int]]:
        yield "k", 1
        yield "kk", 2
        if earlier:
            raise Interrupted

    line = 0
    while interrupted_at(line, pairs):
        assert ended(bulk_threads()), f"threads are left by an interrupt at line {line}"
        line += 1
    assert line > 50


def test_no_thread_is_left_where_not_all_could_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
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
        assert ended(bulk_threads())


def test_an_interrupt_as_a_thread_starts_is_what_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread has a number then, and is not said to have started, so that it cannot be joined."""

    def start(thread: threading.Thread) -> None:
        thread._set_ident()  # type: ignore[attr-defined]  # private, but old
        raise KeyboardInterrupt

    with QClient([f"http://127.0.0.1:{closed_port()}" for _ in range(3)], 5, 5) as client:
        monkeypatch.setattr(threading.Thread, "start", start)
        with pytest.raises(KeyboardInterrupt):
            client.post_many({"a": "a\n1\n", "b": "a\n1\n"})
        with pytest.raises(KeyboardInterrupt):
            client.locate("a")
