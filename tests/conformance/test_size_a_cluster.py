"""docs/howto/size-a-cluster.md: the real server counts as many bytes for a table as the page calculates."""

from __future__ import annotations

import json

import pytest

from tests.harness.servers import Server, WireRequest

ROWS = 1000
TABLE = 172
"""The bytes of an empty table."""


def counted(real: Server, values: list[str], types: str = "") -> float:
    """The bytes that the server counts per value of a column."""

    def size() -> int:
        return json.loads(real.ask(WireRequest("GET", "/qcache/statistics")).body)["cache_size"]

    real.ask(WireRequest("DELETE", "/qcache/dataset/size"))
    before = size()
    body = "\n".join(["a", *values * (ROWS // len(values)), ""]).encode()
    headers = (("Content-Type", "text/csv"), *((("X-QCache-types", types),) if types else ()))
    assert real.ask(WireRequest("POST", "/qcache/dataset/size", headers, body)).status == 201
    return (size() - before - TABLE) / ROWS


@pytest.mark.parametrize(
    ("values", "each"),
    [
        (["1", "2"], 8),
        (["1", '""'], 8),
        (["1.5"], 8),
        (["True", "False"], 1),
        (["True", '""'], 32),
        (["Tokyo"], 45 + 5),
        (["x" * 100], 45 + 100),
        (["Malmö"], 45 + 6),
        (["Tokyo", '""'], (45 + 5 + 32) / 2),
    ],
)
def test_a_value_counts_as_the_page_says(real: Server, values: list[str], each: float) -> None:
    assert counted(real, values) == each


@pytest.mark.parametrize(("distinct", "each"), [(10, 1), (100, 1), (500, 2)])
def test_an_enum_counts_its_codes_and_its_distinct_texts(real: Server, distinct: int, each: int) -> None:
    values = [f"text {i}" for i in range(distinct)]
    rest = (counted(real, values, "a=enum") - each) * ROWS / distinct
    assert 50 < rest < 110
