"""Give the task of a DAG's last run its next try, as a scheduler does after the task was killed. Airflow 3.3.

`dag.test()` begins a new run each time, and so forgets what is kept for the task.
"""

from __future__ import annotations

import sys

from airflow.dag_processing.dagbag import DagBag
from airflow.models.dagrun import DagRun
from airflow.sdk.definitions.dag import _run_task
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState

(dag,) = (dag for name, dag in DagBag().dags.items() if name == sys.argv[1])
with create_session() as session:
    run = session.query(DagRun).filter_by(dag_id=dag.dag_id).order_by(DagRun.id.desc()).first()
    (ti,) = run.get_task_instances(session=session)
    ti.try_number += 1
    ti.state = TaskInstanceState.SCHEDULED
    session.commit()
    _run_task(ti=ti, task=dag.task_dict[ti.task_id])
    print(f"[NEXT TRY] try {ti.try_number}: {ti.state.value}")  # noqa: T201
