"""Arrow data from other libraries: invalid, unreadable, or of rare types."""

from __future__ import annotations

import ctypes
import decimal
import struct
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from airflow_provider_qcache.client import InvalidTable, QClient
from airflow_provider_qcache.client.tables.arrow import FrameSource
from tests.harness.faults import healthy_node


def stored(table: Any, **options: Any) -> bytes:
    """The body of the store, as a node receives it."""
    node, tables = healthy_node()
    with node, QClient([node.url], trust_env=False) as client:
        client.post_table("key", table, **options)
    return tables.tables["key"]


def refusal(table: Any, **options: Any) -> InvalidTable:
    """The error of a store that must be refused without sending anything."""
    node, tables = healthy_node()
    with node, QClient([node.url], trust_env=False) as client, pytest.raises(InvalidTable) as raised:
        client.post_table("key", table, **options)
    assert tables.tables == {}
    return raised.value


class Foreign:
    """A table of another library, which exports an Arrow stream."""

    def __init__(self, reader: pa.RecordBatchReader, columns: tuple[str, ...] = ()) -> None:
        self.reader = reader
        self.columns = columns

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.reader.__arrow_c_stream__(requested_schema)


def test_a_column_name_that_is_not_utf_8_is_refused() -> None:
    schema = pa.schema([pa.field(b"\xff", pa.int64())])
    error = refusal(Foreign(pa.table([pa.array([1])], schema=schema).to_reader()))
    assert str(error) == (
        "store table 'key': the table's schema cannot be read: the name of a column or of a time zone is not "
        "UTF-8"
    )


@pytest.mark.parametrize("index", [-1, 1, 77])
def test_an_index_outside_of_the_dictionary_is_refused(index: int) -> None:
    words = pa.DictionaryArray.from_arrays(
        pa.array([0, 0, index, index], pa.int8()), pa.array(["a"]), safe=False
    )
    error = refusal(pa.table({"n": [1, 2, 3, 4], "t": words}))
    assert (error.row, error.column) == (3, "t")
    assert "an index is not in the column's dictionary" in str(error)


def test_a_stream_that_fails_in_the_middle_is_an_invalid_table() -> None:
    batch = pa.record_batch({"a": [1]})

    def batches() -> Iterator[pa.RecordBatch]:
        yield batch
        raise pa.ArrowInvalid("the source is gone")

    error = refusal(Foreign(pa.RecordBatchReader.from_batches(batch.schema, batches())))
    assert str(error).startswith("store table 'key': the table's stream failed: ")
    assert "the source is gone" in str(error)


def test_a_batch_with_more_nulls_than_rows_is_refused() -> None:
    schema, array = ctypes.create_string_buffer(72), ctypes.create_string_buffer(80)
    addresses = ctypes.addressof(array), ctypes.addressof(schema)
    pa.record_batch({"a": [1, None]})._export_to_c(*addresses)
    # struct ArrowArray: the seventh member is the children, the second is the number of nulls.
    (children,) = struct.unpack_from("P", array, 48)
    (column,) = struct.unpack("P", ctypes.string_at(children, 8))
    ctypes.memmove(column + 8, struct.pack("q", 99), 8)
    batch = pa.RecordBatch._import_from_c(*addresses)
    error = refusal(Foreign(pa.RecordBatchReader.from_batches(batch.schema, [batch])))
    assert "a batch of the table is not valid Arrow data: " in str(error)


def test_the_error_of_a_failed_export_names_the_column_if_it_is_known() -> None:
    class Broken:
        columns = ("a", "b")
        broken: tuple[str, ...] = ("b",)
        error: Exception = KeyError("no such column")

        def __init__(self, names: tuple[str, ...] = ("a", "b")) -> None:
            self.names = names

        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            if set(self.broken) & set(self.names):
                raise ValueError("not for Arrow")
            return pa.table({name: [1] for name in self.names}).__arrow_c_stream__(requested_schema)

        def __getitem__(self, names: list[str]) -> Broken:
            return Broken(tuple(names))

    class Closed(Broken):
        def __getitem__(self, names: list[str]) -> Broken:
            raise KeyError(names)

    class Whole(Broken):
        def __getitem__(self, names: list[str]) -> Any:
            return pa.table({"a": [1]})

    error = refusal(Broken())
    assert (str(error), error.column) == (
        "store table 'key': column 'b' cannot be converted to Arrow: not for Arrow",
        "b",
    )
    for other in (Closed(), Whole()):
        error = refusal(other)
        assert (str(error), error.column) == (
            "store table 'key': the table cannot be converted to Arrow: not for Arrow",
            None,
        )


@pytest.mark.parametrize(
    ("text", "row", "message"),
    [(b"\xff", 3, "not UTF-8"), (b"a\0b", 3, "NUL")],
    ids=["not UTF-8", "NUL"],
)
def test_the_error_of_a_text_that_json_cannot_carry_names_its_row(
    text: bytes, row: int, message: str
) -> None:
    texts = pa.array([b"x", None, text], pa.binary())
    column = pa.Array.from_buffers(pa.string(), 3, texts.buffers())
    table = pa.table({"n": [1, 2, 3], "\u00e9": column})

    with pytest.raises(InvalidTable) as raised:
        list(FrameSource(table, None).pieces("application/json"))
    assert (raised.value.row, raised.value.column) == (row, "\u00e9")
    assert message in str(raised.value)


def test_the_view_of_a_null_in_a_string_view_column_is_ignored() -> None:
    views = struct.pack("<i12s", 1, b"x") + struct.pack("<i4sii", 1000, b"none", 77, 5)
    validity = pa.py_buffer(b"\x01")
    column = pa.Array.from_buffers(pa.string_view(), 2, [validity, pa.py_buffer(views)])
    assert stored(pa.table({"n": [1, 2], "t": column})) == b'n,t\n1,"x"\n2,\n'


def test_rare_types_are_stored_as_their_values() -> None:
    documents = pa.array(['{"a": 1}', None], pa.json_(pa.string()))
    assert stored(pa.table({"n": [1, 2], "t": documents})) == b'n,t\n1,"{""a"": 1}"\n2,\n'
    prices = pa.array([decimal.Decimal("1.50"), None], pa.decimal128(5, 2))
    table = pa.table({"n": [1, 2], "d": prices})
    assert stored(table, column_types={"d": "float"}) == b"n,d\n1,1.5\n2,\n"
    spans = pa.array([(0, 1, 500_000_000), None], pa.month_day_nano_interval())
    assert stored(pa.table({"n": [1, 2], "s": spans})) == b"n,s\n1,86400.5\n2,\n"
