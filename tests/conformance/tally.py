"""Counts generated cases by status; the summary is printed at the end of a test run."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.conformance.pair import Case


class Tally:
    """Counts of cases by status, and of the listed differences that occurred."""

    def __init__(self) -> None:
        self.stores = Counter[int]()
        self.cases = Counter[int]()
        self.with_rows = 0
        self.differences = Counter[str]()
        self.differing = 0

    def count(self, case: Case) -> None:
        """Count one case."""
        self.differences.update(case.differences)
        self.differing += bool(case.findings)
        if case.query is None:
            self.stores[case.real.status] += 1
            return
        self.cases[case.real.status] += 1
        if case.real.status == 200 and case.real.unsliced_length:
            body = case.real.body
            self.with_rows += body != b"[]" and body.count(b"\n") != 1

    def counts(self) -> dict[str, Any]:
        """All counts, in a form that a pytest-xdist worker can send."""
        return {
            name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()
        }

    def add(self, counts: dict[str, Any]) -> None:
        """Add another tally's counts."""
        for name, value in counts.items():
            ours = getattr(self, name)
            setattr(self, name, ours + (Counter(value) if isinstance(ours, Counter) else value))

    def as_dict(self) -> dict[str, object]:
        """The counts by name, for the report file."""
        return {
            "cases": self.cases.total(),
            "cases with rows": self.with_rows,
            "cases by status": dict(sorted(self.cases.items())),
            "stores": self.stores.total(),
            "stores by status": dict(sorted(self.stores.items())),
            "listed differences": dict(self.differences.most_common()),
            "other differences": self.differing,
        }

    def lines(self) -> list[str]:
        """The counts as lines of text."""
        total = self.cases.total()
        share = f"{100 * self.with_rows / total:.0f} %" if total else "none"
        statuses = ", ".join(f"{status}: {count}" for status, count in sorted(self.cases.items()))
        listed = ", ".join(f"{name}: {count}" for name, count in self.differences.most_common()) or "none"
        return [
            f"{total} queries of {self.stores.total()} tables; {self.with_rows} ({share}) answered with rows; {statuses}",
            f"listed differences: {listed}; others: {self.differing}",
        ]

    def write(self) -> None:
        """Write the counts to the file named by QCACHE_CONFORMANCE_REPORT."""
        if path := os.environ.get("QCACHE_CONFORMANCE_REPORT"):
            Path(path).write_text(json.dumps(self.as_dict(), indent=2) + "\n")
