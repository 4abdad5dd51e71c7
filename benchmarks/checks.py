"""Checking CSV, compared with a real node's insertion of it: LF, CRLF, quotes, exponents, typed or not.

The two take turns with the same bytes. The node receives each table through a bare socket; its time is for
the whole store.
"""

from __future__ import annotations

import csv
import io
import os
import platform
import statistics
import time
from typing import TYPE_CHECKING

import numpy as np

from airflow_provider_qcache.client.tables.checks import CsvCheck
from benchmarks.client import RawSocket, post_bytes
from tests.harness.servers import Server

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = int(os.environ.get("QCACHE_BENCH_ROWS", "200000"))
GOAL = 1.5
PIECE = 128 * 1024


def tables() -> dict[str, bytes]:
    """The same rows in four spellings, and rows whose floats have exponents."""
    numbers = np.random.default_rng(1).random(ROWS)
    rows = [
        [at, f"some name {at}", round(float(number) * 100, 2), "a city", "true", f"2026-01-{at % 28:02}"]
        for at, number in enumerate(numbers)
    ]

    scales = (1e-6, 1e20, 1e-100)
    exponents = [
        [*row[:2], float(number) * scales[at % 3], *row[3:]]
        for at, (row, number) in enumerate(zip(rows, numbers, strict=True))
    ]

    def csv_of(line_end: str, quoting: int, rows: list[list[object]] = rows) -> bytes:
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator=line_end, quoting=quoting)  # type: ignore[arg-type]
        writer.writerow("abcdef")
        writer.writerows(rows)
        return text.getvalue().encode()

    return {
        "LF": csv_of("\n", csv.QUOTE_MINIMAL),
        "CRLF": csv_of("\r\n", csv.QUOTE_MINIMAL),
        "LF, texts quoted": csv_of("\n", csv.QUOTE_NONNUMERIC),
        "CRLF, all quoted": csv_of("\r\n", csv.QUOTE_ALL),
        "LF, floats with exponents": csv_of("\n", csv.QUOTE_MINIMAL, exponents),
    }


def check(content: bytes, *floats: str) -> None:
    """Check a table in pieces of the client's size."""
    checker = CsvCheck(floats)
    for start in range(0, len(content), PIECE):
        checker.feed(content[start : start + PIECE])
    checker.finish()


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _turn(node: RawSocket, content: bytes) -> tuple[float, float, float, float]:
    """Seconds for a store and for a check, without and with a column typed float."""
    plain = post_bytes("foo", content)
    typed = post_bytes("foo", content, "X-QCache-types: c=float")
    return (
        timed(lambda: node.ask(plain)),
        timed(lambda: check(content)),
        timed(lambda: node.ask(typed)),
        timed(lambda: check(content, "c")),
    )


def run(runs: int) -> str:
    """Measure and return the table."""
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    lines = [
        f"{ROWS} rows, {runs} turns, {machine}; the goal is {GOAL} times the node's rate.",
        "",
        "| CSV | MB | node, MB/s | check, MB/s | times the node | node, typed | check, typed | times it |",
        "|---|---|---|---|---|---|---|---|",
    ]
    with Server.real("--size=4000000000") as server:
        node = RawSocket(f"http://127.0.0.1:{server.port}")
        for name, content in tables().items():
            times = [_turn(node, content) for _ in range(runs)]
            medians = map(statistics.median, zip(*times, strict=True))
            node_plain, plain, node_typed, typed = (len(content) / seconds / 1e6 for seconds in medians)
            cells = [name, *(f"{rate:.0f}" for rate in (len(content) / 1e6, node_plain, plain))]
            cells += [
                f"{plain / node_plain:.1f}",
                f"{node_typed:.0f}",
                f"{typed:.0f}",
                f"{typed / node_typed:.1f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
