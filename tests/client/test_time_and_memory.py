"""Operations end at their deadline or by cancel(), and bodies that are streamed take constant memory."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from airflow_provider_qcache.client import (
    BodyNotRepeatable,
    ClientClosed,
    DeadlineExceeded,
    HomeNodeUnavailable,
    Listener,
    NoCacheAvailable,
    OperationCancelled,
    QClient,
    QClientException,
    RequestRetry,
    StoreUncertain,
)
from airflow_provider_qcache.client.transport import STORE_BYTES_PER_SECOND
from tests.client.interrupts import Interrupted, interrupted_after
from tests.client.kinds import key_with_home
from tests.client.matrix import CERTIFICATES, LARGE
from tests.harness import faults
from tests.harness.faults import FaultyNode, Peer, Received, healthy_node
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


def test_a_base_exception_passes_through_a_request() -> None:
    with FaultyNode(faults.silent) as node, QClient([node.url], 60, 60, trust_env=False) as client:
        with interrupted_after(0.3), pytest.raises(Interrupted):
            client.get("foo", {})
        assert not client._active


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


def test_a_miss_on_a_fallback_node_is_an_error_with_confirm_miss() -> None:
    (healthy, _), silent = healthy_node(), FaultyNode(faults.silent, status=faults.silent)
    with healthy, silent:
        for confirm in (False, True):
            with QClient(
                [silent.url, healthy.url], 0.5, 0.3, trust_env=False, confirm_miss=confirm
            ) as client:
                key = key_with_home(client, silent.url)
                if not confirm:
                    assert client.get(key, {}) is None
                    continue
                with pytest.raises(HomeNodeUnavailable) as raised:
                    client.get(key, {})
                assert raised.value.transient
                with pytest.raises(HomeNodeUnavailable):
                    client.delete(key)


def test_a_miss_after_a_refused_connection_is_none_even_with_confirm_miss() -> None:
    healthy, _ = healthy_node()
    with healthy:
        dead = f"http://127.0.0.1:{closed_port()}"
        with QClient([dead, healthy.url], trust_env=False, confirm_miss=True) as client:
            assert [client.get(f"k{number}", {}) for number in range(9)] == [None] * 9


def test_a_body_that_cannot_be_repeated_is_an_error_when_a_node_fails() -> None:
    healthy, _ = healthy_node()
    with healthy:
        dead = f"http://127.0.0.1:{closed_port()}"
        with QClient([dead, healthy.url], trust_env=False) as client:
            key = key_with_home(client, dead)
            with pytest.raises(BodyNotRepeatable):
                client.post(key, iter([b"a\n", b"1\n"]))
            assert client.post(key, iter([b"a\n", b"1\n"])).failed_over


MEMORY = """
    import os, sys, threading
    from pathlib import Path
    from airflow_provider_qcache.client import QClient
    from tests.harness import faults
    from tests.harness.faults import FaultyNode, head

    SIZE = int(os.environ.get("QCACHE_MEMORY_BYTES", 64_000_000))
    ROW = b"1,some text to make the row long,2.5\\n"

    def resident(name):
        return int(next(l for l in open("/proc/self/status") if l.startswith(name)).split()[1]) * 1024

    def reset_peak():
        Path("/proc/self/clear_refs").write_text("5")  # or memory freed before hides growth
        return resident("VmRSS")

    def growth(before):
        return resident("VmHWM") - before

    class CountingNode:
        def __init__(self, stop_after=None):
            self.stop_after = stop_after
            self.total = None

        def answer(self, peer, request):
            buffer = bytearray(1 << 16)
            total, tail, length = len(peer._buffer), b"", request.headers.get("content-length")
            tail, peer._buffer = bytes(peer._buffer[-5:]), bytearray()
            while (total < int(length)) if length else not tail.endswith(b"0\\r\\n\\r\\n"):
                count = peer.sock.recv_into(buffer)
                if not count:
                    return
                total += count
                tail = (tail + bytes(buffer[max(0, count - 5):count]))[-5:]
                if self.stop_after and total > self.stop_after:
                    peer.reset()
            self.total = total
            peer.send(head(201, 0))

    path = Path(sys.argv[1])
    with path.open("wb") as file:
        file.write(b"a,b,c\\n")
        while file.tell() < SIZE:
            file.write(ROW * 1000)
    size = path.stat().st_size

    def pieces():
        with path.open("rb") as file:
            while piece := file.read(65536):
                yield piece

    fails, stores = CountingNode(SIZE // 2), CountingNode()
    silent = lambda peer, request: peer.reset()
    first = FaultyNode(fails.answer, read_bodies=False, status=silent)
    second = FaultyNode(stores.answer, read_bodies=False)
    with first, second:
        client = QClient([first.url, second.url], 5, 30, trust_env=False)
        key = next(k for k in (f"k{i}" for i in range(99)) if client.node_for_key(k) == first.url)
        other = next(k for k in (f"k{i}" for i in range(99)) if client.node_for_key(k) == second.url)
        client.post(other, b"a\\n1\\n")
        with path.open("rb") as file:
            for name, content in (("path", path), ("file", file), ("function", pieces)):
                file.seek(0)
                before = reset_peak()
                client.post(other, content)
                print(name, growth(before), sep=chr(9))
                file.seek(0)
                ticket = client._pool.begin_probe(first.url)
                if ticket is not None:
                    client._pool.end_probe(first.url, ticket, None)
                stores.total = None
                before = reset_peak()
                result = client.post(key, content)
                print(name + ",failover", growth(before), sep=chr(9))
                assert result.failed_over and result.bytes == size, result
                assert stores.total >= size, stores.total
        client.close()
"""


PIECES = r"""
    import gzip, sys
    from pathlib import Path
    from airflow_provider_qcache.client import QClient
    from airflow_provider_qcache.client.tables.content import PIECE

    folder = Path(sys.argv[1])
    piece = b"12,x\n" * 800_000
    short = b"12\n" * (1 << 20)

    def long_row(name, text, count, tail=b""):
        with (folder / name).open("wb") as file:
            file.write(b'[{"a":1},{"a":"' + tail)
            for _ in range(count // 10_000):
                file.write(text * 10_000)
            file.write(b'"}]')
        return folder / name

    with gzip.open(folder / "packed", "wb", compresslevel=1) as file:
        for content in [b"a\n", *[short] * 8]:
            file.write(content)
    emoji = chr(0x1F600).encode()
    JSON, GZIP = "application/json", {"Content-Encoding": "gzip"}
    contents = {
        "iterator": (lambda: iter([b"a,b\n", *[piece] * 6]), "text/csv", {}),
        "gzip": (folder / "packed", "text/csv", GZIP),
        "ascii": (long_row("ascii", b"x", 2_090_000), JSON, {}),
        "wide": (long_row("wide", emoji, 520_000), JSON, {}),
        "mixed": (long_row("mixed", b"x", 2_090_000, emoji), JSON, {}),
        "escaped": (long_row("escaped", b"\\n", 1_040_000), JSON, {}),
        "escaped wide": (long_row("escaped wide", b"\\ud83d\\ude00", 170_000), JSON, {}),
    }
    node = FaultyNode(CountingNode().answer, read_bodies=False)
    with node, QClient([node.url], 5, 30, trust_env=False) as client:
        client.post("k", b"a\n1\n")
        client.post("k", lambda: iter([b'[{"a":"', b"x" * PIECE, b'"}]']), JSON)
        for name, (content, content_type, headers) in contents.items():
            before = reset_peak()
            client.post("k", content, content_type, headers)
            print(name, growth(before), sep=chr(9))
"""


def _memory_of(script: str, *arguments: str) -> dict[str, int]:
    """Run a script that begins like MEMORY; return by how many bytes the process grew in each case."""
    ran = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        timeout=240,
    )
    assert ran.returncode == 0, ran.stderr
    return {name: int(grew) for name, grew in (line.split(chr(9)) for line in ran.stdout.splitlines())}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_large_pieces_and_long_rows_add_less_than_8_mib(tmp_path: Path) -> None:
    helpers = textwrap.dedent(MEMORY).partition("path = Path(sys.argv[1])")[0]
    added = _memory_of(helpers + textwrap.dedent(PIECES), str(tmp_path))
    assert len(added) == 7
    assert all(grew < 8 * 1024 * 1024 for grew in added.values()), added


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_a_streamed_body_and_a_failover_during_it_add_less_than_8_mib(tmp_path: Path) -> None:
    added = _memory_of(textwrap.dedent(MEMORY), str(tmp_path / "large.csv"))
    assert set(added) == {
        f"{name}{how}" for name in ("path", "file", "function") for how in ("", ",failover")
    }
    assert all(grew < 8 * 1024 * 1024 for grew in added.values()), added


def test_an_endless_answer_is_refused_before_it_fills_the_memory() -> None:
    with (
        FaultyNode(faults.never_stop) as node,
        QClient([node.url], trust_env=False, max_response_bytes=10**6) as client,
        pytest.raises(QClientException, match="max_response_bytes"),
    ):
        client.get("foo", {})


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


def test_an_error_prints_nothing_and_shows_no_secret(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    # Without Airflow's own handler, which another test may have installed, and which prints.
    monkeypatch.setattr(logging.getLogger(), "handlers", [caplog.handler])
    secret = "hunter2"
    node = f"http://login:{secret}@127.0.0.1:{closed_port()}"
    with QClient([node], auth=("other", secret), trust_env=False) as client:
        with pytest.raises(QClientException) as raised:
            client.get("foo", {})
        texts = [repr(client), str(raised.value), repr(raised.value), caplog.text, str(client.node_status())]
        texts += [repr(client._settings), *(repr(attempt) for attempt in raised.value.attempts)]
    assert caplog.text
    assert [text for text in texts if secret in text] == []
    assert capfd.readouterr() == ("", "")


def test_listeners_are_called_and_their_errors_are_ignored() -> None:
    events: list[tuple[str, str]] = []

    class EventRecorder(Listener):
        def node_failed(self, node: str, error: str) -> None:
            events.append(("failed", node))
            raise RuntimeError("of the listener")

        def node_recovered(self, node: str) -> None:
            events.append(("recovered", node))

        def attempt_failed(self, attempt: object) -> None:
            events.append(("attempt", attempt.node))  # type: ignore[attr-defined]

    node, _ = healthy_node()
    answers = iter([faults.not_http])
    healthy = node._answer

    def not_http_first(peer: Peer, request: Received) -> None:
        next(answers, healthy)(peer, request)

    node._answer = not_http_first
    with node, QClient([node.url], trust_env=False) as client:
        listener = EventRecorder()
        client.add_listener(listener)
        assert client.get("foo", {}) is None
        assert events == [("attempt", node.url), ("failed", node.url), ("recovered", node.url)]
        client.remove_listener(listener)
        client.get("foo", {})
        assert len(events) == 3


def test_environment_settings_are_read_once_and_arguments_override_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login from password netrc\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "no such bundle"))
    proxy, _ = healthy_node()
    node, tables = healthy_node()
    tls = FaultyNode(tables.answer, tls=CERTIFICATES.good)
    with proxy, node, tls:
        with QClient([node.url]) as client:
            client.get("foo", {})
        with QClient([node.url], auth=("given", "too")) as client:
            client.get("foo", {})
        with QClient([node.url], trust_env=False) as client:
            client.get("foo", {})
        sent = [request.headers.get("authorization") for request in node.requests]
        assert sent == ["Basic ZnJvbTpuZXRyYw==", "Basic Z2l2ZW46dG9v", None]
        with pytest.raises(ValueError, match="no such bundle"):
            QClient([tls.url])
        for verify in (CERTIFICATES.ca_file, False):
            with QClient([tls.url], verify=verify) as client:
                assert client.get("foo", {}) is None
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        with QClient(["http://qcache.invalid:9401"]) as client:
            monkeypatch.delenv("http_proxy")
            assert client.get("foo", {}) is None
        assert proxy.requests[0].target.startswith("http://qcache.invalid:9401/qcache/dataset/foo?q=")


def test_the_client_certificate_is_presented_to_the_node() -> None:
    _, tables = healthy_node()
    tls = FaultyNode(tables.answer, tls=CERTIFICATES.client_required)
    with (
        tls,
        QClient([tls.url], verify=CERTIFICATES.ca_file, cert=CERTIFICATES.client, trust_env=False) as client,
    ):
        assert client.get("foo", {}) is None


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"connect_timeout": 0}, "connect_timeout"),
        ({"read_timeout": None}, "read_timeout"),
        ({"deadline": -1}, "deadline"),
        ({"store_timeout": "2"}, "store_timeout"),
        ({"max_response_bytes": 0}, "max_response_bytes"),
        ({"consecutive_error_count_limit": 0}, "consecutive_error_count_limit"),
        ({"request_retry": RequestRetry(wait_for_nodes=True)}, "deadline"),
        ({"connect_timeout": 1e300}, "connect_timeout"),
        ({"verify": None}, "verify"),
        ({"cert": ("a.pem", "b.pem", "c.pem")}, "cert"),
        ({"cert": 1}, "cert"),
        ({"trust_env": "False"}, "trust_env"),
        ({"refused_means_gone": "no"}, "refused_means_gone"),
        ({"confirm_miss": None}, "confirm_miss"),
        ({"auth": "hunter2"}, "auth is of type str"),
        ({"auth": ("a", "b", "hunter2")}, "auth is of type tuple"),
        ({"auth": ("user", "h\u20ac")}, "auth: the password contains characters outside latin-1"),
        ({"request_retry": {}}, "request_retry"),
        ({"node_list": ["host1:9401"]}, "host1:9401"),
        ({"node_list": ["https://host1"], "cert": "/nowhere.pem"}, "cert"),
    ],
)
def test_the_error_of_an_invalid_argument_names_it(options: dict[str, object], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        QClient(**{"node_list": ["http://host1:9401"], **options})  # type: ignore[arg-type]


WITHOUT_EXTRAS = """
    import builtins, sys
    from airflow_provider_qcache import client as qclient

    assert not {name.partition(".")[0] for name in sys.modules} & {"airflow", "pandas", "lz4", "tornado"}
    from tests.harness.faults import healthy_node
    node, tables = healthy_node()
    with node, qclient.QClient([node.url]) as client:
        client.post("foo", b"a\\n1\\n", compression="gzip", check_row_count=False)
        assert client.get("foo", {}).content == b'[{"a":1}]'
        assert "lz4" not in node.requests[-1].headers["accept-encoding"]
    print("ran")
"""


def test_the_client_runs_with_only_requests_and_tenacity_installed(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    import requests

    import certifi  # isort: skip
    import charset_normalizer
    import idna
    import tenacity
    import urllib3

    # An environment with nothing but requests, its dependencies and tenacity, as links, so that no package
    # index is needed.
    packages = tmp_path / "packages"
    packages.mkdir()
    for module in (requests, urllib3, idna, certifi, charset_normalizer, tenacity):
        source = Path(module.__file__).parent
        (packages / source.name).symlink_to(source)
    (packages / "airflow_provider_qcache").symlink_to(root / "airflow_provider_qcache")
    tests = packages / "tests"
    (tests / "harness").mkdir(parents=True)
    (tests / "harness" / "faults.py").symlink_to(root / "tests" / "harness" / "faults.py")
    environment = {"PYTHONPATH": str(packages), "PATH": os.environ.get("PATH", "")}
    ran = subprocess.run(
        [sys.executable, "-S", "-c", textwrap.dedent(WITHOUT_EXTRAS)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=tmp_path,
        timeout=60,
    )
    assert ran.stdout == "ran\n", ran.stderr


def test_all_lists_the_public_names_sorted_and_each_has_a_docstring() -> None:
    from airflow_provider_qcache import client

    assert client.__all__ == sorted(client.__all__)
    for name in client.__all__:
        assert getattr(client, name).__doc__


def test_a_body_that_cannot_be_repeated_is_sent_on_a_fresh_connection() -> None:
    tables = faults.Tables()
    node = FaultyNode(faults.CutsIdleConnections(tables, reset=True))
    with node, QClient([node.url], trust_env=False) as client:
        for _ in range(3):
            assert client.post("foo", iter([b"a\n", b"1\n"])).attempts == ()


def test_a_query_whose_get_line_exceeds_8_kib_is_sent_as_post() -> None:
    node, tables = healthy_node()
    tables.tables["k"] = b"a\n1\n"
    with node, QClient([f"{node.url}/behind/a/proxy"], trust_env=False) as client:
        methods = set()
        for size in range(8100, 8200):
            client.get("k", "x" * (size - len("/dataset/k?q=") - len("%22%22")))
            request = node.requests[-1]
            methods.add(request.method)
            assert len(f"{request.method} {request.target} HTTP/1.1\r\n") <= 8192
    assert methods == {"GET", "POST"}
