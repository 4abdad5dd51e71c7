"""Threads share one client: none waits for another, and no lock is held during I/O."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

import pytest

from airflow_provider_qcache.client import (
    Listener,
    OperationCancelled,
    QClient,
    QClientException,
    RequestRetry,
    StoreUncertain,
)
from tests.client.matrix import CERTIFICATES
from tests.harness import faults
from tests.harness.faults import FaultyNode, Peer, Received, healthy_node
from tests.harness.lateness import Lateness
from tests.harness.ports import closed_port

LONG = 60.0  # timeouts so long that they end nothing here


THREADS = 32


def test_32_threads_on_one_client_while_nodes_die_hang_and_recover() -> None:
    """Every result is right, and in the end every node is used again."""
    made = [healthy_node() for _ in range(3)]
    states = [{"dead": threading.Event(), "hung": threading.Event()} for _ in made]

    def answer_by_state(number: int) -> faults.Reply:
        tables, state = made[number][1], states[number]

        def answer(peer: Peer, request: Received) -> None:
            if state["dead"].is_set():
                peer.reset()
            if state["hung"].is_set():
                peer.wait_for_ever()
            if request.kind == "status":
                faults.answer_ok(peer, request)
            else:
                tables.answer(peer, request)

        return answer

    for number, (node, _) in enumerate(made):
        node._answer = node._status = answer_by_state(number)
    urls = [node.url for node, _ in made]
    errors: list[BaseException] = []
    done = [0] * THREADS
    stop = threading.Event()
    policy = RequestRetry(wait_for_nodes=True)
    with (
        made[0][0],
        made[1][0],
        made[2][0],
        QClient(
            urls,
            0.5,
            0.3,
            consecutive_error_count_limit=20,
            trust_env=False,
            deadline=30,
            request_retry=policy,
        ) as client,
    ):
        for _, tables in made:
            tables.tables.update({f"key{key}": b"a\n1\n" for key in range(THREADS)})

        def work(number: int) -> None:
            key = f"key{number}"
            while not stop.is_set():
                try:
                    if number % 4:
                        assert client.get(key, {}).content == faults.ROWS
                    else:
                        assert client.post(key, b"a\n1\n").key == key
                except StoreUncertain:
                    assert not number % 4
                except BaseException as error:  # noqa: BLE001
                    errors.append(error)
                    return
                done[number] += 1
                time.sleep(0.002)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for number in range(6):
            state = states[number % 3]["dead" if number % 2 else "hung"]
            state.set()
            time.sleep(0.4)
            state.clear()
            time.sleep(0.1)
        before = list(done)
        deadline = time.monotonic() + LONG
        while not errors and any(now < then + 2 for now, then in zip(done, before, strict=True)):
            assert time.monotonic() < deadline, "every thread goes on when the nodes are back"
            time.sleep(0.01)
        stop.set()
        for thread in threads:
            thread.join(LONG)
            assert not thread.is_alive()
        assert errors == []
        assert not client._active
        counted = client.get_statistics()
        assert [url for url in urls if not sum(counted[url].values())] == []  # each node failed at least once
        assert [known for known in client.node_status(probe=True).values() if not known.alive] == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("qcache-")]


def test_a_hung_node_does_not_delay_operations_at_other_nodes() -> None:
    """A node hangs for longer than the test may take; half of the callers wait for it."""
    (healthy, _), hung = healthy_node(), FaultyNode(faults.silent, status=faults.silent)
    with healthy, hung, QClient([hung.url, healthy.url], LONG, LONG, trust_env=False) as client:
        keys = [f"key{number}" for number in range(999)]
        stuck_keys = [key for key in keys if client.node_for_key(key) == hung.url][: THREADS // 2]
        other_keys = [key for key in keys if client.node_for_key(key) == healthy.url][: THREADS // 2]
        ended: list[object] = []

        def get_stuck(key: str) -> None:
            try:
                ended.append(client.get(key, {}))
            except OperationCancelled as error:
                ended.append(error)

        slowest: list[float] = []

        def work(key: str) -> None:
            for _ in range(20):
                started = time.monotonic()
                client.post(key, b"a\n1\n")
                assert client.get(key, {}).content == faults.ROWS
                client.delete(key)
                slowest.append(time.monotonic() - started)

        waiting = [threading.Thread(target=get_stuck, args=(key,)) for key in stuck_keys]
        for thread in waiting:
            thread.start()
        while len(hung.requests) < len(stuck_keys):
            time.sleep(0.01)
        working = [threading.Thread(target=work, args=(key,)) for key in other_keys]
        with Lateness() as late:
            for thread in working:
                thread.start()
            for thread in working:
                thread.join(LONG / 2)
        assert len(slowest) == 20 * len(other_keys)
        assert max(slowest) < LONG / 10 + late.seconds
        assert ended == []
        client.cancel()
        for thread in waiting:
            thread.join(LONG / 2)
        assert [type(error) for error in ended] == [OperationCancelled] * len(stuck_keys)
        assert {request.key for request in hung.requests if request.kind != "status"} == set(stuck_keys)


IO_CALLS = {
    "connect",
    "recv",
    "recv_into",
    "send",
    "sendall",
    "getaddrinfo",
    "do_handshake",
    "read",
    "write",
    "sleep",
}


class WatchedLock:
    """A lock that records which thread holds it."""

    def __init__(self, make: Callable[[], threading.Lock], held: dict[int, list[WatchedLock]]) -> None:
        self._lock = make()
        self._held = held

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        got = self._lock.acquire(blocking, timeout)
        if got:
            self._held.setdefault(threading.get_ident(), []).append(self)
        return got

    def release(self) -> None:
        for locks in self._held.values():
            if self in locks:
                locks.remove(self)
                break
        self._lock.release()

    def locked(self) -> bool:
        return self._lock.locked()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


def test_no_lock_is_held_during_io_or_a_sleep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held: dict[int, list[WatchedLock]] = {}
    io_with_lock: list[str] = []
    seen: set[str] = set()

    def profile(frame: FrameType, event: str, function: object) -> None:
        if event == "c_call" and (name := getattr(function, "__name__", "")) in IO_CALLS:
            owner = type(getattr(function, "__self__", None)).__module__ or ""
            if name in ("read", "write") and "ssl" not in owner:
                return
            seen.add(name)
            if held.get(threading.get_ident()):
                io_with_lock.append(f"{name} in {frame.f_code.co_qualname}")

    (healthy, _), (secure, _) = healthy_node(), healthy_node()
    secure = FaultyNode(secure._answer, tls=CERTIFICATES.good)
    cuts = FaultyNode(faults.CutsIdleConnections(faults.Tables(), reset=True))
    dead = f"http://localhost:{closed_port()}"
    drips = FaultyNode(faults.drip_the_head, status=faults.drip_the_head)
    locks: list[str] = []

    class LockRecorder(Listener):
        def attempt_failed(self, attempt: object) -> None:
            locks.append("held" if held.get(threading.get_ident()) else "free")

        def node_failed(self, node: str, error: str) -> None:
            self.attempt_failed(None)

        def node_recovered(self, node: str) -> None:
            self.attempt_failed(None)

    make = threading.Lock
    with healthy, secure, cuts, drips:
        # From here on all locks are watched, the client's and those of the libraries beneath it.
        monkeypatch.setattr(threading, "Lock", lambda: WatchedLock(make, held))
        nodes = [healthy.url, secure.url, cuts.url, dead, drips.url]
        client = QClient(nodes, 0.5, 0.3, verify=CERTIFICATES.ca_file, trust_env=False, store_timeout=0.3)
        monkeypatch.setattr(threading, "Lock", make)
        assert isinstance(client._pool._lock, WatchedLock)
        client.add_listener(LockRecorder())
        threading.setprofile(profile)
        sys.setprofile(profile)
        try:
            for number in range(12):
                for operation in (client.post, client.get):
                    with contextlib.suppress(QClientException):
                        operation(f"key{number}", b"a\n1\n" if operation == client.post else {})
            client.delete("key1", all_nodes=True)
            client.node_status(probe=True)
            client.node_statistics()
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
            client.close()
    assert io_with_lock == []
    assert seen >= {"connect", "getaddrinfo", "recv_into", "sendall", "do_handshake"}
    assert "free" in locks
    assert "held" not in locks
