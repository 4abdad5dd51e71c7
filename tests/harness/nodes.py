"""QCache nodes that can be killed, paused and started again: real servers if installed, else dev nodes."""

from __future__ import annotations

import itertools
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import psutil

from airflow_provider_qcache.client.ring import Ring
from tests.harness.servers import Server, WireAnswer, WireRequest, real_python


class Nodes:
    """Several nodes, each its own process: `with Nodes() as nodes`."""

    def __init__(
        self, count: int = 3, *options: str, tls: ssl.SSLContext | None = None, kind: str | None = None
    ) -> None:
        make = Server.real if (real_python() if kind is None else kind == "real") else Server.dev
        self.servers = [make(*options, tls=tls) for _ in range(count)]
        self._scheme, self._host = ("https", "localhost") if tls else ("http", "127.0.0.1")

    @property
    def urls(self) -> list[str]:
        """The nodes' URLs."""
        return [f"{self._scheme}://{self._host}:{server.port}" for server in self.servers]

    def keys(self, count: int) -> list[str]:
        """Keys whose home nodes are the nodes in turn: ports change, so that fixed keys might miss a node."""
        ring = Ring(self.urls)
        homes = itertools.islice(itertools.cycle(self.urls), count)
        names = (f"many_{number}" for number in itertools.count())
        return [next(key for key in names if ring.node_for_key(key) == url) for url in homes]

    @property
    def pids(self) -> dict[str, int]:
        """The process id of each node that runs."""
        running = zip(self.urls, self.servers, strict=True)
        return {url: server.pid for url, server in running if server.pid is not None}

    def kill(self, i: int) -> None:
        """End a node as a crash does."""
        self.servers[i].kill()

    def pause(self, i: int) -> None:
        """Pause a node: it accepts connections and answers nothing."""
        self.servers[i].pause()

    def resume(self, i: int) -> None:
        """Resume a node after `pause`."""
        self.servers[i].resume()

    def wait_until_connected(self, i: int, pid: int) -> None:
        """Wait until a process has a TCP connection to the node; a paused node accepts connections too."""
        process = psutil.Process(pid)
        deadline = time.monotonic() + 60
        while not any(
            connection.raddr and connection.raddr.port == self.servers[i].port
            for connection in process.net_connections("tcp4")
            if connection.status == psutil.CONN_ESTABLISHED
        ):
            assert time.monotonic() < deadline, f"process {pid} did not connect to node {i} within 60 s"
            time.sleep(0.02)

    def all_up(self) -> Self:
        """Start killed nodes again, empty, and resume paused ones; other nodes are left as they are."""
        dead = [server for server in self.servers if server.pid is None]
        for server in self.servers:
            if server in dead:
                server.stop()
            else:
                server.resume()
        with ThreadPoolExecutor() as threads:
            list(threads.map(Server.start, dead))
        return self

    def ask(self, i: int, method: str, key: str, body: bytes | None = None) -> WireAnswer:
        """Send one request about a key, without the client under test."""
        headers = [("Accept", "application/json")]
        if body is not None:
            headers.append(("Content-Type", "text/csv"))
        target = f"/qcache/dataset/{key}" + ("?q={}" if method == "GET" else "")
        return self.servers[i].ask(WireRequest(method, target, tuple(headers), body))

    def holding(self, key: str) -> list[str]:
        """The nodes that have a table under the key."""
        return [url for i, url in enumerate(self.urls) if self.ask(i, "GET", key).status == 200]

    def __enter__(self) -> Self:
        return self.all_up()

    def __exit__(self, *error: object) -> None:
        for server in self.servers:
            if server.pid is not None:
                server.resume()
            server.stop()
