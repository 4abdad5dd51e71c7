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


with dag("store"):
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
    QCacheDeleteOperator.partial(task_id="mapped").expand(key=["key_0", "key_1"])

with dag("nothing"):
    QCacheDeleteOperator(task_id="key", key=nothing())
    QCacheQueryOperator(task_id="query", key="rows", query=nothing())
    QCachePostOperator(task_id="content", key="rows", content=nothing())
    QCachePostOperator.partial(task_id="mapped", content="n\n1\n").expand(key=["a", "a b"])
