"""Tables in one temporary file, between a query that gives them and the nodes."""

from __future__ import annotations

import os
import struct
import tempfile
from typing import IO, TYPE_CHECKING, Final, Self

from airflow_provider_qcache.client.tables.content import PIECE

if TYPE_CHECKING:
    from collections.abc import Iterator

HELD: Final = 16 << 20
"""Bytes of all tables that are kept in memory before they are written to the file."""

_SEGMENT: Final = 256 << 10
"""Bytes of a segment: larger ones save no time."""

_EACH: Final = 96
"""Bytes of memory for a piece besides its content: its object and its place in a list (64 bits)."""

_CHAIN: Final = struct.Struct("<QQ")
"""At the start of every segment: the position and length of the table's previous segment, or 0, 0."""


class SpooledTable:
    """One table of a Spool, as a Source. It was checked before it was written.

    ``head`` precedes the rows, ``rows`` is their number, and ``length`` the bytes of the whole table.
    """

    __slots__ = ("_last", "_spool", "head", "length", "names", "rows", "waiting")

    repeatable = True

    def __init__(self, spool: Spool, names: tuple[str, ...], head: bytes) -> None:
        self._spool = spool
        self._last = (0, 0)
        self.names: tuple[str, ...] | None = names
        self.head = head
        self.length = len(head)
        self.rows = 0
        self.waiting: list[bytes] = []

    def pieces(self, content_type: str) -> Iterator[tuple[bytes, int]]:  # noqa: ARG002  # it is always CSV
        """The table from its start; see ``Source.pieces``."""
        piece = bytearray(self.head)
        for start, length in self._segments():
            end = start + length
            for at in range(start, end, PIECE):
                piece += self._spool.read(at, min(PIECE, end - at))
                if len(piece) >= PIECE:
                    yield bytes(piece), 0
                    piece.clear()
        yield bytes(piece), self.rows

    def _segments(self) -> list[tuple[int, int]]:
        """The position and length of each segment, in order."""
        segments = []
        start, length = self._last
        while length:
            segments.append((start, length))
            start, length = _CHAIN.unpack(self._spool.read(start - _CHAIN.size, _CHAIN.size))
        segments.reverse()
        return segments

    def write(self, file: IO[bytes], end: int) -> int:
        """Write the pieces in memory as a segment at the file's end, and return the new end."""
        length = sum(map(len, self.waiting))
        file.write(_CHAIN.pack(*self._last))
        file.writelines(self.waiting)
        self.waiting.clear()
        self._last = (end + _CHAIN.size, length)
        self.length += length
        return end + _CHAIN.size + length


class Spool:
    """Tables that are written in pieces, in any order, and read in any order and by any thread.

    Memory has up to ``held`` bytes that are not written yet, and for each table the position of its last
    segment, which leads to the earlier ones. The file is in TMPDIR, has no name, and is deleted when the
    process ends.
    """

    def __init__(self, held: int = HELD) -> None:
        self._most = self._limit = held
        self._held = 0
        self._waiting: list[SpooledTable] = []
        self._file = tempfile.TemporaryFile(prefix="qcache-", buffering=1 << 20)  # noqa: SIM115  # close()
        self._end = 0
        self.rows = 0
        """The number of rows of all tables."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete the file."""
        self._file.close()

    def add(self, table: SpooledTable, piece: bytes, rows: int = 1) -> None:
        """Add rows to a table's end."""
        if not piece:
            return
        if not table.waiting:
            self._waiting.append(table)
            self._limit = min(self._most, len(self._waiting) * _SEGMENT)
        table.waiting.append(piece)
        table.rows += rows
        self.rows += rows
        self._held += len(piece) + _EACH
        if self._held > self._limit:
            self.flush()

    def flush(self) -> None:
        """Write the pieces in memory to the file. Required before a table is read."""
        for table in self._waiting:
            self._end = table.write(self._file, self._end)
        self._waiting.clear()
        self._held = 0
        self._file.flush()

    def read(self, start: int, length: int) -> bytes:
        """Read bytes of the file. Raises OSError if the file ends before them."""
        read = os.pread(self._file.fileno(), length, start)
        if len(read) != length:
            raise OSError(f"a temporary file in TMPDIR is damaged: it has {len(read)} of {length} bytes")
        return read
