"""What a column of a table becomes on a node, whichever library the table came from.

The rules that need no value are here, and the limits of those that do; frames.py applies them to Arrow,
rows.py to lists of dicts.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

from airflow_provider_qcache.client.errors import InvalidTable

if TYPE_CHECKING:
    import decimal
    from collections.abc import Iterable, Mapping, Sequence


class Kind(enum.StrEnum):
    """What a node is to have a column as."""

    TEXT = "string"
    ENUM = "enum"
    FLOAT = "float"
    INT = "int"
    BOOL = "bool"
    NULLS = "null"
    """Nothing but nulls, of a column that has no type."""

    @property
    def header(self) -> str | None:
        """Its name in X-QCache-types, or None where the node's inference is right."""
        return self.value if self in WANTED.values() else None


WANTED: Final = {kind.value: kind for kind in (Kind.TEXT, Kind.ENUM, Kind.FLOAT)}
"""The types X-QCache-types knows."""


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A column as a node is to have it."""

    name: str
    kind: Kind


INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1
"""A node holds larger ones, but its JSON answers show them as negative numbers."""

EXACT: Final = 2**53
"""The integers up to which a float holds each one; a node makes floats of an integer column with nulls."""

MOST_FLOAT: Final = 1.797e308
"""Floats from here on are not parsed: the node's own sum of their digits passes the largest float."""

MOST_DIGITS: Final = 15
"""Significant digits that a float keeps, whatever they are (C's DBL_DIG)."""

DAY_SECONDS: Final = 24 * 60 * 60

MISREAD: Final = r"^\s*(?:[+-]?(?:[0-9]|\.[0-9]|inf|nan)|true\s*$|false\s*$)"
"""Texts that a node, left to itself, may read as something else; case does not count."""

_IN_CSV_AND_HEADER: Final = re.compile(r"[!#-:<>-~](?:[ !#-:<>-~]*[!#-:<>-~])?").fullmatch


def refuse(name: str, why: str, *, row: int | None = None) -> NoReturn:
    """Raise InvalidTable for a column, or for its value in a row (from 1)."""
    where = f"column {name!r}" + (f", row {row}" if row is not None else "")
    raise InvalidTable(f"{where}: {why}", column=name, row=row)


def shown_value(value: Any) -> str:
    """A value as an error tells it: the start of it where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"


def check_names(names: Sequence[Any]) -> None:
    """Raise InvalidTable for no columns at all, and for names that are no text, empty or there twice."""
    if not names:
        raise InvalidTable("the table has no columns")
    seen = set()
    for number, name in enumerate(names, 1):
        if not isinstance(name, str):
            raise InvalidTable(f"column {number} is named {name!r}; a column's name is a text")
        if not name:
            raise InvalidTable(f"column {number} of the table has no name", column="")
        if "\0" in name:
            refuse(name, "its name holds a NUL, at which the node would cut it")
        if not is_unicode(name):
            refuse(name, "its name holds a lone surrogate, which is not UTF-8")
        if name in seen:
            refuse(name, "the table has it more than once")
        seen.add(name)


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can carry a text: it holds no lone surrogate."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_column_types(column_types: Mapping[str, str] | None, names: Iterable[str]) -> dict[str, Kind]:
    """The kinds that are asked for; raises InvalidTable for a column or a type that does not exist."""
    known = set(names)
    kinds = {}
    for name, wanted in (column_types or {}).items():
        if name not in known:
            raise InvalidTable(
                f"column_types names column {name!r}, which the table does not have", column=name
            )
        if wanted not in WANTED:
            raise InvalidTable(
                f"column_types: {wanted!r} for column {name!r} is no type; {', '.join(sorted(WANTED))} are",
                column=name,
            )
        kinds[name] = WANTED[wanted]
    return kinds


def fits_csv(names: Iterable[str]) -> bool:
    """Whether CSV and X-QCache-types can carry every name: printable ASCII, no ; = or ", not padded."""
    return all(_IN_CSV_AND_HEADER(name) is not None for name in names)


def too_large_int(name: str, value: Any, row: int) -> NoReturn:
    """Raise for an integer beyond 64 bits with a sign."""
    refuse(
        name,
        f"{shown_value(value)} is beyond {INT64_MIN} to {INT64_MAX}, which is what a node answers truly; "
        f"column_types={{{name!r}: 'string'}} stores the digits as text, 'float' rounds them",
        row=row,
    )


def too_large_with_null(name: str, *, row: int, null_row: int) -> NoReturn:
    """Raise for an integer that the nulls of its column would have the node round."""
    refuse(
        name,
        f"an integer beyond 2**53 beside a null (row {null_row}), for which the node would make the column "
        f"floats and round it; column_types={{{name!r}: 'string'}} stores the digits as text, 'float' rounds",
        row=row,
    )


def too_large_float(name: str, value: Any, row: int) -> NoReturn:
    """Raise for a float the node cannot parse."""
    refuse(name, f"{shown_value(value)} is a float no node can parse; below {MOST_FLOAT} it can", row=row)


def too_many_digits(name: str, value: Any, row: int) -> NoReturn:
    """Raise for a decimal that a float does not hold."""
    refuse(
        name,
        f"{value} has more than {MOST_DIGITS} significant digits, and a node has floats only; "
        f"column_types={{{name!r}: 'string'}} stores it as text, 'float' rounds it",
        row=row,
    )


def digits_of(value: decimal.Decimal) -> int:
    """The significant digits of a decimal, but for zeros before and after all others."""
    return len("".join(map(str, value.as_tuple().digits)).strip("0"))


def out_of_calendar(name: str, row: int) -> NoReturn:
    """Raise for a date or timestamp that has no four digits for its year."""
    refuse(name, "a date outside the years 0001 to 9999, which as text would not be in order", row=row)


def nul_in_text(name: str, row: int) -> NoReturn:
    """Raise for a text a node would cut."""
    refuse(name, "a text with a NUL, at which the node would cut it", row=row)


def csv_name(name: str) -> str:
    """A column's name in a CSV header."""
    return f'"{name}"' if "," in name else name


def csv_header(names: Sequence[str]) -> bytes:
    """The first line of a CSV whose names ``fits_csv``."""
    return (",".join(map(csv_name, names)) + "\n").encode()


def json_rows(names: Sequence[str], rows: Iterable[Sequence[Any]], *, first: bool) -> bytes:
    """Rows as objects of a JSON list, without its brackets; a comma before them unless they are its first."""
    dumped = json.dumps([dict(zip(names, row, strict=True)) for row in rows], separators=(",", ":"))
    return (dumped[1:-1] if first else "," + dumped[1:-1]).encode()
