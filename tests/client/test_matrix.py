"""Every fault against every operation: the right result or error, in time, and nothing is left behind."""

from __future__ import annotations

import base64
import contextlib
import gc
import os
import select
import socket
import threading
import time
from pathlib import Path

import pytest
import urllib3.connection

from airflow_provider_qcache.client import Outcome
from tests.client.matrix import DEADLINE, FAULTS, READ_TIMEOUT, SECRET, Fault, run_cell, table
from tests.harness.lateness import Lateness
from tests.harness.ports import closed_port
from tests.harness.servers import ROOT

REQUIRED_FAULTS = (
    "refuses",
    "accepts and never answers",
    "accepts and does not read",
    *(f"resets {when} the {part}" for part in ("head", "body") for when in ("during", "after")),
    "resets before the head",  # "before the body" is "after the head"
    "resets while it reads",
    "answers half and closes",
    "drips its body",
    "drips its head",
    "drips interim responses",
    "never stops sending",
    "Content-Length too long",
    "Content-Length too short",
    "bad chunk",
    "chunk of -1 bytes",
    "chunk of 2^64-1 bytes",
    "chunk size of 20 digits",
    *(f"{status} with endless chunks" for status in (101, 204, 304)),
    "an encoding nobody asked for",
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
    "500 that echoes the request",
    "has two addresses, the first a black hole",
    "is healthy, and this machine is out of descriptors once (EMFILE)",
)
CELLS = [
    pytest.param(fault, operation, id=f"{fault.name}-{operation}")
    for fault in FAULTS
    for operation in fault.operations
]
KIND_IN_ERRORS = {"post bytes": "store", "post file": "store", "delete": "delete"}
TRIES = 3
"""An outcome is judged at once, unless this machine ran threads so late that a sound node times out too."""


def open_sockets() -> list[str]:
    """This process's sockets, each with its own address and its peer's."""
    if not Path("/proc/self/fd").exists():
        return []
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(link.readlink()).startswith("socket:"):
                with socket.socket(fileno=os.dup(int(link.name))) as copy:
                    found.append(repr(copy))
    return found


def test_every_required_fault_is_in_the_matrix() -> None:
    names = [fault.name for fault in FAULTS]
    assert set(REQUIRED_FAULTS) <= set(names)
    assert len(set(names)) == len(names)


def test_the_page_on_guarantees_has_the_matrix() -> None:
    """The next test checks that the matrix is true."""
    assert table() in (ROOT / "docs" / "explanation" / "guarantees.md").read_text()


@pytest.mark.parametrize(("fault", "operation"), CELLS)
def test_the_outcome_of_an_operation_at_a_faulty_node(fault: Fault, operation: str) -> None:
    gc.collect()
    closed_port()  # the first call opens a socket that stays open, which would count as left behind
    sockets, threads = open_sockets(), threading.active_count()
    expected = fault.expected.outcome_of(operation)
    for _ in range(TRIES):
        with Lateness() as late:
            cell = run_cell(fault, operation)
        as_expected = (cell.result, cell.failures) == (expected.result, expected.failures)
        if as_expected or late.seconds < READ_TIMEOUT / 4:
            break
    assert cell.result == expected.result, cell.error
    assert cell.failures == expected.failures, cell.error
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
        message = str(error)
        assert SECRET not in message
        assert base64.b64encode(f"someone:{SECRET}".encode()).decode() not in message
        what = KIND_IN_ERRORS.get(operation, "store" if fault.name == "404" else "query")
        assert message.startswith(f"{what} table {cell.key!r}")
        # A query with load makes no failed request at the home node before its last one.
        assert list(error.attempts) == cell.attempts != []
        for number, attempt in enumerate(error.attempts, 1):
            assert f"\n  {number}. {cell.home}: {attempt.outcome}" in message
            assert f"after {attempt.seconds:.3f} s" in message
    gc.collect()
    # A probe that close() ended may need a moment to stop.
    end = time.monotonic() + 5
    while (
        threading.active_count() > threads or len(open_sockets()) > len(sockets)
    ) and time.monotonic() < end:
        time.sleep(0.02)
    assert threading.active_count() <= threads
    left = open_sockets()
    assert len(left) <= len(sockets), (sockets, left)


@pytest.mark.parametrize("operation", ["get", "post bytes", "delete"])
def test_a_reset_before_the_client_reads_the_peer_s_address(
    operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that requires a certificate reports that after the handshake and resets the connection."""
    (fault,) = (fault for fault in FAULTS if fault.name == "client certificate demanded")
    connect = urllib3.connection.HTTPSConnection.connect

    def connect_and_wait_for_the_reset(connection: urllib3.connection.HTTPSConnection) -> None:
        connect(connection)
        assert connection.sock is not None
        poll = select.poll()
        poll.register(connection.sock, 0)  # only POLLERR and POLLHUP
        assert poll.poll(10_000), "the node did not reset the connection"

    monkeypatch.setattr(urllib3.connection.HTTPSConnection, "connect", connect_and_wait_for_the_reset)
    cell = run_cell(fault, operation)
    expected = fault.expected.outcome_of(operation)
    assert (cell.result, cell.failures) == (expected.result, expected.failures), cell.error
