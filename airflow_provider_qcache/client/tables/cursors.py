"""Encode the rows of DB-API cursors as CSV, with Arrow, by the rules of docs/reference/tables.md."""

from __future__ import annotations

import datetime as dt
import decimal
import math
from typing import TYPE_CHECKING, Any, Final, NoReturn

from airflow_provider_qcache.client.tables import types as rules
from airflow_provider_qcache.client.tables.types import ColumnType, refuse
from airflow_provider_qcache.client.tables.values import NAME, ZONED, form_of_type, form_of_value, is_null
from airflow_provider_qcache.extras import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

try:
    import pyarrow as pa
except ImportError as error:
    raise MissingExtra("a query that is not read by PostgreSQL's COPY needs pyarrow", "sql") from error

from airflow_provider_qcache.client.tables.arrow import TEXT, Encoder, Plan, plan_of

_NO_DECIMALS: Final = pa.decimal128(38, 1)

_ARROW: Final[dict[str, Any]] = {
    "text": TEXT,
    NAME: TEXT,
    "boolean": pa.bool_(),
    "integer": pa.int64(),
    "float": pa.float64(),
    "timestamp": pa.timestamp("us"),
    ZONED: pa.timestamp("us", tz="UTC"),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "duration": pa.duration("us"),
    "null": pa.null(),
    "decimal": _NO_DECIMALS,
}
"""The type in Arrow of each form. Of decimals it is that of nulls: the precision differs between batches."""
_WIDER: Final = {
    frozenset({"integer", "float"}): "float",
    frozenset({"integer", "decimal"}): "decimal",
    frozenset({"text", NAME}): NAME,
}
"""The form of a column that has values of these two forms."""

_NUMBERS: Final = frozenset({"integer", "decimal", "mixture"})
_MIXTURE: Final = frozenset({"integer", "float", "decimal", "text", NAME})
"""Forms that column_types can convert to text even if a column has several of them."""


class _ColumnReader:
    """One column: the form of its values so far, and the plan for encoding them."""

    def __init__(self, name: str, requested: ColumnType | None) -> None:
        self.name = name
        self._requested = requested
        self._form = "null"
        self._form_row = 0
        self.plan: Plan = plan_of(name, pa.null(), requested)

    def array(self, values: Sequence[Any], row: int) -> Any:
        """Convert a part of the column, after ``row`` rows, for ``plan``. Raises InvalidTable."""
        form = self._form_of(values, row)
        if form == NAME or (form in _NUMBERS and self._requested in (ColumnType.TEXT, ColumnType.ENUM)):
            form, values = "text", [None if is_null(value) else _written(value) for value in values]
        if self._requested is None and form != "null" and self._form not in ("null", form):
            wider = _WIDER.get(frozenset({form, self._form}))
            if wider is None:
                self._mixed(self._form, self._form_row, values, row)
            form = wider
        array = self._arrow(form, values, row)
        if self._requested is not None:
            self.plan = plan_of(self.name, array.type, self._requested)
        elif form == "decimal" and _is_whole(array.type) and self._form in ("null", "integer"):
            form = "integer"
        elif form == "decimal" == self._form:
            # Whole numbers among decimals become floats, too, as do decimals that are too long for Arrow.
            self.plan = plan_of(self.name, _NO_DECIMALS if _is_whole(array.type) else array.type, None)
        if self._requested is None and form not in ("null", self._form):
            self._change(form, array.type, row)
        return array

    def _form_of(self, values: Sequence[Any], row: int) -> str:
        """The common form of some values, which may include nulls."""
        forms: set[str] = set()
        for value_type in set(map(type, values)):
            form = form_of_type(value_type)
            if form is None:
                number = row + 1 + list(map(type, values)).index(value_type)
                why = f"{value_type.__name__} cannot be stored: cast it to a text or a number in the SQL"
                refuse(self.name, why, row=number)
            forms.add(form)
        forms.discard("null")
        if not forms:
            return "null"
        if "timestamp" in forms:
            zoned = {value.tzinfo is not None for value in values if isinstance(value, dt.datetime)}
            if True in zoned:
                forms.add(ZONED)
                if False not in zoned:
                    forms.discard("timestamp")
        if len(forms) == 1:
            return forms.pop()
        if (wider := _WIDER.get(frozenset(forms))) is not None:
            return wider
        if self._requested in (ColumnType.TEXT, ColumnType.ENUM) and forms <= _MIXTURE:
            return "mixture"
        first = form_of_value(next(value for value in values if value is not None))
        return self._mixed(first, row, values, row)

    def _mixed(self, first: str | None, first_row: int, values: Sequence[Any], row: int) -> NoReturn:
        found = ((form_of_value(value), number) for number, value in enumerate(values, row + 1))
        other, number = next((form, number) for form, number in found if form not in ("null", first))
        refuse(
            self.name,
            f"type {other}, but type {first} from row {first_row + 1} on, and a column has one type: cast it "
            f"in the SQL, or pass column_types={{{self.name!r}: 'string'}}, which stores numbers as text",
            row=number,
        )

    def _change(self, form: str, arrow_type: Any, row: int) -> None:
        """Change the plan: the values so far were nulls or integers, and these have another form."""
        if self.plan.large_row:
            later = f"type {form} from row {row + 1} on"
            why = f"an integer beyond 2**53, and {later}: a float would round it. Cast the column in the SQL"
            refuse(self.name, why, row=self.plan.large_row)
        only_nulls = self._form == "null"
        if only_nulls:
            self._form_row = row
        self._form = form
        self.plan = plan_of(self.name, arrow_type, None)
        self.plan.begin(null_row=1 if only_nulls and row else 0)

    def _arrow(self, form: str, values: Sequence[Any], row: int) -> Any:
        if form == "decimal":
            return self._decimals(values, row)
        if form == "null":
            return pa.nulls(len(values), _ARROW[self._form])
        if form == "time" and any(value is not None and value.tzinfo is not None for value in values):
            refuse(self.name, "a time of day with a time zone cannot be converted to UTC: cast it in the SQL")
        try:
            return pa.array(values, _ARROW[form])
        except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
            wants_floats = form == "integer" and self._requested is ColumnType.FLOAT
            if wants_floats and isinstance(error, OverflowError):
                return self._floats(values, row)
            self._refuse_first(form, values, row)
            raise

    def _floats(self, values: Sequence[Any], row: int) -> Any:
        """Numbers that are too large for Arrow's integers and decimals, as the nearest floats."""
        floats: list[float | None] = []
        for number, value in enumerate(values, row + 1):
            try:
                floats.append(None if value is None else float(value))
            except OverflowError:
                rules.too_large_float(self.name, value, number)
            if math.isinf(floats[-1] or 0.0):
                rules.too_large_float(self.name, value, number)
        return pa.array(floats, _ARROW["float"])

    def _decimals(self, values: Sequence[Any], row: int) -> Any:
        try:
            array = pa.array(values)
        except (pa.ArrowException, TypeError, ValueError):
            array = None
        if array is not None and pa.types.is_decimal(array.type):
            return array
        # The values include NaN, which is null, or integers.
        kept = [None if is_null(value) else decimal.Decimal(value) for value in values]
        for number, value in enumerate(kept, row + 1):
            if value is not None and not value.is_finite():
                rules.infinite_decimal(self.name, value, number)
        try:
            return pa.array(kept, None if any(value is not None for value in kept) else _NO_DECIMALS)
        except (pa.ArrowException, TypeError, ValueError):
            for number, value in enumerate(kept, row + 1):
                too_long = value is not None and rules.digits_of(value) > rules.MOST_DIGITS
                if too_long and self._requested is None:
                    rules.too_many_digits(self.name, value, number)
            return self._floats(kept, row)

    def _refuse_first(self, form: str, values: Sequence[Any], row: int) -> None:
        """Raise InvalidTable for the first value that Arrow cannot convert."""
        for number, value in enumerate(values, row + 1):
            try:
                pa.array([value], _ARROW[form])
            except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
                if form == "integer":
                    rules.too_large_int(self.name, value, number)
                cast = "cast the column in the SQL"
                reasons = {
                    "float": f"{rules.short_repr(value)} among floats, and no float can represent it: {cast}",
                    "text": rules.LONE_SURROGATE,
                    "timestamp": rules.OUT_OF_CALENDAR,
                    ZONED: rules.OUT_OF_CALENDAR,
                }
                refuse(self.name, reasons.get(form, f"{rules.short_repr(value)}: {error}"), row=number)


def _is_whole(arrow_type: Any) -> bool:
    """Whether a type is that of decimals without places."""
    return bool(pa.types.is_decimal(arrow_type) and arrow_type.scale <= 0)


def _written(value: Any) -> str:
    if isinstance(value, decimal.Decimal):
        return f"{value:f}"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return str(value)


class RowEncoder(Encoder):
    """Encodes rows in Python. A column's type follows from its values, and is known after all rows."""

    def __init__(self, names: Sequence[str], requested: Mapping[str, ColumnType]) -> None:
        self._readers = [_ColumnReader(name, requested.get(name)) for name in names]
        super().__init__([reader.plan for reader in self._readers])

    def encode(self, columns: Sequence[Sequence[Any]], keys: Sequence[int] = ()) -> tuple[bytes, list[Any]]:
        """Encode rows, passed by column; see ``Encoder``."""
        arrays = [
            reader.array(values, self.rows) for reader, values in zip(self._readers, columns, strict=True)
        ]
        self.plans = [reader.plan for reader in self._readers]
        return super().encode(pa.RecordBatch.from_arrays(arrays, [plan.name for plan in self.plans]), keys)
