"""Shared by the tests of the dev node's processes: the process table, requests, and nodes that misbehave."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Iterator

    import pytest

PATIENCE = 20.0
"""Seconds after which a test stops waiting for something that takes a moment."""


def alive(pid: int) -> bool:
    """Whether the process runs or is stopped; a zombie counts as ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


def still_alive(pids: Iterable[int]) -> set[int]:
    """Wait until all processes have ended; return those that have not after PATIENCE seconds."""
    remaining = set(pids)
    deadline = time.monotonic() + PATIENCE
    while remaining and time.monotonic() < deadline:
        remaining = {pid for pid in remaining if alive(pid)}
        time.sleep(0.02)
    return remaining


@contextlib.contextmanager
def adopting_orphans() -> Iterator[list[int]]:
    """Have orphans handed to this process, as a container's first process does; the listed ones are killed.

    Otherwise orphans may be handed to a process of another session. Then the system continues a stopped
    process whose process group is orphaned, and a node ends without having been killed.
    """
    pr_set_child_subreaper = 36  # linux/prctl.h
    libc = ctypes.CDLL(None)
    pids: list[int] = []
    libc.prctl(pr_set_child_subreaper, 1)
    try:
        yield pids
    finally:
        libc.prctl(pr_set_child_subreaper, 0)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def processes_with(text: str) -> list[int]:
    """The living processes whose command line contains the text."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if text.encode() in command:
                found.append(int(entry.name))
    return found


def ask(
    url: str,
    path: str = "/qcache/status",
    *,
    body: bytes | None = None,
    auth: str | None = None,
    tls: ssl.SSLContext | None = None,
    timeout: float = PATIENCE,
) -> tuple[int, bytes]:
    """Status and body of a request: a POST of CSV if there is a body, else a GET.

    Raises:
        OSError: There is no answer.
    """
    headers = {"Accept": "application/json", "Content-Type": "text/csv"}
    if auth is not None:
        headers["Authorization"] = f"Basic {base64.b64encode(auth.encode()).decode()}"
    request = urllib.request.Request(url + path, data=body, headers=headers)
    handlers = [urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls)]
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, answer.read()


def answers(url: str) -> bool:
    """Whether the node answers its status with OK."""
    try:
        return ask(url) == (200, b"OK")
    except OSError:
        return False


def interfere(directory: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Run code at the start of every Python process that this process starts from now on."""
    (directory / "sitecustomize.py").write_text(code)
    monkeypatch.syspath_prepend(directory)


WITHOUT_PANDAS = 'import sys; sys.modules["pandas"] = None'
"""Code for `interfere`: importing pandas fails as if it were not installed."""


def start_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a program in a new Python process with this one's sys.path; its stdout is a pipe."""
    preamble = f"import sys; sys.path[:] = {sys.path!r}\n"
    command = [sys.executable, "-c", preamble + code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
