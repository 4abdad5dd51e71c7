"""Operators run without a database, against nodes: real ones, dev nodes where there are none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider_qcache.compat import ObjectStoragePath


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
