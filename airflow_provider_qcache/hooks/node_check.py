"""Check whether each node of a connection can be used, for Airflow's Test button.

Each node is asked once, without the client's retries and node states, so that every problem is reported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from typing import TYPE_CHECKING, Final

from airflow_provider_qcache.client.errors import Outcome, Phase
from airflow_provider_qcache.client.outcome import UNAVAILABLE, Failure
from airflow_provider_qcache.client.settings import ClientSettings, SystemClock
from airflow_provider_qcache.client.transport import Limit, NodeTransport, Request
from airflow_provider_qcache.node_identity import two_names

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping
    from typing import Any

    from airflow_provider_qcache.client.outcome import Answer
    from airflow_provider_qcache.client.transport import Peer

LONGEST: Final = 10.0
"""Seconds that the whole check may take, whatever the timeouts are: a user waits for the form."""

UNDER_ANOTHER_NAME: Final = "under another name"
"""In the trouble of a node that is listed twice."""

_LARGEST: Final = 64 * 1024
_SHARED: Final = ("connect_timeout", "read_timeout", "verify", "cert", "auth", "trust_env")
_HEADERS: Final = b"Accept-Encoding: identity\r\n"
_CONNECTING: Final = frozenset({Phase.NAME, Phase.CONNECT, Phase.TLS})


@dataclasses.dataclass(frozen=True, slots=True)
class NodeCheck:
    """The check of one node: ``seconds`` until it answered, or its ``trouble``.

    ``same_as`` is an earlier node of the list with the same address.
    """

    node: str
    seconds: float
    trouble: str | None
    same_as: str | None = None

    def __str__(self) -> str:
        if self.trouble is not None:
            return f"{self.node}: {self.trouble}"
        text = f"{self.node}: OK, {1000 * self.seconds:.0f} ms"
        if self.same_as is not None:
            text += f", at the same address as {self.same_as}: list a node once; behind one proxy, no older "
            text += "table can be evicted there"
        return text


def check_nodes(arguments: Mapping[str, Any], *, longest: float) -> list[NodeCheck]:
    """Ask every node of a QClient's arguments for its status, all at once.

    That takes connect plus read timeout, and ``longest`` seconds at most.
    """
    clock = SystemClock()
    settings = ClientSettings(
        store_timeout=None,
        max_response_bytes=_LARGEST,
        **{name: arguments[name] for name in _SHARED},
    )
    limit = max(0.0, min(longest, settings.connect_timeout + settings.read_timeout))
    nodes: list[str] = arguments["node_list"]
    checks: dict[str, NodeCheck] = {}
    started = clock.now()
    peers: dict[str, Peer] = {}
    contexts: dict[bool | str, ssl.SSLContext] = {}
    reading = threading.Lock()
    """Held while files of certificates are read, so that the next node finds them in ``contexts``."""

    def ask(node: str) -> None:
        try:
            with reading if node.lower().startswith("https:") else contextlib.nullcontext():
                transport = NodeTransport(node, settings, contexts)
        except ValueError as error:
            trouble: str | None = str(error)
        else:
            request = Request("GET", "/status", _HEADERS, peers=peers)
            try:
                trouble = _trouble_in(transport.exchange(request, Limit(clock.now, started + limit)))
            except Failure as failure:
                trouble = _trouble_of(failure, settings)
            finally:
                transport.close()
        checks[node] = NodeCheck(node, clock.now() - started, trouble)

    # Daemons: a name look-up cannot be ended, so the check does not wait for it.
    threads = [threading.Thread(target=ask, args=(node,), name="qcache-test", daemon=True) for node in nodes]
    for thread in threads:
        thread.start()
    same = None
    with contextlib.suppress(ValueError):  # an invalid node is its own trouble
        same = two_names(nodes, seconds=limit)
    for thread in threads:
        thread.join(max(0.0, started + limit + 0.25 - clock.now()))

    def late(node: str) -> NodeCheck:
        files = ", or the certificate files could not be read," if node.lower().startswith("https:") else ""
        return NodeCheck(node, limit, f"timeout: its name could not be resolved{files} within {limit:.2g} s")

    listed = [checks.get(node) or late(node) for node in nodes]
    first: dict[tuple[str, int], str] = {}
    for number, check in enumerate(listed):
        node = check.node
        one = first.setdefault(peers[node][:2], node) if node in peers else node
        if check.trouble is None and same is not None and node == same[1]:
            trouble = f"it is {same[0]} {UNDER_ANOTHER_NAME}: list each node once"
            listed[number] = dataclasses.replace(check, trouble=trouble)
        elif one != node:
            listed[number] = dataclasses.replace(check, same_as=one)
    return listed


def _trouble_of(failure: Failure, settings: ClientSettings) -> str:
    outcome, phase = failure.outcome, failure.phase
    if failure.by_proxy:
        return f"{outcome}: {failure}"
    if outcome is Outcome.CONNECT_TIMEOUT or (outcome is Outcome.DEADLINE and phase in _CONNECTING):
        within = f"within {min(settings.connect_timeout, LONGEST):g} s (connect_timeout)"
        if phase is Phase.TLS:
            return f"timeout: no TLS {within}; does it use http?"
        return f"timeout: no connection {within}"
    silent = "timeout: it accepts the connection and does not answer; it is busy, stopped, or not a QCache"
    not_qcache = "not a QCache: its response is not one that QCache sends"
    known = {
        **dict.fromkeys((Outcome.TIMEOUT, Outcome.NOT_TAKEN, Outcome.DEADLINE), silent),
        **dict.fromkeys((Outcome.NOT_QCACHE, Outcome.TOO_LARGE, Outcome.UNDECODABLE), not_qcache),
        Outcome.REFUSED: "connection refused: nothing listens there",
        Outcome.UNRESOLVED: f"name unknown: {failure}",
        Outcome.CERTIFICATE_REJECTED: (
            f"certificate rejected: {failure}. Check ca_file, cert_file and the node's name"
        ),
        Outcome.CLOSED: "closed without an answer: does it use https, or is it not a QCache?",
        Outcome.TLS_FAILED: f"TLS failed: {failure}. Does it use http?",
    }
    return known.get(outcome, f"{outcome}: {failure}")


def _trouble_in(answer: Answer) -> str | None:
    if answer.status == 200 and answer.content.strip() == b"OK":
        return None
    if answer.status == 401:
        return "401: the node refuses the credentials, or requires some: check login and password"
    if answer.status in UNAVAILABLE:
        why = answer.from_proxy or "a proxy answered: the node is down, or the proxy cannot reach it"
        return f"{answer.status}: {why}"
    return f"not a QCache: its status page answers {answer.status} and not 200 OK"
