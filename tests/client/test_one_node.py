"""A query with ``node=`` asks that node alone, without failover."""

from __future__ import annotations

import pytest

from airflow_provider_qcache.client import NoCacheAvailable


def test_the_given_node_answers_whatever_the_home_node_is(client, nodes):
    client.post("k", "a\n1\n")
    home, other, _ = client.successors("k")
    assert client.get("k", {}, node=home).node == home
    assert client.get("k", {}, node=other) is None


def test_no_other_node_answers_in_its_place(client, nodes):
    home, other, _ = client.successors("k")
    nodes.kill(nodes.urls.index(home))
    nodes.ask(nodes.urls.index(other), "POST", "k", b"a\n1\n")
    with pytest.raises(NoCacheAvailable):
        client.get("k", {}, node=home)
    assert client.get("k", {}).node == other


def test_a_recovered_node_answers_before_its_next_probe_is_due(client, nodes):
    home = client.node_for_key("k")
    nodes.kill(nodes.urls.index(home))
    for _ in range(4):  # each failed probe doubles the wait for the next
        with pytest.raises(NoCacheAvailable):
            client.get("k", {}, node=home)
    nodes.all_up()
    assert client.get("k", {}, node=home) is None


def test_a_node_that_the_client_does_not_have_is_refused(client):
    with pytest.raises(ValueError, match="node='http://other:1': expected one of http://127"):
        client.get("k", {}, node="http://other:1")
