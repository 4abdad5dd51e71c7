"""Every fault against every operation: the right result or error, in time, and nothing leaked."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from pathlib import Path

import pytest

from tests.client.matrix import DEADLINE, FAULTS, OPERATIONS, Fault, expected_of, run_cell

WALL_CAP = DEADLINE + 10.0  # generous: what is exact is tested on a simulated clock


def open_sockets() -> int:
    if not Path("/proc/self/fd").exists():
        return 0
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(link.readlink()).startswith("socket:")
    return count


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_cell(fault: Fault, operation: str) -> None:
    gc.collect()
    sockets, threads = open_sockets(), threading.active_count()
    cell = run_cell(fault, operation)
    result, alive, counters = expected_of(fault, operation)
    assert cell.result == result, cell.error
    assert cell.alive == alive, cell.error
    assert cell.counters == counters, cell.error
    assert cell.seconds < WALL_CAP
    if cell.error is not None:
        assert cell.error.attempts
        assert repr("key")[1:-1] in str(cell.error)
    gc.collect()
    # A probe that was cut off by close() may need a moment to see that.
    end = time.monotonic() + 5
    while (threading.active_count() > threads or open_sockets() > sockets) and time.monotonic() < end:
        time.sleep(0.02)
    assert threading.active_count() <= threads
    assert open_sockets() <= sockets
