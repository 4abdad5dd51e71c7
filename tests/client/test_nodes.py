"""The states of nodes, on a simulated clock."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_qcache.client.errors import Outcome, Phase
from airflow_provider_qcache.client.nodes import NodePool, NodeState, NodeStatus
from airflow_provider_qcache.client.outcome import Failure
from tests.client.simulated import SimulatedClock

A, B = "http://a:1", "http://b:1"
LONGER_THAN_ANY_BACKOFF = 40.0
SILENT = Failure(Outcome.TIMEOUT, Phase.HEAD)
REFUSED = Failure(Outcome.REFUSED, Phase.CONNECT)


def pool_of(*nodes: str, clock: SimulatedClock | None = None) -> NodePool:
    return NodePool(nodes, clock=clock or SimulatedClock(), rng=random.Random(1))


def test_a_failing_node_is_not_alive_until_a_probe_reaches_it() -> None:
    pool = pool_of(A, B)
    pool.fail(A, pool.ticket(A), "reset")
    assert pool.failing == {A}
    ticket = pool.begin_probe(A)
    pool.end_probe(A, ticket, None)
    assert pool.failing == set()
    assert pool.snapshot()[A].state is NodeState.ALIVE


def test_failures_of_requests_that_began_before_the_node_failed_are_one_incident() -> None:
    clock = SimulatedClock()
    pool = pool_of(A, B, clock=clock)
    tickets = [pool.ticket(A) for _ in range(32)]
    for ticket in tickets:
        pool.fail(A, ticket, "reset")
    assert pool.snapshot()[A].failures == 1


def test_a_failure_of_a_request_from_before_the_recovery_does_not_fail_the_node_again() -> None:
    pool = pool_of(A, B)
    early = pool.ticket(A)
    pool.fail(A, pool.ticket(A), "reset")
    pool.end_probe(A, pool.begin_probe(A), None)
    pool.fail(A, early, "reset")
    assert pool.failing == set()


def test_one_prober_at_a_time() -> None:
    pool = pool_of(A, B)
    pool.fail(A, pool.ticket(A), "reset")
    assert pool.begin_probe(A) is not None
    assert pool.begin_probe(A) is None
    assert pool.begin_probe(B) is None


@given(failures=st.integers(1, 40), seed=st.integers(0, 1000))
def test_the_backoff_grows_to_its_bound_and_keeps_its_jitter(failures: int, seed: int) -> None:
    clock = SimulatedClock()
    pool = NodePool([A, B], clock=clock, rng=random.Random(seed))
    pool.fail(A, pool.ticket(A), "reset")
    for _ in range(failures - 1):
        pool.end_probe(A, pool.begin_probe(A), SILENT)
    bound = min(30.0, 0.5 * 2 ** (failures - 1))
    waits = pool.snapshot()[A].probe_in
    assert bound / 2 <= waits <= bound
    assert pool.due() == []
    clock.sleep(waits)
    assert pool.due() == [A]


def test_every_tenth_operation_makes_failing_nodes_due() -> None:
    pool = pool_of(A, B)
    pool.fail(A, pool.ticket(A), "reset")
    due = []
    for _ in range(20):
        pool.operation()
        due.append(pool.due())
        if due[-1]:
            pool.end_probe(A, pool.begin_probe(A), SILENT)
    assert [number for number, nodes in enumerate(due, 1) if nodes] == [10, 20]


def test_a_refused_probe_says_that_the_process_is_gone_and_a_silent_one_that_it_is_not_known() -> None:
    pool = pool_of(A, B)
    pool.fail(A, pool.ticket(A), "timed out")
    assert not pool.is_gone(A)
    pool.end_probe(A, pool.begin_probe(A), REFUSED)
    assert pool.is_gone(A)
    pool.end_probe(A, pool.begin_probe(A), SILENT)
    assert not pool.is_gone(A)


def test_statistics_have_qclients_names_and_start_again_when_they_are_taken() -> None:
    pool = pool_of(A, B)
    pool.count(A, "read_timeout")
    for _ in range(2):
        pool.fail(A, pool.ticket(A), "reset")
        for failure in (SILENT, SILENT, None):
            pool.end_probe(A, pool.begin_probe(A), failure)
    assert pool.take_statistics() == {
        A: {
            "connect_timeout": 0,
            "connection_error": 0,
            "read_timeout": 1,
            "unknown_error": 0,
            "resurrections": 2,
            "retry_error": 4,
        }
    }
    assert pool.take_statistics() == {}


class Told:
    """Stands for random.Random, and remembers between what it was asked to choose."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, float]] = []

    def uniform(self, low: float, high: float) -> float:
        self.asked.append((low, high))
        return 0.75


def test_the_backoff_doubles_from_half_a_second_to_thirty_and_is_varied_by_a_half() -> None:
    clock, told = SimulatedClock(), Told()
    pool = NodePool([A], clock=clock, rng=told)  # type: ignore[arg-type]
    pool.fail(A, pool.ticket(A), "reset")
    waits = [pool.snapshot()[A].probe_in]
    for _ in range(7):
        pool.end_probe(A, pool.begin_probe(A), SILENT)
        waits.append(pool.snapshot()[A].probe_in)
    assert waits == [0.75 * most for most in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0)]
    assert set(told.asked) == {(0.5, 1.0)}


def test_a_recovery_begins_the_backoff_anew() -> None:
    pool = pool_of(A)
    for _ in range(5):
        pool.fail(A, pool.ticket(A), "reset")
        pool.end_probe(A, pool.begin_probe(A), None)
    pool.fail(A, pool.ticket(A), "reset")
    assert pool.snapshot()[A].failures == 1
    assert pool.snapshot()[A].probe_in <= 0.5


def test_a_node_that_fails_for_years_has_a_bound_too() -> None:
    pool = pool_of(A)
    pool.fail(A, pool.ticket(A), "reset")
    for _ in range(2000):  # 2.0 ** 1024 is an OverflowError
        pool.end_probe(A, pool.begin_probe(A), SILENT)
    assert pool.snapshot()[A].probe_in <= 30


def test_a_change_is_told_once_and_a_failed_probe_is_none() -> None:
    changes: list[tuple[str, bool, str | None]] = []
    pool = NodePool(
        [A, B], clock=SimulatedClock(), rng=random.Random(1), on_change=lambda *change: changes.append(change)
    )
    pool.fail(A, pool.ticket(A), "reset")
    pool.end_probe(A, pool.begin_probe(A), SILENT)
    pool.end_probe(A, pool.begin_probe(A), None)
    assert changes == [(A, False, "reset"), (A, True, None)]


def test_what_is_known_of_a_node_is_what_it_met_last() -> None:
    clock = SimulatedClock()
    pool = pool_of(A, B, clock=clock)
    assert pool.snapshot()[A] == NodeStatus(A, NodeState.ALIVE, False, 0, None, None)
    assert (pool.last_error(A), pool.is_gone(A)) == (None, False)
    pool.fail(A, pool.ticket(A), "refused", gone=True)
    status = pool.snapshot()[A]
    assert (status.state, status.gone, status.failures, status.last_error) == (
        NodeState.FAILING,
        True,
        1,
        "refused",
    )
    assert not status.alive
    assert pool.last_error(A) == "refused"
    clock.spend(LONGER_THAN_ANY_BACKOFF)
    assert pool.snapshot()[A].probe_in == 0.0
    ticket = pool.begin_probe(A)
    assert (pool.snapshot()[A].state, pool.snapshot()[A].probe_in) == (NodeState.PROBED, None)
    assert pool.due() == []
    pool.end_probe(A, ticket, None)
    assert pool.snapshot()[A] == NodeStatus(A, NodeState.ALIVE, False, 0, "refused", None)
    assert pool.snapshot()[A].alive
    assert list(pool.snapshot()) == [A, B]


def test_a_node_is_gone_since_it_refused_last() -> None:
    clock = SimulatedClock()
    pool = pool_of(A, clock=clock)
    pool.fail(A, pool.ticket(A), "refused", gone=True)
    refused = clock.now()
    clock.spend(5)
    assert pool.is_gone(A, refused)
    assert not pool.is_gone(A, refused + 1)
    pool.end_probe(A, pool.begin_probe(A), REFUSED)
    assert pool.is_gone(A, clock.now())


def test_a_node_fails_only_once_and_only_while_it_is_alive() -> None:
    pool = pool_of(A, B)
    pool.fail(A, pool.ticket(A), "reset")
    pool.fail(A, pool.ticket(A), "reset")
    pool.begin_probe(A)
    pool.fail(A, pool.ticket(A), "reset")
    assert pool.snapshot()[A].failures == 1
    pool.fail(B, pool.ticket(B), "reset")
    assert pool.failing == {A, B}


def test_the_end_of_a_probe_of_before_counts_for_nothing() -> None:
    pool = pool_of(A)
    pool.fail(A, pool.ticket(A), "reset")
    early = pool.begin_probe(A)
    pool.end_probe(A, early, None)
    pool.fail(A, pool.ticket(A), "reset")
    pool.end_probe(A, early, None)  # nobody probes it
    assert pool.failing == {A}
    now = pool.begin_probe(A)
    pool.end_probe(A, early, None)
    pool.abandon_probe(A, early)
    assert pool.snapshot()[A].state is NodeState.PROBED
    pool.abandon_probe(A, now)
    assert pool.snapshot()[A].state is NodeState.FAILING
    pool.end_probe(A, pool.begin_probe(A), None)
    pool.abandon_probe(A, pool.ticket(A))
    assert pool.snapshot()[A].alive


def test_only_nodes_that_fail_become_due_and_none_later_than_it_was() -> None:
    clock = SimulatedClock()
    pool = pool_of(A, B, clock=clock)
    for _ in range(9):
        pool.operation()
    pool.operation()  # the tenth, while all are alive
    assert pool.due() == []
    pool.fail(A, pool.ticket(A), "reset")
    clock.spend(LONGER_THAN_ANY_BACKOFF)
    assert pool.due() == [A]
    for _ in range(10):
        pool.operation()
    clock.time -= 1  # that it was due a second ago is not forgotten
    assert pool.due() == [A]


def test_waits_that_end_within_a_second_of_each_other_are_announced_once() -> None:
    pool = pool_of(A)
    assert pool.begin_wait(-1e9)
    assert pool.begin_wait(100.0)
    assert not pool.begin_wait(101.0)
    assert not pool.begin_wait(5.0)
    assert pool.begin_wait(101.5)
    assert not pool.begin_wait(102.5)
    assert pool.begin_wait(float("inf"))
    assert not pool.begin_wait(float("inf"))


def test_a_forked_child_has_a_lock_of_its_own_and_no_probes() -> None:
    pool = pool_of(A, B)
    pool.fail(A, pool.ticket(A), "reset")
    pool.begin_probe(A)
    with pool._lock:  # another thread of the parent's had it, and never gives it back
        pool.reset_after_fork()
        assert pool.snapshot()[A].state is NodeState.FAILING
    assert pool.snapshot()[B].alive


def test_a_counter_counts() -> None:
    pool = pool_of(A, B)
    for _ in range(3):
        pool.count(A, "read_timeout")
    pool.count(B, "unknown_error")
    taken = pool.take_statistics()
    assert {
        node: {name: count for name, count in counts.items() if count} for node, counts in taken.items()
    } == {
        A: {"read_timeout": 3},
        B: {"unknown_error": 1},
    }
    pool.count(A, "connect_timeout")
    assert pool.take_statistics()[A]["connect_timeout"] == 1


@pytest.mark.parametrize("node", ["http://login:secret@a:1", "http://login:se@secret@a:1/path"])
def test_credentials_of_a_node_are_not_shown(node: str) -> None:
    assert "secret" not in repr(pool_of(node).snapshot()[node])
