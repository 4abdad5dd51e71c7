"""QCache's own request headers, X-QCache-types and X-QCache-stand-in-columns."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from airflow_provider_qcache.devnode.errors import RequestError
from airflow_provider_qcache.devnode.values import Column

_DTYPES = {"string": "object", "enum": "category", "float": "float64"}
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_FLOAT = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf(inity)?|nan)", re.ASCII | re.IGNORECASE)


def pairs(value: str | None) -> list[list[str]]:
    """The entries of a header like ``a=string;b=enum``, split but not checked."""
    return [[part.strip() for part in entry.split("=")] for entry in value.split(";")] if value else []


def column_types(entries: Sequence[Sequence[str]]) -> dict[str, str]:
    """The column types of an ``X-QCache-types`` header, as pandas' names.

    Raises:
        RequestError: 500 for an entry that is not ``column=type``, 400 for an unknown type.
    """
    result = {}
    for entry in entries:
        if len(entry) != 2:
            raise RequestError(500, f"X-QCache-types: {'='.join(entry)!r} is not of the form column=type")
        column, name = entry
        if name not in _DTYPES:
            raise RequestError(
                400, f"Type {name!r} of column {column!r} is unknown; allowed: {', '.join(_DTYPES)}"
            )
        result[column] = _DTYPES[name]
    return result


def add_stand_ins(table: pd.DataFrame, entries: Sequence[Sequence[str]]) -> pd.DataFrame:
    """Return ``table`` with the columns of an ``X-QCache-stand-in-columns`` header that it lacks.

    A value is the name of another column, a number, or a text.

    Raises:
        RequestError: 500 for an entry that is not ``column=value``, or a number beyond 64 bits.
    """
    if not entries:
        return table
    table = table.copy(deep=False)
    for entry in entries:
        if len(entry) != 2:
            raise RequestError(
                500, f"X-QCache-stand-in-columns: {'='.join(entry)!r} is not of the form column=value"
            )
        name, value = entry
        if name not in table.columns:
            table[name] = table[value] if value in table.columns else _constant(name, value, table.index)
    return table


def _constant(name: str, value: str, index: "pd.Index[int]") -> Column:
    if _INTEGER.fullmatch(value):
        if not -(2**63) <= int(value) < 2**63:
            raise RequestError(500, f"X-QCache-stand-in-columns: {value} of {name!r} does not fit 64 bits")
        return pd.Series(np.full(len(index), int(value), dtype="int64"), index=index)
    if _FLOAT.fullmatch(value):
        return pd.Series(np.full(len(index), float(value), dtype="float64"), index=index)
    text = value[1:] if value[:1] in {"'", '"'} else value
    text = text[:-1] if text[-1:] in {"'", '"'} else text
    return pd.Series([text] * len(index), index=index, dtype=object)
