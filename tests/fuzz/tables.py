"""Fuzzes stores of tables with unusual values in lists of dicts and invalid buffers in Arrow data."""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

from tests.fuzz import nodes
from tests.fuzz.files import TABLE
from tests.fuzz.mutate import damaged

_BERLIN = dt.timezone(dt.timedelta(hours=2))
_VALUES: tuple[tuple[Any, ...], ...] = (
    ("a", "", "007", "nan", "true", "x\0y", "\ud800", "größe", '"', "a\r\nb", " ", "1e400", "\u2028"),
    (1, 0, -1, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 10**400, np.int8(3), np.uint64(2**64 - 1)),
    (1.5, -0.0, float("nan"), float("inf"), 1e308, 1.7976e308, 5e-324, np.float32(0.1), np.float16(0.1), np.float64(2)),
    (True, False, np.bool_(1)),
    (decimal.Decimal("1.50"), decimal.Decimal("NaN"), decimal.Decimal("Infinity"), decimal.Decimal("1E+999999"),
     decimal.Decimal("sNaN"), decimal.Decimal("1." + "3" * 50), decimal.Decimal("1E-999999")),
    (dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999999), dt.datetime(2024, 5, 6), pd.NaT,  # noqa: DTZ001
     pd.Timestamp("2024-05-06 01:02:03.123456789")),
    (dt.datetime(1, 1, 1, tzinfo=_BERLIN), dt.datetime(9999, 12, 31, 23, tzinfo=dt.timezone(-dt.timedelta(hours=20))),
     pd.Timestamp("2024-05-06", tz="Europe/Berlin")),
    (dt.date(2024, 5, 6), dt.date(1, 1, 1)),
    (dt.time(12), dt.time(12, tzinfo=dt.UTC), dt.timedelta(1), dt.timedelta.max, pd.Timedelta(1), np.timedelta64(1, "s")),
    (object(), b"x", [1], {"a": 1}, 1j, np.datetime64("2024-05-06"), np.str_("x"), np.bytes_(b"x"), pd.Period("2024")),
)  # fmt: skip
_NULLS = (None, None, pd.NA, float("nan"), pd.NaT, np.datetime64("NaT"))
_NAMES: tuple[Any, ...] = (
    "a",
    "b",
    "a b",
    " a",
    "größe",
    "a;b",
    "a=b",
    'a"b',
    "a,b",
    "",
    "\0",
    "\ud800",
    1,
    None,
    "x" * 200,
    "a\nb",
)
_TYPES: tuple[Any, ...] = (
    pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.string(), pa.large_string(), pa.string_view(), pa.bool_(),
    pa.decimal32(5, 2), pa.decimal128(38, 10), pa.decimal128(38, -5), pa.decimal256(76, 0), pa.date32(), pa.date64(), pa.time32("s"),
    pa.time64("ns"), pa.timestamp("ns"), pa.timestamp("s", "UTC"), pa.timestamp("ms", "Nowhere/At_All"), pa.duration("us"), pa.null(),
    pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.uint32(), pa.int64()), pa.list_(pa.int8()), pa.binary(),
    pa.month_day_nano_interval(), pa.run_end_encoded(pa.int32(), pa.string()), pa.struct([("a", pa.int8())]),
)  # fmt: skip


def _column_types(random: Random, names: list[Any]) -> dict[Any, str] | None:
    if random.random() < 0.6:
        return None
    return {random.choice([*names, "no"]): random.choice(("string", "enum", "float", "int"))}


def _dicts(random: Random) -> list[dict[Any, Any]]:
    names = ["a", "b", *random.sample(_NAMES, 1 if random.random() < 0.3 else 0)]
    columns = {
        name: (random.choice(_VALUES) if random.random() < 0.9 else sum(_VALUES, ())) for name in names
    }
    rows = []
    for _ in range(random.randrange(1, 6)):
        row = {}
        for name, values in columns.items():
            if random.random() < 0.9:
                row[name] = random.choice(_NULLS if random.random() < 0.15 else values)
        rows.append(row)
    return rows


class _Stream:
    """Arrow data from an unknown library."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return pa.RecordBatchReader.from_batches(self._batch.schema, [self._batch]).__arrow_c_stream__()


def _buffers(random: Random) -> Any:
    """An array over buffers of random bytes that do not fit its type."""
    kind = random.choice(_TYPES)
    rows = random.choice((0, 1, 3, 8, 64))

    def array_of(kind: Any) -> pa.Array:
        if pa.types.is_dictionary(kind):
            indices = pa.Array.from_buffers(kind.index_type, rows, [None, _bytes(random, 8 * rows)])
            return pa.DictionaryArray.from_arrays(indices, array_of(kind.value_type), safe=False)
        count = {pa.null(): 1, pa.string(): 3, pa.large_string(): 3, pa.binary(): 3}.get(kind, 2)
        if kind == pa.string_view():
            return pa.Array.from_buffers(kind, rows, [None, _bytes(random, 16 * rows), _bytes(random, 64)])
        nulls = _bytes(random, rows // 8 + 1) if random.random() < 0.5 and count > 1 else None
        sized = [_bytes(random, 32 * (rows + 1)) for _ in range(count - 1)]
        return pa.Array.from_buffers(kind, rows, [nulls, *sized], null_count=-1 if nulls else 0)

    try:
        return array_of(kind)
    except (pa.ArrowException, ValueError, TypeError):
        return pa.nulls(rows)


def _bytes(random: Random, count: int) -> pa.Buffer:
    kind = random.random()
    if kind < 0.3:
        return pa.py_buffer(random.randbytes(count))
    step = random.choice((0, 1, 2, 7, 10**6))
    small = b"".join(
        (at * step).to_bytes(8, "little")[: 4 if kind < 0.7 else 8] for at in range(count // 4 + 1)
    )
    return pa.py_buffer(small[:count])


def _frame(random: Random) -> Any:
    kind = random.random()
    if kind < 0.3:
        column = _buffers(random)
        batch = pa.record_batch([column, pa.array(range(len(column)), pa.int64())], names=["a", "b"])
        return _Stream(batch) if random.random() < 0.7 else pa.Table.from_batches([batch])
    if kind < 0.55:
        # Like an Arrow stream that was damaged in transit.
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, TABLE.schema) as stream:
            stream.write_table(TABLE)
        try:
            return pa.ipc.open_stream(damaged(random, sink.getvalue().to_pybytes())).read_all()
        except (pa.ArrowException, OSError):
            return TABLE
    rows = _dicts(random)
    try:
        if kind < 0.75:
            return pd.DataFrame(rows)
        if kind < 0.9:
            return pl.DataFrame(rows, strict=False)
        if any(isinstance(value, np.datetime64) for row in rows for value in row.values()):
            # pyarrow 26 crashes at a numpy.datetime64 that is followed by another numpy scalar.
            return pd.DataFrame(rows)
        return pa.Table.from_pylist(rows)
    except KeyboardInterrupt:
        raise
    except BaseException:  # the limits of other libraries; a panic in polars is no Exception
        return TABLE


@contextlib.contextmanager
def tables() -> Iterator[Callable[[Random], None]]:
    """The client refuses the table, or the node accepts it."""
    with nodes.client() as client:

        def case(random: Random) -> None:
            table = _dicts(random) if random.random() < 0.5 else _frame(random)
            names = list(table[0]) if isinstance(table, list) else ["a", "b"]
            with nodes.no_table_lost():
                client.post_table(
                    nodes.KEY,
                    table,
                    column_types=_column_types(random, names),
                    content_type=random.choice((None, None, "application/json", "text/csv")),
                    check_row_count=random.random() < 0.1,
                )

        yield case
