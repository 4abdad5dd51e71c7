"""Failing nodes are probed in the background, by one thread per node at a time."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_qcache.client.errors import Outcome, Phase
from airflow_provider_qcache.client.nodes import NodePool, NodeState, Prober
from airflow_provider_qcache.client.outcome import Failure
from tests.client.simulated import SimulatedClock

A, B = "http://a:1", "http://b:1"
LONG = 60.0


class ProberWithNodes:
    """A pool of two failing nodes and a prober that probes a node with the function `ask`."""

    def __init__(self, ask: Callable[[str], None]) -> None:
        self.probes: list[str] = []
        self.clock = SimulatedClock()
        self.pool = NodePool([A, B], clock=self.clock, rng=random.Random(1))
        for node in (A, B):
            self.pool.fail(node, self.pool.ticket(node), "reset")

        def record(node: str) -> None:
            self.probes.append(node)
            ask(node)

        self.prober = Prober(self.pool, record, self.clock)

    def state(self, node: str = A) -> NodeState:
        return self.pool.snapshot()[node].state

    def probe(self, *nodes: str) -> BaseException | None:
        """Probe nodes and wait for the end; return the error that a caller who waits for them gets."""
        self.prober.start(nodes)
        for thread in list(self.prober._threads):
            thread.join(LONG)
        return self.prober.wait(nodes, self.clock.now() + LONG, lambda: None)


def fails(outcome: Outcome, cause: BaseException | None = None) -> Callable[[str], None]:
    def ask(node: str) -> None:
        raise Failure(outcome, Phase.HEAD, cause)

    return ask


def blocked_ask() -> tuple[Callable[[str], None], Callable[[], None]]:
    """A probe that blocks, and the function that lets it succeed."""
    opened = threading.Event()

    def ask(node: str) -> None:
        assert opened.wait(LONG)

    return ask, opened.set


def test_a_node_that_answers_is_alive_and_the_thread_of_its_probe_ends() -> None:
    threads: list[threading.Thread] = []
    probed = ProberWithNodes(lambda node: threads.append(threading.current_thread()))
    assert probed.probe(A) is None
    assert (probed.state(A), probed.state(B)) == (NodeState.ALIVE, NodeState.FAILING)
    assert probed.probes == [A]
    assert [(thread.name, thread.daemon) for thread in threads] == [("qcache-probe", True)]
    assert probed.prober._threads == set()


def test_only_nodes_that_fail_are_probed() -> None:
    probed = ProberWithNodes(lambda node: None)
    probed.probe(A)
    probed.probe(A, B)
    assert probed.probes == [A, B]


@pytest.mark.parametrize(
    "outcome", [Outcome.UNAUTHORIZED, Outcome.CERTIFICATE_REJECTED, Outcome.UNSUPPORTED_ENCODING]
)
def test_a_node_that_refuses_the_request_is_alive(outcome: Outcome) -> None:
    probed = ProberWithNodes(fails(outcome))
    assert probed.probe(A) is None
    assert probed.state() is NodeState.ALIVE


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.TIMEOUT, Outcome.UNAVAILABLE])
def test_a_failed_probe_is_counted_and_its_error_kept(outcome: Outcome) -> None:
    probed = ProberWithNodes(fails(outcome, OSError("the cause")))
    assert probed.probe(A) is None
    status = probed.pool.snapshot()[A]
    assert (status.state, status.failures) == (NodeState.FAILING, 2)
    assert status.last_error == f"status request: {outcome}: the cause"
    assert status.gone is (outcome is Outcome.REFUSED)
    assert probed.pool.statistics[A]["retry_error"] == 1


@pytest.mark.parametrize("outcome", [Outcome.CANCELLED, Outcome.LOCAL])
def test_a_probe_that_fails_for_a_local_reason_changes_nothing(outcome: Outcome) -> None:
    probed = ProberWithNodes(fails(outcome))
    before = probed.pool.snapshot()[A]
    error = probed.probe(A)
    assert probed.pool.snapshot()[A] == before
    assert A not in probed.pool.statistics
    assert isinstance(error, Failure) is (outcome is Outcome.LOCAL)


def test_a_local_error_is_returned_until_the_next_probe_of_that_node() -> None:
    error = OSError("too many open files")
    probes = 0

    def ask(node: str) -> None:
        nonlocal probes
        probes += 1
        if probes == 1:
            raise Failure(Outcome.LOCAL, Phase.CONNECT, error)

    probed = ProberWithNodes(ask)
    assert probed.probe(A) is error
    assert probed.prober.wait([B], probed.clock.now() + LONG, lambda: None) is None
    probed.pool.end_probe(B, probed.pool.begin_probe(B), None)
    assert probed.prober.wait([A, B], probed.clock.now() + LONG, lambda: None) is None  # B could be probed
    assert probed.probe(A) is None
    probed.pool.fail(A, probed.pool.ticket(A), "reset")
    assert probed.prober.wait([A], probed.clock.now() + LONG, lambda: None) is None


def test_a_probe_that_raises_leaves_the_node_to_the_next_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda thread: raised.append(thread.exc_type))

    def breaks(node: str) -> None:
        raise KeyError(node)

    probed = ProberWithNodes(breaks)
    assert probed.probe(A) is None
    assert probed.state() is NodeState.FAILING
    assert probed.prober._threads == set()
    probed.probe(A)
    assert (probed.probes, raised) == ([A, A], [KeyError, KeyError])


def test_a_node_is_probed_by_one_thread_at_a_time() -> None:
    ask, release = blocked_ask()
    probed = ProberWithNodes(ask)
    probed.prober.start([A])
    probed.prober.start([A, B])
    release()
    probed.probe()
    assert sorted(probed.probes) == [A, B]


def test_a_wait_ends_when_the_first_node_is_alive() -> None:
    ask, release = blocked_ask()
    probed = ProberWithNodes(lambda node: ask(node) if node == B else None)
    probed.prober.start([A, B])
    assert probed.prober.wait([A, B], probed.clock.now() + LONG, lambda: None) is None
    assert (probed.state(A), probed.state(B)) == (NodeState.ALIVE, NodeState.PROBED)
    release()
    assert probed.prober.wait([B], probed.clock.now() + LONG, lambda: None) is None
    assert probed.state(B) is NodeState.ALIVE


def test_a_wait_ends_in_time_if_a_node_stays_silent() -> None:
    ask, release = blocked_ask()
    probed = ProberWithNodes(ask)
    probed.prober.start([A])
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        probed.clock.spend(1.0)

    assert probed.prober.wait([A], probed.clock.now() + 3, check) is None
    assert checks == 3
    assert probed.prober.wait([A], probed.clock.now(), check) is None
    assert checks == 3
    assert probed.state() is NodeState.PROBED
    release()


def test_a_wait_ends_with_the_exception_of_its_check() -> None:
    ask, release = blocked_ask()
    probed = ProberWithNodes(ask)
    probed.prober.start([A])

    def cancelled() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        probed.prober.wait([A], probed.clock.now() + LONG, cancelled)
    release()


def test_a_wait_for_nodes_that_nobody_probes_ends_at_once() -> None:
    probed = ProberWithNodes(lambda node: None)
    assert probed.prober.wait([A, B], float("inf"), lambda: pytest.fail("it waited")) is None


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), KeyboardInterrupt()])
def test_a_thread_that_cannot_be_started_leaves_the_node_to_the_next_probe(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed = ProberWithNodes(lambda node: None)

    def start(thread: threading.Thread) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        if isinstance(error, RuntimeError):
            assert probed.probe(A) is error
        else:
            with pytest.raises(KeyboardInterrupt):
                probed.probe(A)
    assert (probed.state(), probed.prober._threads) == (NodeState.FAILING, set())
    assert probed.probe(A) is None
    assert probed.state() is NodeState.ALIVE


def test_a_probe_whose_start_was_interrupted_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ask, release = blocked_ask()
    probed = ProberWithNodes(ask)
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            probed.prober.start([A])
    (thread,) = probed.prober._threads
    assert probed.state() is NodeState.FAILING
    release()
    thread.join(LONG)
    assert (probed.state(), probed.prober._threads) == (NodeState.FAILING, set())
    assert probed.probe(A) is None
    assert probed.state() is NodeState.ALIVE


def test_close_waits_for_running_probes_no_longer_than_its_timeout() -> None:
    ask, release = blocked_ask()
    probed = ProberWithNodes(ask)
    probed.prober.start([A])
    (thread,) = probed.prober._threads
    probed.prober.close(0.0)
    assert thread.is_alive()
    release()
    probed.prober.close(LONG)
    assert not thread.is_alive()
    probed.prober.start([B])
    assert probed.probes == [A]
    assert probed.state(B) is NodeState.FAILING


def test_the_timeout_of_close_is_for_all_probes_together() -> None:
    probed = ProberWithNodes(lambda node: None)
    waited: list[float] = []

    class Slow:
        ident = 1

        def join(self, timeout: float) -> None:
            waited.append(timeout)
            probed.clock.spend(3.0)

    threads: Any = {Slow(), Slow(), Slow()}
    probed.prober._threads = threads
    probed.prober.close(5.0)
    assert waited == [5.0, 2.0, 0.0]


def test_a_probe_may_close_the_client_that_made_it() -> None:
    """A listener may close the client when the node recovers; the thread must not wait for itself."""
    probed = ProberWithNodes(lambda node: probed.prober.close(LONG))
    assert probed.probe(A) is None
    assert probed.state() is NodeState.ALIVE


def test_close_does_not_wait_for_threads_that_never_ran() -> None:
    probed = ProberWithNodes(lambda node: None)
    probed.prober._threads.add(threading.Thread())
    probed.prober.close(LONG)


def test_a_forked_child_forgets_its_parent_s_probes() -> None:
    """The child has none of the threads; tests/client/test_fork.py forks."""
    probed = ProberWithNodes(fails(Outcome.LOCAL, OSError("too many open files")))
    assert probed.probe(A) is not None
    ask, release = blocked_ask()
    with contextlib.ExitStack() as stack:
        stack.callback(release)
        probed.prober._ask = ask
        probed.prober.start([B])
        finished: Any = probed.prober._finished
        probed.prober.reset_after_fork()
        assert probed.prober._threads == set()
        assert probed.prober._finished is not finished
        assert not probed.prober._finished.is_set()
        probed.pool.reset_after_fork()
        assert probed.prober.wait([A, B], probed.clock.now() + LONG, lambda: None) is None
        assert probed.state(B) is NodeState.FAILING
