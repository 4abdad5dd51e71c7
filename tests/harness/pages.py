"""Follows pages of the docs as a reader does: writes their files, runs their commands, compares the output.

What such a page contains:

- a `console` block has commands and their output. A command follows ``$ `` and may continue on lines that
  begin with ``> ``. ``...`` stands for any text within a line, and on a line of its own for any lines. A
  command must exit with 0 unless the page shows its output.
- a Python block is written to the file that the line before it names, as in "Write this to
  `dags/orders.py`:". The other Python blocks of a page form one module, which Airflow imports
  in tests/airflow.
- a `text` block is not run, and a `json` block is a value.
- a console block after the comment ``<!-- another terminal -->`` is one command that runs in the background.
  The next block starts once the command has printed what the block shows. A ``pid 11941`` in it stands for
  the process id of this run, in the rest of the page too.
- ``<!-- not run: reason -->`` excludes the next block.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from airflow_provider_qcache.client import Ring
from tests.harness.ports import closed_port, closed_ports
from tests.harness.servers import ROOT

_COMMAND_TIMEOUT = 120.0
"""Seconds. Only a command that hangs takes so long: on a busy machine an `airflow` command takes ten."""

_FENCE = re.compile(r"^```(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, with the last non-empty line before it."""

    language: str
    text: str
    before: str
    line: int
    introduction: str
    """The text between the block and the one before it."""

    @property
    def is_excluded(self) -> bool:
        """Whether the page excludes the block from tests, which it does with a reason."""
        return self.before.startswith("<!-- not run: ")

    @property
    def file(self) -> str | None:
        """The file to which the page tells its reader to write the block."""
        named = re.search(r"`([^`]+)`:$", self.before)
        return named[1] if named else None

    @property
    def commands(self) -> Iterator[tuple[str, str]]:
        """Each command of a console block, with the output that the page shows for it."""
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            first, *rest = part.split("\n")
            while rest and (rest[0] == ">" or rest[0].startswith("> ")):
                first += "\n" + rest.pop(0)[2:]
            yield first, "\n".join(rest).strip("\n")


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    text = page.read_text("utf-8")
    assert not re.search(r"^ +```", text, re.MULTILINE), f"{page.name}: an indented block is not tested"
    indented = re.search(r"\n\n    (?![-*\d ]).*", _FENCE.sub("", text))
    assert indented is None, f"{page.name}: a block without fences is not tested:{indented and indented[0]}"
    found = []
    end = 0
    for match in _FENCE.finditer(text):
        introduction = text[end : match.start()]
        lines = [line for line in introduction.split("\n") if line.strip()]
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(match[1], match[2], lines[-1] if lines else "", line, introduction))
        end = match.end()
    return found


def is_followed_step_by_step(page: Path) -> bool:
    """Whether a test follows the page, command by command."""
    return page.is_relative_to(DOCS) and page.relative_to(DOCS).as_posix() in {*ON_NODES, *ON_AIRFLOW}


def module_of(page: Path) -> str:
    """A page's Python that belongs to no file, as one module with the page's line numbers."""
    lines: list[str] = []
    for block in blocks_of(page):
        if block.language == "python" and not (is_followed_step_by_step(page) and block.file):
            lines += [""] * (block.line - len(lines))
            lines += block.text.splitlines()
    return "\n".join([*lines, ""]) if lines else ""


def output_matches(expected: str, printed: str) -> bool:
    """Whether the output is what a page shows: ``...`` is any text, and column widths do not count."""
    expected, printed = (re.sub(" {2,}", "  ", text) for text in (expected, printed))
    pattern = ""
    for line in expected.split("\n"):
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*?".join(re.escape(part) for part in line.rstrip().split("...")) + r"[ \t\r]*\n"
    return re.fullmatch(pattern, printed.strip("\n") + "\n") is not None


DOCS = ROOT / "docs"
PAGES_BESIDE_DOCS = "README.md", "CONTRIBUTING.md", "SECURITY.md"
PAGES = (*sorted(DOCS.rglob("*.md")), *(ROOT / name for name in PAGES_BESIDE_DOCS))
"""All pages with code to copy; the changelog has none."""

ON_NODES = (
    "howto/find-a-missing-table.md",
    "howto/migrate-from-qclient.md",
    "howto/size-a-cluster.md",
    "howto/tls-and-credentials.md",
    "reference/commands.md",
    "reference/devnode.md",
)
"""Pages that need only nodes; tests/cli follows each one by itself."""
ON_AIRFLOW = (
    "tutorial.md",
    "howto/warm-from-sql.md",
    "howto/warm-files.md",
    "howto/warm-thousands.md",
    "howto/warm-a-lost-node.md",
    "howto/monitor.md",
    "howto/invalidate-on-a-schedule.md",
    "howto/upgrade.md",
)
"""Pages that tests/airflow follows one after the other on one Airflow."""

TESTED_ELSEWHERE = {
    ("howto/examples.md", "sql"): "tests/airflow/test_examples.py",
    ("howto/test-a-dag.md", "python"): "tests/airflow/test_testing.py",
    ("reference/query-language.md", "http"): "tests/conformance/test_query_language.py",
    ("reference/query-language.md", "json"): "tests/conformance/test_query_language.py",
    ("reference/query-language.md", "python"): "tests/conformance/test_query_language.py",
}
"""Blocks, by page and language, that a test of their own runs."""

PORTS = 8888, 8889, 8890
"""The ports of the three nodes on every page."""


def ports_like(key: str) -> dict[str, str]:
    """Free ports in place of the pages' ports, with which the key has the same order of nodes as on pages."""
    for _ in range(200):
        ports = closed_ports(len(PORTS))
        if _order(key, ports) == _order(key, PORTS):
            return {str(page): str(here) for page, here in zip(PORTS, ports, strict=True)}
        closed_port()  # moves on, so that the next three are not the same multiple of three
    raise AssertionError("no free ports give the key the order of nodes that the pages show")


def _order(key: str, ports: Iterable[int]) -> list[int]:
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    return [urls.index(url) for url in Ring(urls).successors(key)]


class Shell:
    """A bash process in a directory, which runs the commands of a page one after the other.

    Args:
            directory: the directory in which it starts.
            environment: its environment variables.
            replaced: texts of the page, such as ports, and what replaces them in this run.
    """

    def __init__(
        self, directory: Path, environment: Mapping[str, str], replaced: Mapping[str, str] | None = None
    ) -> None:
        self._directory = directory
        self._environment = dict(environment)
        self._replaced = dict(replaced or {})
        self._logs = 0
        self._background: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self._bash = self._start([], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(self, *error: object) -> None:
        for process in (self._bash, *self._background):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()

    def _start(self, arguments: list[str], **streams: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["bash", "--noprofile", "--norc", *arguments],
            cwd=self._directory,
            env=self._environment,
            stderr=subprocess.STDOUT,
            process_group=0,
            **streams,
        )

    def follow(self, page: Path) -> None:
        """Follow a page from its first block to its last."""
        for block in blocks_of(page):
            where = f"{page.name}, line {block.line}"
            if block.is_excluded:
                continue
            if block.language != "console":
                if block.file:
                    self.write(block.file, block.text)
            elif block.before == "<!-- another terminal -->":
                for command, expected in block.commands:
                    self.run_in_background(command, expected, where)
            else:
                for command, expected in block.commands:
                    self.run(command, expected, where)

    def _replace(self, text: str) -> str:
        # In one pass: a port of this run may equal a process id of the page.
        pattern = "|".join(map(re.escape, self._replaced))
        return re.sub(pattern, lambda match: self._replaced[match[0]], text) if pattern else text

    def write(self, name: str, text: str) -> None:
        """Write a file, relative to the shell's working directory."""
        path = Path(self._ask("pwd")[1].strip()) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._replace(text), "utf-8")

    def run(self, command: str, expected: str, where: str) -> None:
        """Run a command and compare what it prints."""
        code, printed = self._ask(self._replace(command))
        message = f"{where}: {command}\nended with {code} and printed\n{printed}"
        if expected:
            expected = self._replace(expected)
            assert output_matches(expected, printed), f"{message}\ninstead of\n{expected}"
        else:
            assert code == 0, message

    def _ask(self, command: str) -> tuple[int, str]:
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        end = f"--- end of command {time.monotonic_ns()} ---"
        # Not in a subshell, because `cd` and `export` must last. The next commands must not become its input.
        self._bash.stdin.write(f"{{ {command}\n}} </dev/null; printf '\\n%s %s\\n' '{end}' $?\n".encode())
        self._bash.stdin.flush()
        with _killed_after(_COMMAND_TIMEOUT, self._bash):
            lines = []
            for line in self._bash.stdout:
                text = line.decode("utf-8", "replace")
                if text.startswith(end):
                    return int(text.split(" ")[-1]), "".join(lines).removesuffix("\n")
                lines.append(text)
        message = "".join(lines)
        raise AssertionError(f"the shell ended, or took {_COMMAND_TIMEOUT:g} s: {command}\n{message}")

    def run_in_background(self, command: str, expected: str, where: str) -> None:
        """Start a command in a terminal of its own and wait until it has printed what the page shows."""
        self._logs += 1
        log = self._directory / f"terminal-{self._logs}.log"
        exported = self._ask("export -p; pwd")[1]
        *variables, directory = exported.rstrip("\n").split("\n")
        script = "\n".join([*variables, f"cd '{directory}'", self._replace(command)])
        with log.open("wb") as out:
            process = self._start(["-c", script], stdin=subprocess.DEVNULL, stdout=out)
        self._background.append(process)
        deadline = time.monotonic() + _COMMAND_TIMEOUT
        pattern = re.sub(r"\bpid \d+", "pid ...", self._replace(expected))
        while not output_matches(pattern, printed := log.read_text("utf-8")):
            assert process.poll() is None, f"{where}: {command}\nended and had printed\n{printed}"
            assert time.monotonic() < deadline, f"{where}: {command}\nhas printed\n{printed}"
            time.sleep(0.05)
        process_ids = (re.findall(r"\bpid (\d+)", text) for text in (expected, printed))
        self._replaced |= dict(zip(*process_ids, strict=True))


@contextlib.contextmanager
def _killed_after(seconds: float, process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Kill the process group if the block takes longer, so that reading its output ends."""

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
