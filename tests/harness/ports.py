"""Ports on loopback that no other process of a test run takes.

The system gives port 0, and the client's side of every connection, a port of its ephemeral range (from 32768
on Linux), where another process may take at once what was closed here. So ports that are to be free, or
closed, for a while come from below that range, and each process takes them from a block of its own. It holds
the block by the last port of it.
"""

from __future__ import annotations

import itertools
import os
import socket
from functools import cache

_FIRST, _BLOCK, _BLOCKS = 10_000, 100, 220
_PORTS = _BLOCK - 1
_offsets = itertools.cycle(range(_PORTS))


def closed_port() -> int:
    """A port on which nobody listens."""
    (port,) = closed_ports(1)
    return port


def closed_ports(count: int) -> range:
    """Ports in a row on which nobody listens."""
    block, _ = _own_block()
    # The next ones each time: what was closed for a test stays closed while others are asked for.
    for offset in itertools.islice(_offsets, _PORTS):
        ports = range(block + offset, block + offset + count)
        if offset + count <= _PORTS and all(map(_is_free, ports)):
            for _ in ports[1:]:
                next(_offsets)
            return ports
    raise AssertionError("no free ports in a row")


@cache
def _own_block() -> tuple[int, socket.socket]:
    """The first port of a block, and the socket that keeps other processes out of it."""
    for number in range(_BLOCKS):
        block = _FIRST + (os.getpid() + number) % _BLOCKS * _BLOCK
        held = socket.socket()
        try:
            held.bind(("127.0.0.1", block + _PORTS))
        except OSError:
            held.close()
        else:
            return block, held
    raise AssertionError("no free block of ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
