"""The sensors, against nodes, in each of their modes."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowSensorTimeout

from airflow_provider_qcache.compat import AirflowFailException, AirflowSkipException
from airflow_provider_qcache.hooks.qcache import QCacheHook
from airflow_provider_qcache.sensors.qcache import QCacheClusterSensor, QCacheTableSensor
from tests.harness.connection import connect
from tests.sensors.deferred import deferral, made_anew, resume, run_deferred

MODES = ("poke", "deferrable")
"""Reschedule is the same look as poke; tests/airflow has all three in a real Airflow."""

CSV = b"a,b\n1,x\n2,y\n"


def sensor(kind=QCacheTableSensor, **arguments):
    arguments = {"task_id": "wait", "poke_interval": 0.2, "timeout": 60, **arguments}
    if kind is QCacheTableSensor and "keys" not in arguments:
        arguments.setdefault("key", "waited_for")
    return kind(**arguments)


@pytest.fixture
def home(nodes):
    """The number of the home node of the key ``waited_for``, which has no table yet."""
    for i in range(len(nodes.urls)):
        nodes.ask(i, "DELETE", "waited_for")
    with QCacheHook() as hook:
        return nodes.urls.index(hook.node_for_key("waited_for"))


def store(nodes, i, body=CSV, key="waited_for"):
    assert nodes.ask(i, "POST", key, body).status == 201


def statistics(nodes, i):
    """The node's counts since they were read last."""
    from tests.harness.servers import WireRequest

    return json.loads(nodes.servers[i].ask(WireRequest("GET", "/qcache/statistics", ())).body)


class TestTable:
    def test_finds_a_table_at_once(self, nodes, home):
        store(nodes, home)
        found = sensor().execute({})
        assert found.pop("seconds") >= 0
        assert found == {"key": "waited_for", "node": nodes.urls[home], "rows": 2}

    def test_finds_a_table_that_comes_while_it_is_deferred(self, nodes, home):
        found = run_deferred(sensor(deferrable=True), lambda: store(nodes, home))
        assert found.pop("seconds") > 0
        assert found == {"key": "waited_for", "node": nodes.urls[home], "rows": 2}

    def test_waits_for_every_key_in_the_order_given(self, nodes, home):
        keys = nodes.keys(3)
        for i, key in enumerate(keys):
            nodes.ask(i, "DELETE", key)
        for i, key in enumerate(keys[:2]):
            store(nodes, i, key=key)
        task = sensor(keys=keys, deferrable=True)
        found = run_deferred(task, lambda: store(nodes, 2, key=keys[2]))
        assert found["tables"] == [
            {"key": key, "node": url, "rows": 2} for key, url in zip(keys, nodes.urls, strict=True)
        ]

    def test_a_table_on_another_node_is_not_where_readers_look(self, nodes, home, operator_log):
        store(nodes, (home + 1) % 3)
        assert not sensor().poke({})
        assert operator_log() == [
            ("INFO", f"Not yet: table 'waited_for': {nodes.urls[home]} answers and does not have the table")
        ]

    def test_on_home_false_finds_it_where_readers_look_now(self, nodes, home):
        with QCacheHook() as hook:
            second = nodes.urls.index(hook.successors("waited_for")[1])
        store(nodes, second)
        nodes.kill(home)
        assert not sensor().poke({})
        assert sensor(on_home=False).poke({}).xcom_value["node"] == nodes.urls[second]

    def test_rows_of_a_query_count(self, nodes, home):
        store(nodes, home)
        one_row = {"where": ["==", "a", 1]}
        assert sensor(query=one_row).poke({}).xcom_value["rows"] == 1
        assert not sensor(query=one_row, min_rows=2).poke({})

    def test_an_empty_table_is_enough_if_no_rows_are_required(self, nodes, home):
        store(nodes, home, b"a,b\n")
        assert not sensor().poke({})
        assert sensor(min_rows=0).poke({}).xcom_value["rows"] is None

    def test_the_question_without_rows_is_no_hit(self, nodes, home):
        store(nodes, home)
        statistics(nodes, home)
        assert sensor(min_rows=0).poke({})
        assert "hit_count" not in statistics(nodes, home)
        assert sensor().poke({})
        assert statistics(nodes, home)["hit_count"] == 1

    @pytest.mark.parametrize("mode", MODES)
    def test_a_check_gets_the_rows_in_the_worker(self, nodes, home, mode):
        store(nodes, home)
        seen = []

        def check(rows):
            seen.append(rows)
            return len(seen) > 1

        task = sensor(query={}, check=check, deferrable=mode == "deferrable")
        found = run_deferred(task) if mode == "deferrable" else task.execute({})
        assert found["rows"] == 2
        assert seen == [[{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]] * 2

    def test_a_node_that_is_down_is_a_warning_and_not_yet(self, nodes, home, operator_log, monkeypatch):
        """The look does not wait for the node until the connection's deadline."""
        connect(monkeypatch, nodes.urls, deadline=3600)
        nodes.kill(home)
        assert not sensor().poke({})
        ((level, text),) = operator_log()
        assert level == "WARNING"
        begin = f"Not yet: table 'waited_for': its home node {nodes.urls[home]} does not answer: "
        assert text.startswith(begin)
        assert "refused" in text

    def test_a_node_that_comes_back_is_found(self, nodes, home):
        nodes.kill(home)
        found = run_deferred(sensor(deferrable=True), lambda: (nodes.all_up(), store(nodes, home)))
        assert found["node"] == nodes.urls[home]


class TestEnds:
    @pytest.mark.parametrize("mode", MODES)
    def test_at_the_timeout(self, nodes, home, mode):
        task = sensor(timeout=0, deferrable=mode == "deferrable")
        with pytest.raises(AirflowSensorTimeout):
            task.execute({})

    def test_at_the_timeout_while_it_is_deferred(self, nodes, home):
        with pytest.raises(AirflowSensorTimeout, match=r"not found within the sensor's timeout of 0\.5 s"):
            run_deferred(sensor(timeout=0.5, deferrable=True))

    @pytest.mark.parametrize("mode", MODES)
    def test_skipped_at_the_timeout_with_soft_fail(self, nodes, home, mode):
        task = sensor(timeout=0, soft_fail=True, deferrable=mode == "deferrable")
        with pytest.raises(AirflowSkipException):
            task.execute({})

    @pytest.mark.parametrize("mode", MODES)
    def test_at_once_for_a_malformed_query(self, nodes, home, mode):
        store(nodes, home)
        task = sensor(query={"no": "clause"}, deferrable=mode == "deferrable")
        with pytest.raises(AirflowFailException, match="MalformedQueryException"):
            task.execute({})

    def test_for_a_malformed_query_that_the_triggerer_meets(self, nodes, home):
        """While there is no table, a node does not look at the query."""
        task = sensor(query={"no": "clause"}, deferrable=True)
        with pytest.raises(AirflowFailException, match="MalformedQueryException"):
            run_deferred(task, lambda: store(nodes, home))

    @pytest.mark.parametrize("kind", [QCacheTableSensor, QCacheClusterSensor])
    @pytest.mark.parametrize("mode", MODES)
    def test_at_once_for_wrong_credentials(self, guarded_urls, monkeypatch, mode, kind):
        connect_guarded(monkeypatch, guarded_urls)
        with pytest.raises(AirflowFailException, match="AuthenticationFailed"):
            sensor(kind, deferrable=mode == "deferrable").execute({})

    def test_for_what_only_the_triggerer_meets(self, nodes, home):
        task = sensor(deferrable=True)
        with pytest.raises(AirflowException, match="the triggerer's machine: no network"):
            resume(task, deferral(task), {"error": "no network", "started": 0.0})


class TestDeferral:
    @pytest.mark.parametrize("text", ["True", "False"])
    def test_is_the_default_where_airflow_says_so(self, monkeypatch, text):
        monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", text)
        assert str(sensor().deferrable) == text

    def test_carries_the_connection_s_id_and_nothing_of_its_content(self, nodes, home, monkeypatch):
        connect(monkeypatch, nodes.urls, ca_file=None)
        trigger = deferral(sensor(deferrable=True)).trigger
        text = repr(trigger.serialize())
        assert "qcache_default" in text
        assert "127.0.0.1" not in text

    @pytest.mark.parametrize(
        ("options", "waits"),
        [
            ({}, [10, 10, 10, 10]),
            ({"exponential_backoff": True}, [10, 10, 20, 40]),
            ({"exponential_backoff": True, "max_wait": timedelta(seconds=25)}, [10, 10, 20, 25]),
        ],
    )
    def test_waits_grow_with_exponential_backoff(self, nodes, home, options, waits):
        """Each is as long as all before it together; a trigger that is made anew goes on with it."""
        trigger = made_anew(deferral(sensor(deferrable=True, poke_interval=10, **options)).trigger)
        elapsed = (0, 10, 20, 40)
        assert [trigger._interval(trigger.started + seconds) for seconds in elapsed] == pytest.approx(waits)


class TestCluster:
    def test_counts_the_nodes_that_answer(self, nodes):
        nodes.kill(1)
        found = sensor(QCacheClusterSensor, min_nodes=2).execute({})
        assert found["nodes"] == [nodes.urls[0], nodes.urls[2]]
        assert "refused" in found["down"][nodes.urls[1]]

    def test_waits_for_all_of_them_by_default(self, nodes):
        nodes.kill(1)
        found = run_deferred(sensor(QCacheClusterSensor, deferrable=True), nodes.all_up)
        assert (found["nodes"], found["down"]) == (nodes.urls, {})

    def test_more_nodes_than_there_are_fail_at_once(self, nodes):
        with pytest.raises(AirflowFailException, match="min_nodes=4: connection 'qcache_default' has only 3"):
            sensor(QCacheClusterSensor, min_nodes=4).execute({})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"keys": ["a"], "key": "b"}, "pass exactly one of key and keys"),
        ({"key": "a b"}, "key='a b'"),
        ({"min_rows": -1}, "min_rows=-1"),
        ({"check": bool}, "check needs query"),
        ({"check": 1, "query": {}}, "check=1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_as_the_dag_is_parsed(arguments, text):
    with pytest.raises(ValueError, match=text):
        sensor(**arguments)


@pytest.fixture(scope="module")
def guarded_urls(certificates):
    """A node with TLS that requires a password."""
    from tests.harness.nodes import Nodes

    options = [f"--cert-file={certificates.server}", "--basic-auth=airflow:right"]
    with Nodes(1, *options, tls=certificates.context()) as nodes:
        yield nodes.urls, str(certificates.ca)


def connect_guarded(monkeypatch, guarded_urls):
    urls, ca = guarded_urls
    connection = {
        "conn_type": "qcache",
        "login": "airflow",
        "password": "wrong-password",
        "extra": {"nodes": urls, "ca_file": ca},
    }
    monkeypatch.setenv("AIRFLOW_CONN_QCACHE_DEFAULT", json.dumps(connection))
