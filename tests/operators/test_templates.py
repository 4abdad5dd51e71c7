"""What Airflow renders, what it leaves alone, what it serialises and what it shows.

Without a database; what other tasks push is in tests/airflow/test_operators.py.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
from datetime import UTC, datetime

import jinja2
import pytest
from airflow.providers.common.compat.sdk import DAG
from airflow.serialization import serialized_objects

from airflow_provider_qcache.client import RequestRetry
from airflow_provider_qcache.compat import AirflowFailException, BaseOperator
from airflow_provider_qcache.operators.qcache import (
    QCacheDeleteOperator,
    QCachePostOperator,
    QCacheQueryOperator,
)
from airflow_provider_qcache.transfers.sql_to_qcache import SqlToQCacheOperator

SERIALIZER = getattr(serialized_objects, "DagSerialization", serialized_objects.SerializedDAG)
CONTEXT = {"ds": "2024-05-01", "none": None, "empty": "", "n": 2, "yes": True}
CSV = "a\n1\n"


def load():
    return CSV


def other():
    return CSV


class Counts:
    def __call__(self, rows):
        return len(rows)


class Upstream(BaseOperator):
    def execute(self, context):
        return CSV


def a_dag(**arguments):
    return DAG("some_dag", schedule=None, start_date=datetime(2024, 1, 1, tzinfo=UTC), **arguments)


def serialized(dag):
    """The DAG as the scheduler and the UI get it, and each task's part by name."""
    data = json.loads(json.dumps(SERIALIZER.to_dict(dag)))
    tasks = [task.get("__var", task) for task in data["dag"]["tasks"]]
    return SERIALIZER.from_dict(data), {task["task_id"]: task for task in tasks}


class TestContent:
    def test_is_not_rendered(self):
        for content in ("{{ ds }}\n1\n", b"{{ ds }}\n1\n", [{"a": "{{ ds }}"}, {"a": "{% raw %}"}]):
            task = QCachePostOperator(task_id="post", key="k", content=content)
            task.render_template_fields(CONTEXT)
            assert task.content.value is content

    @pytest.mark.parametrize(
        ("content", "shown"),
        [
            ("secret\n1\n", "9 characters"),
            (b"secret\n1\n", "9 bytes"),
            ([{"a": "secret"}] * 1000, "1,000 rows"),
        ],
    )
    def test_is_shown_by_its_size(self, content, shown):
        with a_dag() as dag:
            QCachePostOperator(task_id="post", key="k", content=content)
            QCachePostOperator.partial(task_id="mapped", content=content).expand(key=["a", "b"])
        back, tasks = serialized(dag)
        assert back.get_task("post").content == shown
        assert tasks["mapped"]["partial_kwargs"]["content"] == shown
        assert "secret" not in json.dumps(tasks)

    def test_from_a_task_makes_that_task_upstream(self):
        with a_dag() as dag:
            upstream = Upstream(task_id="upstream")
            QCachePostOperator(task_id="plain", key="k", content=upstream.output)
            QCachePostOperator(task_id="inside", key="k", content=[{"a": upstream.output["part"]}])
            QCachePostOperator.partial(task_id="partial", content=upstream.output).expand(key=["a", "b"])
            QCachePostOperator.partial(task_id="expand", key="k").expand(content=upstream.output)
        back, _ = serialized(dag)
        for task_id in ("plain", "inside", "partial", "expand"):
            assert back.get_task(task_id).upstream_task_ids == {"upstream"}
        assert back.get_task("plain").content == "a table from task 'upstream'"
        assert back.get_task("inside").content == "a table from task 'upstream' (XCom 'part')"


class TestCallables:
    def test_are_not_called_by_a_rendering(self):
        def never():
            raise AssertionError

        task = QCachePostOperator(task_id="post", key="k", python_callable=never)
        task.render_template_fields(CONTEXT)
        task = QCacheQueryOperator(
            task_id="query", key="k", query={}, load_callable=never, result_processor=never
        )
        task.render_template_fields(CONTEXT)

    @pytest.mark.parametrize(
        ("function", "name"),
        [
            (load, "test_templates.load>"),
            (functools.partial(load), "test_templates.load>"),
            (lambda rows: rows, "<lambda>>"),
            (Counts(), "test_templates.Counts>"),
            (len, "<callable builtins.len>"),
        ],
    )
    def test_are_shown_by_name_and_not_by_address(self, function, name):
        """An address is another one at every parse, and so is the hash of the DAG then."""
        with a_dag() as dag:
            QCachePostOperator(task_id="post", key="k", python_callable=function)
            QCacheQueryOperator(
                task_id="query", key="k", query={}, load_callable=function, result_processor=function
            )
        back, tasks = serialized(dag)
        for task_id, field in (
            ("post", "python_callable"),
            ("query", "load_callable"),
            ("query", "result_processor"),
        ):
            assert getattr(back.get_task(task_id), field).endswith(name)
        assert " at 0x" not in json.dumps(tasks)


class TestSerialization:
    def test_keeps_every_argument_in_a_readable_form(self):
        """What has no JSON is shown by its repr; nothing by its address."""
        arguments = {
            "key": "k_{{ ds }}",
            "python_callable": load,
            "op_args": [1, "{{ ds }}"],
            "op_kwargs": {"a": 1},
            "content_type": "text/csv",
            "column_types": {"a": "string"},
            "stand_in_columns": {"b": 1},
            "headers": {"X-Header": "1"},
            "compression": "gzip",
            "copies": 2,
            "evict_stale": True,
            "check_row_count": True,
            "require_home": True,
            "qcache_conn_id": "other",
            "request_retry": RequestRetry(wait_max=1),
        }
        others = {"content", "source_path", "source_format", "tables", "max_failed_keys", "allow_evicted"}
        assert {*arguments} | others == set(QCachePostOperator.template_fields)
        with a_dag() as dag:
            QCachePostOperator(task_id="post", **arguments)
            mapped = {name: value for name, value in arguments.items() if name != "key"}
            QCachePostOperator.partial(task_id="mapped", **mapped).expand(key=["a", "b"])
        back, tasks = serialized(dag)
        task = back.get_task("post")
        for name, value in arguments.items():
            shown = {
                "python_callable": f"<callable {load.__module__}.load>",
                "request_retry": repr(arguments["request_retry"]),
            }.get(name, value)
            assert getattr(task, name) == shown
        assert " at 0x" not in json.dumps(tasks)
        assert tasks["mapped"]["partial_kwargs"]["request_retry"] == repr(arguments["request_retry"])

    @pytest.mark.parametrize("operator", [QCachePostOperator, QCacheQueryOperator, QCacheDeleteOperator])
    def test_every_argument_is_a_field_of_the_ui(self, operator):
        own = {
            name
            for kind in operator.__mro__
            if kind.__module__.startswith("airflow_provider_qcache")
            for name, parameter in inspect.signature(kind.__init__).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
        }
        assert set(operator.template_fields) == own == set(operator._rules)
        assert set(operator.template_fields_renderers) <= own
        assert operator.ui_color != BaseOperator.ui_color
        assert tuple(operator.template_ext) == ()
        assert "retry_policy" not in own

    def test_is_the_same_at_every_parse(self):
        def parsed():
            with a_dag() as dag:
                QCachePostOperator(task_id="post", key="k", python_callable=lambda: CSV)
                QCacheQueryOperator.partial(task_id="query", key="k").expand(query=[{"limit": 1}, "q.json"])
                QCacheDeleteOperator.partial(task_id="delete").expand(key=["a", "b"])
            return json.dumps(SERIALIZER.to_dict(dag)["dag"]["tasks"], default=str)

        assert parsed() == parsed()


class TestRendered:
    @pytest.mark.parametrize("name", ["empty", "none", "missing"])
    @pytest.mark.parametrize("native", [False, True])
    @pytest.mark.parametrize(
        ("operator", "argument", "arguments"),
        [
            (QCachePostOperator, "key", {"content": CSV}),
            (QCachePostOperator, "source_path", {"key": "k"}),
            (QCachePostOperator, "content_type", {"key": "k", "content": CSV}),
            (QCacheQueryOperator, "query", {"key": "k"}),
            (QCacheQueryOperator, "output_path", {"key": "k", "query": {}}),
            (QCacheDeleteOperator, "key", {}),
            (QCacheDeleteOperator, "keys", {}),
        ],
    )
    def test_to_nothing_fails_for_good_by_the_argument_s_name(
        self, operator, argument, arguments, native, name
    ):
        with a_dag(render_template_as_native_obj=native, template_undefined=jinja2.Undefined):
            task = operator(task_id="task", **arguments, **{argument: f"{{{{ {name} }}}}"})
        task.render_template_fields(CONTEXT)
        with pytest.raises(AirflowFailException, match=f"^ValueError: {argument}: .*{name}.* gave nothing"):
            task.execute({})

    @pytest.mark.parametrize("native", [False, True])
    @pytest.mark.parametrize(
        ("make", "place"),
        [
            (lambda: QCacheDeleteOperator(task_id="task", keys=["{{ none }}", "b"]), "keys[0]"),
            (lambda: QCacheDeleteOperator(task_id="task", keys=["b", "b_{{ none }}"]), "keys[1]"),
            (lambda: QCacheDeleteOperator(task_id="task", keys="['{{ none }}', 'b']"), "keys"),
            (lambda: QCacheDeleteOperator(task_id="task", key="orders_{{ none }}"), "key"),
            (
                lambda: QCacheDeleteOperator(task_id="task", key="k", qcache_conn_id="{{ none }}"),
                "qcache_conn_id",
            ),
            (
                lambda: QCacheDeleteOperator(task_id="task", key="{% if yes %}{{ absent() }}{% endif %}"),
                "key",
            ),
            (
                lambda: QCacheQueryOperator(
                    task_id="task", key="k", query={"where": ["==", "a", "{{ none }}"]}
                ),
                "query['where'][2]",
            ),
            (
                lambda: QCachePostOperator(task_id="task", key="k", content=CSV, headers={"A": "{{ none }}"}),
                "headers['A']",
            ),
            (
                lambda: QCachePostOperator(
                    task_id="task", key="k", python_callable=load, op_args=["a{{ none }}"]
                ),
                "op_args[0]",
            ),
            (
                lambda: SqlToQCacheOperator(
                    task_id="task", key="k", sql_conn_id="{{ none }}", sql="SELECT 1"
                ),
                "sql_conn_id",
            ),
            (
                lambda: SqlToQCacheOperator(
                    task_id="task", key="k", sql_conn_id="a", sql="SELECT {{ none }}"
                ),
                "sql",
            ),
        ],
    )
    def test_none_inside_is_named_and_no_text(self, make, place, native):
        with a_dag(render_template_as_native_obj=native):
            task = make()
        task.render_template_fields({**CONTEXT, "absent": lambda: None})
        with pytest.raises(AirflowFailException, match=f"^ValueError: {re.escape(place)}: .*gave nothing"):
            task.execute({})

    @pytest.mark.parametrize("native", [False, True])
    def test_none_that_the_author_wrote_is_text(self, native):
        keys = ["{{ 'None' }}_b", "None_{{ ds }}", "{% set a = none %}c{# None #}"]
        with a_dag(render_template_as_native_obj=native):
            # As native objects a text that is None alone is None, by Jinja's own reading.
            task = QCacheDeleteOperator(task_id="task", keys=keys if native else ["None", *keys])
        task.render_template_fields(CONTEXT)
        expected = ["None_b", "None_2024-05-01", "c"]
        assert task._checked_arguments()["keys"] == (expected if native else ["None", *expected])

    def test_none_as_an_object_is_a_value_of_the_author_s_function(self):
        arguments = {"op_args": ["{{ none }}"], "op_kwargs": {"a": "{{ none }}", "b": [1, "{{ empty }}"]}}
        with a_dag(render_template_as_native_obj=True):
            task = QCachePostOperator(task_id="task", key="k", python_callable=load, **arguments)
            sql = SqlToQCacheOperator(
                task_id="sql", key="k", sql_conn_id="a", sql="SELECT 1", parameters={"a": "{{ none }}"}
            )
        task.render_template_fields(CONTEXT)
        sql.render_template_fields(CONTEXT)
        given = task._checked_arguments()
        assert (given["op_args"], given["op_kwargs"]) == ([None], {"a": None, "b": [1, ""]})
        assert sql._checked_arguments()["parameters"] == {"a": None}

    def test_a_dag_s_own_finalize_says_what_none_is(self):
        own = {"finalize": lambda value: "nix" if value is None else value}
        with a_dag(jinja_environment_kwargs=own) as dag:
            task = QCacheDeleteOperator(task_id="task", key="a_{{ none }}")
        task.render_template_fields(CONTEXT)
        assert task._checked_arguments()["key"] == "a_nix"
        assert dag.get_template_env().finalize is own["finalize"]

    def test_an_object_with_templates_of_its_own_is_airflow_s(self):
        class Own:
            template_fields = ("a",)
            a = "{{ none }}"

        with a_dag():
            task = QCachePostOperator(task_id="task", key="k", python_callable=load, op_args=[Own()])
        task.render_template_fields(CONTEXT)
        assert task._checked_arguments()["op_args"][0].a == "None"

    @pytest.mark.parametrize("native", [False, True])
    def test_a_mapped_task_s_too(self, native):
        with a_dag(render_template_as_native_obj=native):
            mapped = QCacheDeleteOperator.partial(task_id="task").expand(key=["a_{{ none }}", "b"])
        task = mapped.unmap({"key": "a_{{ none }}"})
        task.render_template_fields(CONTEXT)
        with pytest.raises(AirflowFailException, match=r"^ValueError: key: a_.*gave nothing"):
            task.execute({})

    def test_undefined_is_airflow_s_error_where_it_is_strict(self):
        with a_dag():
            task = QCacheDeleteOperator(task_id="task", key="{{ missing }}")
        with pytest.raises(jinja2.UndefinedError):
            task.render_template_fields(CONTEXT)

    def test_a_number_for_a_key_is_refused_with_the_reason(self):
        """As native objects 2024_05 and 202405 are the same key."""
        with a_dag(render_template_as_native_obj=True):
            task = QCacheDeleteOperator(task_id="task", key="{{ 2024 }}_05")
        task.render_template_fields(CONTEXT)
        with pytest.raises(AirflowFailException, match="native objects"):
            task.execute({})

    def test_flags_and_counts(self):
        task = QCachePostOperator(
            task_id="task", key="k", content=CSV, copies="{{ n }}", evict_stale="{{ yes }}"
        )
        task.render_template_fields(CONTEXT)
        given = task._checked_arguments()
        assert (given["copies"], given["evict_stale"]) == (2, True)


class TestQueryFile:
    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "queries").mkdir()
        (tmp_path / "queries" / "of_2024-05-01.json").write_text('{"where": ["==", "day", "\'{{ ds }}\'"]}')
        return tmp_path

    @pytest.mark.parametrize("native", [False, True])
    @pytest.mark.parametrize("name", ["queries/of_2024-05-01.json", "queries/of_{{ ds }}.json"])
    def test_is_found_where_the_dag_s_templates_are_and_rendered(self, folder, name, native):
        with a_dag(template_searchpath=[str(folder)], render_template_as_native_obj=native):
            task = QCacheQueryOperator(task_id="task", key="k", query=name)
        task.render_template_fields(CONTEXT)
        assert task._checked_arguments()["query"] == {"where": ["==", "day", "'2024-05-01'"]}

    @pytest.mark.parametrize("native", [False, True])
    @pytest.mark.parametrize(
        "text", ['{"where": ["==", "day", "{{ none }}"]}', '{"limit": {{ none }}}', "{{ empty }}"]
    )
    def test_that_has_none_in_it_is_refused(self, folder, text, native):
        (folder / "q.json").write_text(text)
        with a_dag(template_searchpath=[str(folder)], render_template_as_native_obj=native):
            task = QCacheQueryOperator(task_id="task", key="k", query="q.json")
        task.render_template_fields(CONTEXT)
        with pytest.raises(AirflowFailException, match=r"^ValueError: query: q\.json gave nothing"):
            task.execute({})

    def test_that_is_missing_is_named(self, folder):
        with a_dag(template_searchpath=[str(folder)]):
            task = QCacheQueryOperator(task_id="task", key="k", query="queries/none.json")
        with pytest.raises(jinja2.TemplateNotFound, match=r"queries/none\.json"):
            task.render_template_fields(CONTEXT)

    def test_needs_a_dag(self):
        task = QCacheQueryOperator(task_id="task", key="k", query="q.json")
        with pytest.raises(ValueError, match=r"query='q\.json'.*DAG"):
            task.render_template_fields(CONTEXT)

    def test_is_of_the_query_alone(self, folder):
        """Another argument that ends in .json is the name it is."""
        with a_dag(template_searchpath=[str(folder)]):
            task = QCacheQueryOperator(
                task_id="task", key="k", query={}, output_path="queries/of_{{ ds }}.json"
            )
        task.render_template_fields(CONTEXT)
        assert task.output_path == "queries/of_2024-05-01.json"
