"""What comes back from a node is what went in, by the rule for its type: any table, of any library."""

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
"""Examples of each test, other ones in every run; 0 for a few, always the same."""

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
DIGITS = {pa.float32(): 6}  # its shortest digits are stored, and read as a float64
PLAIN_NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_, .'-]{0,5}[A-Za-z0-9]", fullmatch=True)
ANY_NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=5)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Up to five columns of any of the types, and up to eight rows; nulls in most columns."""
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


def differs_by_library(form: str, table: pa.Table) -> bool:
    """What a library changes, or cannot have, on its own."""
    kinds = {field.type for field in table.schema}
    if form == "duckdb":  # it takes names that differ in case for the same, and has no such types
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
    if form == "pandas":  # NaT and NaN are its nulls: integers become floats, nanoseconds end in 2262
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
def test_what_comes_back_is_what_went_in(client: QClient, form: str, table: pa.Table) -> None:
    """Over real nodes and dev nodes; the rule for each value is stated in tabular.stored_as."""
    assume(not differs_by_library(form, table))
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
            right = matches_stored(answer, value, digits=digits, as_json=goes_as_json(table))
            assert right, (column, kind, value, answer)
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
    """All that a node's CSV shows of them; subnormals and infinities included."""
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
def test_as_json_the_empty_string_is_none_of_the_nulls(client: QClient, values: list[str]) -> None:
    table = pa.table({"x": [*values, None, ""]})
    client.post_table("as-json", table, content_type="application/json")
    assert [row["x"] for row in rows_of_table(client, "as-json")] == [*values, None, ""]


@settings(max_examples=CASES or 100, deadline=None, derandomize=not CASES)
@given(
    value=st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**12), max_value=10**12)
)
def test_decimals_of_both_ways_are_refused_alike(value: decimal.Decimal) -> None:
    """A list of dicts and Arrow agree on which decimals a float holds."""
    from airflow_provider_qcache.client.tables.upload import source_of

    def taken(table: Any) -> bool:
        try:
            list(source_of(table, None).pieces("text/csv"))
        except InvalidTable as error:
            assert (error.column, error.row) == ("x", 1)
            return False
        return True

    digits = str(abs(int(value.scaleb(6)))).rstrip("0")
    fits = len(digits) <= 15
    assert taken([{"x": value}]) is fits
    assert taken(pa.table({"x": pa.array([value], pa.decimal128(30, 6))})) is fits
