"""The hash ring: which node a key lives on. To the bit that of qcache-client: readers and writers agree."""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_right
from math import ceil
from typing import TYPE_CHECKING, Final

from airflow_provider_qcache.client.errors import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_POINTS_IN_ALL: Final = 1000  # qclient/node_ring.py: virtual_count = ceil(1000 / nodes)
_little_endian_u32 = struct.Struct("<I").unpack_from


def ring_hash(text: str) -> int:
    """The first four bytes of md5(utf-8(text)) as a little-endian unsigned integer."""
    digest: int = _little_endian_u32(hashlib.md5(text.encode(), usedforsecurity=False).digest())[0]
    return digest


class Ring:
    """An immutable ring over the nodes as they are spelled.

    Each node has ceil(1000 / nodes) points; a key belongs to the first point strictly greater than its hash,
    wrapping to the first. Where two points collide the node listed last owns it. Points are never removed: a
    key whose node is down is looked for on the next node in ``successors``, which is where qclient finds it
    once it has dropped the node.
    """

    __slots__ = ("_owners", "_points", "nodes")

    nodes: tuple[str, ...]

    def __init__(self, nodes: Iterable[str]) -> None:
        if isinstance(nodes, str):
            raise ValueError(f"node_list is one string ({shown(nodes)!r}); a list of nodes is wanted")  # noqa: TRY004
        listed = tuple(nodes)
        if not listed:
            raise ValueError("node_list is empty; at least one node is wanted")
        for node in listed:
            if not isinstance(node, str):
                raise ValueError(f"node_list holds a {type(node).__name__}; every node is a string")  # noqa: TRY004
        count = ceil(_POINTS_IN_ALL / len(listed))
        suffixes = [f"-{i}".encode() for i in range(count)]
        owner_of: dict[int, str] = {}
        for node in listed:
            start = hashlib.md5(node.encode(), usedforsecurity=False)
            for suffix in suffixes:
                point = start.copy()
                point.update(suffix)
                owner_of[_little_endian_u32(point.digest())[0]] = node
        self.nodes = tuple(dict.fromkeys(listed))
        self._points = sorted(owner_of)
        # One owner more than points: the wrap to the first point costs no modulo.
        self._owners = [owner_of[point] for point in self._points]
        self._owners.append(self._owners[0])

    def __len__(self) -> int:
        return len(self._points)

    def __repr__(self) -> str:
        return f"Ring({len(self.nodes)} nodes, {len(self)} points)"

    def node_for_key(self, key: str) -> str:
        """The home of a key."""
        return self._owners[bisect_right(self._points, ring_hash(key))]

    def successors(self, key: str) -> Iterator[str]:
        """Every node once in ring order, the key's home first."""
        start = bisect_right(self._points, ring_hash(key))
        seen: set[str] = set()
        wanted = len(self.nodes)
        owners = self._owners
        points = len(self._points)
        for step in range(start, start + points):
            node = owners[step if step < points else step - points]
            if node not in seen:
                seen.add(node)
                yield node
                if len(seen) == wanted:
                    return
        # A node all of whose points collided with later nodes' owns none; it still comes, last.
        for node in self.nodes:
            if node not in seen:
                yield node
