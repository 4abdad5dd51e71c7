"""Some cases of every fuzzer; ``make fuzz`` runs as many as there is time for."""

from __future__ import annotations

import pytest

from tests.fuzz.cases import FUZZERS
from tests.fuzz.runner import is_documented, run

CASES = {"files": 150, "tables": 100, "content": 100, "answers": 80, "moments": 60}


@pytest.mark.parametrize("name", FUZZERS)
def test_no_finding(name: str) -> None:
    result = run(name, 1, cases=CASES[name])
    assert not result.findings, str(result)
    assert result.cases == CASES[name]


def test_errors_that_no_docs_name_are_findings() -> None:
    with pytest.raises(KeyError) as caught:
        {}["a"]
    assert not is_documented(caught.value)
    with pytest.raises(ValueError, match="invalid literal") as raw:
        int("x")
    assert not is_documented(raw.value)
