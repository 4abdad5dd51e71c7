"""Part 3 of the protocol: the status of every situation."""

from __future__ import annotations

import gzip
import json
from urllib.parse import quote

import lz4.block
import pytest

CSV = "a,b\n1,x\n2,y\n"
GET = "/qcache/dataset/t?q="


def test_a_miss_is_404(pair):
    """By GET and by POST, with an HTML body."""
    answer = pair.query({}, key="missing")
    assert (answer.status, answer.header("Content-Type")) == (404, "text/html; charset=UTF-8")
    assert b"<html>" in answer.body
    assert pair.status("GET", "/qcache/dataset/missing?q=%7B%7D") == 404


def test_an_expired_table_is_404(pair_with):
    """`--age 1000`: it is found at first, and a miss 1,001 seconds later."""
    pair = pair_with("--age", "1000")
    pair.csv(CSV)
    assert pair.has()
    pair.advance_clock(1001)
    assert pair.query().status == 404


@pytest.mark.parametrize(
    "q",
    [
        "",
        "{",
        "nonsense",
        "{'a': 1}",
        "{} x",
        "[",
        '"open',
        "NULL",
        "nan",
        '{"a":}',
        "[]",
        '"x"',
        '""',
        "[1]",
    ],
)
def test_a_query_that_is_empty_invalid_json_a_list_or_a_string_is_400(pair, q):
    """By GET and by POST."""
    pair.csv(CSV)
    for answer in (
        pair.query(q.encode()),
        pair.same("GET", GET + quote(q)),
    ):
        assert answer.status == 400
        assert answer.header("Content-Type") == "text/html; charset=UTF-8"


def test_a_get_without_q_is_400(pair):
    pair.csv(CSV)
    assert pair.status("GET", "/qcache/dataset/t") == 400
    assert pair.status("GET", "/qcache/dataset/t?Q=%7B%7D") == 400


def test_null_as_a_query_is_200_with_an_empty_body_and_no_unsliced_length(pair):
    """A trap for a client that sends None."""
    pair.csv(CSV)
    for answer in (pair.query(b"null"), pair.same("GET", GET + "null"), pair.query(b" null\n")):
        assert (answer.status, answer.body) == (200, b"")
        assert answer.unsliced_length is None
        assert answer.header("Content-Type") == "text/html; charset=UTF-8"


@pytest.mark.parametrize("q", ["1", "0", "1.5", "true", "false", "NaN", "Infinity", "-Infinity"])
def test_a_query_that_is_a_number_or_a_boolean_is_500(pair, q):
    pair.csv(CSV)
    answer = pair.query(q.encode())
    assert (answer.status, answer.header("Content-Type")) == (500, "text/html; charset=UTF-8")


def test_the_last_of_repeated_clauses_counts(pair):
    """As in Python's JSON parser."""
    pair.csv(CSV)
    assert pair.rows(b'{"limit": 1, "limit": 2}') == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


@pytest.mark.parametrize(
    "accept",
    [
        "*/*", "text/*", "application/*", "application/json;q=0.9", "text/csv; q=1", "application/json; charset=utf-8",
        "APPLICATION/JSON", "Text/Csv", "text/html", "", "application/xml, text/plain", "json", "text/csv;",
    ],
)  # fmt: skip
def test_an_accept_that_is_not_supported_is_406(pair, accept):
    """Wildcards, parameters, upper case and other types are not supported."""
    pair.csv(CSV)
    answer = pair.query({}, {"Accept": accept})
    assert (answer.status, answer.header("Content-Type")) == (406, "text/html; charset=UTF-8")


def test_an_absent_accept_means_json(pair):
    """By GET and by POST."""
    pair.csv(CSV)
    for answer in (
        pair.same("GET", GET + "{}"),
        pair.same("POST", "/qcache/dataset/t/q", {}, b"{}"),
    ):
        assert answer.status == 200
        assert answer.header("Content-Type") == "application/json; charset=utf-8"


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("text/csv", 201), ("text/csv; charset=utf-8", 201), ("text/csv;charset=utf-8", 201), ("text/csv;", 201),
        ("text/csv; header=present", 201), ("text/csv; header=present; charset=latin-1", 201),
        ("text/csv; charset=utf-8x", 415), ("text/csv; charset=", 201), ('text/csv; charset="utf-8"', 201),
        ('text/csv; charset="latin-1"', 201), ("text/csv; Charset=latin-1", 201), ("text/csv; charset = latin-1", 201),
        ("text/csv; charset=UTF-8", 415), ("text/csv; charset=utf8", 415), ("text/csv; charset=latin-1", 415),
        ("text/csv ; charset=utf-8", 415), ("TEXT/CSV", 415), ("text/plain", 415), ("", 415), ("application/csv", 415),
        ("application/x-www-form-urlencoded", 415), ("multipart/form-data; boundary=x", 415), ("text/csv,text/csv", 415),
    ],
)  # fmt: skip
def test_the_content_type_must_be_exact(pair, content_type, status):
    """`text/csv` or `application/json`; a charset is only read right after the first semicolon."""
    assert pair.csv(CSV, {"Content-Type": content_type}).status == status
    if status == 201:
        assert pair.column("a") == [1, 2]


@pytest.mark.parametrize(
    ("content_type", "status"),
    [("application/json", 201), ("application/json; charset=utf-8", 201), ("application/json; charset=UTF-8", 415),
     ("application/JSON", 415), ("text/json", 415)],
)  # fmt: skip
def test_the_content_type_of_json_must_be_exact_too(pair, content_type, status):
    """By the same rules."""
    assert pair.json([{"a": 1}], {"Content-Type": content_type}).status == status


def test_an_absent_content_type_means_csv(pair):
    assert pair.status("POST", "/qcache/dataset/t", {}, CSV.encode()) == 201
    assert pair.column("a") == [1, 2]


@pytest.mark.parametrize(
    "encoding", ["identity", "deflate", "br", "GZIP", "x-gzip", "gzip, lz4", "lz4-frame", "zstd", ""]
)
def test_a_content_encoding_other_than_gzip_or_lz4_is_400(pair, encoding):
    """Also `identity`; for stores and for queries."""
    assert pair.csv(CSV, {"Content-Encoding": encoding}).status == 400
    assert pair.query({}, {"Content-Encoding": encoding}).status == 400


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        pytest.param("gzip", b"not gzip", id="not gzip"),
        pytest.param("gzip", gzip.compress(CSV.encode())[:-4], id="gzip cut short"),
        pytest.param("gzip", gzip.compress(CSV.encode())[:-8] + b"\0" * 8, id="gzip of a wrong checksum"),
        pytest.param("gzip", gzip.compress(CSV.encode()) + b"rest", id="gzip and then something else"),
        pytest.param("lz4", b"not lz4 at all", id="not lz4"),
        pytest.param("lz4", b"", id="empty lz4"),
        pytest.param("lz4", lz4.block.compress(CSV.encode())[:-3], id="lz4 cut short"),
        pytest.param("lz4", lz4.block.compress(CSV.encode(), store_size=False), id="lz4 without its size"),
        pytest.param(
            "lz4", b"\x01\0\0\0" + lz4.block.compress(CSV.encode())[4:], id="lz4 with too small a size"
        ),
    ],
)
def test_corrupt_compressed_data_is_500(pair, encoding, body):
    """For stores and for queries."""
    assert pair.csv(body, {"Content-Encoding": encoding}).status == 500
    assert pair.query(body, {"Content-Encoding": encoding}).status == 500


def test_an_empty_gzip_body_is_decoded_to_nothing(pair):
    """The gzip reader accepts it; as CSV it is 500."""
    assert pair.csv(b"", {"Content-Encoding": "gzip"}).status == 500
    assert pair.query(b"", {"Content-Encoding": "gzip"}).status == 400


@pytest.mark.parametrize(
    "types", ["a=int", "a=object", "a=String", "a=", "b=nosuch", "zzz=nosuch", "a=string;b=x", "=x"]
)
def test_an_unknown_type_name_is_400(pair, types):
    """Also for a column that the table does not have."""
    assert pair.csv(CSV, {"X-QCache-types": types}).status == 400


@pytest.mark.parametrize("types", ["zzz=string", "zzz=enum", "zzz=float", "=string", "A=string"])
def test_a_type_for_an_unknown_column_is_ignored(pair, types):
    """So a column with a misspelled name keeps its inferred type."""
    assert pair.csv(CSV, {"X-QCache-types": types}).status == 201
    assert pair.rows() == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


@pytest.mark.parametrize(
    "types", ["a", "a=b=c", "a=string;", ";", "a=string;;b=string", "a string", "a:string"]
)
def test_a_malformed_types_header_is_500(pair, types):
    """Each part between semicolons must be a name, one `=` and a type."""
    assert pair.csv(CSV, {"X-QCache-types": types}).status == 500


@pytest.mark.parametrize("stand_ins", ["a", "a=b=c", "a=b;", ";", "a=b;;c=d"])
def test_a_malformed_stand_in_header_is_500(pair, stand_ins):
    """For stores and for queries."""
    assert pair.csv(CSV, {"X-QCache-stand-in-columns": stand_ins}).status == 500
    pair.csv(CSV)
    assert pair.query({}, {"X-QCache-stand-in-columns": stand_ins}).status == 500


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("", id="empty"),
        pytest.param("\n\n", id="blank lines only"),
        pytest.param("\ufeff", id="a BOM only"),
        pytest.param("a,b\n1,2\n1,2,3\n", id="a later row with too many fields"),
        pytest.param("a\n1\n1,2\n", id="a later row with too many fields, one column"),
        pytest.param('a,b\n1,"open\n', id="an unterminated quote"),
        pytest.param('a,b\n1,2\n3,"', id="an unterminated quote at the end"),
    ],
)
def test_broken_csv_is_500(pair, body):
    """It is empty, a row is too wide, or a quote is never closed."""
    assert pair.csv(body).status == 500


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[", b"nonsense", b"[{]", b'[{"a": 1},]', b"{}", b'{"a": 1}', b'"text"', b"1", b"null", b"true",
        b"[1]", b'["a"]', b"[[1]]", b"[null]", b'[{"a": 1}, 2]',
    ],
)  # fmt: skip
def test_json_that_is_not_a_list_of_objects_is_500(pair, body):
    """It is no JSON, no list, or a list with other items than objects."""
    assert pair.json(body).status == 500


@pytest.mark.parametrize("number", [2**64, -(2**64), 10**30, -(2**63) - 1])
def test_an_integer_beyond_64_bits_in_json_is_500(pair, number):
    """It fits neither a signed nor an unsigned 64-bit integer."""
    assert pair.json([{"a": number}]).status == 500
    assert not pair.has()


def test_a_query_error_is_json_with_a_content_type_of_html(pair):
    """400 with `{"error": ...}` and Content-Type text/html; other failures are HTML pages."""
    pair.csv(CSV)
    for answer in pair.ask_raw("GET", GET + quote('{"nosuch": 1}')):
        assert answer.status == 400
        assert answer.header("Content-Type") == "text/html; charset=UTF-8"
        assert list(json.loads(answer.body)) == ["error"]
    for real_or_dev in pair.ask_raw("GET", GET + "{}", {"Accept": "nosuch"}):
        assert b"<html>" in real_or_dev.body
