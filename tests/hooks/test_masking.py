"""Airflow's masker hides every spelling of a connection's credentials, and of headers that look like them."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote

import pytest
from airflow.providers.common.compat.sdk import redact

from airflow_provider_qcache.client import NoCacheAvailable
from airflow_provider_qcache.hooks import qcache as hooks
from airflow_provider_qcache.hooks.qcache import QCacheHook
from tests.harness.ports import closed_port

PASSWORD = "s3cr&t/of-the-connection"
TOKEN = "tok3n/of the user"
TRACE = "trace-number-4711"


def test_airflows_masker_knows_every_spelling(connect: Any) -> None:
    extra = {"nodes": [f"http://127.0.0.1:{closed_port()}"], "allow_auth_over_http": True, "deadline": 5}
    extra["wait_for_nodes"] = False
    connect(login="someone", password=PASSWORD, extra=extra)
    # Other tests of this process may have passed words of this line to the masker.
    harmless = str(redact(f"a line of a log with {TRACE} in it"))
    basic = base64.b64encode(f"someone:{PASSWORD}".encode()).decode()
    with QCacheHook() as hook, pytest.raises(NoCacheAvailable):
        hook.get("k", {}, query_headers={"X-Api-Key": TOKEN, "X-Trace": TRACE})
    for secret in (PASSWORD, quote(PASSWORD, safe=""), basic, TOKEN, quote(TOKEN)):
        assert secret not in str(redact(f"a line of a log with {secret} in it"))
    assert str(redact(f"a line of a log with {TRACE} in it")) == harmless


def test_airflows_masker_gets_no_plain_words(connect: Any) -> None:
    extra = {"nodes": [f"http://127.0.0.1:{closed_port()}"], "deadline": 5, "wait_for_nodes": False}
    connect(extra=extra)
    headers = {
        "X-Author": "Sales Team",
        "X-Session": "a bcdef",
        "X-Token-Type": "Bearer",
        "X-Auth-Key": "Tab",
    }
    secrets: list[str] = []
    with pytest.MonkeyPatch.context() as patch, QCacheHook() as hook:
        patch.setattr(hooks, "mask_secret", secrets.extend)
        with pytest.raises(NoCacheAvailable):
            hook.get("k", {}, query_headers=headers)
    assert "a bcdef" in secrets
    assert not {"Sales Team", "Team", "bcdef", "Bearer", "Tab"} & set(secrets)
