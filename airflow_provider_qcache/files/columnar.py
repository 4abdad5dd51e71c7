"""Parquet and Arrow files as one stream of batches, in bounded memory; their schemas are compared first."""

from __future__ import annotations

import base64
import contextlib
import itertools
import re
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from airflow_provider_qcache.client.errors import InvalidTable
from airflow_provider_qcache.client.tables import arrow
from airflow_provider_qcache.extras import library
from airflow_provider_qcache.files.listing import Format
from airflow_provider_qcache.files.reading import check_same_columns, named, place_of, seekable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from airflow_provider_qcache.files.listing import File

pa = library("pyarrow", "a Parquet or Arrow file", "arrow")
pc = pa.compute

_SHORT: Final = arrow.BATCH_BYTES // arrow.BATCH_ROWS
"""Bytes of texts of which BATCH_ROWS rows fill BATCH_BYTES."""
_INDEX: Final = 4
"""Bytes of a dictionary's index, or of a text's offset."""
_LONGEST_SCHEMA: Final = 64 << 20
"""Bytes of the longest schema. A file that begins with a larger number is not an Arrow stream."""
_WORDS: Final = frozenset({"PLAIN_DICTIONARY", "RLE_DICTIONARY"})
_READ_AS_WORDS: Final = _WORDS | {"PLAIN", "RLE", "BIT_PACKED"}
"""Encodings of Parquet that pyarrow reads as dictionaries."""
_PREFIXES: Final = "DELTA_BYTE_ARRAY"
_ROWS_OF_PREFIXES: Final = 1024
_BUFFER: Final = 1 << 20
"""Bytes of a column that are read at a time."""
_MOST_MICROSECONDS: Final = (2**63 - 1) // 1000 - 1
"""Microseconds before and after 1970 whose nanoseconds are within 64 bits."""
_DAMAGED: Final = (
    pa.ArrowException, ArithmeticError, LookupError, MemoryError, RecursionError, ValueError
)  # fmt: skip
"""What pyarrow raises for a damaged file, besides OSError; MemoryError for a length of exabytes."""
_is_unnamed_index = re.compile(r"__index_level_[0-9]+__").fullmatch


class FilesSource(arrow.ArrowSource):
    """A Source of files of one schema, one after the other, whose InvalidTable names the file.

    The files must have the same columns in the same order. Their types may differ in this: a column of only
    nulls has its type from other files; the widths of texts and of dictionary indices do not matter;
    timestamps of microseconds become nanoseconds if other files have those.
    """

    repeatable = True

    def __init__(
        self, files: Sequence[File], file_format: Format, column_types: Mapping[str, str] | None
    ) -> None:
        """Reads every file's schema; raises InvalidTable, with file and column, if one is not the first's."""
        self._files = files
        self._format = file_format
        self._begun = [(files[0], 0)]
        """The files that the last reading has opened, each with the number of rows before it."""
        self._schema: Any = None
        for file in files:
            with self._read(file) as (schema, _):
                self._schema = schema if self._schema is None else self._agreed(schema)
        with self._placed():
            super().__init__(self._schema, column_types)

    def pieces(self, content_type: str) -> Iterator[tuple[bytes, int]]:
        """The table from its start; see ``Source.pieces``."""
        with self._placed():
            yield from super().pieces(content_type)

    def wrongly_inferred(self, check_time: Callable[[], object]) -> set[str]:
        """See ``TypedSource``."""
        with self._placed():
            return super().wrongly_inferred(check_time)

    @contextlib.contextmanager
    def _placed(self) -> Iterator[None]:
        """Add to an InvalidTable the file, and the row's number in it if the row is known."""
        try:
            yield
        except InvalidTable as error:
            if error.__cause__ is not None:  # it names the file already
                raise
            place = self._begun[-1][0].name if error.row is None else place_of(error.row, self._begun)
            raise InvalidTable(f"{error} ({place})", row=error.row, column=error.column) from error

    def _agreed(self, schema: Any) -> Any:
        """The common schema of the files so far and of another file. Raises InvalidTable."""
        check_same_columns(schema.names, self._schema.names, self._files[0])
        fields = []
        for known, field in zip(self._schema, schema, strict=True):
            common = _common(known.type, field.type)
            if common is None:
                raise InvalidTable(
                    f"column {field.name!r} is {field.type}, but {known.type} in the files before it: write "
                    "them with one type",
                    column=field.name,
                )
            fields.append(pa.field(field.name, common))
        return pa.schema(fields)

    def _parts(self) -> Iterator[Any]:
        self._begun = []
        rows = 0
        for file in self._files:
            self._begun.append((file, rows))
            with self._read(file) as (schema, batches):
                if self._agreed(schema) != self._schema:
                    raise InvalidTable("its schema changed while it was stored: store it again")
                for part in itertools.chain.from_iterable(map(arrow.bounded, arrow.valid(batches))):
                    rows += part.num_rows
                    arrays = [
                        _column(field, array) for array, field in zip(part.columns, self._schema, strict=True)
                    ]
                    yield pa.RecordBatch.from_arrays(arrays, self._schema.names)

    @contextlib.contextmanager
    def _read(self, file: File) -> Iterator[tuple[Any, Iterator[Any]]]:
        """A file's schema and batches, without index levels that have no name in pandas."""
        is_parquet = self._format is Format.PARQUET
        read, check_start = (_parquet, _check_parquet) if is_parquet else (_arrow, _check_arrow)
        with named(file):
            try:
                with seekable(file, check_start) as found, read(found) as (schema, batches):
                    kept = _kept(schema)
                    # Only names and types: nullability and metadata do not matter.
                    fields = [pa.field(schema.field(at).name, schema.field(at).type) for at in kept]
                    yield pa.schema(fields), (batch.select(kept) for batch in batches)
            except _DAMAGED as error:
                raise InvalidTable(f"it cannot be read as {self._format}: {_text_of(error)}") from error


def _text_of(error: BaseException) -> str:
    text = str(error).strip()
    return text if isinstance(error, pa.ArrowException) and text else f"{type(error).__name__}: {text}"


def _common(one: Any, other: Any) -> Any:
    """The type for values of both types, or None."""
    types = pa.types
    if one == other or types.is_null(other):
        return one
    if types.is_null(one):
        return other
    if arrow.is_text(one) and arrow.is_text(other):
        return arrow.TEXT
    if types.is_timestamp(one) and types.is_timestamp(other):
        finer = {"us": other, "ns": one}.get(one.unit)
        return finer if one.tz == other.tz and {one.unit, other.unit} == {"us", "ns"} else None
    if types.is_dictionary(one) and types.is_dictionary(other):
        values = _common(one.value_type, other.value_type)
        return values and pa.dictionary(pa.int64(), values)
    return None


def _column(field: Any, array: Any) -> Any:
    """Convert a column to its common type. Raises InvalidTable if that type cannot represent a value."""
    try:
        return _fitted(array, field.type)
    except pa.ArrowInvalid as error:
        if not pa.types.is_timestamp(field.type):
            raise
        raise InvalidTable(
            f"column {field.name!r} has timestamps outside the years 1678 to 2261, and nanoseconds in other "
            "files, which do not reach further: write it as a timestamp of microseconds, or as text",
            column=field.name,
        ) from error


def _fitted(array: Any, arrow_type: Any) -> Any:
    both_texts = arrow.is_text(array.type) and arrow.is_text(arrow_type)  # whose widths do not matter
    if array.type == arrow_type or both_texts:
        return array
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), arrow_type)
    if pa.types.is_dictionary(arrow_type):
        return pa.DictionaryArray.from_arrays(array.indices, _fitted(array.dictionary, arrow_type.value_type))
    if pa.types.is_dictionary(array.type):
        return _fitted(array.dictionary.take(array.indices), arrow_type)
    return array.cast(arrow_type)


def _kept(schema: Any) -> list[int]:
    """The positions of the columns, except pandas' index levels without a name."""
    try:
        notes = schema.pandas_metadata
    except (ValueError, RecursionError):
        notes = None
    index = notes.get("index_columns") if isinstance(notes, dict) else None
    names = index if isinstance(index, list) else ()
    unnamed = {name for name in names if isinstance(name, str) and _is_unnamed_index(name)}
    return [at for at, name in enumerate(schema.names) if name not in unnamed]


def _check_parquet(start: bytes) -> None:
    if start[:4] != b"PAR1":
        raise InvalidTable("it cannot be read as parquet: it does not begin with PAR1")


def _check_arrow(start: bytes) -> None:
    if start[:4] == b"FEA1":
        raise InvalidTable("it is Feather version 1, which is not supported: write version 2")
    # A stream begins with a marker, or before Arrow 0.15 with the length of its schema.
    stream = start[:4] == b"\xff\xff\xff\xff" or 0 < int.from_bytes(start[:4], "little") < _LONGEST_SCHEMA
    if start[:6] != b"ARROW1" and not stream:
        raise InvalidTable("it cannot be read as arrow: it is neither an Arrow file nor an Arrow stream")


@contextlib.contextmanager
def _parquet(found: BinaryIO) -> Iterator[tuple[Any, Iterator[Any]]]:
    from pyarrow.parquet import read_metadata  # noqa: PLC0415  # only for Parquet

    facts = read_metadata(found)
    unit = _int96_unit(found, facts)
    with _parquet_file(found, facts, unit) as file:
        yield file.schema_arrow, _row_groups(found, file, unit)


def _parquet_file(found: BinaryIO, facts: Any, unit: str, **options: Any) -> Any:
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415  # only for Parquet

    return ParquetFile(
        found,
        metadata=facts,
        buffer_size=_BUFFER,
        pre_buffer=False,
        coerce_int96_timestamp_unit=unit,
        **options,
    )


def _int96_unit(found: BinaryIO, facts: Any) -> str:
    """The unit for all INT96 timestamps of a file, which Spark, Hive and Impala write.

    Nanoseconds do not reach the year 9999: pyarrow, which reads INT96 as nanoseconds, would return 1816. So
    they are the unit only if Arrow wrote the file from nanoseconds, or if values have nanoseconds and all are
    in their range. Raises InvalidTable if neither unit can represent all values.
    """
    leaves = map(facts.schema.column, range(facts.num_columns))
    names = [leaf.path for leaf in leaves if leaf.physical_type == "INT96"]
    stored = (facts.metadata or {}).get(b"ARROW:schema") if names else None
    if stored is not None:
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(stored)))
        if all(
            name in schema.names and getattr(schema.field(name).type, "unit", None) == "ns" for name in names
        ):
            return "ns"
    fine, wide = [], []
    for name in names:
        has_nanoseconds, is_beyond = _int96_values(found, facts, name)
        if has_nanoseconds:
            fine.append(name)
        if is_beyond:
            wide.append(name)
    if fine and wide:
        beyond = "others" if fine[0] in wide else f"column {wide[0]!r}, of the same type INT96, has some"
        raise InvalidTable(
            f"column {fine[0]!r} has timestamps with nanoseconds, and {beyond} outside the years 1678 to "
            "2261, the range of nanoseconds: write it as a timestamp of microseconds, or as text",
            column=fine[0],
        )
    return "ns" if fine else "us"


def _int96_values(found: BinaryIO, facts: Any, name: str) -> tuple[bool, bool]:
    """Whether a column has values with nanoseconds, and values outside the range of nanoseconds."""
    files = [_parquet_file(found, facts, unit) for unit in ("us", "ns")]
    has_nanoseconds = is_beyond = False
    for at in range(facts.num_row_groups):
        read = [
            file.iter_batches(arrow.BATCH_ROWS, row_groups=[at], columns=[name], use_threads=False)
            for file in files
        ]
        for batches in zip(*read, strict=True):
            for array, with_nanoseconds in zip(*(batch.columns for batch in batches), strict=True):
                if not pa.types.is_timestamp(array.type):  # nested, which is refused later
                    continue
                whole = array.view(pa.int64())
                bounds = pc.min_max(whole).as_py()
                if bounds["min"] is None:
                    continue
                is_beyond |= max(-bounds["min"], bounds["max"]) > _MOST_MICROSECONDS
                # Both sides wrap around where they overflow, so that the difference is right for any value.
                rest = pc.subtract(with_nanoseconds.view(pa.int64()), pc.multiply(whole, 1000))
                has_nanoseconds |= pc.any(pc.not_equal(rest, 0)).as_py()
    return has_nanoseconds, is_beyond


def _row_groups(found: BinaryIO, file: Any, unit: str) -> Iterator[Any]:
    """The batches of a Parquet file. Long texts that repeat are read as dictionaries, whatever its schema."""
    facts = file.metadata
    types = dict(zip(file.schema_arrow.names, file.schema_arrow.types, strict=True))
    texts = [name for name, arrow_type in types.items() if arrow.is_text(arrow_type)]
    leaves = [facts.schema.column(at).path for at in range(facts.num_columns)]
    plain = file
    with_words = _parquet_file(found, facts, unit, read_dictionary=texts)
    repeated: list[str] = []
    groups = [facts.row_group(at) for at in range(facts.num_row_groups)]
    if (rows := sum(group.num_rows for group in groups)) != facts.num_rows:
        raise InvalidTable(f"it is damaged: it has {rows} rows, and its footer says {facts.num_rows}")
    for at, group in enumerate(groups):
        if not group.num_rows:
            continue
        columns = {}
        for number, name in enumerate(leaves):
            # If a column's metadata is damaged, reading a row raises an error; group.column would crash.
            next(plain.iter_batches(1, row_groups=[at], columns=[name], use_threads=False), None)
            columns[name] = group.column(number)
        words = _longest_words(with_words, at, [name for name in texts if _has_words(columns[name])])
        # Else the allocator keeps the memory of these rows, and allocates more for the batches.
        pa.default_memory_pool().release_unused()
        now = [name for name, longest in words.items() if _is_repeated(columns[name], longest)]
        if now != repeated:
            repeated, file = now, _parquet_file(found, facts, unit, read_dictionary=now)
        width = sum(
            _INDEX if name in repeated else _width(column, types.get(name), words.get(name, 0))
            for name, column in columns.items()
        )
        rows = max(1, min(arrow.BATCH_ROWS, int(arrow.BATCH_BYTES / max(1, width))))
        missing = group.num_rows
        for batch in file.iter_batches(batch_size=rows, row_groups=[at], use_threads=False):
            missing -= batch.num_rows
            yield batch
        if missing:
            raise InvalidTable(f"it is damaged: row group {at + 1} does not have its {group.num_rows} rows")


def _has_words(column: Any) -> bool:
    """Whether a row group has a dictionary for a column, at least for its first rows."""
    found = set(column.encodings)
    return found <= _READ_AS_WORDS and not _WORDS.isdisjoint(found)


def _longest_words(file: Any, group: int, names: list[str]) -> dict[str, int]:
    """The bytes of the longest word of each column: reading one row returns the row group's dictionary."""
    if not names:
        return {}
    batches = file.iter_batches(batch_size=1, row_groups=[group], columns=names, use_threads=False)
    return {
        name: pc.max(pc.binary_length(arrow.with_offsets(array.dictionary))).as_py() or 0
        for batch in itertools.islice(batches, 1)
        for name, array in zip(batch.schema.names, batch.columns, strict=True)
    }


def _is_repeated(column: Any, longest: int) -> bool:
    """Whether to read a text column of a row group, with words of this length, as a dictionary.

    A dictionary has all different texts at once. If the column is larger than its words, and two to three
    bytes for each row's index, would be, many texts are written out, and it is read as plain texts.
    """
    size: int = column.total_uncompressed_size
    return longest > _SHORT and size <= arrow.BATCH_BYTES + 3 * column.num_values


def _width(column: Any, arrow_type: Any, longest: int) -> float:
    """The bytes of a value when it is read, as far as a row group's metadata show."""
    if pa.types.is_dictionary(arrow_type):
        return _INDEX
    if pa.types.is_primitive(arrow_type) or pa.types.is_decimal(arrow_type):
        bits: int = arrow_type.bit_width
        return bits / 8
    most: float = max(longest, column.total_uncompressed_size / max(1, column.num_values)) + _INDEX
    # A text is stored without the prefix that it shares with the text before.
    if _PREFIXES in column.encodings:
        most = max(most, arrow.BATCH_BYTES / _ROWS_OF_PREFIXES)
    return most


@contextlib.contextmanager
def _arrow(found: BinaryIO) -> Iterator[tuple[Any, Iterator[Any]]]:
    magic = found.read(6)
    found.seek(0)
    _check_arrow(magic)
    if magic == b"ARROW1":
        with pa.ipc.open_file(found) as file:
            yield file.schema, map(file.get_batch, range(file.num_record_batches))
    else:
        with pa.ipc.open_stream(found) as stream:
            yield stream.schema, iter(stream)
