"""Ports on loopback that no other process of the test run takes.

For port 0 and for the client's side of every connection, the system chooses a port of its ephemeral range
(from 32768 on Linux), where another process may take at once what was closed here. So ports that must stay
free or closed come from below that range. Each process takes them from its own block, and reserves the block
by binding the last port of it.
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
    """Consecutive ports on which nobody listens."""
    block, _ = _own_block()
    # Go on after the ports given last: a port that a test wants closed is not given again soon.
    for offset in itertools.islice(_offsets, _PORTS):
        ports = range(block + offset, block + offset + count)
        if offset + count <= _PORTS and all(map(_is_free, ports)):
            for _ in ports[1:]:
                next(_offsets)
            return ports
    raise AssertionError("no free ports in a row")


@cache
def _own_block() -> tuple[int, socket.socket]:
    """The first port of this process's block, and the socket that reserves the block."""
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
