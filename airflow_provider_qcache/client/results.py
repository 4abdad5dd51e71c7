"""The results of operations, without secrets."""

from __future__ import annotations

import dataclasses
import enum
import json
import re
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.client.errors import Attempt, BulkError, QClientException
from airflow_provider_qcache.extras import library
from airflow_provider_qcache.plain import Plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd
    import polars as pl
    import pyarrow as pa


# How a node writes numbers in CSV: a float has a point, an exponent, or is infinite.
_INT: Final = re.compile(r"0|-?[1-9][0-9]{0,18}").fullmatch
_FLOAT: Final = re.compile(r"-?(?:(?:0|[1-9][0-9]*)\.[0-9]+|[0-9](?:\.[0-9]+)?e[+-][0-9]{2,3}|inf)").fullmatch
# A node ends a line by LF alone, and leaves a CR in a text without quotes, which Python's csv would split at.
_FIELD: Final = re.compile(r'(?:"([^"]*+(?:""[^"]*+)*+)"|((?!")[^,\n]*+))([,\n]|\Z)').match
_BOOLEANS: Final = {"True": True, "False": False}


@dataclasses.dataclass(slots=True, eq=False, repr=False)
class QueryResult(Plain):
    """The answer to a query.

    ``content`` is the body as bytes, decoded unless ``decoded`` is False (the caller's own headers asked for
    its encoding). ``unsliced_result_len`` is the number of rows before offset and limit, ``encoding`` the
    answer's Content-Encoding or None, ``statistics`` are the durations that the node reported for the query,
    and for a store before it. ``node`` is the node that answered, ``content_type`` its Content-Type without
    charset.
    """

    content: bytes
    unsliced_result_len: int
    encoding: str | None = None
    statistics: dict[str, float] = dataclasses.field(default_factory=dict)
    node: str = ""
    content_type: str = "application/json"
    decoded: bool = dataclasses.field(default=True, kw_only=True)

    def add_stats(self, stats: Mapping[str, float]) -> None:
        """Add to ``statistics``."""
        self.statistics.update(stats)

    def as_dict(self) -> dict[str, Any]:
        """The attributes by name as values for JSON, ``content`` as text.

        Raises:
            ValueError: the content is encoded, as the caller asked for, or it is not UTF-8.
        """
        if not self.decoded:
            raise ValueError(f"as_dict: the content is encoded as {self.encoding!r}: decode it first")
        named = {**Plain.as_dict(self), "content": self.content.decode()}
        del named["decoded"]
        return named

    def to_arrow(self) -> pa.Table:
        """The rows as a pyarrow Table: text, int64, double and bool, with nulls.

        JSON has the type of each value, but no columns if there are no rows. CSV has the columns, but no
        types: a column whose values all look like a node's numbers or booleans is read as those.

        Raises:
            ImportError: pyarrow is not installed; it is the extra ``arrow``.
            ValueError: a column has values of several types.
        """
        pyarrow = library("pyarrow", "an answer as a table", "arrow")
        return self._built(pyarrow.table, pyarrow.array)

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a pandas DataFrame, typed as in ``to_arrow``; pandas decides how to represent nulls.

        Raises:
            ImportError: pandas is not installed; it is the extra ``pandas``.
            ValueError: a text has a lone surrogate, which pandas cannot encode.
        """
        pandas = library("pandas", "an answer as a table", "pandas")
        frame: pd.DataFrame = self._built(pandas.DataFrame, pandas.Series)
        return frame

    def to_polars(self) -> pl.DataFrame:
        """The rows as a polars DataFrame, typed as in ``to_arrow``.

        Raises:
            ImportError: polars is not installed; it is the extra ``polars``.
            ValueError: a column has values of several types.
        """
        polars = library("polars", "an answer as a table", "polars")
        return self._built(polars.DataFrame, lambda values: polars.Series(values, strict=True))

    def _built(self, table: Callable[[dict[str, Any]], Any], build: Callable[[list[Any]], Any]) -> Any:
        if not self.decoded:
            raise ValueError(
                f"the content is encoded as {self.encoding}, as the query's Accept-Encoding asked for: "
                "decode it, or query without that header"
            )
        is_csv = self.content_type == "text/csv"
        try:
            columns = _csv_columns(self.content) if is_csv else _json_columns(self.content)
        except (LookupError, TypeError, ValueError, RecursionError) as error:
            form = "CSV, as a node writes it" if is_csv else "a list of rows in JSON"
            raise ValueError(f"the answer is not {form}: {error!r}") from error
        built = {}
        for name, values in columns.items():
            try:
                built[name] = build(values)
            except Exception as error:
                types = sorted({type(value).__name__ for value in values if value is not None})
                raise ValueError(f"column {name!r} holds {' and '.join(types)}: {error}") from error
        try:
            return table(built)
        except UnicodeError as error:
            raise ValueError(f"the answer has a column whose name cannot be encoded: {error}") from error

    def __repr__(self) -> str:
        return (
            f"QueryResult(content={self.content!r}, unsliced_result_len={self.unsliced_result_len}, "
            f"encoding={self.encoding})"
        )


def _json_columns(content: bytes) -> dict[str, list[Any]]:
    rows: list[dict[str, Any]] = json.loads(content)
    if not rows:
        return {}
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    for name, values in columns.items():
        # A column of objects on a node may have both integers and floats.
        if {type(value) for value in values} - {type(None)} == {int, float}:
            columns[name] = [None if value is None else float(value) for value in values]
    return columns


def _csv_columns(content: bytes) -> dict[str, list[Any]]:
    rows: list[list[str]] = []
    row: list[str] = []
    text = content.decode()
    at = 0
    while at < len(text):
        found = _FIELD(text, at)
        if found is None:
            raise ValueError(f"no field begins at character {at}")
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
    """Texts as numbers or booleans, if a node writes those so; an empty text is null."""
    present = [text for text in texts if text]
    forms = ((_INT, int), (_FLOAT, float), (_BOOLEANS.__contains__, _BOOLEANS.__getitem__))
    read = next((read for fits, read in forms if present and all(map(fits, present))), str)
    return [read(text) if text else None for text in texts]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoreResult(Plain):
    """A store that a node acknowledged.

    ``node`` has the table; it is ``home_node`` unless ``failed_over``. ``bytes`` and ``rows`` are those of
    the content before compression (``rows`` is None if they could not be counted), ``seconds`` the time of
    the whole operation. ``attempts`` are the requests that failed. ``copies`` are the standbys that have the
    table as well, ``failed_copies`` maps the other standbys to their errors. ``evicted`` are the nodes that
    confirmed that they have no older table under the key, ``may_hold_old`` those that may have one.
    """

    key: str
    node: str
    home_node: str
    failed_over: bool
    bytes: int
    rows: int | None
    seconds: float
    attempts: tuple[Attempt, ...] = ()
    statistics: dict[str, float] = dataclasses.field(default_factory=dict)
    copies: tuple[str, ...] = ()
    failed_copies: dict[str, str] = dataclasses.field(default_factory=dict)
    evicted: tuple[str, ...] = ()
    may_hold_old: tuple[str, ...] = ()


class DeleteOutcome(enum.StrEnum):
    """The outcome of a delete on one node."""

    CONFIRMED = "confirmed"
    """The node does not have the table any more."""
    GONE = "gone"
    """The node refuses the connection: its process has ended, and its tables are lost."""
    UNREACHABLE = "unreachable"
    """The client could not ask the node, which may have the table."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeleteResult(Plain):
    """A delete: the outcome on each node that was asked, and the error of each unreachable node.

    Without ``all_nodes`` the last node is the one that answered.
    """

    key: str
    outcomes: dict[str, DeleteOutcome]
    errors: dict[str, QClientException] = dataclasses.field(default_factory=dict)

    @property
    def confirmed(self) -> tuple[str, ...]:
        """The nodes that confirmed the delete; empty only in the result of an error."""
        return self._with(DeleteOutcome.CONFIRMED)

    @property
    def gone(self) -> tuple[str, ...]:
        """The nodes that refused the connection."""
        return self._with(DeleteOutcome.GONE)

    @property
    def unreachable(self) -> tuple[str, ...]:
        """The nodes that may still have the table."""
        return self._with(DeleteOutcome.UNREACHABLE)

    def _with(self, outcome: DeleteOutcome) -> tuple[str, ...]:
        return tuple(node for node, found in self.outcomes.items() if found is outcome)

    @property
    def complete(self) -> bool:
        """Whether a node confirmed the delete, and no node that was asked can still have the table."""
        return bool(self.confirmed) and not self.unreachable


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KeptTable(Plain):
    """A table that ``post_many`` did not store because of ``keep``: ``node`` has it."""

    key: str
    node: str


class Absence(enum.StrEnum):
    """Why a table is not known to be on a node."""

    MISSING = "missing"
    """The node answers, and does not have the table: it was evicted or deleted, or the node was restarted."""
    GONE = "gone"
    """The node refuses the connection: its process has ended, and its tables are lost."""
    UNKNOWN = "unknown"
    """The client could not ask the node."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place(Plain):
    """One node's answer about a key.

    ``position`` is the node's place in the key's order, 1 for the home node. ``absence`` is None if the node
    has the table, which then has ``rows`` rows; ``error`` says why a node is GONE or UNKNOWN. ``same_as`` is
    an earlier node with the same address: the two may be one.
    """

    node: str
    position: int
    absence: Absence | None
    rows: int | None = None
    error: str | None = None
    same_as: str | None = None

    def __str__(self) -> str:
        name = f"{self.node} ({'home' if self.position == 1 else f'number {self.position}'})"
        if self.same_as is not None:
            name += f", at the same address as {self.same_as},"
        if self.absence is None:
            return f"{name} has the table, {self.rows:,} row{'' if self.rows == 1 else 's'}"
        if self.absence is Absence.MISSING:
            return f"{name} does not have the table"
        if self.absence is Absence.GONE:
            return f"{name} refuses the connection"
        return f"{name} does not respond: {self.error}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BulkReport(Plain):
    """The outcome of many operations: a result for each key that succeeded, an error for each that failed.

    Both are empty if ``on_done`` was called for each key instead.
    """

    succeeded: dict[str, StoreResult | KeptTable | DeleteResult]
    failed: dict[str, Exception]
    seconds: float

    def raise_for_failures(self) -> None:
        """Raise BulkError, with this report, if anything failed."""
        if not self.failed:
            return
        some = "".join(f"\n  {key}: {error}" for key, error in list(self.failed.items())[:10])
        more = f"\n  and {len(self.failed) - 10} more" if len(self.failed) > 10 else ""
        count = len(self.failed) + len(self.succeeded)
        raise BulkError(f"{len(self.failed)} of {count} operations failed:{some}{more}", report=self)
