"""A database to test against: a process on a loopback port, in a directory of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import IO, ClassVar, Self

from tests.harness.ports import closed_port
from tests.harness.servers import START_TIMEOUT, ServerFailedError, end, listens


class Database(ABC):
    """A server process with an empty database: `with Postgres() as postgres`."""

    name: ClassVar[str]
    ready: ClassVar[bytes]
    """What the server logs when it accepts queries; it opens its port before that."""
    stop_by: ClassVar[signal.Signals]

    def __init__(self, *options: str) -> None:
        self._options = options
        self._directory = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = closed_port()

    @abstractmethod
    def _make_command(self) -> list[object]:
        """The command that creates the database files in `data`."""

    @abstractmethod
    def _server_command(self) -> list[object]:
        """The command that runs the server."""

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    def start(self) -> Self:
        """Create the database, start the server and wait until it answers."""
        self._directory = Path(tempfile.mkdtemp(prefix="qcache-database-"))
        if os.geteuid() == 0:  # these servers refuse to run as root
            nobody = pwd.getpwnam("nobody")
            os.chown(self._directory, nobody.pw_uid, nobody.pw_gid)
        log = self._directory / "log"
        with log.open("wb") as printed:
            if self._run(self._make_command(), printed).wait(START_TIMEOUT) != 0:
                self._fail(log)
            self._process = self._run(self._server_command(), printed)
        latest = time.monotonic() + START_TIMEOUT
        while self.ready not in log.read_bytes() or not listens(self.port):
            if self._process.poll() is not None or time.monotonic() > latest:
                self._fail(log)
            time.sleep(0.02)
        return self

    def _run(self, command: list[object], printed: IO[bytes]) -> subprocess.Popen[bytes]:
        nobody = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        return subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
            cwd=self._directory,
            env={"LC_ALL": "C", "PATH": os.defpath, "TZ": "UTC"},
            user=nobody.pw_uid if nobody else None,
            group=nobody.pw_gid if nobody else None,
            extra_groups=[] if nobody else None,
        )

    def _fail(self, log: Path) -> None:
        printed = log.read_text(errors="replace")[-2000:]
        self.stop()
        raise ServerFailedError(f"{self.name} did not start:\n{printed}")

    def stop(self) -> None:
        """End the server and delete its files."""
        if self._process is not None:
            end(self._process, self.stop_by)
        self._process = None
        if self._directory != Path():
            shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()
