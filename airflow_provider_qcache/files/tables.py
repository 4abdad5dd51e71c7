"""Files as tables for the client: one table of all files, or one for each file."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from airflow_provider_qcache.client.errors import InvalidKey, InvalidTable
from airflow_provider_qcache.client.ring import check_key
from airflow_provider_qcache.client.tables.content import no_limit
from airflow_provider_qcache.client.tables.headers import column_headers
from airflow_provider_qcache.client.tables.sniffing import BEGINNING, Text, advice, is_one_value, text_in
from airflow_provider_qcache.client.tables.upload import Upload, source_upload, table_headers
from airflow_provider_qcache.files import listing
from airflow_provider_qcache.files.reading import pieces_of
from airflow_provider_qcache.files.text import CsvFiles, JsonFiles, json_lines, json_list
from airflow_provider_qcache.protocol import CSV, JSON

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_log = logging.getLogger("airflow_provider_qcache.files")

_BY_CONTENT_TYPE: Final = {CSV: listing.Format.CSV, JSON: listing.Format.JSON}
MAGIC: Final = {b"PAR1": listing.Format.PARQUET, b"ARROW1": listing.Format.ARROW}


@dataclasses.dataclass(frozen=True, slots=True)
class FileTable:
    """A table in files: content for the client, which calls ``upload`` just before it stores the table.

    The files are opened for every attempt to store it. All fields but ``files``, ``format`` and
    ``from_directories`` are arguments of ``QClient.post_table``.
    """

    files: tuple[listing.File, ...]
    format: listing.Format | None
    """None if it follows from the first bytes of the only file."""
    content_type: str | None = None
    column_types: Mapping[str, str] | None = None
    stand_in_columns: Mapping[str, Any] | None = None
    headers: Mapping[str, str] | None = dataclasses.field(default=None, repr=False)
    compression: str | None = None
    from_directories: tuple[str, ...] = ()
    """Columns that are only in names of directories, as in ``day=2026-01-01/``, and not in the table."""

    def upload(self, check_time: Callable[[], object] = no_limit) -> Upload:
        """The files as an Upload; reads the schema or header of every file.

        Raises:
            ValueError: an argument does not fit the format of the files.
            InvalidTable: a file does not have its format, or differs from the first; names file and column.
            ImportError: pyarrow is required and not installed.
            OSError: and what their storage raises.
        """
        upload = self._upload(self.format or _format_in(self.files[0]), check_time)
        if self.from_directories:
            known = upload.names or ()
            if missing := [name for name in self.from_directories if name not in known]:
                _log.warning(
                    "%s: the table has no column %s, which is only in names of directories (%s): those are "
                    "not read. Write the column into the files, or store a table for each directory, with "
                    "{parent} in the key.",
                    self.files[0].name,
                    " and no column ".join(map(repr, missing)),
                    ", ".join(f"{name}=…/" for name in missing),
                )
        return upload

    def _upload(self, found: listing.Format, check_time: Callable[[], object]) -> Upload:
        content_type = self.content_type and self.content_type.partition(";")[0]
        fields = table_headers(self.headers, self.stand_in_columns)
        if found in (listing.Format.PARQUET, listing.Format.ARROW):
            from airflow_provider_qcache.files.columnar import FilesSource  # noqa: PLC0415  # it imports pyarrow

            source = FilesSource(self.files, found, self.column_types)
            return source_upload(source, content_type, fields, self.compression, check_time)
        sent = CSV if found is listing.Format.CSV else JSON
        what = f"{self.files[0].name} is {found}"
        if content_type not in (None, sent):
            raise ValueError(
                f"content_type={content_type!r}: {what}, which is sent as {sent!r}: leave content_type out; "
                "if the file has another format, pass source_format"
            )
        if found is listing.Format.CSV:
            fields |= column_headers(self.column_types)
            floats = {name for name, kind in (self.column_types or {}).items() if kind == "float"}
            return Upload(CsvFiles(self.files, floats), sent, fields, self.compression)
        if self.column_types:
            raise ValueError(
                f"column_types: {what}, and a node ignores types for JSON. Write numbers that must be text "
                "as strings, or store the table as CSV, Parquet or a list of dicts"
            )
        inside = json_list if found is listing.Format.JSON else json_lines
        return Upload(JsonFiles(self.files, inside), sent, fields, self.compression)


def table_in(path: Any, source_format: str | None = None, **arguments: Any) -> FileTable:
    """One table of all files of a path, which is as for ``find_files``; ``arguments`` are FileTable's.

    Without a ``source_format``, a value of Format, the format follows from the files' names, content_type or
    first bytes.

    Raises:
        ValueError: the files have different formats.
        InvalidTable: the format of a file is not known.
        FileNotFoundError: there is no file.
        OSError: and what their storage raises.
    """
    files = listing.find_files(path)
    content_type = arguments.get("content_type")
    formats = [_format(file, source_format, content_type) or _format_in(file) for file in files]
    for file, found in zip(files, formats, strict=True):
        if found is not formats[0]:
            raise ValueError(
                f"{file.name} is {found}, but {files[0].name} is {formats[0]}: all files of a table must "
                "have one format"
            )
    # As in day=1/region=eu/.
    parts = (part.partition("=") for file in files for part in file.path.parent.parts)
    names = dict.fromkeys(name for name, equals, value in parts if name and equals)
    return FileTable(tuple(files), formats[0], from_directories=tuple(names), **arguments)


def tables_in(
    key: str, path: Any, source_format: str | None = None, **arguments: Any
) -> list[tuple[str, FileTable]]:
    """A table for each file of a path, with its key; the other arguments are those of ``table_in``.

    In ``key``, ``{stem}`` is the file's name, ``{parent}`` its directory's, or the value in a directory
    ``column=value``.

    Raises:
        InvalidKey: a file's key is invalid, or the key of another file; names the files.
        ValueError, FileNotFoundError, OSError: as ``table_in``.
    """
    files: dict[str, listing.File] = {}
    tables = []
    for file in listing.find_files(path):
        parent = file.path.parent.name
        column, equals, value = parent.partition("=")
        own = key.format(stem=listing.stem_of(file), parent=unquote(value) if column and equals else parent)
        try:
            check_key(own)
        except InvalidKey as error:
            raise InvalidKey(f"{file.name}: {error}") from None
        if own in files:
            raise InvalidKey(
                f"{files[own].name} and {file.name} would both be stored under {own!r}: use {{stem}} and "
                f"{{parent}} in the key"
            )
        files[own] = file
        found = _format(file, source_format, arguments.get("content_type"))
        tables.append((own, FileTable((file,), found, **arguments)))
    return tables


def _format(file: listing.File, source_format: str | None, content_type: str | None) -> listing.Format | None:
    """A file's format by the arguments or its name, or None if they do not show it."""
    if source_format is not None:
        return listing.Format(source_format)
    return listing.format_of(file) or _BY_CONTENT_TYPE.get((content_type or "").partition(";")[0])


def _format_in(file: listing.File) -> listing.Format:
    """A file's format by its first bytes. Raises InvalidTable if it is not known, and what reading raises."""
    beginning = b""
    with contextlib.closing(pieces_of(file)) as pieces:
        for piece in pieces:
            beginning += piece
            if len(beginning) >= BEGINNING:
                break
    for start, found in MAGIC.items():
        if beginning.startswith(start):
            return found
    text = text_in(beginning[:BEGINNING])
    if text is Text.OBJECTS:
        return listing.Format.JSON
    unknown = f"{file.name}: its format is not clear from its name"
    if len(beginning) <= listing.LONGEST_PATH and listing.path_in(beginning.decode("utf-8", "replace")):
        raise InvalidTable(
            f"{unknown}, and its text looks like the path of a file: pass that path as source_path; if it is "
            "the header of a CSV without rows, pass source_format='csv'",
            byte=0,
        )
    if len(beginning) < BEGINNING and is_one_value(beginning):
        raise InvalidTable(
            f"{unknown}, and its text is one JSON value, not a table: check its source; if it is the header "
            "of a CSV without rows, pass source_format='csv'",
            byte=0,
        )
    if text is None and b"\0" not in beginning:
        return listing.Format.CSV
    content = "binary data, but not a Parquet or Arrow file" if text is None else text.value
    known = f"source_format ({', '.join(listing.Format)})"
    what_to_do = {
        None: f"write it as CSV, JSON, Parquet or Arrow; if it is one of them, pass {known}",
        Text.JSON_LINES: "pass source_format='jsonl' if there is one on each line",
        Text.JSON: "write its rows as a JSON list of objects; if it is CSV, pass source_format='csv'",
        Text.DOCUMENT: f"{advice(Text.DOCUMENT)}; if it is CSV, pass source_format='csv'",
    }
    raise InvalidTable(f"{unknown}, and it seems to be {content}: {what_to_do[text]}", byte=0)
