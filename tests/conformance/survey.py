"""Groups the differences of many generated cases and shows a small example of each group.

    python -m tests.conformance.survey --cases 3000 [--seed 1] [--real-vs-real] [--json out.json]
    python -m tests.conformance.survey --replay case.json

Exits with 0 if there is no difference.
"""

from __future__ import annotations

import argparse
import base64
import json
import pickle
import sys
import time
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.conformance.generate import QUERIES_PER_TABLE, Example, examples
from tests.conformance.pair import Case, Pair, kind_of_difference, minimized
from tests.conformance.tally import Tally
from tests.harness.servers import Server


def shape(q: Any) -> Any:
    """A query without names and literals."""
    if isinstance(q, dict):
        return tuple(sorted((name, shape(value)) for name, value in q.items()))
    if isinstance(q, list):
        head = q[0] if q and isinstance(q[0], str) else None
        operators = {
            "==",
            "!=",
            "<",
            "<=",
            ">",
            ">=",
            "in",
            "like",
            "ilike",
            "isnull",
            "any_bits",
            "all_bits",
            "&",
            "|",
            "!",
        }
        if head in operators or head == "=":
            return (head, *(shape(item) for item in q[1:] if isinstance(item, list | dict)))
        return tuple(dict.fromkeys(str(shape(item)) for item in q))
    return type(q).__name__


def signature(case: Case) -> str:
    """Names the group of a case: cases with the same signature count as one difference."""
    query = case.query
    if query is None:
        return f"store | {kind_of_difference(case)} | {case.table.form}"
    accept = (query.accept or "json").split("/")[-1]
    return f"query | {kind_of_difference(case)} | {accept} | {shape(query.q)}"


class Survey:
    """Collects differences in groups, and minimizes the first examples of each coarse group."""

    def __init__(self, pair: Pair, *, per_group: int) -> None:
        self.pair = pair
        self.per_group = per_group
        self.tally = Tally()
        self.coarse = Counter[str]()
        self.groups: dict[str, tuple[int, Case]] = {}

    def run(self, example: Example) -> None:
        """Run one generated example."""
        for case in self.pair.run(example):
            self.tally.count(case)
            if case.findings:
                self.differs(case)

    def differs(self, case: Case) -> None:
        """Count a difference; minimize the case while its coarse group is new."""
        coarse = signature(case)
        self.coarse[coarse] += 1
        if self.coarse[coarse] > self.per_group:
            return
        case = minimized(self.pair, case)
        fine = signature(case)
        count, best = self.groups.get(fine, (0, case))
        self.groups[fine] = (count + 1, min(case, best, key=lambda c: len(str(c))))


def serialized(case: Case) -> str:
    """A case as text, for --replay."""
    example = Example(case.table, () if case.query is None else (case.query,))
    return base64.b64encode(pickle.dumps(example)).decode()


def main() -> int:
    """Run the survey, or replay its cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real-vs-real", action="store_true")
    parser.add_argument("--per-group", type=int, default=2, help="cases to minimize in each coarse group")
    parser.add_argument("--json", help="write the differences here")
    parser.add_argument("--replay", help="run the cases of a file that --json wrote")
    parser.add_argument("--limit", type=int, default=60, help="groups to print")
    args = parser.parse_args()

    with Server.real() as real, Server.real() if args.real_vs_real else Server.dev() as dev:
        pair = Pair(real, dev)
        if args.replay:
            return replay(pair, args.replay)
        survey = Survey(pair, per_group=args.per_group)
        started = time.monotonic()

        @seed(args.seed)
        @settings(
            max_examples=-(-args.cases // QUERIES_PER_TABLE),
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(examples())
        def run(example: Example) -> None:
            survey.run(example)

        run()
        report(survey, args.limit)
        print(f"{time.monotonic() - started:.0f} s")
        if args.json:
            with open(args.json, "w") as file:  # noqa: PTH123
                json.dump(
                    [[name, count, str(case), serialized(case)] for name, (count, case) in ranked(survey)],
                    file,
                )
    return 1 if survey.groups else 0


def ranked(survey: Survey) -> list[tuple[str, tuple[int, Case]]]:
    """The groups, most frequent first."""
    return sorted(survey.groups.items(), key=lambda item: -item[1][0])


def report(survey: Survey, limit: int) -> None:
    """Print the groups, most frequent last, so that those stay visible."""
    groups = ranked(survey)
    for name, (count, case) in reversed(groups[:limit]):
        print("=" * 100)
        print(f"{count} x {name}{case}")
    print("=" * 100)
    print(f"{len(groups)} distinct differences")
    print("\n".join(survey.tally.lines()))


def replay(pair: Pair, path: str) -> int:
    """Run the saved cases again and print those that still differ."""
    with open(path) as file:  # noqa: PTH123
        stored = json.load(file)
    failed = 0
    for name, _, _, text in stored:
        case = list(pair.run(pickle.loads(base64.b64decode(text))))[-1]
        if case.findings:
            failed += 1
            print("=" * 100, name, case)
    print(f"{failed} of {len(stored)} still differ")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
