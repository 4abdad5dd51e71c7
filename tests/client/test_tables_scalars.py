"""numpy's scalars and Decimals follow the same rules in a list of dicts and in a frame."""

from __future__ import annotations

import decimal
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_qcache.client import InvalidTable
from airflow_provider_qcache.client.tables.upload import source_of

SCALARS: tuple[list[Any], ...] = (
    [np.float32(0.1), None, np.float32(1e30)],
    [np.float16(0.1)],
    [np.float64(0.1), np.float64(1e-7)],
    [np.int8(3), np.int8(-3)],
    [np.uint64(2**63 - 1)],
    [np.bool_(1), None],
    [np.datetime64("2024-05-06T12:00:00.5"), np.datetime64("2024-05-06T12:00:00.0")],
    [np.datetime64("2024-05-06T12:00:00.123456789"), np.datetime64("NaT", "ns")],
    [np.timedelta64(1500, "ms")],
    [np.timedelta64(15, "ns"), np.timedelta64("NaT", "ns")],
    [np.str_("x")],
    [Decimal("1.50"), Decimal(2), None],
    [Decimal(5), Decimal("-0")],
    [Decimal("1E+3")],
    [Decimal("1E-7"), Decimal("0.000")],
)


def written(table: Any, column_types: dict[str, str] | None) -> tuple[Any, list[Any]]:
    """The column's type, and its values in CSV; floats as numbers."""
    source = source_of(table, column_types)
    text = (
        b"".join(data for data, _ in source.pieces("text/csv"))
        .decode()
        .replace('"', "")
        .replace("\r\n", "\n")
    )
    (column,) = source.columns
    values: list[Any] = text.splitlines()[1:]
    return column.type, [float(value) if value and column.type == "float" else value for value in values]


@pytest.mark.parametrize("wanted", [None, "string", "enum"])
@pytest.mark.parametrize("values", SCALARS, ids=str)
def test_scalars_are_written_alike_in_dicts_and_frames(values: list[Any], wanted: str | None) -> None:
    types = {"a": wanted} if wanted else None
    in_dicts = written([{"a": value} for value in values], types)
    assert in_dicts == written(pa.table({"a": pa.array(values)}), types)


@given(st.lists(st.floats(allow_nan=False, max_value=1.7e308, min_value=-1.7e308), min_size=1))
def test_floats_as_text_are_written_alike_in_dicts_and_frames(values: list[float]) -> None:
    types = {"a": "string"}
    assert written([{"a": value} for value in values], types) == written(pa.table({"a": values}), types)


@given(
    st.lists(
        st.decimals(allow_nan=False, allow_infinity=False, places=4, max_value=10**9, min_value=-(10**9))
    )
)
def test_decimals_are_written_alike_in_dicts_and_frames(values: list[decimal.Decimal]) -> None:
    values = [*values, Decimal("1.5")]
    for types in (None, {"a": "string"}):
        assert written([{"a": value} for value in values], types) == written(pa.table({"a": values}), types)


@pytest.mark.parametrize("value", [np.timedelta64(3, "M"), np.datetime64("12345-01-01"), np.bytes_(b"x")])
def test_scalars_that_no_frame_can_have_are_refused(value: Any) -> None:
    with pytest.raises(InvalidTable, match="column 'a', row 1"):
        source_of([{"a": value}], None)


@pytest.mark.parametrize("value", [Decimal("1E+999999"), Decimal("1E-999999")])
def test_a_decimal_of_a_million_digits_is_refused_as_text(value: Decimal) -> None:
    with pytest.raises(InvalidTable, match="more than 76 digits"):
        source_of([{"a": value}], {"a": "string"})
