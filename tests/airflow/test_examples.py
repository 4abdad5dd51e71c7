"""The example DAGs, run whole and as they are."""

from __future__ import annotations

import csv
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from scripts.airflow_runs import Run, Runner
from tests.airflow import flights
from tests.airflow.conftest import EXAMPLES, readme_dag
from tests.airflow.readers import Reader
from tests.harness.nodes import Nodes
from tests.harness.postgres import Postgres

ALL_FLIGHTS = bool(os.environ.get("QCACHE_ALL_FLIGHTS"))


def rows_under(nodes: Nodes, key: str) -> list[list[dict[str, Any]]]:
    """The table of each node that has one under the key."""
    answers = [nodes.ask(i, "GET", key) for i in range(3)]
    return [json.loads(answer.body) for answer in answers if answer.status == 200]


def succeeded(run: Run) -> Run:
    """A run all of whose tasks succeeded, at the first try, and could have been retried."""
    assert run.state == "success", {name: task.log[-3000:] for name, task in run.tasks.items()}
    assert {(task.state, len(task.logs)) for task in run.tasks.values()} == {("success", 1)}
    assert all(task.retries >= 1 for task in run.tasks.values())
    return run


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_opens_with_what_it_shows_and_needs(example: Path) -> None:
    """The docstring is what a user reads first."""
    opening = example.read_text().split('"""')
    assert opening[0] == ""
    assert "\n\nShows:\n" in opening[1]
    assert "\n\nNeeds:\n    A connection ``qcache_default``" in opening[1]


def test_every_example_is_run_here(runner: Runner) -> None:
    """A new example needs a test of its own."""
    assert [dag for dag in runner.dags if dag.startswith("qcache_")] == [
        "qcache_cluster_statistics",
        "qcache_flights_from_sql",
        "qcache_load_customers",
        "qcache_load_regions",
        "qcache_many_tables",
        "qcache_query_report",
        "qcache_scheduled_healing",
        "qcache_scheduled_invalidation",
        "qcache_self_healing",
        "qcache_warm_customers",
    ]


def test_warm_after_etl(runner: Runner, nodes: Nodes) -> None:
    """The load has the warming waiting, which stores the table on two nodes, ZIP codes with their zeros."""
    load = succeeded(runner.run("qcache_load_customers"))
    warm = succeeded(runner.run("qcache_warm_customers"))

    assert load.waiting == ("qcache_warm_customers",)
    assert warm["warm"].result["rows"] == 3
    tables = rows_under(nodes, "customers")
    assert len(tables) == 2
    assert tables[0] == tables[1]
    assert [row["zip"] for row in tables[0]] == ["02139", "00501", "78712"]


def test_self_healing(runner: Runner, nodes: Nodes) -> None:
    """The load has the warming waiting, which stores what the load left; the demo shows that it heals."""
    load = succeeded(runner.run("qcache_load_regions"))
    warm = succeeded(runner.run("qcache_self_healing"))

    assert "qcache_self_healing" in load.waiting
    assert warm["warm"].result["rows"] == 4
    assert len(nodes.holding("regions")) == 1


def test_cluster_statistics(runner: Runner, nodes: Nodes) -> None:
    """Every node's statistics are read, which resets them: the next run finds no store."""
    assert nodes.ask(0, "POST", "sales_east", b"a\n1\n").status == 201
    first, second = (succeeded(runner.run("qcache_cluster_statistics"))["read"].result for _ in range(2))

    assert set(first) == set(second) == set(nodes.urls)
    assert first[nodes.urls[0]]["store_count"] >= 1
    assert all("store_count" not in read for read in second.values())


def test_scheduled_healing(runner: Runner, nodes: Nodes) -> None:
    """A table that is missing is stored, and one that is there is left alone."""
    for i in range(3):
        nodes.ask(i, "DELETE", "cities")
    states = [
        {name: task.state for (name, _), task in runner.run("qcache_scheduled_healing").tasks.items()}
        for _ in range(2)
    ]
    assert states == [
        {"is_there": "skipped", "warm": "success"},
        {"is_there": "success", "warm": "skipped"},
    ]
    assert len(nodes.holding("cities")) == 1


def test_scheduled_invalidation(runner: Runner, nodes: Nodes) -> None:
    """The tables of a week before the logical date are gone from every node, those of other days are not."""
    for i in range(3):
        for key in ("sales_20260124", "visits_20260124", "sales_20260125"):
            assert nodes.ask(i, "POST", key, b"a\n1\n").status == 201
    succeeded(runner.run("qcache_scheduled_invalidation", logical_date="2026-01-31T04:30:00+00:00"))

    assert nodes.holding("sales_20260124") == []
    assert nodes.holding("visits_20260124") == []
    assert nodes.holding("sales_20260125") == nodes.urls


def test_scheduled_invalidation_without_a_logical_date(runner: Runner, nodes: Nodes) -> None:
    """A run that has none takes the date it was due at; on 2.11, where each has one, that is now too."""
    before = datetime.now(UTC)
    run = succeeded(runner.run("qcache_scheduled_invalidation", logical_date=None))
    days = {(now - timedelta(days=7)).strftime("%Y%m%d") for now in (before, datetime.now(UTC))}

    keys = set(run["invalidate"].result)
    assert keys in [{f"sales_{day}", f"visits_{day}"} for day in days]


def test_query_report(runner: Runner, nodes: Nodes) -> None:
    """The rows reach the report by XCom, and the same ones a file."""
    run = succeeded(runner.run("qcache_query_report"))

    assert run["report"].result == "IN: 56.8 million, JP: 56.0 million"
    (report,) = {Path(path) for path in [run["to_file"].result["output_path"]]}
    with report.open() as file:
        written = list(csv.DictReader(file))
    assert [(row["country"], int(row["population"])) for row in written] == [
        (row["country"], row["population"]) for row in run["largest"].result
    ]


def test_many_tables(runner: Runner, nodes: Nodes) -> None:
    """By slots of the pool: a table for each region, on two nodes, and none for the one that was closed."""
    for i in range(3):
        assert nodes.ask(i, "POST", "sales_east", b"a\n1\n").status == 201
    run = succeeded(runner.run("qcache_many_tables"))

    assert {task.pool for task in (*run.mapped("warm"), run["invalidate_closed"])} == {"qcache"}
    warmed = [task.result for task in run.mapped("warm")]
    assert [result["key"] for result in warmed] == ["sales_north", "sales_south", "sales_west"]
    for result in warmed:
        assert len(rows_under(nodes, result["key"])) == 2
    assert nodes.holding("sales_east") == []


@pytest.mark.timeout(3600 if ALL_FLIGHTS else 300)
def test_flights_from_sql(runner: Runner, nodes: Nodes, flights_db: Postgres) -> None:
    """A table for each plane and month on the node where readers look, with the rows that the file has."""
    planes = ("N", "D") if ALL_FLIGHTS else ("N35",)
    no_key = "2013,1,1,1,1,0,1,1,0,UA,1,N35 %s,EWR,IAH,1,1,1,1,2013-01-01T10:00:00Z\n"
    tables = flights.load(
        flights_db, lambda tailnum: tailnum.startswith((*planes, "NA")), [no_key % "1", no_key % ";"]
    )
    assert len(tables) == (37_976 if ALL_FLIGHTS else 411)
    run = succeeded(runner.run("qcache_flights_from_sql"))

    done = run["warm"].result
    assert {name: done[name] for name in ("stored", "rows", "failed", "evicted", "lost")} == {
        "stored": len(tables),
        "rows": sum(map(len, tables.values())),
        "failed": 0,
        "evicted": 0,
        "lost": 0,
    }
    assert run["report"].result.startswith(f"{len(tables):,} tables in ")
    assert run["report"].result.endswith(" s, on 3 nodes")
    reader = Reader(nodes)
    assert [key for key in tables if not reader.has(key)] == []
    for key in list(tables)[:: len(tables) // 400]:
        assert sorted(reader.rows(key), key=flights.in_order) == tables[key]


def test_readme(runner: Runner, nodes: Nodes) -> None:
    """The DAG of the README, which has ten lines, does what it says, and forgets what was there."""
    assert len([line for line in readme_dag().splitlines() if line]) <= 10
    for i in range(3):
        assert nodes.ask(i, "POST", "orders_of_last_year", b"a\n1\n").status == 201
    run = succeeded(runner.run("orders"))

    assert run["best"].result == [{"city": "Delhi", "orders": 12}]
    assert len(rows_under(nodes, "orders")) == 2
    assert nodes.holding("orders_of_last_year") == []
