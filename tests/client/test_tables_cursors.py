"""Rows of a database's cursor: a column's type follows from its values, in whatever batches they come."""

from __future__ import annotations

import datetime as dt
import math
import subprocess
import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_qcache.client import InvalidTable
from airflow_provider_qcache.client.tables.cursors import RowEncoder
from airflow_provider_qcache.client.tables.spool import Spool, SpooledTable
from airflow_provider_qcache.client.tables.types import ColumnType

ZONED_NOON = dt.datetime(2024, 5, 6, 12, tzinfo=dt.UTC)
NOON = ZONED_NOON.replace(tzinfo=None)
LAST = dt.datetime(9999, 12, 31, 12, tzinfo=dt.timezone(dt.timedelta(hours=-13)))
LARGE = 2**53 + 1


def encoded(batches: Sequence[Sequence[Any]], requested: ColumnType | None = None) -> tuple[str, str | None]:
    """The fields of a column that comes in batches, and its type."""
    encoder = RowEncoder(["v"], {"v": requested} if requested else {})
    data = b"".join(encoder.encode([values])[0] for values in batches)
    assert encoder.rows == sum(map(len, batches))
    (column,) = encoder.columns
    return data.decode().replace('"', "").replace("\n", " ").strip(), column.type


@pytest.mark.parametrize(
    ("batches", "requested", "fields", "column_type"),
    [
        ([[Decimal("1.5")], [Decimal(2)]], None, "1.5 2", ColumnType.FLOAT),
        ([[Decimal(2)], [Decimal("1.5")]], None, "2 1.5", ColumnType.FLOAT),
        ([[1], [Decimal(2)]], None, "1 2", ColumnType.INT),
        ([[1, Decimal("0.5")]], None, "1 0.5", ColumnType.FLOAT),
        ([[1], [0.5]], None, "1 0.5", ColumnType.FLOAT),
        ([[Decimal("1.5"), Decimal("NaN"), Decimal("sNaN")]], None, "1.5", ColumnType.FLOAT),
        ([[1, None], [Decimal("NaN"), 2]], None, "1   2", ColumnType.INT),
        ([[None], [None], [7]], None, "7", ColumnType.INT),
        ([[2**70]], ColumnType.FLOAT, "1.1805916207174113e+21", ColumnType.FLOAT),
        ([[None, 2**70]], ColumnType.FLOAT, "1.1805916207174113e+21", ColumnType.FLOAT),
        ([[Decimal("1.1234567890123456789")]], ColumnType.FLOAT, "1.1234567890123457", ColumnType.FLOAT),
        ([[Decimal("1." + 90 * "1"), None]], ColumnType.FLOAT, "1.1111111111111112", ColumnType.FLOAT),
        ([[1, "a"], [Decimal("1.50"), 2.0, None]], ColumnType.TEXT, "1 a 1.50 2", ColumnType.TEXT),
        ([[ZONED_NOON], [None]], None, "2024-05-06 12:00:00+00:00", ColumnType.TEXT),
    ],
)
def test_a_column_in_batches(
    batches: list[list[Any]], requested: ColumnType | None, fields: str, column_type: ColumnType
) -> None:
    assert encoded(batches, requested) == (fields, column_type)


@pytest.mark.parametrize(
    ("batches", "requested", "row", "why"),
    [
        ([[NOON, ZONED_NOON]], None, 2, "type timestamp with a time zone, but type timestamp from row 1 on"),
        ([[NOON], [ZONED_NOON]], None, 2, "type timestamp with a time zone, but type timestamp from row 1"),
        ([[1], ["a"]], None, 2, "type text, but type integer from row 1 on"),
        ([[True, 1]], ColumnType.TEXT, 2, "type integer, but type boolean"),
        ([[LARGE], [0.5]], None, 1, "type float from row 2 on: a float would round it"),
        ([[None, 0.5], [LARGE]], None, 3, f"{LARGE} among floats, and no float can represent it"),
        ([[0.5, 10**400]], None, 2, f"{10**59}… among floats, and no float can represent it"),
        ([[1], [2**63]], None, 2, "9223372036854775808 is outside -9223372036854775808 to"),
        ([[10**400]], ColumnType.FLOAT, 1, "is too large"),
        ([[Decimal("1e400")]], ColumnType.FLOAT, 1, "is too large"),
        ([[Decimal("NaN"), Decimal("-Infinity")]], None, 2, "-Infinity cannot be stored"),
        ([[Decimal("1.5")], [Decimal(10**40 + 1)]], None, 2, "more than 15 significant digits"),
        ([["a"], ["b", "\ud800"]], None, 3, "the text contains a lone surrogate"),
        ([[dt.time(1, tzinfo=dt.UTC)]], None, None, "a time of day with a time zone"),
        ([[dt.timedelta.max]], None, 1, "too large to fit in 64-bit integer"),
        ([[ZONED_NOON], [LAST]], None, 2, "outside the years 0001 to 9999"),
        ([[None, b"a"]], None, 2, "bytes cannot be stored"),
    ],
)  # fmt: skip
def test_a_value_that_a_column_cannot_have(
    batches: list[list[Any]], requested: ColumnType | None, row: int | None, why: str
) -> None:
    with pytest.raises(InvalidTable) as raised:
        encoded(batches, requested)
    assert raised.value.column == "v"
    assert raised.value.row == row
    assert why in str(raised.value)


@given(
    values=st.lists(st.one_of(st.none(), st.integers(-(2**53), 2**53)))
    | st.lists(st.one_of(st.none(), st.text(st.characters(codec="utf-8", exclude_characters="\0"))))
    | st.lists(st.one_of(st.none(), st.just(math.nan), st.floats(-1e308, 1e308)))
    | st.lists(st.one_of(st.none(), st.booleans()))
    | st.lists(st.one_of(st.none(), st.datetimes())),
    cut=st.integers(0, 20),
)
def test_batches_change_neither_the_rows_nor_the_type(values: list[Any], cut: int) -> None:
    assert encoded([values[:cut], values[cut:]]) == encoded([values])


def test_without_pyarrow_the_error_names_the_extra() -> None:
    script = "import sys; sys.modules['pyarrow'] = None; import airflow_provider_qcache.client.tables.cursors"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "needs pyarrow" in ran.stderr
    assert "the extra 'sql'" in ran.stderr


def test_a_spool_gives_each_table_its_own_rows_whenever_they_were_added() -> None:
    with Spool(held=5000) as spool:
        tables = [SpooledTable(spool, ("v",), b"v\n") for _ in range(3)]
        expected = [b"v\n"] * 3
        for number in range(300):
            at = number * number % 3
            piece = b"%d\n" % number * 500
            spool.add(tables[at], piece, rows=500)
            spool.add(tables[at], b"", rows=0)
            expected[at] += piece
        spool.flush()
        for table, content in zip(tables, expected, strict=True):
            pieces, rows = zip(*table.pieces("text/csv"), strict=True)
            assert b"".join(pieces) == content
            assert (sum(rows), table.length) == (content.count(b"\n") - 1, len(content))


def test_a_spool_whose_file_was_cut_says_so() -> None:
    with Spool() as spool:
        table = SpooledTable(spool, ("v",), b"v\n")
        spool.add(table, b"1\n" * 50, rows=50)
        spool.flush()
        spool._file.truncate(60)
        with pytest.raises(OSError, match="TMPDIR is damaged: it has 44 of 100 bytes"):
            list(table.pieces("text/csv"))
