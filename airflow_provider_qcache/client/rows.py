"""Tables that are lists of dicts: read first for what each column is, then to be written."""

from __future__ import annotations

import csv
import datetime as dt
import decimal
import io
import math
import numbers
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.client import columns as rules
from airflow_provider_qcache.client.body import PIECE
from airflow_provider_qcache.client.columns import Column, Kind, refuse
from airflow_provider_qcache.client.errors import InvalidTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_ROWS_AT_A_TIME: Final = 1000
_misread = re.compile(rules.MISREAD, re.IGNORECASE).match

# In the order in which a value is looked at: a bool is an int, a datetime is a date.
_FORMS: Final[tuple[tuple[type, str], ...]] = (
    (str, "text"),
    (bool, "boolean"),
    (numbers.Integral, "integer"),
    (numbers.Real, "float"),
    (decimal.Decimal, "decimal"),
    (dt.datetime, "timestamp"),
    (dt.date, "date"),
    (dt.time, "time"),
    (dt.timedelta, "duration"),
)
_ZONED: Final = "timestamp with a time zone"


class RowsSource:
    """A Source of a list of dicts; a key that a row lacks is a null. Raises InvalidTable."""

    repeatable = True

    def __init__(self, rows: Sequence[Mapping[str, Any]], column_types: Mapping[str, str] | None) -> None:
        self._rows = rows
        names: dict[Any, None] = {}
        for number, row in enumerate(rows, 1):
            if not isinstance(row, Mapping):
                raise InvalidTable(f"row {number} is {type(row).__name__} and no dict", row=number)
            names.update(dict.fromkeys(row))
        rules.check_names(tuple(names))
        wanted = rules.check_column_types(column_types, names)
        self._write: dict[str, Callable[[Any], Any]] = {}
        self.columns = tuple(self._column(name, wanted.get(name)) for name in names)

    def csv(self) -> Iterator[tuple[bytes, int]]:
        """Rows as CSV, texts in quotes where they need them."""
        text = io.StringIO()
        # A lone text of spaces would be a blank line, which is no row.
        quoting: Any = csv.QUOTE_ALL if len(self.columns) == 1 else csv.QUOTE_MINIMAL
        # A field is quoted for what ends a line, so that both CR and LF are with CRLF.
        writer = csv.writer(text, quoting=quoting, lineterminator="\r\n")
        writers = dict(self._write)
        for column in self.columns:
            if column.kind is Kind.BOOL:
                writers[column.name] = _boolean_text
        rows = 0
        for start in range(0, len(self._rows), _ROWS_AT_A_TIME):
            for values in self._values(start, writers):
                writer.writerow(values)
                rows += 1
                if text.tell() > PIECE:
                    yield text.getvalue().encode(), rows
                    text.seek(0)
                    text.truncate()
                    rows = 0
        yield text.getvalue().encode(), rows

    def json(self) -> Iterator[tuple[bytes, int]]:
        """Rows as JSON objects."""
        names = tuple(self._write)
        for start in range(0, len(self._rows), _ROWS_AT_A_TIME):
            values = list(self._values(start, self._write))
            yield rules.json_rows(names, values, first=start == 0), len(values)

    def misread(self) -> set[str]:
        """The columns whose inference may be wrong: enums, texts like numbers, floats that are all whole."""
        return {column.name for column in self.columns if self._is_misread(column)}

    def _is_misread(self, column: Column) -> bool:
        write = self._write[column.name]
        given = [row.get(column.name) for row in self._rows]
        values = [write(value) for value in given if not _is_null(value)]
        if column.kind is Kind.TEXT:
            return not values or any(map(_misread, values))
        if column.kind is Kind.FLOAT:
            fractions = any(value is not None and value % 1 for value in values)  # inf % 1 is NaN, and true
            return len(values) == len(given) and not fractions
        return column.kind is Kind.ENUM

    def _values(self, start: int, writers: Mapping[str, Callable[[Any], Any]]) -> Iterator[list[Any]]:
        columns = writers.items()
        for row in self._rows[start : start + _ROWS_AT_A_TIME]:
            yield [None if _is_null(value := row.get(name)) else write(value) for name, write in columns]

    def _present(self, name: str) -> Iterator[tuple[int, Any]]:
        for number, row in enumerate(self._rows, 1):
            if not _is_null(value := row.get(name)):
                yield number, value

    def _column(self, name: str, wanted: Kind | None) -> Column:
        """Look at every value of a column: what it becomes, and whether a node can have it."""
        form = self._form(name)
        kind, write = _WRITERS[form]
        if form == "decimal" and wanted is None and self._all_whole(name):
            form, kind, write = "integer", Kind.INT, int
        if wanted is Kind.FLOAT:
            if form in ("timestamp", _ZONED, "date", "time"):
                refuse(name, f"column_types: 'float' is nothing for a {form}")
            write = _as_float
        elif wanted is not None and kind is not Kind.TEXT:
            write = _plain if form == "decimal" else _text_of(write)
        check = _check(name, form, wanted)
        if check is not None:
            for number, value in self._present(name):
                check(value, number)
        self._write[name] = write
        if wanted is None and kind is Kind.INT:
            self._check_nulls(name)
        return Column(name, wanted or kind)

    def _form(self, name: str) -> str:
        """What the values of a column are, which must be one thing."""
        forms: dict[str, int] = {}
        for number, value in self._present(name):
            form = _form_of(name, value, number)
            if form not in forms:
                forms[form] = number
        if not forms:
            return "null"
        if forms.keys() == {"integer", "float"}:
            return "float"
        if len(forms) > 1:
            (first, first_row), (second, second_row) = list(forms.items())[:2]
            why = f"a {second}, and a {first} in row {first_row}: a column is of one type"
            refuse(name, why, row=second_row)
        return next(iter(forms))

    def _all_whole(self, name: str) -> bool:
        """Whether decimals have no places behind the point, as of a type that has none: 5, and not 5.00."""
        exponents = (value.as_tuple().exponent for _, value in self._present(name))
        return all(isinstance(exponent, int) and exponent >= 0 for exponent in exponents)

    def _check_nulls(self, name: str) -> None:
        large = next((number for number, value in self._present(name) if abs(value) > rules.EXACT), None)
        if large is None:
            return
        values = enumerate((row.get(name) for row in self._rows), 1)
        null = next((number for number, value in values if _is_null(value)), None)
        if null is not None:
            rules.too_large_with_null(name, row=large, null_row=null)


def _is_null(value: Any) -> bool:
    if value is None:
        return True
    if isinstance(value, str | int):
        return False
    if isinstance(value, decimal.Decimal):
        return value.is_nan()
    if isinstance(value, numbers.Real | dt.datetime | dt.timedelta):
        return bool(value != value)  # NaN, and pandas' NaT
    return False


def _form_of(name: str, value: Any, row: int) -> str:
    for kind, form in _FORMS:
        if isinstance(value, kind):
            zoned = isinstance(value, dt.datetime) and value.tzinfo is not None
            return _ZONED if zoned else form
    return refuse(
        name, f"{type(value).__name__} is nothing that a node can hold; a text or numbers are", row=row
    )


def _check(name: str, form: str, wanted: Kind | None) -> Callable[[Any, int], None] | None:
    """What each value of a column must pass; None for nothing."""

    def text(value: str, row: int) -> None:
        if "\0" in value:
            rules.nul_in_text(name, row)
        if not rules.is_unicode(value):
            refuse(name, "a text with a lone surrogate, which is not UTF-8", row=row)
        if wanted is Kind.FLOAT:
            try:
                number = _as_float(value)
            except ValueError:
                refuse(name, f"column_types: {rules.shown_value(value)} is no float", row=row)
            if number is not None:
                real(number, row)

    def integer(value: Any, row: int) -> None:
        if not rules.INT64_MIN <= value <= rules.INT64_MAX:
            rules.too_large_int(name, value, row)

    def real(value: Any, row: int) -> None:
        if abs(value) >= rules.MOST_FLOAT and value not in (math.inf, -math.inf):
            rules.too_large_float(name, value, row)
        if wanted is None and isinstance(value, numbers.Integral) and int(float(value)) != value:
            refuse(name, f"{value} beside floats, and no float holds it", row=row)

    def exact(value: decimal.Decimal, row: int) -> None:
        if not value.is_finite():
            refuse(name, f"{value} is nothing that a node can hold", row=row)
        if wanted is None and len("".join(map(str, value.as_tuple().digits)).strip("0")) > rules.MOST_DIGITS:
            rules.too_many_digits(name, value, row)
        if wanted in (None, Kind.FLOAT):
            real(value, row)

    def clock(value: dt.time, row: int) -> None:
        if value.tzinfo is not None:
            refuse(name, "a time of day with a time zone, which is no time in UTC", row=row)

    def zoned(value: dt.datetime, row: int) -> None:
        try:
            value.astimezone(dt.UTC)
        except OverflowError:
            rules.out_of_calendar(name, row)

    if form == "integer" and wanted is not None:
        return real if wanted is Kind.FLOAT else None
    if form == "float" and wanted in (Kind.TEXT, Kind.ENUM):
        return None
    checks: dict[str, Callable[[Any, int], None]] = {
        "text": text,
        "integer": integer,
        "float": real,
        "decimal": exact,
        "time": clock,
        _ZONED: zoned,
    }
    return checks.get(form)


def _as_float(value: Any) -> float | None:
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        if not value:
            return None
        if not re.fullmatch(r"[!-^`-~]+", value):  # float() also takes spaces, underlines and other digits
            raise ValueError(value)
        number = float(value)
        return None if math.isnan(number) else number
    return float(value)


def _boolean_text(value: Any) -> str:
    return "true" if value else "false"


def _plain(value: decimal.Decimal) -> str:
    return f"{value:f}"


def _text_of(write: Callable[[Any], Any]) -> Callable[[Any], str]:
    def text(value: Any) -> str:
        written = write(value)
        if isinstance(written, bool):
            return _boolean_text(written)
        return repr(written).removesuffix(".0")

    return text


def _timestamp(value: dt.datetime) -> str:
    return value.isoformat(sep=" ")


def _timestamp_in_utc(value: dt.datetime) -> str:
    return value.astimezone(dt.UTC).isoformat(sep=" ")


_WRITERS: Final[dict[str, tuple[Kind, Callable[[Any], Any]]]] = {
    "null": (Kind.NULLS, str),
    "text": (Kind.TEXT, str.__str__),  # str() of an enum's member is its name
    "boolean": (Kind.BOOL, bool),
    "integer": (Kind.INT, int),
    "decimal": (Kind.FLOAT, float),
    "float": (Kind.FLOAT, float),
    "timestamp": (Kind.TEXT, _timestamp),
    _ZONED: (Kind.TEXT, _timestamp_in_utc),
    "date": (Kind.TEXT, dt.date.isoformat),
    "time": (Kind.TEXT, dt.time.isoformat),
    "duration": (Kind.FLOAT, dt.timedelta.total_seconds),
}
