"""Aggregate functions of ``select``, with and without ``group_by``."""

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd

from airflow_provider_qcache.devnode.errors import RequestError, malformed
from airflow_provider_qcache.devnode.values import Column, is_null, py2_rank, texts_as_objects


def _numbers(column: Column, name: str) -> Column:
    """A column as the numbers QCache calculates with, where it can: booleans among nulls as 0.0 and 1.0."""
    if column.dtype.kind in "iufb":
        return column
    if (name != "compound" or column.dtype == object) and all(
        isinstance(value, (bool, int, float)) for value in column.tolist() if not is_null(value)
    ):
        return column.astype(object).astype(float)
    raise RequestError(500, f"{name} needs numbers, and column {column.name!r} holds other values")


def _sum(column: Column) -> Any:
    values = column.tolist()
    if not values:
        return 0.0
    if all(isinstance(value, str) for value in values):
        return _as_float("".join(values), column)
    return _numbers(column, "sum").sum(min_count=1)


def _product(column: Column) -> Any:
    """A text is its own product, and nothing multiplies it but the 1 that stands for a null."""
    if column.isna().all():
        return np.nan
    try:
        return reduce(operator.mul, [1 if is_null(value) else value for value in column.tolist()])
    except TypeError as error:
        raise RequestError(
            500, f"prod needs numbers, and column {column.name!r} holds other values"
        ) from error


def _prod(column: Column) -> Any:
    if any(isinstance(value, str) for value in column.tolist()):
        return _as_float(_product(column), column)
    return _numbers(column, "prod").prod(min_count=1)


def _skewness(column: Column) -> Any:
    return 0 if column.count() >= 3 and column.var() == 0 else column.skew()


def _kurtosis(column: Column) -> Any:
    return 0 if column.count() >= 4 and column.var() == 0 else column.kurt()


def _index_of(extreme: Callable[[Column], Any]) -> Callable[[Column], Any]:
    """The number of the first row with the extreme; rows keep the number they have in the stored table."""

    def index(column: Column) -> Any:
        if column.empty:
            raise RequestError(500, f"Column {column.name!r} has no rows to look for an extreme in")
        return extreme(column) if column.notna().any() else np.nan

    return index


def _mad(column: Column) -> float:
    return float((column - column.mean()).abs().mean())


def _compound(column: Any) -> Any:
    return (1 + column).prod(min_count=1) - 1


def _extreme(column: Column, *, largest: bool) -> Any:
    """The extreme of texts, or of values of several types: Python 2 has every number before every text.

    QCache puts inf in a null's place for min and -inf for max, and takes the extreme of all.
    """
    null = -np.inf if largest else np.inf
    values = [null if is_null(value) else value for value in column.tolist()]
    if all(value is null for value in values):
        return np.nan

    def key(value: Any) -> Any:
        return py2_rank(value), value

    return max(values, key=key) if largest else min(values, key=key)


def _as_float(value: Any, column: Column) -> Any:
    """The result for a column of objects, which QCache makes a float where it can, of a text too."""
    if isinstance(value, bool):
        return float(value) if column.hasnans else value
    try:
        return float(value) if isinstance(value, str) and value.isascii() and "_" not in value else value
    except ValueError:
        return value


_PLAIN: dict[str, Callable[[Column], Any]] = {
    "mean": lambda c: c.astype(float).mean(),
    "median": lambda c: c.astype(float).median(),
    "std": lambda c: c.astype(float).std(),
    "var": lambda c: c.astype(float).var(),
    "sem": lambda c: c.astype(float).sem(),
    "skew": lambda c: float(_skewness(c.astype(float))),
    "kurt": lambda c: float(_kurtosis(c.astype(float))),
    "mad": lambda c: _mad(c.astype(float)),
    "quantile": lambda c: c.astype(float).quantile(),
    "compound": _compound,
    "idxmax": _index_of(lambda c: c.idxmax()),
    "idxmin": _index_of(lambda c: c.idxmin()),
}
_PLAIN["kurtosis"] = _PLAIN["kurt"]
_NUMBERS_AT_ONCE = {"mad", "quantile"}
"""Functions that take no column of other values, even where all of these are booleans or nulls."""
_PLAIN_ANY_TYPE: dict[str, Callable[[Column], Any]] = {
    "count": lambda c: c.count(),
    "nunique": lambda c: c.nunique() if len(c) else np.nan,
    "all": lambda c: bool(c.dropna().astype(bool).all()),
    "any": lambda c: bool(c.dropna().astype(bool).any()),
    "sum": _sum,
    "prod": _prod,
    "product": _prod,
    "min": lambda c: c.min() if c.dtype.kind in "iufb" else _as_float(_extreme(c, largest=False), c),
    "max": lambda c: c.max() if c.dtype.kind in "iufb" else _as_float(_extreme(c, largest=True), c),
}


def aggregate(table: pd.DataFrame, select: list[Any], functions: dict[str, str]) -> pd.DataFrame:
    """One row of aggregates over a whole table; the columns come out sorted.

    Args:
        table: the rows to aggregate.
        select: the clause, for error messages.
        functions: the function's name for each column.

    Raises:
        RequestError: 400 for an unknown function, 500 for a column that is not there or does not fit.
    """
    result = {}
    for column_name in sorted(functions):
        name = functions[column_name]
        if column_name not in table.columns:
            raise RequestError(
                500, f"No column {column_name!r} to aggregate; the table has {list(table.columns)!r}"
            )
        column = table[column_name]
        if name in _PLAIN_ANY_TYPE:
            value = _PLAIN_ANY_TYPE[name](column)
        elif name in _PLAIN:
            if name in _NUMBERS_AT_ONCE and column.dtype.kind not in "iufb":
                raise RequestError(500, f"{name} needs a column of numbers, which {column_name!r} is not")
            value = _PLAIN[name](_numbers(column, name))
        elif name in {"first", "last"}:
            raise RequestError(500, f"{name} needs a group_by")
        else:
            raise _unknown(name, select, [*_PLAIN, *_PLAIN_ANY_TYPE])
        result[column_name] = [value]
    return texts_as_objects(pd.DataFrame(result))


def _unknown(name: str, select: list[Any], allowed: list[str]) -> RequestError:
    if not name.isascii():
        return malformed("Unknown aggregate function", name)
    return malformed(f"Unknown aggregate function {name!r}; allowed: {', '.join(sorted(allowed))}", select)


def _first_true(column: Column) -> Any:
    """Any: Python's ``or`` over the values, which for texts gives the first one that is not empty."""
    return reduce(
        lambda a, b: a or b, [False if is_null(value) else value for value in column.tolist()] or [False]
    )


def _last_true(column: Column) -> Any:
    """All: Python's ``and`` over the values, which for texts gives the last one."""
    return reduce(
        lambda a, b: a and b, [True if is_null(value) else value for value in column.tolist()] or [True]
    )


_GROUPED_COUNTS: dict[str, Callable[[Any], Any]] = {
    "count": lambda g: g.count(),
    "nunique": lambda g: g.nunique(),
    "size": lambda g: g.size(),
}
_GROUPED_AS_FLOATS: dict[str, Callable[[Any], Any]] = {
    "prod": lambda g: g.prod(min_count=1),
    "median": lambda g: g.median(),
    "var": lambda g: g.var(),
}
_GROUPED_VALUES: dict[str, Callable[[Any], Any]] = {
    "min": lambda g: g.min(),
    "max": lambda g: g.max(),
    "first": lambda g: g.first(),
    "last": lambda g: g.last(),
}
_GROUPED: dict[str, Callable[[Any], Any]] = {
    "std": lambda g: g.std(),
    "sem": lambda g: g.sem(),
    "skew": lambda g: g.agg(_skewness),
    "quantile": lambda g: g.quantile(),
    "mad": lambda g: g.agg(_mad),
    "idxmax": lambda g: g.agg(_PLAIN["idxmax"]),
    "idxmin": lambda g: g.agg(_PLAIN["idxmin"]),
    "any": lambda g: g.any(),
    "all": lambda g: g.all(),
}
_FLOATS_ONLY = {"mean", "median", "var", "std", "sem"}
"""Functions that refuse a column of other values even where it has no rows."""
_GROUPED_ALL: dict[str, Callable[[Any], Any]] = {
    **_GROUPED_COUNTS,
    **_GROUPED_AS_FLOATS,
    **_GROUPED_VALUES,
    **_GROUPED,
}


_GROUPED_NAMES = {*_GROUPED_ALL, "mean", "sum"}


@dataclass(frozen=True)
class _Groups:
    """The groups of a table: their keys, sorted, and the group's place among them for each row, or -1."""

    keys: pd.DataFrame
    places: "np.ndarray[Any, np.dtype[np.integer[Any]]]"

    @classmethod
    def of(cls, table: pd.DataFrame, names: list[str]) -> "_Groups":
        """Find the groups; rows with a null key are in none.

        With a single key that is an enum, values of the enum that no row has make groups too.
        """
        if len(names) > 1:
            groups = table.groupby(names, observed=True, dropna=True, sort=True)
            places = groups.ngroup().fillna(-1).to_numpy(dtype=np.intp)
            return cls(groups.size().index.to_frame(index=False), places)
        column = table[names[0]]
        if isinstance(column.dtype, pd.CategoricalDtype):
            values = pd.Series(pd.Categorical(column.dtype.categories, dtype=column.dtype))
            return cls(values.to_frame(names[0]), column.cat.codes.to_numpy(dtype=np.intp))
        places, uniques = pd.factorize(column, sort=True)
        return cls(pd.Series(uniques, dtype=column.dtype).to_frame(names[0]), places)

    def __len__(self) -> int:
        return len(self.keys)

    def group(self, column: Column) -> Any:
        """A column by groups, for pandas' aggregates."""
        by: Any = pd.Categorical.from_codes(self.places, pd.RangeIndex(len(self)))
        return column.groupby(by, observed=False)

    def add(self, column: Column) -> tuple[Column, Column]:
        """The sums and counts of each group, added up value by value as pandas 0.20 does.

        pandas 3 makes up for what rounding loses, and its sums differ in their last digits.
        """
        values = column.to_numpy(dtype=float)
        places, counted = self.places, self.places >= 0
        if column.dtype.kind == "f":
            counted &= ~np.isnan(values)
        if not counted.all():
            places, values = places[counted], values[counted]
        sums = np.bincount(places, weights=values, minlength=len(self))
        return pd.Series(sums), pd.Series(np.bincount(places, minlength=len(self)))


def count_groups(table: pd.DataFrame, keys: list[str]) -> int:
    """How many groups there are; of several keys QCache counts the combinations with nulls too."""
    return len(_Groups.of(table, keys)) if len(keys) == 1 else len(table.drop_duplicates(keys))


def aggregate_groups(
    table: pd.DataFrame, keys: list[str], select: list[Any], functions: dict[str, str]
) -> pd.DataFrame:
    """One row of aggregates a group, sorted by key; rows with a null key are left out.

    Raises:
        RequestError: 400 for an unknown function, 500 for a column that is not there or does not fit.
    """
    groups = _Groups.of(table, keys)
    result = groups.keys
    for column_name, name in functions.items():
        if column_name not in table.columns:
            raise RequestError(
                500, f"No column {column_name!r} to aggregate; the table has {list(table.columns)!r}"
            )
        if name not in _GROUPED_NAMES:
            raise _unknown(name, select, list(_GROUPED_NAMES))
        if column_name in keys:
            raise RequestError(500, f"Column {column_name!r} cannot be aggregated by {keys!r}")
        result[column_name] = _aggregate_column(table[column_name], name, groups).reset_index(drop=True)
    return texts_as_objects(result)


def _aggregate_column(column: Column, name: str, groups: _Groups) -> Any:
    if name == "nunique" and column.empty and len(groups):
        raise RequestError(
            500, f"nunique of {column.name!r} needs rows, and there are only values of an enum"
        )
    if name in _GROUPED_COUNTS:
        return _GROUPED_COUNTS[name](groups.group(column))
    if column.dtype.kind not in "iufb":
        return _aggregate_others(column, name, groups)
    if name in {"sum", "mean"}:
        sums, counts = groups.add(column)
        return _restore_type((sums if name == "sum" else sums / counts).where(counts > 0), column.dtype)
    if name in _GROUPED_AS_FLOATS or (column.dtype == bool and name in {*_GROUPED_VALUES, "quantile"}):
        floats = _GROUPED_ALL[name](groups.group(column.astype(float)))
        return _restore_type(floats, column.dtype) if name != "quantile" else floats
    return _GROUPED_ALL[name](groups.group(column))


def _aggregate_others(column: Column, name: str, groups: _Groups) -> Any:
    own = groups.group(column)
    if not len(groups) and name not in _FLOATS_ONLY:
        return own.first().astype(float)
    if name == "mad":
        return own.agg(lambda _: np.nan)
    if column.dtype == object:
        if name in _OF_OBJECTS:
            return own.agg(_OF_OBJECTS[name])
        if name in {"idxmax", "idxmin", "quantile", "skew"}:
            return _GROUPED[name](groups.group(_numbers(column, name)))
    if name in {"first", "last"}:
        return _GROUPED_ALL[name](own)
    raise RequestError(500, f"{name} needs numbers, and column {column.name!r} holds other values")


def _concatenation(column: Column) -> Any:
    """The sum of a group's texts, to which the 0 that stands for a null cannot be added."""
    if column.isna().all():
        return np.nan if len(column) else 0
    try:
        return reduce(operator.add, [0 if is_null(value) else value for value in column.tolist()])
    except TypeError as error:
        raise RequestError(500, f"sum needs texts without nulls in column {column.name!r}") from error


def _not_nan(column: Column) -> Iterator[Any]:
    """The values that count for first and last, JSON's null among them."""
    return (value for value in column.tolist() if value == value)


_OF_OBJECTS: dict[str, Callable[[Column], Any]] = {
    "min": lambda c: _extreme(c, largest=False),
    "max": lambda c: _extreme(c, largest=True),
    "sum": _concatenation,
    "prod": _product,
    "any": _first_true,
    "all": _last_true,
    "first": lambda c: next(_not_nan(c), np.nan),
    "last": lambda c: next(_not_nan(c[::-1]), np.nan),
}


def _restore_type(values: Column, dtype: Any) -> Column:
    """Aggregates of integers or booleans in their own type where none loses by it, as pandas 0.20 does."""
    if dtype.kind == "f" or values.isna().any():
        return values
    with np.errstate(invalid="ignore"):
        restored = values.astype(dtype)
    return restored if np.allclose(restored, values, rtol=0) else values
