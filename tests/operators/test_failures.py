"""What a task does about each error of the client: as docs/reference/errors.md says, class by class."""

from __future__ import annotations

import inspect
import re
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from airflow_provider_qcache.client import QClient, RequestRetry, errors
from airflow_provider_qcache.compat import AirflowException, AirflowFailException
from airflow_provider_qcache.hooks.qcache import QCacheHook
from airflow_provider_qcache.operators import errors as ours
from airflow_provider_qcache.operators.qcache import (
    QCacheDeleteOperator,
    QCachePostOperator,
    QCacheQueryOperator,
)
from tests.harness.connection import connect
from tests.harness.ports import closed_port
from tests.harness.servers import ROOT

FOR_GOOD = "fails for good"
RETRIED = "is retried"
FOR_GOOD_IF_LITERAL = (
    "fails for good if the table is written in the DAG of a task that is not mapped, else is retried"
)

PAGE = ROOT / "docs" / "reference" / "errors.md"

CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, errors.QClientException) and not name.startswith("_")
}
OURS = {
    name: kind
    for name, kind in vars(ours).items()
    if inspect.isclass(kind) and kind.__module__ == ours.__name__ and not name.startswith("_")
}


def documented():
    """The rows of the table in the docs: class and what a task does."""
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", PAGE.read_text(), re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a class is there once"
    return dict(rows)


@pytest.fixture(autouse=True)
def connection(monkeypatch):
    """A connection that no test reaches anything by."""
    connect(monkeypatch, [f"http://127.0.0.1:{closed_port()}"], wait_for_nodes=False)


def test_the_table_has_every_class():
    assert set(documented()) == set(CLASSES) | set(OURS)
    assert set(documented().values()) == {FOR_GOOD, RETRIED, FOR_GOOD_IF_LITERAL}


def test_the_table_says_which_errors_of_the_client_are_transient():
    again = dict(
        re.findall(r"^\| `(\w+)` \|.*\| (yes|no|if any is) \| [^|]+ \|$", PAGE.read_text(), re.MULTILINE)
    )
    yes_or_no = {name: "yes" if kind.transient else "no" for name, kind in CLASSES.items()}
    assert again == {**yes_or_no, "BulkError": "if any is"}


def upstream_file(tmp_path):
    (tmp_path / "table.csv").write_text("a\n1\n")
    return tmp_path / "table.csv"


@contextmanager
def raises_as_said(error, text, *, literal):
    """The block raises what the table says of the error: AirflowFailException, or the error itself."""
    for_good = text == FOR_GOOD or (literal and text == FOR_GOOD_IF_LITERAL)
    with pytest.raises(AirflowFailException if for_good else type(error)) as caught:
        yield
    assert (caught.value.__cause__ if for_good else caught.value) is error
    if for_good:
        assert str(caught.value).startswith(f"{type(error).__name__}: it happened")


@pytest.mark.parametrize("name", CLASSES)
class TestEveryClass:
    def test_of_a_store(self, name, monkeypatch, tmp_path):
        error = CLASSES[name]("it happened")
        monkeypatch.setattr(QClient, "post", raiser(error))
        sources = {
            "content": ("a\n1\n", True),
            "source_path": (upstream_file(tmp_path), False),
            "python_callable": (lambda: "a\n1\n", False),
        }
        for argument, (value, literal) in sources.items():
            task = QCachePostOperator(task_id="post", key="k", **{argument: value})
            with raises_as_said(error, documented()[name], literal=literal):
                task.execute({})

    def test_of_a_store_of_what_was_mapped(self, name, monkeypatch):
        """It may be another task's result."""
        error = CLASSES[name]("it happened")
        monkeypatch.setattr(QClient, "post", raiser(error))
        task = QCachePostOperator(task_id="post", key="k", content="a\n1\n")
        with raises_as_said(error, documented()[name], literal=False):
            task.execute({"ti": SimpleNamespace(map_index=0)})

    def test_of_a_query(self, name, monkeypatch):
        error = CLASSES[name]("it happened")
        monkeypatch.setattr(QClient, "get", raiser(error))
        monkeypatch.setattr(QClient, "query", raiser(error))
        for load in ({}, {"load_callable": lambda: "a\n1\n"}):
            task = QCacheQueryOperator(task_id="query", key="k", query={}, **load)
            with raises_as_said(error, documented()[name], literal=False):
                task.execute({})

    def test_of_a_delete(self, name, monkeypatch):
        """It is NodesUnreachable, whose cause is the error, or fails for good; a cancel stays one."""
        error = CLASSES[name]("it happened")
        if name == "OperationCancelled":
            monkeypatch.setattr(QClient, "delete_many", raiser(error))
            with raises_as_said(error, RETRIED, literal=False):
                QCacheDeleteOperator(task_id="delete", key="k").execute({})
            return
        monkeypatch.setattr(QClient, "delete_many", deleting({"k": error}))
        with pytest.raises(AirflowException, match=f"{name}: it happened") as caught:
            QCacheDeleteOperator(task_id="delete", key="k").execute({})
        for_good = documented()[name] == FOR_GOOD
        assert type(caught.value) is (AirflowFailException if for_good else ours.NodesUnreachable)
        assert caught.value.__cause__ is error


def deleting(failed):
    """Stands for the client's delete_many: each key fails with its error."""

    def delete_many(self, keys, *, on_done, **options):
        for key in keys:
            on_done(key, failed[key])

    return delete_many


def raiser(error):
    def method(*arguments, **options):
        raise error

    return method


def test_another_s_class_of_the_same_name_is_left_alone():
    class InvalidKey(Exception):
        """As cryptography has one."""

    task = QCachePostOperator(task_id="post", key="k", python_callable=raiser(InvalidKey("the file's")))
    with pytest.raises(InvalidKey, match="the file's"):
        task.execute({})


@pytest.mark.parametrize("name", sorted(OURS.keys() - {"InvalidArgument"}))
def test_of_our_own_classes(name):
    """They are no AirflowFailException, and so retried."""
    assert documented()[name] == RETRIED
    assert issubclass(OURS[name], AirflowException)
    assert not issubclass(OURS[name], AirflowFailException)
    assert OURS[name].transient


def test_of_an_argument_that_makes_no_sense():
    """A ValueError where a DAG is parsed; a mapped task, which is made as it runs, fails for good."""
    assert documented()["InvalidArgument"] == FOR_GOOD
    assert issubclass(ours.InvalidArgument, ValueError)
    assert issubclass(ours.InvalidArgument, AirflowFailException)


def test_every_transient_class_is_retried():
    for name, kind in CLASSES.items():
        if kind.transient:
            assert documented()[name] == RETRIED


def test_many_keys_fail_for_good_if_one_does(monkeypatch):
    failed = {"a": errors.NoCacheAvailable("down"), "b": errors.AuthenticationFailed("refused")}
    monkeypatch.setattr(QClient, "delete_many", deleting(failed))
    with pytest.raises(AirflowFailException, match="AuthenticationFailed: refused"):
        QCacheDeleteOperator(task_id="delete", keys=["a", "b"]).execute({})
    failed["b"] = errors.DeadlineExceeded("late")
    with pytest.raises(ours.NodesUnreachable, match=r"2 of 2 keys(.|\n)*down(.|\n)*late"):
        QCacheDeleteOperator(task_id="delete", keys=["a", "b"]).execute({})


@pytest.mark.parametrize(
    "extra",
    [{"nodes": []}, {"nodes": ["http://host1:9401"], "read_timeout": "soon"}, {"nodez": ["http://a"]}],
)
def test_a_connection_that_makes_no_client_fails_for_good(monkeypatch, extra):
    connect(monkeypatch, **{"urls": extra.pop("nodes", []), **extra})
    with pytest.raises(AirflowFailException, match="InvalidConnection"):
        QCacheDeleteOperator(task_id="delete", key="k").execute({})


def test_a_connection_that_is_missing_is_airflow_s_error():
    """It may be made meanwhile."""
    with pytest.raises(Exception, match="no_such_connection") as caught:
        QCacheDeleteOperator(task_id="delete", key="k", qcache_conn_id="no_such_connection").execute({})
    assert not isinstance(caught.value, AirflowFailException)


class TestTheHook:
    @pytest.fixture
    def hooks(self, monkeypatch):
        """Every hook that is made, with whether it was closed and cancelled."""
        made = []

        class Watched(QCacheHook):
            closed = cancelled = 0

            def __init__(self, *arguments, **options):
                super().__init__(*arguments, **options)
                made.append(self)

            def close(self):
                self.closed += 1
                super().close()

            def cancel(self):
                self.cancelled += 1
                super().cancel()

        monkeypatch.setattr("airflow_provider_qcache.hooks.qcache.QCacheHook", Watched)
        return made

    @pytest.mark.parametrize("ended", [KeyboardInterrupt, errors.NoCacheAvailable, None])
    def test_is_closed_whatever_happens(self, hooks, monkeypatch, ended):
        monkeypatch.setattr(QClient, "get", raiser(ended()) if ended else lambda *arguments: None)
        task = QCacheQueryOperator(task_id="query", key="k", query={}, on_miss="return_none")
        if ended is None:
            task.execute({})
        else:
            with pytest.raises(ended):
                task.execute({})
        (hook,) = hooks
        assert hook.closed == 1

    def test_is_cancelled_when_the_task_is_killed(self, hooks, monkeypatch):
        task = QCacheQueryOperator(task_id="query", key="k", query={}, on_miss="return_none")
        monkeypatch.setattr(QClient, "get", lambda *arguments: task.on_kill())
        task.on_kill()
        task.execute({})
        task.on_kill()
        assert [hook.cancelled for hook in hooks] == [1]

    @pytest.mark.parametrize("request_retry", [None, RequestRetry(wait_max=1), {"wait_max": 1}])
    def test_gets_the_task_s_request_retry(self, hooks, monkeypatch, request_retry):
        monkeypatch.setattr(QClient, "get", lambda *arguments: None)
        task = QCacheQueryOperator(
            task_id="query", key="k", query={}, on_miss="return_none", request_retry=request_retry
        )
        task.execute({})
        assert hooks[0].request_retry == request_retry

    def test_that_refuses_its_arguments_fails_for_good(self, monkeypatch):
        monkeypatch.setattr(QCacheHook, "__init__", raiser(ValueError("request_retry: no")))
        with pytest.raises(AirflowFailException, match="request_retry: no"):
            QCacheDeleteOperator(task_id="delete", key="k").execute({})
