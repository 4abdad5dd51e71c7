"""The content of a table, in any form it may be given, as pieces that can be had again."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, TypeAlias, runtime_checkable

Content: TypeAlias = (
    "bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO"
    " | Callable[[], Iterable[bytes]] | Iterable[bytes]"
)
"""bytes or str (the content itself), a path, an open binary file, a function that returns a fresh iterator of
bytes, or an iterator, which is good for one attempt."""

PIECE: Final = 128 * 1024
"""How much of a file is read, checked and sent at a time."""


class Body(Protocol):
    """Where a table's bytes come from."""

    @property
    def length(self) -> int | None:
        """Bytes in all, where that is known before they are read."""

    repeatable: bool
    """Whether ``pieces`` may be called again."""

    def pieces(self) -> Iterator[bytes]:
        """The content from its start, in pieces that are not empty."""


class BytesBody:
    """Content in memory."""

    repeatable = True

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.length: int | None = len(content)

    def pieces(self) -> Iterator[bytes]:
        """The content, a piece at a time."""
        content = self.content
        for start in range(0, len(content), PIECE):
            yield content[start : start + PIECE]


class PathBody:
    """A file that is opened anew for every attempt.

    What is no regular file, such as a pipe, is refused: reading it again would wait for a writer without end.
    """

    repeatable = True

    def __init__(self, path: os.PathLike[str]) -> None:
        self._path = Path(path)

    @property
    def length(self) -> int | None:
        """Its size now. Raises OSError where there is no such file, ValueError for what is no regular one."""
        found = self._path.stat()
        self._check_regular(found.st_mode)
        return found.st_size

    def pieces(self) -> Iterator[bytes]:
        """The file from its start. Raises what opening it raises, and ValueError as ``length`` does."""
        # A pipe may have taken the file's place; without O_NONBLOCK its opening waits for a writer.
        with open(self._path, "rb", buffering=0, opener=_open_at_once) as file:
            self._check_regular(os.fstat(file.fileno()).st_mode)
            yield from _read(file)

    def _check_regular(self, mode: int) -> None:
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self._path))
        if not stat.S_ISREG(mode):
            raise ValueError(
                f"{str(self._path)!r} is no regular file, and so not one that can be read again: give it as "
                "an open file, which is read once and may wait for as long as its writer does"
            )


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


@runtime_checkable
class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes | None:
        """As a file does."""


class FileBody:
    """An open binary file, from where it stands; rewound to there for every attempt, if it can be."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.length: int | None = None
        self.repeatable = False
        try:
            self._start = file.tell()
            end = file.seek(0, os.SEEK_END)
            file.seek(self._start)
        except (AttributeError, OSError):  # io.UnsupportedOperation is an OSError
            return
        self.length = end - self._start
        self.repeatable = True

    def pieces(self) -> Iterator[bytes]:
        """The file from its recorded position."""
        if self.repeatable:
            self._file.seek(self._start)
        return _read(self._file)


class FunctionBody:
    """A function that gives a fresh iterator of bytes each time."""

    length: int | None = None
    repeatable = True

    def __init__(self, function: Callable[[], Iterable[bytes]]) -> None:
        self._function = function

    def pieces(self) -> Iterator[bytes]:
        """What a fresh iterator gives."""
        return _checked_pieces(self._function())


class IteratorBody:
    """An iterator, which gives its bytes once."""

    length: int | None = None
    repeatable = False

    def __init__(self, iterator: Iterable[bytes]) -> None:
        self._iterator = iterator

    def pieces(self) -> Iterator[bytes]:
        """What is left in the iterator."""
        return _checked_pieces(self._iterator)


def _read(file: _Readable) -> Iterator[bytes]:
    while (piece := file.read(PIECE)) != b"":
        if piece is None:
            # As the io module's own readers do; it is no end, and what came so far is no whole table.
            raise BlockingIOError(
                errno.EAGAIN, "the file is non-blocking and has nothing to read yet; open a blocking one"
            )
        if not isinstance(piece, bytes):
            raise TypeError("the file is open in text mode; content is bytes: open it with mode 'rb'")
        yield piece


def cut(piece: bytes | bytearray | memoryview) -> Iterator[bytes]:
    """A piece of any size in pieces of ``PIECE`` bytes at most, none of them empty."""
    if isinstance(piece, bytes) and len(piece) <= PIECE:
        if piece:
            yield piece
        return
    view = memoryview(piece)
    if not view.nbytes:
        return
    view = view.cast("B") if view.c_contiguous else memoryview(view.tobytes())
    for start in range(0, len(view), PIECE):
        yield bytes(view[start : start + PIECE])


def _checked_pieces(pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        if not isinstance(piece, bytes | bytearray | memoryview):
            raise TypeError(f"the content's iterator gave {type(piece).__name__}; bytes are wanted")
        # What a piece of many megabytes is taken apart into, as it is checked, is many times as large.
        yield from cut(piece)


def body_of(content: Any) -> BytesBody | PathBody | FileBody | FunctionBody | IteratorBody:
    """The Body for any form of content; TypeError for what is none. A str is content, not a path."""
    if isinstance(content, bytes):
        return BytesBody(content)
    if isinstance(content, str):
        return BytesBody(content.encode())
    if isinstance(content, bytearray | memoryview):
        return BytesBody(bytes(content))
    if isinstance(content, os.PathLike):
        return PathBody(content)
    if isinstance(content, _Readable):
        return FileBody(content)  # type: ignore[arg-type]  # its other methods are looked for there
    if callable(content):
        return FunctionBody(content)
    if isinstance(content, Iterator):
        return IteratorBody(content)
    if isinstance(content, Iterable) and not isinstance(content, dict):
        return FunctionBody(lambda: content)  # a list of pieces, say, is good for any number of attempts
    raise TypeError(
        f"{type(content).__name__} is no content for a table: bytes, str, a path, an open binary file, "
        "or a function that returns an iterator of bytes is"
    )
