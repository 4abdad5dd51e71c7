"""Any number of tables in one temporary file, between a query and the nodes."""

from __future__ import annotations

import os
import struct
import tempfile
from typing import IO, TYPE_CHECKING, Final, Self

from airflow_provider_qcache.client.tables.content import PIECE

if TYPE_CHECKING:
    from collections.abc import Iterator

HELD: Final = 16 << 20
"""Bytes of all tables together that are kept in memory before they are written to the file."""

_SEGMENT: Final = 256 << 10
"""Bytes of a segment that is large enough: with few tables, larger segments save nothing."""

_EACH: Final = 96
"""Bytes that a piece in memory takes beside its content: its object and its place in a list (64 bits)."""

_CHAIN: Final = struct.Struct("<QQ")
"""Before every segment: where the table's previous segment is, and its length; 0, 0 before the first."""


class SpooledTable:
    """One table of a Spool, and its Source: it was written well-formed, and is not checked again.

    ``head`` is what comes before the rows, ``rows`` how many there are, ``length`` the bytes of all.
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
        """The table from its start."""
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
        """Where its bytes are, in order."""
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

    def close(self) -> None:
        """Nothing is open: the file is the Spool's."""


class Spool:
    """Tables written piece by piece, in any order, and read whole, in any order and by any thread.

    Memory holds up to ``held`` bytes that wait to be written, and a few words for each table: where its last
    segment is, which leads to those before. The file has no name and goes with the process; it is made where
    TMPDIR says.
    """

    def __init__(self, held: int = HELD) -> None:
        self._most = self._limit = held
        self._held = 0
        self._waiting: list[SpooledTable] = []
        self._file = tempfile.TemporaryFile(prefix="qcache-", buffering=1 << 20)  # noqa: SIM115  # close()
        self._end = 0
        self.rows = 0
        """Of all tables."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete the file."""
        self._file.close()

    def table(self, names: tuple[str, ...], head: bytes) -> SpooledTable:
        """A new table."""
        return SpooledTable(self, names, head)

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
        """Write the pieces in memory to the file, which is needed before a table is read."""
        for table in self._waiting:
            self._end = table.write(self._file, self._end)
        self._waiting.clear()
        self._held = 0
        self._file.flush()

    def read(self, start: int, length: int) -> bytes:
        """Read bytes of the file. Raises OSError if the file ends before them: the disk is at fault."""
        read = os.pread(self._file.fileno(), length, start)
        if len(read) != length:
            raise OSError(f"of {length} bytes of a temporary file only {len(read)} could be read")
        return read
