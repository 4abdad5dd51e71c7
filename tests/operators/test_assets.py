"""Which assets an operator updates, and what their events tell."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from airflow_provider_qcache.assets.qcache import qcache_asset
from airflow_provider_qcache.compat import AssetAlias
from airflow_provider_qcache.operators.qcache import QCacheDeleteOperator, QCachePostOperator
from airflow_provider_qcache.transfers.sql_to_qcache import SqlToQCacheOperator

try:
    from airflow.sdk.execution_time.context import OutletEventAccessors
except ImportError:
    from airflow.utils.context import OutletEventAccessors

CONTENT = "n,zip\n1,00501\n2,00502\n"


def post(**arguments):
    return QCachePostOperator(task_id="post", **{"key": "orders", "content": CONTENT, **arguments})


def run(task):
    """Run a task; gives the events that it leaves to Airflow."""
    events = OutletEventAccessors()
    task.render_template_fields({"ds": "20240501"})
    task.execute({"outlet_events": events})
    return events


def extra_of(task, asset):
    return run(task)[asset].extra


def aliased(task, alias):
    """The event of an alias: the URI of its asset, and the extra."""
    (event,) = [
        event
        for name in ("asset_alias_events", "dataset_alias_events")
        for event in getattr(run(task)[alias], name, ())
    ]
    if isinstance(event, dict):
        return event["dest_dataset_uri"], dict(event["extra"])
    return event.dest_asset_key.uri, dict(event.extra)


class TestOutlets:
    def test_no_operator_has_one_of_its_own_unless_it_is_asked(self):
        assert post().outlets == []
        assert post(emit_asset=False).outlets == []

    def test_of_a_key_that_the_dag_has(self):
        sql = {"sql": "SELECT 1", "sql_conn_id": "db", "emit_asset": True}
        partitions = {"key": "sales_{region}", "partition_by": ["region"]}
        assert [
            task.outlets
            for task in (
                post(emit_asset=True),
                post(emit_asset=True, qcache_conn_id="other"),
                post(emit_asset=True, content=None, source_path="x/*.csv", key="sales_{stem}"),
                QCacheDeleteOperator(task_id="delete", key="orders", emit_asset=True),
                SqlToQCacheOperator(task_id="one", key="sales", **sql),
                SqlToQCacheOperator(task_id="many", **partitions, **sql),
            )
        ] == [
            [qcache_asset("orders")],
            [qcache_asset("orders", "other")],
            [qcache_asset("sales_{stem}")],
            [qcache_asset("orders")],
            [qcache_asset("sales")],
            [qcache_asset("sales_{region}")],
        ]

    def test_is_not_added_where_it_is_there(self):
        assert post(emit_asset=True, outlets=[qcache_asset("orders")]).outlets == [qcache_asset("orders")]
        alias = AssetAlias("by_day")
        assert post(emit_asset=True, outlets=[alias]).outlets == [alias]

    @pytest.mark.parametrize(
        "make",
        [
            lambda **more: post(key="orders_{{ ds }}", **more),
            lambda **more: post(qcache_conn_id="{{ params.cluster }}", **more),
            lambda **more: post(key=None, content=None, tables=list, **more),
            lambda **more: QCacheDeleteOperator(task_id="delete", keys=["a", "b"], **more),
            lambda **more: QCachePostOperator.partial(task_id="post", content=CONTENT, **more).expand(
                key=["a", "b"]
            ),
        ],
        ids=["key", "connection", "tables", "keys", "mapped"],
    )
    def test_that_only_a_run_knows_need_an_alias(self, make):
        with pytest.raises(ValueError, match=r"emit_asset=True: .* pass outlets=\[AssetAlias"):
            make(emit_asset=True)
        make(emit_asset=True, outlets=[AssetAlias("alias")])

    def test_cannot_be_left_to_a_template(self):
        with pytest.raises(ValueError, match=r"emit_asset='{{ params.emit }}': emit_asset is not templated"):
            post(emit_asset="{{ params.emit }}")


class TestEvents:
    def test_of_a_table(self, nodes):
        task = post(copies=2, outlets=[qcache_asset("orders"), qcache_asset("other"), AssetAlias("alias")])
        events = run(task)
        home, second = task_successors(nodes, "orders")[:2]
        assert events[qcache_asset("orders")].extra == {
            "operation": "store",
            "key": "orders",
            "rows": 2,
            "bytes": len(CONTENT),
            "node": home,
            "copies": [second],
        }
        assert events[qcache_asset("other")].extra == {}

    def test_of_an_outlet_with_a_templated_key(self, nodes):
        asset = qcache_asset("orders_20240501")
        assert extra_of(post(key="orders_{{ ds }}", outlets=[asset]), asset)["key"] == "orders_20240501"

    def test_of_an_alias(self, nodes):
        alias = AssetAlias("by_day")
        uri, extra = aliased(post(key="orders_{{ ds }}", emit_asset=True, outlets=[alias], copies=2), alias)
        assert uri == qcache_asset("orders_20240501").uri
        assert (extra["rows"], len(extra["copies"])) == (2, 1)
        hash(frozenset(extra.items()))  # as Airflow 2 does

    def test_of_many_tables_is_one(self, nodes):
        alias = AssetAlias("all")
        tables = {f"sales_{number}": [{"n": number}] for number in range(20)}
        task = post(key=None, content=None, tables=tables, emit_asset=True, outlets=[alias])
        uri, extra = aliased(task, alias)
        assert uri == qcache_asset("sales_*").uri
        assert {name: extra[name] for name in ("operation", "keys", "stored", "failed", "rows")} == {
            "operation": "store",
            "keys": "sales_*",
            "stored": 20,
            "failed": 0,
            "rows": 20,
        }
        assert set(extra["nodes"]) <= set(nodes.urls)

    def test_of_many_tables_goes_to_an_outlet_that_covers_them(self, nodes):
        def tables():
            yield "sales_1", [{"n": 1}]
            yield "sales_2", [{"n": 1}]

        wide, narrow = qcache_asset("sales*"), qcache_asset("sales_1*")
        task = post(key=None, content=None, tables=tables, outlets=[wide, narrow])
        events = run(task)
        assert events[wide].extra["keys"] == "sales_*"
        assert events[narrow].extra == {}

    def test_of_partitions_is_one(self, nodes, tmp_path, monkeypatch):
        database = tmp_path / "db"
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("CREATE TABLE sales AS SELECT 'n' AS region UNION ALL SELECT 's'")
        monkeypatch.setenv("AIRFLOW_CONN_LITE", f"sqlite://{database}")
        task = SqlToQCacheOperator(
            task_id="sql",
            sql="SELECT * FROM sales",
            sql_conn_id="lite",
            key="sales_{region}",
            partition_by=["region"],
            emit_asset=True,
        )
        extra = extra_of(task, qcache_asset("sales_{region}"))
        assert (extra["keys"], extra["stored"], extra["rows"]) == ("sales_{region}", 2, 2)

    def test_of_a_delete(self, nodes):
        asset = qcache_asset("orders")
        task = QCacheDeleteOperator(task_id="delete", key="orders", emit_asset=True)
        assert extra_of(task, asset) == {
            "operation": "delete",
            "key": "orders",
            "tables": 1,
            "confirmed": 3,
            "gone": 0,
            "unreachable": 0,
        }

    @pytest.mark.parametrize("number", [3, 1001])
    def test_of_many_deletes_is_one(self, nodes, number):
        alias = AssetAlias("forgotten")
        keys = [f"sales_{each}" for each in range(number)]
        task = QCacheDeleteOperator(task_id="delete", keys=keys, emit_asset=True, outlets=[alias])
        uri, extra = aliased(task, alias)
        assert uri == qcache_asset("sales_*").uri
        assert (extra["keys"], extra["tables"], extra["confirmed"]) == ("sales_*", number, 3 * number)

    def test_there_is_none_without_airflow(self, nodes):
        assert post(outlets=[qcache_asset("orders")]).execute({})["rows"] == 2


def task_successors(nodes, key):
    from airflow_provider_qcache.hooks.qcache import QCacheHook

    with QCacheHook() as hook:
        return hook.successors(key)


def test_keys_that_are_refused_are_in_no_asset(nodes):
    """A task may be a success with failed keys; its event is of the keys that could be stored."""
    alias = AssetAlias("tables")
    task = QCachePostOperator(
        task_id="many",
        tables=lambda: [("a b1", CONTENT), ("t_1", CONTENT), ("a b2", CONTENT)],
        max_failed_keys=2,
        emit_asset=True,
        outlets=[alias],
    )
    uri, extra = aliased(task, alias)
    assert uri == "qcache://qcache_default/t_1"
    assert extra["failed"] == 2
