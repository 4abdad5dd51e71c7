"""CSV and JSON files as one body: what is in them goes as it is, checked file by file."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.client.checks import CsvCheck, JsonCheck, check_has_columns
from airflow_provider_qcache.client.errors import InvalidTable
from airflow_provider_qcache.files.reading import named, pieces_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from airflow_provider_qcache.files.listing import File

_JSON_END: Final = b" \t\r\n]"
_LONGEST_LINE: Final = 4 << 20
"""Bytes of a line of JSON at most; as the client has it for a row."""


class CsvFiles:
    """A CheckedBody of CSV files: the first one's header, and the rows of all.

    Raises, when it is made and before each file's rows:
        InvalidTable: a file has no header, or another one than the first.
    """

    length: int | None = None
    repeatable = True

    def __init__(self, files: Sequence[File]) -> None:
        self._files = files
        self.rows = 0
        self.columns: tuple[str, ...] | None = None
        for file in files:
            check = CsvCheck()
            with named(file), contextlib.closing(pieces_of(file)) as pieces:
                _header_and_rest(pieces, check)
                self.columns = self._agreed(check)

    def _agreed(self, check: CsvCheck) -> tuple[str, ...]:
        """A file's columns, which are those of the files before."""
        columns = check.columns or ()
        wanted = self.columns
        if wanted is None or columns == wanted:
            return columns
        first = self._files[0].name
        if len(columns) < len(wanted) and wanted[: len(columns)] == columns:
            missing = wanted[len(columns)]
            raise InvalidTable(f"column {missing!r} is not in its header, as in {first}", column=missing)
        at = next(at for at, name in enumerate(columns) if at >= len(wanted) or name != wanted[at])
        there = f"has {wanted[at]!r} there" if at < len(wanted) else "has no such column"
        raise InvalidTable(
            f"column {at + 1} of its header is {columns[at]!r}, and {first} {there}", column=columns[at]
        )

    def pieces(self) -> Iterator[bytes]:
        """The CSV from its start."""
        self.rows = 0
        ends_a_line = True
        for number, file in enumerate(self._files):
            before, check = self.rows, CsvCheck()
            pieces = pieces_of(file)
            with named(file):
                head, rest = _header_and_rest(pieces, check)
                self._agreed(check)
            if number == 0:
                yield head
                ends_a_line = head.endswith((b"\n", b"\r"))
            piece: bytes | None = rest
            while piece is not None:
                if piece:
                    self.rows = before + check.rows
                    yield b"\n" + piece if piece is rest and not ends_a_line else piece
                    ends_a_line = piece.endswith((b"\n", b"\r"))
                piece = next(pieces, None)
                if piece is not None:
                    with named(file):
                        check.feed(piece)
            with named(file):
                check.finish()
            self.rows = before + check.rows

    def close(self) -> None:
        """Nothing is open between readings."""


def _header_and_rest(pieces: Iterator[bytes], check: CsvCheck) -> tuple[bytes, bytes]:
    """The bytes of a CSV's header, and those after it that were read with it; the check has seen both.

    The check knows the header when it sees what follows its line.
    """
    head = b""
    start = fed = 0
    for piece in pieces:
        head += piece
        while check.columns is None and (end := _line_end(head, fed)):
            check.feed(head[fed:end])
            start, fed = fed, end
        if check.columns is not None:
            check.feed(head[fed:])
            return head[:start], head[start:]
    if head[fed:]:
        check.feed(head[fed:])
        start, fed = fed, len(head)
    if check.columns is None:
        check.finish()
        start = len(head)
    return head[:start], head[start:]


def _line_end(text: bytes, start: int) -> int:
    """Where the line that begins at ``start`` ends, its line break included; 0 where that is not known."""
    ends = [at for at in (text.find(b"\n", start), text.find(b"\r", start)) if at >= 0]
    if not ends:
        return 0
    end = min(ends)
    if text[end : end + 1] == b"\r":
        if end + 1 == len(text):
            return 0
        end += text[end + 1 : end + 2] == b"\n"
    return end + 1


class JsonFiles:
    """A CheckedBody of JSON files, each a list of objects or an object a line, as one list.

    ``inside`` gives a file's objects, with commas between them, the rows so far and whether one has a column.
    A file may be without, and all of them may not: InvalidTable.
    """

    length: int | None = None
    repeatable = True
    columns: tuple[str, ...] | None = None

    def __init__(
        self, files: Sequence[File], inside: Callable[[File], Iterator[tuple[bytes, int, bool]]]
    ) -> None:
        self._files = files
        self._inside = inside
        self.rows = 0

    def pieces(self) -> Iterator[bytes]:
        """The list from its start."""
        self.rows = 0
        start, has_columns = b"[", False
        for file in self._files:
            before, first = self.rows, True
            for piece, rows, columned in self._inside(file):
                self.rows = before + rows
                has_columns |= columned
                if piece:
                    yield start + piece if first else piece
                    start, first = b",", False
        check_has_columns(self.rows, has_columns=has_columns)
        yield b"]"

    def close(self) -> None:
        """Nothing is open between readings."""


def json_list(file: File) -> Iterator[tuple[bytes, int, bool]]:
    """The objects of a JSON list, without its brackets, the rows so far, and whether one has a column."""
    check = JsonCheck()
    held: bytes | None = None
    for piece in pieces_of(file):
        with named(file):
            try:
                check.feed(piece)
            except InvalidTable as error:
                if held is None and piece.lstrip().startswith(b"{"):
                    raise InvalidTable(
                        f"{error}; source_format='jsonl' reads an object on each line", byte=error.byte
                    ) from error
                raise
        if held is None:
            # The check has seen that it begins with a bracket.
            inside = piece.lstrip()[1:]
            if not inside and not piece.strip():
                continue
        else:
            inside = held + piece
        kept = inside.rstrip(_JSON_END)
        held = inside[len(kept) :]
        yield kept, check.rows, check.has_columns
    with named(file):
        check.finish()
    yield b"", check.rows, check.has_columns


def json_lines(file: File) -> Iterator[tuple[bytes, int, bool]]:
    """The objects of a file with one on each line, the rows so far, and whether one has a column.

    Blank lines are none.
    """
    rows = number = 0
    open_line = b""
    for piece in pieces_of(file):
        *lines, last = (open_line + piece).split(b"\n") if b"\n" in piece else [open_line + piece]
        if len(last) > _LONGEST_LINE:
            line = number + len(lines) + 1
            raise InvalidTable(f"{file.name}: line {line} is longer than {_LONGEST_LINE} bytes", row=line)
        joined, count, columned = _checked_lines(file, lines, number)
        yield (b"," if rows and joined else b"") + joined, rows + count, columned
        rows, number, open_line = rows + count, number + len(lines), last
    joined, count, columned = _checked_lines(file, [open_line], number)
    yield (b"," if rows and joined else b"") + joined, rows + count, columned


def _checked_lines(file: File, lines: Sequence[bytes], before: int) -> tuple[bytes, int, bool]:
    filled = [line for line in lines if line.strip(b" \t\r")]
    joined = b",".join(filled)
    try:
        check = _checked(joined)
        if check.rows != len(filled):
            raise InvalidTable("its lines are not one object each")  # noqa: TRY301
    except InvalidTable as error:
        for number, line in enumerate(lines, before + 1):
            if line.strip(b" \t\r") and (wrong := _wrong(line)):
                raise InvalidTable(f"{file.name}: line {number}: {wrong}", row=number) from error
        raise InvalidTable(f"{file.name}: {error}") from error
    return joined, len(filled), check.has_columns


def _checked(objects: bytes) -> JsonCheck:
    check = JsonCheck()
    check.feed(b"[" + objects + b"]")
    check.finish()
    return check


def _wrong(line: bytes) -> str | None:
    """What keeps a line from being an object, if anything does."""
    try:
        found: Any = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 ({error.reason})"
    except RecursionError:
        return "it is nested too deeply"
    except json.JSONDecodeError as error:
        return f"it is not JSON: {error.msg}, at character {error.pos + 1}"
    except ValueError:
        found = {}  # thousands of digits, which the check tells of
    if not isinstance(found, dict):
        return f"{type(found).__name__} where an object belongs"
    try:
        _checked(line)
    except InvalidTable as error:
        return str(error).removeprefix("row 1: ")
    return None
