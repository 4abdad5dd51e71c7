"""Operators run without a database, against nodes: real ones, dev nodes where there are none."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from qclient import QClient as Reader

from airflow_provider_qcache.compat import ObjectStoragePath
from airflow_provider_qcache.operators._base import QCacheOperator
from tests.airflow.conftest import nodes_of_the_session
from tests.airflow.nodes import Nodes

__all__ = ["nodes_of_the_session"]


@pytest.fixture
def nodes(nodes_of_the_session: Nodes, monkeypatch: pytest.MonkeyPatch) -> Nodes:
    """Three nodes that answer, and the connection ``qcache_default`` to them."""
    nodes = nodes_of_the_session.all_up()
    connect(monkeypatch, nodes.urls)
    return nodes


def connect(monkeypatch: pytest.MonkeyPatch, urls: list[str], **extra: Any) -> None:
    """Make the connection ``qcache_default`` one to these nodes."""
    limits = {
        "connect_timeout": 1,
        "read_timeout": 1.5,
        "deadline": 10,
        "retry_wait_initial": 0.02,
        "retry_wait_max": 0.1,
    }
    connection = {"conn_type": "qcache", "extra": {"nodes": urls, **limits, **extra}}
    monkeypatch.setenv("AIRFLOW_CONN_QCACHE_DEFAULT", json.dumps(connection))


@pytest.fixture
def remote() -> Iterator[Any]:
    """A directory of an object storage: fsspec's own, in memory."""
    try:
        from airflow.sdk.io import attach
    except ImportError:
        from airflow.io.store import attach
    storage = MemoryFileSystem()
    attach("memory", fs=storage)
    storage.mkdir("/operators", create_parents=True)
    yield ObjectStoragePath("memory://operators")
    storage.rm("/operators", recursive=True)


@pytest.fixture
def reader(nodes: Nodes) -> Callable[[str], Any]:
    """The rows that qcache-client, as an application uses it, finds under a key; None for a miss."""

    def rows(key: str) -> Any:
        answer = Reader(nodes.urls).get(key, {})
        return None if answer is None else json.loads(answer.content)

    return rows


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[[], Any]:
    """What the operator logged, as (level, message); tests/airflow reads the log of real tasks."""
    monkeypatch.setattr(QCacheOperator, "log", logging.getLogger("tests.operators"))
    caplog.set_level(logging.INFO, logger="tests.operators")
    return lambda: [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "tests.operators" and "cannot be called outside" not in record.msg
    ]
