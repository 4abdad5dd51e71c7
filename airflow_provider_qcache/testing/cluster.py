"""A cluster of dev nodes that a test can ask what is in it, and where."""

from __future__ import annotations

import json
from typing import Any

from airflow_provider_qcache.client import Absence, QClient, Ring
from airflow_provider_qcache.devnode import LocalCluster
from airflow_provider_qcache.testing import LIMITS


class Cluster(LocalCluster):
    """Dev nodes whose tables a test reads as a reader of the cache does.

    ``has`` and ``table`` ask a key's home node, and the next node of the ring if it does not answer, with a
    client that knows nothing of the one under test.
    """

    def home(self, key: str) -> str:
        """The URL of the node that a key belongs to: ``cluster.kill(cluster.home("orders"))``."""
        return Ring(self.node_list).node_for_key(key)

    def has(self, key: str) -> bool:
        """Whether a reader finds a table under the key."""
        return self._answer(key, {"limit": 1}) is not None

    def table(self, key: str) -> list[dict[str, Any]] | None:
        """The rows that a reader finds under the key; None where there is no table."""
        answer = self._answer(key, {})
        return None if answer is None else json.loads(answer)

    def holding(self, key: str) -> list[str]:
        """The URLs of the nodes that have a table under the key, its home first; copies are on several."""
        with self._client() as client:
            places = client.locate(key)
        unknown = [str(place) for place in places if place.absence is Absence.UNKNOWN]
        if unknown:
            raise AssertionError(f"cannot tell which nodes have table {key!r}: {'; '.join(unknown)}")
        return [place.node for place in places if place.absence is None]

    def _answer(self, key: str, query: dict[str, Any]) -> bytes | None:
        with self._client() as client:
            result = client.get(key, query)
        return None if result is None else result.content

    def _client(self) -> QClient:
        timeouts = {name: LIMITS[name] for name in ("connect_timeout", "read_timeout", "deadline")}
        return QClient(self.node_list, **timeouts, trust_env=False)
