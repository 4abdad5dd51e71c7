"""A node for fuzzers to store on: the real one where it is installed, else the dev node."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from airflow_provider_qcache.client import QClient, UnexpectedServerResponse
from tests.harness.servers import Server, real_python

KEY = "fuzz"


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The URL of a node that runs as a process of its own."""
    with Server.real() if real_python() else Server.dev() as node:
        yield f"http://127.0.0.1:{node.port}"


@contextlib.contextmanager
def client() -> Iterator[QClient]:
    """A client of one such node."""
    with server() as url, QClient([url], 5, 20, deadline=40, trust_env=False) as client:
        yield client


@contextlib.contextmanager
def no_table_lost() -> Iterator[None]:
    """A node refuses nothing that the client sends: it drops the old table before it looks at the new one."""
    try:
        yield
    except UnexpectedServerResponse as error:
        raise AssertionError(f"the node refused what the client sent: {error}") from error
