"""Runs fuzzers until Ctrl-C, or for some minutes or cases: ``python -m tests.fuzz files tables --minutes 5``.

Each fuzzer runs in its own process, because a case may crash it. A finding is printed with the command that
repeats it, and makes the exit code 1.
"""

from __future__ import annotations

import argparse
import random
import sys

from tests.fuzz.cases import FUZZERS
from tests.fuzz.runner import run, run_cases


def main() -> int:
    """Run the fuzzers of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="FUZZER", help=f"one of {', '.join(FUZZERS)}; default: all"
    )
    parser.add_argument("--minutes", type=float, help="for all fuzzers together")
    parser.add_argument("--cases", type=int, help="for each fuzzer")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument(
        "--here", action="store_true", help="run in this process, and print the number of each case"
    )
    arguments = parser.parse_args()
    names = arguments.names or list(FUZZERS)
    if unknown := set(names) - set(FUZZERS):
        parser.error(f"no such fuzzer: {', '.join(sorted(unknown))}")
    if arguments.here:
        run_cases(names[0], arguments.seed, arguments.first, arguments.cases)
        return 0
    seconds = None if arguments.minutes is None else 60 * arguments.minutes / len(names)
    findings = 0
    for name in names:
        result = run(name, arguments.seed, first=arguments.first, cases=arguments.cases, seconds=seconds)
        print(result, flush=True)
        findings += len(result.findings)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
