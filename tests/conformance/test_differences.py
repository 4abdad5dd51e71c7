"""Each listed difference still exists; one that the dev node no longer has must leave the list."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.conformance.compare import compare
from tests.conformance.differences import (
    DIFFERENCES,
    is_ordinary,
    is_rounded_wrongly,
    read_by_the_real_server,
)
from tests.conformance.generate import Column, Example, Query, Table
from tests.harness.servers import WireRequest

PANDAS_3 = int(pd.__version__.partition(".")[0]) >= 3
"""Whether dev nodes run on pandas 3, whose CSV parser differs more from the real server's than pandas 2.2's."""


def store(pair, body: bytes | str) -> None:
    """Store CSV on both servers, which must succeed."""
    assert pair.csv(body).status == 201


def ask_both(pair, q, headers: dict[str, str] | None = None) -> tuple:
    """Both answers to a query, not compared."""
    return pair.ask(
        WireRequest("POST", "/qcache/dataset/t/q", tuple((headers or {}).items()), json.dumps(q).encode())
    )


def differences_in(pair, table: Table, q, accept: str = "application/json") -> frozenset[str]:
    """The names of the differences in a case; fails if they do not explain everything."""
    *_, case = pair.run(Example(table, (Query(q, accept),)))
    assert not case.findings, str(case)
    return case.differences


def table_of(*rows: tuple, names: tuple[str, ...] = ("a", "b")) -> Table:
    """A CSV table with columns of strings."""
    return Table("csv", names, rows, tuple(Column(name, "string") for name in names))


def test_each_difference_has_its_test():
    """The test has its name."""
    for difference in DIFFERENCES:
        assert "test_" + difference.name.replace("-", "_") in globals(), difference.name


def test_the_docs_list_each_difference():
    """In a table of docs/reference/devnode.md."""
    page = Path(__file__).parents[2].joinpath("docs", "reference", "devnode.md").read_text(encoding="utf-8")
    for difference in DIFFERENCES:
        assert f"| {difference.name} |" in page, difference.name


def test_stable_order(pair):
    """Rows with equal sort keys keep their order; under a limit, the servers choose different rows."""
    table = table_of(*((str(number % 3), str(number)) for number in range(100)))
    for q in (
        {"order_by": ["a"]},
        {"order_by": ["-a"], "limit": 10},
        {"from": {"order_by": ["a"], "limit": 10}},
        {"where": ["in", "b", {"order_by": ["a"], "limit": 5}]},
    ):
        assert differences_in(pair, table, q) == {"stable-order"}
    store(pair, table.body())
    _, dev = ask_both(pair, {"order_by": ["a"]})
    numbers = [row["b"] for row in json.loads(dev.body)]
    assert numbers == sorted(range(100), key=lambda number: number % 3)


def test_unsigned_numbers(pair):
    """2^64-1 stays 2^64-1 and does not become -1; in CSV both servers are right."""
    table = table_of((str(2**64 - 1), "x"), (str(2**63), "y"))
    assert differences_in(pair, table, {}) == {"unsigned-numbers"}
    assert differences_in(pair, table, {}, "text/csv") == frozenset()
    store(pair, table.body())
    real, dev = ask_both(pair, {"select": ["a"]})
    assert json.loads(real.body) == [{"a": -1}, {"a": -(2**63)}]
    assert json.loads(dev.body) == [{"a": 2**64 - 1}, {"a": 2**63}]


def test_computed_unsigned_numbers(pair):
    """The maximum and the mean of a group."""
    table = table_of(("x", str(2**63 + 2**40)), ("x", "1"))
    for function in ("max", "mean"):
        q = {"group_by": ["a"], "select": ["a", [function, "b"]]}
        assert "computed-unsigned-numbers" in differences_in(pair, table, q)
    store(pair, table.body())
    real, dev = ask_both(pair, {"group_by": ["a"], "select": [["max", "b"]]})
    assert json.loads(real.body) == [{"b": 1}]
    assert json.loads(dev.body) == [{"b": 2**63 + 2**40}]


def test_last_digits(pair):
    """In a function of a mathematics library."""
    table = table_of(("x", "-2"), ("y", "-1"))
    assert differences_in(pair, table, {"select": [["=", "r", ["sinh", ["-", "b", 10]]]]}) == {"last-digits"}


def test_numbers_in_texts(pair):
    """A median of texts that spell numbers; other texts are refused by both servers."""
    table = Table("csv", ("a",), (("1",), ("2",)), (Column("a", "string"),), types=(("a", "string"),))
    assert differences_in(pair, table, {"select": [["median", "a"]]}) == {"numbers-in-texts"}
    assert differences_in(pair, table_of(("x", "y")), {"select": [["median", "a"]]}) == frozenset()


def test_rounded_floats(pair):
    """A float with many decimals equals the same float in a query."""
    text = "123456789.123456789123456789"
    assert is_rounded_wrongly(text)
    assert not is_rounded_wrongly("0.1")
    table = table_of((text, "x"), ("0.1", "y"))
    for q in ({}, {"where": ["==", "a", float(text)]}, {"select": [["sum", "a"]]}):
        assert differences_in(pair, table, q) == ({"rounded-floats"} if PANDAS_3 else frozenset())
    store(pair, table.body())
    real, dev = ask_both(pair, {"where": ["==", "a", float(text)]})
    assert (real.unsliced_length, dev.unsliced_length) == (0, int(PANDAS_3))
    real, dev = ask_both(pair, {"where": ["==", "a", read_by_the_real_server(text)]})
    assert (real.unsliced_length, dev.unsliced_length) == (1, int(not PANDAS_3))


def test_inference_per_column(pair):
    """400,000 numbers and then a text: all strings on the dev node, numbers first on the real server."""
    store(pair, "a,b\n" + "1,2\n" * 400_000 + "x,3\n")
    count = [["count"]]
    answers = ask_both(pair, {"where": ["==", "a", 1], "select": count})
    ints = [json.loads(answer.body)[0]["count"] for answer in answers]
    assert 0 < ints[0] < 400_000
    assert ints[1] == 0
    answers = ask_both(pair, {"where": ["==", "a", "'1'"], "select": count})
    assert json.loads(answers[1].body)[0]["count"] == 400_000


@pytest.mark.parametrize(
    "expression",
    [
        "a.max()", "@a", "@__import__('os').getpid()", "__import__('os').getpid()", "`a`", "a if a else a", "[a]",
        "a.__class__", "a; b = 1", "a, a", "lambda: 1", "a = 1", "a\nb = 1", "'a'.upper()", "f'{a}'", "a[0]", "{a}", "a == (b",
        "a + a.max()", "a in a.tolist()", "open('f')", "sin(a, a)", "sin(x=a)", "sin(*a)", "sum(a)", "sin", "[x for x in a]",
        "a in {1}", "a in [a]", "a is a", "a in [1, [2]]", "a in [open]", "(a := 1)", "a + [1]", "1_0 + a", "1j * a", "b'x' == b",
        "r'x' == b", "u'x' == b", "'\\x41' == b", "a ^ 1", "a << 1", "a # b", "\na", "a\\\n+ 1", "print", "a @ a",
        "...", "None", "a and", "yield a", "await a", "a if", "(" * 300 + "a" + ")" * 300, "-" * 5000 + "a", "a" + " + a" * 5000,
        ["eval", "a"], ["__import__", "a"], ["a.max", "a"], ["exec", "a"], ["@f", "a"], ["+", "a.max()", 1], ["+", "@a", 1],
        ["; import os;", "a", 1], ["+ @__import__('os') +", "a", 1], ["a.b", "a"], ["sin(a) + cos", "a"], ["to_csv", "a"],
        ["+", ["open", "a"], 1], ["query", "a"], ["sin", "@a"], ["**", "a", "a.__class__"],
    ],
)  # fmt: skip
def test_python_in_an_alias_is_400(pair, expression):
    """Code, attributes, `@`, `__import__`, backticks and tricks with strings. Only the dev node is queried."""
    store(pair, "a,b\n1,x\n2,y\n")
    body = json.dumps({"select": [["=", "r", expression]]}).encode()
    answer = pair.dev.ask(WireRequest("POST", "/qcache/dataset/t/q", (), body))
    assert answer.status == 400
    assert list(json.loads(answer.body)) == ["error"]


def test_alias_grammar(pair):
    """An unusual expression that the real server computes is refused; an ordinary one never is."""
    table = table_of(("1", "2"), ("3", "4"))
    assert differences_in(pair, table, {"select": [["=", "r", "a.max() + b"]]}) == {"alias-grammar"}
    assert differences_in(pair, table, {"select": [["=", "r", "(a + b)"]]}) == frozenset()
    assert differences_in(pair, table, {"select": [["=", "r", ["+", "a", "b"]]]}) == frozenset()
    assert is_ordinary(["+", "a", ["sin", 1.5]])
    assert is_ordinary("~(a > 1) & b in ['x', 2] or sin(a) == 1.5")
    assert not is_ordinary(["+", "a.b", 1])
    assert not is_ordinary("max(a)")


def test_methods(pair):
    """`ix` and `loc` select a part of a table; `head` and `unique` are no single value."""
    table = table_of(("1", "2"), ("3", "4"))
    for name in ("ix", "loc", "iloc", "head"):
        assert differences_in(pair, table, {"select": [[name, "a"]]}) == {"methods"}
    assert differences_in(pair, table, {"group_by": ["a"], "select": [["unique", "b"]]}) == {"methods"}
    assert differences_in(pair, table, {"select": [["nosuch", "a"]]}) == frozenset()


def test_as_many_keys_as_rows(pair):
    """One unknown name and one row, or two names and two rows."""
    q = {"group_by": ["nosuch"], "select": [["max", "a"]]}
    assert differences_in(pair, table_of(("1", "2")), q) == {"as-many-keys-as-rows"}
    assert differences_in(pair, table_of(("1", "2"), ("3", "4")), q) == frozenset()
    two = {"group_by": ["a", "nosuch"], "select": [["max", "b"]]}
    assert differences_in(pair, table_of(("1", "2"), ("3", "4")), two) == {"as-many-keys-as-rows"}


def test_beyond_64_bits(pair):
    """A number that no numeric column can hold."""
    columns = (Column("a", "string"),)
    table = Table("json", ("a",), (("x",), (2**64,)), columns)
    assert differences_in(pair, table, {}) == {"beyond-64-bits"}
    ordinary = table_of(("1", "2"))
    assert differences_in(pair, ordinary, {"select": [["=", "r", ["+", 2**62, 2**62]]]}) == {"beyond-64-bits"}


def test_lists_in_in(pair):
    """Next to a text the real server ignores lists; next to a number it refuses them."""
    table = table_of(("Foo", "1"))
    assert differences_in(pair, table, {"where": ["in", "a", ["Foo", []]]}) == {"lists-in-in"}
    assert differences_in(pair, table, {"where": ["in", "a", [1, []]]}) == frozenset()


def test_nested_values(pair):
    """An object in a cell of a JSON upload."""
    table = Table("json", ("a",), (({"n": "x"},),), (Column("a", "string"),))
    assert differences_in(pair, table, {}, "text/csv") == {"nested-values"}
    assert differences_in(pair, table, {}) == frozenset()


def test_nul(pair):
    """In a CSV upload."""
    store(pair, b"a\nx\0y\n")
    real, dev = ask_both(pair, {})
    assert json.loads(real.body) == [{"a": "x"}]
    assert json.loads(dev.body) == [{"a": "x\0y" if PANDAS_3 else "x"}]


def test_not_utf_8(pair):
    """In CSV answers both servers return the byte."""
    store(pair, b"a\n\xff\n")
    real, dev = ask_both(pair, {})
    assert b"\xff" in real.body
    assert json.loads(dev.body) == [{"a": "\ufffd"}]
    real, dev = ask_both(pair, {}, {"Accept": "text/csv"})
    assert real.body == dev.body == b"a\n\xff\n"


def test_multipart(pair):
    """The dev node checks the body before its type."""
    store(pair, "a\n1\n")
    headers = (("Content-Type", "multipart/form-data; boundary=x"),)
    real, dev = pair.ask(WireRequest("POST", "/qcache/dataset/t", headers, b"a\n2\n"))
    assert (real.status, dev.status) == (415, 400)
    real, dev = ask_both(pair, {})
    assert (real.status, dev.status) == (404, 200)


@pytest.mark.parametrize(
    "q",
    [
        {"update": [["a", 5]], "where": ["==", "a", 1]},
        {"update": [["+", "a", 5]], "where": ["==", "a", 1]},
        {"update": [["a", 5]]},
    ],
)
def test_update(pair, q):
    """The dev node answers 400 with an explanation, and the table is unchanged."""
    store(pair, "a,b\n1,x\n2,y\n")
    real, dev = ask_both(pair, q)
    assert (real.status, dev.status) == (500, 400)
    assert list(json.loads(dev.body)) == ["error"]
    _, dev = ask_both(pair, {})
    assert json.loads(dev.body) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


def test_query_stand_ins(pair):
    """The next query does not see them."""
    store(pair, "a\n1\n")
    real, dev = ask_both(pair, {}, {"X-QCache-stand-in-columns": "new=5"})
    assert real.body == dev.body == b'[{"a":1,"new":5}]'
    real, dev = ask_both(pair, {})
    assert (real.body, dev.body) == (b'[{"a":1,"new":5}]', b'[{"a":1}]')


def test_sizes(pair):
    """The cache's size has the same order of magnitude but is not equal."""
    store(pair, "a,b\n" + "1,some text\n" * 1000)
    real, dev = (
        json.loads(answer.body)["cache_size"] for answer in pair.ask_raw("GET", "/qcache/statistics")
    )
    assert real != dev
    assert real / 10 < dev < real * 10


def test_error_texts(pair):
    """Both servers refuse; the dev node says what is wrong."""
    store(pair, "a\n1\n")
    for q in ({"where": ["==", "nosuch", 1]}, {"select": [["sum", "nosuch"]]}):
        real, dev = ask_both(pair, q)
        assert not compare(real, dev)
        assert real.body != dev.body
        assert b"nosuch" in dev.body
