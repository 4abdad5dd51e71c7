"""The client's own work on a table ends with cancel() and at the deadline, between two pieces."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest

from airflow_provider_qcache.client import DeadlineExceeded, OperationCancelled, QClient
from airflow_provider_qcache.client.tables.checks import CsvCheck
from airflow_provider_qcache.client.tables.upload import Upload, table_upload, upload_of
from tests.harness.ports import closed_port

CSV_TABLE = b"a,b\n" + b"1,some text\n" * 400_000
JSON_TABLE = json.dumps([{"a": number} for number in range(300_000)]).encode()
PIECE = 128 * 1024


class TimeIsUp(Exception):
    """Raised by a test's check_time."""


def upload(content: object, compression: str | None = None, **headers: str) -> Upload:
    kind = "application/json" if content is JSON_TABLE else "text/csv"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return upload_of(content, kind, named, compression)


UPLOADS = {
    "CSV": lambda: upload(CSV_TABLE),
    "JSON": lambda: upload(JSON_TABLE),
    "CSV, compressed here": lambda: upload(CSV_TABLE, "gzip"),
    "CSV that is gzip": lambda: upload(gzip.compress(CSV_TABLE), Content_Encoding="gzip"),
    "a stream": lambda: upload(lambda: [CSV_TABLE]),
    "a stream, compressed here": lambda: upload(lambda: [CSV_TABLE], "gzip"),
    "a stream that is gzip": lambda: upload(lambda: [gzip.compress(CSV_TABLE)], Content_Encoding="gzip"),
}


@pytest.mark.parametrize("name", UPLOADS)
def test_the_time_is_checked_for_every_piece(name: str) -> None:
    checks = 0

    def check_time() -> None:
        nonlocal checks
        checks += 1
        if checks == limit:
            raise TimeIsUp

    def run() -> None:
        one = UPLOADS[name]()
        one.check_before_sending(check_time)
        for _ in one.body(check_time)[0]:
            pass

    limit = -1
    run()
    assert checks >= min(len(CSV_TABLE), len(JSON_TABLE)) // PIECE
    # Every check can end the work: the first, one in the middle, and the last.
    for limit in (1, checks // 2, checks):
        checks = 0
        with pytest.raises(TimeIsUp):
            run()
        assert checks == limit


@pytest.mark.parametrize("name", UPLOADS)
def test_a_store_ends_at_its_deadline_while_its_content_is_checked(name: str) -> None:
    content = UPLOADS[name]()
    with (
        QClient([f"http://127.0.0.1:{closed_port()}"], 5, 5, deadline=1e-6) as client,
        pytest.raises(DeadlineExceeded),
    ):
        client.post("foo", content)


def nothing_yet(start: bytes = b"") -> Iterator[bytes | bytearray]:
    """A source that yields only empty pieces after its start."""
    yield start
    for _ in range(1000):
        yield b""
        yield bytearray()
    raise AssertionError("the source was read without an end")


EMPTY = {
    "a function": lambda: upload(nothing_yet),
    "an iterator": lambda: upload(nothing_yet()),
    "after a row": lambda: upload(nothing_yet(b"a\n1\n")),
    "compressed here": lambda: upload(nothing_yet, "gzip"),
    "gzip": lambda: upload(nothing_yet, Content_Encoding="gzip"),
    "JSON": lambda: upload_of(nothing_yet, "application/json", None, None),
    "JSON after a bracket": lambda: upload_of(lambda: nothing_yet(b"["), "application/json", None, None),
}


@pytest.mark.parametrize("name", EMPTY)
def test_the_time_is_checked_for_every_empty_piece(name: str) -> None:
    checks = 0

    def check_time() -> None:
        nonlocal checks
        checks += 1
        if checks == 500:
            raise TimeIsUp

    with pytest.raises(TimeIsUp):
        for _ in EMPTY[name]().body(check_time)[0]:
            pass


COLUMNS = [f"a_long_name_of_a_column_{number:04}" for number in range(2000)]
"""Too many for X-QCache-types to name all."""


class Batches:
    """A wide table in batches, which can be read again; ``meanwhile`` is called in the third batch."""

    def __init__(self, count: int, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.read = 0
        self._count = count
        self._meanwhile = meanwhile

    def __len__(self) -> int:
        return self._count

    def __arrow_c_stream__(self, requested: object = None) -> object:
        schema = pa.schema([pa.field(name, pa.string()) for name in COLUMNS])
        return pa.RecordBatchReader.from_batches(schema, self._batches(schema)).__arrow_c_stream__(requested)

    def _batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        for _ in range(self._count):
            self.read += 1
            if self.read == 3:
                self._meanwhile()
            yield pa.RecordBatch.from_arrays([pa.array(["x"])] * len(COLUMNS), schema=schema)


class Row(dict[str, int]):
    """A row that calls ``meanwhile`` when its second column is read."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        super().__init__(dict.fromkeys("abcdef", 1))
        self.read: list[str] = []
        self._meanwhile = meanwhile

    def get(self, name: str, default: Any = None) -> Any:
        self.read.append(name)
        if len(self.read) == 2:
            self._meanwhile()
        return super().get(name, default)


def store_batches(client: QClient, meanwhile: Callable[[], object], _: pytest.MonkeyPatch) -> None:
    table = Batches(50, meanwhile)
    try:
        client.post_table("foo", table)
    finally:
        assert table.read <= 4  # one batch more may be read ahead


def store_rows(client: QClient, meanwhile: Callable[[], object], _: pytest.MonkeyPatch) -> None:
    row = Row(meanwhile)
    try:
        client.post_table("foo", [row])
    finally:
        assert len(row.read) == 2


def store_bytes(
    client: QClient, meanwhile: Callable[[], object], patch: pytest.MonkeyPatch, content: Any = CSV_TABLE
) -> None:
    fed = []

    def feed(check: CsvCheck, piece: bytes, feed: Any = CsvCheck.feed) -> None:
        fed.append(len(piece))
        if len(fed) == 3:
            meanwhile()
        feed(check, piece)

    patch.setattr(CsvCheck, "feed", feed)
    try:
        client.post("foo", content)
    finally:
        assert len(fed) == 3


WORK = {"a wide table": store_batches, "rows": store_rows, "bytes": store_bytes}


class Clock:
    """A clock that a test sets."""

    time = 1000.0

    def now(self) -> float:
        return self.time


@pytest.mark.parametrize("name", WORK)
def test_cancel_and_the_deadline_end_work_in_its_middle(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with QClient([f"http://127.0.0.1:{closed_port()}"], 5, 5, deadline=60) as client:
        with monkeypatch.context() as patch, pytest.raises(OperationCancelled) as cancelled:
            WORK[name](client, client.cancel, patch)
        assert cancelled.value.attempts == ()
        clock = Clock()
        monkeypatch.setattr(client, "_clock", clock)
        message = "while the client read"
        with monkeypatch.context() as patch, pytest.raises(DeadlineExceeded, match=message) as late:
            WORK[name](client, lambda: setattr(clock, "time", 1061.0), patch)
        assert late.value.attempts == ()


@pytest.mark.parametrize("form", ["Arrow", "dicts"])
def test_the_time_is_checked_for_every_column_of_a_wide_table(form: str) -> None:
    checks: list[None] = []
    table = Batches(3) if form == "Arrow" else [dict.fromkeys(COLUMNS, "x")]
    upload = table_upload(table, check_time=lambda: checks.append(None))
    upload.check_before_sending(lambda: checks.append(None))
    assert len(checks) >= len(COLUMNS) * (3 if form == "Arrow" else 2)
    assert b"Content-Type: text/csv" in upload.headers
