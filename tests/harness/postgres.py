"""A real PostgreSQL to test against: Debian's packages, on a loopback port and in its own directory."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

from tests.harness.database import Database
from tests.harness.servers import ServerFailedError

HOW_TO_GET_POSTGRES = "no PostgreSQL server: `apt-get install postgresql` brings it"


def postgres_programs() -> Path | None:
    """The directory of initdb and postgres, the newest if Debian has several; None if there is none."""
    versions = Path("/usr/lib/postgresql")
    found = [path.parent for path in versions.glob("*/bin/postgres") if (path.parent / "initdb").exists()]
    if found:
        return max(found, key=lambda path: int(path.parent.name))
    on_path = shutil.which("postgres")
    return Path(on_path).resolve().parent if on_path and shutil.which("initdb") else None


class Postgres(Database):
    """A server process with an empty database: `with Postgres() as postgres`."""

    name = "PostgreSQL"
    ready = b"ready to accept connections"
    stop_by = signal.SIGQUIT  # ends it at once, with its clients' connections
    user = "postgres"
    database = "postgres"

    @property
    def uri(self) -> str:
        """The URI, in the form that libpq reads."""
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{self.database}"

    def _program(self, name: str) -> Path:
        programs = postgres_programs()
        if programs is None:
            raise ServerFailedError(HOW_TO_GET_POSTGRES)
        return programs / name

    def _make_command(self) -> list[object]:
        return [
            *(self._program("initdb"), "-D", self._data, "-U", self.user, "-A", "trust"),
            *("-E", "UTF8", "--locale=C", "--no-sync"),
        ]

    def _server_command(self) -> list[object]:
        # -F: no fsync, because the data is thrown away.
        return [
            *(self._program("postgres"), "-D", self._data, "-k", "", "-p", str(self.port), "-F"),
            *("-c", "listen_addresses=127.0.0.1", *self._options),
        ]
