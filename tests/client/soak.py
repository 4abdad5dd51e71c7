"""Operations from many threads while nodes are killed, stopped and restarted.

``python -m tests.client.soak`` runs it.

Each thread owns its keys and numbers the tables that it stores, so that the last acknowledged table of a key
is known. Two threads share a client, which knows only the node failures that it saw itself. Half of the reads
are of any thread's key, by any client. At the end every node is asked for its tables.

Every second client is hasty: its deadline and timeouts are shorter than most stops of a node, and it is
cancelled now and then, so that it abandons stores and deletes that a node may apply later. Such a late write
must not undo what the same client has acknowledged since: an abandoned table may appear only until the next
store or delete of its key is acknowledged.
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
"""A hasty client's operation is cancelled at some moment with a chance of one in this number."""
LARGE_IN, LARGE_ROWS = 8, 16_000
"""Every 8th version of a table has 16,000 rows, more than 100 kB."""
ABANDONED = ("StoreUncertain", "DeadlineExceeded", "OperationCancelled")
OPERATIONS_PER_EVENT = 150


@dataclass(frozen=True)
class Last:
    """What is known of a key. The thread that owns the key replaces it; all threads read it."""

    version: int = 0
    """The last acknowledged store; 0 if there is none, or a delete came after it."""
    node: str | None = None
    at_home: bool = False
    stored_in_life: int = 0
    """How often the node's process had ended when it acknowledged the store."""
    may_hold_old: frozenset[str] = frozenset()
    latest: int = 0
    """The last store that was begun; a store that failed may still be on a node."""
    floor: int = 0
    """The oldest version that a node outside may_hold_old may hold."""


@dataclass
class Soak:
    """One run; ``problems`` must be empty at its end."""

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
    """Whether every second client has short timeouts and is cancelled now and then."""

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
            disturber = threading.Thread(target=self._disturb_nodes)
            for thread in [*threads, disturber]:
                thread.start()
            for thread in threads:
                thread.join()
            self._done.set()
            disturber.join()
        if (done := self.counts.total()) != self.operations:
            self.problems.append(f"{done} operations ended of {self.operations}")
        self._check_nodes()
        self._repair()
        self.seconds = time.monotonic() - started

    def _is_hasty(self, client: int) -> bool:
        return self.some_hasty and bool(client % 2)

    def _take(self) -> bool:
        # A node takes time to start: the operations must not run ahead of the kills and stops.
        disturbances = self.events["SIGKILL"] + self.events["SIGSTOP"]
        while self.operations - self._left > (disturbances + 2) * OPERATIONS_PER_EVENT:
            disturbances = self.events["SIGKILL"] + self.events["SIGSTOP"]
            time.sleep(0.01)
        with self._lock:
            self._left -= 1
            return self._left >= 0

    def _work(self, clients: list[QClient], number: int) -> None:
        rng = random.Random(self.seed * 100 + number)
        own = clients[number // THREADS_PER_CLIENT]
        hasty = self._is_hasty(number // THREADS_PER_CLIENT)
        first = list(self.keys[number])  # every key has a table before the first node is disturbed
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
                # After an abandoned write, at once a write that it must not undo.
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
                if operation in ("post", "delete") and outcome in ABANDONED:
                    again = key
                # The error must name the key and its attempts. An unconfirmed miss may have no attempts, nor
                # may an operation with a short deadline, which can end while it waits for failing nodes.
                says = error.attempts or isinstance(error, HomeNodeUnavailable | OperationCancelled)
                says = says or (
                    client._deadline != DEADLINE and isinstance(error, NoCacheAvailable | DeadlineExceeded)
                )
                if key not in str(error) or not says:
                    self.problems.append(
                        f"{operation} {key}: the error names no key or no attempts: {error!r}"
                    )
            except Exception as error:  # noqa: BLE001
                outcome = type(error).__name__
                self.problems.append(f"{operation} {key}: {error!r}, which is not one of the client's errors")
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
        # Nobody else writes this key: if its node's process still runs, a miss would be a hidden failure.
        lived = last.node is not None and last.stored_in_life == lives[last.node] == self.lives[last.node]
        if last.at_home and lived and self.last[key] is last:
            self.problems.append(f"{key}: version {last.version} is on {last.node}, and was a miss")

    _read = _get

    def _check_version(self, key: str, last: Last, version: int, node: str, what: str) -> None:
        if version < last.floor and node not in last.may_hold_old:
            self.problems.append(
                f"{key}: version {version} {what} on {node}, older than {last.floor}, which may_hold_old "
                f"does not name"
            )
        if version > self.last[key].latest:
            self.problems.append(f"{key}: version {version} {what} on {node}, which was never stored")

    def _begin_store(self, key: str) -> tuple[int, str]:
        # While the store is under way, another thread may read the old version or the new one.
        last = self.last[key] = replace(self.last[key], latest=self.last[key].latest + 1, at_home=False)
        rows = LARGE_ROWS if last.latest % LARGE_IN == 0 else 40
        return last.latest, "version,i\n" + "".join(f"{last.latest},{i}\n" for i in range(rows))

    def _post(self, client: QClient, key: str) -> None:
        version, table = self._begin_store(key)
        lives = dict(self.lives)
        try:
            result = client.post(key, table, evict_stale=True)
        except QClientException:
            # The table may have been stored on another node, and the old one evicted.
            self.last[key] = replace(self.last[key], node=None)
            raise
        self.last[key] = Last(
            version=version,
            node=result.node,
            at_home=not result.failed_over,
            # The count from before: the process that acknowledged may have ended since.
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
        # A delete that fails may have reached the node.
        last = self.last[key] = replace(self.last[key], node=None, at_home=False)
        result = client.delete(key, all_nodes=True)
        self.last[key] = Last(
            latest=last.latest + 1,
            floor=last.latest + 1,
            may_hold_old=frozenset(
                node for node, outcome in result.outcomes.items() if outcome is DeleteOutcome.UNREACHABLE
            ),
        )

    def _disturb_nodes(self) -> None:
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
                # Counted before the kill too: a store acknowledged meanwhile belongs to the dying process.
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
                # Alternately longer and shorter than a read timeout.
                self._done.wait(rng.uniform(0.1, 0.9) if stops % 2 else rng.uniform(1.5, 3.0))
                server.resume()
                self.events["SIGCONT"] += 1

    @property
    def abandoned(self) -> int:
        """The number of stores and deletes that the client abandoned."""
        return sum(
            count
            for name, count in self.counts.items()
            if name.partition(":")[0] in ("post", "delete") and name.endswith(ABANDONED)
        )

    def versions(self, key: str) -> dict[str, int]:
        """The version that each node holds."""
        found = {}
        for node in self.nodes:
            with QClient([node], 5, 30, trust_env=False) as single:
                result = single.get(key, {"limit": 1})
            if result is not None:
                found[node] = version_of(result.content)
        return found

    def _check_nodes(self) -> None:
        for key, last in self.last.items():
            held = self.versions(key)
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
