"""One operation: its time, and how its requests are sent, wait for their turn and are cancelled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_qcache.client.errors import OperationCancelled, Outcome, Phase
from airflow_provider_qcache.client.nodes import NodePool
from airflow_provider_qcache.client.operation import Operation, Sender, once_more_fresh
from airflow_provider_qcache.client.outcome import Answer, Failure
from airflow_provider_qcache.client.transport import Headers, Limit, Request
from tests.client.simulated import SimulatedClock
from tests.client.test_nodes import pool_of

A, B = "http://a:1", "http://b:1"
CONNECT, READ = 1.0, 2.0
FOREVER = float("inf")


def answer(status: int = 200, from_proxy: str = "") -> Answer:
    return Answer(status, Headers(), b"", None, from_proxy=from_proxy)


@dataclass
class Transport:
    """Stands for the connections to a node: records what is sent, and answers with a function."""

    answers: Callable[[Request, Limit], Answer] = lambda request, limit: answer()
    sent: list[tuple[Request, Limit, bool]] = field(default_factory=list)

    def exchange(self, request: Request, limit: Limit, *, fresh: bool) -> Answer:
        self.sent.append((request, limit, fresh))
        return self.answers(request, limit)

    def store_time(self, length: int | None) -> float:
        return 7.0 if length is None else 10.0 + length


class SenderWithNodes:
    """A sender with two nodes, each a `Transport`, and an operation of 60 s."""

    def __init__(self, answers: Callable[[Request, Limit], Answer] = lambda request, limit: answer()) -> None:
        self.clock = SimulatedClock()
        self.pool: NodePool = pool_of(A, B, clock=self.clock)
        self.transports = {A: Transport(answers), B: Transport()}
        settings: Any = SimpleNamespace(connect_timeout=CONNECT, read_timeout=READ)
        self.sender = Sender(self.transports, self.pool, settings, self.clock)  # type: ignore[arg-type]
        self.operation = Operation(self.clock.now() + 60)

    @property
    def sent(self) -> list[tuple[Request, Limit, bool]]:
        return self.transports[A].sent


def test_an_operation_is_active_until_it_is_left() -> None:
    active: set[Operation] = set()
    with Operation(5.0, active) as operation:
        assert (operation.deadline, active) == (5.0, {operation})
        part = operation.until(3.0)
        assert active == {operation}
        with part:
            pass
        assert active == {operation}
    assert active == set()
    with Operation(5.0) as alone:
        assert alone.part_of is None


def test_a_part_of_an_operation_is_cancelled_with_it() -> None:
    whole = Operation(5.0)
    part = whole.until(3.0)
    least = part.until(1.0)
    assert [one.deadline for one in (whole, part, least)] == [5.0, 3.0, 1.0]
    assert [one.part_of for one in (whole, part, least)] == [None, whole, whole]
    assert [one.cancelled for one in (whole, part, least)] == [False, False, False]
    part.check("query 'k'")
    whole.cancel()
    assert [one.cancelled for one in (whole, part, least)] == [True, True, True]
    with pytest.raises(OperationCancelled) as raised:
        least.check("query 'k'")
    assert str(raised.value) == "query 'k': cancelled"


def test_a_request_in_flight_is_cancelled_with_its_operation_and_forgotten_when_it_ends() -> None:
    setup = SenderWithNodes()
    seen: list[set[Limit]] = []

    def cancelled_meanwhile(request: Request, limit: Limit) -> Answer:
        seen.append(setup.operation.limits.copy())
        assert not limit.cancelled
        setup.operation.cancel()
        assert limit.cancelled
        return answer()

    setup.transports[A].answers = cancelled_meanwhile
    request = Request("GET", "/k")
    part = setup.operation.until(setup.clock.now() + 5)
    setup.sender.send(A, request, part, fresh=True)
    ((sent, limit, fresh),) = setup.sent
    assert (sent, fresh, seen) == (request, True, [{limit}])
    assert limit.deadline == part.deadline
    assert limit.now == setup.clock.now
    assert setup.operation.limits == set()
    setup.transports[A].answers = lambda request, limit: answer()
    setup.sender.send(A, request, setup.operation, fresh=False)
    assert [(limit.cancelled, fresh) for _, limit, fresh in setup.sent[1:]] == [(True, False)]


@pytest.mark.parametrize("abandoned", [True, False])
def test_an_abandoned_write_is_recorded_for_its_node(abandoned: bool) -> None:
    def ends(request: Request, limit: Limit) -> Answer:
        limit.abandoned = abandoned
        raise KeyboardInterrupt

    setup = SenderWithNodes(ends)
    with pytest.raises(KeyboardInterrupt):
        setup.sender.send(A, Request("POST", "/k"), setup.operation, fresh=False)
    assert setup.operation.limits == set()
    assert setup.pool.abandoned_writes == {A: {setup.sent[0][1]} if abandoned else set(), B: set()}


def test_a_request_holds_its_node_s_turn_only_while_it_is_sent() -> None:
    turns = {A: threading.Lock(), B: threading.Lock()}

    def holds_its_turn(request: Request, limit: Limit) -> Answer:
        assert turns[A].locked()
        assert not turns[B].locked()
        raise KeyboardInterrupt

    setup = SenderWithNodes(holds_its_turn)
    request = Request("POST", "/k", turns=turns)
    with pytest.raises(KeyboardInterrupt):
        setup.sender.send(A, request, setup.operation, fresh=True)
    assert not turns[A].locked()
    setup.transports[A].answers = lambda request, limit: answer()
    assert setup.sender.send(A, request, setup.operation, fresh=True).status == 200
    assert [(sent, fresh) for sent, _, fresh in setup.sent] == [(request, True), (request, True)]
    assert not turns[A].locked()


def test_waiting_for_a_turn_ends_with_the_operation() -> None:
    turns = {A: threading.Lock()}
    setup = SenderWithNodes()
    setup.operation.cancel()
    with turns[A]:
        with pytest.raises(Failure) as raised:
            setup.sender.send(A, Request("POST", "/k", turns=turns), setup.operation, fresh=False)
        assert raised.value.outcome is Outcome.CANCELLED
        late = Operation(setup.clock.now())
        with pytest.raises(Failure) as raised:
            setup.sender.send(A, Request("POST", "/k", turns=turns), late, fresh=False)
        assert raised.value.outcome is Outcome.DEADLINE
    assert setup.sent == []
    assert (setup.operation.limits, late.limits) == (set(), set())


def sent_requests(setup: SenderWithNodes) -> list[tuple[str, str, bytes]]:
    return [(request.method, request.target, request.headers) for request, _, _ in setup.sent]


STATUS = ("GET", "/status", b"Accept-Encoding: identity\r\n")


def test_the_status_is_requested_twice_or_once_if_no_write_follows() -> None:
    """A node that was stopped answers the first before it applies what it had received."""
    setup = SenderWithNodes()
    setup.sender.status(A, setup.operation)
    assert sent_requests(setup) == [STATUS] * 2
    setup.sender.status(A, setup.operation, after_writes=False)
    assert sent_requests(setup) == [STATUS] * 3
    assert setup.transports[B].sent == []


def test_a_status_request_has_its_own_timeouts_within_the_operation_s_deadline() -> None:
    setup = SenderWithNodes()
    setup.sender.status(A, setup.operation, after_writes=False)
    setup.sender.status(A, Operation(FOREVER), after_writes=False)
    soon = Operation(setup.clock.now() + 0.5)
    setup.sender.status(A, soon, after_writes=False)
    ends = [limit.deadline - setup.clock.now() for _, limit, _ in setup.sent]
    assert ends == [CONNECT + READ, CONNECT + READ, 0.5]


def test_status_requests_clear_abandoned_writes_but_not_those_added_meanwhile() -> None:
    setup = SenderWithNodes()
    early, late = Limit(setup.clock.now, 0), Limit(setup.clock.now, 0)
    setup.pool.abandoned_writes[A].add(early)
    setup.pool.abandoned_writes[B].add(early)
    setup.sender.status(A, setup.operation, after_writes=False)
    assert setup.pool.abandoned_writes[A] == {early}

    def meanwhile(request: Request, limit: Limit) -> Answer:
        setup.pool.abandoned_writes[A].add(late)
        return answer()

    setup.transports[A].answers = meanwhile
    setup.sender.status(A, setup.operation)
    assert len(setup.sent) == 1 + 8
    assert setup.pool.abandoned_writes == {A: {late}, B: {early}}


def test_a_status_waits_a_limited_time_for_another_thread_to_close_an_abandoned_write() -> None:
    setup = SenderWithNodes()
    write = Limit(setup.clock.now, 0)
    setup.pool.abandoned_writes[A].add(write)
    socket: Any = object()
    write.sock = socket
    began = setup.clock.now()
    setup.sender.status(A, setup.operation)
    assert 0.5 <= setup.clock.now() - began < 0.6
    assert set(setup.clock.slept) == {0.001}
    setup.pool.abandoned_writes[A].add(write)
    write.sock = None
    setup.clock.slept.clear()
    setup.sender.status(A, setup.operation)
    assert setup.clock.slept == []


@pytest.mark.parametrize(
    ("response", "outcome", "detail"),
    [
        (answer(401), Outcome.UNAUTHORIZED, ""),
        (answer(201), Outcome.UNAVAILABLE, "the node answered 201"),
        (answer(500), Outcome.UNAVAILABLE, "the node answered 500"),
        (answer(503, "the proxy p says so"), Outcome.UNAVAILABLE, "the proxy p says so"),
    ],
)
def test_a_status_other_than_200_is_a_failure(response: Answer, outcome: Outcome, detail: str) -> None:
    setup = SenderWithNodes(lambda request, limit: response)
    write = Limit(setup.clock.now, 0)
    setup.pool.abandoned_writes[A].add(write)
    with pytest.raises(Failure) as raised:
        setup.sender.status(A, setup.operation)
    failure = raised.value
    assert (failure.outcome, failure.phase, failure.status, failure.detail) == (
        outcome,
        Phase.HEAD,
        response.status,
        detail,
    )
    assert len(setup.sent) == 1
    assert setup.pool.abandoned_writes[A] == {write}


def test_a_status_is_repeated_on_a_fresh_connection_if_the_reused_one_had_ended() -> None:
    def cut(request: Request, limit: Limit) -> Answer:
        if len(setup.sent) == 1:
            raise Failure(Outcome.CLOSED, Phase.HEAD, before_answer=True)
        return answer()

    setup = SenderWithNodes(cut)
    setup.sender.status(A, setup.operation, after_writes=False)
    assert [fresh for _, _, fresh in setup.sent] == [False, True]


@pytest.mark.parametrize("outcome", [Outcome.CLOSED, Outcome.TRUNCATED])
@pytest.mark.parametrize("before_answer", [True, False])
@pytest.mark.parametrize("fresh", [True, False])
def test_only_a_request_that_ended_before_any_answer_is_repeated(
    outcome: Outcome, before_answer: bool, fresh: bool
) -> None:
    exchanges: list[bool] = []

    def exchange(fresh: bool) -> Answer:
        exchanges.append(fresh)
        raise Failure(outcome, Phase.HEAD, before_answer=before_answer)

    with pytest.raises(Failure):
        once_more_fresh(exchange, fresh=fresh)
    again = outcome is Outcome.CLOSED and before_answer
    assert exchanges == ([fresh, True] if again else [fresh])


def test_the_time_for_a_store_is_the_home_node_s_for_the_table_s_length() -> None:
    setup = SenderWithNodes()
    upload: Any = SimpleNamespace(length=5)
    assert setup.sender.store_time(Request("POST", "/k", nodes=[B, A], upload=upload)) == 15.0
    assert setup.sender.store_time(Request("POST", "/k", nodes=[A])) == 7.0
