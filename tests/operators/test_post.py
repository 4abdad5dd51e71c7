"""What a store from a task leaves on the nodes, and what it returns."""

from __future__ import annotations

import gzip
import itertools
import json
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider_qcache.client import InvalidTable, StoreUncertain
from airflow_provider_qcache.compat import AirflowFailException
from airflow_provider_qcache.operators.errors import StoredOnFailover, TablesFailed
from airflow_provider_qcache.operators.qcache import QCachePostOperator, QCacheQueryOperator
from tests.harness.connection import connect

CSV = "zip,n\n00501,1\n02139,2\n"
ROWS = [{"zip": 501, "n": 1}, {"zip": 2139, "n": 2}]


def post(**arguments):
    """Make a task of these arguments, render it and run it."""
    task = QCachePostOperator(task_id="post", **{"key": "zips", **arguments})
    task.render_template_fields({"ds": "2024-05-01"})
    return task.execute({})


def pieces():
    """A fresh iterator at each call."""
    return iter([CSV[:7].encode(), CSV[7:].encode()])


class TestWithoutColumns:
    """A node takes what has no columns, and then the old table is gone."""

    @pytest.fixture(params=["[]", "[{}]", "[{}, {}]"])
    def text(self, request, reader):
        post(content=CSV)
        yield request.param
        assert reader("zips") == ROWS

    @pytest.mark.parametrize(
        "returned", [str, str.encode, json.loads, lambda text: lambda: iter([text.encode()])]
    )
    def test_what_a_function_returns_leaves_the_old_table(self, text, returned):
        for content_type in ("application/json", "text/csv"):
            if content_type == "application/json" or returned is json.loads:
                with pytest.raises(InvalidTable, match="the table has no columns"):
                    post(python_callable=lambda: returned(text), content_type=content_type)

    @pytest.mark.parametrize("suffix", [".json", ".jsonl"])
    def test_files_leave_the_old_table(self, text, tmp_path, suffix):
        for number in range(2):
            lines = "\n".join(json.dumps(row) for row in json.loads(text))
            (tmp_path / f"{number}{suffix}").write_text(text if suffix == ".json" else lines)
        with pytest.raises(InvalidTable, match="the table has no columns"):
            post(source_path=tmp_path)

    def test_one_of_many_leaves_its_old_table(self, text):
        for table in (json.loads(text), text):
            with pytest.raises(TablesFailed, match="the table has no columns"):
                post(key=None, tables=lambda: {"zips": table}, content_type="application/json")  # noqa: B023

    def test_what_a_miss_loads_is_no_table(self, nodes):
        task = QCacheQueryOperator(task_id="q", key="no_such", query={}, load_callable=list)
        with pytest.raises(InvalidTable, match="the table has no columns"):
            task.execute({})
        assert nodes.holding("no_such") == []


@pytest.mark.parametrize(
    "content", ["a.b,/c.csv", "{{ a }},b", "{{ a }}\n1", "/a\n1", "zip", "a/b\n", "x.csv\n", "a{{ b }}c"]
)
def test_a_header_that_is_a_template_or_a_path_in_part_is_one(reader, content):
    post(content=content)
    assert len(reader("zips")) == len(content.splitlines()) - 1


def test_no_rows_are_a_warning(reader, operator_log):
    post(content="a,b")
    ((level, message),) = operator_log()
    assert level == "WARNING"
    assert ": 0 rows, 3 bytes" in message


def test_columns_without_rows_are_a_table(reader, nodes):
    for table in (pd.DataFrame({"a": []}), "a\n"):
        post(content=CSV)
        assert post(python_callable=lambda: table)["rows"] == 0  # noqa: B023
        assert reader("zips") == []


OBJECTS = ['[{"zip": 501, "n": 1}, {"zip": 2139, "n": 2}]', json.dumps(ROWS, indent=2) + "\n"]
NO_TABLES = {
    "a JSON object": ('{"error": "no such report"}', "JSON that is not a list of objects: put the rows"),
    "a list of lists": ("[[1, 2], [3, 4]]", "JSON that is not a list of objects"),
    "a list of numbers": ("[1, 2]", "JSON that is not a list of objects"),
    "an empty list": ("[]", "the table has no columns"),
    "a list that is cut": ('[{"zip": 1}, {"zip":', "is cut off|not JSON"),
    "a list of objects and others": ('[{"zip": 1}, 2]', "row 2"),
    "JSON lines": ('{"zip": 1}\n{"zip": 2}\n', "several JSON objects.*source_format='jsonl'"),
    "what str() makes of dicts": ("[{'zip': 1}]", "JSON that is not a list of objects"),
    "HTML": ("<!DOCTYPE html>\n<html><body>502</body></html>", "an HTML or XML document.*error page"),
    "HTML without a head": ("<h1>Not found</h1>", "an HTML or XML document"),
    "XML": ('<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', "an HTML or XML document"),
    "XML without a declaration": ("<rows>\n  <row/>\n</rows>", "an HTML or XML document"),
}
PATHS = ["/data/x.csv", "data/x", "x.parquet", "orders.csv.gz", "s3://bucket/x", "~/x.csv", "C:\\x"]
WAYS = {
    "content": lambda text: {"content": text},
    "content in bytes": lambda text: {"content": text.encode()},
    "python_callable": lambda text: {"python_callable": lambda: text},
    "a stream": lambda text: {
        "python_callable": lambda: lambda: iter([text[:5].encode(), text[5:].encode()])
    },
    "tables": lambda text: {"key": None, "tables": {"zips": text}},
    "tables from a function": lambda text: {"key": None, "tables": lambda: iter([("zips", text.encode())])},
}


class TestTextOfNoStatedType:
    """A node would take any text for a CSV's header, and drop the old table."""

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("text", OBJECTS, ids=["in a line", "in several lines"])
    def test_a_json_list_of_objects_is_json(self, reader, way, text):
        for bom in ("", "\ufeff"):
            post(content="old\n1\n")
            post(**WAYS[way](bom + text))
            assert reader("zips") == ROWS

    @pytest.mark.parametrize("way", WAYS)
    def test_what_is_no_table_is_refused_and_leaves_the_old_one(self, reader, way):
        post(content=CSV)
        for text, message in NO_TABLES.values():
            with pytest.raises((InvalidTable, TablesFailed, AirflowFailException), match=message):
                post(**WAYS[way](text))
            assert reader("zips") == ROWS

    @pytest.mark.parametrize("way", WAYS)
    def test_a_path_is_refused_and_leaves_the_old_table(self, reader, way):
        post(content=CSV)
        for path in PATHS:
            with pytest.raises((ValueError, AirflowFailException), match=r"looks like the path.*source_path"):
                post(**WAYS[way](path))
        assert reader("zips") == ROWS

    @pytest.mark.parametrize("way", WAYS)
    def test_one_json_value_is_refused_and_leaves_the_old_table(self, reader, way):
        post(content=CSV)
        for text in ("null", "true", "5", '"not found"', " -1.5e3 ", "\ufeffnull", "None", f'"{"x" * 9000}"'):
            with pytest.raises(
                (InvalidTable, TablesFailed, AirflowFailException), match=r"it is the single value.*newline"
            ):
                post(**WAYS[way](text))
        assert reader("zips") == ROWS

    @pytest.mark.parametrize("text", ["null\n", '"id"\n', "5\r\n", "nothing", '"a" b', "5\n1\n"])
    def test_a_header_that_is_like_a_value_is_one(self, nodes, text):
        post(content=text)
        assert nodes.holding("zips")

    def test_one_value_of_a_stated_content_type_is_a_header(self, nodes):
        post(content="null", content_type="text/csv")
        assert nodes.holding("zips")

    def test_a_page_may_be_a_table_at_the_next_try(self, nodes):
        with pytest.raises(InvalidTable, match="what python_callable returned: it begins as an HTML"):
            post(python_callable=lambda: "<html><body>503</body></html>")

    @pytest.mark.parametrize(
        "text", ["<DATE>,<OPEN>\n1,2\n", "[a],b\n1,2\n", "{a},b\n1,2\n", '"a","b"\n1,2\n']
    )
    def test_a_csv_whose_names_are_in_brackets_is_one(self, reader, text):
        assert post(content=text)["rows"] == 1
        assert len(reader("zips")) == 1

    def test_a_stated_content_type_decides(self, reader):
        post(content='[1,"x"]\n1,2\n', content_type="text/csv")
        assert reader("zips") == [{"[1": 1, "x]": 2}]

    def test_a_function_that_streams_is_called_once_for_each_attempt(self, nodes):
        calls = []

        def stream():
            calls.append(1)
            yield from pieces()

        post(python_callable=lambda: stream)
        assert len(calls) == 1

    @pytest.mark.parametrize("content_type", [None, "text/csv"])
    def test_a_stream_that_gives_nothing_ends_at_the_deadline(self, nodes, monkeypatch, content_type):
        def stream():
            yield from itertools.repeat(b"", 3_000_000)
            raise AssertionError("it was read without end")

        connect(monkeypatch, nodes.urls, deadline=0.2)
        with pytest.raises(StoreUncertain, match="the deadline passed"):
            post(python_callable=lambda: stream, content_type=content_type)

    @pytest.mark.parametrize("text", ["zip,n\n00501,1\n02139,2\n", OBJECTS[0]])
    def test_a_stream_may_have_nothing_yet(self, reader, text):
        post(python_callable=lambda: lambda: iter([b"", b"", text[:5].encode(), b"", text[5:].encode(), b""]))
        assert reader("zips") == ROWS

    def test_what_a_stream_raises_is_its_own(self, nodes):
        def stream():
            yield b"a"
            raise ValueError("the source is away")

        with pytest.raises(ValueError, match="the source is away"):
            post(python_callable=lambda: stream)

    def test_what_a_miss_loads(self, nodes):
        def ask(text):
            load = {"load_callable": lambda: text}
            return QCacheQueryOperator(task_id="q", key="of_a_miss", query={}, **load).execute({})

        for text, _ in NO_TABLES.values():
            with pytest.raises((InvalidTable, AirflowFailException)):
                ask(text)
        with pytest.raises(AirflowFailException, match=r"what load_callable returned.*looks like the path"):
            ask("/data/x.csv")
        with pytest.raises(InvalidTable, match="what load_callable returned: it is the single value 'null'"):
            ask("null")
        assert nodes.holding("of_a_miss") == []
        assert ask(OBJECTS[0]) == ROWS

    def test_a_csv_file_that_is_none(self, reader, tmp_path):
        post(content=CSV)
        for text in (OBJECTS[0], NO_TABLES["HTML"][0], NO_TABLES["JSON lines"][0]):
            (tmp_path / "t.csv").write_text(text)
            with pytest.raises(InvalidTable, match=r"t\.csv: the table is not CSV but "):
                post(source_path=tmp_path / "t.csv")
        assert reader("zips") == ROWS


class TestForms:
    @pytest.mark.parametrize(
        "content",
        [CSV, CSV.encode(), bytearray(CSV.encode()), ROWS, tuple(ROWS)],
        ids=lambda c: type(c).__name__,
    )
    def test_content(self, reader, content):
        result = post(content=content)
        assert reader("zips") == ROWS
        assert result["rows"] == 2

    @pytest.mark.parametrize("as_path", [str, Path, lambda path: f"file://{path}"])
    def test_a_local_file(self, reader, tmp_path, as_path):
        (tmp_path / "zips.csv").write_text(CSV)
        result = post(source_path=as_path(tmp_path / "zips.csv"))
        assert reader("zips") == ROWS
        assert result["bytes"] == len(CSV)

    @pytest.mark.parametrize("as_path", [str, lambda path: path])
    def test_an_object(self, reader, remote, as_path):
        (remote / "zips.csv").write_bytes(CSV.encode())
        post(source_path=as_path(remote / "zips.csv"))
        assert reader("zips") == ROWS

    @pytest.mark.parametrize("form", ["local", "remote"])
    def test_a_json_file_is_json_by_its_name(self, reader, tmp_path, remote, form):
        path = {"local": tmp_path, "remote": remote}[form] / "zips.json"
        path.write_bytes(json.dumps(ROWS).encode())
        post(source_path=str(path))
        assert reader("zips") == ROWS

    @pytest.mark.parametrize("returned", [CSV, CSV.encode(), ROWS, pieces], ids=lambda r: type(r).__name__)
    def test_what_a_callable_returns(self, reader, returned):
        post(python_callable=lambda: returned)
        assert reader("zips") == ROWS

    def test_a_path_that_a_callable_returns(self, reader, tmp_path, remote):
        for path in (tmp_path / "zips.csv", remote / "zips.csv"):
            path.write_bytes(CSV.encode())
            post(key="from_path", python_callable=lambda path=path: path)
            assert reader("from_path") == ROWS

    def test_a_callable_gets_its_arguments_rendered(self, reader):
        def table(day, *, count):
            return [{"day": day, "n": n} for n in range(count)]

        post(python_callable=table, op_args=["{{ ds }}"], op_kwargs={"count": 2})
        assert reader("zips") == [{"day": "2024-05-01", "n": 0}, {"day": "2024-05-01", "n": 1}]

    def test_an_object_is_opened_anew_for_the_next_node(self, nodes, reader, remote):
        """A store that fails over sends the whole table again."""
        (remote / "zips.csv").write_bytes(CSV.encode())
        home = post(content=CSV)["home_node"]
        nodes.kill(nodes.urls.index(home))
        assert post(source_path=str(remote / "zips.csv"))["failed_over"]
        assert reader("zips") == ROWS

    def test_a_large_object_is_never_whole_in_memory(self, nodes, monkeypatch, remote):
        """Files are read in pieces: the reader is asked for no more than one at a time."""
        line = "a" * 99 + "\n"
        (remote / "large.csv").write_bytes(("name\n" + line * 100_000).encode())
        asked = []
        opened = MemoryFileSystem.open

        def open_(self, *arguments, **options):
            file = opened(self, *arguments, **options)
            read = file.read
            monkeypatch.setattr(file, "read", lambda size=-1: asked.append(size) or read(size), raising=False)
            return file

        monkeypatch.setattr(MemoryFileSystem, "open", open_)
        assert post(source_path=str(remote / "large.csv"))["rows"] == 100_000
        assert len(asked) > 10
        assert 0 < min(asked) <= max(asked) <= 1 << 20


class TestArguments:
    def test_types_and_stand_ins(self, reader):
        post(content=CSV, column_types={"zip": "string"}, stand_in_columns={"country": "'US'", "m": 3})
        assert reader("zips")[0]["zip"] == "00501"

    def test_headers_and_compression(self, reader):
        post(content=gzip.compress(CSV.encode()), headers={"Content-Encoding": "gzip"})
        assert reader("zips") == ROWS
        for compression in ("gzip", "lz4"):
            assert post(key=compression, content=CSV, compression=compression)["bytes"] == len(CSV)
            assert reader(compression) == ROWS

    def test_copies(self, nodes):
        result = post(content=CSV, copies=2)
        assert sorted([result["node"], *result["copies"]]) == sorted(nodes.holding("zips"))
        assert len(nodes.holding("zips")) == 2
        assert result["failed_copies"] == {}

    @pytest.mark.parametrize("evict_stale", [True, False])
    def test_stale_copies_are_evicted_by_default(self, nodes, evict_stale):
        for i in range(3):
            nodes.ask(i, "POST", "zips", b"a\nold\n")
        post(content=CSV, **({} if evict_stale else {"evict_stale": False}))
        assert len(nodes.holding("zips")) == (1 if evict_stale else 3)

    def test_row_count(self, reader):
        assert post(content=CSV, check_row_count=True)["rows"] == 2


class TestResult:
    def test_is_json_with_the_store_s_outcome(self, nodes):
        result = json.loads(json.dumps(post(content=CSV)))
        assert result.pop("seconds") < 5
        node = result["node"]
        assert node in nodes.urls
        assert result == {
            "key": "zips",
            "node": node,
            "home_node": node,
            "failed_over": False,
            "may_hold_old": [],
            "bytes": len(CSV),
            "rows": 2,
            "attempts": [],
        }

    def test_is_one_line_of_the_log(self, nodes, operator_log):
        result = post(content=CSV)
        ((level, message),) = operator_log()
        assert level == "INFO"
        assert message.startswith(f"Stored table 'zips' on {result['node']}: 2 rows, {len(CSV)} bytes, ")

    def test_a_failover_is_a_success_with_a_warning(self, nodes, operator_log):
        home = post(content=CSV)["node"]
        nodes.kill(nodes.urls.index(home))
        result = post(content=CSV)
        assert result["failed_over"]
        assert result["home_node"] == home != result["node"]
        assert result["attempts"][0]["node"] == home
        assert result["attempts"][0]["outcome"] == "connection refused"
        level, message = operator_log()[-1]
        assert level == "WARNING"
        assert message.endswith(f"; its home node {home} was down")

    def test_require_home_stores_and_then_fails_transiently(self, nodes):
        home = post(content=CSV)["node"]
        nodes.kill(nodes.urls.index(home))
        with pytest.raises(StoredOnFailover, match="zips") as caught:
            post(content=CSV, require_home=True)
        assert not isinstance(caught.value, AirflowFailException)
        assert caught.value.transient
        nodes.all_up()
        assert [caught.value.result["node"]] == nodes.holding("zips")

    def test_a_node_that_may_hold_an_older_table_is_named(self, nodes):
        home = post(content=CSV)["node"]
        other = next(i for i, url in enumerate(nodes.urls) if url != home)
        nodes.pause(other)
        assert post(content=CSV)["may_hold_old"] == [nodes.urls[other]]


class TestInvalidTable:
    BAD = "a,b\n1,2,3\n"

    def test_written_in_the_dag_fails_for_good_and_leaves_the_old_table(self, reader):
        post(content=CSV)
        with pytest.raises(AirflowFailException, match="InvalidTable") as caught:
            post(content=self.BAD)
        assert isinstance(caught.value.__cause__, InvalidTable)
        assert reader("zips") == ROWS

    def test_from_a_file_or_a_callable_may_be_whole_at_the_next_try(self, reader, tmp_path):
        post(content=CSV)
        (tmp_path / "bad.csv").write_text(self.BAD)
        for source in ({"source_path": tmp_path / "bad.csv"}, {"python_callable": lambda: self.BAD}):
            with pytest.raises(InvalidTable):
                post(**source)
        assert reader("zips") == ROWS

    def test_a_value_that_no_node_holds_is_named(self, nodes):
        with pytest.raises(InvalidTable, match="column 'n', row 2") as caught:
            post(python_callable=lambda: [{"n": 1}, {"n": object}])
        assert (caught.value.row, caught.value.column) == (2, "n")

    def test_a_character_that_utf_8_has_not_is_named(self, nodes):
        text = "a\n1\n\ud800\n"
        with pytest.raises(AirflowFailException, match=r"InvalidTable: content: line 3 .*'\\ud800'"):
            post(content=text)
        with pytest.raises(InvalidTable, match="line 3"):
            post(python_callable=lambda: text)

    def test_a_storage_that_airflow_has_not_fails_for_good(self, nodes):
        path = "nowhere://bucket/table.csv"
        with pytest.raises(AirflowFailException, match=f"source_path='{path}'"):
            post(source_path=path)

    def test_a_missing_file_is_retryable(self, nodes, tmp_path):
        with pytest.raises(FileNotFoundError):
            post(source_path=tmp_path / "not_yet.csv")

    def test_a_callable_s_own_error_is_its_own(self, nodes):
        def broken():
            raise ValueError("mine")

        with pytest.raises(ValueError, match="mine") as caught:
            post(python_callable=broken)
        assert caught.type is ValueError

    @pytest.mark.parametrize(
        ("returned", "message"),
        [
            (None, "NoneType is not a table"),
            (iter([b"a\n"]), "can be read once only"),
            ({"a": 1}, "dict is not a table"),
        ],
    )
    def test_a_callable_that_returns_no_table_fails_for_good(self, nodes, returned, message):
        with pytest.raises(AirflowFailException, match=message):
            post(python_callable=partial(lambda value: value, returned))

    def test_types_for_json_fail_for_good(self, nodes, tmp_path):
        """A node would take them and not heed them."""
        (tmp_path / "zips.json").write_text(json.dumps(ROWS))
        for of_json in (
            {"python_callable": lambda: json.dumps(ROWS), "content_type": "application/json"},
            {"source_path": tmp_path / "zips.json"},
        ):
            with pytest.raises(AirflowFailException, match="column_types"):
                post(**of_json, column_types={"zip": "string"})

    def test_lz4_for_what_streams_fails_for_good(self, nodes):
        with pytest.raises(AirflowFailException, match="lz4"):
            post(python_callable=lambda: pieces, compression="lz4")

    def test_lz4_where_it_is_not_installed_fails_for_good(self, nodes, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(AirflowFailException, match="the extra 'lz4'"):
            post(content=CSV, compression="lz4")
