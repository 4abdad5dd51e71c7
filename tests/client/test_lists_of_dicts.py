"""A list of dicts gives the same bytes, or the same error, with and without pyarrow."""

from __future__ import annotations

import datetime as dt
import decimal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_qcache.client import InvalidTable
from airflow_provider_qcache.client.tables import arrow, values
from airflow_provider_qcache.client.tables.values import RowsSource

TEXTS = st.text(
    st.sampled_from(["a", "b", '"', ",", "\n", "\r", " ", "é", "\U0001f600", "1", "."]), max_size=4
)
COLUMNS = [
    TEXTS,
    TEXTS.filter(bool),
    st.integers(-(2**53), 2**53),
    st.integers(2**63 - 2, 2**63 + 1) | st.integers(-(2**63) - 1, 5),
    st.floats(),
    st.floats(-1e17, 1e17),
    st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 5.0, 1e10, -1e10, 1e-7]),
    st.integers(-(2**60), 2**60) | st.floats(-1e6, 1e6),
    st.booleans(),
    st.decimals(-(10**12), 10**12, places=2) | st.integers(0, 9).map(decimal.Decimal),
    st.decimals(),
    st.datetimes() | st.dates(),
    st.datetimes(timezones=st.just(dt.UTC)),
    st.times() | st.none(),
    st.timedeltas(),
    TEXTS | st.floats(),
    TEXTS | st.integers(),
    st.just(float("nan")) | TEXTS,
    st.just("\0") | st.just("\ud800") | TEXTS,
    st.uuids(),
]
"""Values of a column: always valid, sometimes valid, or never valid."""


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[dict[str, Any]], dict[str, str] | None]:
    """Rows, some with missing keys and some with new ones, and column_types."""
    names = draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True))
    columns = {name: draw(st.sampled_from(COLUMNS)) for name in names}
    may_lack = {name: draw(st.booleans()) for name in names}
    rows = []
    for _ in range(draw(st.integers(1, 6))):
        row = {}
        for name in names:
            if not (may_lack[name] and draw(st.booleans())):
                row[name] = draw(columns[name])
        rows.append(row)
    types = draw(
        st.none() | st.dictionaries(st.sampled_from(names), st.sampled_from(["string", "enum", "float"]))
    )
    return rows, types


def encode(
    rows: list[dict[str, Any]],
    types: Mapping[str, str] | None,
    write: Callable[..., bytes],
    content_type: str = "text/csv",
) -> Any:
    """The columns and bytes of a list of dicts, or its error."""
    try:
        source = RowsSource(rows, types)
        with mock.patch.object(values, "_csv_writer", return_value=write):
            return source.columns, list(source.pieces(content_type))
    except InvalidTable as error:
        return str(error), error.row, error.column


@settings(max_examples=400)
@given(tables())
@example(([{"a": 1.0}, {"a": None}, {"b": "x"}], None))
@example(([{"a": 2**63}], {"a": "string"}))
def test_bytes_and_errors_are_the_same_with_and_without_pyarrow(
    table: tuple[list[dict[str, Any]], dict[str, str] | None],
) -> None:
    rows, types = table
    by_arrow = encode(rows, types, arrow.csv_of_values)
    assert by_arrow == encode(rows, types, values.csv_of_values_by_python)


@settings(max_examples=300)
@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_floats_are_written_as_pyarrow_writes_them(floats: list[float]) -> None:
    rows = [{"a": value, "b": "x"} for value in floats if abs(value) < 1.797e308] or [{"a": 1.0, "b": "x"}]
    assert encode(rows, None, arrow.csv_of_values) == encode(rows, None, values.csv_of_values_by_python)


def test_a_column_with_only_nan_has_type_float() -> None:
    for rows in ([{"a": float("nan")}], [{"a": None}, {"a": float("nan")}]):
        assert [column.type for column in RowsSource(rows, None).columns] == ["float"]


@pytest.mark.parametrize("names", ["a", "ab"])
def test_a_key_is_null_in_the_rows_that_lack_it(names: str) -> None:
    rows: list[dict[str, Any]] = [{}, {"a": 1}, dict.fromkeys(names, 2), {}]
    for write in (arrow.csv_of_values, values.csv_of_values_by_python):
        _, pieces = encode(rows, None, write)
        text = b"".join(piece for piece, _ in pieces)
        assert text == (b'a\n""\n"1"\n"2"\n""\n' if names == "a" else b"a,b\n,\n1,\n2,2\n,\n")


def test_pyarrow_writes_large_tables_once_it_is_loaded() -> None:
    few, many = [{"a": 1, "b": 2}], [{"a": 1, "b": 2}] * 1000
    assert pa.__name__ in sys.modules
    assert values._csv_writer(len(few) * 2) is values.csv_of_values_by_python
    assert values._csv_writer(len(many) * 2) is arrow.csv_of_values


def test_a_large_list_gives_the_same_bytes_without_pyarrow() -> None:
    """In two processes; 200,000 rows are enough for the client to load pyarrow if it is installed."""
    code = """
import hashlib, sys
if {missing}: sys.modules["pyarrow"] = None
from airflow_provider_qcache.client.tables.values import RowsSource
rows = [dict(a=n, b=n / 7, c=f"text {{n}}", d=n % 2 == 0, e=None if n % 3 else "q") for n in range(200_000)]
found = hashlib.sha256(b"".join(piece for piece, _ in RowsSource(rows, None).pieces("text/csv")))
print(found.hexdigest(), "pyarrow.lib" in sys.modules)
"""
    runs = [
        subprocess.run(
            [sys.executable, "-c", code.format(missing=missing)],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.split()
        for missing in (False, True)
    ]
    assert [loaded for _, loaded in runs] == ["True", "False"]
    assert runs[0][0] == runs[1][0]
