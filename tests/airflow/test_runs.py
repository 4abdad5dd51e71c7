"""What the runs of DAGs tell, against DAGs without QCache: the other tests rest on it."""

from __future__ import annotations

from scripts.airflow_runs import Runner


def test_a_run_has_states_tries_logs_results_and_waiting_dags(runner: Runner) -> None:
    """Retries are run, each try has its text, and an updated asset has its DAG waiting."""
    run = runner.run("upstream")
    again = runner.run("downstream")

    assert run.state == "failed"
    assert "downstream" in run.waiting
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
