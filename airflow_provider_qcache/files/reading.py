"""The bytes of a file, decompressed, a piece at a time; and whose fault it is if they cannot be had."""

from __future__ import annotations

import contextlib
import gzip
import tempfile
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from airflow_provider_qcache.client.errors import InvalidTable
from airflow_provider_qcache.files.formats import compression_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from airflow_provider_qcache.files.listing import File

PIECE: Final = 128 * 1024
"""Bytes that are read at a time; as the client does."""


@contextlib.contextmanager
def named(file: File) -> Iterator[None]:
    """Give what is wrong with a file's content the file's name, as InvalidTable."""
    try:
        yield
    except InvalidTable as error:
        if str(error).startswith(file.name):
            raise
        raise InvalidTable(
            f"{file.name}: {error}", row=error.row, column=error.column, byte=error.byte
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InvalidTable(f"{file.name}: its gzip cannot be read: {error}") from error
    except OSError as error:
        # pyarrow's own: what a system or a storage raises has a number, or a class of its own.
        if type(error) is not OSError or error.errno is not None:
            raise
        raise InvalidTable(f"{file.name}: it cannot be read: {str(error).strip()}") from error


@contextlib.contextmanager
def opened(file: File) -> Iterator[BinaryIO]:
    """The file, to be read from its start, decompressed if its name says so.

    Raises:
        ImportError: it is zstd, and pyarrow is not installed.
        OSError: and whatever its storage raises.
    """
    compression = compression_of(file)
    arrow = need_pyarrow(f"{file.name} is zstd, which") if compression == "zstd" else None
    with contextlib.ExitStack() as stack:
        found: Any = stack.enter_context(file.open())
        if compression == "gzip":
            found = stack.enter_context(gzip.open(found, "rb"))
        elif arrow is not None:
            found = stack.enter_context(arrow.CompressedInputStream(found, "zstd"))
        yield cast("BinaryIO", found)


def pieces_of(file: File) -> Generator[bytes, None, None]:
    """The file's bytes, decompressed. Raises what ``opened`` and ``named`` do."""
    with named(file), opened(file) as found:
        while piece := found.read(PIECE):
            yield piece


@contextlib.contextmanager
def seekable(file: File) -> Iterator[BinaryIO]:
    """The file, to be read in any order; a compressed one is decompressed to a temporary file first."""
    if compression_of(file) is None:
        with file.open() as found:
            yield found
        return
    with tempfile.TemporaryFile(prefix="qcache-") as spool:
        for piece in pieces_of(file):
            spool.write(piece)
        spool.seek(0)
        yield cast("BinaryIO", spool)


def need_pyarrow(why: str) -> Any:
    """Pyarrow; ImportError naming the extra where it is not installed."""
    try:
        import pyarrow as pa  # noqa: PLC0415  # an extra, and slow to load
    except ImportError as error:
        raise ImportError(
            f"{why} needs pyarrow, and it is not installed: install the extra 'arrow'"
        ) from error
    return pa
