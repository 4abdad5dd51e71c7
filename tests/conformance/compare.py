"""Compares two answers strictly: returns everything in which a client could tell them apart."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import Any

from tests.harness.servers import WireAnswer

COMPARED_HEADERS = (
    "Content-Type",
    "X-QCache-unsliced-length",
    "Content-Encoding",
    "WWW-Authenticate",
    "Allow",
    "Location",
    "Vary",
    "Transfer-Encoding",
)
PRESENT_HEADERS = ("Etag", "Content-Length", "Date")
"""Only compared for presence: their values follow from the body or the clock."""


@dataclass(frozen=True)
class Finding:
    """One difference between the answers."""

    kind: str
    real: Any
    dev: Any
    row: int | None = None
    column: str | None = None

    def __str__(self) -> str:
        place = "" if self.column is None else f" at row {self.row}, column {self.column!r}"
        return f"{self.kind}{place}: real {self.real!r}, dev {self.dev!r}"


@dataclass(frozen=True)
class Rows:
    """A body as a table: column names and rows of cells."""

    names: tuple[str, ...]
    cells: tuple[tuple[Any, ...], ...]

    @classmethod
    def of(cls, answer: WireAnswer) -> Rows | None:
        """The rows of an answer with status 200; None if the body is no table."""
        content_type = answer.header("Content-Type") or ""
        try:
            text = answer.body.decode()
            if content_type.startswith("text/csv"):
                lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
                return cls(tuple(lines[0]), tuple(map(tuple, lines[1:]))) if lines else cls((), ())
            if content_type.startswith("application/json"):
                return cls._of_json(text)
        except (ValueError, csv.Error):
            return None
        return None

    @classmethod
    def _of_json(cls, text: str) -> Rows | None:
        records = json.loads(text, object_pairs_hook=Record)
        if not isinstance(records, list) or not all(isinstance(record, Record) for record in records):
            return None
        names = tuple(name for name, _ in records[0]) if records else ()
        if any(tuple(name for name, _ in record) != names for record in records):
            return None
        return cls(names, tuple(tuple(value for _, value in record) for record in records))


class Record(list):
    """The members of a JSON object, in order."""


def same_value(real: Any, dev: Any) -> bool:
    """Whether JSON values are equal in type and in every digit, including the sign of zero."""
    return type(real) is type(dev) and repr(real) == repr(dev)


def compare(real: WireAnswer, dev: WireAnswer) -> list[Finding]:
    """All differences; empty if a client could not tell the answers apart."""
    if real.status != dev.status:
        return [Finding("status", real.status, dev.status)]
    findings = [
        Finding(f"header {name}", real.header(name), dev.header(name))
        for name in (*COMPARED_HEADERS, *PRESENT_HEADERS)
        if (real.header(name) is None) != (dev.header(name) is None)
        or (name in COMPARED_HEADERS and real.header(name) != dev.header(name))
    ]
    if real.status in (200, 201):
        findings += compare_bodies(real, dev)
    return findings


def compare_bodies(real: WireAnswer, dev: WireAnswer) -> list[Finding]:
    """The differences between the bodies of two successful answers."""
    if real.body == dev.body:
        if real.header("Etag") != dev.header("Etag"):
            return [Finding("header Etag", real.header("Etag"), dev.header("Etag"))]
        return []
    dev_rows, real_rows = Rows.of(dev), Rows.of(real)
    if dev_rows is None or real_rows is None:
        return [Finding("body", real.body[:500], dev.body[:500])]
    findings = compare_rows(real_rows, dev_rows)
    if not findings and "csv" in (real.header("Content-Type") or ""):
        findings.append(Finding("csv spelling", real.body[:500], dev.body[:500]))
    return findings


def compare_rows(real: Rows, dev: Rows) -> list[Finding]:
    """The differences between two tables."""
    if len(real.cells) != len(dev.cells):
        return [Finding("rows", len(real.cells), len(dev.cells))]
    if real.names != dev.names:
        return [Finding("columns", real.names, dev.names)]
    return [
        Finding("cell", value, other, row, name)
        for row, (line, other_line) in enumerate(zip(real.cells, dev.cells, strict=True))
        for name, value, other in zip(real.names, line, other_line, strict=False)
        if not same_value(value, other)
    ] + [
        Finding("row length", len(line), len(other), row)
        for row, (line, other) in enumerate(zip(real.cells, dev.cells, strict=True))
        if len(line) != len(other)
    ]
