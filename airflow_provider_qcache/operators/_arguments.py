"""The rules for arguments: one for each kind, used when a DAG is parsed and again when a task runs.

A rule takes an argument's name and value and gives the value in the form that is used; ValueError names the
argument, the value and what is allowed. Nothing here imports Airflow or the client.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

Rule: TypeAlias = Callable[[str, Any], Any]

CSV: Final = "text/csv"
JSON: Final = "application/json"

COLUMN_TYPES: Final = ("string", "enum", "float")
"""What X-QCache-types can name (QCache 0.9.3, DatasetHandler.dtypes)."""

OWN_HEADERS: Final = frozenset({"content-length", "transfer-encoding", "host", "connection", "expect"})
"""Headers that the client alone sets, as they frame the request."""

_KEY: Final = re.compile(r"[A-Za-z0-9_-]+").fullmatch
_TEMPLATE: Final = re.compile(r"\{\{|\{%|\{#")
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_NO_HEADER_TEXT: Final = re.compile(r"[\r\n\0]|[^\0-\xff]")
_SHOWN: Final = 200
_MOST_SECONDS: Final = 1e9
"""As the client has it."""


def shown(value: Any) -> str:
    """A value for an error message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def counted(number: int, what: str) -> str:
    """A number of things, for people: '1 row', '20,000 rows'."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def refused(name: str, value: Any, wanted: str) -> ValueError:
    """The error for an argument."""
    return ValueError(f"{name}={shown(value)}: {wanted} is wanted")


def is_known_at_run_time_only(value: Any) -> bool:
    """Whether a value is a template or the result of another task, or holds one."""
    if isinstance(value, str):
        return _TEMPLATE.search(value) is not None
    if hasattr(value, "iter_references"):  # Airflow's ResolveMixin, of which XComArg is one
        return True
    if isinstance(value, Mapping):
        return any(map(is_known_at_run_time_only, value.values()))
    if isinstance(value, list | tuple | set):
        return any(map(is_known_at_run_time_only, value))
    return False


def is_nothing(value: Any) -> bool:
    """Whether a rendered value is None, empty, or jinja2's Undefined."""
    if value is None or any(kind.__name__ == "Undefined" for kind in type(value).__mro__):
        return True
    if isinstance(value, str):
        return not value.strip()
    return isinstance(value, bytes | Sequence | Mapping | set) and len(value) == 0


def literal(text: str) -> Any:
    """What a string holds as JSON, or else as a Python literal; ValueError where it is neither."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"neither JSON nor a Python literal: {error}") from error


def is_remote(path: Any) -> bool:
    """Whether a path is ObjectStoragePath or like it; some versions of it are pathlib's too, some are not."""
    return hasattr(type(path), "fs")  # not the path itself, which would connect


def is_path(value: Any) -> bool:
    """Whether a value is a path as an object."""
    return isinstance(value, os.PathLike) or is_remote(value)


def _held(name: str, value: Any, wanted: str) -> Any:
    """The value, or what it holds where a template made it a string."""
    if not isinstance(value, str):
        return value
    try:
        return literal(value)
    except ValueError as error:
        raise refused(name, value, wanted) from error


def optional(rule: Rule) -> Rule:
    """The rule, for an argument that may be left out."""
    return lambda name, value: None if value is None else rule(name, value)


def text(name: str, value: Any) -> str:
    """A string that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise refused(name, value, "a string that is not empty")
    return value


def key(name: str, value: Any) -> str:
    """A key of QCache."""
    if not isinstance(value, str) or _KEY(value) is None:
        hint = ""
        if isinstance(value, int | float):
            hint = (
                " (a DAG that renders templates as native objects makes a number of it: quote the template)"
            )
        raise refused(name, value, f"a string of ASCII letters, digits, '-' and '_'{hint}")
    return value


def key_of_files(name: str, value: Any) -> str:
    """A key; or one for each file, whose name and directory '{stem}' and '{parent}' stand for."""
    if not has_placeholder(value):
        return key(name, value)
    rest = value.replace("{stem}", "").replace("{parent}", "")
    if rest and _KEY(rest) is None:
        raise refused(
            name,
            value,
            "a string of ASCII letters, digits, '-', '_' and the placeholders {stem} and {parent}",
        )
    return str(value)


def has_placeholder(value: Any) -> bool:
    """Whether a key is one for each file."""
    return isinstance(value, str) and "{" in value


def keys(name: str, value: Any) -> list[str]:
    """A list of keys, each once; a string may hold one as JSON or as a Python literal."""
    wanted = "a list of keys, or a string that holds one as JSON or as a Python literal,"
    found = _held(name, value, wanted)
    if isinstance(found, str | bytes | Mapping) or not isinstance(found, Sequence) or not len(found):
        raise refused(name, value, wanted)
    return list(dict.fromkeys(key(f"{name}[{place}]", one) for place, one in enumerate(found)))


def flag(name: str, value: Any) -> bool:
    """True or False; a template's string may say so."""
    found = {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise refused(name, value, "True or False")
    return found


def count(name: str, value: Any) -> int:
    """An integer of 1 or more; a template's string may say so."""
    found = _held(name, value, "an integer of 1 or more")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise refused(name, value, "an integer of 1 or more")
    return found


def one_of(*allowed: str) -> Rule:
    """One of these words."""

    def rule(name: str, value: Any) -> str:
        if value not in allowed:
            raise refused(name, value, " or ".join(map(repr, allowed)))
        return str(value)

    return rule


def content_type(name: str, value: Any) -> str:
    """CSV or JSON; a charset may follow."""
    if not isinstance(value, str) or value.partition(";")[0] not in (CSV, JSON):
        raise refused(name, value, f"{CSV!r} or {JSON!r}")
    return value


def path(name: str, value: Any) -> Any:
    """A local path or a URL of ObjectStoragePath, or either as an object."""
    if isinstance(value, str):
        return text(name, value)
    if is_path(value):
        return value
    raise refused(name, value, "a local path or the URL of an ObjectStoragePath")


def function(name: str, value: Any) -> Any:
    """Something to call."""
    if not callable(value):
        raise refused(name, value, "a function")
    return value


def sequence(name: str, value: Any) -> list[Any]:
    """A list; a string may hold one."""
    found = _held(name, value, "a list")
    if isinstance(found, str | bytes | Mapping) or not isinstance(found, Sequence):
        raise refused(name, value, "a list")
    return list(found)


def mapping(name: str, value: Any) -> dict[str, Any]:
    """A dict with strings for keys; a string may hold one."""
    found = _held(name, value, "a dict")
    if not isinstance(found, Mapping) or not all(isinstance(one, str) for one in found):
        raise refused(name, value, "a dict whose keys are strings")
    return dict(found)


def headers(name: str, value: Any) -> dict[str, str]:
    """Headers by name. Their values may be credentials, and are in no message."""
    if isinstance(value, str):
        try:
            value = literal(value)
        except ValueError:
            raise ValueError(f"{name}: a dict of headers is wanted, or a string that holds one") from None
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}: a dict of headers is wanted, not {type(value).__name__}")  # noqa: TRY004
    for header, said in value.items():
        if not isinstance(header, str) or isinstance(said, bool) or not isinstance(said, str | int | float):
            wanted = f"a string is wanted, not {type(said).__name__}"
            raise ValueError(f"{name}[{header!r}]: {wanted}")  # noqa: TRY004
        if _HEADER(header) is None:
            raise ValueError(f"{name}: {header!r} is no name for an HTTP header")
        if header.lower() in OWN_HEADERS:
            raise ValueError(f"{name}: {header!r} is the client's own and cannot be given")
        if _NO_HEADER_TEXT.search(str(said)):
            raise ValueError(f"{name}[{header!r}]: latin-1 text without line breaks is wanted")
    return {header: str(said) for header, said in value.items()}


def _names_of_columns(name: str, value: Any) -> dict[str, Any]:
    found = mapping(name, value)
    for column in found:
        if not column or not column.isascii() or set(column) & set(";=\r\n"):
            allowed = "ASCII without ';', '=' and line breaks"
            raise ValueError(f"{name}: column {column!r} cannot be named in a header, which takes {allowed}")
    return found


def column_types(name: str, value: Any) -> dict[str, str]:
    """Types by column, for X-QCache-types."""
    found = _names_of_columns(name, value)
    for column, kind in found.items():
        if kind not in COLUMN_TYPES:
            raise refused(f"{name}[{column!r}]", kind, " or ".join(map(repr, COLUMN_TYPES)))
    return found


def stand_in_columns(name: str, value: Any) -> dict[str, str]:
    """What stands in for columns that a table lacks, for X-QCache-stand-in-columns."""
    found = _names_of_columns(name, value)
    for column, source in found.items():
        known = isinstance(source, str | int | float) and not isinstance(source, bool)
        if not known or not str(source) or set(str(source)) & set(";=\r\n"):
            wanted = "a number, a string in quotes or a column's name, without ';' or '=',"
            raise refused(f"{name}[{column!r}]", source, wanted)
    return {column: str(source) for column, source in found.items()}


def _seconds(name: str, value: Any) -> Any:
    found = _held(name, value, "a number of seconds, 0 or more,")
    number = isinstance(found, int | float) and not isinstance(found, bool)
    if not number or not 0 <= found <= _MOST_SECONDS:
        raise refused(name, value, "a number of seconds, 0 or more,")
    return found


REQUEST_RETRY: Final[Mapping[str, Rule]] = {
    "consecutive_error_count_limit": optional(count),
    "wait_initial": _seconds,
    "wait_max": _seconds,
    "wait_for_nodes": flag,
}
"""RequestRetry's fields, whose module loads tenacity."""


def request_retry(name: str, value: Any) -> Any:
    """A RequestRetry, or a dict of its fields."""
    wanted = f"a RequestRetry or a dict of its fields ({', '.join(REQUEST_RETRY)})"
    if type(value).__name__ == "RequestRetry":
        return value
    found = _held(name, value, wanted)
    if not isinstance(found, Mapping):
        raise refused(name, value, wanted)
    for field in found:
        if field not in REQUEST_RETRY:
            raise ValueError(f"{name}: {field!r} is no field of it; {', '.join(REQUEST_RETRY)} are")
    return {field: REQUEST_RETRY[field](f"{name}[{field!r}]", given) for field, given in found.items()}


def names_json_file(value: Any) -> bool:
    """Whether a query is the name of a file."""
    return isinstance(value, str) and value.strip().endswith(".json")


def query(name: str, value: Any) -> dict[str, Any]:
    """A query: a dict that JSON can carry, or a string that holds one."""
    wanted = "a dict, a string that holds one as JSON, or the name of a .json file"
    found = _held(name, value, wanted)
    if not isinstance(found, Mapping):
        raise refused(name, value, wanted)
    try:
        json.dumps(found)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}={shown(found)}: not JSON: {error}") from error
    return dict(found)
