"""Changes of a running node by its `LocalCluster`, over a pipe, not HTTP."""

import asyncio
import json
import os
import select
import time
from collections.abc import Callable
from typing import Any


class Control:
    """Applies changes from a pipe, each a line of JSON, and confirms each by its number.

    Args:
        changes: the descriptor of the pipe.
        confirm: called with a change's number once it is applied.
    """

    def __init__(self, changes: int, confirm: Callable[[int], object]) -> None:
        self.delay = 0.0
        """Seconds for which the node waits before it handles a request."""
        self.refuses_auth = False
        """Whether the node answers 401 to every request."""
        self._changes = changes
        self._confirm = confirm
        self._apply: Callable[[dict[str, Any]], None] = lambda _values: None
        self._rest = b""

    def listen(self, apply: Callable[[dict[str, Any]], None]) -> None:
        """Read changes from now on, in the running event loop; ``apply`` gets those of the store."""
        self._apply = apply
        asyncio.get_running_loop().add_reader(self._changes, self._receive)

    def hold(self) -> None:
        """Wait for the delay, and apply changes meanwhile; a changed delay starts again."""
        delay, end = self.delay, time.monotonic() + self.delay
        while (left := end - time.monotonic()) > 0:
            if select.select([self._changes], [], [], left)[0]:
                self._receive()
            if self.delay != delay:
                delay, end = self.delay, time.monotonic() + self.delay

    def _receive(self) -> None:
        data = os.read(self._changes, 65536)
        if not data:
            os._exit(1)  # the cluster is gone
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            values = json.loads(line)
            number = values.pop("number")
            self.delay = values.pop("delay", self.delay)
            self.refuses_auth = values.pop("refuse_auth", self.refuses_auth)
            self._apply(values)
            self._confirm(number)
