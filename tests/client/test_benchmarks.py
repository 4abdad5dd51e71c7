"""All parts of the client's benchmarks run, in a size that says nothing about speed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import client
from tests.harness.needs import need_the_real_server

CONTENDERS = ("this client", "qcache-client 0.5.1", "requests.Session", "http.client", "raw socket")
TABLES = 60


def rows_of(table: str) -> dict[str, list[float]]:
    """The numbers of a Markdown table, by row name."""
    rows = (line.strip("|").split("|") for line in table.splitlines()[2:])
    return {name.strip(): [float(cell) for cell in cells] for name, *cells in rows}


def test_every_part_of_the_clients_benchmarks_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    need_the_real_server()
    timed = client.timed

    def timed_once(call: Callable[[], object], number: int) -> float:
        return timed(call, 1)

    monkeypatch.setattr(client, "CALLS_PER_RUN", 3)
    monkeypatch.setattr(client, "TABLES", TABLES)
    monkeypatch.setattr(client, "timed", timed_once)
    report = tmp_path / "report.md"
    monkeypatch.setattr(sys, "argv", ["benchmarks", "client", "--runs", "1", "--output", str(report)])
    assert benchmarks.main() == 0
    printed = report.read_text()
    assert capsys.readouterr().out == printed
    machine, stub, real, ring, many = printed.strip().split("\n\n")
    assert "3 calls each" in machine
    for table in (stub, real):
        assert tuple(rows_of(table)) == CONTENDERS
    assert len(rows_of(ring)) == 3
    assert many.startswith(f"| {TABLES} tables of")
    assert len(rows_of(many)) == 3
