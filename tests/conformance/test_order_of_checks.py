"""Part 2 of the protocol: the order in which a request is checked, and the effect of a failed store."""

from __future__ import annotations

import base64

import pytest

BAD_JSON = b"{"
BAD_ACCEPT = {"Accept": "*/*"}
BAD_STAND_INS = {"X-QCache-stand-in-columns": "a=b=c"}
UNKNOWN_TYPE = {"X-QCache-types": "a=nosuch"}
MALFORMED_TYPES = {"X-QCache-types": "a"}
NOT_GZIP = {"Content-Encoding": "gzip"}
UNKNOWN_ENCODING = {"Content-Encoding": "nosuch"}
UNKNOWN_TYPE_OF_CONTENT = {"Content-Type": "text/plain"}
BROKEN_CSV = "a,b\n1,2\n1,2,3\n"


def store_table(pair) -> None:
    """Store a small table, which must succeed."""
    assert pair.csv("a\n1\n").status == 201


def test_a_query_is_parsed_before_accept_is_checked(pair):
    """Invalid JSON with an unsupported Accept is 400."""
    store_table(pair)
    assert pair.query(BAD_JSON, BAD_ACCEPT).status == 400


def test_a_query_is_parsed_before_the_key_is_looked_up(pair):
    """Invalid JSON for a missing key is 400."""
    assert pair.query(BAD_JSON, key="missing").status == 400


def test_accept_is_checked_before_the_key_is_looked_up(pair):
    """An unsupported Accept for a missing key is 406."""
    assert pair.query({}, BAD_ACCEPT, key="missing").status == 406


def test_the_key_is_looked_up_before_the_stand_in_header_is_parsed(pair):
    """A malformed stand-in header for a missing key is 404."""
    assert pair.query({}, BAD_STAND_INS, key="missing").status == 404


def test_the_key_is_looked_up_before_the_query_is_run(pair):
    """An invalid query for a missing key is 404."""
    assert pair.query({"nosuch": 1}, key="missing").status == 404


def test_the_stand_in_header_is_parsed_before_the_query_is_run(pair):
    """A malformed header with an invalid query is 500 and not 400."""
    store_table(pair)
    assert pair.query({"nosuch": 1}).status == 400
    assert pair.query({"nosuch": 1}, BAD_STAND_INS).status == 500


def test_null_as_a_query_is_answered_before_anything_else_is_checked(pair):
    """It is 200 with an empty body, even with an unsupported Accept and a missing key."""
    answer = pair.query(b"null", BAD_ACCEPT, key="missing")
    assert (answer.status, answer.body) == (200, b"")


def test_the_encoding_of_a_posted_query_is_checked_first(pair):
    """An unknown Content-Encoding is 400 and corrupt gzip 500, before anything else is checked."""
    assert pair.query(b"{}", {**BAD_ACCEPT, **UNKNOWN_ENCODING}, key="missing").status == 400
    assert pair.query(b"not gzip", {**BAD_ACCEPT, **NOT_GZIP}, key="missing").status == 500


def test_credentials_are_checked_first(pair_with, certificates):
    """Without them everything is 401, and a store does not change the table."""
    options = ("--cert-file", str(certificates.server), "--basic-auth", "user:secret")
    pair = pair_with(*options, tls=certificates.context())
    correct = {"Authorization": "Basic " + base64.b64encode(b"user:secret").decode()}
    assert pair.csv("a\n1\n", correct).status == 201
    assert pair.query(BAD_JSON).status == 401
    assert pair.query({}, key="missing").status == 401
    assert pair.csv("a\n2\n", UNKNOWN_TYPE_OF_CONTENT).status == 401
    assert pair.csv("a\n2\n").status == 401
    assert pair.status("DELETE", "/qcache/dataset/t") == 401
    assert pair.rows({}, correct) == [{"a": 1}]


def test_the_age_is_checked_before_the_stand_in_header_is_parsed(pair_with):
    """An expired table is 404 and not the 500 of a malformed header."""
    pair = pair_with("--age", "1000")
    store_table(pair)
    assert pair.query({}, BAD_STAND_INS).status == 500
    pair.advance_clock(1001)
    assert pair.query({}, BAD_STAND_INS).status == 404


FAILED_STORES = [
    pytest.param(UNKNOWN_TYPE_OF_CONTENT, "a\n1\n", 415, id="content type"),
    pytest.param({"Content-Type": "text/csv; charset=latin-1"}, "a\n1\n", 415, id="charset"),
    pytest.param(UNKNOWN_ENCODING, "a\n1\n", 400, id="content encoding"),
    pytest.param(NOT_GZIP, "a\n1\n", 500, id="corrupt gzip"),
    pytest.param({"Content-Encoding": "lz4"}, "a\n1\n", 500, id="corrupt lz4"),
    pytest.param(UNKNOWN_TYPE, "a\n1\n", 400, id="unknown type"),
    pytest.param(MALFORMED_TYPES, "a\n1\n", 500, id="malformed types"),
    pytest.param(BAD_STAND_INS, "a\n1\n", 500, id="malformed stand-ins"),
    pytest.param({}, BROKEN_CSV, 500, id="row too wide"),
    pytest.param({}, "", 500, id="empty CSV"),
    pytest.param({"X-QCache-types": "a=float"}, "a\nx\n", 500, id="text in a float column"),
    pytest.param({"Content-Type": "application/json"}, "{", 500, id="not JSON"),
    pytest.param({"Content-Type": "application/json"}, '{"a": 1}', 500, id="JSON, but no list"),
]


@pytest.mark.parametrize(("headers", "body", "status"), FAILED_STORES)
def test_a_failed_store_has_already_dropped_the_old_table(pair, headers, body, status):
    """The node drops it before it checks anything of the new table."""
    store_table(pair)
    assert pair.csv(body, headers).status == status
    assert pair.query().status == 404


FIRST_OF_TWO = [
    pytest.param({**UNKNOWN_TYPE_OF_CONTENT, **UNKNOWN_ENCODING}, "a\n", 415, id="type, then encoding"),
    pytest.param({**UNKNOWN_TYPE_OF_CONTENT, **NOT_GZIP}, "a\n", 415, id="type, then corrupt data"),
    pytest.param({**UNKNOWN_TYPE_OF_CONTENT, **MALFORMED_TYPES}, "a\n", 415, id="type, then types header"),
    pytest.param({**UNKNOWN_ENCODING, **MALFORMED_TYPES}, "a\n1\n", 400, id="encoding, then types header"),
    pytest.param({**NOT_GZIP, **UNKNOWN_TYPE}, "a\n1\n", 500, id="corrupt data, then types header"),
    pytest.param({**UNKNOWN_TYPE, **BAD_STAND_INS}, "a\n1\n", 400, id="types, then stand-ins"),
    pytest.param(UNKNOWN_TYPE, BROKEN_CSV, 400, id="types header, then parsing"),
    pytest.param({"X-QCache-types": "a=nosuch;b"}, "a\n1\n", 400, id="types in their order"),
    pytest.param({"X-QCache-types": "b;a=nosuch"}, "a\n1\n", 500, id="types in their order, reversed"),
]


@pytest.mark.parametrize(("headers", "body", "status"), FIRST_OF_TWO)
def test_the_order_of_checks_in_a_store(pair, headers, body, status):
    """Content-Type, Content-Encoding, types header, stand-in header, then the content."""
    assert pair.csv(body, headers).status == status


def test_tables_are_evicted_before_a_types_header_is_parsed(pair_with):
    """A store that fails for its types header has evicted tables; one that fails for its Content-Type has not."""
    pair = pair_with("--size", "90000")
    assert pair.csv("a\n" + "1\n" * 5000, key="old").status == 201
    large = "a\n" + "12345678\n" * 7000
    assert pair.csv(large, UNKNOWN_TYPE_OF_CONTENT, key="new").status == 415
    assert pair.csv(large, UNKNOWN_ENCODING, key="new").status == 400
    assert pair.has("old")
    assert pair.csv(large, UNKNOWN_TYPE, key="new").status == 400
    assert not pair.has("old")
