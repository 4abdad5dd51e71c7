"""Alias expressions of ``select``: ``["=", "total", "price * (stock + 1)"]``, as text or as a prefix list.

QCache makes one text of a prefix list and has pandas evaluate it, so that a query can run code. Here the same
text is parsed by Python's `ast`, and what this small grammar knows is computed by operations on columns.
Nothing is ever evaluated as code.

    expression = number | true | false | "text" | [operator, expression, expression] | [function, expression]
    text       = columns, numbers, True, False, 'quoted texts', ( ), function(text) and
                 + - * / // % **  == != < <= > >=  in, not in with [lists]  ~ not  & and  | or

As in pandas, ``&`` and ``|`` bind as ``and`` and ``or`` do, and ``a < b < c`` means ``(a < b) and (b < c)``.
"""

import ast
import io
import keyword
import math
import operator
import re
import tokenize
from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from airflow_provider_qcache.devnode.errors import RequestError, malformed
from airflow_provider_qcache.devnode.filters import COMPARISONS, compare, is_in
from airflow_provider_qcache.devnode.values import Column, is_null, texts_as_objects

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_WORDS = frozenset({"and", "or", "not", "in"})
_CONSTANTS = frozenset({"False", "True"})
_INFINITY = frozenset({"inf", "Inf"})
# Python 2's keywords, as far as they cannot be names there.
_RESERVED = {*keyword.kwlist, "exec", "print"} - {*_CONSTANTS, "async", "await", "nonlocal"}

_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
}
_JOINS: dict[str, Callable[[Any, Any], Any]] = {"&": operator.and_, "|": operator.or_}
_AS_JOINS = {"&": "and", "|": "or"}
_SIGNS: dict[str, Callable[[Any], Any]] = {"+": operator.pos, "-": operator.neg, "~": operator.invert}
_UNARY = (*_SIGNS, "not")
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "abs": operator.abs,
    **{
        name: getattr(np, name)
        for name in (
            "sin", "cos", "exp", "log", "expm1", "log1p", "sqrt", "sinh", "cosh", "tanh",
            "arcsin", "arccos", "arctan", "arccosh", "arcsinh", "arctanh",
        )
    },
}  # fmt: skip

_INFIX = (*_ARITHMETIC, *COMPARISONS, *_JOINS, *_WORDS - {"not"}, "not in")
_PUNCTUATION = frozenset({*_ARITHMETIC, *COMPARISONS, *_JOINS, "~", "(", ")", "[", "]", ","})
_KNOWN = (
    f"numbers, columns with plain names, quoted texts, {' '.join(_INFIX)}, {' '.join(_UNARY)}, parentheses, "
    f"lists after in, and the functions {' '.join(_FUNCTIONS)}"
)

_SYMBOLS: dict[type[ast.AST], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**",
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
    ast.In: "in", ast.NotIn: "not in", ast.And: "&", ast.Or: "|",
    ast.UAdd: "+", ast.USub: "-", ast.Invert: "~", ast.Not: "~",
}  # fmt: skip
_REFLECTED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}


def assign(table: pd.DataFrame, expression: list[Any]) -> pd.DataFrame:
    """Return ``table`` with the column that ``["=", name, source]`` defines.

    Raises:
        RequestError: 400 for what the grammar does not know, 500 for operands whose types do not fit.
    """
    _, name, source = expression
    if isinstance(name, str) and _IDENTIFIER.fullmatch(name.removesuffix("-")) and name.endswith("-"):
        raise RequestError(500, f"{name!r} is no name for an alias; QCache reads it as an assignment by -=")
    if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name) or name in _RESERVED:
        raise malformed("An alias must be a name of letters, digits and _", expression)
    try:
        text = _text(source)
        with np.errstate(all="ignore"):
            value = _Evaluation(table).result(_parse(text))
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise OverflowError(f"{value} does not fit 64 bits")  # noqa: TRY301
        return texts_as_objects(table.assign(**{name: value}))
    except (OverflowError, ZeroDivisionError) as error:
        raise RequestError(500, f"{source!r}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise malformed(str(error), source) from error
    except (TypeError, AttributeError) as error:
        raise RequestError(500, f"The types in {source!r} do not go together: {error}") from error


def _text(source: Any) -> str:
    """The text that QCache makes of an expression: operators and brackets around what the leaves say."""
    match source:
        case [str(name), left, right] if name in _INFIX:
            return f"({_text(left)} {name} {_text(right)})"
        case [str(name), argument] if name in _FUNCTIONS or name in _UNARY:
            return f"{name}({_text(argument)})"
        case str() | int() | float():
            return str(source)
        case dict():
            raise RequestError(500, f"An object is no expression: {source!r}")
    raise malformed(f"No expression is [operator, a, b] or [function, a] of what is known: {_KNOWN}", source)


def _parse(text: str) -> ast.expr:
    """Parse a text by Python's grammar, with ``&`` and ``|`` read as ``and`` and ``or``.

    Raises:
        ValueError: the text has a part that the grammar does not know, or is malformed.
    """
    if len(text.splitlines()) > 1:
        raise ValueError(f"{text!r} has several lines; an expression is one")
    parts = []
    try:
        for kind, part, *_ in tokenize.generate_tokens(io.StringIO(text.strip(" \t")).readline):
            if kind in {tokenize.NEWLINE, tokenize.ENDMARKER}:
                continue
            if not _is_known(kind, part):
                raise ValueError(f"{part!r} in {text!r} is not known; allowed: {_KNOWN}")
            parts.append(_AS_JOINS.get(part, part))
        return ast.parse(" ".join(parts), mode="eval").body
    except (SyntaxError, tokenize.TokenError, MemoryError) as error:
        raise ValueError(f"{text!r} is no expression; allowed: {_KNOWN}") from error


def _is_known(kind: int, part: str) -> bool:
    if kind == tokenize.OP:
        return part in _PUNCTUATION
    if kind == tokenize.NUMBER:
        return "_" not in part and part[-1] not in "jJ"
    if kind == tokenize.STRING:  # Python 2 reads other escapes, and letters before the quote otherwise
        return part[0] in "'\"" and "\\" not in part
    return kind == tokenize.NAME and part.isascii() and (part in _WORDS or part not in _RESERVED)


class _Operand(NamedTuple):
    """A part of an expression that was computed."""

    value: Any
    """A column, a list of constants, or a constant."""
    kind: str
    """Its type as pandas sees it before it computes anything: one of `_KINDS`, or C for an enum."""
    is_term: bool
    """Whether pandas has the value before it evaluates the whole, as of a name, a constant or an ``in``."""
    is_condition: bool = False
    """Whether ``&`` and ``|`` take it beside a constant."""


_KINDS = "bifSO"
"""Booleans, integers, floats, one text, objects: of two kinds the later one is that of their sum."""


class _Evaluation:
    """Computes one expression over a table as pandas 0.20 does, from the left to the right."""

    def __init__(self, table: pd.DataFrame) -> None:
        self._table = table
        self._floats: set[str] = set()

    def result(self, tree: ast.expr) -> Any:
        """The value of the whole.

        Raises:
            ValueError: a column that the table does not have, or a construct that the grammar does not know.
            TypeError: operands whose types do not go together.
        """
        called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and id(node) not in called and node.id not in _INFINITY:
                self._column(node.id)
        found = self._evaluate(tree).value
        if isinstance(found, list):
            raise ValueError(f"a list is no column: {found!r}")  # noqa: TRY004
        return found

    def _column(self, name: str) -> Column:
        if name not in self._table.columns:
            raise ValueError(f"no column {name!r}; the table has {list(self._table.columns)!r}")
        column: Column = self._table[name]
        return column

    def _evaluate(self, node: ast.expr, *, as_float: bool = False) -> _Operand:
        """Compute a node, with its columns and constants made floats where it is an operand of a division."""
        match node:
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return _constant(value, as_float=as_float)
            case ast.Name(id=name) if name in _INFINITY:
                return _constant(math.inf, as_float=as_float)
            case ast.Name(id=name):
                return self._name(name, as_float=as_float)
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return _Operand([_item(item) for item in items], "O", is_term=True)
            case ast.UnaryOp(op=sign, operand=inner) if type(sign) in _SYMBOLS:
                return _unary(_SYMBOLS[type(sign)], self._evaluate(inner, as_float=as_float))
            case ast.BinOp(op=ast.Div(), left=left, right=right):
                return self._divide(left, right)
            case ast.BinOp(op=sign, left=left, right=right) if type(sign) in _SYMBOLS:
                operands = (self._evaluate(side, as_float=as_float) for side in (left, right))
                return _arithmetic(_SYMBOLS[type(sign)], *operands)
            case ast.BoolOp(op=sign, values=values):
                name = _SYMBOLS[type(sign)]
                operands = (self._evaluate(value, as_float=as_float) for value in values)
                return reduce(lambda left, right: _join(name, left, right), operands)
            case ast.Compare(left=first, ops=signs, comparators=others):
                sides = [self._evaluate(side, as_float=as_float) for side in (first, *others)]
                names = [_SYMBOLS[type(sign)] for sign in signs]
                found = map(_compare, names, sides, sides[1:])
                return reduce(lambda left, right: _join("&", left, right), found)
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
                if name in self._table.columns:
                    raise TypeError(f"{name} is a column here, and no function")
                return _call(name, self._evaluate(argument, as_float=as_float))
        raise ValueError(f"{ast.unparse(node)!r} is not known; allowed: {_KNOWN}")

    def _name(self, name: str, *, as_float: bool) -> _Operand:
        column = self._column(name)
        if name in self._floats:
            column = _as_float(column)
        kind = "C" if isinstance(column.dtype, pd.CategoricalDtype) else column.dtype.kind.replace("u", "i")
        return _Operand(_as_float(column) if as_float else column, kind, is_term=True)

    def _divide(self, left: ast.expr, right: ast.expr) -> _Operand:
        """Divide. pandas makes floats of all columns in both operands, which they stay in what follows."""
        a, b = (self._evaluate(side, as_float=True) for side in (left, right))
        for node in (*ast.walk(left), *ast.walk(right)):
            if isinstance(node, ast.Name):
                self._floats.add(node.id)
        return _arithmetic("/", a, b)


def _as_float(column: Column) -> Column:
    return column if column.dtype.kind in "fO" else column.astype("float64")  # a text is refused later


def _constant(value: Any, *, as_float: bool) -> _Operand:
    if isinstance(value, str):
        return _Operand(value, "S", is_term=True)
    kind = "b" if isinstance(value, bool) else "i" if isinstance(value, int) else "f"
    number = np.float64(value) if as_float else value
    return _Operand(number, kind, is_term=True, is_condition=isinstance(value, bool))


def _item(node: ast.expr) -> Any:
    """A constant in a list."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
    raise ValueError(f"{ast.unparse(node)!r} is no constant: a list holds numbers, quoted texts, True, False")


def _refuse_lists(*operands: _Operand) -> None:
    if any(isinstance(operand.value, list) for operand in operands):
        raise ValueError("a list stands beside in, not in, == or != only")


def _unary(name: str, operand: _Operand) -> _Operand:
    _refuse_lists(operand)
    value = operand.value
    if name == "+" and isinstance(value, pd.Series):
        raise TypeError("+ of a column alone")
    if name == "~" and isinstance(value, bool):
        value = int(value)  # as Python 2 inverts it: ~True is -2
    kind = "b" if operand.kind == "b" else "i"
    return _Operand(_SIGNS[name](value), kind, is_term=False)


def _call(name: str, operand: _Operand) -> _Operand:
    _refuse_lists(operand)
    value = operand.value
    if isinstance(value, pd.Series) and value.dtype == object and len(value) and name != "abs":
        raise TypeError(f"{name} of a text")
    return _Operand(_FUNCTIONS[name](value), operand.kind, is_term=False)


def _arithmetic(name: str, left: _Operand, right: _Operand) -> _Operand:
    _refuse_lists(left, right)
    kinds = {left.kind, right.kind}
    if "C" in kinds:
        raise TypeError(f"{name} of an enum")
    if "O" in kinds and len(kinds) > 1:
        raise TypeError(f"{name} of a text and another value")
    if name == "/" and kinds - {"i", "f"}:
        raise TypeError("/ of what is no number")
    kind = "f" if name == "/" else max(kinds, key=_KINDS.index)
    return _Operand(_apply(name, left.value, right.value), kind, is_term=kind == "O")


def _apply(name: str, a: Any, b: Any) -> Any:
    columns = [value for value in (a, b) if isinstance(value, pd.Series)]
    if not columns:
        return _of_constants(name, a, b)
    booleans = [value for value in (a, b) if pd.api.types.is_bool(value) or pd.api.types.is_bool_dtype(value)]
    if len(booleans) == 2 and name == "-":
        return a ^ b
    result = _ARITHMETIC[name](a, b)
    if name == "//" and any(value.dtype.kind == "f" for value in columns):
        return result.mask(pd.Series(b, index=columns[0].index) == 0)
    return result


def _of_constants(name: str, a: Any, b: Any) -> Any:
    if isinstance(a, str) or isinstance(b, str):
        if name == "+":
            return a + b
        raise TypeError(f"{name} of a text")
    if name == "**" and a and abs(b) * math.log2(abs(a)) > 1024:
        raise OverflowError(f"{a} ** {b}")
    return _ARITHMETIC[name](a, b)


def _compare(name: str, left: _Operand, right: _Operand) -> _Operand:
    values = (left.value, right.value)
    # pandas looks for a text as if it stood in a list, where it knows both operands beforehand.
    terms = left.is_term and right.is_term and any(isinstance(value, str | list) for value in values)
    if name in {"in", "not in"} or (name in {"==", "!="} and terms):
        found = _is_member(*([value] if isinstance(value, str) else value for value in values))
        if name in {"not in", "!="}:
            found = ~found if isinstance(found, pd.Series) else not found
        return _Operand(found, "b", is_term=True, is_condition=isinstance(found, bool))
    _refuse_lists(left, right)
    if isinstance(left.value, pd.Series):
        found = compare(name, *values)
    elif isinstance(right.value, pd.Series):
        found = compare(_REFLECTED[name], right.value, left.value)
    else:
        found = bool(COMPARISONS[name](*values))
    is_term = "O" in {left.kind, right.kind}
    return _Operand(found, "b", is_term, is_condition=not is_term or isinstance(found, bool))


def _is_member(value: Any, among: Any) -> Any:
    if not isinstance(value, pd.Series) and isinstance(among, pd.Series):
        if not isinstance(value, list):
            return bool(value in among)  # pandas looks among the numbers of the rows
        value, among = among, value
    if not isinstance(value, pd.Series):
        return value in among
    if isinstance(among, pd.Series):
        if isinstance(among.dtype, pd.CategoricalDtype):
            raise ValueError("in does not look among the values of an enum")  # noqa: TRY004
        return is_in(value, among.to_numpy())
    if not isinstance(among, list):
        raise TypeError(f"in takes a list or a column, not {among!r}")
    array = np.empty(len(among), dtype=object)
    array[:] = among
    return is_in(value, array)


def _join(name: str, left: _Operand, right: _Operand) -> _Operand:
    _refuse_lists(left, right)
    a, b = left.value, right.value
    columns = isinstance(a, pd.Series) + isinstance(b, pd.Series)
    if columns < 2 and not (left.is_condition and right.is_condition):
        raise TypeError(f"{name} of a constant")
    if "C" in {left.kind, right.kind}:
        raise TypeError(f"{name} of an enum")
    function = _JOINS[name]
    found = _joined(function, a, b) if columns == 2 else function(a, b)
    is_term = "O" in {left.kind, right.kind}
    return _Operand(found, "b", is_term, is_condition=not is_term)


def _joined(function: Callable[[Any, Any], Any], left: Column, right: Column) -> Column:
    """Join two columns as pandas does: integers bit by bit, all else as booleans, a null being False."""
    integers = (left.dtype.kind in "iu") + (right.dtype.kind in "iu")
    if right.dtype.kind not in "iu":
        right = _as_booleans(right)
    if left.dtype.kind in "iub":
        found = pd.Series(function(left.to_numpy(), right.to_numpy()), index=left.index)
        return found if integers == 2 else found.astype(bool)

    def join(a: Any, b: Any) -> Any:
        return False if is_null(a) else function(a, b)

    return pd.Series(
        [bool(join(a, b)) for a, b in zip(left.tolist(), right.tolist(), strict=True)],
        index=left.index,
        dtype=bool,
    )


def _as_booleans(column: Column) -> Column:
    values = [bool(value) and not is_null(value) for value in column.tolist()]
    return pd.Series(values, index=column.index, dtype=bool)
