"""LocalCluster: starts nodes for a test or a demo, makes them fail, and leaves nothing behind."""

from __future__ import annotations

import array
import contextlib
import fcntl
import gc
import os
import re
import signal
import socket
import sys
import termios
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from airflow_provider_qcache.devnode import LocalCluster, NodeStartError
from tests.devnode.processes import (
    PATIENCE,
    WITHOUT_PANDAS,
    adopting_orphans,
    alive,
    answers,
    ask,
    interfere,
    start_python,
    still_alive,
)
from tests.harness.lateness import Lateness
from tests.harness.ports import closed_port, closed_ports
from tests.harness.servers import START_TIMEOUT, save_coverage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness.servers import Certificates

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the process table is read from /proc")

_QUERY_ALL = "/qcache/dataset/{}?q=%7B%7D"


def _store(url: str, key: str, content: bytes = b"a\n1\n") -> int:
    return ask(url, f"/qcache/dataset/{key}", body=content)[0]


def _has(url: str, key: str) -> bool:
    return ask(url, _QUERY_ALL.format(key))[0] == 200


@contextlib.contextmanager
def _nothing_left(collected: Literal["error", "ignore"] = "error") -> Iterator[None]:
    """Fail if the block leaves behind a process, a thread, a socket or another descriptor of this process.

    Args:
            collected: What to do about a descriptor that only the garbage collector closed.
    """

    def ours() -> tuple[set[str], set[threading.Thread], set[str]]:
        gc.collect()
        children = {
            pid
            for task in Path("/proc/self/task").iterdir()
            for pid in (task / "children").read_text().split()
        }
        descriptors = {
            f"{entry.name}: {entry.readlink()}"
            for entry in list(Path("/proc/self/fd").iterdir())
            if entry.is_symlink()  # the descriptor that listed the directory is closed by now
        }
        return children, set(threading.enumerate()), descriptors

    before = ours()
    with warnings.catch_warnings():
        warnings.simplefilter(collected, ResourceWarning)
        yield
        left = [after - then for after, then in zip(ours(), before, strict=True)]
        assert left == [set(), set(), set()], "left behind: processes, threads, descriptors"


@pytest.fixture(scope="module")
def shared() -> Iterator[LocalCluster]:
    """A cluster that the tests of this module share."""
    with LocalCluster(start_timeout=START_TIMEOUT) as cluster:
        yield cluster
        save_coverage(cluster)


@pytest.fixture
def cluster(shared: LocalCluster) -> Iterator[LocalCluster]:
    """The shared cluster, reset after the test."""
    before = [node._changes for node in shared._nodes]
    yield shared
    if before != [node._changes for node in shared._nodes]:
        save_coverage(shared)  # later tests kill nodes
    shared.reset()


class TestNodes:
    def test_the_default_is_three_nodes_each_in_its_own_process(self) -> None:
        started = time.monotonic()
        with Lateness() as late, LocalCluster() as cluster:
            assert time.monotonic() - started < 15 + late.seconds  # four on an idle machine
            assert len(set(cluster.node_list)) == len(set(cluster.pids)) == 3
            assert [
                url for url in cluster.node_list if not re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
            ] == []
            assert [url for url in cluster.node_list if not answers(url)] == []
            assert [pid for pid in cluster.pids if not alive(pid)] == []
            assert os.getpid() not in cluster.pids
            assert cluster.exit_codes == [None, None, None]

    def test_a_killed_node_refuses_connections_and_others_answer(self, cluster: LocalCluster) -> None:
        cluster.kill(1)
        cluster.kill(1)
        assert not alive(cluster.pids[1])
        assert cluster.exit_codes == [None, -signal.SIGKILL, None]
        with pytest.raises(OSError, match="refused"):
            ask(cluster.node_list[1])
        assert answers(cluster.node_list[0])
        assert answers(cluster.node_list[2])

    @pytest.mark.parametrize("before", ["kill", "pause", None])
    def test_restart_gives_an_empty_node_on_the_same_port(
        self, cluster: LocalCluster, before: str | None
    ) -> None:
        urls, pids = cluster.node_list, cluster.pids
        assert [_store(url, "t") for url in urls[:2]] == [201, 201]
        if before:
            getattr(cluster, before)(0)
        cluster.restart(0)
        assert cluster.node_list == urls
        assert not _has(urls[0], "t")
        assert _has(urls[1], "t")
        assert cluster.pids[0] != pids[0]
        assert cluster.pids[1:] == pids[1:]
        assert not alive(pids[0])

    def test_a_paused_node_accepts_connections_and_answers_once_resumed(self, cluster: LocalCluster) -> None:
        cluster.pause(2)
        cluster.pause(2)
        port = int(cluster.node_list[2].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=0.3) as connection:
            connection.sendall(b"GET /qcache/status HTTP/1.1\r\nHost: x\r\n\r\n")
            with pytest.raises(TimeoutError):
                connection.recv(100)
            assert answers(cluster.node_list[0])
            cluster.resume(2)
            connection.settimeout(PATIENCE)
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        cluster.resume(2)

    @pytest.mark.parametrize("method", ["pause", "resume"])
    def test_an_ended_node_cannot_be_paused_or_resumed(self, cluster: LocalCluster, method: str) -> None:
        cluster.kill(0)
        with pytest.raises(RuntimeError, match=r"node 0 is not running; restart\(0\) starts it"):
            getattr(cluster, method)(0)

    @pytest.mark.parametrize("method", ["kill", "restart", "pause", "resume"])
    @pytest.mark.parametrize("i", [3, -1, "0"])
    def test_an_unknown_node_is_an_index_error(self, cluster: LocalCluster, method: str, i: int) -> None:
        with pytest.raises(IndexError, match=f"no node {i!r}: expected an integer from 0 to 2, or one of"):
            getattr(cluster, method)(i)

    def test_several_threads_may_kill_and_restart_nodes(self, cluster: LocalCluster) -> None:
        with ThreadPoolExecutor() as threads:
            list(threads.map(cluster.kill, [0, 0]))
            list(threads.map(cluster.restart, [0, 1]))
        assert [url for url in cluster.node_list if not answers(url)] == []

    def test_ctrl_c_in_a_terminal_does_not_reach_the_nodes(self, cluster: LocalCluster) -> None:
        """A terminal signals its whole process group; the nodes are in groups of their own."""
        assert os.getpgrp() not in {os.getpgid(pid) for pid in cluster.pids}


class TestPorts:
    def test_explicit_ports_are_used(self) -> None:
        port = closed_port()
        with LocalCluster(1, ports=[port]) as cluster:
            assert cluster.node_list == [f"http://127.0.0.1:{port}"]
            assert answers(cluster.node_list[0])

    def test_two_clusters_started_at_once_do_not_collide(self) -> None:
        clusters = [LocalCluster(2), LocalCluster(2)]
        with ThreadPoolExecutor() as threads:
            list(threads.map(LocalCluster.start, clusters))
        with clusters[0], clusters[1]:
            urls = clusters[0].node_list + clusters[1].node_list
            assert len(set(urls)) == 4
            assert [url for url in urls if not answers(url)] == []

    def test_the_port_of_a_killed_node_stays_reserved(self, cluster: LocalCluster) -> None:
        cluster.kill(0)
        port = int(cluster.node_list[0].rpartition(":")[2])
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        cluster.restart(0)
        assert answers(cluster.node_list[0])

    def test_the_error_names_a_port_in_use_and_nothing_is_left_behind(self) -> None:
        with socket.socket() as mine:
            mine.bind(("127.0.0.1", 0))
            mine.listen()
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                other = free.getsockname()[1]
            ports = [other, mine.getsockname()[1]]
            with _nothing_left():
                cluster = LocalCluster(2, ports=ports)
                with pytest.raises(NodeStartError, match=f"port {ports[1]} of 127.0.0.1: .*in use"):
                    cluster.start()


class TestOptions:
    def test_size_age_and_statistics_buffer_size_reach_the_nodes(self) -> None:
        with LocalCluster(1, size=1000, age=1, statistics_buffer_size=7) as cluster:
            url = cluster.node_list[0]
            assert b'"statistics_buffer_size": 7' in ask(url, "/qcache/statistics")[1]
            assert _store(url, "t") == 201
            deadline = time.monotonic() + PATIENCE
            while _has(url, "t"):
                assert time.monotonic() < deadline, "the table did not expire"
                time.sleep(0.05)
            with contextlib.suppress(OSError):  # it may close the connection early, like the real server
                assert _store(url, "big", b"a\n" + b"1\n" * 1000) == 400

    def test_tls_and_basic_auth_without_the_password_in_a_command_line_or_environment(
        self, certificates: Certificates
    ) -> None:
        with LocalCluster(1, cert_file=certificates.server, basic_auth="user:s3cret") as cluster:
            url, pid = cluster.node_list[0], cluster.pids[0]
            assert url.startswith("https://127.0.0.1:")
            assert ask(url, tls=certificates.context())[0] == 401
            assert ask(url, tls=certificates.context(), auth="user:s3cret")[0] == 200
            assert b"s3cret" not in Path(f"/proc/{pid}/cmdline").read_bytes()
            assert b"s3cret" not in Path(f"/proc/{pid}/environ").read_bytes()
            assert "s3cret" not in repr(cluster)

    def test_ca_file_requires_client_certificates(self, certificates: Certificates) -> None:
        with LocalCluster(1, cert_file=certificates.server, ca_file=str(certificates.ca)) as cluster:
            url = cluster.node_list[0]
            assert ask(url, tls=certificates.context(certificates.client))[0] == 200
            with pytest.raises(OSError, match=r"certificate|reset|closed|EOF"):
                ask(url, tls=certificates.context())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"nodes": 0}, "nodes: 0 is not allowed: expected an integer 1 or more"),
            ({"nodes": 2, "ports": [8888]}, r"ports: \[8888\] is not allowed: expected 2 different ports"),
            ({"nodes": 2, "ports": [1, 1]}, r"ports: \[1, 1\] is not allowed: expected 2 different ports"),
            ({"nodes": 1, "ports": [0]}, r"ports: \[0\] is not allowed: expected 1 different ports"),
            ({"start_timeout": 0}, "start_timeout: 0 is not allowed: expected seconds above 0"),
            ({"size": 0}, "size: 0 is not allowed: expected an integer 1 or more"),
            ({"basic_auth": "user:pw"}, "basic_auth: it requires TLS"),
        ],
    )
    def test_an_invalid_option_is_an_error_when_the_cluster_is_made(
        self, options: dict[str, object], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            LocalCluster(**options)

    def test_log_receives_what_the_nodes_write_to_stderr(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        interfere(tmp_path, monkeypatch, "import sys; print('a word', file=sys.stderr)")
        with (tmp_path / "log").open("w") as log, LocalCluster(1, log=log):
            pass
        assert (tmp_path / "log").read_text() == "a word\n"

    def test_nodes_do_not_import_modules_from_the_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "tornado.py").write_text("raise SystemExit('not this one')")
        monkeypatch.chdir(tmp_path)
        with LocalCluster(1) as cluster:
            assert answers(cluster.node_list[0])


class TestChanges:
    """Settings that are changed while a node runs."""

    def test_a_table_older_than_a_new_age_limit_expires(self, cluster: LocalCluster) -> None:
        url, other = cluster.node_list[:2]
        assert [_store(node, "t") for node in (url, other)] == [201, 201]
        cluster.configure(0, age=1)
        deadline = time.monotonic() + PATIENCE
        while _has(url, "t"):
            assert time.monotonic() < deadline, "the table did not expire"
            time.sleep(0.05)
        assert _has(other, "t")

    def test_a_store_evicts_what_does_not_fit_into_the_new_size(self, cluster: LocalCluster) -> None:
        url = cluster.node_list[1]
        assert _store(url, "old", b"a\n" + b"1\n" * 100) == 201
        cluster.configure(url, size=1000)
        assert _store(url, "new", b"a\n" + b"1\n" * 100) == 201
        assert not _has(url, "old")
        with contextlib.suppress(OSError):  # it may close the connection early, like the real server
            assert _store(url, "big", b"a\n" + b"1\n" * 1000) == 400

    def test_restart_keeps_changed_settings_and_reset_does_not(self, cluster: LocalCluster) -> None:
        url = cluster.node_list[2]
        cluster.configure(2, size=1000)
        cluster.restart(2)
        big = b"a\n" + b"1\n" * 1000
        with contextlib.suppress(OSError):
            assert _store(url, "big", big) == 400
        cluster.reset()
        assert _store(url, "big", big) == 201

    @pytest.mark.parametrize(
        ("change", "message"),
        [({"size": 0}, "size: 0 is not allowed"), ({"age": -1}, "age: -1 is not allowed")],
    )
    def test_an_invalid_value_changes_nothing(
        self, cluster: LocalCluster, change: dict[str, int], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            cluster.configure(0, **change)
        assert _store(cluster.node_list[0], "t") == 201

    def test_a_slow_node_answers_after_its_delay_and_others_at_once(self, cluster: LocalCluster) -> None:
        cluster.slow(0, 0.3)
        started = time.monotonic()
        assert answers(cluster.node_list[0])
        assert time.monotonic() - started >= 0.3
        cluster.slow(0, 60)
        with pytest.raises(OSError, match="timed out"):
            ask(cluster.node_list[0], timeout=0.2)
        assert answers(cluster.node_list[1])

    def test_requests_that_wait_are_answered_when_the_delay_is_removed(self, cluster: LocalCluster) -> None:
        cluster.slow(1, 60)
        with ThreadPoolExecutor() as threads:
            waiting = [threads.submit(answers, cluster.node_list[1]) for _ in range(3)]
            cluster.slow(1, 0)
            assert [answer for answer in waiting if not answer.result()] == []

    @pytest.mark.parametrize("seconds", [-1, float("nan")])
    def test_an_invalid_delay_is_refused(self, cluster: LocalCluster, seconds: float) -> None:
        with pytest.raises(ValueError, match=r"seconds: .* is not allowed"):
            cluster.slow(0, seconds)

    def test_a_node_that_refuses_credentials_answers_401_to_all_requests(self, cluster: LocalCluster) -> None:
        url = cluster.node_list[0]
        assert _store(url, "t") == 201
        cluster.refuse_auth(0)
        assert ask(url)[0] == ask(url, _QUERY_ALL.format("t"))[0] == ask(url, auth="user:right")[0] == 401
        cluster.refuse_auth(0, refuse=False)
        assert _has(url, "t")

    def test_a_node_that_has_ended_cannot_be_changed(self, cluster: LocalCluster) -> None:
        cluster.kill(0)
        with pytest.raises(RuntimeError, match=r"node 0 is not running; restart\(0\) starts it"):
            cluster.slow(0, 1)

    def test_a_paused_node_cannot_be_changed_and_the_error_says_why(self) -> None:
        with LocalCluster(1, start_timeout=START_TIMEOUT) as cluster:
            cluster._start_timeout = 0.2
            cluster.pause(0)
            with pytest.raises(RuntimeError, match=r"did not confirm .* within 0\.2 s: it is paused"):
                cluster.configure(0, age=5)
            cluster.resume(0)
            cluster._start_timeout = START_TIMEOUT
            cluster.configure(0, age=0)  # the late confirmation is not taken for this change's own
            assert answers(cluster.node_list[0])

    def test_a_change_of_a_node_that_is_killed_meanwhile_is_an_error(self, cluster: LocalCluster) -> None:
        cluster.pause(0)
        with ThreadPoolExecutor(1) as threads:
            change = threads.submit(cluster.configure, 0, age=5)
            waiting = array.array("i", [0])
            while not waiting[0]:  # until the change is in the pipe
                fcntl.ioctl(cluster._nodes[0].stdin, termios.FIONREAD, waiting)
            os.kill(cluster.pids[0], signal.SIGKILL)
            with pytest.raises(RuntimeError, match=r"did not confirm the change \{'age': 5\} within"):
                change.result(PATIENCE)

    def test_reset_restores_every_node_and_empties_it(self, cluster: LocalCluster) -> None:
        assert [_store(url, "t") for url in cluster.node_list] == [201] * 3
        pids = cluster.pids
        cluster.kill(0)
        cluster.pause(1)
        cluster.refuse_auth(2)
        cluster.reset()
        assert [url for url in cluster.node_list if not answers(url)] == []
        assert [url for url in cluster.node_list if _has(url, "t")] == []
        assert cluster.pids[2] == pids[2]

    def test_requests_sent_to_a_paused_or_slow_node_are_lost_in_a_reset(self, cluster: LocalCluster) -> None:
        cluster.pause(0)
        cluster.slow(1, 60)
        for url in cluster.node_list[:2]:
            with pytest.raises(OSError, match="timed out"):
                ask(url, "/qcache/dataset/late", body=b"a\n1\n", timeout=0.2)
        cluster.reset()
        for url in cluster.node_list[:2]:
            assert [_has(url, "late") for _ in range(4)] == [False] * 4


class TestStart:
    _CRASH = """
import os, sys
if any(argument.startswith("--port=") for argument in sys.orig_argv) and os.environ.get("CRASH") in (
    "all", *(argument.partition("=")[2] for argument in sys.orig_argv)
):
    for i in range(30):
        print(f"line {i} of the log", file=sys.stderr)
    sys.stderr.flush()
    os._exit(3)
"""

    def test_the_error_of_a_node_that_does_not_start_has_the_end_of_its_output(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        interfere(tmp_path, monkeypatch, self._CRASH)
        monkeypatch.setenv("CRASH", "all")
        with pytest.raises(NodeStartError) as caught:
            LocalCluster(1).start()
        message = str(caught.value)
        assert re.match(r"http://127\.0\.0\.1:\d+ did not start: the process ended with exit code 3", message)
        assert message.endswith("line 28 of the log\nline 29 of the log")
        assert "line 1 of" not in message

    def test_the_error_of_a_node_whose_output_is_logged_has_no_output(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        interfere(tmp_path, monkeypatch, self._CRASH)
        monkeypatch.setenv("CRASH", "all")
        with (tmp_path / "log").open("w") as log, pytest.raises(NodeStartError) as caught:
            LocalCluster(1, log=log).start()
        assert str(caught.value).endswith("did not start: the process ended with exit code 3")
        assert "line 1 of the log" in (tmp_path / "log").read_text()

    def test_a_start_that_fails_at_the_second_node_leaves_nothing_behind(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        interfere(tmp_path, monkeypatch, self._CRASH)
        ports = closed_ports(2)
        monkeypatch.setenv("CRASH", str(ports[1]))
        with _nothing_left():
            cluster = LocalCluster(2, ports=ports)
            with pytest.raises(NodeStartError, match=f"{ports[1]} did not start"):
                cluster.start()
            with pytest.raises(RuntimeError, match="not running"):
                _ = cluster.pids

    def test_a_failed_restart_leaves_the_other_nodes_running_and_can_be_repeated(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        interfere(tmp_path, monkeypatch, self._CRASH)
        with LocalCluster(2) as cluster:
            monkeypatch.setenv("CRASH", "all")
            with pytest.raises(NodeStartError, match="exit code 3"):
                cluster.restart(0)
            assert cluster.exit_codes == [3, None]
            assert answers(cluster.node_list[1])
            monkeypatch.delenv("CRASH")
            cluster.restart(0)
            assert [url for url in cluster.node_list if not answers(url)] == []

    def test_a_node_that_never_answers_fails_the_start_after_the_timeout(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        interfere(
            tmp_path,
            monkeypatch,
            "import sys, time\nif 'airflow_provider_qcache.devnode' in sys.orig_argv: time.sleep(600)",
        )
        with _nothing_left(), pytest.raises(NodeStartError, match=r"\d did not answer within 0\.5 s"):
            LocalCluster(1, start_timeout=0.5).start()

    def test_the_error_of_a_missing_library_names_the_extra_to_install(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        interfere(tmp_path, monkeypatch, WITHOUT_PANDAS)
        with pytest.raises(
            NodeStartError, match=r"pandas.*the extra 'devnode': pip install '\.\[devnode\]'[^\n]*$"
        ):
            LocalCluster(1).start()

    def test_importing_local_cluster_loads_no_heavy_library(self) -> None:
        heavy = {"pandas", "numpy", "tornado", "requests", "airflow", "lz4"}
        code = "import sys; from airflow_provider_qcache.devnode import LocalCluster; print(*sys.modules)"
        with start_python(code) as python:
            loaded = set(python.communicate(timeout=PATIENCE)[0].split())
        assert "airflow_provider_qcache.devnode.cluster" in loaded
        assert not heavy & loaded


class TestPlatforms:
    def test_a_cluster_works_without_what_only_linux_has(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without signals at a parent's end, ports reserved beside a listener, and waits for a stop."""
        interfere(tmp_path, monkeypatch, "import sys, pandas; sys.platform = 'freebsd14'")
        code = """
import sys, urllib.request
sys.platform = "freebsd14"  # as in the node's process
from airflow_provider_qcache.devnode import LocalCluster
with LocalCluster(1, start_timeout=float(sys.argv[1])) as cluster:
    for use in (cluster.pause, cluster.resume, cluster.restart):
        use(0)
    with urllib.request.urlopen(cluster.node_list[0] + "/qcache/status") as answer:
        print(answer.read().decode(), *cluster.pids)
"""
        with start_python(code, START_TIMEOUT) as python:
            answer, pid = python.communicate(timeout=START_TIMEOUT)[0].split()
        assert (python.returncode, answer) == (0, "OK")
        assert not still_alive([int(pid)])


class TestEnd:
    def test_start_and_close_may_be_repeated(self) -> None:
        cluster = LocalCluster(1)
        cluster.close()
        cluster.start()
        first = cluster.pids
        cluster.start()
        assert cluster.pids == first
        cluster.close()
        cluster.close()
        assert not alive(first[0])
        with cluster:
            assert cluster.pids != first
            assert answers(cluster.node_list[0])

    @pytest.mark.parametrize("use", ["node_list", "pids", "exit_codes", "kill", "restart", "pause", "resume"])
    def test_using_a_cluster_that_is_not_running_is_an_error(self, use: str) -> None:
        with pytest.raises(RuntimeError, match=r"not running; start\(\) it"):
            getattr(LocalCluster(), use)(0)

    def test_an_error_in_the_with_block_leaves_nothing_behind(self) -> None:
        def use_and_fail() -> None:
            with LocalCluster() as cluster:
                cluster.kill(0)
                cluster.restart(1)
                cluster.pause(1)
                cluster.pause(2)
                raise ZeroDivisionError

        with _nothing_left(), pytest.raises(ZeroDivisionError):
            use_and_fail()

    def test_nodes_outlive_the_thread_that_started_them(self) -> None:
        cluster = LocalCluster(1)
        thread = threading.Thread(target=cluster.start)
        thread.start()
        thread.join()
        with cluster:
            time.sleep(0.3)  # a node that ended with the thread would have ended by now
            assert answers(cluster.node_list[0])

    @pytest.mark.filterwarnings("ignore::ResourceWarning")
    def test_the_nodes_of_a_garbage_collected_cluster_end(self) -> None:
        cluster = LocalCluster(1)
        cluster.start()
        pids = cluster.pids
        del cluster
        gc.collect()
        assert not still_alive(pids)

    _PARENT = """
from airflow_provider_qcache.devnode import LocalCluster
cluster = LocalCluster(2)
cluster.start()
cluster.pause(1)
print(*cluster.pids, flush=True)
"""

    def test_nodes_end_with_a_killed_parent_process_even_while_paused(self) -> None:
        with (
            adopting_orphans() as pids,
            start_python(self._PARENT + "import time; time.sleep(600)") as parent,
        ):
            pids.extend(map(int, parent.stdout.readline().split()))
            assert len(pids) == 2
            assert [pid for pid in pids if not alive(pid)] == []
            parent.kill()
            assert not still_alive(pids)

    def test_a_parent_process_that_does_not_close_its_cluster_ends_with_its_nodes(self) -> None:
        with start_python(self._PARENT) as parent:
            pids = list(map(int, parent.communicate(timeout=PATIENCE)[0].split()))
        assert parent.returncode == 0
        assert len(pids) == 2
        assert not still_alive(pids)

    @pytest.mark.parametrize("seconds", [0.02, 0.1])
    def test_an_interrupted_start_leaves_nothing_behind(self, seconds: float) -> None:
        # An interrupted Popen leaves the pipes that it has opened to the garbage collector.
        with _nothing_left(collected="ignore"), pytest.raises(KeyboardInterrupt):
            _interrupt_after(seconds, LocalCluster().start)

    def test_an_interrupted_restart_leaves_the_node_stopped(self, cluster: LocalCluster) -> None:
        with pytest.raises(KeyboardInterrupt):
            _interrupt_after(0.1, lambda: cluster.restart(0))
        assert not alive(cluster.pids[0])
        cluster.restart(0)
        assert [url for url in cluster.node_list if not answers(url)] == []


def _interrupt_after(seconds: float, call: Callable[[], None]) -> None:
    """Raise KeyboardInterrupt inside the call, as Ctrl-C does (and similarly Airflow and pytest-timeout)."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGUSR1, interrupt)
    timer = threading.Timer(seconds, os.kill, [os.getpid(), signal.SIGUSR1])
    timer.start()
    try:
        call()
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, previous)
