"""Many tables from one task: what the nodes have then, what a retry does, and what the log says."""

from __future__ import annotations

import gc
import itertools
import json
import threading
import time
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from qclient import QClient as Reader

from airflow_provider_qcache.client import AuthenticationFailed, OperationCancelled, QClient
from airflow_provider_qcache.compat import AirflowFailException
from airflow_provider_qcache.operators import _delete, _report
from airflow_provider_qcache.operators.errors import (
    NodesUnreachable,
    StoredOnFailover,
    TablesEvicted,
    TablesFailed,
)
from airflow_provider_qcache.operators.qcache import QCacheDeleteOperator, QCachePostOperator
from tests.harness.connection import connect
from tests.harness.faults import FaultyNode, Tables, status_only
from tests.harness.needs import need_the_real_server
from tests.harness.nodes import Nodes
from tests.harness.ports import closed_port


class StateStore:
    """Stands for Airflow's task state store, which needs a supervisor; tests/airflow has the real one."""

    def __init__(self):
        self.kept = {}
        self.writes = []

    def get(self, key, default=None):
        return json.loads(self.kept[key]) if key in self.kept else default

    def set(self, key, value, *, retention=None):
        self.kept[key] = json.dumps(value)
        self.writes.append(len(self.kept[key]))

    def delete(self, key):
        self.kept.pop(key, None)


class TaskInstance:
    def __init__(self, max_tries=2):
        self.max_tries = max_tries
        self.pushed = {}

    def xcom_push(self, key, value):
        self.pushed[key] = json.loads(json.dumps(value))


def context(store=None, max_tries=2):
    return {"task_state_store": store if store is not None else StateStore(), "ti": TaskInstance(max_tries)}


def store(tables, task_context=None, **arguments):
    task = QCachePostOperator(task_id="store", tables=tables, **arguments)
    task.render_template_fields({})
    return json.loads(json.dumps(task.execute({} if task_context is None else task_context)))


def rows(key):
    return f"key\n{key}\n"


def found(nodes, keys):
    """What qcache-client, as an application uses it, finds under each key: its first row's only value."""
    reader = Reader(nodes.urls)
    answers = [reader.get(key, {"limit": 1}) for key in keys]
    return [None if answer is None else json.loads(answer.content)[0]["key"] for answer in answers]


def stores_of(nodes):
    """How many stores the nodes have counted since they were last asked."""
    counted = 0
    with QClient(nodes.urls, 5, 30, trust_env=False) as client:
        for statistics in client.node_statistics().values():
            counted += statistics.get("store_count", 0)
    return counted


def keys_left(nodes, keys):
    return [key for key in keys if nodes.holding(key)]


@pytest.fixture
def small_nodes(monkeypatch):
    """Three real nodes with a small cache."""
    need_the_real_server()
    with Nodes(3, "--size=20000") as nodes:
        connect(monkeypatch, nodes.urls)
        yield nodes


def test_every_table_is_where_readers_look(nodes, operator_log):
    keys = [f"many_{n}" for n in range(200)]
    result = store({key: f"key\n{key}\n" for key in keys})
    assert found(nodes, keys) == keys
    assert (result["stored"], result["failed"], result["evicted"], result["rows"]) == (200, 0, 0, 200)
    assert sum(result["nodes"].values()) == 200
    assert result["bytes"] == sum(len(f"key\n{key}\n") for key in keys)
    ((level, text),) = operator_log()
    assert level == "INFO"
    assert text.startswith("Stored 200 tables: ")


FRAMES = {
    "pandas": lambda: pd.DataFrame({"zip": ["007"], "n": [1]}),
    "polars": lambda: pl.DataFrame({"zip": ["007"], "n": [1]}),
    "arrow": lambda: pa.table({"zip": ["007"], "n": [1]}),
    "dicts": lambda: [{"zip": "007", "n": 1}],
}


@pytest.mark.parametrize("form", FRAMES)
def test_tables_of_every_library_are_taken_with_their_types(nodes, reader, form):
    store({"many_frame": FRAMES[form]()})
    assert reader("many_frame") == [{"n": 1, "zip": "007"}]
    with QClient(nodes.urls, 5, 30, trust_env=False) as client:
        client.post_many({"many_frame_2": FRAMES[form]()})
    assert reader("many_frame_2") == [{"n": 1, "zip": "007"}]


def test_a_function_gives_pairs_in_every_form_of_content(nodes, reader, tmp_path):
    (tmp_path / "table.csv").write_text("n\n1\n")
    (tmp_path / "table.json").write_text('[{"n": 1}]')

    def tables(first, *, last):
        yield f"many_{first}", b"n\n1\n"
        yield "many_text", "n\n1\n"
        yield "many_path", tmp_path / "table.csv"
        yield "many_json", tmp_path / "table.json"
        yield f"many_{last}", lambda: iter([b"n\n", b"1\n"])

    assert store(tables, op_args=["bytes"], op_kwargs={"last": "function"})["stored"] == 5
    for key in ("bytes", "text", "path", "json", "function"):
        assert reader(f"many_{key}") == [{"n": 1}]


def test_what_fails_leaves_its_old_table_and_no_other(nodes, reader):
    store({"many_bad": "n\n1\n", "many_good": "n\n1\n"})

    def cut():
        yield b"n\n2\n"
        raise OSError("the disk is gone")

    task_context = context()
    with pytest.raises(TablesFailed, match=r"^1 of 2 tables failed; stored 1 table: ") as caught:
        store(lambda: iter([("many_bad", cut), ("many_good", "n\n2\n")]), task_context)
    assert "the disk is gone" in str(caught.value)
    assert (reader("many_bad"), reader("many_good")) == ([{"n": 1}], [{"n": 2}])
    assert task_context["ti"].pushed["return_value"] == caught.value.result
    assert caught.value.result["failed_keys"] == {"many_bad": "OSError: the disk is gone"}


def test_some_may_fail(nodes, operator_log):
    result = store({"many_a": "n\n1\n", "many_b": ""}, max_failed_keys=1)
    assert (result["stored"], list(result["failed_keys"])) == (1, ["many_b"])
    assert [level for level, text in operator_log() if "many_b" in text] == ["ERROR"]


@pytest.mark.parametrize("literal", [True, False])
def test_what_the_dag_says_wrong_fails_for_good_and_what_a_function_gives_does_not(nodes, literal):
    tables = {"many_a": "n\n1\n", "many_b": "n,n\n1,2\n"}
    with pytest.raises(AirflowFailException if literal else TablesFailed, match="many_b"):
        store(tables if literal else lambda: tables)


@pytest.mark.parametrize(
    ("tables", "text"),
    [
        (lambda: [("a", "n\n1\n"), ("a", "n\n2\n")], "'a' occurs twice, as numbers 1 and 2"),
        (lambda: ["ab"], "item 1 is 'ab'"),
        (lambda: 3, "the function returned 3"),
        (lambda: [("a b", "n\n1\n")], "'a b'"),
        (lambda: [("a", 3)], "int is not a table"),
    ],
)
def test_what_is_no_pair_of_key_and_table_fails_for_good(nodes, tables, text):
    with pytest.raises(AirflowFailException, match=text):
        store(tables)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"tables": {}}, "tables={}"),
        ({"tables": {"a b": "n\n1\n"}}, "tables: key='a b'"),
        ({"tables": {"a": "n\n1\n"}, "key": "a"}, "tables has the keys, so remove key"),
        ({"tables": {"a": "n\n1\n"}, "content": "n\n1\n"}, "exactly one of"),
        ({"tables": {"a": "n\n1\n"}, "max_failed_keys": -1}, "max_failed_keys=-1"),
        ({"key": "a", "content": "n\n1\n", "max_failed_keys": 1}, "max_failed_keys: only for several tables"),
        ({"content": "n\n1\n"}, "pass the key of the table"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_when_the_dag_is_parsed(arguments, text):
    with pytest.raises(ValueError, match=text):
        QCachePostOperator(task_id="store", **arguments)


def test_what_the_nodes_evicted_fails_the_task_with_advice(small_nodes):
    with QClient(small_nodes.urls) as client:
        home = client.node_for_key
        by_node = {
            url: [key for key in map("many_{}".format, range(200)) if home(key) == url][:20]
            for url in small_nodes.urls
        }
    # As many on each, wherever the ring of this run's ports puts them: else one may evict none.
    tables = {key: "text\n" + "x" * 2000 + "\n" for keys in by_node.values() for key in keys}
    assert len(tables) == 60
    with pytest.raises(TablesEvicted, match="larger --size") as caught:
        store(tables)
    result = caught.value.result
    left = keys_left(small_nodes, tables)
    assert 0 < len(left) == 60 - result["evicted"]
    assert set(result["evicted_keys"]) == set(tables) - set(left)
    assert store(tables, allow_evicted=True)["evicted"] > 0


def test_a_node_that_died_since_fails_the_task(nodes, monkeypatch):
    keys = nodes.keys(30)

    def tables():
        for key in keys:
            yield key, rows(key)
        while None in found(nodes, keys):
            time.sleep(0.05)
        nodes.kill(0)

    with pytest.raises(TablesEvicted, match=f"could not be checked: {nodes.urls[0]} went down") as caught:
        store(tables)
    lost = caught.value.result["lost_keys"]
    with QClient(nodes.urls, 5, 30, trust_env=False) as client:
        assert set(lost) == {key for key in keys if client.node_for_key(key) == nodes.urls[0]}
    assert set(lost.values()) == {"gone"}


def test_tables_of_a_node_that_is_down_go_to_the_next(nodes):
    nodes.kill(0)
    keys = nodes.keys(30)
    result = store({key: rows(key) for key in keys})
    assert result["failed_over"] > 0
    assert result["stored"] == 30
    assert found(nodes, keys) == keys
    with pytest.raises(StoredOnFailover, match="require_home"):
        store({key: rows(key) for key in keys}, require_home=True)


def test_a_home_that_is_down_still_is_no_home_at_the_next_try_either(nodes):
    nodes.kill(0)
    keys, record = nodes.keys(12), StateStore()
    for _ in range(2):
        with pytest.raises(StoredOnFailover, match="require_home"):
            store({key: rows(key) for key in keys}, context(record), require_home=True)


def test_tables_that_went_to_the_next_node_are_not_seen_once_their_own_is_back(nodes):
    keys, record = nodes.keys(12), StateStore()
    nodes.kill(0)

    def tables():
        yield from ((key, rows(key)) for key in keys)
        ends = time.monotonic() + 60
        while time.monotonic() < ends and None in found(nodes, keys):
            time.sleep(0.1)
        nodes.all_up()
        yield "many_last", rows("many_last")

    with pytest.raises(TablesEvicted, match="Readers do not find") as caught:
        store(tables, context(record))
    with QClient(nodes.urls, 5, 30, trust_env=False) as client:
        mine = {key for key in keys if client.node_for_key(key) == nodes.urls[0]}
    assert set(caught.value.result["lost_keys"]) >= mine != set()
    assert store({key: rows(key) for key in keys}, context(record))["stored"] == 12
    assert found(nodes, keys) == keys


def test_a_node_that_was_silent_shows_no_older_table_after_the_next_try(nodes, monkeypatch):
    connect(monkeypatch, nodes.urls, read_timeout=1, deadline=10)
    keys, record = nodes.keys(12), StateStore()
    store(dict.fromkeys(keys, "key\nold\n"))
    with QClient(nodes.urls, 5, 30, trust_env=False) as client:
        away = next(key for key in keys if client.node_for_key(key) != nodes.urls[0])

    def tables(broken):
        made = {key: 'key\n"open\n' if broken and key == away else rows(key) for key in keys}
        return lambda: iter(made.items())

    nodes.pause(0)
    with pytest.raises((TablesFailed, TablesEvicted)):
        store(tables(broken=True), context(record))
    nodes.all_up()
    store(tables(broken=False), context(record))
    assert found(nodes, keys) == keys


def test_where_no_node_answers_nothing_more_is_begun(nodes, monkeypatch):
    connect(monkeypatch, nodes.urls, deadline=1)
    for i in range(3):
        nodes.kill(i)
    began = time.monotonic()
    text = r"^[1-3] of 1,000 tables failed; the other 99\d were not started.*; stored 0 tables: "
    with pytest.raises(TablesFailed, match=text):
        store({f"many_{n}": "n\n1\n" for n in range(1000)})
    assert time.monotonic() - began < 20


def test_waiting_for_a_node_is_what_progress_says(nodes, monkeypatch, operator_log):
    """The task waits for nodes once, and not again for each of the keys that are left."""
    monkeypatch.setattr(_report, "PROGRESS_EVERY", 0.1)
    connect(monkeypatch, nodes.urls, deadline=2)
    for i in range(3):
        nodes.kill(i)
    with pytest.raises(TablesFailed):
        store({f"many_{n}": "n\n1\n" for n in range(30)})
    lines = [text for _, text in operator_log() if "waiting for a node: none answers" in text]
    assert lines[0] == "Stored 0 of 30 tables, 0 failed; waiting for a node: none answers"


def test_a_key_that_fails_is_logged_when_it_happens(nodes, operator_log):
    def failures():
        return [text for level, text in operator_log() if level == "ERROR"]

    def tables():
        yield "many_bad", ""
        end = time.monotonic() + 30
        while not failures() and time.monotonic() < end:
            time.sleep(0.01)
        assert len(failures()) == 1
        yield "many_good", "n\n1\n"

    store(tables, max_failed_keys=1)
    assert len(failures()) == 1
    assert failures()[0].startswith("Failed: many_bad: InvalidTable: ")


def test_refused_credentials_end_it_at_once(monkeypatch):
    with FaultyNode(status_only(401)) as node:
        connect(monkeypatch, [node.url])
        with pytest.raises(AirflowFailException) as caught:
            store({f"many_{n}": "n\n1\n" for n in range(1000)})
        assert isinstance(caught.value.__cause__, AuthenticationFailed)
        assert len(node.requests) < 100


def test_copies_and_counted_rows_are_for_many_too(nodes, operator_log):
    result = store({f"many_{n}": "n\n1\n" for n in range(10)}, copies=2, check_row_count=True)
    assert (result["failed_copies"], result["absent_copies"]) == (0, 0)
    assert [len(nodes.holding(f"many_{n}")) for n in range(10)] == [2] * 10


def test_a_retry_makes_the_copies_that_failed(nodes):
    with QClient(nodes.urls) as client:
        second = nodes.urls[1]
        keys = [key for key in map("copy_{}".format, range(100)) if client.successors(key)[1] == second][:10]
    record, broken = StateStore(), {"now": True}

    def tables():
        for key in keys:
            yield key, "n\n1\n"
        yield "copy_last", "" if broken["now"] else "n\n1\n"

    nodes.kill(1)
    with pytest.raises(TablesFailed) as caught:
        store(tables, context(record), copies=2)
    assert caught.value.result["failed_copies"] == len(keys) == 10
    nodes.all_up()
    broken["now"] = False
    store(tables, context(record), copies=2)
    assert [len(nodes.holding(key)) for key in keys] == [2] * 10


def test_tables_without_rows_are_logged(nodes, operator_log):
    store({"many_a": "n\n", "many_b": "n\n1\n"})
    ((level, text),) = operator_log()
    assert level == "WARNING"
    assert "; 1 table without rows" in text


def test_the_check_at_the_end_logs_its_progress(nodes, monkeypatch, operator_log):
    monkeypatch.setattr(_report, "PROGRESS_EVERY", 0.02)
    asked = QClient.find_absent

    def slowly(self, places):
        def one_by_one():
            for place in places:
                time.sleep(0.02)
                yield place

        return asked(self, one_by_one())

    monkeypatch.setattr(QClient, "find_absent", slowly)
    store({f"many_{n}": "n\n1\n" for n in range(20)})
    counts = [
        int(text.split()[-3])
        for _, text in operator_log()
        if "asking the nodes" in text and text[-2:] == "20"
    ]
    assert counts == sorted(counts)
    assert len(set(counts)) > 3


def test_older_tables_on_other_nodes_are_deleted(nodes):
    for i in range(3):
        nodes.ask(i, "POST", "many_a", b"n\n0\n")
    store({"many_a": "n\n1\n"})
    assert len(nodes.holding("many_a")) == 1


@pytest.fixture
def broken_then_whole():
    """Tables of which every third fails at the first reading, as a mapping or one by one."""
    state = {"broken": True, "readings": 0}
    keys = [f"retry_{n}" for n in range(90)]

    def content(n):
        def pieces():
            yield b"key\n"
            if state["broken"] and n % 3 == 0:
                raise OSError("not yet there")
            yield f"{keys[n]}\n".encode()

        return pieces

    def tables():
        state["readings"] += 1
        for n, key in enumerate(keys):
            yield key, content(n)

    state["keys"], state["tables"] = keys, tables
    return state


@pytest.mark.parametrize("known", [True, False], ids=["a mapping", "one by one"])
def test_a_retry_stores_what_is_left(nodes, broken_then_whole, known, monkeypatch, operator_log):
    state, record = broken_then_whole, StateStore()
    task_context = dict(state["tables"]()) if known else state["tables"]
    with pytest.raises(TablesFailed, match=r"^30 of 90 tables failed; stored 60 tables: "):
        store(task_context, context(record))
    stores_of(nodes)
    state["broken"] = False
    told_before = len(operator_log())
    monkeypatch.setattr(_report, "PROGRESS_EVERY", 0.02)
    result = store(task_context, context(record))
    assert (result["stored"], result["were_there"]) == (30, 60)
    lines = [text for _, text in operator_log()[told_before:]]
    assert lines[0] == "An earlier try stored 60 of 90 tables: this try skips those that their node still has"
    # What was there counts for no rate.
    assert [text for text in lines if text.startswith("Stored 0 ") and "; 0/s, 0.0 kB/s" not in text] == []
    assert stores_of(nodes) == 30
    assert found(nodes, state["keys"]) == state["keys"]
    assert record.kept == {}


def test_without_a_state_store_a_retry_repeats_everything(nodes, broken_then_whole):
    with pytest.raises(TablesFailed):
        store(broken_then_whole["tables"], {})
    broken_then_whole["broken"] = False
    assert store(broken_then_whole["tables"], {})["stored"] == 90


def test_a_task_that_was_cleared_stores_everything(nodes, broken_then_whole):
    """Its tables may be others by then."""
    record = StateStore()
    with pytest.raises(TablesFailed):
        store(broken_then_whole["tables"], context(record, max_tries=2))
    broken_then_whole["broken"] = False
    assert store(broken_then_whole["tables"], context(record, max_tries=5))["stored"] == 90


def test_what_was_evicted_meanwhile_is_stored_again(nodes, broken_then_whole):
    record = StateStore()
    with pytest.raises(TablesFailed):
        store(broken_then_whole["tables"], context(record))
    for i in range(3):
        nodes.ask(i, "DELETE", "retry_1")
    broken_then_whole["broken"] = False
    result = store(broken_then_whole["tables"], context(record))
    assert (result["stored"], result["were_there"]) == (31, 59)
    assert nodes.holding("retry_1")


@pytest.mark.parametrize("known", [True, False], ids=["a mapping", "one by one"])
@pytest.mark.parametrize(
    "changed",
    [
        lambda keys: [*keys[:5], "retry_new", *keys[5:]],
        lambda keys: keys[:-1],
        lambda keys: list(reversed(keys)),
    ],
    ids=["one more", "one less", "reversed"],
)
def test_other_keys_are_stored_from_the_start(nodes, broken_then_whole, known, changed):
    record = StateStore()
    with pytest.raises(TablesFailed):
        store(broken_then_whole["tables"], context(record))
    keys = changed(broken_then_whole["keys"])
    tables = {key: f"key\nnew_{key}\n" for key in keys}
    result = store(tables if known else lambda: iter(tables.items()), context(record))
    assert (result["stored"], result["were_there"]) == (len(keys), 0)
    assert found(nodes, keys) == [f"new_{key}" for key in keys]


def test_progress_and_a_record_come_while_tables_are_stored(nodes, monkeypatch, operator_log):
    monkeypatch.setattr(_report, "PROGRESS_EVERY", 0.1)
    record = StateStore()

    def tables():
        for n in range(10):
            time.sleep(0.1)
            yield f"many_{n}", "n\n1\n"

    store(tables, context(record))
    lines = [text for _, text in operator_log() if "/s, " in text]
    assert len(lines) >= 3
    assert [text for text in lines if not text.endswith(" kB/s")] == []
    assert len(record.writes) >= len(lines)
    assert max(record.writes) < 1000


def test_a_task_whose_airflow_has_ended_stores_no_more(nodes, monkeypatch):
    """Airflow starts the next try on another worker, where the worker's processes died without the task's."""
    monkeypatch.setattr(_report, "PROGRESS_EVERY", 0.1)
    ended = threading.Event()

    class Lost(StateStore):
        def set(self, key, value, *, retention=None):
            ended.set()
            raise BrokenPipeError

    def tables():
        yield "many_0", "n\n1\n"
        assert ended.wait(30)
        for n in range(1, 600):
            time.sleep(0.01)
            yield f"many_{n}", "n\n1\n"

    with pytest.raises(OperationCancelled):
        store(tables, context(Lost()))


def test_a_record_that_is_slow_to_be_written_is_not_the_last_one(nodes, monkeypatch):
    """That of a line of progress, begun before the task's own at its end: it has fewer keys than that."""
    monkeypatch.setattr(_report, "PROGRESS_EVERY", 0.5)
    begun, known = threading.Event(), [f"many_{n}" for n in range(30)]

    class Slow(StateStore):
        def set(self, key, value, *, retention=None):
            if not begun.is_set():
                begun.set()
                time.sleep(0.4)
            super().set(key, value, retention=retention)

    record, broken = Slow(), {"now": True}

    def tables():
        for n, key in enumerate(known):
            if n == 15:
                begun.wait(30)
            yield key, "" if broken["now"] and n == 29 else "n\n1\n"

    with pytest.raises(TablesFailed):
        store(tables, context(record))
    broken["now"] = False
    result = store(tables, context(record))
    assert (result["stored"], result["were_there"]) == (1, 29)


def test_the_time_left_is_logged_if_the_total_is_known(nodes, monkeypatch, operator_log):
    monkeypatch.setattr(_report, "PROGRESS_EVERY", 0.1)

    def slow():
        time.sleep(0.2)
        yield b"n\n1\n"

    store({f"many_{n}": slow for n in range(9)} | {"many_9": "n\n1\n"})
    assert any(" of 10 tables" in text and text.endswith(" left") for _, text in operator_log())


def test_only_a_few_tables_are_in_memory(nodes):
    alive, most = 0, 0
    lock = threading.Lock()

    class Pieces:
        def __init__(self):
            nonlocal alive, most
            with lock:
                alive += 1
                most = max(most, alive)

        def __call__(self):
            yield b"n\n1\n"

        def __del__(self):
            nonlocal alive
            with lock:
                alive -= 1

    gc.disable()
    try:
        store(lambda: ((f"many_{n}", Pieces()) for n in range(150)))
    finally:
        gc.enable()
    assert most < 60


def test_a_reader_of_a_healthy_node_never_misses(nodes):
    """It sees the old table, waits while the node parses, and sees the new one."""
    keys = [f"reader_{n}" for n in range(12)]

    def tables(version):
        return dict.fromkeys(keys, "version\n" + f"{version}\n" * 200000)

    store(tables(0))
    seen: dict[Any, int] = {}
    over = threading.Event()

    def read(first):
        reader = Reader(nodes.urls, read_timeout=60)
        n = first
        while not over.is_set():
            n += 1
            found = reader.get(keys[n % len(keys)], {"limit": 1, "select": ["version"]})
            what = (
                None
                if found is None
                else (json.loads(found.content)[0]["version"], found.unsliced_result_len)
            )
            seen[what] = seen.get(what, 0) + 1

    readers = [threading.Thread(target=read, args=(n,)) for n in range(3)]
    for reader in readers:
        reader.start()
    try:
        for version in (1, 2):
            store(tables(version))
    finally:
        over.set()
        for reader in readers:
            reader.join()
    assert set(seen) == {(version, 200_000) for version in (0, 1, 2)}
    assert sum(seen.values()) > 50


def test_more_keys_than_are_returned_one_by_one_are_deleted_on_every_node(nodes, operator_log, monkeypatch):
    monkeypatch.setattr(_delete, "MOST_RETURNED", 100)
    keys = [f"gone_{n}" for n in range(150)]
    for i in range(3):
        for key in keys[:20]:
            nodes.ask(i, "POST", key, b"n\n1\n")
    task = QCacheDeleteOperator(task_id="delete", keys=keys)
    result = task.execute({})
    assert {name: result[name] for name in ("keys", "confirmed", "gone", "unreachable", "not_confirmed")} == {
        "keys": 150,
        "confirmed": 450,
        "gone": 0,
        "unreachable": 0,
        "not_confirmed": {},
    }
    assert keys_left(nodes, keys[:20]) == []
    assert operator_log()[-1][1].startswith("Deleted 150 tables: 450 confirmed")


def test_a_silent_node_does_not_cost_a_timeout_for_every_key(nodes, monkeypatch):
    monkeypatch.setattr(_delete, "MOST_RETURNED", 100)
    connect(monkeypatch, nodes.urls, read_timeout=0.5)
    nodes.pause(1)
    task = QCacheDeleteOperator(
        task_id="delete", keys=[f"gone_{n}" for n in range(150)], on_unreachable="ignore"
    )
    began = time.monotonic()
    result = task.execute({})
    assert time.monotonic() - began < 60
    assert (result["confirmed"], result["unreachable"]) == (300, 150)
    assert len(result["not_confirmed"]) == 100
    assert set(result["not_confirmed"]["gone_0"].items()) == {(nodes.urls[1], "unreachable")}
    assert set(result["failed_keys"]) == set(result["not_confirmed"])
    assert all(nodes.urls[1] in text for text in result["failed_keys"].values())


def sound_for(number, kind, then):
    """What a node answers that is sound for so many requests of a kind, and then does as another."""
    sound, left = Tables(), itertools.count(number, -1)

    def answer(peer, request):
        fails = request.kind == kind and next(left) <= 0
        (then if fails else sound.answer)(peer, request)

    return answer


def delete_300(task_context, **arguments):
    return QCacheDeleteOperator(
        task_id="delete", keys=[f"gone_{n}" for n in range(300)], **arguments
    ).execute(task_context)


@pytest.mark.parametrize("on_unreachable", ["fail", "ignore"])
def test_keys_that_may_be_left_come_before_those_whose_node_is_gone(
    monkeypatch, operator_log, on_unreachable
):
    """Every key meets the node that is gone, and those after the 150th one that fails as well."""
    monkeypatch.setattr(_delete, "MOST_RETURNED", 100)
    monkeypatch.setattr(_report, "MOST_IN_LOG", 120)
    gone = f"http://127.0.0.1:{closed_port()}"
    task_context = context()
    with FaultyNode(sound_for(150, "delete", status_only(500))) as node:
        connect(monkeypatch, [gone, node.url])
        if on_unreachable == "ignore":
            summary = delete_300(task_context, on_unreachable="ignore")
            assert task_context["ti"].pushed == {}
        else:
            with pytest.raises(NodesUnreachable, match="150 of 300 keys") as caught:
                delete_300(task_context)
            summary = task_context["ti"].pushed["return_value"]
            assert caught.value.outcomes == summary["not_confirmed"]
            assert str(caught.value).count("\n  gone_") == 10
    assert (summary["keys"], summary["unreachable"], summary["gone"]) == (300, 150, 300)
    assert len(summary["not_confirmed"]) == len(summary["failed_keys"]) == 100
    assert set(summary["not_confirmed"]) == set(summary["failed_keys"])
    assert [*summary["not_confirmed"].values()] == [{gone: "gone", node.url: "unreachable"}] * 100
    assert all(node.url in text for text in summary["failed_keys"].values())
    errors = [text for level, text in operator_log() if level == "ERROR"]
    assert len([text for text in errors if text.startswith("Failed: gone_") and node.url in text]) == 120
    assert errors[-1] == "More than 120 keys failed: further ones are only counted"


def test_one_node_for_each_key_that_may_be_left_on_it(monkeypatch):
    monkeypatch.setattr(_delete, "MOST_RETURNED", 100)
    dead = [f"http://127.0.0.1:{closed_port()}" for _ in range(2)]
    connect(monkeypatch, dead, wait_for_nodes=False, deadline=1)
    task_context = context()
    with pytest.raises(NodesUnreachable, match=r"300 of 300 keys.*127"):
        delete_300(task_context, all_nodes=False)
    named = task_context["ti"].pushed["return_value"]["not_confirmed"].values()
    assert {node for nodes in named for node in nodes} <= set(dead)


def test_refused_credentials_end_many_deletes_with_what_was_done(monkeypatch):
    monkeypatch.setattr(_delete, "MOST_RETURNED", 100)
    task_context = context()
    with FaultyNode(sound_for(150, "delete", status_only(401))) as node:
        connect(monkeypatch, [node.url])
        with pytest.raises(AirflowFailException, match=r"AuthenticationFailed(.|\n)*failed: 149$"):
            delete_300(task_context)
    summary = task_context["ti"].pushed["return_value"]
    assert (summary["keys"], summary["confirmed"], summary["unreachable"]) == (300, 150, 150)


def test_the_summary_has_what_was_stored_if_the_nodes_refuse_the_last_check(monkeypatch, operator_log):
    task_context = context()
    tables = {f"many_{n}": rows(n) for n in range(20)} | {"many_bad": ""}
    with FaultyNode(sound_for(0, "query", status_only(401))) as node:
        connect(monkeypatch, [node.url])
        with pytest.raises(AirflowFailException, match="AuthenticationFailed"):
            store(tables, task_context, max_failed_keys=1)
    summary = task_context["ti"].pushed["return_value"]
    assert (summary["stored"], summary["failed"], list(summary["failed_keys"])) == (20, 1, ["many_bad"])
    assert (summary["evicted"], summary["lost"]) == (None, None)
    assert [text.split(":")[1] for level, text in operator_log() if level == "ERROR"] == [" many_bad"]


def test_the_summary_has_what_was_stored_if_the_function_of_tables_fails(nodes, operator_log):
    def tables():
        yield "many_a", "n\n1\n"
        yield "many_bad", ""
        raise OSError("the source is gone")

    task_context = context()
    with pytest.raises(OSError, match="the source is gone"):
        store(tables, task_context)
    summary = task_context["ti"].pushed["return_value"]
    assert summary["stored"] + summary["failed"] <= 2
    assert (summary["evicted"], summary["lost"]) == (None, None)
    assert any("before the task failed" in text for _, text in operator_log())


def a_table():
    yield "many_a", "n\n1\n"


@pytest.mark.parametrize(
    ("tables", "expected"),
    [(a_table, f"{__name__}.a_table"), ({"a": "n\n1\n", "b": "n\n1\n"}, "2 tables")],
)
def test_tables_are_shown_by_name_or_number(tables, expected):
    task = QCachePostOperator(task_id="store", tables=tables)
    task.render_template_fields({})
    assert str(task.tables) == expected


@pytest.mark.parametrize(
    ("operations", "size", "seconds", "expected"),
    [
        (0, 0, 5, "0/s, 0.0 kB/s"),
        (1, 100, 5, "0.2/s, 0.0 kB/s"),
        (1530, 1_360_000, 5, "306/s, 272.0 kB/s"),
        (40, 200_000_000, 4, "10/s, 50.0 MB/s"),
        (5000, None, 5, "1,000/s"),
    ],
)
def test_the_speed_of_small_tables_is_shown(operations, size, seconds, expected):
    assert _report.format_speed(operations, size, seconds) == expected
