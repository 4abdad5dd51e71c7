"""One operation of the client: which node it asks, how it retries, and when it ends.

``Operation`` has the deadline of one call and cancels it, ``Sender`` sends requests, and ``Engine`` decides
what to do after each of them. The engine uses a sender, a prober and a clock that tests replace. Each
operation runs under its own ``tenacity.Retrying``: no two operations share a count.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, TypeVar

import tenacity

from airflow_provider_qcache.client import errors
from airflow_provider_qcache.client.errors import (
    Attempt,
    Outcome,
    Phase,
    QClientException,
    UnexpectedServerResponse,
    redacted,
)
from airflow_provider_qcache.client.outcome import (
    COUNTERS,
    OUTCOMES_OF_LIVING_NODES,
    Action,
    Failure,
    RequestKind,
    action_for,
    judge,
)
from airflow_provider_qcache.client.transport import Limit, Request

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping

    from airflow_provider_qcache.client.nodes import NodePool, Prober
    from airflow_provider_qcache.client.outcome import Answer
    from airflow_provider_qcache.client.settings import ClientSettings, RequestRetry, SystemClock
    from airflow_provider_qcache.client.transport import NodeTransport

_Error = TypeVar("_Error", bound=QClientException)

_log = logging.getLogger("airflow_provider_qcache.client")

_FOREVER: Final = float("inf")

_LONGEST_RETRY_AFTER: Final = 60.0
"""Seconds: the longest Retry-After for which an operation without a deadline waits."""

_BETWEEN_STATUSES: Final = 0.05
"""Seconds: the shortest pause between two status requests to a node, which may refuse them at once."""

_SHORTEST_LOGGED_WAIT: Final = 0.005
"""Seconds: the log does not mention a shorter wait."""

_SLICE: Final = 0.2
"""Seconds: how often a wait checks whether its operation was cancelled."""

_LONGEST_CLOSE: Final = 0.5
_UNTIL_CLOSED: Final = 0.001
"""Seconds that another thread may take to close a cancelled connection, and seconds between two checks. A
thread that takes longer reads the body's source, and does not send the end of the body."""

_STATUSES_AFTER_WRITE: Final = 8
"""The number of status replies after which a node cannot apply an abandoned store or delete any more. QCache
0.9.3 applies a request up to five turns of its event loop after it has read its end, and may answer a status
in each of them: up to five replies before a store were measured."""


@dataclasses.dataclass(slots=True, eq=False, repr=False)
class Operation:
    """One call of the client: its deadline, its requests in flight, and whether it was cancelled.

    A context manager: ``QClient.cancel`` cancels the operation until it is left. If it is a part of another
    one (``part_of``), it is cancelled together with that.
    """

    deadline: float
    active: set[Operation] | None = None
    limits: set[Limit] = dataclasses.field(default_factory=set)
    """One for each request in flight."""
    part_of: Operation | None = None
    _cancelled: bool = False

    def __post_init__(self) -> None:
        if self.active is not None:
            self.active.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.active is not None:
            self.active.discard(self)

    def until(self, deadline: float) -> Operation:
        """A part of this operation with its own deadline."""
        return Operation(deadline, limits=self.limits, part_of=self.part_of or self)

    @property
    def cancelled(self) -> bool:
        """Whether the operation was cancelled, and must end now."""
        return (self.part_of or self)._cancelled

    def mark_cancelled(self) -> None:
        """End later requests when they begin, and waits at their next look."""
        self._cancelled = True

    def cancel(self) -> None:
        """End the requests in flight, and later requests when they begin. Takes no lock."""
        self.mark_cancelled()
        # The interpreter copies a set in one step: other threads cannot change it meanwhile.
        for limit in self.limits.copy():
            limit.cancel()

    def check(self, what: str) -> None:
        """Raise OperationCancelled, about ``what``, if the operation was cancelled."""
        if self.cancelled:
            raise errors.OperationCancelled(f"{what}: cancelled")


@dataclasses.dataclass(slots=True, eq=False, repr=False)
class Sender:
    """Sends requests to nodes, each within the deadline of its operation."""

    transports: Mapping[str, NodeTransport]
    pool: NodePool
    settings: ClientSettings
    clock: SystemClock

    def send(self, node: str, request: Request, operation: Operation, *, fresh: bool) -> Answer:
        """Send one request, on a new connection if ``fresh``; raises Failure."""
        limit = Limit(self.clock.now, operation.deadline, self.pool.abandoned_writes[node])
        operation.limits.add(limit)
        turn = None if request.turns is None else request.turns[node]
        try:
            # A cancel() before the line above has not found this request.
            if operation.cancelled:
                limit.cancelled = True
            while turn is not None and not turn.acquire(timeout=_SLICE):
                limit.check()
            try:
                return self.transports[node].exchange(request, limit, fresh=fresh)
            finally:
                if turn is not None:
                    turn.release()
        finally:
            limit.note_if_abandoned()
            operation.limits.discard(limit)

    def status(self, node: str, operation: Operation, *, after_writes: bool = True) -> None:
        """Ask for a node's status, within one connect timeout and one read timeout; raises Failure.

        With ``after_writes`` the client asks twice, each time within these timeouts: a node that was stopped
        answers the first request before it applies what it had received. Where this client abandoned a store
        or delete, it asks more often, since a node applies those a few turns of its event loop later.
        """
        longest = self.settings.connect_timeout + self.settings.read_timeout
        # The interpreter copies a set, adds to it and subtracts from it in one step each.
        abandoned = self.pool.abandoned_writes[node].copy() if after_writes else set()
        # Until other threads have closed the connections of their cancelled writes, the system may still send
        # a part of such a write.
        end = self.clock.now() + _LONGEST_CLOSE
        while any(limit.sock is not None for limit in abandoned) and self.clock.now() < end:
            self.clock.sleep(_UNTIL_CLOSED)
        times = 1 if not after_writes else _STATUSES_AFTER_WRITE if abandoned else 2
        for _ in range(times):
            one = operation.until(min(operation.deadline, self.clock.now() + longest))
            answer = self.ask_once("/status", b"Accept-Encoding: identity\r\n", node, one)
            status = answer.status
            if status == 401:
                raise Failure(Outcome.UNAUTHORIZED, Phase.HEAD, status=status)
            if status != 200:
                detail = answer.from_proxy or f"the node answered {status}"
                raise Failure(Outcome.UNAVAILABLE, Phase.HEAD, status=status, detail=detail)
        self.pool.abandoned_writes[node].difference_update(abandoned)

    def ask_once(self, target: str, headers: bytes, node: str, operation: Operation) -> Answer:
        """GET a page about the node itself; raises Failure."""
        request = Request("GET", target, headers)
        return once_more_fresh(lambda fresh: self.send(node, request, operation, fresh=fresh))

    def store_time(self, request: Request) -> float:
        """Seconds the home node may take to receive and parse the request's table, once connected."""
        length = None if request.upload is None else request.upload.length
        return self.transports[request.nodes[0]].store_time(length)


def once_more_fresh(exchange: Callable[[bool], Answer], *, fresh: bool = False) -> Answer:
    """``exchange(fresh)``, repeated on a new connection if the node had closed the reused one.

    Nodes close idle connections: that is no failure. Raises what the last exchange raises.
    """
    try:
        return exchange(fresh)
    except Failure as failure:
        if not (failure.before_answer and failure.outcome is Outcome.CLOSED):
            raise
    return exchange(True)  # noqa: FBT003


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """The result of an operation.

    ``answer`` is None for a miss. ``unknown`` are the nodes before ``node`` in the key's order that did not
    respond, and so may have the table.
    """

    node: str
    answer: Answer | None
    attempts: tuple[Attempt, ...]
    unknown: tuple[str, ...]


class _RequestFailed(Exception):
    """A request failed, and the operation may retry it."""


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Engine:
    """Runs operations, whose state is not here: the engine is thread-safe."""

    pool: NodePool
    sender: Sender
    prober: Prober
    clock: SystemClock
    rng: random.Random
    policy: RequestRetry
    limit: int
    read_timeout: float
    on_attempt_failed: Callable[[Attempt], None]

    def __post_init__(self) -> None:
        self.limit = min(self.limit, self.policy.consecutive_error_count_limit or self.limit)

    def run(self, request: Request, operation: Operation) -> Done:
        """Send a request to the first living node of its key, and retry it; raises QClientException."""
        retried = _RetriedRequest(self, request, operation)
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_RequestFailed),
            stop=lambda _: retried.must_stop(),
            wait=lambda _: retried.wait,
            sleep=retried.sleep,
            before_sleep=lambda _: retried.log_retry(),
            retry_error_callback=lambda _: retried.raise_error(),
        )
        try:
            return retrying(retried.make_request)
        finally:
            # tenacity's object refers to itself until the thread ends, and would keep the content in memory.
            del retried.request


class _RetriedRequest:
    """One request with its retries."""

    def __init__(self, engine: Engine, request: Request, operation: Operation) -> None:
        self.engine = engine
        self.request = request
        self.pool = engine.pool
        self.sender = engine.sender
        self.prober = engine.prober
        self.clock = engine.clock
        self.operation = operation
        self.deadline = operation.deadline
        self.attempts: list[Attempt] = []
        self.waits = 0
        self.wait = 0.0
        """Seconds before the next request."""
        self.same_node: str | None = None
        """The node to retry on, if the last failure was not the node's."""
        self.busy_node: str | None = None
        """The node that did not receive or answer a store in time."""
        self.closed_by: dict[str, int] = {}
        """How often each node closed the connection without an answer."""
        self.fresh = False
        """Send the next request over a new connection."""
        self.maybe_stored = False
        """A store was sent, at least in part, and not answered."""
        self.unknown: tuple[str, ...] = ()
        """The nodes before the chosen one that do not respond."""
        self.gone: tuple[str, ...] = ()
        """The nodes before the chosen one that refused a connection of this operation or an earlier one."""
        self.refused_by: set[str] = set()
        """The nodes that refused this operation a connection."""

    def make_request(self) -> Done:
        """Make the next request, and another one if a node before the one that answered is back."""
        self._check_cancelled()
        if self._left() <= 0:
            raise self._deadline_exceeded()
        if self.busy_node is not None:
            self._await_status(self.busy_node)
        node = self._choose()
        request = self.request
        if self.pool.abandoned_writes[node]:
            self._await_abandoned_write(node)
        ticket = self.pool.ticket(node)
        started = self.clock.now()
        try:
            answer = once_more_fresh(
                lambda fresh: self.sender.send(node, request, self.operation, fresh=fresh),
                # The node may have closed a reused connection, and this body can be sent only once.
                fresh=self.fresh or not request.repeatable,
            )
            answer_or_miss = judge(request.kind, answer)
        except Failure as failure:
            if request.kind is RequestKind.STORE and failure.phase in (Phase.SEND, Phase.HEAD, Phase.BODY):
                self.maybe_stored |= failure.outcome in (Outcome.TIMEOUT, Outcome.NOT_TAKEN, Outcome.DEADLINE)
                # A node stores nothing of a body that was cut off.
                self.maybe_stored |= failure.outcome is Outcome.LOCAL and failure.phase is not Phase.SEND
            attempt = self._note_attempt(node, started, failure)
            self._failed(node, ticket, attempt, action_for(request.kind, failure.outcome), failure)
        finds_no_table = answer_or_miss is None or request.kind is RequestKind.DELETE
        if finds_no_table and self.gone and self._any_is_back():
            return self.make_request()
        if node != request.nodes[0] and request.kind is not RequestKind.PRESENCE:
            self._log_failover(node)
        return Done(node, answer_or_miss, tuple(self.attempts), self.unknown)

    def _log_failover(self, node: str) -> None:
        name, home, what = redacted(node), redacted(self.request.nodes[0]), self.request.what
        failed = {attempt.node: attempt.outcome for attempt in self.attempts if attempt.node != name}
        if failed:
            listed = ", ".join(f"{other} ({outcome})" for other, outcome in failed.items())
            _log.info("%s: failed over from %s to %s", what, listed, name)
            return
        # A node that is down may be the home of thousands of tables.
        level = logging.INFO if self.operation.part_of is None else logging.DEBUG
        _log.log(level, "%s: sent to %s instead of its home node %s", what, name, home)

    def must_stop(self) -> bool:
        """Whether the limit is reached, or the deadline is before the next request."""
        return len(self.attempts) >= self.engine.limit or self._left() <= self.wait

    def sleep(self, seconds: float) -> None:
        """Wait; raises OperationCancelled within 0.2 s of a cancellation."""
        end = self.clock.now() + seconds
        while (left := end - self.clock.now()) > 0:
            self._check_cancelled()
            self.clock.sleep(min(left, _SLICE))
        self._check_cancelled()

    def log_retry(self) -> None:
        """Log the failure and what the client does next, once for each retry."""
        _log.warning(
            "%s: failed request %d of at most %d: %s; %s",
            self.request.what,
            len(self.attempts),
            self.engine.limit,
            self.attempts[-1],
            self._next_step(),
        )

    def _next_step(self) -> str:
        failing = self.pool.failing
        if self.busy_node is not None and self.busy_node not in failing:
            return "the node is busy: the client retries once, when the node responds to a status request"
        node = self.same_node or next((node for node in self.request.nodes if node not in failing), None)
        if node is None:
            return "no other node is alive" if len(self.request.nodes) > 1 else "no other node is asked"
        when = f" in {self.wait:.2f} s" if self.wait >= _SHORTEST_LOGGED_WAIT else ""
        same = self.attempts[-1].node == redacted(node)
        return f"the client retries{when}" if same else f"the client asks {redacted(node)}{when}"

    def raise_error(self) -> NoReturn:
        count = len(self.attempts)
        last = self.attempts[-1]
        if last.outcome is Outcome.LOCAL and not self.maybe_stored:
            raise self._local_error(last.cause) from last.cause
        if count >= self.engine.limit:
            raise self._error(
                errors.TooManyConsecutiveErrors,
                f"{count} requests failed, which is the limit; the last one: {last}. Check these nodes, or "
                "increase `consecutive_error_count_limit`.",
            ) from last.cause
        raise self._deadline_exceeded() from last.cause

    # Before a request.

    def _check_cancelled(self) -> None:
        if self.operation.cancelled:
            raise self._error(errors.OperationCancelled, "cancelled")

    def _left(self) -> float:
        return self.deadline - self.clock.now()

    def _choose(self) -> str:
        """The first living node in the key's order; the same one if the last failure was not the node's."""
        same_node, self.same_node = self.same_node, None
        waits = 0
        while True:
            failing = self.pool.failing
            # A busy node has just answered its status: a failure of another operation does not matter.
            if same_node is not None and (same_node not in failing or same_node == self.busy_node):
                return same_node
            if not failing:
                self.unknown = self.gone = ()
                return self.request.nodes[0]
            silent: list[str] = []
            gone: list[str] = []
            for node in self.request.nodes:
                if node not in failing:
                    self.unknown, self.gone = tuple(silent), tuple(gone)
                    return node
                (gone if self.pool.is_gone(node) else silent).append(node)
            self._await_any_node(waits)
            waits += 1

    def _any_is_back(self) -> bool:
        """Whether a node that refused a connection answers now: another client may have stored there.

        Nodes that do not respond are added to ``unknown``. Nodes that refused this operation are skipped.
        """
        silent = []
        for node in self.gone:
            if node in self.refused_by:
                continue
            outcome = self._probe_gone_node(node)
            if outcome is None:
                return True
            if outcome is not Outcome.REFUSED:
                silent.append(node)
        if silent:
            self.unknown = tuple(node for node in self.request.nodes if node in {*self.unknown, *silent})
        return False

    def _probe_gone_node(self, node: str) -> Outcome | None:
        """Ask a failing node for its status: how that failed, or None if the node is alive again."""
        while (ticket := self.pool.begin_probe(node)) is None:
            if node not in self.pool.failing:
                return None
            # The result of another thread's probe may be older than this operation.
            self.prober.wait((node,), self.deadline, self._check_cancelled)
            if self._left() <= 0:
                return Outcome.DEADLINE
        started = self.clock.now()
        failure = None
        try:
            self.sender.status(node, self.operation)
        except Failure as error:
            failure = error
        except BaseException:
            self.pool.abandon_probe(node, ticket)
            raise
        if failure is not None and failure.outcome is Outcome.REFUSED:
            self.refused_by.add(node)
            self.pool.abandon_probe(node, ticket)  # it still counts as gone
            return failure.outcome
        if self.pool.end_probe(node, ticket, failure) or failure is None:
            return None
        self._check_cancelled()
        if failure.outcome is Outcome.LOCAL:
            attempt = self._note_attempt(node, started, failure)
            self._failed(node, ticket, attempt, Action.WAIT, failure)
        return failure.outcome

    def _await_any_node(self, waits: int) -> None:
        """Probe all nodes, which are failing, and wait for the first that answers."""
        nodes = self.request.nodes
        if waits:
            self.sleep(min(self._status_wait(waits), max(0.0, self._left())))
            if self._left() <= 0:
                raise self._no_cache(f"no response before the deadline, in {waits} rounds of status requests")
        self.prober.start(nodes)
        local = self.prober.wait(nodes, self.deadline, self._check_cancelled)
        self._check_cancelled()
        if any(node not in self.pool.failing for node in nodes):
            return
        may_wait = self._left() > 0 and self.engine.policy.wait_for_nodes and self.request.wait_for_nodes
        if local is not None and not may_wait:
            raise self._local_error(local) from local
        if not may_wait:
            when = " before the deadline" if self._left() <= 0 else ""
            raise self._no_cache(f"no response to a status request{when}")
        if not waits and self.pool.begin_wait(self.deadline):
            self._log_wait()

    def _log_wait(self) -> None:
        left = self._left()
        until = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=left)
        listed = "".join(f"\n  {node}: {error}" for node, error in self._errors_of_nodes().items())
        _log.warning(
            "%s: no node responds. The client waits until %s (%s), as the settings wait_for_nodes and "
            "deadline say. Check that the nodes run and that their addresses are right:%s",
            self.request.what,
            f"{until:%Y-%m-%d %H:%M:%S} UTC",
            f"{left:.0f} s" if left >= 1 else f"{left:.1f} s",
            listed,
        )

    def _errors_of_nodes(self) -> dict[str, str]:
        return {redacted(node): self.pool.last_error(node) or "not asked" for node in self.request.nodes}

    def _no_cache(self, why: str) -> errors.NoCacheAvailable:
        nodes = self._errors_of_nodes()
        some = "the node cannot" if len(nodes) == 1 else f"none of {len(nodes)} nodes can"
        return self._error(
            errors.NoCacheAvailable,
            f"{some} be used: {why}. Check that the nodes run, that their addresses, with http or https, are "
            "right and that this machine can reach them.",
            nodes=nodes,
        )

    def _status(self, node: str, ends: Callable[[Outcome], bool]) -> tuple[int, Failure | None]:
        """Ask for a node's status until the node answers, or fails with an outcome that ``ends``.

        That takes until the deadline at most, and a store without a deadline one store timeout. Returns the
        ticket of the last request, and how it failed; None if the node answered.
        """
        until = self.deadline
        if until == _FOREVER and self.request.kind is RequestKind.STORE:
            until = self.clock.now() + self.sender.store_time(self.request)
        waits = 0
        while True:
            ticket = self.pool.ticket(node)
            try:
                self.sender.status(node, self.operation.until(until))
            except Failure as error:
                failure = error
            else:
                return ticket, None
            self._check_cancelled()
            waits += 1
            pause = self._status_wait(waits)
            if ends(failure.outcome) or self.clock.now() + pause >= until:
                return ticket, failure
            self.sleep(pause)

    def _await_status(self, node: str) -> None:
        """Wait for a busy node's status."""
        certain = {Outcome.REFUSED, *OUTCOMES_OF_LIVING_NODES}
        ticket, failure = self._status(node, certain.__contains__)
        if failure is None or failure.outcome in OUTCOMES_OF_LIVING_NODES:
            self.same_node = node  # it is up: if its status fails, the request itself fails likewise
        elif failure.outcome is Outcome.REFUSED:
            # The process has ended, and cannot store the table any more: use the next node.
            self.pool.fail(node, ticket, self.attempts[-1].reason, gone=True)
            self.same_node = None
        else:
            raise self._uncertain(f"and the node {self._no_status()}")

    def _await_abandoned_write(self, node: str) -> None:
        """Wait for status replies first, so that an abandoned write cannot be applied after this request.

        A store waits as for a busy node. For any other request a node that does not respond fails.
        """
        is_store = self.request.kind is RequestKind.STORE
        started = self.clock.now()
        timeouts = {Outcome.TIMEOUT, Outcome.DEADLINE}
        ticket, failure = self._status(node, lambda found: not is_store or found not in timeouts)
        if failure is None or failure.outcome is Outcome.UNAUTHORIZED:
            return  # in the second case the node will refuse the request as well
        attempt = self._note_attempt(node, started, failure)
        if failure.outcome in timeouts and (is_store or self._left() <= 0):
            if not is_store and attempt.seconds >= self.engine.read_timeout:
                self.pool.fail(node, ticket, attempt.reason)
            raise self._deadline_exceeded(
                f"{redacted(node)} may still apply an earlier store or delete, which was abandoned, and "
                f"{self._no_status()}"
            )
        actions = {Outcome.CERTIFICATE_REJECTED: Action.RAISE, Outcome.LOCAL: Action.WAIT}
        action = actions.get(failure.outcome, Action.NEXT_NODE)
        self._failed(node, ticket, attempt, action, failure)

    def _no_status(self) -> str:
        end = "within one store timeout" if self.deadline == _FOREVER else "before the deadline"
        return f"did not respond to a status request {end}"

    # After a failed request.

    def _note_attempt(self, node: str, started: float, failure: Failure) -> Attempt:
        """Add a failed request to the attempts and the node's statistics."""
        cause = failure.cause
        if cause is not None:
            # The result refers to its attempts, and must not refer to the table.
            errors.forget_traceback(cause)
        elif failure.detail:
            cause = UnexpectedServerResponse(failure.detail, status=failure.status)
        seconds = self.clock.now() - started
        outcome = failure.outcome
        attempt = Attempt(redacted(node), failure.phase, outcome, seconds, failure.status, cause)
        if outcome is Outcome.CANCELLED:
            return attempt
        self.attempts.append(attempt)
        of_the_node = outcome is not Outcome.LOCAL
        if of_the_node and (outcome is not Outcome.REFUSED_REQUEST or self.request.kind is RequestKind.STORE):
            self.pool.count(node, COUNTERS.get(outcome, "unknown_error"))
        self.engine.on_attempt_failed(attempt)
        return attempt

    def _failed(self, node: str, ticket: int, attempt: Attempt, action: Action, failure: Failure) -> NoReturn:
        """Raise _RequestFailed for a retry, or the error that ends the operation."""
        if attempt.outcome is Outcome.CANCELLED:
            raise self._error(errors.OperationCancelled, "cancelled") from attempt.cause
        self.fresh = False
        self.wait = 0.0
        refused = attempt.outcome is Outcome.REFUSED
        if action is Action.END:
            # A node is slow only if it had the whole read timeout.
            if attempt.seconds >= self.engine.read_timeout and self.request.kind is not RequestKind.STORE:
                self.pool.fail(node, ticket, attempt.reason)
            raise self._deadline_exceeded() from attempt.cause
        if action is Action.RAISE:
            raise self._permanent(node, attempt, failure) from attempt.cause
        if refused:
            self.refused_by.add(node)
        if action is Action.NEXT_NODE:
            self.pool.fail(node, ticket, attempt.reason, gone=refused)
            all_fail = all(candidate in self.pool.failing for candidate in self.request.nodes)
            if all_fail and len(self.attempts) > len(self.request.nodes):
                self.wait = self._next_wait()
        elif action is Action.ASK_STATUS:
            self.wait = self._ask_status(node, ticket, attempt)
        elif action is Action.WHEN_READY:
            last = self.busy_node is not None or len(self.attempts) >= self.engine.limit
            if last or not self.request.repeatable:
                raise self._uncertain("and the store is not retried") from attempt.cause
            self.busy_node = node
        else:  # Action.WAIT
            self.wait = self._overload_wait(failure)
            self.same_node = node
        to_next = action in (Action.NEXT_NODE, Action.ASK_STATUS) and self.same_node is None
        if to_next and node == self.busy_node and not (refused or self.pool.is_gone(node)):
            # The node had the table for a store timeout, and may still store it.
            raise self._uncertain("and the store is not retried on another node") from attempt.cause
        if not self.request.repeatable:
            if attempt.outcome is Outcome.LOCAL:
                raise self._local_error(attempt.cause) from attempt.cause
            raise self._error(
                errors.BodyNotRepeatable,
                "the request failed, and its body cannot be read again for a retry. Pass a path, a seekable "
                "file, or a function that returns a fresh iterator.",
            ) from attempt.cause
        raise _RequestFailed(str(attempt))

    def _ask_status(self, node: str, ticket: int, attempt: Attempt) -> float:
        """Find out whether a node closed the connection because of the request; returns seconds to wait."""
        times = self.closed_by[node] = self.closed_by.get(node, 0) + 1
        try:
            self.sender.status(node, self.operation)
        except Failure as failure:
            self._check_cancelled()
            if failure.outcome is Outcome.LOCAL:  # says nothing about the node
                self.closed_by[node] -= 1
                self.same_node = node
                return self._next_wait()
            self.pool.fail(node, ticket, attempt.reason, gone=failure.outcome is Outcome.REFUSED)
            return 0.0
        if times >= 2:
            raise self._error(
                errors.ClosedWithoutAnswer,
                f"{redacted(node)} closes the connection on this request without an answer, and answers "
                "status requests, so that the request is the cause. Check for a table larger than the node's "
                "cache, headers over 64 KiB, or an Authorization header that a node cannot parse.",
            ) from attempt.cause
        self.same_node = node
        self.fresh = True
        return self._next_wait()

    def _overload_wait(self, failure: Failure) -> float:
        asked = failure.retry_after
        if asked is None:
            return self._next_wait()
        room = _LONGEST_RETRY_AFTER if self.deadline == _FOREVER else self._left()
        if asked > room:
            allowed = f"the {room:.3g} s that are left"
            if self.deadline == _FOREVER:
                allowed = f"the {room:g} s that an operation without a deadline waits"
            raise self._error(
                errors.NodeOverloaded,
                f"{self.attempts[-1].node} is overloaded, and asks to wait {asked:g} s, longer than "
                f"{allowed}. Try again later, or set a longer `deadline`.",
                retry_after=asked,
            )
        return asked

    def _next_wait(self) -> float:
        self.waits += 1
        return self._random_wait(self.waits)

    def _random_wait(self, number: int) -> float:
        policy = self.engine.policy
        longest = min(policy.wait_max, policy.wait_initial * 2.0 ** min(number - 1, 60))
        return self.engine.rng.uniform(0.0, longest)

    def _status_wait(self, number: int) -> float:
        return max(_BETWEEN_STATUSES, self._random_wait(number))

    # Errors.

    def _error(self, kind: type[_Error], why: str, **fields: Any) -> _Error:
        return kind(f"{self.request.what}: {why}", attempts=self.attempts, **fields)

    def _deadline_exceeded(self, why: str = "") -> QClientException:
        if self.maybe_stored:
            return self._uncertain("and the deadline passed")
        count = len(self.attempts)
        if not count:
            why = why or "the deadline passed before a request was made"
            to_do = "Increase `deadline`"
        else:
            requests = "one failed request" if count == 1 else f"{count} failed requests"
            why = why or f"the deadline passed after {requests}; the last one: {self.attempts[-1]}"
            setting = "store_timeout" if self.deadline == _FOREVER else "deadline"
            to_do = f"Check the node, or increase `{setting}`"
        return self._error(errors.DeadlineExceeded, f"{why}. {to_do}.")

    def _local_error(self, cause: BaseException | None) -> errors.LocalResourceError:
        return errors.local_resource_error(self.request.what, cause, self.attempts)

    def _uncertain(self, why: str) -> errors.StoreUncertain:
        return self._error(
            errors.StoreUncertain,
            f"the table was sent, the node did not acknowledge it, {why}. The node may have the new table, "
            "the old one or none. Store the table again; increase `store_timeout` if the node is slow.",
        )

    def _permanent(self, node: str, attempt: Attempt, failure: Failure) -> QClientException:
        """The error for a failure that no retry helps."""
        name, status, outcome = redacted(node), attempt.status, attempt.outcome
        if outcome is Outcome.CERTIFICATE_REJECTED:
            return self._error(
                errors.CertificateRejected,
                f"no TLS connection to {name}: {attempt.cause}. Check `verify` (`ca_file` of a connection: "
                "the CA that signed the node's certificate), the name in the node's address, the "
                "certificate's dates, and `cert` (`cert_file`) if the node requires a client certificate.",
            )
        if outcome is Outcome.TOO_LARGE:
            return self._error(
                errors.ResponseTooLarge,
                f"the response of {name} is larger than max_response_bytes. Select fewer rows or columns, or "
                "increase `max_response_bytes`.",
                status=status,
            )
        if outcome is Outcome.UNSUPPORTED_ENCODING:
            why = f"the response of {name} cannot be decoded here: {attempt.cause}"
            return self._error(UnexpectedServerResponse, why, status=status)
        if outcome is Outcome.UNAUTHORIZED:
            why = f"{name}: {attempt.cause}."
            if status == 401:
                why = (
                    f"{name} refuses the credentials, or requires some (401). Check the login and password "
                    "(`auth`), and the netrc file."
                )
            return self._error(errors.AuthenticationFailed, why)
        body = failure.answer.text_for_error() if failure.answer is not None else ""
        detail = f": {failure.detail}." if failure.detail else "."
        is_query = self.request.kind is RequestKind.QUERY
        if is_query and status == 400:
            why = f"{name} cannot process it: {body}"
            if unknown := re.fullmatch(r'\{"error": "Unknown column: (.*)"\}', body):
                why += f""" Write a text value with quotes within its quotes: "'{unknown[1]}'"."""
            return self._error(errors.MalformedQueryException, why)
        if is_query and status == 406:
            return self._error(
                errors.UnsupportedAcceptType,
                f"{name} cannot answer in the requested content type: pass accept='application/json' or "
                "'text/csv'.",
            )
        if is_query and status == 500:
            detail += (
                " A node also answers 500 to some mistakes in queries, such as an aggregate of a column that "
                "does not exist: check the query."
            )
        # A node answers 400 without a body to a table larger than its cache, and keeps the old table.
        loses_table = status in (415, 500) or (status == 400 and body)
        if self.request.kind is RequestKind.STORE and loses_table:
            detail += " The table that the node had under this key is lost."
        why = f"{name} answered {status}{detail} Response body: {body!r}"
        return self._error(UnexpectedServerResponse, why, status=status)
