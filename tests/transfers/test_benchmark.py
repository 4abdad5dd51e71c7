"""The benchmark runs, every part of it, in a size that says nothing about speed."""

from __future__ import annotations

import contextlib
import io
import json
import sys

import pytest

from airflow_provider_qcache.transfers import _arrow, _source
from benchmarks import __main__ as benchmarks
from benchmarks import _sql_store, sql
from tests.harness.needs import need_the_real_server


def test_every_part_of_the_benchmark_runs(monkeypatch, capsys, postgres):
    need_the_real_server()
    monkeypatch.setattr(sql, "ROWS", 100)
    monkeypatch.setattr(sql, "WARM_UP", 0)
    in_a_process = sql.measured

    def measured(environment, *arguments):
        """The first in a process of its own, as in earnest; the others here: each would take seconds."""
        monkeypatch.setattr(sql, "measured", measured_here)
        return in_a_process(environment, *arguments)

    def measured_here(environment, *arguments):
        printed = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["_sql_store", *arguments])
            # What a contender does to them is undone.
            patch.setattr(_source, "CopyQuery", _source.CopyQuery)
            patch.setattr(_arrow, "of_connection", _arrow.of_connection)
            patch.setattr(_arrow, "of_cursor", _arrow.of_cursor)
            _sql_store.main()
        return json.loads(printed.getvalue().splitlines()[-1])

    monkeypatch.setattr(sql, "measured", measured)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "sql", "--runs", "1"])
    assert benchmarks.main() == 0
    head, table = capsys.readouterr().out.strip().split("\n\n")
    assert head.startswith("100 rows of 10 mixed columns")
    names = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert names == [
        "PostgreSQL: fetchall, csv, qcache-client",
        "PostgreSQL by COPY",
        "PostgreSQL by a cursor",
        "PostgreSQL by COPY, as 1,000 tables",
        "SQLite: fetchall, csv, qcache-client",
        "SQLite",
        "SQLite, as 1,000 tables",
        "DuckDB: a cursor",
        "DuckDB by Arrow",
    ]
