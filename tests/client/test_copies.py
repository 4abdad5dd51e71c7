"""Copies, eviction, deletes and look-ups on several nodes when a part of the operation fails."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from airflow_provider_qcache.client import (
    Absence,
    AuthenticationFailed,
    BulkError,
    InvalidTable,
    QClient,
    RequestRetry,
    RowCountMismatch,
    UnexpectedServerResponse,
    compression,
)
from tests.client.kinds import ON_EACH_SERVER, key_with_home, make_server
from tests.harness import faults
from tests.harness.faults import FaultyNode, Peer, Received, healthy_node
from tests.harness.ports import closed_port
from tests.harness.servers import WireRequest

TABLE = b"a\n1\n"


def answer_with_count(rows: int, tables: faults.Tables) -> faults.Reply:
    def answer(peer: Peer, request: Received) -> None:
        if request.kind == "query":
            body = b'[{"count":%d}]' % rows
            peer.send(faults.success_head(request, len(body)) + body)
        else:
            tables.answer(peer, request)

    return answer


def test_stale_tables_are_evicted_even_if_the_row_count_is_wrong() -> None:
    tables, others = faults.Tables(), faults.Tables()
    with (
        FaultyNode(answer_with_count(2, tables)) as home,
        FaultyNode(others.answer) as other,
        QClient([home.url, other.url], trust_env=False) as client,
    ):
        key = key_with_home(client, home.url)
        others.tables[key] = b"a\n0\n"
        with pytest.raises(RowCountMismatch):
            client.post(key, TABLE, evict_stale=True, check_row_count=True)
    assert (others.tables, tables.tables) == ({}, {key: TABLE})


@pytest.mark.parametrize(
    ("body", "error", "text"),
    [
        (None, RowCountMismatch, "the client sent 1 row, and {} does not have the table"),
        (b"[]", UnexpectedServerResponse, "count rows of table 'k': {} answered b'[]'"),
    ],
    ids=["evicted", "no count"],
)
def test_the_error_of_a_row_count_that_the_node_does_not_have(
    body: bytes | None, error: type[Exception], text: str
) -> None:
    def answer(peer: Peer, request: Received) -> None:
        if request.kind == "store":
            peer.send(faults.head(201, 0))
        elif body is None:
            peer.send(faults.head(404, 0))
        else:
            peer.send(faults.success_head(request, len(body)) + body)

    with FaultyNode(answer) as node, QClient([node.url], 5, 5, trust_env=False) as client:
        with pytest.raises(error) as raised:
            client.post("k", TABLE, check_row_count=True)
        assert text.format(node.url) in str(raised.value)


def test_a_stream_that_fails_its_check_at_the_standby_is_not_sent_to_the_home_node() -> None:
    (home, tables), (standby, copies) = healthy_node(), healthy_node()
    with home, standby, QClient([home.url, standby.url], 5, 5, trust_env=False) as client:
        key = key_with_home(client, home.url)
        tables.tables[key] = copies.tables[key] = b"old\n1\n"
        opened = []

        def content() -> Iterator[bytes]:
            opened.append(1)
            yield from (b"a\n", b"1,2\n")

        with pytest.raises(InvalidTable, match="row 1 of the table has more fields"):
            client.post(key, content, copies=2)
        assert len(opened) == 1
        assert (tables.tables, copies.tables) == ({key: b"old\n1\n"}, {key: b"old\n1\n"})


def test_check_row_count_refuses_uncountable_content_before_sending_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compression, "lz4_block", None)
    node, _ = healthy_node()
    packed = b"\x04\x00\x00\x00\x40a\n1\n"  # one literal run
    headers = {"Content-Encoding": "lz4"}
    with node, QClient([node.url], trust_env=False) as client:
        with pytest.raises(ValueError, match="check_row_count"):
            client.post("k", packed, post_headers=headers, check_row_count=True)
        assert node.requests == []
        assert client.post("k", packed, post_headers=headers).rows is None


@pytest.mark.parametrize("status", [400, 415, 500])
def test_a_table_that_a_standby_refuses_is_not_sent_to_the_home_node(status: int) -> None:
    home, tables = healthy_node()
    with (
        home,
        FaultyNode(faults.status_only(status)) as standby,
        QClient([home.url, standby.url], trust_env=False) as client,
    ):
        key = key_with_home(client, home.url)
        tables.tables[key] = b"old\n1\n"
        with pytest.raises(UnexpectedServerResponse) as raised:
            client.post(key, TABLE, copies=2)
        assert raised.value.status == status
        assert tables.tables[key] == b"old\n1\n"


@ON_EACH_SERVER
def test_the_home_node_keeps_its_table_if_the_standby_cannot_read_the_copy(kind: str) -> None:
    """The checks refuse bad content, so the test damages the table on its way to the standby."""

    def damage(peer: Peer, request: Received) -> None:
        headers = (("Content-Type", "text/csv"), ("X-QCache-types", "a=float"))
        answer = node.ask(WireRequest("POST", f"/qcache/dataset/{request.key}", headers, b"a\ntext\n"))
        peer.send(faults.head(answer.status, len(answer.body)) + answer.body)

    with (
        make_server(kind) as home,
        make_server(kind) as node,
        FaultyNode(damage) as standby,
        QClient([home.url, standby.url], trust_env=False) as client,
        QClient([home.url], trust_env=False) as at_home,
    ):
        key = key_with_home(client, home.url)
        at_home.post(key, b"a\n7\n")
        with pytest.raises(UnexpectedServerResponse, match=f"a copy of table {key!r}") as raised:
            client.post(key, b"a\n8\n", copies=2)
        assert raised.value.status == 500
        assert json.loads(at_home.get(key, {}).content) == [{"a": 7}]


@pytest.mark.parametrize("status", [401, 404, 503])
def test_a_failure_of_the_standby_is_reported_and_the_home_node_gets_the_table(status: int) -> None:
    home, tables = healthy_node()
    with (
        home,
        FaultyNode(faults.status_only(status)) as standby,
        QClient([home.url, standby.url], trust_env=False, consecutive_error_count_limit=2) as client,
    ):
        key = key_with_home(client, home.url)
        result = client.post(key, TABLE, copies=2)
        assert list(result.failed_copies) == [standby.url]
        assert tables.tables[key] == TABLE


def test_the_error_of_a_delete_that_one_node_refuses_has_all_outcomes() -> None:
    healthy, tables = healthy_node()
    dead = f"http://127.0.0.1:{closed_port()}"
    with (
        healthy,
        FaultyNode(faults.status_only(401)) as strict,
        QClient([healthy.url, strict.url, dead], trust_env=False) as client,
    ):
        tables.tables["k"] = TABLE
        with pytest.raises(AuthenticationFailed) as raised:
            client.delete("k", all_nodes=True)
        assert raised.value.result is not None
        assert raised.value.result.outcomes == {
            healthy.url: "confirmed",
            strict.url: "unreachable",
            dead: "gone",
        }
        assert list(raised.value.result.errors) == [strict.url]
        with pytest.raises(BulkError) as of_many:
            client.delete_many(["k"], all_nodes=True)
        assert of_many.value.report.failed["k"].result.outcomes[healthy.url] == "confirmed"
    assert tables.tables == {}


@pytest.mark.parametrize(("status", "length", "gone"), [
    (400, 73, True), (400, 0, False), (415, 0, True), (500, 0, True),
    (200, 0, False), (202, 0, False), (302, 0, False), (404, 73, False), (405, 0, False), (413, 0, False),
])  # fmt: skip
def test_the_error_says_that_the_old_table_is_lost_only_if_the_node_dropped_it(
    status: int, length: int, gone: bool
) -> None:
    def answer(peer: Peer, request: Received) -> None:
        peer.send(faults.head(status, length) + b"x" * length)

    with FaultyNode(answer) as node, QClient([node.url], 5, 5, trust_env=False) as client:
        with pytest.raises(UnexpectedServerResponse) as raised:
            client.post("k", TABLE)
        assert ("is lost" in str(raised.value)) is gone


def test_locate_reports_every_node_whatever_the_others_do() -> None:
    """A failing node does not hide what the others answer, nor is it waited for until the deadline."""
    dead = f"http://127.0.0.1:{closed_port()}"
    healthy, tables = healthy_node()
    hung = FaultyNode(faults.silent, status=faults.silent)
    guarded = FaultyNode(faults.status_only(401))
    with healthy, hung, guarded:
        nodes = [dead, healthy.url, hung.url, guarded.url]
        policy = RequestRetry(wait_for_nodes=True)
        with QClient(nodes, 5, 0.3, trust_env=False, deadline=600, request_retry=policy) as client:
            tables.tables["k"] = TABLE
            for _ in range(2):  # at the second call the nodes are known to fail
                places = {place.node: place for place in client.locate("k")}
                assert list(places) == list(client.successors("k"))
                assert places[dead].absence is Absence.GONE
                assert (places[healthy.url].absence, places[healthy.url].rows) == (None, 1)
                assert places[hung.url].absence is places[guarded.url].absence is Absence.UNKNOWN
                assert "timed out" in str(places[hung.url])
                assert "AuthenticationFailed" in str(places[guarded.url])
