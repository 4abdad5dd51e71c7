"""Tables, queries and keys that come from other tasks, mapped or not."""

from datetime import timedelta
from pathlib import Path

import pendulum
from airflow.providers.common.compat.sdk import DAG, ObjectStoragePath, task, task_group

from airflow_provider_qcache.operators.qcache import (
    QCacheDeleteOperator,
    QCachePostOperator,
    QCacheQueryOperator,
)


def dag(name):
    return DAG(
        f"operators_{name}",
        schedule=None,
        start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
        template_searchpath=[str(Path(__file__).parent)],
        default_args={"retries": 1, "retry_delay": timedelta(0)},
    )


(Path(__file__).parent / "count.json").write_text('{"select": [["count"]]}')

# Rendering it would fail.
TEMPLATE = "{{ 1 / 0 }}"


@task
def rows(count):
    return [{"n": n, "text": TEMPLATE} for n in range(count)]


@task
def text():
    return "n,text\n0," + TEMPLATE + "\n"


@task
def path():
    found = ObjectStoragePath(f"file://{Path(__file__).parent}/table.csv")
    found.write_bytes(b"n,text\n0,from a file\n")
    return found


@task
def row(n):
    return {"n": n, "text": TEMPLATE}


@task
def several():
    return [[{"n": 1}], "n\n1\n2\n", [{"n": n} for n in range(3)]]


@task
def nothing():
    return None


@task
def keys():
    return ["rows", "text"]


@task
def one_key(n):
    return f"both_{n}"


@task
def frame():
    import pandas as pd
    from airflow import __version__

    rows = [{"zip": "00501", "text": TEMPLATE}]
    # The XCom of Airflow 2.11 knows the DataFrame of pandas before 3 only.
    return rows if __version__.startswith("2") else pd.DataFrame(rows)


def files(name):
    import polars as pl

    directory = Path(__file__).parent / "files"
    directory.mkdir(exist_ok=True)
    for stem in ("a", "b"):
        pl.DataFrame({"zip": ["00501"], "text": [stem]}).write_parquet(directory / f"{stem}.parquet")
    return pl.read_parquet(directory / f"{name}.parquet")


with dag("store"):
    QCachePostOperator(task_id="from_frame", key="frame", content=frame())
    written = QCachePostOperator(
        task_id="from_polars", key="polars", python_callable=files, op_args=["a"], compression="gzip"
    )
    written >> [
        QCachePostOperator(
            task_id="from_directory", key="files", source_path=f"{Path(__file__).parent}/files"
        ),
        QCachePostOperator(
            task_id="from_each",
            key="file_{stem}_{{ dag.dag_id }}",
            source_path=f"file://{Path(__file__).parent}/files/*.parquet",
        ),
    ]
    QCachePostOperator(task_id="from_rows", key="rows", content=rows(20_000))
    QCachePostOperator(task_id="from_text", key="text", content=text())
    QCachePostOperator(task_id="from_path", key="path", content=path())
    QCachePostOperator(task_id="from_mapped", key="mapped", content=row.expand(n=[0, 1, 2]))
    QCachePostOperator.partial(task_id="over_content", key="over_content").expand(content=several())
    QCachePostOperator.partial(task_id="over_key", content=text()).expand(key=["key_0", "key_1"])
    QCachePostOperator.partial(task_id="over_both").expand_kwargs(
        [{"key": "both_0", "content": "n\n1\n"}, {"key": "both_1", "content": [{"n": 1}, {"n": 2}]}]
    )

    @task_group
    def group(table):
        QCachePostOperator(task_id="store", key="group", content=table)

    group.expand(table=several())

with dag("query"):
    QCacheQueryOperator.partial(task_id="ask", key="rows").expand(
        query=[{"limit": 1}, '{"where": ["<", "n", 2]}', "count.json"]
    )

with dag("delete"):
    QCacheDeleteOperator(task_id="listed", keys=keys())
    QCacheDeleteOperator(task_id="of_mapped", keys=one_key.expand(n=[0, 1]))
    QCacheDeleteOperator.partial(task_id="mapped").expand(key=["key_0", "key_1"])

with dag("nothing"):
    QCacheDeleteOperator(task_id="key", key=nothing())
    QCacheQueryOperator(task_id="query", key="rows", query=nothing())
    QCachePostOperator(task_id="content", key="rows", content=nothing())
    QCachePostOperator.partial(task_id="mapped", content="n\n1\n").expand(key=["a", "a b"])
