"""Aggregate functions of ``select``, with and without ``group_by``."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from airflow_provider_qcache.devnode.errors import RequestError, malformed
from airflow_provider_qcache.devnode.filters import is_null, py2_rank

Column = "pd.Series[Any]"


def _numeric(column: "pd.Series[Any]", name: str) -> "pd.Series[Any]":
    """A column as the numbers that QCache calculates with; nulls only are numbers too."""
    if column.dtype.kind in "iufb":
        return column
    raise RequestError(500, f"{name} needs numbers, and column {column.name!r} holds other values")


def _mad(column: "pd.Series[Any]") -> float:
    return float((column - column.mean()).abs().mean())


def _compound(column: "pd.Series[Any]") -> float:
    return (1 + column).prod(min_count=1) - 1


def _text_extreme(column: "pd.Series[Any]", *, largest: bool) -> Any:
    values = [value for value in column.tolist() if not is_null(value)]
    if not values:
        return np.nan
    key: Callable[[Any], Any] = lambda value: (py2_rank(value), value)  # noqa: E731
    return max(values, key=key) if largest else min(values, key=key)


_PLAIN: dict[str, Callable[["pd.Series[Any]"], Any]] = {
    "sum": lambda c: c.sum(min_count=1),
    "prod": lambda c: c.prod(min_count=1),
    "mean": lambda c: c.astype(float).mean(),
    "median": lambda c: c.astype(float).median(),
    "std": lambda c: c.astype(float).std(),
    "var": lambda c: c.astype(float).var(),
    "sem": lambda c: c.astype(float).sem(),
    "skew": lambda c: c.astype(float).skew(),
    "kurt": lambda c: c.astype(float).kurt(),
    "mad": lambda c: _mad(c.astype(float)),
    "quantile": lambda c: c.astype(float).quantile(),
    "compound": _compound,
    "idxmax": lambda c: c.idxmax() if c.notna().any() else np.nan,
    "idxmin": lambda c: c.idxmin() if c.notna().any() else np.nan,
}
_PLAIN["product"] = _PLAIN["prod"]
_PLAIN["kurtosis"] = _PLAIN["kurt"]
_PLAIN_ANY_TYPE: dict[str, Callable[["pd.Series[Any]"], Any]] = {
    "count": lambda c: c.count(),
    "nunique": lambda c: c.nunique(),
    "all": lambda c: bool(c.dropna().astype(bool).all()),
    "any": lambda c: bool(c.dropna().astype(bool).any()),
    "min": lambda c: _text_extreme(c, largest=False) if c.dtype == object else c.min(),
    "max": lambda c: _text_extreme(c, largest=True) if c.dtype == object else c.max(),
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
            raise RequestError(500, f"No column {column_name!r} to aggregate; the table has {list(table.columns)!r}")
        column = table[column_name]
        if name in _PLAIN_ANY_TYPE:
            value = _PLAIN_ANY_TYPE[name](column)
        elif name in _PLAIN:
            value = _PLAIN[name](_numeric(column, name))
        else:
            raise _unknown(name, select, [*_PLAIN, *_PLAIN_ANY_TYPE])
        result[column_name] = [value]
    return pd.DataFrame(result)


def _unknown(name: str, select: list[Any], allowed: list[str]) -> RequestError:
    return malformed(f"Unknown aggregate function {name!r}; allowed: {', '.join(sorted(allowed))}", select)


_GROUPED_COUNTS = {"count", "nunique", "size"}
_GROUPED: dict[str, Callable[[Any], Any]] = {
    "sum": lambda g: g.sum(min_count=1),
    "prod": lambda g: g.prod(min_count=1),
    "min": lambda g: g.min(),
    "max": lambda g: g.max(),
    "mean": lambda g: g.mean(),
    "median": lambda g: g.median(),
    "std": lambda g: g.std(),
    "var": lambda g: g.var(),
    "sem": lambda g: g.sem(),
    "skew": lambda g: g.skew(),
    "quantile": lambda g: g.quantile(),
    "mad": lambda g: g.agg(_mad),
    "idxmax": lambda g: g.agg(_PLAIN["idxmax"]),
    "idxmin": lambda g: g.agg(_PLAIN["idxmin"]),
}
_GROUPED_ANY_TYPE: dict[str, Callable[[Any], Any]] = {
    "count": lambda g: g.count(),
    "nunique": lambda g: g.nunique(),
    "size": lambda g: g.size(),
    "first": lambda g: g.first(),
    "last": lambda g: g.last(),
    "all": lambda g: g.all(),
    "any": lambda g: g.any(),
}


def aggregate_groups(
    table: pd.DataFrame, keys: list[str], select: list[Any], functions: dict[str, str]
) -> pd.DataFrame:
    """One row of aggregates a group, sorted by key; rows with a null key are left out.

    Raises:
        RequestError: 400 for an unknown function, 500 for a column that is not there or does not fit.
    """
    groups = table.groupby(keys, observed=False, dropna=True, sort=True)
    result = {}
    for column_name, name in functions.items():
        if column_name not in table.columns or column_name in keys:
            raise RequestError(500, f"Column {column_name!r} cannot be aggregated by {keys!r}")
        column = table[column_name]
        if name in _GROUPED_ANY_TYPE:
            values = _GROUPED_ANY_TYPE[name](groups[column_name])
        elif name in _GROUPED:
            values = _GROUPED[name](groups[column_name])
        else:
            raise _unknown(name, select, [*_GROUPED, *_GROUPED_ANY_TYPE])
        result[column_name] = values if name in _GROUPED_COUNTS else _restore_type(values, column.dtype)
    return pd.DataFrame(result, columns=list(functions)).reset_index()


def _restore_type(values: "pd.Series[Any]", dtype: Any) -> "pd.Series[Any]":
    """Aggregates of integers or booleans in their own type where none loses by it, as pandas 0.20 does."""
    if dtype.kind not in "iub" or values.dtype.kind not in "iufb" or values.isna().any():
        return values
    restored = values.astype(dtype)
    return restored if np.allclose(restored, values, rtol=0) else values
