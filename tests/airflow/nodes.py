"""QCache nodes that can be killed, silenced and started again: real ones, dev nodes where there are none."""

from __future__ import annotations

import signal
import ssl
from typing import Self

from tests.servers import Answer, Request, Server, real_python


class Nodes:
    """Several nodes, each a process: `with Nodes() as nodes`."""

    def __init__(self, count: int = 3, *options: str, tls: ssl.SSLContext | None = None) -> None:
        make = Server.real if real_python() else Server.dev
        self.servers = [make(*options, tls=tls) for _ in range(count)]
        self._scheme, self._host = ("https", "localhost") if tls else ("http", "127.0.0.1")

    @property
    def urls(self) -> list[str]:
        """The nodes as a connection names them."""
        return [f"{self._scheme}://{self._host}:{server.port}" for server in self.servers]

    @property
    def pids(self) -> dict[str, int]:
        """The process of each node that runs."""
        return {
            url: server.process.pid
            for url, server in zip(self.urls, self.servers, strict=True)
            if server.process is not None
        }

    def kill(self, i: int) -> None:
        """End a node as a crash does."""
        process = self.servers[i].process
        assert process is not None
        process.kill()
        process.wait()

    def pause(self, i: int) -> None:
        """Let a node accept connections and answer nothing."""
        process = self.servers[i].process
        assert process is not None
        process.send_signal(signal.SIGSTOP)

    def all_up(self) -> Self:
        """Every node as new, whatever a test did to it: empty where it was killed, else as it was."""
        dead = [
            server for server in self.servers if server.process is None or server.process.poll() is not None
        ]
        for server in self.servers:
            if server in dead:
                server.stop()
                server.launch()
            else:
                server.process.send_signal(signal.SIGCONT)
        for server in dead:
            server.wait_until_up()
        return self

    def ask(self, i: int, method: str, key: str, body: bytes | None = None) -> Answer:
        """One request about a key, past every client of ours."""
        headers = [("Accept", "application/json")]
        if body is not None:
            headers.append(("Content-Type", "text/csv"))
        target = f"/qcache/dataset/{key}" + ("?q={}" if method == "GET" else "")
        return self.servers[i].ask(Request(method, target, tuple(headers), body))

    def holding(self, key: str) -> list[str]:
        """The nodes that have a table under the key."""
        return [url for i, url in enumerate(self.urls) if self.ask(i, "GET", key).status == 200]

    def __enter__(self) -> Self:
        return self.all_up()

    def __exit__(self, *error: object) -> None:
        for server in self.servers:
            if server.process is not None and server.process.poll() is None:
                server.process.send_signal(signal.SIGCONT)
            server.stop()
