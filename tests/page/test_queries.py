"""Which queries the cluster page passes on: each case here is one that a node would have taken or refused."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_qcache.plugins.queries import MOST_ROWS, RefusedQuery, check_query


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"select": ["city", "orders"], "where": [">", "orders", 5], "order_by": ["-orders"], "offset": 1},
        {"where": ["&", ["==", "city", "'Tokyo'"], ["!", ["isnull", "orders"]]]},
        {"where": ["in", "city", ["Tokyo", "Delhi"]]},
        {"where": ["in", "city", {"where": ["<", "orders", 3], "select": ["city"]}]},
        {"where": ["like", "city", "'%ok%'"]},
        {"where": ["ilike", "city", "'a\\*b'"]},
        {"where": ["any_bits", "flags", 3]},
        {"group_by": ["city"], "select": ["city", ["sum", "orders"]]},
        {"select": [["count"]]},
        {"select": [["=", "double", ["*", "orders", 2]], ["=", "root", ["sqrt", ["abs", "orders"]]]]},
        {"select": [["=", "square", ["**", "orders", 2]]]},
        {"from": {"select": [["=", "a", ["+", "b", 1]]]}, "distinct": ["a"]},
        {"where": None, "select": [], "limit": 0},
        {"select": [["=", f"c{number}", ["*", "a", number]] for number in range(16)]},
        {"select": ["a", ["min", "a"], ["max", "a"], ["=", "b", "a"]]},
    ],
)
def test_a_query_that_only_reads_is_passed_on(query: dict[str, Any]) -> None:
    checked = check_query(query)
    assert {**checked, "limit": query.get("limit")} == {**query, "limit": query.get("limit")}
    assert checked["limit"] == MOST_ROWS


@pytest.mark.parametrize(
    ("limit", "passed"), [(5, 5), (100_000, MOST_ROWS), (0, MOST_ROWS), (None, MOST_ROWS)]
)
def test_the_rows_of_an_answer_are_limited(limit: Any, passed: int) -> None:
    assert check_query({"limit": limit})["limit"] == passed


EVAL = "__import__('os').system('true')"
NESTED: Any = ["==", "a", 1]
for _ in range(50):
    NESTED = ["!", NESTED]


def sums(levels: int) -> Any:
    """The texts of column ``a``, 2 ** levels times one after the other."""
    return ["+", sums(levels - 1), sums(levels - 1)] if levels else "a"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"update": [["a", 1]]}, "update: it changes the stored table"),
        ({"from": {"update": [["a", 1]]}}, "update"),
        ({"where": ["in", "a", {"update": [["a", 1]]}]}, "update"),
        ({"where": ["&", ["!", ["in", "a", {"from": {"update": []}}]]]}, "update"),
        ({"stand_in_columns": {"a": 1}}, "stand-in columns"),
        ({"from": {"stand-in-columns": {"a": 1}}}, "stand-in columns"),
        ({"columns": ["a"]}, "'columns': unknown clause"),
        ({"select": [["=", "x", EVAL]]}, "expression as text reaches pandas' eval"),
        ({"select": [["=", "x", "a + b"]]}, "expression as text"),
        ({"select": [["=", "x", ["+", "a", EVAL]]]}, "expression as text"),
        ({"select": [["=", "x", ["sin", "@pd.io"]]]}, "expression as text"),
        ({"from": {"select": [["=", "x", EVAL]]}}, "expression as text"),
        ({"where": ["in", "a", {"select": [["=", "a", EVAL]]}]}, "expression as text"),
        ({"select": [["=", "x", [EVAL, "a", "b"]]]}, "unknown expression"),
        ({"select": [["=", "x", ["__import__", "os"]]]}, "unknown expression"),
        ({"select": [["=", "x", ["+", "a"]]]}, "unknown expression"),
        ({"select": [["=", "x", {"a": 1}]]}, "unknown expression"),
        ({"select": [["=", "x", None]]}, "unknown expression"),
        ({"select": [["=", "x = y; z", "a"]]}, "with a name of letters"),
        ({"select": [["=", "x", ["**", 9, ["**", 9, 9]]]]}, "a power of numbers alone"),
        ({"select": [["=", "x", ["+", "a", ["**", 9, 9]]]]}, "a power of numbers alone"),
        ({"select": [["=", "x", float("inf")]]}, "unknown expression"),
        ({"select": [["=", "x", 10**400]]}, "unknown expression"),
        ({"select": [["to_pickle", "a"]]}, "expected a column"),
        ({"select": [["to_csv", "a"]]}, "expected a column"),
        ({"select": [[["sum"], "a"]]}, "expected a column"),
        ({"select": "a"}, "select: 'a': expected a list"),
        ({"where": "a > 1"}, "unknown condition"),
        ({"where": ["eval", "a", 1]}, "unknown condition"),
        ({"where": ["==", "a", ["==", "b", 1]]}, "unknown condition"),
        ({"where": ["like", "a", "'(a+)+$'"]}, "busy for hours"),
        ({"where": ["like", "a", "'a?a?a?aaa'"]}, "busy for hours"),
        ({"where": ["in", "a", "b"]}, "unknown condition"),
        ({"where": ["in", "a", [["b"]]]}, "unknown condition"),
        ({"where": NESTED}, "nested more than"),
        ({"group_by": "a"}, "group_by: 'a': expected a list of columns"),
        ({"order_by": [["a"]]}, "order_by"),
        ({"distinct": {"a": 1}}, "distinct"),
        ({"limit": -1}, "limit: -1"),
        ({"limit": 1.5}, "limit"),
        ({"limit": True}, "limit"),
        ({"offset": "5"}, "offset"),
        ({"select": [["=", "a", sums(5)]]}, "more than 16 columns"),
        ({"select": [["=", f"c{number}", 1] for number in range(17)]}, "more than 16 columns"),
        ({"from": {"select": [["=", "a", sums(2)]]}, "select": [["=", "a", sums(2)]]}, "more than 16"),
        ({"from": {"from": {"select": [["=", "a", sums(3)]]}}, "select": [["=", "a", sums(1)]]}, "than 16"),
        ({"where": ["in", "a", {"select": [["=", "a", sums(5)]]}]}, "more than 16 columns"),
        ({"select": ["a", "b", "a"]}, "select: 'a' is there 2 times"),
        ({"select": [["max", "a"], ["max", "a"]]}, "select: ['max', 'a'] is there 2 times"),
        ({"order_by": ["a"] * 5000}, "order_by: 'a' is there 5000 times"),
        ({"group_by": ["a", "a"]}, "group_by"),
        ({"distinct": ["a", "a"]}, "distinct"),
        ({"where": ["|", *[["in", "a", {"select": ["a"]}]] * 8]}, "more than 8 queries"),
        ([], "a query is a JSON object"),
        (None, "a query is a JSON object"),
        ("select", "a query is a JSON object"),
    ],
)
def test_what_may_do_more_than_read_is_refused(query: Any, said: str) -> None:
    with pytest.raises(RefusedQuery) as refused:
        check_query(query)
    assert said in str(refused.value)


def test_a_message_is_short_whatever_the_query_is() -> None:
    with pytest.raises(RefusedQuery) as refused:
        check_query({"where": ["x" * 100_000]})
    assert len(str(refused.value)) < 400
