"""Whether a result without a length is complete, decided in constant memory."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_qcache.client import outcome
from airflow_provider_qcache.client.outcome import is_complete

JSON = "application/json"
CELLS = st.none() | st.integers() | st.text(st.sampled_from('ab"\\[]{}, \n\u00e9'), max_size=8)


@given(
    rows=st.lists(
        st.dictionaries(st.text(st.sampled_from('a"\\]'), max_size=3), CELLS, max_size=3), max_size=4
    ),
    size=st.integers(1, 9),
)
def test_no_proper_prefix_of_a_json_result_is_complete(rows: list[dict[str, Any]], size: int) -> None:
    content = json.dumps(rows, separators=(",", ":")).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outcome, "_PIECE", size)
        assert is_complete(content, JSON)
        assert [end for end in range(1, len(content)) if is_complete(content[:end], JSON)] == []


def test_memory_is_constant_and_the_time_is_checked() -> None:
    content = b"[" + b",".join([b'{"a":"x\\\\","b":[1,2]}'] * 1_000_000) + b"]"
    checks: list[None] = []
    tracemalloc.start()
    assert is_complete(content, JSON, lambda: checks.append(None))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 24 << 20
    assert len(checks) >= len(content) >> 20


@pytest.mark.parametrize(
    ("content", "whole"),
    [
        (b"", False),
        (b"a,b\n1,2\n", True),
        (b"a,b\n1,2", False),
        (b'a\n"x"\n', True),
        (b'a\n"x""y","z"\n', True),
        (b'a\n"x\n', False),
        (b'a\n"x""\n', False),
        (b'a\n"x', False),
        (b'a\n"x"', False),
    ],
)
def test_csv_is_complete_if_it_ends_with_a_line_end_outside_quotes(content: bytes, whole: bool) -> None:
    assert is_complete(content, "text/csv") is whole
