"""A table on its way to a node: content, headers, compression, and the checks with the withheld end."""

from __future__ import annotations

import dataclasses
import logging
import zlib
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, runtime_checkable

from airflow_provider_qcache.client import encoding
from airflow_provider_qcache.client.body import PIECE, Body, BytesBody, body_of, cut
from airflow_provider_qcache.client.checks import (
    CsvCheck,
    check_header,
    check_stand_ins,
    check_types,
    header_text,
    table_check,
)
from airflow_provider_qcache.client.errors import InvalidTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_provider_qcache.client.checks import TableCheck

_log = logging.getLogger("airflow_provider_qcache.client")

_GZIP_LEVEL: Final = (
    1  # a table in CSV shrinks to a fourth at level 1 already, and three times as fast as at 6
)
_FRAMING: Final = frozenset({"content-length", "transfer-encoding", "host", "connection", "expect"})


@dataclasses.dataclass(frozen=True, slots=True)
class WireBody:
    """What goes on the wire: bytes, or a stream of ``length`` bytes (None: chunked)."""

    in_memory: bytes | None = None
    stream: Iterator[bytes] | None = None
    length: int | None = None


class Upload:
    """One table to store, good for as many attempts as its content can be read.

    Raises TypeError, ValueError or InvalidTable for arguments that cannot be sent. ``rows`` and ``bytes`` (of
    the content before compression) are known once it was checked.
    """

    def __init__(
        self, body: Body, content_type: str, headers: Mapping[str, str] | None, compression: str | None
    ) -> None:
        self._body = body
        self.rows: int | None = None
        self.bytes = 0
        self.may_be_empty = True
        """Whether a JSON list without rows, and so without columns, is a table."""
        self.repeatable = body.repeatable
        fields = {"Content-Type": content_type}
        if headers:
            update_headers(fields, headers)
        by_name = {name.lower(): header_text(value) for name, value in fields.items()}
        self._content_type = by_name["content-type"]
        self._types = by_name.get("x-qcache-types")
        self._stand_ins = by_name.get("x-qcache-stand-in-columns")
        self._encoded = by_name.get("content-encoding")
        self._compression = compression
        if compression is not None:
            if compression not in ("gzip", "lz4"):
                raise ValueError(f"compression={compression!r}: 'gzip', 'lz4' or None is wanted")
            if self._encoded is not None:
                raise ValueError(f"compression={compression!r}: the headers give a Content-Encoding already")
            if compression == "lz4" and not isinstance(body, BytesBody):
                raise ValueError("compression='lz4' is for content in memory; 'gzip' streams")
            fields["Content-Encoding"] = compression
        elif self._encoded is not None and self._encoded not in ("gzip", "lz4"):
            raise InvalidTable(
                f"Content-Encoding {self._encoded!r} is none a node reads: 'gzip' and 'lz4' are"
            )
        is_csv = isinstance(table_check(self._content_type), CsvCheck)
        if self._types is not None:
            check_types(self._types, None)
        if self._stand_ins is not None:
            check_stand_ins(self._stand_ins, None, could_be_csv=is_csv)
        self.headers = b"".join(check_header(name, value) for name, value in fields.items())
        self._in_memory: bytes | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is open."""

    @property
    def length(self) -> int | None:
        """Bytes of the content, where they are known before it is read."""
        return self._body.length

    @property
    def countable(self) -> bool:
        """Whether its rows can be counted."""
        return self._encoded != "lz4" or encoding.lz4_block is not None

    def check_before_sending(self) -> None:
        """Check what is in memory; raises InvalidTable. What streams is checked as it does."""
        body = self._body
        if self._in_memory is not None or not isinstance(body, BytesBody):
            return
        content = body.content
        if self._encoded is None:
            self._check_whole(content)
        elif self._encoded == "lz4" and encoding.lz4_block is None:
            _log.warning("lz4 is not installed here: a table is sent that could not be checked")
            self.bytes = len(content)
        else:
            try:
                decoded = encoding.decode(content, self._encoded, None)
            except encoding.Undecodable as error:
                raise _not_as_encoded(error) from error
            self._check_whole(decoded)
        if self._compression == "lz4":
            content = encoding.compress_lz4(content)
        elif self._compression == "gzip":
            content = zlib.compress(content, _GZIP_LEVEL, zlib.MAX_WBITS | 16)
        self._in_memory = content

    def _check_whole(self, content: bytes) -> None:
        check = self._new_check()
        for start in range(0, len(content), 8 * PIECE):
            check.feed(content[start : start + 8 * PIECE])
        check.finish()
        self._check_columns(check)
        self.rows = check.rows
        self.bytes = len(content)

    def _new_check(self) -> TableCheck:
        return table_check(self._content_type, may_be_empty=self.may_be_empty)

    def _check_columns(self, check: TableCheck) -> None:
        if self._types is not None:
            check_types(self._types, check.columns)
        if self._stand_ins is not None:
            check_stand_ins(self._stand_ins, check.columns)

    def wire_body(self) -> WireBody:
        """The body for one attempt."""
        if self._in_memory is not None:
            return WireBody(in_memory=self._in_memory)
        if self._compression == "gzip":
            return WireBody(stream=self._compressed(self._checked(None, withhold=False)))
        length = self._body.length
        return WireBody(stream=self._checked(length, withhold=True), length=length)

    def _checked(self, length: int | None, *, withhold: bool) -> Iterator[bytes]:
        """The content's pieces: the last one (with ``withhold``), and the end, come after every check."""
        check = self._new_check()
        decoder = self._decoder()
        columns_checked = False
        size = 0
        held: bytes | None = None
        for piece in self._body.pieces():
            size += len(piece)
            if length is not None and size > length:
                self._changed(length)
            for decoded in decoder.feed(piece):
                check.feed(decoded)
            if not columns_checked and check.columns is not None:
                self._check_columns(check)
                columns_checked = True
            if not withhold:
                yield piece
            else:
                if held is not None:
                    yield held
                held = piece
        if length is not None and size != length:
            self._changed(length)
        decoder.finish()
        check.finish()
        if not columns_checked:
            self._check_columns(check)
        self.rows = check.rows
        self.bytes = decoder.size if self._encoded is not None else size
        if held is not None:
            yield held

    def _compressed(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        # What is left in the compressor at the end is the end that is withheld.
        compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        for piece in pieces:
            if compressed := compressor.compress(piece):
                yield compressed
        yield compressor.flush()

    def _decoder(self) -> _Plain | _Gunzip:
        if self._encoded is None:
            return _Plain()
        if self._encoded == "gzip":
            return _Gunzip()
        raise InvalidTable("content that is lz4 already is checked, and sent, from memory only")

    @staticmethod
    def _changed(length: int) -> None:
        raise InvalidTable(
            f"the file is no longer the {length} bytes long that it was when its sending began"
        )


class _Plain:
    size = 0

    def feed(self, piece: bytes) -> tuple[bytes]:
        return (piece,)

    def finish(self) -> None:
        pass


class _Gunzip:
    def __init__(self) -> None:
        self.size = 0
        self._gunzip = encoding.Gunzip()

    def feed(self, piece: bytes) -> Iterator[bytes]:
        try:
            for decoded in self._gunzip.feed(piece):
                self.size += len(decoded)
                yield from cut(decoded)
        except encoding.Undecodable as error:
            raise _not_as_encoded(error) from error

    def finish(self) -> None:
        try:
            self._gunzip.finish()
        except encoding.Undecodable as error:
            raise _not_as_encoded(error) from error


def _not_as_encoded(error: encoding.Undecodable) -> InvalidTable:
    return InvalidTable(f"the content is not what its Content-Encoding says: {error}")


@runtime_checkable
class MakesUpload(Protocol):
    """Content that is looked into when its turn comes, and tells itself what describes it."""

    def upload(self) -> Upload:
        """The Upload. Raises InvalidTable."""


def upload_of(
    content: Any, content_type: str, headers: Mapping[str, str] | None, compression: str | None
) -> Upload:
    """The Upload for any form of content. One that is an Upload already has all that the others tell."""
    if isinstance(content, Upload):
        return content
    # Looking for a Protocol takes longer than all else here.
    if not isinstance(content, bytes | str) and isinstance(content, MakesUpload):
        return content.upload()
    return Upload(body_of(content), content_type, headers, compression)


def update_headers(fields: dict[str, str], further: Mapping[str, str]) -> None:
    """Add headers, replacing those of the same name in any case; ValueError for those of the framing."""
    for name, value in further.items():
        if name.lower() in _FRAMING:
            raise ValueError(f"header {name!r} is the client's own and cannot be given")
        for known in list(fields):
            if known.lower() == name.lower():
                del fields[known]
        fields[name] = value
