"""Run code in a forked child process, for tests of locks and sockets that are in use during a fork."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable

CHILD_TIMEOUT = 30.0
"""Seconds after which a child is killed."""


def run_in_forked_child(work: Callable[[], object]) -> Callable[[], int]:
    """Call `work` in a forked child; return a function that waits for the child and returns its exit code."""
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
        end = time.monotonic() + CHILD_TIMEOUT
        while time.monotonic() < end:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(child, 9)
        os.waitpid(child, 0)
        return -1

    return wait
