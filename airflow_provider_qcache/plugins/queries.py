"""Which queries the cluster page passes on to a node: those that can only read.

A real node hands computed columns to pandas' eval and calls an aggregate by its name, so that a query can
write files there. So everything is refused here that is not known to be harmless.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Final

MOST_ROWS: Final = 200
"""Rows of an answer."""

_DEEPEST: Final = 12
_MOST_QUERIES: Final = 8
_MOST_TERMS: Final = 16
"""Columns that all expressions name together. A sum of 128 texts took a node of 74 MB to 2 GB."""
_GREATEST: Final = 1e300
_CLAUSES: Final = ("select", "where", "group_by", "distinct", "order_by", "offset", "limit", "from")
_COMPARISONS: Final = frozenset({"==", "!=", "<", "<=", ">", ">="})
_OPERATORS: Final = frozenset({"+", "-", "*", "/", "//", "%", "**", "&", "|"}) | _COMPARISONS
_FUNCTIONS: Final = frozenset({
    "abs", "sin", "cos", "exp", "log", "expm1", "log1p", "sqrt", "sinh", "cosh", "tanh", "arcsin",
    "arccos", "arctan", "arccosh", "arcsinh", "arctanh",
})  # fmt: skip
_AGGREGATES: Final = frozenset({
    "count", "size", "nunique", "sum", "prod", "product", "mean", "median", "quantile", "min", "max",
    "first", "last", "std", "var", "sem", "mad", "skew", "kurt", "kurtosis", "compound", "any", "all",
    "idxmax", "idxmin",
})  # fmt: skip
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*").fullmatch
_REPEATS: Final = re.compile(r"[*+?{(]").search
_ESCAPED: Final = re.compile(r"\\.")


class RefusedQuery(ValueError):
    """The page does not pass the query on."""


def check_query(query: Any) -> dict[str, Any]:
    """The query, with a limit of ``MOST_ROWS`` rows at most.

    Raises:
        RefusedQuery: it has something that the page does not know to be harmless: what, and what is allowed.
    """
    _Check().query(query, 0)
    limit = query.get("limit") or MOST_ROWS
    return {**query, "limit": min(limit, MOST_ROWS)}


class _Check:
    """The check of one query with all that is nested in it; each method raises RefusedQuery."""

    def __init__(self) -> None:
        self._queries = 0
        self._terms = 0

    def query(self, query: Any, depth: int) -> int:
        """Check a query; how many of the table's columns a column of its answer can be the sum of."""
        if depth > _DEEPEST:
            raise RefusedQuery(f"the query is nested more than {_DEEPEST} levels deep")
        if not isinstance(query, dict):
            raise RefusedQuery(f'{_shown(query)}: a query is a JSON object, such as {{"limit": 5}}')
        self._queries += 1
        if self._queries > _MOST_QUERIES:
            raise RefusedQuery(f"more than {_MOST_QUERIES} queries, with those in from and in")
        if "update" in query:
            raise RefusedQuery("update: it changes the stored table, and this page only reads")
        if {"stand_in_columns", "stand-in-columns", "X-QCache-stand-in-columns"} & query.keys():
            raise RefusedQuery("stand-in columns: they stay in the stored table, and this page only reads")
        for clause in query:
            if clause not in _CLAUSES:
                raise RefusedQuery(f"{_shown(clause)}: unknown clause; allowed: {', '.join(_CLAUSES)}")
        terms = self.query(query["from"], depth + 1) if "from" in query else 1
        if query.get("where"):
            self._condition(query["where"], depth + 1)
        for clause in ("group_by", "distinct", "order_by"):
            value = query.get(clause)
            if value and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
                raise RefusedQuery(f"{clause}: {_shown(value)}: expected a list of columns")
            _check_once(clause, value or [])
        for clause in ("offset", "limit"):
            value = query.get(clause)
            if value is not None and (type(value) is not int or value < 0):
                raise RefusedQuery(f"{clause}: {_shown(value)}: expected a number of rows, 0 or more")
        return max(terms, self._select(query.get("select"), depth, terms))

    def _condition(self, condition: Any, depth: int) -> None:
        if depth > _DEEPEST:
            raise RefusedQuery(f"where is nested more than {_DEEPEST} levels deep")
        match condition:
            case ["&" | "|", _, *_]:
                for each in condition[1:]:
                    self._condition(each, depth + 1)
            case ["!", each]:
                self._condition(each, depth + 1)
            case ["isnull", str()]:
                pass
            case ["any_bits" | "all_bits", str(), int()]:
                pass
            case ["in", str(), dict(query)]:
                self.query(query, depth + 1)
            case ["in", str(), list(values)] if all(_is_scalar(value) for value in values):
                pass
            case ["like" | "ilike", str(), str(pattern)]:
                if _REPEATS(_ESCAPED.sub("", pattern)):
                    raise RefusedQuery(
                        f"where: {_shown(pattern)}: a pattern with * + ? {{ or ( can keep a node busy for "
                        "hours; use % at its beginning and end, '.' for one character, or \\ before the "
                        "character"
                    )
            case [str(name), str(), value] if name in _COMPARISONS and _is_scalar(value):
                pass
            case _:
                raise RefusedQuery(
                    f"where: {_shown(condition)}: unknown condition; expected a list such as "
                    '["==", "column", 1], and one of == != < <= > >= in like ilike isnull any_bits '
                    "all_bits & | !"
                )

    def _select(self, select: Any, depth: int, terms: int) -> int:
        """Check what is selected; the terms of the longest expression, with so many in each column."""
        if not select or select == [["count"]]:
            return 0
        if not isinstance(select, list):
            raise RefusedQuery(f"select: {_shown(select)}: expected a list")
        most = 0
        for each in select:
            match each:
                case str():
                    pass
                case [str(function), str()] if function in _AGGREGATES:
                    pass
                case ["=", str(alias), expression] if _NAME(alias):
                    before = self._terms
                    self._expression(expression, depth + 1, terms)
                    self._terms = max(self._terms, before + 1)
                    most = max(most, self._terms - before)
                case ["=", *_]:
                    raise RefusedQuery(
                        f'select: {_shown(each)}: expected ["=", "name", expression], with a name of '
                        "letters, digits and _"
                    )
                case _:
                    raise RefusedQuery(
                        f'select: {_shown(each)}: expected a column, ["=", "name", expression], or an '
                        f"aggregate: {', '.join(sorted(_AGGREGATES))}"
                    )
        if self._terms > _MOST_TERMS:
            raise RefusedQuery(
                f"select: the expressions name more than {_MOST_TERMS} columns, those of from multiplied: "
                "sums of texts can fill a node's memory"
            )
        _check_once("select", select)
        return most

    def _expression(self, expression: Any, depth: int, terms: int) -> bool:
        """Check an expression; whether it has a column, and so is computed with numbers of bounded size."""
        if depth > _DEEPEST:
            raise RefusedQuery(f"an expression is nested more than {_DEEPEST} levels deep")
        match expression:
            case str():
                if not _NAME(expression):
                    raise RefusedQuery(
                        f"select: {_shown(expression)}: an expression as text reaches pandas' eval on the "
                        'node; write it as a list, such as ["+", "column", 1]'
                    )
                self._terms += terms
                return True
            case bool() | int() | float() if -_GREATEST < expression < _GREATEST:
                return False
            case [str(operator), left, right] if operator in _OPERATORS:
                columns = [self._expression(each, depth + 1, terms) for each in (left, right)]
                if operator == "**" and not any(columns):
                    raise RefusedQuery(
                        f"select: {_shown(expression)}: a power of numbers alone can keep a node busy for "
                        "hours; write the number"
                    )
                return any(columns)
            case [str(function), argument] if function in _FUNCTIONS:
                return self._expression(argument, depth + 1, terms)
        raise RefusedQuery(
            f"select: {_shown(expression)}: unknown expression; expected a column, a number, "
            f"[operator, expression, expression] with one of {' '.join(sorted(_OPERATORS))}, or "
            f"[function, expression] with one of {' '.join(sorted(_FUNCTIONS))}"
        )


def _check_once(clause: str, items: list[Any]) -> None:
    """Refuse a column that is there twice: each takes the node as much memory or time as the first."""
    for item, times in Counter(map(repr, items)).most_common(1):
        if times > 1:
            raise RefusedQuery(f"{clause}: {_short(item)} is there {times} times")


def _is_scalar(value: Any) -> bool:
    if isinstance(value, int):
        return -(2**63) <= value < 2**64
    return value is None or isinstance(value, str | float)


def _shown(value: Any) -> str:
    return _short(repr(value))


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
