"""Leave what scripts/wheel_triggers has to a triggerer: watched assets, and a task that is deferred.

A scheduler and an executor take longer to start. So the sensor is called in this process, and its trigger
and the state of its task are stored as Airflow stores them. try_wheel.py starts this and the triggerer.
"""

from __future__ import annotations

from airflow.cli.cli_parser import get_parser
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.utils.session import create_session

try:
    from airflow.dag_processing.dagbag import DagBag  # from 3.2 on
except ImportError:
    from airflow.models.dagbag import DagBag


def run(*command: str) -> None:
    """A command of Airflow."""
    given = get_parser().parse_args(command)
    given.func(given)


def activate_assets() -> None:
    """Have the assets watched, as a scheduler does with those that a DAG waits for."""
    try:
        from airflow.models.asset import AssetActive, AssetModel  # noqa: PLC0415
    except ImportError:
        return  # Airflow 2 watches none
    with create_session() as session:
        for asset in session.query(AssetModel):
            if asset.active is None:
                asset.active = AssetActive.for_asset(asset)
    run("dags", "reserialize")


def main() -> None:
    """Store the DAGs and a run, then call the sensor."""
    run("dags", "reserialize")
    activate_assets()
    run("dags", "trigger", "wheel_waits")
    try:
        DagBag().dags["wheel_waits"].get_task("wait").execute({})
    except TaskDeferred as deferred:
        with create_session() as session:
            trigger = Trigger.from_object(deferred.trigger)
            session.add(trigger)
            session.flush()
            (task,) = session.query(TaskInstance).filter_by(dag_id="wheel_waits")
            task.state, task.trigger_id = "deferred", trigger.id
            task.next_method, task.next_kwargs = deferred.method_name, deferred.kwargs or {}


if __name__ == "__main__":
    main()
