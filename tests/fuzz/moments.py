"""Fuzzes the moment of an interrupt: a signal handler raises, as Airflow's task timeout does, or cancel()."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from random import Random

from airflow_provider_qcache.client import QClient, QClientException
from tests.fuzz import nodes

_LONGEST = 0.012
"""The latest moment of the signal, in seconds; the longest operation takes about as long."""
_LARGE = b"a,b\n" + b"1,some text to make it long\n" * 20_000


class Alarm(BaseException):
    """Like Airflow's timeout, not a subclass of Exception."""


def _raise_alarm(*_: object) -> None:
    raise Alarm


def _operations(client: QClient) -> list[Callable[[], object]]:
    rows = [{"a": 1, "b": "x"}] * 500
    return [
        lambda: client.get(nodes.KEY, {}),
        lambda: client.post(nodes.KEY, b"a,b\n1,x\n", check_row_count=True),
        lambda: client.post(nodes.KEY, lambda: iter([_LARGE]), compression="gzip"),
        lambda: client.post_table(nodes.KEY, rows, evict_stale=True),
        lambda: client.query(nodes.KEY, {}, lambda: b"a,b\n1,x\n"),
        lambda: client.delete(nodes.KEY, all_nodes=True),
        lambda: client.post_many(((f"k{at}", b"a\n1\n") for at in range(5)), evict_stale=True),
        client.node_statistics,
        lambda: client.node_status(probe=True),
    ]


@contextlib.contextmanager
def moments() -> Iterator[Callable[[Random], None]]:
    """After each interrupted operation the client must work, and in the end no thread may be left."""
    before = signal.signal(signal.SIGALRM, _raise_alarm)
    # Python prints and drops an exception that is raised in a destructor.
    sys.unraisablehook = lambda _: None
    with (
        nodes.server() as one,
        nodes.server() as two,
        QClient([one, two], 5, 20, deadline=30, trust_env=False) as client,
    ):
        operations = _operations(client)
        client.post(nodes.KEY, b"a,b\n1,x\n")
        threads = len(_running_threads())

        def case(random: Random) -> None:
            operation = random.choice(operations)
            if random.random() < 0.2:
                _cancel(client, operation, random.uniform(0, _LONGEST))
                return
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, _LONGEST))
                    operation()
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except Alarm:
                pass
            if random.random() < 0.2:
                _check_client(client)
            if random.random() < 0.05:
                _check_threads(threads)

        yield case
    signal.signal(signal.SIGALRM, before)


def _cancel(client: QClient, operation: Callable[[], object], seconds: float) -> None:
    """Cancel an operation of another thread, and check the client at once, while that thread may still run."""

    def run() -> None:
        with contextlib.suppress(QClientException):
            operation()

    thread = threading.Thread(target=run)
    thread.start()
    while not client._active and thread.is_alive():  # an operation that begins after cancel() would run
        time.sleep(0)
    time.sleep(seconds)
    client.cancel()
    _check_client(client)
    thread.join()


def _check_client(client: QClient) -> None:
    """Store and read a table."""
    abandoned = {node: len(writes) for node, writes in client._pool.abandoned_writes.items()}
    try:
        client.post(nodes.KEY, b"a\n1\n2\n", check_row_count=True)
        result = client.get(nodes.KEY, {"select": [["count"]]})
    except QClientException as error:
        raise AssertionError(
            f"the client does not work after an interrupt; abandoned writes: {abandoned}: {error}"
        ) from error
    if result is None or b"2" not in result.content:
        raise AssertionError(f"after an interrupt the client reads another table than it stored: {result}")


def _running_threads() -> list[str]:
    """The names of the running threads.

    Python keeps a thread whose ``start()`` was interrupted in its list forever and counts it as active.
    """
    return sorted(thread.name for thread in threading.enumerate() if thread.is_alive())


def _check_threads(most: int) -> None:
    until = time.monotonic() + 20
    while len(names := _running_threads()) > most + 4:
        if time.monotonic() > until:
            raise AssertionError(f"{len(names)} threads are left, after {most} at the start: {names}")
        time.sleep(0.01)
