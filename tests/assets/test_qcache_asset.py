"""The URI of a table: one spelling for each table, and only what names a table."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_qcache.assets.qcache import key_in, pattern_of, qcache_asset, sanitize_uri
from airflow_provider_qcache.compat import Asset

KEYS = st.text("abzAZ09_-", min_size=1)
CONNECTIONS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1)


@pytest.mark.parametrize(
    "uri",
    [
        "qcache://cache/orders",
        "qcache://cache/orders/",
        "QCACHE://cache/orders",
        "qcache://cache/%6Frders",
        "qcache://c%61che//orders",
    ],
)
def test_every_spelling_is_one_asset_to_airflow(uri):
    assert Asset(uri=uri).uri == qcache_asset("orders", "cache").uri == "qcache://cache/orders"


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("qcache://cache/", "key=''"),
        ("qcache://cache/a/b", "key='a/b'"),
        ("qcache://cache/a.b", r"key='a\.b'"),
        ("qcache://cache/a%20b", "key='a b'"),
        ("qcache://cache/{}", "key='{}'"),
        ("qcache:///orders", "the connection is missing"),
        ("qcache://host:8888/orders", "'host:8888' is not the id of a connection"),
        ("qcache://user@host/orders", "'user@host' is not the id of a connection"),
        ("qcache://cache/orders?day=1", "without a query"),
    ],
)
def test_what_names_no_table_is_refused(uri, why):
    with pytest.raises(ValueError, match=f"'qcache:.*{why}"):
        sanitize_uri(urlsplit(uri))
    if find_spec("airflow.sdk"):
        with pytest.raises(ValueError, match=why):
            Asset(uri=uri)
    else:  # where Airflow only warns, unless it is configured to be strict
        with pytest.warns(UserWarning, match=f"{why}|should not contain auth info"):
            Asset(uri=uri)


@given(KEYS, CONNECTIONS)
def test_key_and_connection_come_back_from_what_airflow_made_of_the_uri(key, conn_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asset = qcache_asset(key, conn_id)
    assert Asset(uri=asset.uri).uri == asset.uri
    assert key_in(asset.uri, conn_id) == key
    assert key_in(asset.uri, f"{conn_id}2") is None


@pytest.mark.parametrize("pattern", ["sales_{region}_{day}", "sales_*", "*", "{a/b}", "{a b}{stem}"])
def test_a_pattern_is_the_asset_of_many_tables(pattern):
    assert key_in(qcache_asset(pattern).uri, "qcache_default") == pattern


def test_the_pattern_of_keys_is_what_they_begin_with():
    assert pattern_of(["sales_n", "sales_s"]) == "sales_*"
    assert pattern_of(["a", "b"]) == "*"
    assert pattern_of(["sales"]) == "sales"


def test_other_uris_have_no_key():
    others = ["s3://cache/orders", "orders", "qcache://[/orders"]
    assert [key_in(uri, "cache") for uri in others] == [None] * 3
