"""Warm, lose a node, query, invalidate: by DAGs against three nodes, real ones where there are any."""

from __future__ import annotations

import json
from typing import Any

from qclient import QClient as Reader

from scripts.airflow_runs import Runner
from tests.harness.nodes import Nodes

KEY = "orders_20260131"
EXPECTED = [
    {"zip": f"{zip_code:05}", "amount": sum(i / 4 for i in range(1000) if i % 7 == zip_code)}
    for zip_code in range(3)
]


def test_a_table_outlives_its_node_and_an_invalidation_reaches_every_node(
    runner: Runner, nodes: Nodes
) -> None:
    """Warmed with a copy, the table is answered without its node too, by our client and an application's."""

    def read_by_an_application() -> Any:
        query = {"select": ["zip", ["sum", "amount"]], "group_by": ["zip"], "order_by": ["zip"], "limit": 3}
        answer = Reader(nodes.urls).get(KEY, query)
        return None if answer is None else json.loads(answer.content)

    warm = runner.run("warm")["warm"]
    assert (warm.state, warm.result["rows"]) == ("success", 1000), warm.log
    assert len(nodes.holding(KEY)) == 2
    assert read_by_an_application() == EXPECTED

    home = warm.result["node"]
    assert home == warm.result["home_node"]
    nodes.kill(nodes.urls.index(home))
    ask = runner.run("ask")["ask"]
    assert (ask.state, len(ask.logs), ask.result) == ("success", 1, EXPECTED), ask.log
    assert ask.xcoms["unsliced_length"] == 7
    assert home in ask.log, "the failover is told"
    assert read_by_an_application() == EXPECTED

    invalidate = runner.run("invalidate")["invalidate"]
    assert (invalidate.state, len(invalidate.logs)) == ("success", 1), invalidate.log
    assert invalidate.result == {KEY: {url: "gone" if url == home else "confirmed" for url in nodes.urls}}
    nodes.all_up()
    assert nodes.holding(KEY) == []
    assert read_by_an_application() is None
