"""What a delete from a task leaves on the nodes, and what it returns."""

from __future__ import annotations

import json

import pytest

from airflow_provider_qcache.client import AuthenticationFailed
from airflow_provider_qcache.compat import AirflowFailException
from airflow_provider_qcache.operators import _delete
from airflow_provider_qcache.operators.errors import NodesUnreachable
from airflow_provider_qcache.operators.qcache import QCacheDeleteOperator
from tests.harness.connection import connect
from tests.harness.faults import FaultyNode, status_only
from tests.harness.ports import closed_port

KEYS = ["delete_a", "delete_b", "delete_c"]


def delete(**arguments):
    task = QCacheDeleteOperator(task_id="delete", **arguments)
    task.render_template_fields({"keys": KEYS, "ds": "a"})
    return task.execute({})


@pytest.fixture
def stored(nodes):
    """Every key on every node."""
    for key in KEYS:
        for i in range(3):
            assert nodes.ask(i, "POST", key, b"a\n1\n").status == 201
    return nodes


def left(nodes):
    nodes.all_up()
    return {key: nodes.holding(key) for key in KEYS if nodes.holding(key)}


def test_a_key_leaves_every_node(stored, operator_log):
    result = json.loads(json.dumps(delete(key="delete_{{ ds }}")))
    assert result == {"delete_a": dict.fromkeys(stored.urls, "confirmed")}
    assert left(stored) == dict.fromkeys(KEYS[1:], stored.urls)
    assert operator_log()[-1] == ("INFO", "Deleted table 'delete_a': 3 confirmed")


@pytest.mark.parametrize(
    "keys",
    [KEYS, tuple(KEYS), [*KEYS, KEYS[0]], json.dumps(KEYS), str(KEYS), "{{ keys }}", "{{ keys | tojson }}"],
    ids=["list", "tuple", "repeated", "JSON", "Python", "template", "template of JSON"],
)
def test_keys_are_a_list_or_a_string_that_holds_one(stored, keys, operator_log):
    assert delete(keys=keys) == {key: dict.fromkeys(stored.urls, "confirmed") for key in KEYS}
    assert left(stored) == {}
    assert operator_log()[-1] == ("INFO", "Deleted 3 tables: 9 confirmed")


def test_one_node_is_asked_on_demand(stored):
    result = delete(keys=KEYS, all_nodes=False)
    for key, outcomes in result.items():
        ((node, outcome),) = outcomes.items()
        assert outcome == "confirmed"
        assert stored.holding(key) == [url for url in stored.urls if url != node]


def test_one_node_is_the_next_where_the_first_is_gone(stored):
    home = next(iter(delete(key=KEYS[0], all_nodes=False)[KEYS[0]]))
    stored.kill(stored.urls.index(home))
    outcomes = delete(key=KEYS[0], all_nodes=False)[KEYS[0]]
    assert outcomes.pop(home) == "gone"
    assert list(outcomes.values()) == ["confirmed"]


def test_a_node_whose_process_is_gone_is_no_failure(stored):
    stored.kill(1)
    result = delete(keys=KEYS)
    for outcomes in result.values():
        assert outcomes == {url: "gone" if url == stored.urls[1] else "confirmed" for url in stored.urls}
    assert left(stored) == {}


def test_a_node_that_refuses_may_have_its_tables_where_the_connection_says_so(stored, monkeypatch):
    connect(monkeypatch, stored.urls, refused_means_gone=False)
    stored.kill(1)
    with pytest.raises(NodesUnreachable, match="Connection refused") as caught:
        delete(keys=KEYS)
    assert caught.value.outcomes == {
        key: {url: "unreachable" if url == stored.urls[1] else "confirmed" for url in stored.urls}
        for key in KEYS
    }


def test_a_silent_node_fails_the_task_after_every_key_and_node_was_tried(stored):
    stored.pause(1)
    with pytest.raises(NodesUnreachable, match="3 of 3 keys") as caught:
        delete(keys=KEYS)
    assert caught.value.transient
    assert stored.urls[1] in str(caught.value)
    assert caught.value.outcomes == {
        key: {url: "unreachable" if url == stored.urls[1] else "confirmed" for url in stored.urls}
        for key in KEYS
    }
    assert set(map(tuple, left(stored).values())) <= {(stored.urls[1],)}


def test_a_silent_node_may_be_ignored(stored, operator_log):
    stored.pause(1)
    result = delete(keys=KEYS, on_unreachable="ignore")
    assert all(outcomes[stored.urls[1]] == "unreachable" for outcomes in result.values())
    lines = operator_log()
    errors = [line for level, line in lines if level == "ERROR"]
    assert {line.split(":")[1].strip() for line in errors} == set(KEYS)
    assert all(stored.urls[1] in line for line in errors)
    line = f"Deleted 3 tables: 6 confirmed, 3 unreachable; tables may still be on {stored.urls[1]}"
    assert lines[-1] == ("WARNING", line)


def test_no_node_at_all_is_retryable_or_ignored(monkeypatch):
    dead = [f"http://127.0.0.1:{closed_port()}" for _ in range(2)]
    connect(monkeypatch, dead, wait_for_nodes=False)
    with pytest.raises(NodesUnreachable, match="1 of 1 key may still be on nodes") as caught:
        delete(key="a", all_nodes=False)
    assert caught.value.outcomes == {"a": dict.fromkeys(dead, "unreachable")}
    assert delete(key="a", all_nodes=False, on_unreachable="ignore") == {
        "a": dict.fromkeys(dead, "unreachable")
    }


@pytest.mark.parametrize("many", [False, True], ids=["some keys", "many keys"])
def test_a_delete_that_no_node_confirmed_is_no_success(monkeypatch, operator_log, many):
    """With a wrong port every node refuses: their memory is not gone, and the tables are where they were."""
    if many:
        monkeypatch.setattr(_delete, "MOST_RETURNED", 1)
    dead = [f"http://127.0.0.1:{closed_port()}" for _ in range(2)]
    connect(monkeypatch, dead, wait_for_nodes=False)
    outcomes = {key: dict.fromkeys(dead, "gone") for key in KEYS}
    with pytest.raises(NodesUnreachable, match="no node confirmed the delete of 3") as caught:
        delete(keys=KEYS)
    # The keys share a reason, which is said once.
    assert f"\n  {', '.join(KEYS)}: {dead[0]}: connection refused" in str(caught.value)
    assert caught.value.outcomes == outcomes
    assert all(part in str(caught.value) for part in [*KEYS, *dead, "check the nodes of the connection"])
    operator_log()
    result = delete(keys=KEYS, on_unreachable="ignore")
    assert (result["not_confirmed"] if many else result) == outcomes
    level, text = operator_log()[-1]
    assert level == "WARNING"
    assert "no node confirmed a delete, so nothing was deleted" in text
    assert all(node in text for node in dead)


@pytest.mark.parametrize("many", [False, True], ids=["some keys", "many keys"])
def test_nodes_that_refused_are_named_where_others_confirmed(stored, monkeypatch, operator_log, many):
    if many:
        monkeypatch.setattr(_delete, "MOST_RETURNED", 1)
    stored.kill(1)
    delete(keys=KEYS)
    level, text = operator_log()[-1]
    assert level == "WARNING"
    assert f"{stored.urls[1]} refused the connection" in text
    assert stored.urls[0] not in text


@pytest.mark.parametrize("on_unreachable", ["fail", "ignore"])
def test_refused_credentials_fail_for_good_after_every_node_was_tried(stored, monkeypatch, on_unreachable):
    with FaultyNode(status_only(401)) as guarded:
        connect(monkeypatch, [guarded.url, *stored.urls])
        with pytest.raises(
            AirflowFailException, match=r"AuthenticationFailed(.|\n)*More keys that failed: 2$"
        ) as caught:
            delete(keys=KEYS, on_unreachable=on_unreachable)
    assert isinstance(caught.value.__cause__, AuthenticationFailed)
    assert left(stored) == {}


@pytest.mark.parametrize("on_unreachable", ["fail", "ignore"])
@pytest.mark.parametrize("most_returned", [1000, 1], ids=["every outcome", "summary"])
def test_the_error_does_not_depend_on_the_number_of_keys(
    monkeypatch, operator_log, on_unreachable, most_returned
):
    """A node that answers 500 may have the table still; a node that refuses the connection is gone."""
    monkeypatch.setattr(_delete, "MOST_RETURNED", most_returned)
    gone = f"http://127.0.0.1:{closed_port()}"
    with FaultyNode(status_only(500)) as broken:
        connect(monkeypatch, [gone, broken.url])
        if on_unreachable == "ignore":
            delete(keys=KEYS, on_unreachable="ignore")
        else:
            with pytest.raises(NodesUnreachable, match="3 of 3 keys") as caught:
                delete(keys=KEYS)
            assert caught.value.outcomes == {key: {gone: "gone", broken.url: "unreachable"} for key in KEYS}
            assert str(caught.value).count("UnexpectedServerResponse") == 3
            return
    level, line = operator_log()[-1]
    assert level == "WARNING"
    assert line.startswith("Deleted 3 tables: 3 gone, 3 unreachable; no node confirmed a delete")
