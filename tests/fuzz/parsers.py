"""The parsers of bytes from outside, as functions of bytes that raise only if they find a fault."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from airflow_provider_qcache.client.compression import (
    Gunzip,
    Undecodable,
    compress_lz4,
    decode,
)
from airflow_provider_qcache.client.errors import InvalidTable
from airflow_provider_qcache.client.outcome import Answer as Judged
from airflow_provider_qcache.client.outcome import Failure, RequestKind, judge
from airflow_provider_qcache.client.results import QueryResult
from airflow_provider_qcache.client.tables.checks import CsvCheck, JsonCheck
from airflow_provider_qcache.client.tables.headers import ColumnHeaders, check_header, is_csv
from airflow_provider_qcache.client.transport import _read_all, _Response
from tests.fuzz.answers import _answer
from tests.fuzz.content import TABLES_OF_CSV, TABLES_OF_JSON
from tests.harness.faults import ReceivedBytes

_MOST = 1 << 20


def head(data: bytes) -> None:
    """A response: status line, headers, and a body with a length, in chunks, or up to the connection's end."""
    response = _Response(ReceivedBytes(data))  # type: ignore[arg-type]
    try:
        response.begin()
        body = _read_all(response, _MOST)
        content = decode(body, response.head.get("Content-Encoding"), _MOST)
        for kind in RequestKind:
            try:
                judge(kind, Judged(response.status, response.head, content, None))
            except Failure as failure:
                str(failure)
    except (http.client.HTTPException, OSError, ValueError, Undecodable):
        pass  # NodeTransport handles all of these


def encoded(data: bytes) -> None:
    """A body in lz4 or gzip; reading gzip in pieces must give the same."""
    for encoding in ("lz4", "gzip"):
        try:
            whole: bytes | None = decode(data, encoding, _MOST)
            assert whole is not None
            assert len(whole) <= _MOST
        except Undecodable:
            whole = None
    pieces = Gunzip()
    try:
        parts = [part for at in range(0, len(data), 7) for part in pieces.feed(data[at : at + 7])]
        pieces.finish()
    except Undecodable:
        return
    if len(joined := b"".join(parts)) <= _MOST:
        assert joined == whole


def result_of_json(data: bytes) -> None:
    """A JSON answer, as tables."""
    _result(data, "application/json")


def result_of_csv(data: bytes) -> None:
    """A CSV answer, as tables."""
    _result(data, "text/csv")


def _result(data: bytes, content_type: str) -> None:
    result = QueryResult(data, 0, content_type=content_type)
    for read in (result.to_arrow, result.to_pandas, result.to_polars):
        try:
            read()
        except ValueError as error:
            if type(error) is not ValueError:
                raise


def csv_table(data: bytes) -> None:
    """A table to store as CSV; the sizes of its pieces must make no difference."""
    _table(data, is_csv=True)


def json_table(data: bytes) -> None:
    """A table to store as JSON; the sizes of its pieces must make no difference."""
    _table(data, is_csv=False)


def _table(data: bytes, *, is_csv: bool) -> None:
    def result(pieces: Iterator[bytes]) -> Any:
        check = CsvCheck(("a", "x")) if is_csv else JsonCheck()
        try:
            for piece in pieces:
                check.feed(piece)
            check.finish()
        except InvalidTable as error:
            return type(error)
        return check.rows

    whole = result(iter([data]))
    size = 1 + data[0] % 7 if data else 1
    assert result(data[at : at + size] for at in range(0, len(data), size)) == whole


def column_headers(data: bytes) -> None:
    """The headers of a store, as a DAG's author may write them."""
    text = data.decode("utf-8", "surrogateescape")
    types, _, rest = text.partition("\n")
    stand_ins, _, name = rest.partition("\n")
    headers = {"x-qcache-types": types, "x-qcache-stand-in-columns": stand_ins}
    for csv in (True, False):
        try:
            found = ColumnHeaders.read(headers, is_csv=csv)
            found.check(("a", "b") if csv else None)
        except InvalidTable:
            pass
    with contextlib.suppress(InvalidTable):
        is_csv(text)
    try:
        check_header(name, types)
    except ValueError as error:
        if type(error) is not ValueError:
            raise


PARSERS: dict[str, Callable[[bytes], None]] = {
    parser.__name__: parser
    for parser in (head, encoded, result_of_json, result_of_csv, csv_table, json_table, column_headers)
}


def seeds() -> Iterator[tuple[str, bytes]]:
    """The name of a parser and valid, or nearly valid, input for it."""
    for number in range(40):
        yield "head", _answer(Random(number))
    for table in TABLES_OF_CSV:
        yield "csv_table", table
        yield "result_of_csv", table
        yield "encoded", compress_lz4(table)
    for table in TABLES_OF_JSON:
        yield "json_table", table
        yield "result_of_json", table
    yield "column_headers", b"a=string;b=float\nc=1;d='x';e=a\nX-Some"
    yield "column_headers", "größe=enum\nc=größe\nX-ä".encode()


def parse(data: bytes) -> None:
    """Pass the data to the parser that its first byte selects. An exception is a finding."""
    if not data:
        return
    names = list(PARSERS)
    PARSERS[names[data[0] % len(names)]](data[1:])
