"""Parquet and Arrow files as one stream of batches: their schemas compared first, never whole in memory."""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from airflow_provider_qcache.client.errors import InvalidTable
from airflow_provider_qcache.client.frames import FrameSource, is_text
from airflow_provider_qcache.files.formats import Format
from airflow_provider_qcache.files.reading import named, need_pyarrow, seekable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from airflow_provider_qcache.files.listing import File

pa = need_pyarrow("a Parquet or Arrow file")
pc = pa.compute

_BATCH_BYTES: Final = 4 << 20
_BATCH_ROWS: Final = 1 << 15
"""Bytes and rows that are decoded at a time at most; as the client encodes them."""
_SHORT: Final = _BATCH_BYTES // _BATCH_ROWS
"""Bytes of a text of which as many are no more than that."""
_INDEX: Final = 4
"""Bytes for a row of a dictionary, or for where a text ends."""
_WORDS: Final = frozenset({"PLAIN_DICTIONARY", "RLE_DICTIONARY"})
_READ_AS_WORDS: Final = _WORDS | {"PLAIN", "RLE", "BIT_PACKED"}
"""Encodings of Parquet that pyarrow reads as dictionaries."""
_PREFIXES: Final = "DELTA_BYTE_ARRAY"
_ROWS_OF_PREFIXES: Final = 1024
_BUFFER: Final = 1 << 20
"""Bytes of a column that are read at a time."""
_TEXT: Final = pa.large_string()
_is_unnamed_index = re.compile(r"__index_level_[0-9]+__").fullmatch


class ColumnarFiles:
    """Files of one schema, one after the other. ``open`` gives a fresh stream for each reading.

    One schema is the same columns in the same order, whether or not they may hold nulls. A column without a
    type, of nulls alone, is of the type it has in other files; texts are texts and dictionaries of one type
    are one, whatever their widths.
    """

    def __init__(self, files: Sequence[File], kind: Format) -> None:
        """Reads every file's schema.

        Raises:
            InvalidTable: a file's schema is not that of the first, naming the file and the column.
            OSError: and whatever the storage raises.
        """
        self._files = files
        self._kind = kind
        self._begun: list[tuple[File, int]] = []
        self.schema: Any = None
        for file in files:
            with self._read(file) as (schema, _):
                self.schema = schema if self.schema is None else self._agreed(schema)

    def open(self) -> Any:
        """A RecordBatchReader from the first file on."""
        self._begun = []
        return pa.RecordBatchReader.from_batches(self.schema, self._batches())

    def place_of(self, row: int | None) -> str:
        """The file that holds a row of the last reading (from 1) and its number there, as far as known."""
        file, before = next(
            ((file, before) for file, before in reversed(self._begun) if row is None or before < row),
            (self._files[0], 0),
        )
        return file.name if row is None else f"row {row - before} of {file.name}"

    def _agreed(self, schema: Any) -> Any:
        """The schema of all files so far, that of another one among them."""
        names, wanted = schema.names, self.schema.names
        first = self._files[0].name
        for at in range(max(len(names), len(wanted))):
            if at >= len(names):
                raise InvalidTable(f"column {wanted[at]!r} is not in it, as in {first}", column=wanted[at])
            if at >= len(wanted) or names[at] != wanted[at]:
                there = f"has {wanted[at]!r} there" if at < len(wanted) else "has no such column"
                raise InvalidTable(
                    f"its column {at + 1} is {names[at]!r}, and {first} {there}", column=names[at]
                )
        fields = []
        for known, field in zip(self.schema, schema, strict=True):
            common = _common(known.type, field.type)
            if common is None:
                raise InvalidTable(
                    f"column {field.name!r} is {field.type}, and {known.type} in the files before",
                    column=field.name,
                )
            fields.append(pa.field(field.name, common))
        return pa.schema(fields)

    def _batches(self) -> Iterator[Any]:
        rows = 0
        for file in self._files:
            self._begun.append((file, rows))
            with self._read(file) as (schema, batches):
                if self._agreed(schema) != self.schema:
                    raise InvalidTable("its schema is no longer what it was when the files were looked at")
                for batch in itertools.chain.from_iterable(map(_parts, batches)):
                    rows += batch.num_rows
                    arrays = [
                        _fitted(array, field.type)
                        for array, field in zip(batch.columns, self.schema, strict=True)
                    ]
                    yield pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    @contextlib.contextmanager
    def _read(self, file: File) -> Iterator[tuple[Any, Iterator[Any]]]:
        """A file's schema and its batches, but for an index that pandas had no name for."""
        read = _parquet if self._kind is Format.PARQUET else _arrow
        with named(file):
            try:
                with seekable(file) as found, read(found) as (schema, batches):
                    kept = _kept(schema)
                    # Names and types alone: whether nulls may be, and notes, are no part of a table.
                    fields = [pa.field(schema.field(at).name, schema.field(at).type) for at in kept]
                    yield pa.schema(fields), (batch.select(kept) for batch in batches)
            except pa.ArrowException as error:
                raise InvalidTable(f"it cannot be read as {self._kind}: {error}") from error


class FilesSource(FrameSource):
    """A Source of columnar files; InvalidTable names the file."""

    def __init__(self, files: ColumnarFiles, column_types: Mapping[str, str] | None) -> None:
        self._columnar = files
        with self._placed():
            super().__init__(files.open, column_types)

    def csv(self) -> Iterator[tuple[bytes, int]]:
        """Rows as CSV, without the header."""
        with self._placed():
            yield from super().csv()

    def json(self) -> Iterator[tuple[bytes, int]]:
        """Rows as JSON objects."""
        with self._placed():
            yield from super().json()

    def misread(self) -> set[str]:
        """The columns a node would not infer rightly."""
        with self._placed():
            return super().misread()

    @contextlib.contextmanager
    def _placed(self) -> Iterator[None]:
        try:
            yield
        except InvalidTable as error:
            if error.__cause__ is not None:  # of a file's reading, which has named it
                raise
            place = self._columnar.place_of(error.row)
            raise InvalidTable(f"{error} ({place})", row=error.row, column=error.column) from error


def _common(one: Any, other: Any) -> Any:
    """The type for what is of either type, None where there is none."""
    types = pa.types
    if one == other or types.is_null(other):
        return one
    if types.is_null(one):
        return other
    if is_text(one) and is_text(other):
        return _TEXT
    if types.is_dictionary(one) and types.is_dictionary(other):
        values = _common(one.value_type, other.value_type)
        return values and pa.dictionary(pa.int64(), values)
    return None


def _fitted(array: Any, kind: Any) -> Any:
    """An array as one of a common type."""
    if array.type == kind:
        return array
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), kind)
    if pa.types.is_dictionary(kind):
        words = _fitted(array.dictionary, kind.value_type)
        return pa.DictionaryArray.from_arrays(array.indices.cast(kind.index_type), words)
    if pa.types.is_dictionary(array.type):
        return _fitted(array.dictionary.take(array.indices), kind)
    return array.cast(kind)


def _parts(batch: Any) -> Iterator[Any]:
    """A batch in parts whose dictionaries' texts, each written as often as it comes, are 4 MiB at most."""
    sizes = [
        _lengths(array.dictionary).take(array.indices).cast(pa.int64()).fill_null(0)
        for array in batch.columns
        if pa.types.is_dictionary(array.type) and is_text(array.type.value_type)
    ]
    if sizes:
        yield from _halved(batch, functools.reduce(pc.add, sizes))
    else:
        yield batch


def _lengths(texts: Any) -> Any:
    """Each text's bytes."""
    return pc.binary_length(texts.cast(_TEXT) if texts.type == pa.string_view() else texts)


def _halved(batch: Any, sizes: Any) -> Iterator[Any]:
    half = batch.num_rows // 2
    if half and pc.sum(sizes).as_py() > _BATCH_BYTES:
        yield from _halved(batch.slice(0, half), sizes.slice(0, half))
        yield from _halved(batch.slice(half), sizes.slice(half))
    else:
        yield batch


def _kept(schema: Any) -> list[int]:
    """The places of the columns but for index levels without a name, as with a frame of pandas."""
    try:
        told = (schema.pandas_metadata or {}).get("index_columns", ())
    except ValueError:
        told = ()
    unnamed = {name for name in told if isinstance(name, str) and _is_unnamed_index(name)}
    return [at for at, name in enumerate(schema.names) if name not in unnamed]


@contextlib.contextmanager
def _parquet(found: BinaryIO) -> Iterator[tuple[Any, Iterator[Any]]]:
    with _parquet_file(found) as file:
        yield file.schema_arrow, _row_groups(found, file)


def _parquet_file(found: BinaryIO, **options: Any) -> Any:
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415  # of Parquet alone

    return ParquetFile(found, buffer_size=_BUFFER, pre_buffer=False, **options)


def _row_groups(found: BinaryIO, file: Any) -> Iterator[Any]:
    """The batches of a Parquet file. Long texts that repeat come as dictionaries, whatever its schema is."""
    facts = file.metadata
    kinds = dict(zip(file.schema_arrow.names, file.schema_arrow.types, strict=True))
    texts = [name for name, kind in kinds.items() if is_text(kind)]
    with_words = _parquet_file(found, metadata=facts, read_dictionary=texts)
    repeated: list[str] = []
    for at in range(facts.num_row_groups):
        group = facts.row_group(at)
        columns = {column.path_in_schema: column for column in map(group.column, range(group.num_columns))}
        words = _longest_words(with_words, at, [name for name in texts if _has_words(columns[name])])
        now = [name for name, longest in words.items() if _is_repeated(columns[name], longest)]
        if now != repeated:
            repeated, file = now, _parquet_file(found, metadata=facts, read_dictionary=now)
        width = sum(
            _INDEX if name in repeated else _width(column, kinds.get(name), words.get(name, 0))
            for name, column in columns.items()
        )
        rows = max(1, min(_BATCH_ROWS, int(_BATCH_BYTES / max(1, width))))
        yield from file.iter_batches(batch_size=rows, row_groups=[at], use_threads=False)


def _has_words(column: Any) -> bool:
    """Whether a row group has words for a column, in full or for its first rows."""
    found = set(column.encodings)
    return found <= _READ_AS_WORDS and not _WORDS.isdisjoint(found)


def _longest_words(file: Any, group: int, names: list[str]) -> dict[str, int]:
    """The bytes of the longest word of each column: a single row comes with all that its row group has."""
    if not names:
        return {}
    batches = file.iter_batches(batch_size=1, row_groups=[group], columns=names, use_threads=False)
    return {
        name: pc.max(_lengths(array.dictionary)).as_py() or 0
        for batch in itertools.islice(batches, 1)
        for name, array in zip(batch.schema.names, batch.columns, strict=True)
    }


def _is_repeated(column: Any, longest: int) -> bool:
    """Whether a text column of a row group is to be read as a dictionary, with words of this length.

    That is as large as all its different texts. So not where it is larger than words, and the two to three
    bytes for each row that say which, would be: many texts are then written out.
    """
    size: int = column.total_uncompressed_size
    return longest > _SHORT and size <= _BATCH_BYTES + 3 * column.num_values


def _width(column: Any, kind: Any, longest: int) -> float:
    """The bytes of a column's value when it is read, as far as a row group tells."""
    if pa.types.is_dictionary(kind):
        return _INDEX
    if pa.types.is_primitive(kind) or pa.types.is_decimal(kind):
        bits: int = kind.bit_width
        return bits / 8
    most: float = max(longest, column.total_uncompressed_size / max(1, column.num_values)) + _INDEX
    # Of a text that begins as the one before it, only the rest is written.
    if _PREFIXES in column.encodings:
        most = max(most, _BATCH_BYTES / _ROWS_OF_PREFIXES)
    return most


@contextlib.contextmanager
def _arrow(found: BinaryIO) -> Iterator[tuple[Any, Iterator[Any]]]:
    magic = found.read(6)
    found.seek(0)
    if magic[:4] == b"FEA1":
        raise InvalidTable("it is Feather version 1, and version 2 is read")
    if magic == b"ARROW1":
        with pa.ipc.open_file(found) as file:
            yield file.schema, map(file.get_batch, range(file.num_record_batches))
    else:
        with pa.ipc.open_stream(found) as stream:
            yield stream.schema, iter(stream)
