"""Each command against real nodes, dev nodes where there are none: as text, as JSON, and by its exit code."""

from __future__ import annotations

import gzip
import io
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from airflow_provider_qcache.cli.definition import COMMANDS, Command, parser
from airflow_provider_qcache.cli.shares import moved_share, shares
from airflow_provider_qcache.client import Ring
from airflow_provider_qcache.testing import Cluster
from tests.cli.conftest import Run
from tests.harness.faults import FaultyNode, Peer, Received, silent, status_only
from tests.harness.nodes import Nodes
from tests.harness.ports import closed_port

CSV = b"city,zip\nTokyo,007\nDelhi,12\n"
QUICK = ("--set", "read_timeout=1.5", "--set", "deadline=10")


def stored(nodes: Nodes, key: str, *, on: str | None = None) -> str:
    """Store a table on its home, or on another node, and return where."""
    node = on or Ring(nodes.urls).node_for_key(key)
    assert nodes.ask(nodes.urls.index(node), "POST", key, CSV).status == 201
    return node


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
    def test_each_command_has_help_with_examples_that_parse(self, run: Run, command: Command) -> None:
        help_text = run(command.name, "--help")
        assert help_text.code == 0
        assert "exit codes:" in help_text.out
        assert command.examples
        for example in command.examples:
            line = f"{command.name} {example}".strip()
            assert f"  python -m airflow_provider_qcache {line}" in help_text.out.splitlines()
            assert parser().parse_args(shlex.split(line)).command == command.name

    def test_a_command_that_there_is_none_of_is_wrong_use(self, run: Run) -> None:
        assert run("explode").code == 2

    def test_without_airflow_a_connection_cannot_be_used_and_the_error_says_what_to_do(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "airflow.models.connection", None)
        done = run("nodes")
        assert done.code == 2
        assert "Airflow is not installed here" in done.err
        assert "--nodes" in done.err

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--set", "read_timeout"], "expected FIELD=VALUE"),
            (["--set", "reed_timeout=5"], "did you mean read_timeout"),
            (["--set", "read_timeout=x"], "read_timeout='x': expected"),
        ],
    )
    def test_a_field_that_is_wrong_is_named(self, run: Run, arguments: list[str], message: str) -> None:
        done = run("nodes", "--nodes", "http://host1:9401", *arguments)
        assert done.code == 2
        assert message in done.err

    def test_it_runs_as_a_module_and_closes_with_the_pipe(self, nodes: Nodes) -> None:
        command = [sys.executable, "-m", "airflow_provider_qcache", "nodes", "--nodes", *nodes.urls]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert all(url in done.stdout for url in nodes.urls)
        assert "\x1b" not in done.stdout

    @pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
    def test_a_closed_stdout_is_an_error_before_anything_is_done(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, command: Command
    ) -> None:
        """As `>&-` closes it: Python then has no sys.stdout."""
        monkeypatch.setattr("sys.stdout", None)
        example = next(each for each in command.examples if each or command.examples == ("",))
        monkeypatch.setattr(
            "airflow_provider_qcache.cli.commands.settings_of", lambda _: pytest.fail("it went on")
        )
        done = run(command.name, *shlex.split(example))
        assert (done.code, done.err) == (2, "error: cannot write the result: stdout is closed\n")

    def test_a_closed_stdout_ends_without_a_traceback(self, nodes: Nodes) -> None:
        line = shlex.join([sys.executable, "-m", "airflow_provider_qcache", "nodes", "--nodes", *nodes.urls])
        done = subprocess.run(
            ["sh", "-c", f"{line} >&-"], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (2, "error: cannot write the result: stdout is closed\n")
        done = subprocess.run(
            ["sh", "-c", f"{line} --set x 2>&-"], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout) == (2, "")

    def test_colours_are_for_a_terminal(self, nodes: Nodes) -> None:
        nodes.kill(0)
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "airflow_provider_qcache", "nodes", "--nodes", *nodes.urls]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200", "NO_COLOR": ""}
        with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
            os.close(theirs)
            seen = b""
            while True:
                try:
                    part = os.read(ours, 4096)
                except OSError:
                    break
                if not part:
                    break
                seen += part
        os.close(ours)
        assert process.returncode == 1
        assert nodes.urls[0].encode() in seen
        has_rich = subprocess.run([sys.executable, "-c", "import rich"], capture_output=True, check=False)
        assert (b"\x1b[31m" in seen) == (has_rich.returncode == 0)


class TestNodes:
    def test_each_node_with_its_time_and_health(self, run: Run, nodes: Nodes) -> None:
        done = run("nodes", "--nodes", *nodes.urls)
        assert done.code == 0
        head, *lines = done.lines
        assert head == ["node", "ms", "health"]
        assert [line[0] for line in lines] == nodes.urls
        assert all(float(line[1]) > 0 and line[2].strip() == "ok" for line in lines)

    def test_trouble_comes_first(self, run: Run, nodes: Nodes) -> None:
        nodes.kill(2)
        done = run("nodes", "--nodes", *nodes.urls)
        assert done.code == 1
        assert done.lines[1][0] == nodes.urls[2]
        assert "connection refused" in done.out.splitlines()[1]
        listed = run("nodes", "--nodes", *nodes.urls, "--output", "json").json
        assert [node["ok"] for node in listed] == [False, True, True]
        assert listed[0]["trouble"].startswith("connection refused")

    def test_statistics_are_those_since_the_last_reading_with_a_loud_warning(
        self, run: Run, nodes: Nodes
    ) -> None:
        run("nodes", "--nodes", *nodes.urls, "--statistics")
        node = stored(nodes, "cities")
        i = nodes.urls.index(node)
        for key in ("cities", "cities", "cities", "nosuch"):
            nodes.ask(i, "GET", key)
        done = run("nodes", "--nodes", node, "--statistics", "--output", "json")
        assert "RESETS THEM FOR EVERY READER" in done.err
        (read,) = done.json
        assert (read["hits"], read["misses"], read["hit_rate"]) == (3, 1, 0.75)
        assert read["tables"] >= 1
        assert read["bytes"] > 0
        assert run("nodes", "--nodes", node, "--statistics", "--output", "json").json[0]["hits"] == 0

    def test_statistics_as_text(self, run: Run, nodes: Nodes) -> None:
        done = run("nodes", "--nodes", *nodes.urls, "--statistics")
        assert [cell.strip() for cell in done.lines[0]] == [
            "node",
            "ms",
            "tables",
            "bytes",
            "hit rate",
            "evicted",
            "expired",
            "since",
            "health",
        ]


class TestWhere:
    def test_the_home_and_the_fallbacks_in_their_order(self, run: Run, nodes: Nodes) -> None:
        home = stored(nodes, "cities")
        order = list(Ring(nodes.urls).successors("cities"))
        assert order[0] == home
        done = run("where", "cities", "--nodes", *nodes.urls)
        assert done.code == 0
        assert [line[1].strip() for line in done.lines[1:]] == order
        assert done.lines[1][0] == "home"
        assert [cell.strip() for cell in done.lines[1][2:]] == ["yes", "2"]

    def test_as_json(self, run: Run, nodes: Nodes) -> None:
        home = stored(nodes, "cities")
        found = run("where", "cities", "--nodes", *nodes.urls, "--output", "json").json
        assert (found["key"], found["home"], found["stored_by"]) == ("cities", home, None)
        assert [(place["node"], place["rows"]) for place in found["places"] if not place["absence"]] == [
            (home, 2)
        ]

    def test_a_table_that_readers_miss_is_explained_and_no_success(self, run: Run, nodes: Nodes) -> None:
        other = Ring(nodes.urls).successors("elsewhere")[1]
        stored(nodes, "elsewhere", on=other)
        done = run("where", "elsewhere", "--nodes", *nodes.urls)
        assert done.code == 1
        home = Ring(nodes.urls).successors("elsewhere")[0]
        assert f"Readers do not find the table: they ask {home}, which does not have it." in done.out

    def test_a_home_that_is_down_is_explained_and_each_error_is_printed_once(
        self, run: Run, nodes: Nodes
    ) -> None:
        home, other, _ = Ring(nodes.urls).successors("elsewhere")
        stored(nodes, "elsewhere", on=other)
        nodes.kill(nodes.urls.index(home))
        done = run("where", "elsewhere", "--nodes", *nodes.urls)
        assert done.code == 0
        assert f"readers find the table on {other} meanwhile" in done.out
        assert done.out.count("refused") > 0
        assert done.err == ""

    def test_no_table_is_1_and_a_silent_node_3(self, run: Run, nodes: Nodes) -> None:
        assert run("where", "nosuch", "--nodes", *nodes.urls).code == 1
        gone = run("where", "nosuch", "--nodes", f"http://127.0.0.1:{closed_port()}")
        assert gone.code == 3
        assert "nothing is known about the table" in gone.err
        nodes.pause(0)
        done = run("where", "nosuch", "--nodes", *nodes.urls, *QUICK)
        assert done.code == 3
        assert "unknown" in done.out

    def test_a_key_that_is_none_is_wrong_use(self, run: Run, nodes: Nodes) -> None:
        done = run("where", "a b", "--nodes", *nodes.urls)
        assert done.code == 2
        assert "error: " in done.err


class TestQuery:
    def test_as_a_table_with_the_count_of_all_rows(self, run: Run, nodes: Nodes) -> None:
        stored(nodes, "cities")
        done = run("query", "cities", '{"order_by": ["zip"], "limit": 1}', "--nodes", *nodes.urls)
        assert (done.code, done.err) == (0, "1 of 2 rows\n")
        assert done.out == "city   zip\nTokyo  7\n"

    def test_as_csv_and_json(self, run: Run, nodes: Nodes) -> None:
        stored(nodes, "cities")
        of = ("query", "cities", '{"where": ["==", "zip", 12]}', "--nodes", *nodes.urls, "--format")
        assert run(*of, "csv").out == "city,zip\nDelhi,12\n"
        assert run(*of, "json").json == [{"city": "Delhi", "zip": 12}]

    @pytest.mark.parametrize("query", ["{", '{"nosuch": 1}'])
    def test_a_wrong_query_is_wrong_use(self, run: Run, nodes: Nodes, query: str) -> None:
        stored(nodes, "cities")
        done = run("query", "cities", query, "--nodes", *nodes.urls)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("error: ")

    def test_no_table_is_1(self, run: Run, nodes: Nodes) -> None:
        done = run("query", "nosuch", "--nodes", *nodes.urls)
        assert (done.code, done.err) == (1, "no table under 'nosuch'\n")

    def test_no_node_is_3_at_once(self, run: Run) -> None:
        done = run("query", "cities", "--nodes", f"http://127.0.0.1:{closed_port()}")
        assert done.code == 3
        assert "refused" in done.err

    @pytest.mark.parametrize("status", [401, 500])
    def test_an_answer_that_repeating_does_not_change_is_2(self, run: Run, status: int) -> None:
        with FaultyNode(status_only(status)) as node:
            done = run("query", "cities", "--nodes", node.url)
        assert done.code == 2
        assert f"{status}" in done.err

    def test_an_interrupt_is_130_without_a_traceback(self) -> None:
        asked = threading.Event()

        def answer(peer: Peer, request: Received) -> None:
            asked.set()
            silent(peer, request)

        with FaultyNode(answer) as node:
            command = [
                sys.executable,
                "-m",
                "airflow_provider_qcache",
                "query",
                "cities",
                "--nodes",
                node.url,
            ]
            with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
                assert asked.wait(60)
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (130, "interrupted\n")


class TestFiles:
    @pytest.mark.parametrize("name", ["cities.csv", "cities.json"])
    def test_a_file_goes_in_and_comes_out(self, run: Run, nodes: Nodes, tmp_path: Path, name: str) -> None:
        source = tmp_path / name
        source.write_text(
            CSV.decode() if name.endswith("csv") else '[{"city":"Tokyo","zip":7},{"city":"Delhi","zip":12}]'
        )
        put = run("put", "cities", source, "--nodes", *nodes.urls)
        assert put.code == 0, put.err
        assert "2 rows" in put.out
        got = tmp_path / f"out-{name}"
        assert run("get", "cities", "-o", got, "--nodes", *nodes.urls).code == 0
        if name.endswith("csv"):
            assert got.read_text() == "city,zip\nTokyo,7\nDelhi,12\n"
        else:
            assert json.loads(got.read_text()) == json.loads(source.read_text())
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
        result = run("get", "cities", "-o", got, "--nodes", *nodes.urls, "--output", "json").json
        assert result == {
            "key": "cities",
            "file": str(got),
            "node": Ring(nodes.urls).node_for_key("cities"),
            "rows": 2,
            "bytes": got.stat().st_size,
        }

    @pytest.mark.parametrize("name", ["cities.txt", "cities.csv"])
    def test_a_json_list_of_objects_is_json_whatever_its_name(
        self, run: Run, nodes: Nodes, tmp_path: Path, name: str
    ) -> None:
        (tmp_path / name).write_text('[{"city":"Tokyo","zip":7}]')
        put = run("put", "--nodes", *nodes.urls, "--", "cities", tmp_path / name)
        assert put.code == 0, put.err
        assert run("query", "cities", "--nodes", *nodes.urls, "--format", "json").json == [
            {"city": "Tokyo", "zip": 7}
        ]

    def test_one_row_is_not_rows(self, run: Run, nodes: Nodes, tmp_path: Path) -> None:
        (tmp_path / "one.csv").write_text("a\n1\n")
        assert ": 1 row, 4 bytes\n" in run("put", "one", tmp_path / "one.csv", "--nodes", *nodes.urls).out
        assert run("query", "one", "--nodes", *nodes.urls).err == "1 of 1 row\n"
        assert run("get", "one", "-o", tmp_path / "out", "--nodes", *nodes.urls).out.startswith(
            "1 row, 4 bytes from"
        )

    def test_columns_have_the_types_that_are_named(self, run: Run, nodes: Nodes, tmp_path: Path) -> None:
        (tmp_path / "cities.csv").write_bytes(CSV)
        done = run("put", "cities", tmp_path / "cities.csv", "--types", "zip=string", "--nodes", *nodes.urls,
                   "--output", "json")  # fmt: skip
        assert done.json["node"] == Ring(nodes.urls).node_for_key("cities")
        assert run("query", "cities", "--format", "csv", "--nodes", *nodes.urls).out == CSV.decode()

    def test_a_bad_file_leaves_the_old_table(self, run: Run, nodes: Nodes, tmp_path: Path) -> None:
        stored(nodes, "cities")
        (tmp_path / "bad.csv").write_text("a,b\n1,2,3\n")
        done = run("put", "cities", tmp_path / "bad.csv", "--nodes", *nodes.urls)
        assert done.code == 2
        assert done.err.startswith(f"error: {tmp_path / 'bad.csv'}: store table 'cities': row 1 ")
        assert run("where", "cities", "--nodes", *nodes.urls).code == 0

    @pytest.mark.parametrize("start", [b"PAR1", b"ARROW1", gzip.compress(b"a\n1\n", mtime=0)])
    def test_a_file_of_another_format_is_refused(
        self, run: Run, nodes: Nodes, tmp_path: Path, start: bytes
    ) -> None:
        (tmp_path / "table").write_bytes(start)
        done = run("put", "cities", tmp_path / "table", "--nodes", *nodes.urls)
        assert (done.code, "Parquet, Arrow or compressed" in done.err) == (2, True)

    def test_a_link_stays_and_its_file_is_replaced(self, run: Run, nodes: Nodes, tmp_path: Path) -> None:
        stored(nodes, "cities")
        (tmp_path / "data").write_text("old")
        (tmp_path / "link.json").symlink_to(tmp_path / "data")
        assert run("get", "cities", "-o", tmp_path / "link.json", "--nodes", *nodes.urls).code == 0
        assert (tmp_path / "link.json").is_symlink()
        assert isinstance(json.loads((tmp_path / "data").read_text()), list)

    def test_a_file_that_is_not_there_is_wrong_use(self, run: Run, nodes: Nodes) -> None:
        done = run("put", "cities", "/no/such.csv", "--nodes", *nodes.urls)
        assert (done.code, done.err) == (2, "error: cannot store '/no/such.csv': there is no such file\n")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["get", "cities", "-o", "/no/such/file.csv"], "there is no directory '/no/such'"),
            (["get", "cities", "-o", "/tmp"], "it is no regular file"),
            (["get", "cities", "-o", "/dev/null"], "it is no regular file"),
            (["query", "cities", "5"], "the query is 5; expected a JSON object, such as '{"),
            (
                ["query", "cities", "select 1"],
                "not JSON: Expecting value: line 1 column 1 (char 0); expected a JSON object, such as '{",
            ),
        ],
    )
    def test_what_cannot_be_meant_is_wrong_use(
        self, run: Run, nodes: Nodes, arguments: list[str], message: str
    ) -> None:
        stored(nodes, "cities")
        done = run(*arguments, "--nodes", *nodes.urls)
        assert done.code == 2
        assert message in done.err

    def test_a_question_without_an_answer_is_wrong_use(
        self, run: Run, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("QCACHE_PASSWORD", raising=False)
        monkeypatch.setattr("getpass.getpass", lambda _: input())
        monkeypatch.setattr("sys.stdin", io.StringIO())
        done = run("nodes", "--login", "me", "--set", "allow_auth_over_http=true", "--nodes", *nodes.urls)
        assert done.code == 2
        assert "set QCACHE_PASSWORD" in done.err

    def test_a_password_without_a_terminal_is_wrong_use(self, nodes: Nodes) -> None:
        line = ["nodes", "--login", "me", "--set", "allow_auth_over_http=true", "--nodes", *nodes.urls]
        done = subprocess.run(
            [sys.executable, "-m", "airflow_provider_qcache", *line],
            input="secret\n",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            start_new_session=True,  # without a terminal, whatever started the tests
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            "error: --login me: there is no terminal to ask for the password: set QCACHE_PASSWORD\n"
        )

    def test_no_table_leaves_the_old_file(self, run: Run, nodes: Nodes, tmp_path: Path) -> None:
        (tmp_path / "old.csv").write_text("old")
        assert run("get", "nosuch", "-o", tmp_path / "old.csv", "--nodes", *nodes.urls).code == 1
        assert (tmp_path / "old.csv").read_text() == "old"


class TestDelete:
    def test_from_all_nodes(self, run: Run, nodes: Nodes) -> None:
        for url in nodes.urls:
            stored(nodes, "cities", on=url)
        done = run("delete", "cities", "nosuch", "--all-nodes", "--yes", "--nodes", *nodes.urls)
        assert done.code == 0
        assert nodes.holding("cities") == []
        assert [line[0] for line in done.lines[1:]] == ["cities"] * 3 + ["nosuch"] * 3

    def test_a_silent_node_is_1(self, run: Run, nodes: Nodes) -> None:
        nodes.pause(1)
        done = run(
            "delete", "cities", "--all-nodes", "--yes", "--nodes", *nodes.urls, *QUICK, "--output", "json"
        )
        assert done.code == 1
        (result,) = done.json
        assert result["complete"] is False
        assert result["outcomes"][nodes.urls[1]] == "unreachable"

    def test_where_nobody_can_be_asked_nothing_is_deleted(self, run: Run, nodes: Nodes) -> None:
        stored(nodes, "cities")
        done = run("delete", "cities", "--nodes", *nodes.urls)
        assert done.code == 2
        assert "--yes" in done.err
        assert nodes.holding("cities")

    @pytest.mark.parametrize(("answer", "code"), [("y", 0), ("", 1), ("n", 1)])
    def test_it_asks_first(
        self, run: Run, nodes: Nodes, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
    ) -> None:
        stored(nodes, "cities")
        monkeypatch.setattr("sys.stdin.isatty", lambda: True)
        monkeypatch.setattr("builtins.input", lambda prompt: answer)
        done = run("delete", "cities", "--all-nodes", "--nodes", *nodes.urls)
        assert done.code == code
        assert bool(nodes.holding("cities")) == bool(code)

    def test_a_key_that_is_none_is_wrong_use(self, run: Run, nodes: Nodes) -> None:
        done = run("delete", "no key", "--yes", "--nodes", *nodes.urls)
        assert (done.code, "'no key' is not a key" in done.err) == (2, True)

    def test_no_node_is_3(self, run: Run) -> None:
        assert run("delete", "k", "--yes", "--nodes", f"http://127.0.0.1:{closed_port()}").code == 3


@pytest.mark.parametrize(
    "command",
    [["where", "k"], ["query", "k"], ["delete", "k", "--yes"], ["delete", "k", "--yes", "--all-nodes"]],
)
def test_refused_credentials_are_2(run: Run, qcache_cluster: Cluster, command: list[str]) -> None:
    for node in range(len(qcache_cluster.node_list)):
        qcache_cluster.refuse_auth(node)
    done = run(*command, "--nodes", *qcache_cluster.node_list)
    assert done.code == 2
    assert "401" in done.out + done.err


@pytest.mark.parametrize("command", ["query", "where", "nodes --statistics"])
def test_a_certificate_file_that_is_not_there_is_2(run: Run, command: str) -> None:
    name, *options = command.split()
    key = [] if name == "nodes" else ["k"]
    node = f"https://127.0.0.1:{closed_port()}"
    done = run(name, *key, *options, "--nodes", node, "--set", "ca_file=/no/such.pem")
    assert done.code == 2
    assert "/no/such.pem" in done.err


class TestRing:
    URLS = ("http://host1:9401", "http://host2:9401", "http://host3:9401")

    def test_the_shares_are_those_of_many_keys(self, run: Run) -> None:
        found = run("ring", "--nodes", *self.URLS, "--output", "json").json
        shares = {node["node"]: node["share"] for node in found["nodes"]}
        assert sum(shares.values()) == pytest.approx(1)
        ring = Ring(self.URLS)
        homes = [ring.node_for_key(f"key{i}") for i in range(20_000)]
        for node, share in shares.items():
            assert homes.count(node) / len(homes) == pytest.approx(share, abs=0.02)

    @pytest.mark.parametrize("change", [("--add", "http://host4:9401"), ("--remove", "http://host1:9401")])
    def test_what_moves_is_what_moves_of_many_keys(self, run: Run, change: tuple[str, str]) -> None:
        found = run("ring", *change, "--nodes", *self.URLS, "--output", "json").json
        after = (
            [*self.URLS, change[1]]
            if change[0] == "--add"
            else [url for url in self.URLS if url != change[1]]
        )
        before, then = Ring(self.URLS), Ring(after)
        keys = [f"key{i}" for i in range(20_000)]
        moved = sum(before.node_for_key(key) != then.node_for_key(key) for key in keys) / len(keys)
        assert found["moved_share"] == pytest.approx(moved, abs=0.02)

    def test_what_moves_is_exact(self) -> None:
        """A hash belongs to the first point above it: those from 10 up to 2**30 went to b, and go to a."""

        class Points(Ring):
            def __init__(self, *points: tuple[int, str]) -> None:
                super().__init__(node for _, node in points)
                self._given = list(points)

            __slots__ = ("_given",)

            def points(self) -> list[tuple[int, str]]:
                return self._given

        before, after = Points((10, "a"), (2**31, "b")), Points((2**30, "a"), (2**31, "b"))
        assert moved_share(before, after) == (2**30 - 10) / 2**32
        assert shares(after) == {"a": (2**31 + 2**30) / 2**32, "b": 2**30 / 2**32}

    def test_the_homes_of_keys(self, run: Run) -> None:
        """As the real client places them: foo on host3, bar on host2, a on host1."""
        found = run(
            "ring", "foo", "bar", "a", "--remove", self.URLS[2], "--nodes", *self.URLS, "--output", "json"
        ).json
        assert [key["home"] for key in found["keys"]] == [self.URLS[2], self.URLS[1], self.URLS[0]]
        assert found["keys"][0]["moves"] is True

    def test_as_text(self, run: Run) -> None:
        done = run("ring", "foo", "--add", "http://host4:9401", "--nodes", *self.URLS)
        assert done.code == 0
        assert [cell.strip() for cell in done.lines[0]] == ["node", "share of keys", "after the change"]
        assert [cell.strip() for cell in done.lines[4]][1] == "none"
        assert "of all keys get another home" in done.out
        assert "foo" in done.out

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--remove", "http://host9:9401"], "it is not one of the nodes"),
            (["--add", "http://host1:9401"], "is there already"),
            (["--add", "http://host1:9401/"], "lists one node twice"),
            (["a b"], "is not a key of QCache"),
            (["--remove", URLS[0], "--remove", URLS[1], "--remove", URLS[2]], "no node would be left"),
        ],
    )
    def test_a_change_that_cannot_be_is_wrong_use(self, run: Run, arguments: list[str], message: str) -> None:
        done = run("ring", *arguments, "--nodes", *self.URLS)
        assert done.code == 2
        assert message in done.err
