"""A shortage on this machine is never blamed on a node and never moves a table to another node."""

from __future__ import annotations

import errno
import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from airflow_provider_qcache.client import LocalResourceError, Outcome, QClient, RequestRetry, transport
from tests.harness.faults import black_hole, healthy_node, names_resolve_to
from tests.harness.ports import closed_port
from tests.harness.servers import Certificates

TABLE = b"a\n1\n"
QUICK = RequestRetry(wait_initial=0.001, wait_max=0.002)


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Leave this process no file descriptor, so that the kernel itself answers EMFILE.

    The limit is set to stdin, stdout and stderr. So a descriptor that another thread or the garbage collector
    closes meanwhile does not become free.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        try:
            while True:
                held.append(os.dup(0))
        except OSError:
            pass
        yield
    finally:
        for number in held:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_without_descriptors_no_node_fails_and_no_table_moves(host: str) -> None:
    """Glibc reports a look-up that lacks a descriptor as an unknown name."""
    home, tables = healthy_node()
    other, others_tables = healthy_node()
    socket.getaddrinfo("localhost", 80)  # the first call imports modules
    with home, other:
        nodes = [f"http://{host}:{node.port}" for node in (home, other)]
        with QClient(nodes, 5, 5, trust_env=False, request_retry=QUICK, deadline=30) as client:
            with no_descriptor_left():
                with pytest.raises(LocalResourceError, match="Too many open files") as raised:
                    client.post("k", TABLE)
                with pytest.raises(LocalResourceError):
                    client.get("k", {})
                with pytest.raises(LocalResourceError):
                    client.node_status(probe=True)
                with pytest.raises(LocalResourceError):
                    client.delete("k", all_nodes=True)
            assert {attempt.outcome for attempt in raised.value.attempts} == {Outcome.LOCAL}
            assert raised.value.transient
            assert [status for status in client.node_status().values() if not status.alive] == []
            assert [counts for counts in client.get_statistics().values() if any(counts.values())] == []
            assert client.post("k", TABLE).node == client.node_for_key("k")
            assert len(tables.tables) + len(others_tables.tables) == 1


@pytest.mark.parametrize(
    "number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL]
)
def test_each_local_error_is_retried_at_the_home_node(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    home, _ = healthy_node()
    other, _ = healthy_node()
    failures = [number, number]

    class Lacking(transport._DeadlineSocket):
        def connect(self, address: object) -> None:
            if failures:
                raise OSError(failures.pop(), "lacking")
            super().connect(address)

    monkeypatch.setattr(transport, "_DeadlineSocket", Lacking)
    with home, other, QClient([home.url, other.url], 5, 5, trust_env=False, request_retry=QUICK) as client:
        stored = client.post("k", TABLE)
        assert not stored.failed_over
        assert [attempt.outcome for attempt in stored.attempts] == [Outcome.LOCAL] * 2


def test_a_probe_without_a_thread_does_not_change_the_node_s_state(monkeypatch: pytest.MonkeyPatch) -> None:
    node = f"http://127.0.0.1:{closed_port()}"

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with QClient([node], 5, 5, trust_env=False, request_retry=QUICK) as client:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(LocalResourceError, match="can't start new thread"):
            client.get("k", {})
    with QClient([node, f"http://127.0.0.1:{closed_port()}"], trust_env=False) as client:
        with pytest.raises(LocalResourceError, match="can't start new thread"):
            client.delete("k", all_nodes=True)
        assert [status for status in client.node_status().values() if not status.alive] == []


def test_the_addresses_of_a_name_share_the_connect_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node, _ = healthy_node()
    shares: list[float] = []

    class RecordsTimeout(transport._DeadlineSocket):
        def connect(self, address: object) -> None:
            shares.append(self.gettimeout() or 0.0)
            raise TimeoutError("timed out")

    addresses = names_resolve_to("127.0.0.2", "127.0.0.3", "127.0.0.4")
    with node, addresses, QClient([f"http://three.invalid:{node.port}"], 0.15, 5, trust_env=False) as client:
        monkeypatch.setattr(transport, "_DeadlineSocket", RecordsTimeout)
        with pytest.raises(Exception, match="connect timeout"):
            client.get("k", {})
    assert len(shares) % 3 == 0
    assert [share for share in shares if share <= 0.09] == []
    assert max(shares) <= 0.15


def test_an_address_that_refuses_leaves_its_share_to_the_others() -> None:
    node, _ = healthy_node()
    addresses = names_resolve_to("127.0.0.2", "127.0.0.3", "127.0.0.1")
    with node, black_hole("127.0.0.3", node.port), addresses:
        with QClient([f"http://three.invalid:{node.port}"], 0.4, 5, trust_env=False) as client:
            stored = client.post("k", TABLE)
        assert stored.attempts == ()


def test_a_certificate_that_cannot_be_opened_without_descriptors_is_not_blamed(
    certificates: Certificates,
) -> None:
    with no_descriptor_left(), pytest.raises(OSError, match="Too many open files") as raised:
        QClient(["https://127.0.0.1:1"], trust_env=False, verify=str(certificates.ca))
    assert not isinstance(raised.value, ValueError)
    assert raised.value.errno == errno.EMFILE
