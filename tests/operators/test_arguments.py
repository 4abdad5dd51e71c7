"""Bad arguments: an error that names the argument, when the DAG is parsed where they are known then."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_qcache.client import InvalidKey, InvalidTable, RequestRetry
from airflow_provider_qcache.client.ring import check_key
from airflow_provider_qcache.client.tables.headers import ColumnHeaders, check_header, update_headers
from airflow_provider_qcache.compat import AirflowFailException
from airflow_provider_qcache.operators import _arguments as rules
from airflow_provider_qcache.operators.qcache import (
    QCacheDeleteOperator,
    QCachePostOperator,
    QCacheQueryOperator,
)
from airflow_provider_qcache.transfers.sql_to_qcache import SqlToQCacheOperator


def post(**arguments):
    return QCachePostOperator(task_id="post", **{"key": "k", "content": "a\n1\n", **arguments})


def query(**arguments):
    return QCacheQueryOperator(task_id="query", **{"key": "k", "query": {}, **arguments})


def delete(**arguments):
    return QCacheDeleteOperator(task_id="delete", **arguments)


WRONG = [
    (delete, {"key": "sales_*"}, r"key='sales_\*'.*no patterns"),
    (delete, {"keys": ["a", "sales_%"]}, r"keys\[1\]='sales_%'.*no patterns"),
    (delete, {"keys": []}, r"keys=\[\]: the list is empty\. Pass at least one key"),
    (delete, {"keys": "[]"}, r"keys='\[\]': the list is empty"),
    (post, {"key": "a b"}, "key='a b'"),
    (post, {"key": ""}, "key=''"),
    (post, {"key": None}, "key=None"),
    (post, {"key": 20240501}, "key=20240501"),
    (
        post,
        {"content": None},
        "pass exactly one of content, source_path, python_callable and tables: none passed",
    ),
    (post, {"source_path": "x.csv"}, "content and source_path passed"),
    (post, {"content": ""}, "content=''"),
    (post, {"content": []}, r"content=\[\]"),
    (post, {"content": ["a"]}, "content: the list has items that are not dicts"),
    (post, {"content": {"a": 1}}, "content=.*a list of dicts"),
    (post, {"content": 1}, "content=1"),
    (post, {"content": "{{ ti.xcom_pull('x') }}"}, r"content=.*its \.output"),
    (post, {"content": " {{ a }}{{ b }}\n"}, r"content=.*its \.output"),
    (post, {"content": "/data/orders.csv"}, "content='/data/orders.csv'.*source_path"),
    (post, {"content": "~/orders"}, "content=.*source_path"),
    (post, {"content": "s3://etl/orders"}, "content=.*source_path"),
    (post, {"content": "orders.csv.gz"}, "content=.*source_path"),
    (post, {"content": None, "source_path": ""}, "source_path=''"),
    (post, {"content": None, "source_path": 1}, "source_path=1"),
    (post, {"content": None, "python_callable": "load"}, "python_callable='load'"),
    (post, {"op_args": [1]}, "op_args"),
    (post, {"content": None, "python_callable": len, "op_args": 1}, "op_args=1"),
    (post, {"content": None, "python_callable": len, "op_kwargs": {1: 1}}, "op_kwargs="),
    (post, {"content_type": "text/html"}, "content_type='text/html'.*'text/csv' or 'application/json'"),
    (post, {"source_format": "csv"}, "source_format needs source_path"),
    (post, {"content": None, "source_path": "x", "source_format": "xml"}, "source_format='xml'.*'parquet'"),
    (post, {"key": "{stem}"}, "{stem} and {parent} need source_path"),
    (post, {"content": None, "source_path": "x", "key": "{name}"}, "key='{name}'.*{stem} and {parent}"),
    (post, {"content": None, "source_path": "x", "key": "a b{stem}"}, "key='a b{stem}'"),
    (post, {"column_types": {"a": "int"}}, r"column_types\['a'\]='int'.*'string' or 'enum' or 'float'"),
    (post, {"column_types": {"a;b": "enum"}}, "column_types.*'a;b'"),
    (post, {"column_types": {"größe": "enum"}}, "column_types.*'größe'"),
    (post, {"column_types": "a=enum"}, "column_types='a=enum'"),
    (post, {"column_types": {"a": "enum"}, "content_type": "application/json"}, "column_types.*json"),
    (post, {"column_types": {"a": "enum"}, "headers": {"X-QCache-types": "a=enum"}}, "headers.*column_types"),
    (post, {"stand_in_columns": {"a": ""}}, r"stand_in_columns\['a'\]=''"),
    (post, {"stand_in_columns": {"a": "'x;y'"}}, r"stand_in_columns\['a'\]="),
    (post, {"headers": "Authorization: secret"}, "headers: expected a dict"),
    (post, {"headers": {"A": None}}, r"headers\['A'\]"),
    (post, {"headers": {"content-type": "text/csv"}}, "headers.*content_type"),
    (post, {"headers": {"A b": "1"}}, "headers: 'A b'"),
    (post, {"headers": {"A": "1\n2"}}, r"headers\['A'\].*line breaks"),
    (post, {"headers": {"A": "\u0142"}}, r"headers\['A'\].*latin-1"),
    (post, {"headers": {"content-length": "1"}}, "headers: the client sets 'content-length' itself"),
    (post, {"compression": "zip"}, "compression='zip'.*'gzip' or 'lz4'"),
    (post, {"compression": "lz4", "content": None, "source_path": "x"}, "compression='lz4'"),
    (post, {"compression": "lz4", "content": [{"a": 1}]}, "compression='lz4'"),
    (post, {"copies": 0}, "copies=0"),
    (post, {"copies": True}, "copies=True"),
    (post, {"evict_stale": "maybe"}, "evict_stale='maybe'"),
    (post, {"require_home": None}, "require_home=None"),
    (post, {"check_row_count": 1}, "check_row_count=1"),
    (post, {"request_retry": {"waits": 1}}, "request_retry: unknown field 'waits'.*wait_initial"),
    (post, {"request_retry": 3}, "request_retry=3"),
    (post, {"request_retry": {"wait_max": -1}}, r"request_retry\['wait_max'\]=-1"),
    (post, {"qcache_conn_id": ""}, "qcache_conn_id=''"),
    (query, {"query": None}, "query=None"),
    (query, {"query": "select"}, "query='select'"),
    (query, {"query": "[1]"}, r"query='\[1\]'"),
    (query, {"query": {"where": object}}, "query=.*not JSON"),
    (query, {"accept": "csv"}, "accept='csv'"),
    (query, {"accept": "text/csv"}, "accept='text/csv' needs output_path"),
    (query, {"output_path": "x", "result_processor": len}, "result_processor"),
    (query, {"result_processor": 1}, "result_processor=1"),
    (query, {"load_kwargs": {"a": 1}}, "load_kwargs"),
    (query, {"on_miss": "ignore"}, "on_miss='ignore'.*'fail' or 'skip' or 'return_none'"),
    (delete, {}, "pass exactly one of key, keys and keys_path: none passed"),
    (delete, {"key": "a", "keys": ["b"]}, "key and keys passed"),
    (delete, {"key": ["a"]}, "key="),
    (delete, {"keys": []}, r"keys=\[\]"),
    (delete, {"keys": "__import__('os')"}, r"keys\[0\]="),
    (delete, {"keys": {"a": 1}}, "keys="),
    (delete, {"keys": ["a", "b c"]}, r"keys\[1\]='b c'"),
    (delete, {"keys": ["a", 1]}, r"keys\[1\]=1"),
    (delete, {"key": "a", "all_nodes": "some"}, "all_nodes='some'"),
    (delete, {"key": "a", "on_unreachable": "skip"}, "on_unreachable='skip'"),
]

CASES = [f"{make.__name__} {arguments!r}" for make, arguments, _ in WRONG]


@pytest.mark.parametrize(("make", "arguments", "message"), WRONG, ids=CASES)
def test_a_wrong_argument_is_named_when_the_dag_is_parsed(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


@pytest.mark.parametrize(("make", "arguments", "message"), WRONG, ids=CASES)
def test_a_mapped_one_fails_the_task_for_good(make, arguments, message):
    """What comes from another task is not known before; the same rules then end the task."""
    with pytest.raises(AirflowFailException, match=message):
        make(**arguments, _airflow_from_mapped=True)


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (post, {"key": "{{ ds }}", "headers": {"A": "{{ n }}"}}),
        (post, {"content": None, "source_path": "{{ path }}", "column_types": {"a": "{{ kind }}"}}),
        (query, {"query": "{{ query }}", "output_path": "{{ path }}"}),
        (query, {"query": {"where": "{{ where }}"}}),
        (query, {"query": "queries/{{ ds }}.json"}),
        (query, {"query": "query.json"}),
        (delete, {"keys": "{{ keys }}"}),
        (delete, {"keys": ["a", "{{ b c }}"]}),
    ],
)
def test_what_a_template_gives_is_not_guessed(make, arguments):
    make(**arguments)


def test_headers_are_in_no_message():
    """They may be credentials."""
    for headers in (
        "{'Authorization': 'secret'",
        {"Authorization": ["secret"]},
        ["secret"],
        {"A": "secret\n"},
    ):
        with pytest.raises(ValueError, match="headers") as caught:
            post(headers=headers)
        assert "secret" not in str(caught.value)


@given(st.one_of(st.text(max_size=5), st.text("aZ09_-", max_size=5), st.binary(max_size=3), st.integers()))
@example("a\n")
@example("ａ")
def test_a_key_is_one_to_the_operators_where_it_is_one_to_the_client(key):
    try:
        check_key(key)
    except InvalidKey:
        with pytest.raises(ValueError, match="key="):
            rules.key("key", key)
    else:
        assert rules.key("key", key) == key


@given(st.text(max_size=4) | st.text("aZ9-_:", max_size=4), st.text(max_size=4))
@example("A\n", "1")
@example("A", "\x00")
@example("HOST", "")
def test_a_header_is_one_to_the_operators_where_it_is_one_to_the_client(name, value):
    try:
        update_headers({}, {name: value})
        check_header(name, value)
    except ValueError:
        with pytest.raises(ValueError, match="headers"):
            rules.headers("headers", {name: value})
    else:
        assert rules.headers("headers", {name: value}) == {name: value}


@pytest.mark.parametrize("kind", ["string", "enum", "float", "int"])
def test_a_column_type_is_one_to_the_operators_where_it_is_one_to_the_client(kind):
    try:
        ColumnHeaders.read({"x-qcache-types": f"a={kind}"}, is_csv=True)
    except InvalidTable:
        with pytest.raises(ValueError, match="column_types"):
            rules.column_types("column_types", {"a": kind})
    else:
        assert rules.column_types("column_types", {"a": kind}) == {"a": kind}


@given(
    st.sampled_from([field.name for field in dataclasses.fields(RequestRetry)]),
    st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.floats(), st.just([1])),
)
def test_request_retry_takes_what_the_client_s_takes(field, value):
    """The rules are written twice, so that a DAG file does not load the client."""
    assert [one.name for one in dataclasses.fields(RequestRetry)] == list(rules.REQUEST_RETRY)
    try:
        RequestRetry(**{field: value})
    except ValueError:
        with pytest.raises(ValueError, match=f"request_retry.*{field}"):
            post(request_retry={field: value})
    else:
        assert rules.request_retry("request_retry", {field: value}) == {field: value}


@given(st.lists(st.text("abc09_-", min_size=1), min_size=1))
def test_keys_survive_a_template(keys):
    """str() is what a template makes of a list."""
    assert rules.keys("keys", str(keys)) == list(dict.fromkeys(keys))


CLAUSES = st.lists(st.text(max_size=4) | st.integers() | st.booleans() | st.none(), max_size=3)


@given(st.dictionaries(st.text(max_size=4), CLAUSES, max_size=3))
def test_a_query_survives_a_template(query):
    assert rules.query("query", str(query)) == query


def test_a_list_of_one_is_its_only_item():
    assert delete(keys="orders")._checked_arguments({})["keys"] == ["orders"]
    assert delete(keys="2024")._checked_arguments({})["keys"] == ["2024"]
    task = post(content=None, python_callable=len, op_args="abc")
    assert task._checked_arguments({})["op_args"] == ["abc"]


def test_a_column_is_partition_by_s_only_item():
    arguments = {"task_id": "sql", "sql": "SELECT 1", "sql_conn_id": "a"}
    task = SqlToQCacheOperator(**arguments, key="flights_{carrier}", partition_by="carrier")
    assert task._checked_arguments({})["partition_by"] == ["carrier"]
    with pytest.raises(ValueError, match=r"key='sales_\{day\}'.*partition_by=\['day'\]"):
        SqlToQCacheOperator(**arguments, key="sales_{day}")
