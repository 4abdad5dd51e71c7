"""What operations return. Frozen, and without secrets."""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, Any

from airflow_provider_qcache.client import answers
from airflow_provider_qcache.client.errors import Attempt, BulkError, QClientException

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd
    import polars as pl
    import pyarrow as pa


class QueryResult:
    """The answer to a query.

    ``content`` is the body as bytes, decoded; ``unsliced_result_len`` the rows there are before offset and
    limit; ``encoding`` the Content-Encoding it came in, or None; ``statistics`` what the node or the store
    before it told about durations; ``node`` the node that answered; ``content_type`` its Content-Type,
    without a charset.
    """

    __slots__ = ("content", "content_type", "encoding", "node", "statistics", "unsliced_result_len")

    def __init__(
        self,
        content: bytes,
        unsliced_result_len: int,
        encoding: str | None = None,
        statistics: dict[str, float] | None = None,
        node: str = "",
        content_type: str = "application/json",
    ) -> None:
        self.content = content
        self.content_type = content_type
        self.unsliced_result_len = unsliced_result_len
        self.encoding = encoding
        self.statistics: dict[str, float] = statistics if statistics is not None else {}
        self.node = node

    def add_stats(self, stats: Mapping[str, float]) -> None:
        """Add to ``statistics``."""
        self.statistics.update(stats)

    def to_arrow(self) -> pa.Table:
        """The rows as a pyarrow Table: text, int64, double and bool, with nulls.

        JSON tells what a value is, but no columns where there are no rows. CSV keeps the columns and tells no
        types: a column that holds nothing but what a node writes for numbers or booleans is read as those.

        Raises:
            ImportError: pyarrow is not installed; it is the extra ``arrow``.
            ValueError: a column holds values of several types.
        """
        pyarrow = answers.library("pyarrow", "arrow")
        return pyarrow.table(self._built(pyarrow.array))

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a pandas DataFrame, typed as in ``to_arrow``; pandas decides what holds a null.

        Raises:
            ImportError: pandas is not installed; it is the extra ``pandas``.
        """
        pandas = answers.library("pandas", "pandas")
        frame: pd.DataFrame = pandas.DataFrame(self._columns())
        return frame

    def to_polars(self) -> pl.DataFrame:
        """The rows as a polars DataFrame, typed as in ``to_arrow``.

        Raises:
            ImportError: polars is not installed; it is the extra ``polars``.
            ValueError: a column holds values of several types.
        """
        polars = answers.library("polars", "polars")
        return polars.DataFrame(self._built(lambda values: polars.Series(values, strict=True)))

    def _columns(self) -> dict[str, list[Any]]:
        return answers.columns_of(self.content, is_csv=self.content_type == "text/csv")

    def _built(self, build: Callable[[list[Any]], Any]) -> dict[str, Any]:
        built = {}
        for name, values in self._columns().items():
            try:
                built[name] = build(values)
            except Exception as error:
                kinds = sorted({type(value).__name__ for value in values if value is not None})
                raise ValueError(f"column {name!r} holds {' and '.join(kinds)}: {error}") from error
        return built

    def __repr__(self) -> str:
        return (
            f"QueryResult(content={self.content!r}, unsliced_result_len={self.unsliced_result_len}, "
            f"encoding={self.encoding})"
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoreResult:
    """A store that a node acknowledged.

    ``node`` has the table; it is ``home_node`` unless ``failed_over``. ``bytes`` counts the content before
    any compression, ``rows`` its rows (None where they could not be counted), ``seconds`` the whole
    operation. ``attempts`` are the requests that failed before. ``copies`` are the standbys that took the
    table too, ``failed_copies`` maps those that did not to what they met. ``evicted`` are the nodes that
    confirmed they hold nothing older under the key, ``may_hold_old`` those that could not be told.
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
    """What became of a key on one node."""

    CONFIRMED = "confirmed"
    """The node says that it does not hold the key."""
    GONE = "gone"
    """The node refuses the connection: its process is gone, and what it held with it."""
    UNREACHABLE = "unreachable"
    """The node could not be asked; it may hold the key."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeleteResult:
    """A delete on every configured node: each one's outcome, and for those unreachable the error met."""

    key: str
    outcomes: dict[str, DeleteOutcome]
    errors: dict[str, QClientException] = dataclasses.field(default_factory=dict)

    @property
    def unreachable(self) -> tuple[str, ...]:
        """The nodes that may hold the key still."""
        return tuple(node for node, outcome in self.outcomes.items() if outcome is DeleteOutcome.UNREACHABLE)

    @property
    def complete(self) -> bool:
        """Whether no node can hold the key any more."""
        return not self.unreachable


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BulkReport:
    """What many operations did: a result for each key that succeeded, an error for each that failed."""

    succeeded: dict[str, StoreResult | DeleteResult | None]
    failed: dict[str, Exception]
    seconds: float

    def raise_for_failures(self) -> None:
        """Raise BulkError, with this report, where anything failed."""
        if not self.failed:
            return
        some = "".join(f"\n  {key}: {error}" for key, error in list(self.failed.items())[:10])
        more = f"\n  and {len(self.failed) - 10} more" if len(self.failed) > 10 else ""
        count = len(self.failed) + len(self.succeeded)
        raise BulkError(f"{len(self.failed)} of {count} operations failed:{some}{more}", report=self)
