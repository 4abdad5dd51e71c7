"""When two node strings are two names of one process: a node that is listed twice would lose tables.

The ring hashes strings, so that a node with two names gets two shares of the keys, and whoever tells "the
other node" to delete a key tells the one that has just stored it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
import time
from itertools import combinations
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def identity(node: str) -> tuple[str, str, int | None, str]:
    """What two spellings of one node share, whatever its name resolves to. ``node`` is a valid URL."""
    parts = urlsplit(node)
    hostname = (parts.hostname or "").removesuffix(".")
    if ":" in hostname:
        hostname = str(ipaddress.IPv6Address(hostname))
    return parts.scheme, hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme), parts.path.rstrip("/")


def two_names(nodes: Iterable[str], *, seconds: float) -> tuple[str, str] | None:
    """The first two nodes that are one, by their spelling or by the addresses of their names; else None.

    Two unrelated names of one address are not taken for one node: a proxy may tell them apart. An address
    beside a name that resolves to it is, and so are ``host1`` and ``host1.example.com``. Names are looked up
    only where such a pair is possible, for so many seconds; one that has no address then is not compared.
    """
    known: dict[tuple[str, str, int | None, str], str] = {}
    for node in nodes:
        same = identity(node)
        if same in known:
            return known[same], node
        known[same] = node
    pairs = [
        (one, other)
        for one, other in combinations(known, 2)
        if (one[0], *one[2:]) == (other[0], *other[2:]) and _comparable(one[1], other[1])
    ]
    addresses = _look_up({host for pair in pairs for _, host, *_ in pair}, seconds)
    for one, other in pairs:
        if addresses.get(one[1], frozenset()) & addresses.get(other[1], frozenset()):
            return known[one], known[other]
    return None


def _comparable(one: str, other: str) -> bool:
    literals = _is_address(one) + _is_address(other)
    short, long = sorted((one, other), key=len)
    return literals == 1 or "localhost" in (one, other) or (not literals and long.startswith(f"{short}."))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _look_up(hosts: set[str], seconds: float) -> dict[str, frozenset[str]]:
    addresses = {host: frozenset({host}) for host in hosts if _is_address(host)}

    def ask(host: str) -> None:
        with contextlib.suppress(OSError, UnicodeError):
            answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            addresses[host] = frozenset(str(answer[4][0]) for answer in answers)

    started = []
    end = time.monotonic() + seconds
    for host in hosts - addresses.keys():
        # A daemon: a name look-up cannot be ended, and is not waited for.
        thread = threading.Thread(target=ask, args=(host,), name="qcache-names", daemon=True)
        with contextlib.suppress(RuntimeError):  # the machine has no thread left
            thread.start()
            started.append(thread)
    for thread in started:
        thread.join(max(0.0, end - time.monotonic()))
    return addresses.copy()
