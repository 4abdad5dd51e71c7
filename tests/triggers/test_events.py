"""The triggers of assets, on nodes that are killed, restarted and asked to forget."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from airflow_provider_qcache.compat import BaseEventTrigger, BaseTrigger
from airflow_provider_qcache.hooks.qcache import QCacheHook
from airflow_provider_qcache.triggers import _polling
from airflow_provider_qcache.triggers._asking import Question
from airflow_provider_qcache.triggers.qcache import QCacheTableChangedTrigger, QCacheTableMissingTrigger
from tests.triggers.running import Store, Triggerer, poller, polls, running, until

FAST = 0.1
KEY = "watched"

if BaseEventTrigger is BaseTrigger:

    @pytest.mark.parametrize("kind", [QCacheTableMissingTrigger, QCacheTableChangedTrigger])
    def test_the_error_on_airflow_2_names_the_alternative(kind):
        with pytest.raises(RuntimeError, match=r"needs Airflow 3: .* QCacheTableSensor in a scheduled DAG"):
            kind(KEY)

else:

    def missing(key=KEY, **options):
        return QCacheTableMissingTrigger(key, **{"poll_interval": FAST, **options})

    def changed(key=KEY, **options):
        return QCacheTableChangedTrigger(key, **{"poll_interval": FAST, **options})

    @pytest.fixture
    def home(nodes):
        """The number of the home node, on which there is a table."""
        with QCacheHook() as hook:
            home = nodes.urls.index(hook.node_for_key(KEY))
        for i in range(3):
            nodes.ask(i, "DELETE", KEY)
        store(nodes, home)
        return home

    def store(nodes, i, rows=2):
        body = "a\n" + "".join(f"{n}\n" for n in range(rows))
        assert nodes.ask(i, "POST", KEY, body.encode()).status == 201

    @pytest.fixture(params=[True, False], ids=["shared", "alone"])
    def shared(request):
        """On shared streams, as from Airflow 3.3 on, and without them, as before."""
        return request.param

    def test_a_node_that_was_killed_and_comes_back_empty_is_one_event(nodes, home, shared):
        async def watch():
            async with Triggerer(shared=shared) as triggerer:
                trigger = triggerer.start(missing())
                await until(lambda: trigger._known and trigger._known[KEY].seen)
                nodes.kill(home)
                await until(lambda: trigger._known[KEY].was_down)
                assert triggerer.events == [], "a store would go to another node"
                nodes.all_up()
                await until(lambda: triggerer.events)
                await polls(3)
                return triggerer.events

        (event,) = asyncio.run(watch())
        assert event["key"] == KEY
        assert event["node"] == nodes.urls[home]
        assert event["why"] == "the node did not answer for a time, and came back without the table"

    def test_a_table_that_is_deleted_is_an_event_and_its_return_ends_the_incident(nodes, home, shared):
        async def watch():
            async with Triggerer(shared=shared) as triggerer:
                trigger = triggerer.start(missing())
                for count in (1, 2):
                    await until(lambda: trigger._known and trigger._known[KEY].seen)
                    await until(lambda: trigger._known[KEY].since is None)
                    nodes.ask(home, "DELETE", KEY)
                    await until(lambda: len(triggerer.events) == count)  # noqa: B023
                    store(nodes, home)
                return [event["event"] for event in triggerer.events]

        assert asyncio.run(watch()) == [1, 1]

    def test_a_table_on_another_node_is_missing(nodes, home):
        """After a failover readers find it there only as long as its home is down."""
        nodes.ask(home, "DELETE", KEY)
        store(nodes, (home + 1) % 3)

        async def watch():
            async with running(missing()) as triggerer:
                await until(lambda: triggerer.events)
                return triggerer.events

        assert asyncio.run(watch())[0]["node"] == nodes.urls[home]

    def test_an_incident_goes_on_after_the_triggerer_was_restarted(nodes, home):
        nodes.ask(home, "DELETE", KEY)
        kept = Store()

        async def watch(expected):
            async with Triggerer() as triggerer:
                triggerer.start(missing(), kept)
                await until(lambda: len(triggerer.events) >= expected)
                await polls(3)
                if not expected:
                    return triggerer.events
                await until(lambda: kept)
            return triggerer.events

        assert len(asyncio.run(watch(1))) == 1
        assert json.loads(json.dumps(kept)) == kept
        assert asyncio.run(watch(0)) == []

    def test_a_table_that_went_while_no_triggerer_ran_is_an_event(nodes, home):
        kept = Store()

        async def watch(holds):
            async with Triggerer() as triggerer:
                trigger = triggerer.start(missing(), kept)
                await until(lambda: holds(triggerer, trigger) and kept)
                return triggerer.events

        assert asyncio.run(watch(lambda _, trigger: trigger._known)) == []
        nodes.ask(home, "DELETE", KEY)
        (event,) = asyncio.run(watch(lambda triggerer, _: triggerer.events))
        assert "evicted" in event["why"], "it was there before"

    def test_rows_that_change_are_an_event(nodes, home, shared):
        async def watch():
            async with Triggerer(shared=shared) as triggerer:
                trigger = triggerer.start(changed())
                await until(lambda: trigger._known and trigger._known[KEY].last == {"rows": 2})
                store(nodes, home)
                await polls(2)
                assert triggerer.events == [], "a reload of equal rows cannot be seen"
                store(nodes, home, 5)
                await until(lambda: triggerer.events)
                nodes.ask(home, "DELETE", KEY)
                await until(lambda: trigger._known[KEY].last == {})
                store(nodes, home, 5)
                await until(lambda: len(triggerer.events) == 2)
                return triggerer.events

        first, second = asyncio.run(watch())
        assert first == {
            "key": KEY,
            "node": nodes.urls[home],
            "why": "the rows were 2 and are 5",
            "rows": 5,
            "rows_before": 2,
        }
        assert second["why"] == "the table was stored"

    def test_the_answer_to_a_query_that_changes_is_an_event(nodes, home):
        async def watch():
            async with Triggerer() as triggerer:
                trigger = triggerer.start(changed(query={"select": [["max", "a"]]}))
                await until(lambda: trigger._known and trigger._known[KEY].last)
                nodes.ask(home, "POST", KEY, b"a\n7\n8\n")
                await until(lambda: triggerer.events)
                return triggerer.events

        (event,) = asyncio.run(watch())
        assert event["why"] == "the answer to the query changed"

    def test_many_triggers_share_a_client_and_a_poll(nodes, home):
        keys = [f"none_{n}" for n in range(100)]

        async def watch():
            async with running(*map(missing, keys)) as triggerer:
                await until(lambda: len(triggerer.events) == 100)
                used = await poller()
                assert used.users == 101, "the shared stream is one, too"
            return [event["key"] for event in triggerer.events], used.polls

        found, made = asyncio.run(watch())
        assert sorted(found) == sorted(keys)
        assert made <= 3

    def test_what_keeps_a_connection_from_being_used_is_logged_once_and_goes_by(
        nodes, home, monkeypatch, capsys
    ):
        nodes.ask(home, "DELETE", KEY)

        async def watch():
            async with running(missing(qcache_conn_id="qcache_later")) as triggerer:
                await polls(3, "qcache_later")
                monkeypatch.setenv(
                    "AIRFLOW_CONN_QCACHE_LATER",
                    json.dumps({"conn_type": "qcache", "extra": {"nodes": nodes.urls}}),
                )
                await until(lambda: triggerer.events)

        asyncio.run(watch())
        text = [line for line in capsys.readouterr().out.splitlines() if "Cannot check" in line]
        assert len(text) == 1
        assert "qcache_later" in text[0]

    def test_a_connection_that_changes_is_used_as_it_is_now(nodes, home, monkeypatch):
        from tests.harness.connection import connect

        connect(monkeypatch, nodes.urls)
        monkeypatch.setattr(_polling, "_REREAD", 0.0)

        async def watch():
            async with Triggerer() as triggerer:
                trigger = triggerer.start(missing())
                await until(lambda: trigger._known and trigger._known[KEY].seen)
                connect(monkeypatch, [nodes.urls[(home + 1) % 3]])
                await until(lambda: triggerer.events)
                return triggerer.events

        assert asyncio.run(watch())[0]["node"] == nodes.urls[(home + 1) % 3]

    def test_one_connection_does_not_wait_for_a_node_of_another(nodes, home, monkeypatch):
        """The node takes the connection and answers nothing, which a request in the loop would wait for."""
        silent = (home + 1) % 3
        extra = {"nodes": [nodes.urls[silent]], "read_timeout": 600, "deadline": 600}
        monkeypatch.setenv("AIRFLOW_CONN_SILENT", json.dumps({"conn_type": "qcache", "extra": extra}))
        nodes.pause(silent)

        async def watch():
            async with running(missing(qcache_conn_id="silent"), missing()) as triggerer:
                silenced = await poller("silent")
                await until(lambda: silenced.polls)
                nodes.ask(home, "DELETE", KEY)
                await until(lambda: triggerer.events)
                assert silenced.polls == 1, "it is asked still"
            assert _polling._pollers[asyncio.get_running_loop()] == {}, "all have stopped"
            await until(lambda: not silenced._using)  # the request has ended, long before its timeout

        asyncio.run(watch())

    def test_a_poller_that_closes_while_it_reads_its_connection_waits_for_no_node(nodes, home, monkeypatch):
        extra = {"nodes": [nodes.urls[home]], "read_timeout": 600, "deadline": 600}
        monkeypatch.setenv("AIRFLOW_CONN_SILENT", json.dumps({"conn_type": "qcache", "extra": extra}))
        nodes.pause(home)
        reading, closed = threading.Event(), threading.Event()
        settings = QCacheHook.settings

        def settings_once_closed(hook):
            reading.set()
            assert closed.wait(60)
            return settings(hook)

        monkeypatch.setattr(QCacheHook, "settings", settings_once_closed)

        async def watch():
            closing = _polling.Poller("silent")
            asking = asyncio.create_task(closing.ask([Question(KEY)]))
            await asyncio.to_thread(reading.wait, 60)
            closing.close()
            closed.set()
            (finding,) = (await asyncio.wait_for(asking, 60)).values()
            assert "OperationCancelled" in finding.why

        asyncio.run(watch())

    def test_a_silent_node_is_asked_beside_the_others_and_noticed_when_it_is_back(nodes, home, monkeypatch):
        from tests.harness.connection import connect

        connect(monkeypatch, nodes.urls, read_timeout=2)
        other = (home + 1) % 3
        other_key = nodes.keys(3)[other]
        nodes.ask(other, "POST", other_key, b"a\n1\n")

        async def watch():
            async with Triggerer() as triggerer:
                triggers = [triggerer.start(missing(key)) for key in (KEY, other_key)]
                await until(lambda: all(one._known and one._known[one.keys[0]].seen for one in triggers))
                nodes.pause(home)
                await until(lambda: triggers[0]._known[KEY].was_down)
                nodes.ask(other, "DELETE", other_key)
                await until(lambda: triggerer.events)
                nodes.kill(home)
                nodes.all_up()
                await until(lambda: len(triggerer.events) == 2)
                return [event["key"] for event in triggerer.events]

        assert asyncio.run(watch()) == [other_key, KEY]

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ({"key": None}, "pass exactly one of key and keys"),
            ({"keys": ["a"]}, "pass exactly one of key and keys"),
            ({"key": "a b"}, "key='a b'"),
            ({"poll_interval": 0}, "poll_interval=0: expected a number of seconds, more than 0"),
            ({"max_events_per_hour": 0}, "max_events_per_hour=0"),
            ({"repeat_after": -1}, "repeat_after=-1"),
            ({"qcache_conn_id": ""}, "qcache_conn_id=''"),
        ],
    )
    def test_arguments_that_make_no_sense_are_refused_as_the_dag_is_parsed(arguments, text):
        with pytest.raises(ValueError, match=text):
            missing(**{"key": KEY, **arguments})

    def test_an_asset_watcher_takes_them_and_airflow_serialises_them():
        from airflow.sdk import Asset, AssetWatcher
        from airflow.serialization.encoders import encode_trigger

        for trigger in (missing(), changed(query={"limit": 1})):
            watcher = AssetWatcher(name="watcher", trigger=trigger)
            asset = Asset("watched", watchers=[watcher])
            encoded = encode_trigger(asset.watchers[0].trigger)
            assert encoded["classpath"] == trigger.serialize()[0]
            json.dumps(encoded)
