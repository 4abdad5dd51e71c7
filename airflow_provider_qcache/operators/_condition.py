"""The condition that a table must satisfy: that it has rows, or that the rows of a query pass a check.

Sensors wait until a condition holds; the check operators fail, or choose a branch. Nothing here imports
Airflow or the client.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from airflow_provider_qcache.operators._arguments import counted, short_repr

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_provider_qcache.client import QueryResult

ONE_ROW: Final[Mapping[str, Any]] = {"limit": 1}
"""The query whose answer says whether there is a table, and how many rows it has."""


class Condition(NamedTuple):
    """What a table must be like.

    ``query`` selects the rows that count; None selects all rows. There must be ``min_rows`` to ``max_rows``
    of them, before the query's offset and limit. ``value`` is required in the only column of the only row.
    ``check`` gets the rows as a list of dicts and returns whether they pass.
    """

    query: Mapping[str, Any] | None = None
    min_rows: int = 1
    check: Callable[[list[dict[str, Any]]], Any] | None = None
    max_rows: int | None = None
    value: str | float | None = None

    @property
    def question(self) -> dict[str, Any] | None:
        """The query to send; None if the table only has to exist.

        Without ``check`` and ``value`` one row of the answer is enough, since a node counts the rows before
        the limit.
        """
        if self.check is not None or self.value is not None:
            return dict(self.query or {})
        if self.query is None:
            return dict(ONE_ROW) if self.min_rows or self.max_rows is not None else None
        return {**self.query, **ONE_ROW}

    def violation(self, result: QueryResult) -> str | None:
        """Why the answer to ``question`` does not satisfy the condition; None if it does."""
        found = result.unsliced_result_len
        what = "the table" if self.query is None else f"the query {short_repr(self.query)}"
        if found < self.min_rows:
            return f"{what} has {counted(found, 'row')}, and {self.min_rows:,} are required"
        if self.max_rows is not None and found > self.max_rows:
            return f"{what} has {counted(found, 'row')}, and at most {self.max_rows:,} are allowed"
        if self.check is None and self.value is None:
            return None
        rows = json.loads(result.content)
        if self.value is not None and (violation := self._other_value(what, rows)):
            return violation
        if self.check is None or self.check(rows):
            return None
        return (
            f"the check does not pass {counted(len(rows), 'row')}, the first of them {short_repr(rows[:1])}"
        )

    def _other_value(self, what: str, rows: list[dict[str, Any]]) -> str | None:
        if len(rows) != 1 or len(rows[0]) != 1:
            columns = ", ".join(rows[0]) if rows else "no column"
            return (
                f"{what} gives {counted(len(rows), 'row')} with {columns}, and a value needs one row of one "
                "column"
            )
        (found,) = rows[0].values()
        return (
            None if _is_same(found, self.value) else f"{what} gives {found!r}, and {self.value!r} is required"
        )


def _is_same(found: Any, value: Any) -> bool:
    """Whether they are equal; a template's text is a number where the table's value is one."""
    if isinstance(value, str) and isinstance(found, int | float):
        try:
            return "_" not in value and float(value) == found
        except ValueError:
            return False
    return bool(found == value)
