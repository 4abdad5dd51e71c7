"""Many operations: those on one key follow each other, and a failover joins the queue of its node."""

from __future__ import annotations

import gc
import itertools
import signal
import threading
import time
import tracemalloc
from collections.abc import Iterator, Mapping

import pytest

from airflow_provider_qcache.client import QClient
from airflow_provider_qcache.client.bulk import run_bulk
from airflow_provider_qcache.client.clock import SystemClock
from tests.client import faults
from tests.client.faults import Node, Peer, Request, Tables, closed_port, sound_node


def test_operations_on_one_key_follow_each_other_even_if_its_node_changes() -> None:
    nodes = itertools.cycle("ab")
    under_way = threading.Lock()
    done: list[int] = []
    together = []

    def work(key: str, content: int, turns: Mapping[str, threading.Lock]) -> None:
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
        cancelled=lambda: False,
    )
    assert done == list(range(10))
    assert not any(together)


def test_a_node_gets_one_store_at_a_time_though_others_fail_over_to_it() -> None:
    lock, together = threading.Lock(), []
    tables = Tables()

    def one_at_a_time(peer: Peer, request: Request) -> None:
        together.append(not lock.acquire(blocking=False))
        time.sleep(0.002)
        if not together[-1]:
            lock.release()
        tables.answer(peer, request)

    dead = [f"http://127.0.0.1:{closed_port()}" for _ in range(2)]
    with Node(one_at_a_time) as node, QClient([*dead, node.url], trust_env=False) as client:
        report = client.post_many({f"key{number}": b"a\n1\n" for number in range(100)})
    assert len(report.succeeded) == len(tables.tables) == 100
    assert not any(together)


def test_tables_are_asked_for_as_they_are_stored() -> None:
    ahead: list[int] = []
    node, tables = sound_node()

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
        outcomes = client.delete_many(["a"], all_nodes=True).succeeded["a"].outcomes
        assert list(outcomes.values()) == ["gone"]


def test_a_node_that_is_gone_is_so_with_a_limit_of_one_too() -> None:
    dead = f"http://127.0.0.1:{closed_port()}"
    with QClient([dead], trust_env=False, consecutive_error_count_limit=1) as client:
        assert client.delete("a", all_nodes=True).outcomes == {dead: "gone"}


def test_a_silent_node_is_unreachable_and_may_hold_what_is_old() -> None:
    (sound, _), silent = sound_node(), Node(faults.silent, status=faults.silent)
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
    (node, _) = sound_node()
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

    node, _ = sound_node()
    with node, QClient([node.url], trust_env=False) as client, pytest.raises(SystemExit):
        client.post_many((f"key{number}", ends) for number in range(100))


def test_after_an_exception_in_the_caller_nothing_more_is_begun() -> None:
    class Timeout(BaseException):
        """As Airflow's is."""

    def end(*_: object) -> None:
        raise Timeout

    node, tables = sound_node()
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
