"""Code written for qclient 0.5.1 runs with this client: the same calls, results and errors."""

from __future__ import annotations

import inspect
import json
from types import ModuleType

import pytest
import qclient as original

from airflow_provider_qcache import client as ours
from tests.harness.faults import FaultyNode, Tables, head, healthy_node, truncated_body
from tests.harness.ports import closed_port

BOTH = pytest.mark.parametrize("qclient", [original, ours], ids=["qcache-client", "ours"])


def test_the_parameters_of_every_method_are_qclients_followed_by_keyword_only_ones() -> None:
    for name in ("__init__", "get", "post", "query", "delete", "get_statistics"):
        theirs = list(inspect.signature(getattr(original.QClient, name)).parameters.values())
        mine = list(inspect.signature(getattr(ours.QClient, name)).parameters.values())
        assert [(p.name, p.default) for p in mine[: len(theirs)]] == [(p.name, p.default) for p in theirs]
        assert [p for p in mine[len(theirs) :] if p.kind is not p.KEYWORD_ONLY] == []


def test_every_error_of_qclient_is_there_and_under_its_base() -> None:
    for name, theirs in vars(original).items():
        if isinstance(theirs, type) and issubclass(theirs, original.QClientException):
            assert issubclass(getattr(ours, name), ours.QClientException)


@BOTH
def test_the_calls_of_a_session_with_two_nodes(qclient: ModuleType) -> None:
    (first, _), (second, _) = healthy_node(), healthy_node()
    with first, second:
        client = qclient.QClient(
            node_list=(first.url, second.url),
            connect_timeout=1.0,
            read_timeout=2.0,
            verify=True,
            cert=None,
            auth=None,
            consecutive_error_count_limit=5,
            trust_env=False,
        )
        assert client.get("foo", {"select": ["a"]}) is None
        client.post("foo", b"a\n1\n", "text/csv", {"X-QCache-types": "a=string"})
        result = client.get("foo", {}, "application/json", True, {"X-Other": "x"})
        assert (json.loads(result.content), result.unsliced_result_len) == ([{"a": 1}], 1)
        assert (result.encoding, result.statistics) == (None, {})
        client.delete("foo")
        assert client.get("foo", {}) is None
        loaded = client.query("foo", {}, lambda name: f"{name}\n1\n".encode(), {"name": "a"})
        assert json.loads(loaded.content) == [{"a": 1}]
        assert not client.get_statistics()


@BOTH
def test_two_dead_nodes_raise_no_cache_available(qclient: ModuleType) -> None:
    nodes = [f"http://127.0.0.1:{closed_port()}" for _ in range(2)]
    client = qclient.QClient(nodes, consecutive_error_count_limit=3, trust_env=False)
    with pytest.raises(qclient.NoCacheAvailable):
        client.get("foo", {})
    statistics = client.get_statistics()
    assert {node: statistics[node]["connection_error"] for node in nodes} == dict.fromkeys(nodes, 1)
    assert not client.get_statistics()


@BOTH
def test_dead_nodes_are_probed_once_per_operation(qclient: ModuleType) -> None:
    """Also by every tenth operation, which makes failing nodes due for a probe."""
    nodes = [f"http://127.0.0.1:{closed_port()}" for _ in range(2)]
    client = qclient.QClient(nodes, trust_env=False)
    for number in range(1, 11):
        with pytest.raises(qclient.NoCacheAvailable):
            client.get("foo", {})
        assert [client.statistics[node]["retry_error"] for node in nodes] == [number] * 2


@BOTH
def test_two_dead_nodes_and_a_limit_of_two_raise_too_many_consecutive_errors(qclient: ModuleType) -> None:
    nodes = [f"http://127.0.0.1:{closed_port()}" for _ in range(2)]
    client = qclient.QClient(nodes, consecutive_error_count_limit=2, trust_env=False)
    with pytest.raises(qclient.TooManyConsecutiveErrors):
        client.get("foo", {})


@BOTH
def test_a_node_that_answers_only_its_status_raises_too_many_consecutive_errors(qclient: ModuleType) -> None:
    def answer_late(peer: object, request: object) -> None:
        peer.wait(0.6)  # type: ignore[attr-defined]

    with FaultyNode(answer_late) as node:
        client = qclient.QClient([node.url], consecutive_error_count_limit=3, trust_env=False)
        if qclient is original:
            client.session.get = _with_timeout(client.session.get, 0.3)  # qclient sets no timeout here
        else:
            client = ours.QClient([node.url], 1.0, 0.3, consecutive_error_count_limit=3, trust_env=False)
        with pytest.raises(qclient.TooManyConsecutiveErrors):
            client.get("foo", {})
        assert client.get_statistics()[node.url]["read_timeout"] == 3


def _with_timeout(get: object, seconds: float) -> object:
    return lambda *args, **kwargs: get(*args, **{"timeout": seconds, **kwargs})  # type: ignore[operator]


@BOTH
def test_a_dead_home_node_fails_over_within_the_call(qclient: ModuleType) -> None:
    (healthy, tables), dead = healthy_node(), f"http://127.0.0.1:{closed_port()}"
    with healthy:
        for number in range(20):
            client = qclient.QClient([dead, healthy.url], trust_env=False)
            client.post(f"key{number}", b"a\n1\n")
            assert client.get(f"key{number}", {}).content == b'[{"a":1}]'
        assert len(tables.tables) == 20


@BOTH
@pytest.mark.parametrize(
    ("status", "error"), [(400, "MalformedQueryException"), (500, "UnexpectedServerResponse")]
)
def test_a_refused_query_is_an_error(qclient: ModuleType, status: int, error: str) -> None:
    with (
        FaultyNode(lambda peer, request: peer.send(head(status, 0))) as node,
        pytest.raises(getattr(qclient, error)),
    ):
        qclient.QClient([node.url], trust_env=False).get("foo", {})


@BOTH
def test_a_refused_store_is_an_unexpected_response_and_counted(qclient: ModuleType) -> None:
    with FaultyNode(lambda peer, request: peer.send(head(500, 0))) as node:
        client = qclient.QClient([node.url], trust_env=False)
        with pytest.raises(qclient.UnexpectedServerResponse):
            client.post("foo", b"a\n1\n")
        assert client.get_statistics()[node.url]["unknown_error"] == 1


def test_a_truncated_answer_is_an_error_of_this_client_and_not_of_requests() -> None:
    with FaultyNode(truncate_and_close) as node, pytest.raises(ours.TooManyConsecutiveErrors):
        ours.QClient([node.url], consecutive_error_count_limit=2, trust_env=False).get("foo", {})


def truncate_and_close(peer: object, request: object) -> None:
    truncated_body(peer, request)  # type: ignore[arg-type]
    raise OSError


def test_an_invalid_key_is_never_sent() -> None:
    with FaultyNode(Tables().answer) as node:
        for key in ("../status", "a?b"):
            with pytest.raises(ours.InvalidKey):
                ours.QClient([node.url]).get(key, {})
        assert node.requests == []


@BOTH
def test_the_statistics_attribute_counts_until_get_statistics_takes_them(qclient: ModuleType) -> None:
    dead = f"http://127.0.0.1:{closed_port()}"
    client = qclient.QClient([dead], trust_env=False)
    assert client.statistics == {}
    with pytest.raises(qclient.NoCacheAvailable):
        client.get("k", {})
    counted = client.statistics
    assert (counted[dead]["connection_error"], counted[dead]["retry_error"]) == (1, 1)
    assert counted is client.get_statistics()
    assert client.statistics == {}
