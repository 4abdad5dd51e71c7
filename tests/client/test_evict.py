"""Older tables deleted on other nodes while the next are stored: the order on each key stays."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_qcache.client import (
    OperationCancelled,
    QClient,
    QClientException,
    RequestRetry,
    StoreResult,
)
from airflow_provider_qcache.client.bulk import Elsewhere, run_bulk
from airflow_provider_qcache.client.clock import SystemClock
from tests.client.faults import HungUp, Node, Peer, Request, Tables, head, sound_node
from tests.client.soak import Last, Soak
from tests.servers import Server, real_python


def run(pairs: Any, work: Any, **options: Any) -> Any:
    nodes = itertools.cycle("abc")
    report = run_bulk(
        pairs,
        work,
        nodes="abc",
        node_for_key=lambda key: next(nodes),
        clock=SystemClock(),
        cancelled=lambda: False,
        elsewhere=True,
        **options,
    )
    assert not [thread for thread in threading.enumerate() if thread.name == "qcache-bulk"]
    return report


@pytest.mark.parametrize("seed", range(5))
def test_an_operation_begins_when_all_parts_of_the_last_on_its_key_have_ended(seed: int) -> None:
    rng = random.Random(seed)
    under_way: defaultdict[str, int] = defaultdict(int)
    at_once: set[int] = set()
    lock = threading.Lock()
    ended: defaultdict[str, list[int]] = defaultdict(list)

    def work(key: str, number: int, turns: object) -> Elsewhere | int:
        assert under_way[key] == 0
        if number % 10 == 9:
            return number
        parts = "abc"[: rng.randrange(4)]
        under_way[key] = 1

        def part(node: str) -> str:
            with lock:
                under_way[key] += 1
                at_once.add(under_way[key])
            time.sleep(rng.uniform(0.0, 0.002))
            with lock:
                under_way[key] -= 1
            return node

        def finish(told: Any) -> int:
            assert sorted(told.items()) == [(node, node) for node in parts]
            under_way[key] -= 1
            return number

        return Elsewhere(parts, part, finish)

    run(
        ((f"key{rng.randrange(40)}", number) for number in range(400)),
        work,
        on_done=lambda key, outcome: ended[key].append(outcome),
    )
    assert sorted(itertools.chain(*ended.values())) == list(range(400))  # none failed, by an assert above
    assert all(numbers == sorted(numbers) for numbers in ended.values())
    assert not any(under_way.values())
    assert max(at_once) > 2  # parts of one operation are done at the same time


def test_a_part_that_fails_is_its_operation_s_error_and_no_other_s() -> None:
    def part(node: str) -> None:
        if node != "c":
            raise LookupError(node)

    def work(key: str, content: str, turns: object) -> Elsewhere:
        return Elsewhere(content, part, len)

    report = run([("one", "cba"), ("two", "c"), ("three", "")], work)
    assert report.succeeded == {"two": 1, "three": 0}
    assert str(report.failed["one"]) == "b"  # the first in the order of the nodes


def test_what_is_no_exception_in_a_part_ends_the_call() -> None:
    def part(node: str) -> None:
        raise SystemExit(3)

    told = []
    pairs = ((f"key{n}", None) for n in itertools.count())
    with pytest.raises(SystemExit):
        run(pairs, lambda *_: Elsewhere("ab", part, len), on_done=lambda _, outcome: told.append(outcome))
    assert {type(outcome) for outcome in told} == {OperationCancelled}


def test_a_silent_node_is_waited_for_once_while_the_others_go_on() -> None:
    def silent_to_deletes(peer: Peer, request: Request) -> None:
        if request.kind == "delete":
            peer.wait_for_ever()
        tables.answer(peer, request)

    tables = Tables()
    (one, one_s), (two, two_s) = sound_node(), sound_node()
    silent = Node(silent_to_deletes, status=lambda peer, request: peer.wait_for_ever())
    with one, two, silent, QClient([one.url, two.url, silent.url], 1, 1, trust_env=False) as client:
        keys = [key for key in (f"key{n}" for n in range(400)) if client.node_for_key(key) != silent.url]
        started = time.monotonic()
        report = client.post_many(dict.fromkeys(keys, b"a\n1\n"), evict_stale=True)
        seconds = time.monotonic() - started
    assert len(report.succeeded) == len(keys) == len(one_s.tables) + len(two_s.tables)
    for key, result in report.succeeded.items():
        assert isinstance(result, StoreResult)
        assert result.may_hold_old == (silent.url,)
        assert result.evicted == tuple({one.url, two.url} - {client.node_for_key(key)})
    assert seconds < 1.0 * len(keys) / 4


def test_cancel_ends_what_waits_to_be_deleted() -> None:
    def slow(peer: Peer, request: Request) -> None:
        if request.kind == "delete":
            deleting.set()
            peer.wait_for_ever()
        peer.send(head(201, 0))

    deleting = threading.Event()
    with Node(slow) as one, Node(slow) as two, QClient([one.url, two.url], 5, 60, trust_env=False) as client:

        def cancel() -> None:
            deleting.wait()
            client.cancel()

        cancels = threading.Thread(target=cancel)
        cancels.start()
        started = time.monotonic()
        with pytest.raises(OperationCancelled):
            client.post_many(((f"key{n}", b"a\n1\n") for n in itertools.count()), evict_stale=True)
        assert time.monotonic() - started < 30
        cancels.join()


class Whimsical(Tables):
    """A node with one thread, as QCache's are, which is late now and then, or answers nothing of use."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self._thread = threading.Lock()

    def answer(self, peer: Peer, request: Request) -> None:
        with self._thread:
            what = self._rng.random()
            if what < 0.01:
                time.sleep(0.25)  # longer than the read timeout
            elif what < 0.08:
                peer.send(head(503, 0))
                return
            elif what < 0.1:
                raise HungUp
            elif request.kind == "delete":
                time.sleep(self._rng.uniform(0.0, 0.01))
            super().answer(peer, request)

    def status(self, peer: Peer, request: Request) -> None:
        with self._thread:
            peer.send(head(200, 2) + b"OK")


@pytest.mark.parametrize("seed", range(3))
def test_no_node_is_left_with_an_older_table_but_those_that_are_named(seed: int) -> None:
    rng = random.Random(seed)
    whims = [Whimsical(random.Random(rng.random())) for _ in range(3)]
    nodes = [Node(tables.answer, status=tables.status) for tables in whims]
    told: defaultdict[str, deque[int]] = defaultdict(deque)
    named: set[str] = set()
    stored: set[str] = set()
    wrong: list[object] = []

    def pairs() -> Iterator[tuple[str, bytes]]:
        for number in range(1, 400):
            key = f"key{rng.randrange(8)}"
            told[key].append(number)
            yield key, b"a\n%d\n" % number

    def note(key: str, outcome: Any) -> None:
        # Nothing else is done with the key until this returns.
        number = told[key].popleft()
        if isinstance(outcome, QClientException):
            return
        held = {
            node.url: int(tables.tables[key].split()[1])
            for node, tables in zip(nodes, whims, strict=True)
            if key in tables.tables
        }
        stored.add(key)
        named.update(outcome.may_hold_old)
        if held.get(outcome.node) != number or not held.keys() <= {outcome.node, *outcome.may_hold_old}:
            wrong.append((number, outcome, held))

    with nodes[0], nodes[1], nodes[2]:
        retry = RequestRetry(wait_initial=0.01, wait_max=0.05, wait_for_nodes=True)
        with QClient(
            [node.url for node in nodes],
            0.5,
            0.1,
            deadline=20,
            store_timeout=0.2,
            request_retry=retry,
            trust_env=False,
        ) as client:
            client.post_many(pairs(), evict_stale=True, on_done=note)
    assert wrong == []
    assert not any(told.values())
    assert len(stored) == 8
    assert named


class SoakOfMany(Soak):
    """The soak with every store one of several, of which some are on the same key."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._versions = threading.Lock()

    def _post(self, client: QClient, key: str) -> None:
        own = next(keys for keys in self.keys if key in keys)
        rng = random.Random(f"{key} {self.last[key].latest}")
        begun: defaultdict[str, deque[tuple[int, dict[str, int]]]] = defaultdict(deque)
        errors: list[Exception] = []

        def pairs() -> Iterator[tuple[str, str]]:
            for one in [key, *rng.choices(own, k=9)]:
                with self._versions:
                    version, table = self._begin_store(one)
                    begun[one].append((version, dict(self.lives)))
                yield one, table

        def note(one: str, outcome: Any) -> None:
            with self._versions:
                version, lives = begun[one].popleft()
                if not isinstance(outcome, StoreResult):
                    errors.append(outcome)
                    return
                latest = self.last[one].latest
                self.last[one] = Last(
                    version=version,
                    node=outcome.node,
                    at_home=version == latest and not outcome.failed_over,
                    stored_in_life=lives[outcome.node],
                    may_hold_old=frozenset(outcome.may_hold_old),
                    latest=latest,
                    floor=version,
                )

        client.post_many(pairs(), evict_stale=True, on_done=note)
        for error in errors:
            if not isinstance(error, QClientException) or not error.attempts:
                raise error


def test_while_nodes_are_killed_stopped_and_restarted_many_leave_nothing_older() -> None:
    servers = [Server.real() if real_python() else Server.dev() for _ in range(3)]
    try:
        for server in servers:
            server.start()
        soak = SoakOfMany(servers, operations=320, seed=7, some_hasty=False)
        soak.run()
    finally:
        for server in servers:
            server.stop()
    assert soak.problems == []
    assert soak.events["SIGKILL"]
    assert soak.events["SIGSTOP"]
