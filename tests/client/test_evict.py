"""evict_stale: after a store, the client deletes older tables of the key on other nodes."""

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
from tests.client.kinds import key_with_home
from tests.client.soak import Last, Soak
from tests.harness.faults import FaultyNode, HungUp, Peer, Received, Tables, answer_ok, head, healthy_node
from tests.harness.servers import Server, real_python


def test_a_silent_node_delays_many_evictions_only_once() -> None:
    def silent_to_deletes(peer: Peer, request: Received) -> None:
        if request.kind == "delete":
            peer.wait_for_ever()
        tables.answer(peer, request)

    tables = Tables()
    (one, one_tables), (two, two_tables) = healthy_node(), healthy_node()
    silent = FaultyNode(silent_to_deletes, status=lambda peer, request: peer.wait_for_ever())
    with one, two, silent, QClient([one.url, two.url, silent.url], 1, 1, trust_env=False) as client:
        keys = [key for key in (f"key{n}" for n in range(400)) if client.node_for_key(key) != silent.url]
        started = time.monotonic()
        report = client.post_many(dict.fromkeys(keys, b"a\n1\n"), evict_stale=True)
        seconds = time.monotonic() - started
    assert len(report.succeeded) == len(keys) == len(one_tables.tables) + len(two_tables.tables)
    for key, result in report.succeeded.items():
        assert isinstance(result, StoreResult)
        assert result.may_hold_old == (silent.url,)
        assert result.evicted == tuple({one.url, two.url} - {client.node_for_key(key)})
    assert seconds < 1.0 * len(keys) / 4


def test_cancel_ends_evictions_that_wait() -> None:
    def slow(peer: Peer, request: Received) -> None:
        if request.kind == "delete":
            deleting.set()
            peer.wait_for_ever()
        peer.send(head(201, 0))

    deleting = threading.Event()
    with (
        FaultyNode(slow) as one,
        FaultyNode(slow) as two,
        QClient([one.url, two.url], 5, 60, trust_env=False) as client,
    ):

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


class Unreliable(Tables):
    """A node with one thread, as QCache's nodes have, which sometimes is late or fails to answer."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self._thread = threading.Lock()

    def answer(self, peer: Peer, request: Received) -> None:
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

    def status(self, peer: Peer, request: Received) -> None:
        with self._thread:
            answer_ok(peer, request)


@pytest.mark.parametrize("seed", range(3))
def test_only_nodes_in_may_hold_old_hold_an_older_table(seed: int) -> None:
    rng = random.Random(seed)
    unreliable = [Unreliable(random.Random(rng.random())) for _ in range(3)]
    nodes = [FaultyNode(tables.answer, status=tables.status) for tables in unreliable]
    pending: defaultdict[str, deque[int]] = defaultdict(deque)
    nodes_in_may_hold_old: set[str] = set()
    stored: set[str] = set()
    wrong: list[object] = []

    def pairs() -> Iterator[tuple[str, bytes]]:
        for number in range(1, 400):
            key = f"key{rng.randrange(8)}"
            pending[key].append(number)
            yield key, b"a\n%d\n" % number

    def note(key: str, outcome: Any) -> None:
        # The client does nothing else with the key until this function returns.
        number = pending[key].popleft()
        if isinstance(outcome, QClientException):
            return
        held = {
            node.url: int(tables.tables[key].split()[1])
            for node, tables in zip(nodes, unreliable, strict=True)
            if key in tables.tables
        }
        stored.add(key)
        nodes_in_may_hold_old.update(outcome.may_hold_old)
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
    assert not any(pending.values())
    assert len(stored) == 8
    assert nodes_in_may_hold_old


class SoakOfMany(Soak):
    """The soak with post_many for every store; some of the tables of a call have the same key."""

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


def test_post_many_leaves_no_older_table_while_nodes_are_killed_stopped_and_restarted() -> None:
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


def test_a_store_that_failed_over_does_not_evict_the_home_node_s_newer_table() -> None:
    """Else two writers, one of which takes the home node for gone, would delete each other's table."""
    home, home_tables = healthy_node()
    other, other_tables = healthy_node()
    with home, other, QClient([home.url, other.url], 5, 5, trust_env=False) as client:
        key = key_with_home(client, home.url)
        home_tables.tables[key] = b"a\nnewer\n"
        client._pool.fail(home.url, client._pool.ticket(home.url), "refused", gone=True)
        stored = client.post(key, b"a\n1\n", evict_stale=True)
        assert stored.node == other.url
        assert stored.may_hold_old == (home.url,)
        assert home_tables.tables[key] == b"a\nnewer\n"
        assert key in other_tables.tables
