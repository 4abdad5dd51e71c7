"""Tables that are no bytes yet: frames, Arrow data and lists of dicts, encoded as they are sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from airflow_provider_qcache.client.checks import CSV, JSON, MAX_HEAD_BYTES
from airflow_provider_qcache.client.columns import Column, csv_header, fits_csv
from airflow_provider_qcache.client.errors import InvalidTable
from airflow_provider_qcache.client.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Iterator

_TYPES: Final = "X-QCache-types"
_STAND_INS: Final = "X-QCache-stand-in-columns"
_OWN_HEADERS: Final = {
    "content-type": "content_type",
    "content-encoding": "compression",
    "x-qcache-types": "column_types",
    "x-qcache-stand-in-columns": "stand_in_columns",
}
_FOR_OTHER_HEADERS: Final = 12 * 1024
"""Of the longest head: what is left for the request line, credentials and further headers."""


class Source(Protocol):
    """A table that can be encoded; each piece comes with the rows in it."""

    columns: tuple[Column, ...]
    repeatable: bool

    def csv(self) -> Iterator[tuple[bytes, int]]:
        """Its rows as CSV, without the header. Raises InvalidTable."""

    def json(self) -> Iterator[tuple[bytes, int]]:
        """Its rows as objects of a JSON list, without the brackets. Raises InvalidTable."""

    def misread(self) -> set[str]:
        """The columns a node would not infer rightly; reads the whole table. Raises InvalidTable."""

    def close(self) -> None:
        """End what is open: a query of duckdb, say, which holds its connection."""


def is_table(content: Any) -> bool:
    """Whether ``post_table`` takes it: what speaks the Arrow PyCapsule interface, or a list of dicts."""
    if hasattr(content, "__arrow_c_stream__") or hasattr(content, "__arrow_c_array__"):
        return True
    return isinstance(content, list | tuple) and all(isinstance(row, Mapping) for row in content[:1])


def source_of(table: Any, column_types: Mapping[str, str] | None) -> Source:
    """The Source for any form of table; TypeError for none, InvalidTable for one that cannot be stored."""
    if not is_table(table):
        raise TypeError(
            f"{type(table).__name__} is no table: a list of dicts is, and what has __arrow_c_stream__ or "
            "__arrow_c_array__ (pandas, polars, pyarrow, duckdb)"
        )
    if isinstance(table, list | tuple):
        from airflow_provider_qcache.client.rows import RowsSource  # noqa: PLC0415  # with its first use

        return RowsSource(table, column_types)
    from airflow_provider_qcache.client.frames import FrameSource  # noqa: PLC0415  # it needs pyarrow

    return FrameSource(table, column_types)


class TableBody:
    """A Body of a Source: encoded anew for every attempt, a piece at a time."""

    length: int | None = None

    def __init__(self, source: Source, content_type: str) -> None:
        self._source = source
        self._json = content_type == JSON
        self.repeatable = source.repeatable
        self.columns: tuple[str, ...] = tuple(column.name for column in source.columns)
        self.rows = 0

    def pieces(self) -> Iterator[bytes]:
        """The table from its start."""
        self.rows = 0
        if not self._json:
            yield csv_header(self.columns)
            yield from self._counted(self._source.csv())
            return
        yield b"["
        yield from self._counted(self._source.json())
        if not self.rows:
            raise InvalidTable(
                "the table has no rows, and JSON, which its columns' names or content_type ask for, tells a "
                "node no columns then"
            )
        yield b"]"

    def _counted(self, pieces: Iterator[tuple[bytes, int]]) -> Iterator[bytes]:
        for piece, rows in pieces:
            self.rows += rows
            if piece:
                yield piece

    def close(self) -> None:
        """End what is open."""
        self._source.close()


class _EncodedCheck:
    """A TableCheck of what this module wrote: well-formed as it is, and its rows known."""

    def __init__(self, body: TableBody) -> None:
        self._body = body
        self.columns: tuple[str, ...] | None = body.columns

    @property
    def rows(self) -> int:
        """The rows so far."""
        return self._body.rows

    def feed(self, piece: bytes) -> None:
        """Nothing is left to look at."""

    def finish(self) -> None:
        """Nothing is left to look at."""


class TableUpload(Upload):
    """An Upload of a TableBody, which is checked as it is encoded. A context: at its end nothing is open."""

    def __init__(
        self, body: TableBody, content_type: str, headers: Mapping[str, str], compression: str | None
    ) -> None:
        super().__init__(body, content_type, headers, compression)
        self._table = body

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._table.close()

    def _new_check(self) -> _EncodedCheck:
        return _EncodedCheck(self._table)


def table_upload(
    table: Any,
    *,
    content_type: str | None = None,
    headers: Mapping[str, str] | None = None,
    column_types: Mapping[str, str] | None = None,
    stand_in_columns: Mapping[str, Any] | None = None,
    compression: str | None = None,
) -> TableUpload:
    """An Upload of a table; see ``QClient.post_table``."""
    if content_type not in (None, CSV, JSON):
        raise ValueError(f"content_type={content_type!r}: {CSV!r}, {JSON!r} or None is wanted")
    for name in headers or ():
        if (argument := _OWN_HEADERS.get(name.lower())) is not None:
            raise ValueError(f"header {name!r} of a table follows from it: give {argument} instead")
    source = source_of(table, column_types)
    try:
        return _upload(source, content_type, dict(headers or {}), stand_in_columns, compression)
    except BaseException:
        source.close()
        raise


def _upload(
    source: Source,
    content_type: str | None,
    fields: dict[str, str],
    stand_in_columns: Mapping[str, Any] | None,
    compression: str | None,
) -> TableUpload:
    room = MAX_HEAD_BYTES - _FOR_OTHER_HEADERS
    if stand_in_columns:
        fields[_STAND_INS] = ";".join(f"{name}={value}" for name, value in stand_in_columns.items())
        if not fields[_STAND_INS].isascii():
            raise InvalidTable(
                f"stand_in_columns: {fields[_STAND_INS]!r} is more than ASCII, which is a node's 500"
            )
        room -= len(fields[_STAND_INS])
    types = None
    if content_type != JSON and fits_csv(column.name for column in source.columns):
        types = _types_header(source, room)
    elif content_type == CSV:
        unfit = next(column.name for column in source.columns if not fits_csv([column.name]))
        raise InvalidTable(
            f"column {unfit!r}: CSV and its headers cannot carry the name; as JSON they can", column=unfit
        )
    if types is None and content_type == CSV:
        raise InvalidTable(
            f"the types of {len(source.columns)} columns are longer than a request's head may be; "
            "as JSON they need no header"
        )
    if types:
        fields[_TYPES] = types
    content_type = JSON if types is None else CSV
    return TableUpload(TableBody(source, content_type), content_type, fields, compression)


def _types_header(source: Source, room: int) -> str | None:
    """X-QCache-types, as short as it must be; None where it does not fit in so many bytes."""
    named = [column for column in source.columns if column.kind.header is not None]
    types = ";".join(f"{column.name}={column.kind.header}" for column in named)
    if len(types) <= room:
        return types
    if not source.repeatable:
        return None
    misread = source.misread()
    types = ";".join(f"{column.name}={column.kind.header}" for column in named if column.name in misread)
    return types if len(types) <= room else None
