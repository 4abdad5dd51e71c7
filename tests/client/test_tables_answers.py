"""Query results as pyarrow, polars and pandas tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_qcache.client.results import QueryResult

if TYPE_CHECKING:
    from airflow_provider_qcache.client import QClient

COLUMNS: dict[str, list[Any]] = {
    "zip": ["007", "12a", None, "x\ry", 'q"'],
    "n": [1, -2, 3, 2**63 - 1, 0],
    "x": [1.0, None, -0.5, 1e300, 1e-300],
    "yes": [True, False, True, True, False],
    "maybe": [True, None, False, None, True],
    "none": [None] * 5,
    "text": ["1.50", "01", "True", "a,b", "c\nd"],
    "digits": ["007", "012", "9", None, "1"],
    "price": ["1.50", "2.25", None, "0.5", "1e5"],
}
KINDS = {
    "zip": pl.String,
    "n": pl.Int64,
    "x": pl.Float64,
    "yes": pl.Boolean,
    "maybe": pl.Boolean,
    "text": pl.String,
    "digits": pl.String,
    "price": pl.String,
}


@pytest.fixture(params=["application/json", "text/csv"])
def result(request: pytest.FixtureRequest, client: QClient) -> QueryResult:
    client.post_table("answer", pa.table(COLUMNS))
    result = client.get("answer", {}, accept=request.param)
    assert result is not None
    assert result.content_type == request.param
    return result


def test_to_arrow_gives_what_was_stored(result: QueryResult) -> None:
    table = result.to_arrow()
    assert table.to_pydict() == COLUMNS
    assert table.schema.types == [
        pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.bool_(), pa.null(), *[pa.string()] * 3,
    ]  # fmt: skip


def test_to_polars_gives_what_was_stored(result: QueryResult) -> None:
    frame = result.to_polars()
    assert frame.to_dict(as_series=False) == COLUMNS
    assert {name: kind for name, kind in frame.schema.items() if name != "none"} == KINDS


def test_to_pandas_gives_what_was_stored(result: QueryResult) -> None:
    frame = result.to_pandas()
    assert list(frame.columns) == list(COLUMNS)
    for name, values in COLUMNS.items():
        assert [None if pd.isna(value) else value for value in frame[name]] == values
    assert str(frame["n"].dtype) == "int64"
    assert str(frame["x"].dtype) == "float64"
    assert str(frame["yes"].dtype) == "bool"


@pytest.mark.parametrize("accept", ["application/json", "text/csv"])
def test_a_result_can_be_stored_again(client: QClient, result: QueryResult, accept: str) -> None:
    for frame in (result.to_arrow(), result.to_pandas(), result.to_polars()):
        client.post_table("again", frame)
        again = client.get("again", {}, accept=accept)
        assert again is not None
        assert again.to_arrow().to_pydict() == COLUMNS


TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5
) | st.sampled_from(["", '"', '""', ",", "\n", "\r", "\r\n", " ", "\t", '",\n"'])


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(texts=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5), lone=st.booleans())
def test_texts_survive_an_answer_in_csv(client: QClient, texts: list[tuple[str, str]], lone: bool) -> None:
    """A node does not quote a lone CR, and it ends no line."""
    columns = {
        "a": [None, *(f"x{text}" for text, _ in texts)],
        "b": ["x", *(f"{text}x" for _, text in texts)],
    }
    if lone:
        del columns["b"]
    client.post_table("texts", pa.table(columns))
    result = client.get("texts", {}, accept="text/csv")
    assert result is not None
    assert result.to_arrow().to_pydict() == columns


def test_a_result_without_rows_keeps_its_columns_only_in_csv(client: QClient) -> None:
    client.post_table("answer", pa.table(COLUMNS).slice(0, 0))
    as_csv = client.get("answer", {}, accept="text/csv")
    as_json = client.get("answer", {})
    assert as_csv is not None
    assert as_json is not None
    for frame in (as_csv.to_arrow(), as_csv.to_polars(), as_csv.to_pandas()):
        assert (frame.shape[0], frame.shape[1]) == (0, len(COLUMNS))
    assert as_json.to_arrow().num_columns == 0
    assert as_json.to_pandas().empty
    assert as_json.to_polars().is_empty()


def test_the_result_of_a_table_without_columns_is_empty(client: QClient) -> None:
    stored = requests.post(
        f"{client.node_for_key('answer')}/qcache/dataset/answer",
        b"[]",
        headers={"Content-Type": "application/json"},
        timeout=10,
    )
    assert stored.status_code == 201
    for accept in ("application/json", "text/csv"):
        result = client.get("answer", {}, accept=accept)
        assert result is not None
        assert result.to_arrow().num_columns == 0


def test_the_error_of_a_column_with_several_types_names_it(client: QClient) -> None:
    """Such a column comes from JSON, or from a node's inference of an untyped column chunk by chunk."""
    client.post("answer", '[{"a":1,"b":"x"},{"a":"y","b":"z"}]', content_type="application/json")
    result = client.get("answer", {})
    assert result is not None
    for to in (result.to_arrow, result.to_polars):
        with pytest.raises(ValueError, match="column 'a' holds int and str"):
            to()
    assert list(result.to_pandas()["a"]) == [1, "y"]


def test_integers_beside_floats_are_floats() -> None:
    result = QueryResult(b'[{"a":1},{"a":null},{"a":0.5}]', 3)
    assert result.to_arrow().to_pydict() == {"a": [1.0, None, 0.5]}
    assert result.to_polars().to_dict(as_series=False) == {"a": [1.0, None, 0.5]}


def test_malformed_csv_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"the answer is not CSV.*no field begins at character 2"):
        QueryResult(b'a\n"b', 1, content_type="text/csv").to_arrow()
