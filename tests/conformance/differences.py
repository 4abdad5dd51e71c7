"""Every difference between the dev node and a real QCache 0.9.3 that is meant.

The only place where the comparison is relaxed: what no difference explains fails the test that met it.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from tests.conformance.compare import Finding, Rows, compare_rows
from tests.conformance.generate import Query, Table
from tests.harness.servers import WireAnswer


@dataclass(frozen=True)
class Met:
    """What was asked and answered where a finding is judged."""

    real: WireAnswer
    dev: WireAnswer
    table: Table | None = None
    query: Query | None = None
    ask: Callable[[Query], tuple[WireAnswer, WireAnswer]] | None = None
    """Asks both servers another query of the same table."""
    findings_with: Callable[[Table, Query], list[Finding]] | None = None
    """What no difference explains where both are asked a query of another table."""

    @property
    def clauses(self) -> dict[str, Any]:
        """The query's clauses; none where the query is no object."""
        return self.query.q if self.query is not None and isinstance(self.query.q, dict) else {}


@dataclass(frozen=True)
class Difference:
    """A difference on purpose: `explains` says whether it is the cause of a finding."""

    name: str
    reason: str
    explains: Callable[[Met, Finding], bool] | None = None
    """None where no single answer shows the difference, or no generated case meets it."""


def explain(met: Met, findings: list[Finding]) -> tuple[list[Finding], set[str]]:
    """The findings that no difference explains, and the names of the differences that explain the others."""
    left, names = [], set()
    for finding in findings:
        for difference in DIFFERENCES:
            if difference.explains is not None and difference.explains(met, finding):
                names.add(difference.name)
                break
        else:
            left.append(finding)
    return left, names


def subqueries(q: Any) -> list[dict[str, Any]]:
    """Every query inside a query, in `from` and in `in`."""
    found = []
    if isinstance(q, dict):
        found += [q["from"]] if isinstance(q.get("from"), dict) else []
        found += subqueries(q.get("from")) + subqueries(q.get("where"))
    elif isinstance(q, list):
        if len(q) == 3 and q[0] == "in" and isinstance(q[2], dict):
            found.append(q[2])
        for item in q:
            found += subqueries(item)
    return found


# Numbers


def _unsigned(met: Met, finding: Finding) -> bool:
    """Whether the real server printed an unsigned number as the negative one of the same bits."""
    return (
        finding.kind == "cell"
        and isinstance(finding.real, int)
        and isinstance(finding.dev, int)
        and -(2**63) <= finding.real < 0
        and finding.dev - finding.real == 2**64
    )


def _computed_unsigned(met: Met, finding: Finding) -> bool:
    """Whether a number was computed of a column with unsigned numbers that a signed column cannot hold."""
    if met.table is None or not any(2**63 <= number < 2**64 for number in numbers_of(met.table)):
        return False
    selects = [q.get("select") for q in (met.clauses, *subqueries(met.clauses))]
    return finding.kind in ("cell", "rows", "header X-QCache-unsliced-length") and any(
        isinstance(item, list) for select in selects if isinstance(select, list) for item in select
    )


def numbers_of(table: Table) -> list[int]:
    """The integers among a table's cells."""
    cells = [cell for row in table.rows for cell in row]
    return [
        int(cell)
        for cell in cells
        if isinstance(cell, int) or (isinstance(cell, str) and re.fullmatch(r"\d+", cell))
    ]


def _last_digits(met: Met, finding: Finding) -> bool:
    """Whether two numbers that a query computes are the same but for their last digits."""
    selects = [q.get("select") for q in (met.clauses, *subqueries(met.clauses))]
    if finding.kind != "cell" or not any(
        isinstance(item, list) for s in selects if isinstance(s, list) for item in s
    ):
        return False
    try:
        real, dev = float(finding.real), float(finding.dev)
    except (TypeError, ValueError):
        return False
    return abs(real - dev) <= max(1e-11 * abs(real), 1e-10)


NUMBER = re.compile(r"\s*([-+]?)(\d*)\.?(\d*)(?:[eE]([-+]?\d+))?\s*")


@cache
def read_by_the_real_server(text: str) -> float | None:
    """The float that the real server makes of a CSV cell: digits and powers of ten in plain float arithmetic."""
    match = NUMBER.fullmatch(text)
    if match is None or not (match[2] or match[3]):
        return None
    number = 0.0
    for digit in match[2] + match[3]:
        number = number * 10.0 + int(digit)
    exponent = int(match[4] or 0) - len(match[3])
    power, left = 10.0, abs(exponent)
    while left and left < 1100:
        if left & 1:
            number = number / power if exponent < 0 else number * power
        left >>= 1
        power *= power
    return -number if match[1] == "-" else number


def is_misread(text: str) -> bool:
    """Whether a CSV cell is a number that the real server does not round correctly."""
    read = read_by_the_real_server(text)
    return read is not None and read != float(text)


def _misread(met: Met, finding: Finding) -> bool:
    """Whether the difference is gone once the cells that the real server misreads are replaced."""
    if met.table is None or met.query is None or met.table.form != "csv" or met.findings_with is None:
        return False
    replaced: dict[str, str] = {}
    for row in met.table.rows:
        for cell in row:
            if is_misread(cell):
                replaced[cell] = f"{len(replaced) + 1}.5"
    if not replaced:
        return False
    rows = tuple(tuple(replaced.get(cell, cell) for cell in row) for row in met.table.rows)
    return not met.findings_with(replace(met.table, rows=rows), met.query)


# The order of rows that sort alike

SMALLEST_UNSTABLE = 17
"""The real server's sort is stable up to 16 rows."""


def _ties(met: Met, finding: Finding) -> bool:
    """Whether the rows differ only in the order, or at the ends of a slice the choice, of rows that sort alike."""
    if finding.kind not in ("cell", "rows", "header X-QCache-unsliced-length") or met.ask is None:
        return False
    if any(_differ_by_ties(met, inner) for inner in subqueries(met.clauses)):
        return True
    return finding.kind == "cell" and _differ_by_ties(met, met.clauses) and _sliced_rightly(met)


def _sliced_rightly(met: Met) -> bool:
    """Whether the dev node's rows are the slice asked for of its rows without a slice."""
    clauses = {name: value for name, value in met.clauses.items() if name not in ("offset", "limit")}
    whole = Rows.of(met.ask(replace(met.query, q=clauses))[1])
    offset, limit = met.clauses.get("offset") or None, met.clauses.get("limit") or None
    return Rows.of(met.dev).cells == whole.cells[offset:][:limit]


def _differ_by_ties(met: Met, q: dict[str, Any]) -> bool:
    """Whether a query's answers are the same rows in another order among those that sort alike."""
    if len(q.get("order_by") or ()) != 1:
        return False
    name = str(q["order_by"][0]).removeprefix("-")
    whole = {clause: value for clause, value in q.items() if clause not in ("offset", "limit")}
    real, dev = met.ask(replace(met.query, q=whole))
    real_rows, dev_rows = Rows.of(real), Rows.of(dev)
    if real_rows is None or dev_rows is None or len(real_rows.cells) < SMALLEST_UNSTABLE:
        return False
    if name not in real_rows.names or not compare_rows(real_rows, dev_rows):
        return False
    return tied(real_rows, name) == tied(dev_rows, name)


def tied(rows: Rows, name: str) -> list[tuple[str, Counter[str]]]:
    """Runs of rows with one sort key, each as a multiset."""
    position = rows.names.index(name)
    runs: list[tuple[str, Counter[str]]] = []
    for row in rows.cells:
        key = "0.0" if row[position] in (0.0, "-0.0", "0.0") else repr(row[position])
        if not runs or runs[-1][0] != key:
            runs.append((key, Counter()))
        runs[-1][1][repr(row)] += 1
    return runs


# Refusals


def _update(met: Met, finding: Finding) -> bool:
    """Whether an update was refused."""
    return finding.kind == "status" and finding.dev == 400 and "update" in met.clauses


OPERATORS = {"+", "-", "*", "/", "**"}
FUNCTIONS = {
    "sin", "cos", "exp", "log", "expm1", "log1p", "sqrt", "sinh", "cosh", "tanh", "arcsin", "arccos", "arctan",
    "arccosh", "arcsinh", "arctanh", "abs",
}  # fmt: skip


def is_ordinary(expression: Any) -> bool:
    """Whether an alias expression is numbers and columns joined by operators and functions that QCache tells of."""
    if isinstance(expression, list):
        known = {2: FUNCTIONS, 3: OPERATORS}.get(len(expression), set())
        return any(expression[0] == name for name in known) and all(map(is_ordinary, expression[1:]))
    if isinstance(expression, str):
        return is_ordinary_text(expression)
    return isinstance(expression, int | float)


TOKENS = re.compile(
    r"""(?:\s*(?:[A-Za-z_]\w*|\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|'[^'\\]*'|"[^"\\]*"|[=!<>]=|[-+*/%<>&|~()\[\],]))*\s*""",
    re.ASCII,
)
NODES = (
    ast.Expression, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Name, ast.Constant, ast.List, ast.Call,
    ast.Load, ast.boolop, ast.operator, ast.unaryop, ast.cmpop,
)  # fmt: skip


def is_ordinary_text(text: str) -> bool:
    """Whether a text is an expression of columns, constants, operators, lists and functions that QCache tells of."""
    if not TOKENS.fullmatch(text):
        return False
    try:
        tree = ast.parse(text.strip().replace("&", " and ").replace("|", " or "), mode="eval")
    except SyntaxError:
        return False
    nodes = list(ast.walk(tree))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    return all(isinstance(node, NODES) for node in nodes) and all(
        isinstance(call.func, ast.Name) and call.func.id in FUNCTIONS and len(call.args) == 1
        for call in calls
    )


def _odd_alias(met: Met, finding: Finding) -> bool:
    """Whether an alias expression that is not ordinary was refused."""
    if finding.kind != "status" or finding.dev != 400:
        return False
    selects = [q.get("select") for q in (met.clauses, *subqueries(met.clauses))]
    expressions = [item for select in selects if isinstance(select, list) for item in select]
    return any(
        isinstance(item, list) and len(item) == 3 and item[0] == "=" and not is_ordinary(item[2])
        for item in expressions
    )


PLAIN_AGGREGATES = {
    "all", "any", "compound", "count", "idxmax", "idxmin", "kurt", "kurtosis", "mad", "max", "mean", "median", "min",
    "nunique", "prod", "product", "quantile", "sem", "skew", "std", "sum", "var",
}  # fmt: skip
GROUPED_AGGREGATES = PLAIN_AGGREGATES - {"compound", "kurt", "kurtosis", "product"} | {
    "first",
    "last",
    "size",
}


def _method(met: Met, finding: Finding) -> bool:
    """Whether a method of a data frame that is no aggregate was refused as one."""
    if finding.kind != "status" or finding.dev != 400:
        return False
    return any(
        isinstance(item, list)
        and len(item) == 2
        and isinstance(item[0], str)
        and item[0] not in (GROUPED_AGGREGATES if q.get("group_by") else PLAIN_AGGREGATES)
        for q in (met.clauses, *subqueries(met.clauses))
        if isinstance(q.get("select"), list)
        for item in q["select"]
    )


def _as_many_keys_as_rows(met: Met, finding: Finding) -> bool:
    """Whether a group_by was refused that names as many columns, one of them unknown, as there are rows."""
    if finding.kind != "status" or finding.dev not in (400, 500) or met.ask is None:
        return False
    for q in (met.clauses, *subqueries(met.clauses)):
        keys = q.get("group_by")
        if isinstance(keys, list) and any(isinstance(key, list) for key in keys):
            return True
        if isinstance(keys, list) and keys:
            rows = {name: q[name] for name in ("from", "where") if name in q}
            _, count = met.ask(replace(met.query, q={**rows, "select": [["count"]]}))
            unknown = any(_is_unknown(met, rows, key) for key in keys)
            if unknown and count.status == 200 and json.loads(_as_json(count))[0]["count"] == len(keys):
                return True
    return False


def _is_unknown(met: Met, rows: dict[str, Any], name: Any) -> bool:
    """Whether a table has no column of a name."""
    _, dev = met.ask(replace(met.query, q={**rows, "select": [name]}))
    return dev.status == 400


def _as_json(answer: WireAnswer) -> str:
    """The one number of a count, whatever form it came in."""
    text = answer.body.decode()
    return text if text.startswith("[") else json.dumps([{"count": int(text.split()[-1])}])


def integers(value: Any) -> list[int]:
    """Every integer in a query or a table."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [number for item in value for number in integers(item)]
    return [value] if isinstance(value, int) else []


def _beyond_64_bits(met: Met, finding: Finding) -> bool:
    """Whether numbers that 64 bits cannot hold are met, in a table's texts or in what an alias computes."""
    if finding.kind != "status":
        return False
    if met.table is not None and met.table.form == "json" and finding.real == 500 and finding.dev == 200:
        return any(not -(2**63) <= number < 2**64 for number in integers(met.table.rows))
    aliases = [q.get("select") for q in (met.clauses, *subqueries(met.clauses))]
    return finding.dev == 500 and any(abs(number) >= 2**31 for number in integers(aliases))


NUMBERS_ONLY = {"idxmax", "idxmin", "kurt", "kurtosis", "mean", "median", "skew"}


def _numbers_in_texts(met: Met, finding: Finding) -> bool:
    """Whether a calculation was refused that the real server makes of texts that spell numbers."""
    return (
        finding.kind == "status"
        and (finding.real, finding.dev) == (200, 500)
        and any(
            isinstance(item, list) and len(item) == 2 and item[0] in NUMBERS_ONLY
            for q in (met.clauses, *subqueries(met.clauses))
            if isinstance(q.get("select"), list)
            for item in q["select"]
        )
    )


def _nested(met: Met, finding: Finding) -> bool:
    """Whether CSV shows the texts in a list or an object of a cell as Python 3 does."""
    return (
        finding.kind == "cell"
        and isinstance(finding.real, str)
        and finding.real[:1] in ("[", "{")
        and re.sub(r"\bu(['\"])", r"\1", finding.real) == finding.dev
    )


def _lists_in_in(met: Met, finding: Finding) -> bool:
    """Whether a condition was refused that looks for, or in, lists or objects."""
    nested = met.table is not None and any(
        isinstance(cell, list | dict) for row in met.table.rows for cell in row
    )
    return (
        finding.kind == "status"
        and finding.dev == 400
        and any(
            nested or any(isinstance(value, list | dict) for value in values)
            for values in values_of_in([met.clauses, *subqueries(met.clauses)])
        )
    )


def values_of_in(q: Any) -> list[list[Any]]:
    """The lists of values of every `in` in a query."""
    if isinstance(q, dict):
        return values_of_in(list(q.values()))
    if not isinstance(q, list):
        return []
    own = [q[2]] if len(q) == 3 and q[0] == "in" and isinstance(q[2], list) else []
    return own + [values for item in q for values in values_of_in(item)]


def _multipart(met: Met, finding: Finding) -> bool:
    """Whether a multipart body was refused before its Content-Type was looked at."""
    return finding.kind == "status" and (finding.real, finding.dev) == (415, 400)


DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        "stable-order",
        "Rows that sort alike keep the order they had; the real server's sort by one column keeps it only up to "
        "16 rows.",
        _ties,
    ),
    Difference(
        "unsigned-numbers",
        "Numbers from 2^63 to 2^64-1 are printed in JSON as they are; the real server prints them less 2^64.",
        _unsigned,
    ),
    Difference(
        "computed-unsigned-numbers",
        "What is computed of numbers from 2^63 to 2^64-1, by an aggregate or an alias, is computed of them; the real "
        "server takes them for negative.",
        _computed_unsigned,
    ),
    Difference(
        "numbers-in-texts",
        "Texts are never calculated with; the real server calculates idxmax, idxmin, kurt, median and skew of texts that "
        "all spell numbers, and a mean of the text that they make together.",
        _numbers_in_texts,
    ),
    Difference(
        "rounded-floats",
        "Decimals of many digits or large exponents in CSV are read closer to what they say; the real server is some "
        "units in the last place off.",
        _misread,
    ),
    Difference(
        "last-digits",
        "A float that is computed may differ in its last digits: the libraries add, multiply and round in their own way.",
        _last_digits,
    ),
    Difference(
        "inference-per-column",
        "A column of a CSV has one type; the real server infers it for each run of rows (262,144 of two columns), "
        "and a long column may hold numbers first and strings later.",
    ),
    Difference(
        "alias-grammar",
        "Alias expressions are translated by a small grammar, and what it does not know is 400; the real server has "
        "pandas evaluate them, so that a query can run code on the node.",
        _odd_alias,
    ),
    Difference(
        "methods",
        "Only aggregates can be asked for as such, and any other name is 400; the real server calls whatever pandas "
        "has by that name, `ix`, `loc`, `head` or `unique`, and answers 500 or by accident.",
        _method,
    ),
    Difference(
        "as-many-keys-as-rows",
        "group_by an unknown column is 400 and a list in place of a name 500; the real server takes them, if they are as "
        "many as the table has rows, for the rows' own groups.",
        _as_many_keys_as_rows,
    ),
    Difference(
        "beyond-64-bits",
        "Numbers beyond 64 bits among the texts of a JSON upload are printed, and an alias that computes one is 500; "
        "the real server answers 500, or wraps, or makes a float of it.",
        _beyond_64_bits,
    ),
    Difference(
        "lists-in-in",
        "in looks neither for lists and objects nor in a column of them, and is 400; the real server answers 400 or, as "
        "it happens, leaves them out.",
        _lists_in_in,
    ),
    Difference(
        "nested-values",
        "CSV shows the texts in a list or an object of a cell as Python 3 does, without the u of Python 2.",
        _nested,
    ),
    Difference(
        "nul",
        "A NUL is a character like others; the real server ends the field at it.",
    ),
    Difference(
        "not-utf-8",
        "A byte that is not UTF-8 is U+FFFD in JSON; the real server sends it as it is, and the answer is not JSON.",
    ),
    Difference(
        "multipart",
        "A multipart body that is none is 400 and the old table stays; the real server answers 415, the old table gone.",
        _multipart,
    ),
    Difference(
        "update",
        "Updates are refused with 400 and change nothing; the real server changes the stored table and answers 500.",
        _update,
    ),
    Difference(
        "query-stand-ins",
        "A query's stand-in columns are that query's alone; the real server keeps them in the stored table.",
    ),
    Difference(
        "sizes",
        "What a table takes of the cache is the node's own estimate.",
    ),
    Difference(
        "error-texts",
        "Error texts are the node's own and name the mistake, a 500's too.",
    ),
)
