"""Results and hooks that leave their process: in XCom, pickled, copied."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from airflow_provider_qcache.client import NoCacheAvailable, OperationCancelled, RequestRetry
from airflow_provider_qcache.compat import AirflowFailException, serialize
from airflow_provider_qcache.hooks.qcache import QCacheHook

TABLE = "a,b\n1,2\n"

RESULTS = {
    "StoreResult": lambda hook: hook.post("k", TABLE),
    "QueryResult": lambda hook: hook.get("k", {}),
    "DeleteResult": lambda hook: hook.delete("k", all_nodes=True),
    "BulkReport": lambda hook: hook.post_many({"k": TABLE, "bad": ""}, raise_on_failure=False),
    "Place": lambda hook: hook.locate("k")[0],
    "NodeStatus": lambda hook: next(iter(hook.node_status().values())),
}


@pytest.fixture
def hook(living, connect):
    """A hook with one living node, which has a table."""
    connect(extra={"nodes": [living]})
    with QCacheHook() as hook:
        hook.post("k", TABLE)
        yield hook


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("wrap", [lambda result: result, lambda result: {"in": [result]}], ids=["", "inside"])
def test_a_result_is_refused_as_it_is_pushed_and_not_as_it_is_read(hook, name, wrap):
    """Airflow would push a dataclass, and the task that reads it would fail. It retries any other error."""
    result = RESULTS[name](hook)
    assert type(result).__name__ == name
    with pytest.raises(AirflowFailException, match=rf"^{name} cannot be passed .* return its as_dict\(\)$"):
        serialize(wrap(result))


@pytest.mark.parametrize("name", RESULTS)
def test_as_dict_is_what_xcom_carries(hook, name):
    result = RESULTS[name](hook)
    plain = result.as_dict()
    assert serialize(plain) == plain
    assert json.loads(json.dumps(plain)) == plain


def test_as_dict_has_all_of_a_result(hook, dead, connect):
    stored = hook.post("k", TABLE).as_dict()
    assert (stored["key"], stored["rows"], stored["attempts"], stored["copies"]) == ("k", 1, [], [])
    assert json.loads(hook.get("k", {}).as_dict()["content"]) == [{"a": 1, "b": 2}]
    (outcome,) = hook.delete("k", all_nodes=True).as_dict()["outcomes"].values()
    assert (type(outcome), outcome) == (str, "confirmed")
    connect(extra={"nodes": dead, "wait_for_nodes": False})
    with QCacheHook() as unanswered, pytest.raises(NoCacheAvailable) as caught:
        unanswered.get("k", {})
    first = caught.value.attempts[0].as_dict()
    assert (first["node"] in dead, first["outcome"], first["phase"]) == (
        True,
        "connection refused",
        "connect",
    )
    assert "refused" in first["cause"]


def test_encoded_content_is_no_text(hook):
    result = hook.get("k", {}, query_headers={"Accept-Encoding": "lz4"})
    with pytest.raises(ValueError, match="encoded as 'lz4'"):
        result.as_dict()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda hook: pickle.loads(pickle.dumps(hook))])
def test_a_copy_of_a_hook_has_a_client_of_its_own(hook, copied):
    other = copied(hook)
    with other:
        assert other.get_conn() is not hook.get_conn()
        assert other.get("k", {}).unsliced_result_len == 1
    assert hook.get("k", {}).unsliced_result_len == 1


def test_a_copy_has_the_settings_and_is_not_cancelled(hook):
    original = QCacheHook("other", request_retry=RequestRetry(wait_max=1))
    original.cancel()
    other = copy.deepcopy(original)
    assert (other.qcache_conn_id, other.request_retry) == ("other", RequestRetry(wait_max=1))
    hook.cancel()
    assert copy.copy(hook).get("k", {}) is not None
    with pytest.raises(OperationCancelled):
        hook.get("k", {})
