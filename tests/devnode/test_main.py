"""``python -m airflow_provider_qcache.devnode``: what it prints, and that its processes end with it."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.devnode.processes import (
    PATIENCE,
    WITHOUT_PANDAS,
    adopting_orphans,
    answers,
    ask,
    interfere,
    processes_with,
    start_python,
    still_alive,
)
from tests.harness.ports import closed_port, closed_ports
from tests.harness.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.servers import Certificates

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the process table is read from /proc")


class _Line(NamedTuple):
    """The line that is printed for a node that answers."""

    url: str
    pid: int


class _Command:
    """The command as a running process."""

    def __init__(self, *arguments: object, stdin: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "airflow_provider_qcache.devnode", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            process_group=0,
        )
        self.process.stdin.write(stdin)
        self.process.stdin.close()
        self.process.stdin = None

    def lines(self, count: int) -> list[_Line]:
        """Wait for the lines of this many nodes."""
        return [_read(self.process.stdout.readline()) for _ in range(count)]

    def end(self) -> tuple[int, str, str]:
        """Wait until the command ends; return its exit code, the rest of stdout, and stderr."""
        stdout, stderr = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, stdout, stderr


def _read(line: str) -> _Line:
    match = re.fullmatch(r"(https?://\S+:\d+) pid (\d+)\n", line)
    assert match, line
    return _Line(match[1], int(match[2]))


@contextlib.contextmanager
def _command(*arguments: object, stdin: str = "") -> Iterator[_Command]:
    command = _Command(*arguments, stdin=stdin)
    try:
        yield command
    finally:
        command.process.kill()
        command.process.communicate()


class TestNodes:
    def test_a_single_node_runs_in_the_command_s_own_process(self) -> None:
        port = closed_port()
        with _command("--port", port) as command:
            assert command.lines(1) == [(f"http://127.0.0.1:{port}", command.process.pid)]
            assert answers(f"http://127.0.0.1:{port}")

    def test_several_nodes_run_in_their_own_processes_on_consecutive_ports(self) -> None:
        ports = closed_ports(3)
        with _command("--port", ports[0], "--nodes", 3) as command:
            lines = command.lines(3)
            assert [line.url for line in lines] == [f"http://127.0.0.1:{port}" for port in ports]
            assert len({line.pid for line in lines} | {command.process.pid}) == 4
            assert [line for line in lines if not answers(line.url)] == []
            os.kill(lines[1].pid, signal.SIGKILL)
            assert not still_alive([lines[1].pid])
            assert answers(lines[0].url)
            assert answers(lines[2].url)

    def test_port_0_takes_free_ports(self) -> None:
        with _command("--port", 0, "--nodes", 2) as command:
            assert [line for line in command.lines(2) if not answers(line.url)] == []

    def test_it_listens_on_loopback_unless_host_is_set(self) -> None:
        with _command("--port", 0) as command:
            assert command.lines(1)[0].url.startswith("http://127.0.0.1:")
        with _command("--port", 0, "--host", "127.0.0.2") as command:
            (line,) = command.lines(1)
            assert line.url.startswith("http://127.0.0.2:")
            assert answers(line.url)
            assert not answers(line.url.replace("127.0.0.2", "127.0.0.1"))

    def test_it_accepts_the_real_server_s_short_options(self, certificates: Certificates) -> None:
        port = closed_port()
        arguments = ["-p", port, "-s", 1000, "-a", 60, "-b", 7, "-c", certificates.server]
        with _command(*arguments) as command:
            (line,) = command.lines(1)
            assert line.url == f"https://127.0.0.1:{port}"
            status, statistics = ask(line.url, "/qcache/statistics", tls=certificates.context())
            assert status == 200
            assert b'"statistics_buffer_size": 7' in statistics

    def test_tls_client_certificates_and_a_password_from_stdin(self, certificates: Certificates) -> None:
        options = [f"--cert-file={certificates.server}", f"--ca-file={certificates.ca}", "--basic-auth=-"]
        with _command("--port=0", "--nodes=2", *options, stdin="user:s3cret\n") as command:
            for url, pid in command.lines(2):
                tls = certificates.context(certificates.client)
                assert ask(url, tls=tls, auth="user:s3cret")[0] == 200
                assert ask(url, tls=tls, auth="user:wrong")[0] == 401
                with pytest.raises(OSError, match=r"certificate|reset|closed|EOF"):
                    ask(url, tls=certificates.context(), auth="user:s3cret")
                assert b"s3cret" not in Path(f"/proc/{pid}/cmdline").read_bytes()

    def test_a_password_on_the_command_line_is_not_on_the_nodes_command_lines(
        self, certificates: Certificates
    ) -> None:
        options = [f"--cert-file={certificates.server}", "--basic-auth=user:s3cret"]
        with _command("--port=0", "--nodes=2", *options) as command:
            for url, pid in command.lines(2):
                assert ask(url, tls=certificates.context(), auth="user:s3cret")[0] == 200
                assert ask(url, tls=certificates.context())[0] == 401
                assert b"s3cret" not in Path(f"/proc/{pid}/cmdline").read_bytes()
                assert b"s3cret" not in Path(f"/proc/{pid}/environ").read_bytes()


class TestErrors:
    @pytest.mark.parametrize(("nodes", "busy"), [(1, 0), (3, 1)])
    def test_a_port_in_use_prints_one_line_and_exits_1_and_no_node_is_left(
        self, nodes: int, busy: int
    ) -> None:
        ports = closed_ports(nodes)
        with socket.socket() as mine:
            mine.bind(("127.0.0.1", ports[busy]))
            mine.listen()
            with _command("--port", ports[0], "--nodes", nodes) as command:
                code, stdout, stderr = command.end()
            assert (code, stdout) == (1, "")
            assert re.fullmatch(rf"[^\n]*port {ports[busy]} of 127.0.0.1: [^\n]*in use\n", stderr)
            assert not [pid for port in ports for pid in processes_with(f"--port={port}")]

    @pytest.mark.parametrize("nodes", [1, 3])
    def test_missing_libraries_print_one_line_with_what_to_install(
        self, nodes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        interfere(tmp_path, monkeypatch, WITHOUT_PANDAS)
        with _command("--port", 0, "--nodes", nodes) as command:
            code, stdout, stderr = command.end()
        assert (code, stdout) == (1, "")
        assert re.fullmatch(r"[^\n]*the extra 'devnode': pip install '\.\[devnode\]'[^\n]*\n", stderr)

    @pytest.mark.parametrize("nodes", [1, 3])
    def test_an_invalid_certificate_file_prints_one_line(self, nodes: int, tmp_path: Path) -> None:
        (tmp_path / "cert.pem").write_text("nothing\n")
        with _command("--port", 0, "--nodes", nodes, "--cert-file", tmp_path / "cert.pem") as command:
            code, stdout, stderr = command.end()
        assert (code, stdout) == (1, "")
        assert stderr.count("\n") == 1

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--port", "70000"], "port: 70000 is not allowed: expected an integer from 0 to 65535"),
            (
                ["--port", "65535", "--nodes", "2"],
                "port: 65536 is not allowed: expected an integer from 0 to 65535",
            ),
            (["--nodes", "0"], "nodes: 0 is not allowed: expected an integer 1 or more"),
            (["--size", "much"], "--size: invalid int value: 'much'"),
            (["--cert-file", "/no/such"], "cert_file: '/no/such' is not allowed"),
            (["--basic-auth", "user:s3cret"], "basic_auth: it requires TLS"),
        ],
    )
    def test_an_invalid_option_prints_what_is_allowed(self, arguments: list[str], message: str) -> None:
        with _command(*arguments) as command:
            code, _, stderr = command.end()
        assert code == 2
        assert message in stderr
        assert "s3cret" not in stderr

    def test_each_node_that_ends_prints_one_line_and_without_nodes_it_exits_1(self) -> None:
        with _command("--port", 0, "--nodes", 2) as command:
            first, second = command.lines(2)
            os.kill(first.pid, signal.SIGKILL)
            reported = command.process.stderr.readline()
            assert reported == f"{first.url} pid {first.pid} ended with signal SIGKILL; 1 of 2 nodes left\n"
            assert answers(second.url)
            os.kill(second.pid, signal.SIGKILL)
            code, _, stderr = command.end()
            assert code == 1
            assert stderr == f"{second.url} pid {second.pid} ended with signal SIGKILL; 0 of 2 nodes left\n"


@pytest.fixture
def restored_sighup() -> Iterator[None]:
    """Make SIGHUP end processes again: nohup makes everything that is started under it ignore SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("restored_sighup")
class TestEnd:
    @pytest.mark.parametrize("nodes", [1, 2])
    @pytest.mark.parametrize(
        ("number", "reason"),
        [
            (signal.SIGTERM, "it received SIGTERM"),
            (signal.SIGHUP, "its terminal closed (SIGHUP); start it with nohup to keep it"),
            (signal.SIGINT, None),  # whoever pressed Ctrl-C knows the reason
        ],
    )
    def test_a_signal_ends_all_nodes_and_the_reason_is_logged(
        self, nodes: int, number: signal.Signals, reason: str | None
    ) -> None:
        with _command("--port", 0, "--nodes", nodes) as command:
            lines = command.lines(nodes)
            if nodes > 1:
                os.kill(lines[0].pid, signal.SIGSTOP)
            os.killpg(command.process.pid, number)  # a terminal signals the whole process group too
            code, stdout, stderr = command.end()
            process = f"python -m airflow_provider_qcache.devnode: process {command.process.pid}"
            assert (code, stdout) == (0, "")
            assert stderr == (f"{process} ends because {reason}\n" if reason else "")
            assert not still_alive(line.pid for line in lines)

    @pytest.mark.parametrize("nodes", [1, 2])
    def test_a_signal_ends_it_also_before_the_nodes_answer(
        self, nodes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # With several nodes, a cluster would take the printed line for a node's error and end.
        starting = "print('starting', flush=True); " if nodes == 1 else ""
        # In short steps: Python handles a signal that comes just before a sleep only after it.
        interfere(tmp_path, monkeypatch, _app(f"{starting}[time.sleep(0.05) for _ in range(12_000)]"))
        size = 10_000_000 + os.getpid()  # identifies the processes of this run
        with _command("--port", closed_ports(nodes)[0], "--nodes", nodes, "--size", size) as command:
            if nodes == 1:
                assert command.process.stdout.readline() == "starting\n"
            else:
                while not processes_with(f"--size={size}"):
                    assert command.process.poll() is None
            command.process.terminate()
            assert command.process.wait(PATIENCE) == 0
            assert not still_alive(processes_with(f"--size={size}"))

    def test_a_signal_that_does_not_wake_the_main_thread_ends_a_node_that_waits(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A signal that comes just before the main thread waits does not wake it; nor does this one."""
        answers = tmp_path / "answers"
        code = f"""
import pathlib, signal, sys, threading, time
def send():
    while not pathlib.Path({str(answers)!r}).exists():
        time.sleep(0.05)
    time.sleep(0.5)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
if "airflow_provider_qcache.devnode" in sys.orig_argv:
    threading.Thread(target=send, daemon=True).start()
"""
        interfere(tmp_path, monkeypatch, code)
        with _command("--port", 0) as command:
            command.lines(1)
            answers.touch()
            assert command.process.wait(PATIENCE) == 0

    def test_nodes_end_with_a_killed_supervisor_even_while_stopped(self) -> None:
        with adopting_orphans() as pids, _command("--port", 0, "--nodes", 2) as command:
            pids.extend(line.pid for line in command.lines(2))
            os.kill(pids[1], signal.SIGSTOP)
            command.process.kill()
            command.end()
            assert not still_alive(pids)

    @pytest.mark.parametrize("command_line", ["{command} &", "nohup {command} &"])
    def test_nodes_in_the_background_outlive_the_shell_that_started_them(self, command_line: str) -> None:
        nodes = shlex.join([sys.executable, "-m", "airflow_provider_qcache.devnode", "--port=0", "--nodes=2"])
        with adopting_orphans() as pids:
            shell = subprocess.Popen(
                ["sh", "-c", f"{command_line.format(command=nodes)} echo $!; wait"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            supervisor = int(shell.stdout.readline())
            pids.append(supervisor)
            lines = [_read(shell.stdout.readline()) for _ in range(2)]
            if command_line.startswith("nohup"):
                os.killpg(shell.pid, signal.SIGHUP)  # a terminal that closes does the same
            else:
                shell.kill()
            shell.wait(PATIENCE)
            shell.stdout.close()
            for _ in range(3):  # longer than the interval at which nodes check that their parent lives
                time.sleep(0.2)
                assert [line for line in lines if not answers(line.url)] == []
            os.kill(supervisor, signal.SIGTERM)
            assert not still_alive(line.pid for line in lines)

    def test_a_node_with_a_blocked_event_loop_ends_with_its_parent(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        interfere(tmp_path, monkeypatch, _app("on_ready(1)\n    while True: pass"))
        with adopting_orphans() as pids, start_python(self._PARENT) as parent:
            pids.append(_read(parent.stdout.readline()).pid)
            parent.kill()
            assert not still_alive(pids)

    def test_a_node_of_a_cluster_ends_when_the_pipe_from_the_cluster_closes(self) -> None:
        with _command("--port", 0, f"--parent={os.getpid()}") as command:
            code, _, stderr = command.end()
        assert (code, stderr) == (1, "")

    def test_a_node_whose_parent_has_already_ended_ends_at_once(self) -> None:
        nobody = [sys.executable, "-m", "airflow_provider_qcache.devnode", "--port=0", "--parent=1"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with subprocess.Popen(
            nobody, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment
        ) as node:
            assert node.wait(PATIENCE) == 1

    _PARENT = """
import subprocess, sys, os
subprocess.run(
    [sys.executable, "-m", "airflow_provider_qcache.devnode", f"--parent={os.getpid()}"],
    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
)
"""


def _app(serve: str) -> str:
    """Code for `interfere`: the node's application runs this instead of serving."""
    return f"""
import sys, time, types
app = types.ModuleType("airflow_provider_qcache.devnode.app")
def serve(options, on_ready, control):
    {serve}
app.serve = serve
sys.modules[app.__name__] = app
"""
