"""A clock that is turned by hand, and nodes that meet what a list says."""

from __future__ import annotations

import email.message
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from airflow_provider_qcache.client.errors import Outcome, Phase
from airflow_provider_qcache.client.nodes import NodePool
from airflow_provider_qcache.client.outcome import Kind
from airflow_provider_qcache.client.retry import Request, Span
from airflow_provider_qcache.client.transport import Answer, Failure


class SimulatedClock:
    """Time passes when someone sleeps."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.slept.append(seconds)
        self.time += seconds


@dataclass(frozen=True)
class Meets:
    """What a request meets, and after how many seconds. `status` is an answer's, else there is none."""

    outcome: Outcome = Outcome.ANSWERED
    status: int = 0
    seconds: float = 0.0
    retry_after: str | None = None
    unsliced: bool = True


SUCCESS = {Kind.QUERY: 200, Kind.STORE: 201, Kind.DELETE: 200}


def answer(meets: Meets, kind: Kind) -> Answer:
    headers = email.message.Message()
    if meets.retry_after is not None:
        headers["Retry-After"] = meets.retry_after
    if meets.unsliced:
        headers["X-QCache-unsliced-length"] = "0"
    headers["Content-Type"] = "application/json; charset=utf-8"
    return Answer(meets.status or SUCCESS[kind], headers, b"[]", None)


@dataclass
class SimulatedWire:
    """Nodes without a network: `requests` and `statuses` say what each next request or probe meets."""

    clock: SimulatedClock
    pool: NodePool
    requests: Iterator[Meets]
    statuses: Iterator[Meets]
    connect_timeout: float = 1.0
    read_timeout: float = 2.0
    sent: list[tuple[str, Meets]] = field(default_factory=list)

    def send(self, node: str, request: Request, span: Span, *, fresh: bool) -> Answer:
        meets = next(self.requests)
        self.sent.append((node, meets))
        self._spend(meets.seconds, span.deadline)
        if meets.outcome is not Outcome.ANSWERED:
            raise Failure(meets.outcome, PHASES.get(meets.outcome, Phase.BODY))
        return answer(meets, request.kind)

    def status(self, node: str, span: Span) -> None:
        meets = next(self.statuses)
        self._spend(min(meets.seconds, self.connect_timeout + self.read_timeout), span.deadline)
        if meets.outcome is not Outcome.ANSWERED:
            raise Failure(meets.outcome, Phase.HEAD)

    def probe(self, nodes: Iterable[str]) -> None:
        self._probed = [
            (node, ticket) for node in nodes if (ticket := self.pool.begin_probe(node)) is not None
        ]

    def await_probes(self, nodes: Sequence[str], until: float, check: Callable[[], None]) -> None:
        for node, ticket in self._probed:
            try:
                self.status(node, Span(until))
            except Failure as failure:
                self.pool.end_probe(node, ticket, str(failure), gone=failure.outcome is Outcome.REFUSED)
            else:
                self.pool.end_probe(node, ticket, None)

    def _spend(self, seconds: float, deadline: float) -> None:
        left = deadline - self.clock.now()
        if seconds >= left:
            self.clock.time += max(0.0, left)
            raise Failure(Outcome.DEADLINE, Phase.HEAD)
        self.clock.time += seconds


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
