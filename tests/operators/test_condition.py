"""The condition that sensors wait for."""

from __future__ import annotations

import json

import pytest

from airflow_provider_qcache.operators._condition import Condition


class Answer:
    """A QueryResult's rows."""

    def __init__(self, rows, unsliced=None):
        self.content = json.dumps(rows).encode()
        self.unsliced_result_len = len(rows) if unsliced is None else unsliced


@pytest.mark.parametrize(
    ("condition", "question"),
    [
        (Condition(), {"limit": 1}),
        (Condition(min_rows=0), None),
        (Condition({"where": ["==", "a", 1]}), {"where": ["==", "a", 1], "limit": 1}),
        (Condition({"limit": 50}, min_rows=20), {"limit": 1}),
        (Condition({"limit": 50}, check=bool), {"limit": 50}),
        (Condition({}, check=bool), {}),
    ],
)
def test_asks_for_no_more_than_it_needs(condition, question):
    assert condition.question == question


def test_rows_count_before_the_limit():
    assert Condition({}, min_rows=3).violation(Answer([{"a": 1}], unsliced=3)) is None


def test_too_few_rows_are_reported_with_the_query():
    text = Condition({"where": ["==", "a", 1]}, min_rows=2).violation(Answer([{"a": 1}]))
    assert text == "the query {'where': ['==', 'a', 1]} has 1 row, and 2 are required"
    assert Condition().violation(Answer([])) == "the table has 0 rows, and 1 are required"


def test_a_check_gets_the_rows():
    seen = []
    condition = Condition({}, check=lambda rows: seen.extend(rows) or len(rows) == 2)
    assert condition.violation(Answer([{"a": 1}, {"a": 2}])) is None
    assert seen == [{"a": 1}, {"a": 2}]
    text = condition.violation(Answer([{"a": 1}]))
    assert text == "the check does not pass 1 row, the first of them [{'a': 1}]"


def test_a_check_sees_no_fewer_rows_than_are_required():
    condition = Condition({}, min_rows=1, check=lambda rows: pytest.fail("called"))
    assert "0 rows" in condition.violation(Answer([]))
