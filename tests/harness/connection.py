"""The Airflow connection that tests of operators use."""

from __future__ import annotations

import json
from typing import Any

import pytest


def connect(monkeypatch: pytest.MonkeyPatch, urls: list[str], **extra: Any) -> None:
    """Set the connection ``qcache_default`` to these nodes, with short timeouts."""
    limits = {
        "connect_timeout": 1,
        "read_timeout": 1.5,
        "deadline": 10,
        "retry_wait_initial": 0.02,
        "retry_wait_max": 0.1,
    }
    connection = {"conn_type": "qcache", "extra": {"nodes": urls, **limits, **extra}}
    monkeypatch.setenv("AIRFLOW_CONN_QCACHE_DEFAULT", json.dumps(connection))
