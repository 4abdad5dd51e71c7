"""Tables on disk between where they come from and the nodes: any number of them, in one file."""

from __future__ import annotations

import os
import struct
import tempfile
from typing import IO, TYPE_CHECKING, Final, Self

from airflow_provider_qcache.client.body import PIECE

if TYPE_CHECKING:
    from collections.abc import Iterator

HELD: Final = 16 << 20
"""Bytes that wait in memory before they are written, of all tables together."""

_SEGMENT: Final = 256 << 10
"""Bytes a segment need not be larger than: where few tables wait, nothing is gained by waiting for more."""

_EACH: Final = 96
"""What a waiting piece takes beside its bytes, about: its object and its place in a list (64 bits)."""

_CHAIN: Final = struct.Struct("<QQ")
"""Before every segment: where the table's previous segment is, and its length; 0, 0 before the first."""


class SpooledTable:
    """One table of a Spool, and a Body of the client: it can be read any number of times.

    ``head`` is what comes before the rows, ``rows`` how many there are, ``length`` the bytes of all.
    """

    __slots__ = ("_last", "_spool", "columns", "head", "length", "rows", "waiting")

    repeatable = True

    def __init__(self, spool: Spool, columns: tuple[str, ...], head: bytes) -> None:
        self._spool = spool
        self._last = (0, 0)
        self.columns: tuple[str, ...] | None = columns
        self.head = head
        self.length = len(head)
        self.rows = 0
        self.waiting: list[bytes] = []

    def pieces(self) -> Iterator[bytes]:
        """The table from its start."""
        piece = bytearray(self.head)
        for start, length in self._segments():
            end = start + length
            for at in range(start, end, PIECE):
                piece += self._spool.read(at, min(PIECE, end - at))
                if len(piece) >= PIECE:
                    yield bytes(piece)
                    piece.clear()
        if piece:
            yield bytes(piece)

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
        """Write what waits as a segment at the file's end; gives its new end."""
        length = sum(map(len, self.waiting))
        file.write(_CHAIN.pack(*self._last))
        file.writelines(self.waiting)
        self.waiting.clear()
        self._last = (end + _CHAIN.size, length)
        self.length += length
        return end + _CHAIN.size + length

    # A TableCheck too: what is spooled was written here, well-formed, and its rows are known.

    def check(self) -> Self:
        """The checker of what ``pieces`` gives."""
        return self

    def feed(self, piece: bytes) -> None:
        """Nothing is left to look at."""

    def finish(self) -> None:
        """Nothing is left to look at."""


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
        """Give the disk back."""
        self._file.close()

    def table(self, columns: tuple[str, ...], head: bytes) -> SpooledTable:
        """A new table."""
        return SpooledTable(self, columns, head)

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
        """Write what waits: needed before a table is read."""
        for table in self._waiting:
            self._end = table.write(self._file, self._end)
        self._waiting.clear()
        self._held = 0
        self._file.flush()

    def read(self, start: int, length: int) -> bytes:
        """Bytes of the file. Raises OSError where they are not there: the disk is at fault."""
        read = os.pread(self._file.fileno(), length, start)
        if len(read) != length:
            raise OSError(f"of {length} bytes of a temporary file only {len(read)} could be read")
        return read
