"""post_many, delete_many and find_absent: results per key, kept tables, and where tables are."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from airflow_provider_qcache.client import (
    Absence,
    AuthenticationFailed,
    InvalidTable,
    KeptTable,
    OperationCancelled,
    QClient,
    StoreResult,
)
from tests.harness.faults import FaultyNode, Peer, Received, head, healthy_node, silent, status_only
from tests.harness.nodes import Nodes

KEYS = [f"key{n}" for n in range(30)]


@pytest.fixture(scope="module")
def shared_nodes() -> Iterator[Nodes]:
    """Three real servers, or dev nodes if no real server is installed."""
    with Nodes() as nodes:
        yield nodes


@pytest.fixture
def client(shared_nodes: Nodes) -> Iterator[QClient]:
    with QClient(shared_nodes.all_up().urls, 5, 30, trust_env=False) as client:
        client.delete_many(KEYS, all_nodes=True)
        yield client


def test_on_done_gets_each_outcome_and_the_report_stays_empty(client: QClient) -> None:
    outcomes: dict[str, Any] = {}
    tables = dict.fromkeys(KEYS, b"a\n1\n") | {"bad": b""}
    report = client.post_many(tables, on_done=outcomes.__setitem__)
    assert (report.succeeded, report.failed) == ({}, {})
    assert isinstance(outcomes.pop("bad"), InvalidTable)
    assert {key: type(outcome) for key, outcome in outcomes.items()} == dict.fromkeys(KEYS, StoreResult)


def test_an_exception_of_on_done_ends_the_call() -> None:
    outcomes = []

    def note(key: str, outcome: object) -> None:
        outcomes.append(outcome)
        if len(outcomes) == 3:
            raise KeyError("enough")

    node, tables = healthy_node()
    with node, QClient([node.url], trust_env=False) as client, pytest.raises(KeyError, match="enough"):
        client.post_many(((f"key{n}", b"a\n1\n") for n in range(1000)), on_done=note)
    assert 3 <= len(tables.tables) < 10
    assert {type(outcome) for outcome in outcomes} <= {StoreResult, OperationCancelled}


def test_outcomes_passed_to_on_done_are_not_kept_in_memory(client: QClient) -> None:
    gc.collect()
    before = sum(isinstance(one, StoreResult) for one in gc.get_objects())
    most = 0

    def note(key: str, outcome: object) -> None:
        nonlocal most
        most = max(most, sum(isinstance(one, StoreResult) for one in gc.get_objects()))

    client.post_many(dict.fromkeys(KEYS, b"a\n1\n"), on_done=note)
    assert most - before < 10


def test_keep_keeps_existing_tables_and_stores_missing_ones(client: QClient) -> None:
    client.post_many(dict.fromkeys(KEYS[:10], b"a\n1\n"))
    kept = client.post_many(dict.fromkeys(KEYS[:20], b"a\n2\n"), keep=KEYS[:5] + KEYS[15:]).succeeded
    assert {key for key, result in kept.items() if isinstance(result, KeptTable)} == set(KEYS[:5])
    for key in KEYS[:20]:
        found = client.get(key, {})
        assert found is not None
        assert found.content == (b'[{"a":1}]' if key in KEYS[:5] else b'[{"a":2}]')
        result = kept[key]
        assert isinstance(result, KeptTable | StoreResult)
        assert result.node == client.node_for_key(key)


def test_prepare_makes_the_content_of_each_key(client: QClient) -> None:
    def prepare(key: str, number: int) -> pa.Table:
        if number == 7:
            raise LookupError("no such number")
        return pa.table({"a": [number]})

    report = client.post_many(
        ((key, n) for n, key in enumerate(KEYS)), prepare=prepare, raise_on_failure=False
    )
    assert {key: str(error) for key, error in report.failed.items()} == {KEYS[7]: "no such number"}
    found = client.get(KEYS[8], {})
    assert found is not None
    assert found.content == b'[{"a":8}]'


def test_find_absent_asks_the_nodes_that_stored_the_tables(client: QClient, shared_nodes: Nodes) -> None:
    keys = shared_nodes.keys(12)
    stored = client.post_many(dict.fromkeys(keys, b"a\n1\n")).succeeded
    places = [(key, result.node) for key, result in stored.items() if isinstance(result, StoreResult)]
    assert client.find_absent(places) == {}
    client.delete(keys[1])
    shared_nodes.kill(0)
    absent = client.find_absent(places)
    assert absent == {
        (key, node): Absence.GONE if node == shared_nodes.urls[0] else Absence.MISSING
        for key, node in places
        if node == shared_nodes.urls[0] or key == keys[1]
    }
    assert len(absent) == 5


def test_find_absent_reports_a_silent_node_s_tables_as_unknown(shared_nodes: Nodes) -> None:
    urls, keys = shared_nodes.all_up().urls, shared_nodes.keys(12)
    with QClient(urls, 1, 0.5, trust_env=False) as client:
        client.post_many(dict.fromkeys(keys, b"a\n1\n"))
        shared_nodes.pause(1)
        absent = client.find_absent((key, client.node_for_key(key)) for key in keys)
    assert absent == {(key, urls[1]): Absence.UNKNOWN for key in keys[1::3]}


def test_find_absent_refuses_a_node_that_the_client_does_not_have(client: QClient) -> None:
    with pytest.raises(ValueError, match="http://elsewhere"):
        client.find_absent([("a", "http://elsewhere")])


def test_delete_many_on_all_nodes_has_an_outcome_for_each_node(client: QClient, shared_nodes: Nodes) -> None:
    shared_nodes.kill(2)
    results = client.delete_many(KEYS, all_nodes=True).succeeded
    for key in KEYS:
        result = results[key]
        assert result is not None
        assert getattr(result, "outcomes", None) == dict(
            zip(shared_nodes.urls, ("confirmed", "confirmed", "gone"), strict=True)
        )


def test_on_done_gets_one_outcome_for_each_key_that_is_deleted_on_all_nodes(
    client: QClient, shared_nodes: Nodes
) -> None:
    outcomes: dict[str, Any] = {}
    report = client.delete_many(KEYS[:3], all_nodes=True, on_done=outcomes.__setitem__)
    assert (report.succeeded, report.failed) == ({}, {})
    assert {key: result.outcomes for key, result in outcomes.items()} == dict.fromkeys(
        KEYS[:3], dict.fromkeys(shared_nodes.urls, "confirmed")
    )


def test_find_absent_raises_a_refusal_of_credentials() -> None:
    with (
        FaultyNode(status_only(401)) as node,
        QClient([node.url], 5, 5, trust_env=False) as client,
        pytest.raises(AuthenticationFailed, match="401"),
    ):
        client.find_absent([("k", node.url)])


def test_find_absent_reports_a_node_that_does_not_answer_before_the_deadline_as_unknown() -> None:
    with FaultyNode(silent) as node, QClient([node.url], 60, 60, trust_env=False, deadline=0.5) as client:
        assert client.find_absent([("k", node.url)]) == {("k", node.url): Absence.UNKNOWN}


def test_keep_stores_the_table_if_the_node_does_not_tell_whether_it_has_one() -> None:
    def answer(peer: Peer, request: Received) -> None:
        peer.send(head(201 if request.kind == "store" else 503, 0))

    limit = {"consecutive_error_count_limit": 1}
    with FaultyNode(answer) as node, QClient([node.url], 5, 5, trust_env=False, **limit) as client:
        report = client.post_many({"k": b"a\n1\n"}, keep=["k"])
        assert type(report.succeeded["k"]) is StoreResult
        assert [request.kind for request in node.requests if request.kind != "status"] == ["query", "store"]


def test_keep_stores_nothing_where_the_node_refuses_the_question() -> None:
    with FaultyNode(status_only(401)) as node, QClient([node.url], 5, 5, trust_env=False) as client:
        report = client.post_many({"k": b"a\n1\n"}, keep=["k"], raise_on_failure=False)
        assert isinstance(report.failed["k"], AuthenticationFailed)
        assert [request.kind for request in node.requests] == ["query"]


def test_keep_stores_nothing_if_it_is_cancelled_at_the_question() -> None:
    def answer(peer: Peer, request: Received) -> None:
        client.cancel()
        peer.wait_for_ever()

    with FaultyNode(answer) as node, QClient([node.url], 60, 60, trust_env=False) as client:
        with pytest.raises(OperationCancelled):
            client.post_many({"k": b"a\n1\n"}, keep=["k"])
        assert [request.kind for request in node.requests] == ["query"]
