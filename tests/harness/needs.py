"""What a test needs of the machine: without it the test is skipped, and fails in CI."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.harness.mariadb import HOW_TO_GET_MARIADB, mariadb_is_here
from tests.harness.postgres import HOW_TO_GET_POSTGRES, postgres_programs
from tests.harness.servers import HOW_TO_GET_THE_REAL_SERVER, real_python


def need_the_real_server() -> None:
    """Skip where there is no real server, fail where CI should have one."""
    if real_python() is None:
        skip_or_fail(HOW_TO_GET_THE_REAL_SERVER)


def need_postgres() -> None:
    """Skip where there is no PostgreSQL, fail where CI should have one."""
    if postgres_programs() is None:
        skip_or_fail(HOW_TO_GET_POSTGRES)


def need_mariadb() -> None:
    """Skip where there is no MariaDB, fail where CI should have one."""
    if not mariadb_is_here():
        skip_or_fail(HOW_TO_GET_MARIADB)


def need_redis() -> None:
    """Skip where there is no Redis, fail where CI should have one."""
    if shutil.which("redis-server") is None:
        skip_or_fail("no Redis server: `apt-get install redis-server` brings it")


def skip_or_fail(missing: str) -> None:
    """Skip, but for CI, where nothing may be missing."""
    if os.environ.get("CI"):
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)
