"""Run DAGs with `dag.test()` on any Airflow and report the results of their tasks.

A program of its own, because an Airflow reads its configuration once per process; airflow_runs.py starts it.
Reads runs from standard input, a JSON object a line (`dag_id`, `logical_date`, `conf`), and writes an answer
for each, also a line, to the file descriptor in its argument. The log of tasks goes to standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from datetime import datetime
from typing import IO, Any

from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session

try:
    from airflow.dag_processing.dagbag import DagBag  # from 3.2 on
except ImportError:
    from airflow.models.dagbag import DagBag

try:
    from airflow.models.asset import AssetDagRunQueue
    from airflow.models.xcom import XComModel
except ImportError:
    from airflow.exceptions import AirflowTaskTerminated, AirflowTaskTimeout
    from airflow.models.dataset import DatasetDagRunQueue as AssetDagRunQueue
    from airflow.models.xcom import XCom as XComModel

    AIRFLOW_2 = True
    TASK_WAS_ENDED: tuple[type[BaseException], ...] = (AirflowTaskTerminated, AirflowTaskTimeout)
else:
    AIRFLOW_2 = False
    TASK_WAS_ENDED = ()


def run(bag: DagBag, settings: dict[str, Any]) -> dict[str, Any]:
    """One run of one DAG."""
    arguments: dict[str, Any] = {"run_conf": settings["conf"]}
    if (date := settings["logical_date"]) != "now":
        arguments["execution_date" if AIRFLOW_2 else "logical_date"] = date and datetime.fromisoformat(date)
    # Remove the events of earlier runs that other DAGs wait for.
    with create_session() as session:
        session.query(AssetDagRunQueue).delete()
    # 2.11 records a killed or timed-out task, and raises its error through the run.
    with contextlib.suppress(*TASK_WAS_ENDED):
        bag.dags[settings["dag_id"]].test(**arguments)
    with create_session() as session:
        done = session.query(DagRun).filter_by(dag_id=settings["dag_id"]).order_by(DagRun.id.desc()).first()
        xcoms: dict[tuple[str, int], dict[str, Any]] = {}
        for row in session.query(XComModel).filter_by(dag_id=done.dag_id, run_id=done.run_id):
            value = row.value if AIRFLOW_2 else XComModel.deserialize_value(row)
            xcoms.setdefault((row.task_id, row.map_index), {})[row.key] = value
        return {
            "dag_id": done.dag_id,
            "state": str(done.state),
            "tasks": [
                {
                    "task_id": task.task_id,
                    "map_index": task.map_index,
                    "state": str(task.state),
                    "retries": task.max_tries,
                    "pool": task.pool,
                    "xcoms": xcoms.get((task.task_id, task.map_index), {}),
                }
                for task in done.get_task_instances(session=session)
            ],
            "waiting": sorted({row.target_dag_id for row in session.query(AssetDagRunQueue)}),
        }


def answer(out: IO[str], **text: Any) -> None:
    """Write one line of JSON, with other values, such as assets, as text."""
    print(json.dumps(text, default=str), file=out, flush=True)


def main() -> None:
    """Load the DAGs folder, then run the DAGs that standard input names."""
    with os.fdopen(int(sys.argv[1]), "w") as out:
        bag = DagBag()
        if bag.import_errors:
            answer(out, error="\n".join(f"{file}: {error}" for file, error in bag.import_errors.items()))
            return
        # From 3.1 on dag.test() does it. On 3.0 a task fails whose assets are not in the database.
        if AIRFLOW_2:
            bag.sync_to_db()
        elif hasattr(bag, "sync_to_db"):
            from airflow.dag_processing.bundles.manager import DagBundlesManager  # noqa: PLC0415

            DagBundlesManager().sync_bundles_to_db()
            bag.sync_to_db("dags-folder", None)
        answer(out, dags=sorted(bag.dags))
        for line in sys.stdin:
            try:
                done = run(bag, json.loads(line))
            except Exception:  # noqa: BLE001 - whatever it is, it is for the other side to see
                answer(out, error=traceback.format_exc())
            else:
                answer(out, **done)


if __name__ == "__main__":
    main()
