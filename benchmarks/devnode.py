"""The dev node's speed compared with the real server's: both get the same requests in turn.

A measurement is the time from the first byte of a request to the last byte of its answer, on a persistent
connection. Machines and their load differ, so that only the ratio of the medians is meaningful.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from urllib.parse import urlencode

import pandas as pd
import tornado

from benchmarks import _tables as tables
from tests.harness.servers import (
    HOW_TO_GET_THE_REAL_SERVER,
    Connection,
    Server,
    ServerFailedError,
    WireAnswer,
    WireRequest,
    real_python,
)

STORE_BYTES = 50_000_000
ROWS = 1_000_000
TINY_RUNS = 500
TINY_BLOCK = 50
"""Tiny requests that a node answers before it is the other node's turn."""

NODE_SIZE = "--size=16000000000"
"""A size that no benchmark fills, so that nothing is evicted."""

ANSWER_TIMEOUT = 300.0

AS_FAST = 1.0
NEARLY = 1.5

_VERSIONS = """
import platform, pandas, tornado
print("Python %s, pandas %s, tornado %s" % (platform.python_version(), pandas.__version__, tornado.version))
"""


class WrongAnswerError(Exception):
    """An answer that is not the expected one."""


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    name: str
    goal: float
    """The ratio should not exceed this."""
    request: WireRequest
    rows: int | None = None
    """The expected unsliced length; None for a store."""
    before: WireRequest | None = None
    """Sent before each measurement; not measured."""
    tiny: bool = False


def store(key: str, body: bytes) -> WireRequest:
    return WireRequest("POST", f"/qcache/dataset/{key}", (("Content-Type", "text/csv"),), body)


def query(key: str, q: object, accept: str = "application/json") -> WireRequest:
    return WireRequest(
        "GET", f"/qcache/dataset/{key}?{urlencode({'q': json.dumps(q)})}", (("Accept", accept),)
    )


def delete(key: str) -> WireRequest:
    return WireRequest("DELETE", f"/qcache/dataset/{key}")


def prepare() -> tuple[list[WireRequest], list[Case]]:
    """The stores before the measurements, and the measurements.

    The expected numbers of rows are counted here, so that it is noticed if both nodes answer wrongly.
    """
    sales = tables.rows(tables.sales, ROWS)
    cities = tables.rows(tables.cities, 10)
    sums = [["sum", "price"], ["max", "ratio"], ["count", "id"]]
    store_mixed = store("mixed", tables.csv_of_size(tables.mixed, STORE_BYTES))
    store_numeric = store("numeric", tables.csv_of_size(tables.numeric, STORE_BYTES))
    store_cities = store("cities", tables.csv(cities))

    def query_of_sales(
        name: str, goal: float, rows: int, q: object, accept: str = "application/json"
    ) -> Case:
        return Case(name, goal, query("sales", q, accept), rows)

    def grouped_by(key: str) -> Case:
        kind = type(sales[0][key]).__name__
        groups = len({row[key] for row in sales})
        return query_of_sales(
            f"`group_by`, {kind}", NEARLY, groups, {"select": [key, *sums], "group_by": [key]}
        )

    rows_in_shop = sum(row["shop"] == 77 for row in sales)
    rows_of_sku = sum(row["sku"] == "sku-004242" for row in sales)
    skus_with_prefix = sum(row["sku"].startswith("sku-0042") for row in sales)
    skus_with_part = sum("042" in row["sku"] for row in sales)
    long_names = sum(row["length"] > 4 for row in cities)
    return [store("sales", tables.csv(sales)), store_cities], [
        Case("store, 14 mixed columns", AS_FAST, store_mixed, before=delete("mixed")),
        Case("store, 10 numeric columns", AS_FAST, store_numeric, before=delete("numeric")),
        grouped_by("shop"),
        grouped_by("city"),
        query_of_sales("`==`, int", AS_FAST, rows_in_shop, {"where": ["==", "shop", 77]}),
        query_of_sales("`==`, str", AS_FAST, rows_of_sku, {"where": ["==", "sku", "'sku-004242'"]}),
        query_of_sales(
            "`like`, at the start", AS_FAST, skus_with_prefix, {"where": ["like", "sku", "'sku-0042%'"]}
        ),
        query_of_sales("`like`, anywhere", AS_FAST, skus_with_part, {"where": ["like", "sku", "'%042%'"]}),
        query_of_sales(
            "`order_by` and `limit` 100, float", AS_FAST, ROWS, {"order_by": ["-ratio"], "limit": 100}
        ),
        query_of_sales("`order_by` and `limit` 100, str", AS_FAST, ROWS, {"order_by": ["sku"], "limit": 100}),
        query_of_sales("all rows as JSON", NEARLY, ROWS, {}),
        query_of_sales("all rows as CSV", AS_FAST, ROWS, {}, "text/csv"),
        Case("tiny query", NEARLY, query("cities", {"where": [">", "length", 4]}), long_names, tiny=True),
        Case("tiny store", AS_FAST, store_cities, tiny=True),
    ]


def check(case: Case, answer: WireAnswer) -> None:
    """Fail if an answer is an error or has an unexpected number of rows."""
    expected = (201 if case.rows is None else 200, case.rows)
    got = (answer.status, answer.unsliced_length)
    if got != expected:
        raise WrongAnswerError(
            f"{case.name}: status and unsliced length {got}, not {expected}: {answer.body[:300]!r}"
        )


def measure(connection: Connection, case: Case, data: bytes) -> float:
    """The milliseconds of one request."""
    if case.before is not None and (status := connection.ask(case.before).status) != 200:
        raise WrongAnswerError(f"{case.name}: {case.before.method} was answered {status}")
    started = time.perf_counter()
    connection.send(data)
    answer = connection.receive()
    milliseconds = (time.perf_counter() - started) * 1000
    check(case, answer)
    return milliseconds


def medians(real: Connection, dev: Connection, case: Case, runs: int) -> tuple[float, float]:
    """Both nodes' medians. The nodes take turns; each one's first turn is a warm-up."""
    turns, block = (TINY_RUNS // TINY_BLOCK, TINY_BLOCK) if case.tiny else (runs, 1)
    data = case.request.encode()
    measured: dict[Connection, list[float]] = {real: [], dev: []}
    for turn in range(1 + turns):
        for connection, times in measured.items():
            milliseconds = [measure(connection, case, data) for _ in range(block)]
            if turn:
                times.extend(milliseconds)
    return statistics.median(measured[real]), statistics.median(measured[dev])


def head(real: str, runs: int) -> list[str]:
    """What is measured, and on which versions."""
    old = subprocess.check_output([real, "-c", _VERSIONS], text=True).strip()
    new = f"Python {platform.python_version()}, pandas {pd.__version__}, tornado {tornado.version}"
    measured = (
        f"Medians of {runs}, of {TINY_RUNS} for the tiny ones (10 rows), the nodes taking turns. "
        f"Stores are of {STORE_BYTES // 10**6} MB of CSV, queries of {ROWS:,} rows in 7 columns."
    )
    return [
        f"Real: QCache 0.9.3 on {old}. Dev: {new}. {os.cpu_count()} cores for both and the client.",
        "",
        measured,
        "",
        "| what | real ms | dev ms | dev / real | goal |",
        "|---|---:|---:|---:|---:|",
    ]


def formatted(milliseconds: float) -> str:
    return f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.2f}"


def run(runs: int) -> str:
    """Measure everything and return the table.

    Raises:
        ServerFailedError: the real server is not installed, or a server does not start.
        WrongAnswerError: a node's answer is not the expected one.
    """
    python = real_python()
    if python is None:
        raise ServerFailedError(HOW_TO_GET_THE_REAL_SERVER)
    lines = head(python, runs)
    over = []
    to_store, cases = prepare()
    with (
        Server.real(NODE_SIZE) as real_node,
        Server.dev(NODE_SIZE) as dev_node,
        real_node.connect(ANSWER_TIMEOUT) as real,
        dev_node.connect(ANSWER_TIMEOUT) as dev,
    ):
        for connection in (real, dev):
            for request in to_store:
                check(Case(request.target, AS_FAST, request), connection.ask(request))
        for case in cases:
            real_ms, dev_ms = medians(real, dev, case, runs)
            ratio = round(dev_ms / real_ms, 2)
            if ratio > case.goal:
                over.append(case.name)
            lines.append(
                f"| {case.name} | {formatted(real_ms)} | {formatted(dev_ms)} | {ratio:.2f} | <= {case.goal} |"
            )
            print(lines[-1], file=sys.stderr)
    return "\n".join([*lines, "", f"Over the goal: {'; '.join(over)}." if over else "All goals are met."])
