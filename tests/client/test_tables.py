"""post_table: how each type is written, what is refused, retries, memory, and which libraries are loaded."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from airflow_provider_qcache.client import BodyNotRepeatable, InvalidTable, NoCacheAvailable, QClient
from airflow_provider_qcache.client.tables.checks import CsvCheck, JsonCheck
from airflow_provider_qcache.client.tables.types import typed
from airflow_provider_qcache.client.tables.upload import is_table, source_of, table_upload, upload_of
from tests.client.kinds import key_with_home
from tests.client.tabular import FORMS, in_form, rows_of_table
from tests.harness import faults
from tests.harness.nodes import Nodes
from tests.harness.ports import closed_port

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

D = decimal.Decimal
REPEATABLE = [form for form in FORMS if form != "RecordBatchReader"]
NOON = dt.datetime(2024, 5, 6, 12, 0, tzinfo=dt.timezone(dt.timedelta(hours=2)))
MIDNIGHT = NOON.replace(hour=0, tzinfo=None)


def encoded(
    table: Any, column_types: Mapping[str, str] | None = None, content_type: str = "text/csv"
) -> bytes:
    return b"".join(piece for piece, _ in source_of(table, column_types).pieces(content_type))


def types(table: Any, column_types: Mapping[str, str] | None = None) -> dict[str, str | None]:
    columns = source_of(table, column_types).columns
    return dict.fromkeys(column.name for column in columns) | typed(columns)


def array(values: list[Any], kind: pa.DataType) -> pa.Table:
    return pa.table({"x": pa.array(values, kind)})


def sql(query: str) -> Callable[[], duckdb.DuckDBPyRelation]:
    """Makes a relation in the test that needs it: duckdb warns about relations that are left at the exit."""
    return lambda: duckdb.connect().sql(query)


def decimals_of_negative_scale(numbers: list[int]) -> pa.Table:
    """The numbers times 100,000. Of Python decimals pa.array() makes wrong values, without an error."""
    values = pa.py_buffer(b"".join(number.to_bytes(16, "little") for number in numbers))
    return pa.table({"x": pa.Array.from_buffers(pa.decimal128(38, -5), len(numbers), [None, values])})


def small_decimals(
    texts: list[str | None], bits: int, places: int, *, dictionary: bool = False
) -> Callable[[], pa.Table]:
    """Makes a column of decimals with fewer than 128 bits, which pyarrow has since version 19."""

    def make() -> pa.Table:
        kind = getattr(pa, f"decimal{bits}", None)
        if kind is None:
            pytest.skip(f"pyarrow {pa.__version__} has no decimal{bits}")
        values = [None if text is None else D(text) for text in texts]
        column = pa.array(values, kind(9 * bits // 32, places))
        if dictionary:
            column = pa.DictionaryArray.from_arrays(pa.array(range(len(texts)), pa.int8()), column)
        return pa.table({"x": column})

    return make


class Rows:
    """A table of another library, which exports one Arrow array and no stream."""

    def __arrow_c_array__(self, requested_schema: object = None) -> object:
        return pa.record_batch({"x": [1, 2]}).__arrow_c_array__(requested_schema)


def made_if_callable(table: Any) -> Any:
    return table() if callable(table) else table


def rows(values: list[Any]) -> list[dict[str, Any]]:
    return [{"x": value} for value in values]


REFUSED: dict[str, tuple[Any, int | None, str]] = {
    # Case: the table, and the row and a part of the text of the error.
    "binary": (array([b"a"], pa.binary()), None, "binary"),
    "binary in dicts": (rows([b"a"]), 1, "bytes"),
    "list": (array([[1]], pa.list_(pa.int64())), None, "list"),
    "list in dicts": (rows([1, [1]]), 2, "list"),
    "struct": (array([{"a": 1}], pa.struct({"a": pa.int64()})), None, "struct"),
    "struct in dicts": (rows([None, {"a": 1}]), 2, "dict"),
    "map": (array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), None, "map"),
    "polars Object": (pl.DataFrame({"x": pl.Series([object()], dtype=pl.Object)}), None, "Object"),
    "object of dicts": (pd.DataFrame({"x": [{"a": 1}]}), 1, "dict"),
    "list of polars": (pl.DataFrame({"x": [[1]]}), None, "List(Int64)"),
    "mixed object": (pd.DataFrame({"x": [1, "a"]}), 2, "a column has one type"),
    "mixed in dicts": (rows([1, "a"]), 2, "type text, but type integer in row 1"),
    "with and without a time zone": (rows([MIDNIGHT, None, NOON]), 3, "time zone"),
    "pandas period": (pd.DataFrame({"x": pd.PeriodIndex(["2024-01"], freq="M")}), None, "period"),
    "interval of duckdb": (sql("select interval 1 month as x"), 1, "interval of months"),
    "object int of 70 bits": (pd.DataFrame({"x": [1, 2**70]}), None, "too large"),
    "int of 70 bits in dicts": (rows([1, 2**70]), 2, "column_types"),
    "uint64": (array([1, None, 2**63], pa.uint64()), 3, "column_types"),
    "large decimal of negative scale": (decimals_of_negative_scale([1, 2**123]), 2, "column_types"),
    "hugeint of duckdb": (sql("select 9223372036854775808::hugeint as x"), 1, "column_types"),
    "2**53+1, then a null": (array([1, 2**53 + 1, None], pa.int64()), 2, "null (row 3)"),
    "a null, then -2**53-1": (array([None, 1, -(2**53) - 1], pa.int64()), 3, "null (row 1)"),
    "2**53+1 and a null in dicts": (rows([2**53 + 1, None]), 1, "null (row 2)"),
    "2**53+1 beside floats": (rows([2**53 + 1, 0.5]), 1, "among floats"),
    "10**400 beside floats": (rows([0.5, 10**400]), 2, "too large: a node parses floats below 1.797e+308"),
    "decimal of 16 digits": (array([D("1.5"), D("12345678901234.56")], pa.decimal128(20, 2)), 2, "15"),
    "decimal of 16 digits in dicts": (rows([D("1.5"), D("-12345678901234.56")]), 2, "15"),
    "decimal of 16 digits in 64 bits": (small_decimals(["1.5", "12345678901234.56"], 64, 2), 2, "15"),
    "67 places in 128 bits": (array([D("1E-67")], pa.decimal128(3, 67)), None, "more decimal places"),
    "small decimal": (array([D("0.1234567890123456")], pa.decimal128(30, 20)), 1, "15"),
    "infinite decimal": (rows([D("Infinity")]), 1, "Infinity"),
    "float": (array([1.0, None, 1.797e308], pa.float64()), 3, "1.797e+308"),
    "least float in dicts": (rows([float("inf"), -sys.float_info.max]), 2, "1.797"),
    "NUL": (array(["a", "b\0c"], pa.string()), 2, "NUL"),
    "NUL in a string view": (pl.DataFrame({"x": ["a", "b\0c"]}), 2, "NUL"),
    "NUL in an enum": (pl.DataFrame({"x": ["a", "b\0c"]}, schema={"x": pl.Categorical}), 2, "NUL"),
    "NUL in dicts": (rows(["a", "b\0c"]), 2, "NUL"),
    "surrogate in dicts": (rows(["a", "\ud800"]), 2, "surrogate"),
    "not UTF-8": (
        pa.table({"x": pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"], pa.binary()).buffers())}),
        1,
        "UTF-8",
    ),
    "year 10000": (array([0, 2_932_897], pa.date32()), 2, "years"),
    "year 0": (array([-719_163], pa.date32()), 1, "years"),
    "timestamp in year 10000": (array([0, 253_402_300_800], pa.timestamp("s")), 2, "years"),
    "infinite timestamp": (sql("select 'infinity'::timestamp as x"), 1, "years"),
    "UTC before year 1": (rows([dt.datetime.min.replace(tzinfo=NOON.tzinfo)]), 1, "years"),
    "24:00": (sql("select time '24:00:00' as x"), 1, "00:00:00"),
    "zoned time in dicts": (rows([NOON.timetz()]), 1, "time zone"),
    "complex": (pd.DataFrame({"x": [1j]}), None, "complex128"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_an_unsupported_value_is_refused_with_its_column_and_row(what: str) -> None:
    table, row, words = REFUSED[what]
    with pytest.raises(InvalidTable) as refused:
        encoded(made_if_callable(table))
    assert (refused.value.column, refused.value.row) == ("x", row)
    assert "'x'" in str(refused.value)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "what", ["NUL", "uint64", "float", "2**53+1, then a null", "NUL in dicts", "struct in dicts"]
)
def test_an_unsupported_value_is_refused_as_json_too(what: str) -> None:
    table, row, _ = REFUSED[what]
    with pytest.raises(InvalidTable) as refused:
        encoded(table, content_type="application/json")
    assert (refused.value.column, refused.value.row) == ("x", row)


def test_a_float32_is_written_to_json_with_its_own_digits() -> None:
    assert (
        encoded(array([0.1, None], pa.float32()), content_type="application/json")
        == b'[{"x":0.1},{"x":null}]'
    )


def test_a_text_that_looks_like_an_escaped_nul_is_accepted() -> None:
    table = pl.DataFrame({"x": ["\\u0000"]})
    assert encoded(table, content_type="application/json") == b'[{"x":"\\\\u0000"}]'


NAMES: dict[str, tuple[Any, str | None, str]] = {
    "duplicate": (pa.table([[1], [2]], ["a", "a"]), "a", "more than once"),
    "duplicate in pandas": (pd.DataFrame([[1, 2]], columns=["a", "a"]), "a", "Duplicate"),
    "empty": (pl.DataFrame({"": [1]}), "", "no name"),
    "a NUL": (pa.table({"a\0": [1]}), "a\0", "NUL"),
    "a NUL in dicts": ([{"a\0": 1}], "a\0", "NUL"),
    "a surrogate in dicts": ([{"a\ud800": 1}], "a\ud800", "lone surrogate"),
    "a number in dicts": ([{1: 1}], None, "expected a string"),
    "no columns": (pa.table({}), None, "no columns"),
    "rows without columns": (pd.DataFrame(index=range(3)), None, "no columns"),
    "no rows of dicts": ([], None, "no columns"),
    "an index like a column": (
        pd.DataFrame({"a": [1]}, index=pd.Index([1], name="a")),
        None,
        "already exists",
    ),
}


@pytest.mark.parametrize("what", NAMES)
def test_invalid_column_names_are_refused(what: str) -> None:
    table, column, words = NAMES[what]
    with pytest.raises(InvalidTable, match=words) as refused:
        source_of(table, None)
    assert refused.value.column == column


CONVERTED: dict[str, tuple[Any, str, list[str]]] = {
    # Case: the table, the column's type in the header, and its fields in CSV.
    "only fractional seconds have a fraction": (
        array([MIDNIGHT, MIDNIGHT.replace(microsecond=500_000), None], pa.timestamp("us")),
        "string",
        ["2024-05-06 00:00:00", "2024-05-06 00:00:00.500000", ""],
    ),
    "only fractional seconds have a fraction in dicts": (
        rows([MIDNIGHT, MIDNIGHT.replace(microsecond=500_000), None]),
        "string",
        ["2024-05-06 00:00:00", "2024-05-06 00:00:00.500000", ""],
    ),
    "milliseconds": (
        array([1, 1000], pa.timestamp("ms")),
        "string", ["1970-01-01 00:00:00.001", "1970-01-01 00:00:01"],
    ),
    "before 1970": (
        array([-1, -1000], pa.timestamp("ms")),
        "string", ["1969-12-31 23:59:59.999", "1969-12-31 23:59:59"],
    ),
    "a time zone becomes UTC": (
        array([NOON], pa.timestamp("s", "Asia/Tokyo")),
        "string", ["2024-05-06 10:00:00+00:00"],
    ),
    "a time zone becomes UTC in dicts": (rows([NOON]), "string", ["2024-05-06 10:00:00+00:00"]),
    "date64": (array([dt.date(2024, 5, 6)], pa.date64()), "string", ["2024-05-06"]),
    "year 1": (rows([dt.date(1, 2, 3)]), "string", ["0001-02-03"]),
    "times": (
        array([dt.time(1, 2, 3), dt.time(1, 2, 3, 40)], pa.time64("us")),
        "string", ["01:02:03", "01:02:03.000040"],
    ),
    "times in dicts": (
        rows([dt.time(1, 2, 3), dt.time(1, 2, 3, 40)]),
        "string", ["01:02:03", "01:02:03.000040"],
    ),
    "durations are seconds": (array([1_500_000, -1], pa.duration("us")), "float", ["1.5", "-0.000001"]),
    "durations in dicts": (rows([dt.timedelta(seconds=1.5)]), "float", ["1.5"]),
    "decimals are floats": (array([D("1.50"), D("0.10")], pa.decimal128(9, 2)), "float", ["1.5", "0.1"]),
    "decimals with places are floats, whole or not": (rows([D("5.00"), D("6.00")]), "float", ["5", "6"]),
    "decimals without places are integers": (array([D(5), None], pa.decimal128(38, 0)), "", ["5", ""]),
    "decimals without places in dicts": (rows([D(5), None]), "", ["5", ""]),
    "decimals of 32 bits": (small_decimals(["1.50", None], 32, 2), "float", ["1.5", ""]),
    "decimals of 32 bits without places": (small_decimals(["5", None], 32, 0), "", ["5", ""]),
    "decimals of 64 bits": (small_decimals(["-1.50", "1234567.25"], 64, 2), "float", ["-1.5", "1234567.25"]),
    "a dictionary of decimals": (small_decimals(["1.5", None], 32, 1, dictionary=True), "float", ["1.5", ""]),
    "trailing zeros": (array([D("123.5" + 20 * "0")], pa.decimal256(40, 21)), "float", ["123.5"]),
    "float32 in its own digits": (array([0.1], pa.float32()), "float", ["0.1"]),
    "float16": (array([np.float16(0.5)], pa.float16()), "float", ["0.5"]),
    "NaN is null": (array([float("nan"), 1.5, None], pa.float64()), "float", ["", "1.5", ""]),
    "NaN in dicts is null": (rows([float("nan"), 1.5, None]), "float", ["", "1.5", ""]),
    "NaN among texts is null": (rows([float("nan"), "a"]), "string", ["", "a"]),
    "NaT is null": (rows([pd.NaT, MIDNIGHT]), "string", ["", "2024-05-06 00:00:00"]),
    "infinities": (array([float("inf"), float("-inf")], pa.float64()), "float", ["inf", "-inf"]),
    "integers beside floats": (rows([1, 0.5]), "float", ["1", "0.5"]),
    "NA is null": (rows([pd.NA, 1, 2]), "", ["", "1", "2"]),
    "numpy's numbers": (rows([np.int64(1), np.float32(0.5)]), "float", ["1", "0.5"]),
    "numpy's booleans": (rows([np.True_, None, np.False_]), "", ["true", "", "false"]),
    "booleans": (array([True, None, False], pa.bool_()), "", ["true", "", "false"]),
    "booleans in dicts": (rows([True, None, False]), "", ["true", "", "false"]),
    "enum": (pd.DataFrame({"x": pd.Categorical(["b", None, "a"])}), "enum", ["b", "", "a"]),
    "an object enum of numpy's numbers": (
        pd.DataFrame({"x": pd.Categorical.from_codes([0, 1, -1], pd.Index([np.int8(1), 0.5], dtype=object))}),
        "float", ["1", "0.5", ""],
    ),
    "an Arrow array of rows": (Rows(), "", ["1", "2"]),
    "enum of polars": (pl.DataFrame({"x": ["b", None]}, schema={"x": pl.Enum(["b"])}), "enum", ["b", ""]),
    "dictionary of numbers": (array([7, None, 7], pa.dictionary(pa.int8(), pa.int64())), "", ["7", "", "7"]),
    "string view": (array(["007", ""], pa.string_view()), "string", ["007", ""]),
    "an object column of texts": (
        pd.DataFrame({"x": pd.Series(["007", None], dtype=object)}),
        "string", ["007", ""],
    ),
    "an object column of decimals": (pd.DataFrame({"x": [D("1.5")]}), "float", ["1.5"]),
    "a text with a CR": (rows(["a\rb"]), "string", ["a\rb"]),
    "JSON of duckdb": (sql("""select '{"a": 1}'::json as x"""), "string", ['{"a": 1}']),
    "a column of nulls": (rows([None, None]), "", ["", ""]),
    "a null column": (pa.table({"x": pa.nulls(2)}), "", ["", ""]),
}  # fmt: skip


def fields_of(table: Any, column_types: Mapping[str, str] | None = None) -> list[str]:
    """The fields of a table with one column; a null is a quoted field there and not a blank line."""
    import csv
    import io

    content = encoded(table, column_types).decode()
    (header,), *records = csv.reader(io.StringIO(content, newline=""))
    assert header == "x"
    return [field for (field,) in records]


@pytest.mark.parametrize("what", CONVERTED)
def test_each_type_is_converted_by_its_rule(what: str) -> None:
    make_table, header, fields = CONVERTED[what]
    table = made_if_callable(make_table)
    assert types(table) == {"x": header or None}
    assert fields_of(table) == fields


WITH_COLUMN_TYPES: list[tuple[Any, str, list[str]]] = [
    (array([7, 2**63 + 1], pa.uint64()), "string", ["7", str(2**63 + 1)]),
    (rows([7, 2**63 + 1]), "string", ["7", str(2**63 + 1)]),
    (rows([7, 2**70]), "enum", ["7", str(2**70)]),
    (array([2**53 + 1, None], pa.int64()), "float", ["9.007199254740992e+15", ""]),
    (rows([2**53 + 1, None]), "float", ["9.007199254740992e+15", ""]),
    (array(["1", "", None, "1.50"], pa.string()), "float", ["1", "", "", "1.5"]),
    (rows(["1", "", None, "1.50"]), "float", ["1", "", "", "1.5"]),
    (array([D("1234567890123456.78")], pa.decimal128(20, 2)), "string", ["1234567890123456.78"]),
    (rows([D("1234567890123456.78")]), "string", ["1234567890123456.78"]),
    (array([D("0.00000000010")], pa.decimal128(20, 11)), "string", ["0.00000000010"]),
    (array([0.1], pa.float16()), "string", ["0.099975586"]),
    (rows([D("0.00000000010")]), "string", ["0.00000000010"]),
    (array([True, False], pa.bool_()), "string", ["true", "false"]),
    (rows([True, False]), "string", ["true", "false"]),
    (array([True, False], pa.bool_()), "float", ["1", "0"]),
    (rows([True, False]), "float", ["1", "0"]),
    (array([1.0, 1.5], pa.float64()), "string", ["1", "1.5"]),
    (rows([1.0, 1.5]), "string", ["1", "1.5"]),
    (pl.DataFrame({"x": ["b", "a"]}), "enum", ["b", "a"]),
    (pd.DataFrame({"x": pd.Categorical(["b", "a"])}), "string", ["b", "a"]),
    (rows([None, None]), "string", ["", ""]),
    (
        rows([np.datetime64("2024-05"), np.datetime64("2024-05-06T12:34")]),
        "string",
        ["2024-05-01 00:00:00", "2024-05-06 12:34:00"],
    ),
    (pa.table({"x": pa.nulls(2)}), "string", ["", ""]),
    (pa.table({"x": pa.nulls(2)}), "float", ["", ""]),
    (rows([MIDNIGHT]), "enum", ["2024-05-06 00:00:00"]),
    (array([10**6], pa.duration("us")), "string", ["1"]),
    (rows([dt.timedelta(seconds=1)]), "string", ["1"]),
    (rows(["1.50", "", None]), "float", ["1.5", "", ""]),
]


@pytest.mark.parametrize(("table", "column_type", "fields"), WITH_COLUMN_TYPES)
def test_column_types_override_the_schema(table: Any, column_type: str, fields: list[str]) -> None:
    assert types(table, {"x": column_type}) == {"x": column_type}
    assert fields_of(table, {"x": column_type}) == fields


@pytest.mark.parametrize("make", [rows, lambda values: pl.DataFrame({"x": values})])
def test_a_text_that_is_no_float_is_refused_in_a_float_column(make: Callable[[list[Any]], Any]) -> None:
    """A node would answer 500 after dropping the old table."""
    with pytest.raises(InvalidTable, match="'one' is not a float") as refused:
        encoded(make(["1", "one"]), {"x": "float"})
    assert (refused.value.column, refused.value.row) == ("x", 2)


@pytest.mark.parametrize("make", [rows, lambda values: pl.DataFrame({"x": values})])
@pytest.mark.parametrize("large", ["1e400", "-1E400"])
def test_a_text_that_overflows_a_float_is_refused_and_infinity_is_not(
    make: Callable[[list[Any]], Any], large: str
) -> None:
    assert fields_of(make(["1.5", "inf", "-Infinity"]), {"x": "float"}) == ["1.5", "inf", "-inf"]
    with pytest.raises(InvalidTable, match=f"{large}' is too large: a node parses floats") as refused:
        encoded(make(["inf", large]), {"x": "float"})
    assert (refused.value.column, refused.value.row) == ("x", 2)


@pytest.mark.parametrize("large", [2**53 + 1, np.int64(2**53 + 1), -(10**400)])
@pytest.mark.parametrize("column_type", ["string", "enum"])
def test_an_integer_among_floats_is_not_rounded_in_a_column_of_texts(large: Any, column_type: str) -> None:
    assert fields_of(rows([0.5, 2**53, float("inf")]), {"x": column_type}) == [
        "0.5",
        "9.007199254740992e+15",
        "inf",
    ]
    with pytest.raises(InvalidTable, match="among floats, and no float can represent it: convert") as refused:
        encoded(rows([0.5, large]), {"x": column_type})
    assert (refused.value.column, refused.value.row) == ("x", 2)


@pytest.mark.parametrize("table", [rows([MIDNIGHT]), pd.DataFrame({"x": [MIDNIGHT]})])
def test_a_timestamp_is_refused_as_a_float(table: Any) -> None:
    with pytest.raises(InvalidTable, match="'float' cannot be used for"):
        encoded(table, {"x": "float"})


@pytest.mark.parametrize("table", [rows([1]), pl.DataFrame({"x": [1]})])
def test_column_types_with_an_unknown_column_or_type_are_refused(table: Any) -> None:
    with pytest.raises(InvalidTable, match="names column 'y', which the table does not have"):
        source_of(table, {"y": "string"})
    with pytest.raises(InvalidTable, match="'int' for column 'x' is not a type: use enum, float, string"):
        source_of(table, {"x": "int"})


INDEXES: dict[str, tuple[pd.DataFrame, list[str]]] = {
    "none": (pd.DataFrame({"a": [1, 2]}), ["a"]),
    "left by a filter": (pd.DataFrame({"a": [0, 1, 2]}).query("a > 0"), ["a"]),
    "named": (pd.DataFrame({"a": [1, 2]}, index=pd.Index(["x", "y"], name="k")), ["k", "a"]),
    "a named range": (pd.DataFrame({"a": [1, 2]}, index=pd.RangeIndex(2, name="k")), ["k", "a"]),
    "of a groupby": (
        pd.DataFrame({"a": [1, 2], "b": ["x", "y"], "c": [3, 4]}).groupby(["a", "b"]).sum(),
        ["a", "b", "c"],
    ),
    "partly named": (
        pd.DataFrame({"a": [1, 2]}, index=pd.MultiIndex.from_tuples([(1, 2), (3, 4)], names=[None, "k"])),
        ["k", "a"],
    ),
    "named by a number": (pd.DataFrame({0: [1, 2], 1: [3, 4]}), ["0", "1"]),
}


@pytest.mark.parametrize("what", INDEXES)
def test_a_named_index_of_pandas_becomes_columns_and_an_unnamed_one_is_dropped(what: str) -> None:
    frame, columns = INDEXES[what]
    before = frame.copy()
    assert list(types(frame)) == columns
    assert encoded(frame).count(b"\n") == 3
    pd.testing.assert_frame_equal(frame, before)


def test_is_table_accepts_tables_only() -> None:
    for table in (
        pd.DataFrame(),
        pl.DataFrame(),
        pa.table({}),
        made_if_callable(sql("select 1")),
        [],
        [{}],
        ({"a": 1},),
    ):
        assert is_table(table)
    for content in (b"a,b", "a,b", {"a": 1}, [b"a"], None, 1, iter([{"a": 1}]), pl.LazyFrame({"a": [1]})):
        assert not is_table(content)
        with pytest.raises(TypeError, match="is not a table"):
            source_of(content, None)
    for column in (pd.Series([1]), pl.Series([1]), pa.chunked_array([[1]]), pa.array([1])):
        with pytest.raises(TypeError, match="a single column, not a table"):
            source_of(column, None)
    with pytest.raises(InvalidTable, match="row 2 is int"):
        source_of([{"a": 1}, 2], None)


def test_an_upload_tells_its_columns_and_their_types() -> None:
    """Those of a text are known once it is checked, and its node infers the types that no header names."""
    for table in ([{"a": 1, "b": "x", "c": 1.5}], pa.table({"a": [1], "b": ["x"], "c": [1.5]})):
        upload = table_upload(table)
        assert upload.names == ("a", "b", "c")
        assert upload.schema == {"a": "int", "b": "string", "c": "float"}
    upload = upload_of(b"a,b\n1,2\n", "text/csv", {"X-QCache-types": "a=string"}, None)
    assert (upload.names, upload.schema) == (None, {})
    upload.check_before_sending()
    assert (upload.names, upload.schema) == (None, {"a": "string", "b": None})


def test_missing_keys_are_null_and_columns_keep_the_order_of_first_use() -> None:
    assert encoded([{"b": 1}, {"a": "x"}, {"b": 2, "c": None}]) == b'b,a,c\n1,,\n,"x",\n2,,\n'


TABLE = pa.table(
    {
        "zip": ["007", "12", None],
        "city": pa.array(["a", "b", "a"]).dictionary_encode(),
        "n": [1, 2, 3],
        "x": [1.0, 2.0, None],
        "yes": [True, None, False],
        "at": pa.array([MIDNIGHT, None, MIDNIGHT], pa.timestamp("us")),
    }
)
ROWS = [
    {"zip": "007", "city": "a", "n": 1, "x": 1.0, "yes": True, "at": "2024-05-06 00:00:00"},
    {"zip": "12", "city": "b", "n": 2, "x": 2.0, "yes": None, "at": None},
    {"zip": None, "city": "a", "n": 3, "x": None, "yes": False, "at": "2024-05-06 00:00:00"},
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_every_library_s_table_is_stored(client: QClient, form: str, compression: str | None) -> None:
    stored = client.post_table("table", in_form(form, TABLE), compression=compression, check_row_count=True)
    assert stored.rows == 3
    assert rows_of_table(client, "table") == ROWS
    assert rows_of_table(client, "table", {"where": ["==", "zip", "'007'"]}) == ROWS[:1]


@pytest.mark.parametrize("form", REPEATABLE)
def test_copies_and_evict_stale_work_with_tables(client: QClient, nodes: Nodes, form: str) -> None:
    order = client.successors("copied")
    for node in nodes.urls:
        with QClient([node]) as single:
            single.post("copied", "old\n1\n")
    stored = client.post_table(
        "copied", in_form(form, TABLE), copies=2, evict_stale=True, check_row_count=True
    )
    assert (stored.node, stored.copies, stored.evicted) == (order[0], (order[1],), (order[2],))
    for node in order[:2]:
        with QClient([node], read_timeout=20) as single:
            assert rows_of_table(single, "copied") == ROWS
    with QClient([order[2]]) as single:
        assert single.get("copied", {}) is None


@pytest.mark.parametrize("form", FORMS)
def test_each_attempt_encodes_the_whole_table_unless_the_source_is_a_stream(form: str) -> None:
    """Also after an attempt that ended in the middle."""
    source = source_of(in_form(form, TABLE), None)
    assert source.repeatable is (form != "RecordBatchReader")
    if not source.repeatable:
        assert encoded(TABLE) == b"".join(piece for piece, _ in source.pieces("text/csv"))
        return
    first = source.pieces("text/csv")
    assert next(first)[0].startswith(b"zip,")
    next(first)
    first.close()
    whole = list(source.pieces("text/csv"))
    assert whole == list(source.pieces("text/csv"))
    assert sum(rows for _, rows in whole) == 3


def with_home(home: str, nodes: list[str]) -> tuple[QClient, str]:
    """A client with one more node, and a key whose home that node is."""
    client = QClient([home, *nodes], read_timeout=20, deadline=60)
    return client, key_with_home(client, home)


def unreachable_home(nodes: list[str]) -> tuple[QClient, str]:
    return with_home(f"http://127.0.0.1:{closed_port()}", nodes)


@pytest.mark.parametrize("form", REPEATABLE)
def test_a_table_fails_over(nodes: Nodes, form: str) -> None:
    client, key = unreachable_home(nodes.urls)
    with client:
        assert client.post_table(key, in_form(form, TABLE)).failed_over
        assert rows_of_table(client, key) == ROWS


def reset_in_the_middle(peer: faults.Peer) -> None:
    peer.sock.recv(1000)
    peer.reset()


@pytest.mark.parametrize("form", REPEATABLE)
def test_the_next_node_gets_the_whole_table_after_a_reset_in_the_middle(nodes: Nodes, form: str) -> None:
    """The client encodes the table again for it."""
    table = pa.table({"n": range(100_000), "text": ["some text that is not so short"] * 100_000})
    with faults.FaultyNode(faults.silent, before_reading=reset_in_the_middle) as dying:
        client, key = with_home(dying.url, nodes.urls)
        with client:
            stored = client.post_table(key, in_form(form, table), check_row_count=True)
            assert (stored.failed_over, stored.rows) == (True, 100_000)
            assert [attempt.node for attempt in stored.attempts] == [dying.url]
            assert rows_of_table(client, key, {"select": [["sum", "n"]]}) == [{"n": sum(range(100_000))}]


def test_a_stream_that_can_be_read_once_gets_one_attempt(nodes: Nodes) -> None:
    client, key = unreachable_home(nodes.urls)
    with client:
        with pytest.raises(BodyNotRepeatable):
            client.post_table(key, TABLE.to_reader())
        with pytest.raises(ValueError, match="can be read only once"):
            client.post_table(key, TABLE.to_reader(), copies=2)


def test_a_duckdb_connection_is_free_after_post_table(nodes: Nodes) -> None:
    """Whether an attempt ended in the middle, the table was refused, or no node was reached."""
    connection = duckdb.connect()
    query = (
        "select case when n = 199999 then 'a' || chr(0) else 'a' end as x, {} as y from range(200000) as t(n)"
    )
    with QClient(nodes.urls, read_timeout=20) as client, QClient(["http://127.0.0.1:1"]) as unreachable:
        for store_client, y, error in (
            (client, "n", InvalidTable),
            (client, "[n]", InvalidTable),
            (unreachable, "n", NoCacheAvailable),
        ):
            with pytest.raises(error) as raised:
                store_client.post_table("query", connection.sql(query.format(y)))
            assert connection.sql("select 1").fetchall() == [(1,)]
            del raised
        source = source_of(connection.sql("select n as x from range(200000) as t(n)"), None)
        abandoned = source.pieces("text/csv")
        next(abandoned)
        next(abandoned)
        assert sum(rows for _, rows in source.pieces("text/csv")) == 200_000
        source.close()
        assert connection.sql("select 1").fetchall() == [(1,)]


@pytest.mark.parametrize("make", [lambda values: pa.table({"x": values}), rows])
def test_a_bad_value_at_the_end_leaves_the_old_table(
    client: QClient, make: Callable[[list[Any]], Any]
) -> None:
    client.post("kept", "x\n1\n")
    with pytest.raises(InvalidTable) as refused:
        client.post_table("kept", make(["text of some length"] * 200_000 + ["a\0b"]))
    assert refused.value.row == 200_001
    assert rows_of_table(client, "kept") == [{"x": 1}]
    assert [status for status in client.node_status().values() if status.state != "alive"] == []


def test_an_exception_of_the_source_leaves_the_old_table(client: QClient) -> None:
    client.post("kept", "x\n1\n")

    def batches() -> Any:
        yield from TABLE.to_batches()
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        client.post_table("kept", pa.RecordBatchReader.from_batches(TABLE.schema, batches()))
    assert rows_of_table(client, "kept") == [{"x": 1}]


@pytest.mark.parametrize("form", FORMS)
def test_a_single_column_keeps_its_null_and_blank_values(client: QClient, form: str) -> None:
    """A node would skip blank lines."""
    for values in ([" ", None, "x", ""], [None, None, "\t"], [None, 1.5], [None, True], ["\n", "\r\n", " "]):
        client.post_table("lone", in_form(form, pa.table({"x": values})), check_row_count=True)
        assert [row["x"] for row in rows_of_table(client, "lone")] == [value or None for value in values]


@pytest.mark.parametrize("form", FORMS)
def test_a_table_without_rows_keeps_its_columns(client: QClient, form: str) -> None:
    if form == "dicts":
        return  # without rows it has no columns: see NAMES
    stored = client.post_table("empty", in_form(form, TABLE.slice(0, 0)), check_row_count=True)
    assert stored.rows == 0
    result = client.get("empty", {}, accept="text/csv")
    assert result is not None
    assert result.to_arrow().column_names == TABLE.column_names
    assert rows_of_table(client, "empty", {"where": ["==", "zip", "'x'"]}) == []


def test_a_table_without_rows_whose_names_need_json_is_refused(client: QClient) -> None:
    client.post("kept", "x\n1\n")
    with pytest.raises(InvalidTable, match="no rows"):
        client.post_table("kept", pl.DataFrame({"é": []}))
    assert rows_of_table(client, "kept") == [{"x": 1}]


AWKWARD_NAMES = ["é", "a;b", "a=b", " a", "a ", 'a"b', "a\nb", "a\rb", "\ufeffa", "日本", "a\tb"]


@pytest.mark.parametrize("name", AWKWARD_NAMES)
@pytest.mark.parametrize("form", ["polars", "dicts"])
def test_names_that_csv_or_headers_cannot_carry_are_sent_as_json(
    client: QClient, name: str, form: str
) -> None:
    table = pa.table({name: ["007", "", None], "b": [1.0, 2.0, 3.0], "c": [1, 2, 3]})
    client.post_table("named", in_form(form, table), check_row_count=True)
    assert rows_of_table(client, "named", {"where": [">", "c", 1]}) == [
        {name: "", "b": 2.0, "c": 2},
        {name: None, "b": 3.0, "c": 3},
    ]
    with pytest.raises(InvalidTable, match="cannot be sent in CSV or headers") as refused:
        client.post_table("named", in_form(form, table), content_type="text/csv")
    assert refused.value.column == name


@pytest.mark.parametrize("form", ["polars", "dicts"])
def test_names_with_commas_and_spaces_are_sent_as_csv(client: QClient, form: str) -> None:
    table = pa.table({"a, b": ["007"], "c'd": ["1"], "1": ["2"]})
    upload = table_upload(in_form(form, table))
    assert b"Content-Type: text/csv" in upload.headers
    client.post_table("named", in_form(form, table))
    assert rows_of_table(client, "named") == [{"a, b": "007", "c'd": "1", "1": "2"}]


WIDE = 4000


def wide(form: str) -> Any:
    plain = {f"a_long_name_of_a_column_{number:05}": ["plain", None] for number in range(WIDE)}
    ambiguous = {
        "digits": ["007", "8"],
        "nulls": [None, None],
        "yes": ["a", "true"],
        "whole": [1.0, 2.0],
        "half": [1.0, 1.5],
        "int": [1, 2],
        "empty": ["", ""],
    }
    kinds = {"nulls": pa.string()}
    columns = {name: pa.array(values, kinds.get(name)) for name, values in (plain | ambiguous).items()}
    columns["enum"] = pa.array(["a", "b"]).dictionary_encode()
    return in_form(form, pa.table(columns))


@pytest.mark.parametrize("form", ["pyarrow", "polars", "dicts", "RecordBatchReader"])
def test_a_header_of_limited_length_types_only_columns_that_a_node_would_infer_wrongly(
    client: QClient, form: str
) -> None:
    """The node infers the other columns' types. A stream, which can be read only once, is sent as JSON."""
    client.post_table("wide", wide(form), check_row_count=True)
    ambiguous = ["digits", "yes", "whole", "half", "int"]
    first, second = rows_of_table(client, "wide", {"select": [*ambiguous, "a_long_name_of_a_column_00000"]})
    assert first == dict(zip(ambiguous, ["007", "a", 1.0, 1.0, 1], strict=True)) | {
        "a_long_name_of_a_column_00000": "plain"
    }
    assert [type(first[name]) for name in ambiguous] == [str, str, float, float, int]
    assert second["yes"] == "true"
    untyped = {b"nulls"} if form == "dicts" else set()
    upload = table_upload(wide(form))
    upload.check_before_sending()
    types = next((line for line in upload.headers.split(b"\r\n") if b"X-QCache-types" in line), None)
    if form == "RecordBatchReader":
        assert types is None
    else:
        assert types is not None
        named = {pair.split(b"=")[0] for pair in types.partition(b": ")[2].split(b";")}
        enums = set() if form == "dicts" else {b"enum"}  # dicts have no enums, only texts
        assert named == {b"digits", b"yes", b"whole", b"nulls", b"empty"} - untyped | enums


def test_too_many_types_for_a_header_are_sent_as_json_or_refused_as_csv() -> None:
    columns = {f"a_long_name_of_a_column_{number:05}": ["007"] for number in range(WIDE)}
    upload = table_upload(pl.DataFrame(columns))
    upload.check_before_sending()
    assert b"application/json" in upload.headers
    with pytest.raises(InvalidTable, match=f"the types of {WIDE} columns"):
        table_upload(pl.DataFrame(columns), content_type="text/csv").check_before_sending()


@pytest.mark.parametrize("form", ["polars", "dicts"])
def test_stand_in_columns_are_added(client: QClient, form: str) -> None:
    table = in_form(form, TABLE)
    client.post_table("stand-in", table, stand_in_columns={"one": 1, "copy": "n", "none": "'a b'", "n": 9})
    assert rows_of_table(client, "stand-in", {"select": ["n", "one", "copy", "none"], "limit": 1}) == [
        {"n": 1, "one": 1, "copy": 1, "none": "a b"}
    ]
    for bad, words in (
        ("misspelled", "'misspelled', for column 'copy', is not a column"),
        ("'Zürich'", "not ASCII"),
    ):
        with pytest.raises(InvalidTable, match=words):
            client.post_table("stand-in", table, stand_in_columns={"copy": bad})


def test_headers_that_the_table_determines_are_refused_as_arguments() -> None:
    for name in ("X-QCache-types", "x-qcache-stand-in-columns", "Content-Type", "Content-Encoding"):
        with pytest.raises(ValueError, match="is set from the table: pass"):
            table_upload([{"a": 1}], headers={name: "a=string"})
    with pytest.raises(ValueError, match="content_type='text/html'"):
        table_upload([{"a": 1}], content_type="text/html")
    with pytest.raises(ValueError, match="'gzip', which can stream"):
        table_upload([{"a": 1}], compression="lz4")
    assert b"X-Request: 7" in table_upload([{"a": 1}], headers={"X-Request": "7"}).headers


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("content_type", ["text/csv", "application/json"])
def test_encoded_tables_would_pass_the_checks_that_they_skip(form: str, content_type: str) -> None:
    check = CsvCheck() if content_type == "text/csv" else JsonCheck()
    table = pa.table({"a, b": ["x\r\ny", 'q"', None, "", ",", "é"] * 5000, "n": list(range(30_000))})
    rows = 0
    for piece, more in source_of(in_form(form, table), None).pieces(content_type):
        check.feed(piece)
        rows += more
    check.finish()
    assert (check.rows, rows) == (30_000, 30_000)


LONG = "x" * 100_000
LARGE: dict[str, Callable[[], Any]] = {
    "many rows": lambda: pa.table({"a": range(1_000_000), "b": ["some text"] * 1_000_000}),
    "long texts": lambda: pa.table({"a": [LONG] * 500}),
    "long texts in views": lambda: pl.DataFrame({"a": [LONG + str(number) for number in range(500)]}),
    "long words of an enum": lambda: pa.table(
        {"a": pa.array([LONG] * 500).dictionary_encode(), "n": range(500)}
    ),
    "long texts in dicts": lambda: [{"a": LONG}] * 500,
    "many rows of dicts": lambda: [{"a": number, "b": "some text"} for number in range(500_000)],
}


@pytest.mark.parametrize("what", LARGE)
@pytest.mark.parametrize("content_type", ["text/csv", "application/json"])
def test_encoding_takes_constant_memory(what: str, content_type: str) -> None:
    """Tables have 10 to 50 MB; at most 8 MiB of one are in memory as CSV or JSON at a time."""
    table = LARGE[what]()
    pool = pa.default_memory_pool()
    source = source_of(table, None)
    before = pool.bytes_allocated()
    most = total = 0
    for piece, _ in source.pieces(content_type):
        total += len(piece)
        most = max(most, len(piece), pool.bytes_allocated() - before)
    assert total > 8e6
    assert most < 8 << 20


def test_a_node_reads_long_columns_with_one_type(client: QClient) -> None:
    """A node infers types in chunks of rows; half of these chunks have only nulls."""
    half = 100_000
    table = pa.table(
        {
            "yes": pa.array([None] * half + [True] * half),
            "text": pa.array([None] * half + ["007"] * half),
            "enum": pa.array([None] * half + ["a"] * half).dictionary_encode(),
            "int": pa.array([None] * half + [7] * half),
            "mixed": pa.array(["1"] * half + ["x"] * half),
        }
    )
    client.post_table("long", table, check_row_count=True)
    assert rows_of_table(client, "long", {"offset": half - 1, "limit": 2}) == [
        {"yes": None, "text": None, "enum": None, "int": None, "mixed": "1"},
        {"yes": True, "text": "007", "enum": "a", "int": 7.0, "mixed": "x"},
    ]
    for where in (["==", "yes", True], ["==", "text", "'007'"], ["==", "mixed", "'1'"]):
        assert rows_of_table(client, "long", {"select": [["count"]], "where": where}) == [{"count": half}]


def python(code: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


PRINT_HEAVY_MODULES = "print(*sorted({'pyarrow', 'pandas', 'polars', 'duckdb', 'numpy'} & set(sys.modules)))"
ENCODE = "list(source_of({}, None).pieces('text/csv'))"


def test_only_the_libraries_that_a_table_needs_are_loaded() -> None:
    """The client and dicts load none, Arrow tables load pyarrow, and nothing loads pandas or polars."""
    start = "import sys; from airflow_provider_qcache.client.tables.upload import source_of\n"
    assert python("import sys; import airflow_provider_qcache.client\n" + PRINT_HEAVY_MODULES).split() == []
    dicts = ENCODE.format("[{'a': 'x', 'b': 1.5}]")
    assert python(f"{start}{dicts}\n{PRINT_HEAVY_MODULES}").split() == []
    arrow = ENCODE.format("table")
    before = (
        "import io, pyarrow.csv; table = pyarrow.csv.read_csv(io.BytesIO(b'a,b\\nx,1.5\\n'))\n"
        "before = {*sys.modules} - {'pyarrow.compute'}\n"
    )
    since = PRINT_HEAVY_MODULES.replace(
        "sys.modules", "{name.partition('.')[0] for name in {*sys.modules} - before}"
    )
    assert python(f"{start}{before}{arrow}\n{since}").split() == ["pyarrow"]


def test_a_table_is_accepted_while_another_thread_imports_pandas() -> None:
    code = """
import io, sys, threading
import pyarrow.csv
from airflow_provider_qcache.client.tables.upload import source_of

begun, go_on = threading.Event(), threading.Event()

class Waits:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("pandas."):
            begun.set()
            go_on.wait()

table = pyarrow.csv.read_csv(io.BytesIO(b"a\\n1\\n"))
source_of(table, None)
sys.meta_path.insert(0, Waits())
loads = threading.Thread(target=__import__, args=("pandas",))
loads.start()
assert begun.wait(30)
try:
    assert not hasattr(sys.modules["pandas"], "DataFrame")
    source = source_of(table, None)
finally:
    go_on.set()
    loads.join()
import pandas
for source in source, source_of(pandas.DataFrame({"a": [2]}), None):
    print(b"".join(piece for piece, _ in source.pieces("text/csv")))
"""
    assert python(code).splitlines() == [repr(b'a\n"1"\n'), repr(b'a\n"2"\n')]


def test_without_pyarrow_the_error_names_the_extra() -> None:
    code = """
import sys
sys.modules["pyarrow"] = sys.modules["pandas"] = sys.modules["polars"] = None
from airflow_provider_qcache.client import QClient
from airflow_provider_qcache.client.results import QueryResult
class Frame:
    def __arrow_c_stream__(self, requested_schema=None): raise AssertionError
result = QueryResult(b"[]", 0)
with QClient(["http://127.0.0.1:1"]) as client:
    store = lambda: client.post_table("key", Frame())
    for call in (store, result.to_arrow, result.to_pandas, result.to_polars):
        try: call()
        except ImportError as error: print(error)
"""
    lines = python(code).splitlines()
    assert len(lines) == 4
    for line, extra in zip(lines, ["arrow", "arrow", "pandas", "polars"], strict=True):
        assert f"install the extra {extra!r}" in line


CRASHES = {
    # Case: an expression that crashes pyarrow or polars, and what this package makes of it.
    "a numpy date, then an integer": ("objects([DAY, ONE])", "row 2: type integer, but type date in row 1"),
    "a numpy NaT, then an integer": ("objects([NAT, ONE])", ["", "1"]),
    "a numpy NaT, then a boolean": ("objects([NAT, np.True_])", ["", "true"]),
    "in a list": ("objects([[DAY, ONE]])", "list cannot be stored"),
    "in a tuple": ("objects([(NAT, ONE)])", "tuple cannot be stored"),
    "in a dict": ("objects([{'a': DAY}, {'a': ONE}])", "dict cannot be stored"),
    "in an index": ("objects([1, 2]).set_index(objects([DAY, ONE])['x'].rename('i'))", "column 'i', row 2"),
    "in categories": ("pd.DataFrame({'x': pd.Categorical([ONE], objects([DAY, ONE])['x'])})", "categories"),
    "a name with a NUL": (r"pl.DataFrame({'x\0': [1]})", "its name contains a NUL"),
    "a field with a NUL": (r"pl.DataFrame({'x': [{'a\0': 1}]})", "Struct({"),
    "a field with a NUL, of a struct": (r"pl.Series('x', [{'a\0': 1}])", "its name contains a NUL"),
    "a Series with a NUL": (r"pl.Series('x\0', [1])", "its name contains a NUL"),
}  # fmt: skip


def test_tables_that_crash_other_libraries_are_refused_or_stored() -> None:
    script = f"""
import json
import numpy as np, pandas as pd, polars as pl
from airflow_provider_qcache.client import InvalidTable
from tests.client.test_tables import fields_of
DAY, NAT, ONE = np.datetime64("2024-05-06"), np.datetime64("NaT"), np.int8(1)
def objects(values):
    return pd.DataFrame({{"x": pd.Series(values, dtype=object)}})
for what, expression in {[(what, expression) for what, (expression, _) in CRASHES.items()]!r}:
    try:
        found = fields_of(eval(expression))
    except InvalidTable as error:
        found = str(error)
    print(json.dumps([what, found]), flush=True)
"""
    ran = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "RUST_BACKTRACE": "0"},
    )
    found = dict(map(json.loads, ran.stdout.splitlines()))
    assert found.keys() == CRASHES.keys(), (ran.returncode, ran.stderr[-2000:])
    for what, (_, expected) in CRASHES.items():
        assert found[what] == expected if isinstance(expected, list) else expected in found[what], what


@pytest.mark.parametrize("other", [5, D(5), 1.0, True, D("1E+999999"), "x"])
@pytest.mark.parametrize("value", [MIDNIGHT, MIDNIGHT.date(), MIDNIGHT.time(), dt.timedelta(days=1)])
def test_times_and_numbers_in_one_pandas_column_are_refused(value: Any, other: Any) -> None:
    """Pyarrow would read the number as microseconds or days since 1970, and takes minutes for 10**999999."""
    frame = pd.DataFrame({"a": pd.Series([value, None, other, float("nan")], dtype=object)})
    with pytest.raises(InvalidTable, match="a column has one type") as refused:
        source_of(frame, None)
    assert (refused.value.column, refused.value.row) == ("a", 3)


@pytest.mark.parametrize("values", [[MIDNIGHT.date(), MIDNIGHT], [MIDNIGHT, MIDNIGHT.date()], [1.5, True]])
def test_mixed_types_that_would_change_a_value_are_refused(values: list[Any]) -> None:
    with pytest.raises(InvalidTable, match="a column has one type"):
        source_of(pd.DataFrame({"a": pd.Series(values, dtype=object)}), None)


@pytest.mark.parametrize(
    "values", [[1, D("1.5")], [1, 2.5], [MIDNIGHT, pd.Timestamp(MIDNIGHT), float("nan"), pd.NA]]
)
def test_mixed_types_of_one_kind_are_accepted(values: list[Any]) -> None:
    frame = pd.DataFrame({"a": pd.Series(values, dtype=object)})
    assert encoded(frame).count(b"\n") == len(values) + 1
