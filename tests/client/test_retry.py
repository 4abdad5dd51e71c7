"""Retries: for every policy and every sequence of outcomes, on a simulated clock and simulated nodes."""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from airflow_provider_qcache.client import errors
from airflow_provider_qcache.client.errors import Outcome, QClientException
from airflow_provider_qcache.client.operation import Done, Operation
from airflow_provider_qcache.client.outcome import Answer, Failure, RequestKind
from airflow_provider_qcache.client.settings import RequestRetry
from airflow_provider_qcache.client.transport import Request
from tests.client.simulated import (
    FOREVER,
    STORE_TIMEOUT,
    Exchange,
    LongestWaits,
    Scripted,
    SimulatedCluster,
)

NEVER_RETRIED_STATUSES = (301, 400, 401, 406, 415, 418, 500)
ROUNDING = 1e-6  # times are sums of floats

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
SCRIPTED = st.one_of(
    st.builds(Scripted, outcome=FAILURES, seconds=SECONDS),
    st.builds(Scripted, outcome=st.sampled_from(TRANSIENT_FAILURES), seconds=st.floats(0, 3)),
    st.builds(Scripted, outcome=st.just(Outcome.CLOSED), seconds=st.floats(0, 1), reused=st.booleans()),
    st.builds(
        Scripted, status=st.sampled_from([404, 502, 503, 504, *NEVER_RETRIED_STATUSES]), seconds=SECONDS
    ),
    st.builds(
        Scripted,
        status=st.just(429),
        seconds=SECONDS,
        retry_after=st.one_of(st.none(), st.integers(0, 100).map(str), st.just("soon")),
    ),
    st.builds(Scripted, seconds=SECONDS, unsliced=st.booleans()),
)
STATUSES = st.builds(
    Scripted,
    outcome=st.sampled_from([Outcome.ANSWERED, Outcome.REFUSED, Outcome.TIMEOUT]),
    seconds=st.floats(0.2, 30),  # above 0: with waits of 0, nothing else lets time pass
)
LIMITS = st.one_of(st.none(), st.integers(1, 20))
POLICIES = st.builds(
    RequestRetry,
    consecutive_error_count_limit=LIMITS,
    wait_initial=st.floats(0, 5),
    wait_max=st.floats(0, 10),
    wait_for_nodes=st.booleans(),
)


def check_count(
    cluster: SimulatedCluster,
    kind: RequestKind,
    sends: list[Exchange],
    ended: Done | QClientException,
    *,
    repeatable: bool,
) -> None:
    """All failed requests are reported, the limit holds, and a permanent failure is the last request."""
    for cut, again in itertools.pairwise(sends):
        assert not (cut.cut and again.cut)
        if cut.cut:
            # The node was not at fault: the same request again, at once, on a fresh connection.
            assert (again.node, again.fresh, again.began) == (cut.node, True, cut.ended)
    assert not (sends and sends[-1].cut)
    failed = [
        send
        for send in sends
        if not send.cut and not (send.outcome is Outcome.ANSWERED and send.scripted.is_success(kind))
    ]
    assert len(failed) <= cluster.limit
    assert [attempt.node for attempt in ended.attempts] == [send.node for send in failed]
    assert [attempt.status for attempt in ended.attempts] == [
        (send.scripted.status or 200) if send.outcome is Outcome.ANSWERED else None for send in failed
    ]
    outcomes = [attempt.outcome for attempt in ended.attempts]
    pairs = zip(outcomes, failed, strict=True)
    unanswered = [(outcome, send) for outcome, send in pairs if send.outcome is not Outcome.ANSWERED]
    assert [pair for pair in unanswered if pair[0] is not pair[1].outcome] == []
    permanent = [
        send for send in failed if send.outcome is send.scripted.outcome and send.scripted.is_permanent(kind)
    ]
    assert permanent in ([], sends[-1:])
    if permanent:
        assert isinstance(ended, QClientException)
        assert not ended.transient
    if isinstance(ended, errors.TooManyConsecutiveErrors):
        assert len(failed) == cluster.limit
    elif isinstance(ended, Done):
        assert len(failed) < cluster.limit
        answered = [send for send in sends if not send.cut and all(send is not one for one in failed)]
        assert answered[-1] is sends[-1]
        # A fallback node's miss is not the end if the home node has recovered.
        earlier = [] if kind is RequestKind.DELETE else answered[:-1]
        assert [send for send in earlier if send.scripted.status != 404] == []
    if not repeatable:
        assert len(failed) <= 1 == len(sends)
        assert sends[0].fresh


# Rounds of status requests are at least 50 ms apart, however short the waits of the policy are.
BETWEEN_STATUSES = 0.05


def check_waits(cluster: SimulatedCluster, ended_at: float) -> None:
    """The n-th wait is within its limit, Retry-After is obeyed exactly, and a failover does not wait."""
    policy = cluster.policy
    waits = 0
    exchanges = cluster.wire.exchanges
    for before, after in zip(exchanges, [*exchanges[1:], None], strict=True):
        gap = (after.began if after is not None else ended_at) - before.ended
        retry_after = before.scripted.retry_after
        if (
            before.outcome is Outcome.ANSWERED
            and before.scripted.status == 429
            and (retry_after or "").isdecimal()
        ):
            assert gap == pytest.approx(float(retry_after or 0), abs=ROUNDING) or after is None
        elif gap:
            waits += 1
            longest = min(policy.wait_max, policy.wait_initial * 2 ** (waits - 1))
            assert gap <= max(longest, BETWEEN_STATUSES) + ROUNDING
        if after is not None and before.purpose == after.purpose == "send" and before.node != after.node:
            assert gap == 0


@pytest.mark.parametrize("limit", range(1, 21))
@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(RequestKind),
    policy=POLICIES,
    requests=st.lists(SCRIPTED, min_size=1, max_size=25),
    statuses=st.lists(STATUSES, min_size=1, max_size=8),
    seconds=st.floats(0.01, 200),
    repeatable=st.sampled_from([True, True, True, False]),
    nodes=st.integers(1, 4),
    seed=st.integers(0, 10),
)
def test_no_operation_exceeds_its_limit_its_deadline_or_its_waits(
    limit: int,
    kind: RequestKind,
    policy: RequestRetry,
    requests: list[Scripted],
    statuses: list[Scripted],
    seconds: float,
    repeatable: bool,
    nodes: int,
    seed: int,
) -> None:
    cluster = SimulatedCluster(requests, statuses, nodes=nodes, limit=limit, policy=policy, seed=seed)
    repeatable = repeatable or kind is not RequestKind.STORE
    started = cluster.clock.now()
    ended: Done | QClientException
    try:
        ended = cluster.run(kind, seconds, repeatable=repeatable)
    except QClientException as error:
        ended = error
    # Simulated nodes stop exactly at the deadline. The half second that is allowed is for real sockets.
    assert cluster.clock.now() - started <= seconds + ROUNDING
    check_count(cluster, kind, cluster.wire.sends, ended, repeatable=repeatable)
    check_waits(cluster, cluster.clock.now())


@given(initial=st.floats(0, 5), most=st.floats(0, 10), times=st.integers(1, 19))
def test_the_longest_waits_double_up_to_their_bound(initial: float, most: float, times: int) -> None:
    policy = RequestRetry(wait_initial=initial, wait_max=most)
    cluster = SimulatedCluster(
        [Scripted(status=429)] * times + [Scripted()], limit=20, nodes=1, policy=policy, rng=LongestWaits()
    )
    cluster.run()
    gaps = [after.began - before.ended for before, after in itertools.pairwise(cluster.wire.sends)]
    assert gaps == pytest.approx([min(most, initial * 2**number) for number in range(times)], abs=ROUNDING)


@pytest.mark.parametrize("kind", RequestKind)
@pytest.mark.parametrize("limit", range(1, 21))
def test_an_idle_connection_that_was_cut_is_not_counted_as_a_failed_request(
    limit: int, kind: RequestKind
) -> None:
    cut, refused = Scripted(Outcome.CLOSED, reused=True), Scripted(status=429)
    cluster = SimulatedCluster([cut, refused] * (limit - 1) + [cut, Scripted()], limit=limit, nodes=1)
    done = cluster.run(kind)
    assert len(done.attempts) == limit - 1
    assert [send.fresh for send in cluster.wire.sends] == [False, True] * limit
    assert cluster.changes == []


@dataclass
class ConcurrentOperation:
    """One of several concurrent operations, and how it ended."""

    kind: RequestKind
    after: float
    seconds: float
    requests: list[Scripted]
    ended: Done | BaseException | None = None
    sends: list[Exchange] = field(default_factory=list)

    def run(self, cluster: SimulatedCluster) -> None:
        endless = itertools.chain(self.requests, itertools.repeat(self.requests[-1]))
        started = cluster.clock.now()
        try:
            self.ended = cluster.run(self.kind, self.seconds, own=OperationScript(self, endless))
        except BaseException as error:  # noqa: BLE001
            self.ended = error
        self.overtime = cluster.clock.now() - started - self.seconds


class OperationScript:
    """The script of one operation's requests, which also identifies the operation of a request."""

    def __init__(self, operation: ConcurrentOperation, scripted: itertools.chain[Scripted]) -> None:
        self.operation = operation
        self.last: Exchange
        self._scripted = scripted

    def __next__(self) -> Scripted:
        return next(self._scripted)


class ConcurrentOperations(SimulatedCluster):
    """Operations that take turns over one node pool; records when requests began and nodes changed."""

    def __init__(self, statuses: list[Scripted], **options: object) -> None:
        self.moments = itertools.count(1)
        self.last_change: Counter[str] = Counter()
        self.failed_probes: Counter[str] = Counter()
        self.stale_failures: list[str] = []
        super().__init__([Scripted()], statuses, in_turns=True, **options)  # type: ignore[arg-type]
        send, status, end_probe = self.wire.send, self.wire.status, self.pool.end_probe
        self.mine = threading.local()

        def watch_send(node: str, request: Request, running: Operation, *, fresh: bool) -> Answer:
            own: Any = request.body
            operation: ConcurrentOperation = own.operation
            if not (operation.sends and operation.sends[-1].cut):
                self.mine.began = next(self.moments)
            try:
                return send(node, request, running, fresh=fresh)
            finally:
                self.mine.last, self.mine.explained = own.last, None
                operation.sends.append(self.mine.last)

        def watch_status(node: str, running: Operation) -> None:
            try:
                status(node, running)
            finally:
                # The first status after a closed connection shows whether that request failed the node.
                # A later one is for a node that is busy with a store: its result is new, not the store's.
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
            self.stale_failures.append(
                f"{node} was failed by a request begun before its last change: {error}"
            )
        self.last_change[node] = next(self.moments)


OPERATIONS = st.lists(
    st.builds(
        ConcurrentOperation,
        kind=st.sampled_from(RequestKind),
        after=st.floats(0, 5),
        seconds=st.floats(0.1, 300),
        requests=st.lists(SCRIPTED, min_size=1, max_size=12),
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
def test_concurrent_operations_share_node_states_but_not_error_counts(
    operations: list[ConcurrentOperation],
    statuses: list[Scripted],
    limit: int,
    policy: RequestRetry,
    nodes: int,
    probes: list[float],
) -> None:
    cluster = ConcurrentOperations(statuses, limit=limit, policy=policy, nodes=nodes)
    for after in probes:
        cluster.clock.begin(lambda: cluster.wire.start(cluster.nodes), after)
    for operation in operations:
        cluster.clock.begin(lambda operation=operation: operation.run(cluster), operation.after)
    cluster.clock.run()
    counted: Counter[str] = Counter()
    for operation in operations:
        ended = operation.ended
        assert isinstance(ended, (Done, QClientException)), ended
        check_count(cluster, operation.kind, operation.sends, ended, repeatable=True)
        assert operation.overtime <= ROUNDING
        counted.update(
            attempt.node
            for attempt in ended.attempts
            if attempt.outcome is not Outcome.REFUSED_REQUEST or operation.kind is RequestKind.STORE
        )
    # One incident counts once: nodes fail and recover alternately, by requests begun since the last change.
    assert cluster.stale_failures == []
    for node, known in cluster.pool.snapshot().items():
        changes = [alive for changed, alive, _ in cluster.changes if changed == node]
        assert changes == [number % 2 == 1 for number in range(len(changes))]
        assert known.failures == (0 if known.alive else 1 + cluster.failed_probes[node])
        statistics = cluster.pool.statistics[node]
        assert statistics.pop("resurrections") == changes.count(True)
        statistics.pop("retry_error")
        assert sum(statistics.values()) == counted[node]


def test_a_busy_node_that_recovered_and_then_refuses_fails_again() -> None:
    """Its store ended without an answer. Meanwhile another operation marked the node as failing."""
    statuses = [Scripted(seconds=0.2)] * 3 + [Scripted(Outcome.REFUSED, seconds=0.2)]
    policy = RequestRetry(wait_initial=5, wait_max=10)
    cluster = ConcurrentOperations(statuses, policy=policy, nodes=1, rng=LongestWaits())
    store = [Scripted(Outcome.TIMEOUT, seconds=0.1), Scripted(Outcome.CLOSED, seconds=0.1), Scripted()]
    operations = [
        ConcurrentOperation(RequestKind.STORE, 0.0, 100.0, store),
        ConcurrentOperation(RequestKind.QUERY, 0.65, 100.0, [Scripted(Outcome.TRUNCATED), Scripted()]),
    ]
    for operation in operations:
        cluster.clock.begin(lambda operation=operation: operation.run(cluster), operation.after)
    cluster.clock.run()
    assert [operation for operation in operations if not isinstance(operation.ended, Done)] == []
    assert [alive for _, alive, _ in cluster.changes] == [False, True] * 2
    assert cluster.stale_failures == []


def test_an_incident_seen_by_eight_operations_counts_once_but_in_each_of_their_limits() -> None:
    requests = [Scripted(Outcome.TIMEOUT, seconds=2.0)] * 9 + [Scripted()]
    cluster = ConcurrentOperations([Scripted(seconds=0.01)], limit=20, nodes=1)
    operations = [
        ConcurrentOperation(RequestKind.QUERY, 0.1 * number, 600.0, requests) for number in range(8)
    ]
    cluster.engine.policy = RequestRetry(wait_max=0)
    for operation in operations:
        cluster.clock.begin(lambda operation=operation: operation.run(cluster), operation.after)
    cluster.clock.run()
    assert [len(operation.ended.attempts) for operation in operations] == [9] * 8  # type: ignore[union-attr]
    # The node has recovered before the other seven operations, which were under way when it failed, notice.
    assert [alive for _, alive, _ in cluster.changes] == [False, True] * 9


@given(seconds=st.floats(0.5, 60), silent_for=st.floats(0.2, 3))
def test_waiting_for_a_busy_node_ends_at_the_deadline(seconds: float, silent_for: float) -> None:
    cluster = SimulatedCluster(
        [Scripted(Outcome.TIMEOUT, seconds=0.2)], [Scripted(Outcome.TIMEOUT, seconds=silent_for)]
    )
    started = cluster.clock.now()
    with pytest.raises(errors.StoreUncertain):
        cluster.run(RequestKind.STORE, seconds)
    assert seconds - 8 <= cluster.clock.now() - started <= seconds + ROUNDING


PERMANENT = {
    301: errors.UnexpectedServerResponse,
    400: errors.UnexpectedServerResponse,
    401: errors.AuthenticationFailed,
    406: errors.UnexpectedServerResponse,
    415: errors.UnexpectedServerResponse,
    418: errors.UnexpectedServerResponse,
    500: errors.UnexpectedServerResponse,
    Outcome.CERTIFICATE_REJECTED: errors.CertificateRejected,
    Outcome.TOO_LARGE: errors.ResponseTooLarge,
}
PERMANENT_OF_QUERIES = {400: errors.MalformedQueryException, 406: errors.UnsupportedAcceptType}


@settings(deadline=None)
@given(
    kind=st.sampled_from(RequestKind),
    before=st.lists(
        st.one_of(
            st.builds(Scripted, outcome=st.just(Outcome.REFUSED)),
            st.builds(Scripted, status=st.sampled_from([429, 503])),
        ),
        max_size=19,
    ),
    final=st.sampled_from([*PERMANENT, 404]),
    nodes=st.integers(1, 4),
)
def test_permanent_failures_are_not_retried(
    kind: RequestKind, before: list[Scripted], final: int | Outcome, nodes: int
) -> None:
    assume((kind, final) not in ((RequestKind.PRESENCE, 400), (RequestKind.PRESENCE, 404)))  # its successes
    permanent = Scripted(final) if isinstance(final, Outcome) else Scripted(status=final)
    cluster = SimulatedCluster([*before, permanent, Scripted()], limit=20, nodes=nodes)
    if permanent.is_success(kind):
        assert (cluster.run(kind).answer is None) == (final == 404)
        assert len(cluster.wire.sent) == len(before) + 1
        return
    with pytest.raises(QClientException) as raised:
        cluster.run(kind)
    error = PERMANENT_OF_QUERIES.get(final) if kind is RequestKind.QUERY else None
    assert type(raised.value) is (error or PERMANENT.get(final, errors.UnexpectedServerResponse))
    assert not raised.value.transient
    assert [scripted for _, scripted in cluster.wire.sent] == [*before, permanent]
    assert cluster.wire.sent[-1][0] not in cluster.pool.failing


@given(limit=st.integers(1, 20))
def test_a_node_that_keeps_failing_while_its_status_answers_ends_at_the_limit(limit: int) -> None:
    cluster = SimulatedCluster([Scripted(Outcome.TRUNCATED)], limit=limit, nodes=1)
    with pytest.raises(errors.TooManyConsecutiveErrors) as raised:
        cluster.run()
    assert len(raised.value.attempts) == limit == len(cluster.wire.sent)


def test_no_cache_available_lists_each_node_with_its_error() -> None:
    cluster = SimulatedCluster([Scripted(Outcome.REFUSED)], [Scripted(Outcome.REFUSED)], nodes=2, limit=3)
    with pytest.raises(errors.NoCacheAvailable) as raised:
        cluster.run()
    assert set(raised.value.nodes) == set(cluster.nodes)
    assert len(raised.value.attempts) == 2
    for node, outcome in raised.value.nodes.items():
        assert "connection refused" in outcome
        assert f"\n  {node}: {outcome}" in str(raised.value)


def test_no_cache_available_speaks_of_one_node_if_there_is_only_one() -> None:
    cluster = SimulatedCluster([Scripted(Outcome.REFUSED)], [Scripted(Outcome.REFUSED)], nodes=1)
    with pytest.raises(errors.NoCacheAvailable, match="the node cannot be used"):
        cluster.run()


def test_two_dead_nodes_and_a_limit_of_two_are_too_many_errors_as_in_qclient() -> None:
    cluster = SimulatedCluster([Scripted(Outcome.REFUSED)], [Scripted(Outcome.REFUSED)], nodes=2, limit=2)
    with pytest.raises(errors.TooManyConsecutiveErrors):
        cluster.run()


def test_a_failover_to_a_living_node_does_not_wait() -> None:
    cluster = SimulatedCluster([Scripted(Outcome.REFUSED), Scripted(Outcome.TIMEOUT), Scripted()])
    assert cluster.run().node == cluster.nodes[2]
    assert cluster.clock.slept == []


def test_each_round_of_all_nodes_but_the_first_waits() -> None:
    cluster = SimulatedCluster([Scripted(Outcome.TRUNCATED)], nodes=2, limit=7, rng=LongestWaits())
    with pytest.raises(errors.TooManyConsecutiveErrors):
        cluster.run()
    first, second = cluster.nodes
    assert [node for node, _ in cluster.wire.sent] == [first, second] * 3 + [first]
    assert sum(cluster.clock.slept) == pytest.approx(0.1 + 0.2)


def test_a_miss_on_a_fallback_node_names_silent_nodes_but_not_refusing_ones() -> None:
    cluster = SimulatedCluster([Scripted(Outcome.TIMEOUT), Scripted(Outcome.REFUSED), Scripted(status=404)])
    done = cluster.run()
    assert done.answer is None
    assert done.node == cluster.nodes[2]
    assert done.unknown == (cluster.nodes[0],)


def test_wait_for_nodes_waits_until_a_node_recovers() -> None:
    silent = [Scripted(Outcome.REFUSED)] * 9
    cluster = SimulatedCluster(
        [Scripted(Outcome.REFUSED), Scripted()],
        [*silent, Scripted()],
        nodes=1,
        policy=RequestRetry(wait_for_nodes=True),
    )
    assert cluster.run(seconds=600).answer is not None


def test_wait_for_nodes_ends_at_the_deadline() -> None:
    cluster = SimulatedCluster(
        [Scripted(Outcome.REFUSED)], [Scripted(Outcome.REFUSED)], policy=RequestRetry(wait_for_nodes=True)
    )
    started = cluster.clock.now()
    with pytest.raises(errors.NoCacheAvailable):
        cluster.run(seconds=60)
    assert 50 <= cluster.clock.now() - started <= 60.5


def test_wait_for_nodes_is_logged_at_once_and_only_once(caplog: pytest.LogCaptureFixture) -> None:
    cluster = SimulatedCluster(
        [Scripted(Outcome.REFUSED)], [Scripted(Outcome.REFUSED)], policy=RequestRetry(wait_for_nodes=True)
    )
    for _ in range(2):  # the second operation waits until a later deadline
        caplog.clear()
        with pytest.raises(errors.NoCacheAvailable):
            cluster.run(seconds=60)
        waits = [record for record in caplog.records if "no node responds" in record.getMessage()]
        assert [record.levelname for record in waits] == ["WARNING"]
        message = waits[0].getMessage()
        assert re.search(r"waits until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC \(\d\d s\)", message)
        assert "wait_for_nodes" in message
        assert "deadline" in message
        for node in cluster.nodes:
            assert f"\n  {node}: " in message
            assert "connection refused" in message.partition(f"\n  {node}: ")[2].splitlines()[0]


def test_concurrent_operations_that_wait_log_it_once(caplog: pytest.LogCaptureFixture) -> None:
    cluster = SimulatedCluster(
        [Scripted(Outcome.REFUSED)],
        [Scripted(Outcome.REFUSED, seconds=1)],
        policy=RequestRetry(wait_for_nodes=True),
        in_turns=True,
    )

    def operation() -> None:
        with pytest.raises(errors.NoCacheAvailable):
            cluster.run(seconds=60)

    for _ in range(8):
        cluster.clock.begin(operation)
    cluster.clock.run()
    assert caplog.text.count("no node responds. The client waits") == 1


def test_no_wait_is_logged_without_wait_for_nodes(caplog: pytest.LogCaptureFixture) -> None:
    cluster = SimulatedCluster([Scripted(Outcome.REFUSED)], [Scripted(Outcome.REFUSED)])
    with pytest.raises(errors.NoCacheAvailable):
        cluster.run(seconds=60)
    assert "waits" not in caplog.text


@pytest.mark.parametrize(
    ("kind", "requests", "steps"),
    [
        (
            RequestKind.QUERY,
            [Scripted(Outcome.REFUSED), Scripted(Outcome.TIMEOUT), Scripted()],
            ["the client asks http://host1:9401", "the client asks http://host2:9401"],
        ),
        (RequestKind.QUERY, [Scripted(Outcome.CLOSED), Scripted()], ["the client retries in 0.25 s"]),
        (
            RequestKind.QUERY,
            [Scripted(status=429, retry_after="7"), Scripted()],
            ["the client retries in 7.00 s"],
        ),
        (
            RequestKind.STORE,
            [Scripted(Outcome.TIMEOUT), Scripted()],
            ["the node is busy: the client retries once, when the node responds to a status request"],
        ),
    ],
)
def test_each_retry_is_logged_with_what_the_client_does_next(
    kind: RequestKind, requests: list[Scripted], steps: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    cluster = SimulatedCluster(requests, policy=RequestRetry(wait_initial=0.25), rng=LongestWaits())
    cluster.run(kind, 600)
    retries = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage().rpartition("; ")[2] for record in retries] == steps


def test_the_log_of_the_last_failure_says_that_no_node_is_left(caplog: pytest.LogCaptureFixture) -> None:
    cluster = SimulatedCluster([Scripted(Outcome.REFUSED)], [Scripted(Outcome.REFUSED)])
    with pytest.raises(errors.NoCacheAvailable):
        cluster.run()
    assert caplog.records[-1].getMessage().endswith("; no other node is alive")


@pytest.mark.parametrize("kind", RequestKind)
def test_a_failover_is_logged_with_the_failed_nodes_and_the_node_that_answered(
    kind: RequestKind, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    def logged() -> list[tuple[str, str]]:
        lines = [
            (record.levelname, record.getMessage())
            for record in caplog.records
            if record.levelno < logging.WARNING
        ]
        caplog.clear()
        return lines

    cluster = SimulatedCluster([Scripted(Outcome.REFUSED), Scripted()], [Scripted(Outcome.REFUSED)])
    home, fallback = cluster.nodes[:2]
    silent = kind is RequestKind.PRESENCE  # the client asks for itself
    cluster.run(kind)
    failed_over = f"{kind} 'foo': failed over from {home} (connection refused) to {fallback}"
    assert logged() == ([] if silent else [("INFO", failed_over)])
    cluster.run(kind)
    instead = f"{kind} 'foo': sent to {fallback} instead of its home node {home}"
    assert logged() == ([] if silent else [("INFO", instead)])
    cluster.run(kind, part=True)
    assert logged() == ([] if silent else [("DEBUG", instead)])
    cluster = SimulatedCluster([Scripted(status=429), Scripted()])
    assert len(cluster.run(kind).attempts) == 1
    assert logged() == []  # a retry at the same node is no failover


def test_a_store_that_timed_out_is_retried_once_at_the_same_node_only() -> None:
    cluster = SimulatedCluster(
        [Scripted(Outcome.TIMEOUT), Scripted()], [Scripted(Outcome.TIMEOUT)] * 3 + [Scripted()]
    )
    done = cluster.run(RequestKind.STORE)
    assert [node for node, _ in cluster.wire.sent] == [cluster.nodes[0]] * 2
    assert done.node == cluster.nodes[0]
    assert cluster.pool.failing == set()


def test_a_store_that_times_out_twice_is_uncertain() -> None:
    cluster = SimulatedCluster([Scripted(Outcome.TIMEOUT), Scripted(Outcome.NOT_TAKEN), Scripted()])
    with pytest.raises(errors.StoreUncertain) as raised:
        cluster.run(RequestKind.STORE)
    assert raised.value.transient
    assert len(cluster.wire.sent) == 2
    assert cluster.pool.failing == set()


def test_a_store_is_uncertain_if_the_busy_node_stays_silent_for_a_store_timeout() -> None:
    cluster = SimulatedCluster(
        [Scripted(Outcome.TIMEOUT), Scripted()], [Scripted(Outcome.TIMEOUT, seconds=2)]
    )
    started = cluster.clock.now()
    with pytest.raises(errors.StoreUncertain):
        cluster.run(RequestKind.STORE)
    assert cluster.clock.now() - started <= STORE_TIMEOUT + 0.5
    assert len(cluster.wire.sent) == 1


def test_a_store_fails_over_if_the_busy_node_s_process_dies() -> None:
    cluster = SimulatedCluster([Scripted(Outcome.TIMEOUT), Scripted()], [Scripted(Outcome.REFUSED)])
    assert cluster.run(RequestKind.STORE).node == cluster.nodes[1]
    assert cluster.pool.is_gone(cluster.nodes[0])


def test_a_store_stays_at_a_busy_node_whose_status_this_machine_could_not_ask() -> None:
    cluster = SimulatedCluster(
        [Scripted(Outcome.TIMEOUT), Scripted(Outcome.CLOSED), Scripted()],
        [Scripted(), Scripted(Outcome.LOCAL), Scripted()],
    )
    assert cluster.run(RequestKind.STORE).node == cluster.nodes[0]
    assert [node for node, _ in cluster.wire.sent] == [cluster.nodes[0]] * 3


def test_the_waits_between_status_requests_double() -> None:
    busy, up = Scripted(Outcome.CONNECT_TIMEOUT), Scripted()
    cluster = SimulatedCluster([Scripted(Outcome.TIMEOUT), up], [busy, busy, busy, up], rng=LongestWaits())
    cluster.run(RequestKind.STORE)
    assert sum(cluster.clock.slept) == pytest.approx(0.1 + 0.2 + 0.4)


def test_a_store_stays_at_a_busy_node_that_another_operation_marked_as_failing() -> None:
    cluster = SimulatedCluster([Scripted(Outcome.TIMEOUT), Scripted()])
    send = cluster.wire.send

    def fail_and_send(node: str, request: Request, running: Operation, *, fresh: bool) -> Answer:
        cluster.pool.fail(node, cluster.pool.ticket(node), "no answer to another operation")
        return send(node, request, running, fresh=fresh)

    cluster.wire.send = fail_and_send  # type: ignore[method-assign]
    assert cluster.run(RequestKind.STORE).node == cluster.nodes[0]
    assert [node for node, _ in cluster.wire.sent] == [cluster.nodes[0]] * 2


@pytest.mark.parametrize(
    "second",
    [
        Scripted(Outcome.CONNECT_TIMEOUT),
        Scripted(Outcome.TRUNCATED),
        Scripted(Outcome.CLOSED),
        Scripted(status=503),
    ],
)
def test_a_store_whose_retry_at_the_busy_node_fails_goes_to_no_other_node(second: Scripted) -> None:
    cluster = SimulatedCluster(
        [Scripted(Outcome.TIMEOUT), second, Scripted()], [Scripted(), Scripted(Outcome.TIMEOUT)]
    )
    with pytest.raises(errors.StoreUncertain):
        cluster.run(RequestKind.STORE)
    assert [node for node, _ in cluster.wire.sent] == [cluster.nodes[0]] * 2


def test_a_store_whose_retry_at_the_busy_node_is_refused_fails_over() -> None:
    cluster = SimulatedCluster(
        [Scripted(Outcome.TIMEOUT), Scripted(Outcome.REFUSED), Scripted()],
        [Scripted(), Scripted(Outcome.REFUSED)],
    )
    assert cluster.run(RequestKind.STORE).node == cluster.nodes[1]


def test_a_connection_closed_twice_by_a_living_node_is_the_request_s_fault() -> None:
    cluster = SimulatedCluster([Scripted(Outcome.CLOSED)])
    with pytest.raises(errors.ClosedWithoutAnswer) as raised:
        cluster.run(RequestKind.STORE)
    assert len(raised.value.attempts) == 2
    assert [node for node, _ in cluster.wire.sent] == [cluster.nodes[0]] * 2
    assert cluster.pool.failing == set()


def test_a_closed_connection_fails_a_node_whose_status_is_silent() -> None:
    cluster = SimulatedCluster([Scripted(Outcome.CLOSED), Scripted()], [Scripted(Outcome.TIMEOUT)])
    assert cluster.run(RequestKind.STORE).node == cluster.nodes[1]
    assert cluster.pool.failing == {cluster.nodes[0]}


def test_retry_after_is_obeyed_at_the_same_node() -> None:
    cluster = SimulatedCluster([Scripted(status=429, retry_after="7"), Scripted()])
    assert cluster.run().node == cluster.nodes[0]
    assert sum(cluster.clock.slept) == pytest.approx(7)


@example(retry_after="3600", seconds=FOREVER)
@given(retry_after=st.integers(61, 9999).map(str), seconds=st.floats(1, 60))
def test_a_retry_after_beyond_the_deadline_ends_the_operation_at_once(
    retry_after: str, seconds: float
) -> None:
    cluster = SimulatedCluster([Scripted(status=429, retry_after=retry_after), Scripted()])
    with pytest.raises(errors.NodeOverloaded) as raised:
        cluster.run(seconds=seconds)
    assert raised.value.retry_after == float(retry_after)
    assert cluster.clock.slept == []


def test_a_body_that_cannot_be_repeated_gets_one_attempt() -> None:
    cluster = SimulatedCluster([Scripted(Outcome.REFUSED), Scripted()])
    with pytest.raises(errors.BodyNotRepeatable) as raised:
        cluster.run(RequestKind.STORE, repeatable=False)
    assert len(raised.value.attempts) == len(cluster.wire.sent) == 1


def test_a_deadline_that_passes_before_the_read_timeout_does_not_fail_the_node() -> None:
    cluster = SimulatedCluster([Scripted(seconds=10)])
    with pytest.raises(errors.DeadlineExceeded):
        cluster.run(seconds=1)
    assert cluster.pool.failing == set()


def test_a_deadline_that_passes_after_the_read_timeout_fails_the_node() -> None:
    cluster = SimulatedCluster([Scripted(seconds=10)])
    with pytest.raises(errors.DeadlineExceeded):
        cluster.run(seconds=5)
    assert cluster.pool.failing == {cluster.nodes[0]}


SILENT_HOME = Scripted(Outcome.TIMEOUT, seconds=2)


@pytest.mark.parametrize(
    ("kind", "requests", "status", "seconds"),
    [
        (RequestKind.QUERY, [SILENT_HOME, Scripted()], Scripted(), FOREVER),
        (RequestKind.QUERY, [Scripted(seconds=9)], Scripted(), 3.0),
        (RequestKind.STORE, [SILENT_HOME, Scripted()], Scripted(Outcome.REFUSED), FOREVER),
        (RequestKind.QUERY, [Scripted(Outcome.CLOSED), Scripted()], Scripted(Outcome.TIMEOUT), FOREVER),
    ],
    ids=["next node", "deadline", "busy node that ended", "closed"],
)
def test_a_node_s_last_error_is_the_failed_request(
    kind: RequestKind, requests: list[Scripted], status: Scripted, seconds: float
) -> None:
    cluster = SimulatedCluster(requests, [status])
    try:
        attempts = cluster.run(kind, seconds).attempts
    except errors.DeadlineExceeded as error:
        attempts = tuple(error.attempts)
    assert [attempt.node for attempt in attempts] == cluster.nodes[:1]
    assert cluster.pool.failing == {cluster.nodes[0]}
    assert cluster.pool.last_error(cluster.nodes[0]) == attempts[0].reason


@pytest.mark.parametrize(
    ("kind", "first", "counter"),
    [
        (RequestKind.QUERY, SILENT_HOME, "read_timeout"),
        (RequestKind.QUERY, Scripted(Outcome.CONNECT_TIMEOUT), "connect_timeout"),
        (RequestKind.STORE, Scripted(Outcome.REFUSED), "connection_error"),
        (RequestKind.QUERY, Scripted(status=429), "unknown_error"),
        (RequestKind.QUERY, Scripted(status=400), None),
        (RequestKind.STORE, Scripted(status=400), "unknown_error"),
        (RequestKind.QUERY, Scripted(Outcome.LOCAL), None),
    ],
)
def test_the_failures_that_are_a_node_s_are_counted(
    kind: RequestKind, first: Scripted, counter: str | None
) -> None:
    """A query that a node refuses is the caller's mistake."""
    cluster = SimulatedCluster([first, Scripted()])
    with contextlib.suppress(QClientException):
        cluster.run(kind)
    counted = cluster.pool.take_statistics()
    found = {name: count for name, count in counted[cluster.nodes[0]].items() if count}
    assert found == ({counter: 1} if counter else {})


def test_cancel_ends_the_wait_before_a_retry() -> None:
    cluster = SimulatedCluster([Scripted(status=429, retry_after="50")])
    sleep = cluster.clock.sleep

    def sleep_and_cancel(seconds: float) -> None:
        sleep(seconds)
        cluster.running.cancel()

    cluster.clock.sleep = sleep_and_cancel  # type: ignore[method-assign]
    with pytest.raises(errors.OperationCancelled):
        cluster.run()
    assert sum(cluster.clock.slept) < 1


def test_a_foreign_base_exception_passes_through() -> None:
    class Timeout(BaseException):
        """Like Airflow's task timeout."""

    cluster = SimulatedCluster([Scripted()])

    def send(*args: object, **kwargs: object) -> None:
        raise Timeout

    cluster.wire.send = send  # type: ignore[assignment, method-assign]
    with pytest.raises(Timeout):
        cluster.run()


@given(status=st.integers(200, 599), kind=st.sampled_from(RequestKind))
def test_every_status_is_a_result_or_an_error_of_the_client(status: int, kind: RequestKind) -> None:
    cluster = SimulatedCluster(
        [Scripted(status=status, retry_after="1")], [Scripted(Outcome.TIMEOUT)], limit=3
    )
    try:
        done = cluster.run(kind, seconds=100)
    except errors.UnexpectedServerResponse as error:
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
def test_the_error_of_an_invalid_policy_names_the_field(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        RequestRetry(**{name: value})
