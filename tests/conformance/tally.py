"""What the generated cases were: counted as they run, shown at the end of a test run."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.conformance.pair import Case


class Tally:
    """Counts of cases by status, and of the listed differences that were met."""

    def __init__(self) -> None:
        self.stores = Counter[int]()
        self.cases = Counter[int]()
        self.with_rows = 0
        self.met = Counter[str]()
        self.differing = 0

    def count(self, case: Case) -> None:
        """Count a case."""
        self.met.update(case.met)
        self.differing += bool(case.findings)
        if case.query is None:
            self.stores[case.real.status] += 1
            return
        self.cases[case.real.status] += 1
        if case.real.status == 200 and case.real.unsliced_length:
            body = case.real.body
            self.with_rows += body != b"[]" and body.count(b"\n") != 1

    def counts(self) -> dict[str, Any]:
        """All that was counted, in what a worker of pytest-xdist can send."""
        return {
            name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()
        }

    def add(self, counts: dict[str, Any]) -> None:
        """Add the counts of another tally."""
        for name, value in counts.items():
            ours = getattr(self, name)
            setattr(self, name, ours + (Counter(value) if isinstance(ours, Counter) else value))

    def as_dict(self) -> dict[str, object]:
        """The counts by name."""
        return {
            "cases": self.cases.total(),
            "cases with rows": self.with_rows,
            "cases by status": dict(sorted(self.cases.items())),
            "stores": self.stores.total(),
            "stores by status": dict(sorted(self.stores.items())),
            "listed differences met": dict(self.met.most_common()),
            "other differences": self.differing,
        }

    def lines(self) -> list[str]:
        """The counts for people."""
        total = self.cases.total()
        share = f"{100 * self.with_rows / total:.0f} %" if total else "none"
        statuses = ", ".join(f"{status}: {count}" for status, count in sorted(self.cases.items()))
        met = ", ".join(f"{name}: {count}" for name, count in self.met.most_common()) or "none"
        return [
            f"{total} queries of {self.stores.total()} tables; {self.with_rows} ({share}) answered with rows; {statuses}",
            f"listed differences met: {met}; others: {self.differing}",
        ]

    def write(self) -> None:
        """Write the counts to the file that QCACHE_CONFORMANCE_REPORT names."""
        if path := os.environ.get("QCACHE_CONFORMANCE_REPORT"):
            Path(path).write_text(json.dumps(self.as_dict(), indent=2) + "\n")
