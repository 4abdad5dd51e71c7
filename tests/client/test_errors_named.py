"""Errors of public functions are the client's own, or say what is wrong with an argument."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_qcache.client import InvalidTable, MalformedQueryException, QClient, QueryResult
from airflow_provider_qcache.hooks.node_check import check_nodes
from airflow_provider_qcache.operators._arguments import literal

NODE = "http://127.0.0.1:9"


def deep(count: int) -> Any:
    value: Any = 1
    for _ in range(count):
        value = [value]
    return value


@pytest.mark.parametrize("query", [{"where": deep(100_000)}, {"a": {1}}, {"a": b"x"}, {(1, 2): 3}])
def test_a_query_that_cannot_be_written_as_json_is_malformed(query: Any) -> None:
    with (
        QClient([NODE], trust_env=False) as client,
        pytest.raises(MalformedQueryException, match="the query cannot be written as JSON"),
    ):
        client.get("key", query)


def test_the_error_of_a_lone_surrogate_names_its_position() -> None:
    with QClient([NODE], trust_env=False) as client, pytest.raises(InvalidTable, match="character 3"):
        client.post("key", "a\n\ud800\n")


@pytest.mark.parametrize("text", ["[" * 100_000, "(" * 100_000, '{"a":' * 100_000])
def test_a_list_field_that_is_nested_too_deeply_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="neither JSON nor a Python literal"):
        literal(text)


@pytest.mark.parametrize(
    ("content", "content_type", "message"),
    [
        (b"[1]", "application/json", "not a list of rows"),
        (b'[{"a":1},{}]', "application/json", "not a list of rows"),
        (b"{", "application/json", "not a list of rows"),
        (b"\xff", "application/json", "not a list of rows"),
        (b'[{"a":"\\ud800"}]', "application/json", "column 'a' holds str: .*surrogates"),
        (b'[{"\\ud800":1}]', "application/json", "a column whose name cannot be encoded"),
        (b"a,b\n1\n", "text/csv", "not CSV"),
        (b"a\n\xff\n", "text/csv", "not CSV"),
    ],
)
def test_an_answer_that_is_no_table_is_a_value_error(content: bytes, content_type: str, message: str) -> None:
    result = QueryResult(content, 1, content_type=content_type)
    for read in (result.to_arrow, result.to_pandas, result.to_polars):
        with pytest.raises(ValueError, match=message) as caught:
            read()
        assert type(caught.value) is ValueError


@pytest.mark.parametrize(
    "proxy", ["http://", "http://:3128", "http://user:S3CRET@:3128", "http://[::1", "http:///x"]
)
def test_a_proxy_without_a_host_is_a_value_error_without_its_password(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(ValueError, match="is not a URL with a host") as caught:
        QClient(["http://10.0.0.1:9"])
    assert "S3CRET" not in str(caught.value)
    arguments = {"node_list": ["http://10.0.0.1:9"], "connect_timeout": 1, "read_timeout": 1}
    (check,) = check_nodes(
        {**arguments, "verify": True, "cert": None, "auth": None, "trust_env": True}, longest=2
    )
    assert "is not a URL with a host" in str(check)
