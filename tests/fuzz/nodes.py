"""A node for the fuzzers: the real server if it is installed, else the dev node."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from airflow_provider_qcache.client import QClient, UnexpectedServerResponse
from tests.harness.servers import Server, real_python

KEY = "fuzz"


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The URL of a node in its own process."""
    with Server.real() if real_python() else Server.dev() as node:
        yield f"http://127.0.0.1:{node.port}"


@contextlib.contextmanager
def client() -> Iterator[QClient]:
    """A client of such a node."""
    with server() as url, QClient([url], 5, 20, deadline=40, trust_env=False) as client:
        yield client


@contextlib.contextmanager
def no_table_lost() -> Iterator[None]:
    """Fails if a node refuses a table: it has dropped the old table by then, so the client must refuse first."""
    try:
        yield
    except UnexpectedServerResponse as error:
        raise AssertionError(f"the node refused what the client sent: {error}") from error
