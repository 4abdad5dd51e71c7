"""Functions that give tables and queries, and a branch by what is there."""

import pendulum
from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_qcache.operators.qcache import QCacheBranchOperator, QCacheDeleteOperator

with DAG("decorated", schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC")):

    @task.qcache_post(key="decorated_{{ dag.dag_id }}", column_types={"zip": "string"})
    def warm(zips, ds=None, *, last):
        return "zip,day\n" + "".join(f"{zip_code},{ds}\n" for zip_code in [*zips, last])

    @task.qcache_query(key="decorated_decorated", result_processor=len)
    def of(zip_code, run_id=None):
        assert run_id
        return {"where": ["==", "zip", f"'{zip_code}'"]}

    @task
    def last_zip():
        return "00502"

    @task
    def used():
        return "used"

    warmed = warm(["00501"], last=last_zip())
    asked = of.expand(zip_code=["00501", "99999"])
    branch = QCacheBranchOperator(
        task_id="branch",
        key="decorated_decorated",
        min_rows=2,
        follow_task_ids_if_true="used",
        follow_task_ids_if_false="forget",
    )
    warmed >> asked >> branch >> [used(), QCacheDeleteOperator(task_id="forget", key="decorated_decorated")]
