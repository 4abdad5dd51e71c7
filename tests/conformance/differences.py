"""All intended differences between the dev node and a real QCache 0.9.3.

The comparison is relaxed nowhere else: a finding that no difference explains fails its test.
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
class Context:
    """A request and both answers: what a difference needs to judge a finding."""

    real: WireAnswer
    dev: WireAnswer
    table: Table | None = None
    query: Query | None = None
    ask: Callable[[Query], tuple[WireAnswer, WireAnswer]] | None = None
    """Sends both servers another query of the same table."""
    findings_with: Callable[[Table, Query], list[Finding]] | None = None
    """The unexplained findings of a query of another table."""

    @property
    def clauses(self) -> dict[str, Any]:
        """The query's clauses; empty if the query is no object."""
        return self.query.q if self.query is not None and isinstance(self.query.q, dict) else {}


@dataclass(frozen=True)
class Difference:
    """An intended difference; `explains` says whether it is the cause of a finding."""

    name: str
    reason: str
    explains: Callable[[Context, Finding], bool] | None = None
    """None if no single answer shows the difference, or no generated case can have it."""


def explain(context: Context, findings: list[Finding]) -> tuple[list[Finding], set[str]]:
    """The findings that no difference explains, and the names of the differences that explain the rest."""
    left, names = [], set()
    for finding in findings:
        for difference in DIFFERENCES:
            if difference.explains is not None and difference.explains(context, finding):
                names.add(difference.name)
                break
        else:
            left.append(finding)
    return left, names


def subqueries(q: Any) -> list[dict[str, Any]]:
    """Every query inside a query, in `from` and `in`."""
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


def _unsigned(context: Context, finding: Finding) -> bool:
    """Whether the real server printed an unsigned number as the negative number with the same bits."""
    return (
        finding.kind == "cell"
        and isinstance(finding.real, int)
        and isinstance(finding.dev, int)
        and -(2**63) <= finding.real < 0
        and finding.dev - finding.real == 2**64
    )


def _computed_unsigned(context: Context, finding: Finding) -> bool:
    """Whether a number was computed from a column with numbers above the signed 64-bit range."""
    if context.table is None or not any(2**63 <= number < 2**64 for number in numbers_of(context.table)):
        return False
    selects = [q.get("select") for q in (context.clauses, *subqueries(context.clauses))]
    return finding.kind in ("cell", "rows", "header X-QCache-unsliced-length") and any(
        isinstance(item, list) for select in selects if isinstance(select, list) for item in select
    )


def numbers_of(table: Table) -> list[int]:
    """The integers in a table's cells, also those written as text."""
    cells = [cell for row in table.rows for cell in row]
    return [
        int(cell)
        for cell in cells
        if isinstance(cell, int) or (isinstance(cell, str) and re.fullmatch(r"\d+", cell))
    ]


def _last_digits(context: Context, finding: Finding) -> bool:
    """Whether two computed numbers differ only in their last digits."""
    selects = [q.get("select") for q in (context.clauses, *subqueries(context.clauses))]
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
    """The float that the real server reads from a CSV cell, which it computes digit by digit in float arithmetic."""
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


def is_rounded_wrongly(text: str) -> bool:
    """Whether a CSV cell is a number that the real server rounds to a wrong float."""
    read = read_by_the_real_server(text)
    return read is not None and read != float(text)


def _rounded_floats(context: Context, finding: Finding) -> bool:
    """Whether the difference disappears when the cells that the real server rounds wrongly are replaced."""
    if (
        context.table is None
        or context.query is None
        or context.table.form != "csv"
        or context.findings_with is None
    ):
        return False
    replaced: dict[str, str] = {}
    for row in context.table.rows:
        for cell in row:
            if is_rounded_wrongly(cell):
                replaced[cell] = f"{len(replaced) + 1}.5"
    if not replaced:
        return False
    rows = tuple(tuple(replaced.get(cell, cell) for cell in row) for row in context.table.rows)
    return not context.findings_with(replace(context.table, rows=rows), context.query)


# The order of rows with equal sort keys

SMALLEST_UNSTABLE = 17
"""The real server's sort is stable for up to 16 rows."""


def _ties(context: Context, finding: Finding) -> bool:
    """Whether only the order of rows with equal sort keys differs, or which of them a slice contains."""
    if finding.kind not in ("cell", "rows", "header X-QCache-unsliced-length") or context.ask is None:
        return False
    if any(_differ_by_ties(context, inner) for inner in subqueries(context.clauses)):
        return True
    return (
        finding.kind == "cell" and _differ_by_ties(context, context.clauses) and _is_sliced_correctly(context)
    )


def _is_sliced_correctly(context: Context) -> bool:
    """Whether the dev node's rows are the requested slice of its rows without a slice."""
    clauses = {name: value for name, value in context.clauses.items() if name not in ("offset", "limit")}
    whole = Rows.of(context.ask(replace(context.query, q=clauses))[1])
    offset, limit = context.clauses.get("offset") or None, context.clauses.get("limit") or None
    return Rows.of(context.dev).cells == whole.cells[offset:][:limit]


def _differ_by_ties(context: Context, q: dict[str, Any]) -> bool:
    """Whether both servers answer the same rows, with a different order only among equal sort keys."""
    if len(q.get("order_by") or ()) != 1:
        return False
    name = str(q["order_by"][0]).removeprefix("-")
    whole = {clause: value for clause, value in q.items() if clause not in ("offset", "limit")}
    real, dev = context.ask(replace(context.query, q=whole))
    real_rows, dev_rows = Rows.of(real), Rows.of(dev)
    if real_rows is None or dev_rows is None or len(real_rows.cells) < SMALLEST_UNSTABLE:
        return False
    if name not in real_rows.names or not compare_rows(real_rows, dev_rows):
        return False
    return tied(real_rows, name) == tied(dev_rows, name)


def tied(rows: Rows, name: str) -> list[tuple[str, Counter[str]]]:
    """Runs of rows with the same sort key, each as a multiset."""
    position = rows.names.index(name)
    runs: list[tuple[str, Counter[str]]] = []
    for row in rows.cells:
        key = "0.0" if row[position] in (0.0, "-0.0", "0.0") else repr(row[position])
        if not runs or runs[-1][0] != key:
            runs.append((key, Counter()))
        runs[-1][1][repr(row)] += 1
    return runs


# Requests that the dev node refuses


def _update(context: Context, finding: Finding) -> bool:
    """Whether the dev node refused an update."""
    return finding.kind == "status" and finding.dev == 400 and "update" in context.clauses


OPERATORS = {"+", "-", "*", "/", "**"}
FUNCTIONS = {
    "sin", "cos", "exp", "log", "expm1", "log1p", "sqrt", "sinh", "cosh", "tanh", "arcsin", "arccos", "arctan",
    "arccosh", "arcsinh", "arctanh", "abs",
}  # fmt: skip


def is_ordinary(expression: Any) -> bool:
    """Whether an alias expression uses only numbers, columns, and QCache's documented operators and functions."""
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
    """Whether a text uses only columns, constants, lists, and QCache's documented operators and functions."""
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


def _odd_alias(context: Context, finding: Finding) -> bool:
    """Whether the dev node refused an alias expression that is not ordinary."""
    if finding.kind != "status" or finding.dev != 400:
        return False
    selects = [q.get("select") for q in (context.clauses, *subqueries(context.clauses))]
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


def _method(context: Context, finding: Finding) -> bool:
    """Whether the dev node refused a data frame's method that is no aggregate."""
    if finding.kind != "status" or finding.dev != 400:
        return False
    return any(
        isinstance(item, list)
        and len(item) == 2
        and isinstance(item[0], str)
        and item[0] not in (GROUPED_AGGREGATES if q.get("group_by") else PLAIN_AGGREGATES)
        for q in (context.clauses, *subqueries(context.clauses))
        if isinstance(q.get("select"), list)
        for item in q["select"]
    )


def _as_many_keys_as_rows(context: Context, finding: Finding) -> bool:
    """Whether it refused a group_by with as many columns, one of them unknown, as the table has rows."""
    if finding.kind != "status" or finding.dev not in (400, 500) or context.ask is None:
        return False
    for q in (context.clauses, *subqueries(context.clauses)):
        keys = q.get("group_by")
        if isinstance(keys, list) and any(isinstance(key, list) for key in keys):
            return True
        if isinstance(keys, list) and keys:
            rows = {name: q[name] for name in ("from", "where") if name in q}
            _, count = context.ask(replace(context.query, q={**rows, "select": [["count"]]}))
            unknown = any(_is_unknown(context, rows, key) for key in keys)
            if unknown and count.status == 200 and json.loads(_as_json(count))[0]["count"] == len(keys):
                return True
    return False


def _is_unknown(context: Context, rows: dict[str, Any], name: Any) -> bool:
    """Whether a table has no column of that name."""
    _, dev = context.ask(replace(context.query, q={**rows, "select": [name]}))
    return dev.status == 400


def _as_json(answer: WireAnswer) -> str:
    """A count as JSON, whether it was answered in JSON or CSV."""
    text = answer.body.decode()
    return text if text.startswith("[") else json.dumps([{"count": int(text.split()[-1])}])


def integers(value: Any) -> list[int]:
    """All integers in a query or a table."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [number for item in value for number in integers(item)]
    return [value] if isinstance(value, int) else []


def _beyond_64_bits(context: Context, finding: Finding) -> bool:
    """Whether there are numbers beyond 64 bits, among a JSON table's texts or computed by an alias."""
    if finding.kind != "status":
        return False
    if (
        context.table is not None
        and context.table.form == "json"
        and finding.real == 500
        and finding.dev == 200
    ):
        return any(not -(2**63) <= number < 2**64 for number in integers(context.table.rows))
    aliases = [q.get("select") for q in (context.clauses, *subqueries(context.clauses))]
    return finding.dev == 500 and any(abs(number) >= 2**31 for number in integers(aliases))


NUMBERS_ONLY = {"idxmax", "idxmin", "kurt", "kurtosis", "mean", "median", "skew"}


def _numbers_in_texts(context: Context, finding: Finding) -> bool:
    """Whether the dev node refused to calculate with texts that spell numbers, as the real server does."""
    return (
        finding.kind == "status"
        and (finding.real, finding.dev) == (200, 500)
        and any(
            isinstance(item, list) and len(item) == 2 and item[0] in NUMBERS_ONLY
            for q in (context.clauses, *subqueries(context.clauses))
            if isinstance(q.get("select"), list)
            for item in q["select"]
        )
    )


def _nested(context: Context, finding: Finding) -> bool:
    """Whether a list or object in a cell differs only in the u of Python 2's texts."""
    return (
        finding.kind == "cell"
        and isinstance(finding.real, str)
        and finding.real[:1] in ("[", "{")
        and re.sub(r"\bu(['\"])", r"\1", finding.real) == finding.dev
    )


def _lists_in_in(context: Context, finding: Finding) -> bool:
    """Whether the dev node refused an `in` with lists or objects among its values or in its column."""
    nested = context.table is not None and any(
        isinstance(cell, list | dict) for row in context.table.rows for cell in row
    )
    return (
        finding.kind == "status"
        and finding.dev == 400
        and any(
            nested or any(isinstance(value, list | dict) for value in values)
            for values in values_of_in([context.clauses, *subqueries(context.clauses)])
        )
    )


def values_of_in(q: Any) -> list[list[Any]]:
    """The lists of values of all `in` in a query."""
    if isinstance(q, dict):
        return values_of_in(list(q.values()))
    if not isinstance(q, list):
        return []
    own = [q[2]] if len(q) == 3 and q[0] == "in" and isinstance(q[2], list) else []
    return own + [values for item in q for values in values_of_in(item)]


def _multipart(context: Context, finding: Finding) -> bool:
    """Whether the dev node refused a multipart body before it checked the Content-Type."""
    return finding.kind == "status" and (finding.real, finding.dev) == (415, 400)


DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        "stable-order",
        "Rows with equal sort keys keep their order; the real server's sort by one column keeps it only for up to "
        "16 rows.",
        _ties,
    ),
    Difference(
        "unsigned-numbers",
        "Numbers from 2^63 to 2^64-1 are printed in JSON unchanged; the real server subtracts 2^64.",
        _unsigned,
    ),
    Difference(
        "computed-unsigned-numbers",
        "Aggregates and aliases compute correctly with numbers from 2^63 to 2^64-1; the real server treats them as "
        "negative.",
        _computed_unsigned,
    ),
    Difference(
        "numbers-in-texts",
        "Texts are never used in calculations; the real server calculates idxmax, idxmin, kurt, median and skew of texts "
        "that all spell numbers, and a mean of the text that they make together.",
        _numbers_in_texts,
    ),
    Difference(
        "rounded-floats",
        "Decimals in CSV with many digits or large exponents are read correctly rounded; the real server is off by some "
        "units in the last place.",
        _rounded_floats,
    ),
    Difference(
        "last-digits",
        "Computed floats may differ in their last digits, because the libraries add, multiply and round differently.",
        _last_digits,
    ),
    Difference(
        "inference-per-column",
        "A column of a CSV has one type; the real server infers a type for each run of rows (262,144 of two columns), "
        "so that a long column may have numbers first and strings later.",
    ),
    Difference(
        "alias-grammar",
        "Alias expressions are translated by a small grammar, and anything else is 400; the real server lets pandas "
        "evaluate them, so that a query can run code on the node.",
        _odd_alias,
    ),
    Difference(
        "methods",
        "Only aggregates are accepted as functions, and any other name is 400; the real server calls whatever pandas "
        "has by that name, such as `ix`, `loc`, `head` or `unique`, and answers 500 or something by accident.",
        _method,
    ),
    Difference(
        "as-many-keys-as-rows",
        "A group_by of an unknown column is 400, and of a list in place of a name 500; the real server takes such names "
        "for the rows' groups, if there are as many of them as rows.",
        _as_many_keys_as_rows,
    ),
    Difference(
        "beyond-64-bits",
        "Numbers beyond 64 bits among the texts of a JSON upload are printed, and an alias that computes one is 500; "
        "the real server answers 500, wraps the number, or makes it a float.",
        _beyond_64_bits,
    ),
    Difference(
        "lists-in-in",
        "An `in` with lists or objects, among its values or in its column, is 400; the real server answers 400 or "
        "ignores them.",
        _lists_in_in,
    ),
    Difference(
        "nested-values",
        "CSV shows texts in a list or an object in a cell as Python 3 does, without the u of Python 2.",
        _nested,
    ),
    Difference(
        "nul",
        "A NUL is an ordinary character; the real server ends the field there.",
    ),
    Difference(
        "not-utf-8",
        "A byte that is not UTF-8 becomes U+FFFD in JSON; the real server sends it unchanged, which is not JSON.",
    ),
    Difference(
        "multipart",
        "An invalid multipart body is 400 and the old table remains; the real server answers 415 and drops the old table.",
        _multipart,
    ),
    Difference(
        "update",
        "Updates are refused with 400 and change nothing; the real server changes the stored table and answers 500.",
        _update,
    ),
    Difference(
        "query-stand-ins",
        "A query's stand-in columns apply to that query only; the real server keeps them in the stored table.",
    ),
    Difference(
        "sizes",
        "The size of a table in the cache is the node's own estimate.",
    ),
    Difference(
        "error-texts",
        "Error texts are the node's own and name what is wrong, also with status 500.",
    ),
)
