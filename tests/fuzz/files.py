"""Fuzzes the reading of files of all formats with damaged ones."""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import gzip
import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_provider_qcache.client import InvalidTable
from airflow_provider_qcache.files.tables import table_in
from tests.fuzz.content import CSV_WORDS, JSON_WORDS, TABLES_OF_CSV, TABLES_OF_JSON
from tests.fuzz.mutate import damaged, rewritten

ROWS = 40
_ERRORS_WITHOUT_FILE = ("the table has no rows", "the table has no columns")
_NOON = dt.datetime(2024, 5, 6, 12, tzinfo=dt.UTC)
TABLE = pa.table(
    {
        "n": pa.array([1, 2, None, 4] * 10),
        "t": pa.array(["a", "bb", None, "x" * 300] * 10),
        "large": pa.array(["a", "b" * 40, None, "größe"] * 10, pa.large_string()),
        "view": pa.array(["a", "b" * 40, None, "c"] * 10, pa.string_view()),
        "kind": pa.array(["q", "w", "q", None] * 10).dictionary_encode(),
        "x": pa.array([1.5, 2.5, None, 0.1] * 10),
        "flag": pa.array([True, False, None, True] * 10),
        "at": pa.array([_NOON] * ROWS, pa.timestamp("us", "UTC")),
        "day": pa.array([dt.date(2024, 1, 1)] * ROWS),
        "price": pa.array([decimal.Decimal("1.50"), None] * 20),
        "none": pa.nulls(ROWS),
        "hour": pa.array([dt.time(1, 2, 3)] * ROWS),
        "lasted": pa.array([dt.timedelta(1)] * ROWS),
    }
)


def _parquet(**options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(TABLE, sink, row_group_size=15, **options)
    return sink.getvalue()


def _parquet_of_pandas() -> bytes:
    sink = io.BytesIO()
    frame = TABLE.select(["n", "t", "kind"]).to_pandas().set_index("n", drop=False).rename_axis(None)
    frame.to_parquet(sink)
    return sink.getvalue()


def _arrow(kind: Callable[..., pa.RecordBatchFileWriter], compression: str | None) -> bytes:
    sink = io.BytesIO()
    with kind(sink, TABLE.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(TABLE, max_chunksize=15)
    return sink.getvalue()


def _valid_files() -> list[tuple[str, bytes]]:
    """Suffix and content of valid files; columnar formats are listed more often."""
    columnar = [
        (".parquet", _parquet()),
        (".parquet", _parquet(compression="none", data_page_version="2.0")),
        (".parquet", _parquet(compression="zstd", use_dictionary=False, write_page_index=True)),
        (
            ".parquet",
            _parquet(
                column_encoding={"t": "DELTA_BYTE_ARRAY", "n": "DELTA_BINARY_PACKED"}, use_dictionary=False
            ),
        ),
        (".parquet", _parquet_of_pandas()),
        (".arrow", _arrow(pa.ipc.new_file, None)),
        (".arrow", _arrow(pa.ipc.new_file, "lz4")),
        (".arrows", _arrow(pa.ipc.new_stream, None)),
        (".arrows", _arrow(pa.ipc.new_stream, "zstd")),
    ]
    text = [(".csv", data) for data in TABLES_OF_CSV] + [(".json", data) for data in TABLES_OF_JSON]
    lines = [(".jsonl", data[1:-1].replace(b"},{", b"}\n{")) for data in TABLES_OF_JSON if data]
    return columnar * 2 + text + lines


@contextlib.contextmanager
def files() -> Iterator[Callable[[Random], None]]:
    """Files that are damaged before or after compression; an InvalidTable must name the file."""
    valid = _valid_files()
    with tempfile.TemporaryDirectory(prefix="qcache-fuzz-") as directory:

        def case(random: Random) -> None:
            suffix, data = random.choice(valid)
            if suffix in (".csv", ".json", ".jsonl"):
                words = CSV_WORDS if suffix == ".csv" else JSON_WORDS
                data = rewritten(random, data, words)
            else:
                data = damaged(random, data, at_the_end=4000 if suffix == ".parquet" else 0)
            compression = random.choice(("", "", "", "", ".gz", ".zst"))
            if compression:
                data = (
                    gzip.compress(data, 1)
                    if compression == ".gz"
                    else pa.compress(data, "zstd", asbytes=True)
                )
                if random.random() < 0.3:
                    data = damaged(random, data)
            path = Path(directory) / f"t{suffix}{compression}"
            path.write_bytes(data)
            content_type = random.choice((None, None, None, "application/json")) if suffix != ".csv" else None
            try:
                with table_in(path, content_type=content_type).upload() as upload:
                    for _ in upload.body()[0]:
                        pass
            except InvalidTable as error:
                if str(path) not in str(error) and not str(error).startswith(_ERRORS_WITHOUT_FILE):
                    raise AssertionError(f"the error does not name its file: {error}") from error

        yield case
