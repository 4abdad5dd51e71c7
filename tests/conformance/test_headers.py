"""Part 4 of the protocol: what request headers ask for and what response headers say."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
from urllib.parse import quote

import lz4.block
import pytest

from tests.harness.servers import WireRequest

CSV = "a,b\n1,x\n2,y\n3,x\n"
GET = "/qcache/dataset/t?q="
ALL = GET + "{}"


@pytest.mark.parametrize(
    "q", [{"offset": 1}, {"limit": 1}, {"offset": 2, "limit": 5}, {"limit": -1}, {"offset": 100}]
)
def test_the_unsliced_length_counts_rows_before_offset_and_limit(pair, q):
    """It is 3, whatever the slice contains."""
    pair.csv(CSV)
    assert pair.query(q).unsliced_length == 3
    assert pair.query(q, {"Accept": "text/csv"}).unsliced_length == 3


def test_the_unsliced_length_counts_the_rows_of_the_result(pair):
    """And not those of the table."""
    pair.csv(CSV)
    assert pair.query({"where": ["==", "b", "'x'"], "limit": 1}).unsliced_length == 2
    assert pair.query({"distinct": ["b"], "limit": 1}).unsliced_length == 2
    assert pair.query({"group_by": ["b"], "select": ["b", ["sum", "a"]]}).unsliced_length == 2
    assert pair.query({"select": [["count"]]}).unsliced_length == 1
    assert pair.query({"where": ["==", "a", 99]}).unsliced_length == 0
    assert pair.query({"from": {"limit": 2}, "limit": 1}).unsliced_length == 2


def test_the_content_type_names_utf_8(pair):
    """It is `application/json; charset=utf-8` or `text/csv; charset=utf-8`."""
    pair.csv(CSV)
    assert pair.query().header("Content-Type") == "application/json; charset=utf-8"
    assert pair.query({}, {"Accept": "text/csv"}).header("Content-Type") == "text/csv; charset=utf-8"


def test_only_a_200_with_rows_has_an_unsliced_length(pair):
    pair.csv(CSV)
    for q in ({"nosuch": 1}, {"where": ["like", "b", "'('"]}):
        assert pair.query(q).unsliced_length is None
    assert pair.query({}, key="missing").unsliced_length is None
    assert pair.csv(CSV).unsliced_length is None


def test_a_get_has_an_etag_of_the_uncompressed_body(pair):
    """The quoted SHA-1 of the body, the same with and without compression."""
    pair.csv(CSV)
    for encoding in ("identity", "gzip", "lz4"):
        for accept in ("application/json", "text/csv"):
            answer = pair.same("GET", ALL, {"Accept-Encoding": encoding, "Accept": accept})
            assert answer.header("Etag") == f'"{hashlib.sha1(answer.body).hexdigest()}"'


def test_a_post_has_no_etag(pair):
    """Neither a query nor a store has one."""
    pair.csv(CSV)
    assert pair.query().header("Etag") is None
    assert pair.csv(CSV).header("Etag") is None


@pytest.mark.parametrize("template", ["{}", "W/{}", '"other", {}', '{}, W/"x"', "*"])
def test_if_none_match_with_the_etag_is_304(pair, template):
    """Without a body. Weak tags, lists and the star match too."""
    pair.csv(CSV)
    etag = pair.same("GET", ALL).header("Etag")
    answer = pair.same("GET", ALL, {"If-None-Match": template.format(etag)})
    assert (answer.status, answer.body) == (304, b"")
    assert answer.header("Content-Type") is None
    assert answer.header("Etag") == etag


def test_if_none_match_with_another_etag_is_200(pair):
    """Also with the old tag of a table that has changed."""
    pair.csv(CSV)
    etag = pair.same("GET", ALL).header("Etag")
    assert pair.status("GET", ALL, {"If-None-Match": '"other"'}) == 200
    pair.csv("a,b\n9,z\n")
    assert pair.status("GET", ALL, {"If-None-Match": etag}) == 200


def test_a_304_is_never_compressed(pair):
    """Only a 200 is compressed."""
    pair.csv(CSV)
    etag = pair.same("GET", ALL).header("Etag")
    answer = pair.same("GET", ALL, {"If-None-Match": etag, "Accept-Encoding": "gzip"})
    assert (answer.status, answer.header("Content-Encoding")) == (304, None)


def test_if_none_match_works_for_the_status_too(pair):
    """Every GET has an Etag."""
    etag = pair.same("GET", "/qcache/status").header("Etag")
    assert pair.status("GET", "/qcache/status", {"If-None-Match": etag}) == 304


def test_qcache_stats_are_never_sent(pair):
    """QCache 0.9.3 does not have `X-QCache-stats`."""
    pair.csv(CSV)
    for answer in pair.ask_raw("GET", ALL):
        assert answer.header("X-QCache-stats") is None


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("text/csv, application/json", "text/csv"),
        ("application/json, text/csv", "application/json"),
        ("text/html, text/csv", "text/csv"),
        ("*/*, application/json", "application/json"),
        ("text/csv;q=1, application/json", "application/json"),
        (" text/csv ,x", "text/csv"),
        (",,text/csv", "text/csv"),
    ],
)
def test_the_first_supported_type_of_accept_is_used(pair, accept, content_type):
    """Accept is split at commas, and types are matched exactly, without blanks around them."""
    pair.csv(CSV)
    assert pair.query({}, {"Accept": accept}).header("Content-Type") == f"{content_type}; charset=utf-8"


def test_two_accept_headers_are_one_list(pair):
    """They are joined by a comma, in their order."""
    pair.csv(CSV)
    request = WireRequest("GET", ALL, (("Accept", "text/csv"), ("Accept", "application/json")))
    for answer in pair.ask(request):
        assert answer.header("Content-Type") == "text/csv; charset=utf-8"


@pytest.mark.parametrize(
    ("accepted", "used"),
    [
        ("lz4", "lz4"), ("gzip", "gzip"), ("gzip, lz4", "lz4"), ("gzip, deflate", "gzip"), ("lz4-frame", "lz4"),
        ("x-gzip", "gzip"), ("gzip;q=0", "gzip"), ("notgzip", "gzip"), ("lz4;q=0, gzip", "lz4"), ("GZIP", None),
        ("deflate", None), ("identity", None), ("", None), ("*", None), ("br", None),
    ],
)  # fmt: skip
def test_accept_encoding_is_a_substring_test(pair, accepted, used):
    """lz4 if the header contains `lz4`, else gzip if it contains `gzip`; weights are ignored."""
    pair.csv(CSV)
    answer = pair.query({}, {"Accept-Encoding": accepted})
    assert answer.header("Content-Encoding") == used
    assert len(json.loads(answer.body)) == 3


def test_without_accept_encoding_nothing_is_compressed(pair):
    """And no Vary header is sent."""
    pair.csv(CSV)
    answer = pair.query()
    assert answer.header("Content-Encoding") is None
    assert answer.header("Vary") is None


@pytest.mark.parametrize("encoding", ["gzip", "lz4"])
def test_every_200_is_compressed(pair, encoding):
    """Queries, empty answers, the status, the statistics and deletes, however small they are."""
    pair.csv(CSV)
    accept = {"Accept-Encoding": encoding}
    for answer in (
        pair.query({}, accept),
        pair.query({"where": ["==", "a", 99]}, accept),
        pair.query(b"null", accept),
        pair.same("GET", "/qcache/status", accept),
        *pair.ask_raw("GET", "/qcache/statistics", accept),
        pair.same("DELETE", "/qcache/dataset/t", accept),
    ):
        assert answer.status == 200
        assert answer.header("Content-Encoding") == encoding
        assert int(answer.header("Content-Length")) == len(answer.raw_body)


@pytest.mark.parametrize("encoding", ["gzip", "lz4"])
def test_no_other_status_is_compressed(pair, encoding):
    """201, 400, 404, 405, 406, 415 and 500 are not compressed."""
    accept = {"Accept-Encoding": encoding}
    answers = {
        201: pair.csv(CSV, accept),
        400: pair.query({"nosuch": 1}, accept),
        404: pair.query({}, accept, key="missing"),
        405: pair.same("PUT", "/qcache/status", accept, b""),
        406: pair.query({}, {**accept, "Accept": "*/*"}),
        500: pair.query(b"1", accept),
        415: pair.csv(CSV, {**accept, "Content-Type": "text/plain"}),
    }
    for status, answer in answers.items():
        assert (answer.status, answer.header("Content-Encoding")) == (status, None)


def test_lz4_answers_are_a_size_and_a_raw_block(pair):
    """Four bytes of uncompressed size, little-endian, then the block; no frame."""
    pair.csv(CSV)
    for answer in pair.ask_raw("GET", ALL, {"Accept-Encoding": "lz4"}):
        (size,) = struct.unpack("<I", answer.raw_body[:4])
        assert len(lz4.block.decompress(answer.raw_body[4:], uncompressed_size=size)) == size


def test_lz4_uploads_are_a_size_and_a_raw_block(pair):
    """For stores and for queries."""
    block = lz4.block.compress(CSV.encode(), store_size=False)
    assert pair.csv(struct.pack("<I", len(CSV)) + block, {"Content-Encoding": "lz4"}).status == 201
    assert pair.column("a") == [1, 2, 3]
    query = lz4.block.compress(b'{"limit": 1}')
    assert len(pair.rows(query, {"Content-Encoding": "lz4"})) == 1


def test_gzip_uploads_may_have_several_members(pair):
    """They are read one after the other."""
    body = gzip.compress(b"a\n1\n") + gzip.compress(b"2\n") + gzip.compress(b"")
    assert pair.csv(body, {"Content-Encoding": "gzip"}).status == 201
    assert pair.column("a") == [1, 2]
    assert (
        len(pair.rows(gzip.compress(b'{"limit":') + gzip.compress(b" 1}"), {"Content-Encoding": "gzip"})) == 1
    )


def test_trailing_zeros_after_gzip_are_padding(pair):
    """As with the gzip program."""
    assert pair.csv(gzip.compress(b"a\n1\n") + b"\0" * 20, {"Content-Encoding": "gzip"}).status == 201


def test_types_make_strings_enums_and_floats(pair):
    """`X-QCache-types: a=string;b=enum;c=float`; blanks around names and types are ignored."""
    pair.csv("a,b,c\n007,x,1\n", {"X-QCache-types": " a = string ; b=enum; c =float "})
    assert pair.rows() == [{"a": "007", "b": "x", "c": 1.0}]
    assert b'"c":1.0' in pair.query().body


def test_json_uploads_ignore_types(pair):
    """An unknown or malformed type is ignored too."""
    for types in ("a=string", "a=nosuch", "a", "a=enum"):
        assert pair.json([{"a": 7}], {"X-QCache-types": types}).status == 201
        assert pair.rows() == [{"a": 7}]


def test_an_empty_types_header_is_ignored(pair):
    """And so is an empty stand-in header."""
    assert pair.csv("a\n007\n", {"X-QCache-types": "", "X-QCache-stand-in-columns": ""}).status == 201
    assert pair.rows({}, {"X-QCache-stand-in-columns": ""}) == [{"a": 7}]


@pytest.mark.parametrize(
    ("value", "stored"),
    [("10", 10), ("-3", -3), ("1.5", 1.5), ("1e3", 1000.0), ("text", "text"), ("'10'", "10"), ('"x"', "x"), ("'x", "x"),
     ("a", 1), ("b", "x"), ("inf", None), ("nan", None), ("+5", 5), ("true", "true"), ("'a'", "a"), ("x y", "x y")],
)  # fmt: skip
def test_stand_in_columns_of_a_store(pair, value, stored):
    """A number, a text (quoted or not) or the name of a column to copy becomes a column that was missing."""
    assert pair.csv("a,b\n1,x\n", {"X-QCache-stand-in-columns": f"new={value}"}).status == 201
    assert pair.rows() == [{"a": 1, "b": "x", "new": stored}]


@pytest.mark.parametrize("value", ["10", "1.5", "text", "'10'", "a", "b"])
def test_stand_in_columns_of_a_query(pair, value):
    """The same for one query, where every clause can use it."""
    pair.csv("a,b\n1,x\n")
    header = {"X-QCache-stand-in-columns": f"new={value}"}
    stored = {"10": 10, "1.5": 1.5, "text": "text", "'10'": "10", "a": 1, "b": "x"}[value]
    literal = f"'{stored}'" if isinstance(stored, str) else stored
    assert pair.rows({"where": ["==", "new", literal], "select": ["new"]}, header) == [{"new": stored}]


def test_a_stand_in_does_not_replace_an_existing_column(pair):
    pair.csv("a,b\n1,x\n", {"X-QCache-stand-in-columns": "a=99;c=98"})
    assert pair.rows() == [{"a": 1, "b": "x", "c": 98}]
    assert pair.rows({}, {"X-QCache-stand-in-columns": "b=99;c=97"}) == [{"a": 1, "b": "x", "c": 98}]


def test_a_stand_in_can_copy_an_earlier_stand_in(pair):
    """Stand-ins are added in their order."""
    pair.csv("a\n1\n", {"X-QCache-stand-in-columns": "b=a;c=b;d=zzz"})
    assert pair.rows() == [{"a": 1, "b": 1, "c": 1, "d": "zzz"}]


def test_json_uploads_accept_stand_in_columns(pair):
    """They come last, unsorted."""
    assert pair.json([{"b": 1, "z": 2}], {"X-QCache-stand-in-columns": "a=b;c=5"}).status == 201
    assert pair.as_csv() == "b,z,a,c\n1,2,1,5\n"


def test_header_values_are_latin_1(pair):
    """A column's name within latin-1 must be sent in latin-1, not in UTF-8; other names cannot be sent."""
    pair.csv("é,b\n007,1\n", {"X-QCache-types": "é=string"})
    assert pair.as_csv() == "é,b\n007,1\n"
    for name in ("é", "日"):
        in_utf8 = name.encode().decode("latin-1")
        pair.csv(f"{name},b\n007,1\n", {"X-QCache-types": f"{in_utf8}=string"})
        assert pair.as_csv() == f"{name},b\n7,1\n"


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def test_chunked_uploads_work(pair):
    """For stores and for queries, in any number of chunks."""
    headers = {"Transfer-Encoding": "chunked"}
    assert pair.csv(chunked(b"a,b\n1,", b"x\n", b"2,y\n"), headers).status == 201
    assert pair.column("a") == [1, 2]
    assert pair.query(chunked(b'{"limit"', b": 1}"), headers).unsliced_length == 2
    assert pair.csv(chunked(), headers).status == 500


def test_expect_100_continue_is_answered_at_once(pair):
    """Before a byte of the body is sent."""
    head = WireRequest(
        "POST",
        "/qcache/dataset/t",
        (("Content-Type", "text/csv"), ("Expect", "100-continue"), ("Content-Length", "4")),
    )
    for server in pair.servers:
        with server.connect() as connection:
            connection.send(head.encode())
            assert connection.receive().status == 100
            connection.send(b"a\n1\n")
            assert connection.receive().status == 201


def test_expect_anything_else_is_ignored(pair):
    """The node reads the body and stores the table."""
    assert pair.csv("a\n1\n", {"Expect": "something"}).status == 201


@pytest.mark.parametrize("q", [{"where": ["==", "b", "'x'"]}, {"select": ["b"]}, {"limit": 1}])
def test_get_and_post_queries_answer_alike(pair, q):
    """They differ only in the Etag."""
    pair.csv(CSV)
    assert pair.same("GET", GET + quote(json.dumps(q))).body == pair.query(q).body
