"""What ``dry_run()`` says that a task would do, and that it changes no node."""

from __future__ import annotations

import pytest

from airflow_provider_qcache.client import InvalidTable, QClient
from airflow_provider_qcache.compat import AirflowFailException
from airflow_provider_qcache.operators.qcache import (
    QCacheDeleteOperator,
    QCachePostOperator,
    QCacheQueryOperator,
)
from airflow_provider_qcache.sensors.qcache import QCacheTableSensor
from tests.harness.connection import connect
from tests.operators.test_many import found, rows, store


@pytest.fixture
def unchanged(nodes):
    """Nodes with a table; at the end of the test no request has changed any of them."""
    store({"there": rows("there")})
    with QClient(nodes.urls, 5, 30, trust_env=False) as client:
        client.node_statistics()  # counts from here
        yield nodes
        assert found(nodes, ["there"]) == ["there"]
        for statistics in client.node_statistics().values():
            assert statistics.get("store_count", 0) == 0
            assert statistics.get("delete_count", 0) == 0


@pytest.fixture
def text(operator_log):
    """What a task logs in its dry run."""

    def log_of(task):
        told_before = len(operator_log())
        task.render_template_fields({"ds": "2026-01-01"})
        task.dry_run()
        return [message for _, message in operator_log()[told_before:]]

    return log_of


def order(nodes, key):
    with QClient(nodes.urls, trust_env=False) as client:
        return client.successors(key)


def test_a_store_says_rows_bytes_types_and_nodes(unchanged, text):
    zips = [{"zip": "00501", "n": 1}, {"zip": "1", "n": 2}]
    task = QCachePostOperator(task_id="t", key="new_{{ ds }}", content=zips)
    home, second, third = order(unchanged, "new_2026-01-01")
    store_line, columns, places = text(task)
    assert store_line == f"Would store table 'new_2026-01-01' on {home}: 2 rows, 22 bytes"
    assert columns == "Columns: zip string, n int"
    assert places == (
        "Nodes of 'new_2026-01-01', in the order in which they are asked: "
        f"{home} (home) does not have the table; {second} (number 2) does not have the table; "
        f"{third} (number 3) does not have the table"
    )


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_store_over_a_table_says_what_is_there_now(unchanged, text, tmp_path, compression):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,4\n")
    source = {"source_path": tmp_path / "t.csv", "compression": compression, "column_types": {"a": "enum"}}
    task = QCachePostOperator(task_id="t", key="there", **source)
    first, columns, places = text(task)
    assert first.endswith(": 2 rows, 12 bytes")
    assert columns == "Columns: a enum, b inferred by the node"
    assert f"{order(unchanged, 'there')[0]} (home) has the table, 1 row;" in places


def test_content_that_would_be_refused_is_refused(unchanged, text):
    with pytest.raises(InvalidTable, match="row"):
        text(QCachePostOperator(task_id="t", key="there", python_callable=lambda: "a\n1,2\n"))
    with pytest.raises(AirflowFailException, match="key"):
        text(QCachePostOperator(task_id="t", key="{{ ds }} b", content="a\n1\n"))


def test_many_tables_are_counted_and_the_bad_ones_named(unchanged, text):
    def tables():
        yield from ((f"dry_{n}", rows(f"dry_{n}")) for n in range(20))
        yield "bad", "a\n1,2\n"
        yield "there", rows("there")

    lines = text(QCachePostOperator(task_id="t", tables=tables, delete_missing=["dry_1", "there", "gone"]))
    assert lines[0].startswith("Failed: bad: InvalidTable: ")
    assert lines[1] == "Would store 21 tables: 21 rows, 220 bytes; 1 table cannot be stored"
    counts = [int(part.rpartition(" ")[2]) for part in lines[2].removeprefix("Home nodes: ").split(", ")]
    assert sum(counts) == 21
    assert lines[3] == "On its home node now: 1 of these keys"
    assert lines[4] == "Would delete 1 table: ['gone']"


def test_a_delete_says_where_the_tables_are(unchanged, text):
    keys = ["there", *(f"none_{n}" for n in range(20))]
    lines = text(QCacheDeleteOperator(task_id="t", keys=keys))
    assert lines[0].startswith("Would delete 21 tables: ['there', 'none_0', ")
    assert "has the table, 1 row" in lines[1]
    assert lines[-1] == "And 11 keys more"


@pytest.mark.parametrize(
    "task",
    [
        lambda: QCacheQueryOperator(task_id="t", key="there", query={}, load_callable=lambda: 1 / 0),
        lambda: QCacheTableSensor(task_id="t", keys=["there"]),
    ],
)
def test_what_only_reads_says_where_the_table_is(unchanged, text, task):
    (line,) = text(task())
    assert "has the table, 1 row" in line


def test_a_node_that_does_not_answer_is_named(nodes, monkeypatch, text):
    connect(monkeypatch, nodes.urls, wait_for_nodes=False)
    nodes.kill(0)
    lines = text(QCacheDeleteOperator(task_id="t", key="k"))
    assert f"{nodes.urls[0]}" in lines[1]
    assert "refuses the connection" in lines[1]
