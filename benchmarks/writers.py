"""How often concurrent writers of one key leave nodes different: ``python -m benchmarks.writers [rounds]``.

QCache has no versions, so two writers of a key, or a writer and a delete, can leave the nodes with different
tables. Each line counts the rounds in which they did, with three dev nodes.
"""

from __future__ import annotations

import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Final

from airflow_provider_qcache.client import QClient
from airflow_provider_qcache.devnode import LocalCluster

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS: Final = 300


def at_once(*works: Callable[[], object]) -> None:
    """Run these functions at the same moment."""
    barrier = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> None:
        barrier.wait()
        work()

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def tables_of(nodes: list[str], order: tuple[str, ...], key: str) -> list[bytes | None]:
    """The table of each node, in the key's order."""
    tables = {}
    for node in nodes:
        with QClient([node], 5, 30, trust_env=False) as client:
            result = client.get(key, {})
            tables[node] = result.content if result is not None else None
    return [tables[node] for node in order]


def main(rounds: int) -> None:
    """Print one line for each kind of race."""
    with LocalCluster(nodes=3) as cluster:
        nodes = list(cluster.node_list)
        found: dict[str, int] = {}
        for number in range(rounds):
            key = f"key{number}"
            with QClient(nodes, 5, 30, trust_env=False) as one, QClient(nodes, 5, 30, trust_env=False) as two:
                order = one.successors(key)
                for copies in (2, 3):
                    at_once(
                        partial(one.post, key, "a\n1\n", copies=copies),
                        partial(two.post, key, "a\n2\n", copies=copies),
                    )
                    differ = len(set(tables_of(nodes, order, key)[:copies])) > 1
                    name = f"two writers, copies={copies}: the copies differ"
                    found[name] = found.get(name, 0) + differ
                at_once(partial(one.post, key, "a\n3\n", copies=2), partial(two.delete, key, all_nodes=True))
                after = tables_of(nodes, order, key)
                name = "a store with copies=2 and a delete: only the home node has the table"
                found[name] = found.get(name, 0) + (after[0] is not None and after[1] is None)
                # The second client takes the home node for gone, so that it stores on the fallback node.
                two._pool.fail(order[0], two._pool.ticket(order[0]), "cut off", gone=True)
                at_once(
                    partial(one.post, key, "a\n4\n", evict_stale=True),
                    partial(two.post, key, "a\n5\n", evict_stale=True),
                )
                name = "stores on the home node and a fallback node, with evictions: no node has the table"
                found[name] = found.get(name, 0) + (not any(tables_of(nodes, order, key)))
    for name, count in found.items():
        sys.stdout.write(f"{count:4} of {rounds}: {name}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
