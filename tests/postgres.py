"""A real PostgreSQL to test against: Debian's packages, on a loopback port and in a directory of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO, Self

from tests.servers import START_TIMEOUT, ServerFailedError, end, free_port, listens

HOW_TO_GET_POSTGRES = "no PostgreSQL server: `apt-get install postgresql` brings it"


def postgres_programs() -> Path | None:
    """The directory of initdb and postgres, the newest where Debian's packages put several; None without."""
    versions = Path("/usr/lib/postgresql")
    found = [path.parent for path in versions.glob("*/bin/postgres") if (path.parent / "initdb").exists()]
    if found:
        return max(found, key=lambda path: int(path.parent.name))
    on_path = shutil.which("postgres")
    return Path(on_path).resolve().parent if on_path and shutil.which("initdb") else None


class Postgres:
    """A server process with an empty database: `with Postgres() as postgres`."""

    user = "postgres"
    database = "postgres"

    def __init__(self, *options: str) -> None:
        self._options = options
        self._directory = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def uri(self) -> str:
        """Its URI, as libpq reads it."""
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{self.database}"

    def start(self) -> Self:
        """Make the database, start the server and wait until it answers."""
        programs = postgres_programs()
        if programs is None:
            raise ServerFailedError(HOW_TO_GET_POSTGRES)
        self._directory = Path(tempfile.mkdtemp(prefix="qcache-postgres-"))
        if os.geteuid() == 0:  # postgres refuses root
            nobody = pwd.getpwnam("nobody")
            os.chown(self._directory, nobody.pw_uid, nobody.pw_gid)
        data = self._directory / "data"
        log = self._directory / "log"
        with log.open("wb") as printed:
            made = self._run(
                [
                    *(programs / "initdb", "-D", data, "-U", self.user, "-A", "trust"),
                    *("-E", "UTF8", "--locale=C", "--no-sync"),
                ],
                printed,
            )
            if made.wait(START_TIMEOUT) != 0:
                self._fail(log)
            # -F: no fsync; what it holds is thrown away.
            self._process = self._run(
                [
                    *(programs / "postgres", "-D", data, "-k", "", "-p", str(self.port), "-F"),
                    *("-c", "listen_addresses=127.0.0.1", *self._options),
                ],
                printed,
            )
        latest = time.monotonic() + START_TIMEOUT
        # The port is open before the start-up is over, and the last line of the log then says so.
        while b"ready to accept connections" not in log.read_bytes() or not listens(self.port):
            if self._process.poll() is not None or time.monotonic() > latest:
                self._fail(log)
            time.sleep(0.02)
        return self

    def _run(self, command: list[object], printed: IO[bytes]) -> subprocess.Popen[bytes]:
        as_root = os.geteuid() == 0
        nobody = pwd.getpwnam("nobody") if as_root else None
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
        raise ServerFailedError(f"PostgreSQL did not start:\n{printed}")

    def stop(self) -> None:
        """End the server and remove what it stored."""
        if self._process is not None:
            end(self._process, signal.SIGQUIT)  # at once, its clients cut off
        self._process = None
        if self._directory != Path():
            shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()
