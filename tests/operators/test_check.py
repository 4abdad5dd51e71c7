"""Checks of tables, and branches by them, against real nodes."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
from qclient import QClient as Reader

from airflow_provider_qcache.compat import AirflowFailException
from airflow_provider_qcache.operators.errors import CheckFailed, TableMissing
from airflow_provider_qcache.operators.qcache import QCacheBranchOperator, QCacheCheckOperator

ROWS = [{"region": "north", "n": 1}, {"region": "south", "n": 2}, {"region": "north", "n": 3}]
COUNT = {"select": [["=", "c", ["count"]]]}
SUM = {"select": [["sum", "n"]]}


@pytest.fixture
def table(nodes):
    """A table of three rows, stored by qcache-client."""
    Reader(nodes.urls).post("sales", json.dumps(ROWS), content_type="application/json")
    return nodes


def check(**arguments):
    task = QCacheCheckOperator(task_id="check", **{"key": "sales", **arguments})
    task.render_template_fields({"three": 3, "text": "6"})
    return task.execute({})


def name(argument):
    """A test's name, the same in each process: without the address of a function."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(argument))


PASSES = [
    {},
    {"min_rows": 3},
    {"max_rows": 3},
    {"min_rows": 3, "max_rows": 3},
    {"query": {"where": ["==", "region", "'north'"]}, "min_rows": 2},
    {"query": {"limit": 1}, "min_rows": 3},
    {"query": SUM, "value": 6},
    {"query": SUM, "value": "{{ text }}"},
    {"query": {"select": ["region"], "limit": 1}, "value": "north"},
    {"check": lambda rows: rows == ROWS},
    {"query": {"select": ["n"]}, "check": lambda rows: sum(row["n"] for row in rows) == 6},
    {"query": {"where": ["==", "n", 9]}, "min_rows": 0},
]


@pytest.mark.parametrize("arguments", PASSES, ids=name)
def test_what_passes(table, arguments):
    found = check(**arguments)
    assert (found["key"], found["node"]) == ("sales", table.holding("sales")[0])


def test_the_result_has_the_rows_of_the_query(table):
    assert check()["rows"] == 3
    assert check(query={"where": ["==", "region", "'north'"], "limit": 1})["rows"] == 2


FAILS = [
    ({"min_rows": 4}, r"the table has 3 rows, and 4 are required"),
    ({"max_rows": 2}, r"the table has 3 rows, and at most 2 are allowed"),
    ({"query": {"where": ["==", "n", 9]}}, r"the query .*'n', 9.* has 0 rows, and 1 are required"),
    ({"query": SUM, "value": 7}, r"the query .*sum.* gives 6, and 7 is required"),
    ({"query": SUM, "value": "seven"}, r"gives 6, and 'seven' is required"),
    ({"query": SUM, "value": "_6"}, r"gives 6, and '_6' is required"),
    ({"query": {"select": [["count", "n"]]}, "value": "0_3"}, r"gives 3, and '0_3' is required"),
    (
        {"query": {"select": ["n"]}, "value": 6},
        r"gives 3 rows with n, and a value needs one row of one",
    ),
    ({"query": {"limit": 1}, "value": 6}, r"gives 1 row with .*region.*, and a value needs one row of one"),
    ({"check": lambda rows: False}, r"the check does not pass 3 rows, the first of them \[\{"),
]


@pytest.mark.parametrize(("arguments", "text"), FAILS, ids=name)
def test_what_fails_says_what_was_found_and_where(table, arguments, text):
    with pytest.raises(CheckFailed, match=text) as caught:
        check(**arguments)
    assert str(caught.value).startswith(f"table 'sales' on {table.holding('sales')[0]}: ")


def test_a_missing_table_is_named_with_what_each_node_answers(nodes):
    with pytest.raises(TableMissing, match=r"'never'.*Nodes asked"):
        check(key="never")


def test_a_malformed_query_fails_for_good(table):
    with pytest.raises(AirflowFailException, match="MalformedQueryException"):
        check(query={"where": ["nonsense", "n", 1]})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"value": 1}, "value needs query"),
        ({"query": {}, "value": [1]}, r"value=\[1\]"),
        ({"min_rows": 3, "max_rows": 2}, "max_rows=2: expected min_rows=3 or more"),
        ({"check": 1}, "check=1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_when_the_dag_is_parsed(arguments, text):
    with pytest.raises(ValueError, match=text):
        check(**arguments)


class TestBranch:
    """Which tasks run then is Airflow's: tests/airflow/test_operators.py."""

    @staticmethod
    def chosen(monkeypatch, **arguments):
        task = QCacheBranchOperator(
            task_id="branch",
            follow_task_ids_if_true=["use", "also"],
            follow_task_ids_if_false="warm",
            **{"key": "sales", **arguments},
        )
        monkeypatch.setattr(QCacheBranchOperator, "do_branch", lambda self, context, branches: branches)
        task.render_template_fields({})
        return task.execute({"ti": SimpleNamespace(map_index=-1)})

    def test_follows_the_condition(self, table, monkeypatch):
        assert self.chosen(monkeypatch) == ["use", "also"]
        assert self.chosen(monkeypatch, min_rows=4) == ["warm"]

    def test_takes_a_missing_table_for_false(self, nodes, monkeypatch):
        assert self.chosen(monkeypatch, key="never") == ["warm"]

    def test_skips_what_is_not_chosen_on_every_airflow(self):
        assert QCacheBranchOperator.inherits_from_skipmixin

    def test_needs_ids_of_tasks(self):
        with pytest.raises(ValueError, match="follow_task_ids_if_false=5"):
            QCacheBranchOperator(
                task_id="branch", key="k", follow_task_ids_if_true="a", follow_task_ids_if_false=5
            )
