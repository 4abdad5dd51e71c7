"""Generates tables and, from their columns, queries that cover the whole query language.

Most queries should be answered with 200 and rows; wrong types, unknown columns and malformed clauses are a
minority. A column's cells come from a small pool, so that groups, ties and matches are frequent.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import strategies as st

QUERIES_PER_TABLE = 10


class _Missing:
    """A key that a JSON row does not have."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING = _Missing()


@dataclass(frozen=True)
class Column:
    """A column: its name as a query must write it, its kind, and values that it is likely to have."""

    name: str
    kind: str
    values: tuple[Any, ...] = ()
    """As query literals: numbers, booleans and plain (unquoted) strings."""


@dataclass(frozen=True)
class Table:
    """A table to store and its spelling in CSV or JSON."""

    form: str
    """`csv` or `json`."""
    names: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    """Cells: text for CSV, JSON values for JSON. CSV rows may be shorter or longer than the header."""
    columns: tuple[Column, ...]
    """The columns that a query can use."""
    types: tuple[tuple[str, str], ...] = ()
    stand_ins: tuple[tuple[str, str], ...] = ()
    newline: str = "\n"
    last_newline: bool = True
    bom: bool = False
    blank_line: bool = False
    quote_all: bool = False
    ascii_json: bool = True

    def headers(self) -> tuple[tuple[str, str], ...]:
        """The headers of the store."""
        headers = [("Content-Type", "text/csv" if self.form == "csv" else "application/json")]
        if self.types:
            headers.append(("X-QCache-types", pairs(self.types)))
        if self.stand_ins:
            headers.append(("X-QCache-stand-in-columns", pairs(self.stand_ins)))
        return tuple(headers)

    def body(self) -> bytes:
        """The body of the upload."""
        if self.form == "json":
            rows = [
                {name: cell for name, cell in zip(self.names, row, strict=True) if cell is not MISSING}
                for row in self.rows
            ]
            return json.dumps(rows, ensure_ascii=self.ascii_json).encode("utf-8", "surrogatepass")
        lines = [",".join(self._csv_cell(cell) for cell in line) for line in (self.names, *self.rows)]
        if self.blank_line:
            lines.insert(1 + len(self.rows) // 2, "")
        text = self.newline.join(lines) + (self.newline if self.last_newline else "")
        return (b"\xef\xbb\xbf" if self.bom else b"") + text.encode()

    def _csv_cell(self, cell: str) -> str:
        if (self.quote_all and cell) or re.search('[",\r\n]', cell):
            return '"' + cell.replace('"', '""') + '"'
        return cell


def pairs(items: tuple[tuple[str, str], ...]) -> str:
    """The value of a types or stand-in header."""
    return ";".join(f"{name}={value}" for name, value in items)


@dataclass(frozen=True)
class Query:
    """A query and how it is sent."""

    q: Any
    accept: str | None = "application/json"
    by_get: bool = False
    stand_ins: tuple[tuple[str, str], ...] = ()
    encoding: str | None = None

    def headers(self) -> tuple[tuple[str, str], ...]:
        """The headers of the query."""
        headers = []
        if self.accept is not None:
            headers.append(("Accept", self.accept))
        if self.encoding:
            headers.append(("Accept-Encoding", self.encoding))
        if self.stand_ins:
            headers.append(("X-QCache-stand-in-columns", pairs(self.stand_ins)))
        return tuple(headers)


@dataclass(frozen=True)
class Example:
    """A table and queries of it."""

    table: Table
    queries: tuple[Query, ...] = field(default=())

    def with_queries(self, *queries: Query) -> Example:
        """The same table with other queries."""
        return replace(self, queries=queries)


# Drawing


def chance(draw: Any, percent: int) -> bool:
    """True in about this percentage of cases."""
    # Hypothesis prefers the ends of a range to its middle.
    return (draw(st.sampled_from(range(100))) - 37) % 100 < percent


def pick(draw: Any, weighted: dict[Any, int]) -> Any:
    """A key of `weighted`, in proportion to its weight; shrinks to the first key."""
    return draw(st.sampled_from([key for key, weight in weighted.items() for _ in range(weight)]))


def one_of(draw: Any, items: Any) -> Any:
    """One of the items."""
    return draw(st.sampled_from(list(items)))


# Values

WORDS = ["a", "b", "foo", "bar", "Foo", "baz qux", "abc", "abcd", "x1", "hello world", "UPPER", "a.b", "aa"]
UNICODE = [
    "é",
    "ÅÄÖ",
    "åäö",
    "日本語",
    "😀",
    "a😀b",
    "ß",
    "naïve",
    "Ωmega",
    "\u2028",
    "\u00a0x",
    "e\u0301",
    "ﬁ",
]
AWKWARD = [
    "NA", "null", "NaN", "nan", "None", "N/A", "inf", "True", "true", "", " ", " padded ", "a,b", 'say "hi"', "it's",
    "'q'", '"q"', "line\nbreak", "line\r\nbreak", "tab\there", "a/b", "back\\slash", "100%", "%", "[x]", "(x", "a*", "$",
    "=1+1", "#c", "\x7f", "\x01", "<b>", "-", "0x10", "1e5x", "1_000", "--1", "1,5", "2020-01-01", "12:30",
]  # fmt: skip
INTS = [0, 1, 2, 3, 4, 5, 7, 10, 12, 20, 100, -1, -2, -10, 1000]
EDGE_INTS = [
    0, 1, -1, 255, 256, 65535, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53 - 1, 2**53, 2**53 + 1, -(2**53) - 1, 2**62,
    2**63 - 1, -(2**63), 10**15, 10**16, 10**17, 123456789012345678,
]  # fmt: skip
UINTS = [2**63, 2**63 + 1, 2**64 - 1, 2**63 + 2**40, 5]
FLOATS = [0.0, 0.5, 1.0, 1.5, 2.0, 2.25, -0.5, -3.75, 10.0, 100.125, 0.1, 0.2, 0.3, 1.1, 3.14, 99.99]
EDGE_FLOATS = [
    "-0.0", "0.0", "1e16", "1.5e16", "1e17", "9999999999999998.0", "1e15", "123456789012345.6", "1e-15", "9e-16",
    "1.5e-15", "2e-10", "1e-10", "5e-11", "4.9e-11", "1e-5", "0.00012345678901", "0.1234567891234", "0.99999999995",
    "2.675", "1.005", "0.30000000000000004", "1e100", "1e300", "-1e300", "1.7e308", "5e-324", "2.2250738585072014e-308",
    "123456.789012345", "1234567890.12345", "3.141592653589793", "2.718281828459045", "0.1", "100000000000.5",
    "99999999999.99999", "1e22", "1e23", "12345678901234567890.0", "0.000001", "1e-7",
]  # fmt: skip
SPECIAL_FLOATS = [
    "inf",
    "-inf",
    "Infinity",
    "1E5",
    "+1.5",
    "1.",
    ".5",
    "1e400",
    "-1e400",
    "1e-400",
    " 1.5",
    "1.5 ",
]
LONG_FLOATS = [
    "0.1234567890123456789", "3.14159265358979323846", "1234567.12345678901234", "0.333333333333333333333",
    "8.41470984807896506652502", "123456789.123456789123456789", "0.6046602879796196", "0.9405090880450124",
]  # fmt: skip
ZIPS = ["007", "01234", "00501", "0", "10001", "90210", "0000"]

NAMES = ["a", "b", "c", "d", "e", "foo", "bar", "value", "name", "x1"]
ODD_NAMES = [
    "with space", "select", "sum", "count", "index", "from", "None", "True", "A", "0", "1", "-neg", "a-b", "_x", "a.b",
    "a.1", "'q'", '"d"', "size", "mean", "T", "values", "shape", "a/b", "lambda", "Unnamed: 0", "", " pad", "%", "sin",
]  # fmt: skip
FOREIGN_NAMES = ["é", "日本", "åäö", "😀", "naïve"]

KINDS = {
    "int": 22, "float": 16, "string": 22, "bool": 6, "unicode": 6, "awkward": 8, "edge_int": 5, "uint": 1,
    "edge_float": 6, "special_float": 1, "long_float": 1, "zip": 3, "mixed": 3, "null": 2,
}  # fmt: skip
NUMERIC = {"int", "float", "edge_int", "uint", "edge_float", "special_float", "long_float"}
TEXTUAL = {"string", "unicode", "awkward", "mixed"}


@st.composite
def pools(draw: Any, kind: str) -> list[Any]:
    """A few values of a kind: text if the spelling matters, otherwise Python values."""

    def some(*sources: Any) -> list[Any]:
        return draw(st.lists(st.one_of(*sources), min_size=1, max_size=6))

    of = st.sampled_from
    if kind == "int":
        return some(of(INTS), st.integers(-20, 2000))
    if kind == "edge_int":
        return some(of(EDGE_INTS), of(EDGE_INTS), st.integers(-(2**63), 2**63 - 1))
    if kind == "uint":
        return some(of(UINTS), st.integers(2**63, 2**64 - 1))
    if kind == "float":
        return some(of(FLOATS), st.integers(-4000, 4000).map(lambda n: n / 8))
    if kind == "edge_float":
        return some(
            of(EDGE_FLOATS), of(EDGE_FLOATS), st.floats(allow_nan=False, allow_infinity=False).map(repr),
            st.floats(-1e6, 1e6).map(lambda f: f"{f:.6f}"),
        )  # fmt: skip
    if kind == "special_float":
        return some(of(SPECIAL_FLOATS))
    if kind == "long_float":
        return some(of(LONG_FLOATS), st.floats(-1000, 1000).map(lambda f: f"{f:.20f}"))
    if kind == "bool":
        return draw(of([[True, False], [True], [False]]))
    if kind == "string":
        return some(of(WORDS), st.text("abcxyz", min_size=1, max_size=4))
    if kind == "unicode":
        text = st.text(
            st.characters(codec="utf-8", exclude_characters="\x00", exclude_categories=["Cs"]), max_size=6
        )
        return some(of(UNICODE), of(WORDS), text)
    if kind == "awkward":
        return some(of(AWKWARD), of(WORDS))
    if kind == "zip":
        return some(of(ZIPS))
    if kind == "mixed":
        return some(of(INTS), of(WORDS), of(FLOATS), st.booleans(), of(EDGE_FLOATS))
    return [None]


def csv_text(value: Any) -> str:
    """A value as a CSV cell."""
    return "" if value is None else str(value)


def literal_values(kind: str, pool: list[Any]) -> tuple[Any, ...]:
    """The pool's values as a query would write them."""
    values = [value for value in pool if value is not None]
    if kind in ("edge_float", "special_float", "long_float", "zip"):
        values = [number for value in values if (number := as_number(value)) is not None]
    return tuple(values)


def as_number(text: str) -> int | float | None:
    """The finite number that a text spells; None if there is none."""
    try:
        number = float(text)
    except ValueError:
        return None
    if number in (float("inf"), float("-inf")):
        return None
    return int(text) if re.fullmatch(r"-?\d+", text) else number


# Tables


@st.composite
def column_names(draw: Any) -> list[str]:
    """Column names, mostly plain."""
    number = pick(draw, {2: 4, 3: 6, 1: 2, 4: 4, 5: 3, 6: 2})
    plain = draw(st.lists(st.sampled_from(NAMES), min_size=number, max_size=number, unique=True))
    if chance(draw, 15):
        plain[one_of(draw, range(number))] = one_of(draw, ODD_NAMES)
    if chance(draw, 2):
        plain[one_of(draw, range(number))] = one_of(draw, FOREIGN_NAMES)
    return plain


def readable_names(names: list[str]) -> list[str]:
    """The names of a CSV's columns: duplicates are numbered, and an empty name becomes Unnamed."""
    seen: dict[str, int] = {}
    result = []
    for position, name in enumerate(names):
        stem = name or f"Unnamed: {position}"
        count = seen.get(stem, 0)
        result.append(f"{stem}.{count}" if count else stem)
        seen[stem] = count + 1
    return result


STAND_INS = [
    ("new", "10"),
    ("new", "1.5"),
    ("new", "text"),
    ("new", "'007'"),
    ("new", ""),
    ("other", "-3"),
    ("new", "inf"),
]


@st.composite
def stand_in_columns(draw: Any, names: list[str]) -> tuple[tuple[str, str], ...]:
    """Stand-in columns: new ones, copies of a column, and existing ones."""
    usable = [name for name in names if name.isascii() and not re.search(r"[;=\s]", name) and name]
    sources = [("copy", name) for name in usable] + [(name, "5") for name in usable]
    return tuple(
        draw(st.lists(st.sampled_from(STAND_INS + sources), min_size=1, max_size=2, unique_by=lambda s: s[0]))
    )


@st.composite
def tables(draw: Any) -> Table:
    """A table, as CSV or JSON."""
    form = pick(draw, {"csv": 3, "json": 2})
    names = draw(column_names())
    number_of_rows = pick(draw, {3: 3, 5: 4, 8: 5, 12: 4, 1: 1, 2: 1, 20: 2, 40: 1, 0: 1})
    kinds, pooled = [], []
    for _ in names:
        kind = pick(draw, KINDS)
        pool = draw(pools(kind))
        if chance(draw, 25):
            pool = [*pool, None]
        kinds.append(kind)
        pooled.append(pool)
    rows = [[one_of(draw, pool) for pool in pooled] for _ in range(number_of_rows)]
    if form == "json":
        return _json_table(draw, names, kinds, pooled, rows)
    return _csv_table(draw, names, kinds, pooled, rows)


def _json_table(draw: Any, names: list[str], kinds: list[str], pooled: list[Any], rows: list[Any]) -> Table:
    def value(kind: str, cell: Any) -> Any:
        if kind in ("edge_float", "long_float") and isinstance(cell, str):
            return float(cell)
        if kind == "special_float" and cell is not None:
            number = as_number(cell)
            return float(cell) if number is None else number
        return cell

    rows = [[value(kind, cell) for kind, cell in zip(kinds, row, strict=True)] for row in rows]
    if chance(draw, 8) and rows:
        rows[one_of(draw, range(len(rows)))][one_of(draw, range(len(names)))] = one_of(
            draw, [MISSING, MISSING, {"n": 1}, [1, 2], "text", 2**64, float("nan")]
        )
    columns = []
    for position, (name, kind, pool) in enumerate(zip(names, kinds, pooled, strict=True)):
        if any(row[position] is not MISSING for row in rows):
            literals = literal_values("string" if kind == "zip" else kind, pool)
            columns.append(Column(name, "string" if kind == "zip" else kind, literals))
    stand_ins = draw(stand_in_columns(names)) if chance(draw, 6) else ()
    columns += [Column(name, "string", (value,)) for name, value in stand_ins if name not in names]
    return Table(
        "json",
        tuple(names),
        tuple(map(tuple, rows)),
        tuple(columns),
        stand_ins=stand_ins,
        ascii_json=chance(draw, 60),
    )


def _csv_table(draw: Any, names: list[str], kinds: list[str], pooled: list[Any], rows: list[Any]) -> Table:
    if chance(draw, 4) and len(names) > 1:
        names[-1] = names[0]
    rows = [[csv_text(cell) for cell in row] for row in rows]
    if chance(draw, 6) and rows:
        position = one_of(draw, range(len(rows)))
        rows[position] = one_of(draw, [rows[position][:-1], rows[position][:1], [*rows[position], "9"]])
    readable = readable_names(names)
    types = []
    for position, kind in enumerate(kinds):
        if chance(draw, 15):
            if kind in NUMERIC:
                type_name = pick(draw, {"float": 3, "string": 2, "enum": 1})
            else:
                type_name = pick(draw, {"enum": 5, "string": 4, "float": 1 if kind in ("null", "zip") else 0})
            if (
                names[position].isascii()
                and not re.search("[;=]", names[position])
                and names[position].strip()
            ):
                types.append((names[position], type_name))
                kinds[position] = {"float": "float", "string": "zip_string", "enum": "enum"}[type_name]
    if types and chance(draw, 4):
        types.append(("nosuch", "string"))
    columns = []
    for name, kind, pool in zip(readable, kinds, pooled, strict=True):
        if kind in ("zip_string", "enum"):
            columns.append(Column(name, kind, tuple(csv_text(value) for value in pool)))
        else:
            columns.append(Column(name, kind, literal_values(kind, pool)))
    stand_ins = draw(stand_in_columns(names)) if chance(draw, 6) else ()
    columns += [Column(name, "string", (value,)) for name, value in stand_ins if name not in readable]
    return Table(
        "csv", tuple(names), tuple(map(tuple, rows)), tuple(columns), types=tuple(types), stand_ins=stand_ins,
        newline=pick(draw, {"\n": 8, "\r\n": 2}), last_newline=chance(draw, 85), bom=chance(draw, 4),
        blank_line=chance(draw, 4), quote_all=chance(draw, 8),
    )  # fmt: skip


# Queries

COMPARISONS = {"==": 4, "!=": 4, "<": 3, "<=": 4, ">": 4, ">=": 4}
AGGREGATES = {
    "sum": 6, "mean": 6, "max": 5, "min": 5, "count": 5, "std": 3, "var": 3, "median": 4, "size": 2, "nunique": 3,
    "first": 3, "last": 3, "prod": 2,
}  # fmt: skip
RARE_AGGREGATES = [
    "sem",
    "skew",
    "mad",
    "any",
    "all",
    "quantile",
    "nosuch",
    "head",
    "cumsum",
    "idxmax",
    "unique",
    "mode",
]
FUNCTIONS = [
    "sin", "cos", "exp", "log", "expm1", "log1p", "sqrt", "sinh", "cosh", "tanh", "arcsin", "arccos", "arctan",
    "arccosh", "arcsinh", "arctanh", "abs",
]  # fmt: skip


def quoted(text: str, mark: str = "'") -> str:
    """A string literal of the query language."""
    return f"{mark}{text}{mark}"


class QueryMaker:
    """Draws the clauses of one query of a table."""

    def __init__(self, draw: Any, columns: tuple[Column, ...]) -> None:
        self.draw = draw
        self.columns = list(columns)

    def chance(self, percent: int) -> bool:
        """See `chance`."""
        return chance(self.draw, percent)

    def pick(self, weighted: dict[Any, int]) -> Any:
        """See `pick`."""
        return pick(self.draw, weighted)

    def one_of(self, items: Any) -> Any:
        """See `one_of`."""
        return one_of(self.draw, items)

    def column(self, *, numeric: bool | None = None) -> Column:
        """A column, numeric or textual if requested and available; rarely one that does not exist."""
        if not self.columns or self.chance(1):
            return Column("nosuch", "int", (1,))
        columns = self.columns
        if numeric is not None and not self.chance(3):
            matching = [c for c in columns if (c.kind in NUMERIC) == numeric]
            if numeric is False:
                matching = [c for c in columns if c.kind not in NUMERIC | {"bool", "null", "zip"}]
            columns = matching or columns
        return self.one_of(columns)

    def literal(self, column: Column) -> Any:
        """A literal that fits the column."""
        if column.values and self.chance(85):
            value = self.one_of(column.values)
        elif column.kind in NUMERIC or column.kind == "zip":
            value = self.one_of([0, 1, 5, -1, 1.5, 100, 2**53])
        elif column.kind == "bool":
            value = self.chance(50)
        else:
            value = self.one_of(["a", "foo", "zzz", "", "é"])
        return quoted(value, self.one_of("''\"")) if isinstance(value, str) else value

    def odd_literal(self, column: Column) -> Any:
        """A literal that may not fit the column."""
        return self.one_of(
            [
                quoted("abc"), quoted(""), 1, 1.5, True, None, [], [1], {}, column.name, "nosuch", "'open", "''",
                2**63, 2**64, 10**30, 1e308,
            ]
        )  # fmt: skip

    # where

    def where(self, depth: int = 3) -> Any:
        """A filter."""
        if depth > 1 and self.chance(35):
            joiner = self.pick({"|": 7, "&": 3, "!": 3})
            if joiner == "!":
                return ["!", self.where(depth - 1)]
            number = self.pick({2: 8, 3: 3, 1: 1})
            return [joiner, *(self.where(depth - 1) for _ in range(number))]
        if self.chance(2):
            return self.malformed_filter()
        kind = self.pick({"compare": 10, "in": 4, "like": 4, "isnull": 2, "bits": 2, "subquery": 2})
        if kind == "bits" and not any(c.kind in ("int", "edge_int", "bool") for c in self.columns):
            kind = "compare"
        return getattr(self, f"_{kind}")()

    def _compare(self) -> Any:
        column = self.column()
        operator = self.pick(COMPARISONS)
        if self.chance(5):
            return [operator, column.name, self.odd_literal(column)]
        if self.chance(8):
            others = [c for c in self.columns if c.kind == column.kind] or [column]
            return [operator, column.name, self.one_of(others).name]
        return [operator, column.name, self.literal(column)]

    def _in(self) -> Any:
        column = self.column()
        values = list(column.values) or [1, "a"]
        chosen = self.draw(st.lists(st.sampled_from(values), min_size=1, max_size=5))
        if self.chance(15):
            chosen.append(self.one_of([None, "zzz", 12345, 1.5, True, "'a'", "", [1]]))
        if self.chance(3):
            chosen = self.one_of([[], "abc", 5, None, [[1]]])
        return ["in", column.name, chosen]

    def _subquery(self) -> Any:
        column = self.column()
        sub: dict[str, Any] = {"select": [column.name]}
        if self.chance(15):
            sub = {}
        if self.chance(60):
            sub["where"] = self.where(1)
        if self.chance(20):
            sub["distinct"] = []
        if self.chance(25):
            sub["order_by"] = [column.name]
            sub["limit"] = self.one_of([1, 2, 3])
        if self.chance(15):
            sub["from"] = {"where": self.where(1)}
        if self.chance(3):
            sub = {"select": ["nosuch"]} if self.chance(50) else {"nosuch": 1}
        return ["in", column.name, sub]

    def _like(self) -> Any:
        texts = [c for c in self.columns if any(isinstance(value, str) and value for value in c.values)]
        column = self.one_of(texts) if texts and not self.chance(5) else self.column(numeric=False)
        operator = self.pick({"like": 3, "ilike": 2})
        texts = [value for value in column.values if isinstance(value, str) and value] or ["abc"]
        text = self.one_of(texts)
        start = self.one_of(range(len(text)))
        part = re.escape(text[start : start + 3]) if self.chance(70) else text[start : start + 3]
        template = self.pick(
            {"%{}%": 6, "{}%": 4, "%{}": 4, "{}": 2, "{}.*": 2, ".*": 1, ".+": 1, "%": 1, "": 1, "(?=.*{}).*": 1,
             "%(?!{}).": 1, "(?!{}).*": 2, "%(?<=.){}%": 1, "[a-c]+%": 1, "%[^a]": 1, r"\w+": 2, r"%\d%": 1, "{}?%": 1,
             "(a|b|{}).*": 1, "%{}|foo%": 1, r"(.)\1%": 1, "(?i){}%": 1, r"%\s%": 1, r"\S*": 1, "..": 1, "%%": 1}
        )  # fmt: skip
        pattern = template.replace("{}", part)
        if self.chance(2):
            return [operator, column.name, self.one_of([pattern, 1, None, "'(unclosed'", "'['", "'*'"])]
        return [operator, column.name, quoted(pattern, self.one_of("''\""))]

    def _isnull(self) -> Any:
        return (
            ["isnull", self.column().name] if not self.chance(30) else ["!", ["isnull", self.column().name]]
        )

    def _bits(self) -> Any:
        whole = [c for c in self.columns if c.kind in ("int", "edge_int", "bool") and None not in c.values]
        column = self.one_of(whole) if whole and not self.chance(4) else self.column(numeric=True)
        ints = [value for value in column.values if isinstance(value, int)] or [1]
        argument = self.one_of([*ints, 1, 2, 3, 4, 6, 8, 0, -1])
        if self.chance(4):
            argument = self.one_of([1.5, "'a'", None, True, 2**63])
        return [self.pick({"any_bits": 1, "all_bits": 1}), column.name, argument]

    def malformed_filter(self) -> Any:
        """A malformed filter."""
        name = self.column().name
        return self.one_of(
            [
                "text", 1, [[]], ["=="], ["==", name], ["==", name, 1, 2], ["<>", name, 1], ["&"], ["|"], ["!"],
                ["!", ["==", name, 1], ["==", name, 1]], ["isnull"], ["isnull", name, 1], ["in", name], ["like", name],
                ["&", ["==", name, 1], 5], [name], [["==", name, 1]], {"a": 1}, ["==", 1, name], [None, name, 1],
                ["==", [name], 1], ["isnull", "nosuch"], ["!", name], ["|", name], ["=", name, 1], True,
            ]
        )  # fmt: skip

    # select

    def expression(self, depth: int = 2) -> Any:
        """An alias expression in prefix form, of ordinary arithmetic."""
        if depth == 0 or self.chance(25):
            if self.chance(10):
                return self.arithmetic(1)
            if self.chance(70):
                return self.column(numeric=True).name
            return self.one_of([1, 2, 10, 0.5, -1, 0, 1.5, 3])
        if self.chance(25):
            return [self.one_of(FUNCTIONS), self.expression(depth - 1)]
        return [
            self.pick({"+": 4, "-": 4, "*": 4, "/": 3, "**": 1}),
            self.expression(depth - 1),
            self.expression(depth - 1),
        ]

    def arithmetic(self, depth: int = 2) -> str:
        """An alias expression as text, with a number as its value."""
        if depth == 0 or self.chance(20):
            if self.chance(70):
                return self.column(numeric=True).name
            return str(self.one_of([1, 2, 10, 0.5, 0, 1.5, 3, 2**40]))
        form = self.pick(
            {"{} {} {}": 10, "({} {} {})": 5, "-{}": 1, "-({})": 1, "f({})": 2, "({})": 1, "({}) * 1": 1}
        )
        if form == "f({})":
            return f"{self.one_of(FUNCTIONS)}({self.arithmetic(depth - 1)})"
        if form == "({}) * 1":
            return f"({self.condition(depth - 1)}) * {self.arithmetic(0)}"
        if form.count("{}") == 1:
            return form.format(self.arithmetic(depth - 1))
        sign = self.pick({"+": 4, "-": 4, "*": 4, "/": 3, "//": 1, "%": 1, "**": 1})
        return form.format(self.arithmetic(depth - 1), sign, self.arithmetic(depth - 1))

    def condition(self, depth: int = 2) -> str:
        """An alias expression as text, with a truth value."""
        kind = self.pick(
            {"compare": 8, "text": 4, "in": 4, "chain": 2, "column": 2, "join": 8, "not": 3, "()": 2}
        )
        if depth == 0 and kind in ("join", "not", "()"):
            kind = "compare"
        if kind == "compare":
            return f"{self.arithmetic(1)} {self.pick(COMPARISONS)} {self.arithmetic(1)}"
        if kind == "text":
            return f"{self.column(numeric=False).name} {self.pick(COMPARISONS)} {self.literal_text(self.column(numeric=False))}"
        if kind == "in":
            column = self.column()
            values = ", ".join(self.literal_text(column) for _ in range(self.pick({2: 3, 1: 2, 3: 1})))
            return f"{column.name} {self.pick({'in': 3, 'not in': 1, '==': 1})} [{values}]"
        if kind == "chain":
            middle, ends = (
                self.column(numeric=True),
                [self.pick({"<": 2, "<=": 2, "!=": 1, "==": 1}) for _ in range(2)],
            )
            return f"{self.arithmetic(0)} {ends[0]} {middle.name} {ends[1]} {self.arithmetic(0)}"
        if kind == "column":
            return self.one_of([c for c in self.columns if c.kind in ("bool", "int")] or [self.column()]).name
        if kind == "join":
            sign = self.pick({"and": 3, "or": 3, "&": 3, "|": 3})
            return f"{self.condition(depth - 1)} {sign} {self.condition(depth - 1)}"
        if kind == "not":
            return self.pick({"~({})": 3, "not {}": 3, "~{}": 1}).format(self.condition(depth - 1))
        return f"({self.condition(depth - 1)})"

    def literal_text(self, column: Column) -> str:
        """A literal inside an expression as text."""
        value = self.literal(column)
        return str(value) if isinstance(value, str) or value is not None else "0"

    def alias(self) -> Any:
        """An alias assignment."""
        name = self.one_of(["r", "s", "total", "x_1", self.one_of(self.columns or [Column("r", "int")]).name])
        if self.chance(15):
            return ["=", name, self.column().name]
        if self.chance(10):
            return ["=", name, self.one_of([1, 2.5, -7, 0])]
        if self.chance(45):
            return ["=", name, self.arithmetic() if self.chance(45) else self.condition()]
        return ["=", name, self.expression()]

    def select(self) -> tuple[Any, list[str]]:
        """A projection without group_by and the names of its columns."""
        names = [c.name for c in self.columns]
        if self.chance(3):
            return self.malformed_select(), names
        kind = self.pick({"columns": 8, "aliases": 5, "aggregates": 3, "count": 1, "none": 1})
        if kind == "none":
            return self.one_of([[], None]), names
        if kind == "count":
            return [["count"]], ["count"]
        if kind == "aggregates":
            chosen = self.aggregates()
            return chosen, [column for _, column in chosen]
        chosen = self.some_columns()
        if kind == "aliases":
            aliases = [self.alias() for _ in range(self.pick({1: 4, 2: 1}))]
            if not self.chance(4):
                aliases = list({alias[1]: alias for alias in aliases}.values())
                chosen = [name for name in chosen if name not in {alias[1] for alias in aliases}]
            return [*chosen, *aliases], [*chosen, *(alias[1] for alias in aliases)]
        return chosen, chosen

    def some_columns(self) -> list[str]:
        """One or more columns in any order."""
        names = list(dict.fromkeys(c.name for c in self.columns)) or ["nosuch"]
        chosen = self.draw(
            st.lists(st.sampled_from(names), min_size=1, max_size=4, unique=not self.chance(2))
        )
        return [*chosen, "nosuch"] if self.chance(1) else chosen

    def aggregate(self, function: str | None = None) -> list[str]:
        """An aggregate over a column."""
        if function is None:
            function = self.one_of(RARE_AGGREGATES) if self.chance(4) else self.pick(AGGREGATES)
        text_too = function in ("max", "min", "count", "size", "nunique", "first", "last")
        return [function, self.column(numeric=None if text_too else True).name]

    def aggregates(self) -> list[list[str]]:
        """Some aggregates, rarely two of the same column."""
        chosen = [self.aggregate() for _ in range(self.pick({1: 4, 2: 3, 3: 1}))]
        return chosen if self.chance(3) else list({column: [fn, column] for fn, column in chosen}.values())

    def malformed_select(self) -> Any:
        """A malformed projection."""
        name = self.column().name
        return self.one_of(
            [
                "text", 1, {"a": 1}, [["sum"]], [["count"], name], [["sum", "nosuch"]], [["nosuch", name]], [[]],
                [name, ["sum", name]], [["=", "x", name], ["sum", name]], [["=", 1, name]], [["=", "x y", name]],
                [["=", "x", [name]]], [["=", "x", ["+", name]]], [["=", "x", ["nosuch", name]]], [["+", "x", name]],
                [["=", "x", []]], [1], [None], [["=", "x", "nosuch"]], [["=", "x", ["+", name, 1, 2]]],
            ]
        )  # fmt: skip

    # the other clauses

    def grouping(self) -> tuple[list[str], Any, list[str]]:
        """A group_by, a select that fits it, and the columns of the result."""
        names = list(dict.fromkeys(c.name for c in self.columns)) or ["nosuch"]
        number = self.pick({1: 5, 2: 3, 3: 1})
        keys = self.draw(st.lists(st.sampled_from(names), min_size=1, max_size=number, unique=True))
        rest = [c for c in self.columns if c.name not in keys]
        selected = [key for key in keys if not self.chance(15)]
        maker = QueryMaker(self.draw, tuple(rest or self.columns))
        aggregates = maker.aggregates()
        select: Any = [*selected, *aggregates]
        result = [*selected, *(column for _, column in aggregates)]
        if self.chance(4):
            select = self.one_of(
                [selected, None, [], [["count"]], [*selected, ["sum", keys[0]]], [*select, "nosuch"], names]
            )
        return keys, select, result

    def order_by(self, names: list[str]) -> Any:
        """A sort over columns of the result."""
        if self.chance(3):
            return self.one_of([["nosuch"], "text", [1], [None], [], [["a"]], ["-nosuch"], [""], ["-"]])
        names = list(dict.fromkeys(names)) or ["nosuch"]
        chosen = self.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
        return [f"-{name}" if self.chance(45) else name for name in chosen]

    def query(self, depth: int = 2) -> tuple[Any, list[Column]]:
        """A query and the columns of its result."""
        q: dict[str, Any] = {}
        if depth > 1 and self.chance(15):
            q["from"], self.columns = QueryMaker(self.draw, tuple(self.columns)).query(depth - 1)
        names = [c.name for c in self.columns]
        if self.chance(45):
            q["where"] = self.where()
        elif self.chance(4):
            q["where"] = self.one_of([[], None, {}, "", 0])
        if self.chance(25):
            q["group_by"], q["select"], names = self.grouping()
            if self.chance(2):
                q["group_by"] = self.one_of(["nosuch", ["nosuch"], [], None, [1], [[]], q["group_by"][0]])
            if self.chance(2):
                q["distinct"] = []
        else:
            if self.chance(15):
                q["distinct"] = [] if self.chance(50) else self.some_columns()
                if self.chance(3):
                    q["distinct"] = self.one_of([None, "nosuch", ["nosuch"], 1, {}, [1]])
            if self.chance(50):
                q["select"], names = self.select()
        if self.chance(45):
            q["order_by"] = self.order_by(names)
        for clause in ("offset", "limit"):
            if self.chance(20 if clause == "offset" else 30):
                q[clause] = self.pick(
                    {
                        1: 6,
                        2: 5,
                        3: 3,
                        5: 2 if clause == "offset" else 4,
                        100: 0 if clause == "offset" else 2,
                        0: 2,
                        -1: 2,
                        -2: 1,
                    }
                )
                if self.chance(3):
                    q[clause] = self.one_of([1.5, "1", None, True, [], [1], 2.0, 10**20, -100, False, ""])
        if self.chance(1):
            q = {**q, self.one_of(["nosuch", "Where", "columns"]): 1}
        known = {c.name: c for c in self.columns}
        return q, [known.get(name, Column(name, "float", (1.0, 2))) for name in dict.fromkeys(names)]


@st.composite
def queries(draw: Any, table: Table) -> Query:
    """A query of the table and how it is sent."""
    columns = table.columns
    stand_ins: tuple[tuple[str, str], ...] = ()
    if chance(draw, 5):
        stand_ins = draw(stand_in_columns([c.name for c in columns]))
        known = {c.name for c in columns}
        columns += tuple(
            Column(name, "int" if as_number(value) is not None else "string", (as_number(value) or value,))
            for name, value in stand_ins
            if name not in known
        )
    q, _ = QueryMaker(draw, columns).query()
    accept = pick(draw, {"application/json": 12, "text/csv": 10, None: 1})
    encoding = pick(draw, {None: 20, "gzip": 1, "lz4": 1})
    return Query(q, accept, by_get=chance(draw, 15), stand_ins=stand_ins, encoding=encoding)


@st.composite
def examples(draw: Any) -> Example:
    """A table and queries of it."""
    table = draw(tables())
    chosen = [draw(queries(table)) for _ in range(QUERIES_PER_TABLE)]
    return Example(table, tuple({repr(query): query for query in chosen}.values()))
