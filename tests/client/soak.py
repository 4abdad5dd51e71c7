"""Operations from many threads while nodes die, stop and return: ``python -m tests.client.soak``.

Each of the threads owns its keys, so that what was acknowledged last under a key is known, and numbers the
tables it stores. Two threads at a time share a client, which knows of nodes only what it met itself; half of
the reads are of any thread's key, by any client. Afterwards every node is asked what it holds.

Every second client is hasty: its deadline and its timeouts are shorter than most stops, and it is cancelled
now and then, so that it gives up stores and deletes that a node may do later. A key is written by one client,
which may not so undo what it acknowledged: a table that was given up may be there until the next store or
delete is acknowledged.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace

import qclient

from airflow_provider_qcache.client import (
    DeadlineExceeded,
    DeleteOutcome,
    HomeNodeUnavailable,
    NoCacheAvailable,
    OperationCancelled,
    QClient,
    QClientException,
    RequestRetry,
)
from tests.harness.lateness import Lateness
from tests.harness.servers import Server

KEYS_PER_THREAD = 12
THREADS_PER_CLIENT = 2
DEADLINE = 20.0
HASTY = {"connect_timeout": 0.3, "read_timeout": 0.3, "deadline": 0.8, "store_timeout": 0.4}
CANCELLED_IN = 12
"""One of so many operations of a hasty client has a cancel() at some moment."""
LARGE_IN, LARGE_ROWS = 8, 16_000
"""One of so many versions of a table has so many rows, of more than 100 kB."""
GIVEN_UP = ("StoreUncertain", "DeadlineExceeded", "OperationCancelled")
OPERATIONS_PER_EVENT = 150


@dataclass(frozen=True)
class Last:
    """What is known of a key. Replaced by the thread that owns the key, and read by all."""

    version: int = 0
    """Of the last store that was acknowledged; 0 for none, or a delete since."""
    node: str | None = None
    at_home: bool = False
    stored_in_life: int = 0
    """How often the node's process had ended when the store was acknowledged."""
    may_hold_old: frozenset[str] = frozenset()
    latest: int = 0
    """Of the last store that was begun: one that failed may be there all the same."""
    floor: int = 0
    """No node but those in may_hold_old holds a version below this."""


@dataclass
class Soak:
    """One run. ``problems`` is what must be empty."""

    servers: list[Server]
    operations: int = 10_000
    threads: int = 8
    seed: int = 1
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    lives: dict[str, int] = field(default_factory=dict)
    events: Counter[str] = field(default_factory=Counter)
    repaired: int = 0
    some_hasty: bool = True
    """Whether every second client gives up early, and is cancelled."""

    def __post_init__(self) -> None:
        self.nodes = [f"http://127.0.0.1:{server.port}" for server in self.servers]
        self.lives = dict.fromkeys(self.nodes, 0)
        self._lock = threading.Lock()
        self._late = Lateness()
        self.keys: list[list[str]] = []
        self._left = self.operations
        self._done = threading.Event()
        self.last: dict[str, Last] = {}

    def client(self, **options: object) -> QClient:
        settings = {
            "connect_timeout": 0.5,
            "read_timeout": 1.0,
            "deadline": DEADLINE,
            "store_timeout": 1.5,
            "trust_env": False,
            "request_retry": RequestRetry(wait_initial=0.05, wait_max=0.5, wait_for_nodes=True),
            "confirm_miss": True,
        }
        return QClient(self.nodes, **{**settings, **options})  # type: ignore[arg-type]

    def run(self) -> None:
        started = time.monotonic()
        with Lateness() as late, contextlib.ExitStack() as stack:
            self._late = late
            clients = [
                stack.enter_context(self.client(**(HASTY if self._is_hasty(number) else {})))
                for number in range((self.threads + THREADS_PER_CLIENT - 1) // THREADS_PER_CLIENT)
            ]
            self.keys = [
                [f"soak-{number}-{i}" for i in range(KEYS_PER_THREAD)] for number in range(self.threads)
            ]
            self.last = {key: Last() for keys in self.keys for key in keys}
            threads = [
                threading.Thread(target=self._work, args=(clients, number)) for number in range(self.threads)
            ]
            havoc = threading.Thread(target=self._wreak_havoc)
            for thread in [*threads, havoc]:
                thread.start()
            for thread in threads:
                thread.join()
            self._done.set()
            havoc.join()
        if (done := self.counts.total()) != self.operations:
            self.problems.append(f"{done} operations ended of {self.operations}")
        self._check_nodes()
        self._repair()
        self.seconds = time.monotonic() - started

    def _is_hasty(self, client: int) -> bool:
        return self.some_hasty and bool(client % 2)

    def _take(self) -> bool:
        # A node takes its time to start: what is to happen to nodes is not to be outrun.
        misfortunes = self.events["SIGKILL"] + self.events["SIGSTOP"]
        while self.operations - self._left > (misfortunes + 2) * OPERATIONS_PER_EVENT:
            misfortunes = self.events["SIGKILL"] + self.events["SIGSTOP"]
            time.sleep(0.01)
        with self._lock:
            self._left -= 1
            return self._left >= 0

    def _work(self, clients: list[QClient], number: int) -> None:
        rng = random.Random(self.seed * 100 + number)
        own = clients[number // THREADS_PER_CLIENT]
        hasty = self._is_hasty(number // THREADS_PER_CLIENT)
        first = list(self.keys[number])  # every key has its table before the first misfortune
        again: str | None = None
        while self._take():
            operation = rng.choices(("get", "read", "post", "query", "delete"), (25, 25, 35, 10, 5))[0]
            client, keys = own, self.keys[number]
            if operation == "read":
                client, keys = rng.choice(clients), rng.choice(self.keys)
            key = rng.choice(keys)
            if first:
                operation, client, key = "post", own, first.pop()
            elif again is not None:
                # What was given up is followed at once by what may not be undone.
                operation, client, key = rng.choice(("post", "post", "delete")), own, again
            again = None
            if hasty and not first and rng.randrange(CANCELLED_IN) == 0:
                cancel = threading.Timer(rng.uniform(0, 0.2), own.cancel)
                cancel.daemon = True
                cancel.start()
            deadline = client._deadline or DEADLINE
            started, late = time.monotonic(), self._late.seconds
            try:
                getattr(self, f"_{operation}")(client, key)
                outcome = "done"
            except QClientException as error:
                outcome = type(error).__name__
                if operation in ("post", "delete") and outcome in GIVEN_UP:
                    again = key
                # It says what was asked, and what it met: a miss that is none meets nothing itself.
                says = error.attempts or isinstance(error, HomeNodeUnavailable | OperationCancelled)
                # Where time is short, it may be over in the wait for nodes that others found failing.
                says = says or (
                    client._deadline != DEADLINE and isinstance(error, NoCacheAvailable | DeadlineExceeded)
                )
                if key not in str(error) or not says:
                    self.problems.append(f"{operation} {key}: an error that says little: {error!r}")
            except Exception as error:  # noqa: BLE001
                outcome = type(error).__name__
                self.problems.append(f"{operation} {key}: {error!r}, which is no error of the client")
            seconds = time.monotonic() - started
            if seconds > deadline + 0.5 + self._late.seconds - late:
                self.problems.append(f"{operation} {key}: took {seconds:.2f} s, over its deadline")
            with self._lock:
                self.counts[f"{operation}: {outcome}"] += 1

    def _get(self, client: QClient, key: str) -> None:
        lives = dict(self.lives)
        last = self.last[key]
        result = client.get(key, {"limit": 1})
        if result is not None:
            self._check_version(key, last, version_of(result.content), result.node, "was read")
            return
        # Nobody else writes this key: with its node's process alive a miss would be a failure in disguise.
        lived = last.node is not None and last.stored_in_life == lives[last.node] == self.lives[last.node]
        if last.at_home and lived and self.last[key] is last:
            self.problems.append(f"{key}: version {last.version} is on {last.node}, and was a miss")

    _read = _get

    def _check_version(self, key: str, last: Last, version: int, node: str, what: str) -> None:
        if version < last.floor and node not in last.may_hold_old:
            self.problems.append(
                f"{key}: version {version} {what} on {node}, which is older than {last.floor} and not named"
            )
        if version > self.last[key].latest:
            self.problems.append(f"{key}: version {version} {what} on {node}, which was never stored")

    def _begin_store(self, key: str) -> tuple[int, str]:
        # While it is under way nothing is sure but what was: another thread may read either version.
        last = self.last[key] = replace(self.last[key], latest=self.last[key].latest + 1, at_home=False)
        rows = LARGE_ROWS if last.latest % LARGE_IN == 0 else 40
        return last.latest, "version,i\n" + "".join(f"{last.latest},{i}\n" for i in range(rows))

    def _post(self, client: QClient, key: str) -> None:
        version, table = self._begin_store(key)
        lives = dict(self.lives)
        try:
            result = client.post(key, table, evict_stale=True)
        except QClientException:
            # It may have been stored elsewhere, and the one that was there be evicted.
            self.last[key] = replace(self.last[key], node=None)
            raise
        self.last[key] = Last(
            version=version,
            node=result.node,
            at_home=not result.failed_over,
            # As it was before: a process that ended since may have been the one that acknowledged.
            stored_in_life=lives[result.node],
            may_hold_old=frozenset(result.may_hold_old),
            latest=version,
            floor=version,
        )

    def _query(self, client: QClient, key: str) -> None:
        last = self.last[key]
        result = client.query(key, {"limit": 1}, lambda: self._begin_store(key)[1])
        self._check_version(key, last, version_of(result.content), result.node, "was read")

    def _delete(self, client: QClient, key: str) -> None:
        # A delete that fails may have reached it.
        last = self.last[key] = replace(self.last[key], node=None, at_home=False)
        result = client.delete(key, all_nodes=True)
        self.last[key] = Last(
            latest=last.latest + 1,
            floor=last.latest + 1,
            may_hold_old=frozenset(
                node for node, outcome in result.outcomes.items() if outcome is DeleteOutcome.UNREACHABLE
            ),
        )

    def _wreak_havoc(self) -> None:
        rng = random.Random(self.seed)
        due = self.operations
        while not self._done.wait(0.02):
            if self._left > due:
                continue
            due = self._left - OPERATIONS_PER_EVENT
            number = rng.randrange(len(self.servers))
            server, node = self.servers[number], self.nodes[number]
            stops = self.events["SIGSTOP"]
            if self.events["SIGKILL"] < stops:
                self.events["SIGKILL"] += 1
                # Before: a store that is acknowledged meanwhile counts as one of the process that is ending.
                self.lives[node] += 1
                server.kill()
                self.lives[node] += 1
                self._done.wait(rng.uniform(0.1, 1.0))
                server.stop()
                server.start()
                self.events["restart"] += 1
            else:
                self.events["SIGSTOP"] += 1
                server.pause()
                # Longer than a read timeout, and shorter, in turn.
                self._done.wait(rng.uniform(0.1, 0.9) if stops % 2 else rng.uniform(1.5, 3.0))
                server.resume()
                self.events["SIGCONT"] += 1

    @property
    def given_up(self) -> int:
        """Stores and deletes that were given up."""
        return sum(
            count
            for name, count in self.counts.items()
            if name.partition(":")[0] in ("post", "delete") and name.endswith(GIVEN_UP)
        )

    def held(self, key: str) -> dict[str, int]:
        """The version each node holds."""
        found = {}
        for node in self.nodes:
            with QClient([node], 5, 30, trust_env=False) as single:
                result = single.get(key, {"limit": 1})
            if result is not None:
                found[node] = version_of(result.content)
        return found

    def _check_nodes(self) -> None:
        for key, last in self.last.items():
            held = self.held(key)
            for node, version in held.items():
                self._check_version(key, last, version, node, "is held")
            if last.node is not None and last.stored_in_life == self.lives[last.node]:
                version = held.get(last.node)
                if version is None or version < last.version:
                    self.problems.append(
                        f"{key}: version {last.version} was acknowledged by {last.node}, which holds "
                        f"{version}"
                    )

    def _repair(self) -> None:
        with self.client() as client:
            report = client.post_many(
                {key: f"version,i\n{last.latest + 1},0\n" for key, last in self.last.items()},
                evict_stale=True,
            )
            self.repaired = len(report.succeeded)
        theirs = qclient.QClient(self.nodes, trust_env=False)
        for key, last in self.last.items():
            result = theirs.get(key, {})
            if result is None or version_of(result.content) != last.latest + 1:
                self.problems.append(f"{key}: qcache-client does not read what the repair stored")


def version_of(content: bytes) -> int:
    return int(json.loads(content)[0]["version"])


def main() -> int:
    """Run the soak over real nodes, or over dev nodes with ``dev`` as argument, and print what happened."""
    kind = "dev" if "dev" in sys.argv[1:] else "real"
    servers = [Server.dev() if kind == "dev" else Server.real() for _ in range(3)]
    try:
        for server in servers:
            server.start()
        soak = Soak(
            servers,
            operations=int(os.environ.get("QCACHE_SOAK_OPERATIONS", "10000")),
            seed=int(os.environ.get("QCACHE_SOAK_SEED", "1")),
        )
        soak.run()
    finally:
        for server in servers:
            server.stop()
    clients = soak.threads // THREADS_PER_CLIENT
    who = f"{soak.threads} threads with {clients} clients"
    print(f"{soak.operations} operations from {who} on 3 {kind} nodes: {soak.seconds:.0f} s")  # noqa: T201
    for name, count in [*sorted(soak.events.items()), *sorted(soak.counts.items())]:
        print(f"  {count:6d} {name}")  # noqa: T201
    print(f"  {soak.repaired:6d} repaired")  # noqa: T201
    for problem in soak.problems:
        print(f"PROBLEM: {problem}")  # noqa: T201
    return bool(soak.problems)


if __name__ == "__main__":
    sys.exit(main())
