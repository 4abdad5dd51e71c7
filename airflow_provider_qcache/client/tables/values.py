"""The forms of Python's values, in dicts, cursors and pandas' objects; and the Source for lists of dicts."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import ipaddress
import itertools
import math
import numbers
import operator
import re
import sys
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.client.errors import InvalidTable
from airflow_provider_qcache.client.tables import types as rules
from airflow_provider_qcache.client.tables.content import no_limit
from airflow_provider_qcache.client.tables.types import Column, ColumnType, refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_ROWS_AT_A_TIME: Final = 4096
_MOST_TEXT: Final = 512 << 10
"""Characters of texts that are encoded at a time; a row is not divided."""
_WORTH_LOADING_ARROW: Final = 1_000_000
"""Values of a table from which on pyarrow is faster even if it must be loaded first."""
_WORTH_ARROW: Final = 200
"""Values of a table from which on pyarrow is faster if it is loaded."""
_TEXTS_AT_A_TIME: Final = 64
"""Texts that are joined and checked at a time: faster than one by one, and little memory for long texts."""
_TEXT: Final = str.__str__  # str() of an enum's member is its name
_NONE: Final = type(None)
_BOOLEAN_TEXTS: Final = {True: "true", False: "false", None: ""}
_looks_like_another_type = re.compile(rules.LOOKS_LIKE_ANOTHER_TYPE, re.IGNORECASE).match

_FORMS: Final[tuple[tuple[tuple[type, ...], str], ...]] = (
    ((str,), "text"),
    ((bool,), "boolean"),
    ((numbers.Integral,), "integer"),
    ((decimal.Decimal,), "decimal"),
    ((numbers.Real,), "float"),
    ((dt.datetime,), "timestamp"),
    ((dt.date,), "date"),
    ((dt.time,), "time"),
    ((dt.timedelta,), "duration"),
    ((uuid.UUID, ipaddress._BaseAddress, ipaddress._BaseNetwork), "name"),
)
"""The forms of values. Their order matters: a bool is an int, and a datetime is a date."""

ZONED: Final = "timestamp with a time zone"
NAME: Final = "name"
"""A UUID or a network address, which is stored as text if it is a cursor's. Dicts may not contain them."""

_NUMPY_FORMS: Final = {
    "bool": "boolean",
    "bool_": "boolean",
    "datetime64": "timestamp",
    "timedelta64": "duration",  # which numpy counts among the integers
}
"""numpy's scalars that are not registered with Python's classes; by name, since numpy is not imported."""

_PLAIN: Final = {str: "text", bool: "boolean", int: "integer", float: "float"}
_SIMPLE: Final = frozenset({_NONE, str, bool, int, float, dt.datetime, dt.date, dt.time, dt.timedelta})
"""Types whose only nulls are None and NaN."""
_ALWAYS_FINE: Final = frozenset({dt.date, dt.timedelta, bool})
"""Types all of whose values can be stored."""
_TEXTS: Final = frozenset({ColumnType.TEXT, ColumnType.ENUM, ColumnType.NULLS})
_FIRST_WITH_EXPONENT: Final = 1e10
"""The float from which on Arrow writes an exponent."""

_form_of_type: dict[type, str | None] = {_NONE: "null"}


def form_of_type(value_type: type) -> str | None:
    """The form of a type's values ('null' for None), or None for a type that cannot be stored."""
    if value_type not in _form_of_type:
        _form_of_type[value_type] = next(
            (form for bases, form in _FORMS if issubclass(value_type, bases)), None
        )
    return _form_of_type[value_type]


def form_of_value(value: Any) -> str | None:
    """The form of a value; see ``form_of_type``."""
    if isinstance(value, dt.datetime) and value.tzinfo is not None:
        return ZONED
    return form_of_type(type(value))


class RowsSource(rules.TypedSource):
    """A Source of a list of dicts; a key that a row lacks is null. Raises InvalidTable.

    If pyarrow is installed and the table is large enough, pyarrow writes the CSV, else Python does, with the
    same bytes. All values are checked, by Python, when the source is created.
    """

    repeatable = True

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        column_types: Mapping[str, str] | None,
        check_time: Callable[[], object] = no_limit,
    ) -> None:
        self._rows = rows
        types: set[type] = set(map(type, rows))
        if no_dicts := {row_type for row_type in types if not issubclass(row_type, Mapping)}:
            number, row = next((at, row) for at, row in enumerate(rows, 1) if type(row) in no_dicts)
            raise InvalidTable(f"row {number} is {type(row).__name__}: every row must be a dict", row=number)
        names: dict[Any, None] = {}
        for start in range(0, len(rows), _ROWS_AT_A_TIME):
            check_time()
            names |= dict.fromkeys(itertools.chain.from_iterable(rows[start : start + _ROWS_AT_A_TIME]))
        rules.check_names(tuple(names))
        # A defaultdict, for example, would create the keys that it lacks.
        self._have_all_keys = types <= {dict} and set(map(len, rows)) == {len(names)}
        requested = rules.check_column_types(column_types, names)
        self._plans = []
        for name in names:
            check_time()
            self._plans.append(_plan(name, self._values(name, rows), requested.get(name)))
        self.columns = tuple(Column(plan.name, plan.type) for plan in self._plans)

    def wrongly_inferred(self, check_time: Callable[[], object]) -> set[str]:
        """See ``TypedSource``."""
        found = set()
        for plan in self._plans:
            check_time()
            values = plan.write(self._values(plan.name, self._rows))
            present = [value for value in values if value is not None]
            wrong = plan.type is ColumnType.ENUM
            if plan.type is ColumnType.TEXT:
                wrong = not any(present) or any(map(_looks_like_another_type, present))
            elif plan.type is ColumnType.FLOAT:
                fractions = any(value % 1 for value in present)  # that of an infinity is NaN, and true
                wrong = len(present) == len(values) and not fractions
            if wrong:
                found.add(plan.name)
        return found

    def _csv(self) -> Iterator[tuple[bytes, int]]:
        write = _csv_writer(len(self._rows) * len(self._plans))
        for columns in self._chunks():
            yield write(self._plans, columns), len(columns[0])

    def _values(self, name: Any, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
        # By column: with a tuple for each row, Python would search thousands of them for garbage.
        if self._have_all_keys:
            return list(map(operator.itemgetter(name), rows))
        return [row.get(name) for row in rows]

    def _chunks(self) -> Iterator[list[Sequence[Any]]]:
        column_types = [plan.type for plan in self._plans]
        for start in range(0, len(self._rows), _ROWS_AT_A_TIME):
            rows = self._rows[start : start + _ROWS_AT_A_TIME]
            columns = [plan.write(self._values(plan.name, rows)) for plan in self._plans]
            yield from _bounded(column_types, columns)


def _bounded(
    column_types: Sequence[ColumnType], columns: list[Sequence[Any]]
) -> Iterator[list[Sequence[Any]]]:
    """Rows, by column, in parts of a bounded number of characters."""
    rows = len(columns[0])
    texts = [values for of_type, values in zip(column_types, columns, strict=True) if of_type in _TEXTS]
    if rows > 1 and sum(sum(map(len, filter(None, values))) for values in texts) > _MOST_TEXT:
        yield from _bounded(column_types, [values[: rows // 2] for values in columns])
        yield from _bounded(column_types, [values[rows // 2 :] for values in columns])
    else:
        yield columns


def _csv_writer(values: int) -> Callable[[Sequence[ColumnPlan], Sequence[Sequence[Any]]], bytes]:
    """The function that writes a table with this number of values as CSV."""
    if values >= (_WORTH_ARROW if sys.modules.get("pyarrow") else _WORTH_LOADING_ARROW):
        try:
            from airflow_provider_qcache.client.tables.arrow import csv_of_values  # noqa: PLC0415  # an extra
        except ImportError:
            pass
        else:
            return csv_of_values
    return csv_of_values_by_python


def csv_of_values_by_python(plans: Sequence[ColumnPlan], columns: Sequence[Sequence[Any]]) -> bytes:
    """Rows, by column, of text, floats, integers, booleans and None as CSV: the bytes of pyarrow."""
    forms, fields = [], []
    for plan, values in zip(plans, columns, strict=True):
        # A node skips blank lines: a null in a single column is written as "", which is null as well.
        form, written = _fields(plan, values, null='""' if len(columns) == 1 else "")
        forms.append(form)
        fields.append(written)
    if len(columns) == 1 and plans[0].type not in _TEXTS:
        forms = ['"%s"']
    # Formatting each row takes half the time of joining its fields.
    row = ",".join(forms) + "\n"
    return "".join(map(row.__mod__, zip(*fields, strict=True))).encode()


def _fields(plan: ColumnPlan, values: Sequence[Any], null: str) -> tuple[str, Iterable[Any]]:
    """The format of a column's fields, and the values for it."""
    column_type, has_nulls = plan.type, plan.has_nulls
    if column_type is ColumnType.FLOAT:
        if not has_nulls:
            return "%s", _float_texts(values)
        texts = iter(_float_texts([value for value in values if value is not None]))
        return "%s", ["" if value is None else next(texts) for value in values]
    if column_type is ColumnType.BOOL:
        return "%s", map(_BOOLEAN_TEXTS.__getitem__, values)
    if column_type in _TEXTS:
        if '"' in "".join(filter(None, values)):
            values = [value and value.replace('"', '""') for value in values]
        if not has_nulls:
            return '"%s"', values
        return "%s", [null if value is None else f'"{value}"' for value in values]
    return "%s", ["" if value is None else value for value in values] if has_nulls else values


def _float_texts(values: Sequence[float]) -> list[str]:
    """Floats as Arrow writes them; Python's own texts if they are the same."""
    large = _FIRST_WITH_EXPONENT
    return [
        text.removesuffix(".0") if "e" not in text and -large < value < large else _float_text(value)
        for value, text in zip(values, map(repr, values), strict=True)
    ]


@dataclasses.dataclass(frozen=True, slots=True)
class ColumnPlan:
    """Converts the values of a column to text, floats, integers, booleans and None."""

    name: str
    type: ColumnType
    has_nulls: bool
    """Whether ``write`` may return None."""
    write: Callable[[Sequence[Any]], Sequence[Any]]


def _plan(name: str, values: list[Any], requested: ColumnType | None) -> ColumnPlan:
    """Return the plan for a column, and check its values. Raises InvalidTable."""
    types = set(map(type, values))
    only_simple = types <= _SIMPLE
    has_nan = only_simple and float in types and any(map(operator.ne, values, values))
    if has_nan:
        values = _without_nan(values)
        types = set(map(type, values))
    form = "float" if has_nan and types == {_NONE} else form_of(name, values, types)
    column_type, write = _WRITERS[form]
    if form == "decimal" and requested is None and _all_whole(values):
        form, column_type, write = "integer", ColumnType.INT, int
    if requested is ColumnType.FLOAT:
        if form in ("timestamp", ZONED, "date", "time"):
            refuse(name, f"column_types: 'float' cannot be used for a {form}: use 'string'")
        write = _as_float
    elif requested is not None and column_type is not ColumnType.TEXT:
        write = _plain(values) if form == "decimal" else _text_of(write)
    check = _check(name, form, requested)
    if check is not None and not (requested is not ColumnType.FLOAT and _passes(types, values)):
        for row, value in enumerate(values, 1):
            if not is_null(value):
                check(value, row)
    if requested is None and column_type is ColumnType.INT and types != {int}:
        _check_nulls(name, values)
    column = _writer(types, write, only_simple=only_simple)
    written = (lambda values: column(_without_nan(values))) if has_nan else column
    has_nulls = _NONE in types or not only_simple or write is _as_float
    return ColumnPlan(name, requested or column_type, has_nulls, written)


def _without_nan(values: Sequence[Any]) -> list[Any]:
    return [None if value != value else value for value in values]


def _writer(
    types: set[type], write: Callable[[Any], Any], *, only_simple: bool
) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """``write`` for many values of these types; for common types without a call for each value."""
    if types <= {_AS_IS.get(write), _NONE}:
        return lambda values: values
    if only_simple:
        return lambda values: [None if value is None else write(value) for value in values]
    return lambda values: [None if is_null(value) else write(value) for value in values]


def form_of(name: str, values: Sequence[Any], types: set[type]) -> str:
    """The form of a column's values, which have these types; 'null' if all are null.

    Raises InvalidTable for several forms, or for a type that cannot be stored.
    """
    others = types - {_NONE}
    if len(others) == 1 and (plain := _PLAIN.get(next(iter(others)))) is not None:
        return plain
    forms: dict[str, int] = {}
    for row, value in enumerate(values, 1):
        if not is_null(value) and (form := _form_of(name, value, row)) not in forms:
            forms[form] = row
    if not forms:
        return "null"
    if forms.keys() == {"integer", "float"}:
        return "float"
    if len(forms) > 1:
        (first, first_row), (second, second_row) = list(forms.items())[:2]
        why = f"type {second}, but type {first} in row {first_row}: a column has one type, so convert it"
        refuse(name, why, row=second_row)
    return next(iter(forms))


def _form_of(name: str, value: Any, row: int) -> str:
    if (numpy_form := _NUMPY_FORMS.get(_numpy_name(value))) is not None:
        return "date" if numpy_form == "timestamp" and value.dtype.str.endswith("[D]") else numpy_form
    form = form_of_value(value)
    if form is None or form == NAME:
        refuse(name, f"{type(value).__name__} cannot be stored: convert it to text or numbers", row=row)
    return form


def _passes(types: set[type], values: Sequence[Any]) -> bool:
    """Whether all values pass their check, decided fast for the most common types; False if unknown."""
    others = types - {_NONE}
    if others <= _ALWAYS_FINE:
        return True
    if len(others) > 1:
        return False
    present = [value for value in values if value is not None] if _NONE in types else values
    if others == {int}:
        return bool(min(present) >= rules.INT64_MIN and max(present) <= rules.INT64_MAX)
    if others == {str}:
        joined = (
            "".join(present[at : at + _TEXTS_AT_A_TIME]) for at in range(0, len(present), _TEXTS_AT_A_TIME)
        )
        return all("\0" not in text and rules.is_unicode(text) for text in joined)
    if others == {float}:
        return bool(min(present) > -rules.MOST_FLOAT and max(present) < rules.MOST_FLOAT)
    return False


def _check_nulls(name: str, values: list[Any]) -> None:
    null = next((row for row, value in enumerate(values, 1) if is_null(value)), None)
    if null is None:
        return
    for row, value in enumerate(values, 1):
        if not is_null(value) and abs(value) > rules.EXACT:
            rules.too_large_with_null(name, row=row, null_row=null)


def _all_whole(values: list[Any]) -> bool:
    """Whether no decimal has digits after the point: 5, not 5.00."""
    exponents = (value.as_tuple().exponent for value in values if not is_null(value))
    return all(isinstance(exponent, int) and exponent >= 0 for exponent in exponents)


def is_null(value: Any) -> bool:
    """Whether a value of Python, numpy or pandas is a null: None, NaN, NaT or NA."""
    if value is None:
        return True
    if isinstance(value, str | int):
        return False
    if isinstance(value, decimal.Decimal):
        return value.is_nan()
    if isinstance(value, numbers.Real | dt.datetime | dt.timedelta) or _numpy_name(value) == "datetime64":
        return bool(value != value)  # NaN, and NaT of pandas and numpy
    return type(value).__name__ == "NAType"  # pandas' NA, without importing pandas


def _numpy_name(value: Any) -> str:
    """The name of a numpy scalar's type; empty for any other value."""
    value_type = type(value)
    return value_type.__name__ if value_type.__module__ == "numpy" else ""


def _check(name: str, form: str, requested: ColumnType | None) -> Callable[[Any, int], None] | None:
    """The check for each value of a column, called with the value and its row; None for no check."""
    is_text = requested in (ColumnType.TEXT, ColumnType.ENUM)

    def text(value: str, row: int) -> None:
        if "\0" in value:
            refuse(name, rules.NUL_IN_TEXT, row=row)
        if not rules.is_unicode(value):
            refuse(name, rules.LONE_SURROGATE, row=row)
        if requested is ColumnType.FLOAT:
            try:
                number = _as_float(value)
            except ValueError:
                rules.not_a_float(name, value, row)
            if number is not None and math.isinf(number) and any(map(str.isdigit, value)):
                rules.too_large_float(name, value, row)  # a number such as 1e400
            if number is not None:
                real(number, row)

    def integer(value: Any, row: int) -> None:
        if not rules.INT64_MIN <= value <= rules.INT64_MAX:
            rules.too_large_int(name, value, row)

    def among_floats(value: Any, row: int) -> None:
        if isinstance(value, numbers.Integral):
            try:
                is_exact = int(float(value)) == value
            except OverflowError:
                is_exact = False
            if not is_exact:
                why = "among floats, and no float can represent it: convert the column's values to text"
                refuse(name, f"{rules.short_repr(int(value))} {why}", row=row)

    def real(value: Any, row: int) -> None:
        try:
            number = float(value)
        except OverflowError:
            rules.too_large_float(name, value, row)
        # A value that is infinite only as a float is too large as well.
        if abs(number) >= rules.MOST_FLOAT and (math.isfinite(number) or value != number):
            rules.too_large_float(name, value, row)
        if requested is None:
            among_floats(value, row)

    def exact(value: decimal.Decimal, row: int) -> None:
        if not value.is_finite():
            rules.infinite_decimal(name, value, row)
        exponent = value.as_tuple().exponent
        if is_text and (int(exponent) < -rules.DECIMAL_DIGITS or value.adjusted() >= rules.DECIMAL_DIGITS):
            why = f"{value} has more than {rules.DECIMAL_DIGITS} digits before or after its point"
            refuse(name, why, row=row)
        if requested is None and rules.digits_of(value) > rules.MOST_DIGITS:
            rules.too_many_digits(name, value, row)
        if requested in (None, ColumnType.FLOAT):
            real(value, row)

    def clock(value: dt.time, row: int) -> None:
        if value.tzinfo is not None:
            why = "a time of day with a time zone cannot be converted to UTC: use a datetime or text"
            refuse(name, why, row=row)

    def calendar(value: Any, row: int) -> None:
        if _numpy_name(value) and not re.match(r"(?!0000)[0-9]{4}(?:-|$)", str(value)):
            refuse(name, rules.OUT_OF_CALENDAR, row=row)

    def duration(value: Any, row: int) -> None:
        if _seconds(value) is None:
            why = f"the duration {value!r} cannot be converted to seconds: use a timedelta or a number"
            refuse(name, why, row=row)

    def zoned(value: dt.datetime, row: int) -> None:
        try:
            value.astimezone(dt.UTC)
        except OverflowError:
            refuse(name, rules.OUT_OF_CALENDAR, row=row)

    checks: dict[str, Callable[[Any, int], None] | None] = {
        "text": text,
        "integer": integer if requested is None else None if is_text else real,
        "float": among_floats if is_text else real,
        "decimal": exact,
        "timestamp": calendar,
        "date": calendar,
        "time": clock,
        "duration": duration,
        ZONED: zoned,
    }
    return checks.get(form)


def _as_float(value: Any) -> float | None:
    if isinstance(value, dt.timedelta) or _numpy_name(value) == "timedelta64":
        return _seconds(value)
    if isinstance(value, str):
        if not value:
            return None
        if not re.fullmatch(r"[!-^`-~]+", value):  # float() also accepts spaces, underscores and other digits
            raise ValueError(value)
        number = float(value)
        return None if math.isnan(number) else number
    return _float(value)


def _float(value: Any) -> float:
    if _numpy_name(value) in ("float16", "float32"):
        # 0.1, not 0.10000000149011612: its shortest digits, as Arrow writes them.
        return float(str(value.astype("float32")))
    return float(value)


def _seconds(value: Any) -> float | None:
    """A duration in seconds; None for numpy's of months, or of units below nanoseconds."""
    found = value if isinstance(value, dt.timedelta) else value.item()
    if isinstance(found, dt.timedelta):
        return found.total_seconds()
    return found / 1e9 if value.dtype.str.endswith("[ns]") else None


def _plain(values: list[Any]) -> Callable[[decimal.Decimal], str]:
    """A function that writes a column's decimals as text, with equally many digits after the point."""
    exponents = (value.as_tuple().exponent for value in values if not is_null(value))
    places = max((-exponent for exponent in exponents if isinstance(exponent, int)), default=0)
    form = f".{max(0, places)}f"
    return lambda value: format(value or abs(value), form)  # zero has no sign


def _text_of(write: Callable[[Any], Any]) -> Callable[[Any], str]:
    def text(value: Any) -> str:
        written = write(value)
        if isinstance(written, bool):
            return _BOOLEAN_TEXTS[written]
        return _float_text(written) if isinstance(written, float) else repr(written)

    return text


def _float_text(value: float) -> str:
    """A float's shortest digits, as Arrow writes them: with an exponent from 1e10 on and below 1e-6."""
    number = decimal.Decimal(repr(value))
    if not number or number.is_infinite() or -7 < number.adjusted() < 10:
        return (f"{number:f}" if number.is_finite() else repr(value)).removesuffix(".0")
    mantissa = number.scaleb(-number.adjusted()).normalize()
    return f"{mantissa:f}e{number.adjusted():+d}"


def _timestamp(value: Any) -> str:
    if isinstance(value, dt.datetime):
        return value.isoformat(sep=" ")
    if value.dtype.str[-2] in "YMWDhm":  # units without seconds
        value = value.astype("datetime64[s]")
    text = str(value).replace("T", " ")
    whole, _, fraction = text.partition(".")
    return text if fraction.strip("0") else whole


_WRITERS: Final[dict[str, tuple[ColumnType, Callable[[Any], Any]]]] = {
    "null": (ColumnType.NULLS, str),
    "text": (ColumnType.TEXT, _TEXT),
    "boolean": (ColumnType.BOOL, bool),
    "integer": (ColumnType.INT, int),
    "decimal": (ColumnType.FLOAT, float),
    "float": (ColumnType.FLOAT, _float),
    "timestamp": (ColumnType.TEXT, _timestamp),
    ZONED: (ColumnType.TEXT, lambda value: value.astimezone(dt.UTC).isoformat(sep=" ")),
    "date": (ColumnType.TEXT, lambda value: value.isoformat() if isinstance(value, dt.date) else str(value)),
    "time": (ColumnType.TEXT, dt.time.isoformat),
    "duration": (ColumnType.FLOAT, _seconds),
}
_AS_IS: Final[Mapping[Callable[[Any], Any], type]] = {_TEXT: str, int: int, _float: float, bool: bool}
"""For functions that write a value: the type whose values they do not change."""
