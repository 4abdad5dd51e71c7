"""What the runs of DAGs tell, against DAGs without QCache: the other tests rest on it."""

from __future__ import annotations

DAGS = """
from datetime import datetime, timedelta
from airflow.providers.common.compat.sdk import DAG, Asset, task

LOADED = Asset("example://loaded")

RETRIES = {"retries": 1, "retry_delay": timedelta(0)}

with DAG("upstream", start_date=datetime(2026, 1, 1), default_args=RETRIES):

    @task(outlets=[LOADED])
    def loads():
        return [1, 2]

    @task
    def fails_once(ti=None):
        print(f"this is try {ti.try_number}")
        if ti.try_number == 1:
            raise RuntimeError("once")

    @task
    def fails():
        raise RuntimeError("always")

    @task
    def doubles(x):
        print(f"doubling {x}")
        return 2 * x

    doubles.expand(x=loads())
    fails_once()
    fails()

with DAG("downstream", start_date=datetime(2026, 1, 1), schedule=[LOADED]):

    @task
    def follows(params=None):
        return params

    follows()
"""


def test_a_run_tells_states_tries_logs_results_and_who_waits(start_runner):
    """Retries are run, each try has its text, and an updated asset has its DAG waiting."""
    with start_runner(DAGS, connections={}) as runner:
        run = runner.run("upstream")
        again = runner.run("downstream")

    assert run.state == "failed"
    assert run.waiting == ("downstream",)
    assert (run["loads"].state, run["loads"].result) == ("success", [1, 2])
    assert [task.result for task in run.mapped("doubles")] == [2, 4]
    assert "doubling 2" in run.mapped("doubles")[1].log
    assert "doubling 1" not in run.mapped("doubles")[1].log
    assert run["fails_once"].state == "success"
    first, second = run["fails_once"].logs
    assert "this is try 1" in first
    assert "this is try 2" in second
    assert (run["fails"].state, len(run["fails"].logs)) == ("failed", 2)
    assert "RuntimeError: always" in run["fails"].log
    assert again.state == "success"
