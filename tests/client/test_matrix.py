"""Every fault against every operation: the right result or error, in time, and nothing leaked."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from pathlib import Path

import pytest

from airflow_provider_qcache.client import Outcome
from tests.client.lateness import Lateness
from tests.client.matrix import DEADLINE, FAULTS, OPERATIONS, READ_TIMEOUT, Fault, run_cell

ROWS = (
    "refuses",
    "accepts and never answers",
    "accepts and does not read",
    *(f"resets {when} the {part}" for part in ("head", "body") for when in ("during", "after")),
    "resets before the head",  # before the body is after the head
    "resets while it reads",
    "answers half and closes",
    "drips its body",
    "drips its head",
    "drips interim responses",
    "never stops sending",
    "Content-Length too long",
    "Content-Length too short",
    "bad chunk",
    "bad gzip",
    "gzip bomb",
    "lz4 with a lying size",
    "not HTTP",
    "HTML where JSON should be",
    "no unsliced length",
    *("400", "401", "404", "406", "415", "429 with Retry-After", "500", "502", "503", "504"),
    "redirects to another host",
    "idle connection closed while unused",
    "busy for longer than every timeout",
    "answers after the client gave up",
    "name unknown",
    "expired certificate",
    "unknown certificate",
    "client certificate demanded",
)
WHAT = {"post bytes": "store", "post file": "store", "delete": "delete"}


def open_sockets() -> int:
    if not Path("/proc/self/fd").exists():
        return 0
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(link.readlink()).startswith("socket:")
    return count


def test_every_way_to_fail_has_its_row() -> None:
    names = [fault.name for fault in FAULTS]
    assert set(ROWS) <= set(names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_cell(fault: Fault, operation: str) -> None:
    gc.collect()
    sockets, threads = open_sockets(), threading.active_count()
    with Lateness() as late:
        cell = run_cell(fault, operation)
    expected = fault.expected.of(operation)
    assert cell.result == expected.result, cell.error
    assert cell.met == expected.met, cell.error
    assert cell.state == ("failing" if expected.failing else "alive")
    assert cell.counters.pop(cell.home, {}) == expected.counters
    assert not any(cell.counters.values())
    assert cell.seconds < DEADLINE + 0.5 + late.seconds
    for attempt in cell.attempts:
        if attempt.outcome is Outcome.TIMEOUT:
            assert attempt.seconds > READ_TIMEOUT - 0.01
        assert 0 <= attempt.seconds <= cell.seconds
    error = cell.error
    if error is not None:
        said = str(error)
        what = WHAT.get(operation, "store" if fault.name == "404" else "query")
        assert said.startswith(f"{what} table {cell.key!r}")
        # A query with load meets nothing at its home before it fails for good.
        assert list(error.attempts) == cell.attempts != []
        for number, attempt in enumerate(error.attempts, 1):
            assert f"\n  {number}. {cell.home}: {attempt.outcome}" in said
            assert f"after {attempt.seconds:.3f} s" in said
    gc.collect()
    # A probe that was cut off by close() may need a moment to see that.
    end = time.monotonic() + 5
    while (threading.active_count() > threads or open_sockets() > sockets) and time.monotonic() < end:
        time.sleep(0.02)
    assert threading.active_count() <= threads
    assert open_sockets() <= sockets
