"""Invalid arguments and content: the error names them and says what to do, and nothing is sent."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import lz4.block
import pytest
import requests.auth

from airflow_provider_qcache.client import (
    InvalidTable,
    Listener,
    QClient,
    QClientException,
    QueryResult,
    RequestRetry,
    TooManyConsecutiveErrors,
    UnexpectedServerResponse,
)
from airflow_provider_qcache.client.compression import Undecodable, decode
from airflow_provider_qcache.client.errors import Outcome
from airflow_provider_qcache.client.results import Absence, Place
from airflow_provider_qcache.client.secrets import secrets_of, secrets_of_url, spellings
from airflow_provider_qcache.client.tables.content import skip_bom
from tests.client.kinds import key_with_home
from tests.harness.faults import FaultyNode, Peer, Received, head, healthy_node

NODE = "http://127.0.0.1:9"
TABLE = b"a\n1\n"


def error_text(call: Any) -> str:
    """The text of the error that the call must raise."""
    with pytest.raises((ValueError, TypeError, QClientException)) as raised:
        call()
    return str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"verify": None}, "verify=None must be True, False or the path of a CA bundle"),
        ({"cert": ("a", "b", "c")}, "cert=('a', 'b', 'c') must be a path, (certificate, key) or None"),
        ({"cert": ("a", 1)}, "cert=('a', 1) must be a path, (certificate, key) or None"),
        ({"request_retry": {}}, "request_retry={} must be a RequestRetry or None"),
        (
            {"request_retry": RequestRetry(wait_for_nodes=True)},
            "request_retry: wait_for_nodes needs a `deadline`, which ends the wait: set one",
        ),
        (
            {"auth": requests.auth.HTTPBasicAuth("user", "S3C:RET")},
            (
                "auth: the password contains a ':', on which a node closes the connection without an answer: "
                "use a password without ':'"
            ),
        ),
        (
            {"auth": (b"us:er", "S3CRET")},
            (
                "auth: the login contains a ':', on which a node closes the connection without an answer: "
                "use a login without ':'"
            ),
        ),
        (
            {"auth": ("user", "S3CR\u20acT")},
            "auth: the password contains characters outside latin-1: pass it as encoded bytes",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else None,
)
def test_the_error_of_an_invalid_setting(arguments: dict[str, Any], text: str) -> None:
    assert error_text(lambda: QClient([NODE], trust_env=False, **arguments)) == text


@pytest.mark.parametrize("sent", ["Basic dXNlcg==", "Basic not base64", "Basic YTpiOmM="])
def test_a_callable_auth_whose_header_no_node_can_parse_is_refused(sent: str) -> None:
    def auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = sent
        return request

    assert error_text(lambda: QClient([NODE], trust_env=False, auth=auth)) == (
        "auth: its Basic Authorization header must be the base64 of login:password with exactly one ':'. On "
        "any other a node closes the connection without an answer."
    )


@pytest.mark.parametrize("sent", ["Basic dTpw", "Bearer x:y:z", b"Basic dTpw"])
def test_a_callable_auth_whose_header_a_node_can_parse_is_accepted(sent: Any) -> None:
    def auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = sent
        return request

    with QClient([NODE], trust_env=False, auth=auth) as client:
        assert repr(client) == f"QClient([{NODE}])"


@pytest.mark.parametrize(
    ("content", "options", "text"),
    [
        (io.StringIO("a\n1\n"), {}, "the file is open in text mode: open it with mode 'rb'"),
        (iter(["a\n"]), {}, "the content's iterator returned str: it must return bytes"),
        (
            TABLE,
            {"compression": "gzip", "post_headers": {"Content-Encoding": "gzip"}},
            "compression='gzip': the headers already contain Content-Encoding",
        ),
        (TABLE, {"compression": "zstd"}, "compression='zstd': expected 'gzip', 'lz4' or None"),
        (
            lambda: [TABLE],
            {"compression": "lz4"},
            "compression='lz4' needs content in memory: pass bytes, or use 'gzip', which can stream",
        ),
        (
            TABLE,
            {"post_headers": {"Content-Encoding": "br"}},
            "Content-Encoding 'br' is not supported by nodes: use 'gzip' or 'lz4'",
        ),
        (
            lambda: [lz4.block.compress(TABLE)],
            {"post_headers": {"Content-Encoding": "lz4"}},
            "the content is already lz4, which cannot be streamed: pass it as bytes",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else None,
)
def test_the_error_of_invalid_content(content: Any, options: dict[str, Any], text: str) -> None:
    node, tables = healthy_node()
    with node, QClient([node.url], trust_env=False) as client:
        assert text in error_text(lambda: client.post("key", content, **options))
    assert tables.tables == {}


@pytest.mark.parametrize("content", [b"", b"\xef", b"\xef\xbb\xbf", b"\xef\xbb\xbf[]", b"[]"])
def test_a_bom_is_removed_in_whatever_pieces_it_comes(content: bytes) -> None:
    for size in range(1, len(content) + 2):
        pieces = [content[start : start + size] for start in range(0, len(content), size)]
        assert b"".join(skip_bom(iter(pieces))) == content.removeprefix(b"\xef\xbb\xbf")


def test_decoding_refuses_a_body_that_is_too_short_or_too_long() -> None:
    with pytest.raises(Undecodable, match="it is too short for lz4"):
        decode(b"\x01\x00", "lz4", 2)
    for encoding in (None, "identity"):
        assert decode(b"abc", encoding, 3) == b"abc"
        with pytest.raises(Undecodable) as raised:
            decode(b"abc", encoding, 2)
        assert raised.value.outcome is Outcome.TOO_LARGE
    packed = lz4.block.compress(b"abc")
    assert decode(packed, "lz4", 3) == b"abc"
    with pytest.raises(Undecodable) as raised:
        decode(packed, "lz4", 2)
    assert raised.value.outcome is Outcome.TOO_LARGE


def test_invalid_table_refuses_an_unknown_field() -> None:
    assert error_text(lambda: InvalidTable("text", rows=1)) == "InvalidTable has no field 'rows'"


def test_a_result_that_the_caller_requested_encoded_cannot_be_read_as_a_table() -> None:
    result = QueryResult(b"\x00", 1, "lz4", decoded=False)
    assert error_text(result.as_dict) == "as_dict: the content is encoded as 'lz4': decode it first"
    for read in (result.to_arrow, result.to_pandas, result.to_polars):
        assert error_text(read) == (
            "the content is encoded as lz4, as the query's Accept-Encoding asked for: decode it, or query "
            "without that header"
        )
    assert repr(result) == "QueryResult(content=b'\\x00', unsliced_result_len=1, encoding=lz4)"
    plain = QueryResult(b"[]", 0, node=NODE).as_dict()
    assert (plain["content"], plain["node"], "decoded" in plain) == ("[]", NODE, False)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ({"position": 1, "absence": None, "rows": 1}, "n (home) has the table, 1 row"),
        ({"position": 2, "absence": None, "rows": 1200}, "n (number 2) has the table, 1,200 rows"),
        ({"position": 1, "absence": Absence.MISSING}, "n (home) does not have the table"),
        ({"position": 1, "absence": Absence.GONE, "error": "x"}, "n (home) refuses the connection"),
        (
            {"position": 1, "absence": Absence.UNKNOWN, "error": "timed out"},
            "n (home) does not respond: timed out",
        ),
        (
            {"position": 2, "absence": Absence.MISSING, "same_as": "m"},
            "n (number 2), at the same address as m, does not have the table",
        ),
    ],
    ids=lambda value: "" if isinstance(value, dict) else None,
)
def test_the_text_of_a_place(place: dict[str, Any], text: str) -> None:
    assert str(Place(node="n", **place)) == text


def test_the_error_of_a_table_that_is_missing_right_after_its_store() -> None:
    """A node without room for the table acknowledges the store, and then answers a miss."""

    def forgets(peer: Peer, request: Received) -> None:
        peer.send(head(201 if request.kind == "store" else 404, 0))

    def rows() -> Iterator[bytes]:
        yield TABLE

    with FaultyNode(forgets) as node, QClient([node.url], trust_env=False) as client:
        with pytest.raises(TooManyConsecutiveErrors) as raised:
            client.query("key", {}, rows)
        assert str(raised.value) == (
            "query table 'key': the client stored the table, and it is missing when it is queried. The "
            "content that load_fn returned cannot be read again: return bytes, a path, or a function that "
            "returns a fresh iterator."
        )
        with pytest.raises(TooManyConsecutiveErrors) as raised:
            client.query("key", {}, lambda: TABLE)
        assert str(raised.value) == (
            "query table 'key': the client stored the table 2 times, and it is missing each time it is "
            "queried. Check whether the cache is too small for the table, or another client deletes it."
        )


def test_an_error_of_a_listener_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    failed_nodes = []

    class Broken(Listener):
        def node_failed(self, node: str, error: str) -> None:
            failed_nodes.append(node)
            raise RuntimeError("broken")

    node, tables = healthy_node()
    tables.tables["key"] = TABLE
    with node, QClient([NODE, node.url], trust_env=False) as client:
        listener = Broken()
        client.add_listener(listener)
        key = key_with_home(client, NODE)
        client.post(key, TABLE)
        assert failed_nodes == [NODE]
    assert "a Listener of the client raised an error" in caplog.text
    assert "RuntimeError: broken" in caplog.text


@pytest.mark.parametrize(
    ("status", "content", "text"),
    [
        (200, b"<html>", "the answer is not JSON: "),
        (200, b"[" * 100_000, "the answer is not JSON: "),
        (404, b"", "404"),
    ],
    ids=["HTML", "nested too deeply", "not found"],
)
def test_the_error_of_statistics_from_another_server_than_a_node(
    status: int, content: bytes, text: str
) -> None:
    def answer(peer: Peer, request: Received) -> None:
        peer.send(head(status, len(content)) + content)

    with FaultyNode(answer) as node, QClient([node.url], trust_env=False) as client:
        (error,) = client.node_statistics().values()
    assert isinstance(error, UnexpectedServerResponse)
    assert str(error).startswith(f"statistics of {node.url}: ")
    assert error.status == status
    assert text in str(error)


def test_secrets_are_found_in_malformed_urls_and_headers() -> None:
    assert secrets_of_url("http://[::1") == set()
    assert secrets_of_url("http://u:p%2F@host") == {"p%2F", "p/"}
    assert secrets_of(b"Authorization: Basic n/*\r\n") == {"Basic n/*", "n/*"}
    assert spellings([""]) == set()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"connect_timeout": 0}, "connect_timeout"),
        ({"read_timeout": None}, "read_timeout"),
        ({"deadline": -1}, "deadline"),
        ({"store_timeout": "2"}, "store_timeout"),
        ({"max_response_bytes": 0}, "max_response_bytes"),
        ({"consecutive_error_count_limit": 0}, "consecutive_error_count_limit"),
        ({"connect_timeout": 1e300}, "connect_timeout"),
        ({"cert": 1}, "cert"),
        ({"trust_env": "False"}, "trust_env"),
        ({"refused_means_gone": "no"}, "refused_means_gone"),
        ({"confirm_miss": None}, "confirm_miss"),
        ({"auth": "hunter2"}, "auth is of type str"),
        ({"auth": ("a", "b", "hunter2")}, "auth is of type tuple"),
        ({"node_list": ["host1:9401"]}, "host1:9401"),
        ({"node_list": ["https://host1"], "cert": "/nowhere.pem"}, "cert"),
    ],
)
def test_the_error_of_an_invalid_argument_names_it(options: dict[str, object], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        QClient(**{"node_list": ["http://host1:9401"], **options})  # type: ignore[arg-type]
