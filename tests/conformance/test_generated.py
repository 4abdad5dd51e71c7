"""Tables and queries that hypothesis generates over the whole query language.

QCACHE_CONFORMANCE_CASES is how many queries are asked (400), QCACHE_CONFORMANCE_SEED draws others than the
default ones (a number, or `random`), QCACHE_CONFORMANCE_REPORT names a file for the figures.
"""

from __future__ import annotations

import os
import random

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.conformance.generate import QUERIES_PER_TABLE, examples
from tests.conformance.pair import smaller

CASES = int(os.environ.get("QCACHE_CONFORMANCE_CASES", "400"))
SEED = os.environ.get("QCACHE_CONFORMANCE_SEED", "")

FEWEST_QUERIES_PER_TABLE = QUERIES_PER_TABLE * 3 // 4
"""Some that are drawn are equal and asked once."""

# Hypothesis would take minutes to shrink what survey.py makes small in seconds.
PHASES = [Phase.explicit, Phase.generate]


def seeded(test):
    """The cases that SEED stands for."""
    if not SEED:
        return test
    number = random.randrange(2**32) if SEED == "random" else int(SEED)
    return hypothesis.seed(number)(test)


@pytest.mark.timeout(60 + CASES)
def test_generated_queries_of_generated_tables(pair, tally):
    """Every case is answered alike: status, headers, unsliced length and every value."""

    @seeded
    @settings(
        max_examples=-(-CASES // FEWEST_QUERIES_PER_TABLE),
        derandomize=not SEED,
        database=None,
        deadline=None,
        phases=PHASES,
        suppress_health_check=list(HealthCheck),
    )
    @given(examples())
    def run(example):
        for case in pair.run(example):
            tally.count(case)
            if case.findings:
                pytest.fail(str(smaller(pair, case)), pytrace=False)

    run()
