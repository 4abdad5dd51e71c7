"""The tests of the ring and of outcomes fail on a ring and on outcomes that are wrong."""

from __future__ import annotations

import subprocess
import sys

from tests.client.mutants import MUTANTS
from tests.harness.servers import ROOT


def test_mutants_are_killed_and_what_they_were_made_of_is_not() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.client.mutants"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("pytest said 1") == sum(bool(old) for _, old, _ in MUTANTS)
