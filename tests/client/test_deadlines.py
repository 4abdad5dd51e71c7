"""An operation ends at its deadline, or by cancel() or close(), whatever the nodes do."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from airflow_provider_qcache.client import (
    ClientClosed,
    DeadlineExceeded,
    NoCacheAvailable,
    OperationCancelled,
    QClient,
    RequestRetry,
    StoreUncertain,
)
from airflow_provider_qcache.client.transport import STORE_BYTES_PER_SECOND
from tests.client.interrupts import Interrupted, interrupted_after
from tests.client.matrix import CERTIFICATES, LARGE
from tests.harness import faults
from tests.harness.faults import FaultyNode, Peer, healthy_node
from tests.harness.lateness import Lateness
from tests.harness.ports import closed_port

DEADLINE = 1.0


OVER = 0.5  # how much an operation may exceed its deadline, plus the measured lateness of the machine


CANCEL = 1.0


LONG = 60.0  # timeouts so long that they end nothing here


def read_the_body_slowly(peer: Peer) -> None:
    request = peer.read_head()
    if request.kind == "status":
        faults.answer_ok(peer, request)
        return
    while True:
        peer.sock.recv(1000)
        peer.wait(0.02)


def get(client: QClient) -> object:
    return client.get("foo", {})


def post(client: QClient) -> object:
    return client.post("foo", b"a\n1\n")


def post_large(client: QClient) -> object:
    return client.post("foo", LARGE)


def reset_with_status(answer: faults.Reply) -> dict[str, object]:
    return {"answer": faults.reset_before_the_head, "status": answer}


NEVER_ENDS: dict[str, tuple[dict[str, object], Callable[[QClient], object]]] = {
    "silent": ({"answer": faults.silent}, get),
    "body drips": ({"answer": faults.drip_the_body}, get),
    "head drips": ({"answer": faults.drip_the_head}, get),
    "interim responses drip": ({"answer": faults.drip_interim_responses}, get),
    "store unanswered": ({"answer": faults.silent}, post),
    "store's head drips": ({"answer": faults.drip_the_head}, post),
    "body taken slowly": ({"answer": faults.silent, "before_reading": read_the_body_slowly}, post_large),
    "body not taken": ({"answer": faults.silent, "accepts": False}, post_large),
    "status silent": (reset_with_status(faults.silent), get),
    "status's head drips": (reset_with_status(faults.drip_the_head), get),
    "query of load_fn's table": ({"answer": faults.silent}, lambda client: client.query("foo", {}, bytes)),
    "delete": ({"answer": faults.silent}, lambda client: client.delete("foo")),
    "delete everywhere": ({"answer": faults.silent}, lambda client: client.delete("foo", all_nodes=True)),
}


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("name", NEVER_ENDS)
def test_the_deadline_ends_an_operation_whatever_the_node_does(name: str, tls: bool) -> None:
    options, operation = NEVER_ENDS[name]
    node = FaultyNode(tls=CERTIFICATES.good if tls else None, **options)  # type: ignore[arg-type]
    with (
        node,
        QClient(
            [node.url], LONG, LONG, verify=CERTIFICATES.ca_file, trust_env=False, deadline=DEADLINE
        ) as client,
        Lateness() as late,
    ):
        started = time.monotonic()
        with pytest.raises((DeadlineExceeded, StoreUncertain, NoCacheAvailable)):
            operation(client)
        assert DEADLINE - 0.1 < time.monotonic() - started < DEADLINE + OVER + late.seconds


def test_the_error_of_statistics_that_do_not_arrive_before_the_deadline() -> None:
    with (
        FaultyNode(faults.silent) as node,
        QClient([node.url], LONG, LONG, trust_env=False, deadline=DEADLINE) as client,
    ):
        (error,) = client.node_statistics().values()
    assert isinstance(error, DeadlineExceeded)
    assert str(error).startswith(f"statistics of {node.url}: the deadline passed. Increase `deadline`")
    assert [attempt.node for attempt in error.attempts] == [node.url]


def test_the_deadline_ends_the_wait_for_nodes() -> None:
    node = f"http://127.0.0.1:{closed_port()}"
    policy = RequestRetry(wait_initial=LONG, wait_max=LONG, wait_for_nodes=True)
    with (
        QClient([node], LONG, LONG, trust_env=False, deadline=DEADLINE, request_retry=policy) as client,
        Lateness() as late,
    ):
        started = time.monotonic()
        with pytest.raises(NoCacheAvailable):
            client.get("foo", {})
        assert time.monotonic() - started < DEADLINE + OVER + late.seconds


@pytest.mark.parametrize("how", ["cancel", "close"])
@pytest.mark.parametrize(
    ("options", "operation"),
    [
        ({}, get),
        ({}, post_large),
        ({}, lambda client: client.post_many({"foo": b"a\n1\n", "bar": b"a\n1\n"})),
        ({}, lambda client: client.delete("foo", all_nodes=True)),
        ({"answer": faults.drip_the_body}, get),
        ({"answer": faults.reset_before_the_head}, get),
        ({"tls": CERTIFICATES.good}, get),
        ({"tls": CERTIFICATES.good, "accepts": False}, get),
    ],
    ids=["get", "post", "post_many", "delete everywhere", "dripping", "status", "TLS", "handshake"],
)
def test_cancel_and_close_end_operations_within_a_second(
    options: dict[str, object], operation: Callable[[QClient], object], how: str
) -> None:
    node = FaultyNode(**{"answer": faults.silent, "status": faults.silent, "read_bodies": False, **options})  # type: ignore[arg-type]
    with node, QClient([node.url], LONG, LONG, verify=CERTIFICATES.ca_file, trust_env=False) as client:
        raised: list[BaseException] = []

        def run() -> None:
            try:
                operation(client)
            except BaseException as error:  # noqa: BLE001
                raised.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        time.sleep(0.5)
        assert thread.is_alive()
        with Lateness() as late:
            started = time.monotonic()
            getattr(client, how)()
            thread.join(LONG)
            seconds = time.monotonic() - started
        assert seconds < CANCEL + late.seconds
        assert isinstance(raised[0], OperationCancelled)
        if how == "close":
            with pytest.raises(ClientClosed):
                client.get("foo", {})


def test_cancel_ends_the_waits_between_attempts_within_a_second() -> None:
    node = f"http://127.0.0.1:{closed_port()}"
    policy = RequestRetry(wait_initial=LONG, wait_max=LONG, wait_for_nodes=True)
    with QClient([node], trust_env=False, deadline=600, request_retry=policy) as client:
        threading.Timer(0.5, client.cancel).start()
        started = time.monotonic()
        with Lateness() as late, pytest.raises(OperationCancelled):
            client.get("foo", {})
        assert time.monotonic() - started < 0.5 + CANCEL + late.seconds


def test_cancel_may_be_called_in_a_signal_handler_and_the_client_remains_usable() -> None:
    node, tables = healthy_node()
    hung = FaultyNode(faults.silent, status=faults.silent)
    with node, hung, QClient([hung.url], 60, 60, trust_env=False) as client:
        before = signal.signal(signal.SIGALRM, lambda *_: client.cancel())
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(OperationCancelled):
                client.get("foo", {})
        finally:
            signal.signal(signal.SIGALRM, before)
        hung._answer = tables.answer
        assert client.get("foo", {}) is None


@pytest.mark.parametrize("error", [Interrupted(), OSError("no error of the node")], ids=repr)
def test_an_exception_of_a_signal_handler_passes_through_a_request(error: BaseException) -> None:
    with FaultyNode(faults.silent) as node, QClient([node.url], 60, 60, trust_env=False) as client:
        with interrupted_after(0.3, error), pytest.raises(type(error)) as raised:
            client.get("foo", {})
        assert raised.value is error
        assert not client._active
        assert client.node_status()[node.url].alive


def test_the_default_store_timeout_is_ten_read_timeouts_or_the_time_its_bytes_need() -> None:
    with QClient(["http://127.0.0.1:1"], read_timeout=2.0) as client:
        transport = client._transports["http://127.0.0.1:1"]
        assert transport.store_time(1000) == 20.0
        assert transport.store_time(None) == 20.0
        assert transport.store_time(500 * STORE_BYTES_PER_SECOND) == 500.0
    with QClient(["http://127.0.0.1:1"], store_timeout=3.0) as client:
        assert client._transports["http://127.0.0.1:1"].store_time(10**12) == 3.0


def test_sending_a_body_may_take_longer_than_the_connect_timeout() -> None:
    def slow(peer: Peer) -> None:
        peer.wait(0.8)

    node, tables = healthy_node()
    node._before_reading = slow
    with node, QClient([node.url], 0.3, 2.0, trust_env=False) as client:
        assert client.post("foo", LARGE).attempts == ()
        assert tables.tables["foo"] == LARGE


def test_the_time_that_a_body_s_source_takes_does_not_count_as_store_timeout() -> None:
    def slow() -> Iterator[bytes]:
        yield b"a\n"
        time.sleep(1.0)
        yield b"1\n"

    node, tables = healthy_node()
    with node, QClient([node.url], trust_env=False, store_timeout=0.7) as client:
        assert client.post("foo", slow).attempts == ()
        assert tables.tables["foo"] == b"a\n1\n"
