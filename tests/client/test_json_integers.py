"""Integers in JSON that a node would round or could not answer are refused, with their column and row."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_qcache.client import InvalidTable, QClient
from airflow_provider_qcache.client.tables.checks import JsonCheck
from airflow_provider_qcache.files.tables import table_in
from tests.harness.servers import WireRequest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.harness.servers import Server

LARGE = 2**53 + 1
MISSING = object()


def rows_of(values: list[Any]) -> list[dict[str, Any]]:
    return [{"b": 1} if value is MISSING else {"a": value, "b": 1} for value in values]


def refusal(content: bytes, size: int) -> InvalidTable | None:
    check = JsonCheck()
    try:
        for start in range(0, len(content), size):
            check.feed(content[start : start + size])
        check.finish()
    except InvalidTable as error:
        return error
    return None


def answered(real: Server, content: bytes) -> list[Any] | None:
    """The column as a real server answers it after a store; None if it cannot answer."""
    store = WireRequest("POST", "/qcache/dataset/ints", (("Content-Type", "application/json"),), content)
    assert real.ask(store).status == 201
    query = WireRequest("POST", "/qcache/dataset/ints/q", (("Accept", "application/json"),), b"{}")
    answer = real.ask(query)
    return [row.get("a") for row in json.loads(answer.body)] if answer.status == 200 else None


BEYOND = [2**63, 2**64 - 1, 2**64, -(2**63) - 1]
INTEGERS = st.sampled_from([0, 1, -1, LARGE, -LARGE, 2**53, 2**63 - 1, -(2**63), 2**60 + 1, *BEYOND])
NESTED = INTEGERS.map(lambda value: [value]) | INTEGERS.map(lambda value: {"b": value})
VALUES = INTEGERS | NESTED | st.sampled_from([MISSING, None, 1.5, "x", True])


def integers_in(value: Any) -> list[int]:
    """All integers in a value, also nested ones."""
    if isinstance(value, list | dict):
        inner = value.values() if isinstance(value, dict) else value
        return [number for one in inner for number in integers_in(one)]
    return [value] if type(value) is int else []


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(VALUES, min_size=1, max_size=5), size=st.sampled_from([1, 7, 1000]))
def test_accepted_integers_are_answered_unchanged_by_a_real_server(
    real: Server, values: list[Any], size: int
) -> None:
    content = json.dumps(rows_of(values)).encode()
    if refusal(content, size) is None:
        found = answered(real, content)
        assert found is not None
        # Only integers are compared: a node answers floats above 1e16 with ten digits.
        for value, other in zip(values, found, strict=True):
            if type(value) is int:
                assert other == value or (abs(value) > 2**53 and float(value) == value)
            elif integers_in(value):
                assert other == value
    else:
        assert any(abs(number) > 2**53 for value in values for number in integers_in(value))


@pytest.mark.parametrize(
    ("values", "row", "why"),
    [
        ([1, LARGE, None], 2, "null"),
        ([LARGE, MISSING], 1, "1 rows have no value"),
        ([MISSING, MISSING, 1, -LARGE], 4, "2 rows have no value"),
        ([1.5, LARGE], 2, "among floats"),
    ],
)
@pytest.mark.parametrize("size", [1, 5, 10_000])
def test_the_error_names_column_and_row(values: list[Any], row: int, why: str, size: int) -> None:
    error = refusal(json.dumps(rows_of(values)).encode(), size)
    assert error is not None
    assert (error.row, error.column) == (row, "a")
    assert why in str(error)


@pytest.mark.parametrize(
    "values",
    [
        [LARGE, 1],
        [LARGE, "x", None],
        [LARGE, True, None],
        [2**63 - 1, -(2**63)],
        [2**60, 1.5],
        [2**53, None, -(2**53)],
    ],
)
def test_integers_that_a_node_keeps_are_accepted(values: list[Any]) -> None:
    assert refusal(json.dumps(rows_of(values)).encode(), 10) is None


@pytest.mark.parametrize("number", BEYOND)
@pytest.mark.parametrize("before", [0, -1, "x", [1], None, MISSING])
def test_integers_outside_64_bits_are_refused(number: int, before: Any) -> None:
    for value, size in itertools.product([number, [number], {"b": number}], (1, 5, 10_000)):
        error = refusal(json.dumps(rows_of([before, value])).encode(), size)
        assert error is not None
        assert error.row == 2
        assert f"{number} is outside {-(2**63)} to {2**63 - 1}" in str(error)
        assert "column_types" in str(error)


@pytest.mark.parametrize("name", ["\u00e9", "\u00e9\u20ac"])
@pytest.mark.parametrize("escaped", [False, True])
def test_the_error_names_a_column_outside_ascii_unescaped(name: str, escaped: bool) -> None:
    content = json.dumps([{name: LARGE}, {name: None}], ensure_ascii=escaped).encode()
    error = refusal(content, 3)
    assert error is not None
    assert error.column == name


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_several_files_are_checked_as_one_table(client: QClient, tmp_path: Path, suffix: str) -> None:
    """The error names the file that has the integer, and its row there."""
    for number, row in enumerate([{"a": None}, {"a": LARGE}]):
        text = json.dumps(row)
        (tmp_path / f"{number}.{suffix}").write_text(
            text if suffix == "jsonl" else f"[{text}]", encoding="utf-8"
        )
    client.post("foo", b"old\n1\n")
    with pytest.raises(InvalidTable, match=rf"row 2 .*'a'.* \(row 1 of {tmp_path}/1\.{suffix}\)"):
        client.post("foo", table_in(tmp_path))
    answer = client.get("foo", {})
    assert answer is not None
    assert answer.content == b'[{"old":1}]'


def test_an_integer_is_refused_after_thousands_of_different_sets_of_columns() -> None:
    rows = [{f"c{number % 5000}": 1, "a": 1} for number in range(10_000)]
    assert refusal(json.dumps(rows).encode(), 10_000) is None
    rows[3]["a"] = LARGE
    del rows[9000]["a"]
    error = refusal(json.dumps(rows).encode(), 10_000)
    assert error is not None
    assert (error.row, error.column) == (4, "a")
