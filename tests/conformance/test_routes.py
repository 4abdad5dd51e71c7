"""Part 1 of the protocol: paths and methods."""

from __future__ import annotations

import json

import pytest

TABLE = "a,b\n1,x\n2,y\n"


@pytest.mark.parametrize("key", ["a", "Z", "0", "_", "-", "a-b_C9", "q", "dataset", "x" * 3000])
def test_keys_are_letters_digits_underscores_and_dashes(pair, key):
    """Such a key can be stored and queried, also one of 3,000 characters."""
    assert pair.csv(TABLE, key=key).status == 201
    assert pair.column("a", key=key) == [1, 2]


@pytest.mark.parametrize("key", ["%41", "a.b", "a:b", "a%20b", "", "a+b", "å", "a~b", "a,b", "%2e%2e", ".."])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_any_other_key_is_404_with_an_html_body(pair, method, key):
    """The path is matched undecoded."""
    answer = pair.same(
        method, f"/qcache/dataset/{key}?q=%7B%7D", body=b"a\n1\n" if method == "POST" else None
    )
    assert answer.status == 404
    assert answer.header("Content-Type") == "text/html; charset=UTF-8"
    assert b"<html>" in answer.body


def test_percent_encoding_is_not_decoded(pair):
    """`%74` is not the key `t`."""
    pair.csv(TABLE)
    assert pair.status("GET", "/qcache/dataset/%74?q=%7B%7D") == 404


def test_one_trailing_slash_is_accepted_after_a_key(pair):
    """`/t/` is `/t` for storing, querying and deleting; a second slash is 404."""
    assert pair.status("POST", "/qcache/dataset/t/", body=TABLE.encode()) == 201
    assert pair.status("GET", "/qcache/dataset/t/?q=%7B%7D") == 200
    assert pair.status("GET", "/qcache/dataset/t//?q=%7B%7D") == 404
    assert pair.status("DELETE", "/qcache/dataset/t/") == 200
    assert pair.status("GET", "/qcache/dataset/t?q=%7B%7D") == 404


def test_get_takes_the_query_from_q(pair):
    """`?q=` is percent-encoded JSON; `+` is a space; other parameters are ignored; the last of two `q` counts."""
    pair.csv(TABLE)
    get = "/qcache/dataset/t?q="
    assert json.loads(pair.same("GET", get + "%7B%22limit%22:1%7D").body) == [{"a": 1, "b": "x"}]
    assert json.loads(pair.same("GET", get + "{%22limit%22:+1}").body) == [{"a": 1, "b": "x"}]
    assert json.loads(pair.same("GET", get + "{%22limit%22:1}&x=1").body) == [{"a": 1, "b": "x"}]
    assert json.loads(pair.same("GET", get + "{}&q={%22limit%22:1}").body) == [{"a": 1, "b": "x"}]


def test_post_to_q_takes_the_query_from_the_body(pair):
    """The query string is ignored."""
    pair.csv(TABLE)
    answer = pair.same("POST", "/qcache/dataset/t/q?q=nonsense", body=b'{"limit": 1}')
    assert json.loads(answer.body) == [{"a": 1, "b": "x"}]


@pytest.mark.parametrize("path", ["/t/q/", "/t/q/q", "/t/r", "/t/Q"])
def test_other_paths_below_a_key_are_404(pair, path):
    """`/q/` is not the query route."""
    pair.csv(TABLE)
    assert pair.status("POST", "/qcache/dataset" + path, body=b"{}") == 404


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_q_accepts_only_post(pair, method):
    """GET and DELETE of `/q` are 404 and delete nothing."""
    pair.csv(TABLE)
    assert pair.status(method, "/qcache/dataset/t/q?q=%7B%7D") == 404
    assert pair.has()


def test_a_store_is_201_with_an_empty_body(pair):
    answer = pair.csv(TABLE)
    assert (answer.status, answer.body) == (201, b"")


def test_delete_is_200_whether_or_not_the_key_existed(pair):
    """The answers are the same."""
    pair.csv(TABLE)
    assert pair.status("DELETE", "/qcache/dataset/t") == 200
    assert not pair.has()
    assert pair.same("DELETE", "/qcache/dataset/t").body == b""
    assert pair.status("DELETE", "/qcache/dataset/never-stored") == 200


def test_the_status_is_200_and_ok(pair):
    answer = pair.same("GET", "/qcache/status")
    assert (answer.status, answer.body) == (200, b"OK")
    assert answer.header("Content-Type") == "text/html; charset=UTF-8"


def test_statistics_are_json(pair):
    """200 and `application/json; charset=utf-8`, whatever Accept says."""
    for headers in ({}, {"Accept": "text/csv"}, {"Accept": "*/*"}):
        for answer in pair.ask_raw("GET", "/qcache/statistics", headers):
            assert answer.status == 200
            assert answer.header("Content-Type") == "application/json; charset=utf-8"
            assert isinstance(json.loads(answer.body), dict)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *((method, "/dataset/t") for method in ("PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "NONSENSE")),
        *((method, "/dataset/t/q") for method in ("PUT", "PATCH", "HEAD", "OPTIONS")),
        *((method, "/status") for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")),
        *((method, "/statistics") for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")),
    ],
)
def test_other_methods_are_405(pair, method, path):
    """The answer has no Allow header, and the table is unchanged."""
    pair.csv(TABLE)
    body = b"" if method in ("POST", "PUT", "PATCH") else None
    answer = pair.same(method, "/qcache" + path, body=body)
    assert answer.status == 405
    assert answer.header("Allow") is None
    assert pair.has()


@pytest.mark.parametrize(
    "path",
    [
        "/", "/qcache", "/qcache/", "/qcache/dataset", "/qcache/dataset/", "/qcache/status/", "/qcache/statistics/",
        "/qcache/status/x", "/qcache/nosuch", "/dataset/t", "/status", "/QCACHE/status", "//qcache/status",
        "/favicon.ico", "/static/x", "/robots.txt",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_paths_are_404(pair, method, path):
    """Also `/status/` and `/statistics/` with a slash at the end."""
    answer = pair.same(method, path, body=b"" if method == "POST" else None)
    assert answer.status == 404
    assert answer.header("Content-Type") == "text/html; charset=UTF-8"


def test_a_query_string_on_other_routes_is_ignored(pair):
    """Stores, deletes and the status have no parameters."""
    assert pair.status("GET", "/qcache/status?x=1") == 200
    assert pair.status("POST", "/qcache/dataset/t?q=x", body=b"a\n1\n") == 201
    assert pair.status("DELETE", "/qcache/dataset/t?q=x") == 200
