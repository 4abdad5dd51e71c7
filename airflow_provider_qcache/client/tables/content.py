"""The content of a table, in any form, as pieces of bytes, which each attempt to send it reads anew."""

from __future__ import annotations

import codecs
import dataclasses
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, TypeAlias

from airflow_provider_qcache.client.errors import InvalidTable

Content: TypeAlias = (
    "bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO"
    " | Callable[[], Iterable[bytes]] | Iterable[bytes]"
)
"""bytes or str (the content itself), a path, an open binary file, a function that returns a fresh iterator of
bytes, or an iterator, which allows one attempt."""

PIECE: Final = 128 * 1024
"""Bytes of a file that are read, checked and sent at a time."""


def no_limit() -> None:
    """The default of ``check_time``: a function that long work calls regularly, and that raises to end it."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False, repr=False)
class Body:
    """The bytes of a table, which are checked while they are sent."""

    pieces: Callable[[], Iterator[bytes]]
    """Read the content from its start. An empty piece means that no bytes are available yet."""
    measure: Callable[[], int | None] = lambda: None
    """The ``length``."""
    repeatable: bool = True
    """Whether ``pieces`` may be called again."""
    in_memory: bytes | None = None
    """The whole content, if it is in memory."""

    @property
    def length(self) -> int | None:
        """Bytes of the content, if known before they are read. Raises OSError or ValueError for a path."""
        return self.measure()


class Source(Protocol):
    """A table that is encoded, or read from files, while it is sent, and that checks itself."""

    @property
    def names(self) -> tuple[str, ...] | None:
        """The columns' names, if they are known before the table is read."""

    @property
    def length(self) -> int | None:
        """Bytes of the content, if known before they are read."""

    repeatable: bool
    """Whether ``pieces`` may be called again."""

    def pieces(self, content_type: str) -> Iterator[tuple[bytes, int]]:
        """The table from its start: pieces, each with the number of rows in it.

        Raises InvalidTable, before the last piece, for a table that a node would refuse or change.
        """


def _body_of_bytes(content: bytes) -> Body:
    return Body(lambda: split(content), lambda: len(content), in_memory=content)


def _body_of_path(path: Path) -> Body:
    """A file that is opened for every attempt.

    Only regular files are accepted: opening a pipe again would wait for a writer, forever.
    """

    def length() -> int:
        found = path.stat()
        _check_regular(path, found.st_mode)
        return found.st_size

    def pieces() -> Iterator[bytes]:
        # A pipe may have replaced the file. Without O_NONBLOCK, opening it waits for a writer.
        with open(path, "rb", buffering=0, opener=_open_at_once) as file:
            _check_regular(path, os.fstat(file.fileno()).st_mode)
            yield from _read(file)

    return Body(pieces, length)


def _check_regular(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise ValueError(
            f"{str(path)!r} is not a regular file, and a retry could not read it again: pass an open file, "
            "which is read once"
        )


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _body_of_file(file: BinaryIO) -> Body:
    """An open binary file, from its position. If it is seekable, every attempt starts there."""
    try:
        start = file.tell()
        end = file.seek(0, os.SEEK_END)
        file.seek(start)
    except (AttributeError, OSError):  # io.UnsupportedOperation is an OSError
        return Body(lambda: _read(file), repeatable=False)

    def pieces() -> Iterator[bytes]:
        file.seek(start)
        return _read(file)

    return Body(pieces, lambda: end - start)


def without_bom(body: Body) -> Body:
    """The body without a UTF-8 BOM, which JSON does not allow, and on which a node fails."""
    if body.in_memory is not None:
        return _body_of_bytes(body.in_memory.removeprefix(codecs.BOM_UTF8))

    def length() -> int | None:
        whole = body.length
        if whole is None:
            return None
        # A body with a length is a file, which can be read again.
        start = next(body.pieces(), b"")
        return whole - len(codecs.BOM_UTF8) * start.startswith(codecs.BOM_UTF8)

    return Body(lambda: skip_bom(body.pieces()), length, body.repeatable)


def skip_bom(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces without a UTF-8 BOM at their start."""
    start = b""
    for piece in pieces:
        start += piece
        if len(start) >= len(codecs.BOM_UTF8):
            break
        yield b""
    if start := start.removeprefix(codecs.BOM_UTF8):
        yield start
    yield from pieces


def _read(file: Any) -> Iterator[bytes]:
    while (piece := file.read(PIECE)) != b"":
        if piece is None:
            # This is not the end of the file. The io module's own readers raise it, too.
            raise BlockingIOError(
                errno.EAGAIN, "the file is non-blocking and has no data yet: open it in blocking mode"
            )
        if not isinstance(piece, bytes):
            raise TypeError("the file is open in text mode: open it with mode 'rb'")
        yield piece


def split(piece: bytes | bytearray | memoryview) -> Iterator[bytes]:
    """Split a piece of any size into pieces of ``PIECE`` bytes at most; an empty piece stays a piece."""
    if isinstance(piece, bytes) and len(piece) <= PIECE:
        yield piece
        return
    view = memoryview(piece)
    if not view.nbytes:
        yield b""
        return
    view = view.cast("B") if view.c_contiguous else memoryview(view.tobytes())
    for start in range(0, len(view), PIECE):
        yield bytes(view[start : start + PIECE])


def _checked_pieces(pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        if not isinstance(piece, bytes | bytearray | memoryview):
            raise TypeError(f"the content's iterator returned {type(piece).__name__}: it must return bytes")
        # Checking a piece of many megabytes would use several times as much memory.
        yield from split(piece)


def body_of(content: Any) -> Body:
    """Return the Body for any form of content, or raise TypeError. A str is content, not a path."""
    if isinstance(content, bytes | bytearray | memoryview):
        return _body_of_bytes(bytes(content))
    if isinstance(content, str):
        try:
            return _body_of_bytes(content.encode())
        except UnicodeEncodeError as error:
            raise InvalidTable(
                f"character {error.start + 1} of the table is a lone surrogate, which UTF-8 cannot encode: "
                "remove it"
            ) from error
    if isinstance(content, os.PathLike):
        return _body_of_path(Path(content))
    if hasattr(content, "read"):
        return _body_of_file(content)
    if callable(content):
        return Body(lambda: _checked_pieces(content()))
    if isinstance(content, Iterator):
        return Body(lambda: _checked_pieces(content), repeatable=False)
    if isinstance(content, Iterable) and not isinstance(content, dict):
        return Body(lambda: _checked_pieces(content))  # such as a list of pieces, which can be read again
    raise TypeError(
        f"{type(content).__name__} cannot be stored as a table: pass bytes, str, a path, an open "
        "binary file, or a function that returns an iterator of bytes"
    )
