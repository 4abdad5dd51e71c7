"""What lineage reads of an answer never fails a task whose table is stored."""

from __future__ import annotations

import pytest

from airflow_provider_qcache.lineage import schema_of_answer


@pytest.mark.parametrize(
    ("content", "content_type", "columns"),
    [
        (b"n,zip\n1,2\n", "text/csv", ["n", "zip"]),
        (b"n" * 200_000 + b"\n", "text/csv", []),
        (b'[{"n":1,"zip":"a"}]', "application/json", ["n", "zip"]),
        (b"[1]", "application/json", []),
        (b"[" * 5_000, "application/json", []),
        (b"[]", "application/json", []),
    ],
)
def test_the_columns_of_an_answer(content: bytes, content_type: str, columns: list[str]) -> None:
    assert list(schema_of_answer(content, content_type)) == columns
