"""Part 6 of the protocol: queries that no reader should send are answered alike, mostly with errors."""

from __future__ import annotations

from typing import Any

import pytest

ENUMS = {"X-QCache-types": "k=enum;l=enum;m=enum"}
NUMBERS = "id,k,l,m,flags,name\n1,x,x,x,1,apple\n2,y,y,y,3,pear\n3,x,y,x,-5,\n"
BOOLEANS = [{"id": 1, "a": True}, {"id": 1, "a": None}, {"id": 2, "a": False}]
NULLS = [{"id": 1, "a": None}, {"id": 2, "a": None}]
TEXTS = [{"id": 1, "a": "x"}, {"id": 1, "a": ""}, {"id": 2, "a": None}]
NONE = ["<", "id", 0]


@pytest.mark.parametrize(
    ("rows", "q"),
    [
        *((rows, {"select": [[function, "a"]]}) for rows in (BOOLEANS, NULLS, TEXTS) for function in
          ("median", "mean", "prod", "max", "min", "mad", "quantile", "skew", "any", "all", "idxmax", "compound")),
        *((rows, {"group_by": ["id"], "select": ["id", [function, "a"]]}) for rows in (BOOLEANS, NULLS, TEXTS)
          for function in ("any", "all", "mad", "quantile", "sum", "prod", "idxmax", "first", "last", "max", "skew")),
        *((TEXTS, {"where": NONE, "select": [[function, "a"]]}) for function in ("idxmax", "max", "sum", "mad")),
        *((TEXTS, {"where": NONE, "group_by": ["id"], "select": ["id", [function, "a"]]}) for function in
          ("max", "sum", "first", "median")),
        (TEXTS, {"select": [["é", "a"]]}),
        (TEXTS, {"group_by": [None], "select": [["sum", "id"]]}),
        (TEXTS, {"group_by": [["id"]], "select": [["sum", "id"]]}),
    ],
)  # fmt: skip
def test_aggregates_of_objects_are_answered_alike(pair: Any, rows: list[dict[str, Any]], q: Any) -> None:
    pair.json(rows)
    assert pair.query(q).status in (200, 400, 500)


@pytest.mark.parametrize(
    "q",
    [
        *({"group_by": ["k"], "where": NONE, "select": ["k", [function, column]]} for function, column in
          (("nunique", "id"), ("sum", "name"), ("first", "name"), ("max", "name"))),
        *({"group_by": ["id"], "select": ["id", [function, "k"]]} for function in ("first", "last", "mad", "max")),
        {"from": {"select": ["id", "id"]}, "where": ["==", "id", 1]},
        {"from": {"select": ["id", "id"]}, "order_by": ["id"]},
        {"select": ["id", "id"], "order_by": ["id"]},
        {"where": ["&", ["==", "id", 1], "k"]},
        {"from": {"where": NONE}, "where": ["&", ["==", "id", 1], {}]},
        {"from": {"where": NONE}, "where": ["|", {}, ["==", "id", 1]]},
        *({"where": [operator, "flags", bits]} for operator in ("any_bits", "all_bits")
          for bits in (2**63, -(2**63) - 1, -(2**70), 2**70)),
        *({"where": [operator, "k", other]} for operator in ("==", "!=", "<") for other in ("l", "m", "name")),
        *({"where": ["in", column, values]} for column in ("id", "name", "k")
          for values in ([2**70], ["x"], [None], [1.5, "1"], [[1]])),
        *({"select": [["=", "x", text]]} for text in ("[1, 2]", "id in [-1, 2]", "'a' * 2 == id", "'a' + 'b' == name",
          "2 ** 5000 + id", "2 ** 5000", "k & (id > 1)", "abs(id) > 1", "id == [1]")),
        {"from": {"select": [["=", "abs", "id"], "id"]}, "select": [["=", "x", "abs(id)"]]},
    ],
)  # fmt: skip
def test_unusual_columns_and_values_are_answered_alike(pair: Any, q: Any) -> None:
    assert pair.csv(NUMBERS, ENUMS).status == 201
    assert pair.query(q).status in (200, 400, 500)


@pytest.mark.parametrize("value", [7, 2**63, -(2**63), -(2**63) - 1, 2**70])
def test_stand_ins_of_64_bits_and_more_are_answered_alike(pair: Any, value: int) -> None:
    stored = pair.csv("a\n1\n", {"X-QCache-stand-in-columns": f"b={value}"})
    assert pair.query({}).status == (200 if stored.status == 201 else 404)


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"a.1,b\n1,2\n", {}),
        (b"a,a.1\n1,2\n", {}),
        (b"a\ninf\n1e400\n", {"X-QCache-types": "a=float"}),
        (b"a\nInfinity\n", {"X-QCache-types": "a=float"}),
        (b"a\nInfinity\n1\n", {}),
        (b'[{"a": null}, {"a": 1180591620717411303424}]', {"Content-Type": "application/json"}),
        (b'[{"a": 1180591620717411303424}, {"a": null}]', {"Content-Type": "application/json"}),
    ],
)
def test_unusual_tables_are_stored_and_answered_alike(
    pair: Any, content: bytes, headers: dict[str, str]
) -> None:
    if pair.csv(content, headers).status == 201:
        for accept in ("application/json", "text/csv"):
            assert pair.query({}, {"Accept": accept}).status in (200, 500)


def test_half_a_surrogate_pair_of_json_is_answered_alike_in_csv(pair: Any) -> None:
    pair.csv(b'[{"a": "\\ud800"}, {"a": "x"}]', {"Content-Type": "application/json"})
    assert pair.query({}, {"Accept": "text/csv"}).status == 200
