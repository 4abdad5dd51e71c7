"""Runs a fuzzer's cases in separate processes and decides which errors are findings."""

from __future__ import annotations

import contextlib
import faulthandler
import linecache
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from airflow_provider_qcache.client import QClientException
from tests.fuzz.cases import FUZZERS

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = str(ROOT / "airflow_provider_qcache")
CASE_SECONDS = 60.0
"""A case that takes longer counts as endless."""


@dataclass
class Result:
    """The result of a fuzzer's run."""

    name: str
    cases: int = 0
    seconds: float = 0.0
    stopped: bool = False
    findings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        found = f"{len(self.findings)} findings" if self.findings else "no finding"
        return "\n".join(
            [f"{self.name}: {self.cases} cases in {self.seconds:.0f} s, {found}", *self.findings]
        )


def is_documented(error: BaseException) -> bool:
    """Whether docs/reference/errors.md covers an error: one of the client's, or a ValueError raised in the package."""
    if isinstance(error, QClientException):
        return True
    if type(error) not in (ValueError, TypeError):
        return False
    frame = traceback.extract_tb(error.__traceback__)[-1]
    raised = linecache.getline(frame.filename, frame.lineno or 0).strip().startswith("raise ")
    return raised and frame.filename.startswith(PACKAGE)


def run_cases(name: str, seed: int, first: int, cases: int | None) -> None:
    """Run cases in this process; print each case's number before it and its finding after it."""
    faulthandler.enable(all_threads=False)
    with contextlib.ExitStack() as stack:
        case = stack.enter_context(FUZZERS[name]())
        number = first
        while cases is None or number < first + cases:
            print(f"case {number}", flush=True)
            faulthandler.dump_traceback_later(CASE_SECONDS, exit=True)
            try:
                case(random.Random(f"{name} {seed} {number}"))
            except Exception as error:
                if not is_documented(error):
                    trace = "".join(traceback.format_exception(error))[-4000:]
                    print(
                        "finding",
                        trace.encode(errors="backslashreplace").decode().replace("\n", "\\n"),
                        flush=True,
                    )
            faulthandler.cancel_dump_traceback_later()
            number += 1


def run(
    name: str,
    seed: int,
    *,
    first: int = 0,
    cases: int | None = None,
    seconds: float | None = None,
    most: int = 10,
) -> Result:
    """Run cases in separate processes, up to that many cases, seconds, or ``most`` findings."""
    result = Result(name)
    began = time.monotonic()
    number = first
    end = None if cases is None else first + cases
    while not result.stopped and (end is None or number < end) and len(result.findings) < most:
        command = [sys.executable, "-m", "tests.fuzz", name, "--here", f"--seed={seed}", f"--first={number}"]
        command += [] if end is None else [f"--cases={end - number}"]
        with tempfile.TemporaryFile() as errors:
            worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT)
            rest = None if seconds is None else max(0.0, seconds - (time.monotonic() - began))
            timer = threading.Timer(rest, _stop, (worker, result)) if rest is not None else None
            try:
                if timer is not None:
                    timer.start()
                last = number
                for line in worker.stdout or ():
                    kind, _, text = line.rstrip("\n").partition(" ")
                    if kind == "case":
                        last, result.cases = int(text), result.cases + 1
                        result.seconds = time.monotonic() - began
                    elif kind == "finding":
                        result.findings.append(_finding(name, seed, last, text.replace("\\n", "\n")))
                        if len(result.findings) >= most:
                            break
                    else:
                        result.findings.append(_finding(name, seed, last, line))
            except KeyboardInterrupt:
                result.stopped = True
            finally:
                if timer is not None:
                    timer.cancel()
                if worker.poll() is None and (result.stopped or len(result.findings) >= most):
                    worker.terminate()
                code = worker.wait()
            if code and not result.stopped and len(result.findings) < most:
                errors.seek(0)
                trace = errors.read()[-4000:].decode(errors="replace")
                result.findings.append(_finding(name, seed, last, f"the process ended with {code}\n{trace}"))
            number = last + 1
    result.seconds = time.monotonic() - began
    return result


def _stop(worker: subprocess.Popen[str], result: Result) -> None:
    result.stopped = True
    with contextlib.suppress(ProcessLookupError):
        worker.send_signal(signal.SIGTERM)


def _finding(name: str, seed: int, number: int, text: str) -> str:
    command = f"python -m tests.fuzz {name} --here --seed={seed} --first={number} --cases=1"
    return f"  finding, repeated by: {command}\n{text}"
