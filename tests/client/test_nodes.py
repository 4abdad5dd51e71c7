"""What the client knows of a node, on a clock that is turned by hand."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_qcache.client.nodes import NodePool, NodeState
from tests.client.simulated import SimulatedClock

A, B = "http://a:1", "http://b:1"


def pool_of(*nodes: str, clock: SimulatedClock | None = None) -> NodePool:
    return NodePool(nodes, clock=clock or SimulatedClock(), rng=random.Random(1))


def test_a_failing_node_is_not_alive_until_a_probe_reaches_it() -> None:
    pool = pool_of(A, B)
    assert pool.fail(A, pool.ticket(A), "reset")
    assert pool.failing == {A}
    ticket = pool.begin_probe(A)
    pool.end_probe(A, ticket, None)
    assert pool.failing == set()
    assert pool.snapshot()[A].state is NodeState.ALIVE


def test_failures_of_requests_that_began_before_the_node_failed_are_one_incident() -> None:
    clock = SimulatedClock()
    pool = pool_of(A, B, clock=clock)
    tickets = [pool.ticket(A) for _ in range(32)]
    assert [pool.fail(A, ticket, "reset") for ticket in tickets] == [True] + [False] * 31
    assert pool.snapshot()[A].failures == 1


def test_a_failure_of_a_request_from_before_the_recovery_does_not_fail_the_node_again() -> None:
    pool = pool_of(A, B)
    early = pool.ticket(A)
    pool.fail(A, pool.ticket(A), "reset")
    pool.end_probe(A, pool.begin_probe(A), None)
    assert not pool.fail(A, early, "reset")
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
        pool.end_probe(A, pool.begin_probe(A), "silent")
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
            pool.end_probe(A, pool.begin_probe(A), "silent")
    assert [number for number, nodes in enumerate(due, 1) if nodes] == [10, 20]


def test_a_refused_probe_says_that_the_process_is_gone_and_a_silent_one_that_it_is_not_known() -> None:
    pool = pool_of(A, B)
    pool.fail(A, pool.ticket(A), "timed out")
    assert not pool.is_gone(A)
    pool.end_probe(A, pool.begin_probe(A), "refused", gone=True)
    assert pool.is_gone(A)
    pool.end_probe(A, pool.begin_probe(A), "timed out")
    assert not pool.is_gone(A)


def test_statistics_have_qclients_names_and_start_again_when_they_are_taken() -> None:
    pool = pool_of(A, B)
    pool.count(A, "read_timeout")
    pool.fail(A, pool.ticket(A), "reset")
    pool.end_probe(A, pool.begin_probe(A), "silent")
    pool.end_probe(A, pool.begin_probe(A), None)
    assert pool.take_statistics() == {
        A: {
            "connect_timeout": 0,
            "connection_error": 0,
            "read_timeout": 1,
            "unknown_error": 0,
            "resurrections": 1,
            "retry_error": 1,
        }
    }
    assert pool.take_statistics() == {}


@pytest.mark.parametrize("node", ["http://login:secret@a:1", "http://login:se@secret@a:1/path"])
def test_credentials_of_a_node_are_not_shown(node: str) -> None:
    assert "secret" not in repr(pool_of(node).snapshot()[node])
