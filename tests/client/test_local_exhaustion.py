"""A shortage on this machine is never blamed on a node and never moves a table to another node."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from airflow_provider_qcache.client import (
    LocalResourceError,
    NoCacheAvailable,
    Outcome,
    QClient,
    QClientException,
    RequestRetry,
    transport,
)
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
                for error in client.node_statistics().values():
                    assert isinstance(error, LocalResourceError)
                    assert "Too many open files" in str(error)
            assert {attempt.outcome for attempt in raised.value.attempts} == {Outcome.LOCAL}
            assert raised.value.transient
            assert [status for status in client.node_status().values() if not status.alive] == []
            assert [counts for counts in client.get_statistics().values() if any(counts.values())] == []
            assert client.post("k", TABLE).node == client.node_for_key("k")
            assert len(tables.tables) + len(others_tables.tables) == 1


def test_the_probe_of_a_failing_node_without_descriptors_says_so() -> None:
    node = f"http://127.0.0.1:{closed_port()}"
    with QClient([node], 5, 5, trust_env=False, request_retry=QUICK) as client:
        with pytest.raises(NoCacheAvailable):
            client.get("k", {})
        with no_descriptor_left(), pytest.raises(LocalResourceError, match="Too many open files"):
            client.node_status(probe=True)
        assert client.node_status()[node].gone  # as before: nothing was asked


@pytest.mark.parametrize(
    ("number", "shortage", "text"),
    [
        (socket.EAI_MEMORY, contextlib.nullcontext, "Cannot allocate memory"),
        (socket.EAI_NONAME, no_descriptor_left, "Too many open files"),
    ],
    ids=["memory", "descriptors"],
)
def test_a_look_up_that_fails_for_a_shortage_does_not_make_the_name_unknown(
    number: int,
    shortage: Callable[[], AbstractContextManager[None]],
    text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(number, "the look-up failed")

    node = "http://node.invalid:9401"
    with QClient([node], 5, 5, trust_env=False, request_retry=QUICK) as client:
        monkeypatch.setattr(socket, "getaddrinfo", fail)
        with shortage(), pytest.raises(LocalResourceError, match=text):
            client.get("k", {})
        assert client.node_status()[node].alive


@pytest.mark.parametrize(("address", "refused"), [("::1", True), ("2001:db8::1", False)])
def test_an_address_of_a_family_that_this_machine_lacks_may_be_a_node_unless_it_is_loopback(
    address: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine without IPv6, ``localhost`` may still be ::1 too."""
    port = closed_port()
    no_family = 200  # a machine without IPv6 answers the same for AF_INET6
    found = [
        (no_family, socket.SOCK_STREAM, 6, "", (address, port, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
    ]
    node = f"http://two.invalid:{port}"
    with QClient([node], 5, 5, trust_env=False) as client:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
        with pytest.raises(NoCacheAvailable) as raised:
            client.get("k", {})
        outcome = Outcome.REFUSED if refused else Outcome.CONNECT_FAILED
        assert {attempt.outcome for attempt in raised.value.attempts} == {outcome}
        assert client.node_status()[node].gone is refused


@pytest.mark.parametrize(
    ("address", "shortage", "outcome"),
    [
        ("127.0.0.1", contextlib.nullcontext, Outcome.LOCAL),
        ("fe80::1", contextlib.nullcontext, Outcome.CONNECT_FAILED),  # it needs a zone
        ("127.0.0.1", no_descriptor_left, Outcome.LOCAL),
    ],
    ids=["no free port", "no source address", "no descriptor"],
)
def test_an_address_that_is_not_available_is_this_machine_s_unless_no_packet_reaches_it(
    address: str,
    shortage: Callable[[], AbstractContextManager[None]],
    outcome: Outcome,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    during = contextlib.ExitStack()

    class NotAvailable(transport._DeadlineSocket):
        def connect(self, address: object) -> None:
            during.enter_context(shortage())
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    with QClient(
        ["http://one.invalid:9401"], 5, 5, trust_env=False, consecutive_error_count_limit=1
    ) as client:
        monkeypatch.setattr(transport, "_DeadlineSocket", NotAvailable)
        found = [(family, socket.SOCK_STREAM, 6, "", (address, 9401))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
        with during, pytest.raises(QClientException) as raised:
            client.get("k", {})
        (attempt,) = raised.value.attempts
        assert attempt.outcome is outcome
        if shortage is no_descriptor_left:
            assert "Too many open files" in str(attempt)


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
