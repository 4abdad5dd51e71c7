"""Asking again: for every policy and every sequence of outcomes, on a simulated clock and nodes."""

from __future__ import annotations

import itertools
import random
import threading

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_qcache.client.errors import (
    BodyNotRepeatable,
    ClosedWithoutAnswer,
    DeadlineExceeded,
    NoCacheAvailable,
    NodeOverloaded,
    OperationCancelled,
    Outcome,
    QClientException,
    StoreUncertain,
    TooManyConsecutiveErrors,
    UnexpectedServerResponse,
)
from airflow_provider_qcache.client.nodes import NodePool
from airflow_provider_qcache.client.outcome import Kind
from airflow_provider_qcache.client.retry import Done, Engine, Request, RequestRetry, Span
from airflow_provider_qcache.client.transport import Answer
from tests.client.simulated import Meets, SimulatedClock, SimulatedWire

FOREVER = float("inf")
STORE_TIMEOUT = 20.0
PERMANENT_STATUSES = (301, 400, 401, 406, 415, 418, 500)

SECONDS = st.floats(0, 30)
FAILURES = st.sampled_from(
    [
        Outcome.UNRESOLVED,
        Outcome.REFUSED,
        Outcome.CONNECT_TIMEOUT,
        Outcome.CONNECT_FAILED,
        Outcome.TLS_FAILED,
        Outcome.CERTIFICATE_REJECTED,
        Outcome.CLOSED,
        Outcome.TIMEOUT,
        Outcome.NOT_TAKEN,
        Outcome.TRUNCATED,
        Outcome.UNDECODABLE,
        Outcome.NOT_QCACHE,
        Outcome.TOO_LARGE,
    ]
)
MEETS = st.one_of(
    st.builds(Meets, outcome=FAILURES, seconds=SECONDS),
    st.builds(Meets, status=st.sampled_from([404, 502, 503, 504, *PERMANENT_STATUSES]), seconds=SECONDS),
    st.builds(
        Meets,
        status=st.just(429),
        seconds=SECONDS,
        retry_after=st.one_of(st.none(), st.integers(0, 100).map(str), st.just("soon")),
    ),
    st.builds(Meets, seconds=SECONDS, unsliced=st.booleans()),
)
STATUSES = st.builds(
    Meets, outcome=st.sampled_from([Outcome.ANSWERED, Outcome.REFUSED, Outcome.TIMEOUT]), seconds=SECONDS
)
POLICIES = st.builds(
    RequestRetry,
    consecutive_error_count_limit=st.one_of(st.none(), st.integers(1, 20)),
    wait_initial=st.floats(0, 5),
    wait_max=st.floats(0, 10),
    wait_for_nodes=st.booleans(),
)


class World:
    """One engine over simulated nodes."""

    def __init__(
        self,
        requests: list[Meets],
        statuses: list[Meets] | None = None,
        *,
        nodes: int = 3,
        limit: int = 10,
        policy: RequestRetry | None = None,
        seed: int = 0,
    ) -> None:
        self.clock = SimulatedClock()
        self.nodes = [f"http://host{number}:9401" for number in range(nodes)]
        rng = random.Random(seed)
        self.pool = NodePool(self.nodes, clock=self.clock, rng=rng)
        self.wire = SimulatedWire(
            self.clock,
            self.pool,
            itertools.chain(requests, itertools.repeat(requests[-1])),
            itertools.cycle(statuses or [Meets()]),
        )
        self.policy = policy or RequestRetry()
        self.engine = Engine(
            pool=self.pool,
            wire=self.wire,
            clock=self.clock,
            rng=rng,
            policy=self.policy,
            limit=limit,
            read_timeout=2.0,
            store_timeout=lambda _: STORE_TIMEOUT,
        )

    def run(
        self,
        kind: Kind = Kind.QUERY,
        seconds: float = FOREVER,
        *,
        repeatable: bool = True,
        nodes: int | None = None,
    ) -> Done:
        request = Request(kind, "foo", f"{kind} 'foo'", self.nodes[:nodes], repeatable=repeatable)
        return self.engine.run(request, Span(self.clock.now() + seconds))


@settings(deadline=None, max_examples=200)
@given(
    kind=st.sampled_from(Kind),
    limit=st.integers(1, 20),
    policy=POLICIES,
    requests=st.lists(MEETS, min_size=1, max_size=25),
    statuses=st.lists(STATUSES, min_size=1, max_size=8),
    seconds=st.one_of(st.floats(0.01, 200)),
    nodes=st.integers(1, 4),
    seed=st.integers(0, 10),
)
def test_no_operation_passes_its_limit_its_deadline_or_its_waits(
    kind: Kind,
    limit: int,
    policy: RequestRetry,
    requests: list[Meets],
    statuses: list[Meets],
    seconds: float,
    nodes: int,
    seed: int,
) -> None:
    world = World(requests, statuses, nodes=nodes, limit=limit, policy=policy, seed=seed)
    started = world.clock.now()
    attempts: tuple[object, ...]
    try:
        attempts = world.run(kind, seconds).attempts
    except QClientException as error:
        attempts = error.attempts
    effective = min(limit, policy.consecutive_error_count_limit or limit)
    assert len(attempts) <= effective
    assert len(world.wire.sent) <= effective + (len(attempts) < len(world.wire.sent))
    assert world.clock.now() - started <= seconds + 0.5
    asked = max(
        (float(m.retry_after) for _, m in world.wire.sent if (m.retry_after or "x").isdecimal()), default=0
    )
    between_statuses = 0.05
    assert max(world.clock.slept, default=0.0) <= max(policy.wait_max, asked, between_statuses)


@settings(deadline=None)
@given(
    kind=st.sampled_from(Kind),
    before=st.lists(st.builds(Meets, outcome=st.just(Outcome.REFUSED)), max_size=2),
    status=st.sampled_from(PERMANENT_STATUSES),
)
def test_what_asking_again_would_not_change_is_asked_once(
    kind: Kind, before: list[Meets], status: int
) -> None:
    world = World([*before, Meets(status=status), Meets()])
    with pytest.raises(QClientException) as raised:
        world.run(kind)
    assert not raised.value.transient
    assert [meets.status for _, meets in world.wire.sent].count(status) == 1
    assert world.wire.sent[-1][1].status == status
    assert world.wire.sent[-1][0] not in world.pool.failing


@given(limit=st.integers(1, 20))
def test_a_node_that_keeps_failing_while_its_status_answers_ends_at_the_limit(limit: int) -> None:
    world = World([Meets(Outcome.TRUNCATED)], limit=limit, nodes=1)
    with pytest.raises(TooManyConsecutiveErrors) as raised:
        world.run()
    assert len(raised.value.attempts) == limit == len(world.wire.sent)


def test_two_dead_nodes_are_no_cache_and_each_is_listed_with_what_it_met() -> None:
    world = World([Meets(Outcome.REFUSED)], [Meets(Outcome.REFUSED)], nodes=2, limit=3)
    with pytest.raises(NoCacheAvailable) as raised:
        world.run()
    assert set(raised.value.nodes) == set(world.nodes)
    assert len(raised.value.attempts) == 2


def test_a_node_alone_that_is_dead_is_said_to_be_of_no_use() -> None:
    world = World([Meets(Outcome.REFUSED)], [Meets(Outcome.REFUSED)], nodes=1)
    with pytest.raises(NoCacheAvailable, match="the node cannot be used"):
        world.run()


def test_with_a_limit_of_two_two_dead_nodes_are_too_many_errors_as_in_qclient() -> None:
    world = World([Meets(Outcome.REFUSED)], [Meets(Outcome.REFUSED)], nodes=2, limit=2)
    with pytest.raises(TooManyConsecutiveErrors):
        world.run()


def test_failing_over_to_a_living_node_waits_for_nothing() -> None:
    world = World([Meets(Outcome.REFUSED), Meets(Outcome.TIMEOUT), Meets()])
    assert world.run().node == world.nodes[2]
    assert world.clock.slept == []


def test_a_miss_of_a_stand_in_names_the_nodes_that_were_silent_and_not_those_that_are_gone() -> None:
    world = World([Meets(Outcome.TIMEOUT), Meets(Outcome.REFUSED), Meets(status=404)])
    done = world.run()
    assert done.answer is None
    assert done.node == world.nodes[2]
    assert done.unknown == (world.nodes[0],)


def test_waiting_for_nodes_goes_on_until_one_comes_back() -> None:
    silent = [Meets(Outcome.REFUSED)] * 9
    world = World(
        [Meets(Outcome.REFUSED), Meets()],
        [*silent, Meets()],
        nodes=1,
        policy=RequestRetry(wait_for_nodes=True),
    )
    assert world.run(seconds=600).answer is not None


def test_waiting_for_nodes_ends_at_the_deadline() -> None:
    world = World(
        [Meets(Outcome.REFUSED)], [Meets(Outcome.REFUSED)], policy=RequestRetry(wait_for_nodes=True)
    )
    started = world.clock.now()
    with pytest.raises(NoCacheAvailable):
        world.run(seconds=60)
    assert 50 <= world.clock.now() - started <= 60.5


def test_a_busy_node_gets_a_store_once_more_and_no_other_node_does() -> None:
    world = World([Meets(Outcome.TIMEOUT), Meets()], [Meets(Outcome.TIMEOUT)] * 3 + [Meets()])
    done = world.run(Kind.STORE)
    assert [node for node, _ in world.wire.sent] == [world.nodes[0]] * 2
    assert done.node == world.nodes[0]
    assert world.pool.failing == set()


def test_a_store_that_is_not_answered_twice_is_uncertain() -> None:
    world = World([Meets(Outcome.TIMEOUT), Meets(Outcome.NOT_TAKEN), Meets()])
    with pytest.raises(StoreUncertain) as raised:
        world.run(Kind.STORE)
    assert raised.value.transient
    assert len(world.wire.sent) == 2
    assert world.pool.failing == set()


def test_a_busy_node_that_stays_silent_for_a_store_timeout_leaves_the_store_uncertain() -> None:
    world = World([Meets(Outcome.TIMEOUT), Meets()], [Meets(Outcome.TIMEOUT, seconds=2)])
    started = world.clock.now()
    with pytest.raises(StoreUncertain):
        world.run(Kind.STORE)
    assert world.clock.now() - started <= STORE_TIMEOUT + 0.5
    assert len(world.wire.sent) == 1


def test_a_busy_node_whose_process_dies_leaves_the_store_to_the_next_node() -> None:
    world = World([Meets(Outcome.TIMEOUT), Meets()], [Meets(Outcome.REFUSED)])
    assert world.run(Kind.STORE).node == world.nodes[1]
    assert world.pool.is_gone(world.nodes[0])


def test_a_busy_node_that_others_found_failing_keeps_its_store() -> None:
    world = World([Meets(Outcome.TIMEOUT), Meets()])
    send = world.wire.send

    def fail_and_send(node: str, request: Request, span: Span, *, fresh: bool) -> Answer:
        world.pool.fail(node, world.pool.ticket(node), "no answer to another operation")
        return send(node, request, span, fresh=fresh)

    world.wire.send = fail_and_send  # type: ignore[method-assign]
    assert world.run(Kind.STORE).node == world.nodes[0]
    assert [node for node, _ in world.wire.sent] == [world.nodes[0]] * 2


@pytest.mark.parametrize(
    "second",
    [Meets(Outcome.CONNECT_TIMEOUT), Meets(Outcome.TRUNCATED), Meets(Outcome.CLOSED), Meets(status=503)],
)
def test_a_store_that_a_busy_node_fails_at_the_second_time_goes_to_no_other(second: Meets) -> None:
    world = World([Meets(Outcome.TIMEOUT), second, Meets()], [Meets(), Meets(Outcome.TIMEOUT)])
    with pytest.raises(StoreUncertain):
        world.run(Kind.STORE)
    assert [node for node, _ in world.wire.sent] == [world.nodes[0]] * 2


def test_a_store_goes_to_the_next_node_when_the_busy_one_refuses_it_at_the_second_time() -> None:
    world = World(
        [Meets(Outcome.TIMEOUT), Meets(Outcome.REFUSED), Meets()], [Meets(), Meets(Outcome.REFUSED)]
    )
    assert world.run(Kind.STORE).node == world.nodes[1]


def test_a_connection_closed_twice_by_a_living_node_blames_the_request() -> None:
    world = World([Meets(Outcome.CLOSED)])
    with pytest.raises(ClosedWithoutAnswer) as raised:
        world.run(Kind.STORE)
    assert len(raised.value.attempts) == 2
    assert [node for node, _ in world.wire.sent] == [world.nodes[0]] * 2
    assert world.pool.failing == set()


def test_a_connection_closed_by_a_node_whose_status_is_silent_fails_the_node() -> None:
    world = World([Meets(Outcome.CLOSED), Meets()], [Meets(Outcome.TIMEOUT)])
    assert world.run(Kind.STORE).node == world.nodes[1]
    assert world.pool.failing == {world.nodes[0]}


def test_an_overloaded_node_is_asked_again_after_the_time_it_names() -> None:
    world = World([Meets(status=429, retry_after="7"), Meets()])
    assert world.run().node == world.nodes[0]
    assert sum(world.clock.slept) == pytest.approx(7)


@example(retry_after="3600", seconds=FOREVER)
@given(retry_after=st.integers(61, 9999).map(str), seconds=st.floats(1, 60))
def test_an_overloaded_node_that_asks_for_more_time_than_there_is_ends_the_operation(
    retry_after: str, seconds: float
) -> None:
    world = World([Meets(status=429, retry_after=retry_after), Meets()])
    with pytest.raises(NodeOverloaded) as raised:
        world.run(seconds=seconds)
    assert raised.value.retry_after == float(retry_after)
    assert world.clock.slept == []


def test_a_body_that_cannot_be_read_again_gets_one_attempt() -> None:
    world = World([Meets(Outcome.REFUSED), Meets()])
    with pytest.raises(BodyNotRepeatable) as raised:
        world.run(Kind.STORE, repeatable=False)
    assert len(raised.value.attempts) == len(world.wire.sent) == 1


def test_a_deadline_that_passes_before_the_read_timeout_does_not_fail_the_node() -> None:
    world = World([Meets(seconds=10)])
    with pytest.raises(DeadlineExceeded):
        world.run(seconds=1)
    assert world.pool.failing == set()


def test_a_deadline_that_passes_after_the_read_timeout_does() -> None:
    world = World([Meets(seconds=10)])
    with pytest.raises(DeadlineExceeded):
        world.run(seconds=5)
    assert world.pool.failing == {world.nodes[0]}


def test_concurrent_operations_do_not_share_a_count() -> None:
    world = World([Meets(Outcome.TRUNCATED)], limit=5, nodes=1)
    counts = []

    def run() -> None:
        try:
            world.run()
        except TooManyConsecutiveErrors as error:
            counts.append(len(error.attempts))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [5] * 8


def test_a_cancelled_operation_waits_no_longer() -> None:
    world = World([Meets(status=429, retry_after="50")])
    sleep = world.clock.sleep

    def sleep_and_cancel(seconds: float) -> None:
        sleep(seconds)
        world.engine.cancellations += 1

    world.clock.sleep = sleep_and_cancel  # type: ignore[method-assign]
    with pytest.raises(OperationCancelled):
        world.run()
    assert sum(world.clock.slept) < 1


def test_what_is_none_of_ours_passes_through() -> None:
    class Timeout(BaseException):
        """As Airflow's is."""

    world = World([Meets()])

    def send(*args: object, **kwargs: object) -> None:
        raise Timeout

    world.wire.send = send  # type: ignore[assignment, method-assign]
    with pytest.raises(Timeout):
        world.run()


@given(status=st.integers(200, 599), kind=st.sampled_from(Kind))
def test_every_status_has_a_meaning(status: int, kind: Kind) -> None:
    world = World([Meets(status=status, retry_after="1")], [Meets(Outcome.TIMEOUT)], limit=3)
    try:
        done = world.run(kind, seconds=100)
    except UnexpectedServerResponse as error:
        assert error.status == status
    except QClientException as error:
        assert error.attempts
    else:
        assert status == {Kind.STORE: 201}.get(kind, 200) or (status == 404 and done.answer is None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("consecutive_error_count_limit", 0),
        ("consecutive_error_count_limit", True),
        ("wait_initial", -1),
        ("wait_max", float("inf")),
        ("wait_max", "2"),
        ("wait_for_nodes", "yes"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_by_its_field(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        RequestRetry(**{name: value})
