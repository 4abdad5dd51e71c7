"""Runs all benchmarks, or those that are named."""

from __future__ import annotations

import argparse
import pkgutil
import sys
from importlib import import_module
from pathlib import Path

import benchmarks
from tests.harness.servers import ServerFailedError


def main() -> int:
    found = [name for _, name, _ in pkgutil.iter_modules(benchmarks.__path__) if not name.startswith("_")]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(found)}")
    parser.add_argument("--list", action="store_true", help="list the benchmarks and what they compare")
    parser.add_argument("--runs", type=int, default=5, help="measurements per median (5)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the report to this file")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs must be 1 or more")
    if unknown := set(options.names) - set(found):
        parser.error(f"no benchmark named {', '.join(sorted(unknown))}; there are: {', '.join(found)}")
    if options.output and not options.output.parent.is_dir():
        parser.error(f"--output: no directory {options.output.parent}")

    modules = {name: import_module(f"benchmarks.{name}") for name in options.names or found}
    if options.list:
        for name, module in modules.items():
            print(f"{name:10} {module.__doc__.splitlines()[0]}")
        return 0
    try:
        report = "\n\n".join(module.run(options.runs) for module in modules.values())
    except ServerFailedError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    print(report)
    if options.output:
        options.output.write_text(report + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
