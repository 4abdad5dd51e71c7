"""Keys, and the hash ring, which maps a key to its home node, as qcache-client's."""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_right
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.client.errors import InvalidKey, redacted
from airflow_provider_qcache.protocol import KEY_PATTERN_CHARACTERS, is_key

if TYPE_CHECKING:
    from collections.abc import Iterable

_POINTS_IN_ALL: Final = 1000  # qclient/node_ring.py: virtual_count = ceil(1000 / nodes)
_little_endian_u32 = struct.Struct("<I").unpack_from


def check_key(key: Any) -> None:
    """Raise InvalidKey unless a QCache URL can contain the key without quoting."""
    if not isinstance(key, str) or is_key(key) is None:
        if isinstance(key, str) and not KEY_PATTERN_CHARACTERS.isdisjoint(key):
            more = "QCache has no patterns: pass the whole key of each table."
        else:
            more = "With any other key a node answers 404, or stores the table under another one."
        raise InvalidKey(
            f"{key!r} is not a key of QCache: use ASCII letters, digits, '-' and '_', at least one. {more}"
        )


def ring_hash(text: str) -> int:
    """The first four bytes of md5(utf-8(text)) as a little-endian unsigned integer."""
    digest: int = _little_endian_u32(hashlib.md5(text.encode(), usedforsecurity=False).digest())[0]
    return digest


class Ring:
    """An immutable ring over the nodes as they are spelled.

    Each node has ceil(1000 / nodes) points; a key belongs to the first point strictly greater than its hash,
    wrapping to the first. If two points collide, the node listed last owns the point. Points are never
    removed: if a node is down, its keys are on the next node in ``successors``, where qclient finds them once
    it has dropped the node.
    """

    __slots__ = ("_orders", "_owners", "_points", "nodes")

    nodes: tuple[str, ...]

    def __init__(self, nodes: Iterable[str]) -> None:
        if isinstance(nodes, str):
            raise ValueError(f"node_list={redacted(nodes)!r} must be a list of nodes, not one string")  # noqa: TRY004
        listed = tuple(nodes)
        if not listed:
            raise ValueError("node_list is empty: at least one node is required")
        for node in listed:
            if not isinstance(node, str):
                raise ValueError(f"node_list has a {type(node).__name__}: every node must be a string")  # noqa: TRY004
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
        # One owner more than points, so that wrapping to the first point takes no modulo.
        self._owners = [owner_of[point] for point in self._points]
        self._owners.append(self._owners[0])
        self._orders: dict[int, tuple[str, ...]] = {}

    def __len__(self) -> int:
        return len(self._points)

    def __repr__(self) -> str:
        return f"Ring({len(self.nodes)} nodes, {len(self)} points)"

    def points(self) -> list[tuple[int, str]]:
        """Every point of the ring, in order, with the node that owns the hashes before it."""
        return list(zip(self._points, self._owners, strict=False))

    def node_for_key(self, key: str) -> str:
        """The home node of a key."""
        return self._owners[bisect_right(self._points, ring_hash(key))]

    def successors(self, key: str) -> tuple[str, ...]:
        """Every node once, in ring order, the key's home node first."""
        point = bisect_right(self._points, ring_hash(key))
        order = self._orders.get(point)
        if order is None:
            # A node whose points all collided with those of later nodes owns none, and is last.
            order = tuple(dict.fromkeys([*self._owners[point:], *self._owners[:point], *self.nodes]))
            self._orders[point] = order
        return order
