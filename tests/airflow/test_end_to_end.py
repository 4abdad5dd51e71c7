"""Warm, lose a node, query, invalidate: by DAGs against three nodes, real ones where there are any."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from qclient import QClient as Reader

from scripts.airflow_runs import Runner
from tests.airflow.conftest import connection
from tests.airflow.nodes import Nodes

DAGS = """
from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import DAG
from airflow_provider_qcache.operators.qcache import (
    QCacheDeleteOperator, QCachePostOperator, QCacheQueryOperator,
)

def dag(name):
    return DAG(
        name,
        schedule=None,
        start_date=datetime(2026, 1, 1),
        default_args={"retries": 1, "retry_delay": timedelta(0)},
        params={"day": "20260131"},
    )

KEY = "orders_{{ params.day }}"

def read():
    lines = ["id,zip,amount"] + [f"{i},{i % 7:05},{i / 4}" for i in range(1000)]
    return "\\n".join(lines) + "\\n"

with dag("warm"):
    QCachePostOperator(
        task_id="warm", key=KEY, python_callable=read, column_types={"zip": "string"},
        copies=2, check_row_count=True,
    )

with dag("ask"):
    QCacheQueryOperator(
        task_id="ask",
        key=KEY,
        query={"select": ["zip", ["sum", "amount"]], "group_by": ["zip"], "order_by": ["zip"], "limit": 3},
    )

with dag("invalidate"):
    QCacheDeleteOperator(task_id="invalidate", key=KEY)
"""

KEY = "orders_20260131"
EXPECTED = [
    {"zip": f"{zip_code:05}", "amount": sum(i / 4 for i in range(1000) if i % 7 == zip_code)}
    for zip_code in range(3)
]


@pytest.fixture(scope="module")
def runner(start_runner: Callable[..., Any], nodes_of_the_session: Nodes) -> Iterator[Runner]:
    """An Airflow with the DAGs."""
    connections = {"qcache_default": connection(nodes_of_the_session.urls)}
    with start_runner(DAGS, connections=connections) as runner:
        yield runner


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
