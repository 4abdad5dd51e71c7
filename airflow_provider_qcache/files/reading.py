"""Read a file piece by piece, decompressed; with errors that name the file."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import tempfile
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from airflow_provider_qcache.client.errors import InvalidTable
from airflow_provider_qcache.client.tables.content import PIECE
from airflow_provider_qcache.extras import library

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from airflow_provider_qcache.files.listing import File

GZIP: Final = b"\x1f\x8b"
ZSTD: Final = (b"\x28\xb5\x2f\xfd", *(bytes([first]) + b"\x2a\x4d\x18" for first in range(0x50, 0x60)))
"""The first bytes of a zstd frame, and of skippable frames."""


@contextlib.contextmanager
def named(file: File) -> Iterator[None]:
    """Raise errors in a file's content as InvalidTable, with the file's name."""
    try:
        yield
    except InvalidTable as error:
        if str(error).startswith(file.name):
            raise
        raise InvalidTable(
            f"{file.name}: {error}", row=error.row, column=error.column, byte=error.byte
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InvalidTable(f"{file.name}: it cannot be read as gzip: {error}") from error
    except OSError as error:
        # An OSError without errno is pyarrow's. Those of systems have an errno, those of storages another
        # class.
        if type(error) is not OSError or error.errno is not None:
            raise
        raise InvalidTable(f"{file.name}: it cannot be read: {str(error).strip()}") from error


def pieces_of(file: File) -> Generator[bytes, None, None]:
    """The file's bytes, decompressed if its first bytes are those of gzip or zstd.

    Its name does not matter: a storage may decompress ``x.csv.gz`` when it is read.

    Raises:
        ImportError: the file is zstd, and pyarrow is not installed.
        InvalidTable, OSError: as ``named``, and what the file's storage raises.
    """
    with named(file), file.open() as found:
        compression = _compression_of(found)
        content: Any = found
        if compression == "gzip":
            content = gzip.open(found, "rb")  # noqa: SIM115  # closed below
        elif compression == "zstd":
            arrow = library("pyarrow", f"{file.name} is a zstd file, which", "arrow")
            content = arrow.CompressedInputStream(found, "zstd")
        with content:
            while piece := content.read(PIECE):
                yield piece


def check_same_columns(columns: Sequence[str], expected: Sequence[str], first: File, where: str = "") -> None:
    """Raise InvalidTable unless a file's columns are those of the first file."""
    to_do = "all files of a table must have the same columns, in the same order"
    for number, (name, other) in enumerate(itertools.zip_longest(columns, expected), 1):
        if name is None:
            raise InvalidTable(f"column {other!r} of {first.name} is missing: {to_do}", column=other)
        if name != other:
            there = "has no such column" if other is None else f"has {other!r} in its place"
            raise InvalidTable(
                f"column {number}{where} is {name!r}, but {first.name} {there}: {to_do}", column=name
            )


def place_of(row: int, begun: Sequence[tuple[File, int]]) -> str:
    """The file of a row of the whole table (from 1), and the row's number in it, as text.

    ``begun`` has the files that were read, each with the number of rows before it.
    """
    file, before = next((file, before) for file, before in reversed(begun) if before < row)
    return f"row {row - before} of {file.name}"


@contextlib.contextmanager
def seekable(file: File, check_start: Callable[[bytes], None]) -> Iterator[BinaryIO]:
    """Open a file for reading in any order. A compressed file is decompressed to a temporary file.

    ``check_start`` is called with the first piece of a compressed file, before the rest is decompressed.
    """
    with file.open() as found:
        if _compression_of(found) is None:
            yield found
            return
    with tempfile.TemporaryFile(prefix="qcache-") as spool:
        for piece in pieces_of(file):
            if not spool.tell():
                check_start(piece)
            spool.write(piece)
        spool.seek(0)
        yield cast("BinaryIO", spool)


def _compression_of(found: BinaryIO) -> str | None:
    """The compression of an open file: 'gzip', 'zstd' or None. The file stays at its start."""
    start = found.read(4)
    found.seek(0)
    if start.startswith(GZIP):
        return "gzip"
    return "zstd" if start.startswith(ZSTD) else None
