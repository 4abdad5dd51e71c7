"""Work in a forked child, for tests of what a fork leaves in use."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable

CAP = 30.0
"""Seconds after which a child is killed."""


def in_a_child(work: Callable[[], object]) -> Callable[[], int]:
    """Fork a process that does the work; gives what waits for it and returns its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            os._exit(code)

    def wait() -> int:
        end = time.monotonic() + CAP
        while time.monotonic() < end:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(child, 9)
        os.waitpid(child, 0)
        return -1

    return wait
