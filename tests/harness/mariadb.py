"""A real MariaDB to test against: Debian's package, on a loopback port and in its own directory."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal

from tests.harness.database import Database
from tests.harness.servers import ServerFailedError

HOW_TO_GET_MARIADB = (
    "no MariaDB server or no provider for it: `apt-get install mariadb-server libmariadb-dev pkg-config gcc` "
    "and then `make clean` bring both"
)
_PATH = f"{os.defpath}:/usr/sbin:/sbin"


def mariadb_is_installed() -> bool:
    """Whether there is a server, and Airflow's provider with its drivers."""
    found = shutil.which("mariadbd", path=_PATH) and shutil.which("mariadb-install-db", path=_PATH)
    return bool(found) and all(map(importlib.util.find_spec, ("MySQLdb", "mysql", "pymysql")))


class MariaDB(Database):
    """A server process with an empty database, whose sessions are in a time zone other than UTC."""

    name = "MariaDB"
    ready = b"ready for connections"
    stop_by = signal.SIGKILL  # its data is thrown away
    user = "root"
    database = "test"

    @property
    def uri(self) -> str:
        """The URI, in the form that Airflow reads for a connection."""
        return f"mysql://{self.user}@127.0.0.1:{self.port}/{self.database}"

    def _program(self, name: str) -> str:
        program = shutil.which(name, path=_PATH)
        if program is None:
            raise ServerFailedError(HOW_TO_GET_MARIADB)
        return program

    @property
    def _common(self) -> list[object]:
        return [
            *("--no-defaults", f"--datadir={self._data}", "--innodb-log-file-size=8M"),
            "--innodb-flush-log-at-trx-commit=0",
        ]

    def _make_command(self) -> list[object]:
        # This also creates the database `test`, in which everybody may do everything.
        program = self._program("mariadb-install-db")
        return [program, *self._common, "--auth-root-authentication-method=normal"]

    def _server_command(self) -> list[object]:
        return [
            *(self._program("mariadbd"), *self._common, f"--port={self.port}", "--bind-address=127.0.0.1"),
            *(f"--socket={self._directory / 'socket'}", f"--pid-file={self._directory / 'pid'}"),
            *("--skip-name-resolve", "--default-time-zone=+05:30", *self._options),
        ]
