"""A DataFrame until it is stored: post_table, compared with pandas.to_csv and qcache-client 0.5.1.

Contenders take turns, so that other load on the machine affects all of them. Medians are compared.
"""

from __future__ import annotations

import csv
import importlib.metadata
import io
import os
import platform
import statistics
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import qclient

from airflow_provider_qcache.client import QClient
from airflow_provider_qcache.client.tables import values
from airflow_provider_qcache.client.tables.upload import source_of
from benchmarks._tables import COUNTRIES
from tests.harness.servers import HOW_TO_GET_THE_REAL_SERVER, Server, ServerFailedError, real_python

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = int(os.environ.get("QCACHE_BENCH_ROWS", "1000000"))
TYPES = "country=enum;sku=string;note=string;seen=string"
NODE_SIZE = "--size=16000000000"
ENCODING_GOAL = 6.0
STORED_GOALS = {"real": 2.0, "dev": 3.0}


def mixed(rows: int) -> pd.DataFrame:
    """10 columns: integers, floats, booleans, an enum, texts (some quoted) and a timestamp; some nulls."""
    pick = np.random.default_rng(1)

    def texts(values: Any) -> Any:
        return pd.array(values, dtype="str")

    sparse = pick.random(rows)
    notes = texts([f"sold, {number} times" for number in pick.integers(0, 100, rows)])
    notes[sparse < 0.1] = None
    return pd.DataFrame(
        {
            "id": np.arange(rows),
            "shop": pick.integers(0, 1000, rows),
            "price": pick.integers(1, 100_000, rows) / 100,
            "ratio": pick.random(rows),
            "discount": np.where(sparse > 0.7, np.nan, pick.integers(0, 50, rows) / 100),
            "open": pick.random(rows) < 0.5,
            "country": pd.Categorical.from_codes(pick.integers(0, len(COUNTRIES), rows), list(COUNTRIES)),
            "sku": texts([f"sku-{number:06}" for number in pick.integers(0, 100_000, rows)]),
            "note": notes,
            "seen": np.datetime64("2024-01-01T00:00:00") + pick.integers(0, 366 * 86_400, rows),
        }
    )


def medians(contenders: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """The median seconds of each contender; the first turn is a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(1 + runs):
        for name, call in contenders.items():
            started = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def table_of(title: str, base: str, goals: dict[str, float], seconds: dict[str, float]) -> str:
    lines = [f"| {title} | s | times as fast as {base} | goal |", "|---|---:|---:|---:|"]
    for name, taken in seconds.items():
        goal = f">= {goals[name]:.1f}" if name in goals else ""
        lines.append(f"| {name} | {taken:.2f} | {seconds[base] / taken:.2f} | {goal} |")
    print("\n".join(lines), file=sys.stderr)
    return "\n".join(lines)


def drain(table: Any) -> int:
    """Encode a table as for sending it."""
    return sum(len(piece) for piece, _ in source_of(table, None).pieces("text/csv"))


def encoding(frame: pd.DataFrame, runs: int) -> str:
    """DataFrames to CSV including conversions: post_table's encoding and two other encoders."""
    polars = pl.from_pandas(frame)

    def by_pyarrow() -> None:
        pyarrow.csv.write_csv(pa.Table.from_pandas(frame), pa.BufferOutputStream())

    ours = {
        "post_table's encoding, of pandas": lambda: drain(frame),
        "post_table's encoding, of polars": lambda: drain(polars),
    }
    contenders: dict[str, Callable[[], object]] = {
        "pandas.to_csv": lambda: frame.to_csv(index=False),
        **ours,
        "pyarrow.csv at once, of pandas": by_pyarrow,
        "polars write_csv, of pandas": lambda: pl.from_pandas(frame).write_csv(),
        "polars write_csv, of polars": polars.write_csv,
    }
    goals = dict.fromkeys(ours, ENCODING_GOAL)
    return table_of("encoding alone", "pandas.to_csv", goals, medians(contenders, runs))


def stored(frame: pd.DataFrame, server: Server, runs: int) -> str:
    """DataFrames to tables on a node."""
    node = f"http://127.0.0.1:{server.port}"
    polars = pl.from_pandas(frame)
    theirs = qclient.QClient([node], read_timeout=300)
    base = "pandas.to_csv, qcache-client"
    with QClient([node], 5, 300, deadline=600) as client:

        def count() -> None:
            result = client.get("table", {"select": [["count"]]})
            if result is None or result.to_arrow().to_pylist() != [{"count": len(frame)}]:
                raise AssertionError(f"the node has {result}")

        def check(store: Callable[[], object]) -> Callable[[], object]:
            return lambda: (store(), count())

        contenders: dict[str, Callable[[], object]] = {
            base: check(
                lambda: theirs.post(
                    "table", frame.to_csv(index=False), post_headers={"X-QCache-types": TYPES}
                )
            ),
            "post_table, of pandas": check(lambda: client.post_table("table", frame)),
            "post_table, of polars": check(lambda: client.post_table("table", polars)),
        }
        goals = dict.fromkeys(list(contenders)[1:], STORED_GOALS[server.name])
        return table_of(f"stored in the {server.name} node", base, goals, medians(contenders, runs))


def rows_of(frame: pd.DataFrame, runs: int) -> str:
    """Lists of dicts to CSV, with a tenth of the rows."""
    rows = frame.head(len(frame) // 10).drop(columns=["seen"]).to_dict("records")

    def by_csv() -> None:
        writer = csv.DictWriter(io.StringIO(), list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)

    def without_pyarrow() -> None:
        with mock.patch.object(values, "_csv_writer", return_value=values.csv_of_values_by_python):
            drain(rows)

    contenders: dict[str, Callable[[], object]] = {
        "csv.DictWriter": by_csv,
        "post_table's encoding, with pyarrow": lambda: drain(rows),
        "post_table's encoding, without it": without_pyarrow,
    }
    return table_of(f"{len(rows):,} dicts", "csv.DictWriter", {}, medians(contenders, runs))


def run(runs: int) -> str:
    """Measure everything and return the tables.

    Raises:
        ServerFailedError: the real server is not installed, or a server does not start.
    """
    if real_python() is None:
        raise ServerFailedError(HOW_TO_GET_THE_REAL_SERVER)
    frame = mixed(ROWS)
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("pandas", "pyarrow", "polars")
    )
    head = (
        f"{ROWS:,} rows of {len(frame.columns)} mixed columns. Medians of {runs}, contenders taking turns. "
        f"Python {platform.python_version()}, {versions}; {os.cpu_count()} cores for all."
    )
    parts = [
        head,
        encoding(frame, runs),
        rows_of(frame, runs),
    ]
    with ExitStack() as stack:
        for make in (Server.real, Server.dev):
            server = stack.enter_context(make(NODE_SIZE))
            parts.append(stored(frame, server, runs))
            server.stop()
    return "\n\n".join(parts)
