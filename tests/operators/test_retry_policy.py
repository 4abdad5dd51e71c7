"""When Airflow tries a task again, by the error that ended the last try."""

from __future__ import annotations

import importlib
import json
from datetime import timedelta

import pytest

from airflow_provider_qcache import client
from airflow_provider_qcache.extras import MissingExtra
from airflow_provider_qcache.operators import errors
from airflow_provider_qcache.operators.errors import FOR_GOOD
from airflow_provider_qcache.operators.qcache import QCacheDeleteOperator
from airflow_provider_qcache.operators.retry import qcache_retry_policy
from airflow_provider_qcache.sensors.qcache import QCacheTableSensor

try:
    from airflow.sdk import ExceptionRetryPolicy, RetryAction
except ImportError:

    def test_the_error_before_airflow_3_3_names_the_alternative():
        with pytest.raises(RuntimeError, match=r"qcache_retry_policy needs Airflow 3\.3: .* retry_delay"):
            qcache_retry_policy()

    def test_operators_have_no_policy_there():
        assert not hasattr(QCacheDeleteOperator(task_id="t", key="k"), "retry_policy")

else:

    def decision(policy, error):
        found = policy.evaluate(error, try_number=1, max_tries=3)
        return found.action, found.retry_delay

    @pytest.fixture(params=["made", "serialised"])
    def policy(request):
        """As it is made, and as it comes back from JSON, which Airflow itself reads."""
        made = qcache_retry_policy(node_wait=600, error_wait=timedelta(seconds=5))
        if request.param == "made":
            return made
        return ExceptionRetryPolicy.deserialize(json.loads(json.dumps(made.serialize())))

    LONG = {"NoCacheAvailable", "HomeNodeUnavailable", "NodesUnreachable", "StoredOnFailover"}
    SHORT = {
        "TooManyConsecutiveErrors",
        "DeadlineExceeded",
        "StoreUncertain",
        "NodeOverloaded",
        "LocalResourceError",
        "RowCountMismatch",
    }
    ALL = {
        **{name: getattr(client, name) for name in client.__all__},
        **{name: getattr(errors, name) for name in errors.__all__},
        "MissingExtra": MissingExtra,
    }
    CLASSES = {
        name: kind for name, kind in ALL.items() if isinstance(kind, type) and issubclass(kind, Exception)
    }

    @pytest.mark.parametrize("name", CLASSES)
    def test_every_error_waits_as_its_kind_does(policy, name):
        error = CLASSES[name].__new__(CLASSES[name])
        if name in FOR_GOOD:
            assert decision(policy, error) == (RetryAction.FAIL, None)
        elif name in LONG:
            assert decision(policy, error) == (RetryAction.RETRY, timedelta(seconds=600))
        elif name in SHORT:
            assert decision(policy, error) == (RetryAction.RETRY, timedelta(seconds=5))
        else:
            assert decision(policy, error) == (RetryAction.DEFAULT, None)

    def test_the_kinds_name_classes_that_there_are(policy):
        assert CLASSES.keys() >= LONG | SHORT | FOR_GOOD

    def test_the_errors_of_others_are_left_to_airflow(policy):
        assert decision(policy, ValueError()) == (RetryAction.DEFAULT, None)

    def test_waits_as_the_task_says_by_default():
        assert decision(qcache_retry_policy(), client.NoCacheAvailable()) == (RetryAction.RETRY, None)

    @pytest.mark.parametrize("kind", [QCacheDeleteOperator, QCacheTableSensor])
    def test_is_the_default_of_operators_and_sensors(kind):
        policy = kind(task_id="t", key="k").retry_policy
        assert isinstance(policy, ExceptionRetryPolicy)
        error = client.TooManyConsecutiveErrors()
        assert decision(policy, error) == (RetryAction.RETRY, timedelta(seconds=30))

    def test_never_waits_longer_than_the_task_s_own_delay():
        task = QCacheDeleteOperator(task_id="t", key="k", retry_delay=timedelta(seconds=3))
        policy = task.retry_policy
        error = client.TooManyConsecutiveErrors()
        assert decision(policy, error) == (RetryAction.RETRY, timedelta(seconds=3))

    @pytest.mark.parametrize("own", [None, qcache_retry_policy(node_wait=1)])
    def test_an_author_s_policy_is_left_alone(own):
        assert QCacheDeleteOperator(task_id="t", key="k", retry_policy=own).retry_policy is own

    @pytest.mark.parametrize("name", ["node_wait", "error_wait"])
    def test_a_negative_wait_is_refused(name):
        with pytest.raises(ValueError, match=f"{name}=-1: expected seconds or a timedelta, 0 or more"):
            qcache_retry_policy(**{name: -1})

    def test_the_class_is_where_a_worker_finds_it():
        policy = qcache_retry_policy()
        module = importlib.import_module(type(policy).__module__)
        assert getattr(module, type(policy).__name__) is type(policy)
