"""Part 5 of the protocol: tables in CSV and JSON, stored and answered."""

from __future__ import annotations

import json
import math

import pytest

CSV_OUT = {"Accept": "text/csv"}


def typed(pair, name: str) -> str:
    """The type of a column, judged by its first value in an answer."""
    value = json.loads(pair.query({"select": [name], "limit": 1}).body)[0][name]
    return {int: "int", float: "float", bool: "bool", str: "string", type(None): "null"}[type(value)]


# CSV in: the form


@pytest.mark.parametrize(
    ("body", "out"),
    [
        pytest.param("a,b\n1,x\n", "a,b\n1,x\n", id="LF"),
        pytest.param("a,b\r\n1,x\r\n", "a,b\n1,x\n", id="CRLF"),
        pytest.param("a,b\r1,x\r", "a,b\n1,x\n", id="CR"),
        pytest.param("a,b\r\n1,x\n2,y\r\n", "a,b\n1,x\n2,y\n", id="mixed line ends"),
        pytest.param("a,b\n1,x", "a,b\n1,x\n", id="no line end at the end"),
        pytest.param("\ufeffa,b\n1,x\n", "a,b\n1,x\n", id="BOM"),
        pytest.param('\ufeff"a",b\n1,x\n', "a,b\n1,x\n", id="BOM and a quoted name"),
        pytest.param("\n\na,b\n\n1,x\n\n\n2,y\n\n", "a,b\n1,x\n2,y\n", id="blank lines"),
        pytest.param("a,b\n  \t \n1,x\n", "a,b\n1,x\n", id="a line of blanks is a blank line"),
        pytest.param("a,b\n,\n1,x\n", "a,b\n,\n1.0,x\n", id="a line of empty fields is a row"),
        pytest.param('a,b\n"1","x"\n', "a,b\n1,x\n", id="quoted numbers are numbers"),
        pytest.param('a,b\n1,"x,y"\n', 'a,b\n1,"x,y"\n', id="a quoted comma"),
        pytest.param('a,b\n1,"say ""hi"""\n', 'a,b\n1,"say ""hi"""\n', id="doubled quotes"),
        pytest.param('a,b\n1,"x\ny"\n', 'a,b\n1,"x\ny"\n', id="a quoted line end"),
        pytest.param('a,b\n1,x"y\n', 'a,b\n1,"x""y"\n', id="a quote inside an unquoted field"),
        pytest.param('a,b\n1,"x"y\n', "a,b\n1,xy\n", id="text after a closing quote"),
        pytest.param("a,b\n1, x \n", "a,b\n1, x \n", id="blanks are kept"),
        pytest.param("a;b\n1;x\n", "a;b\n1;x\n", id="a semicolon separates nothing"),
        pytest.param("a\tb\n1\tx\n", "a\tb\n1\tx\n", id="a tab separates nothing"),
        pytest.param("a,b\n#1,x\n", "a,b\n#1,x\n", id="no comments"),
        pytest.param("a,b,c\n1,'x,y'\n", "a,b,c\n1,'x,y'\n", id="single quotes do not quote"),
    ],
)
def test_csv_is_comma_and_double_quote_with_any_line_end(pair, body, out):
    """UTF-8, a BOM is stripped, blank lines are skipped."""
    assert pair.csv(body).status == 201
    assert pair.as_csv() == out


def test_a_header_alone_is_a_valid_empty_table(pair):
    """It has its columns and no rows."""
    assert pair.csv("a,b\n").status == 201
    assert pair.query().body == b"[]"
    assert pair.as_csv() == "a,b\n"
    assert pair.query().unsliced_length == 0
    assert pair.query({"select": ["b"], "where": ["==", "a", 1]}, CSV_OUT).body == b"b\n"


@pytest.mark.parametrize(
    "text", ["NA", "null", "NULL", "NaN", "nan", "None", "N/A", "#N/A", "n/a", "-nan", "-NaN", "1.#IND"]
)
def test_only_the_empty_field_is_null(pair, text):
    """Any other spelling is a string and turns a numeric column into strings."""
    pair.csv(f"a,b\n1,x\n{text},\n")
    assert pair.rows() == [{"a": "1", "b": "x"}, {"a": text, "b": None}]


def test_a_quoted_empty_field_is_null_too(pair):
    pair.csv('a,b\n"",""\n1,x\n')
    assert pair.rows() == [{"a": None, "b": None}, {"a": 1.0, "b": "x"}]


def test_an_empty_field_is_null_in_a_typed_column_too(pair):
    """`string` and `enum` have nulls, not empty strings."""
    pair.csv("a,b,c\n,,\nx,y,1\n", {"X-QCache-types": "a=string;b=enum;c=float"})
    assert pair.rows() == [{"a": None, "b": None, "c": None}, {"a": "x", "b": "y", "c": 1.0}]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        pytest.param(["1", "2"], [1, 2], id="ints"),
        pytest.param(
            ["9223372036854775807", "-9223372036854775808"], [2**63 - 1, -(2**63)], id="int64 edges"
        ),
        pytest.param(["007", "0"], [7, 0], id="leading zeros are lost"),
        pytest.param(["+5", "-5"], [5, -5], id="signs"),
        pytest.param(["1.5", "2"], [1.5, 2.0], id="a float among ints"),
        pytest.param(["1e3", "2"], [1000.0, 2.0], id="an exponent"),
        pytest.param(["1", ""], [1.0, None], id="an int column with a null is float"),
        pytest.param(
            ["9007199254740993", ""],
            [9007199254740992.0, None],
            id="an int column with a null loses digits past 2^53",
        ),
        pytest.param(["inf", "1"], [None, 1.0], id="inf is a float, printed null"),
        pytest.param(["-inf", "1"], [None, 1.0], id="-inf is a float, printed null"),
        pytest.param(["1", "Infinity"], ["1", "Infinity"], id="Infinity is a string"),
        pytest.param(["1", "+inf"], [1.0, None], id="+inf is a float, printed null"),
        pytest.param(["1", "INF"], [1.0, None], id="INF is a float, printed null"),
        pytest.param(["True", "False"], [True, False], id="bools"),
        pytest.param(["true", "FALSE", "TRUE"], [True, False, True], id="bools in other cases"),
        pytest.param(["True", ""], [True, None], id="bools with a null"),
        pytest.param(["True", "1"], ["True", "1"], id="bools and ints are strings"),
        pytest.param(["x", "1"], ["x", "1"], id="strings"),
        pytest.param(["", ""], [None, None], id="nothing but nulls"),
        pytest.param(["2020-01-01", "2020-01-02"], ["2020-01-01", "2020-01-02"], id="there are no dates"),
        pytest.param(["12:30:00", "1,5"], ["12:30:00", "1,5"], id="there are no times or decimal commas"),
        pytest.param(["1_000", "0x10"], ["1_000", "0x10"], id="there are no Python literals"),
        pytest.param(["18446744073709551616", "1"], ["18446744073709551616", "1"], id="past uint64: strings"),
        pytest.param([" 1", "2 "], [1, 2], id="blanks around ints"),
        pytest.param(["1e400", "1"], ["1e400", "1"], id="too large a float is a string"),
        pytest.param(["1e-400", "1"], [0.0, 1.0], id="too small a float is zero"),
        pytest.param([".5", "5.", "-.5"], [0.5, 5.0, -0.5], id="points at the ends"),
    ],
)
def test_types_of_columns_are_inferred(pair, cells, values):
    """int64, uint64, float64, bool, string."""
    pair.csv("i,a\n" + "".join(f'{i},"{cell}"\n' for i, cell in enumerate(cells)))
    assert pair.column("a") == values
    assert [type(value) for value in pair.column("a")] == [type(value) for value in values]


def test_unsigned_ints_are_kept(pair):
    """Numbers from 2^63 to 2^64-1 can be compared, and CSV has them in full."""
    pair.csv("a\n18446744073709551615\n5\n")
    assert pair.as_csv() == "a\n18446744073709551615\n5\n"
    assert pair.as_csv({"where": [">", "a", 5]}) == "a\n18446744073709551615\n"


def test_negative_and_unsigned_ints_in_one_column(pair):
    """Although no 64-bit type has both."""
    pair.csv("a\n18446744073709551615\n-1\n")
    assert pair.as_csv() == "a\n18446744073709551615\n-1\n"


def test_string_keeps_the_text(pair):
    """A ZIP code keeps its zeros, and a number its spelling."""
    pair.csv("zip,n\n007,1.50\n10001,+1\n", {"X-QCache-types": "zip=string;n=string"})
    assert pair.rows() == [{"zip": "007", "n": "1.50"}, {"zip": "10001", "n": "+1"}]


def test_an_enum_is_answered_like_a_string(pair):
    """Also texts that look like numbers, and nulls."""
    pair.csv("e,n\nb,1\na,2\nb,3\n,4\n007,5\n", {"X-QCache-types": "e=enum"})
    assert pair.column("e") == ["b", "a", "b", None, "007"]
    assert pair.as_csv({"where": ["==", "e", "'b'"]}) == "e,n\nb,1\nb,3\n"


def test_float_reads_ints_as_floats(pair):
    """A text in such a column makes the store fail."""
    pair.csv("a\n1\n2\n", {"X-QCache-types": "a=float"})
    assert pair.query().body == b'[{"a":1.0},{"a":2.0}]'
    assert pair.csv("a\n1\nx\n", {"X-QCache-types": "a=float"}).status == 500


def test_a_first_row_with_more_fields_than_the_header_drops_leading_columns(pair):
    """They become an index, which no answer has; the names move to the right."""
    assert pair.csv("a,b\n1,2,3\n4,5,6\n").status == 201
    assert pair.rows() == [{"a": 2, "b": 3}, {"a": 5, "b": 6}]
    assert pair.csv("a,b\n1,2,3,4\n5,6,7,8\n").status == 201
    assert pair.rows() == [{"a": 3, "b": 4}, {"a": 7, "b": 8}]


def test_a_trailing_comma_in_the_first_row_moves_names_to_the_right(pair):
    """An empty field at the end is one field too many, too."""
    pair.csv("a,b\n1,2,\n3,4,\n")
    assert pair.rows() == [{"a": 2, "b": None}, {"a": 4, "b": None}]


def test_too_few_fields_become_nulls(pair):
    """In the first row and in later ones."""
    pair.csv("a,b,c\n1\n2,x\n3,y,z\n")
    assert pair.rows() == [
        {"a": 1, "b": None, "c": None}, {"a": 2, "b": "x", "c": None}, {"a": 3, "b": "y", "c": "z"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("header", "names"),
    [
        ("a,a", ["a", "a.1"]),
        ("a,a,a", ["a", "a.1", "a.2"]),
        ("a,a,a.1", ["a", "a.1", "a.1.1"]),
        ("a.1,a,a", ["a.1", "a", "a.1.1"]),
        (",b", ["Unnamed: 0", "b"]),
        ("a,,", ["a", "Unnamed: 1", "Unnamed: 2"]),
        ("1,2", ["1", "2"]),
        (" a,b ", [" a", "b "]),
    ],
)
def test_names_of_columns_in_csv(pair, header, names):
    """Duplicates are numbered and an empty name becomes Unnamed; all others are unchanged."""
    pair.csv(f"{header}\n" + ",".join(str(n) for n in range(len(names))) + "\n")
    assert list(pair.rows()[0].items()) == list(zip(names, range(len(names)), strict=True))


def test_names_outside_ascii_cannot_be_queried_after_a_csv_upload(pair):
    """Answers have them, but clauses with such a name are refused. After a JSON upload they work."""
    queries = {
        "select": {"select": ["é"]},
        "where": {"where": ["==", "é", 1]},
        "order_by": {"order_by": ["é"]},
        "group_by": {"group_by": ["é"], "select": ["é", ["sum", "b"]]},
    }
    pair.csv("é,b\n1,2\n")
    assert pair.as_csv() == "é,b\n1,2\n"
    for clause, q in queries.items():
        assert pair.query(q).status in (400, 500), clause
    assert pair.rows({"select": ["b"]}) == [{"b": 2}]
    pair.json([{"é": 1, "b": 2}])
    for clause, q in queries.items():
        assert pair.query(q).status == 200, clause


def test_values_outside_ascii_can_be_queried(pair):
    """Unlike such names."""
    pair.csv("a,b\nå,1\n😀,2\n")
    assert pair.column("b", {"where": ["==", "a", "'😀'"]}) == [2]


def test_like_sees_utf_8_bytes_and_no_pattern_outside_ascii(pair):
    """To `like`, a letter outside ASCII is several characters, and in a pattern it matches nothing."""
    pair.csv("a,b\nå,1\nxå,2\n")
    for pattern, found in (
        ("..", [1]),
        (".", []),
        ("...", [2]),
        ("x%", [2]),
        ("%", [1, 2]),
        ("å", []),
        ("%å%", []),
    ):
        assert pair.column("b", {"where": ["like", "a", f"'{pattern}'"]}) == found, pattern


def test_in_finds_no_values_outside_ascii(pair):
    """A list in `in` matches only ASCII values; a sub-query matches all."""
    pair.csv("a,b\nå,1\nx,2\n")
    assert pair.column("b", {"where": ["in", "a", ["å"]]}) == []
    assert pair.column("b", {"where": ["in", "a", ["å", "x"]]}) == [2]
    assert pair.column("b", {"where": ["in", "a", {"where": ["==", "b", 1]}]}) == [1]


# JSON in


def test_json_columns_come_out_sorted(pair):
    """In alphabetical order, whatever their order in the objects."""
    pair.json(b'[{"c": 1, "a": 2, "B": 3}, {"b": 4}]')
    assert pair.as_csv().splitlines()[0] == "B,a,b,c"


def test_keys_missing_in_json_are_null(pair):
    """Like an explicit null."""
    pair.json(b'[{"a": 1, "b": "x"}, {"a": 2}, {"b": null}]')
    assert pair.rows() == [{"a": 1.0, "b": "x"}, {"a": 2.0, "b": None}, {"a": None, "b": None}]


@pytest.mark.parametrize("body", [b"[]", b" [ ]\n", b"[{}]", b"[{},{}]"])
def test_an_empty_json_list_stores_an_empty_table(pair, body):
    """It has no columns; objects without members are no rows."""
    assert pair.json(body).status == 201
    assert pair.query().body == b"[]"
    assert pair.query().unsliced_length == 0
    assert pair.as_csv() == "\n"
    assert pair.rows({"select": [["count"]]}) == [{"count": 0}]


@pytest.mark.parametrize(
    ("values", "out"),
    [
        pytest.param([1, 2], [1, 2], id="ints"),
        pytest.param([1, None], [1.0, None], id="ints with a null"),
        pytest.param([1, 2.5], [1.0, 2.5], id="ints and floats"),
        pytest.param([True, False], [True, False], id="bools"),
        pytest.param([True, None], [True, None], id="bools with a null"),
        pytest.param([1, "x"], [1, "x"], id="mixed"),
        pytest.param([1, True], [1, True], id="an int and a bool"),
        pytest.param(["007", ""], ["007", ""], id="strings, the empty one is not null"),
        pytest.param([None, None], [None, None], id="nulls"),
        pytest.param([2**53 + 1, 1], [2**53 + 1, 1], id="ints past 2^53"),
        pytest.param([math.nan, 1.5], [None, 1.5], id="NaN"),
        pytest.param([math.inf, -math.inf], [None, None], id="infinities"),
        pytest.param([{"n": 1}, [1, 2]], [{"n": 1}, [1, 2]], id="objects and lists"),
        pytest.param(["é", "😀", "\u2028"], ["é", "😀", "\u2028"], id="unicode"),
    ],
)
def test_json_values_keep_their_types(pair, values, out):
    """An empty string stays an empty string."""
    pair.json([{"a": value} for value in values])
    assert pair.column("a") == out
    pair.as_csv()


# JSON out


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1.0"), (0.1, "0.1"), (1.5, "1.5"), (-2.25, "-2.25"), (0.1234567891234, "0.1234567891"),
        (1e15, "1000000000000000.0"), (1e16, "10000000000000000.0"), (1e17, "1e+17"), (1.5e300, "1.5e+300"),
        (1e-5, "0.00001"), (1e-10, "0.0000000001"), (1e-11, "0.0"), (1e-16, "1e-16"), (0.5, "0.5"), (0.0, "0.0"),
        (123456789.123456789, "123456789.123456791"), (2.5e-10, "0.0000000002"), (3.5e-10, "0.0000000004"), (100.0, "100.0"),
    ],
)  # fmt: skip
def test_floats_in_json_are_fixed_with_ten_decimals(pair, value, text):
    """At least one decimal and at most ten; `%.10g` above 1e16 or below 1e-15."""
    pair.json([{"a": value}])
    assert pair.query().body.decode() == f'[{{"a":{text}}}]'


def test_json_is_compact_and_ascii(pair):
    r"""Without blanks; `/` is `\/`, and non-ASCII characters are `\u` escapes in lower case."""
    pair.json([{"a": 'x/y "q" \\ é 日 😀 \n\t\x01\x7f', "b": True, "c": None}])
    assert pair.query().body == (
        rb'[{"a":"x\/y \"q\" \\ \u00e9 \u65e5 \ud83d\ude00 \n\t\u0001' + b"\x7f" + rb'","b":true,"c":null}]'
    )


def test_names_in_json_are_escaped_too(pair):
    """In the same way as values."""
    pair.json([{"é/x": 1}])
    assert pair.query().body == rb'[{"\u00e9\/x":1}]'


def test_nan_and_infinities_are_null_in_json(pair):
    """Because JSON cannot express them."""
    pair.csv("a\ninf\n-inf\n\n1.5\n")
    assert pair.query().body == b'[{"a":null},{"a":null},{"a":1.5}]'


# CSV out


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1.0"), (0.1, "0.1"), (1e15, "1e+15"), (1e16, "1e+16"), (123456789.123456789, "123456789.123"),
        (0.1234567891234567, "0.123456789123"), (1e-5, "1e-05"), (1e-300, "1e-300"), (1e300, "1e+300"),
        (1 / 3, "0.333333333333"), (100000.0, "100000.0"), (99999999999.5, "99999999999.5"), (999999999999.9, "1e+12"),
        (-0.0, "-0.0"), (2.5, "2.5"), (1e11, "1e+11"), (1e12, "1e+12"), (123456789012.0, "1.23456789012e+11"),
    ],
)  # fmt: skip
def test_floats_in_csv_have_twelve_significant_digits(pair, value, text):
    """As Python 2 prints floats."""
    pair.json([{"a": value}, {"a": 0.5}])
    assert pair.as_csv().splitlines()[1] == text


def test_csv_has_a_header_line_feeds_and_minimal_quoting(pair):
    """Only fields with a comma, a quote or a line end are quoted."""
    pair.json([{"a": "x,y", "b": 'q"', "c": "l\nf", "d": " s ", "e": "c\rr", "f": "plain", "g": "'s'"}])
    assert pair.as_csv().startswith("a,b,c,d,e,f,g\n")
    pair.json([{"a": "x,y", "b": 'q"', "c": "l\nf", "d": " s "}])
    assert pair.as_csv() == 'a,b,c,d\n"x,y","q""","l\nf", s \n'


def test_bools_in_csv_are_spelled_as_in_python(pair):
    pair.json([{"a": True}, {"a": False}])
    assert pair.as_csv() == "a\nTrue\nFalse\n"


def test_nulls_in_csv_are_empty_and_infinities_are_inf(pair):
    """The null of a single column is a quoted empty field, because the line would be blank otherwise."""
    pair.csv("a,b\n,\ninf,x\n-inf,\n")
    assert pair.as_csv() == "a,b\n,\ninf,x\n-inf,\n"
    assert pair.as_csv({"select": ["a"]}) == 'a\n""\ninf\n-inf\n'


def test_csv_answers_are_utf_8(pair):
    """Names and values."""
    pair.csv("é\n日😀\n")
    assert pair.query({}, CSV_OUT).body == "é\n日😀\n".encode()
    pair.json([{"a": "日😀"}])
    assert pair.query({}, CSV_OUT).body == "a\n日😀\n".encode()


def test_a_json_upload_with_names_outside_ascii_cannot_be_answered_as_csv(pair):
    """The answer is 500; without those columns it works."""
    pair.json([{"é": 1, "b": 2}])
    assert pair.query({}, CSV_OUT).status == 500
    assert pair.as_csv({"select": ["b"]}) == "b\n2\n"


def test_a_csv_answer_can_be_stored_again(pair):
    pair.json(
        [
            {"a": 1, "b": "x,y", "c": 1.5, "d": None, "e": True},
            {"a": 2, "b": "é", "c": 2.5, "d": "z", "e": False},
        ]
    )
    text = pair.as_csv()
    pair.csv(text)
    assert pair.as_csv() == text
