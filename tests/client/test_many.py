"""Many tables: each key told as it is done, those that are there left alone, and asked for afterwards."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from airflow_provider_qcache.client import (
    Absence,
    InvalidTable,
    KeptTable,
    OperationCancelled,
    QClient,
    StoreResult,
)
from tests.harness.faults import healthy_node
from tests.harness.nodes import Nodes

KEYS = [f"key{n}" for n in range(30)]


@pytest.fixture(scope="module")
def three() -> Iterator[Nodes]:
    """Real nodes, dev nodes where there are none."""
    with Nodes() as nodes:
        yield nodes


@pytest.fixture
def client(three: Nodes) -> Iterator[QClient]:
    with QClient(three.all_up().urls, 5, 30, trust_env=False) as client:
        client.delete_many(KEYS, all_nodes=True)
        yield client


def test_each_key_is_told_and_the_report_stays_empty(client: QClient) -> None:
    outcomes: dict[str, Any] = {}
    tables = dict.fromkeys(KEYS, b"a\n1\n") | {"bad": b""}
    report = client.post_many(tables, on_done=outcomes.__setitem__)
    assert (report.succeeded, report.failed) == ({}, {})
    assert isinstance(outcomes.pop("bad"), InvalidTable)
    assert {key: type(outcome) for key, outcome in outcomes.items()} == dict.fromkeys(KEYS, StoreResult)


def test_what_is_raised_where_a_key_is_told_ends_the_call() -> None:
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


def test_tables_that_are_told_of_are_not_kept(client: QClient) -> None:
    gc.collect()
    before = sum(isinstance(one, StoreResult) for one in gc.get_objects())
    most = 0

    def note(key: str, outcome: object) -> None:
        nonlocal most
        most = max(most, sum(isinstance(one, StoreResult) for one in gc.get_objects()))

    client.post_many(dict.fromkeys(KEYS, b"a\n1\n"), on_done=note)
    assert most - before < 10


def test_a_table_that_is_there_is_kept_and_one_that_is_not_is_stored(client: QClient) -> None:
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


def test_what_is_stored_is_prepared_key_by_key(client: QClient) -> None:
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


def test_tables_are_asked_for_where_they_were_stored(client: QClient, three: Nodes) -> None:
    keys = three.keys(12)
    stored = client.post_many(dict.fromkeys(keys, b"a\n1\n")).succeeded
    places = [(key, result.node) for key, result in stored.items() if isinstance(result, StoreResult)]
    assert client.find_absent(places) == {}
    client.delete(keys[1])
    three.kill(0)
    absent = client.find_absent(places)
    assert absent == {
        (key, node): Absence.GONE if node == three.urls[0] else Absence.MISSING
        for key, node in places
        if node == three.urls[0] or key == keys[1]
    }
    assert len(absent) == 5


def test_a_silent_node_s_tables_are_unknown(three: Nodes) -> None:
    urls, keys = three.all_up().urls, three.keys(12)
    with QClient(urls, 1, 0.5, trust_env=False) as client:
        client.post_many(dict.fromkeys(keys, b"a\n1\n"))
        three.pause(1)
        absent = client.find_absent((key, client.node_for_key(key)) for key in keys)
    assert absent == {(key, urls[1]): Absence.UNKNOWN for key in keys[1::3]}


def test_a_node_that_is_none_of_the_client_s_is_refused(client: QClient) -> None:
    with pytest.raises(ValueError, match="http://elsewhere"):
        client.find_absent([("a", "http://elsewhere")])


def test_a_delete_everywhere_has_an_outcome_for_each_node(client: QClient, three: Nodes) -> None:
    three.kill(2)
    results = client.delete_many(KEYS, all_nodes=True).succeeded
    for key in KEYS:
        result = results[key]
        assert result is not None
        assert getattr(result, "outcomes", None) == dict(
            zip(three.urls, ("confirmed", "confirmed", "gone"), strict=True)
        )
