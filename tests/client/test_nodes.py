"""The states of nodes and their backoff, on a simulated clock."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_qcache.client import Listener, QClient
from airflow_provider_qcache.client.errors import Outcome, Phase
from airflow_provider_qcache.client.nodes import NodePool, NodeState, NodeStatus
from airflow_provider_qcache.client.outcome import Failure
from tests.client.simulated import SimulatedClock
from tests.harness import faults
from tests.harness.faults import Peer, Received, healthy_node

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


def test_failures_of_requests_begun_before_the_node_failed_count_once() -> None:
    clock = SimulatedClock()
    pool = pool_of(A, B, clock=clock)
    tickets = [pool.ticket(A) for _ in range(32)]
    for ticket in tickets:
        pool.fail(A, ticket, "reset")
    assert pool.snapshot()[A].failures == 1


def test_a_failure_of_a_request_begun_before_the_recovery_changes_nothing() -> None:
    pool = pool_of(A, B)
    early = pool.ticket(A)
    pool.fail(A, pool.ticket(A), "reset")
    pool.end_probe(A, pool.begin_probe(A), None)
    pool.fail(A, early, "reset")
    assert pool.failing == set()


def test_a_failing_node_has_one_probe_at_a_time() -> None:
    pool = pool_of(A, B)
    pool.fail(A, pool.ticket(A), "reset")
    assert pool.begin_probe(A) is not None
    assert pool.begin_probe(A) is None
    assert pool.begin_probe(B) is None


@given(failures=st.integers(1, 40), seed=st.integers(0, 1000))
def test_the_backoff_grows_to_its_limit_with_jitter(failures: int, seed: int) -> None:
    clock = SimulatedClock()
    pool = NodePool([A, B], clock=clock, rng=random.Random(seed))
    pool.fail(A, pool.ticket(A), "reset")
    for _ in range(failures - 1):
        pool.end_probe(A, pool.begin_probe(A), SILENT)
    bound = min(30.0, 0.5 * 2 ** (failures - 1))
    waits = pool.snapshot()[A].probe_in
    assert bound / 2 <= waits <= bound
    assert pool.operation() == []
    clock.sleep(waits)
    assert pool.operation() == [A]


def test_every_tenth_operation_makes_failing_nodes_due() -> None:
    pool = pool_of(A, B)
    pool.fail(A, pool.ticket(A), "reset")
    due = []
    for _ in range(20):
        due.append(pool.operation())
        if due[-1]:
            pool.end_probe(A, pool.begin_probe(A), SILENT)
    assert [number for number, nodes in enumerate(due, 1) if nodes] == [10, 20]


def test_a_node_counts_as_gone_if_its_last_probe_was_refused_not_if_it_timed_out() -> None:
    pool = pool_of(A, B)
    pool.fail(A, pool.ticket(A), "timed out")
    assert not pool.is_gone(A)
    pool.end_probe(A, pool.begin_probe(A), REFUSED)
    assert pool.is_gone(A)
    pool.end_probe(A, pool.begin_probe(A), SILENT)
    assert not pool.is_gone(A)


def test_statistics_have_qclients_names_and_taking_them_resets_them() -> None:
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


class FixedRandom:
    """Stands for random.Random: always chooses 0.75 and records the ranges it is asked to choose from."""

    def __init__(self) -> None:
        self.ranges: list[tuple[float, float]] = []

    def uniform(self, low: float, high: float) -> float:
        self.ranges.append((low, high))
        return 0.75


def test_the_backoff_doubles_from_half_a_second_to_thirty_with_a_jitter_of_half() -> None:
    clock, rng = SimulatedClock(), FixedRandom()
    pool = NodePool([A], clock=clock, rng=rng)  # type: ignore[arg-type]
    pool.fail(A, pool.ticket(A), "reset")
    waits = [pool.snapshot()[A].probe_in]
    for _ in range(7):
        pool.end_probe(A, pool.begin_probe(A), SILENT)
        waits.append(pool.snapshot()[A].probe_in)
    assert waits == [0.75 * most for most in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0)]
    assert set(rng.ranges) == {(0.5, 1.0)}


def test_a_recovery_resets_the_backoff() -> None:
    pool = pool_of(A)
    for _ in range(5):
        pool.fail(A, pool.ticket(A), "reset")
        pool.end_probe(A, pool.begin_probe(A), None)
    pool.fail(A, pool.ticket(A), "reset")
    assert pool.snapshot()[A].failures == 1
    assert pool.snapshot()[A].probe_in <= 0.5


def test_the_backoff_stays_limited_after_thousands_of_failures() -> None:
    pool = pool_of(A)
    pool.fail(A, pool.ticket(A), "reset")
    for _ in range(2000):  # 2.0 ** 1024 is an OverflowError
        pool.end_probe(A, pool.begin_probe(A), SILENT)
    assert pool.snapshot()[A].probe_in <= 30


def test_on_change_is_called_once_per_change_and_not_for_a_failed_probe() -> None:
    changes: list[tuple[str, bool, str | None]] = []
    pool = NodePool(
        [A, B], clock=SimulatedClock(), rng=random.Random(1), on_change=lambda *change: changes.append(change)
    )
    pool.fail(A, pool.ticket(A), "reset")
    pool.end_probe(A, pool.begin_probe(A), SILENT)
    pool.end_probe(A, pool.begin_probe(A), None)
    assert changes == [(A, False, "reset"), (A, True, None)]


def test_the_status_of_a_node_shows_its_state_and_last_error() -> None:
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
    assert pool.operation() == []
    pool.end_probe(A, ticket, None)
    assert pool.snapshot()[A] == NodeStatus(A, NodeState.ALIVE, False, 0, "refused", None)
    assert pool.snapshot()[A].alive
    assert list(pool.snapshot()) == [A, B]


def test_a_node_is_gone_as_of_its_last_refusal() -> None:
    clock = SimulatedClock()
    pool = pool_of(A, clock=clock)
    pool.fail(A, pool.ticket(A), "refused", gone=True)
    refused = clock.now()
    clock.spend(5)
    assert pool.is_gone(A, refused)
    assert not pool.is_gone(A, refused + 1)
    pool.end_probe(A, pool.begin_probe(A), REFUSED)
    assert pool.is_gone(A, clock.now())


def test_only_a_living_node_can_fail() -> None:
    pool = pool_of(A, B)
    pool.fail(A, pool.ticket(A), "reset")
    pool.fail(A, pool.ticket(A), "reset")
    pool.begin_probe(A)
    pool.fail(A, pool.ticket(A), "reset")
    assert pool.snapshot()[A].failures == 1
    pool.fail(B, pool.ticket(B), "reset")
    assert pool.failing == {A, B}


def test_the_end_of_an_outdated_probe_changes_nothing() -> None:
    pool = pool_of(A)
    pool.fail(A, pool.ticket(A), "reset")
    early = pool.begin_probe(A)
    pool.end_probe(A, early, None)
    pool.fail(A, pool.ticket(A), "reset")
    pool.end_probe(A, early, None)  # no probe is under way
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


def test_the_tenth_operation_makes_only_failing_nodes_due_and_postpones_no_probe() -> None:
    clock = SimulatedClock()
    pool = pool_of(A, B, clock=clock)
    for _ in range(9):
        pool.operation()
    pool.operation()  # the tenth, while all are alive
    assert pool.operation() == []
    pool.fail(A, pool.ticket(A), "reset")
    clock.spend(LONGER_THAN_ANY_BACKOFF)
    assert pool.operation() == [A]
    for _ in range(10):
        pool.operation()
    clock.time -= 1  # the probe, due a second ago, was not postponed
    assert pool.operation() == [A]


def test_waits_that_end_within_a_second_of_each_other_are_logged_once() -> None:
    pool = pool_of(A)
    assert pool.begin_wait(-1e9)
    assert pool.begin_wait(100.0)
    assert not pool.begin_wait(101.0)
    assert not pool.begin_wait(5.0)
    assert pool.begin_wait(101.5)
    assert not pool.begin_wait(102.5)
    assert pool.begin_wait(float("inf"))
    assert not pool.begin_wait(float("inf"))


def test_a_forked_child_gets_a_new_lock_and_no_probes() -> None:
    pool = pool_of(A, B)
    pool.fail(A, pool.ticket(A), "reset")
    pool.begin_probe(A)
    with pool._lock:  # stands for a lock that another thread of the parent held during the fork
        pool.reset_after_fork()
        assert pool.snapshot()[A].state is NodeState.FAILING
    assert pool.snapshot()[B].alive


def test_counters_are_kept_per_node() -> None:
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


def test_listeners_are_called_and_their_errors_are_ignored() -> None:
    events: list[tuple[str, str]] = []

    class EventRecorder(Listener):
        def node_failed(self, node: str, error: str) -> None:
            events.append(("failed", node))
            raise RuntimeError("of the listener")

        def node_recovered(self, node: str) -> None:
            events.append(("recovered", node))

        def attempt_failed(self, attempt: object) -> None:
            events.append(("attempt", attempt.node))  # type: ignore[attr-defined]

    node, _ = healthy_node()
    answers = iter([faults.not_http])
    healthy = node._answer

    def not_http_first(peer: Peer, request: Received) -> None:
        next(answers, healthy)(peer, request)

    node._answer = not_http_first
    with node, QClient([node.url], trust_env=False) as client:
        listener = EventRecorder()
        client.add_listener(listener)
        assert client.get("foo", {}) is None
        assert events == [("attempt", node.url), ("failed", node.url), ("recovered", node.url)]
        client.remove_listener(listener)
        client.get("foo", {})
        assert len(events) == 3
