"""Tables and queries that hypothesis generates, which cover the whole query language.

QCACHE_CONFORMANCE_CASES is the number of queries (400). QCACHE_CONFORMANCE_SEED, a number or `random`, selects
other cases than the default ones. QCACHE_CONFORMANCE_REPORT names a file for the counts.
"""

from __future__ import annotations

import os
import random

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.conformance.generate import QUERIES_PER_TABLE, examples
from tests.conformance.pair import minimized

CASES = int(os.environ.get("QCACHE_CONFORMANCE_CASES", "400"))
SEED = os.environ.get("QCACHE_CONFORMANCE_SEED", "")

MIN_QUERIES_PER_TABLE = QUERIES_PER_TABLE * 3 // 4
"""Some drawn queries are equal, and duplicates are left out."""

# Hypothesis would take minutes to shrink a case that pair.minimized makes small in seconds.
PHASES = [Phase.explicit, Phase.generate]


def with_seed(test):
    """Make the test use SEED."""
    if not SEED:
        return test
    number = random.randrange(2**32) if SEED == "random" else int(SEED)
    return hypothesis.seed(number)(test)


@pytest.mark.timeout(60 + CASES)
def test_both_servers_answer_generated_queries_alike(pair, tally):
    """In status, headers, unsliced length and every value."""

    @with_seed
    @settings(
        max_examples=-(-CASES // MIN_QUERIES_PER_TABLE),
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
                pytest.fail(str(minimized(pair, case)), pytrace=False)

    run()
