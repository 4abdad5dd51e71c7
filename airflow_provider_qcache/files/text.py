"""CSV and JSON files as one table: their content is sent unchanged, and checked file by file."""

from __future__ import annotations

import contextlib
import itertools
import json
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.client.errors import InvalidTable
from airflow_provider_qcache.client.tables.checks import CsvCheck, JsonCheck, JsonRows
from airflow_provider_qcache.client.tables.content import skip_bom, split
from airflow_provider_qcache.client.tables.sniffing import Text, text_in
from airflow_provider_qcache.files.reading import check_same_columns, named, pieces_of, place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Generator, Iterator, Sequence

    from airflow_provider_qcache.files.listing import File

_LONGEST_LINE: Final = 4 << 20
"""Bytes of the longest line of JSON."""


class CsvFiles:
    """A Source of CSV files: the first one's header, and the rows of all.

    ``floats`` are the columns whose fields must be floats.

    Raises, when it is created and before each file's rows:
        InvalidTable: a file has no header, or another header than the first file.
    """

    length: int | None = None
    repeatable = True

    def __init__(self, files: Sequence[File], floats: Container[str] = ()) -> None:
        self._files = files
        self._floats = floats
        self.names: tuple[str, ...] | None = None
        for file in files:
            check = CsvCheck()
            with contextlib.closing(_rows_of(file, check)) as pieces:
                next(pieces)
            self.names = self._agreed(file, check)

    def _agreed(self, file: File, check: CsvCheck) -> tuple[str, ...]:
        """A file's columns. Raises InvalidTable unless the files before it have the same."""
        columns = check.columns or ()
        if self.names is not None:
            with named(file):
                check_same_columns(columns, self.names, self._files[0], " of its header")
        return columns

    def pieces(self, content_type: str) -> Iterator[tuple[bytes, int]]:  # noqa: ARG002  # they are CSV
        """The CSV from its start; see ``Source.pieces``."""
        ends_a_line = True
        for number, file in enumerate(self._files):
            rows, check = 0, CsvCheck(self._floats)
            pieces = _rows_of(file, check)
            first = next(pieces)
            self._agreed(file, check)
            if number == 0:
                yield check.header, 0
                ends_a_line = check.header.endswith((b"\n", b"\r"))
            start = b"" if ends_a_line else b"\n"
            for piece in itertools.chain((first,), pieces):
                if piece:
                    yield start + piece, check.rows - rows
                    rows, start, ends_a_line = check.rows, b"", piece.endswith((b"\n", b"\r"))
            yield b"", check.rows - rows


def _rows_of(file: File, check: CsvCheck) -> Generator[bytes, None, None]:
    """The bytes of a file's rows, which the check gets. It knows the header from the first piece on."""
    for piece in pieces_of(file):
        with named(file):
            rows = check.feed(piece)
        if check.columns is not None:
            yield rows
    with named(file):
        rows = check.finish()
    yield rows


class JsonFiles:
    """A Source of JSON files, each a list of objects or one object per line, as one list.

    ``inside`` yields a file's objects, with commas between them, and adds them to the rows of the table.
    Raises InvalidTable if no file has a column.
    """

    length: int | None = None
    repeatable = True
    names: tuple[str, ...] | None = None

    def __init__(self, files: Sequence[File], inside: Callable[[File, JsonRows], Iterator[bytes]]) -> None:
        self._files = files
        self._inside = inside

    def pieces(self, content_type: str) -> Iterator[tuple[bytes, int]]:  # noqa: ARG002  # they are JSON
        """The list from its start; see ``Source.pieces``."""
        rows = JsonRows()
        count = 0
        start = b"["
        begun = []
        for file in self._files:
            begun.append((file, count))
            first = True
            for piece in self._inside(file, rows):
                yield start + piece if first and piece else piece, rows.rows - count
                count = rows.rows
                if piece:
                    start, first = b",", False
        try:
            rows.finish()
        except InvalidTable as error:
            if error.row is None:
                raise
            raise InvalidTable(
                f"{error} ({place_of(error.row, begun)})", row=error.row, column=error.column
            ) from error
        yield b"]", 0


def json_list(file: File, rows: JsonRows) -> Iterator[bytes]:
    """The objects of a JSON list; see ``JsonFiles``."""
    check = JsonCheck(rows)
    for piece in skip_bom(pieces_of(file)):
        with named(file):
            try:
                objects = check.feed(piece)
            except InvalidTable as error:
                if not check.rows and text_in(piece) is Text.JSON_LINES:
                    raise InvalidTable(
                        f"{error}; for one object per line pass source_format='jsonl'", byte=error.byte
                    ) from error
                raise
        yield from split(objects)
    with named(file):
        objects = check.finish()
    yield from split(objects)


def json_lines(file: File, rows: JsonRows) -> Iterator[bytes]:
    """The objects of a file with one on each line, without blank lines; see ``JsonFiles``."""
    number = 0
    open_line = comma = b""
    for piece in itertools.chain(skip_bom(pieces_of(file)), (b"\n",)):  # which ends the last line
        *lines, last = (open_line + piece).split(b"\n") if b"\n" in piece else [open_line + piece]
        if len(last) > _LONGEST_LINE:
            line = number + len(lines) + 1
            raise InvalidTable(
                f"{file.name}: line {line} has more than {_LONGEST_LINE} bytes: write one object on each "
                "line",
                row=line,
            )
        if objects := _checked_lines(file, lines, number, rows):
            objects, comma = comma + objects, b","
        yield from split(objects)
        number, open_line = number + len(lines), last


def _checked_lines(file: File, lines: Sequence[bytes], before: int, rows: JsonRows) -> bytes:
    filled = [line for line in lines if line.strip(b" \t\r")]
    joined = b",".join(filled)
    try:
        if _count(joined, rows) != len(filled):
            raise InvalidTable("write one object on each line")  # noqa: TRY301
    except InvalidTable as error:
        for number, line in enumerate(lines, before + 1):
            if line.strip(b" \t\r") and (wrong := _wrong(line)):
                raise InvalidTable(f"{file.name}: line {number}: {wrong}", row=number) from error
        raise InvalidTable(f"{file.name}: {error}") from error
    return joined


def _count(objects: bytes, rows: JsonRows) -> int:
    """Check the objects, and return their number."""
    check = JsonCheck(rows)
    check.feed(b"[" + objects + b"]")
    check.finish()
    return check.rows


def _wrong(line: bytes) -> str | None:
    """Why a line is not a valid object, or None."""
    try:
        found: Any = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 ({error.reason})"
    except RecursionError:
        return "it is nested too deeply"
    except json.JSONDecodeError as error:
        return f"it is not JSON: {error.msg}, at character {error.pos + 1}"
    except ValueError:
        found = {}  # an integer of thousands of digits, which the check refuses
    if not isinstance(found, dict):
        return f"it is a JSON {type(found).__name__}, not an object"
    try:
        _count(line, JsonRows())
    except InvalidTable as error:
        return str(error).removeprefix("row 1: ")
    return None
