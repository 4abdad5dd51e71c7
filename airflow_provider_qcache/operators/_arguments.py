"""Rules that check arguments, used when a DAG is parsed and again when a task runs.

A rule takes an argument's name and value and returns the value in the form that is used. Its ValueError names
the argument, the value and what is allowed. Nothing here imports Airflow or the client.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from airflow_provider_qcache import protocol
from airflow_provider_qcache.plain import literal

Rule: TypeAlias = Callable[[str, Any], Any]

_TEMPLATE: Final = re.compile(r"\{\{|\{%|\{#")
_NO_HEADER_TEXT: Final = re.compile(r"[\r\n\0]|[^\0-\xff]")
_MOST_CHARACTERS: Final = 200
_MOST_SECONDS: Final = 1e9
"""The client's own limit."""


def short_repr(value: Any) -> str:
    """A value for an error message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + "…"


def counted(number: int, what: str) -> str:
    """A number of things, for people: '1 row', '20,000 rows'."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def refused(name: str, value: Any, expected: str) -> ValueError:
    return ValueError(f"{name}={short_repr(value)}: expected {expected}")


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


def is_undefined(value: Any) -> bool:
    """Whether a value is jinja2's Undefined, which is not imported here."""
    return any(kind.__name__ == "Undefined" for kind in type(value).__mro__)


def is_nothing(value: Any) -> bool:
    """Whether a rendered value is None, empty, or undefined."""
    if value is None or is_undefined(value):
        return True
    if isinstance(value, str):
        return not value.strip()
    return isinstance(value, bytes | Sequence | Mapping | set) and len(value) == 0


def is_remote(path: Any) -> bool:
    """Whether a path is an ObjectStoragePath; some versions of it are pathlib's too, some are not."""
    return hasattr(type(path), "fs")  # not the path itself, which would connect


def is_path(value: Any) -> bool:
    return isinstance(value, os.PathLike) or is_remote(value)


def text_of_path(value: Any) -> Any:
    """A local path as a string, since Airflow before 3.2 resolves a Path as it renders it; else the value."""
    return os.fspath(value) if isinstance(value, os.PathLike) and not is_remote(value) else value


def value_in(name: str, value: Any, expected: str) -> Any:
    """The value, or what a string from a template holds."""
    if not isinstance(value, str):
        return value
    try:
        return literal(value)
    except ValueError as error:
        raise refused(name, value, expected) from error


def _list_in(name: str, value: Any, expected: str) -> list[Any]:
    """A list, from a list, a string that holds one, or a string as its only item."""
    found = value
    if isinstance(value, str):
        try:
            found = literal(value)
        except ValueError:
            found = None
        if not isinstance(found, list | tuple):
            if not value.strip() or value.strip()[0] in "[({":
                raise refused(name, value, expected)
            found = [value]
    if isinstance(found, bytes | Mapping) or not isinstance(found, Sequence):
        raise refused(name, value, expected)
    return list(found)


def optional(rule: Rule) -> Rule:
    return lambda name, value: None if value is None else rule(name, value)


def rule_for(passes: Callable[[Any], bool], expected: str) -> Rule:
    """The rule that refuses values which do not pass, and returns others as they are."""

    def rule(name: str, value: Any) -> Any:
        if not passes(value):
            raise refused(name, value, expected)
        return value

    return rule


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_integer(value) or isinstance(value, float)


text = rule_for(lambda value: isinstance(value, str) and bool(value.strip()), "a string that is not empty")
flag = rule_for(lambda value: isinstance(value, bool), "True or False")
count = rule_for(lambda value: _is_integer(value) and value >= 1, "an integer of 1 or more")
none_or_more = rule_for(lambda value: _is_integer(value) and value >= 0, "an integer of 0 or more")
function = rule_for(callable, "a function")
content_type = rule_for(
    lambda value: isinstance(value, str) and value.partition(";")[0] in (protocol.CSV, protocol.JSON),
    f"{protocol.CSV!r} or {protocol.JSON!r}",
)
_path_object = rule_for(is_path, "a local path or the URL of an ObjectStoragePath")
_seconds = rule_for(
    lambda value: _is_number(value) and 0 <= value <= _MOST_SECONDS, "a number of seconds, 0 or more"
)


def key(name: str, value: Any) -> str:
    if not isinstance(value, str) or protocol.is_key(value) is None:
        hint = ""
        if isinstance(value, int | float):
            hint = " (a number: quote it, or if the DAG renders templates as native objects add '| string')"
        elif isinstance(value, str) and not protocol.KEY_PATTERN_CHARACTERS.isdisjoint(value):
            hint = " (QCache has no patterns: a table is stored, queried and deleted by its whole key)"
        raise refused(name, value, f"a string of ASCII letters, digits, '-' and '_'{hint}")
    return value


def key_of_files(name: str, value: Any) -> str:
    """A key; or a key for each file, with '{stem}' and '{parent}' for its name and directory."""
    if not has_placeholder(value):
        return key(name, value)
    rest = value.replace("{stem}", "").replace("{parent}", "")
    if rest and protocol.is_key(rest) is None:
        expected = "a string of ASCII letters, digits, '-', '_' and the placeholders {stem} and {parent}"
        raise refused(name, value, expected)
    return str(value)


def has_placeholder(value: Any) -> bool:
    """Whether a key stands for a key for each file."""
    return isinstance(value, str) and "{" in value


def keys(name: str, value: Any) -> list[str]:
    """A list of keys, each once; a string may be one key, or hold a list as JSON or as a Python literal.

    It may also be the result of a task with ``return_keys``, which has a list of keys.
    """
    if isinstance(value, Mapping) and "keys" in value:
        value = value["keys"]
    found = _list_in(name, value, "a list of keys, or a string that holds one as JSON or as a Python literal")
    if not found:
        raise ValueError(
            f"{name}={short_repr(value)}: the list is empty. Pass at least one key, or skip this task if "
            "the task that returns the keys has none"
        )
    return list(dict.fromkeys(key(f"{name}[{place}]", one) for place, one in enumerate(found)))


def one_of(*allowed: str) -> Rule:
    return rule_for(lambda value: value in allowed, " or ".join(map(repr, allowed)))


def path(name: str, value: Any) -> Any:
    """A local path or a URL of ObjectStoragePath, or either as an object."""
    if isinstance(value, str):
        return text(name, value)
    return _path_object(name, value)


def sequence(name: str, value: Any) -> list[Any]:
    """A list; a string may hold one, or is its only item."""
    return _list_in(name, value, "a list")


def mapping(name: str, value: Any) -> dict[str, Any]:
    """A dict with strings for keys; a string may hold one."""
    found = value_in(name, value, "a dict")
    if not isinstance(found, Mapping) or not all(isinstance(one, str) for one in found):
        raise refused(name, value, "a dict whose keys are strings")
    return dict(found)


def headers(name: str, value: Any) -> dict[str, str]:
    """Headers by name. Their values may be credentials, so no message has them."""
    if isinstance(value, str):
        try:
            value = literal(value)
        except ValueError:
            raise ValueError(f"{name}: expected a dict of headers, or a string that holds one") from None
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}: expected a dict of headers, not {type(value).__name__}")  # noqa: TRY004
    for header, text in value.items():
        if not isinstance(header, str) or not (isinstance(text, str) or _is_number(text)):
            raise ValueError(f"{name}[{header!r}]: expected a string, not {type(text).__name__}")
        if protocol.is_header_name(header) is None:
            raise ValueError(f"{name}: {header!r} is not a valid name of an HTTP header")
        if header.lower() in protocol.FRAMING_HEADERS:
            raise ValueError(f"{name}: the client sets {header!r} itself: leave it out")
        if _NO_HEADER_TEXT.search(str(text)):
            raise ValueError(f"{name}[{header!r}]: expected latin-1 text without line breaks")
    return {header: str(text) for header, text in value.items()}


def _names_of_columns(name: str, value: Any) -> dict[str, Any]:
    found = mapping(name, value)
    for column in found:
        if not column or not column.isascii() or set(column) & set(";=\r\n"):
            allowed = "ASCII without ';', '=' and line breaks"
            raise ValueError(f"{name}: column {column!r} cannot be named in a header: expected {allowed}")
    return found


def column_types(name: str, value: Any) -> dict[str, str]:
    found = _names_of_columns(name, value)
    for column, kind in found.items():
        if kind not in protocol.COLUMN_TYPES:
            raise refused(f"{name}[{column!r}]", kind, " or ".join(map(repr, protocol.COLUMN_TYPES)))
    return found


def stand_in_columns(name: str, value: Any) -> dict[str, str]:
    """The stand-ins of columns that a table lacks, for X-QCache-stand-in-columns."""
    found = _names_of_columns(name, value)
    for column, source in found.items():
        known = isinstance(source, str) or _is_number(source)
        if not known or not str(source) or set(str(source)) & set(";=\r\n"):
            expected = "a number, a string in quotes or a column's name, without ';' or '='"
            raise refused(f"{name}[{column!r}]", source, expected)
    return {column: str(source) for column, source in found.items()}


def positive_seconds(name: str, value: Any) -> float:
    if not _seconds(name, value) > 0:
        raise refused(name, value, "a number of seconds, more than 0")
    return float(value)


REQUEST_RETRY: Final[Mapping[str, Rule]] = {
    "consecutive_error_count_limit": optional(count),
    "wait_initial": _seconds,
    "wait_max": _seconds,
    "wait_for_nodes": flag,
}
"""The fields of RequestRetry, which is not imported here since its module loads tenacity."""


def request_retry(name: str, value: Any) -> Any:
    expected = f"a RequestRetry or a dict of its fields ({', '.join(REQUEST_RETRY)})"
    if type(value).__name__ == "RequestRetry":
        return value
    if not isinstance(value, Mapping):
        raise refused(name, value, expected)
    for field in value:
        if field not in REQUEST_RETRY:
            raise ValueError(f"{name}: unknown field {field!r}; the fields are {', '.join(REQUEST_RETRY)}")
    return {field: REQUEST_RETRY[field](f"{name}[{field!r}]", one) for field, one in value.items()}


def query(name: str, value: Any) -> dict[str, Any]:
    """A query: a dict that JSON can carry, or a string that holds one."""
    expected = "a dict, a string that holds one as JSON, or the name of a .json file"
    found = value_in(name, value, expected)
    if not isinstance(found, Mapping):
        raise refused(name, value, expected)
    try:
        json.dumps(found)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}={short_repr(found)}: not JSON: {error}") from error
    return dict(found)


def earlier_keys(name: str, value: Any) -> Any:
    """The rule for ``delete_missing``: a path, or the keys."""
    if is_path(value):
        return value
    found = value
    if isinstance(value, str):
        try:
            found = literal(value)
        except ValueError:
            return path(name, value)
    if isinstance(found, Mapping):
        found = found.get("keys")
    if isinstance(found, str | bytes) or not isinstance(found, Sequence):
        expected = "the path of a list of keys, a list of keys, or the result of a task with return_keys"
        raise refused(name, value, expected)
    return [key(f"{name}[{place}]", one) for place, one in enumerate(found)]


def store_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an operator that are arguments of each of its stores."""
    return {name: arguments[name] for name in ("copies", "evict_stale", "check_row_count")}
