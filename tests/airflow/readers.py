"""What readers of the cache find, who know nothing of this package: they have qcache-client."""

from __future__ import annotations

import json
from typing import Any

import qclient

from tests.harness.nodes import Nodes


class Reader:
    """A reader with qcache-client, which asks a key's node, and the next one where that is down."""

    def __init__(self, nodes: Nodes) -> None:
        self._client = qclient.QClient(nodes.urls, connect_timeout=5, read_timeout=20, trust_env=False)

    def has(self, key: str) -> bool:
        """Whether there is a table: a node refuses such a query only where it has one to ask.

        It costs a hundredth of a query that succeeds, after every tenth of which a node collects garbage.
        """
        try:
            found = self._client.get(key, {"no clause": 1})
        except qclient.MalformedQueryException:
            return True
        assert found is None
        return False

    def rows(self, key: str) -> list[dict[str, Any]]:
        """The table."""
        found = self._client.get(key, {})
        assert found is not None, f"no table under {key}"
        rows: list[dict[str, Any]] = json.loads(found.content)
        return rows
