"""QCache's query language over a table.

The clauses are evaluated in QCache's order: from, where, group_by, distinct, select, order_by, offset, limit.
"""

import re
from typing import Any

import numpy as np
import pandas as pd

from airflow_provider_qcache.devnode import expressions
from airflow_provider_qcache.devnode.aggregates import aggregate, aggregate_groups, count_groups
from airflow_provider_qcache.devnode.errors import RequestError, malformed
from airflow_provider_qcache.devnode.filters import where
from airflow_provider_qcache.devnode.values import Column, is_null, py2_rank

_CLAUSES = ("select", "where", "group_by", "distinct", "order_by", "offset", "limit", "from")
_ALIAS = re.compile(r"[A-Za-z0-9_-]+")


def query(table: pd.DataFrame, q: object) -> tuple[pd.DataFrame, int]:
    """Run a query.

    Args:
        table: the stored table, which is left as it is.
        q: the query, as parsed from JSON.

    Returns:
        The result and its unsliced length: the number of rows before offset and limit.

    Raises:
        RequestError: with the status that QCache answers for the mistake.
    """
    if isinstance(q, bool | int | float):
        raise RequestError(500, f"A query must be an object, not {q!r}")
    if isinstance(q, dict) and "update" in q:
        raise malformed("update is not supported: a dev node's tables are changed by storing them", q)
    return _query(table, table, q)


def _query(stored: pd.DataFrame, table: pd.DataFrame, q: object) -> tuple[pd.DataFrame, int]:
    if not isinstance(q, dict):
        raise malformed("A query must be an object", q)
    for clause in q:
        if clause not in _CLAUSES:
            raise malformed(f"Unknown clause; allowed: {', '.join(_CLAUSES)}", clause)
    if "from" in q:
        table, _ = _query(stored, table, q["from"])
    table = where(table, q.get("where"), lambda sub: _query(stored, stored, sub)[0])
    keys = _group_keys(table, q.get("group_by"))
    if keys:
        if q.get("distinct") is not None:
            raise RequestError(500, "distinct and group_by do not go together")
        table = _select_groups(table, keys, q.get("select"))
    else:
        table = _select(_distinct(table, q.get("distinct")), q.get("select"))
    order = _order(table, q.get("order_by"))
    for name in ("offset", "limit"):
        if q.get(name) and not isinstance(q[name], int):
            raise malformed(f"{name} must be an integer", q[name])
        if q.get(name) is True:
            raise RequestError(500, f"{name} must be an integer, not {q[name]!r}")
    offset, limit = q.get("offset") or None, q.get("limit") or None
    if order is not None:
        return table.iloc[order[offset:][:limit]], len(table)  # only the rows asked for are put in order
    if offset or limit:
        return table.iloc[offset:].iloc[:limit], len(table)
    return table, len(table)


def _group_keys(table: pd.DataFrame, group_by: Any) -> list[str]:
    if not group_by:
        return []
    if not isinstance(group_by, list):
        raise malformed("group_by must be a list", group_by)
    for name in group_by:
        if name is None or isinstance(name, list):
            raise RequestError(500, f"group_by takes names of columns, not {name!r}")
        if not isinstance(name, str) or name not in table.columns:
            raise malformed(f"group_by names {name!r}, which is not in the table", group_by)
    return group_by


def _distinct(table: pd.DataFrame, distinct: Any) -> pd.DataFrame:
    if distinct is None:
        return table
    if table.columns.empty:
        raise RequestError(500, "distinct needs a table with columns")
    if not distinct:
        return table.drop_duplicates()
    names = list(distinct) if isinstance(distinct, (list, dict)) else [distinct]
    for name in names:
        if not isinstance(name, str) or name not in table.columns:
            raise RequestError(500, f"distinct names {name!r}, which is not in the table")
    return table.drop_duplicates(subset=names)


def _is_aggregate(expression: Any) -> bool:
    return isinstance(expression, list) and len(expression) == 2


def _is_alias(expression: Any) -> bool:
    return isinstance(expression, list) and len(expression) == 3 and expression[0] == "="


def _aggregates(select: list[Any]) -> dict[str, str]:
    functions: dict[str, str] = {}
    for expression in select:
        if _is_aggregate(expression):
            name, column = expression
            if not isinstance(name, str) or not isinstance(column, str):
                raise RequestError(500, f"An aggregate is [function, column], both texts: {expression!r}")
            functions[column] = name
        elif isinstance(expression, list) and not _is_alias(expression):
            raise malformed("Neither [function, column] nor [=, alias, expression]", expression)
    if functions and any(map(_is_alias, select)):
        raise malformed("Aliases and aggregates do not go together", select)
    return functions


def _check_select(select: Any) -> list[Any]:
    if not isinstance(select, list):
        raise malformed("select must be a list", select)
    return select


def _select(table: pd.DataFrame, select: Any) -> pd.DataFrame:
    if not select:
        return table
    select = _check_select(select)
    if select == [["count"]]:
        return pd.DataFrame({"count": [len(table)]})
    functions = _aggregates(select)
    if functions:
        if len(functions) != len(select):
            raise malformed("Without group_by, aggregates and columns do not go together", select)
        return aggregate(table, select, functions)
    for expression in select:
        if _is_alias(expression):
            table = expressions.assign(table, expression)
    return _project(table, select)


def _select_groups(table: pd.DataFrame, keys: list[str], select: Any) -> pd.DataFrame:
    if not select:
        raise RequestError(500, "group_by needs a select with aggregates")
    select = _check_select(select)
    if select == [["count"]]:
        return pd.DataFrame({"count": [count_groups(table, keys)]})
    functions = _aggregates(select)
    if not functions:
        raise malformed("group_by needs an aggregate in select", select)
    return _project(aggregate_groups(table, keys, select, functions), select)


def _project(table: pd.DataFrame, select: list[Any]) -> pd.DataFrame:
    names = [expression[1] if isinstance(expression, list) else expression for expression in select]
    for name in names:
        if isinstance(name, (dict, bool)):
            raise RequestError(500, f"select takes names and lists, not {name!r}")
    missing = [name for name in names if not isinstance(name, str) or name not in table.columns]
    if missing:
        raise malformed(f"select names what is not in the table, which has {list(table.columns)!r}", missing)
    return table[names]


def _order(table: pd.DataFrame, order_by: Any) -> "np.ndarray[Any, np.dtype[np.intp]] | None":
    """The places of the rows in the order asked for; None where they stay as they are."""
    if not order_by:
        return None
    if not isinstance(order_by, list):
        raise malformed("order_by must be a list", order_by)
    if not all(isinstance(name, str) for name in order_by):
        raise malformed("order_by takes names of columns, with - before them for descending", order_by)
    names = [name.removeprefix("-") for name in order_by]
    for name in names:
        if name not in table.columns:
            raise malformed(
                f"order_by needs a column of the result, which has {list(table.columns)!r}", [name]
            )
        if isinstance(table[name], pd.DataFrame):
            raise RequestError(500, f"More than one column is named {name!r}")
    column = table[names[0]]
    if len(names) == 1 and isinstance(column.dtype, pd.CategoricalDtype):
        # QCache sorts an enum by its codes, where nulls come first, and turns all around for descending.
        order = np.argsort(column.cat.codes.to_numpy(), kind="stable")
        return order[::-1] if order_by[0].startswith("-") else order
    ordered = table[list(dict.fromkeys(names))].reset_index(drop=True)
    ascending = [not name.startswith("-") for name in order_by]
    return ordered.sort_values(by=names, ascending=ascending, kind="stable", key=_sortable).index.to_numpy()


def _sortable(column: Column) -> Column:
    """A column that Python 3 can sort: values of different types ordered as Python 2 does."""
    if column.dtype != object or pd.api.types.infer_dtype(column, skipna=True) in {
        "string",
        "boolean",
        "empty",
    }:
        return column
    values = [value if is_null(value) else (py2_rank(value), value) for value in column.tolist()]
    return pd.Series(pd.array(values, dtype=object), index=column.index)
