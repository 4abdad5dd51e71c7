"""Alias expressions of ``select``: ``["=", "total", ["+", "a", ["*", 2, "b"]]]``.

QCache builds a text of them and has pandas evaluate it, so that a query can run code. Here a small grammar
is translated into operations on columns, and nothing is ever evaluated as code.

    expression = number | true | false | "column" | "'text'" | "3.5"
               | [operator, expression, expression]      operators: + - * / // % ** < <= > >= == !=
               | [function, expression]                  functions: - abs sqrt exp log sin cos ...
"""

import keyword
import math
import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from airflow_provider_qcache.devnode.errors import RequestError, malformed
from airflow_provider_qcache.devnode.filters import COMPARISONS, compare, is_quoted
from airflow_provider_qcache.devnode.values import texts_as_objects

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBER = re.compile(r"[+-]?(\d+|(\d+\.\d*|\.\d+)([eE][+-]?\d+)?|\d+[eE][+-]?\d+)")

# Python 2's keywords, as far as they cannot be names there.
_RESERVED = {*keyword.kwlist, "exec", "print"} - {"False", "True", "async", "await", "nonlocal"}

_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
}
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "-": operator.neg,
    "abs": operator.abs,
    **{
        name: getattr(np, name)
        for name in (
            "sin", "cos", "exp", "log", "expm1", "log1p", "sqrt", "sinh", "cosh", "tanh",
            "arcsin", "arccos", "arctan", "arccosh", "arcsinh", "arctanh",
        )
    },
}  # fmt: skip


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
    _check_lengths(source)
    try:
        with np.errstate(all="ignore"):
            value = _evaluate(table, source)
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise OverflowError(f"{value} does not fit 64 bits")  # noqa: TRY301
        return texts_as_objects(table.assign(**{name: value}))
    except (OverflowError, ZeroDivisionError) as error:
        raise RequestError(500, f"{source!r}: {error}") from error
    except ValueError as error:
        raise malformed(str(error), source) from error
    except (TypeError, AttributeError) as error:
        raise RequestError(500, f"The types in {source!r} do not go together: {error}") from error


def _check_lengths(expression: Any) -> None:
    if isinstance(expression, list):
        if len(expression) not in {2, 3}:
            raise malformed("An expression is [operator, a, b] or [function, a]", expression)
        for argument in expression[1:]:
            _check_lengths(argument)


def _evaluate(table: pd.DataFrame, expression: Any) -> Any:
    match expression:
        case bool() | int() | float() if expression == expression:
            return expression
        case str():
            return _leaf(table, expression)
        case [str(name), left, right] if name in _ARITHMETIC or name in COMPARISONS:
            return _infix(table, name, left, right)
        case [str(name), argument] if name in _FUNCTIONS:
            return _call(name, _evaluate(table, argument))
    if isinstance(expression, dict):
        raise TypeError("an object is no expression")
    raise ValueError(
        f"{expression!r} is no expression; allowed: numbers, columns, quoted texts, [operator, a, b] with "
        f"{' '.join([*_ARITHMETIC, *COMPARISONS])}, and [function, a] with {' '.join(_FUNCTIONS)}"
    )


def _leaf(table: pd.DataFrame, text: str) -> Any:
    if is_quoted(text) and not set(text[1:-1]) & {text[0], "\\"}:
        return text[1:-1]
    if _NUMBER.fullmatch(text):
        return float(text) if set(text) & set(".eE") else int(text)
    if text in {"True", "False"}:
        return text == "True"
    if text in table.columns and _IDENTIFIER.fullmatch(text) and text not in _RESERVED:
        return table[text]
    raise ValueError(f"{text!r} is neither a column with a plain name, nor a quoted text, nor a number")


def _infix(table: pd.DataFrame, name: str, left: Any, right: Any) -> Any:
    # QCache writes (-a ** b), in which the power is taken first.
    if name == "**" and isinstance(left, list) and len(left) == 2 and left[0] == "-":
        return -_apply(table, name, _evaluate(table, left[1]), _evaluate(table, right))
    a, b = _evaluate(table, left), _evaluate(table, right)
    if name == "**" and isinstance(left, (int, float)) and left < 0:
        return -_apply(table, name, -a, b)
    return _apply(table, name, a, b)


def _apply(table: pd.DataFrame, name: str, a: Any, b: Any) -> Any:
    columns = [value for value in (a, b) if isinstance(value, pd.Series)]
    if not columns:
        return COMPARISONS[name](a, b) if name in COMPARISONS else _constant(name, a, b)
    if name in COMPARISONS:
        return compare(
            name, a if isinstance(a, pd.Series) else pd.Series([a] * len(table), index=table.index), b
        )
    texts = [value for value in columns if value.dtype == object]
    if texts and (len(texts) < 2 or name in {"/", "//"}):
        raise TypeError(f"{name} of a text and another value")
    booleans = [value for value in (a, b) if pd.api.types.is_bool(value) or pd.api.types.is_bool_dtype(value)]
    if booleans and name == "/":
        raise TypeError("/ of a boolean")
    if len(booleans) == 2 and name == "-":
        return a ^ b
    result = _ARITHMETIC[name](a, b)
    if name == "//" and any(value.dtype.kind == "f" for value in columns):
        return result.mask(pd.Series(b, index=table.index) == 0)
    return result


def _constant(name: str, a: Any, b: Any) -> Any:
    if isinstance(a, str) or isinstance(b, str):
        if name == "+":
            return a + b
        raise TypeError(f"{name} of a text")
    if name == "/":
        return float(np.true_divide(a, b))
    if name == "**" and a and abs(b) * math.log2(abs(a)) > 1024:
        raise OverflowError(f"{a} ** {b}")
    return _ARITHMETIC[name](a, b)


def _call(name: str, value: Any) -> Any:
    if isinstance(value, pd.Series) and value.dtype == object and len(value) and name not in {"-", "abs"}:
        raise TypeError(f"{name} of a text")
    return _FUNCTIONS[name](value)
