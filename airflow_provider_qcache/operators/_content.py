"""Every form a table may be given in, as what the client sends."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from airflow_provider_qcache.operators._arguments import CSV, JSON, is_nothing, is_path, is_remote, shown
from airflow_provider_qcache.operators._wrapped import TableContent

_PIECE: Final = 128 * 1024
"""How much of a remote file is read and sent at a time; as the client does with a local one."""

FORMS: Final = "bytes, a string, a list of dicts, or a path"


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """A table ready for the client: ``body`` is one of its forms of content."""

    body: Any
    content_type: str
    in_memory: bool


def table_of(name: str, value: Any, content_type: str | None, *, functions: bool = False) -> Table:
    """The table that an argument, or what it returned, is.

    Args:
        name: What to call it in an error.
        value: bytes, a string (the content, not a path), a list of dicts, or a path; with ``functions`` also
            a function that returns a fresh iterator of bytes.
        content_type: What was said of it; None for JSON where it is a list of dicts or a file whose name ends
            in ``.json``, else CSV.
        functions: See ``value``.

    Raises:
        TypeError, ValueError: for anything else, naming it.
        InvalidTable: a list with a value that JSON cannot carry, naming row and column.
    """
    if isinstance(value, bytes | bytearray | memoryview | str):
        return Table(value, content_type or CSV, in_memory=True)
    if is_path(value):
        return table_at(value, content_type)
    if isinstance(value, Sequence):
        if (content_type or JSON).partition(";")[0] != JSON:
            raise ValueError(f"content_type={content_type!r}: {name} is a list of dicts, sent as {JSON!r}")
        return Table(_json(name, value), content_type or JSON, in_memory=True)
    if functions and callable(value):
        return Table(value, content_type or CSV, in_memory=False)
    forms = f"{FORMS}, or a function that returns a fresh iterator of bytes" if functions else FORMS
    hint = ", and an iterator can be read once only" if isinstance(value, Iterator) else ""
    raise TypeError(f"{name}: {type(value).__name__} is no table{hint}; {forms} is wanted")


def _json(name: str, rows: Sequence[Any]) -> bytes:
    rows = rows if isinstance(rows, list) else list(rows)
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise TypeError(f"{name}: row {number} is {type(row).__name__}; a list of dicts is wanted")
    try:
        return json.dumps(rows).encode()
    except (TypeError, ValueError) as error:
        raise _culprit(name, rows, error) from error


def _culprit(name: str, rows: Sequence[Mapping[Any, Any]], error: Exception) -> Exception:
    from airflow_provider_qcache.client import InvalidTable  # noqa: PLC0415  # it loads requests

    for number, row in enumerate(rows, 1):
        for column, value in row.items():
            try:
                json.dumps({column: value})
            except (TypeError, ValueError):
                said = f"{name}: row {number}, column {column!r}: {shown(value)} is nothing JSON can carry"
                return InvalidTable(said, row=number, column=str(column))
    return InvalidTable(f"{name}: not JSON: {error}")


def path_of(value: Any) -> Any:
    """A pathlib.Path for a local path or ``file:`` URL, an ObjectStoragePath for any other URL."""
    from airflow_provider_qcache.compat import ObjectStoragePath  # noqa: PLC0415  # it loads fsspec

    if not is_remote(value):
        text = os.fspath(value)
        if "://" not in text:
            return Path(text)
        value = ObjectStoragePath(text)
    if value.protocol in ("file", "local", ""):
        return Path(value.path)
    return value


def table_at(path: Any, content_type: str | None) -> Table:
    """The table in a file, which is opened anew for every attempt and never read whole."""
    found = path_of(path)
    named = JSON if str(found).endswith(".json") else CSV
    body = _reader(found) if is_remote(found) else found
    return Table(body, content_type or named, in_memory=False)


def _reader(path: Any) -> Callable[[], Iterator[bytes]]:
    def pieces() -> Iterator[bytes]:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece

    return pieces


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
    if is_nothing(table) or not (sized or is_path(table)):
        raise ValueError(f"{name}={shown(table)}: {FORMS} is wanted, and not empty")
    return content
