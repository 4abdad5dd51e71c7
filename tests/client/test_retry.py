"""Asking again: for every policy and every sequence of outcomes, on a simulated clock and nodes."""

from __future__ import annotations

import itertools
import logging
import random
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from airflow_provider_qcache.client.errors import (
    AuthenticationFailed,
    BodyNotRepeatable,
    CertificateRejected,
    ClosedWithoutAnswer,
    DeadlineExceeded,
    MalformedQueryException,
    NoCacheAvailable,
    NodeOverloaded,
    OperationCancelled,
    Outcome,
    QClientException,
    ResponseTooLarge,
    StoreUncertain,
    TooManyConsecutiveErrors,
    UnexpectedServerResponse,
    UnsupportedAcceptType,
)
from airflow_provider_qcache.client.nodes import NodePool
from airflow_provider_qcache.client.operation import Done, Engine
from airflow_provider_qcache.client.operation import Operation as Running
from airflow_provider_qcache.client.outcome import Answer, Failure, RequestKind
from airflow_provider_qcache.client.settings import RequestRetry
from airflow_provider_qcache.client.transport import Request
from tests.client.simulated import (
    STORE_TIMEOUT,
    Exchange,
    Meets,
    SimulatedClock,
    SimulatedWire,
    Turns,
    WireInTurns,
)

FOREVER = float("inf")
PERMANENT_STATUSES = (301, 400, 401, 406, 415, 418, 500)
A_MOMENT = 1e-6  # of rounding: times are sums of floats

SECONDS = st.floats(0, 30)
TRANSIENT_FAILURES = (
    Outcome.UNRESOLVED,
    Outcome.REFUSED,
    Outcome.CONNECT_TIMEOUT,
    Outcome.CONNECT_FAILED,
    Outcome.TLS_FAILED,
    Outcome.CLOSED,
    Outcome.TIMEOUT,
    Outcome.NOT_TAKEN,
    Outcome.TRUNCATED,
    Outcome.UNDECODABLE,
    Outcome.NOT_QCACHE,
)
FAILURES = st.sampled_from([*TRANSIENT_FAILURES, Outcome.CERTIFICATE_REJECTED, Outcome.TOO_LARGE])
MEETS = st.one_of(
    st.builds(Meets, outcome=FAILURES, seconds=SECONDS),
    st.builds(Meets, outcome=st.sampled_from(TRANSIENT_FAILURES), seconds=st.floats(0, 3)),
    st.builds(Meets, outcome=st.just(Outcome.CLOSED), seconds=st.floats(0, 1), reused=st.booleans()),
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
    Meets,
    outcome=st.sampled_from([Outcome.ANSWERED, Outcome.REFUSED, Outcome.TIMEOUT]),
    seconds=st.floats(0.2, 30),  # never nothing: where waits are 0, only this brings the deadline nearer
)
LIMITS = st.one_of(st.none(), st.integers(1, 20))
POLICIES = st.builds(
    RequestRetry,
    consecutive_error_count_limit=LIMITS,
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
        rng: random.Random | None = None,
        in_turns: bool = False,
    ) -> None:
        self.clock = Turns() if in_turns else SimulatedClock()
        self.nodes = [f"http://host{number}:9401" for number in range(nodes)]
        rng = rng or random.Random(seed)
        self.pool = NodePool(self.nodes, clock=self.clock, rng=rng, on_change=self.changed)
        self.wire = (WireInTurns if in_turns else SimulatedWire)(
            self.clock,  # type: ignore[arg-type]
            self.pool,
            itertools.chain(requests, itertools.repeat(requests[-1])),
            itertools.cycle(statuses or [Meets()]),
        )
        self.changes: list[tuple[str, bool, float]] = []
        self.policy = policy or RequestRetry()
        self.engine = Engine(
            pool=self.pool,
            sender=self.wire,  # type: ignore[arg-type]
            prober=self.wire,  # type: ignore[arg-type]
            clock=self.clock,
            rng=rng,
            policy=self.policy,
            limit=limit,
            read_timeout=2.0,
        )
        self.limit = min(limit, self.policy.consecutive_error_count_limit or limit)

    def changed(self, node: str, alive: bool, error: str | None) -> None:
        self.changes.append((node, alive, self.clock.now()))

    def run(
        self,
        kind: RequestKind = RequestKind.QUERY,
        seconds: float = FOREVER,
        *,
        repeatable: bool = True,
        nodes: int | None = None,
        own: Any = None,
        part: bool = False,
    ) -> Done:
        request = Request(
            "GET",
            "/foo",
            body=own,
            kind=kind,
            what=f"{kind} 'foo'",
            nodes=self.nodes[:nodes],
            repeatable=repeatable,
        )
        self.running = Running(self.clock.now() + seconds)
        if part:
            self.running = self.running.until(self.running.deadline)
        return self.engine.run(request, self.running)


def check_count(
    world: World,
    kind: RequestKind,
    sends: list[Exchange],
    ended: Done | QClientException,
    *,
    repeatable: bool,
) -> None:
    """What was sent is what is told of, the limit holds, and what is permanent is the end."""
    for cut, again in itertools.pairwise(sends):
        assert not (cut.cut and again.cut)
        if cut.cut:
            # Nothing was wrong with the node: the same again, at once and on a fresh connection.
            assert (again.node, again.fresh, again.began) == (cut.node, True, cut.ended)
    assert not (sends and sends[-1].cut)
    failed = [
        send
        for send in sends
        if not send.cut and not (send.outcome is Outcome.ANSWERED and send.meets.is_success(kind))
    ]
    assert len(failed) <= world.limit
    assert [attempt.node for attempt in ended.attempts] == [send.node for send in failed]
    assert [attempt.status for attempt in ended.attempts] == [
        (send.meets.status or 200) if send.outcome is Outcome.ANSWERED else None for send in failed
    ]
    outcomes = [attempt.outcome for attempt in ended.attempts]
    assert all(
        outcome is send.outcome
        for outcome, send in zip(outcomes, failed, strict=True)
        if send.outcome is not Outcome.ANSWERED
    )
    permanent = [
        send for send in failed if send.outcome is send.meets.outcome and send.meets.is_permanent(kind)
    ]
    assert permanent in ([], sends[-1:])
    if permanent:
        assert isinstance(ended, QClientException)
        assert not ended.transient
    if isinstance(ended, TooManyConsecutiveErrors):
        assert len(failed) == world.limit
    elif isinstance(ended, Done):
        assert len(failed) < world.limit
        answered = [send for send in sends if not send.cut and all(send is not one for one in failed)]
        assert answered[-1] is sends[-1]
        # What a stand-in says of a table it does not have is not the end where a node before it is back.
        assert all(kind is RequestKind.DELETE or send.meets.status == 404 for send in answered[:-1])
    if not repeatable:
        assert len(failed) <= 1 == len(sends)
        assert sends[0].fresh


# Rounds of asking for a status keep 50 ms between them, however short the waits may be.
BETWEEN_STATUSES = 0.05


def check_waits(world: World, ended_at: float) -> None:
    """The n-th wait is within its bound, Retry-After is obeyed to the second, a failover waits not at all."""
    policy = world.policy
    waits = 0
    exchanges = world.wire.exchanges
    for before, after in zip(exchanges, [*exchanges[1:], None], strict=True):
        gap = (after.began if after is not None else ended_at) - before.ended
        asked = before.meets.retry_after
        if before.outcome is Outcome.ANSWERED and before.meets.status == 429 and (asked or "").isdecimal():
            assert gap == pytest.approx(float(asked or 0), abs=A_MOMENT) or after is None
        elif gap:
            waits += 1
            longest = min(policy.wait_max, policy.wait_initial * 2 ** (waits - 1))
            assert gap <= max(longest, BETWEEN_STATUSES) + A_MOMENT
        if after is not None and before.what == after.what == "send" and before.node != after.node:
            assert gap == 0


@pytest.mark.parametrize("limit", range(1, 21))
@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(RequestKind),
    policy=POLICIES,
    requests=st.lists(MEETS, min_size=1, max_size=25),
    statuses=st.lists(STATUSES, min_size=1, max_size=8),
    seconds=st.floats(0.01, 200),
    repeatable=st.sampled_from([True, True, True, False]),
    nodes=st.integers(1, 4),
    seed=st.integers(0, 10),
)
def test_no_operation_passes_its_limit_its_deadline_or_its_waits(
    limit: int,
    kind: RequestKind,
    policy: RequestRetry,
    requests: list[Meets],
    statuses: list[Meets],
    seconds: float,
    repeatable: bool,
    nodes: int,
    seed: int,
) -> None:
    world = World(requests, statuses, nodes=nodes, limit=limit, policy=policy, seed=seed)
    repeatable = repeatable or kind is not RequestKind.STORE
    started = world.clock.now()
    ended: Done | QClientException
    try:
        ended = world.run(kind, seconds, repeatable=repeatable)
    except QClientException as error:
        ended = error
    # The simulated nodes end to the moment, as sockets do not: half a second is for these.
    assert world.clock.now() - started <= seconds + A_MOMENT
    check_count(world, kind, world.wire.sends, ended, repeatable=repeatable)
    check_waits(world, world.clock.now())


class Latest(random.Random):
    """Every wait is as long as it may be."""

    def uniform(self, a: float, b: float) -> float:
        return b


@given(initial=st.floats(0, 5), most=st.floats(0, 10), times=st.integers(1, 19))
def test_the_longest_waits_double_up_to_their_bound(initial: float, most: float, times: int) -> None:
    policy = RequestRetry(wait_initial=initial, wait_max=most)
    world = World([Meets(status=429)] * times + [Meets()], limit=20, nodes=1, policy=policy, rng=Latest())
    world.run()
    gaps = [after.began - before.ended for before, after in itertools.pairwise(world.wire.sends)]
    assert gaps == pytest.approx([min(most, initial * 2**number) for number in range(times)], abs=A_MOMENT)


@pytest.mark.parametrize("kind", RequestKind)
@pytest.mark.parametrize("limit", range(1, 21))
def test_a_connection_cut_while_it_was_idle_is_no_failed_request(limit: int, kind: RequestKind) -> None:
    cut, refused = Meets(Outcome.CLOSED, reused=True), Meets(status=429)
    world = World([cut, refused] * (limit - 1) + [cut, Meets()], limit=limit, nodes=1)
    done = world.run(kind)
    assert len(done.attempts) == limit - 1
    assert [send.fresh for send in world.wire.sends] == [False, True] * limit
    assert world.changes == []


@dataclass
class Operation:
    """One of several under way at once, and how it ended."""

    kind: RequestKind
    after: float
    seconds: float
    requests: list[Meets]
    ended: Done | BaseException | None = None
    sends: list[Exchange] = field(default_factory=list)

    def run(self, world: World) -> None:
        endless = itertools.chain(self.requests, itertools.repeat(self.requests[-1]))
        started = world.clock.now()
        try:
            self.ended = world.run(self.kind, self.seconds, own=Own(self, endless))
        except BaseException as error:  # noqa: BLE001
            self.ended = error
        self.overtime = world.clock.now() - started - self.seconds


class Own:
    """An operation's own requests, which also tells whose a request is."""

    def __init__(self, operation: Operation, meets: itertools.chain[Meets]) -> None:
        self.operation = operation
        self.last: Exchange
        self._meets = meets

    def __next__(self) -> Meets:
        return next(self._meets)


class Together(World):
    """Operations that take turns over one pool, and each incident of a node with its request."""

    def __init__(self, statuses: list[Meets], **options: object) -> None:
        self.moments = itertools.count(1)
        self.last_change: Counter[str] = Counter()
        self.failed_probes: Counter[str] = Counter()
        self.not_new: list[str] = []
        super().__init__([Meets()], statuses, in_turns=True, **options)  # type: ignore[arg-type]
        send, status, end_probe = self.wire.send, self.wire.status, self.pool.end_probe
        self.mine = threading.local()

        def watch_send(node: str, request: Request, running: Running, *, fresh: bool) -> Answer:
            own: Any = request.body
            operation: Operation = own.operation
            if not (operation.sends and operation.sends[-1].cut):
                self.mine.began = next(self.moments)
            try:
                return send(node, request, running, fresh=fresh)
            finally:
                self.mine.last, self.mine.explained = own.last, None
                operation.sends.append(self.mine.last)

        def watch_status(node: str, running: Running) -> None:
            try:
                status(node, running)
            finally:
                # The first status after a connection was closed tells whether that request failed the node.
                # Any other is of a node that is busy with a store: what it meets is news, not the store's.
                if self.mine.last.outcome is Outcome.CLOSED and self.mine.last is not self.mine.explained:
                    self.mine.explained = self.mine.last
                else:
                    self.mine.began = next(self.moments)

        def watch_end_probe(node: str, ticket: int, failure: Failure | None) -> bool | None:
            self.failed_probes[node] = 0 if failure is None else self.failed_probes[node] + 1
            return end_probe(node, ticket, failure)

        self.wire.send = watch_send  # type: ignore[method-assign]
        self.wire.status = watch_status  # type: ignore[method-assign]
        self.pool.end_probe = watch_end_probe  # type: ignore[method-assign]

    def changed(self, node: str, alive: bool, error: str | None) -> None:
        super().changed(node, alive, error)
        if not alive and self.mine.began < self.last_change[node]:
            self.not_new.append(f"{node}: a request of before the last change failed it: {error}")
        self.last_change[node] = next(self.moments)


OPERATIONS = st.lists(
    st.builds(
        Operation,
        kind=st.sampled_from(RequestKind),
        after=st.floats(0, 5),
        seconds=st.floats(0.1, 300),
        requests=st.lists(MEETS, min_size=1, max_size=12),
    ),
    min_size=2,
    max_size=6,
)


@settings(deadline=None, max_examples=200)
@given(
    operations=OPERATIONS,
    statuses=st.lists(STATUSES, min_size=1, max_size=8),
    limit=st.integers(1, 20),
    policy=POLICIES,
    nodes=st.integers(1, 3),
    probes=st.lists(st.floats(0, 40), max_size=8),
)
def test_operations_under_way_at_once_share_nodes_and_no_count(
    operations: list[Operation],
    statuses: list[Meets],
    limit: int,
    policy: RequestRetry,
    nodes: int,
    probes: list[float],
) -> None:
    world = Together(statuses, limit=limit, policy=policy, nodes=nodes)
    for after in probes:
        world.clock.begin(lambda: world.wire.start(world.nodes), after)
    for operation in operations:
        world.clock.begin(lambda operation=operation: operation.run(world), operation.after)
    world.clock.run()
    counted: Counter[str] = Counter()
    for operation in operations:
        ended = operation.ended
        assert isinstance(ended, (Done, QClientException)), ended
        check_count(world, operation.kind, operation.sends, ended, repeatable=True)
        assert operation.overtime <= A_MOMENT
        counted.update(
            attempt.node
            for attempt in ended.attempts
            if attempt.outcome is not Outcome.REFUSED_REQUEST or operation.kind is RequestKind.STORE
        )
    # One incident counts once: a node fails and comes back in turn, for requests begun since the last change.
    assert world.not_new == []
    for node, known in world.pool.snapshot().items():
        changes = [alive for changed, alive, _ in world.changes if changed == node]
        assert changes == [number % 2 == 1 for number in range(len(changes))]
        assert known.failures == (0 if known.alive else 1 + world.failed_probes[node])
        statistics = world.pool.statistics[node]
        assert statistics.pop("resurrections") == changes.count(True)
        statistics.pop("retry_error")
        assert sum(statistics.values()) == counted[node]


def test_a_busy_node_that_came_back_and_refuses_then_fails_anew() -> None:
    """Its store was closed without an answer before; another operation found it failing meanwhile."""
    statuses = [Meets(seconds=0.2)] * 3 + [Meets(Outcome.REFUSED, seconds=0.2)]
    policy = RequestRetry(wait_initial=5, wait_max=10)
    world = Together(statuses, policy=policy, nodes=1, rng=Latest())
    store = [Meets(Outcome.TIMEOUT, seconds=0.1), Meets(Outcome.CLOSED, seconds=0.1), Meets()]
    operations = [
        Operation(RequestKind.STORE, 0.0, 100.0, store),
        Operation(RequestKind.QUERY, 0.65, 100.0, [Meets(Outcome.TRUNCATED), Meets()]),
    ]
    for operation in operations:
        world.clock.begin(lambda operation=operation: operation.run(world), operation.after)
    world.clock.run()
    assert all(isinstance(operation.ended, Done) for operation in operations)
    assert [alive for _, alive, _ in world.changes] == [False, True] * 2
    assert world.not_new == []


def test_of_eight_operations_that_meet_one_incident_it_counts_once_and_each_counts_its_own_requests() -> None:
    requests = [Meets(Outcome.TIMEOUT, seconds=2.0)] * 9 + [Meets()]
    world = Together([Meets(seconds=0.01)], limit=20, nodes=1)
    operations = [Operation(RequestKind.QUERY, 0.1 * number, 600.0, requests) for number in range(8)]
    world.engine.policy = RequestRetry(wait_max=0)
    for operation in operations:
        world.clock.begin(lambda operation=operation: operation.run(world), operation.after)
    world.clock.run()
    assert [len(operation.ended.attempts) for operation in operations] == [9] * 8  # type: ignore[union-attr]
    # The node is back before the other seven, which had begun as it failed, are told.
    assert [alive for _, alive, _ in world.changes] == [False, True] * 9


@given(seconds=st.floats(0.5, 60), silent_for=st.floats(0.2, 3))
def test_a_busy_node_is_asked_for_its_status_no_longer_than_the_deadline(
    seconds: float, silent_for: float
) -> None:
    world = World([Meets(Outcome.TIMEOUT, seconds=0.2)], [Meets(Outcome.TIMEOUT, seconds=silent_for)])
    started = world.clock.now()
    with pytest.raises(StoreUncertain):
        world.run(RequestKind.STORE, seconds)
    assert seconds - 8 <= world.clock.now() - started <= seconds + A_MOMENT


PERMANENT = {
    301: UnexpectedServerResponse,
    400: UnexpectedServerResponse,
    401: AuthenticationFailed,
    406: UnexpectedServerResponse,
    415: UnexpectedServerResponse,
    418: UnexpectedServerResponse,
    500: UnexpectedServerResponse,
    Outcome.CERTIFICATE_REJECTED: CertificateRejected,
    Outcome.TOO_LARGE: ResponseTooLarge,
}
PERMANENT_OF_QUERIES = {400: MalformedQueryException, 406: UnsupportedAcceptType}


@settings(deadline=None)
@given(
    kind=st.sampled_from(RequestKind),
    before=st.lists(
        st.one_of(
            st.builds(Meets, outcome=st.just(Outcome.REFUSED)),
            st.builds(Meets, status=st.sampled_from([429, 503])),
        ),
        max_size=19,
    ),
    what=st.sampled_from([*PERMANENT, 404]),
    nodes=st.integers(1, 4),
)
def test_what_asking_again_would_not_change_is_asked_once(
    kind: RequestKind, before: list[Meets], what: int | Outcome, nodes: int
) -> None:
    assume(
        (kind, what) not in ((RequestKind.PRESENCE, 400), (RequestKind.PRESENCE, 404))
    )  # these are its answers
    permanent = Meets(what) if isinstance(what, Outcome) else Meets(status=what)
    world = World([*before, permanent, Meets()], limit=20, nodes=nodes)
    if permanent.is_success(kind):
        assert (world.run(kind).answer is None) == (what == 404)
        assert len(world.wire.sent) == len(before) + 1
        return
    with pytest.raises(QClientException) as raised:
        world.run(kind)
    error = PERMANENT_OF_QUERIES.get(what) if kind is RequestKind.QUERY else None
    assert type(raised.value) is (error or PERMANENT.get(what, UnexpectedServerResponse))
    assert not raised.value.transient
    assert [meets for _, meets in world.wire.sent] == [*before, permanent]
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
    for node, outcome in raised.value.nodes.items():
        assert "connection refused" in outcome
        assert f"\n  {node}: {outcome}" in str(raised.value)


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


def test_waiting_for_nodes_is_announced_at_once_and_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World(
        [Meets(Outcome.REFUSED)], [Meets(Outcome.REFUSED)], policy=RequestRetry(wait_for_nodes=True)
    )
    for _ in range(2):  # the second operation waits until a later deadline
        caplog.clear()
        with pytest.raises(NoCacheAvailable):
            world.run(seconds=60)
        waits = [record for record in caplog.records if "no node responds" in record.getMessage()]
        assert [record.levelname for record in waits] == ["WARNING"]
        message = waits[0].getMessage()
        assert re.search(r"waits until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC \(\d\d s\)", message)
        assert "wait_for_nodes" in message
        assert "deadline" in message
        for node in world.nodes:
            assert f"\n  {node}: " in message
            assert "connection refused" in message.partition(f"\n  {node}: ")[2].splitlines()[0]


def test_operations_that_wait_together_announce_it_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World(
        [Meets(Outcome.REFUSED)],
        [Meets(Outcome.REFUSED, seconds=1)],
        policy=RequestRetry(wait_for_nodes=True),
        in_turns=True,
    )

    def operation() -> None:
        with pytest.raises(NoCacheAvailable):
            world.run(seconds=60)

    for _ in range(8):
        world.clock.begin(operation)
    world.clock.run()
    assert caplog.text.count("no node responds. The client waits") == 1


def test_nothing_is_announced_where_no_operation_waits_for_nodes(caplog: pytest.LogCaptureFixture) -> None:
    world = World([Meets(Outcome.REFUSED)], [Meets(Outcome.REFUSED)])
    with pytest.raises(NoCacheAvailable):
        world.run(seconds=60)
    assert "waits" not in caplog.text


@pytest.mark.parametrize(
    ("kind", "requests", "steps"),
    [
        (
            RequestKind.QUERY,
            [Meets(Outcome.REFUSED), Meets(Outcome.TIMEOUT), Meets()],
            ["the client asks http://host1:9401", "the client asks http://host2:9401"],
        ),
        (RequestKind.QUERY, [Meets(Outcome.CLOSED), Meets()], ["the client retries in 0.25 s"]),
        (RequestKind.QUERY, [Meets(status=429, retry_after="7"), Meets()], ["the client retries in 7.00 s"]),
        (
            RequestKind.STORE,
            [Meets(Outcome.TIMEOUT), Meets()],
            ["the node is busy: the client retries once, when the node responds to a status request"],
        ),
    ],
)
def test_each_retry_is_logged_with_what_the_client_does_next(
    kind: RequestKind, requests: list[Meets], steps: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    class Longest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    world = World(requests, policy=RequestRetry(wait_initial=0.25), rng=Longest())
    world.run(kind, 600)
    retries = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage().rpartition("; ")[2] for record in retries] == steps


def test_the_last_node_that_fails_is_followed_by_no_other(caplog: pytest.LogCaptureFixture) -> None:
    world = World([Meets(Outcome.REFUSED)], [Meets(Outcome.REFUSED)])
    with pytest.raises(NoCacheAvailable):
        world.run()
    assert caplog.records[-1].getMessage().endswith("; no other node is alive")


@pytest.mark.parametrize("kind", RequestKind)
def test_a_failover_is_logged_with_the_nodes_that_failed_and_the_one_that_answered(
    kind: RequestKind, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    def message() -> list[tuple[str, str]]:
        lines = [
            (record.levelname, record.getMessage())
            for record in caplog.records
            if record.levelno < logging.WARNING
        ]
        caplog.clear()
        return lines

    world = World([Meets(Outcome.REFUSED), Meets()], [Meets(Outcome.REFUSED)])
    home, fallback = world.nodes[:2]
    silent = kind is RequestKind.PRESENCE  # a question of the client's own
    world.run(kind)
    failed_over = f"{kind} 'foo': failed over from {home} (connection refused) to {fallback}"
    assert message() == ([] if silent else [("INFO", failed_over)])
    world.run(kind)
    instead = f"{kind} 'foo': sent to {fallback} instead of its home node {home}"
    assert message() == ([] if silent else [("INFO", instead)])
    world.run(kind, part=True)
    assert message() == ([] if silent else [("DEBUG", instead)])
    world = World([Meets(status=429), Meets()])
    assert len(world.run(kind).attempts) == 1
    assert message() == []  # the same node again


def test_a_busy_node_gets_a_store_once_more_and_no_other_node_does() -> None:
    world = World([Meets(Outcome.TIMEOUT), Meets()], [Meets(Outcome.TIMEOUT)] * 3 + [Meets()])
    done = world.run(RequestKind.STORE)
    assert [node for node, _ in world.wire.sent] == [world.nodes[0]] * 2
    assert done.node == world.nodes[0]
    assert world.pool.failing == set()


def test_a_store_that_is_not_answered_twice_is_uncertain() -> None:
    world = World([Meets(Outcome.TIMEOUT), Meets(Outcome.NOT_TAKEN), Meets()])
    with pytest.raises(StoreUncertain) as raised:
        world.run(RequestKind.STORE)
    assert raised.value.transient
    assert len(world.wire.sent) == 2
    assert world.pool.failing == set()


def test_a_busy_node_that_stays_silent_for_a_store_timeout_leaves_the_store_uncertain() -> None:
    world = World([Meets(Outcome.TIMEOUT), Meets()], [Meets(Outcome.TIMEOUT, seconds=2)])
    started = world.clock.now()
    with pytest.raises(StoreUncertain):
        world.run(RequestKind.STORE)
    assert world.clock.now() - started <= STORE_TIMEOUT + 0.5
    assert len(world.wire.sent) == 1


def test_a_busy_node_whose_process_dies_leaves_the_store_to_the_next_node() -> None:
    world = World([Meets(Outcome.TIMEOUT), Meets()], [Meets(Outcome.REFUSED)])
    assert world.run(RequestKind.STORE).node == world.nodes[1]
    assert world.pool.is_gone(world.nodes[0])


def test_a_busy_node_that_others_found_failing_keeps_its_store() -> None:
    world = World([Meets(Outcome.TIMEOUT), Meets()])
    send = world.wire.send

    def fail_and_send(node: str, request: Request, running: Running, *, fresh: bool) -> Answer:
        world.pool.fail(node, world.pool.ticket(node), "no answer to another operation")
        return send(node, request, running, fresh=fresh)

    world.wire.send = fail_and_send  # type: ignore[method-assign]
    assert world.run(RequestKind.STORE).node == world.nodes[0]
    assert [node for node, _ in world.wire.sent] == [world.nodes[0]] * 2


@pytest.mark.parametrize(
    "second",
    [Meets(Outcome.CONNECT_TIMEOUT), Meets(Outcome.TRUNCATED), Meets(Outcome.CLOSED), Meets(status=503)],
)
def test_a_store_that_a_busy_node_fails_at_the_second_time_goes_to_no_other(second: Meets) -> None:
    world = World([Meets(Outcome.TIMEOUT), second, Meets()], [Meets(), Meets(Outcome.TIMEOUT)])
    with pytest.raises(StoreUncertain):
        world.run(RequestKind.STORE)
    assert [node for node, _ in world.wire.sent] == [world.nodes[0]] * 2


def test_a_store_goes_to_the_next_node_when_the_busy_one_refuses_it_at_the_second_time() -> None:
    world = World(
        [Meets(Outcome.TIMEOUT), Meets(Outcome.REFUSED), Meets()], [Meets(), Meets(Outcome.REFUSED)]
    )
    assert world.run(RequestKind.STORE).node == world.nodes[1]


def test_a_connection_closed_twice_by_a_living_node_blames_the_request() -> None:
    world = World([Meets(Outcome.CLOSED)])
    with pytest.raises(ClosedWithoutAnswer) as raised:
        world.run(RequestKind.STORE)
    assert len(raised.value.attempts) == 2
    assert [node for node, _ in world.wire.sent] == [world.nodes[0]] * 2
    assert world.pool.failing == set()


def test_a_connection_closed_by_a_node_whose_status_is_silent_fails_the_node() -> None:
    world = World([Meets(Outcome.CLOSED), Meets()], [Meets(Outcome.TIMEOUT)])
    assert world.run(RequestKind.STORE).node == world.nodes[1]
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
        world.run(RequestKind.STORE, repeatable=False)
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


def test_a_cancelled_operation_waits_no_longer() -> None:
    world = World([Meets(status=429, retry_after="50")])
    sleep = world.clock.sleep

    def sleep_and_cancel(seconds: float) -> None:
        sleep(seconds)
        world.running.cancel()

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


@given(status=st.integers(200, 599), kind=st.sampled_from(RequestKind))
def test_every_status_has_a_meaning(status: int, kind: RequestKind) -> None:
    world = World([Meets(status=status, retry_after="1")], [Meets(Outcome.TIMEOUT)], limit=3)
    try:
        done = world.run(kind, seconds=100)
    except UnexpectedServerResponse as error:
        assert error.status == status
    except QClientException as error:
        assert error.attempts
    else:
        assert status == {RequestKind.STORE: 201, RequestKind.PRESENCE: 400}.get(kind, 200) or (
            status == 404 and done.answer is None
        )


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
