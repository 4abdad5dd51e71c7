"""A node that refused a connection is asked again before a fallback node's miss is believed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from airflow_provider_qcache.client.errors import OperationCancelled, Outcome, Phase
from airflow_provider_qcache.client.operation import Operation
from airflow_provider_qcache.client.outcome import Failure, RequestKind
from tests.client.simulated import Scripted, SimulatedCluster

QUERY = RequestKind.QUERY
REFUSED, MISS = Scripted(Outcome.REFUSED), Scripted(status=404)


def cluster_without_home(*after: Scripted, statuses: Sequence[Scripted] = ()) -> SimulatedCluster:
    """A cluster whose home node refused an earlier operation. The next requests have these results."""
    cluster = SimulatedCluster([REFUSED, MISS, *after], list(statuses))
    assert cluster.run(QUERY).answer is None
    assert cluster.pool.is_gone(cluster.nodes[0])
    return cluster


def asked(cluster: SimulatedCluster) -> list[tuple[str, str]]:
    """What was asked since the earlier operation."""
    return [(exchange.purpose, exchange.node) for exchange in cluster.wire.exchanges[2:]]


def test_a_home_that_is_back_is_asked_for_the_table() -> None:
    cluster = cluster_without_home(MISS, Scripted(), statuses=[Scripted()])
    home, fallback = cluster.nodes[:2]
    done = cluster.run(QUERY)
    assert (done.node, done.answer is not None, done.unknown) == (home, True, ())
    assert asked(cluster) == [("send", fallback), ("status", home), ("send", home)]
    assert home not in cluster.pool.failing


def test_a_home_that_answers_its_status_with_an_error_is_asked_for_the_table() -> None:
    unauthorized = Scripted(Outcome.UNAUTHORIZED)
    cluster = cluster_without_home(MISS, Scripted(), statuses=[unauthorized])
    home, fallback = cluster.nodes[:2]
    assert cluster.run(QUERY).node == home
    assert asked(cluster) == [("send", fallback), ("status", home), ("send", home)]
    assert home not in cluster.pool.failing


def test_a_home_that_still_refuses_is_gone_and_the_miss_is_believed() -> None:
    cluster = cluster_without_home(MISS, MISS, statuses=[REFUSED])
    home, fallback = cluster.nodes[:2]
    for _ in range(2):  # a later operation asks again
        done = cluster.run(QUERY)
        assert (done.node, done.answer, done.unknown) == (fallback, None, ())
    assert asked(cluster) == [("send", fallback), ("status", home)] * 2
    assert cluster.pool.is_gone(home)


def test_a_home_that_has_become_silent_may_have_the_table() -> None:
    cluster = cluster_without_home(MISS, statuses=[Scripted(Outcome.TIMEOUT)])
    done = cluster.run(QUERY)
    assert (done.answer, done.unknown) == (None, (cluster.nodes[0],))
    assert not cluster.pool.is_gone(cluster.nodes[0])


def test_a_home_that_this_machine_cannot_ask_is_asked_again() -> None:
    cluster = cluster_without_home(MISS, MISS, statuses=[Scripted(Outcome.LOCAL), REFUSED])
    home, fallback = cluster.nodes[:2]
    done = cluster.run(QUERY)
    assert [(attempt.node, attempt.outcome) for attempt in done.attempts] == [(home, Outcome.LOCAL)]
    assert asked(cluster) == [("send", fallback), ("status", home)] * 2
    assert (done.answer, done.unknown) == (None, ())


@pytest.mark.parametrize("error", [Failure(Outcome.CANCELLED, Phase.HEAD), KeyboardInterrupt()])
def test_an_interrupted_question_leaves_the_home_to_be_asked_later(error: BaseException) -> None:
    cluster = cluster_without_home(MISS, MISS, Scripted(), statuses=[Scripted()])
    status = cluster.wire.status

    def interrupted(node: str, operation: Operation) -> None:
        cluster.running.cancel()
        raise error

    cluster.wire.status = interrupted  # type: ignore[method-assign]
    with pytest.raises(OperationCancelled if isinstance(error, Failure) else KeyboardInterrupt):
        cluster.run(QUERY)
    cluster.wire.status = status  # type: ignore[method-assign]
    assert cluster.run(QUERY).node == cluster.nodes[0]


@pytest.mark.parametrize("comes_back", [True, False])
def test_the_question_of_another_operation_is_waited_for(comes_back: bool) -> None:
    cluster = cluster_without_home(MISS, Scripted(), statuses=[Scripted()])
    home, fallback = cluster.nodes[:2]
    ticket = cluster.pool.begin_probe(home)
    assert ticket is not None

    def wait(nodes: Sequence[str], until: float, check: Callable[[], None]) -> None:
        assert (tuple(nodes), until) == ((home,), cluster.running.deadline)
        check()
        if comes_back:
            cluster.pool.end_probe(home, ticket, None)
        else:
            cluster.clock.spend(until - cluster.clock.now())

    cluster.wire.wait = wait  # type: ignore[method-assign]
    done = cluster.run(QUERY, 30)
    if comes_back:
        assert (done.node, done.unknown) == (home, ())
    else:
        assert (done.node, done.answer, done.unknown) == (fallback, None, (home,))
    assert ("status", home) not in asked(cluster)


def test_a_closed_connection_is_not_counted_while_this_machine_cannot_ask_the_node() -> None:
    closed = Scripted(Outcome.CLOSED)
    cluster = SimulatedCluster([closed, closed, Scripted()], [Scripted(Outcome.LOCAL), Scripted()])
    done = cluster.run(RequestKind.STORE)
    assert (done.node, len(done.attempts)) == (cluster.nodes[0], 2)
    assert cluster.pool.failing == set()


@pytest.mark.parametrize("first", [Outcome.CLOSED, Outcome.TIMEOUT])
def test_an_operation_ends_if_it_is_cancelled_while_it_asks_for_a_status(first: Outcome) -> None:
    cluster = SimulatedCluster([Scripted(first), Scripted()])

    def cancelled(node: str, operation: Operation) -> None:
        cluster.running.cancel()
        raise Failure(Outcome.CANCELLED, Phase.HEAD)

    cluster.wire.status = cancelled  # type: ignore[method-assign]
    with pytest.raises(OperationCancelled) as raised:
        cluster.run(RequestKind.STORE)
    assert len(raised.value.attempts) == 1
    assert cluster.pool.failing == set()


def cluster_whose_last_node_alone_is_left(*after: Scripted, statuses: Sequence[Scripted]) -> SimulatedCluster:
    """Of three nodes the first two refused earlier operations. The next requests have these results."""
    cluster = SimulatedCluster([REFUSED, REFUSED, MISS, *after], list(statuses))
    assert cluster.run(QUERY).node == cluster.nodes[2]
    assert [cluster.pool.is_gone(node) for node in cluster.nodes] == [True, True, False]
    cluster.wire.exchanges.clear()
    return cluster


def test_after_a_node_that_refuses_again_the_next_gone_one_is_asked_too() -> None:
    cluster = cluster_whose_last_node_alone_is_left(MISS, MISS, statuses=[REFUSED, Scripted()])
    first, second, third = cluster.nodes
    assert cluster.run(QUERY).node == second
    exchanges = [(exchange.purpose, exchange.node) for exchange in cluster.wire.exchanges]
    # The first one has refused this operation, and is not asked again for the second one's miss.
    assert exchanges == [("send", third), ("status", first), ("status", second), ("send", second)]


def test_a_node_that_refused_this_operation_keeps_no_other_from_being_asked() -> None:
    cluster = SimulatedCluster([REFUSED, MISS, REFUSED, MISS, MISS], [Scripted()])
    first, second, third = cluster.nodes
    assert cluster.run(QUERY, nodes=2).node == second  # the first one is gone
    assert cluster.pool.end_probe(first, cluster.pool.begin_probe(first) or 0, None)
    ticket = cluster.pool.ticket(second)
    cluster.pool.fail(second, ticket, "connection refused", gone=True)
    cluster.wire.exchanges.clear()
    assert cluster.run(QUERY).node == second
    exchanges = [(exchange.purpose, exchange.node) for exchange in cluster.wire.exchanges]
    assert exchanges == [("send", first), ("send", third), ("status", second), ("send", second)]
