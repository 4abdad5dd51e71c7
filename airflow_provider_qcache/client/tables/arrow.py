"""Encode Arrow data as CSV or JSON with pyarrow, in batches of bounded size.

Frames of any library are read by the Arrow PyCapsule interface: one encoder writes them all, and no other
library is imported.
"""

from __future__ import annotations

import abc
import datetime as dt
import decimal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, TypeAlias

from airflow_provider_qcache.client.errors import InvalidTable
from airflow_provider_qcache.client.tables import types as rules
from airflow_provider_qcache.client.tables.content import no_limit
from airflow_provider_qcache.client.tables.types import Column, ColumnType, refuse
from airflow_provider_qcache.client.tables.values import form_of, is_null
from airflow_provider_qcache.extras import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from airflow_provider_qcache.client.tables.values import ColumnPlan

try:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv
except ImportError as error:
    raise MissingExtra("a frame, Arrow data, or a file of Parquet or Arrow needs pyarrow", "arrow") from error

BATCH_BYTES: Final = 4 << 20
"""Bytes of Arrow data that are encoded at a time; their CSV has about as many."""
BATCH_ROWS: Final = 1 << 15
"""Rows that are encoded at a time at most."""
_CSV: Final = pyarrow.csv.WriteOptions(include_header=False, batch_size=8192)
TEXT: Final = pa.large_string()
_YEARS: Final = (-719_162, 2_932_896)  # days of 0001-01-01 and 9999-12-31 since 1970-01-01
_PER_SECOND: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_ARROW_TYPES: Final = {
    ColumnType.TEXT: TEXT,
    ColumnType.ENUM: TEXT,
    ColumnType.FLOAT: pa.float64(),
    ColumnType.INT: pa.int64(),
    ColumnType.BOOL: pa.bool_(),
    ColumnType.NULLS: TEXT,
}
"""The Arrow type of a column once its values are converted."""
_PLAIN: Final = frozenset(
    {type(None), str, bool, int, float, decimal.Decimal, dt.datetime, dt.date, dt.time, dt.timedelta}
)
"""Types of values that pyarrow can convert."""
_EXACT_NUMBERS: Final = frozenset({int, decimal.Decimal})
"""Types that pyarrow converts correctly in one column. It reads a number beside a time as microseconds since
1970, and drops the time of a datetime beside a date."""

_Step: TypeAlias = Callable[[str, Any, int], Any]
"""Converts a column of a batch; takes its name, its array, and the number of rows before the batch."""


class ArrowSource(rules.TypedSource):
    """A Source of Arrow data of one schema. Raises InvalidTable if the schema cannot be stored."""

    def __init__(self, schema: Any, column_types: Mapping[str, str] | None) -> None:
        try:
            rules.check_names(schema.names)
            self._plans = plans_of(schema, rules.check_column_types(column_types, schema.names))
        except UnicodeDecodeError:
            why = "the name of a column or of a time zone is not UTF-8"
            raise InvalidTable(f"the table's schema cannot be read: {why}") from None
        self.columns = tuple(Column(plan.name, plan.type) for plan in self._plans)

    @abc.abstractmethod
    def _parts(self) -> Iterator[Any]:
        """The table from its start, as valid batches of bounded size."""

    def _csv(self) -> Iterator[tuple[bytes, int]]:
        for row, batch in self._batches():
            yield csv_of(batch, row), batch.num_rows

    def _chunks(self) -> Iterator[list[Sequence[Any]]]:
        for row, batch in self._batches():
            _check_nul(batch, row)
            yield [_for_json(array).to_pylist() for array in batch.columns]

    def wrongly_inferred(self, check_time: Callable[[], object]) -> set[str]:
        """See ``TypedSource``."""
        suspects = rules.typed(self.columns)
        found = {name for name, arrow_type in suspects.items() if arrow_type is ColumnType.ENUM}
        sure = set()
        for _, batch in self._batches(check_time):
            for name in suspects.keys() - found:
                check_time()
                array = batch.column(name)
                if suspects[name] is ColumnType.TEXT:
                    if _any(pc.match_substring_regex(array, rules.LOOKS_LIKE_ANOTHER_TYPE, ignore_case=True)):
                        found.add(name)
                    elif _any(pc.not_equal(array, "")):
                        sure.add(name)
                elif array.null_count or _any(pc.not_equal(pc.floor(array), array)):
                    sure.add(name)
        return found | (suspects.keys() - sure)

    def _batches(self, check_time: Callable[[], object] = no_limit) -> Iterator[tuple[int, Any]]:
        """Yield converted batches, each with the number of rows before it."""
        for plan in self._plans:
            plan.begin()
        rows = 0
        for part in self._parts():
            yield rows, converted(self._plans, part, rows, check_time)
            rows += part.num_rows


class FrameSource(ArrowSource):
    """A Source of Arrow data of another library. Raises TypeError if it is not a table."""

    def __init__(
        self, table: Any, column_types: Mapping[str, str] | None, check_time: Callable[[], object] = no_limit
    ) -> None:
        _check_polars(table)
        self._table = _with_plain_objects(_with_index_as_columns(table), check_time)
        check_time()
        # A stream may be readable only once. An object with a length is in memory, and so is an array.
        self.repeatable = hasattr(type(table), "__len__") or not hasattr(table, "__arrow_c_stream__")
        self._reader: Any = _open(self._table)
        self._begun = False
        try:
            super().__init__(self._reader.schema, column_types)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the open stream."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _parts(self) -> Iterator[Any]:
        if self._begun:
            self.close()
            self._reader = _open(self._table)
        self._begun = True
        for batch in valid(_read(self._reader)):
            yield from bounded(batch)
        self.close()


def valid(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches, each fully validated before it is read. Raises InvalidTable, which names the column.

    Offsets and indices from another library or a file may lead out of their buffers: pyarrow would read other
    memory of this process.
    """
    dictionaries: dict[int, Any] = {}
    rows = 0
    for batch in batches:
        try:
            batch.validate()
        except pa.ArrowException as error:
            raise InvalidTable(f"a batch of the table is not valid Arrow data: {error}") from error
        for at, (name, array) in enumerate(zip(batch.schema.names, batch.columns, strict=True)):
            if _is_dictionary(array):
                # Many batches often have the same dictionary, which is larger than each of them.
                known = dictionaries.get(at)
                if known is None or _memory(known) != _memory(array.dictionary):
                    _validate(name, array.dictionary)
                    dictionaries[at] = array.dictionary
                _validate(name, array.indices)
                _check_indices(name, array, rows)
            else:
                _validate(name, array, rows)
        yield batch
        rows += batch.num_rows


def _memory(array: Any) -> tuple[Any, ...]:
    """What two arrays have in common that use the same memory, while both are referenced."""
    buffers = [buffer and (buffer.address, buffer.size) for buffer in array.buffers()]
    return array.type, array.offset, len(array), buffers


def _validate(name: str, array: Any, row: int | None = None) -> None:
    """Raise InvalidTable for an array that is not valid; ``row`` is the number of rows before it."""
    types = pa.types
    try:
        array.validate()
        if types.is_date(array.type) or types.is_time(array.type):
            # As numbers: each value is checked when it is converted.
            array = array.view(pa.int32() if array.type.bit_width == 32 else pa.int64())
        array.validate(full=True)
    except pa.ArrowException as error:
        if is_text(array.type):
            _refuse_bytes(name, array, row)
        raise InvalidTable(f"column {name!r} is not valid Arrow data: {error}", column=name) from error


def _refuse_bytes(name: str, array: Any, row: int | None) -> None:
    """Raise InvalidTable for texts whose only fault is that they are not UTF-8."""
    bytes_types = {pa.string(): pa.binary(), TEXT: pa.large_binary(), pa.string_view(): pa.binary_view()}
    values = array.view(bytes_types[array.type])
    try:
        values.validate(full=True)
    except pa.ArrowException:
        return
    for number, value in enumerate(values.to_pylist(), 1):
        try:
            (value or b"").decode()
        except UnicodeDecodeError:
            why = "the text is not UTF-8: decode it correctly, or remove it"
            refuse(name, why, row=None if row is None else row + number)


def _check_indices(name: str, array: Any, row: int) -> None:
    bounds = pc.min_max(array.indices).as_py()
    words = len(array.dictionary)
    if bounds["min"] is not None and (bounds["min"] < 0 or bounds["max"] >= words):
        indices = array.indices.cast(pa.int64(), safe=False)
        beyond = pc.or_(pc.less(indices, 0), pc.greater_equal(indices, words))
        refuse(name, "an index is not in the column's dictionary", row=row + 1 + _first(beyond))


def converted(
    plans: Sequence[Plan], batch: Any, row: int, check_time: Callable[[], object] = no_limit
) -> Any:
    """Convert a batch, which ``row`` rows precede, by its columns' plans. Raises InvalidTable."""
    arrays = []
    for plan, array in zip(plans, batch.columns, strict=True):
        check_time()
        arrays.append(plan.convert(array, row))
    return pa.RecordBatch.from_arrays(arrays, [plan.name for plan in plans])


def csv_of(batch: Any, row: int) -> bytes:
    """Encode a converted batch, after ``row`` rows, as CSV. Raises InvalidTable for a text with a NUL."""
    data = _csv_of(batch)
    if b"\0" in data:
        _check_nul(batch, row)
    return data


class Encoder:
    """Encodes batches of one table as CSV, by a plan for each column. Raises InvalidTable."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        self.plans = plans
        self.rows = 0

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns with their types."""
        return tuple(Column(plan.name, plan.type) for plan in self.plans)

    def encode(self, batch: Any, keys: Sequence[int] = ()) -> tuple[bytes, list[Any]]:
        """Return a batch as CSV, and for each row the texts of the columns at ``keys``."""
        texts = converted(self.plans, batch, self.rows)
        data = csv_of(texts, self.rows)
        self.rows += texts.num_rows
        return data, list(zip(*(texts.column(key).cast(TEXT).to_pylist() for key in keys), strict=True))


def csv_of_values(plans: Sequence[ColumnPlan], columns: Sequence[Sequence[Any]]) -> bytes:
    """Rows, by column, of text, floats, integers, booleans and None as CSV."""
    arrays = [pa.array(values, _ARROW_TYPES[plan.type]) for plan, values in zip(plans, columns, strict=True)]
    return _csv_of(pa.RecordBatch.from_arrays(arrays, names=[""] * len(arrays)))


def _library_of(table: Any, library: str, name: str) -> Any:
    """The library if the table is an instance of this class of it, else None; imports nothing."""
    module = sys.modules.get(library)
    # While another thread imports the library, it has no class yet.
    return module if isinstance(table, getattr(module, name, ())) else None


def _with_index_as_columns(table: Any) -> Any:
    """The table; of a pandas frame, named index levels become its first columns, and unnamed ones go."""
    pandas = _library_of(table, "pandas", "DataFrame")
    if pandas is None:
        return table
    names = [name for name in table.index.names if name is not None]
    if not names:
        return table if isinstance(table.index, pandas.RangeIndex) else table.reset_index(drop=True)
    try:
        if len(names) == len(table.index.names):
            return table.reset_index()
        return table.reset_index(level=names).reset_index(drop=True)
    except ValueError as error:
        raise InvalidTable(f"the frame's index cannot become columns: {error}: rename or drop it") from error


def _with_plain_objects(table: Any, check_time: Callable[[], object]) -> Any:
    """A pandas frame whose object columns contain only values that pyarrow can convert.

    A numpy.datetime64 before another numpy scalar, even in a list, crashes pyarrow (SIGSEGV). Raises
    InvalidTable for a column of several types, or of values that cannot be stored.
    """
    pandas = _library_of(table, "pandas", "DataFrame")
    if pandas is None:
        return table
    nulls = {type(None), type(pandas.NA), type(pandas.NaT)}
    plain = _PLAIN | {pandas.Timestamp, pandas.Timedelta}
    frame = table
    for at, (name, dtype) in enumerate(zip(table.columns, table.dtypes, strict=True)):
        check_time()
        is_category = isinstance(dtype, pandas.CategoricalDtype)
        if str(dtype.categories.dtype if is_category else dtype) != "object":
            continue
        values = (dtype.categories if is_category else table.iloc[:, at]).tolist()
        types = set(map(type, values)) - nulls
        if types <= plain and (len(types) < 2 or types <= _EXACT_NUMBERS):
            continue
        try:
            form_of(str(name), values, set(map(type, values)))
        except InvalidTable as error:
            if not is_category:
                raise
            why = "its categories have several types, or a type that cannot be stored: convert them to text"
            raise InvalidTable(f"column {str(name)!r}: {why}", column=str(name)) from error
        if not is_category:
            values = [None if is_null(value) else value for value in values]
            frame = table.copy(deep=False) if frame is table else frame
            frame.isetitem(at, pandas.Series(values, index=table.index, dtype=object))
    return frame


def _check_polars(table: Any) -> None:
    """Raise InvalidTable for a column that polars must not convert to Arrow.

    A name with a NUL, also of a field in a nested type, ends the process, and objects become their addresses.
    """
    fields: Mapping[str, Any] = {}
    if _library_of(table, "polars", "DataFrame"):
        fields = table.schema
    elif polars := _library_of(table, "polars", "Series"):
        rules.check_name(table.name)
        fields = table.struct.schema if table.dtype == polars.Struct else {}
    for name, dtype in fields.items():
        rules.check_name(name)
        if dtype.is_nested() or dtype == sys.modules["polars"].Object:
            refuse(name, f"{rules.short_repr(dtype)} cannot be stored: convert it to text or numbers")


def _open(table: Any) -> Any:
    if isinstance(table, pa.RecordBatchReader):
        return table
    if isinstance(table, pa.Table):
        return table.to_reader()
    try:
        if hasattr(table, "__arrow_c_stream__"):
            return pa.RecordBatchReader.from_stream(table)
        batch = pa.record_batch(table)
        return pa.RecordBatchReader.from_batches(batch.schema, [batch])
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        if "non-struct" in str(error):
            why = f"{type(table).__name__} is a single column, not a table: pass a DataFrame"
            raise TypeError(why) from error
        name = _unconvertible(table)
        where = "the table" if name is None else f"column {name!r}"
        raise InvalidTable(f"{where} cannot be converted to Arrow: {error}", column=name) from error


def _read(reader: Any) -> Iterator[Any]:
    """The batches of a stream of another library."""
    try:
        yield from reader
    except pa.ArrowException as error:
        raise InvalidTable(f"the table's stream failed: {error}") from error


def _unconvertible(table: Any) -> str | None:
    """The column that a frame cannot convert, or None if it is not found."""
    for name in getattr(table, "columns", ()):
        try:
            pa.RecordBatchReader.from_stream(table[[name]])
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            return str(name)
        except Exception:  # noqa: BLE001  # a library of another arrow_type: no column is named
            return None
    return None


def bounded(batch: Any) -> Iterator[Any]:
    """Split a batch into parts of bounded size; string views become strings, whose size is known."""
    arrays = [_with_words(array) for array in batch.columns]
    views = [at for at, array in enumerate(arrays) if array.type == pa.string_view()]
    texts = sum(buffer.size for at in views for buffer in arrays[at].buffers()[2:] if buffer)
    rows = max(1, min(BATCH_ROWS, BATCH_BYTES * batch.num_rows // max(1, texts)))
    words = {at: _sizes(array.dictionary) for at, array in enumerate(arrays) if _is_dictionary(array)}
    for start in range(0, batch.num_rows, rows):
        parts = [array.slice(start, rows) for array in arrays]
        for at in views:
            parts[at] = with_offsets(parts[at])
        written_out = [sizes.take(parts[at].indices) for at, sizes in words.items()]
        yield from _halved(pa.RecordBatch.from_arrays(parts, batch.schema.names), written_out)


def _with_words(array: Any) -> Any:
    """A dictionary with no more words than the array has rows, as strings if they are views."""
    if _is_dictionary(array) and len(array.dictionary) > len(array):  # many batches may share a dictionary
        used = array.indices.dictionary_encode()
        array = pa.DictionaryArray.from_arrays(used.indices, array.dictionary.take(used.dictionary))
    if _is_dictionary(array) and array.dictionary.type == pa.string_view():
        return pa.DictionaryArray.from_arrays(array.indices, with_offsets(array.dictionary))
    return array


def _is_dictionary(array: Any) -> bool:
    return bool(pa.types.is_dictionary(array.type))


def _sizes(words: Any) -> Any:
    """The bytes of each value of a dictionary."""
    if is_text(words.type):
        return pc.binary_length(words)
    return pa.repeat(words.nbytes // max(1, len(words)), len(words))


def _halved(batch: Any, written_out: Sequence[Any]) -> Iterator[Any]:
    """Divide a batch until it is small; ``written_out`` has the bytes of each row's value by dictionary."""
    half = batch.num_rows // 2
    size = sum(pc.sum(sizes).as_py() or 0 for sizes in written_out)
    size += sum((array.indices if _is_dictionary(array) else array).nbytes for array in batch.columns)
    if half and size > BATCH_BYTES:
        yield from _halved(batch.slice(0, half), [sizes.slice(0, half) for sizes in written_out])
        yield from _halved(batch.slice(half), [sizes.slice(half) for sizes in written_out])
    else:
        yield batch


def _csv_of(batch: Any) -> bytes:
    if batch.num_columns == 1:
        # A node skips blank lines: a null in a single column is written as "", which is null as well.
        batch = pa.RecordBatch.from_arrays([pc.fill_null(batch.column(0).cast(TEXT), "")], names=[""])
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(batch, sink, _CSV)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _for_json(array: Any) -> Any:
    if array.type == pa.float32():  # 0.1, not 0.10000000149011612
        return array.cast(TEXT).cast(pa.float64())
    return array


def _check_nul(batch: Any, row: int) -> None:
    """Raise InvalidTable for the first text with a NUL of a batch that ``row`` rows precede."""
    for name, array in zip(batch.schema.names, batch.columns, strict=True):
        if array.type == TEXT and (at := _first(pc.match_substring(array, "\0"))) >= 0:
            refuse(name, rules.NUL_IN_TEXT, row=row + 1 + at)


def _any(mask: Any) -> bool:
    return bool(pc.any(mask).as_py())


def _first(mask: Any) -> int:
    """The index of the first value that is true, or -1."""
    return int(pc.index(mask, pa.scalar(value=True)).as_py())


def _first_outside(array: Any, least: Any, most: Any) -> int:
    """The index of the first value below ``least`` or above ``most``, or -1."""
    bounds = pc.min_max(array).as_py()
    if bounds["min"] is None or (bounds["min"] >= least and bounds["max"] <= most):
        return -1
    return _first(pc.or_(pc.less(array, least), pc.greater(array, most)))


def _check_bounds(name: str, array: Any, least: Any, most: Any, row: int, why: str) -> None:
    if (at := _first_outside(array, least, most)) >= 0:
        refuse(name, why, row=row + 1 + at)


def _refuse_first(
    mask: Any, rule: Callable[[str, Any, int], NoReturn], name: str, array: Any, row: int
) -> None:
    """Raise for the first value for which the mask is true; ``row`` rows precede the array."""
    if (at := _first(mask)) >= 0:
        rule(name, array[at].as_py(), row + 1 + at)


class Plan:
    """Converts one column; raises InvalidTable for a value that cannot be stored."""

    def __init__(self, name: str, column_type: ColumnType, *steps: _Step) -> None:
        self.name = name
        self.type = column_type
        self._steps = steps

    def before(self, step: _Step) -> Self:
        """Add a step at the start, and return the plan."""
        self._steps = (step, *self._steps)
        return self

    def convert(self, array: Any, row: int) -> Any:
        """Convert a column of a batch, which ``row`` rows precede, to text, floats, integers or booleans."""
        for step in self._steps:
            array = step(self.name, array, row)
        return array

    large_row = 0
    """The first row with an integer that a float cannot represent, or 0."""

    def begin(self, null_row: int = 0) -> None:
        """Forget an earlier reading. ``null_row`` is the row of a null that is known, or 0."""


def plans_of(schema: Any, requested: Mapping[str, ColumnType]) -> list[Plan]:
    """The plans for a schema's columns; see ``plan_of``."""
    return [plan_of(field.name, field.type, requested.get(field.name)) for field in schema]


def plan_of(name: str, arrow_type: Any, requested: ColumnType | None) -> Plan:
    """Return the plan for an Arrow type. Raises InvalidTable for a type that cannot be stored."""
    types = pa.types
    if isinstance(arrow_type, pa.BaseExtensionType) and arrow_type.extension_name == "arrow.json":
        plan = plan_of(name, arrow_type.storage_type, requested)
        return plan.before(lambda _name, array, _row: array.storage)
    if types.is_dictionary(arrow_type):
        plan = plan_of(name, arrow_type.value_type, requested)
        plan.before(lambda _name, array, _row: array.dictionary.take(array.indices))
        if plan.type is ColumnType.TEXT and requested is None and is_text(arrow_type.value_type):
            plan.type = ColumnType.ENUM
        return plan
    if is_text(arrow_type):
        if requested is ColumnType.FLOAT:
            return Plan(name, ColumnType.FLOAT, _as_text, _parsed, _floats)
        return Plan(name, requested or ColumnType.TEXT, _as_text)
    if types.is_null(arrow_type):
        step: _Step = _to_float if requested is ColumnType.FLOAT else _as_text
        return Plan(name, requested or ColumnType.NULLS, step)
    if types.is_date(arrow_type) or types.is_time(arrow_type) or types.is_timestamp(arrow_type):
        if requested is ColumnType.FLOAT:
            refuse(name, f"column_types: 'float' cannot be used for {arrow_type}: use 'string'")
        step = _dates if types.is_date(arrow_type) else _times if types.is_time(arrow_type) else _timestamps
        if types.is_timestamp(arrow_type) and arrow_type.unit == "ns":
            step = _nanoseconds
        getattr(arrow_type, "tz", None)  # raises UnicodeDecodeError here, before a value is read
        return Plan(name, requested or ColumnType.TEXT, step)
    if types.is_decimal(arrow_type):
        places = rules.DECIMAL_DIGITS if arrow_type.bit_width > 128 else rules.DECIMAL_DIGITS // 2
        if abs(arrow_type.scale) > places:
            most = f"the {places} that a decimal of its size can have"
            refuse(name, f"{arrow_type} has more decimal places than {most}")
        if arrow_type.bit_width < 128:  # Arrow has no min_max for narrower decimals
            wider = pa.decimal128(arrow_type.precision, arrow_type.scale)
            return plan_of(name, wider, requested).before(lambda _name, array, _row: array.cast(wider))
        if requested in (ColumnType.TEXT, ColumnType.ENUM):
            return Plan(name, requested, _plain)
        if requested is ColumnType.FLOAT:
            return Plan(name, requested, _as_text, _to_float)
        return _IntPlan(name) if arrow_type.scale <= 0 else Plan(name, ColumnType.FLOAT, _decimals)
    if types.is_integer(arrow_type) and requested is None:
        return _IntPlan(name)
    last = () if requested is None else (_to_float if requested is ColumnType.FLOAT else _as_text,)
    if types.is_boolean(arrow_type):
        return Plan(name, requested or ColumnType.BOOL, *last)
    if types.is_integer(arrow_type):
        return Plan(name, requested or ColumnType.INT, *last)
    for is_of, step in (
        (types.is_floating, _floats),
        (types.is_duration, _seconds),
        (types.is_interval, _seconds_of_intervals),
    ):
        if is_of(arrow_type):
            return Plan(name, requested or ColumnType.FLOAT, step, *last)
    return refuse(name, f"{arrow_type} cannot be stored: convert it to text or numbers")


def is_text(arrow_type: Any) -> bool:
    """Whether an Arrow type is a type of text."""
    types = pa.types
    return bool(
        types.is_string(arrow_type) or types.is_large_string(arrow_type) or types.is_string_view(arrow_type)
    )


def with_offsets(array: Any) -> Any:
    """Texts as large strings, which have offsets."""
    if array.type == pa.string_view() and array.null_count:
        # The cast reads the views of nulls, which validation skips: they may be invalid.
        buffers = [None, *array.buffers()[1:]]
        try:
            pa.Array.from_buffers(array.type, len(array), buffers, 0, array.offset).validate(full=True)
        except pa.ArrowException:
            return pa.array(array.to_pylist(), TEXT)
    return array.cast(TEXT)


def _seconds_of_intervals(name: str, array: Any, row: int) -> Any:
    """Intervals of days and less as seconds; a month has no fixed length."""
    seconds = []
    for number, value in enumerate(array.to_pylist(), row + 1):
        if value is not None and value.months:
            why = "an interval of months or years has no fixed number of seconds: convert it to text"
            refuse(name, why, row=number)
        seconds.append(None if value is None else value.days * rules.DAY_SECONDS + value.nanoseconds / 1e9)
    return pa.array(seconds, pa.float64())


def _as_text(_name: str, array: Any, _row: int) -> Any:
    return array.cast(TEXT)


def _to_float(_name: str, array: Any, _row: int) -> Any:
    return array.cast(pa.float64(), safe=False)


class _IntPlan(Plan):
    """Integers that a node returns correctly: within signed 64 bits, or 2**53 in a column with nulls."""

    def __init__(self, name: str) -> None:
        super().__init__(name, ColumnType.INT, self._integers)
        self.begin()

    def begin(self, null_row: int = 0) -> None:
        self._null_row, self.large_row = null_row, 0

    def _integers(self, _name: str, array: Any, row: int) -> Any:
        if not self._null_row and array.null_count:
            self._null_row = row + 1 + _first(array.is_null())
        if not pa.types.is_integer(array.type) or array.type.bit_width == 64:
            array = self._checked(array, row)
        if self._null_row and self.large_row:
            rules.too_large_with_null(self.name, row=self.large_row, null_row=self._null_row)
        return array

    def _checked(self, array: Any, row: int) -> Any:
        try:
            array = array.cast(pa.int64())
        except pa.ArrowInvalid:
            number, value = next(
                (number, value)
                for number, value in enumerate(array.to_pylist(), row + 1)
                if value is not None and not rules.INT64_MIN <= value <= rules.INT64_MAX
            )
            rules.too_large_int(self.name, int(value), number)
        if not self.large_row and (at := _first_outside(array, -rules.EXACT, rules.EXACT)) >= 0:
            self.large_row = row + 1 + at
        return array


def _floats(name: str, array: Any, row: int) -> Any:
    if array.type == pa.float16():
        array = array.cast(pa.float32())
    nan = pc.is_nan(array)
    if _any(nan):
        array = pc.if_else(nan, pa.scalar(None, array.type), array)
    if array.type == pa.float64():
        bounds = pc.min_max(array).as_py()
        if bounds["min"] is not None and max(-bounds["min"], bounds["max"]) >= rules.MOST_FLOAT:
            size = pc.abs(array)
            beyond = pc.and_(pc.greater_equal(size, rules.MOST_FLOAT), pc.is_finite(array))
            _refuse_first(beyond, rules.too_large_float, name, array, row)
    return array


def _parsed(name: str, array: Any, row: int) -> Any:
    array = pc.if_else(pc.equal(array, ""), pa.scalar(None, TEXT), array)
    try:
        parsed = array.cast(pa.float64())
    except pa.ArrowInvalid:
        for number, text in enumerate(array, row + 1):
            try:
                text.cast(pa.float64())
            except pa.ArrowInvalid:
                rules.not_a_float(name, text.as_py(), number)
        raise
    infinite = pc.is_inf(parsed)
    if _any(infinite):
        # A text with digits whose float is infinite is a number that is too large, such as 1e400.
        beyond = pc.and_(infinite, pc.match_substring_regex(array, "[0-9]"))
        _refuse_first(beyond, rules.too_large_float, name, array, row)
    return parsed


def _decimals(name: str, array: Any, row: int) -> Any:
    text = array.cast(TEXT)
    bounds = pc.min_max(array).as_py()
    many = decimal.Decimal(1).scaleb(rules.MOST_DIGITS - array.type.scale)
    if bounds["min"] is not None and max(-bounds["min"], bounds["max"]) >= many:
        digits = pc.utf8_rtrim(pc.replace_substring_regex(text, "E.*", ""), "0")
        digits = pc.utf8_ltrim(pc.replace_substring(digits, ".", ""), "-0")
        beyond = pc.greater(pc.binary_length(digits), rules.MOST_DIGITS)
        _refuse_first(beyond, rules.too_many_digits, name, array, row)
    # Parsing the text gives the nearest float.
    return text.cast(pa.float64())


def _plain(_name: str, array: Any, _row: int) -> Any:
    """Decimals as text without an exponent."""
    text = array.cast(TEXT)
    if _any(pc.match_substring(text, "E")):
        return pa.array([None if value is None else f"{value:f}" for value in array.to_pylist()], TEXT)
    return text


def _seconds(_name: str, array: Any, _row: int) -> Any:
    numbers = array.view(pa.int64()).cast(pa.float64(), safe=False)
    return pc.divide(numbers, float(_PER_SECOND[array.type.unit]))


def _dates(name: str, array: Any, row: int) -> Any:
    days = array.cast(pa.date32(), safe=False)
    _check_bounds(name, days.view(pa.int32()), *_YEARS, row, rules.OUT_OF_CALENDAR)
    return days.cast(TEXT)


def _times(name: str, array: Any, row: int) -> Any:
    unit = array.type.unit
    numbers = array.view(pa.int32() if array.type.bit_width == 32 else pa.int64()).cast(pa.int64())
    per = _PER_SECOND[unit]
    why = "a time outside 00:00:00 to 23:59:59.999999999 cannot be stored: correct it"
    _check_bounds(name, numbers, 0, per * rules.DAY_SECONDS - 1, row, why)
    return _with_fractions(array, numbers, per, pa.time32("s"))


def _timestamps(name: str, array: Any, row: int) -> Any:
    numbers = array.view(pa.int64())
    per = _PER_SECOND[array.type.unit]
    first, last = _YEARS
    least, most = first * rules.DAY_SECONDS * per, (last + 1) * rules.DAY_SECONDS * per - 1
    if per < 10**9:  # nanoseconds are within the years 1677 to 2262
        _check_bounds(name, numbers, least, most, row, rules.OUT_OF_CALENDAR)
    text = _with_fractions(numbers.view(pa.timestamp(array.type.unit)), numbers, per, pa.timestamp("s"))
    if array.type.tz is not None:
        text = pc.binary_join_element_wise(text, pa.scalar("+00:00", TEXT), pa.scalar("", TEXT))
    return text


def _nanoseconds(name: str, array: Any, row: int) -> Any:
    """Timestamps of nanoseconds, or of microseconds where a driver's batches have different units."""
    text = _timestamps(name, array, row)
    return text if array.type.unit == "ns" else pc.replace_substring_regex(text, r"(\.\d{6})", r"\1000")


def _with_fractions(array: Any, numbers: Any, per: int, seconds: Any) -> Any:
    """Convert to text, with a fraction only if a value has one, so that equal times are equal texts."""
    if per == 1:
        return array.cast(TEXT)
    fraction = pc.not_equal(numbers, pc.multiply(pc.divide(numbers, per), per))
    whole = array.cast(seconds, safe=False).cast(TEXT)
    return pc.if_else(fraction, array.cast(TEXT), whole) if _any(fraction) else whole
