"""gzip and lz4, which QCache supports. A size is checked before memory is allocated."""

from __future__ import annotations

import re
import struct
import zlib
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.client.errors import Outcome
from airflow_provider_qcache.extras import how_to_install

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

try:
    import lz4.block as _lz4
except ImportError:  # an extra
    _lz4 = None

lz4_block: Any = _lz4
"""lz4.block, or None where lz4 is not installed."""

ACCEPT_ENCODING: Final = "lz4" if _lz4 is not None else "identity"
"""The encoding that requests ask for: lz4 takes the node a fifth of the time of gzip."""

# An LZ4 block has a byte for every 255 bytes that it repeats (lz4_Block_format.md), and decodes to no more.
_LZ4_MOST_PER_BYTE: Final = 255
_SIZE: Final = struct.Struct("<I")
_GZIP: Final = ("gzip", "x-gzip")
_NO_WEIGHT: Final = re.compile(r"\s*q\s*=\s*0(\.0*)?\s*").fullmatch
_SLICE: Final = 8 * 1024
_MOST_AT_ONCE: Final = 1 << 20


class Undecodable(Exception):
    """A body that cannot be decoded. ``outcome`` is that of a request with this answer."""

    def __init__(self, text: str, outcome: Outcome = Outcome.UNDECODABLE) -> None:
        super().__init__(text)
        self.outcome = outcome


def check_size(size: int, most: float) -> None:
    """Raise Undecodable if a body of this size is longer than ``most``."""
    if size > most:
        raise Undecodable("", Outcome.TOO_LARGE)


def _canonical(encoding: str | None) -> str:
    return (encoding or "").strip().lower()


def stays_encoded(encoding: str | None, accept_encoding: str | None) -> bool:
    """Whether a caller who sent this Accept-Encoding gets the body still encoded, as from qclient.

    That is any encoding that the caller asked for except gzip, which requests decodes for qclient's callers.
    """
    encoding = _canonical(encoding)
    if accept_encoding is None or encoding in ("", "identity", *_GZIP):
        return False
    asked = set()
    for part in accept_encoding.lower().split(","):
        name, _, weight = part.partition(";")
        if not _NO_WEIGHT(weight):
            asked.add(name.strip())
    return bool(asked & {encoding, "*"})


def decode(
    body: bytes, encoding: str | None, most: float, check_time: Callable[[], object] = lambda: None
) -> bytes:
    """The body decoded, at most ``most`` bytes of it.

    ``check_time`` is called regularly while gzip is decoded, and raises to end it. Raises Undecodable if the
    body does not match its Content-Encoding, which the client may not support, or is too long.
    """
    encoding = _canonical(encoding)
    if encoding in ("", "identity"):
        check_size(len(body), most)
        return body
    if encoding == "lz4":
        return _unlz4(body, most)
    if encoding in _GZIP:
        return _gunzip(body, most, check_time)
    raise Undecodable(
        f"its Content-Encoding is {encoding[:100]!r}, which the client did not ask for, and it decodes only "
        "gzip and lz4: check what a proxy between this machine and the node adds",
        Outcome.UNSUPPORTED_ENCODING,
    )


def _unlz4(body: bytes, most: float) -> bytes:
    if lz4_block is None:
        raise Undecodable(
            "its Content-Encoding is lz4, which the client did not ask for, and lz4 is not installed: "
            f"{how_to_install('lz4')}",
            Outcome.UNSUPPORTED_ENCODING,
        )
    if len(body) < _SIZE.size:
        raise Undecodable("it is too short for lz4")
    (size,) = _SIZE.unpack_from(body)
    if size > _LZ4_MOST_PER_BYTE * len(body):
        raise Undecodable(f"it claims {size} bytes, more than {len(body)} bytes of lz4 can hold")
    check_size(size, most)
    try:
        decoded: bytes = lz4_block.decompress(body)
    except (lz4_block.LZ4BlockError, ValueError) as error:
        raise Undecodable(f"it is not lz4: {error}") from error
    return decoded


def _gunzip(body: bytes, most: float, check_time: Callable[[], object]) -> bytes:
    parts: list[bytes] = []
    size = 0
    gunzip = Gunzip()
    for part in gunzip.feed(body):
        check_time()
        size += len(part)
        check_size(size, most)
        parts.append(part)
    gunzip.finish()
    return b"".join(parts)


class Gunzip:
    """gzip of any number of members, a piece at a time; raises Undecodable.

    Its time is proportional to its input and output: of the bytes after the end of a member it copies at most
    a slice, and it decodes at most a mebibyte at once.
    """

    def __init__(self) -> None:
        self._member: Any = None

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Decode the next piece; yields parts, which may be empty."""
        whole = memoryview(piece)
        member = self._member
        try:
            for start in range(0, len(whole), _SLICE):
                rest: Any = whole[start : start + _SLICE]
                while rest:
                    if member is None or member.eof:
                        member = self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
                    part = member.decompress(rest, _MOST_AT_ONCE)
                    rest = member.unused_data if member.eof else member.unconsumed_tail
                    yield part
        except zlib.error as error:
            raise Undecodable(f"it is not gzip: {error}") from error

    def finish(self) -> None:
        """Check that the last member is complete."""
        if self._member is None:
            raise Undecodable("its gzip is empty")
        if not self._member.eof:
            raise Undecodable("its gzip ends in the middle")


def compress_lz4(content: bytes) -> bytes:
    """The size in four little-endian bytes, then one raw LZ4 block; ValueError without lz4."""
    if lz4_block is None:
        raise ValueError(f"compression='lz4' needs lz4, which is not installed: {how_to_install('lz4')}")
    compressed: bytes = lz4_block.compress(content)
    return compressed
