"""One table in the forms of several libraries, and what a node should answer for each of its values."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
import re
from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa

if TYPE_CHECKING:
    from airflow_provider_qcache.client import QClient

FORMS = ("pandas", "pandas of Arrow", "polars", "pyarrow", "RecordBatchReader", "duckdb", "dicts")


def in_form(form: str, table: pa.Table) -> Any:
    """The table as an object of a library."""
    match form:
        case "pandas":
            return table.to_pandas()
        case "pandas of Arrow":
            return table.to_pandas(types_mapper=pd.ArrowDtype)
        case "polars":
            return pl.from_arrow(table)
        case "pyarrow":
            return table
        case "RecordBatchReader":
            return table.to_reader(max_chunksize=3)
        case "duckdb":
            return duckdb.connect().from_arrow(table)
        case "dicts":
            return table.to_pylist()
    raise AssertionError(form)


def goes_as_json(table: pa.Table) -> bool:
    """Whether the table has a column name that CSV or headers cannot carry."""
    return any(
        not name.isascii()
        or not name.isprintable()
        or name != name.strip()
        or any(sign in name for sign in ';="')
        for name in table.column_names
    )


def stored_as(value: Any, *, as_json: bool) -> Any:
    """How a node answers a value that was stored, by the rules of docs/reference/tables.md."""
    match value:
        case None:
            return None
        case "" if not as_json:
            return None
        case str() | bool() | int():
            return value
        case float():
            return None if math.isnan(value) else value
        case decimal.Decimal():
            return float(value)
        case dt.datetime() if value.tzinfo is not None:
            return str(value.astimezone(dt.UTC))
        case dt.datetime() | dt.date() | dt.time():
            return str(value)
        case dt.timedelta():
            return value.total_seconds()
    raise AssertionError(value)


def matches_stored(got: Any, value: Any, *, digits: int, as_json: bool) -> bool:
    """Whether an answer is what the rules say; floats to that many digits, or to ten decimal places."""
    want = stored_as(value, as_json=as_json)
    if isinstance(want, float) and not isinstance(got, str) and got is not None:
        return math.isclose(got, want, rel_tol=10.0 ** (1 - digits), abs_tol=1e-10)
    if isinstance(value, dt.datetime | dt.time):
        return got == want or without_zeros(got) == without_zeros(want)
    return got == want and (want is None or isinstance(want, bool) == isinstance(got, bool))


def without_zeros(time: str) -> str:
    """A time without the trailing zeros of its fraction."""
    return re.sub(r"(\.[0-9]*[1-9])0+(?=$|\+)", r"\1", time)


def rows_of_table(client: QClient, key: str, q: Any = None) -> list[dict[str, Any]]:
    """The rows of a table, as a node answers them in JSON."""
    result = client.get(key, q or {})
    assert result is not None
    rows: list[dict[str, Any]] = json.loads(result.content)
    return rows
