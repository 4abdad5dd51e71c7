"""What a test needs installed. If it is missing, the test is skipped; in CI it fails."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.harness.mariadb import HOW_TO_GET_MARIADB, mariadb_is_installed
from tests.harness.postgres import HOW_TO_GET_POSTGRES, postgres_programs
from tests.harness.servers import HOW_TO_GET_THE_REAL_SERVER, real_python


def need_the_real_server() -> None:
    """Skip without the real QCache server; fail in CI."""
    if real_python() is None:
        skip_or_fail(HOW_TO_GET_THE_REAL_SERVER)


def need_postgres() -> None:
    """Skip without PostgreSQL; fail in CI."""
    if postgres_programs() is None:
        skip_or_fail(HOW_TO_GET_POSTGRES)


def need_mariadb() -> None:
    """Skip without MariaDB; fail in CI."""
    if not mariadb_is_installed():
        skip_or_fail(HOW_TO_GET_MARIADB)


def need_redis() -> None:
    """Skip without Redis; fail in CI."""
    if shutil.which("redis-server") is None:
        skip_or_fail("no Redis server: `apt-get install redis-server` brings it")


def skip_or_fail(missing: str) -> None:
    """Skip the test, or fail it in CI, where everything must be installed."""
    if os.environ.get("CI"):
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)
