"""The forms in which a DAG passes a table: kept from Airflow's rendering, checked, and made into an Upload.

Airflow renders the fields in ``template_fields``, sets dependencies from them and displays them. Jinja took
264 s for a table of 100,000 rows; a function would be called, and displayed with its address, which changes
the DAG's hash with every parse. A TableContent passes each on as it is, and is displayed in a few words.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from airflow_provider_qcache.compat import ResolveMixin, XComArg
from airflow_provider_qcache.extras import MissingExtra
from airflow_provider_qcache.files.listing import LONGEST_PATH, path_in
from airflow_provider_qcache.operators import _arguments as rules
from airflow_provider_qcache.operators.errors import permanent
from airflow_provider_qcache.protocol import CSV, JSON

if TYPE_CHECKING:
    from airflow_provider_qcache.client.tables.upload import Upload

FORMS: Final = "bytes, a string, a DataFrame or other Arrow data, a list of dicts, or a path"

_MOST_EMPTY: Final = 1000
"""Empty pieces of a stream that are read before its text is checked."""
_TEMPLATE: Final = re.compile(r"\{\{[^\r\n]*\}\}").fullmatch
_DAG_MODULE: Final = re.compile(r"^unusual_prefix_[0-9a-f]+_")


class Nothing:
    """Stands for a value whose template, or upstream task, gave None, Undefined or an empty value.

    ``template`` is the template or the reference, and ``value`` its result.
    """

    def __init__(self, template: str, value: Any) -> None:
        self.template = template
        self.value = value

    @property
    def description(self) -> str:
        if rules.is_undefined(self.value):  # jinja2.StrictUndefined raises an error when it is compared
            what = "an undefined value"
        else:
            what = "None" if self.value in (None, "None") else "an empty value"
        return f"{what}: check its names, and the task, parameter or variable that its value comes from"

    def __str__(self) -> str:
        return "(nothing)"

    __repr__ = __str__


class TableContent(ResolveMixin):
    """A table, many tables, a function that returns them, or a reference to the result of another task.

    Airflow resolves such an object, and neither renders nor calls its content. ``value`` is the argument, or
    the result in place of a reference; ``literal`` says that it comes neither from another task nor from a
    function.
    """

    def __init__(self, value: Any, *, literal: bool = True) -> None:
        self.value = value
        self._references = tuple(XComArg.iter_xcom_references(value))
        self.resolved = not self._references
        """Whether the value does not depend on another task."""
        self.literal = literal and self.resolved and not callable(value)

    def iter_references(self) -> Iterator[tuple[Any, str]]:
        """The tasks and XCom keys that the value comes from, for Airflow to make them upstream."""
        yield from self._references

    def resolve(self, context: Mapping[str, Any], **options: Any) -> TableContent | Nothing:
        """The content with the results of other tasks in place of references; Airflow calls it to render."""
        if self.resolved:
            return self
        found = _resolved(self.value, context, options)
        return Nothing(str(self), found) if rules.is_nothing(found) else TableContent(found, literal=False)

    def __str__(self) -> str:
        """Its kind and size, for the UI: never the content."""
        if self._references:
            tasks = ", ".join(
                f"task {operator.task_id!r}" + (f" (XCom {key!r})" if key != "return_value" else "")
                for operator, key in self._references
            )
            return f"a table from {tasks}"
        value = self.value
        if isinstance(value, str):
            return rules.counted(len(value), "character")
        if isinstance(value, bytes | bytearray | memoryview):
            return rules.counted(len(value), "byte")
        if rules.is_path(value):
            return str(value)
        if isinstance(value, Sequence):
            return rules.counted(len(value), "row")
        if is_frame(value):
            return f"{type(value).__module__.partition('.')[0]} {type(value).__name__}"
        if isinstance(value, Mapping):
            return rules.counted(len(value), "table")
        return _name_of(value) if callable(value) else type(value).__name__

    __repr__ = __str__


def is_frame(value: Any) -> bool:
    """Whether a value speaks Arrow: a DataFrame, a table, a stream of batches, a relation."""
    return hasattr(type(value), "__arrow_c_stream__") or hasattr(type(value), "__arrow_c_array__")


def _resolved(value: Any, context: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    if isinstance(value, ResolveMixin):
        return value.resolve(context, **options)
    if isinstance(value, list | tuple):
        return [_resolved(one, context, options) for one in value]
    if isinstance(value, dict):
        return {key: _resolved(one, context, options) for key, one in value.items()}
    return value


def table_content(value: Any) -> Any:
    """The value wrapped, once; None stays None."""
    return value if value is None or isinstance(value, TableContent) else TableContent(value)


def _name_of(function: Any) -> str:
    """A function as ``module.name``: its repr has an address, which is another one at every parse."""
    named = function
    while isinstance(named, functools.partial):
        named = named.func
    if not hasattr(named, "__qualname__"):
        named = type(named)
    # Airflow gives the module of a DAG file a name of its own.
    return f"{_DAG_MODULE.sub('', str(named.__module__))}.{named.__qualname__}"


def description_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What describes a table, of an operator's arguments: arguments of ``QClient.post_table``."""
    described_by = ("content_type", "column_types", "stand_in_columns", "headers", "compression")
    return {name: arguments.get(name) for name in described_by}


class Table(NamedTuple):
    """A table; ``body`` is content, what ``post_table`` takes, or a FileTable."""

    name: str
    """Its name in an error."""
    body: Any
    in_memory: bool = False
    is_typed: bool = False
    """Whether the body has its own column types, such as a frame or a file."""


@permanent(ValueError, TypeError)
def table_of(name: str, value: Any, arguments: Mapping[str, Any]) -> Table:
    """The table in the value of an argument, or in the result of its function.

    It is bytes, a string (the content, not a path), what ``QClient.post_table`` takes, a path, or a function
    that returns a fresh iterator of bytes. Raises AirflowFailException for anything else, FileNotFoundError,
    or InvalidTable for a string that UTF-8 cannot carry.
    """
    if isinstance(value, str):
        try:
            value = value.encode()
        except UnicodeEncodeError as error:
            from airflow_provider_qcache.client import InvalidTable  # noqa: PLC0415  # it loads requests

            line, character = value.count("\n", 0, error.start) + 1, value[error.start]
            raise InvalidTable(
                f"{name}: line {line} has the character {character!r}, which UTF-8 cannot encode"
            ) from error
    if isinstance(value, bytes | bytearray | memoryview):
        return Table(name, value, in_memory=True)
    if rules.is_path(value):
        return table_at(name, value, arguments)
    if is_frame(value):
        return Table(name, value, is_typed=True)
    if isinstance(value, Sequence):
        rows = list(value)
        for number, row in enumerate(rows, 1):
            if not isinstance(row, Mapping):
                raise TypeError(f"{name}: row {number} is {type(row).__name__}; expected a list of dicts")
        return Table(name, rows, is_typed=True)
    if callable(value):
        return Table(name, value)
    hint = ", and an iterator can be read once only" if isinstance(value, Iterator) else ""
    expected = f"{FORMS}, or a function that returns a fresh iterator of bytes"
    raise TypeError(f"{name}: {type(value).__name__} is not a table{hint}; expected {expected}")


def path_of(name: str, value: Any) -> Any:
    """A pathlib.Path for a local path or ``file:`` URL, an ObjectStoragePath for any other URL.

    Raises ValueError, with ``name``, for a storage that this Airflow has no provider for, and what the
    storage raises.
    """
    from airflow_provider_qcache.compat import ObjectStoragePath  # noqa: PLC0415  # it loads fsspec

    path = value
    try:
        if not rules.is_remote(value):
            text = os.fspath(value)
            if "://" not in text:
                return Path(text)
            path = ObjectStoragePath(text)
        if path.protocol in ("file", "local", ""):
            return Path(path.path)
        path.fs  # noqa: B018  # found by the URL's scheme, which may be unknown
    except ValueError as error:
        raise ValueError(f"{name}={str(value)!r}: {error}") from error
    return path


@permanent(ValueError)
def table_at(name: str, path: Any, arguments: Mapping[str, Any]) -> Table:
    """The table in the files of a path; see ``files.tables.table_in``."""
    from airflow_provider_qcache.files.tables import table_in  # noqa: PLC0415  # it loads requests

    with named_if_missing(name, path):
        table = table_in(path_of(name, path), arguments.get("source_format"), **description_of(arguments))
    return Table(name, table, is_typed=True)


@contextlib.contextmanager
def named_if_missing(name: str, path: Any) -> Iterator[None]:
    """Add the argument's name and advice to a FileNotFoundError."""
    try:
        yield
    except FileNotFoundError as error:
        why = error.strerror or str(error)
        raise FileNotFoundError(
            f"{name}={str(path)!r}: {why}. Check the path, and that this worker can read it"
        ) from error


def upload_from(table: Table, arguments: Mapping[str, Any]) -> Upload:
    """The Upload of a table and its description; a context manager, which closes the files at its end.

    ``arguments`` are the operator's. Raises AirflowFailException if they do not fit the table, or if a
    library that it needs is missing; InvalidTable if the table cannot be stored.
    """
    # They load requests.
    from airflow_provider_qcache.client.tables.headers import column_headers  # noqa: PLC0415
    from airflow_provider_qcache.client.tables.upload import table_upload, upload_of  # noqa: PLC0415

    body, content_type, compression = table.body, arguments["content_type"], arguments.get("compression")
    if not table.is_typed and content_type is None:
        # Outside of `permanent`: the errors of an author's function are not changed.
        body, content_type = _described(table)
    with permanent(ValueError, TypeError, ImportError):
        if compression == "lz4" and not table.in_memory:
            raise ValueError("compression='lz4' needs bytes or a string; 'gzip' works for all tables")
        if not table.is_typed:
            check_description(content_type, arguments)
            if compression == "lz4" and importlib.util.find_spec("lz4") is None:
                raise MissingExtra("compression='lz4' needs lz4", "lz4")
            columns = column_headers(arguments.get("column_types"), arguments.get("stand_in_columns"))
            upload = upload_of(body, content_type, columns | (arguments.get("headers") or {}), compression)
            upload.may_be_empty = False
            return upload
        if hasattr(body, "upload"):
            upload = body.upload()
        else:
            content_type = content_type and content_type.partition(";")[0]
            upload = table_upload(body, **description_of(arguments) | {"content_type": content_type})
        if not upload.repeatable and arguments.get("copies", 1) > 1:
            with upload:
                raise ValueError(f"copies={arguments['copies']}: {type(body).__name__} can be read once only")
        return upload


def _described(table: Table) -> tuple[Any, str]:
    """A body, and the content type that its beginning shows: JSON for a JSON list of objects, else CSV.

    Raises AirflowFailException for the path of a file, InvalidTable for one JSON value and for what begins
    like other JSON, HTML or XML, and what an author's function raises.
    """
    from airflow_provider_qcache.client import InvalidTable  # noqa: PLC0415  # it loads requests
    from airflow_provider_qcache.client.tables import sniffing  # noqa: PLC0415

    body = table.body
    if table.in_memory:
        beginning = bytes(body[: sniffing.BEGINNING])
    else:
        beginning, body = _begun(body, sniffing.BEGINNING)
    if len(beginning) <= LONGEST_PATH:
        with permanent(ValueError):
            _check_no_path(table.name, beginning.decode("utf-8", "replace"))
    if len(beginning) < sniffing.BEGINNING and sniffing.is_one_value(beginning):
        raise InvalidTable(
            f"{table.name}: it is the single value {rules.short_repr(beginning.decode())}, not a table: "
            "check whether its source has no data. If it is the header of a CSV without rows, end it with a "
            f"newline or pass content_type={CSV!r}",
            byte=0,
        )
    found = sniffing.text_in(beginning)
    if found not in (None, sniffing.Text.OBJECTS):
        raise InvalidTable(
            f"{table.name}: it begins as {found.value}: {sniffing.advice(found)}. If it is CSV, pass "
            f"content_type={CSV!r}",
            byte=0,
        )
    return body, CSV if found is None else JSON


def _begun(function: Any, size: int) -> tuple[bytes, Any]:
    """The first bytes of a function's pieces, and a function that yields them again without another call."""
    from airflow_provider_qcache.client.tables.content import body_of  # noqa: PLC0415  # it loads requests

    pieces = body_of(function).pieces()
    head: list[bytes] = []
    length = empty = 0
    for piece in pieces:
        head.append(piece)
        length += len(piece)
        empty += not piece
        # Endless empty pieces are left to the client, which has a deadline.
        if length >= size or empty == _MOST_EMPTY:
            break
    first = [itertools.chain(head, pieces)]
    return b"".join(head)[:size], lambda: first.pop() if first else function()


def check_description(content_type: str | None, arguments: Mapping[str, Any]) -> None:
    """Raise ValueError if the arguments that describe a table contradict each other, or its content type."""
    column_types = arguments.get("column_types")
    if column_types and content_type is not None and content_type.partition(";")[0] == JSON:
        raise ValueError(
            f"column_types={rules.short_repr(column_types)}: nodes apply them to {CSV!r} only, not to "
            f"{JSON!r}"
        )
    by_argument = {
        "content-type": "content_type",
        "x-qcache-types": "column_types" if column_types else None,
        "x-qcache-stand-in-columns": "stand_in_columns" if arguments.get("stand_in_columns") else None,
    }
    for header in arguments.get("headers") or {}:
        if argument := by_argument.get(header.lower()):
            raise ValueError(f"headers: {argument} sets {header!r} already: remove it from headers")


def checked_content(name: str, content: TableContent) -> TableContent:
    """The rule for ``content``: one of the forms, not empty."""
    table = content.value
    if isinstance(table, list) and not all(isinstance(row, Mapping) for row in table):
        raise ValueError(f"{name}: the list has items that are not dicts; expected {FORMS}")
    sized = isinstance(table, bytes | bytearray | memoryview | str | Sequence)
    if rules.is_nothing(table) or not (sized or rules.is_path(table) or is_frame(table)):
        raise ValueError(f"{name}={rules.short_repr(table)}: expected {FORMS}, and not empty")
    if isinstance(table, str):
        _check_no_path(name, table)
    return content


def _check_no_path(name: str, text: str) -> None:
    """Refuse a template or a path, which would be stored as a header without rows."""
    if _TEMPLATE(text.strip()) is not None:
        raise ValueError(
            f"{name}={rules.short_repr(text)}: content is not rendered, and would become a column's name. "
            "Pass another task's result as its .output"
        )
    if path_in(text) is not None:
        raise ValueError(
            f"{name}={rules.short_repr(text)}: it looks like the path of a file, but a string is the "
            "content. Pass a path to source_path, or as a pathlib.Path or ObjectStoragePath. If it is the "
            "header of a CSV without rows, end it with a newline"
        )


def checked_tables(name: str, content: TableContent) -> TableContent:
    tables = content.value
    if callable(tables):
        return content
    if not isinstance(tables, Mapping) or not tables:
        expected = "a mapping of keys to tables, not empty, or a function that gives (key, table) pairs"
        raise rules.refused(name, tables, expected)
    for key in tables:
        rules.key(f"{name}: key", key)
    return content


@permanent(TypeError)
def pairs_of(returned: Any) -> Iterable[tuple[str, Any]]:
    """The (key, table) pairs that a function returned; AirflowFailException if it did not return pairs."""
    if isinstance(returned, Mapping):
        return returned.items()
    if isinstance(returned, str | bytes) or not isinstance(returned, Iterable):
        raise TypeError(
            f"tables: the function returned {rules.short_repr(returned)}: expected a mapping of keys to "
            "tables, or an iterable of (key, table) pairs"
        )
    return returned


def upload_of_pair(arguments: Mapping[str, Any], key: str, content: Any) -> Upload:
    """The Upload of a key and its table in any form."""
    if not isinstance(content, Table):
        content = table_of(f"tables: {key!r}", content, arguments)
    return upload_from(content, arguments)
