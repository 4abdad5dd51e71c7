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
from hypothesis import assume, example, given
from hypothesis import strategies as st

from airflow_provider_qcache.client import RequestRetry
from airflow_provider_qcache.compat import AirflowFailException, BaseOperator
from airflow_provider_qcache.operators._base import has_template
from airflow_provider_qcache.operators.qcache import (
    QCacheBranchOperator,
    QCacheCheckOperator,
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
        ("content", "description"),
        [
            ("secret\n1\n", "9 characters"),
            (b"secret\n1\n", "9 bytes"),
            ([{"a": "secret"}] * 1000, "1,000 rows"),
        ],
    )
    def test_is_shown_by_its_size(self, content, description):
        with a_dag() as dag:
            QCachePostOperator(task_id="post", key="k", content=content)
            QCachePostOperator.partial(task_id="mapped", content=content).expand(key=["a", "b"])
        back, tasks = serialized(dag)
        assert back.get_task("post").content == description
        assert tasks["mapped"]["partial_kwargs"]["content"] == description
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
            (load, "test_templates.load"),
            (functools.partial(load), "test_templates.load"),
            (lambda rows: rows, "<lambda>"),
            (Counts(), "test_templates.Counts"),
            (len, "builtins.len"),
        ],
    )
    def test_of_tables_are_shown_by_name_and_not_by_address(self, function, name):
        """An address is another one at every parse, and so is the hash of the DAG then."""
        with a_dag() as dag:
            QCachePostOperator(task_id="post", tables=function)
        back, tasks = serialized(dag)
        assert back.get_task("post").tables.endswith(name)
        assert " at 0x" not in json.dumps(tasks)

    def test_of_a_dag_file_are_shown_without_airflow_s_name_for_it(self, monkeypatch):
        monkeypatch.setattr(load, "__module__", f"unusual_prefix_{'0123456789' * 4}_orders")
        with a_dag() as dag:
            QCachePostOperator(task_id="post", tables=load)
            QCachePostOperator.partial(task_id="mapped", tables=load).expand(op_args=[["a"], ["b"]])
        back, tasks = serialized(dag)
        assert back.get_task("post").tables == "orders.load"
        assert tasks["mapped"]["partial_kwargs"]["tables"] == "orders.load"


class TestSerialization:
    def test_keeps_every_template_field_in_a_readable_form(self):
        arguments = {
            "key": "k_{{ ds }}",
            "python_callable": load,
            "op_args": [1, "{{ ds }}"],
            "op_kwargs": {"a": 1},
            "column_types": {"a": "string"},
            "stand_in_columns": {"b": 1},
            "headers": {"X-Header": "1"},
            "request_retry": RequestRetry(wait_max=1),
        }
        with a_dag() as dag:
            QCachePostOperator(task_id="post", **arguments)
            mapped = {name: value for name, value in arguments.items() if name != "key"}
            QCachePostOperator.partial(task_id="mapped", **mapped).expand(key=["a", "b"])
        back, tasks = serialized(dag)
        task = back.get_task("post")
        for name in arguments.keys() - {"python_callable", "request_retry"}:
            assert getattr(task, name) == arguments[name]
        assert " at 0x" not in json.dumps(tasks)
        assert tasks["mapped"]["partial_kwargs"]["request_retry"] == repr(arguments["request_retry"])

    @pytest.mark.parametrize(
        ("operator", "fields"),
        [
            (
                QCachePostOperator,
                """key content source_path tables op_args op_kwargs column_types stand_in_columns headers
                keys_path delete_missing qcache_conn_id""",
            ),
            (QCacheQueryOperator, "key query output_path load_kwargs column_types qcache_conn_id"),
            (QCacheDeleteOperator, "key keys keys_path qcache_conn_id"),
            (QCacheCheckOperator, "key query value qcache_conn_id"),
            (QCacheBranchOperator, "key query value qcache_conn_id"),
            (
                SqlToQCacheOperator,
                """sql key sql_conn_id parameters hook_params partition_by column_types
                keys_path delete_missing qcache_conn_id""",
            ),
        ],
    )
    def test_template_fields_are_what_a_dag_author_templates(self, operator, fields):
        """And not flags, counts and functions, which would hide them under Rendered Templates."""
        own = {
            name
            for kind in operator.__mro__
            if kind.__module__.startswith("airflow_provider_qcache")
            for name, parameter in inspect.signature(kind.__init__).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
        }
        assert operator.template_fields == tuple(fields.split())
        assert own == set(operator._rules)
        assert set(operator.template_fields_renderers) <= set(operator.template_fields)
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
        with pytest.raises(AirflowFailException, match=f"^ValueError: {argument}: .*{name}.* rendered to "):
            task.execute({})

    def test_to_a_strict_undefined_fails_for_good_in_native_rendering(self):
        with a_dag(render_template_as_native_obj=True, template_undefined=jinja2.StrictUndefined):
            task = QCacheDeleteOperator(task_id="task", key="{{ missing }}")
        task.render_template_fields(CONTEXT)
        with pytest.raises(
            AirflowFailException, match=r"^ValueError: key: .* rendered to an undefined value"
        ):
            task.execute({})

    @pytest.mark.parametrize("native", [False, True])
    @pytest.mark.parametrize(
        ("make", "place"),
        [
            (lambda: QCacheDeleteOperator(task_id="task", keys=["{{ none }}", "b"]), "keys[0]"),
            (lambda: QCacheDeleteOperator(task_id="task", keys=["b", "{{ empty }}"]), "keys[1]"),
            (lambda: QCacheDeleteOperator(task_id="task", keys={"{{ none }}"}), "keys"),
            (
                lambda: QCacheDeleteOperator(task_id="task", key="k", qcache_conn_id="{{ none }}"),
                "qcache_conn_id",
            ),
            (
                lambda: QCacheDeleteOperator(task_id="task", key="{{ absent() }}"),
                "key",
            ),
            (
                lambda: QCacheDeleteOperator(task_id="task", key="{% if none %}a{% endif %}{{ empty }}"),
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
                lambda: SqlToQCacheOperator(
                    task_id="task", key="k", sql_conn_id="{{ none }}", sql="SELECT 1"
                ),
                "sql_conn_id",
            ),
        ],
    )
    def test_a_whole_value_that_is_none_or_empty_is_named(self, make, place, native):
        with a_dag(render_template_as_native_obj=native):
            task = make()
        task.render_template_fields({**CONTEXT, "absent": lambda: None})
        with pytest.raises(AirflowFailException, match=f"^ValueError: {re.escape(place)}: .*rendered to "):
            task.execute({})

    @pytest.mark.parametrize("native", [False, True])
    def test_none_inside_a_text_is_text_as_in_every_operator(self, native):
        keys = ["orders_{{ none }}", "{{ 'None' }}_b", "None_{{ ds }}", "{% set a = none %}c{# None #}"]
        with a_dag(render_template_as_native_obj=native):
            task = QCacheDeleteOperator(task_id="task", keys=["None", *keys])
        task.render_template_fields(CONTEXT)
        keys = task._checked_arguments({})["keys"]
        assert keys == ["None", "orders_None", "None_b", "None_2024-05-01", "c"]

    @pytest.mark.parametrize("native", [False, True])
    def test_the_text_none_is_no_none(self, native):
        with a_dag(render_template_as_native_obj=native):
            task = QCacheDeleteOperator(task_id="task", key="{{ 'None' }}")
        task.render_template_fields(CONTEXT)
        assert task._checked_arguments({})["key"] == "None"

    def test_text_for_none_as_an_item_of_the_author_s_is_refused(self):
        """An item cannot say that it is None where templates are rendered as text."""
        with a_dag():
            task = QCachePostOperator(
                task_id="task", key="k", python_callable=load, op_args=["{{ empty }}", "{{ none }}"]
            )
        task.render_template_fields(CONTEXT)
        with pytest.raises(AirflowFailException, match=r"^ValueError: op_args\[1\]: .*rendered to "):
            task.execute({})

    def test_none_as_an_object_is_a_value_of_the_author_s_function(self):
        arguments = {"op_args": ["{{ none }}"], "op_kwargs": {"a": "{{ none }}", "b": [1, "{{ empty }}"]}}
        with a_dag(render_template_as_native_obj=True):
            task = QCachePostOperator(task_id="task", key="k", python_callable=load, **arguments)
            sql = SqlToQCacheOperator(
                task_id="sql", key="k", sql_conn_id="a", sql="SELECT 1", parameters={"a": "{{ none }}"}
            )
        task.render_template_fields(CONTEXT)
        sql.render_template_fields(CONTEXT)
        arguments = task._checked_arguments({})
        assert (arguments["op_args"], arguments["op_kwargs"]) == ([None], {"a": None, "b": [1, ""]})
        assert sql._checked_arguments({})["parameters"] == {"a": None}

    def test_a_dag_s_own_finalize_says_what_none_is(self):
        own = {"finalize": lambda value: "nix" if value is None else value}
        with a_dag(jinja_environment_kwargs=own) as dag:
            task = QCacheDeleteOperator(task_id="task", key="a_{{ none }}")
        task.render_template_fields(CONTEXT)
        assert task._checked_arguments({})["key"] == "a_nix"
        assert dag.get_template_env().finalize is own["finalize"]

    def test_an_object_with_templates_of_its_own_is_airflow_s(self):
        class Own:
            template_fields = ("a",)
            a = "{{ none }}"

        with a_dag():
            task = QCachePostOperator(task_id="task", key="k", python_callable=load, op_args=[Own()])
        task.render_template_fields(CONTEXT)
        assert task._checked_arguments({})["op_args"][0].a == "None"

    @pytest.mark.parametrize("native", [False, True])
    def test_a_mapped_task_s_too(self, native):
        with a_dag(render_template_as_native_obj=native):
            mapped = QCacheDeleteOperator.partial(task_id="task").expand(key=["{{ none }}", "b"])
        task = mapped.unmap({"key": "{{ none }}"})
        task.render_template_fields(CONTEXT)
        with pytest.raises(AirflowFailException, match=r"^ValueError: key: .*none.*rendered to "):
            task.execute({})

    def test_undefined_is_airflow_s_error_where_it_is_strict(self):
        with a_dag():
            task = QCacheDeleteOperator(task_id="task", key="{{ missing }}")
        with pytest.raises(jinja2.UndefinedError):
            task.render_template_fields(CONTEXT)

    def test_a_number_for_a_key_is_refused_with_the_reason(self):
        with a_dag(render_template_as_native_obj=True):
            task = QCacheDeleteOperator(task_id="task", key="{{ n }}")
        task.render_template_fields(CONTEXT)
        with pytest.raises(AirflowFailException, match=r"native objects add '\| string'"):
            task.execute({})

    @pytest.mark.parametrize(
        "arguments", [{"copies": "{{ n }}"}, {"evict_stale": "{{ yes }}"}, {"content_type": "{{ kind }}"}]
    )
    def test_a_template_in_another_field_is_refused(self, arguments):
        (name,) = arguments
        with pytest.raises(ValueError, match=rf"^{name}='\{{\{{.*: {name} is not templated, so pass"):
            QCachePostOperator(task_id="task", key="k", content=CSV, **arguments)


QUOTED = {"where": ["==", "region", "'city'"]}
AS_JSON = '{"where": ["==", "region", "\'\\ud83d\\ude00 \\/ city\'"]}'


class TestQuotes:
    """Jinja reads what it renders as native objects as a Python literal; text must not change by that."""

    @staticmethod
    def rendered(native, operator, **arguments):
        with a_dag(render_template_as_native_obj=native):
            task = operator(task_id="task", **arguments)
        task.render_template_fields({**CONTEXT, "city": "Köln", "quoted": "'city'", "digits": "007"})
        return task._checked_arguments({})

    @pytest.mark.parametrize(
        ("operator", "arguments"),
        [
            (QCacheQueryOperator, {"key": "k", "query": QUOTED}),
            (QCacheQueryOperator, {"key": "k", "query": AS_JSON}),
            (QCacheQueryOperator, {"key": "k", "query": {"where": ["==", "day", "'{{ ds }}'"]}}),
            (QCacheQueryOperator, {"key": "k", "query": {"where": ["==", "a", "{{ quoted }}"]}}),
            (QCacheQueryOperator, {"key": "k", "query": {"where": ["==", "a", '{{ "\'" ~ ds ~ "\'" }}']}}),
            (QCacheQueryOperator, {"key": "k", "query": {"where": ["==", "a", "{% if n %}'b'{% endif %}"]}}),
            (
                QCacheQueryOperator,
                {"key": "k", "query": {"where": ["==", "a", "{%- if n %}'b'{% endif %}"]}},
            ),
            (QCacheQueryOperator, {"key": "k", "query": {"where": ["in", "zip", ["{{ digits }}", "'1'"]]}}),
            (QCacheQueryOperator, {"key": "k", "query": AS_JSON.replace("city", "{{ city }}")}),
            (QCacheQueryOperator, {"key": "k", "query": "{{ {'where': ['==', 'a', quoted]} | tojson }}"}),
            (QCacheQueryOperator, {"key": "{{ 2024 }}_05", "query": {}, "output_path": "'{{ ds }}'.json"}),
            (
                QCachePostOperator,
                {
                    "key": "k",
                    "python_callable": load,
                    "stand_in_columns": {"country": "'name'", "b": "'{{ city }}'"},
                },
            ),
            (
                QCachePostOperator,
                {"key": "k", "python_callable": load, "headers": {"ETag": "'{{ ds }}'"}},
            ),
            (QCachePostOperator, {"key": "k", "python_callable": load, "op_args": ["'{{ ds }}'", "1", "[]"]}),
            (QCachePostOperator, {"key": "k", "python_callable": load, "op_kwargs": {"a": "{{ digits }}"}}),
            (
                SqlToQCacheOperator,
                {
                    "key": "k",
                    "sql_conn_id": "a",
                    "sql": "'{{ ds }}'",
                    "parameters": {"a": "'{{ city }}'", "b": "'x'", "zip": "007"},
                },
            ),
        ],
    )
    def test_are_the_same_where_templates_are_rendered_as_native_objects(self, operator, arguments):
        as_text = self.rendered(False, operator, **arguments)
        assert self.rendered(True, operator, **arguments) == as_text
        assert "{" + "{" not in repr(as_text)

    @given(text=st.text(st.sampled_from("'\"[]{}(),:+-.\\\n\t 01aNT\u00e9"), max_size=12))
    @example(text="'")
    @example(text="1_")
    @example(text="\n")
    def test_of_any_text_are_left(self, text):
        assume(not has_template(text, jinja2.Environment()))
        op_args = [text, f"x{text}|{{{{ n }}}}|{text}x", "{{ text }}"]
        with a_dag(render_template_as_native_obj=True):
            task = QCachePostOperator(task_id="task", key="k", python_callable=load, op_args=op_args)
        task.render_template_fields({"n": 5, "text": text})
        assert task._checked_arguments({})["op_args"] == [text, f"x{text}|5|{text}x", text]

    def test_a_whole_value_is_taken_as_it_is(self):
        """What another task gave in XCom, say."""
        query = {"where": ["==", "region", "'city'"], "limit": 5}
        rows = [1, "'a'", None]
        with a_dag(render_template_as_native_obj=True):
            task = QCacheQueryOperator(task_id="task", key="k", query="{{ query }}", load_callable=load)
            sql = SqlToQCacheOperator(
                task_id="sql", key="k", sql_conn_id="a", sql="SELECT 1", parameters="{{ rows }}"
            )
            post = QCachePostOperator(
                task_id="post", key="k", python_callable=load, op_args=["{{ rows }}", "{{ 2 }}", "{{ yes }}"]
            )
        for one in (task, sql, post):
            one.render_template_fields({**CONTEXT, "query": query, "rows": rows})
        assert task.query is query
        assert sql.parameters is rows
        assert post.op_args == [rows, 2, True]

    def test_of_a_mapped_task_are_left(self):
        with a_dag(render_template_as_native_obj=True):
            mapped = QCacheQueryOperator.partial(task_id="task", key="k").expand(query=[QUOTED])
        task = mapped.unmap({"query": QUOTED})
        task.render_template_fields(CONTEXT)
        assert task._checked_arguments({})["query"] == QUOTED

    @pytest.mark.parametrize("native", [False, True])
    def test_other_delimiters_are_the_dag_s(self, native):
        own = {"variable_start_string": "<<", "variable_end_string": ">>"}
        with a_dag(render_template_as_native_obj=native, jinja_environment_kwargs=own):
            task = QCacheDeleteOperator(task_id="task", keys=["'<< ds >>'", "'{{ ds }}'"])
        task.render_template_fields(CONTEXT)
        assert task.keys == ["'2024-05-01'", "'{{ ds }}'"]


class TestPaths:
    """Airflow 3.0 and 3.1 call resolve(context) on what they render: pathlib's is strict then."""

    def test_are_text(self, tmp_path):
        there_not = tmp_path / "{{ ds }}.json"
        with a_dag():
            query = QCacheQueryOperator(task_id="query", key="k", query={}, output_path=there_not)
            post = QCachePostOperator(task_id="post", key="k", source_path=there_not)
            partial = QCacheQueryOperator.partial(task_id="mapped", key="k", query={})
            mapped = partial.expand(output_path=[there_not])
        mapped = mapped.unmap({"output_path": there_not})
        for task in (query, post, mapped):
            task.render_template_fields(CONTEXT)
        expected = str(tmp_path / "2024-05-01.json")
        assert query.output_path == post.source_path == mapped.output_path == expected

    def test_inside_the_author_s_values_are_left(self, tmp_path, monkeypatch):
        path = tmp_path / "none"
        monkeypatch.setattr(type(path), "resolve", lambda self, *args: 1 / 0)
        with a_dag():
            task = QCachePostOperator(task_id="post", key="k", python_callable=load, op_kwargs={"path": path})
        task.render_template_fields(CONTEXT)
        assert task.op_kwargs == {"path": path}


class TestSqlFile:
    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "orders.sql").write_text("SELECT '{{ ds }}'\n-- {{ n }}")
        return tmp_path

    @pytest.mark.parametrize("native", [False, True])
    def test_is_of_the_sql_alone(self, folder, native):
        """A parameter that ends in .sql is the text it is, alone and in a list."""
        with a_dag(template_searchpath=[str(folder)], render_template_as_native_obj=native):
            tasks = [
                SqlToQCacheOperator(
                    task_id=f"task{number}",
                    key="k",
                    sql_conn_id="a",
                    sql="orders.sql",
                    parameters=parameters,
                    hook_params={"script": "orders.sql"},
                )
                for number, parameters in enumerate([{"script": "orders.sql"}, ["orders.sql"]])
            ]
        for task, parameters in zip(tasks, [{"script": "orders.sql"}, ["orders.sql"]], strict=True):
            task.resolve_template_files()
            task.render_template_fields(CONTEXT)
            assert task.sql == "SELECT '2024-05-01'\n-- 2"
            assert task.parameters == parameters
            assert task.hook_params == {"script": "orders.sql"}

    @pytest.mark.parametrize("native", [False, True])
    def test_in_an_attribute_of_an_author_s_own_operator_is_not_read(self, folder, native):
        class Post(QCachePostOperator):
            sql = "orders.sql"

        with a_dag(template_searchpath=[str(folder)], render_template_as_native_obj=native):
            task = Post(task_id="task", key="k", python_callable=load)
        task.render_template_fields(CONTEXT)
        task._checked_arguments({})
        assert task.sql == "orders.sql"

    def test_that_is_missing_is_named(self, folder):
        with a_dag(template_searchpath=[str(folder)]):
            task = SqlToQCacheOperator(task_id="task", key="k", sql_conn_id="a", sql="none.sql")
        with pytest.raises(jinja2.TemplateNotFound, match=r"none\.sql"):
            task.render_template_fields(CONTEXT)


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
        assert task._checked_arguments({})["query"] == {"where": ["==", "day", "'2024-05-01'"]}

    @pytest.mark.parametrize("native", [False, True])
    @pytest.mark.parametrize("text", ["", "{{ none }}", "{{ empty }}\n"])
    def test_that_gives_nothing_is_refused(self, folder, text, native):
        (folder / "q.json").write_text(text)
        with a_dag(template_searchpath=[str(folder)], render_template_as_native_obj=native):
            task = QCacheQueryOperator(task_id="task", key="k", query="q.json")
        task.render_template_fields(CONTEXT)
        with pytest.raises(AirflowFailException, match=r"^ValueError: query: q\.json rendered to "):
            task.execute({})

    def test_that_is_missing_is_named(self, folder):
        with a_dag(template_searchpath=[str(folder)]):
            task = QCacheQueryOperator(task_id="task", key="k", query="queries/none.json")
        with pytest.raises(jinja2.TemplateNotFound, match=r"queries/none\.json"):
            task.render_template_fields(CONTEXT)

    @pytest.mark.parametrize("native", [False, True])
    def test_is_the_same_query_where_templates_are_rendered_as_native_objects(self, folder, native):
        (folder / "q.json").write_text(AS_JSON.replace("city", "{{ ds }}") + "\n")
        with a_dag(template_searchpath=[str(folder)], render_template_as_native_obj=native):
            task = QCacheQueryOperator(task_id="task", key="k", query="q.json")
        task.render_template_fields(CONTEXT)
        assert task._checked_arguments({})["query"] == {
            "where": ["==", "region", "'\U0001f600 / 2024-05-01'"]
        }

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
