"""A clock that tests advance, nodes whose behaviour a list gives, and operations that take turns."""

from __future__ import annotations

import heapq
import itertools
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_qcache.client.errors import Outcome, Phase
from airflow_provider_qcache.client.nodes import NodePool
from airflow_provider_qcache.client.operation import Done, Engine, Operation
from airflow_provider_qcache.client.outcome import Answer, Failure, RequestKind
from airflow_provider_qcache.client.settings import RequestRetry
from airflow_provider_qcache.client.transport import Headers, Request

STORE_TIMEOUT = 20.0
FOREVER = float("inf")


class LongestWaits(random.Random):
    """Makes every wait as long as it may be."""

    def uniform(self, a: float, b: float) -> float:
        return b


class SimulatedClock:
    """Time passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.slept.append(seconds)
        self.spend(seconds)

    def spend(self, seconds: float) -> None:
        """Let time pass without a sleep, as a request does."""
        self.time += seconds


class TurnsClock(SimulatedClock):
    """A clock for tasks that take turns: a task runs until it lets time pass, then the task due next runs.

    Exactly one thread runs at a time, so that the result depends on the tasks alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[tuple[float, int, threading.Event]] = []
        self._numbers = itertools.count()
        self._threads: list[threading.Thread] = []
        self._over = threading.Event()

    def begin(self, task: Callable[[], object], after: float = 0.0) -> None:
        """Add a task, which starts after that many seconds."""
        turn = self._queue(after)

        def run() -> None:
            turn.wait()
            try:
                task()
            finally:
                self._next()

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def run(self) -> None:
        """Run until no task is left."""
        self._next()
        assert self._over.wait(60), "the tasks did not end within 60 s"
        for thread in self._threads:
            thread.join(60)

    def spend(self, seconds: float) -> None:
        turn = self._queue(seconds)
        self._next()
        turn.wait()

    def _queue(self, seconds: float) -> threading.Event:
        turn = threading.Event()
        heapq.heappush(self._waiting, (self.time + seconds, next(self._numbers), turn))
        return turn

    def _next(self) -> None:
        if not self._waiting:
            self._over.set()
            return
        self.time, _, turn = heapq.heappop(self._waiting)
        turn.set()


@dataclass(frozen=True)
class Scripted:
    """What happens to one request, and after how many seconds. `status` is for an answer; 0 is success.

    `reused` is for CLOSED: the connection had been used before, unless the request asked for a fresh
    connection.
    """

    outcome: Outcome = Outcome.ANSWERED
    status: int = 0
    seconds: float = 0.0
    retry_after: str | None = None
    unsliced: bool = True
    reused: bool = False

    def is_success(self, kind: RequestKind) -> bool:
        """Whether a request of this kind succeeds, which includes a miss."""
        if self.outcome is not Outcome.ANSWERED:
            return False
        if kind is RequestKind.QUERY:
            return self.status == 404 or (self.status in (0, 200) and self.unsliced)
        if kind is RequestKind.PRESENCE and self.status == 404:
            return True
        return self.status in (0, SUCCESS[kind])

    def is_permanent(self, kind: RequestKind) -> bool:
        """Whether a retry would change nothing."""
        if self.outcome is not Outcome.ANSWERED:
            return self.outcome in (Outcome.CERTIFICATE_REJECTED, Outcome.TOO_LARGE)
        if self.status in (0, 200) and kind is RequestKind.QUERY:
            return False  # without the unsliced length it is no result, and the client asks another node
        return not self.is_success(kind) and self.status not in (429, 502, 503, 504)


SUCCESS = {RequestKind.QUERY: 200, RequestKind.STORE: 201, RequestKind.DELETE: 200, RequestKind.PRESENCE: 400}


def answer(scripted: Scripted, kind: RequestKind) -> Answer:
    lines = [b"Content-Type: application/json; charset=utf-8\r\n"]
    if scripted.retry_after is not None:
        lines.append(f"Retry-After: {scripted.retry_after}\r\n".encode("latin-1"))
    if scripted.unsliced:
        lines.append(b"X-QCache-unsliced-length: 0\r\n")
    content = b'{"error": "no such clause"}' if kind is RequestKind.PRESENCE else b"[]"
    return Answer(scripted.status or SUCCESS[kind], Headers(lines), content, None)


@dataclass
class Exchange:
    """One request, status request or probe, as the simulated nodes saw it."""

    purpose: str
    """`send`, `status` or `probe`."""
    node: str
    scripted: Scripted
    began: float
    fresh: bool = False
    ended: float = 0.0
    outcome: Outcome | None = None
    """The outcome that the operation saw."""
    cut: bool = False
    """Whether a reused connection ended before any byte of an answer."""


@dataclass
class SimulatedWire:
    """Nodes without a network: `requests` and `statuses` give what happens to each request and probe in turn.

    A request whose body is an iterator takes from that instead. `exchanges` lists all exchanges in order.
    """

    clock: SimulatedClock
    pool: NodePool
    requests: Iterator[Scripted]
    statuses: Iterator[Scripted]
    connect_timeout: float = 1.0
    read_timeout: float = 2.0
    exchanges: list[Exchange] = field(default_factory=list)

    @property
    def sends(self) -> list[Exchange]:
        return [exchange for exchange in self.exchanges if exchange.purpose == "send"]

    @property
    def sent(self) -> list[tuple[str, Scripted]]:
        return [(exchange.node, exchange.scripted) for exchange in self.sends]

    def send(self, node: str, request: Request, operation: Operation, *, fresh: bool) -> Answer:
        own: Any = request.body
        scripted = next(own or self.requests)
        exchange = self._begin("send", node, scripted, fresh=fresh)
        if own is not None:
            own.last = exchange
        return self._end(exchange, request.kind, scripted.seconds, operation)

    def status(self, node: str, operation: Operation) -> None:
        self._ask("status", node, operation)

    def store_time(self, request: Request) -> float:
        return STORE_TIMEOUT

    def _ask(self, purpose: str, node: str, operation: Operation) -> None:
        exchange = self._begin(purpose, node, next(self.statuses))
        seconds = min(exchange.scripted.seconds, self.connect_timeout + self.read_timeout)
        self._end(exchange, RequestKind.DELETE, seconds, operation)

    def _begin(self, purpose: str, node: str, scripted: Scripted, *, fresh: bool = False) -> Exchange:
        exchange = Exchange(purpose, node, scripted, self.clock.now(), fresh)
        self.exchanges.append(exchange)
        return exchange

    def _end(self, exchange: Exchange, kind: RequestKind, seconds: float, operation: Operation) -> Answer:
        scripted = exchange.scripted
        left = operation.deadline - self.clock.now()
        late = seconds >= left
        self.clock.spend(max(0.0, left) if late else seconds)
        exchange.ended = self.clock.now()
        exchange.outcome = Outcome.DEADLINE if late else scripted.outcome
        if late:
            raise Failure(Outcome.DEADLINE, Phase.HEAD)
        if scripted.outcome is not Outcome.ANSWERED:
            exchange.cut = scripted.outcome is Outcome.CLOSED and scripted.reused and not exchange.fresh
            raise Failure(
                scripted.outcome, PHASES.get(scripted.outcome, Phase.BODY), before_answer=exchange.cut
            )
        return answer(scripted, kind)

    def start(self, nodes: Iterable[str]) -> None:
        self._probed = [
            (node, ticket) for node in nodes if (ticket := self.pool.begin_probe(node)) is not None
        ]

    def wait(self, nodes: Sequence[str], until: float, check: Callable[[], None]) -> None:
        for node, ticket in self._probed:
            self._end_probe(node, ticket, until)

    def _end_probe(self, node: str, ticket: int, until: float) -> None:
        try:
            self._ask("probe", node, Operation(until))
        except Failure as failure:
            self.pool.end_probe(node, ticket, failure)
        else:
            self.pool.end_probe(node, ticket, None)


class WireInTurns(SimulatedWire):
    """The same for operations that take turns: each probe is a task of its own."""

    clock: TurnsClock

    def start(self, nodes: Iterable[str]) -> None:
        for node in nodes:
            ticket = self.pool.begin_probe(node)
            if ticket is not None:
                self.clock.begin(lambda node=node, ticket=ticket: self._end_probe(node, ticket, FOREVER))

    def wait(self, nodes: Sequence[str], until: float, check: Callable[[], None]) -> None:
        while True:
            states = [self.pool.snapshot()[node] for node in nodes]
            if any(known.alive for known in states) or self.clock.now() >= until:
                return
            if not any(known.state == "being probed" for known in states):
                return
            check()
            self.clock.spend(min(0.05, until - self.clock.now()))


PHASES = {
    Outcome.UNRESOLVED: Phase.NAME,
    Outcome.REFUSED: Phase.CONNECT,
    Outcome.CONNECT_TIMEOUT: Phase.CONNECT,
    Outcome.CONNECT_FAILED: Phase.CONNECT,
    Outcome.TLS_FAILED: Phase.TLS,
    Outcome.CERTIFICATE_REJECTED: Phase.TLS,
    Outcome.NOT_TAKEN: Phase.SEND,
    Outcome.CLOSED: Phase.HEAD,
    Outcome.TIMEOUT: Phase.HEAD,
}


class SimulatedCluster:
    """An engine whose nodes and clock are simulated."""

    def __init__(
        self,
        requests: list[Scripted],
        statuses: list[Scripted] | None = None,
        *,
        nodes: int = 3,
        limit: int = 10,
        policy: RequestRetry | None = None,
        seed: int = 0,
        rng: random.Random | None = None,
        in_turns: bool = False,
    ) -> None:
        self.clock = TurnsClock() if in_turns else SimulatedClock()
        self.nodes = [f"http://host{number}:9401" for number in range(nodes)]
        rng = rng or random.Random(seed)
        self.pool = NodePool(self.nodes, clock=self.clock, rng=rng, on_change=self.changed)
        self.wire = (WireInTurns if in_turns else SimulatedWire)(
            self.clock,  # type: ignore[arg-type]
            self.pool,
            itertools.chain(requests, itertools.repeat(requests[-1])),
            itertools.cycle(statuses or [Scripted()]),
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
            on_attempt_failed=lambda attempt: None,
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
        self.running = Operation(self.clock.now() + seconds)
        if part:
            self.running = self.running.until(self.running.deadline)
        return self.engine.run(request, self.running)
