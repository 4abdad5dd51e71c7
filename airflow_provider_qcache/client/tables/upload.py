"""A table to store: its content, headers and compression, and the checks before its end is sent."""

from __future__ import annotations

import contextlib
import logging
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Self

from airflow_provider_qcache.client import compression
from airflow_provider_qcache.client.errors import InvalidTable
from airflow_provider_qcache.client.tables.checks import CsvCheck, JsonCheck
from airflow_provider_qcache.client.tables.content import Body, body_of, no_limit, split, without_bom
from airflow_provider_qcache.client.tables.headers import (
    MAX_HEAD_BYTES,
    STAND_INS,
    TYPES,
    ColumnHeaders,
    check_header,
    column_headers,
    header_text,
    is_csv,
    update_headers,
)
from airflow_provider_qcache.client.tables.types import TypedSource, fits_csv, typed
from airflow_provider_qcache.protocol import CSV, JSON

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from airflow_provider_qcache.client.tables.content import Source

_log = logging.getLogger("airflow_provider_qcache.client")

_GZIP_LEVEL: Final = 1
"""Level 1 compresses CSV to a fourth of its size, three times as fast as level 6."""

_ARGUMENTS_FOR_HEADERS: Final = {
    "content-type": "content_type",
    "content-encoding": "compression",
    TYPES.lower(): "column_types",
    STAND_INS.lower(): "stand_in_columns",
}
_FOR_OTHER_HEADERS: Final = 12 * 1024
"""Bytes of the longest head that are reserved for the request line, credentials and further headers."""


class Upload:
    """One table to store, as often as its content can be read. A context manager, which closes it.

    Raises TypeError, ValueError or InvalidTable for arguments that cannot be sent. ``rows`` and ``bytes`` (of
    the content before compression) are known once the content was checked: a Body by the checks for its
    content type, a Source by itself.
    """

    def __init__(
        self,
        content: Body | Source,
        content_type: str,
        headers: Mapping[str, str] | None,
        compression: str | None,
    ) -> None:
        self._content = content
        self._in_memory = content.in_memory if isinstance(content, Body) else None
        self._ready: bytes | None = None
        self._checked_names: tuple[str, ...] = ()
        self.rows: int | None = None
        self.bytes = 0
        self.may_be_empty = True
        """Whether a JSON list without rows, which has no columns, may be stored."""
        self.repeatable = content.repeatable
        fields = {"Content-Type": content_type}
        if headers:
            update_headers(fields, headers)
        by_name = {name.lower(): header_text(value) for name, value in fields.items()}
        self._content_type = by_name["content-type"]
        self._encoded = by_name.get("content-encoding")
        self._compression = compression
        if compression is not None:
            if compression not in ("gzip", "lz4"):
                raise ValueError(f"compression={compression!r}: expected 'gzip', 'lz4' or None")
            if self._encoded is not None:
                raise ValueError(f"compression={compression!r}: the headers already contain Content-Encoding")
            if compression == "lz4" and self._in_memory is None:
                raise ValueError(
                    "compression='lz4' needs content in memory: pass bytes, or use 'gzip', which can stream"
                )
            fields["Content-Encoding"] = compression
        elif self._encoded is not None and self._encoded not in ("gzip", "lz4"):
            raise InvalidTable(
                f"Content-Encoding {self._encoded!r} is not supported by nodes: use 'gzip' or 'lz4'"
            )
        elif self._encoded == "lz4" and self._in_memory is None:
            raise InvalidTable("the content is already lz4, which cannot be streamed: pass it as bytes")
        self._is_csv = is_csv(self._content_type)
        self._columns = ColumnHeaders.read(by_name, is_csv=self._is_csv)
        self.headers = b"".join(check_header(name, value) for name, value in fields.items())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if isinstance(self._content, TypedSource):
            self._content.close()

    @property
    def names(self) -> tuple[str, ...] | None:
        """The columns' names, if they are known before the content is read."""
        return None if isinstance(self._content, Body) else self._content.names

    @property
    def schema(self) -> dict[str, str | None]:
        """The type of each column, None if the node infers it. Of a Body it is known once it was checked."""
        if columns := getattr(self._content, "columns", None):
            return {column.name: str(column.type) for column in columns}
        types = dict(self._columns.types)
        return {name: types.get(name) for name in self._checked_names}

    @property
    def length(self) -> int | None:
        """Bytes of the content, if they are known before it is read."""
        return self._content.length

    @property
    def countable(self) -> bool:
        """Whether the client can count its rows."""
        return self._encoded != "lz4" or compression.lz4_block is not None

    def check_before_sending(self, check_time: Callable[[], object] = no_limit) -> None:
        """Check content in memory; raises InvalidTable. A stream is checked while it is sent."""
        content = self._in_memory
        if self._ready is not None or content is None:
            return
        if self._encoded == "lz4" and compression.lz4_block is None:
            _log.warning(
                "lz4 is not installed: the client sends the table, which is lz4, without a check of its "
                "content"
            )
            self.bytes = len(content)
        else:
            decoded = content
            if self._encoded == "lz4":
                with _refusing_undecodable():
                    decoded = compression.decode(content, "lz4", float("inf"))
            for _ in self._checked_body(split(decoded), check_time):
                pass
        if self._compression == "lz4":
            content = compression.compress_lz4(content)
        elif self._compression == "gzip":
            content = b"".join(_compressed(split(content), check_time))
        check_time()
        self._ready = content

    def _check_columns(self, names: tuple[str, ...] | None) -> None:
        self._columns.check(names)
        self._checked_names = names or ()

    def body(
        self, check_time: Callable[[], object] = no_limit
    ) -> tuple[bytes | Generator[bytes, None, None], int | None]:
        """The body of one attempt, in memory or as a stream, and its length (None: unknown)."""
        if self._ready is not None:
            return self._ready, len(self._ready)
        if self._compression == "gzip":
            return _compressed(self._checked(check_time), check_time), None
        length = self._content.length
        return _withhold_last_piece(self._checked(check_time, length)), length

    def _checked(self, check_time: Callable[[], object], length: int | None = None) -> Iterator[bytes]:
        """The content's pieces, ``length`` bytes if that is known. They end after all checks passed."""
        if isinstance(self._content, Body):
            return self._checked_body(_of_length(self._content.pieces(), length), check_time)
        return self._checked_source(self._content, check_time)

    def _checked_source(self, source: Source, check_time: Callable[[], object]) -> Iterator[bytes]:
        self._check_columns(source.names)
        rows = size = 0
        for piece, more in source.pieces(self._content_type):
            check_time()
            rows += more
            size += len(piece)
            yield piece
        self.rows, self.bytes = rows, size

    def _checked_body(self, pieces: Iterator[bytes], check_time: Callable[[], object]) -> Iterator[bytes]:
        """The pieces, decoded and checked if they are gzip, but not if they are lz4."""
        check: CsvCheck | JsonCheck
        check = CsvCheck(self._columns.floats) if self._is_csv else JsonCheck(may_be_empty=self.may_be_empty)
        gunzip = compression.Gunzip() if self._encoded == "gzip" else None
        columns_checked = False
        size = 0
        for piece in pieces:
            check_time()
            for decoded in (piece,) if gunzip is None else _gunzipped(gunzip, piece):
                if decoded:
                    check.feed(decoded)
                    size += len(decoded)
                check_time()
            if not columns_checked and check.columns is not None:
                self._check_columns(check.columns)
                columns_checked = True
            yield piece
        if gunzip is not None:
            with _refusing_undecodable():
                gunzip.finish()
        check.finish()
        if not columns_checked:
            self._check_columns(check.columns)
        self.rows, self.bytes = check.rows, size


def _of_length(pieces: Iterator[bytes], length: int | None) -> Iterator[bytes]:
    """The pieces of a file; InvalidTable unless they are ``length`` bytes, if that is known."""
    size = 0
    for piece in pieces:
        size += len(piece)
        if length is not None and size > length:
            break
        yield piece
    if length is not None and size != length:
        raise InvalidTable(
            f"the file changed while it was sent: it had {length} bytes before. Store it again when no other "
            "process writes it"
        )


def _withhold_last_piece(pieces: Iterator[bytes]) -> Generator[bytes, None, None]:
    """Yield the pieces, the last one after all checks passed, which content without bytes does not pass."""
    held = b""
    for piece in pieces:
        if not piece:  # no bytes are available yet
            continue
        if held:
            yield held
        held = piece
    yield held


def _compressed(pieces: Iterator[bytes], check_time: Callable[[], object]) -> Generator[bytes, None, None]:
    # The compressor withholds the end until it is flushed.
    compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    for piece in pieces:
        check_time()
        if compressed := compressor.compress(piece):
            yield compressed
    yield compressor.flush()


def _gunzipped(gunzip: compression.Gunzip, piece: bytes) -> Iterator[bytes]:
    with _refusing_undecodable():
        for decoded in gunzip.feed(piece):
            yield from split(decoded)


@contextlib.contextmanager
def _refusing_undecodable() -> Iterator[None]:
    try:
        yield
    except compression.Undecodable as error:
        raise InvalidTable(f"the content does not match its Content-Encoding: {error}") from error


def upload_of(
    content: Any,
    content_type: str,
    headers: Mapping[str, str] | None,
    compression: str | None,
    check_time: Callable[[], object] = no_limit,
) -> Upload:
    """Return the Upload for any content but a table; the other arguments describe the content.

    They are ignored for an Upload, and for a FileTable, which builds its Upload just before sending.
    """
    if isinstance(content, Upload):
        return content
    if not isinstance(content, bytes | str) and hasattr(content, "upload"):
        upload: Upload = content.upload(check_time)
        return upload
    body = body_of(content)
    if content_type.partition(";")[0] == JSON:
        body = without_bom(body)
    return Upload(body, content_type, headers, compression)


def is_table(content: Any) -> bool:
    """Whether ``post_table`` accepts it: Arrow data (by the PyCapsule interface) or a list of dicts."""
    if hasattr(content, "__arrow_c_stream__") or hasattr(content, "__arrow_c_array__"):
        return True
    return isinstance(content, list | tuple) and all(isinstance(row, Mapping) for row in content[:1])


def source_of(
    table: Any, column_types: Mapping[str, str] | None, check_time: Callable[[], object] = no_limit
) -> TypedSource:
    """Return the Source for any form of table, or raise TypeError, or InvalidTable if it cannot be stored."""
    if not is_table(table):
        raise TypeError(
            f"{type(table).__name__} is not a table: pass a list of dicts, or an object with "
            "__arrow_c_stream__ or __arrow_c_array__ (pandas, polars, pyarrow, duckdb)"
        )
    if isinstance(table, list | tuple):
        from airflow_provider_qcache.client.tables.values import RowsSource  # noqa: PLC0415  # not at DAG parse

        return RowsSource(table, column_types, check_time)
    from airflow_provider_qcache.client.tables.arrow import FrameSource  # noqa: PLC0415  # it needs pyarrow

    return FrameSource(table, column_types, check_time)


def table_upload(
    table: Any,
    *,
    content_type: str | None = None,
    headers: Mapping[str, str] | None = None,
    column_types: Mapping[str, str] | None = None,
    stand_in_columns: Mapping[str, Any] | None = None,
    compression: str | None = None,
    check_time: Callable[[], object] = no_limit,
) -> Upload:
    """The Upload of a table; see ``QClient.post_table``."""
    if content_type not in (None, CSV, JSON):
        raise ValueError(f"content_type={content_type!r}: expected {CSV!r}, {JSON!r} or None")
    fields = table_headers(headers, stand_in_columns)
    source = source_of(table, column_types, check_time)
    return source_upload(source, content_type, fields, compression, check_time)


def table_headers(
    headers: Mapping[str, str] | None, stand_in_columns: Mapping[str, Any] | None
) -> dict[str, str]:
    """A table's headers without its types; ValueError for a header that has an argument of its own."""
    for name in headers or {}:
        if (argument := _ARGUMENTS_FOR_HEADERS.get(name.lower())) is not None:
            raise ValueError(f"header {name!r} is set from the table: pass {argument} instead")
    return {**(headers or {}), **column_headers(stand_ins=stand_in_columns)}


def source_upload(
    source: TypedSource,
    content_type: str | None,
    fields: Mapping[str, str],
    compression: str | None,
    check_time: Callable[[], object] = no_limit,
) -> Upload:
    """The Upload of a Source that knows its columns' types, with the headers of ``table_headers``.

    If the types of all columns are too long for a request's headers, only those columns are named whose type
    a node would infer wrongly: to find them the whole table is read. A table is sent as JSON if these types
    are too long as well, or if it can be read only once. Closes the source if it raises an error.
    """
    try:
        if content_type == JSON:
            return Upload(source, JSON, fields, compression)
        unfit = next((name for name in source.names if not fits_csv(name)), None)
        why = f"column {unfit!r}: its name cannot be sent in CSV or headers: pass content_type={JSON!r}"
        if unfit is None:
            types = typed(source.columns)
            room = MAX_HEAD_BYTES - _FOR_OTHER_HEADERS - len(fields.get(STAND_INS, ""))
            headers = column_headers(types)
            if len(headers.get(TYPES, "")) > room and source.repeatable:
                wrong = source.wrongly_inferred(check_time)
                headers = column_headers({name: types[name] for name in types if name in wrong})
            if len(headers.get(TYPES, "")) <= room:
                return Upload(source, CSV, {**fields, **headers}, compression)
            why = (
                f"the types of {len(source.columns)} columns do not fit into the request headers: pass "
                f"content_type={JSON!r}, which needs no types"
            )
        if content_type == CSV:
            raise InvalidTable(why, column=unfit)  # noqa: TRY301  # the source is closed below
        return Upload(source, JSON, fields, compression)
    except BaseException:
        source.close()
        raise
