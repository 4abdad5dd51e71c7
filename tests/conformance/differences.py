"""Every difference between the dev node and a real QCache 0.9.3 that is meant.

The only place where the comparison is relaxed: what no difference explains fails the test that met it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.conformance.compare import Finding
from tests.conformance.generate import Query, Table
from tests.servers import Answer


@dataclass(frozen=True)
class Met:
    """What was asked and answered where a finding is judged."""

    table: Table | None
    query: Query | None
    real: Answer
    dev: Answer


@dataclass(frozen=True)
class Difference:
    """A difference on purpose: `explains` says whether it is the cause of a finding."""

    name: str
    reason: str
    explains: Callable[[Met, Finding], bool]


DIFFERENCES: tuple[Difference, ...] = ()


def explain(met: Met, findings: list[Finding]) -> tuple[list[Finding], set[str]]:
    """The findings that no difference explains, and the names of the differences that explain the others."""
    left, names = [], set()
    for finding in findings:
        for difference in DIFFERENCES:
            if difference.explains(met, finding):
                names.add(difference.name)
                break
        else:
            left.append(finding)
    return left, names


def clauses(q: Any) -> set[str]:
    """The names of the clauses of a query, sub-queries included."""
    found = set()
    if isinstance(q, dict):
        for name, value in q.items():
            found |= {name} | clauses(value)
    elif isinstance(q, list):
        for item in q:
            found |= clauses(item)
    return found
