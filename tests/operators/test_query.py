"""What a query from a task returns, writes and pushes."""

from __future__ import annotations

import json
import os
import secrets
import stat
from datetime import UTC, datetime

import pandas as pd
import pytest

from airflow_provider_qcache.client import HomeNodeUnavailable, InvalidTable, MalformedQueryException
from airflow_provider_qcache.compat import AirflowFailException, AirflowSkipException, serialize
from airflow_provider_qcache.hooks.qcache import QCacheHook
from airflow_provider_qcache.operators import _output
from airflow_provider_qcache.operators.errors import TableMissing
from airflow_provider_qcache.operators.qcache import (
    QCacheDeleteOperator,
    QCachePostOperator,
    QCacheQueryOperator,
)

try:
    from airflow.sdk.serde import deserialize
except ImportError:
    from airflow.serialization.serde import deserialize

ROWS = [{"city": "Oslo", "n": 3}, {"city": "Lima", "n": 1}, {"city": "Turin", "n": 2}]
LARGEST_TWO = {"order_by": ["-n"], "limit": 2}


class Pushed(dict):
    """In place of the task instance, which needs a database: takes XComs."""

    def xcom_push(self, key, value):
        self[key] = value


def query(context=None, **arguments):
    task = QCacheQueryOperator(task_id="query", **{"key": "cities", "query": LARGEST_TWO, **arguments})
    task.render_template_fields({"n": 1, "column": "n", "Oslo": "Oslo"})
    return task.execute(context or {})


def store(key, rows):
    QCachePostOperator(task_id="post", key=key, content=rows).execute({})


@pytest.fixture
def cities(nodes):
    store("cities", ROWS)
    return nodes


@pytest.fixture
def nothing(nodes):
    """No table under the key."""
    QCacheDeleteOperator(task_id="delete", key="cities").execute({})
    return nodes


class TestXCom:
    def test_gets_the_rows_and_the_unsliced_length_apart(self, cities, operator_log):
        pushed = Pushed()
        assert query({"ti": pushed}) == [ROWS[0], ROWS[2]]
        assert pushed == {"unsliced_length": 3}
        ((level, message),) = operator_log()
        assert level == "INFO"
        assert message.startswith("Queried table 'cities' on http://")
        assert message.endswith(": 3 rows before offset and limit")

    def test_gets_nothing_where_the_task_pushes_none(self, cities):
        pushed = Pushed()
        query({"ti": pushed}, do_xcom_push=False)
        assert pushed == {}

    @pytest.mark.parametrize(
        "text",
        ['{"where": [">", "n", {{ n }}], "limit": 1}', "{'where': ['>', 'n', {{ n }}], 'limit': 1}"],
        ids=["JSON", "Python"],
    )
    def test_a_query_may_be_a_string(self, cities, text):
        assert query(query=text) == [ROWS[0]]

    def test_a_query_is_rendered_inside(self, cities):
        assert query(query={"where": ["==", "city", "'{{ Oslo }}'"]}) == [ROWS[0]]

    def test_a_processor_makes_what_is_returned(self, cities):
        assert query(result_processor=lambda rows: {"sum": sum(row["n"] for row in rows)}) == {"sum": 5}

    def test_takes_so_many_rows(self, nodes):
        store("many", [{"n": n} for n in range(_output.MAX_XCOM_ROWS + 1)])
        with pytest.raises(AirflowFailException, match=r"10,001 rows.*output_path"):
            query(key="many", query={})
        assert len(query(key="many", query={"limit": _output.MAX_XCOM_ROWS})) == 10_000

    def test_takes_so_many_bytes(self, nodes):
        store("wide", [{"text": "a" * 1000} for _ in range(1100)])
        with pytest.raises(AirflowFailException, match=r"bytes of JSON.*output_path"):
            query(key="wide", query={})
        assert len(query(key="wide", query={"limit": 1000})) == 1000

    def test_limits_are_for_what_a_processor_returns(self, nodes):
        store("wide", [{"text": "a" * 1000} for _ in range(11_000)])
        assert query(key="wide", query={}, result_processor=len) == 11_000
        with pytest.raises(AirflowFailException, match=r"11,000 rows.*output_path"):
            query(key="wide", query={}, result_processor=lambda rows: [0 for _ in rows])
        with pytest.raises(AirflowFailException, match=r"bytes of JSON.*output_path"):
            query(key="wide", query={}, result_processor=lambda rows: rows[0]["text"] * 1100)

    def test_a_processor_gets_no_more_than_is_worth_parsing(self, cities, monkeypatch):
        """A hundred megabytes of JSON are gigabytes of Python's objects."""
        monkeypatch.setattr(_output, "MAX_PROCESSED_BYTES", 10)
        got = []
        with pytest.raises(
            AirflowFailException, match=r"the limit for result_processor is 10(.|\n)*output_path"
        ):
            query(result_processor=got.append)
        assert got == []

    def test_bytes_are_those_of_utf_8(self, cities):
        text = "ü" * (_output.MAX_XCOM_BYTES // 2 - 1)
        assert query(result_processor=lambda rows: text) == text
        with pytest.raises(AirflowFailException, match=r"1,048,577 bytes of JSON.*output_path"):
            query(result_processor=lambda rows: text + "a")

    @pytest.mark.parametrize(
        ("make", "name"),
        [
            (lambda rows: (row for row in rows), "generator"),
            (lambda rows: map(len, rows), "map"),
            (lambda rows: {"rows": [object()]}, "dict"),
            (lambda rows: b"bytes", "bytes"),
            (lambda rows: {"__classname__": "a"}, "dict"),
        ],
    )
    def test_what_xcom_cannot_carry_fails_for_good_by_its_name(self, cities, make, name):
        message = f"what result_processor returned: Airflow cannot store this {name} as XCom"
        with pytest.raises(AirflowFailException, match=message):
            query(result_processor=make)

    @pytest.mark.parametrize(
        "value", [None, 1.5, {"a": [None, True, "ü"]}, {1, 2}, ("a", 1), datetime.now(UTC)]
    )
    def test_what_xcom_carries_is_returned(self, cities, value):
        assert query(result_processor=lambda rows: value) == value
        assert deserialize(json.loads(json.dumps(serialize(value)))) == value

    def test_a_frame_is_measured_by_what_airflow_makes_of_it(self, cities):
        """Its repr is cut; Airflow 2.11 makes nothing of it."""
        with pytest.raises(AirflowFailException, match="what result_processor returned: 10,001 rows"):
            query(result_processor=lambda rows: pd.DataFrame({"a": range(10_001)}))
        wide = pd.DataFrame({"a": [secrets.token_hex(600) for _ in range(1000)]})
        with pytest.raises(AirflowFailException, match=r"and the limit for XCom|Airflow cannot store"):
            query(result_processor=lambda rows: wide)

    def test_a_processor_s_own_error_is_its_own(self, cities):
        with pytest.raises(KeyError, match="no_such"):
            query(result_processor=lambda rows: rows[0]["no_such"])


class TestOutput:
    @pytest.mark.parametrize("accept", ["application/json", "text/csv"])
    @pytest.mark.parametrize("place", ["local", "remote"])
    def test_is_what_the_node_answers(self, cities, tmp_path, remote, place, accept, operator_log):
        target = {"local": tmp_path / "new" / "report", "remote": remote / "report"}[place]
        pushed = Pushed()
        result = query({"ti": pushed}, output_path=str(target), accept=accept)
        body = target.read_bytes()
        if accept == "text/csv":
            assert body == b"city,n\nOslo,3\nTurin,2\n"
        else:
            assert json.loads(body) == [ROWS[0], ROWS[2]]
        assert pushed == {"unsliced_length": 3}
        assert json.loads(json.dumps(result)) == {
            "key": "cities",
            "node": result["node"],
            "output_path": str(target),
            "bytes": len(body),
            "unsliced_length": 3,
        }
        assert [path.name for path in target.parent.iterdir()] == ["report"]
        assert operator_log()[0][1].endswith(f"{len(body)} bytes written to {target}")

    def test_has_no_limit_of_rows(self, nodes, tmp_path):
        store("many", [{"n": n} for n in range(20_000)])
        query(key="many", query={}, output_path=tmp_path / "many.csv", accept="text/csv")
        assert (tmp_path / "many.csv").read_bytes().count(b"\n") == 20_001

    @pytest.mark.parametrize("before", [None, b"yesterday's"])
    @pytest.mark.parametrize("place", ["local", "remote"])
    @pytest.mark.parametrize("failure", ["query", "write", "short", "move"])
    def test_a_failure_leaves_what_was_there(
        self, cities, tmp_path, remote, monkeypatch, place, failure, before
    ):
        """A malformed query, a full disk, one that lies, and a move that is refused."""
        target = {"local": tmp_path, "remote": remote}[place] / "report"
        if before is not None:
            target.write_bytes(before)
        if failure == "write" and place == "local":
            monkeypatch.setattr("os.fsync", refuse)
        elif failure == "write":
            monkeypatch.setattr(type(remote.fs), "pipe_file", half_written)
        elif failure == "short":
            monkeypatch.setattr(_output, "_check_whole", refuse)
        elif failure == "move" and place == "local":
            monkeypatch.setattr("pathlib.Path.replace", refuse)
        elif failure == "move":
            monkeypatch.setattr(type(remote.fs), "mv", refuse)
        bad = {"select": ["no_such_column"]} if failure == "query" else {}
        with pytest.raises(AirflowFailException if failure == "query" else OSError):
            query(query=bad, output_path=str(target))
        monkeypatch.undo()
        assert [path.name for path in target.parent.iterdir()] == ([] if before is None else ["report"])
        assert before is None or target.read_bytes() == before

    def test_a_body_that_is_not_whole_is_not_published(self, remote, monkeypatch):
        """The storage keeps less than it received, without an error."""
        whole = type(remote.fs).pipe_file
        monkeypatch.setattr(type(remote.fs), "pipe_file", lambda fs, path, body: whole(fs, path, body[:-1]))
        with pytest.raises(OSError, match="wrote 5 bytes to a temporary file and found 4"):
            _output.publish(b"12345", _output.output_at("output_path", remote / "report"))
        assert list(remote.iterdir()) == []

    @pytest.mark.parametrize("target", ["nowhere://bucket/report.csv", "/"])
    def test_where_no_file_can_be_written_fails_for_good_before_the_query(self, nodes, target):
        with pytest.raises(AirflowFailException, match=f"output_path='{target}'"):
            query(key="no_such_table", output_path=target)

    def test_a_prefix_of_objects_fails_for_good_before_the_query(self, nodes, remote):
        """The move would put the answer among them."""
        (remote / "reports" / "2024").mkdir(parents=True)
        (remote / "reports" / "2024" / "part.csv").write_bytes(b"a\n")
        for target in (remote / "reports" / "2024", remote / "reports"):
            with pytest.raises(AirflowFailException, match=f"output_path='{target}'.* expected a file"):
                query(key="no_such_table", output_path=str(target))
        assert [path.name for path in (remote / "reports" / "2024").iterdir()] == ["part.csv"]

    def test_a_prefix_that_comes_meanwhile_is_an_error_and_left_as_it_is(self, remote):
        path = _output.output_at("output_path", remote / "report")
        path.mkdir()
        (path / "part.csv").write_bytes(b"a\n")
        with pytest.raises(OSError, match="moved 5 bytes there, and found a directory of 0 bytes"):
            _output.publish(b"12345", path)
        assert [one.name for one in remote.iterdir()] == ["report"]
        assert [one.name for one in path.iterdir()] == ["part.csv"]

    def test_what_is_no_file_fails_for_good_before_the_query(self, nodes, tmp_path):
        (tmp_path / "directory").mkdir()
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / "link").symlink_to("fifo")
        (tmp_path / "loop").symlink_to("loop")
        for name in ("directory", "fifo", "link", "loop"):
            for target in (tmp_path / name, f"file://{tmp_path / name}"):
                with pytest.raises(AirflowFailException, match=f"output_path='.*{name}': a"):
                    query(key="no_such_table", output_path=target)
        assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
        assert {path.name for path in tmp_path.iterdir()} == {"directory", "fifo", "link", "loop"}

    def test_a_symlink_stays_and_its_file_is_replaced(self, cities, tmp_path):
        (tmp_path / "data").mkdir()
        for name in ("there", "new"):
            (tmp_path / name).symlink_to(tmp_path / "data" / name)
        (tmp_path / "data" / "there").write_bytes(b"yesterday's")
        for name in ("there", "new"):
            query(output_path=tmp_path / name)
            assert (tmp_path / name).is_symlink()
            assert json.loads((tmp_path / "data" / name).read_bytes()) == [ROWS[0], ROWS[2]]
        assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["new", "there"]

    def test_a_file_keeps_its_mode(self, cities, tmp_path):
        (tmp_path / "report").touch()
        (tmp_path / "report").chmod(0o640)
        query(output_path=tmp_path / "report")
        query(output_path=tmp_path / "other")
        (tmp_path / "plain").touch()
        assert stat.S_IMODE((tmp_path / "report").stat().st_mode) == 0o640
        assert (tmp_path / "other").stat().st_mode == (tmp_path / "plain").stat().st_mode

    def test_a_miss_writes_nothing(self, nothing, tmp_path):
        assert query(on_miss="return_none", output_path=tmp_path / "report") is None
        assert list(tmp_path.iterdir()) == []


def refuse(*arguments, **options):
    raise OSError("no space left")


def half_written(storage, path, body):
    with storage.open(path, "wb") as file:
        file.write(body[:3])
    raise OSError("connection lost")


class TestMiss:
    def test_fails_so_that_it_is_tried_again(self, nothing):
        with pytest.raises(TableMissing, match="cities") as caught:
            query()
        assert not isinstance(caught.value, AirflowFailException)

    def test_names_the_home_and_each_node_s_answer(self, nodes):
        """The table is on the node that is asked last, as if its writer had spelled the nodes differently."""
        with QCacheHook() as hook:
            home, second, third = hook.successors("cities")
        for url in nodes.urls:
            nodes.ask(nodes.urls.index(url), "DELETE", "cities")
        assert nodes.ask(nodes.urls.index(third), "POST", "cities", b"n\n1\n2\n").status == 201
        nodes.kill(nodes.urls.index(second))
        with pytest.raises(TableMissing) as caught:
            query()
        message = str(caught.value)
        assert f"{home} (home) does not have the table" in message
        assert f"{second} (number 2) refuses the connection" in message
        assert f"{third} (number 3) has the table, 2 rows" in message
        assert "spells the nodes exactly as the connection does" in message

    def test_skips(self, nothing):
        with pytest.raises(AirflowSkipException, match="cities"):
            query(on_miss="skip")

    def test_returns_none(self, nothing):
        pushed = Pushed()
        assert query({"ti": pushed}, on_miss="return_none") is None
        assert pushed == {}

    @pytest.mark.parametrize("on_miss", ["fail", "skip", "return_none"])
    def test_a_silent_node_is_no_miss(self, cities, on_miss):
        home = cities.urls.index(cities.holding("cities")[0])
        cities.pause(home)
        with pytest.raises(HomeNodeUnavailable):
            query(on_miss=on_miss)


class TestLoad:
    CSV = "city,zip\nOslo,0010\n"

    @pytest.mark.parametrize(
        "returned", [CSV, CSV.encode(), [{"city": "Oslo", "zip": 10}]], ids=lambda r: type(r).__name__
    )
    def test_fills_a_miss_once(self, nothing, operator_log, returned):
        calls = []

        def load(*, day):
            calls.append(day)
            return returned

        for _ in range(2):
            assert query(query={}, load_callable=load, load_kwargs={"day": "{{ n }}"}) == [
                {"city": "Oslo", "zip": 10}
            ]
        assert calls == ["1"]
        assert [message.partition(" table")[0] for _, message in operator_log()] == [
            "Loaded and queried",
            "Queried",
        ]

    def test_with_types(self, nothing):
        rows = query(query={}, load_callable=lambda: self.CSV, column_types={"zip": "string"})
        assert rows == [{"city": "Oslo", "zip": "0010"}]

    def test_from_a_path(self, nothing, tmp_path):
        (tmp_path / "cities.json").write_text(json.dumps(ROWS))
        assert query(load_callable=lambda: tmp_path / "cities.json") == [ROWS[0], ROWS[2]]

    def test_an_invalid_table_may_be_whole_at_the_next_try(self, nothing):
        with pytest.raises(InvalidTable):
            query(load_callable=lambda: "a\n1,2\n")

    def test_a_load_s_own_error_is_its_own(self, nothing):
        def load():
            raise ValueError("mine")

        with pytest.raises(ValueError, match="mine"):
            query(load_callable=load)

    def test_what_is_no_table_fails_for_good(self, nothing):
        with pytest.raises(
            AirflowFailException, match="what load_callable returned: NoneType is not a table"
        ):
            query(load_callable=lambda: None)


class TestMalformed:
    @pytest.mark.parametrize(
        "wrong", [{"select": ["no_such_column"]}, {"no_such_clause": 1}, {"where": ["==", "n", "'text'"]}]
    )
    def test_query_fails_for_good(self, cities, wrong):
        with pytest.raises(AirflowFailException, match="MalformedQueryException") as caught:
            query(query=wrong)
        assert isinstance(caught.value.__cause__, MalformedQueryException)
