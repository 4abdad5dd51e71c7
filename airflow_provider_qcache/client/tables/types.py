"""The types of columns on a node, and the rules and limits for their values.

The rules are the same for every form of table: arrow.py applies them to Arrow data, values.py to lists of
dicts.
"""

from __future__ import annotations

import abc
import dataclasses
import enum
import json
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

from airflow_provider_qcache.client.errors import InvalidTable
from airflow_provider_qcache.protocol import COLUMN_TYPES, JSON

if TYPE_CHECKING:
    import decimal
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence


class ColumnType(enum.StrEnum):
    """The type that a column gets on a node."""

    TEXT = "string"
    ENUM = "enum"
    FLOAT = "float"
    INT = "int"
    BOOL = "bool"
    NULLS = "null"
    """Only nulls, in a column without a type."""


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A column's name and its type on a node."""

    name: str
    type: ColumnType


def typed(columns: Iterable[Column]) -> dict[str, ColumnType]:
    """The columns that X-QCache-types must name, with their types: a node infers all others correctly."""
    return {column.name: column.type for column in columns if column.type in COLUMN_TYPES}


INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1
"""A node stores larger integers, and returns them as negative numbers in JSON."""

EXACT: Final = 2**53
"""The integers up to which floats are exact. A node converts an integer column with nulls to floats."""

MOST_FLOAT: Final = 1.797e308
"""A node cannot parse floats from here on: its sum of their digits exceeds the largest float."""

MOST_DIGITS: Final = 15
"""Significant digits that every float keeps (C's DBL_DIG)."""

DECIMAL_DIGITS: Final = 76
"""Digits of Arrow's longest decimals; the limit for lists of dicts as well."""

DAY_SECONDS: Final = 24 * 60 * 60

LOOKS_LIKE_ANOTHER_TYPE: Final = r"^\s*(?:[+-]?(?:[0-9]|\.[0-9]|inf|nan)|true\s*$|false\s*$)"
"""Matches texts for which a node may infer another type, in any case."""


def refuse(name: str, why: str, *, row: int | None = None) -> NoReturn:
    """Raise InvalidTable for a column, or for its value in a row (from 1)."""
    where = f"column {name!r}" + (f", row {row}" if row is not None else "")
    raise InvalidTable(f"{where}: {why}", column=name, row=row)


def short_repr(value: Any) -> str:
    """A value for an error; a long value is cut off."""
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"


def check_names(names: Sequence[Any]) -> None:
    """Raise InvalidTable if there are no columns, or a name is not a string, empty or a duplicate."""
    if not names:
        raise InvalidTable("the table has no columns: an empty list of dicts has no names of columns")
    seen = set()
    for number, name in enumerate(names, 1):
        if not isinstance(name, str):
            raise InvalidTable(f"column {number} of the table has the name {name!r}, expected a string")
        if not name:
            raise InvalidTable(f"column {number} of the table has no name: give it one", column="")
        check_name(name)
        if not is_unicode(name):
            refuse(name, "its name contains a lone surrogate, which UTF-8 cannot encode: rename it")
        if name in seen:
            refuse(name, "the table has this column more than once: rename one of them")
        seen.add(name)


def check_name(name: str) -> None:
    """Raise InvalidTable for a column's name that contains a NUL."""
    if "\0" in name:
        refuse(name, "its name contains a NUL, at which a node would cut it off: rename it")


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can encode a text, which then has no lone surrogate."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def listed(columns: Sequence[str]) -> str:
    """The columns of a table for an error; of many columns the first ten."""
    more = f" and {len(columns) - 10} more" if len(columns) > 10 else ""
    return f"the table has {', '.join(map(repr, columns[:10]))}{more}"


def check_column_types(column_types: Mapping[str, str] | None, names: Iterable[str]) -> dict[str, ColumnType]:
    """Return the types in ``column_types``; raises InvalidTable for an unknown column or type."""
    known = dict.fromkeys(names)
    types = {}
    for name, requested in (column_types or {}).items():
        if name not in known:
            raise InvalidTable(
                f"column_types names column {name!r}, which the table does not have: {listed(tuple(known))}",
                column=name,
            )
        types[name] = ColumnType(check_header_type("column_types", name, requested))
    return types


def check_header_type(where: str, name: str, requested: str) -> str:
    """Return a column's requested type; raises InvalidTable for one that X-QCache-types cannot name."""
    if requested not in COLUMN_TYPES:
        types = ", ".join(sorted(COLUMN_TYPES))
        why = f"{where}: {requested!r} for column {name!r} is not a type: use {types}"
        raise InvalidTable(why, column=name)
    return requested


fits_csv: Final = re.compile(r"[!#-:<>-~](?:[ !#-:<>-~]*[!#-:<>-~])?").fullmatch
"""Matches a name that CSV and X-QCache-types allow: printable ASCII, no ; = or ", no blank at an end."""


def too_large_int(name: str, value: Any, row: int) -> NoReturn:
    """Raise for an integer outside signed 64 bits."""
    refuse(
        name,
        f"{short_repr(value)} is outside {INT64_MIN} to {INT64_MAX}, the integers that a node returns "
        f"correctly: pass column_types={{{name!r}: 'string'}} to store the digits as text, or 'float' to "
        "round",
        row=row,
    )


def too_large_with_null(name: str, *, row: int, null_row: int) -> NoReturn:
    """Raise for an integer that a node would round, because its column has nulls."""
    refuse(
        name,
        f"an integer beyond 2**53 in a column with a null (row {null_row}): a node would convert the column "
        f"to floats and round it. Pass column_types={{{name!r}: 'string'}} to store the digits as text, or "
        "'float' to round",
        row=row,
    )


def too_large_float(name: str, value: Any, row: int) -> NoReturn:
    """Raise for a float that a node cannot parse."""
    refuse(name, f"{short_repr(value)} is too large: a node parses floats below {MOST_FLOAT}", row=row)


def not_a_float(name: str, value: Any, row: int) -> NoReturn:
    """Raise for a text in a column whose requested type is float."""
    refuse(name, f"column_types: {short_repr(value)} is not a float: correct it, or use 'string'", row=row)


def too_many_digits(name: str, value: Any, row: int) -> NoReturn:
    """Raise for a decimal that a float cannot represent."""
    refuse(
        name,
        f"{value} has more than {MOST_DIGITS} significant digits, which a float cannot represent: pass "
        f"column_types={{{name!r}: 'string'}} to store it as text, or 'float' to round it",
        row=row,
    )


def digits_of(value: decimal.Decimal) -> int:
    """The number of significant digits of a decimal, without leading and trailing zeros."""
    return len("".join(map(str, value.as_tuple().digits)).strip("0"))


OUT_OF_CALENDAR: Final = (
    "a date outside the years 0001 to 9999 would not sort correctly as text: remove it or use null"
)
NUL_IN_TEXT: Final = "a text with a NUL, at which a node would cut it off: remove the NUL"
LONE_SURROGATE: Final = "the text contains a lone surrogate, which UTF-8 cannot encode: remove the surrogate"
"""Why a value is refused; see ``refuse``."""


def infinite_decimal(name: str, value: Any, row: int) -> NoReturn:
    """Raise for a decimal that is infinite, or a signaling NaN."""
    refuse(name, f"{value} cannot be stored: use a float, or null", row=row)


def csv_header(names: Sequence[str]) -> bytes:
    """The first line of a CSV whose names ``fits_csv``."""
    return (",".join(f'"{name}"' if "," in name else name for name in names) + "\n").encode()


class TypedSource(abc.ABC):
    """A Source whose columns have types, and whose rows are written as CSV or as JSON."""

    length: int | None = None
    repeatable: bool
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(column.name for column in self.columns)

    def pieces(self, content_type: str) -> Iterator[tuple[bytes, int]]:
        """The table from its start, as CSV or as a list of JSON objects; see ``Source.pieces``."""
        if content_type != JSON:
            yield csv_header(self.names), 0
            yield from self._csv()
            return
        names = self.names
        start = b"["
        for columns in self._chunks():
            rows = zip(*columns, strict=True)
            dumped = json.dumps([dict(zip(names, row, strict=True)) for row in rows], separators=(",", ":"))
            yield start + dumped[1:-1].encode(), len(columns[0])
            start = b","
        if start == b"[":
            raise InvalidTable(
                "the table has no rows, and is sent as JSON because of its column names or content_type. "
                "JSON without rows has no columns: store at least one row, or use CSV"
            )
        yield b"]", 0

    def close(self) -> None:  # noqa: B027  # most sources have nothing open
        """Close open files and queries, such as a query of duckdb, which blocks its connection."""

    @abc.abstractmethod
    def wrongly_inferred(self, check_time: Callable[[], object]) -> set[str]:
        """Columns whose type a node may infer wrongly: enums, texts like numbers, floats that are whole."""

    @abc.abstractmethod
    def _csv(self) -> Iterator[tuple[bytes, int]]:
        """The rows as CSV, without the header."""

    @abc.abstractmethod
    def _chunks(self) -> Iterator[list[Sequence[Any]]]:
        """Some rows at a time, by column, as values for JSON."""
