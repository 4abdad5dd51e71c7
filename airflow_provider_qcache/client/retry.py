"""Asking again: which node, after what wait, how often, and when to stop.

Each operation runs under a ``tenacity.Retrying`` of its own, so that no two share a count. Nodes are reached
through ``Wire`` and time through ``Clock``; nothing here does I/O, and the property tests run it against
simulated ones.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import tenacity

from airflow_provider_qcache.client.arguments import check_count, check_seconds
from airflow_provider_qcache.client.errors import (
    Attempt,
    AuthenticationFailed,
    BodyNotRepeatable,
    CertificateRejected,
    ClosedWithoutAnswer,
    DeadlineExceeded,
    HomeNodeUnavailable,
    MalformedQueryException,
    NoCacheAvailable,
    NodeOverloaded,
    OperationCancelled,
    Outcome,
    Phase,
    QClientException,
    ResponseTooLarge,
    StoreUncertain,
    TooManyConsecutiveErrors,
    UnexpectedServerResponse,
    UnsupportedAcceptType,
    forget_traceback,
    shown,
)
from airflow_provider_qcache.client.outcome import (
    COUNTERS,
    MET_ON_A_LIVING_NODE,
    Action,
    Judgement,
    Kind,
    action_for,
    judge,
)
from airflow_provider_qcache.client.transport import Failure, once_more_fresh

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Sequence

    from airflow_provider_qcache.client.clock import Clock
    from airflow_provider_qcache.client.nodes import NodePool
    from airflow_provider_qcache.client.threads import Call
    from airflow_provider_qcache.client.transport import Answer

_log = logging.getLogger("airflow_provider_qcache.client")

_LONGEST_RETRY_AFTER: Final = 60.0
"""Seconds of Retry-After that are obeyed where no deadline says how long there is."""

_BETWEEN_STATUSES: Final = 0.05
"""Seconds at least between two rounds of asking for a status: a refusal takes no time."""

_SLICE: Final = 0.2
"""Seconds a wait goes on at most before it looks whether it was cancelled."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RequestRetry:
    """How failed requests are asked again. Raises ValueError, naming the field, for what makes no sense."""

    consecutive_error_count_limit: int | None = None
    """Failed requests of one operation that end it; None for the client's own. The lower of the two holds."""

    wait_initial: float = 0.1
    """Seconds: the n-th wait for the same node is uniform in 0 .. min(wait_max, wait_initial x 2^(n-1)).
    Failing over to another living node waits for nothing."""

    wait_max: float = 5.0
    """Seconds: the longest such wait."""

    wait_for_nodes: bool = False
    """Where no node answers, wait until one does or the deadline passes, which is needed then. The nodes are
    asked again after such waits, of 0.05 s at least."""

    def __post_init__(self) -> None:
        if self.consecutive_error_count_limit is not None:
            check_count("consecutive_error_count_limit", self.consecutive_error_count_limit)
        check_seconds("wait_initial", self.wait_initial, zero=True)
        check_seconds("wait_max", self.wait_max, zero=True)
        if not isinstance(self.wait_for_nodes, bool):
            raise ValueError(f"wait_for_nodes={self.wait_for_nodes!r}: True or False is wanted")  # noqa: TRY004


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What is asked: the kind, the nodes in the order they are asked, and what says so in an error.

    ``payload`` is the Wire's business. ``wait_for_nodes=False`` overrides the policy's.
    """

    kind: Kind
    key: str
    what: str
    nodes: Sequence[str]
    payload: Any = None
    repeatable: bool = True
    wait_for_nodes: bool = True


class Span(NamedTuple):
    """When an operation ends.

    That is at a time on the clock, when the count of cancellations is another, or with ``call``.
    """

    deadline: float
    cancellations: int = 0
    call: Call | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """How an operation ended; ``answer`` is None for a miss, ``unknown`` are silent nodes before this one."""

    node: str
    answer: Answer | None
    attempts: tuple[Attempt, ...]
    unknown: tuple[str, ...]


class Wire(Protocol):
    """The way to the nodes."""

    def send(self, node: str, request: Request, span: Span, *, fresh: bool) -> Answer:
        """One request, ended with ``span``; raises Failure."""

    def status(self, node: str, span: Span) -> None:
        """Ask for the node's status, within a connect and a read timeout; raises Failure."""

    def probe(self, nodes: Iterable[str]) -> None:
        """Have failing nodes probed, in the background."""

    def await_probes(self, nodes: Sequence[str], until: float, check: Callable[[], None]) -> None:
        """Return when one of the nodes is alive, when no probe of them is left, or at ``until``."""


class _Again(Exception):
    """A request failed and another may follow, after ``wait`` seconds."""

    def __init__(self, attempt: Attempt, wait: float) -> None:
        super().__init__(str(attempt))
        self.attempt = attempt
        self.wait = wait


_WANTS_RETRY: Final = tenacity.retry_if_exception_type(_Again)


class Engine:
    """Everything operations share. Thread-safe: it holds no state of an operation."""

    def __init__(
        self,
        *,
        pool: NodePool,
        wire: Wire,
        clock: Clock,
        rng: random.Random,
        policy: RequestRetry,
        limit: int,
        read_timeout: float,
        store_timeout: Callable[[Request], float],
        on_attempt_failed: Callable[[Attempt], None] | None = None,
    ) -> None:
        self.pool = pool
        self.wire = wire
        self.clock = clock
        self.rng = rng
        self.policy = policy
        self.limit = min(limit, policy.consecutive_error_count_limit or limit)
        self.read_timeout = read_timeout
        self.store_timeout = store_timeout
        self.on_attempt_failed = on_attempt_failed
        self.cancellations = 0
        """Operations that began at another count have been cancelled."""

    def is_cancelled(self, span: Span) -> bool:
        """Whether an operation of that span is to end now."""
        return self.cancellations != span.cancellations or (span.call is not None and span.call.cancelled)

    def run(self, request: Request, span: Span) -> Done:
        """Run one operation within its span; raises QClientException."""
        run = _Run(self, request, span)
        retrying = tenacity.Retrying(
            retry=_WANTS_RETRY,
            stop=run.must_stop,
            wait=run.wait,
            sleep=run.sleep,
            before_sleep=run.log,
            retry_error_callback=run.give_up,
        )
        done: Done = retrying(run.once)
        return done


class _Run:
    """One operation."""

    def __init__(self, engine: Engine, request: Request, span: Span) -> None:
        self.engine = engine
        self.request = request
        self.span = span
        self.deadline = span.deadline
        self.attempts: list[Attempt] = []
        self.waits = 0
        self.stay: str | None = None
        self.busy: str | None = None
        self.suspects: dict[str, int] = {}
        self.fresh = False
        self.sent = False
        """A store was sent, or partly, and not answered."""
        self.unknown: tuple[str, ...] = ()
        self.gone: tuple[str, ...] = ()
        """The nodes before the chosen one that are taken for gone: they refused somebody at some time."""
        self.seen_gone: set[str] = set()
        """Those that refused this operation a connection."""
        self._wait = 0.0

    # What tenacity asks.

    def once(self) -> Done:
        """One request that counts, if it fails."""
        while True:
            done = self._ask()
            if done is not None:
                return done

    def _ask(self) -> Done | None:
        """One request; None where its answer is worth nothing, since a node before this one is back."""
        self._check()
        if self.busy is not None:
            self._await_status(self.busy)
        node = self._choose()
        engine = self.engine
        ticket = engine.pool.ticket(node)
        started = engine.clock.now()
        if node in engine.pool.unsettled:
            self._settle(node, ticket, started)
            ticket, started = engine.pool.ticket(node), engine.clock.now()
        try:
            answer = once_more_fresh(
                lambda fresh: engine.wire.send(node, self.request, self.span, fresh=fresh),
                # A body for one attempt is not risked on a connection that may have been closed meanwhile.
                fresh=self.fresh or not self.request.repeatable,
            )
        except Failure as failure:
            action = action_for(self.request.kind, failure.outcome)
            met = self._attempt_of(node, started, failure)
            if self.request.kind is Kind.STORE and met.phase in (Phase.SEND, Phase.HEAD, Phase.BODY):
                self.sent |= met.outcome in (Outcome.TIMEOUT, Outcome.NOT_TAKEN, Outcome.DEADLINE)
            return self._failed(node, ticket, met, action, None)
        judged = judge(self.request.kind, answer)
        if judged.action is Action.RETURN or judged.action is Action.MISS:
            missed = judged.action is Action.MISS
            says_nothing_is_left = missed or self.request.kind is Kind.DELETE
            if says_nothing_is_left and self.gone and self._any_is_back():
                return None
            return Done(node, None if missed else answer, tuple(self.attempts), self.unknown)
        cause = UnexpectedServerResponse(judged.detail, status=answer.status) if judged.detail else None
        phase = Phase.HEAD if answer.status != 200 else Phase.BODY
        met = self._attempt(node, started, phase, judged.outcome, answer.status, cause)
        return self._failed(node, ticket, met, judged.action, judged, answer)

    def must_stop(self, state: tenacity.RetryCallState) -> bool:
        """Whether the limit is reached, or the deadline would be before the next request."""
        del state
        return len(self.attempts) >= self.engine.limit or self._left() <= self._wait

    def wait(self, state: tenacity.RetryCallState) -> float:
        """Seconds before the next request."""
        del state
        return self._wait

    def sleep(self, seconds: float) -> None:
        """Wait, and notice a cancellation."""
        clock = self.engine.clock
        end = clock.now() + seconds
        while (left := end - clock.now()) > 0:
            self._check_cancelled()
            clock.sleep(min(left, _SLICE))
        self._check_cancelled()

    def log(self, state: tenacity.RetryCallState) -> None:
        """Say once for each retry what happened and what comes."""
        del state
        _log.warning(
            "%s: failed request %d of at most %d: %s; again in %.2f s",
            self.request.what,
            len(self.attempts),
            self.engine.limit,
            self.attempts[-1],
            self._wait,
        )

    def give_up(self, state: tenacity.RetryCallState) -> Done:
        """Raise what ended the operation."""
        del state
        count = len(self.attempts)
        last = self.attempts[-1]
        if count >= self.engine.limit:
            raise TooManyConsecutiveErrors(
                f"{self.request.what}: {count} requests failed, which is the limit; the last one: "
                f"{last}. Look at the nodes it names; consecutive_error_count_limit allows more.",
                attempts=self.attempts,
            ) from last.cause
        raise self._deadline_exceeded() from last.cause

    # Before a request.

    def _check_cancelled(self) -> None:
        if self.engine.is_cancelled(self.span):
            raise OperationCancelled(f"{self.request.what}: cancelled", attempts=self.attempts)

    def _check(self) -> None:
        self._check_cancelled()
        if self._left() <= 0:
            raise self._deadline_exceeded()

    def _left(self) -> float:
        return self.deadline - self.engine.clock.now()

    def _choose(self) -> str:
        """The first living node in the key's order; the same one where the last failure was not its own."""
        pool = self.engine.pool
        stay, self.stay = self.stay, None
        waits = 0
        while True:
            failing = pool.failing
            # A busy node's status was just answered to this operation, whatever others met there meanwhile.
            if stay is not None and (stay not in failing or stay == self.busy):
                return stay
            if not failing:
                self.unknown = self.gone = ()
                return self.request.nodes[0]
            silent: list[str] = []
            gone: list[str] = []
            for node in self.request.nodes:
                if node not in failing:
                    self.unknown, self.gone = tuple(silent), tuple(gone)
                    return node
                (gone if pool.is_gone(node) else silent).append(node)
            self._await_a_node(waits)
            waits += 1

    def _any_is_back(self) -> bool:
        """Ask the nodes before this one that are taken for gone: what they had is, but they may be back.

        Those that are silent now are unknown; those that refused this operation itself are not asked again.
        """
        silent = []
        for node in self.gone:
            if node in self.seen_gone:
                continue
            met = self._ask_one_taken_for_gone(node)
            if met is None:
                return True
            if met is not Outcome.REFUSED:
                silent.append(node)
        if silent:
            self.unknown = tuple(node for node in self.request.nodes if node in {*self.unknown, *silent})
        return False

    def _ask_one_taken_for_gone(self, node: str) -> Outcome | None:
        """What asking for its status met, or None where it answers and so is alive again."""
        engine = self.engine
        pool = engine.pool
        while (ticket := pool.begin_probe(node)) is None:
            if node not in pool.failing:
                return None
            # Somebody else's probe may have met what it met before this operation began.
            engine.wire.await_probes((node,), self.deadline, self._check_cancelled)
            if self._left() <= 0:
                return Outcome.DEADLINE
        try:
            engine.wire.status(node, self.span)
        except Failure as failure:
            if failure.outcome is Outcome.REFUSED:
                self.seen_gone.add(node)
                pool.abandon_probe(node, ticket)  # it stays what it was
            elif failure.outcome is Outcome.CANCELLED:
                pool.abandon_probe(node, ticket)
                self._check_cancelled()
            elif failure.outcome in MET_ON_A_LIVING_NODE:
                pool.end_probe(node, ticket, None)
                return None
            else:
                pool.end_probe(node, ticket, f"status: {failure.outcome}: {failure}")
            return failure.outcome
        except BaseException:
            pool.abandon_probe(node, ticket)
            raise
        pool.end_probe(node, ticket, None)
        return None

    def _await_a_node(self, waits: int) -> None:
        """No node is left: have them probed and wait for the first that answers."""
        engine = self.engine
        nodes = self.request.nodes
        if waits:
            pause = min(self._status_wait(waits), max(0.0, self._left()))
            self.sleep(pause)
            if self._left() <= 0:
                raise self._no_cache(
                    f"none came back before the deadline; {waits} rounds of probes were made"
                )
        engine.wire.probe(nodes)
        engine.wire.await_probes(nodes, self.deadline, self._check_cancelled)
        self._check_cancelled()
        if any(node not in engine.pool.failing for node in nodes):
            return
        if self._left() <= 0:
            raise self._no_cache("none answered its status before the deadline")
        if not (engine.policy.wait_for_nodes and self.request.wait_for_nodes):
            raise self._no_cache("none answers its status")

    def _no_cache(self, why: str) -> NoCacheAvailable:
        pool = self.engine.pool
        nodes = {shown(node): pool.last_error(node) or "not asked" for node in self.request.nodes}
        some = "the node cannot" if len(nodes) == 1 else f"none of {len(nodes)} nodes can"
        return NoCacheAvailable(
            f"{self.request.what}: {some} be used: {why}. Check that they run, that their addresses are "
            "right and that this machine reaches them.",
            attempts=self.attempts,
            nodes=nodes,
        )

    def _await_status(self, node: str) -> None:
        """Wait until a busy node answers its status, one store timeout long where there is no deadline."""
        engine = self.engine
        bounded = self.deadline < float("inf")
        until = self.deadline if bounded else engine.clock.now() + engine.store_timeout(self.request)
        waits = 0
        while True:
            ticket = engine.pool.ticket(node)
            try:
                engine.wire.status(node, self.span._replace(deadline=until))
            except Failure as failure:
                if failure.outcome is Outcome.CANCELLED:
                    self._check_cancelled()
                if failure.outcome is Outcome.REFUSED:
                    # Its process is gone, and whatever it had taken with it: another node may have the table.
                    engine.pool.fail(node, ticket, str(self.attempts[-1]), gone=True)
                    self.stay = None
                    return
            else:
                self.stay = node
                return
            waits += 1
            pause = self._status_wait(waits)
            if engine.clock.now() + pause >= until:
                end = "the deadline" if bounded else "one store timeout had passed"
                raise self._uncertain(f"and the node's status was silent until {end}")
            self.sleep(pause)

    def _settle(self, node: str, ticket: int, started: float) -> None:
        """Have the node answer its status: a store or delete that was given up must not come after this one.

        A store waits for that as it does for a busy node, before it is sent; else a silent node fails.
        """
        engine = self.engine
        is_store = self.request.kind is Kind.STORE
        until = self.deadline
        if is_store and until == float("inf"):
            until = started + engine.store_timeout(self.request)
        waits = 0
        while True:
            try:
                engine.wire.status(node, self.span)
            except Failure as failure:
                met = failure
            else:
                return
            if met.outcome is Outcome.UNAUTHORIZED:
                return  # the request meets it, too
            if met.outcome is Outcome.CANCELLED:
                self._check_cancelled()
            waits += 1
            pause = self._status_wait(waits)
            silent = met.outcome in (Outcome.TIMEOUT, Outcome.DEADLINE)
            if not (is_store and silent) or engine.clock.now() + pause >= until:
                break
            self.sleep(pause)
        attempt = self._attempt_of(node, started, met)
        if silent and (is_store or self._left() <= 0):
            if not is_store and attempt.seconds >= engine.read_timeout:
                engine.pool.fail(node, ticket, str(attempt))
            end = "the deadline" if until == self.deadline else "one store timeout had passed"
            raise self._deadline_exceeded(
                f"{shown(node)} was sent a store or a delete before, which was given up and may come yet, "
                f"and its status was silent until {end}"
            )
        rejected = met.outcome is Outcome.CERTIFICATE_REJECTED
        self._failed(node, ticket, attempt, Action.RAISE if rejected else Action.NEXT_NODE, None)

    # After a failed request.

    def _attempt_of(self, node: str, started: float, failure: Failure) -> Attempt:
        return self._attempt(
            node, started, failure.phase, failure.outcome, failure.status, failure.cause, failure.detail
        )

    def _attempt(
        self,
        node: str,
        started: float,
        phase: Phase,
        outcome: Outcome,
        status: int | None,
        cause: BaseException | None,
        detail: str = "",
    ) -> Attempt:
        if cause is None and detail:
            cause = UnexpectedServerResponse(detail)
        elif cause is not None:
            # A result keeps its attempts, and is not to keep the table with them.
            forget_traceback(cause)
        seconds = self.engine.clock.now() - started
        met = Attempt(shown(node), phase, outcome, seconds, status, cause)
        if outcome is not Outcome.CANCELLED:
            self.attempts.append(met)
            counter = COUNTERS.get(outcome, "unknown_error")
            if outcome is not Outcome.REFUSED_REQUEST or self.request.kind is Kind.STORE:
                self.engine.pool.count(node, counter)
            if self.engine.on_attempt_failed is not None:
                self.engine.on_attempt_failed(met)
        return met

    def _failed(
        self,
        node: str,
        ticket: int,
        met: Attempt,
        action: Action,
        judged: Judgement | None,
        answer: Answer | None = None,
    ) -> Done:
        engine = self.engine
        if met.outcome is Outcome.CANCELLED:
            raise OperationCancelled(f"{self.request.what}: cancelled", attempts=self.attempts) from met.cause
        self.fresh = False
        wait = 0.0
        if action is Action.END:
            # A node that had its whole read timeout is slow by itself; else the caller left it no time.
            if met.seconds >= engine.read_timeout and self.request.kind is not Kind.STORE:
                engine.pool.fail(node, ticket, str(met))
            raise self._deadline_exceeded() from met.cause
        if action is Action.RAISE:
            raise self._permanent(node, met, judged, answer) from met.cause
        if met.outcome is Outcome.REFUSED:
            self.seen_gone.add(node)
        if action is Action.NEXT_NODE:
            engine.pool.fail(node, ticket, str(met), gone=met.outcome is Outcome.REFUSED)
            self.stay = None
            if all(candidate in engine.pool.failing for candidate in self.request.nodes):
                wait = self._next_wait() if len(self.attempts) > len(self.request.nodes) else 0.0
        elif action is Action.SUSPECT:
            wait = self._suspect(node, ticket, met)
        elif action is Action.BUSY:
            if self.busy is not None or len(self.attempts) >= engine.limit or not self.request.repeatable:
                raise self._uncertain("and it is not sent again") from met.cause
            self.busy = node
        elif action is Action.WAIT:
            wait = self._overload_wait(judged)
            self.stay = node
        leaves = action in (Action.NEXT_NODE, Action.SUSPECT) and self.stay is None
        gone = met.outcome is Outcome.REFUSED or engine.pool.is_gone(node)
        if leaves and node == self.busy and not gone:
            # It had the table for a store timeout, and may store it yet.
            raise self._uncertain("and no other node is sent it") from met.cause
        if not self.request.repeatable:
            raise BodyNotRepeatable(
                f"{self.request.what}: the request failed, and its body cannot be read a second time. "
                "Give a path, a file that can be rewound, or a function that returns a fresh iterator.",
                attempts=self.attempts,
            ) from met.cause
        self._wait = wait
        raise _Again(met, wait)

    def _suspect(self, node: str, ticket: int, met: Attempt) -> float:
        """A fresh connection was closed without an answer: is it the node, or this request?"""
        engine = self.engine
        times = self.suspects[node] = self.suspects.get(node, 0) + 1
        try:
            engine.wire.status(node, self.span)
        except Failure as failure:
            if failure.outcome is Outcome.CANCELLED:
                self._check_cancelled()
            gone = failure.outcome is Outcome.REFUSED
            engine.pool.fail(node, ticket, str(met), gone=gone)
            return 0.0
        if times >= 2:
            raise ClosedWithoutAnswer(
                f"{self.request.what}: {shown(node)} closes the connection on this request and answers its "
                "status at once, so that the request is to blame: a body larger than the node's cache, a "
                "head over 64 KiB, or an Authorization it cannot parse, such as one whose login or password "
                "holds a ':' (look at the netrc, or at what auth gives).",
                attempts=self.attempts,
            ) from met.cause
        self.stay = node
        self.fresh = True
        return self._next_wait()

    def _overload_wait(self, judged: Judgement | None) -> float:
        asked = judged.retry_after if judged is not None else None
        if asked is None:
            return self._next_wait()
        room = min(self._left(), _LONGEST_RETRY_AFTER if self.deadline == float("inf") else float("inf"))
        if asked > room:
            raise NodeOverloaded(
                f"{self.request.what}: the node is overloaded and asks for {asked:g} s, longer than the "
                f"{room:.3g} s there are",
                attempts=self.attempts,
                retry_after=asked,
            )
        return asked

    def _next_wait(self) -> float:
        self.waits += 1
        return self._random_wait(self.waits)

    def _random_wait(self, number: int) -> float:
        policy = self.engine.policy
        return self.engine.rng.uniform(
            0.0, min(policy.wait_max, policy.wait_initial * 2.0 ** min(number - 1, 60))
        )

    def _status_wait(self, number: int) -> float:
        return max(_BETWEEN_STATUSES, self._random_wait(number))

    # Errors.

    def _deadline_exceeded(self, why: str = "") -> QClientException:
        if self.sent:
            return self._uncertain("and the deadline passed")
        hint = "" if self.attempts else " before a request was made"
        if not why:
            why = f"the deadline passed{hint}"
        return DeadlineExceeded(
            f"{self.request.what}: {why}. A larger deadline, or a faster node, is wanted.",
            attempts=self.attempts,
        )

    def _uncertain(self, why: str) -> StoreUncertain:
        return StoreUncertain(
            f"{self.request.what}: the table was sent and its store is not confirmed, {why}. The node "
            "may hold the new table, the old one or none. Store it again; store_timeout gives a slow "
            "node more time.",
            attempts=self.attempts,
        )

    def _permanent(
        self, node: str, met: Attempt, judged: Judgement | None, answer: Answer | None
    ) -> QClientException:
        what = self.request.what
        name = shown(node)
        if met.outcome is Outcome.CERTIFICATE_REJECTED:
            return CertificateRejected(
                f"{what}: no TLS connection to {name}: {met.cause}. Check verify (the CA that signed "
                "the node's certificate), the name in the node's address, the certificate's dates, and "
                "cert where the node wants a client certificate.",
                attempts=self.attempts,
            )
        if met.outcome is Outcome.TOO_LARGE:
            return ResponseTooLarge(
                f"{what}: the answer of {name} is larger than max_response_bytes. Ask for fewer rows or "
                "columns, or allow more.",
                attempts=self.attempts,
                status=met.status,
            )
        if met.outcome is Outcome.UNAUTHORIZED:
            return AuthenticationFailed(
                f"{what}: {name} refuses the credentials (401). Check auth, or the credentials of the "
                "environment's netrc; a login and password are sent only where they are given.",
                attempts=self.attempts,
            )
        said = answer.content[:500].decode("utf-8", "replace") if answer is not None else ""
        detail = f" {judged.detail}." if judged is not None and judged.detail else ""
        if self.request.kind is Kind.QUERY and met.status == 400:
            return MalformedQueryException(
                f"{what}: {name} cannot process it: {said}", attempts=self.attempts
            )
        if self.request.kind is Kind.QUERY and met.status == 406:
            return UnsupportedAcceptType(
                f"{what}: {name} answers in none of the types asked for; 'application/json' and 'text/csv' "
                "are known",
                attempts=self.attempts,
            )
        gone = ""
        # A bare 400 is for a body larger than the cache, which is refused before anything is dropped.
        if self.request.kind is Kind.STORE and (met.status in (415, 500) or (met.status == 400 and said)):
            gone = " The table the node had under this key is gone."
        return UnexpectedServerResponse(
            f"{what}: {name} answered {met.status}.{detail}{gone} It said: {said!r}",
            attempts=self.attempts,
            status=met.status,
        )


def home_unavailable(request: Request, done: Done) -> HomeNodeUnavailable:
    """The error for a miss, or a delete, that a stand-in answered while a node before it was silent."""
    silent = ", ".join(shown(node) for node in done.unknown)
    return HomeNodeUnavailable(
        f"{request.what}: {shown(done.node)} does not hold it, and {silent}, before it in the key's "
        "order, is silent and may. Ask again when it is back.",
        attempts=done.attempts,
    )
