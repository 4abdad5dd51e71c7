"""The tests of the ring and of outcomes fail if these modules are changed."""

from __future__ import annotations

import subprocess
import sys

from tests.client.mutants import MUTANTS
from tests.harness.servers import ROOT


def test_every_mutant_is_killed_and_the_unchanged_module_passes() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.client.mutants"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("pytest exited with 1") == sum(bool(old) for _, old, _ in MUTANTS)
