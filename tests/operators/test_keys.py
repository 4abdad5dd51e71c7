"""The keys that one run of many tables hands to later runs, and what those delete."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from airflow_provider_qcache.client import DeleteOutcome, DeleteResult, QClient
from airflow_provider_qcache.compat import AirflowFailException, ObjectStoragePath
from airflow_provider_qcache.operators import _keys
from airflow_provider_qcache.operators.errors import NodesUnreachable, TablesFailed
from airflow_provider_qcache.operators.qcache import QCacheDeleteOperator, QCachePostOperator
from airflow_provider_qcache.transfers.sql_to_qcache import SqlToQCacheOperator
from tests.operators.test_many import StateStore, context, found, keys_left, rows, store


def tables(*names):
    return {name: rows(name) for name in names}


def a_try(number, *, retries=2, max_tries=2, record=None):
    """The context of a task's try."""
    task_context = context(record, max_tries)
    task_context["ti"].try_number, task_context["ti"].task = (
        number,
        SimpleNamespace(retries=retries, do_xcom_push=True),
    )
    return task_context


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.txt"


class TestTheKeys:
    def test_are_returned_in_their_order_where_asked(self, nodes):
        assert store(lambda: tables("b", "a", "c").items(), return_keys=True)["keys"] == ["b", "a", "c"]
        assert "keys" not in store(tables("a"))

    @pytest.mark.parametrize("as_url", [False, True])
    def test_are_written_one_a_line(self, nodes, path, as_url):
        store(tables("b", "a"), keys_path=ObjectStoragePath(f"file://{path}") if as_url else path)
        assert path.read_text() == "b\na\n"

    def test_for_a_directory_fail_for_good_before_anything_is_stored(self, nodes, tmp_path):
        with pytest.raises(AirflowFailException, match=r"keys_path=.*: a directory; expected a file"):
            store(tables("k1"), keys_path=tmp_path)
        assert keys_left(nodes, ["k1"]) == []

    def test_of_a_task_that_fails_leave_the_old_list(self, nodes, path):
        path.write_text("old\n")
        with pytest.raises(TablesFailed):
            store(
                {"a": rows("a"), "bad": ""}.items,
                keys_path=path,
                delete_missing=path,
                max_failed_keys=0,
            )
        assert path.read_text() == "old\n"

    def test_that_are_too_many_to_return_fail_for_good_before_anything_is_stored(self, nodes, monkeypatch):
        monkeypatch.setattr(_keys, "MAX_XCOM_ROWS", 2)
        with pytest.raises(AirflowFailException, match=r"return_keys: more than 2 keys.*keys_path"):
            store(tables("k1", "k2", "k3"), return_keys=True)
        assert keys_left(nodes, ["k1", "k2", "k3"]) == []
        with pytest.raises(AirflowFailException, match="return_keys: more than 2 keys"):
            store(lambda: tables("k1", "k2", "k3").items(), return_keys=True)

    def test_of_a_resumed_try_are_all_of_them(self, nodes):
        record = StateStore()
        broken = {**tables("k1", "k2"), "k3": ""}
        with pytest.raises(TablesFailed):
            store(broken.items, a_try(1, record=record))
        broken["k3"] = rows("k3")
        result = store(broken.items, a_try(2, record=record), return_keys=True)
        assert (result["were_there"], result["keys"]) == (2, ["k1", "k2", "k3"])

    def test_need_several_tables(self):
        for arguments in (
            {"return_keys": True},
            {"keys_path": "x"},
            {"delete_missing": "x"},
            {"durable": False},
        ):
            (name,) = arguments
            with pytest.raises(ValueError, match=f"{name}: only for several tables"):
                store(None, key="k", content="a\n1\n", **arguments)
            with pytest.raises(ValueError, match=f"{name}: needs partition_by"):
                SqlToQCacheOperator(task_id="sql", sql="SELECT 1", key="k", sql_conn_id="c", **arguments)


class TestDurable:
    def test_false_repeats_everything_and_keeps_no_record(self, nodes):
        record = StateStore()
        broken = {**tables("k1", "k2"), "k3": ""}
        with pytest.raises(TablesFailed):
            store(broken.items, a_try(1, record=record), durable=False)
        assert record.writes == []
        broken["k3"] = rows("k3")
        assert store(broken.items, a_try(2, record=record), durable=False)["stored"] == 3


class TestDelete:
    def test_takes_what_a_task_returned_or_wrote(self, nodes, path):
        keys = ["k1", "k2"]
        result = store(tables(*keys), return_keys=True, keys_path=path)
        assert list(QCacheDeleteOperator(task_id="delete", keys=result).execute({})) == keys
        assert keys_left(nodes, keys) == []
        store(tables(*keys))
        assert list(QCacheDeleteOperator(task_id="delete", keys_path=path).execute({})) == keys
        assert keys_left(nodes, keys) == []

    @pytest.mark.parametrize(
        ("text", "message"), [("", "the file is empty"), ("a\nb c\n", "keys_path: line 2='b c'")]
    )
    def test_of_a_file_that_is_no_list_of_keys_fails_for_good(self, nodes, path, text, message):
        path.write_text(text)
        with pytest.raises(AirflowFailException, match=message):
            QCacheDeleteOperator(task_id="delete", keys_path=path).execute({})


class TestDeleteMissing:
    @pytest.mark.parametrize("form", ["path", "list", "result", "text"])
    def test_deletes_what_is_not_stored_any_more_and_nothing_else(self, nodes, path, form):
        earlier = store(tables("k1", "k2", "k3"), return_keys=True, keys_path=path)
        store(tables("other"))
        earlier_keys = {"path": path, "list": ["k1", "k2", "k3"], "result": earlier, "text": str(earlier)}[
            form
        ]
        result = store(tables("k2", "k4"), delete_missing=earlier_keys, keys_path=path)
        assert found(nodes, ["k1", "k2", "k3", "k4", "other"]) == [None, "k2", None, "k4", "other"]
        assert (result["deleted"], path.read_text()) == (2, "k2\nk4\n")

    def test_of_a_first_run_deletes_nothing(self, nodes, path, operator_log):
        assert "deleted" not in store(tables("k1"), delete_missing=path)
        line = f"delete_missing: there is no file {path} yet, so this run deletes nothing"
        assert ("WARNING", line) in operator_log()
        assert "deleted" not in store(tables("k1"), delete_missing="{{ none }}")

    def test_of_a_run_of_which_a_key_failed_deletes_nothing_and_keeps_the_keys(
        self, nodes, path, operator_log
    ):
        store(tables("k1", "k2", "k3"), keys_path=path)
        both = {"keys_path": path, "delete_missing": path}
        store({**tables("k1"), "k2": ""}.items, max_failed_keys=1, **both)
        assert found(nodes, ["k1", "k2", "k3"]) == ["k1", "k2", "k3"]
        assert path.read_text() == "k1\nk2\nk3\n"
        ((_, message),) = [line for line in operator_log() if "delete_missing" in line[1]]
        assert message == (
            "delete_missing: 1 key not deleted, since 1 table failed; "
            "the list of keys keeps them for a later run"
        )
        store(tables("k1", "k2"), **both)
        assert (keys_left(nodes, ["k3"]), path.read_text()) == ([], "k1\nk2\n")

    def test_of_a_retry_deletes_nothing_as_an_earlier_try_may_have_stored_other_keys(self, nodes, path):
        store(tables("k1", "k2"), keys_path=path)
        store(tables("k1"), a_try(2), keys_path=path, delete_missing=path)
        assert (found(nodes, ["k2"]), path.read_text()) == (["k2"], "k1\nk2\n")

    def test_of_a_task_that_was_cleared_deletes(self, nodes, path):
        """Airflow raises max_tries then: its first try is no retry."""
        store(tables("k1", "k2"), keys_path=path)
        store(tables("k1"), a_try(2, max_tries=3), keys_path=path, delete_missing=path)
        assert (keys_left(nodes, ["k2"]), path.read_text()) == ([], "k1\n")

    def test_of_a_run_without_tables_is_refused_unless_it_is_allowed(self, nodes):
        store(tables("k1"))
        with pytest.raises(
            TablesFailed, match=r"would delete all 1 table of the earlier run.*allow_empty=True"
        ):
            store(list, delete_missing=["k1"])
        assert found(nodes, ["k1"]) == ["k1"]
        assert store(list, delete_missing=["k1"], allow_empty=True)["deleted"] == 1
        assert keys_left(nodes, ["k1"]) == []

    def test_that_no_node_confirms_fails_the_task_and_leaves_the_list(self, nodes, path, monkeypatch):
        store(tables("k1", "k2"), keys_path=path)

        def delete_many(self, keys, *, on_done, **options):
            for key in keys:
                on_done(
                    key, DeleteResult(key=key, outcomes=dict.fromkeys(nodes.urls, DeleteOutcome.UNREACHABLE))
                )

        monkeypatch.setattr(QClient, "delete_many", delete_many)
        with pytest.raises(NodesUnreachable):
            store(tables("k1"), keys_path=path, delete_missing=path)
        assert path.read_text() == "k1\nk2\n"

    def test_that_is_no_list_is_refused_when_the_dag_is_parsed(self):
        for wrong in (5, {"a": 1}, ["a b"], b"a"):
            with pytest.raises(ValueError, match=r"^delete_missing"):
                store(tables("k1"), delete_missing=wrong)


def test_the_log_names_the_nodes_of_copies(nodes, operator_log):
    store(tables("k1"), copies=3)
    with QClient(nodes.urls, trust_env=False) as client:
        home, *others = client.successors("k1")
    for node in others:
        assert f"1 on {node}" in operator_log()[-1][1]
    QCachePostOperator(task_id="one", key="k1", content="a\n1\n", copies=3).execute({})
    assert operator_log()[-1][1].endswith(f"; copies on {others[0]}, {others[1]}")
    assert home not in operator_log()[-1][1].partition("; copies")[2]
