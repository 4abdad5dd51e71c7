"""Whether each node of a connection can be used: what Airflow's Test button says.

Nodes are asked past the client's retries and states: each once, and what was met is told as it is.
"""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING, Final

from airflow_provider_qcache.client.clock import SystemClock
from airflow_provider_qcache.client.errors import Outcome, Phase
from airflow_provider_qcache.client.transport import Failure, Limit, NodeTransport, TransportSettings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from airflow_provider_qcache.client.clock import Clock
    from airflow_provider_qcache.client.transport import Answer

LONGEST: Final = 10.0
"""Seconds the whole may take, whatever the timeouts are: someone waits before a form."""

_LARGEST: Final = 64 * 1024
_HEADERS: Final = b"Accept-Encoding: identity\r\n"
_TIMEOUTS: Final = frozenset({Outcome.TIMEOUT, Outcome.NOT_TAKEN, Outcome.DEADLINE})
_CONNECTING: Final = frozenset({Phase.NAME, Phase.CONNECT, Phase.TLS})


@dataclasses.dataclass(frozen=True, slots=True)
class NodeCheck:
    """A node that was asked: ``seconds`` until it answered, or what the trouble with it is."""

    node: str
    seconds: float
    trouble: str | None

    def __str__(self) -> str:
        if self.trouble is None:
            return f"{self.node}: OK, {1000 * self.seconds:.0f} ms"
        return f"{self.node}: {self.trouble}"


def check_nodes(arguments: Mapping[str, Any]) -> list[NodeCheck]:
    """Ask every node for its status, all at once: within connect plus read timeout, 10 s at most.

    Args:
        arguments: Those of a QClient.
    """
    clock = SystemClock()
    settings = TransportSettings(
        store_timeout=None,
        max_response_bytes=_LARGEST,
        **{name: arguments[name] for name in _SHARED},
    )
    limit = min(LONGEST, settings.connect_timeout + settings.read_timeout)
    nodes: list[str] = arguments["node_list"]
    checks: dict[str, NodeCheck] = {}
    started = clock.now()

    def ask(node: str) -> None:
        trouble = _trouble(node, settings, clock, started + limit)
        checks[node] = NodeCheck(node, clock.now() - started, trouble)

    # Daemons: a name look-up can be ended by nobody, and is not waited for.
    threads = [threading.Thread(target=ask, args=(node,), name="qcache-test", daemon=True) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, started + limit + 0.25 - clock.now()))
    late = f"timeout: its name was not looked up within {limit:g} s"
    return [checks.get(node) or NodeCheck(node, limit, late) for node in nodes]


_SHARED: Final = ("connect_timeout", "read_timeout", "verify", "cert", "auth", "trust_env")


def _trouble(node: str, settings: TransportSettings, clock: Clock, deadline: float) -> str | None:
    try:
        transport = NodeTransport(node, settings)
    except ValueError as error:
        return str(error)
    try:
        answer = transport.exchange("GET", "/status", _HEADERS, None, Limit(clock.now, deadline))
    except Failure as failure:
        return _told(failure, settings)
    finally:
        transport.close()
    return _judged(answer)


def _told(failure: Failure, settings: TransportSettings) -> str:
    outcome, phase = failure.outcome, failure.phase
    if outcome is Outcome.REFUSED:
        return "connection refused: nothing listens there"
    if outcome is Outcome.UNRESOLVED:
        return f"name unknown: {failure}"
    if outcome is Outcome.CONNECT_TIMEOUT or (outcome is Outcome.DEADLINE and phase in _CONNECTING):
        within = f"within {min(settings.connect_timeout, LONGEST):g} s (connect_timeout)"
        if phase is Phase.TLS:
            return f"timeout: no TLS {within}; does it speak http?"
        return f"timeout: no connection {within}"
    if outcome in _TIMEOUTS:
        return "timeout: it takes the connection and does not answer; it is busy, stopped or no QCache"
    if outcome is Outcome.CERTIFICATE_REJECTED:
        return f"certificate rejected: {failure}. Check ca_file, cert_file and the node's name"
    if outcome is Outcome.CLOSED:
        return "closed without an answer: does it speak https, or is it no QCache?"
    if outcome is Outcome.TLS_FAILED:
        return f"TLS failed: {failure}. Does it speak http?"
    if outcome in (Outcome.NOT_QCACHE, Outcome.TOO_LARGE, Outcome.UNDECODABLE):
        return "not a QCache: its answer is none of QCache's"
    return f"{outcome}: {failure}"


def _judged(answer: Answer) -> str | None:
    if answer.status == 200 and answer.content.strip() == b"OK":
        return None
    if answer.status == 401:
        return "401: it refuses the credentials, or wants some: check login and password"
    if answer.status in (502, 503, 504):
        return f"{answer.status}: a proxy answers for it; the node is down or the proxy cannot reach it"
    return f"not a QCache: its status page answers {answer.status} and not 200 OK"
