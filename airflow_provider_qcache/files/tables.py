"""Files as what a client stores: one table of all, or one of each file."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.client.checks import CSV, JSON, check_key
from airflow_provider_qcache.client.errors import InvalidKey
from airflow_provider_qcache.client.tables import TableUpload, source_upload, table_fields
from airflow_provider_qcache.files.formats import SUFFIXES, Format, format_of, stem_of, uncompressed
from airflow_provider_qcache.files.listing import File, find_files
from airflow_provider_qcache.files.text import CsvFiles, JsonFiles, json_lines, json_list

if TYPE_CHECKING:
    from collections.abc import Mapping

_BY_CONTENT_TYPE: Final = {CSV: Format.CSV, JSON: Format.JSON}


@dataclasses.dataclass(frozen=True, slots=True)
class FileTable:
    """A table that is in files: content for the client, which calls ``upload`` when its turn comes.

    Until then nothing is open. The files are read anew for every attempt to store it. All but the first two
    are the arguments of ``QClient.post_table``.
    """

    files: tuple[File, ...]
    format: Format
    content_type: str | None = None
    column_types: Mapping[str, str] | None = None
    stand_in_columns: Mapping[str, Any] | None = None
    headers: Mapping[str, str] | None = dataclasses.field(default=None, repr=False)
    compression: str | None = None

    def upload(self) -> TableUpload:
        """The files as an Upload.

        What can be known before anything is sent is looked at now: the schema or header of every file.

        Raises:
            ValueError: an argument is nothing for what the files hold.
            InvalidTable: a file is none of its format, or differs from the first, naming file and column.
            ImportError: they need pyarrow, which is not installed.
            OSError: and whatever their storage raises.
        """
        content_type = self.content_type and self.content_type.partition(";")[0]
        fields = table_fields(self.headers, self.stand_in_columns)
        if not self.format.is_text:
            from airflow_provider_qcache.files.columnar import (  # noqa: PLC0415  # it needs pyarrow
                ColumnarFiles,
                FilesSource,
            )

            source = FilesSource(ColumnarFiles(self.files, self.format), self.column_types)
            try:
                return source_upload(source, content_type, fields, self.compression)
            except BaseException:
                source.close()
                raise
        sent = CSV if self.format is Format.CSV else JSON
        what = f"{self.files[0].name} is {self.format}"
        if content_type not in (None, sent):
            raise ValueError(
                f"content_type={content_type!r}: {what}, sent as {sent!r}; if it is something else, "
                "source_format= says what"
            )
        if self.format is Format.CSV:
            if self.column_types:
                types = (f"{name}={kind}" for name, kind in self.column_types.items())
                fields["X-QCache-types"] = ";".join(types)
            return TableUpload(CsvFiles(self.files), sent, fields, self.compression)
        if self.column_types:
            raise ValueError(f"column_types: a node heeds them with {CSV!r} only, and {what}")
        inside = json_list if self.format is Format.JSON else json_lines
        return TableUpload(JsonFiles(self.files, inside), sent, fields, self.compression)


def table_in(path: Any, source_format: str | None = None, **arguments: Any) -> FileTable:
    """The table in all the files that a path names.

    Args:
        path: As for ``find_files``.
        source_format: What they hold, by Format's words; None where their names tell, or content_type does.
        arguments: FileTable's.

    Raises:
        ValueError: what a file holds is not known, or they do not all hold the same.
        FileNotFoundError: there are none.
        OSError: and whatever their storage raises.
    """
    files = find_files(path)
    formats = [_format(file, source_format, arguments.get("content_type")) for file in files]
    for file, found in zip(files, formats, strict=True):
        if found is not formats[0]:
            raise ValueError(
                f"{file.name} is {found}, and {files[0].name} is {formats[0]}: one table is of one format"
            )
    return FileTable(tuple(files), formats[0], **arguments)


def tables_in(
    key: str, path: Any, source_format: str | None = None, **arguments: Any
) -> list[tuple[str, FileTable]]:
    """A table for each file that a path names, by key: ``{stem}`` and ``{parent}`` in it are the file's.

    Args:
        key: The keys' pattern.
        path: As for ``table_in``, like the rest.
        source_format: See there.
        arguments: See there.

    Raises:
        InvalidKey: a file's key is none, or that of another file, naming the files.
        ValueError, FileNotFoundError, OSError: as ``table_in``.
    """
    files: dict[str, File] = {}
    tables = []
    for file in find_files(path):
        own = key.format(stem=stem_of(file), parent=file.path.parent.name)
        try:
            check_key(own)
        except InvalidKey as error:
            raise InvalidKey(f"{file.name}: {error}") from None
        if own in files:
            raise InvalidKey(f"{files[own].name} and {file.name} would both be stored under {own!r}")
        files[own] = file
        found = _format(file, source_format, arguments.get("content_type"))
        tables.append((own, FileTable((file,), found, **arguments)))
    return tables


def _format(file: File, source_format: str | None, content_type: str | None) -> Format:
    if source_format is not None:
        return Format(source_format)
    if content_type is not None and uncompressed(file).suffix.lower() not in SUFFIXES:
        return _BY_CONTENT_TYPE[content_type.partition(";")[0]]
    return format_of(file)
