"""Which share of all keys each node of a ring has, and which share a change of the ring moves."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.client import Ring
from airflow_provider_qcache.connection import settings_for

if TYPE_CHECKING:
    from collections.abc import Sequence

_HASHES: Final = 2**32


def shares(ring: Ring) -> dict[str, float]:
    """The share of all hashes that each node has, from 0 to 1."""
    found = dict.fromkeys(ring.nodes, 0)
    points = ring.points()
    last = points[-1][0] - _HASHES
    for point, node in points:
        found[node] += point - last
        last = point
    return {node: length / _HASHES for node, length in found.items()}


def moved_share(before: Ring, after: Ring) -> float:
    """The share of all hashes whose home is another node in the second ring."""
    rings = [([point for point, _ in ring.points()], ring.points()) for ring in (before, after)]
    ends = sorted({point for points, _ in rings for point in points})
    moved, last = 0, ends[-1] - _HASHES
    for end in ends:
        # A hash belongs to the first point that is greater: all from the last end up to this one to the same.
        owners = [owned[bisect_left(points, end) % len(points)][1] for points, owned in rings]
        if owners[0] != owners[1]:
            moved += end - last
        last = end
    return moved / _HASHES


def change_of_shares(before: Ring, after: Ring) -> list[dict[str, Any]]:
    """Each node with its ``share`` in the first ring and ``share_after`` in the second, None if not in it."""
    share, share_after = shares(before), shares(after)
    return [
        {"node": node, "share": share.get(node), "share_after": share_after.get(node)}
        for node in dict.fromkeys([*before.nodes, *after.nodes])
    ]


def ring_change(nodes: Sequence[str], add: Sequence[str], remove: Sequence[str]) -> tuple[Ring, Ring]:
    """The ring of the nodes, and the ring without those of ``remove`` and with those of ``add`` after them.

    Raises:
        ValueError: a node to remove is not there, a node to add is there or invalid, or none would be left.
    """
    for node in remove:
        if node not in nodes:
            raise ValueError(f"remove {node}: it is not one of the nodes {', '.join(nodes)}")
    after = [node for node in nodes if node not in remove]
    for node in add:
        if node in after:
            raise ValueError(f"add {node}: the node is there already")
    try:
        after = list(settings_for([*after, *add]).nodes) if add else after
    except ValueError as error:
        raise ValueError(f"add {' '.join(add)}: {error}") from error
    if not after:
        raise ValueError("remove: no node would be left")
    return Ring(nodes), Ring(after)
