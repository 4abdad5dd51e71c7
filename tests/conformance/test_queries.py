"""Part 6 of the protocol: the query language."""

from __future__ import annotations

import pytest

FRUIT = """\
id,name,kind,price,stock,flags,fresh
1,apple,fruit,1.5,10,1,True
2,Banana,fruit,0.5,0,3,True
3,carrot,vegetable,0.25,7,4,False
4,,fruit,2.0,3,6,False
5,apple,,,3,0,True
"""
HEADER = {"X-QCache-types": "kind=enum"}
SELECT_ID = {"select": ["id"]}


@pytest.fixture
def fruit(pair):
    """Both servers with a table of fruit: texts and floats with a null, an enum, integers and booleans."""
    assert pair.csv(FRUIT, HEADER).status == 201
    return pair


def ids(pair, **clauses) -> list[int]:
    """The ids of the rows in a query's result."""
    return pair.column("id", clauses)


# The query as a whole


@pytest.mark.parametrize("clause", ["nosuch", "Where", "SELECT", "columns", "orderby", "", "update "])
def test_an_unknown_clause_is_400(fruit, clause):
    """Also next to known clauses, in `from` and in a sub-query."""
    for q in (
        {clause: []},
        {"limit": 1, clause: 1},
        {"from": {clause: 1}},
        {"where": ["in", "id", {clause: 1}]},
    ):
        assert fruit.query(q).status == 400


def test_an_empty_query_is_the_whole_table(fruit):
    """All rows and columns, in the order of the upload."""
    assert fruit.as_csv({}) == FRUIT


@pytest.mark.parametrize("q", [[], "x", ["where"], [{"where": 1}]])
def test_a_query_that_is_no_object_is_400(fruit, q):
    """Also in `from` and as a sub-query; a list in `in` however is a list of values."""
    assert fruit.query(q).status == 400
    assert fruit.query({"from": q}).status == 400


def test_clauses_run_in_a_fixed_order(fruit):
    """from, where, group_by, distinct, select, order_by, slice."""
    q = {
        "limit": 1, "order_by": ["-stock"], "select": ["kind", ["sum", "stock"]], "group_by": ["kind"],
        "where": ["<", "id", 5], "from": {"where": [">", "id", 1]},
    }  # fmt: skip
    assert fruit.rows(q) == [{"kind": "vegetable", "stock": 7}]


def test_order_by_requires_a_column_of_the_result(fruit):
    """A column that select leaves out is 400; aliases and aggregates are columns of the result."""
    assert fruit.query({"select": ["id"], "order_by": ["name"]}).status == 400
    assert fruit.column("x", {"select": [["=", "x", ["*", "id", -1]]], "order_by": ["x"]}) == [
        -5,
        -4,
        -3,
        -2,
        -1,
    ]
    assert fruit.query({"select": [["sum", "id"]], "order_by": ["id"]}).status == 200
    assert fruit.query({"select": [["sum", "id"]], "order_by": ["stock"]}).status == 400


def test_where_cannot_see_aliases(fruit):
    """Where runs before select; `from` makes an alias a column."""
    alias = [["=", "double", ["*", "id", 2]]]
    assert fruit.query({"select": alias, "where": [">", "double", 4]}).status == 400
    assert fruit.column("double", {"from": {"select": alias}, "where": [">", "double", 4]}) == [6, 8, 10]


# where


@pytest.mark.parametrize("where", [[], None, {}, "", 0, False, 0.0])
def test_an_empty_where_is_no_filter(fruit, where):
    """`[]`, `null`, `{}`, `""`, 0 and false."""
    assert ids(fruit, where=where) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("where", ["id", 1, True, {"a": 1}, 1.5, "'x'"])
def test_a_where_that_is_no_list_is_400(fruit, where):
    """Unless it is empty."""
    assert fruit.query({"where": where}).status == 400


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (["==", "stock", 3], [4, 5]), (["!=", "stock", 3], [1, 2, 3]), (["<", "stock", 3], [2]),
        (["<=", "stock", 3], [2, 4, 5]), ([">", "stock", 3], [1, 3]), ([">=", "stock", 3], [1, 3, 4, 5]),
        (["==", "price", 0.5], [2]), ([">", "price", 1], [1, 4]), (["==", "price", 2], [4]), (["==", "id", 2.0], [2]),
        (["==", "name", "'apple'"], [1, 5]), (["==", "name", '"apple"'], [1, 5]), ([">", "name", "'apple'"], [3]),
        (["<", "name", "'b'"], [1, 2, 5]), (["==", "kind", "'fruit'"], [1, 2, 4]),
        (["==", "fresh", True], [1, 2, 5]), (["!=", "fresh", True], [3, 4]), (["==", "fresh", 1], [1, 2, 5]),
        (["==", "name", "''"], []), (["==", "name", "'Apple'"], []), (["<", "stock", "id"], [2, 4, 5]),
        (["==", "stock", "flags"], []), ([">", "price", "stock"], [2]), (["==", "id", "id"], [1, 2, 3, 4, 5]),
    ],
)  # fmt: skip
def test_comparisons_find_the_matching_rows(fruit, where, found):
    """`==`, `!=`, `<`, `<=`, `>`, `>=` with the column first. A quoted text is a literal, an unquoted one a column."""
    assert ids(fruit, where=where) == found


@pytest.mark.parametrize(
    "literal", ["'a,b'", "'it''s'", "'it's'", '"it\'s"', "' '", "'''", "'é'", "'%'", "'\\n'"]
)
def test_quotes_end_where_the_string_ends(pair, literal):
    """Only the first and the last character are the quotes."""
    values = ["a,b", "it''s", "it's", " ", "'", "é", "%", "\\n"]
    pair.json([{"a": value} for value in values])
    assert pair.column("a", {"where": ["==", "a", literal]}) == [literal[1:-1]]


@pytest.mark.parametrize("argument", ["nosuch", "'open", "open'", "'mixed\"", "'", ""])
def test_an_unquoted_string_that_is_no_column_is_400(fruit, argument):
    """An unclosed quote does not quote."""
    assert fruit.query({"where": ["==", "name", argument]}).status == 400


@pytest.mark.parametrize(
    "operator", ["==", "!=", "<", "in", "like", "ilike", "isnull", "any_bits", "all_bits"]
)
def test_an_unknown_column_is_400(fruit, operator):
    """With every operator."""
    argument = {"in": [1], "like": "'x'", "ilike": "'x'"}.get(operator, 1)
    where = ["isnull", "nosuch"] if operator == "isnull" else [operator, "nosuch", argument]
    assert fruit.query({"where": where}).status == 400


def test_the_column_comes_first(fruit):
    """A literal in its place is 400."""
    assert fruit.query({"where": ["==", 1, "id"]}).status == 400
    assert fruit.query({"where": ["==", "'apple'", "name"]}).status == 400


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (["!=", "price", 0.5], [1, 3, 4, 5]), (["!", ["==", "price", 0.5]], [1, 3, 4, 5]), (["<", "price", 100], [1, 2, 3, 4]),
        ([">", "price", -100], [1, 2, 3, 4]), (["!=", "name", "'apple'"], [2, 3, 4]), (["!", ["<", "price", 1]], [1, 4, 5]),
        (["!", ["like", "name", "'a%'"]], [2, 3, 4]), (["==", "price", None], []), (["!=", "price", None], [1, 2, 3, 4, 5]),
    ],
)  # fmt: skip
def test_not_equal_and_not_keep_null_rows(fruit, where, found):
    """`<` and `>` drop them. Null equals nothing."""
    assert ids(fruit, where=where) == found


@pytest.mark.parametrize("operator", ["<", "<=", ">", ">=", "==", "!="])
@pytest.mark.parametrize("column", ["id", "price", "fresh"])
def test_comparing_a_numeric_column_with_a_string_is_400(fruit, operator, column):
    """With every operator."""
    answer = fruit.query({"where": [operator, column, "'apple'"]})
    assert answer.status == 400


@pytest.mark.parametrize("operator", ["==", "!=", "<", ">", "<=", ">="])
def test_comparing_a_string_column_with_a_number(fruit, operator):
    """`==` matches nothing, `!=` everything."""
    answer = fruit.query({"where": [operator, "name", 1], **SELECT_ID})
    if operator in ("==", "!="):
        assert answer.unsliced_length == (0 if operator == "==" else 5)


@pytest.mark.parametrize("argument", [[], [1], {}, None, ["==", "id", 1], {"select": ["id"]}])
@pytest.mark.parametrize("operator", ["==", "<"])
def test_unusual_arguments_of_comparisons_are_answered_alike(fruit, operator, argument):
    """A list is taken as a filter, an object and null as a value."""
    fruit.query({"where": [operator, "id", argument]})


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (["in", "id", [1, 3, 99]], [1, 3]), (["in", "name", ["apple", "carrot"]], [1, 3, 5]), (["in", "id", []], []),
        (["in", "price", [0.5, 2]], [2, 4]), (["in", "kind", ["vegetable"]], [3]), (["in", "name", ["'apple'"]], []),
        (["in", "fresh", [False]], [3, 4]), (["in", "name", [None]], []), (["in", "price", [None]], [5]),
    ],
)  # fmt: skip
def test_in_has_unquoted_values(fruit, where, found):
    """A quoted value is a text with quotes. Null finds nulls in numeric columns only."""
    assert ids(fruit, where=where) == found


@pytest.mark.parametrize("argument", ["id", "'apple'", 1, None, True])
def test_in_requires_a_list_or_a_sub_query(fruit, argument):
    """Anything else is 400."""
    assert fruit.query({"where": ["in", "id", argument]}).status == 400


@pytest.mark.parametrize(
    ("sub", "found"),
    [
        ({"where": ["==", "kind", "'vegetable'"]}, [3]),
        ({"select": ["id"], "where": ["<", "id", 3]}, [1, 2]),
        ({"select": ["id"], "order_by": ["-id"], "limit": 2}, [4, 5]),
        ({"select": ["id"], "from": {"where": [">", "stock", 5]}}, [1, 3]),
        ({"group_by": ["name"], "select": ["name", ["max", "id"]]}, [2, 3, 5]),
        ({"select": [["=", "id", ["+", "id", 1]]]}, [2, 3, 4, 5]),
        ({}, [1, 2, 3, 4, 5]),
    ],
)
def test_in_accepts_a_sub_query_whose_result_has_the_column(fruit, sub, found):
    """The values are those of the column with the same name."""
    assert ids(fruit, where=["in", "id", sub]) == found


def test_a_sub_query_without_the_column_is_400(fruit):
    """And so is a malformed sub-query."""
    for sub in ({"select": ["name"]}, {"nosuch": 1}, {"select": ["nosuch"]}, {"where": ["nosuch", 1, 2]}):
        assert fruit.query({"where": ["in", "id", sub]}).status == 400


def test_a_sub_query_reads_the_stored_table(fruit):
    """And not the result of `from`."""
    assert ids(
        fruit, **{"from": {"where": [">", "id", 3]}, "where": ["in", "stock", {"where": ["==", "id", 5]}]}
    ) == [4, 5]
    q = {"from": {"where": [">", "id", 3]}, "where": ["in", "id", {"where": ["<", "id", 5]}]}
    assert fruit.column("id", q) == [4]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("apple", [1, 5]), ("app", []), ("app%", [1, 5]), ("%rot", [3]), ("%an%", [2]), ("%", [1, 2, 3, 5]), ("%%", [1, 2, 3, 5]),
        ("a.*e", [1, 5]), ("[ac].*", [1, 3, 5]), (".{6}", [2, 3]), ("(apple|carrot)", [1, 3, 5]), ("banana", []),
        ("%(?<=r)r%", [3]), ("(?!a).*", [2, 3]), ("(?=.*n).*", [2]), ("(?i)BANANA", [2]), (r"%(.)\1%", [1, 3, 5]),
        ("a%e", []), ("%a.p%", [1, 5]), ("", []), (".*", [1, 2, 3, 5]), (r"\w+", [1, 2, 3, 5]), ("carrot%|apple", [1, 5]),
    ],
)  # fmt: skip
def test_like_is_a_regex_anchored_at_both_ends(fruit, pattern, found):
    """A leading or trailing `%` removes the anchor. Null matches nothing."""
    assert sorted(ids(fruit, where=["like", "name", f"'{pattern}'"])) == sorted(found)


@pytest.mark.parametrize(
    ("pattern", "found"), [("APPLE", [1, 5]), ("b%", [2]), ("%AN%", [2]), ("[A-C].*", [1, 2, 3, 5])]
)
def test_ilike_ignores_case(fruit, pattern, found):
    """Otherwise it is like `like`."""
    assert ids(fruit, where=["ilike", "name", f"'{pattern}'"]) == found


def test_like_of_an_enum(pair):
    """An enum is matched like a string; if it has a null, the answer is 500."""
    pair.csv("id,e\n1,foo\n2,bar\n", {"X-QCache-types": "e=enum"})
    assert ids(pair, where=["like", "e", "'f%'"]) == [1]
    pair.csv("id,e\n1,foo\n2,\n", {"X-QCache-types": "e=enum"})
    assert pair.query({"where": ["like", "e", "'f%'"]}).status == 500


@pytest.mark.parametrize("column", ["id", "price", "fresh"])
def test_like_of_a_column_that_is_no_string_is_400(fruit, column):
    """With the pattern of a number."""
    assert fruit.query({"where": ["like", column, "'1'"]}).status == 400


@pytest.mark.parametrize("pattern", ["apple", "'apple", "apple'", ""])
def test_like_needs_a_quoted_string(fruit, pattern):
    """An unquoted word is 400."""
    assert fruit.query({"where": ["like", "name", pattern]}).status == 400


@pytest.mark.parametrize("pattern", ["(", "[", "*", "a{2,1}", "(?P<n"])
def test_an_invalid_regex_is_500(fruit, pattern):
    """Although it is the user's mistake."""
    assert fruit.query({"where": ["like", "name", f"'{pattern}'"]}).status == 500


@pytest.mark.parametrize("pattern", [1, None, ["x"], {}])
def test_like_with_something_other_than_a_string_is_an_error(fruit, pattern):
    """With the same status on both servers."""
    assert fruit.query({"where": ["like", "name", pattern]}).status in (400, 500)


@pytest.mark.parametrize(("column", "found"), [("name", [4]), ("price", [5]), ("kind", []), ("id", [])])
def test_isnull_finds_nulls_except_in_enums(fruit, column, found):
    """It finds nulls in strings and floats, but never in enums; `!` inverts it."""
    assert ids(fruit, where=["isnull", column]) == found
    assert ids(fruit, where=["!", ["isnull", column]]) == [n for n in range(1, 6) if n not in found]


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (["any_bits", "flags", 1], [1, 2]), (["any_bits", "flags", 6], [2, 3, 4]), (["any_bits", "flags", 0], []),
        (["all_bits", "flags", 2], [2, 4]), (["all_bits", "flags", 6], [4]), (["all_bits", "flags", 0], [1, 2, 3, 4, 5]),
    ],
)  # fmt: skip
def test_any_bits_and_all_bits_find_the_matching_rows(fruit, where, found):
    """`any_bits`: at least one of the bits is set; `all_bits`: all are."""
    assert ids(fruit, where=where) == found


@pytest.mark.parametrize("where", [["any_bits", "name", 1], ["all_bits", "price", 1], ["any_bits", "flags", 1.5],
                                   ["all_bits", "flags", "'1'"], ["any_bits", "flags", None], ["any_bits", "flags"]])  # fmt: skip
def test_bits_require_integers(fruit, where):
    """A column or an argument of another type is 400."""
    assert fruit.query({"where": where}).status == 400


A, B, C = ["<", "id", 4], ["==", "name", "'apple'"], [">", "stock", 5]


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (["&", A, B], [1]), (["|", A, B], [1, 2, 3, 5]), (["&", A, B, C], [1]), (["|", A, B, C], [1, 2, 3, 5]),
        (["&", A], [1, 2, 3]), (["|", B], [1, 5]), (["!", A], [4, 5]), (["!", ["|", A, B]], [4]),
        (["&", ["!", A], ["|", B, C]], [5]), (["!", ["!", B]], [1, 5]), (["|", ["&", A, B], ["&", ["!", A], ["!", B]]], [1, 4]),
    ],
)  # fmt: skip
def test_and_or_and_not(fruit, where, found):
    """`&` and `|` accept one clause or more, `!` exactly one."""
    assert ids(fruit, where=where) == found


@pytest.mark.parametrize(
    "where",
    [["&"], ["|"], ["!"], ["!", A, B], ["=="], ["==", "id"], ["==", "id", 1, 2], ["isnull"], ["isnull", "id", 1], ["in", "id"],
     ["in", "id", [1], [2]], ["like", "name"], ["nosuch", "id", 1], ["=", "id", 1], ["AND", A, B], [[]], ["&", []], [None], ["id"],
     ["==", "id", []], ["&", ["nosuch", "id", 1], A]],
)  # fmt: skip
def test_malformed_filters_are_400(fruit, where):
    """A wrong number of arguments, an unknown operator, or an empty expression."""
    assert fruit.query({"where": where}).status == 400


@pytest.mark.parametrize("where", [["&", "id", "stock"], ["!", "fresh"], ["&", "fresh"], ["|", "fresh", A], ["&", A, 1], ["!", 1],
                                   ["&", A, "'x'"], [["==", "id", 1]], [{}, "id", 1], ["==", ["id"], 1], [1, 2, 3]])  # fmt: skip
def test_unusual_filters_are_answered_alike(fruit, where):
    """Such as columns in place of filters."""
    fruit.query({"where": where})


# select


@pytest.mark.parametrize("select", [None, [], "", 0, {}, False])
def test_an_empty_select_is_every_column(fruit, select):
    """And so is null."""
    assert fruit.as_csv({"select": select}) == FRUIT


def test_select_returns_the_columns_in_the_requested_order(fruit):
    assert fruit.as_csv({"select": ["stock", "id"], "limit": 2}) == "stock,id\n10,1\n0,2\n"


@pytest.mark.parametrize("select", [["nosuch"], ["id", "nosuch"], ["'id'"], ["ID"], [""]])
def test_an_unknown_column_in_select_is_400(fruit, select):
    """Names are exact."""
    assert fruit.query({"select": select}).status == 400


@pytest.mark.parametrize("select", ["id", 1, {"a": 1}, True, 1.5])
def test_a_select_that_is_no_list_is_400(fruit, select):
    """Unless it is empty."""
    assert fruit.query({"select": select}).status == 400


@pytest.mark.parametrize("select", [["id", "id"], [1], [None], [["id"]], [[]], [["a", "b", "c"]], [["=", "x"]], [{"a": 1}],
                                    [["sum", "id", 1]], [["=", "x", "id", 1]], [["count"], "id"]])  # fmt: skip
def test_unusual_selects_are_answered_alike(fruit, select):
    """Duplicate columns, and other items than names."""
    for accept in ("application/json", "text/csv"):
        assert fruit.query({"select": select}, {"Accept": accept}).status in (200, 400, 500)


def test_a_duplicate_column_is_500_in_json_and_works_in_csv(fruit):
    """JSON objects cannot have the same name twice."""
    assert fruit.query({"select": ["id", "id"]}).status == 500
    assert fruit.as_csv({"select": ["id", "id"], "limit": 1}) == "id,id\n1,1\n"


def test_count_is_the_number_of_rows(fruit):
    """After where."""
    assert fruit.rows({"select": [["count"]]}) == [{"count": 5}]
    assert fruit.rows({"select": [["count"]], "where": ["<", "id", 3]}) == [{"count": 2}]
    assert fruit.rows({"select": [["count"]], "where": ["<", "id", 0]}) == [{"count": 0}]


@pytest.mark.parametrize(
    ("function", "column", "value"),
    [
        ("sum", "stock", 23), ("mean", "stock", 4.6), ("max", "stock", 10), ("min", "stock", 0), ("count", "stock", 5),
        ("std", "id", 1.5811388301), ("var", "id", 2.5), ("median", "stock", 3), ("prod", "id", 120),
        ("sum", "price", 4.25), ("count", "price", 4), ("mean", "price", 1.0625), ("min", "price", 0.25), ("median", "price", 1.0),
        ("count", "name", 4), ("count", "kind", 4), ("sum", "fresh", 3), ("nunique", "name", 3), ("nunique", "stock", 4),
    ],
)  # fmt: skip
def test_aggregates_without_group_by(fruit, function, column, value):
    """They give one row and ignore nulls."""
    assert fruit.column(column, {"select": [[function, column]]}) == [value]


@pytest.mark.parametrize("function", ["max", "min", "sum", "mean", "median", "std", "prod"])
@pytest.mark.parametrize("column", ["name", "kind", "fresh"])
def test_aggregates_of_other_types_are_answered_alike(fruit, function, column):
    """Some work, and some are errors."""
    fruit.query({"select": [[function, column]]})
    fruit.query({"group_by": ["stock"], "select": ["stock", [function, column]]})


@pytest.mark.parametrize(
    "function",
    ["sum", "mean", "max", "min", "count", "std", "var", "median", "nunique", "prod", "first", "size"],
)
@pytest.mark.parametrize("where", [["<", "id", 0], ["==", "id", 5], ["==", "id", 1]])
def test_aggregates_of_no_rows_of_nulls_and_of_one_row_are_answered_alike(fruit, function, where):
    for column in ("id", "price"):
        fruit.query({"select": [[function, column]], "where": where})
        fruit.query({"group_by": ["stock"], "select": ["stock", [function, column]], "where": where})


def test_several_aggregates_are_sorted_by_column(fruit):
    """Without group_by the columns are in alphabetical order, and each can have only one aggregate."""
    assert (
        fruit.as_csv({"select": [["sum", "stock"], ["max", "id"], ["min", "flags"]]})
        == "flags,id,stock\n0,5,23\n"
    )
    assert fruit.query({"select": [["sum", "stock"], ["max", "stock"]]}).status == 400


def test_plain_columns_cannot_be_mixed_with_aggregates_without_group_by(fruit):
    """400; aliases cannot be mixed with aggregates either."""
    assert fruit.query({"select": ["id", ["sum", "stock"]]}).status == 400
    assert fruit.query({"select": [["=", "x", "id"], ["sum", "stock"]]}).status == 400
    assert (
        fruit.query({"group_by": ["kind"], "select": ["kind", ["=", "x", "id"], ["sum", "stock"]]}).status
        == 400
    )


@pytest.mark.parametrize("function", ["nosuch", "first", "last", "SUM", "size", "", "shape"])
def test_unknown_aggregates_are_errors(fruit, function):
    """With the same status on both servers."""
    assert fruit.query({"select": [[function, "stock"]]}).status in (400, 500)


@pytest.mark.parametrize(
    "select", [[["sum", "nosuch"]], [["sum", 1]], [["sum", None]], [[1, "id"]], [["sum", ["id"]]]]
)
def test_malformed_aggregates_are_errors(fruit, select):
    """With the same status on both servers."""
    assert fruit.query({"select": select}).status in (400, 500)
    assert fruit.query({"group_by": ["kind"], "select": select}).status in (400, 500)


# group_by


@pytest.mark.parametrize(
    ("function", "values"),
    [
        ("sum", {"fruit": 13, "vegetable": 7}), ("mean", {"fruit": 13 / 3, "vegetable": 7.0}), ("max", {"fruit": 10, "vegetable": 7}),
        ("min", {"fruit": 0, "vegetable": 7}), ("count", {"fruit": 3, "vegetable": 1}), ("median", {"fruit": 3, "vegetable": 7}),
        ("nunique", {"fruit": 3, "vegetable": 1}), ("first", {"fruit": 10, "vegetable": 7}), ("last", {"fruit": 3, "vegetable": 7}),
        ("prod", {"fruit": 0, "vegetable": 7}), ("var", {"fruit": 79 / 3, "vegetable": None}),
        ("std", {"fruit": (79 / 3) ** 0.5, "vegetable": None}), ("size", {"fruit": 3, "vegetable": 1}),
    ],
)  # fmt: skip
def test_aggregates_with_group_by(fruit, function, values):
    """Null keys are dropped."""
    rows = fruit.rows({"group_by": ["kind"], "select": ["kind", [function, "stock"]]})
    assert {row["kind"]: row["stock"] for row in rows} == pytest.approx(values)


def test_grouped_output_is_sorted_by_key(pair):
    """By each key in turn; texts by code point."""
    pair.csv("k,l,v\nb,2,1\na,9,2\nB,1,3\nb,1,4\nb,2,5\n,1,6\né,1,7\n")
    rows = pair.rows({"group_by": ["k", "l"], "select": ["k", "l", ["sum", "v"]]})
    assert [(row["k"], row["l"], row["v"]) for row in rows] == [
        ("B", 1, 3), ("a", 9, 2), ("b", 1, 4), ("b", 2, 6), ("é", 1, 7),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "select", "status"),
    [
        ([{"a": "a", "b": 1}], None, 200),
        ([{"a": "b", "b": "a"}, {"a": "a", "b": "b"}], None, 200),
        ([{"a": "a"}], ["nosuch"], 400),
        ([{"a": "x"}], None, 500),
        ([{"a": None, "b": 1}, {"a": "a", "b": 2}], None, 500),
    ],
)
def test_a_text_column_as_the_only_clause_selects_columns(pair, rows, select, status):
    """Pandas takes its texts for names of columns; a text that names no column is 500."""
    pair.json(rows)
    assert pair.query({"where": ["|", "a"], "select": select or []}).status == status


def test_null_keys_are_dropped(pair):
    """For strings, numbers and enums, and for any of several keys."""
    pair.csv("s,n,e,v\na,1,x,1\n,2,y,2\nb,,z,4\nc,3,,8\n", {"X-QCache-types": "e=enum"})
    for key in ("s", "n", "e"):
        assert len(pair.rows({"group_by": [key], "select": [key, ["sum", "v"]]})) == 3
    assert pair.column("v", {"group_by": ["s", "n"], "select": ["s", ["sum", "v"]]}) == [1, 8]


def test_an_aggregate_of_ints_that_stay_integral_is_int(pair):
    """A mean that is whole in every group is an integer; one fraction makes all of them floats."""
    pair.csv("k,v\na,1\na,3\nb,4\n")
    assert (
        pair.query({"group_by": ["k"], "select": ["k", ["mean", "v"]]}).body
        == b'[{"k":"a","v":2},{"k":"b","v":4}]'
    )
    pair.csv("k,v\na,1\na,2\nb,4\n")
    assert b'"v":1.5' in pair.query({"group_by": ["k"], "select": ["k", ["mean", "v"]]}).body
    assert b'"v":4.0' in pair.query({"group_by": ["k"], "select": ["k", ["mean", "v"]]}).body


def test_group_by_requires_an_aggregate(fruit):
    """Without one it is 400."""
    for select in (["kind"], [["=", "x", "id"]], ["kind", "id"]):
        assert fruit.query({"group_by": ["kind"], "select": select}).status == 400


@pytest.mark.parametrize(
    "q", [{}, {"select": []}, {"select": None}, {"order_by": ["kind"]}, {"limit": 1}, {"distinct": []}]
)
def test_group_by_without_select_is_an_error(fruit, q):
    """With the same status on both servers."""
    assert fruit.query({"group_by": ["kind"], **q}).status in (400, 500)


def test_count_alone_with_group_by_counts_groups(fruit):
    """Without groups whose key is null."""
    assert fruit.rows({"group_by": ["kind"], "select": [["count"]]}) == [{"count": 2}]


def test_a_key_of_group_by_need_not_be_selected(fruit):
    assert fruit.as_csv({"group_by": ["kind"], "select": [["sum", "stock"]]}) == "stock\n13\n7\n"


def test_selecting_what_is_neither_key_nor_aggregate_is_400(fruit):
    """It is not a column of the result."""
    assert fruit.query({"group_by": ["kind"], "select": ["kind", "id", ["sum", "stock"]]}).status == 400


@pytest.mark.parametrize("group_by", [["nosuch"], ["kind", "nosuch"]])
def test_grouping_by_an_unknown_column_is_400(fruit, group_by):
    assert fruit.query({"group_by": group_by, "select": [["sum", "stock"]]}).status == 400


@pytest.mark.parametrize("group_by", ["kind", 1, {"a": 1}, True, "nosuch"])
def test_a_group_by_that_is_no_list_is_400(fruit, group_by):
    """Unless it is empty."""
    assert fruit.query({"group_by": group_by, "select": [["sum", "stock"]]}).status == 400


@pytest.mark.parametrize("group_by", [[], None, "", 0])
def test_an_empty_group_by_is_ignored(fruit, group_by):
    """So the aggregate is over the whole table."""
    assert fruit.rows({"group_by": group_by, "select": [["sum", "stock"]]}) == [{"stock": 23}]


def test_an_aggregate_of_a_key_is_answered_alike(fruit):
    """The result would have its column twice."""
    fruit.query({"group_by": ["stock"], "select": ["stock", ["sum", "stock"]]})


def test_an_unknown_aggregate_with_group_by_is_400(fruit):
    assert fruit.query({"group_by": ["kind"], "select": ["kind", ["nosuch", "stock"]]}).status == 400


def test_group_by_booleans_and_floats(fruit):
    assert (
        fruit.as_csv({"group_by": ["fresh"], "select": ["fresh", ["sum", "id"]]})
        == "fresh,id\nFalse,7\nTrue,8\n"
    )
    assert fruit.column("price", {"group_by": ["price"], "select": ["price", ["sum", "id"]]}) == [
        0.25,
        0.5,
        1.5,
        2.0,
    ]


# distinct


def test_distinct_of_every_column(pair):
    """`[]` means every column. The first of equal rows is kept."""
    pair.csv("i,a,b\n1,x,1\n2,x,2\n3,x,1\n4,,1\n5,,1\n")
    assert pair.column("i", {"distinct": []}) == [1, 2, 3, 4, 5]
    assert len(pair.rows({"from": {"select": ["a", "b"]}, "distinct": []})) == 3


def test_distinct_of_columns_keeps_first_rows(pair):
    """Rows are kept whole. Nulls are equal to each other."""
    pair.csv("i,a,b\n1,x,1\n2,x,2\n3,x,1\n4,,1\n5,,1\n")
    assert pair.column("i", {"distinct": ["a"]}) == [1, 4]
    assert pair.column("i", {"distinct": ["a", "b"]}) == [1, 2, 4]


def test_distinct_runs_before_select(pair):
    """So `[]` also compares columns that select leaves out."""
    pair.csv("a,b\nx,1\nx,2\n")
    assert pair.rows({"distinct": [], "select": ["a"]}) == [{"a": "x"}, {"a": "x"}]
    assert pair.rows({"distinct": ["a"], "select": ["b"]}) == [{"b": 1}]


@pytest.mark.parametrize(
    "distinct",
    [None, [], {}, "", 0, "kind", ["nosuch"], "nosuch", 1, [1], True, {"a": 1}, [["kind"]], [None]],
)
def test_unusual_distincts_are_answered_alike(fruit, distinct):
    """Null means no distinct; unknown columns and other types are as on the real server."""
    fruit.query({"distinct": distinct})


# order_by


@pytest.mark.parametrize(
    ("order_by", "found"),
    [
        (["id"], [1, 2, 3, 4, 5]), (["-id"], [5, 4, 3, 2, 1]), (["price"], [3, 2, 1, 4, 5]), (["-price"], [4, 1, 2, 3, 5]),
        (["name", "id"], [2, 1, 5, 3, 4]), (["-name", "id"], [3, 1, 5, 2, 4]), (["stock", "-id"], [2, 5, 4, 3, 1]),
        (["fresh", "-stock", "id"], [3, 4, 1, 5, 2]), (["stock"], [2, 4, 5, 3, 1]), ([], [1, 2, 3, 4, 5]),
    ],
)  # fmt: skip
def test_order_by_sorts_the_rows(fruit, order_by, found):
    """`-` means descending, for each column separately; nulls are last in both; texts are by code point."""
    assert ids(fruit, order_by=order_by) == found


@pytest.mark.parametrize("order_by", [["kind", "id"], ["-kind", "id"], ["kind"], ["-kind"]])
def test_order_by_an_enum_is_answered_alike(fruit, order_by):
    assert len(ids(fruit, order_by=order_by)) == 5


@pytest.mark.parametrize(
    "order_by",
    ["id", 1, {"a": 1}, [1], [None], [["id"]], ["nosuch"], ["-nosuch"], [""], ["-"], ["--id"], [{}]],
)
def test_a_malformed_order_by_is_400(fruit, order_by):
    """No list, no names, or unknown columns."""
    assert fruit.query({"order_by": order_by}).status == 400


@pytest.mark.parametrize("order_by", [None, "", 0, {}, False])
def test_an_empty_order_by_is_ignored(fruit, order_by):
    """The rows are in the order of the upload."""
    assert ids(fruit, order_by=order_by) == [1, 2, 3, 4, 5]


def test_a_duplicate_column_in_order_by_is_answered_alike(fruit):
    fruit.query({"order_by": ["id", "-id"]})
    fruit.query({"order_by": ["stock", "stock"]})


def test_sorting_by_one_column_is_stable_up_to_sixteen_rows(pair):
    """With more rows the real server's sort is not stable."""
    pair.json([{"i": i, "k": i % 2} for i in range(16)])
    assert pair.column("i", {"order_by": ["k"]}) == [*range(0, 16, 2), *range(1, 16, 2)]
    assert pair.column("i", {"order_by": ["-k"]}) == [*range(1, 16, 2), *range(0, 16, 2)]


def test_sorting_by_several_columns_is_always_stable(pair):
    """Whatever the number of rows is."""
    pair.json([{"i": i, "k": i % 2, "c": 1} for i in range(200)])
    assert pair.column("i", {"order_by": ["c", "k"]}) == [*range(0, 200, 2), *range(1, 200, 2)]


# offset and limit


@pytest.mark.parametrize(
    ("slice_", "found"),
    [
        ({"limit": 2}, [1, 2]), ({"offset": 2}, [3, 4, 5]), ({"offset": 1, "limit": 2}, [2, 3]), ({"limit": 99}, [1, 2, 3, 4, 5]),
        ({"offset": 99}, []), ({"limit": 0}, [1, 2, 3, 4, 5]), ({"offset": 0}, [1, 2, 3, 4, 5]), ({"limit": -1}, [1, 2, 3, 4]),
        ({"offset": -2}, [4, 5]), ({"offset": -3, "limit": 1}, [3]), ({"offset": 1, "limit": -1}, [2, 3, 4]), ({"limit": -99}, []),
        ({"offset": -99}, [1, 2, 3, 4, 5]), ({"limit": None}, [1, 2, 3, 4, 5]), ({"offset": False}, [1, 2, 3, 4, 5]),
        ({"limit": 0.0}, [1, 2, 3, 4, 5]), ({"limit": ""}, [1, 2, 3, 4, 5]), ({"offset": []}, [1, 2, 3, 4, 5]),
    ],
)  # fmt: skip
def test_offset_and_limit_return_a_slice_of_the_rows(fruit, slice_, found):
    """0 and empty values are ignored; negative numbers slice as in Python."""
    assert ids(fruit, **slice_) == found


@pytest.mark.parametrize("value", [1.5, 2.0, "1", "x", [1], {"a": 1}])
@pytest.mark.parametrize("clause", ["offset", "limit"])
def test_a_slice_that_is_no_int_is_400(fruit, clause, value):
    """Such as floats, strings, lists and objects."""
    assert fruit.query({clause: value}).status == 400


@pytest.mark.parametrize("value", [True, 2**63, -(2**63) - 1, 10**30])
@pytest.mark.parametrize("clause", ["offset", "limit"])
def test_unusual_slices_are_answered_alike(fruit, clause, value):
    """`true` and numbers beyond 64 bits."""
    fruit.query({clause: value})


# from


def test_from_is_a_query_whose_result_is_the_table(fruit):
    """Queries can be nested to any depth."""
    inner = {"group_by": ["stock"], "select": ["stock", ["sum", "id"]]}
    assert fruit.rows({"from": inner, "where": [">", "id", 4]}) == [{"stock": 3, "id": 9}]
    assert fruit.rows({"from": {"from": inner, "order_by": ["-id"]}, "limit": 1}) == [{"stock": 3, "id": 9}]
    assert ids(fruit, **{"from": {"offset": 1, "limit": 3}, "where": ["!=", "id", 3]}) == [2, 4]


@pytest.mark.parametrize("q", [None, [], "x", 1, True, {"nosuch": 1}, {"where": ["nosuch"]}])
def test_a_malformed_from_is_400(fruit, q):
    """Also null."""
    assert fruit.query({"from": q}).status == 400


# Aliases


@pytest.mark.parametrize(
    ("expression", "values"),
    [
        ("id", [1, 2, 3, 4, 5]), (7, [7, 7, 7, 7, 7]), (1.5, [1.5] * 5), (["+", "id", 1], [2, 3, 4, 5, 6]),
        (["-", "id", "stock"], [-9, 2, -4, 1, 2]), (["*", "id", 2.5], [2.5, 5.0, 7.5, 10.0, 12.5]),
        (["/", "id", 2], [0.5, 1.0, 1.5, 2.0, 2.5]), (["**", "id", 2], [1, 4, 9, 16, 25]), (["+", 1, "id"], [2, 3, 4, 5, 6]),
        (["-", ["*", "id", ["+", "stock", 1]], 1], [10, 1, 23, 15, 19]), (["+", "price", 1], [2.5, 1.5, 1.25, 3.0, None]),
        (["abs", ["-", "id", 3]], [2, 1, 0, 1, 2]), (["/", "stock", "flags"], [10.0, 0.0, 1.75, 0.5, None]),
        (["-", 0, "id"], [-1, -2, -3, -4, -5]), (["+", 1, 2], [3] * 5), (["*", "fresh", 2], [2, 2, 0, 0, 2]), (-3, [-3] * 5),
    ],
)  # fmt: skip
def test_an_alias_computes_an_expression_in_prefix_form(fruit, expression, values):
    """`["=", name, expression]`: the expression is a constant, a column, or a prefix list of `+ - * / **`."""
    assert fruit.column("x", {"select": [["=", "x", expression]]}) == values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("id + stock", [11, 2, 10, 7, 8]), ("id + stock * 2", [21, 2, 17, 10, 11]), ("(id + stock) * 2", [22, 4, 20, 14, 16]),
        ("stock > 1", [True, False, True, True, True]), ("~fresh", [False, False, True, True, False]), ("(stock)", [10, 0, 7, 3, 3]),
        ("id in [1, 2]", [True, True, False, False, False]), ("id not in [1, 2]", [False, False, True, True, True]),
        ("fresh and stock > 5", [True, False, False, False, False]), ("not fresh", [False, False, True, True, False]),
        ("fresh or id == 3", [True, True, True, False, True]), ("fresh & stock > 5", [True, False, False, False, False]),
        ("fresh | id == 3", [True, True, True, False, True]), ("1 < id < 4", [False, True, True, False, False]),
        ("1 < id <= stock", [False, False, True, False, False]), ("name == 'apple'", [True, False, False, False, True]),
        ("name != 'apple'", [False, True, True, True, False]), ('name in ["apple", "carrot"]', [True, False, True, False, True]),
        ("-id ** 2", [-1, -4, -9, -16, -25]), ("sqrt(id * id)", [1.0, 2.0, 3.0, 4.0, 5.0]), ("id / 2", [0.5, 1.0, 1.5, 2.0, 2.5]),
        ("7", [7] * 5), ("1.5e1", [15.0] * 5), (["*", "id + 1", 2], [3, 4, 5, 6, 7]), (["+", "id > 2", 1], [False, False, False, True, True]),
        (["&", "fresh", [">", "stock", 5]], [True, False, False, False, False]), (["~", "fresh"], [False, False, True, True, False]),
        (["in", "id", "[1, 2]"], [True, True, False, False, False]), ("kind == 'fruit'", [True, True, False, True, False]),
        ("2 in id", [True] * 5), ("'apple' in name", [True, False, False, False, True]), ("id & 1", None), ("stock % 4 == 2", [True, False, False, False, False]),
        ("flags & 2", None), ("id and stock", [0, 0, 3, 0, 1]), ("~id", [-2, -3, -4, -5, -6]), ("price > 1 and fresh", [True, False, False, False, False]),
    ],
)  # fmt: skip
def test_an_alias_computes_an_expression_in_a_string(fruit, text, values):
    """Operators bind as in Python, except `&` and `|`, which bind like `and` and `or`. None: the answer is 500."""
    answer = fruit.query({"select": [["=", "x", text]]})
    assert answer.status == (500 if values is None else 200)
    assert values is None or fruit.column("x", {"select": [["=", "x", text]]}) == values


@pytest.mark.parametrize(
    "text",
    [
        "id +", "nosuch > 1", "~price", "~name", "name + 'x'", "name + 1", "name > 5", "name < 'b'", "id > 'x'", "id == '1'",
        "id + 0 == '1'", "price & fresh", "name & fresh", "fresh & name", "id & fresh", "fresh & id", "fresh & True",
        "(id > 1) & True", "True & (id > 1)", "id in 1", "id in [1.5, '2']", "kind in ['fruit']", "kind + 'x'", "kind > 'a'",
        "fresh / 2", "(fresh + fresh) / 2", "(id > 1) / 2", "((id > 1) + 1) / 2", "id / 2 + id", "id / 2 > 1 and id",
        "True / 2", "7 / 2", "7 // 2", "-7 % 3", "1 / 0", "id // 0", "id % 0", "price // 0", "'a' == 'a'", "'a' in ['a']",
        "1 in [1, 2]", "1 == [1]", "not True", "~True", "-fresh", "not 1", "id == name", "name == name", "kind == name", "name == kind",
        "id in stock", "name in kind", "inf", "-inf < id", "price == price", "name in ['']", "name == ''", "1 < 2 < id", "id ** -1",
        "fresh - fresh", "fresh + fresh", "fresh * fresh", "'a' + 'b'", "2 ** 0.5", "2 ** 70", "~price / 2", "-name", "abs(name)",
        "name / 2", "(name / name - 0)", "id / name", "name / nosuch", "nosuch / name", "(name == 'x') / name", "(id / 2 + name) / 3", "sqrt(name / 2)",
        "name / 2 + name",
        "+id", "fresh > 0", "fresh == 1", "fresh in [1]", "price in [0.5]", "price not in [0.5]", "id != 2 != stock", " id ", "name == 'åäö'", "é + 1", "ﬁ", "id\\\n+ 1", "\nid", "id\n",
    ],
)  # fmt: skip
def test_unusual_alias_texts_are_answered_alike(fruit, text):
    """Types that do not fit together, constants alone, and divisions of integers."""
    fruit.query({"select": [["=", "x", text]]})


FUNCTIONS = ["sin", "cos", "exp", "log", "expm1", "log1p", "sqrt", "sinh", "cosh", "tanh", "arcsin", "arccos", "arctan",
             "arccosh", "arcsinh", "arctanh", "abs"]  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("argument", ["id", "price", 0.5, ["/", "id", 10]])
def test_an_alias_computes_a_function(fruit, function, argument):
    """Of columns, constants and expressions. Undefined values are null."""
    answer = fruit.query({"select": ["id", ["=", "x", [function, argument]]]})
    assert answer.status in (200, 400, 500)
    assert answer.status == 200 or not isinstance(argument, str)


def test_an_alias_keeps_its_place_among_the_columns(fruit):
    q = {"select": [["=", "x", ["+", "id", 1]], "id", ["=", "y", "stock"]], "limit": 1}
    assert fruit.as_csv(q) == "x,id,y\n2,1,10\n"


def test_a_later_alias_sees_earlier_ones(fruit):
    """Aliases are computed one after the other."""
    q = {"select": [["=", "x", ["+", "id", 1]], ["=", "y", ["*", "x", 10]]], "limit": 1}
    assert fruit.rows(q) == [{"x": 2, "y": 20}]


def test_an_alias_may_replace_a_column(fruit):
    """Only in this answer."""
    q = {"select": [["=", "id", ["*", "id", 10]]]}
    assert fruit.column("id", q) == [10, 20, 30, 40, 50]
    assert ids(fruit) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", ["x", "X_1", "_x", "x9"])
def test_an_alias_may_be_named_with_letters_digits_and_underscores(fruit, name):
    assert fruit.query({"select": [["=", name, "id"]]}).status == 200


@pytest.mark.parametrize("name", ["x y", "x.y", "", "é", "x;y", "'x'", 1, None, ["x"], "x\ny"])
def test_an_alias_of_another_name_is_400(fruit, name):
    """Such as blanks, dots, quotes and other types."""
    assert fruit.query({"select": [["=", name, "id"]]}).status == 400


@pytest.mark.parametrize("name", ["a-b", "1x", "-x", "x-", "1", "for", "None", "True", "x\n"])
def test_unusual_names_of_aliases_are_answered_alike(fruit, name):
    fruit.query({"select": [["=", name, "id"]]})


@pytest.mark.parametrize(
    "expression",
    [
        ["nosuch", "id"],
        [],
        ["+"],
        ["+", "id", 1, 2],
        ["id"],
        "nosuch",
        ["+", "nosuch", 1],
        ["sin", "nosuch"],
        ["sin", "id", 1],
    ],
)
def test_malformed_expressions_are_400(fruit, expression):
    """A wrong number of arguments, an unknown function, or an unknown column."""
    assert fruit.query({"select": [["=", "x", expression]]}).status == 400


@pytest.mark.parametrize("expression", ["1 +", ["+", "id", "'"], None, True, {"a": 1}, ["+", "name", 1], ["sin", "name"],
                                        ["+", "name", "name"], ["-", "fresh", "fresh"], ["**", "id", -1], ["/", "id", 0]])  # fmt: skip
def test_unusual_expressions_are_answered_alike(fruit, expression):
    """Such as texts and null."""
    fruit.query({"select": [["=", "x", expression]]})


def test_a_text_of_100_000_characters(pair):
    pair.csv("a,b\n" + "x" * 100_000 + ",1\ny,2\n")
    assert pair.column("b", {"where": ["==", "a", "'y'"]}) == [2]
    assert len(pair.column("a")[0]) == 100_000
