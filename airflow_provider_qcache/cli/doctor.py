"""Check a connection as an expert would: its spelling, its limits, proxies between here and the nodes.

Each check is a function that yields its findings. Nothing is changed, except that reading the statistics,
which only ``--statistics`` does, resets them.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import email.utils
import functools
import socket
import ssl
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

import requests
from requests.utils import get_netrc_auth, select_proxy
from urllib3.exceptions import InsecureRequestWarning

from airflow_provider_qcache.client import QClient
from airflow_provider_qcache.client.certificates import CertificateFileError, ca_bundle, tls_context
from airflow_provider_qcache.connection import InvalidConnection
from airflow_provider_qcache.hooks.node_check import LONGEST, UNDER_ANOTHER_NAME, check_nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from airflow_provider_qcache.connection import ConnectionSettings

_CSV_BYTES_PER_SECOND: Final = 73e6
"""How fast QCache 0.9.3 parses CSV, at least; meanwhile it answers nothing."""
_CLOCKS_APART: Final = 5.0
"""Seconds that two clocks may differ, including the time that an answer takes."""
_CERTIFICATE_LEFT: Final = 30
"""Days before its end at which a certificate should be renewed."""
_SERVER: Final = "TornadoServer"


class Finding(NamedTuple):
    """Something that is wrong or may be, and what to do.

    ``level`` is ``error`` where something does not work, and ``warning`` where it may not or is not safe.
    """

    level: str
    subject: str
    what: str
    advice: str


def examine(
    settings: ConnectionSettings, *, table_bytes: int | None = None, read_statistics: bool = False
) -> list[Finding]:
    """Run every check of a connection.

    ``table_bytes`` is the size of the largest table, if it is known, for the checks of timeouts. Reading the
    statistics resets them for every reader.
    """
    found = [*_spelling(settings.nodes), *_limits(settings, table_bytes), *_security(settings)]
    found += _environment(settings)
    try:
        arguments = settings.client_arguments({"wait_for_nodes": False})
    except InvalidConnection as error:
        what = "no task can use the connection"
        advice = "Change one of the three, or remove them from the netrc file."
        return [Finding("error", "netrc", f"{what}: {error}", advice), *found]
    checked = check_nodes(arguments, longest=LONGEST)
    for check in checked:
        if check.trouble is not None:
            found.append(_in_trouble(check.node, check.trouble))
        elif check.same_as is not None:
            found.append(
                _warning(
                    check.node,
                    f"it is reached at the same address as {check.same_as}",
                    "If one proxy serves both, ignore this. Else they are one node: list it once.",
                )
            )
    asked = _ask(settings.nodes, arguments)
    found += _answers(asked)
    found += _certificates([node for node in asked if node.startswith("https:")], arguments)
    if read_statistics and not any(UNDER_ANOTHER_NAME in (check.trouble or "") for check in checked):
        found += _statistics(settings, arguments)
    return sorted(dict.fromkeys(found), key=lambda finding: finding.level)  # errors first


_warning = functools.partial(Finding, "warning")


def _in_trouble(node: str, trouble: str) -> Finding:
    advice = "Check that the node runs, and that its URL in the connection is right."
    if UNDER_ANOTHER_NAME in trouble:
        trouble = f"{trouble}, since it would own two shares of the keys, and lose tables"
        advice = "List each node once, by the name that every reader uses."
    elif trouble.startswith("401"):
        advice = "Correct login and password, and check that this node has the same ones as the others."
    elif "_file)=" in trouble:
        advice = "Correct the path in the connection, or the file, on each machine that runs tasks."
    elif trouble.startswith("certificate"):
        advice = "Name the CA that signed the node's certificate in ca_file, or renew the certificate."
    elif "https" in trouble or "http?" in trouble:
        advice = (
            "Try the other scheme, http or https, in the node's URL; then spell it so for every reader, too."
        )
    elif "does not answer" in trouble:
        advice = (
            "Ask again when it may have parsed its table. If it stays silent, it is stopped or hangs: "
            "restart it, and store its tables again."
        )
    elif "not a QCache" in trouble or "proxy" in trouble:
        advice = "Open the URL's /qcache/status with curl: another server, or a proxy, answers there."
    return Finding("error", node, trouble, advice)


# The connection by itself.


def _spelling(nodes: tuple[str, ...]) -> Iterator[Finding]:
    """Nodes that are spelled in another way than most: keys are where the spelling says."""
    ways: tuple[tuple[str, Callable[[str], object]], ...] = (
        ("ends in a slash", lambda node: node.endswith("/")),
        ("has upper case in its host", lambda node: urlsplit(node).netloc != urlsplit(node).netloc.lower()),
        ("has no port", lambda node: urlsplit(node).port is None),
        ("has a path", lambda node: urlsplit(node).path.strip("/") != ""),
        ("has the scheme https", lambda node: urlsplit(node).scheme == "https"),
        ("names its domain", lambda node: "." in (urlsplit(node).hostname or "")),
    )
    for way, is_so in ways:
        so = [node for node in nodes if is_so(node)]
        if so and len(so) < len(nodes):
            others = [node for node in nodes if node not in so]
            for node in so if len(so) <= len(others) else others:
                yield _warning(
                    node,
                    f"it {way}, and others do not"
                    if node in so
                    else f"it differs from each other node, which {way}",
                    "A node's spelling decides which keys live on it. Compare it, letter by letter, "
                    "with what the readers have.",
                )


def _limits(settings: ConnectionSettings, table_bytes: int | None) -> Iterator[Finding]:
    """Timeouts against each other, and against the size of tables."""
    warning = functools.partial(_warning, "timeouts")
    clear_store_timeout = "Clear store_timeout: its default follows from the size of the table."
    if settings.deadline <= settings.connect_timeout + settings.read_timeout:
        yield warning(
            f"deadline ({settings.deadline:g} s) is not longer than connect_timeout and read_timeout "
            "together: one silent node uses it up, and no other node is asked",
            "Increase deadline, or decrease read_timeout.",
        )
    if settings.store_timeout is not None and settings.store_timeout < settings.read_timeout:
        yield warning(
            f"store_timeout ({settings.store_timeout:g} s) is shorter than read_timeout "
            f"({settings.read_timeout:g} s): a store takes a node longer than a query",
            clear_store_timeout,
        )
    if table_bytes is None:
        return
    silent = table_bytes / _CSV_BYTES_PER_SECOND
    if settings.read_timeout < silent:
        yield warning(
            f"a node answers nothing for {silent:.1f} s while it parses {table_bytes:,} bytes, and "
            f"read_timeout is {settings.read_timeout:g} s: queries that arrive then fail over to a "
            "node without the table",
            f"Increase read_timeout to {2 * silent:.0f} s, or store smaller tables.",
        )
    if settings.store_timeout is not None and settings.store_timeout < 2 * silent:
        yield warning(
            f"store_timeout is {settings.store_timeout:g} s, and a node takes {silent:.1f} s or more for "
            f"{table_bytes:,} bytes",
            clear_store_timeout,
        )
    if settings.max_response_bytes < table_bytes:
        yield _warning(
            "max_response_bytes",
            f"it is {settings.max_response_bytes:,}, so that a table of {table_bytes:,} bytes cannot be read",
            "Increase max_response_bytes.",
        )


def _security(settings: ConnectionSettings) -> Iterator[Finding]:
    encrypted = [node for node in settings.nodes if urlsplit(node).scheme == "https"]
    if encrypted and not settings.verify:
        yield _warning(
            "verify",
            "it is false: the nodes' certificates are not checked, and anyone in between may answer for them",
            "Set verify to true, and ca_file to the CA's certificates.",
        )
    if settings.auth is not None and len(encrypted) < len(settings.nodes):
        yield _warning(
            "allow_auth_over_http",
            "login and password go to the nodes unencrypted",
            "Start the nodes with TLS (--cert-file), and use https in their URLs everywhere.",
        )


def _environment(settings: ConnectionSettings) -> Iterator[Finding]:
    """What the environment of this process adds to requests."""
    if not settings.trust_env:
        return
    for node in settings.nodes:
        with requests.Session() as session:
            environment = session.merge_environment_settings(node, {}, None, None, None)
        proxy = select_proxy(node, environment["proxies"])
        if proxy is not None:
            parts = urlsplit(proxy)
            yield _warning(
                node,
                f"requests go through the proxy {parts.hostname}:{parts.port}, which the environment sets",
                "If the node can be reached directly, add its host to NO_PROXY, or set trust_env to false.",
            )
        if (
            settings.auth is None
            and (settings.allow_auth_over_http or urlsplit(node).scheme == "https")
            and get_netrc_auth(node) is not None
        ):
            yield _warning(
                node,
                "requests carry credentials from the netrc file",
                "If the node needs none, remove them from the netrc file, or set trust_env to false.",
            )


# The answers.


def _ask(nodes: tuple[str, ...], arguments: Mapping[str, Any]) -> dict[str, requests.Response]:
    """What each node that answers says to a status request, read as any HTTP client reads it."""

    def ask(node: str) -> requests.Response | None:
        # OSError: a file of certificates cannot be read, which the check of the node has said.
        with contextlib.suppress(OSError), requests.Session() as session:
            session.trust_env = arguments["trust_env"]
            return session.get(
                node.rstrip("/") + "/qcache/status",
                timeout=(arguments["connect_timeout"], min(arguments["read_timeout"], LONGEST)),
                verify=arguments["verify"],
                cert=arguments["cert"],
                auth=arguments["auth"],
                allow_redirects=False,
            )
        return None

    with warnings.catch_warnings(), ThreadPoolExecutor(len(nodes)) as threads:
        warnings.simplefilter("ignore", InsecureRequestWarning)  # it is a finding of its own
        answers = dict(zip(nodes, threads.map(ask, nodes), strict=True))
    return {node: answer for node, answer in answers.items() if answer is not None}


def _answers(asked: Mapping[str, requests.Response]) -> Iterator[Finding]:
    """Headers of another server, of a proxy in between, or of a wrong clock."""
    servers = {node: answer.headers.get("Server", "none") for node, answer in asked.items()}
    usual = Counter(servers.values()).most_common(1)
    for node, answer in asked.items():
        if answer.is_redirect:
            yield Finding(
                "error",
                node,
                f"it redirects to {answer.headers.get('Location')}",
                "Redirects are not followed, since the node's spelling decides which keys it has. Have every "
                "reader and writer use the URL of the node itself.",
            )
        server = servers[node]
        if not server.startswith(_SERVER) or server != usual[0][0]:
            others = f", and {usual[0][0]} on the others" if server != usual[0][0] else ""
            yield _warning(
                node,
                f"its Server header is {server!r}{others}; QCache's begins with {_SERVER}",
                "Check what listens there: a proxy in between, another version, or another server.",
            )
        between = [name for name in ("Via", "X-Cache", "Age", "X-Forwarded-For") if name in answer.headers]
        if between:
            yield _warning(
                node,
                f"its answers have the header {', '.join(between)}: a proxy is between here and the node",
                "Connect to the node itself, or have the proxy neither store answers nor retry stores.",
            )
        apart = 0.0
        with contextlib.suppress(KeyError, ValueError):
            date = email.utils.parsedate_to_datetime(answer.headers["Date"])
            apart = (date - dt.datetime.now(dt.UTC)).total_seconds()
        if abs(apart) > _CLOCKS_APART:
            yield _warning(
                node,
                f"its Date header is {abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} this clock",
                "Set the clocks by NTP: with --age a node forgets tables by its own clock. An old Date can "
                "also be a stored answer of a proxy.",
            )


def _certificates(nodes: list[str], arguments: Mapping[str, Any]) -> Iterator[Finding]:
    """Certificates that end soon, of the nodes that answered."""
    if not arguments["verify"]:
        return
    for node in nodes:
        ends = None
        with contextlib.suppress(OSError, CertificateFileError):
            ends = _end_of_certificate(node, arguments)
        if ends is None:
            continue
        days = (ends - dt.datetime.now(dt.UTC)).days
        if days < _CERTIFICATE_LEFT:
            yield _warning(
                node,
                f"its certificate ends on {ends:%Y-%m-%d}, in {days} days",
                "Renew the certificate, and restart the node, which reads it at its start.",
            )


def _end_of_certificate(node: str, arguments: Mapping[str, Any]) -> dt.datetime | None:
    parts = urlsplit(node)
    verify = ca_bundle(arguments["verify"]) if arguments["trust_env"] else arguments["verify"]
    context = tls_context(verify, arguments["cert"])
    address = (parts.hostname or "", parts.port or 443)
    with (
        socket.create_connection(address, timeout=arguments["connect_timeout"]) as plain,
        context.wrap_socket(plain, server_hostname=parts.hostname) as encrypted,
    ):
        ends = (encrypted.getpeercert() or {}).get("notAfter")
    if not isinstance(ends, str):
        return None
    return dt.datetime.fromtimestamp(ssl.cert_time_to_seconds(ends), dt.UTC)


def _statistics(settings: ConnectionSettings, arguments: Mapping[str, Any]) -> Iterator[Finding]:
    """How long the nodes were silent, by their own count, against the timeouts."""
    with QClient(**arguments) as client:
        read = client.node_statistics()
    for node, statistics in read.items():
        if not isinstance(statistics, dict):
            continue
        longest = max(
            [*statistics.get("store_request_durations", ()), *statistics.get("query_request_durations", ())],
            default=0.0,
        )
        if longest > settings.read_timeout:
            yield _warning(
                node,
                f"one request kept it silent for {longest:.1f} s, and read_timeout is "
                f"{settings.read_timeout:g} s: queries that arrived then failed over to a node without the "
                "table",
                f"Increase read_timeout to {2 * longest:.0f} s, or store smaller tables.",
            )
        evicted = statistics.get("size_evict_count", 0)
        if evicted:
            yield _warning(
                node,
                f"it was full and evicted tables: {evicted} since its statistics were last read",
                "Increase the node's --size, add a node, or store fewer tables.",
            )
