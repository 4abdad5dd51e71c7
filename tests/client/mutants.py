"""Runs tests on modules with one changed expression: the tests must fail. ``make mutation`` tries many more.

``python -m tests.client.mutants`` prints a line for each change, and fails if the tests of one pass.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis  # noqa: F401  # imported once, for all forked processes
import pytest

CLIENT = Path(__file__).resolve().parents[2] / "airflow_provider_qcache" / "client"
MUTANTS = (
    ("ring", 'struct.Struct("<I")', 'struct.Struct(">I")'),
    (
        "ring",
        "bisect_right(self._points, ring_hash(key))]",
        "bisect_right(self._points, ring_hash(key)) - 1]",
    ),
    ("ring", "self._owners.append(self._owners[0])", "self._owners.append(self._owners[-1])"),
    ("outcome", "", ""),
    ("outcome", "if status == 404 and", "if status == 403 and"),
    ("outcome", "Outcome.CLOSED: Action.ASK_STATUS", "Outcome.CLOSED: Action.RAISE"),
    ("outcome", "elif 300 <= status < 400", "elif 300 < status < 400"),
)
"""Module, an expression that occurs once in it, and its replacement. The one without a change must pass."""

TESTS = {"ring": ("test_ring.py", "-k", "recorded_points or beyond"), "outcome": ("test_outcome.py",)}
"""Fast tests of each module; hypothesis would search for the smallest failing example."""


class _Mutated(importlib.abc.SourceLoader, importlib.abc.MetaPathFinder):
    """Imports one module with a change in its source."""

    def __init__(self, module: str, old: str, new: str) -> None:
        self.name = f"airflow_provider_qcache.client.{module}"
        self.file = CLIENT / f"{module}.py"
        source = self.file.read_text()
        assert not old or source.count(old) == 1, f"{module}.py has {old!r} {source.count(old)} times"
        self.source = source.replace(old, new) if old else source

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> Any:
        return importlib.util.spec_from_loader(name, self) if name == self.name else None

    def get_filename(self, fullname: str) -> str:
        return str(self.file)

    def get_data(self, path: str | bytes) -> bytes:
        return self.source.encode()


def run(module: str, old: str, new: str) -> int:
    """The exit code of pytest for the module's tests, run in a forked process."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 99
    try:
        mutated = _Mutated(module, old, new)
        sys.meta_path.insert(0, mutated)
        importlib.import_module(mutated.name)
        options = [
            "-q",
            "-x",
            "-n0",
            "-p",
            "no:cacheprovider",
            "--hypothesis-profile=ci",
            "--tb=no",
            "--no-header",
        ]
        file, *chosen = TESTS[module]
        code = pytest.main([*options, str(Path(__file__).with_name(file)), *chosen])
    finally:
        os._exit(code)


def main() -> int:
    """Run the tests on every mutant."""
    wrong = 0
    for module, old, new in MUTANTS:
        sys.stdout.flush()
        code, expected = run(module, old, new), 1 if old else 0
        wrong += code != expected
        print(  # noqa: T201
            f"{'' if code == expected else 'WRONG '}{module}: {old!r} -> {new!r}: pytest exited with {code}"
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
