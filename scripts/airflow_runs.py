"""A temporary Airflow that runs DAGs: its own home, SQLite, and one process for many runs.

::

    with AirflowHome(python) as home, home.runner(dags_folder) as runner:
        run = runner.run("some_dag")
        print(run["some_task"].state, run["some_task"].result, run["some_task"].log)
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

ROOT = Path(__file__).resolve().parent.parent

_BEGIN = re.compile(r"\[DAG TEST\] starting task_id=(\S+) map_index=(-?\d+)")
_TICK = 0.1
_END_TIMEOUT = 20.0


class AirflowFailed(Exception):
    """Airflow itself failed; the message has the end of its output."""


@dataclass(frozen=True)
class Task:
    """A finished task instance.

    ``logs`` has the text of each try, ``retries`` the allowed retries, ``pool`` the name of its pool, and
    ``xcoms`` the values that it pushed.
    """

    state: str
    retries: int
    pool: str
    logs: tuple[str, ...]
    xcoms: dict[str, Any] = field(repr=False)

    @property
    def log(self) -> str:
        """The log of all tries."""
        return "".join(self.logs)

    @property
    def result(self) -> Any:
        """The returned value."""
        return self.xcoms.get("return_value")


@dataclass(frozen=True)
class Run:
    """A finished run of a DAG; `run["task_id"]` is a task, `run.mapped("task_id")` those of a mapped one.

    ``waiting`` are the DAGs that Airflow will start because one of their assets was updated.
    """

    dag_id: str
    state: str
    tasks: dict[tuple[str, int], Task]
    waiting: tuple[str, ...]

    def __getitem__(self, task_id: str) -> Task:
        return self.tasks[task_id, -1]

    def mapped(self, task_id: str) -> list[Task]:
        """The instances of a mapped task, in order."""
        return [task for (name, _), task in sorted(self.tasks.items()) if name == task_id]


def _nothing(*_: object) -> None:
    """Do nothing while waiting."""


class AirflowHome:
    """An AIRFLOW_HOME with a migrated database, removed at the end of the `with` block.

    Args:
        python: The interpreter of an environment with Airflow.
        heed: Called repeatedly while waiting, with the current step; an exception that it raises ends the
            waiting.
    """

    def __init__(
        self,
        python: str | os.PathLike[str],
        heed: Callable[[str], None] = _nothing,
    ) -> None:
        self.python = str(python)
        self.heed = heed
        self.path = Path()

    def __enter__(self) -> Self:
        self.path = Path(tempfile.mkdtemp(prefix="airflow-qcache-"))
        try:
            self._migrate()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _migrate(self) -> None:
        log = self.path / "migrate.log"
        with self.start(["-m", "airflow", "db", "migrate"], log) as migrate:
            while migrate.poll() is None:
                self.heed("migrating the database")
                time.sleep(_TICK)
        if migrate.returncode:
            raise AirflowFailed(f"airflow db migrate failed:\n{_end(log)}")

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    @contextlib.contextmanager
    def start(
        self,
        arguments: list[str],
        log: Path,
        dags: Path | None = None,
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start Python with these arguments, in a process group that is killed at the end of the block."""
        variables = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
            "AIRFLOW_HOME": str(self.path),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags or self.path / "dags"),
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self.path),
            **(environment or {}),
        }
        # -P: nothing is imported from the directory of the script. Its own process group: Ctrl-C in a
        # terminal reaches only the caller.
        with log.open("wb") as out:
            process = subprocess.Popen(
                [self.python, "-P", *arguments],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=variables,
                process_group=0,
                **options,
            )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                if "COVERAGE_PROCESS_CONFIG" in os.environ:  # it writes what it ran when it ends
                    os.killpg(process.pid, signal.SIGTERM)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(_END_TIMEOUT)
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()

    @contextlib.contextmanager
    def runner(self, dags: Path, environment: Mapping[str, str] | None = None) -> Iterator[Runner]:
        """A process that has loaded the DAGs of a folder and runs them, one after the other.

        Args:
            dags: The folder.
            environment: More variables for the process, such as connections.
        """
        heard, says = os.pipe()
        descriptor, name = tempfile.mkstemp(prefix="runs-", suffix=".log", dir=self.path)
        os.close(descriptor)
        script = str(ROOT / "scripts" / "run_dags.py")
        with contextlib.ExitStack() as stack:
            answers = stack.enter_context(os.fdopen(heard))
            try:
                process = stack.enter_context(
                    self.start([script, str(says)], Path(name), dags, environment, pass_fds=[says])
                )
            finally:
                os.close(says)
            yield Runner(process, answers, Path(name), self.heed)


class Runner:
    """Runs DAGs in a process that has loaded them."""

    def __init__(
        self, process: subprocess.Popen[bytes], answers: IO[str], log: Path, heed: Callable[[str], None]
    ) -> None:
        self.process = process
        self._answers = answers
        self._begin = 0
        self._log = log
        self._heed = heed
        self.dags: list[str] = self._answer()["dags"]

    def run(self, dag_id: str, *, logical_date: str | None = "now", conf: Any = None) -> Run:
        """Run a DAG and wait until it has finished; None is a run without a logical date (3.x)."""
        self.begin(dag_id, logical_date=logical_date, conf=conf)
        return self.finish()

    def begin(self, dag_id: str, *, logical_date: str | None = "now", conf: Any = None) -> None:
        """Run a DAG, without waiting."""
        self._begin = self._log.stat().st_size
        asked = json.dumps({"dag_id": dag_id, "logical_date": logical_date, "conf": conf})
        assert self.process.stdin is not None
        self.process.stdin.write(f"{asked}\n".encode())
        self.process.stdin.flush()

    def finish(self) -> Run:
        """Wait for the run that began last."""
        answer = self._answer()
        logs = self._logs()
        return Run(
            answer["dag_id"],
            answer["state"],
            {
                (task["task_id"], task["map_index"]): Task(
                    task["state"],
                    task["retries"],
                    task["pool"],
                    tuple(logs.get((task["task_id"], task["map_index"]), ())),
                    task["xcoms"],
                )
                for task in answer["tasks"]
            },
            tuple(answer["waiting"]),
        )

    def printed(self) -> str:
        """The output since the last run began."""
        with self._log.open("rb") as file:
            file.seek(self._begin)
            return file.read().decode(errors="replace")

    def _logs(self) -> dict[tuple[str, int], list[str]]:
        """The text of each try of each task: the output between its beginning and the next one's."""
        logs: dict[tuple[str, int], list[str]] = {}
        _, *parts = _BEGIN.split(self.printed())
        for name, index, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            logs.setdefault((name, int(index)), []).append(text)
        return logs

    def _answer(self) -> dict[str, Any]:
        while not select.select([self._answers], [], [], _TICK)[0]:
            begun = [name for name, _ in _BEGIN.findall(self.printed())]
            self._heed(f"{begun[-1]}, task {len(begun)}" if begun else "loading the DAGs")
        line = self._answers.readline()
        if not line:
            raise AirflowFailed(f"the process that runs DAGs ended:\n{_end(self._log)}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise AirflowFailed(f"{answer['error']}\n{_end(self._log)}")
        return answer


def _end(log: Path) -> str:
    return log.read_text(errors="replace")[-4000:]
