"""No operation outlives its deadline or a cancel by much, and no body that streams is held in memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airflow_provider_qcache.client import (
    BodyNotRepeatable,
    ClientClosed,
    DeadlineExceeded,
    HomeNodeUnavailable,
    OperationCancelled,
    QClient,
    QClientException,
    RequestRetry,
    StoreUncertain,
)
from airflow_provider_qcache.client.transport import STORE_BYTES_PER_SECOND
from tests.client import faults
from tests.client.faults import Node, Peer, Request, closed_port, sound_node
from tests.client.matrix import CERTIFICATES, LARGE

CAP = 10.0  # generous, for a machine with other things to do; what is measured here ends after 0.7 s


def drips_a_tls_body(peer: Peer, request: Request) -> None:
    faults.drip_the_body(peer, request)


def takes_a_body_slowly(peer: Peer) -> None:
    request = peer.read_head()
    if request.kind == "status":
        peer.send(faults.head(200, 2) + b"OK")
        return
    while True:
        peer.sock.recv(1000)
        peer.wait(0.02)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize(
    ("answer", "operation"),
    [
        (faults.silent, lambda client: client.get("foo", {})),
        (faults.drip_the_body, lambda client: client.get("foo", {})),
        (faults.drip_the_head, lambda client: client.get("foo", {})),
        (faults.drip_interim_responses, lambda client: client.get("foo", {})),
        (faults.silent, lambda client: client.post("foo", b"a\n1\n")),
        (takes_a_body_slowly, lambda client: client.post("foo", LARGE)),
    ],
    ids=[
        "silent",
        "body drips",
        "head drips",
        "interim responses drip",
        "store unanswered",
        "body taken slowly",
    ],
)
def test_the_deadline_ends_an_operation_whatever_the_node_does(
    answer: Callable[..., None], operation: Callable[[QClient], object], tls: bool
) -> None:
    options = {"before_reading": answer} if answer is takes_a_body_slowly else {}
    node = Node(faults.silent if options else answer, tls=CERTIFICATES.good if tls else None, **options)
    with (
        node,
        QClient([node.url], 5, 60, verify=CERTIFICATES.ca_file, trust_env=False, deadline=0.7) as client,
    ):
        started = time.monotonic()
        with pytest.raises((DeadlineExceeded, StoreUncertain)):
            operation(client)
        assert 0.6 < time.monotonic() - started < CAP


@pytest.mark.parametrize("how", ["cancel", "close"])
@pytest.mark.parametrize(
    "operation",
    [
        lambda client: client.get("foo", {}),
        lambda client: client.post("foo", LARGE),
        lambda client: client.post_many({"foo": b"a\n1\n", "bar": b"a\n1\n"}),
        lambda client: client.delete("foo", all_nodes=True),
    ],
    ids=["get", "post", "post_many", "delete everywhere"],
)
def test_cancel_and_close_end_what_is_in_flight(operation: Callable[[QClient], object], how: str) -> None:
    node = Node(faults.silent, status=faults.silent, read_bodies=False)
    with node, QClient([node.url], 60, 60, trust_env=False) as client:
        raised: list[BaseException] = []

        def run() -> None:
            try:
                operation(client)
            except BaseException as error:  # noqa: BLE001
                raised.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        time.sleep(0.5)
        started = time.monotonic()
        getattr(client, how)()
        thread.join(CAP)
        assert not thread.is_alive()
        assert time.monotonic() - started < CAP
        assert isinstance(raised[0], OperationCancelled)
        if how == "close":
            with pytest.raises(ClientClosed):
                client.get("foo", {})


def test_cancel_ends_the_waits_between_attempts() -> None:
    node = f"http://127.0.0.1:{closed_port()}"
    policy = RequestRetry(wait_initial=60, wait_max=60, wait_for_nodes=True)
    with QClient([node], trust_env=False, deadline=600, request_retry=policy) as client:
        threading.Timer(0.5, client.cancel).start()
        started = time.monotonic()
        with pytest.raises(OperationCancelled):
            client.get("foo", {})
        assert time.monotonic() - started < CAP


def test_cancel_from_a_signal_handler_and_what_comes_after_it_runs() -> None:
    node, tables = sound_node()
    hung = Node(faults.silent, status=faults.silent)
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


def test_an_exception_that_is_no_error_passes_through_from_the_middle_of_a_request() -> None:
    class TaskTimeout(BaseException):
        """As Airflow's is."""

    def interrupt(*_: object) -> None:
        raise TaskTimeout

    with Node(faults.silent) as node, QClient([node.url], 60, 60, trust_env=False) as client:
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(TaskTimeout):
                client.get("foo", {})
        finally:
            signal.signal(signal.SIGALRM, before)
        assert not client._active


def test_a_store_has_ten_read_timeouts_or_the_time_its_bytes_need() -> None:
    with QClient(["http://127.0.0.1:1"], read_timeout=2.0) as client:
        transport = client._transports["http://127.0.0.1:1"]
        assert transport.store_time(1000) == 20.0
        assert transport.store_time(None) == 20.0
        assert transport.store_time(500 * STORE_BYTES_PER_SECOND) == 500.0
    with QClient(["http://127.0.0.1:1"], store_timeout=3.0) as client:
        assert client._transports["http://127.0.0.1:1"].store_time(10**12) == 3.0


def test_a_node_slower_than_the_connect_timeout_to_take_a_body_is_not_dropped() -> None:
    def slow(peer: Peer) -> None:
        peer.wait(0.8)

    node, tables = sound_node()
    node._before_reading = slow
    with node, QClient([node.url], 0.3, 2.0, trust_env=False) as client:
        assert client.post("foo", LARGE).attempts == ()
        assert tables.tables["foo"] == LARGE


def test_the_time_a_bodys_own_source_takes_is_not_held_against_the_node() -> None:
    def slow() -> Iterator[bytes]:
        yield b"a\n"
        time.sleep(1.0)
        yield b"1\n"

    node, tables = sound_node()
    with node, QClient([node.url], trust_env=False, store_timeout=0.7) as client:
        assert client.post("foo", slow).attempts == ()
        assert tables.tables["foo"] == b"a\n1\n"


def test_a_miss_of_a_stand_in_is_none_unless_it_is_to_be_confirmed() -> None:
    (sound, _), silent = sound_node(), Node(faults.silent, status=faults.silent)
    with sound, silent:
        for confirm in (False, True):
            with QClient([silent.url, sound.url], 0.5, 0.3, trust_env=False, confirm_miss=confirm) as client:
                key = next(k for k in (f"k{i}" for i in range(99)) if client.node_for_key(k) == silent.url)
                if not confirm:
                    assert client.get(key, {}) is None
                    continue
                with pytest.raises(HomeNodeUnavailable) as raised:
                    client.get(key, {})
                assert raised.value.transient
                with pytest.raises(HomeNodeUnavailable):
                    client.delete(key)


def test_a_miss_after_a_refused_connection_is_a_miss_even_to_be_confirmed() -> None:
    sound, _ = sound_node()
    with sound:
        dead = f"http://127.0.0.1:{closed_port()}"
        with QClient([dead, sound.url], trust_env=False, confirm_miss=True) as client:
            assert [client.get(f"k{number}", {}) for number in range(9)] == [None] * 9


def test_a_body_that_cannot_be_read_again_is_named_when_a_node_fails() -> None:
    sound, _ = sound_node()
    with sound:
        dead = f"http://127.0.0.1:{closed_port()}"
        with QClient([dead, sound.url], trust_env=False) as client:
            key = next(k for k in (f"k{i}" for i in range(99)) if client.node_for_key(k) == dead)
            with pytest.raises(BodyNotRepeatable):
                client.post(key, iter([b"a\n", b"1\n"]))
            assert client.post(key, iter([b"a\n", b"1\n"])).failed_over


MEMORY = """
    import os, sys, threading
    from pathlib import Path
    from airflow_provider_qcache.client import QClient
    from tests.client import faults
    from tests.client.faults import Node, head

    SIZE = int(os.environ.get("QCACHE_MEMORY_BYTES", 64_000_000))
    ROW = b"1,some text to make the row long,2.5\\n"

    def peak():
        return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) * 1024

    class Counts:
        def __init__(self, stop_after=None):
            self.stop_after = stop_after
            self.total = None

        def answer(self, peer, request):
            buffer = bytearray(1 << 16)
            total, tail, length = len(peer._buffer), b"", request.headers.get("content-length")
            tail, peer._buffer = peer._buffer[-5:], b""
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

    breaks, takes = Counts(SIZE // 2), Counts()
    silent = lambda peer, request: peer.reset()
    first = Node(breaks.answer, read_bodies=False, status=silent)
    second = Node(takes.answer, read_bodies=False)
    with first, second:
        client = QClient([first.url, second.url], 5, 30, trust_env=False)
        key = next(k for k in (f"k{i}" for i in range(99)) if client.node_for_key(k) == first.url)
        other = next(k for k in (f"k{i}" for i in range(99)) if client.node_for_key(k) == second.url)
        client.post(other, b"a\\n1\\n")
        with path.open("rb") as file:
            for name, content in (("path", path), ("file", file), ("function", pieces)):
                before = peak()
                file.seek(0)
                client.post(other, content)
                file.seek(0)
                ticket = client._pool.begin_probe(first.url)
                if ticket is not None:
                    client._pool.end_probe(first.url, ticket, None)
                result = client.post(key, content)
                assert result.failed_over and result.bytes == size, result
                assert takes.total >= size, takes.total
                print(name, peak() - before)
        client.close()
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_a_streamed_body_and_a_failover_in_its_middle_add_less_than_8_mib(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEMORY), str(tmp_path / "large.csv")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        timeout=240,
    )
    assert ran.returncode == 0, ran.stderr
    added = {name: int(grew) for name, grew in (line.split() for line in ran.stdout.splitlines())}
    assert set(added) == {"path", "file", "function"}
    assert all(grew < 8 * 1024 * 1024 for grew in added.values()), added


def test_an_answer_of_any_size_is_refused_before_it_fills_the_memory() -> None:
    with (
        Node(faults.never_stop) as node,
        QClient([node.url], trust_env=False, max_response_bytes=10**6) as client,
        pytest.raises(QClientException, match="max_response_bytes"),
    ):
        client.get("foo", {})


THREADS = 32


def test_32_threads_on_one_client_while_a_node_dies_and_comes_back() -> None:
    """Every result is the right one, whatever the nodes do meanwhile."""
    (first, tables), (second, others) = sound_node(), sound_node()
    sick = threading.Event()
    hung = threading.Event()

    def moody(peer: Peer, request: Request) -> None:
        if sick.is_set():
            peer.reset()
        if hung.is_set():
            peer.wait_for_ever()
        if request.kind == "status":
            peer.send(faults.head(200, 2) + b"OK")
        else:
            tables.answer(peer, request)

    first._answer = first._status = moody
    errors: list[BaseException] = []
    slowest_elsewhere = [0.0]
    stop = threading.Event()
    with first, second, QClient([first.url, second.url], 0.5, 0.5, trust_env=False, deadline=30) as client:
        for key in range(64):
            for held in (tables, others):
                held.tables[f"key{key}"] = b"a\n1\n"

        def work(number: int) -> None:
            key = f"key{number}"
            elsewhere = client.node_for_key(key) == second.url
            while not stop.is_set():
                started = time.monotonic()
                try:
                    if number % 4:
                        assert client.get(key, {}).content == faults.ROWS
                    else:
                        client.post(key, b"a\n1\n")
                except StoreUncertain:
                    pass
                except BaseException as error:  # noqa: BLE001
                    errors.append(error)
                    return
                if elsewhere:
                    slowest_elsewhere[0] = max(slowest_elsewhere[0], time.monotonic() - started)
                time.sleep(0.002)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            for mood in (sick, hung):
                mood.set()
                time.sleep(0.4)
                mood.clear()
                time.sleep(0.3)
        stop.set()
        for thread in threads:
            thread.join(CAP)
            assert not thread.is_alive()
        assert errors == []
        assert not client._active
        assert slowest_elsewhere[0] < CAP
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("qcache-")]


def test_nothing_is_printed_and_no_secret_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    secret = "hunter2"
    node = f"http://login:{secret}@127.0.0.1:{closed_port()}"
    with QClient([node], auth=("other", secret), trust_env=False) as client:
        with pytest.raises(QClientException) as raised:
            client.get("foo", {})
        shown = [repr(client), str(raised.value), repr(raised.value), caplog.text, str(client.node_status())]
        shown += [repr(client._settings), *(repr(attempt) for attempt in raised.value.attempts)]
    assert not any(secret in text for text in shown)


def test_listeners_hear_of_nodes_and_attempts_and_their_own_errors_break_nothing() -> None:
    from airflow_provider_qcache.client import Listener

    heard: list[tuple[str, str]] = []

    class Hears(Listener):
        def node_failed(self, node: str, error: str) -> None:
            heard.append(("failed", node))
            raise RuntimeError("of the listener")

        def node_recovered(self, node: str) -> None:
            heard.append(("recovered", node))

        def attempt_failed(self, attempt: object) -> None:
            heard.append(("attempt", attempt.node))  # type: ignore[attr-defined]

    node, _ = sound_node()
    answers = iter([faults.not_http])
    sound = node._answer

    def first_nonsense(peer: Peer, request: Request) -> None:
        next(answers, sound)(peer, request)

    node._answer = first_nonsense
    with node, QClient([node.url], trust_env=False) as client:
        listener = Hears()
        client.add_listener(listener)
        assert client.get("foo", {}) is None
        assert heard == [("attempt", node.url), ("failed", node.url), ("recovered", node.url)]
        client.remove_listener(listener)
        client.get("foo", {})
        assert len(heard) == 3


def test_the_environment_is_looked_up_once_and_what_is_given_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login from password netrc\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "no such bundle"))
    proxy, _ = sound_node()
    node, tables = sound_node()
    tls = Node(tables.answer, tls=CERTIFICATES.good)
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


def test_a_client_certificate_that_is_given_is_shown() -> None:
    _, tables = sound_node()
    tls = Node(tables.answer, tls=CERTIFICATES.client_wanted)
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
        ({"node_list": ["host1:9401"]}, "host1:9401"),
        ({"node_list": ["https://host1"], "cert": "/nowhere.pem"}, "cert"),
    ],
)
def test_an_argument_that_makes_no_sense_is_refused_by_its_name(
    options: dict[str, object], name: str
) -> None:
    with pytest.raises(ValueError, match=name):
        QClient(**{"node_list": ["http://host1:9401"], **options})  # type: ignore[arg-type]


BARE = """
    import builtins, sys
    from airflow_provider_qcache import client as qclient

    assert not {name.partition(".")[0] for name in sys.modules} & {"airflow", "pandas", "lz4", "tornado"}
    from tests.client.faults import sound_node
    node, tables = sound_node()
    with node, qclient.QClient([node.url]) as client:
        client.post("foo", b"a\\n1\\n", compression="gzip", check_row_count=False)
        assert client.get("foo", {}).content == b'[{"a":1}]'
        assert "lz4" not in node.requests[-1].headers["accept-encoding"]
    print("ran")
"""


def test_it_runs_where_only_requests_and_tenacity_are_installed(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    import requests

    import certifi  # isort: skip
    import charset_normalizer
    import idna
    import tenacity
    import urllib3

    # An environment of nothing but requests, what it needs itself, and tenacity: links, so that no index is
    # asked.
    packages = tmp_path / "packages"
    packages.mkdir()
    for module in (requests, urllib3, idna, certifi, charset_normalizer, tenacity):
        source = Path(module.__file__).parent
        (packages / source.name).symlink_to(source)
    (packages / "airflow_provider_qcache").symlink_to(root / "airflow_provider_qcache")
    tests = packages / "tests"
    (tests / "client").mkdir(parents=True)
    (tests / "client" / "faults.py").symlink_to(root / "tests" / "client" / "faults.py")
    environment = {"PYTHONPATH": str(packages), "PATH": os.environ.get("PATH", "")}
    ran = subprocess.run(
        [sys.executable, "-S", "-c", textwrap.dedent(BARE)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=tmp_path,
        timeout=60,
    )
    assert ran.stdout == "ran\n", ran.stderr


def test_the_package_has_one_sorted_list_of_public_names() -> None:
    from airflow_provider_qcache import client

    assert client.__all__ == sorted(client.__all__)
    for name in client.__all__:
        assert getattr(client, name).__doc__


def test_a_body_for_one_attempt_is_not_risked_on_a_connection_that_is_closed_as_it_is_used() -> None:
    tables = faults.Tables()
    node = Node(faults.CutsIdleConnections(tables, reset=True))
    with node, QClient([node.url], trust_env=False) as client:
        for _ in range(3):
            assert client.post("foo", iter([b"a\n", b"1\n"])).attempts == ()


def test_the_longest_get_is_a_line_of_8_kib() -> None:
    node, tables = sound_node()
    tables.tables["k"] = b"a\n1\n"
    with node, QClient([f"{node.url}/behind/a/proxy"], trust_env=False) as client:
        methods = set()
        for size in range(8100, 8200):
            client.get("k", "x" * (size - len("/dataset/k?q=") - len("%22%22")))
            asked = node.requests[-1]
            methods.add(asked.method)
            assert len(f"{asked.method} {asked.target} HTTP/1.1\r\n") <= 8192
    assert methods == {"GET", "POST"}
