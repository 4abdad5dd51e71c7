"""Checks of content before a node can act on it.

A node drops the old table before it parses the new one, so that a store that fails destroys the old table.
These checks find content that a node would refuse or change. They take a body in pieces of any size, keep a
few hundred kilobytes at most, and end before the last piece of the body is sent.
"""

from __future__ import annotations

import codecs
import collections
import contextlib
import itertools
import json
import math
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

from airflow_provider_qcache.client.errors import InvalidTable
from airflow_provider_qcache.client.tables.sniffing import BEGINNING, advice, no_csv_in, wrong_separator_in
from airflow_provider_qcache.client.tables.types import EXACT, INT64_MAX, INT64_MIN

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

_MAX_HEADER_BYTES: Final = 1 << 20
"""Bytes within which a CSV's header must end, including blank lines before it."""
_MAX_JSON_ROW: Final = 2 << 20
"""Bytes: a row is in memory as received, joined and decoded; all memory of the check is 8 MiB."""

_MOST_DIGITS: Final = 20  # of -2**63, with its sign
_IN_NUMBERS: Final = frozenset("0123456789.eE+-")


# One field, whose quote is closed if it begins with one. As to a node's parser, a quote inside an unquoted
# field is an ordinary character.
_FIELD: Final = rb'(?:"[^"]*+(?:""[^"]*+)*+"[^,\r\n]*+|(?!")[^,\r\n]*+)'
_HEADER: Final = re.compile(rb"(" + _FIELD + rb"(?:," + _FIELD + rb")*+)(\r\n|\r|\n|\Z)").match
_HEADER_FIELDS: Final = re.compile(rb"(?:\A|,)(" + _FIELD + rb")").findall
_QUOTED_AND_REST: Final = re.compile(rb'"([^"]*+(?:""[^"]*+)*+)"(.*+)', re.DOTALL).fullmatch
_BLANK_LINES: Final = re.compile(rb"(?:[ \t]*+(?:\r\n|\r(?!\Z)|\n))*+").match
_UNSAFE_AFTER_CR: Final = re.compile(rb"\r[ \t]++[^ \t\r\n]|[\r\n][ \t]*+\r,")
# A field that begins with a quote, and the text after its closing quote; or any other field with a quote in
# it.
_INSIDE_QUOTES: Final = re.compile(rb'[^"]*+(?:""[^"]*+)*+').match
_FIELD_WITH_QUOTES: Final = re.compile(
    rb'(?:\A|(?<=[,\r\n]))(?:("[^"]*+(?:""[^"]*+)*+(?:"|\Z))([^,\r\n]*+)|([^,\r\n"]++"[^,\r\n]*+))'
)

# Plain fields: rows of them need no other check. A plain field is quoted and without line breaks, or without
# quotes. A plain number is below 10**298, and its exponent, less the digits after the point, is above
# _LEAST_EXPONENT.
_PLAIN_FIELD: Final = rb'(?:"[^"\r\n]*+(?:""[^"\r\n]*+)*+"|[^",\r\n]*+)'
_PLAIN_EXPONENT: Final = rb"(?:[eE](?:-[0-3]?|\+?1?)[0-9]{1,2}+)?+"
_PLAIN_NUMBER: Final = rb"(?:[+-]?+(?:[0-9]{1,99}+(?:\.[0-9]{0,99}+)?+%b|[iI][nN][fF]))?+" % _PLAIN_EXPONENT
_PLAIN_FLOAT: Final = rb'(?:"%b"|%b)' % (_PLAIN_NUMBER, _PLAIN_NUMBER)
_NO_BLANK_LINE: Final = rb"(?![ \t]*+[\r\n])"
_MOST_RUNS: Final = 100
"""Runs of columns, typed float or not, for which a pattern is compiled: a longer one takes too long."""
_WORTH_A_PATTERN: Final = 16 * 1024
"""Bytes from which on compiling and using a pattern is faster than checking the rows one by one."""
_LONGEST_RUN_WRITTEN_OUT: Final = 4
_FEW_BYTES: Final = 1024
_MOST_WITHOUT_PATTERN: Final = 32 * 1024
_MOST_SKIPS: Final = 31
"""The most pieces that skip the check by separators, after it failed for several pieces."""


def _fields(floats: Iterable[bool], float_field: bytes, other_field: bytes) -> list[bytes]:
    """Patterns for the fields of a row."""
    fields: list[bytes] = []
    for is_float, run in itertools.groupby(floats):
        field = float_field if is_float else other_field
        count = len(list(run))
        if count > _LONGEST_RUN_WRITTEN_OUT:
            fields.append(b"%b(?:,%b){%d}+" % (field, field, count - 1))
        else:
            fields += [field] * count
    return fields


def _plain_rows(floats: Iterable[bool]) -> Callable[[bytes, int], re.Match[bytes] | None]:
    """Compile a pattern for consecutive rows of plain fields; ``floats`` says which columns are typed float.

    Each row has all columns and is not blank, so that its only line feed is at its end.
    """
    fields = _fields(floats, _PLAIN_FLOAT, _PLAIN_FIELD)
    start = _NO_BLANK_LINE if len(fields) == 1 else b""
    return re.compile(b"(?:%b%b\r?+\n)*+" % (start, b",".join(fields))).match


def _rows_of_floats(floats: list[bool]) -> Callable[[bytes], re.Match[bytes] | None]:
    """Compile a pattern for rows whose typed floats are plain, and whose commas and line feeds end fields."""
    last = len(floats) - 1 - floats[::-1].index(True)
    fields = _fields(floats[: last + 1], b'"?+%b"?+' % _PLAIN_NUMBER, b"[^,\n]*+")
    rest = b"\r?+\n" if last == len(floats) - 1 else b",[^\n]*+\n"
    return re.compile(b"(?:%b%b)*+" % (b",".join(fields), rest)).match


_ALL: Final = bytes(range(256))
# Replacements in a field for a comma, a line end (by a blank, which a node's parser of numbers skips as well)
# and a quote.
_NO_SEPARATOR: Final = bytes.maketrans(b",\r\n", b"\x1f  ")
_NO_SIGN: Final = bytes.maketrans(b',\r\n"', b"\x1f  \x1e")
_NO_QUOTE: Final = bytes.maketrans(b'"', b"\x1e")
_AS_WRITTEN: Final = str.maketrans("\x1f\x1e", ',"')
_PLACES: Final = bytes(ord("x") if at not in b',\r\n"' else 10 if at == 13 else at for at in _ALL)
_ALL_BUT_SEPARATORS: Final = bytes(set(_ALL) - set(b",\n"))
_ALL_BUT_SIGNS: Final = bytes(set(_ALL) - set(b',\n"'))

_MOST_OF_A_NUMBER: Final = 4096
"""Bytes of the longest field that may be a float."""
_SIMPLE: Final = b"0123456789.+-,"
_SIMPLE_LENGTH: Final = 200  # no number of so many digits is beyond a float
_NUMBER: Final = re.compile(
    rb"[ \t\r\n\v\f]*+[+-]?([0-9]*+)(?:\.([0-9]*+))?(?:[eE]([+-]?[0-9]++))?[ \t\r\n\v\f]*+"
).fullmatch
_INFINITY: Final = re.compile(rb"[+-]?inf", re.IGNORECASE).fullmatch
_LEAST_EXPONENT: Final = -1021  # DBL_MIN_EXP of C's float.h


def is_float(text: bytes) -> bool:
    """Whether a node parses a field of a column typed ``float``, and as the right number.

    This is the grammar of ``xstrtod`` in pandas 0.20 (src/parser/tokenizer.c). It has no ``nan``,
    ``infinity``, ``1_000`` or ``n/a``, and blanks are not null. The exponent, less the digits after the
    point, is at least -1021, and the sum of the digits is below the largest float.
    """
    found = _NUMBER(text)
    if found is None:
        return _INFINITY(text) is not None
    whole, decimals, written = found.groups(b"")
    if not (whole or decimals) or len(written) > 9:
        return False
    exponent = int(written or b"0") - len(decimals)
    if exponent < _LEAST_EXPONENT:
        return False
    number = 0.0
    for digit in whole + decimals:
        number = number * 10.0 + (digit - ord("0"))
    power, left = 10.0, abs(exponent)
    while left:
        if left & 1:
            number = number / power if exponent < 0 else number * power
        left >>= 1
        power *= power
    return math.isfinite(number)


def _first_bad(values: list[bytes]) -> int | None:
    """The index of the first field that is neither empty nor a float, or None."""
    joined = b",".join(values)
    if not joined.translate(None, _SIMPLE) and max(map(len, values), default=0) < _SIMPLE_LENGTH:
        try:
            collections.deque(map(float, filter(None, values)), 0)
        except ValueError:
            pass
        else:
            return None
    good = {value for value in set(values) if not value or is_float(value)}
    return next((at for at, value in enumerate(values) if value not in good), None)


class CsvCheck:
    """Checks CSV as a node reads it: comma, double quote, UTF-8, LF or CRLF, without blank lines and BOM.

    docs/reference/client.md lists what it refuses. A node renames columns whose names are empty or not
    unique; uses the first row with more fields than the header as an index, and answers 500 to a later one,
    and to a field that is not a float in one of the columns ``floats``; and misreads or fails on some rows
    after a line that ends in CR alone. JSON, markup, and CSV with another separator it would read as a
    header, and drop the old table: since CSV is the default of ``post``, the caller may not have meant it.
    Rows are counted as a node counts them.

    The time is linear in the bytes. It keeps the header, one piece, and one number. A pattern, compiled for
    the header, matches rows of plain fields faster than a node reads them; only other rows are split.
    """

    def __init__(self, floats: Container[str] = ()) -> None:
        self.rows = 0
        self.columns: tuple[str, ...] | None = None
        self.header = b""
        """The bytes of the header's line, without blank lines and BOM before it. Known with ``columns``."""
        self._floats = floats
        self._float_columns: list[int] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._fed = 0
        self._beginning: bytes | None = b""
        """The first bytes, until they are checked for other formats."""
        self._head = bytearray()
        self._parse_at = 0
        """The length of ``_head`` from which on it is parsed again."""
        self._most_commas = 0
        # The row that has not ended yet: its commas, whether it is not blank, and its last field (for
        # floats).
        self._row_commas = 0
        self._row_filled = False
        self._open_field = b""
        # The place of the last byte: inside quotes, or after a separator ("\n"), a closing quote or another
        # byte.
        self._in_quotes = False
        self._before = b"\n"
        self._held = b""  # a CR at the end of a piece: an LF may follow
        self._after_cr = b""  # a CR without an LF, and the blanks around it
        # The pattern for plain rows, once it is compiled; and how many bytes to check without it if it
        # failed.
        self._plain: Callable[[bytes, int], re.Match[bytes] | None] | None = None
        self._without_pattern = 0
        # The pattern for the floats of rows that are checked by separators, and the pieces to skip that for.
        self._row_of_floats: Callable[[bytes], re.Match[bytes] | None] | None = None
        self._skips = self._skipped = 0

    def feed(self, piece: bytes) -> bytes:
        """Check the next piece of the body. Returns the bytes of rows, those after the header."""
        if self._beginning is not None:
            self._beginning += piece[: BEGINNING - len(self._beginning)]
            if len(self._beginning) == BEGINNING:
                self._check_is_csv(whole=False)
        try:
            return self._feed(piece)
        except InvalidTable:
            self._check_is_csv(whole=False)
            raise

    def _feed(self, piece: bytes) -> bytes:
        _check_utf8(self._decoder, piece, self._fed, final=False)
        self._fed += len(piece)
        if self.columns is not None:
            self._read(piece)
            return piece
        self._head += piece
        if len(self._head) < self._parse_at:
            return b""
        rows = self._read_header(final=False)
        # A header that is longer than a piece is parsed again when twice as many bytes are there.
        self._parse_at = 2 * len(self._head)
        return rows

    def finish(self) -> bytes:
        """Check that the body ends outside of quotes and has a header. Returns as ``feed``."""
        self._check_is_csv(whole=True)
        _check_utf8(self._decoder, b"", self._fed, final=True)
        rows = self._read_header(final=True) if self.columns is None else b""
        if self._held:
            self._read_rows(b"", final=True)
        if self._in_quotes:
            raise InvalidTable(
                f"the table ends inside a quoted field, in row {self.rows + 1}: close the quote, or double a "
                "quote within a field",
                row=self.rows + 1,
                byte=self._fed,
            )
        self._end_row()
        return rows

    def _check_is_csv(self, *, whole: bool) -> None:
        beginning, self._beginning = self._beginning, None
        if beginning is None:
            return
        if (found := no_csv_in(beginning, whole=whole)) is not None:
            raise InvalidTable(f"the table is not CSV but {found.value}: {advice(found)}", byte=0)

    def _read_header(self, *, final: bool) -> bytes:
        head = bytes(self._head)
        if self._fed == len(head):
            if codecs.BOM_UTF8.startswith(head) and head and not final:
                return b""
            head = head.removeprefix(codecs.BOM_UTF8)
        blank = _BLANK_LINES(head).end()  # type: ignore[union-attr]  # it matches nothing at least
        self._unsafe_cr_at(head[:blank].replace(b"\r\n", b"\n"))
        head = head[blank:]
        self._head = bytearray(head)
        start = self._fed - len(head)
        found = _HEADER(head)
        # A match that ends with the bytes may continue in the next piece.
        if found is None or (found.end() == len(head) and not final):
            if self._fed > _MAX_HEADER_BYTES:
                self._no_header()
            if final:
                raise InvalidTable(
                    "the table's header ends inside a quoted name: close the quote", byte=self._fed
                )
            return b""
        record, line_end = found.groups()
        if start + found.end() > _MAX_HEADER_BYTES:
            self._no_header()
        if not record.strip(b" \t\r\n"):
            raise InvalidTable("the table is empty: a CSV needs at least a header", byte=0)
        begin = record[:1] if record[:1] in (b" ", b"\t", b",") else b""
        if self._unsafe_cr_at(begin + b"x" + line_end.replace(b"\r\n", b"\n")) is not None:
            self._refuse_unsafe_cr(None)
        names = _names_of(record)
        self._check_names(record, names)
        self.header = record + line_end
        self.columns = tuple(names)
        self._float_columns = [at for at, name in enumerate(names) if name in self._floats]
        self._most_commas = len(names) - 1
        self._head.clear()
        rows = head[found.end() :]
        self._read(rows)
        return rows

    def _check_names(self, record: bytes, names: list[str]) -> None:
        if (wrong := wrong_separator_in(record, len(names))) is not None:
            raise InvalidTable(wrong, byte=0)
        for number, name in enumerate(names, 1):
            if not name:
                raise InvalidTable(
                    f"column {number} of the table has no name: give it one (pandas writes its index without "
                    "a name: to_csv(index=False))",
                    column="",
                )
        if len(set(names)) != len(names):
            twice = next(name for name, times in collections.Counter(names).items() if times > 1)
            raise InvalidTable(
                f"column {twice!r} is in the table's header more than once: rename one of them", column=twice
            )

    def _no_header(self) -> NoReturn:
        raise InvalidTable(
            f"the table has no header that ends within its first {_MAX_HEADER_BYTES} bytes: a CSV begins "
            "with a line of column names",
            byte=0,
        )

    def _read(self, piece: bytes) -> None:
        """Check more rows: plain rows by a pattern, and others field by field."""
        if self._plain is None and len(piece) >= _WORTH_A_PATTERN and self.columns is not None:
            floats = [name in self._floats for name in self.columns]
            if len(list(itertools.groupby(floats))) <= _MOST_RUNS:
                self._plain = _plain_rows(floats)
                self._row_of_floats = _rows_of_floats(floats) if any(floats) else None
        if self._plain is None:
            self._read_rows(piece)
            return
        at = 0
        tries_alike = self._most_commas > 0  # a row of one column has no separator, like a blank line
        while at < len(piece):
            if self._is_between_rows():
                if tries_alike:
                    tries_alike = False
                    if (end := self._read_alike(piece, at)) > at:
                        self._read_rows(piece[end:])
                        return
                end = self._plain(piece, at).end()  # type: ignore[union-attr]  # it matches nothing at least
                self.rows += piece.count(b"\n", at, end)
                if end - at > _FEW_BYTES:
                    self._without_pattern = 0
                else:
                    self._without_pattern = min(2 * self._without_pattern + _FEW_BYTES, _MOST_WITHOUT_PATTERN)
                at = end
            end = piece.find(b"\n", at + self._without_pattern) + 1 or len(piece)
            self._read_rows(piece[at:end])
            at = end

    def _read_alike(self, piece: bytes, start: int) -> int:
        """Check all whole rows from the start of a row on, only by their commas, line ends and quotes.

        If the number of quotes between two separators is even, neither separator is in quotes. So if each row
        has all its commas, and quotes only in such pairs, it has as many fields as the header. Returns the
        end of these rows, or the start if a row needs another check.
        """
        end = piece.rfind(b"\n") + 1
        if end - start <= _FEW_BYTES:
            return start
        if self._skipped < self._skips:
            self._skipped += 1
            return start
        rows = piece[start:end]
        signs = rows.translate(None, _ALL_BUT_SIGNS)
        if b'"' in signs:
            signs = signs.replace(b'""', b"")
        count = signs.count(b"\n")
        if (
            len(signs) == (self._most_commas + 1) * count  # before as much memory is allocated
            and signs == (b"," * self._most_commas + b"\n") * count
            and (b"\r" not in rows or rows.count(b"\r") == rows.count(b"\r\n"))
            and (self._row_of_floats is None or self._row_of_floats(rows).end() == len(rows))  # type: ignore[union-attr]  # it matches nothing at least
        ):
            self.rows += count
            self._without_pattern = self._skips = self._skipped = 0
            return end
        self._skips, self._skipped = min(2 * self._skips + 1, _MOST_SKIPS), 0
        return start

    def _is_between_rows(self) -> bool:
        in_row = self._row_filled or self._row_commas or self._in_quotes
        return not (in_row or self._held or self._after_cr) and self._before == b"\n"

    def _read_rows(self, piece: bytes, *, final: bool = False) -> None:
        piece, self._held = self._held + piece, b""
        if b"\r" in piece:
            if piece.endswith(b"\r") and not final:
                piece, self._held = piece[:-1], b"\r"
            piece = piece.replace(b"\r\n", b"\n")
        if not piece:
            return
        text = self._without_quoted(piece)
        unsafe_at = None
        if self._after_cr or b"\r" in text:
            unsafe_at = self._unsafe_cr_at(text)
            text = text[:unsafe_at].replace(b"\r", b"\n")
        first, line_end, text = text.partition(b"\n")
        self._go_on_with_row(first)
        if line_end:
            self._end_row()
            rows, line_end, last = text.rpartition(b"\n")
            if line_end:
                self._read_whole_rows(rows)
            self._go_on_with_row(last)
        if unsafe_at is not None:
            self._refuse_unsafe_cr(self.rows + self._row_filled + 1)

    def _go_on_with_row(self, text: bytes) -> None:
        """Check more bytes of the row that has not ended yet."""
        before = self._row_commas
        self._row_commas += text.count(b",")
        # To a node, a line is blank if it is empty or has only spaces and tabs.
        self._row_filled = self._row_filled or bool(text.strip(b" \t"))
        if self._row_commas > self._most_commas:
            self._too_wide(self.rows + 1)
        if self._float_columns:
            *fields, self._open_field = (self._open_field + text).split(b",")
            for at, field in enumerate(fields, before):
                self._check_field(at, field)
            if len(self._open_field) > _MOST_OF_A_NUMBER:
                if self._row_commas in self._float_columns:
                    self._not_a_float(self.rows + 1, self._row_commas, self._open_field)
                self._open_field = b"x"  # other columns need no check

    def _end_row(self) -> None:
        if self._row_filled:
            if self._float_columns:
                self._check_field(self._row_commas, self._open_field)
            self.rows += 1
        self._row_commas = 0
        self._row_filled = False
        self._open_field = b""

    def _read_whole_rows(self, text: bytes) -> None:
        """Check whole rows, without the last line end."""
        lines = [line for line in text.split(b"\n") if line.strip(b" \t")]
        commas = text.translate(None, _ALL_BUT_SEPARATORS).split(b"\n")
        if max(map(len, commas)) > self._most_commas:
            counts = enumerate((line.count(b",") for line in lines), self.rows + 1)
            self._too_wide(next(row for row, count in counts if count > self._most_commas))
        if self._float_columns and lines:
            self._check_floats(lines, quoted=b'"' in text)
        self.rows += len(lines)

    def _check_floats(self, lines: list[bytes], *, quoted: bool) -> None:
        rows = [line.split(b",", self._float_columns[-1] + 1) for line in lines]
        bad = []
        for column in self._float_columns:
            values = [row[column] if len(row) > column else b"" for row in rows]
            if quoted:
                values = [value.removeprefix(b'"') for value in values]
            if (at := _first_bad(values)) is not None:
                bad.append((at, column, values[at]))
        if bad:
            at, column, value = min(bad)
            self._not_a_float(self.rows + at + 1, column, value)

    def _check_field(self, column: int, field: bytes) -> None:
        if column in self._float_columns:
            value = field.removeprefix(b'"')
            if value and not is_float(value):
                self._not_a_float(self.rows + 1, column, value)

    def _not_a_float(self, row: int, column: int, value: bytes) -> NoReturn:
        name = (self.columns or ())[column]
        text = value[:60].decode(errors="replace").translate(_AS_WRITTEN)
        text += "…" if len(value) > 60 else ""
        raise InvalidTable(
            f"row {row} of the table has {text!r} in column {name!r}, which is typed float: a node would "
            "refuse the table, or store another number. Write numbers below 1.797e308 like 1.5 or 1e-5, inf, "
            "-inf, or an empty field for null.",
            row=row,
            column=name,
        )

    def _without_quoted(self, piece: bytes) -> bytes:
        """Replace each quoted field of the piece by a quote, followed by its content if floats are checked.

        Separators and quotes within a content are replaced: in the result every comma ends a field, and every
        line feed a row.
        """
        text = b""
        if self._in_quotes:
            content = _INSIDE_QUOTES(piece).group()  # type: ignore[union-attr]  # it matches nothing at least
            if self._float_columns:
                text = content.translate(_NO_SIGN)
            piece = piece[len(content) :]
            if not piece:
                return text
            self._in_quotes = False
            self._before = b'"'
            piece = piece[1:]
        if self._before == b'"' and piece[:1] not in (b'"', b""):
            self._before = b"x"  # after a closing quote the field continues as an unquoted one
        parts = piece.split(b'"')
        if len(parts) > 1 and not self._quotes_are_in_place(parts):
            before = b'""' if self._before == b'"' else self._before
            whole = before + piece
            if any(opening in whole for opening in (b',"', b'\n"', b'\r"')) or whole.startswith(b'"'):
                piece = _FIELD_WITH_QUOTES.sub(_plain_quotes, whole)[len(before) :]
            else:  # 12" and the like
                piece = piece.translate(_NO_QUOTE)
            parts = piece.split(b'"')
        self._in_quotes = len(parts) % 2 == 0
        if piece:
            end = piece[-1:]
            self._before = b"\n" if end in (b",", b"\n", b"\r") else b'"' if end == b'"' else b"x"
        if self._float_columns and len(parts) > 1:
            contents = b'"'.join(parts[1::2]).translate(_NO_SEPARATOR).replace(b'"', b'\n"').split(b"\n")
            contents[0] = b'"' + contents[0]
            parts[1::2] = contents
            return text + b"".join(parts)
        return text + b'"'.join(parts[::2]) + (b'"' if self._in_quotes else b"")

    def _quotes_are_in_place(self, parts: list[bytes]) -> bool:
        """Whether every quote opens or closes a field, or is one of two inside a field.

        ``parts`` are the texts between the quotes.
        """
        outside = self._before + b'"'.join(parts[::2]) + (b'"' if len(parts) % 2 == 0 else b"")
        places = outside.translate(_PLACES)
        return b'x"' not in places and b'"x' not in places

    def _unsafe_cr_at(self, text: bytes) -> int | None:
        """Find a CR after which a node misreads a row, in text without quoted fields and CRLF."""
        before = self._after_cr or (b"" if self._row_filled else b"\n")
        found = _UNSAFE_AFTER_CR.search(before + text)
        line = (before + text).rstrip(b" \t")
        blanks = b" " if len(line) < len(before) + len(text) else b""
        self._after_cr = b""
        if line.endswith(b"\r"):
            is_blank = line[:-1].rstrip(b" \t")[-1:] in (b"\r", b"\n")
            self._after_cr = (b"\n\r" if is_blank else b"\r") + blanks
        return None if found is None else max(0, found.start() - len(before))

    def _refuse_unsafe_cr(self, row: int | None) -> NoReturn:
        where = "the header" if row is None else f"row {row}"
        raise InvalidTable(
            f"{where} of the table begins with a space, a tab or a comma after a line that ends in CR alone, "
            "which a node misreads: end lines with LF or CR LF",
            row=row,
        )

    def _too_wide(self, row: int) -> NoReturn:
        columns = self._most_commas + 1
        raise InvalidTable(
            f"row {row} of the table has more fields than its header, which has {columns} "
            f"column{'' if columns == 1 else 's'}: put a field that contains a comma in double quotes",
            row=row,
        )


def _plain_quotes(found: re.Match[bytes]) -> bytes:
    """Rewrite a field so that each of its quotes opens or closes it, or is one of two."""
    quoted, rest, unquoted = found.groups()
    if quoted is None:
        return unquoted.translate(_NO_SIGN)
    if not rest:
        return quoted
    # The text after the closing quote belongs to the field.
    field = (quoted[1:-1] + rest).translate(_NO_SIGN)
    return b"x" if field[:1] in (b"", b" ", b"\t") else field


def _names_of(record: bytes) -> list[str]:
    names = []
    for field in _HEADER_FIELDS(record):
        quoted = _QUOTED_AND_REST(field)
        name = field if quoted is None else quoted[1].replace(b'""', b'"') + quoted[2]
        names.append(name.decode())
    return names


def _checked_int(digits: str) -> int:
    # Python refuses to parse an integer of thousands of digits.
    if len(digits) > _MOST_DIGITS or not INT64_MIN <= int(digits) <= INT64_MAX:
        shortened = digits if len(digits) <= 40 else digits[:40] + "…"
        raise InvalidTable(
            f"the integer {shortened} is outside {INT64_MIN} to {INT64_MAX}, the integers that a node "
            "returns correctly. Write the column's numbers as strings, or store the rows as dicts, CSV or "
            "Parquet with column_types 'string' for the column"
        )
    return int(digits)


def _check_utf8(decoder: codecs.IncrementalDecoder, piece: bytes, fed: int, *, final: bool) -> None:
    """Raise InvalidTable unless the piece, which follows ``fed`` bytes, continues valid UTF-8."""
    pending = decoder.getstate()[0]
    if not pending and piece.isascii():
        return
    try:
        decoder.decode(piece, final)
    except UnicodeDecodeError as error:
        at = fed - len(pending) + error.start
        raise InvalidTable(
            f"byte {at} of the table is not UTF-8 ({error.reason}): encode the table as UTF-8", byte=at
        ) from error


_Decode: TypeAlias = "Callable[[str, int], tuple[Any, int]]"
_decode_row = json.JSONDecoder().raw_decode
_decode_row_of_long_integers = json.JSONDecoder(parse_int=_checked_int).raw_decode
_DIGITS: Final = bytes(ord("0") if at in b"0123456789" else at for at in _ALL)
_LONG: Final = b"0" * 16  # no integer of fewer digits is beyond 2**53
_LONGEST: Final = b"0" * 19  # nor of fewer than these beyond 64 bits with a sign


def _long_integers_in(text: str) -> tuple[bool, bool]:
    """Whether a text may have an integer beyond 2**53, and one beyond 64 bits with a sign."""
    digits = text.encode("latin-1").translate(_DIGITS)
    return _LONG in digits, _LONGEST in digits


class JsonRows:
    """The rows of a table in one JSON list or several, of which a node would change some because of others.

    A node converts a column of integers to floats if a value is null, missing or a float, which rounds
    integers beyond 2**53. In a column with strings, booleans, lists or objects it keeps every integer.
    JsonCheck refuses integers outside signed 64 bits in any column. A node drops empty objects.
    """

    _MOST_SHAPES: Final = 1024

    def __init__(self) -> None:
        self.rows = 0
        # The number of rows for each sequence of names and types.
        self._shapes: dict[tuple[Any, ...], int] = {}
        self._present: collections.Counter[str] = collections.Counter()
        self._types: dict[str, set[type]] = {}
        # By column: the first row with such an integer, and the integer.
        self._large: dict[str, tuple[int, int]] = {}
        self._inexact: dict[str, tuple[int, int]] = {}

    def add(self, row: dict[str, Any], *, may_be_large: bool) -> None:
        """Add a row; ``may_be_large`` says whether it may have an integer beyond 2**53."""
        self.rows += 1
        shape = (*row, *map(type, row.values()))
        self._shapes[shape] = self._shapes.get(shape, 0) + 1
        if len(self._shapes) > self._MOST_SHAPES:
            self._add_shapes()
        if may_be_large:
            for name, value in row.items():
                if type(value) is int and abs(value) > EXACT:
                    self._large.setdefault(name, (self.rows, value))
                    if int(float(value)) != value:
                        self._inexact.setdefault(name, (self.rows, value))

    def _add_shapes(self) -> None:
        for shape, rows in self._shapes.items():
            half = len(shape) // 2
            for name, value_type in zip(shape[:half], shape[half:], strict=True):
                self._present[name] += rows
                self._types.setdefault(name, set()).add(value_type)
        self._shapes.clear()

    def finish(self, *, may_be_empty: bool = False) -> None:
        """Raise InvalidTable for the first column that a node would round, or a table without columns.

        With ``may_be_empty`` that is a table of empty objects only, and not one without rows.
        """
        self._add_shapes()
        if not self._types and (self.rows or not may_be_empty):
            what = "all its objects are empty" if self.rows else "the list is empty"
            raise InvalidTable(f"the table has no columns: {what}")
        for name, (row, value) in self._large.items():
            types = self._types[name]
            if types - {int, float, type(None)}:
                continue
            missing = self.rows - self._present[name]
            if missing or type(None) in types:
                without = f"{missing} rows have no value" if missing else "a row has null"
                why = f"{value}, beyond 2**53, and {without}: a node converts the column to floats and rounds"
                self._refuse(name, row, why)
            if float in types and name in self._inexact:
                inexact_row, inexact = self._inexact[name]
                why = f"{inexact} among floats, which no float can represent: a node rounds it"
                self._refuse(name, inexact_row, why)

    def _refuse(self, name: str, row: int, why: str) -> NoReturn:
        with contextlib.suppress(UnicodeError):  # a name that JSON escapes is not one character a byte
            name = name.encode("latin-1").decode()
        raise InvalidTable(
            f"row {row} of the table has in column {name!r} {why}. Write the column's numbers as strings, or "
            f"store the rows as dicts, CSV or Parquet with column_types={{{name!r}: 'string'}}",
            row=row,
            column=name,
        )


_JSON_SPACE: Final = re.compile(r"[ \t\r\n]*+").match
_NEXT_STATES: Final[dict[str, dict[str, str]]] = {
    "start": {"[": "first"},
    "first": {"]": "end"},
    "comma": {",": "next", "]": "end"},
    "next": {},
    "end": {},
}
"""The state after each character between the rows of a list."""
_BEFORE_A_ROW: Final = ("first", "next")


class JsonCheck:
    """Checks a JSON list of objects, row by row, and keeps one row at most.

    It refuses anything else, bytes that are not UTF-8, an integer outside signed 64 bits (a node refuses it,
    returns it as a negative number, or answers 500 to every query), and a row of more than 2 MiB.

    Of a whole table it also refuses what JsonRows does; with ``may_be_empty`` not the list ``[]``, a table
    without columns, which a node stores. A part of a table is added to ``rows_so_far``, which the caller
    finishes, and its rows are returned, with the commas between them.
    """

    columns = None

    def __init__(self, rows_so_far: JsonRows | None = None, *, may_be_empty: bool = True) -> None:
        self.rows = 0
        self._is_whole_table = rows_so_far is None
        self._all_rows = rows_so_far or JsonRows()
        self._may_be_empty = may_be_empty
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._fed = 0
        # A character for each byte: all that is not ASCII is within strings.
        self._unread: list[str] = []
        self._waiting = 0
        """The number of characters that are not read yet."""
        self._state = "start"
        self._retry_at = 0

    def feed(self, piece: bytes) -> bytes:
        """Check the next piece of the body. Of a part of a table, returns the rows that are complete."""
        _check_utf8(self._decoder, piece, self._fed, final=False)
        self._fed += len(piece)
        self._unread.append(piece.decode("latin-1"))
        self._waiting += len(piece)
        # A row that is longer than a piece is parsed again when twice as many characters are there.
        if self._waiting >= self._retry_at:
            return self._read(final=False)
        return b""

    def finish(self) -> bytes:
        """Check that the list is closed and nothing follows it. Returns its last rows; see ``feed``."""
        _check_utf8(self._decoder, b"", self._fed, final=True)
        rows = self._read(final=True)
        if self._state != "end":
            what = "is empty" if self._state == "start" else f"is cut off after row {self.rows}"
            raise InvalidTable(f"the table {what}: send a complete JSON list of objects", byte=self._fed)
        if self._is_whole_table:
            self._all_rows.finish(may_be_empty=self._may_be_empty)
        return rows

    def _read(self, *, final: bool) -> bytes:
        text = "".join(self._unread)
        self._unread.clear()
        may_be_large, may_be_outside = _long_integers_in(text)
        decode = _decode_row_of_long_integers if may_be_outside else _decode_row
        begin = end = at = 0
        while True:
            at = _JSON_SPACE(text, at).end()  # type: ignore[union-attr]  # it matches nothing at least
            if at == len(text):
                break
            state = _NEXT_STATES[self._state].get(text[at])
            if state is not None:
                self._state = state
                at += 1
                if state == "next":
                    end = at
            elif text[at] == "{" and self._state in _BEFORE_A_ROW:
                row_end = self._read_row(text, at, decode, may_be_large=may_be_large, final=final)
                if row_end is None:
                    break
                if self._state == "first":
                    begin = at
                at = end = row_end
                self._state = "comma"
            else:
                self._malformed(text, at)
        self._unread.append(text[at:])
        self._waiting = len(text) - at
        if at:
            self._retry_at = 0
        return b"" if self._is_whole_table else text[begin:end].encode("latin-1")

    def _read_row(
        self, text: str, at: int, decode: _Decode, *, may_be_large: bool, final: bool
    ) -> int | None:
        """Check the row that begins in the text here; returns its end, or None if that is not there yet."""
        row = self.rows + 1
        try:
            found, end = decode(text, at)
        except InvalidTable as error:
            # If the text ends with an integer that is too large, it may continue as a float.
            if final or text[-1] not in _IN_NUMBERS:
                raise InvalidTable(f"row {row}: {error}", row=row) from None
        except RecursionError:
            raise InvalidTable(
                f"row {row} of the table is nested too deeply: store nested values as text", row=row
            ) from None
        except json.JSONDecodeError as error:
            may_continue = error.msg.startswith("Unterminated string") or error.pos >= len(text) - 16
            if final or not may_continue:
                where = self._byte(text, error.pos)
                raise InvalidTable(
                    f"row {row} of the table is not JSON: {error.msg}, at byte {where}", row=row, byte=where
                ) from None
        else:
            if end - at <= _MAX_JSON_ROW:
                self.rows = row
                self._all_rows.add(found, may_be_large=may_be_large)
                return end
        if len(text) - at > _MAX_JSON_ROW:
            raise InvalidTable(
                f"row {row} of the table has more than {_MAX_JSON_ROW} bytes, the longest that is checked: "
                "store the rows as dicts, CSV or Parquet",
                row=row,
            )
        self._retry_at = 2 * (len(text) - at)
        return None

    def _byte(self, text: str, at: int) -> int:
        return self._fed - len(text) + at

    def _malformed(self, text: str, at: int) -> NoReturn:
        character = text[at : at + 4].encode("latin-1").decode("utf-8", "replace")[:1]
        found, where = repr(character), self._byte(text, at)
        how = {
            "start": f"starts with {found}",
            "comma": f"has {found} after row {self.rows} instead of ',' or ']'",
            "end": f"has {found} after the end of the list",
        }.get(self._state, f"has {found} instead of row {self.rows + 1}, an object")
        raise InvalidTable(
            f"the table {how}, at byte {where}: send a JSON list of objects",
            row=self.rows + 1 if self._state in _BEFORE_A_ROW else None,
            byte=where,
        )
