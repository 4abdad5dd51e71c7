"""What a query's rows leave on the nodes, and what the task returns."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime

import pytest
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_qcache.client import InvalidTable, OperationCancelled
from airflow_provider_qcache.compat import AirflowFailException, AirflowSkipException
from airflow_provider_qcache.operators.errors import StoredOnFailover
from airflow_provider_qcache.transfers.sql_to_qcache import QueryEmpty, SqlToQCacheOperator
from tests.operators.test_import import AIRFLOW, loaded_by
from tests.transfers.conftest import run_task

ROWS = [{"zip": "00501", "n": 1, "state": "NY"}, {"zip": "02139", "n": 2, "state": "MA"}]
BY_STATE = {"key": "zips_{state}", "partition_by": ["state"]}


@pytest.fixture(autouse=True)
def zips(sqlite, nodes):
    """Two rows in the database, and no table on the nodes."""
    sqlite.execute("CREATE TABLE zips (zip text, n integer, state text)")
    sqlite.executemany("INSERT INTO zips VALUES (:zip, :n, :state)", ROWS)
    for key in ("zips", "zips_NY", "zips_MA"):
        for i in range(len(nodes.servers)):
            nodes.ask(i, "DELETE", key)


class TestOneTable:
    def test_a_zip_code_keeps_its_zeros(self, reader, operator_log):
        result = run_task()
        assert reader("zips") == ROWS
        assert json.loads(json.dumps(result)) == result
        assert {
            name: result[name] for name in ("key", "rows", "failed_over", "may_hold_old", "attempts")
        } == {
            "key": "zips",
            "rows": 2,
            "failed_over": False,
            "may_hold_old": [],
            "attempts": [],
        }
        assert result["node"] == result["home_node"]
        (_, read), (_, text) = operator_log()
        assert read == "Read 2 rows from lite by a cursor into 1 table"
        assert text.startswith(f"Stored table 'zips' on {result['node']}: 2 rows, {result['bytes']} bytes")

    def test_the_real_postgresql_and_its_hook(self, reader, operator_log, postgres, monkeypatch):
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", postgres.uri)
        values = ", ".join(str(tuple(row.values())) for row in ROWS)
        sql = f"SELECT * FROM (VALUES {values}) AS zips(zip, n, state) WHERE n > %(least)s OR zip LIKE '0%%'"
        assert run_task(sql_conn_id="warehouse", sql=sql, parameters={"least": 1})["rows"] == 2
        assert reader("zips") == ROWS
        assert operator_log()[0][1] == "Read 2 rows from warehouse by COPY into 1 table"

    @pytest.mark.parametrize(
        ("sql", "parameters"),
        [
            ("SELECT * FROM zips WHERE n = ? AND state = ?", [2, "MA"]),
            ("SELECT * FROM zips WHERE n = :n", {"n": 2}),
            ("SELECT * FROM zips WHERE n = :n;", "{'n': 2}"),
            ("SELECT * FROM zips WHERE zip LIKE '%139'", None),
        ],
    )
    def test_parameters(self, reader, sql, parameters):
        run_task(sql=sql, parameters=parameters)
        assert reader("zips") == ROWS[1:]

    def test_templates(self, reader):
        result = run_task(
            sql="SELECT '{{ ds }}' AS day, n FROM zips WHERE n = :n",
            key="day_{{ ds }}",
            parameters={"n": "{{ 1 + 1 }}"},
            column_types="{'n': 'string'}",
        )
        assert result["key"] == "day_2024-05-01"
        assert reader("day_2024-05-01") == [{"day": "2024-05-01", "n": "2"}]

    def test_an_sql_file(self, reader, tmp_path):
        (tmp_path / "zips.sql").write_text("SELECT * FROM zips -- of {{ ds }}\nWHERE n = 2;\n")
        with DAG(
            "a_dag",
            schedule=None,
            start_date=datetime(2024, 1, 1, tzinfo=UTC),
            template_searchpath=[str(tmp_path)],
        ):
            task = SqlToQCacheOperator(task_id="store", sql="zips.sql", key="zips", sql_conn_id="lite")
        task.resolve_template_files()
        task.render_template_fields({"ds": "2024-05-01"})
        assert task.sql.startswith("SELECT * FROM zips -- of 2024-05-01")
        task.execute({})
        assert reader("zips") == ROWS[1:]

    def test_column_types_come_first(self, reader):
        run_task(column_types={"n": "string", "zip": "float"})
        assert reader("zips") == [
            {"zip": 501.0, "n": "1", "state": "NY"},
            {"zip": 2139.0, "n": "2", "state": "MA"},
        ]

    def test_compression_copies_and_the_count(self, nodes, reader):
        result = run_task(compression="gzip", copies=2, check_row_count=True)
        assert len(result["copies"]) == 1
        assert result["failed_copies"] == {}
        assert len(nodes.holding("zips")) == 2
        assert reader("zips") == ROWS

    def test_older_tables_elsewhere_are_deleted(self, nodes):
        for i in range(len(nodes.servers)):
            nodes.ask(i, "POST", "zips", b"old\n1\n")
        run_task(evict_stale=False)
        assert len(nodes.holding("zips")) == 3
        result = run_task()
        assert nodes.holding("zips") == [result["node"]]

    def test_nothing_that_the_query_does_is_committed(self, sqlite):
        run_task(sql="DELETE FROM zips RETURNING *")
        assert sqlite.execute("SELECT count(*) FROM zips").fetchone() == (2,)


class TestNoRows:
    SQL = "SELECT * FROM zips WHERE n > 2"

    def test_fails_by_default_and_leaves_the_table(self, reader):
        run_task()
        with pytest.raises(
            QueryEmpty, match=r"^The query of 'lite' for key 'zips' returned no rows; nothing is stored\."
        ):
            run_task(sql=self.SQL)
        assert reader("zips") == ROWS

    @pytest.mark.parametrize("more", [{}, BY_STATE])
    def test_skip(self, reader, more):
        run_task()
        with pytest.raises(AirflowSkipException, match="returned no rows"):
            run_task(sql=self.SQL, on_empty="skip", **more)
        assert reader("zips") == ROWS

    def test_store(self, reader, nodes):
        run_task()
        assert run_task(sql=self.SQL, on_empty="store")["rows"] == 0
        assert reader("zips") == []
        assert len(nodes.holding("zips")) == 1


class TestPartitions:
    def test_a_table_for_each(self, reader, operator_log):
        result = run_task(**BY_STATE)
        assert reader("zips_NY") == ROWS[:1]
        assert reader("zips_MA") == ROWS[1:]
        expected = {
            "stored": 2,
            "rows": 2,
            "bytes": 2 * len("zip,n,state\n00501,1,NY\n") + 4 * 2,  # texts are quoted
            "failed_over": 0,
            "may_hold_old": {},
            "attempts": 0,
        }
        assert {name: result[name] for name in expected} == expected
        level, text = operator_log()[-1]
        assert level == "INFO"
        assert text.startswith(f"Stored 2 tables: {result['bytes']} bytes, ")

    @pytest.mark.parametrize(
        ("row", "error"),
        [
            (("1", 1, "N.Y"), "partition state='N.Y': 'zips_N.Y' is not a key"),
            (("1", 1, "ä"), "partition state='ä': 'zips_ä' is not a key"),
            (("1", 1, None), "column 'state', row 3: a null"),
        ],
    )
    def test_what_makes_no_key_is_refused_before_anything_is_stored(self, sqlite, nodes, row, error):
        sqlite.execute("INSERT INTO zips VALUES (?, ?, ?)", row)
        with pytest.raises((AirflowFailException, InvalidTable)) as raised:
            run_task(**BY_STATE)
        assert error in str(raised.value)
        assert nodes.holding("zips_NY") == nodes.holding("zips_MA") == []

    def test_so_are_two_partitions_with_one_key(self, sqlite, nodes):
        sqlite.execute("INSERT INTO zips VALUES ('1', 1, 'N_'), ('2', 2, 'N')")
        with pytest.raises(AirflowFailException) as raised:
            run_task(
                sql="SELECT *, CASE state WHEN 'N' THEN '_X' ELSE 'X' END AS part FROM zips",
                key="zips_{state}{part}",
                partition_by=["state", "part"],
            )
        assert "state='N_', part='X' and state='N', part='_X' have the same key 'zips_N_X'" in str(
            raised.value
        )
        assert nodes.holding("zips_NYX") == []

    def test_and_bad_values_in_a_late_row(self, sqlite, nodes):
        sqlite.execute("INSERT INTO zips VALUES ('1', 'one', 'NY')")
        with pytest.raises(
            InvalidTable, match=r"^column 'n', row 3: type text, but type integer from row 1 on"
        ):
            run_task(**BY_STATE)
        assert nodes.holding("zips_NY") == nodes.holding("zips_MA") == []


class TestFailures:
    def test_a_node_that_is_down(self, nodes, reader, operator_log):
        home = run_task()["home_node"]
        nodes.kill(nodes.urls.index(home))
        result = run_task()
        assert (result["failed_over"], result["home_node"]) == (True, home)
        assert reader("zips") == ROWS
        assert operator_log()[-1][0] == "WARNING"
        with pytest.raises(StoredOnFailover, match="require_home is set"):
            run_task(require_home=True)

    def test_a_node_that_is_down_and_many_tables(self, nodes, reader, operator_log):
        run_task(**BY_STATE)
        (home,) = nodes.holding("zips_NY")
        nodes.kill(nodes.urls.index(home))
        result = run_task(**BY_STATE)
        assert result["failed_over"] >= 1
        assert reader("zips_NY") == ROWS[:1]
        level, text = operator_log()[-1]
        assert level == "WARNING"
        assert "; the home node of " in text
        with pytest.raises(
            StoredOnFailover, match=r"^[12] tables? failed over, and require_home is set; stored 2 tables"
        ):
            run_task(**BY_STATE, require_home=True)

    def test_an_error_of_the_database_stays_as_it_is(self):
        with pytest.raises(Exception, match="no such table") as raised:
            run_task(sql="SELECT * FROM elsewhere")
        assert not isinstance(raised.value, AirflowFailException)

    def test_a_statement_that_gives_no_rows(self):
        with pytest.raises(InvalidTable, match="returns no rows to store"):
            run_task(sql="UPDATE zips SET n = 1")

    def test_a_hook_of_another_kind(self):
        with pytest.raises(AirflowFailException, match=r"sql_conn_id='qcache_default'.*QCacheHook"):
            run_task(sql_conn_id="qcache_default")

    def test_on_kill_ends_the_query(self):
        endless = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n) SELECT max(n) FROM n"
        task = SqlToQCacheOperator(task_id="store", sql=endless, key="k", sql_conn_id="lite")

        def kill():
            end = time.monotonic() + 30
            while (task._source is None or not task._source._running) and time.monotonic() < end:
                time.sleep(0.01)
            time.sleep(0.1)  # for the query to begin
            task.on_kill()

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(OperationCancelled, match="the query was cancelled"):
            task.execute({})
        killer.join()


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"sql": " "}, "sql=' '"),
            ({"key": "a b"}, "key='a b'"),
            ({"key": "a_{b}"}, "key='a_{b}': a column in braces needs partition_by. Pass partition_by=['b']"),
            ({"sql_conn_id": ""}, "sql_conn_id=''"),
            ({"parameters": 1}, "parameters=1"),
            ({"parameters": "n"}, "parameters='n'"),
            ({"hook_params": [1]}, r"hook_params=[1]"),
            ({"partition_by": []}, "partition_by=[]"),
            ({"partition_by": "state"}, "{state} is missing"),
            ({"key": "z_{a}", "partition_by": ["a", "a"]}, "partition_by=['a', 'a']"),
            ({"key": "z_{a}", "partition_by": ["a", "b"]}, "{b} is missing"),
            ({"key": "z_{a}_{c}", "partition_by": ["a"]}, "{c} is not in partition_by"),
            ({"key": "z_{a!r}", "partition_by": ["a"]}, "{a} has a format or conversion"),
            ({"key": "z_{a", "partition_by": ["a"]}, "key='z_{a'"),
            ({"column_types": {"a": "int"}}, "column_types['a']='int'"),
            ({"on_empty": "ignore"}, "on_empty='ignore'"),
            ({**BY_STATE, "on_empty": "store"}, "on_empty='store'"),
            ({"compression": "lz4"}, "compression='lz4'"),
            ({"copies": 0}, "copies=0"),
            ({"evict_stale": "maybe"}, "evict_stale='maybe'"),
            ({"request_retry": {"n": 1}}, "request_retry: unknown field 'n'"),
        ],
        ids=lambda all_arguments: repr(all_arguments) if isinstance(all_arguments, dict) else None,
    )
    def test_what_makes_no_sense_is_an_error_as_the_dag_is_parsed(self, arguments, error):
        all_arguments = {"sql": "SELECT 1 AS n", "key": "k", "sql_conn_id": "lite", **arguments}
        with pytest.raises(ValueError) as raised:  # noqa: PT011  # the text is checked below
            SqlToQCacheOperator(task_id="store", **all_arguments)
        assert error in str(raised.value)

    def test_and_what_a_template_gives_fails_for_good(self):
        with pytest.raises(AirflowFailException, match=r"sql: {{ empty }} rendered to "):
            run_task(sql="{{ empty }}")
        with pytest.raises(AirflowFailException, match=r"{b} is missing"):
            run_task(key="k_{a}", partition_by="{{ ['a', 'b'] }}")

    def test_a_dag_file_that_has_it_loads_nothing_heavy(self, tmp_path):
        code = (
            "from airflow_provider_qcache.transfers.sql_to_qcache import SqlToQCacheOperator\n"
            "SqlToQCacheOperator(task_id='a', key='k_{a}', sql='SELECT', sql_conn_id='s', partition_by=['a'])"
        )
        before = f"{AIRFLOW}\nimport airflow.providers.common.compat.sdk as s; s.BaseHook, s.AirflowException"
        assert loaded_by(code, before, tmp_path) == []

    def test_it_can_be_mapped(self):
        partial = SqlToQCacheOperator.partial(task_id="store", sql_conn_id="lite", sql="SELECT * FROM zips")
        assert partial.expand(key=["a", "b"]).task_id == "store"


def test_a_dry_run_reads_the_query_and_stores_nothing(nodes, operator_log):
    arguments = {"task_id": "dry", "sql": "SELECT * FROM zips", "sql_conn_id": "lite"}
    SqlToQCacheOperator(**arguments, key="zips").dry_run()
    lines = [text for _, text in operator_log()]
    assert lines[0] == "Read 2 rows from lite by a cursor into 1 table"
    assert lines[1].startswith("Would store table 'zips' on http://")
    assert lines[2] == "Columns: zip string, n inferred by the node, state string"
    SqlToQCacheOperator(**arguments, **BY_STATE).dry_run()
    assert "Would store 2 tables: 2 rows, " in operator_log()[-3][1]
    assert [key for key in ("zips", "zips_NY", "zips_MA") if nodes.holding(key)] == []
