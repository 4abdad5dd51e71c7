"""Processes that are forked, and threads that start, while a hook makes its client."""

from __future__ import annotations

import os
import threading

import pytest

from airflow_provider_qcache.client import QClient
from airflow_provider_qcache.hooks.qcache import QCacheHook
from tests.harness.fork import CHILD_TIMEOUT, run_in_forked_child

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def test_a_child_makes_its_own_client_while_a_thread_of_the_parent_makes_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The parent's thread does not exist in the child, so nothing that it holds may be waited for."""
    hook = QCacheHook()
    parent, making, let_go = os.getpid(), threading.Event(), threading.Event()

    def arguments() -> dict[str, object]:
        if os.getpid() == parent:
            making.set()
            let_go.wait(CHILD_TIMEOUT)
        return {"node_list": ["http://127.0.0.1:1"], "trust_env": False}

    monkeypatch.setattr(hook, "_client_arguments", arguments)
    thread = threading.Thread(target=hook.get_conn)
    thread.start()
    try:
        assert making.wait(CHILD_TIMEOUT)
        wait = run_in_forked_child(hook.get_conn)
        assert wait() == 0
    finally:
        let_go.set()
        thread.join()
    hook.close()


def test_a_hook_has_one_client_however_many_threads_make_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = QCacheHook()
    together = threading.Barrier(4)

    def arguments() -> dict[str, object]:
        together.wait(CHILD_TIMEOUT)
        return {"node_list": ["http://127.0.0.1:1"], "trust_env": False}

    monkeypatch.setattr(hook, "_client_arguments", arguments)
    clients: list[QClient] = []
    threads = [threading.Thread(target=lambda: clients.append(hook.get_conn())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(clients) == 4
    assert {id(client) for client in clients} == {id(hook.get_conn())}
    hook.close()
