"""The ``where`` clause: a query's conditions as a mask over the rows of a table.

QCache evaluates them with pandas 0.20 on Python 2. What follows keeps its answers, including those that come
from Python 2 ordering values of different types and from texts being UTF-8 bytes there.
"""

import operator
import re
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd

from airflow_provider_qcache.devnode.errors import RequestError, malformed
from airflow_provider_qcache.devnode.values import Column, is_null, py2_rank

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_JOINS: dict[str, Callable[[Any, Any], Any]] = {"&": operator.and_, "|": operator.or_}

SubQuery = Callable[[dict[str, Any]], pd.DataFrame]
"""Runs a query over the whole stored table, for the sub-query of an ``in``."""


def is_quoted(text: str) -> bool:
    """Whether a text of a query is a literal, not a column's name."""
    return len(text) >= 2 and text[0] == text[-1] and text[0] in "'\""


def where(table: pd.DataFrame, clause: object, subquery: SubQuery) -> pd.DataFrame:
    """The rows of ``table`` for which ``clause`` holds.

    Raises:
        RequestError: 400 for most mistakes, 500 where QCache has an internal error.
    """
    if not clause:
        return table
    if not isinstance(clause, list):
        raise malformed("where must be a list", clause)
    mask = _Filter(table, subquery).evaluate(clause)
    if isinstance(mask, pd.Series) and (mask.dtype == bool or _is_boolean_object(mask)):
        return table.iloc[np.flatnonzero(mask.to_numpy(dtype=bool))]
    if isinstance(mask, pd.Series) and mask.dtype == object and mask.isin(table.columns).all():
        return table[list(mask)]  # pandas takes texts, and what is empty, for a list of columns
    raise RequestError(500, f"where must be true or false for every row, and this is not: {clause!r}")


def _is_boolean_object(mask: Column) -> bool:
    return mask.dtype == object and len(mask) > 0 and all(isinstance(value, bool) for value in mask)


class _Filter:
    def __init__(self, table: pd.DataFrame, subquery: SubQuery) -> None:
        self._table = table
        self._subquery = subquery
        self._operators: dict[str, Callable[[list[Any]], Any]] = {
            **dict.fromkeys(COMPARISONS, self._compare),
            **dict.fromkeys(_JOINS, self._join),
            "any_bits": self._bits,
            "all_bits": self._bits,
            "!": self._not,
            "isnull": self._isnull,
            "in": self._in,
            "like": self._like,
            "ilike": self._like,
        }

    def evaluate(self, condition: Any) -> Any:
        """A mask for a condition, a column for a name, the value itself for a literal."""
        if isinstance(condition, str):
            return condition[1:-1] if is_quoted(condition) else self._named_by(condition)
        if not isinstance(condition, list):
            return condition
        if not condition:
            raise malformed("An empty condition is not allowed", condition)
        name = condition[0]
        function = self._operators.get(name) if isinstance(name, str) else None
        if function is None:
            raise malformed(f"Unknown operator; allowed: {', '.join(self._operators)}", condition)
        try:
            return function(condition)
        except TypeError as error:
            raise malformed(f"The types do not go together ({error})", condition) from error

    def _named_by(self, text: str) -> Column:
        if text not in self._table.columns:
            columns = list(self._table.columns)
            hint = f'''a text value is quoted within its quotes: "'{text}'"'''
            raise malformed(f"No column {text!r} ({hint}); the table has {columns!r}", text)
        return self._column(text, text)

    def _column(self, name: object, subject: object) -> Column:
        if isinstance(name, list) and all(
            isinstance(item, str) and item in self._table.columns for item in name
        ):
            raise RequestError(500, f"One column's name is needed here, not the list {name!r}")
        if not isinstance(name, str) or name not in self._table.columns:
            raise malformed(f"No column {name!r}; the table has {list(self._table.columns)!r}", subject)
        column: Any = self._table[name]
        if isinstance(column, pd.DataFrame):
            raise RequestError(500, f"More than one column is named {name!r}")
        return column  # type: ignore[no-any-return]

    @staticmethod
    def _arguments(condition: list[Any], count: int) -> list[Any]:
        if len(condition) != count + 1:
            raise malformed(f"{condition[0]} takes {count} argument{'s'[: count > 1]}", condition)
        return condition[1:]

    def _compare(self, condition: list[Any]) -> Any:
        name, value = self._arguments(condition, 2)
        column = self._column(name, condition)
        return compare(condition[0], column, self.evaluate(value))

    def _join(self, condition: list[Any]) -> Any:
        if len(condition) < 2:
            raise malformed(f"{condition[0]} takes one condition or more", condition)

        def join(left: Any, right: Any) -> Any:
            if isinstance(getattr(right, "dtype", None), pd.CategoricalDtype):
                raise RequestError(500, f"An enum is no condition: {condition!r}")
            if self._table.empty and isinstance(left, dict) != isinstance(right, dict):
                return (
                    right if isinstance(left, dict) else left
                )  # QCache sees no mistake where no row meets it
            return _JOINS[condition[0]](left, right)

        return reduce(join, map(self._mask, condition[1:]))

    def _mask(self, condition: Any) -> Any:
        mask = self.evaluate(condition)
        if isinstance(mask, str):
            raise malformed("A text is no condition", condition)
        return mask

    def _not(self, condition: list[Any]) -> Any:
        (inner,) = self._arguments(condition, 1)
        return ~self._mask(inner)

    def _isnull(self, condition: list[Any]) -> Any:
        (name,) = self._arguments(condition, 1)
        column = self._column(name, condition)
        if isinstance(column.dtype, pd.CategoricalDtype):
            # QCache asks whether a value differs from itself, which no value of an enum does.
            return pd.Series(data=False, index=column.index)
        return column.isna()

    def _bits(self, condition: list[Any]) -> Any:
        name, bits = self._arguments(condition, 2)
        column = self._column(name, condition)
        if not isinstance(bits, int):
            raise malformed("The argument must be an integer", condition)
        found = _common_bits(column, bits)
        return _series(found > 0 if condition[0] == "any_bits" else found == bits, column)

    def _in(self, condition: list[Any]) -> Any:
        name, values = self._arguments(condition, 2)
        if isinstance(values, dict):
            result = self._subquery(values)
            if name not in result.columns:
                raise malformed(f"The sub-query's result has no column {name!r}", condition)
            if isinstance(result[name].dtype, pd.CategoricalDtype):
                raise malformed(
                    f"The sub-query's column {name!r} is an enum, which in does not take", condition
                )
            return is_in(self._column(name, condition), result[name].to_numpy())
        if not isinstance(values, list):
            raise malformed("in takes a list of values or a sub-query", condition)
        # In QCache a query's texts are unicode and a table's are bytes: outside ASCII they never match.
        array = np.empty(len(values), dtype=object)
        array[:] = [value if not isinstance(value, str) or value.isascii() else object() for value in values]
        return is_in(self._column(name, condition), array)

    def _like(self, condition: list[Any]) -> Any:
        name, text = self._arguments(condition, 2)
        if not isinstance(text, str) or not is_quoted(text):
            raise malformed(f"{condition[0]} takes a quoted text", condition)
        column = self._column(name, condition)
        is_enum = isinstance(column.dtype, pd.CategoricalDtype)
        if (column.cat.categories if is_enum else column).dtype.kind != "O":
            raise malformed(f"Column {name!r} does not hold texts", condition)
        found = matches(column, _like_pattern(text, ignore_case=condition[0] == "ilike"))
        # Of an enum's nulls QCache leaves open whether they match, which only & and | take for an answer.
        return found.astype(object).mask(column.isna()) if is_enum and column.hasnans else found


def _common_bits(column: Column, bits: int) -> Column:
    """The bits that a column's values share with ``bits``; of booleans, whether they share any.

    Raises:
        TypeError: the column holds other values.
    """
    if column.dtype.kind in "iu":
        if (column.dtype.kind == "i" and 2**63 <= bits < 2**64) or (column.dtype.kind == "u" and bits < 0):
            raise TypeError(f"{bits} and {column.dtype}")
        found = [value & bits for value in column.tolist()]
        if any(not -(2**63) <= value < 2**64 for value in found):
            raise RequestError(500, f"{bits} does not fit 64 bits")
    elif column.dtype in {np.dtype(bool), np.dtype(object)}:
        values = column.tolist()
        if any(map(is_null, values)):
            bits = bool(bits)
        found = [False if is_null(value) else bool(value & bits) for value in values]
    else:
        raise TypeError(f"bits of {column.dtype}")
    return pd.Series(found, index=column.index, dtype=object)


def _like_pattern(text: str, *, ignore_case: bool) -> re.Pattern[str]:
    inner = text[1:-1]
    inner = inner[1:] if inner.startswith("%") else "^" + inner
    inner = inner[:-1] if inner.endswith("%") else inner + "$"
    # Python 3 wants flags like (?i) before everything else, and so before the anchor.
    inner = re.sub(r"^\^(\(\?[aiLmsux]+\))", r"\1^", inner)
    try:
        return re.compile(inner, re.ASCII | (re.IGNORECASE if ignore_case else 0))
    except (re.error, ValueError, RecursionError, OverflowError) as error:
        raise RequestError(500, f"{text!r} is not a regular expression: {error}") from error


def matches(column: Column, pattern: re.Pattern[str]) -> Column:
    """Which texts of a column a pattern is found in; what is not text has no match.

    QCache's texts are UTF-8 bytes, so that ``.`` matches one byte: a text outside ASCII is searched as its
    bytes, each as the character of that number.
    """
    search = pattern.search

    def found(value: object) -> bool:
        if not isinstance(value, str):
            return False
        return (
            search(value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("latin-1"))
            is not None
        )

    return pd.Series([found(value) for value in column.tolist()], index=column.index, dtype=bool)


def compare(name: str, left: Column, right: Any) -> Column:
    """Compare a column with a column or a literal; a null equals nothing and is neither less nor greater.

    Raises:
        TypeError: numbers with a text, or enums by order.
    """
    function = COMPARISONS[name]
    if isinstance(left.dtype, pd.CategoricalDtype) or isinstance(
        getattr(right, "dtype", None), pd.CategoricalDtype
    ):
        return _compare_enum(name, left, right)
    if isinstance(right, pd.Series):
        if object in (left.dtype, right.dtype):
            return _compare_objects(name, left, right.tolist())
        return _series(function(left.to_numpy(), right.to_numpy()), left)
    if left.dtype == object:
        if isinstance(right, str):
            return _compare_text(name, left, right)
        return _compare_objects(name, left, [right] * len(left))
    if isinstance(right, str):
        raise TypeError(f"a text and {left.dtype}")
    if is_null(right):
        return pd.Series(data=name == "!=", index=left.index)
    if isinstance(right, (dict, list)):
        return _compare_objects(name, left, [right] * len(left))
    numbers = left.astype("int64") if left.dtype == bool else left  # of which NumPy compares any integer
    return _series(function(numbers.to_numpy(), right), left)


def _series(values: Any, like: Column) -> Column:
    return pd.Series(values, index=like.index, dtype=bool)


def _compare_text(name: str, left: Column, right: str) -> Column:
    values = left.to_numpy()
    if name in {"==", "!="}:
        return _series(COMPARISONS[name](values, right), left)
    return _compare_objects(name, left, [right] * len(left))


def _compare_enum(name: str, left: Column, right: Any) -> Column:
    if name not in {"==", "!="}:
        raise TypeError("enums have no order")
    if isinstance(right, pd.Series):
        if (
            isinstance(left.dtype, pd.CategoricalDtype)
            and isinstance(right.dtype, pd.CategoricalDtype)
            and set(left.dtype.categories) != set(right.dtype.categories)
        ):
            raise TypeError("enums of different values")
        equal = _compare_objects("==", left.astype(object), right.astype(object).tolist())
        if isinstance(left.dtype, pd.CategoricalDtype) and isinstance(right.dtype, pd.CategoricalDtype):
            known = left.notna() & right.notna()
            return equal if name == "==" else ~equal & known
        return equal if name == "==" else ~equal
    equal = _series((left == right).to_numpy() if isinstance(right, str) else np.zeros(len(left), bool), left)
    return equal if name == "==" else ~equal


def _compare_objects(name: str, left: Column, right: list[Any]) -> Column:
    function = COMPARISONS[name]
    nulls_differ = left.dtype == object  # pandas looks for nulls only there

    def holds(a: Any, b: Any) -> bool:
        if nulls_differ and (is_null(a) or is_null(b)):
            return name == "!="
        try:
            return bool(function(a, b))
        except TypeError:
            return bool(function(py2_rank(a), py2_rank(b)))

    return _series([holds(a, b) for a, b in zip(left.tolist(), right, strict=True)], left)


def is_in(column: Column, values: "np.ndarray[Any, Any]") -> Column:
    """Which values of a column are among ``values``.

    Numbers are looked for as the column's type where every value can be made one: in a column of integers
    1.5 finds 1, and so does the text ``1``.
    """
    kind = column.dtype.kind
    if kind in "iufb":
        dtype = np.dtype("float64" if kind == "f" else "int64")
        try:
            numbers = values.astype("uint64" if kind in "ub" else dtype).astype(dtype)
        except OverflowError as error:
            raise RequestError(500, f"in: {values.tolist()!r} does not fit 64 bits") from error
        except (TypeError, ValueError):
            pass
        else:
            return pd.Series(column.to_numpy().astype(dtype), index=column.index).isin(numbers)
    wanted = {value for value in values.tolist() if value == value}
    # A null is found where it is the same object: None of JSON, and the NaN of a sub-query's result.
    nan_wanted = any(value is np.nan for value in values)  # noqa: PLW0177

    def is_wanted(value: Any) -> bool:
        return nan_wanted if value != value else value in wanted

    return _series([is_wanted(value) for value in column.tolist()], column)
