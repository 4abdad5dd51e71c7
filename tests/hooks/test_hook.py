"""The hook is its client: made once from the connection, closed by close(), and seen in the task log."""

from __future__ import annotations

import gc
import inspect
import json
import logging
import re
import signal
import threading
import time
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from airflow_provider_qcache.client import (
    AuthenticationFailed,
    BulkError,
    ClientClosed,
    NoCacheAvailable,
    OperationCancelled,
    QClient,
    RequestRetry,
)
from airflow_provider_qcache.compat import AirflowNotFoundException
from airflow_provider_qcache.connection import InvalidConnection
from airflow_provider_qcache.hooks.qcache import QCacheHook
from tests.harness.needs import need_the_real_server
from tests.harness.servers import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

OPERATIONS = [
    "get",
    "post",
    "query",
    "delete",
    "post_table",
    "post_many",
    "delete_many",
    "node_for_key",
    "successors",
    "locate",
    "node_status",
    "node_statistics",
    "get_statistics",
]
TABLE = "a,b\n1,2\n"


def homed_on(hook: QCacheHook, node: str, *, then: str | None = None) -> str:
    """A key whose home is a node, and the next one another."""
    for number in range(1000):
        first, second, *_ = hook.successors(f"key{number}")
        if first == node and then in (None, second):
            return f"key{number}"
    raise AssertionError


class TestOperations:
    @pytest.mark.parametrize("name", OPERATIONS)
    def test_they_have_the_client_s_signatures(self, name):
        theirs = inspect.signature(getattr(QClient, name))
        assert inspect.signature(getattr(QCacheHook, name)) == theirs
        assert getattr(QCacheHook, name).__doc__ == getattr(QClient, name).__doc__

    def test_every_operation_of_the_client_is_there(self):
        public = {name for name in vars(QClient) if not name.startswith("_")}
        assert public - {"add_listener", "remove_listener", "secrets"} <= set(vars(QCacheHook))

    def test_against_real_nodes(self, real, connect):
        """Each does what it says, all the way to QCache."""
        node = f"http://127.0.0.1:{real.port}"
        connect(host=f"127.0.0.1:{real.port}")
        with QCacheHook() as hook:
            stored = hook.post("k", TABLE, post_headers={"X-QCache-types": "a=string"}, check_row_count=True)
            assert (stored.node, stored.rows) == (node, 1)
            assert hook.get("k", {"select": ["a"]}).content == b'[{"a":"1"}]'
            assert hook.get("k", {}, "text/csv", True).content == b"a,b\n1,2\n"
            hook.post_table("k", [{"zip": "00501", "n": 1}], check_row_count=True)
            assert json.loads(hook.get("k", {}).content) == [{"zip": "00501", "n": 1}]
            hook.delete("k")
            assert hook.get("k", {}) is None
            result = hook.query("k", {}, lambda text: text, {"text": TABLE}, accept="text/csv")
            assert result.content == b"a,b\n1,2\n"
            assert hook.delete("k", all_nodes=True).complete
            others = hook.node_statistics()[node]["dataset_count"]
            assert set(hook.post_many({"k1": TABLE, "k2": TABLE}).succeeded) == {"k1", "k2"}
            assert hook.node_statistics()[node]["dataset_count"] == others + 2
            assert set(hook.delete_many(["k1", "k2"], all_nodes=True).succeeded) == {"k1", "k2"}
            assert hook.node_for_key("k") == node
            assert hook.successors("k") == (node,)
            assert hook.node_status(probe=True)[node].alive
            assert hook.get_statistics() == {}


class TestClient:
    def test_it_is_made_at_first_use_and_once(self, connect, monkeypatch):
        connect(host="first")
        hook = QCacheHook()
        connect(host="second")
        read = QCacheHook.get_connection
        # Slow, as a secrets backend is: the other threads come while the first one makes the client.
        monkeypatch.setattr(hook, "get_connection", lambda name: time.sleep(0.2) or read(name))
        found: list[QClient] = []
        threads = [threading.Thread(target=lambda: found.append(hook.get_conn())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(map(id, found))) == 1
        assert hook.node_for_key("k") == "http://second:8888"

    def test_its_settings_are_the_connection_s(self, connect):
        connect(host="host1", extra={"read_timeout": "2.5", "consecutive_error_count_limit": 3})
        hook = QCacheHook(request_retry={"wait_max": 1})
        client = hook.get_conn()
        assert client._settings.read_timeout == 2.5
        assert client._engine.limit == 3
        assert client._engine.policy == RequestRetry(wait_initial=0.1, wait_max=1, wait_for_nodes=True)

    def test_with_and_close_end_it(self, connect):
        connect(host="host1")
        with QCacheHook() as hook:
            client = hook.get_conn()
        with pytest.raises(ClientClosed):
            client.get("k", {})
        hook.close()

    def test_another_connection(self, monkeypatch):
        monkeypatch.setenv("AIRFLOW_CONN_OTHER", "qcache://host1:9401")
        assert QCacheHook("other").node_for_key("k") == "http://host1:9401"

    def test_a_bad_request_retry_is_refused_when_the_hook_is_made(self):
        with pytest.raises(ValueError, match="no field 'waits'"):
            QCacheHook(request_retry={"waits": 1})

    @pytest.mark.parametrize("name", ["ca_file", "cert_file"])
    def test_a_file_that_is_not_there_is_named_by_its_field(self, name, connect):
        connect(host="host1", schema="https", extra={name: "/nowhere.pem"})
        with pytest.raises(
            InvalidConnection, match=rf"'qcache_default': .*\({name}\)='/nowhere.pem'.*No such file"
        ):
            QCacheHook().get_conn()

    @pytest.mark.parametrize("name", ["ca_file", "cert_file"])
    def test_a_home_of_nobody_is_named_by_its_field(self, name, connect):
        connect(host="host1", schema="https", extra={name: "~nosuchuser/x.pem"})
        with pytest.raises(InvalidConnection, match=rf"\({name}\)='~nosuchuser/x.pem'.*No such file"):
            QCacheHook().get_conn()

    def test_a_file_that_is_no_certificate_is_named_by_its_field(self, connect, tmp_path, certificates):
        bad, good = tmp_path / "bad.pem", str(certificates.client)
        bad.write_text("none\n")
        for extra, named in (
            ({"ca_file": str(bad)}, f"verify (ca_file)='{bad}': cannot read CA"),
            ({"cert_file": str(bad)}, f"cert (cert_file)='{bad}': cannot read a cert"),
            (
                {"cert_file": good, "key_file": str(bad)},
                f"cert (cert_file)='{good}' and its key (key_file)='{bad}': cannot read a cert",
            ),
            (
                {"ca_file": good, "cert_file": str(certificates.ca)},
                f"cert (cert_file)='{certificates.ca}': cannot read a cert",
            ),
        ):
            connect(host="host1", schema="https", extra=extra)
            with pytest.raises(InvalidConnection, match=re.escape(f"connection 'qcache_default': {named}")):
                QCacheHook().get_conn()
            message = QCacheHook().test_connection()
            assert (message[0], named in message[1]) == (False, True)
        connect(host="host1", schema="https", extra={"ca_file": str(tmp_path), "cert_file": good})
        QCacheHook().get_conn()
        connect(host="host1", extra={"ca_file": str(bad)})
        QCacheHook().get_conn()

    def test_a_key_with_a_password_asks_nobody_for_it(self, connect, tmp_path, certificates):
        key = load_pem_private_key(certificates.client.read_bytes(), None)
        locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
        (tmp_path / "key.pem").write_bytes(locked)
        extra = {"cert_file": str(certificates.client), "key_file": str(tmp_path / "key.pem")}
        connect(host="host1", schema="https", extra=extra)
        with pytest.raises(InvalidConnection, match=r"\(key_file\)=.*without a passphrase"):
            QCacheHook().get_conn()

    def test_netrc_is_no_way_around_encryption(self, connect, tmp_path, monkeypatch):
        netrc = tmp_path / "netrc"
        netrc.write_text("machine host1 login user password hunter2-secret\n")
        monkeypatch.setenv("NETRC", str(netrc))
        connect(host="host1")
        with pytest.raises(InvalidConnection, match="netrc has credentials for http://host1:8888") as error:
            QCacheHook().get_conn()
        assert "hunter2" not in str(error.value)
        for extra in ({"trust_env": False}, {"allow_auth_over_http": True}):
            connect(host="host1", extra=extra)
            QCacheHook().get_conn()
        connect(host="host1", schema="https")
        QCacheHook().get_conn()

    @pytest.mark.parametrize("password", ["secret", "schlüssel"])
    def test_basic_auth_over_tls_against_the_real_server(self, password, certificates, connect):
        """Beyond ASCII too: a node compares with what its command line has, in UTF-8."""
        need_the_real_server()
        options = ["--basic-auth", f"user:{password}", "--cert-file", str(certificates.server)]
        with Server.real(*options, tls=certificates.context()) as server:
            fields: dict[str, Any] = {"host": f"localhost:{server.port}", "schema": "https"}
            extra = {"ca_file": str(certificates.ca)}
            connect(**fields, login="user", password=password, extra=extra)
            with QCacheHook() as hook:
                hook.post("k", TABLE)
                assert hook.get("k", {"select": [["count"]]}).content == b'[{"count":1}]'
            connect(**fields, login="user", password="wrong-one", extra=extra)
            with QCacheHook() as hook, pytest.raises(AuthenticationFailed) as error:
                hook.post("k", TABLE)
            assert "wrong-one" not in f"{error.value!r} {error.value} {hook!r}"

    def test_no_connection(self, monkeypatch):
        monkeypatch.delenv("AIRFLOW_CONN_QCACHE_DEFAULT", raising=False)
        monkeypatch.setattr(QCacheHook, "get_connection", not_found)
        with pytest.raises(AirflowNotFoundException):
            QCacheHook().get_conn()
        assert QCacheHook().test_connection() == (False, "not there")


def not_found(*_: object) -> None:
    raise AirflowNotFoundException("not there")


def seconds(started: float) -> float:
    return time.monotonic() - started


@pytest.fixture
def hung_hook(hung, connect) -> Iterator[QCacheHook]:
    """A hook whose only node takes connections and is silent."""
    connect(extra={"nodes": [hung]})
    with QCacheHook() as hook:
        yield hook


class TestEnd:
    """A request that a node does not answer ends within a second; its own timeouts are 30 and 600 s."""

    def test_by_cancel_from_another_thread(self, hung_hook, late):
        timer = threading.Timer(0.3, hung_hook.cancel)
        timer.start()
        started = time.monotonic()
        with pytest.raises(OperationCancelled):
            hung_hook.get("k", {})
        assert seconds(started) < 1.3 + late.seconds

    def test_by_cancel_from_a_signal_handler(self, hung_hook, late):
        """As Airflow 3.3 calls on_kill: its handler returns, and the task goes on."""
        before = signal.signal(signal.SIGALRM, lambda *_: hung_hook.cancel())
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        started = time.monotonic()
        try:
            with pytest.raises(OperationCancelled):
                hung_hook.post("k", TABLE)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert seconds(started) < 1.3 + late.seconds

    def test_by_cancel_while_it_waits_for_nodes(self, dead, connect, late):
        """wait_for_nodes would wait 600 s for one to come back."""
        connect(extra={"nodes": dead})
        with QCacheHook() as hook:
            threading.Timer(0.5, hook.cancel).start()
            started = time.monotonic()
            with pytest.raises(OperationCancelled):
                hook.get("k", {})
            assert seconds(started) < 1.5 + late.seconds

    def test_after_cancel_nothing_more_begins(self, hung_hook, living, connect):
        """Airflow 3.3's SIGTERM handler returns to the task, which must not go on with its next request."""
        hung_hook.cancel()
        with pytest.raises(OperationCancelled):
            hung_hook.get("k", {})
        connect(extra={"nodes": [living]})
        with QCacheHook() as hook:
            hook.post("k", TABLE)
            hook.cancel()
            with pytest.raises(OperationCancelled):
                hook.get("k", {})

    @pytest.mark.parametrize("operation", ["get", "post", "delete"])
    def test_by_airflow_s_own_timeout(self, hung_hook, operation, late):
        """It is a BaseException, raised by a signal handler in the middle of whatever runs."""
        new = find_spec("airflow.sdk") is not None
        timeout = import_module(
            "airflow.sdk.execution_time.timeout" if new else "airflow.utils.timeout"
        ).timeout
        call = {
            "get": lambda: hung_hook.get("k", {}),
            "post": lambda: hung_hook.post("k", TABLE),
            "delete": lambda: hung_hook.delete("k", all_nodes=True),
        }[operation]
        # Python ignores what a signal handler raises while the collector removes an object from a WeakSet.
        gc.collect()
        started = time.monotonic()
        with pytest.raises(AirflowTaskTimeout), timeout(0.3):
            call()
        assert seconds(started) < 1.3 + late.seconds


class TestLog:
    """Each failover and the final node at info, and nothing per request otherwise."""

    @pytest.fixture
    def hook(self, living, dead, connect) -> Iterator[QCacheHook]:
        """A hook with two dead nodes and a living one."""
        connect(extra={"nodes": [*dead[:2], living], "wait_for_nodes": False})
        with QCacheHook() as hook:
            yield hook

    @pytest.fixture
    def message(self) -> Iterator[list[str]]:
        """The client's lines at info: Airflow 3's own loggers print past the standard library's."""
        lines: list[str] = []
        logger, handler = logging.getLogger("airflow_provider_qcache.client"), logging.Handler()
        handler.addFilter(lambda record: record.levelno == logging.INFO)
        handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        yield lines
        logger.removeHandler(handler)
        logger.setLevel(level)

    def test_nothing_where_all_is_well(self, living, connect, message):
        connect(extra={"nodes": [living]})
        with QCacheHook() as hook:
            hook.post("k", TABLE, evict_stale=True, check_row_count=True)
            hook.get("k", {})
            hook.query("other", {}, lambda: TABLE)
            hook.post_many({f"k{number}": TABLE for number in range(10)})
            hook.delete("k")
            hook.delete("k", all_nodes=True)
            hook.get("k", {})
        assert message == []

    @pytest.mark.parametrize("operation", ["get", "post", "post_table", "query", "delete", "post_many"])
    def test_a_failover_and_the_node_that_answered(self, hook, dead, living, operation, message):
        first, second, third = dead[0], dead[1], living
        key = homed_on(hook, first, then=second)
        with QClient([living], trust_env=False) as client:
            client.delete(key)  # of an earlier test
        what, call = {
            "get": (f"query table {key!r} {{}}", lambda: hook.get(key, {})),
            "post": (f"store table {key!r}", lambda: hook.post(key, TABLE)),
            "post_table": (f"store table {key!r}", lambda: hook.post_table(key, [{"a": 1}])),
            "query": (f"query table {key!r} {{}}", lambda: hook.query(key, {}, lambda: TABLE)),
            "delete": (f"delete table {key!r}", lambda: hook.delete(key)),
            "post_many": (f"store table {key!r}", lambda: hook.post_many({key: TABLE})),
        }[operation]
        call()
        failed = f"{first} (connection refused), {second} (connection refused)"
        instead = f"sent to {third} instead of its home node {first}"
        after = {"query": [f"store table {key!r}: {instead}", f"{what}: {instead}"]}.get(operation, [])
        assert message == [f"{what}: failed over from {failed} to {third}", *after]
        message.clear()
        call()
        # One of many is not worth a line where its home is known to be down.
        assert message == ([] if operation == "post_many" else [f"{what}: {instead}"])

    @pytest.mark.parametrize("operation", ["get", "post", "post_table", "post_many"])
    def test_no_failover_where_every_node_fails(self, dead, operation, connect, message):
        connect(extra={"nodes": dead, "wait_for_nodes": False})
        with QCacheHook() as hook:
            key = homed_on(hook, dead[0], then=dead[1])
            call = {
                "get": lambda: hook.get(key, {}),
                "post": lambda: hook.post(key, TABLE),
                "post_table": lambda: hook.post_table(key, [{"a": 1}]),
                "post_many": lambda: hook.post_many({key: TABLE}),
            }[operation]
            with pytest.raises(BulkError if operation == "post_many" else NoCacheAvailable):
                call()
        assert message == []

    def test_a_load_that_uses_the_hook_is_an_operation_of_its_own(self, hook, dead, living, message):
        here = homed_on(hook, living)
        there = homed_on(hook, dead[0], then=living)

        def load() -> str:
            hook.get(there, {})
            return TABLE

        hook.delete(here)
        hook.query(here, {}, load)
        assert message == [
            f"query table {there!r} {{}}: failed over from {dead[0]} (connection refused) to {living}",
        ]

    def test_a_failed_copy_is_no_failover(self, hook, dead, living, message):
        key = homed_on(hook, living, then=dead[0])
        assert dead[0] in hook.post(key, TABLE, copies=2, evict_stale=True).failed_copies
        assert message == []
