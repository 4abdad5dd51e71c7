"""Mutate the client's logic by mutmut, and fail where its tests kill fewer mutants than they have killed.

    python scripts/mutation.py                            every module of LEAST, the large ones by a sample
    python scripts/mutation.py ring outcome               some of them
    python scripts/mutation.py checks --sample 100 --seed 7
    python scripts/mutation.py operation --sample 0       all mutants of it

Prints each mutant that survives as a diff. Run it in the environment of the tests without Airflow.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import subprocess
import sys
from pathlib import Path

from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.stats import status_by_exit_code

CLIENT = Path("airflow_provider_qcache", "client")
LEAST = {
    "ring": 97,
    "nodes": 97,
    "outcome": 92,
    "headers": 98,
    "operation": 97,
    "checks": 87,
}
"""The share of mutants, in percent, that the tests of each module kill; CONTRIBUTING.md has what survives."""

SAMPLED = ("operation", "checks")
"""Modules with more than a thousand mutants."""


def file_of(module: str) -> Path:
    """The file of a module."""
    return CLIENT / ("tables" if module in ("headers", "checks") else "") / f"{module}.py"


def mutants_of(module: str) -> list[str]:
    """The names of a module's mutants, as mutmut has them."""
    file = file_of(module)
    mutated = mutate_file_contents(str(file), file.read_text())
    return [f"{'.'.join(file.with_suffix('').parts)}.{name}" for name in mutated.mutant_names]


def run(names: list[str], workers: int) -> dict[str, str]:
    """What became of each mutant."""
    mutmut = [sys.executable, "-m", "mutmut", "run", f"--max-children={workers}", *names]
    log = Path("mutants", "run.log")
    log.parent.mkdir(exist_ok=True)
    with log.open("w") as output:
        if subprocess.run(
            mutmut, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
        ).returncode:
            sys.exit(f"mutation: mutmut failed: see {log}")
    codes: dict[str, int | None] = {}
    for meta in Path("mutants").rglob("*.py.meta"):
        codes |= json.loads(meta.read_text())["exit_code_by_key"]
    return {name: status_by_exit_code[codes[name]] for name in names}


def changed_lines(name: str) -> list[str]:
    """What a mutant changes."""
    return [line for line in get_diff_for_mutant(name).splitlines()[2:] if line[:1] in ("+", "-")]


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="scripts/mutation.py", description=__doc__)
    parser.add_argument(
        "modules", nargs="*", metavar="MODULE", help=f"of {', '.join(LEAST)}; all without one"
    )
    parser.add_argument("--sample", type=int, default=200, help="mutants of each large module; 0: all")
    parser.add_argument("--seed", type=int, default=1, help="of the samples")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 2)
    arguments = parser.parse_args()
    if unknown := set(arguments.modules) - set(LEAST):
        parser.error(f"no such module: {', '.join(sorted(unknown))}; there are {', '.join(LEAST)}")
    os.chdir(Path(__file__).resolve().parent.parent)
    mutants = {}
    for module in arguments.modules or LEAST:
        names = mutants_of(module)
        if module in SAMPLED and 0 < arguments.sample < len(names):
            names = sorted(random.Random(arguments.seed).sample(names, arguments.sample))
        mutants[module] = names
    ended = run([name for names in mutants.values() for name in names], arguments.workers)
    for name, status in ended.items():
        if status not in ("killed", "timeout"):
            print(f"{status}: {name}", *changed_lines(name), sep="\n")
    failed = []
    for module, names in mutants.items():
        counted = collections.Counter(ended[name] for name in names)
        killed = counted["killed"] + counted["timeout"]
        score = 100 * killed / len(names)
        print(f"{module}: {killed} of {len(names)} mutants killed, {score:.1f} %: {dict(counted)}")
        if score < LEAST[module]:
            failed.append(f"{module} (at least {LEAST[module]} %)")
    if failed:
        print(f"mutation: fewer mutants are killed than before: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
