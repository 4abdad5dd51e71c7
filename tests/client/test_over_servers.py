"""The client over real servers and over dev nodes, with qcache-client as another reader and writer."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import qclient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_qcache.client import (
    Absence,
    BulkError,
    DeleteOutcome,
    InvalidKey,
    InvalidTable,
    MalformedQueryException,
    NodeState,
    QClient,
    RowCountMismatch,
    TooManyConsecutiveErrors,
    UnexpectedServerResponse,
    UnsupportedAcceptType,
)
from airflow_provider_qcache.client.compression import lz4_block
from tests.harness.nodes import Nodes

if TYPE_CHECKING:
    from collections.abc import Iterator

TABLE = b"name,number\nx,1\ny,2\n"
ROWS = [{"name": "x", "number": 1}, {"name": "y", "number": 2}]


def rows(client: QClient, key: str, **options: object) -> object:
    result = client.get(key, {}, **options)
    return None if result is None else json.loads(result.content)


def pieces() -> Iterator[bytes]:
    yield TABLE[:7]
    yield TABLE[7:]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_bytes(TABLE)
    return path


def test_this_client_and_qclient_read_each_other_s_tables(client: QClient, nodes: Nodes) -> None:
    theirs = qclient.QClient(nodes.urls)
    for number in range(30):
        theirs.post(f"theirs{number}", TABLE)
        client.post(f"ours{number}", TABLE)
    for number in range(30):
        assert rows(client, f"theirs{number}") == ROWS
        assert json.loads(theirs.get(f"ours{number}", {}).content) == ROWS


def test_a_miss_is_none(client: QClient) -> None:
    assert client.get("nothing", {}) is None


IN_MEMORY = ("bytes", "str", "bytearray")
STREAMED = ("path", "file", "function", "iterator", "list")


@pytest.mark.parametrize(
    ("form", "compression"),
    [
        *((form, compression) for form in IN_MEMORY for compression in (None, "gzip", "lz4")),
        *(
            (form, compression) for form in STREAMED for compression in (None, "gzip")
        ),  # lz4 needs the content in memory
    ],
)
def test_every_form_of_content_arrives_complete(
    client: QClient, path: Path, form: str, compression: str | None
) -> None:
    if compression == "lz4" and lz4_block is None:
        pytest.skip("lz4 is not installed")
    with path.open("rb") as file:
        content = {
            "bytes": TABLE,
            "str": TABLE.decode(),
            "bytearray": bytearray(TABLE),
            "path": path,
            "file": file,
            "function": pieces,
            "iterator": pieces(),
            "list": [TABLE[:3], TABLE[3:]],
        }[form]
        result = client.post("forms", content, compression=compression, check_row_count=True)
    assert (result.rows, result.bytes) == (2, len(TABLE))
    assert rows(client, "forms") == ROWS


def test_a_file_is_sent_from_its_current_position(client: QClient) -> None:
    file = io.BytesIO(b"not this" + TABLE)
    file.seek(8)
    client.post("forms", file)
    assert rows(client, "forms") == ROWS


def test_json_is_stored(client: QClient) -> None:
    result = client.post("json", json.dumps(ROWS).encode(), "application/json", check_row_count=True)
    assert result.rows == 2
    assert rows(client, "json") == ROWS


@pytest.mark.parametrize("content", [b"[]", b'[{}, {"a": 1}]', b'[{"a": 1}, {}, {}]'])
def test_rows_without_columns_are_counted_like_on_a_node(client: QClient, content: bytes) -> None:
    stored = client.post("rows", content, "application/json", check_row_count=True)
    assert stored.rows == len(json.loads(content))


@pytest.mark.parametrize("content", [b"[{}]", b"[{}, {}]"])
def test_rows_without_any_column_are_refused_and_leave_the_old_table(client: QClient, content: bytes) -> None:
    client.post("rows", "a\n1\n")
    with pytest.raises(InvalidTable, match="the table has no columns"):
        client.post("rows", lambda: iter([content]), "application/json", check_row_count=True)
    result = client.get("rows", {})
    assert result is not None
    assert json.loads(result.content) == [{"a": 1}]


def test_compressed_content_is_checked_and_sent_unchanged(client: QClient, tmp_path: Path) -> None:
    headers = {"Content-Encoding": "gzip"}
    packed = gzip.compress(TABLE[:9]) + gzip.compress(TABLE[9:])
    (tmp_path / "packed").write_bytes(packed)
    for content in (packed, tmp_path / "packed"):
        result = client.post("packed", content, post_headers=headers, check_row_count=True)
        assert (result.rows, result.bytes) == (2, len(TABLE))
    for bad in (gzip.compress(b"a,a\n"), b"no gzip", packed[:-4]):
        (tmp_path / "packed").write_bytes(bad)
        for content in (bad, tmp_path / "packed"):
            with pytest.raises(InvalidTable):
                client.post("packed", content, post_headers=headers)
    assert rows(client, "packed") == ROWS


def test_lz4_content_is_checked_and_sent_unchanged(client: QClient) -> None:
    if lz4_block is None:
        pytest.skip("lz4 is not installed")
    headers = {"Content-Encoding": "lz4"}
    result = client.post("packed", lz4_block.compress(TABLE), post_headers=headers, check_row_count=True)
    assert (result.rows, result.bytes) == (2, len(TABLE))
    for bad in (lz4_block.compress(b"a,a\n"), b"no lz4", lz4_block.compress(TABLE)[:-4]):
        with pytest.raises(InvalidTable):
            client.post("packed", bad, post_headers=headers)
    assert rows(client, "packed") == ROWS


BAD = {
    "empty": b"",
    "not UTF-8": b"a,b\n1,\xff\n",
    "a name twice": b"a,a\n1,2\n",
    "no name": b"a,\n1,2\n",
    "a row too wide": TABLE + b"1,2,3\n",
    "a quote left open": b'a,b\n1,"2\n',
}


@pytest.mark.parametrize("form", ["memory", "chunks", "file"])
@pytest.mark.parametrize("bad", BAD)
def test_a_store_that_fails_for_its_content_leaves_the_old_table(
    client: QClient, bad: str, form: str, tmp_path: Path
) -> None:
    client.post("kept", TABLE)
    content = BAD[bad]
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    forms = {"memory": content, "chunks": lambda: iter([content[:5], content[5:]]), "file": path}
    with pytest.raises(InvalidTable):
        client.post("kept", forms[form])
    assert rows(client, "kept") == ROWS


def test_a_large_file_whose_last_row_is_bad_leaves_the_old_table(client: QClient, tmp_path: Path) -> None:
    client.post("kept", TABLE)
    path = tmp_path / "large.csv"
    path.write_bytes(b"a,b\n" + b"1,2\n" * 500_000 + b"1,2,3\n")
    for compression in (None, "gzip"):
        with pytest.raises(InvalidTable) as raised:
            client.post("kept", path, compression=compression)
        assert raised.value.row == 500_001
    assert rows(client, "kept") == ROWS


def test_a_file_that_changes_while_it_is_sent_leaves_the_old_table(client: QClient) -> None:
    client.post("kept", TABLE)

    class Growing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(size) or next(more, b"")

    more = iter([b"z,3\n"])
    with pytest.raises(InvalidTable, match="the file changed while it was sent"):
        client.post("kept", Growing(TABLE))
    assert rows(client, "kept") == ROWS


def test_an_exception_of_the_source_is_raised_and_leaves_the_old_table(client: QClient) -> None:
    client.post("kept", TABLE)

    def broken() -> Iterator[bytes]:
        yield TABLE
        yield TABLE
        raise ConnectionResetError("the source's database closed the connection")

    with pytest.raises(ConnectionResetError, match="database"):
        client.post("kept", broken)
    assert rows(client, "kept") == ROWS
    assert client.node_status()[client.node_for_key("kept")].alive


@pytest.mark.parametrize(
    "headers",
    [
        {"X-QCache-types": "name=string;"},
        {"X-QCache-types": "nope=string"},
        {"X-QCache-types": "name=text"},
        {"X-QCache-stand-in-columns": "other=nope"},
        {"Content-Type": "text/plain"},
        {"Content-Encoding": "br"},
        {"X-QCache-types": "name=string", "X-Long": "x" * 70_000},
    ],
)
def test_a_header_that_a_node_would_refuse_leaves_the_old_table(
    client: QClient, headers: dict[str, str]
) -> None:
    client.post("kept", TABLE)
    with pytest.raises(InvalidTable):
        client.post("kept", TABLE, post_headers=headers)
    assert rows(client, "kept") == ROWS


def test_types_and_stand_ins_reach_the_node(client: QClient) -> None:
    headers = {"X-QCache-types": "zip=string", "X-QCache-stand-in-columns": "country='SE'"}
    client.post("zips", b"zip\n007\n", post_headers=headers)
    assert rows(client, "zips") == [{"zip": "007", "country": "SE"}]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.sampled_from('a1,"\n\r '), max_size=24))
def test_the_number_of_rows_is_the_node_s_number(client: QClient, text: str) -> None:
    try:
        stored = client.post("checked", f"one,two\n{text}")
    except InvalidTable:
        return
    assert client.get("checked", {}).unsliced_result_len == stored.rows


def test_a_long_query_is_sent_as_post_and_a_short_one_as_requested(client: QClient) -> None:
    client.post("long", TABLE)
    names = [f"name{number}" for number in range(5000)]
    result = client.get("long", {"where": ["in", "name", [*names, "x"]]})
    assert json.loads(result.content) == ROWS[:1]
    assert rows(client, "long", post_query=True) == ROWS


def test_a_query_may_be_answered_in_csv(client: QClient) -> None:
    client.post("csv", TABLE)
    result = client.get("csv", {"select": ["name"], "limit": 1}, accept="text/csv")
    assert result.content == b"name\nx\n"
    assert result.unsliced_result_len == 2


def test_a_compressed_answer_is_decoded(client: QClient) -> None:
    client.post("encoded", TABLE)
    result = client.get("encoded", {})
    assert json.loads(result.content) == ROWS
    assert result.encoding == (None if lz4_block is None else "lz4")


@pytest.mark.parametrize(
    "accept_encoding", ["lz4", "gzip", "identity", "lz4,gzip", "br;q=0.5, *", "x-lz4;q=1"]
)
def test_answers_in_an_encoding_that_the_caller_requested_are_those_of_qclient(
    client: QClient, nodes: Nodes, accept_encoding: str
) -> None:
    """They are returned encoded, except gzip, which requests decodes: such callers decode lz4 themselves."""
    client.post("encoded", TABLE)
    headers = {"accept-encoding": accept_encoding}
    theirs = qclient.QClient(nodes.urls).get("encoded", {}, query_headers=headers)
    result = client.get("encoded", {}, query_headers=headers)
    assert result.encoding == theirs.encoding
    if (
        accept_encoding == "x-lz4;q=1"
    ):  # the node sends lz4, because the header contains "lz4"; the client decodes it
        assert json.loads(result.content) == ROWS
    else:
        assert result.content == theirs.content


def test_locate_says_which_nodes_have_a_key(client: QClient) -> None:
    client.delete("located", all_nodes=True)
    assert [str(place).partition(") ")[2] for place in client.locate("located")] == [
        "does not have the table"
    ] * 3
    client.post("located", TABLE, copies=2)
    places = client.locate("located")
    assert tuple(place.node for place in places) == client.successors("located")
    assert [(place.position, place.rows, place.absence) for place in places] == [
        (1, 2, None),
        (2, 2, None),
        (3, None, Absence.MISSING),
    ]
    assert str(places[0]) == f"{client.node_for_key('located')} (home) has the table, 2 rows"


def test_none_as_a_query_is_refused(client: QClient) -> None:
    with pytest.raises(MalformedQueryException):
        client.get("foo", None)


def test_an_update_is_refused_and_changes_nothing(client: QClient) -> None:
    client.post("foo", TABLE)
    before = client.get("foo", {})
    column = next(iter(json.loads(before.content)[0]))
    for post_query in (False, True):
        with pytest.raises(MalformedQueryException, match="Store the changed table"):
            client.get("foo", {"update": [[column, 0]], "where": ["!=", column, -1]}, post_query=post_query)
    assert client.get("foo", {}).content == before.content


def test_the_error_of_a_malformed_query_has_the_node_s_reason(client: QClient) -> None:
    client.post("foo", TABLE)
    with pytest.raises(MalformedQueryException, match="no_such_clause") as raised:
        client.get("foo", {"no_such_clause": 1})
    assert raised.value.attempts[0].status == 400


def test_the_error_of_an_unquoted_text_value_shows_how_to_quote_it(client: QClient) -> None:
    client.post("foo", TABLE)
    with pytest.raises(MalformedQueryException, match=r"quotes: .*'x y'"):
        client.get("foo", {"where": ["==", "name", "x y"]})


def test_the_error_of_a_500_says_that_the_query_may_be_wrong(client: QClient) -> None:
    client.post("foo", TABLE)
    with pytest.raises(UnexpectedServerResponse, match="check the query"):
        client.get("foo", {"select": [["max", "nosuch"]]})


def test_an_unknown_accept_is_unsupported(client: QClient) -> None:
    client.post("foo", TABLE)
    with pytest.raises(UnsupportedAcceptType):
        client.get("foo", {}, accept="*/*")


@pytest.mark.parametrize("key", ["a?b", "../status", "", "a b"])
def test_an_invalid_key_is_refused_by_every_operation(client: QClient, key: str) -> None:
    for operation in (
        lambda: client.get(key, {}),
        lambda: client.post(key, TABLE),
        lambda: client.query(key, {}, lambda: TABLE),
        lambda: client.delete(key),
        lambda: client.delete(key, all_nodes=True),
        lambda: client.node_for_key(key),
    ):
        with pytest.raises(InvalidKey):
            operation()


def test_query_loads_a_missing_table_once(client: QClient) -> None:
    calls = []

    def load(**kwargs: object) -> bytes:
        calls.append(kwargs)
        return TABLE

    client.delete("loaded")
    for _ in range(2):
        result = client.query("loaded", {}, load, load_fn_kwargs={"day": 1})
        assert json.loads(result.content) == ROWS
    assert calls == [{"day": 1}]


def test_query_stores_at_most_twice(client: QClient, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = []
    post = client._post

    def store_and_lose(key: str, *args: object, **kwargs: object) -> object:
        stores.append(key)
        result = post(key, *args, **kwargs)
        client.delete(key)
        return result

    monkeypatch.setattr(client, "_post", store_and_lose)
    with pytest.raises(TooManyConsecutiveErrors):
        client.query("lost", {}, lambda: TABLE)
    assert len(stores) == 2


def test_delete_affects_the_home_node_and_all_nodes_every_node(client: QClient, nodes: Nodes) -> None:
    singles = {node: QClient([node]) for node in nodes.urls}
    for single in singles.values():
        single.post("deleted", TABLE)
    home = client.node_for_key("deleted")
    assert client.delete("deleted").outcomes == {home: DeleteOutcome.CONFIRMED}
    assert {node: rows(single, "deleted") is None for node, single in singles.items()} == {
        node: node == home for node in nodes.urls
    }
    result = client.delete("deleted", all_nodes=True)
    assert result.outcomes == dict.fromkeys(nodes.urls, DeleteOutcome.CONFIRMED)
    assert result.complete
    assert [single for single in singles.values() if rows(single, "deleted") is not None] == []


def test_copies_are_on_the_first_nodes_in_the_keys_order(client: QClient, nodes: Nodes) -> None:
    for node in nodes.urls:
        QClient([node]).delete("copied")
    order = client.successors("copied")
    result = client.post("copied", TABLE, copies=2)
    assert (result.node, result.copies, result.failed_copies) == (order[0], (order[1],), {})
    assert [rows(QClient([node]), "copied") is not None for node in order] == [True, True, False]


def test_evict_stale_leaves_the_table_on_its_node_and_its_copies_only(client: QClient, nodes: Nodes) -> None:
    for node in nodes.urls:
        QClient([node]).post("stale", b"old\n1\n")
    order = client.successors("stale")
    result = client.post("stale", TABLE, copies=2, evict_stale=True)
    assert (result.evicted, result.may_hold_old) == ((order[2],), ())
    assert [rows(QClient([node]), "stale") for node in order] == [ROWS, ROWS, None]


def test_check_row_count_detects_a_different_number_of_rows(
    client: QClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "airflow_provider_qcache.client.client._COUNT_ROWS",
        {"select": [["count"]], "where": ["==", "number", 1]},
    )
    with pytest.raises(RowCountMismatch) as raised:
        client.post("counted", TABLE, check_row_count=True)
    assert (raised.value.sent, raised.value.found) == (2, 1)


def test_many_tables_are_stored_and_deleted(client: QClient) -> None:
    tables = {f"many{number}": f"a\n{number}\n".encode() for number in range(200)}
    report = client.post_many(tables, evict_stale=True)
    assert set(report.succeeded) == set(tables)
    assert rows(client, "many77") == [{"a": 77}]
    deleted = client.delete_many(tables, all_nodes=True)
    assert [result for result in deleted.succeeded.values() if not result.complete] == []
    assert rows(client, "many77") is None


def test_post_many_reports_failed_tables_and_stores_the_others(
    client: QClient,
) -> None:
    tables = [
        ("good", TABLE),
        ("bad", b""),
        ("no key", TABLE),
        ("nofile", Path("nowhere.csv")),
        ("good2", TABLE),
    ]
    with pytest.raises(BulkError) as raised:
        client.post_many(iter(tables))
    report = raised.value.report
    assert set(report.succeeded) == {"good", "good2"}
    assert {key: type(error).__name__ for key, error in report.failed.items()} == {
        "bad": "InvalidTable",
        "no key": "InvalidKey",
        "nofile": "FileNotFoundError",
    }
    assert not raised.value.transient
    assert client.post_many(tables, raise_on_failure=False).failed.keys() == report.failed.keys()


def test_post_many_keeps_the_last_table_of_a_repeated_key(client: QClient) -> None:
    client.post_many([("twice", f"a\n{number}\n") for number in range(50)])
    assert rows(client, "twice") == [{"a": 49}]


def test_post_many_raises_the_exception_of_its_source(client: QClient) -> None:
    def source() -> Iterator[tuple[str, bytes]]:
        yield "before", TABLE
        raise LookupError("no more tables")

    with pytest.raises(LookupError):
        client.post_many(source())


def test_node_statistics_come_from_every_node(client: QClient, nodes: Nodes) -> None:
    client.node_statistics()
    client.post("counted", TABLE)
    statistics = client.node_statistics()
    assert set(statistics) == set(nodes.urls)
    assert statistics[client.node_for_key("counted")]["store_count"] == 1


def test_node_status_probes_every_node(client: QClient, nodes: Nodes) -> None:
    status = client.node_status(probe=True)
    assert {node: known.state for node, known in status.items()} == dict.fromkeys(nodes.urls, NodeState.ALIVE)


def test_invalid_arguments_of_a_store_are_refused(client: QClient) -> None:
    with pytest.raises(ValueError, match="copies"):
        client.post("foo", TABLE, copies=0)
    with pytest.raises(ValueError, match="compression"):
        client.post("foo", TABLE, compression="zip")
    with pytest.raises(ValueError, match="once"):
        client.post("foo", pieces(), copies=2)
    with pytest.raises(TypeError, match="cannot be stored as a table"):
        client.post("foo", 17)
    with pytest.raises(ValueError, match="Content-Length"):
        client.post("foo", TABLE, post_headers={"Content-Length": "3"})
    with pytest.raises(ValueError, match="line break"):
        client.post("foo", TABLE, post_headers={"X-Other": "a\r\nHost: b"})


def test_an_unexpected_response_has_its_status(client: QClient) -> None:
    client.post("foo", TABLE)
    with pytest.raises(UnexpectedServerResponse) as raised:
        client.get("foo", 1)
    assert raised.value.status == 500
