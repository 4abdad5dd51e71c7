"""A stored table comes back with its values, by the rule for each type, from every library."""

from __future__ import annotations

import datetime as dt
import decimal
import os
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from airflow_provider_qcache.client import InvalidTable
from tests.client.tabular import FORMS, goes_as_json, in_form, matches_stored, rows_of_table

if TYPE_CHECKING:
    from airflow_provider_qcache.client import QClient

CASES = int(os.environ.get("QCACHE_ROUND_TRIPS", "0"))
"""Examples per test, random ones; 0 means a few examples that are always the same."""

LIKE_SOMETHING_ELSE = (
    "007", "1.50", "1e5", "nan", "NaN", "NA", "null", "None", "inf", "true", "False", "2024-01-01", "",
    " ", "  a ", 'a"b', '"', '""', "a,b", "a\nb", "a\rb", "a\r\nb", "\n", "\r", "\t", "'", "é", "日本", "😀",
    "\ufeffa",
)  # fmt: skip
TEXTS = st.sampled_from(LIKE_SOMETHING_ELSE) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8
)
MOMENTS = st.datetimes()
WHOLE_MOMENTS = MOMENTS.map(lambda moment: moment.replace(microsecond=0))
IN_NANOSECONDS = st.datetimes(*map(dt.datetime.fromisoformat, ("1678-01-01", "2262-01-01")))
LARGE = 1.797e308
VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.string(): TEXTS,
    pa.large_string(): TEXTS,
    pa.string_view(): TEXTS,
    pa.dictionary(pa.int8(), pa.string()): TEXTS,
    pa.dictionary(pa.int8(), pa.int64()): st.integers(-(2**53), 2**53),
    pa.bool_(): st.booleans(),
    pa.int8(): st.integers(-128, 127),
    pa.uint32(): st.integers(0, 2**32 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.integers(0, 2**63 - 1),
    pa.float32(): st.floats(width=32, allow_infinity=False),
    pa.float64(): st.floats(-LARGE, LARGE, exclude_min=True, exclude_max=True) | st.just(float("nan")),
    pa.decimal128(19, 4): st.decimals(-(10**11) + 1, 10**11 - 1, places=4),
    pa.decimal128(18, 0): st.decimals(-(2**53), 2**53, places=0),
    pa.date32(): st.dates(),
    pa.time32("s"): st.times().map(lambda time: time.replace(microsecond=0)),
    pa.time64("us"): st.times(),
    pa.timestamp("s"): WHOLE_MOMENTS,
    pa.timestamp("us"): MOMENTS | WHOLE_MOMENTS,
    pa.timestamp("ns"): IN_NANOSECONDS,
    pa.timestamp("us", "UTC"): MOMENTS.map(lambda moment: moment.replace(tzinfo=dt.UTC)),
    pa.timestamp("us", "Asia/Kolkata"): MOMENTS.map(lambda moment: moment.replace(tzinfo=dt.UTC)),
    pa.duration("us"): st.timedeltas(dt.timedelta(days=-(10**4)), dt.timedelta(days=10**4)),
    pa.null(): st.none(),
}
DIGITS = {pa.float32(): 6}  # stored with its shortest digits, and read as a float64
PLAIN_NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_, .'-]{0,5}[A-Za-z0-9]", fullmatch=True)
ANY_NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=5)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Up to five columns of any type and up to eight rows; half of the columns may have nulls."""
    names = draw(
        st.lists(
            draw(st.sampled_from([PLAIN_NAMES, PLAIN_NAMES, ANY_NAMES])), min_size=1, max_size=5, unique=True
        )
    )
    rows = draw(st.integers(1, 8))
    arrays = []
    for _ in names:
        kind = draw(st.sampled_from(list(VALUES)))
        values = VALUES[kind] if draw(st.booleans()) else VALUES[kind] | st.none()
        column = draw(st.lists(values, min_size=rows, max_size=rows))
        if None in column and pa.types.is_integer(kind):
            column = [value if value is None or abs(value) <= 2**53 else 2**53 for value in column]
        arrays.append(pa.array(column, kind))
    return pa.table(arrays, names)


def is_changed_by_library(form: str, table: pa.Table) -> bool:
    """Whether the library itself changes such a table or cannot have it."""
    kinds = {field.type for field in table.schema}
    if form == "duckdb":  # its names are case-insensitive, and it lacks some types
        folded = [name.casefold() for name in table.column_names]
        early = any(
            value is not None and value.year < 2
            for column in table.columns
            if pa.types.is_date(column.type)
            for value in column.to_pylist()
        )
        return (
            len(set(folded)) < len(folded)
            or bool(kinds & {pa.dictionary(pa.int8(), pa.int64()), pa.null(), pa.duration("us")})
            or early
        )
    if form == "pandas":  # integers with nulls become floats there
        return any(
            pa.types.is_integer(kind) and table.column(at).null_count
            for at, kind in enumerate(table.schema.types)
        )
    return False


@pytest.mark.parametrize("form", FORMS)
@settings(
    max_examples=CASES or 25,
    deadline=None,
    derandomize=not CASES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(table=tables())
def test_stored_values_come_back(client: QClient, form: str, table: pa.Table) -> None:
    """tabular.stored_as states the rule for each value."""
    assume(not is_changed_by_library(form, table))
    stored = client.post_table("round-trip", in_form(form, table), check_row_count=True)
    assert stored.rows == table.num_rows
    rows = rows_of_table(client, "round-trip")
    assert len(rows) == table.num_rows
    for column in table.column_names:
        kind = table.schema.field(column).type
        values = table.column(column).to_pylist()
        got = [row[column] for row in rows]
        for value, answer in zip(values, got, strict=True):
            digits = DIGITS.get(kind, 9)
            matches = matches_stored(answer, value, digits=digits, as_json=goes_as_json(table))
            assert matches, (column, kind, value, answer)
        if pa.types.is_integer(kind):
            number = float if None in values else int
            assert {type(answer) for answer in got} - {type(None)} <= {number}
        elif pa.types.is_floating(kind):
            assert {type(answer) for answer in got} <= {float, type(None)}


@settings(
    max_examples=CASES or 100,
    deadline=None,
    derandomize=not CASES,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(values=st.lists(st.floats(-LARGE, LARGE, exclude_min=True, exclude_max=True), min_size=1, max_size=50))
def test_floats_keep_twelve_digits(client: QClient, values: list[float]) -> None:
    """A node's CSV shows no more digits. Subnormals and infinities are included."""
    client.post_table("floats", pa.table({"x": [*values, float("inf"), float("-inf")]}))
    result = client.get("floats", {}, accept="text/csv")
    assert result is not None
    got = result.to_arrow().column("x").to_pylist()
    assert got[-2:] == [float("inf"), float("-inf")]
    assert got[:-2] == [pytest.approx(float(f"{value:.12g}"), rel=2e-12, abs=5e-324) for value in values]


@settings(
    max_examples=CASES or 50,
    deadline=None,
    derandomize=not CASES,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(values=st.lists(TEXTS, min_size=1, max_size=8))
def test_an_empty_string_is_not_null_in_json(client: QClient, values: list[str]) -> None:
    table = pa.table({"x": [*values, None, ""]})
    client.post_table("as-json", table, content_type="application/json")
    assert [row["x"] for row in rows_of_table(client, "as-json")] == [*values, None, ""]


@settings(max_examples=CASES or 100, deadline=None, derandomize=not CASES)
@given(
    value=st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**12), max_value=10**12)
)
def test_the_same_decimals_are_refused_in_dicts_and_arrow(value: decimal.Decimal) -> None:
    """They agree on which decimals fit into a float."""
    from airflow_provider_qcache.client.tables.upload import source_of

    def is_accepted(table: Any) -> bool:
        try:
            list(source_of(table, None).pieces("text/csv"))
        except InvalidTable as error:
            assert (error.column, error.row) == ("x", 1)
            return False
        return True

    digits = str(abs(int(value.scaleb(6)))).rstrip("0")
    fits = len(digits) <= 15
    assert is_accepted([{"x": value}]) is fits
    assert is_accepted(pa.table({"x": pa.array([value], pa.decimal128(30, 6))})) is fits
