"""Some cases of every fuzzer; ``make fuzz`` and ``make guided`` run as many as there is time for."""

from __future__ import annotations

from random import Random

import pytest

from tests.fuzz.cases import FUZZERS
from tests.fuzz.mutate import damaged
from tests.fuzz.parsers import PARSERS, parse, seeds
from tests.fuzz.runner import is_documented, run

CASES = {"files": 150, "tables": 100, "content": 100, "answers": 80, "moments": 60}


@pytest.mark.parametrize("name", FUZZERS)
def test_no_finding(name: str) -> None:
    result = run(name, 1, cases=CASES[name])
    assert not result.findings, str(result)
    assert result.cases == CASES[name]


@pytest.mark.parametrize("parser", PARSERS)
def test_no_finding_in_what_make_guided_begins_with(parser: str) -> None:
    """It goes on from these by the branches that they reach."""
    number = list(PARSERS).index(parser)
    seen = [data for name, data in seeds() if name == parser]
    assert seen
    random = Random(parser)
    for data in seen:
        for one in (data, *(damaged(random, data) for _ in range(5))):
            parse(bytes([number]) + one)


def test_errors_that_no_docs_name_are_findings() -> None:
    with pytest.raises(KeyError) as caught:
        {}["a"]
    assert not is_documented(caught.value)
    with pytest.raises(ValueError, match="invalid literal") as raw:
        int("x")
    assert not is_documented(raw.value)
