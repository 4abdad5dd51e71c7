"""Tables that are lists of dicts: read first for what each column is, then to be written."""

from __future__ import annotations

import csv
import dataclasses
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
_TEXT: Final = str.__str__  # str() of an enum's member is its name
_NONE: Final = type(None)
_PLAIN: Final = {str: "text", bool: "boolean", int: "integer", float: "float"}
_BOOLEAN_TEXTS: Final = {True: "true", False: "false"}
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
            if names.keys() != row.keys():
                names.update(dict.fromkeys(row))
        rules.check_names(tuple(names))
        wanted = rules.check_column_types(column_types, names)
        self._plans = [_plan(name, [row.get(name) for row in rows], wanted.get(name)) for name in names]
        self.columns = tuple(Column(plan.name, plan.kind) for plan in self._plans)

    def csv(self) -> Iterator[tuple[bytes, int]]:
        """Rows as CSV, texts in quotes where they need them."""
        text = io.StringIO()
        # A lone text of spaces would be a blank line, which is no row.
        quoting: Any = csv.QUOTE_ALL if len(self.columns) == 1 else csv.QUOTE_MINIMAL
        # A field is quoted for what ends a line, so that both CR and LF are with CRLF.
        writer = csv.writer(text, quoting=quoting, lineterminator="\r\n")
        for chunk in self._chunks():
            columns = [
                list(map(_BOOLEAN_TEXTS.get, values)) if plan.kind is Kind.BOOL else values
                for plan, values in zip(self._plans, chunk, strict=True)
            ]
            for rows in _bounded(list(zip(*columns, strict=True))):
                writer.writerows(rows)
                yield text.getvalue().encode(), len(rows)
                text.seek(0)
                text.truncate()

    def json(self) -> Iterator[tuple[bytes, int]]:
        """Rows as JSON objects."""
        names = tuple(plan.name for plan in self._plans)
        first = True
        for chunk in self._chunks():
            for rows in _bounded(list(zip(*chunk, strict=True))):
                yield rules.json_rows(names, rows, first=first), len(rows)
                first = False

    def misread(self) -> set[str]:
        """The columns whose inference may be wrong: enums, texts like numbers, floats that are all whole."""
        return {plan.name for plan in self._plans if self._is_misread(plan)}

    def close(self) -> None:
        """Nothing is open."""

    def _is_misread(self, plan: _Plan) -> bool:
        values = plan.write([row.get(plan.name) for row in self._rows])
        present = [value for value in values if value is not None]
        if plan.kind is Kind.TEXT:
            return not any(present) or any(map(_misread, present))
        if plan.kind is Kind.FLOAT:
            fractions = any(value % 1 for value in present)  # that of an infinity is NaN, and true
            return len(present) == len(values) and not fractions
        return plan.kind is Kind.ENUM

    def _chunks(self) -> Iterator[list[list[Any]]]:
        """Columns of some rows, as they are written."""
        for start in range(0, len(self._rows), _ROWS_AT_A_TIME):
            rows = self._rows[start : start + _ROWS_AT_A_TIME]
            yield [plan.write([row.get(plan.name) for row in rows]) for plan in self._plans]


@dataclasses.dataclass(frozen=True, slots=True)
class _Plan:
    """How one column is written: its values to text, floats, integers, booleans and None."""

    name: str
    kind: Kind
    write: Callable[[list[Any]], list[Any]]


def _plan(name: str, values: list[Any], wanted: Kind | None) -> _Plan:
    """Look at every value of a column: what it becomes, and whether a node can have it."""
    form = _form(name, values)
    kind, write = _WRITERS[form]
    if form == "decimal" and wanted is None and _all_whole(values):
        form, kind, write = "integer", Kind.INT, int
    if wanted is Kind.FLOAT:
        if form in ("timestamp", _ZONED, "date", "time"):
            refuse(name, f"column_types: 'float' is nothing for a {form}")
        write = _as_float
    elif wanted is not None and kind is not Kind.TEXT:
        write = _plain if form == "decimal" else _text_of(write)
    kinds = set(map(type, values)) - {_NONE}
    check = _check(name, form, wanted)
    if check is not None and not (wanted is not Kind.FLOAT and _passes(kinds, values)):
        for row, value in enumerate(values, 1):
            if not _is_null(value):
                check(value, row)
    if wanted is None and kind is Kind.INT:
        _check_nulls(name, values)
    return _Plan(name, wanted or kind, _writer(kinds, write))


def _writer(kinds: set[type], write: Callable[[Any], Any]) -> Callable[[list[Any]], list[Any]]:
    """``write`` for many values; the most common columns without a call for each."""
    if (kinds <= {str} and write is _TEXT) or (kinds <= {int} and write is int):
        return list
    if kinds <= {float} and write is float:
        return lambda values: [None if value != value else value for value in values]
    return lambda values: [None if _is_null(value) else write(value) for value in values]


def _form(name: str, values: list[Any]) -> str:
    """What the values of a column are, which must be one thing."""
    kinds = set(map(type, values)) - {_NONE}
    if len(kinds) == 1 and (plain := _PLAIN.get(next(iter(kinds)))) is not None:
        return plain
    forms: dict[str, int] = {}
    for row, value in enumerate(values, 1):
        if not _is_null(value) and (form := _form_of(name, value, row)) not in forms:
            forms[form] = row
    if not forms:
        return "null"
    if forms.keys() == {"integer", "float"}:
        return "float"
    if len(forms) > 1:
        (first, first_row), (second, second_row) = list(forms.items())[:2]
        why = f"a {second}, and a {first} in row {first_row}: a column is of one type"
        refuse(name, why, row=second_row)
    return next(iter(forms))


def _all_whole(values: list[Any]) -> bool:
    """Whether decimals have no places behind the point, as of a type that has none: 5, and not 5.00."""
    exponents = (value.as_tuple().exponent for value in values if not _is_null(value))
    return all(isinstance(exponent, int) and exponent >= 0 for exponent in exponents)


def _passes(kinds: set[type], values: list[Any]) -> bool:
    """A quick look, for the most common columns, at whether each value would pass its check."""
    present = (value for value in values if value is not None)
    if kinds == {int}:
        return all(rules.INT64_MIN <= value <= rules.INT64_MAX for value in present)
    if kinds == {str}:
        return all("\0" not in value and rules.is_unicode(value) for value in present)
    return False


def _check_nulls(name: str, values: list[Any]) -> None:
    present = [value for value in values if not _is_null(value)]
    if len(present) == len(values) or (-min(present) <= rules.EXACT and max(present) <= rules.EXACT):
        return
    rows = list(enumerate(values, 1))
    null = next(row for row, value in rows if _is_null(value))
    large = next(row for row, value in rows if not _is_null(value) and abs(value) > rules.EXACT)
    rules.too_large_with_null(name, row=large, null_row=null)


def _bounded(rows: list[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    """Rows in parts of some size, as far as their texts tell it."""
    part: list[tuple[Any, ...]] = []
    size = 0
    for row in rows:
        part.append(row)
        size += sum([len(value) for value in row if isinstance(value, str)])
        if size > PIECE:
            yield part
            part, size = [], 0
    if part:
        yield part


def _is_null(value: Any) -> bool:
    if value is None:
        return True
    if isinstance(value, str | int):
        return False
    if isinstance(value, decimal.Decimal):
        return value.is_nan()
    if isinstance(value, numbers.Real | dt.datetime | dt.timedelta):
        return bool(value != value)  # NaN, and pandas' NaT
    return type(value).__name__ == "NAType"  # pandas' NA; pandas is not imported for it


def _form_of(name: str, value: Any, row: int) -> str:
    for kind, form in _FORMS:
        if isinstance(value, kind):
            zoned = isinstance(value, dt.datetime) and value.tzinfo is not None
            return _ZONED if zoned else form
    if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"):
        return "boolean"
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
            if number is not None and math.isinf(number) and any(map(str.isdigit, value)):
                rules.too_large_float(name, value, row)  # no infinity, but a number such as 1e400
            if number is not None:
                real(number, row)

    def integer(value: Any, row: int) -> None:
        if not rules.INT64_MIN <= value <= rules.INT64_MAX:
            rules.too_large_int(name, value, row)

    def real(value: Any, row: int) -> None:
        try:
            number = float(value)
        except OverflowError:
            rules.too_large_float(name, value, row)
        # An infinity that was none before is too large as well.
        if abs(number) >= rules.MOST_FLOAT and (math.isfinite(number) or value != number):
            rules.too_large_float(name, value, row)
        if wanted is None and isinstance(value, numbers.Integral) and int(float(value)) != value:
            refuse(name, f"{value} beside floats, and no float holds it", row=row)

    def exact(value: decimal.Decimal, row: int) -> None:
        if not value.is_finite():
            refuse(name, f"{value} is nothing that a node can hold", row=row)
        if wanted is None and rules.digits_of(value) > rules.MOST_DIGITS:
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


def _plain(value: decimal.Decimal) -> str:
    return f"{value:f}"


def _text_of(write: Callable[[Any], Any]) -> Callable[[Any], str]:
    def text(value: Any) -> str:
        written = write(value)
        if isinstance(written, bool):
            return _BOOLEAN_TEXTS[written]
        return repr(written).removesuffix(".0")

    return text


def _timestamp(value: dt.datetime) -> str:
    return value.isoformat(sep=" ")


def _timestamp_in_utc(value: dt.datetime) -> str:
    return value.astimezone(dt.UTC).isoformat(sep=" ")


_WRITERS: Final[dict[str, tuple[Kind, Callable[[Any], Any]]]] = {
    "null": (Kind.NULLS, str),
    "text": (Kind.TEXT, _TEXT),
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
