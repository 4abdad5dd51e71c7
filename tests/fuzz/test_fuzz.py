"""Some cases of every fuzzer; ``make fuzz`` and ``make guided`` run as long as wanted."""

from __future__ import annotations

from random import Random

import pytest

from tests.fuzz.cases import FUZZERS
from tests.fuzz.mutate import damaged
from tests.fuzz.parsers import PARSERS, parse, seeds
from tests.fuzz.runner import is_documented, run

CASES = {"files": 150, "tables": 100, "content": 100, "answers": 80, "moments": 60}


@pytest.mark.parametrize("name", FUZZERS)
def test_a_fuzzer_finds_nothing(name: str) -> None:
    result = run(name, 1, cases=CASES[name])
    assert not result.findings, str(result)
    assert result.cases == CASES[name]


@pytest.mark.parametrize("parser", PARSERS)
def test_a_parser_accepts_the_seeds_of_make_guided(parser: str) -> None:
    """The seeds from which `make guided` starts, and damaged variants of them."""
    number = list(PARSERS).index(parser)
    inputs = [data for name, data in seeds() if name == parser]
    assert inputs
    random = Random(parser)
    for data in inputs:
        for one in (data, *(damaged(random, data) for _ in range(5))):
            parse(bytes([number]) + one)


def test_an_error_that_the_docs_do_not_cover_is_a_finding() -> None:
    with pytest.raises(KeyError) as caught:
        {}["a"]
    assert not is_documented(caught.value)
    with pytest.raises(ValueError, match="invalid literal") as raw:
        int("x")
    assert not is_documented(raw.value)
