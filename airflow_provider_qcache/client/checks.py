"""What is looked at before a node can act on it.

A store that fails has already destroyed the table that was there (the node drops it first), so content a node
would refuse, or silently read as something else, is found here. The checkers take a body in pieces of any
size, keep a few hundred kilobytes at most, and are done before the last piece of a body is let go.
"""

from __future__ import annotations

import codecs
import csv
import json
import operator
import re
from typing import Any, Final, NoReturn, Protocol

from airflow_provider_qcache.client.errors import InvalidKey, InvalidTable

_KEY: Final = re.compile(r"[A-Za-z0-9_-]+").fullmatch

CSV: Final = "text/csv"
JSON: Final = "application/json"

MAX_HEAD_BYTES: Final = 60 * 1024
"""The longest request head that is sent. A node hangs up, without an answer, on one over 65,536 bytes."""

_TYPES: Final = frozenset({"string", "enum", "float"})  # qcache/app.py: DatasetHandler.dtypes
_MAX_HEADER_RECORD: Final = 1 << 20
_MAX_JSON_ROW: Final = 2 << 20
"""Bytes: a row is held as it came, as it is joined and as it is decoded, in 8 MiB with everything else."""

_UINT64_MAX: Final = 2**64 - 1
_MOST_DIGITS: Final = 20  # of 2**64 - 1, and with its sign of -2**63
_IN_NUMBERS: Final = frozenset("0123456789.eE+-")


def check_key(key: Any) -> None:
    """Raise InvalidKey unless the key is one a QCache URL takes, unquoted."""
    if not isinstance(key, str) or _KEY(key) is None:
        raise InvalidKey(
            f"{key!r} is no key of QCache: only ASCII letters, digits, '-' and '_' are, one at least. "
            "Anything else is answered 404, or stored under another key."
        )


class TableCheck(Protocol):
    """A checker of one body: ``feed`` every piece, then ``finish``; both raise InvalidTable."""

    @property
    def rows(self) -> int:
        """The rows seen so far."""

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The columns' names, once they are known."""

    def feed(self, piece: bytes) -> None:
        """Look at the next piece."""

    def finish(self) -> None:
        """Look at what only the end can tell."""


# One field, closed if it opens with a quote: a quote inside an unquoted field is a character like any other,
# as it is to the node's parser.
_FIELD: Final = rb'(?:"[^"]*+(?:""[^"]*+)*+"[^,\r\n]*+|(?!")[^,\r\n]*+)'
_HEADER: Final = re.compile(
    rb"(?:[ \t]*+(?:\r\n|\r|\n))*+(" + _FIELD + rb"(?:," + _FIELD + rb")*+)(\r\n|\r|\n|\Z)"
)
_CLOSED_AT_START: Final = re.compile(rb'(\A|[,\n\r])"[^"]*+(?:""[^"]*+)*+"')
_OPEN_AT_START: Final = re.compile(rb'(?:\A|(?<=[,\n\r]))"')
_INSIDE_QUOTES: Final = re.compile(rb'[^"]*+(?:""[^"]*+)*+')
_MISREAD_AFTER_CR: Final = re.compile(rb"\r[ \t]++[^ \t\r\n]|[\r\n][ \t]*+\r,")
_AFTER_CR: Final = re.compile(rb"(?:[\r\n][ \t]*+)?\r[ \t]*+\Z")
_commas_in = operator.methodcaller("count", b",")


class CsvCheck:
    """CSV as a node reads it: comma, double quote, UTF-8, LF or CRLF, blank lines skipped, a BOM stripped.

    Refused: a body without a header, bytes that are not UTF-8, a column name that is empty or there twice (a
    node would rename it), a row with more fields than the header (the first such row would silently become an
    index, a later one is a 500), a quote that is never closed, and, after a line that ends in CR
    alone, a row that begins with a space or tab, or with a comma if that line is blank: a node misreads
    those, or fails. Rows are counted as the node counts them.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.columns: tuple[str, ...] | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._fed = 0
        self._head = b""
        self._most_commas = 0
        # The row that is not finished yet: its commas, whether it holds anything, and how its last field
        # stands.
        self._row_commas = 0
        self._row_filled = False
        self._in_field = False
        self._in_quotes = False
        self._after_quote = False
        self._after_cr = b""  # the CR, and the blanks around it, that the piece before ended with
        self._ended = False

    def feed(self, piece: bytes) -> None:
        """Look at the next piece of the body."""
        _check_utf8(self._decoder, piece, self._fed, final=False)
        self._fed += len(piece)
        if self.columns is None:
            self._head += piece
            self._read_header(final=False)
        else:
            self._read_rows(piece)

    def finish(self) -> None:
        """Look at the end: nothing half open, a header at least."""
        _check_utf8(self._decoder, b"", self._fed, final=True)
        if self.columns is None:
            self._read_header(final=True)
        if self._in_quotes and not self._after_quote:
            raise InvalidTable(
                f"the table ends inside a quoted field, in row {self.rows + 1}",
                row=self.rows + 1,
                byte=self._fed,
            )
        if self._row_filled:
            self._end_row()
        self._ended = True

    def _read_header(self, *, final: bool) -> None:
        head = self._head.removeprefix(codecs.BOM_UTF8)
        found = _HEADER.match(head)
        # A match that ends where the bytes do may go on in the next piece.
        if found is None or (found.end() == len(head) and not final):
            if len(head) > _MAX_HEADER_RECORD:
                raise InvalidTable(f"the table's header is longer than {_MAX_HEADER_RECORD} bytes", byte=0)
            if final:
                raise InvalidTable("the table's header ends inside a quoted name", byte=self._fed)
            return
        record = found.group(1)
        if not record.strip(b" \t\r\n"):
            raise InvalidTable("the table is empty: a header is wanted, at least", byte=0)
        if self._misread_at(head[: found.end()]) is not None:
            self._misread(None)
        names = _fields_of(record.decode())
        for number, name in enumerate(names, 1):
            if not name:
                raise InvalidTable(f"column {number} of the table has no name", column="")
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InvalidTable(f"column {twice!r} is in the table's header more than once", column=twice)
        self.columns = tuple(names)
        self._most_commas = len(names) - 1
        self._head = b""
        self._read_rows(head[found.end() :])

    def _read_rows(self, piece: bytes) -> None:
        if self._after_quote:
            if not piece:
                return
            self._after_quote = False
            if piece[:1] == b'"':
                piece = piece[1:]
            else:
                self._in_quotes = False
        if self._in_quotes:
            end = _INSIDE_QUOTES.match(piece).end()  # type: ignore[union-attr]  # it matches nothing at least
            if end == len(piece):
                return
            if end == len(piece) - 1:  # closed, or the first half of a doubled quote
                self._after_quote = True
                return
            self._in_quotes = False
            piece = piece[end + 1 :]
        if not piece:
            return
        if b'"' in piece:
            piece = self._without_quoted(piece)
        misread_at = None
        if self._after_cr or b"\r" in piece:
            misread_at = self._misread_at(piece)
            piece = piece[:misread_at].replace(b"\r", b"\n")
        lines = piece.split(b"\n")
        self._row_commas += lines[0].count(b",")
        # Blank lines, as the node has them, are empty or made of spaces and tabs alone.
        self._row_filled = self._row_filled or bool(lines[0].strip(b" \t"))
        if len(lines) > 1:
            if self._row_filled:
                self._end_row()
            last = lines.pop()
            del lines[0]
            if lines:
                if max(map(_commas_in, lines)) > self._most_commas:
                    self._complain(lines)
                blank = lines.count(b"")
                if b"\n " in piece or b"\n\t" in piece:
                    blank = sum(not line.strip(b" \t") for line in lines)
                self.rows += len(lines) - blank
            self._row_commas = last.count(b",")
            self._row_filled = bool(last.strip(b" \t"))
            self._in_field = bool(last) and last[-1:] != b","
        else:
            self._in_field = piece[-1:] != b","
        if self._row_commas > self._most_commas:
            self._too_wide(self.rows + 1)
        if misread_at is not None:
            self._misread(self.rows + self._row_filled + 1)

    def _misread_at(self, piece: bytes) -> int | None:
        """Where the piece, its quoted fields gone, has a CR after which a node misreads a row."""
        before = self._after_cr or (b"" if self._row_filled else b"\n")
        text = before + piece
        ended = _AFTER_CR.search(text)
        self._after_cr = ended.group() if ended is not None else b""
        found = _MISREAD_AFTER_CR.search(text)
        return None if found is None else max(0, found.start() - len(before))

    def _misread(self, row: int | None) -> NoReturn:
        where = "the header" if row is None else f"row {row}"
        raise InvalidTable(
            f"{where} of the table begins with a space, a tab or a comma after a line that ends in CR alone, "
            "which a node misreads; lines that end in LF or CR LF are safe",
            row=row,
        )

    def _without_quoted(self, piece: bytes) -> bytes:
        """The piece with every quoted field replaced by a letter, cut where a field stays open."""
        started_in_field = self._in_field
        text = b"x" + piece if started_in_field else piece
        plain = _CLOSED_AT_START.sub(rb"\1Q", text)
        still_open = _OPEN_AT_START.search(plain)
        if still_open is not None:
            self._in_quotes = True
            plain = plain[: still_open.start()] + b"Q"
        elif piece[-1:] == b'"' and plain[-1:] != b'"':
            self._in_quotes = self._after_quote = True
        return plain[1:] if started_in_field else plain

    def _end_row(self) -> None:
        self.rows += 1
        if self._row_commas > self._most_commas:
            self._too_wide(self.rows)
        self._row_commas = 0
        self._row_filled = False

    def _complain(self, lines: list[bytes]) -> None:
        row = self.rows
        for line in lines:
            row += bool(line.strip(b" \t"))
            if line.count(b",") > self._most_commas:
                self._too_wide(row)

    def _too_wide(self, row: int) -> None:
        raise InvalidTable(
            f"row {row} of the table has more fields than its header, which names {self._most_commas + 1} "
            "columns",
            row=row,
        )


def _fields_of(record: str) -> list[str]:
    """The fields of one CSV record, without csv's limit on a field's length where nothing is quoted."""
    if '"' not in record:
        return record.split(",")
    return next(csv.reader([record]))


def _checked_int(digits: str) -> int:
    # Python refuses to read an integer of thousands of digits.
    if len(digits) > _MOST_DIGITS or not -(2**63) <= int(digits) <= _UINT64_MAX:
        shortened = digits if len(digits) <= 40 else digits[:40] + "…"
        raise InvalidTable(f"{shortened} is an integer beyond what a node can hold (64 bits)")
    return int(digits)


def _check_utf8(decoder: codecs.IncrementalDecoder, piece: bytes, fed: int, *, final: bool) -> None:
    """Raise InvalidTable unless the piece after ``fed`` bytes goes on as UTF-8."""
    pending = decoder.getstate()[0]
    if not pending and piece.isascii():
        return
    try:
        decoder.decode(piece, final)
    except UnicodeDecodeError as error:
        at = fed - len(pending) + error.start
        raise InvalidTable(f"byte {at} of the table is not UTF-8 ({error.reason})", byte=at) from error


def _character(text: str, at: int) -> str:
    """The character of which ``text`` has the bytes."""
    return text[at : at + 4].encode("latin-1").decode("utf-8", "replace")[:1]


_decode_row = json.JSONDecoder(parse_int=_checked_int).raw_decode
_JSON_SPACE: Final = re.compile(r"[ \t\r\n]*+").match


class JsonCheck:
    """A JSON list of objects, row by row: what one row needs is the most that is kept.

    Refused: anything else, bytes that are not UTF-8, an integer beyond 64 bits (a 500 of the node), and a row
    of more than 2 MiB.
    """

    columns = None

    def __init__(self) -> None:
        self.rows = 0
        self.has_columns = False
        """Whether an object so far has a name in it."""
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._fed = 0
        # A character for each byte: what is no ASCII is text within quotes, whose width is none of JSON's.
        self._text = ""
        self._parts: list[str] = []
        self._waiting = 0
        self._state = "start"  # then "first", "next", "comma" and "end"
        self._wanted = 0

    def feed(self, piece: bytes) -> None:
        """Look at the next piece of the body."""
        self._decode(piece, final=False)
        # A row that is longer than a piece is tried again only when twice as much is there.
        if len(self._text) + self._waiting >= self._wanted:
            self._read(final=False)

    def finish(self) -> None:
        """Look at the end: the list is closed, and nothing follows it."""
        self._decode(b"", final=True)
        self._read(final=True)
        if self._state != "end":
            what = "is empty" if self._state == "start" else f"ends in the middle, after row {self.rows}"
            raise InvalidTable(f"the table {what}: a JSON list of objects is wanted", byte=self._fed)

    def _decode(self, piece: bytes, *, final: bool) -> None:
        _check_utf8(self._decoder, piece, self._fed, final=final)
        self._parts.append(piece.decode("latin-1"))
        self._waiting += len(piece)
        self._fed += len(piece)

    def _read(self, *, final: bool) -> None:
        text = self._text = "".join([self._text, *self._parts])
        self._parts = []
        self._waiting = 0
        at = 0
        while True:
            at = _JSON_SPACE(text, at).end()  # type: ignore[union-attr]  # it matches nothing at least
            if at == len(text):
                break
            sign = text[at]
            if self._state == "start":
                if sign != "[":
                    self._malformed(f"starts with {_character(text, at)!r}", text, at)
                self._state = "first"
                at += 1
            elif self._state == "comma":
                if sign not in ",]":
                    found = _character(text, at)
                    self._malformed(f"has {found!r} after row {self.rows} where ',' or ']' belongs", text, at)
                self._state = "next" if sign == "," else "end"
                at += 1
            elif self._state == "end":
                self._malformed(f"goes on with {_character(text, at)!r} after its end", text, at)
            elif sign == "]" and self._state == "first":
                self._state = "end"
                at += 1
            elif sign != "{":
                found = _character(text, at)
                self._malformed(
                    f"has {found!r} where row {self.rows + 1}, an object, belongs", text, at, row=True
                )
            else:
                end = self._row_end(text, at, final=final)
                if end is None:
                    break
                at = end
                self.rows += 1
                self._state = "comma"
        self._text = text[at:]
        if at:
            self._wanted = 0

    def _row_end(self, text: str, at: int, *, final: bool) -> int | None:
        row = self.rows + 1
        try:
            found, end = _decode_row(text, at)
        except InvalidTable as error:
            # What ends in a number may go on: an integer that is too large, so far, may be a float.
            if final or text[-1] not in _IN_NUMBERS:
                raise InvalidTable(f"row {row}: {error}", row=row) from None
        except RecursionError:
            raise InvalidTable(f"row {row} of the table is nested too deeply", row=row) from None
        except json.JSONDecodeError as error:
            cut = error.msg.startswith("Unterminated string") or error.pos >= len(text) - 16
            if final or not cut:
                where = self._byte(text, error.pos)
                raise InvalidTable(
                    f"row {row} of the table is not JSON: {error.msg}, at byte {where}", row=row, byte=where
                ) from None
        else:
            if end - at > _MAX_JSON_ROW:
                self._too_long(row)
            self.has_columns |= bool(found)
            return end
        if len(text) - at > _MAX_JSON_ROW:
            self._too_long(row)
        self._wanted = 2 * (len(text) - at)
        return None

    @staticmethod
    def _too_long(row: int) -> NoReturn:
        raise InvalidTable(
            f"row {row} of the table is longer than the {_MAX_JSON_ROW} bytes a row is checked up to",
            row=row,
        )

    def _byte(self, text: str, at: int) -> int:
        return self._fed - len(text) + at

    def _malformed(self, how: str, text: str, at: int, *, row: bool = False) -> None:
        where = self._byte(text, at)
        raise InvalidTable(
            f"the table {how}, at byte {where}: a JSON list of objects is wanted",
            row=self.rows + 1 if row else None,
            byte=where,
        )


class JsonTableCheck(JsonCheck):
    """The same of a whole table. Rows none of which has a column are refused: a node drops them.

    ``[]`` is a table without columns, which a node takes in the old table's place; refused as well unless it
    may be empty.
    """

    def __init__(self, *, may_be_empty: bool) -> None:
        super().__init__()
        self._may_be_empty = may_be_empty

    def finish(self) -> None:
        """Look at the end."""
        super().finish()
        if self.rows or not self._may_be_empty:
            check_has_columns(self.rows, has_columns=self.has_columns)


def check_has_columns(rows: int, *, has_columns: bool) -> None:
    """Raise InvalidTable for a JSON list that is empty, or of nothing but empty objects."""
    if not has_columns:
        what = "objects without a name in them" if rows else "an empty list"
        raise InvalidTable(f"the table has no columns: {what}")


def table_check(content_type: str, *, may_be_empty: bool = True) -> CsvCheck | JsonCheck:
    """The checker for a Content-Type, or InvalidTable for one a node answers with 415 (the table gone)."""
    if content_type == CSV:
        return CsvCheck()
    kind, _, parameters = content_type.partition(";")
    charset = re.match(r"charset=([A-Za-z0-9_-]+)", parameters.strip())  # as the node looks for it
    if kind in (CSV, JSON) and (charset is None or charset.group(1) == "utf-8"):
        return CsvCheck() if kind == CSV else JsonTableCheck(may_be_empty=may_be_empty)
    raise InvalidTable(
        f"Content-Type {content_type!r} is none a node reads: {CSV!r} and {JSON!r} are, their charset utf-8"
    )


def _pairs(header: str, value: str) -> list[tuple[str, str]]:
    pairs = []
    for part in value.split(";"):
        name, *rest = (text.strip() for text in part.split("="))
        if len(rest) != 1 or not name or not rest[0]:
            raise InvalidTable(
                f"{header}: {value!r} is malformed at {part!r}; 'name=value' is wanted, separated by ';', "
                "with no ';' at the end"
            )
        pairs.append((name, rest[0]))
    return pairs


def check_types(value: str, columns: tuple[str, ...] | None) -> None:
    """X-QCache-types: well-formed, known types, columns that exist; ``columns`` is None for JSON."""
    for name, kind in _pairs("X-QCache-types", value):
        if kind not in _TYPES:
            raise InvalidTable(
                f"X-QCache-types: {kind!r} for column {name!r} is no type; {', '.join(sorted(_TYPES))} are",
                column=name,
            )
        if columns is not None and name not in columns:
            raise InvalidTable(
                f"X-QCache-types names column {name!r}, which the table does not have", column=name
            )


def check_stand_ins(value: str, columns: tuple[str, ...] | None, *, could_be_csv: bool = False) -> None:
    """X-QCache-stand-in-columns: well-formed; a value is a number, a quoted string or a column that exists.

    ``columns`` is None for JSON, and for CSV (``could_be_csv``) whose header is not known yet. The node takes
    any other word as a string without complaint, so that a misspelled column would fill the
    stand-in with its own name.
    """
    known = set(columns or ())
    for name, source in _pairs("X-QCache-stand-in-columns", value):
        # Known before the table is looked at, unless it may be a column that the table turns out to have.
        may_be_a_column = source in known or (could_be_csv and columns is None and not _is_literal(source))
        if not source.isascii() and not may_be_a_column:
            raise InvalidTable(
                f"X-QCache-stand-in-columns: {source!r}, for {name!r}, is more than ASCII, which is a node's "
                "500",
                column=name,
            )
        if columns is not None and not _is_literal(source) and source not in known:
            raise InvalidTable(
                f"X-QCache-stand-in-columns: {source!r}, for {name!r}, is no column of the table; a string "
                "is quoted",
                column=source,
            )
        known.add(name)


def _is_literal(source: str) -> bool:
    if len(source) > 1 and source[0] == source[-1] and source[0] in "'\"":
        return True
    try:
        float(source)
    except ValueError:
        return False
    return True


def header_text(value: Any) -> str:
    """A header's value as text; bytes are latin-1, which is what a node takes them for."""
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def check_header(name: str, value: Any) -> bytes:
    """One header as it goes on the wire; ValueError for a line break or what is not latin-1."""
    text = header_text(value)
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
        raise ValueError(f"{name!r} is no name for an HTTP header")
    if re.search(r"[\r\n\0]", text):
        raise ValueError(f"the value of header {name!r} holds a line break")
    try:
        return f"{name}: {text}\r\n".encode("latin-1")
    except UnicodeEncodeError:
        # Not the value: it may be a credential.
        raise ValueError(f"the value of header {name!r} holds characters outside latin-1") from None
