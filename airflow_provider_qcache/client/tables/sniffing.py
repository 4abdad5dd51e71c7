"""Guess the format of a text from its first bytes, if its content type was not stated."""

from __future__ import annotations

import codecs
import contextlib
import enum
import json
import re
from typing import Final

BEGINNING: Final = 64 * 1024
"""The number of first bytes that are examined."""

_JSON_TEXT: Final = rb'"(?:[^"\\\r\n]|\\.)*+"'
_ONE_OBJECT: Final = rb"\{\s*+(?:\}|" + _JSON_TEXT + rb"\s*+:)"
_OBJECT: Final = re.compile(_ONE_OBJECT).match
_LIST_OF_OBJECTS: Final = re.compile(rb"\[\s*+(?:" + _ONE_OBJECT + rb"|\]\s*+\Z)").match
_LIKE_JSON: Final = re.compile(
    # Python's own literals too: what str() makes of a dict or a list.
    rb"\{\s*+[\"'}]|\[\s*+(?:[\[\]{\"'0-9-]|(?:true|false|null|True|False|None)\b)"
).match
_DOCUMENT: Final = re.compile(rb"<!doctype\b|<\?xml\b|<html[\s>]|<!--", re.IGNORECASE).match
_ELEMENT: Final = re.compile(
    # A tag, followed by another tag or text. A column of a CSV may have the name <DATE>.
    rb"</?[A-Za-z][^<>\r\n]*+>(?:\s*+<|[ \t]*+[^,;|\t\r\n ])|<[A-Za-z][^<>]*+/>"
).match
_SEVERAL_OBJECTS: Final = re.compile(r"\s*+\{").match
_GOES_ON: Final = re.compile(r"\s*+(?:,\s*+(?:\{|\Z)|\]?\s*+\Z)").match
_ENDS: Final = re.compile(r"\s*+\Z").match
_SEPARATORS: Final = ";\t|"
_NAMES_ITS_SEPARATOR: Final = re.compile(r"sep=.?", re.IGNORECASE).fullmatch
_IN_QUOTES: Final = re.compile(r'"[^"]*+(?:""[^"]*+)*+"').fullmatch
_PYTHON_VALUES: Final = frozenset({"None", "True", "False"})
_decode = json.JSONDecoder(parse_int=float).raw_decode


class Text(enum.Enum):
    """The formats of text that are recognised; the value describes it in errors."""

    OBJECTS = "a JSON list of objects"
    JSON = "JSON that is not a list of objects"
    JSON_LINES = "several JSON objects, one after another"
    DOCUMENT = "an HTML or XML document"


def text_in(beginning: bytes) -> Text | None:
    """Guess the format of a text from its first ``BEGINNING`` bytes; None if it may be CSV.

    A UTF-8 BOM and white space are skipped.
    """
    start = _stripped(beginning)
    if _LIST_OF_OBJECTS(start):
        return Text.OBJECTS
    if _OBJECT(start):
        text = start.decode("utf-8", "replace")
        with contextlib.suppress(ValueError, RecursionError):
            _, end = _decode(text)
            if _SEVERAL_OBJECTS(text, end):
                return Text.JSON_LINES
    if _LIKE_JSON(start):
        return Text.JSON
    return Text.DOCUMENT if _DOCUMENT(start) or _ELEMENT(start) else None


def is_one_value(text: bytes) -> bool:
    """Whether a text is a single JSON null, boolean, number or string, without a newline at its end.

    HTTP APIs answer so if they have no data. The texts of Python's None, True and False count as well. The
    header of a CSV without rows ends with a newline.
    """
    start = _stripped(text)
    if not start or start.endswith((b"\n", b"\r")):
        return False
    try:
        decoded = start.decode()
        return decoded in _PYTHON_VALUES or not isinstance(json.loads(decoded, parse_int=float), dict | list)
    except (ValueError, RecursionError):
        return False


def no_csv_in(beginning: bytes, *, whole: bool) -> Text | None:
    """The format of a text that is certainly not CSV, else None; ``text_in`` guesses as well.

    ``whole`` says whether ``beginning`` is the whole text.
    """
    start = _stripped(beginning)
    if _DOCUMENT(start):
        return Text.DOCUMENT
    if not (_LIST_OF_OBJECTS(start) or _OBJECT(start)):
        return None
    found = text_in(start)
    if found is Text.JSON_LINES:
        return found
    text = start.decode("utf-8", "replace")
    try:
        if whole:
            json.loads(text, parse_int=float)
            return found
        _, end = _decode(text, text.index("{"))
    except RecursionError:
        return found
    except json.JSONDecodeError as error:
        cut = not whole and (error.msg.startswith("Unterminated string") or error.pos >= len(text) - 16)
        return found if cut else None
    return found if (_GOES_ON if found is Text.OBJECTS else _ENDS)(text, end) else None


def wrong_separator_in(header: bytes, columns: int) -> str | None:
    """The error for a CSV whose separator is not a comma, or is named in its first line; else None.

    ``header`` has no line end. A name in quotes is one column, whatever characters it has.
    """
    text = header.strip().decode()
    first_line = repr(text if len(text) <= 80 else text[:80] + "…")
    if _NAMES_ITS_SEPARATOR(text):
        return f"the table begins with {first_line}, which is for spreadsheets: remove this line"
    if columns > 1 or _IN_QUOTES(text):
        return None
    separator = max(_SEPARATORS, key=text.count)
    if separator not in text:
        return None
    return (
        f"the table has one column, {first_line}, and its separator seems to be {separator!r}: a node reads "
        "only commas. Write the CSV with commas, or store a DataFrame (pandas.read_csv(…, "
        f"sep={separator!r})). If it is one column, put its name in quotes"
    )


def advice(found: Text) -> str:
    """What to do about a text that is not CSV, for the end of an error."""
    return {
        Text.OBJECTS: "pass content_type='application/json'",
        Text.JSON: "put the rows into a list of objects and pass content_type='application/json'",
        Text.JSON_LINES: (
            "write the objects as one JSON list and pass content_type='application/json', or read them from "
            "a file with source_path and source_format='jsonl'"
        ),
        Text.DOCUMENT: (
            "check whether its source answered with an error page; a table is CSV or a JSON list of objects"
        ),
    }[found]


def _stripped(beginning: bytes) -> bytes:
    return beginning.removeprefix(codecs.BOM_UTF8).lstrip()
