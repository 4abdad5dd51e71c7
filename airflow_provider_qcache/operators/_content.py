"""Every form a table may be given in, as what the client sends."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.operators._arguments import CSV, JSON, is_nothing, is_path, is_remote, shown
from airflow_provider_qcache.operators._failures import permanent
from airflow_provider_qcache.operators._wrapped import TableContent, is_frame

if TYPE_CHECKING:
    from airflow_provider_qcache.client.upload import Upload

FORMS: Final = "bytes, a string, a DataFrame or other Arrow data, a list of dicts, or a path"

_TEMPLATE: Final = re.compile(r"\{\{[^\r\n]*\}\}").fullmatch
_PATH: Final = re.compile(
    r"(/|~|\.{1,2}/|[A-Za-z][A-Za-z0-9+.-]*://)[^\r\n,]*"
    r"|[^\r\n,]*\.(csv|json|jsonl|ndjson|parquet|arrow|feather)(\.(gz|zst|bz2|xz|lz4))?",
    re.IGNORECASE,
).fullmatch


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """A table as it was given; ``body`` is its content, what ``post_table`` takes, or a FileTable."""

    body: Any
    content_type: str | None
    in_memory: bool = False
    tells_itself: bool = False
    """Whether its types and what it is sent as follow from it."""


def table_of(name: str, value: Any, content_type: str | None, *, functions: bool = False) -> Table:
    """The table that an argument, or what it returned, is.

    Args:
        name: What to call it in an error.
        value: bytes, a string (the content, not a path), what ``QClient.post_table`` takes, or a path; with
            ``functions`` also a function that returns a fresh iterator of bytes.
        content_type: What was said of it; None is CSV for bytes and strings.
        functions: See ``value``.

    Raises:
        TypeError, ValueError: for anything else, naming it.
        FileNotFoundError: nothing is at the path.
        InvalidTable: a string that UTF-8 cannot carry.
    """
    if isinstance(value, str):
        value = _encoded(name, value)
    if isinstance(value, bytes | bytearray | memoryview):
        return Table(value, content_type or CSV, in_memory=True)
    if is_path(value):
        return table_at(name, value, content_type)
    if is_frame(value):
        return Table(value, content_type, tells_itself=True)
    if isinstance(value, Sequence):
        rows = list(value)
        for number, row in enumerate(rows, 1):
            if not isinstance(row, Mapping):
                raise TypeError(f"{name}: row {number} is {type(row).__name__}; a list of dicts is wanted")
        return Table(rows, content_type, tells_itself=True)
    if functions and callable(value):
        return Table(value, content_type or CSV)
    forms = f"{FORMS}, or a function that returns a fresh iterator of bytes" if functions else FORMS
    hint = ", and an iterator can be read once only" if isinstance(value, Iterator) else ""
    raise TypeError(f"{name}: {type(value).__name__} is no table{hint}; {forms} is wanted")


def _encoded(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        from airflow_provider_qcache.client import InvalidTable  # noqa: PLC0415  # it loads requests

        row = text.count("\n", 0, error.start)
        said = f"{name}: line {row + 1} has the character {text[error.start]!r}, which UTF-8 cannot carry"
        raise InvalidTable(said) from error


def path_of(name: str, value: Any) -> Any:
    """A pathlib.Path for a local path or ``file:`` URL, an ObjectStoragePath for any other URL.

    Raises:
        ValueError: it names no file, or a storage that this Airflow has no provider for; with ``name``.
        Exception: whatever the storage raises.
    """
    from airflow_provider_qcache.compat import ObjectStoragePath  # noqa: PLC0415  # it loads fsspec

    path = value
    if not is_remote(value):
        text = os.fspath(value)
        if "://" not in text:
            return Path(text)
        try:
            path = ObjectStoragePath(text)
        except ValueError as error:
            raise _no_storage(name, value, error) from error
    if path.protocol in ("file", "local", ""):
        return Path(path.path)
    try:
        path.fs  # noqa: B018  # found by the URL's scheme, which may be unknown
    except ValueError as error:
        raise _no_storage(name, value, error) from error
    return path


def _no_storage(name: str, value: Any, error: Exception) -> ValueError:
    return ValueError(f"{name}={str(value)!r}: {error}")


def table_at(name: str, path: Any, content_type: str | None, source_format: str | None = None) -> Table:
    """The table in the files that a path names; see ``files.tables.table_in``."""
    from airflow_provider_qcache.files.tables import table_in  # noqa: PLC0415  # it loads requests

    return Table(
        table_in(path_of(name, path), source_format, content_type=content_type),
        content_type,
        tells_itself=True,
    )


def upload_from(table: Table, given: Mapping[str, Any]) -> Upload:
    """A table as the client takes it, with all that is said of it; a context, at its end nothing is open.

    Args:
        table: The table.
        given: The operator's arguments: column_types, and where it has them stand_in_columns, headers,
            compression and copies.

    Raises:
        AirflowFailException: the arguments are nothing for the table, or a library for it is missing.
        InvalidTable: it cannot be stored.
    """
    from airflow_provider_qcache.client.tables import table_upload  # noqa: PLC0415  # it loads requests
    from airflow_provider_qcache.client.upload import upload_of  # noqa: PLC0415

    column_types, headers = given["column_types"], given.get("headers")
    stand_ins, compression = given.get("stand_in_columns"), given.get("compression")
    with permanent(ValueError, TypeError, ImportError):
        if compression == "lz4" and not table.in_memory:
            raise ValueError("compression='lz4' is for bytes and strings; 'gzip' is for all tables")
        if not table.tells_itself:
            check_description(table.content_type, headers, column_types, stand_ins)
            if compression == "lz4" and importlib.util.find_spec("lz4") is None:
                raise ValueError("compression='lz4' needs lz4, which is not installed here: the extra 'lz4'")
            said = table_headers(headers, column_types, stand_ins)
            upload = upload_of(table.body, table.content_type or CSV, said, compression)
            upload.may_be_empty = False
            return upload
        arguments = {
            "content_type": table.content_type and table.content_type.partition(";")[0],
            "column_types": column_types,
            "stand_in_columns": stand_ins,
            "headers": headers,
            "compression": compression,
        }
        if hasattr(table.body, "upload"):
            upload = dataclasses.replace(table.body, **arguments).upload()
        else:
            upload = table_upload(table.body, **arguments)
        if not upload.repeatable and given.get("copies", 1) > 1:
            with upload:
                raise ValueError(
                    f"copies={given['copies']}: {type(table.body).__name__} can be read once only"
                )
        return upload


def table_headers(
    headers: Mapping[str, str] | None,
    column_types: Mapping[str, str] | None,
    stand_in_columns: Mapping[str, str] | None,
) -> dict[str, str]:
    """The headers that describe a table, and those given."""
    described = {}
    if column_types:
        described["X-QCache-types"] = _pairs(column_types)
    if stand_in_columns:
        described["X-QCache-stand-in-columns"] = _pairs(stand_in_columns)
    return {**described, **(headers or {})}


def _pairs(values: Mapping[str, str]) -> str:
    return ";".join(f"{name}={value}" for name, value in values.items())


def check_description(
    content_type: str | None,
    headers: Mapping[str, str] | None,
    column_types: Mapping[str, str] | None,
    stand_in_columns: Mapping[str, str] | None,
) -> None:
    """Raise ValueError where what is said of a table contradicts itself."""
    if column_types and content_type is not None and content_type.partition(";")[0] == JSON:
        raise ValueError(
            f"column_types={shown(column_types)}: a node heeds them with {CSV!r} only, not {JSON!r}"
        )
    by_argument = {
        "content-type": "content_type",
        "x-qcache-types": "column_types" if column_types else None,
        "x-qcache-stand-in-columns": "stand_in_columns" if stand_in_columns else None,
    }
    for header in headers or {}:
        if argument := by_argument.get(header.lower()):
            raise ValueError(f"headers: {header!r} is said by {argument}")


def checked_content(name: str, value: Any) -> TableContent:
    """The rule for ``content``: one of the forms, not empty."""
    content = value if isinstance(value, TableContent) else TableContent(value)
    table = content.value
    if isinstance(table, list) and not all(isinstance(row, Mapping) for row in table):
        raise ValueError(f"{name}: a list whose items are not all dicts; {FORMS} is wanted")
    sized = isinstance(table, bytes | bytearray | memoryview | str | Sequence)
    if is_nothing(table) or not (sized or is_path(table) or is_frame(table)):
        raise ValueError(f"{name}={shown(table)}: {FORMS} is wanted, and not empty")
    if isinstance(table, str):
        _check_no_path(name, table)
    return content


def _check_no_path(name: str, text: str) -> None:
    """Refuse a template or a path, which would be a header without rows."""
    line = text.strip()
    if _TEMPLATE(line) is not None:
        raise ValueError(
            f"{name}={shown(text)}: it is not rendered and would be the name of a column; another task's "
            "result is given as its .output"
        )
    if _PATH(line) is not None:
        raise ValueError(
            f"{name}={shown(text)}: a string is the content itself; source_path is for the path of a file"
        )
