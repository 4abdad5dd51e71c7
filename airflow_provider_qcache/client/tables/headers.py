"""The request headers of a store; only this module writes and reads those that describe columns."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any, Final, Self

from airflow_provider_qcache.client.errors import InvalidTable
from airflow_provider_qcache.client.tables.types import check_header_type, listed
from airflow_provider_qcache.protocol import CSV, FRAMING_HEADERS, JSON, is_header_name

if TYPE_CHECKING:
    from collections.abc import Mapping

TYPES: Final = "X-QCache-types"
STAND_INS: Final = "X-QCache-stand-in-columns"

MAX_HEAD_BYTES: Final = 60 * 1024
"""Bytes of the longest request head. A node closes the connection on one over 65,536 bytes."""


def column_headers(
    types: Mapping[str, str] | None = None, stand_ins: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """The headers that describe a table's columns: their types, and values for columns to add, by column."""
    described = {TYPES: types, STAND_INS: stand_ins}
    return {
        header: ";".join(f"{name}={value}" for name, value in pairs.items())
        for header, pairs in described.items()
        if pairs
    }


def is_csv(content_type: str) -> bool:
    """Whether a Content-Type is CSV, else JSON; InvalidTable for any other, which a node refuses (415)."""
    media_type, _, parameters = content_type.partition(";")
    charset = re.match(r"charset=([A-Za-z0-9_-]+)", parameters.strip())  # as the node looks for it
    if media_type not in (CSV, JSON) or (charset is not None and charset[1] != "utf-8"):
        raise InvalidTable(
            f"Content-Type {content_type!r} is not supported by QCache: use {CSV!r} or {JSON!r}, in UTF-8"
        )
    return media_type == CSV


@dataclasses.dataclass(frozen=True, slots=True)
class ColumnHeaders:
    """The types and stand-ins of columns in a request's headers."""

    types: tuple[tuple[str, str], ...] = ()
    stand_ins: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, headers: Mapping[str, str], *, is_csv: bool) -> Self:
        """Read a request's headers, by names in lower case, and check what needs no column of the table.

        Raises InvalidTable for a malformed header, an unknown type, or a value that a node refuses.
        """
        types = _parse_pairs(TYPES, headers)
        for name, column_type in types:
            check_header_type(TYPES, name, column_type)
        found = cls(types, _parse_pairs(STAND_INS, headers))
        found._check_stand_ins(None, may_be_columns=is_csv)
        return found

    @property
    def floats(self) -> frozenset[str]:
        """The columns that a node parses as floats. If a column is named twice, its last type counts."""
        return frozenset(name for name, column_type in dict(self.types).items() if column_type == "float")

    def check(self, columns: tuple[str, ...] | None) -> None:
        """Raise InvalidTable for a name that is not among the table's columns (None: JSON, any name)."""
        if columns is None:
            return
        for name, _ in self.types:
            if name not in columns:
                raise InvalidTable(
                    f"{TYPES} names column {name!r}, which the table does not have: {listed(columns)}",
                    column=name,
                )
        self._check_stand_ins(columns)

    def _check_stand_ins(self, columns: tuple[str, ...] | None, *, may_be_columns: bool = False) -> None:
        """Raise InvalidTable for a value that is not a number, quoted string or column.

        A node reads any other word as a string: a misspelled column would fill the stand-in with its name.
        """
        known = set(columns or ())
        for name, source in self.stand_ins:
            # A name outside ASCII may turn out to be a column of the table.
            is_column = source in known or (may_be_columns and not _is_literal(source))
            if not source.isascii() and not is_column:
                raise InvalidTable(
                    f"{STAND_INS}: {source!r}, for column {name!r}, is not ASCII, which a node refuses: use "
                    "an ASCII value, or add the column to the table",
                    column=name,
                )
            if columns is not None and not _is_literal(source) and source not in known:
                raise InvalidTable(
                    f"{STAND_INS}: {source!r}, for column {name!r}, is not a column of the table; put a "
                    f"string in quotes: {listed(columns)}",
                    column=source,
                )
            known.add(name)


def _parse_pairs(header: str, headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    value = headers.get(header.lower())
    if value is None:
        return ()
    pairs = []
    for part in value.split(";"):
        name, *rest = (text.strip() for text in part.split("="))
        if len(rest) != 1 or not name or not rest[0]:
            raise InvalidTable(
                f"{header}: {value!r} is malformed at {part!r}: expected 'name=value' pairs separated by "
                "';', without ';' at the end"
            )
        pairs.append((name, rest[0]))
    return tuple(pairs)


def _is_literal(source: str) -> bool:
    if len(source) > 1 and source[0] == source[-1] and source[0] in "'\"":
        return True
    try:
        float(source)
    except ValueError:
        return False
    return "_" not in source  # which Python 3 alone reads within a number


def header_text(value: Any) -> str:
    """A header's value as text. Bytes are decoded as latin-1, as by a node."""
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def check_header(name: str, value: Any) -> bytes:
    """One header line; ValueError for an invalid name, a line break, or characters outside latin-1."""
    text = header_text(value)
    if not is_header_name(name):
        raise ValueError(f"{name!r} is not a valid name of an HTTP header")
    if re.search(r"[\r\n\0]", text):
        raise ValueError(f"the value of header {name!r} contains a line break")
    try:
        return f"{name}: {text}\r\n".encode("latin-1")
    except UnicodeEncodeError:
        # The value may be a credential, and is not in the error.
        raise ValueError(f"the value of header {name!r} contains characters outside latin-1") from None


def update_headers(fields: dict[str, str], further: Mapping[str, str]) -> None:
    """Add headers, or replace those of the same name in any case; ValueError for one in FRAMING_HEADERS."""
    for name, value in further.items():
        if name.lower() in FRAMING_HEADERS:
            raise ValueError(f"the client sets header {name!r} itself: leave it out")
        for known in list(fields):
            if known.lower() == name.lower():
                del fields[known]
        fields[name] = value
