"""Damaged files: the process lives, sends nothing of its memory, and the error names the file."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_provider_qcache.client import InvalidTable
from airflow_provider_qcache.client.tables import arrow
from airflow_provider_qcache.client.tables.arrow import FrameSource
from airflow_provider_qcache.files.columnar import FilesSource
from airflow_provider_qcache.files.listing import Format, find_files

TEXTS = [f"text number {number}" for number in range(100)]


def arrow_stream(array: pa.Array) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, pa.schema([("t", array.type)])) as stream:
        stream.write_batch(pa.record_batch([array], names=["t"]))
    return sink.getvalue()


def with_offset_beyond(data: bytes, array: pa.Array) -> bytes:
    """The file with the end of the first text far beyond all of them."""
    offsets = array.buffers()[1].to_pybytes()[: 4 * (len(array) + 1)]
    at = data.index(offsets)
    return data[: at + 4] + (100_000).to_bytes(4, "little") + data[at + 8 :]


def read(path: Path, kind: Format) -> bytes:
    return b"".join(data for data, _ in FilesSource(find_files(path), kind, None).pieces("text/csv"))


@pytest.mark.parametrize("damage", ["offset", "index"])
def test_arrow_offsets_and_indices_beyond_the_data(tmp_path: Path, damage: str) -> None:
    texts = pa.array(TEXTS)
    if damage == "offset":
        data = with_offset_beyond(arrow_stream(texts), texts)
    else:
        words = pa.array(["a", "b"])
        data = arrow_stream(
            pa.DictionaryArray.from_arrays(pa.array([0, 1, 77] * 9, pa.int32()), words, safe=False)
        )
    path = tmp_path / "t.arrows"
    path.write_bytes(data)
    with pytest.raises(InvalidTable, match=r"t\.arrows: column 't'") as caught:
        read(path, Format.ARROW)
    assert caught.value.column == "t"


def test_a_stranger_s_stream_with_offsets_beyond_the_data() -> None:
    texts = pa.array(TEXTS)
    damaged = pa.ipc.open_stream(with_offset_beyond(arrow_stream(texts), texts)).read_all()

    class Stranger:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return damaged.__arrow_c_stream__()

    for table in (damaged, Stranger()):
        with pytest.raises(InvalidTable, match="column 't'"):
            list(FrameSource(table, None).pieces("text/csv"))


def test_views_of_nulls_that_hold_anything() -> None:
    """Their content does not matter: a length below zero ended the process."""
    views = (
        (5).to_bytes(4, "little")
        + b"short".ljust(12, b"\0")
        + (-65536).to_bytes(4, "little", signed=True) * 4
    )
    array = pa.Array.from_buffers(
        pa.string_view(), 2, [pa.py_buffer(b"\1"), pa.py_buffer(views), pa.py_buffer(b"")]
    )
    array.validate(full=True)
    assert (
        b"".join(data for data, _ in FrameSource(pa.table({"t": array}), None).pieces("text/csv"))
        == b't\n"short"\n""\n'
    )


@pytest.mark.parametrize("scale", [1000, -(2**31)])
def test_a_decimal_of_a_scale_that_none_has(scale: int) -> None:
    array = pa.array([1], pa.int64()).cast(pa.decimal128(20, 0)).view(pa.decimal128(20, scale))
    with pytest.raises(InvalidTable, match=r"column 'd': .* more decimal places"):
        FrameSource(pa.table({"d": array}), None)


def test_a_time_zone_that_is_no_text(tmp_path: Path) -> None:
    data = arrow_stream(pa.array([0], pa.timestamp("s", "Etc/GMT")))
    path = tmp_path / "t.arrows"
    path.write_bytes(data.replace(b"Etc/GMT", b"\xff\xff\xff/GMT"))
    with pytest.raises(InvalidTable, match=r"time zone is not UTF-8 .*t\.arrows"):
        read(path, Format.ARROW)


def test_a_dictionary_of_many_batches_is_validated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be larger than all of its batches."""
    words = pa.array([f"word {number}" for number in range(1000)])
    batches = [
        pa.record_batch(
            [pa.DictionaryArray.from_arrays(pa.array([n or None], pa.int32()), words)], names=["t"]
        )
        for n in range(50)
    ]
    validated = []
    validate = arrow._validate
    monkeypatch.setattr(
        arrow,
        "_validate",
        lambda name, array, row=None: (validated.append(len(array)), validate(name, array, row)),
    )
    pieces = FrameSource(pa.Table.from_batches(batches), None).pieces("text/csv")
    assert b"".join(data for data, _ in pieces).decode().split("\n") == [
        "t",
        *(f'"word {n}"' if n else '""' for n in range(50)),
        "",
    ]
    assert validated.count(1000) == 1
    assert len(validated) == 51


PARQUET = """
    import random, sys
    from pathlib import Path
    from airflow_provider_qcache.client import InvalidTable
    from airflow_provider_qcache.client.tables import arrow
    from airflow_provider_qcache.files.listing import Format
    from tests.operators.test_damaged_files import read

    path = Path(sys.argv[1])
    sound = path.read_bytes()
    for number in range(300):
        data = bytearray(sound)
        at = len(data) - 1 - random.Random(number).randrange(3000)
        data[at] ^= 1 << number % 8
        path.write_bytes(data)
        try:
            read(path, Format.PARQUET)
        except InvalidTable as error:
            assert str(path) in str(error), error
"""


def test_parquet_with_flipped_bits_neither_ends_the_process_nor_raises_raw_errors(tmp_path: Path) -> None:
    """In a process of its own, which pyarrow would abort at a column's damaged metadata."""
    table = pa.table({f"c{n}": pa.array([None, "x" * 9, "y"] * 5) for n in range(5)} | {"n": range(15)})
    path = tmp_path / "t.parquet"
    pq.write_table(table, path, row_group_size=5)
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PARQUET), str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        timeout=240,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]


@pytest.mark.parametrize("notes", ["[1]", '{"index_columns": 5}', "[" * 100_000, "\\ud800", "nothing"])
def test_notes_of_pandas_that_are_none(tmp_path: Path, notes: str) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"n": [1]}).replace_schema_metadata({"pandas": notes}), path)
    assert read(path, Format.PARQUET) == b'n\n"1"\n'


@pytest.mark.parametrize(("name", "kind"), [("t.parquet.gz", Format.PARQUET), ("t.arrow.gz", Format.ARROW)])
def test_compressed_data_is_checked_before_it_is_decompressed_whole(
    tmp_path: Path, name: str, kind: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 MB of nothing in 100 kB are refused after the first piece of them."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    data = b"".join([*(compressor.compress(bytes(1 << 20)) for _ in range(100)), compressor.flush()])
    path = tmp_path / name
    path.write_bytes(data)
    taken = []
    read_of = gzip.GzipFile.read

    def counted(self: gzip.GzipFile, size: int = -1) -> bytes:
        found = read_of(self, size)
        taken.append(len(found))
        return found

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    with pytest.raises(InvalidTable, match=name.replace(".", r"\.")):
        read(path, kind)
    assert sum(taken) < 1 << 20
