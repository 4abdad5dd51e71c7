"""Tables from a query, as tasks of a real Airflow."""

import os
import sqlite3
import tempfile
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pendulum
from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_qcache.transfers.sql_to_qcache import SqlToQCacheOperator

DATABASE = Path(tempfile.gettempdir()) / "sql.db"
os.environ["AIRFLOW_CONN_SQL"] = f"sqlite://{DATABASE}"
(Path(__file__).parent / "sales.sql").write_text("SELECT * FROM sales WHERE day <= '{{ params.last }}'\n")


@task
def fill():
    with closing(sqlite3.connect(DATABASE)) as database, database:
        database.execute("CREATE TABLE sales (region text, day text, zip text, amount real)")
        rows = [(region, f"2024-05-0{day}", "00501", day / 2) for day in range(1, 6) for region in ("n", "s")]
        database.executemany("INSERT INTO sales VALUES (?, ?, ?, ?)", rows)
    return "2024-05-02"


with DAG(
    "sql",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    params={"last": "2024-05-03"},
    default_args={"retries": 1, "retry_delay": timedelta(0), "sql_conn_id": "sql"},
):
    filled = fill()
    filled >> SqlToQCacheOperator(
        task_id="by_file", sql="sales.sql", key="sales_{region}_{day}", partition_by=["region", "day"]
    )
    SqlToQCacheOperator(
        task_id="by_parameter", sql="SELECT * FROM sales WHERE day = ?", parameters=[filled], key="sales_one"
    )
    filled >> SqlToQCacheOperator.partial(task_id="mapped", sql="SELECT count(*) AS n FROM sales").expand(
        key=["sales_a", "sales_b"]
    )
    filled >> SqlToQCacheOperator(
        task_id="empty", sql="SELECT 1 AS n WHERE false", key="sales_empty", on_empty="skip"
    )
    filled >> SqlToQCacheOperator(
        task_id="bad_key", sql="SELECT 'a.b' AS a", key="sales_{a}", partition_by=["a"]
    )
    filled >> SqlToQCacheOperator(task_id="bad_sql", sql="SELECT * FROM nowhere", key="sales_none")
