"""Answers as columns, which QueryResult's to_arrow, to_pandas and to_polars are made of."""

from __future__ import annotations

import json
import re
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

# How a node writes numbers in CSV: a float has a point, an exponent, or is infinite.
_INT: Final = re.compile(r"0|-?[1-9][0-9]{0,18}").fullmatch
_FLOAT: Final = re.compile(r"-?(?:(?:0|[1-9][0-9]*)\.[0-9]+|[0-9](?:\.[0-9]+)?e[+-][0-9]{2,3}|inf)").fullmatch
# A node ends a line by LF alone, and leaves a CR in a text without quotes, which Python's csv would split at.
_FIELD: Final = re.compile(r'(?:"([^"]*+(?:""[^"]*+)*+)"|((?!")[^,\n]*+))([,\n]|\Z)').match
_BOOLEANS: Final = {"True": True, "False": False}


def columns_of(content: bytes, *, is_csv: bool) -> dict[str, list[Any]]:
    """The answer's columns: lists of str, int, float, bool and None, all of one length."""
    return _csv_columns(content) if is_csv else _json_columns(content)


def _json_columns(content: bytes) -> dict[str, list[Any]]:
    rows: list[dict[str, Any]] = json.loads(content)
    if not rows:
        return {}
    return {name: _one_kind([row[name] for row in rows]) for name in rows[0]}


def _one_kind(values: list[Any]) -> list[Any]:
    # Integers and floats come beside each other where a node's column holds objects.
    if {type(value) for value in values} - {type(None)} == {int, float}:
        return [None if value is None else float(value) for value in values]
    return values


def _csv_columns(content: bytes) -> dict[str, list[Any]]:
    rows: list[list[str]] = []
    row: list[str] = []
    text = content.decode()
    at = 0
    while at < len(text):
        found = _FIELD(text, at)
        if found is None:
            raise ValueError(f"the answer is no CSV of a node, at character {at}")
        quoted, plain, end = found.groups()
        row.append(plain if quoted is None else quoted.replace('""', '"'))
        if end != ",":
            rows.append(row)
            row = []
        at = found.end()
    if not rows or rows[0] == [""]:  # a table without columns
        return {}
    header, *values = rows
    return {name: _typed([value[at] for value in values]) for at, name in enumerate(header)}


def _typed(texts: list[str]) -> list[Any]:
    """What a node writes as numbers or booleans, and nothing else, read back; only an empty field is null."""
    present = [text for text in texts if text]
    read: Callable[[str], Any] = str
    if present and all(map(_INT, present)):
        read = int
    elif present and all(map(_FLOAT, present)):
        read = float
    elif present and all(text in _BOOLEANS for text in present):
        read = _BOOLEANS.__getitem__
    return [read(text) if text else None for text in texts]


def library(name: str, extra: str) -> Any:
    """A library, imported now; ImportError naming the extra that brings it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{name} is not installed, which this needs: install the extra {extra!r} "
            f"(airflow-provider-qcache[{extra}])"
        ) from error
