"""The cost of the package for a process that parses DAGs: the time of imports on top of Airflow's.

Each measurement is a new process with compiled bytecode, as a DAG processor has it.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent

_MEASURED = """
import json, sys, time
start = time.perf_counter()
import airflow_provider_qcache
from airflow_provider_qcache.provider_info import get_provider_info
get_provider_info()
registered = time.perf_counter()
import airflow
from airflow.providers.common.compat.sdk import DAG, BaseOperator, XComArg
bare = time.perf_counter()
import airflow_provider_qcache.operators.qcache
operators = time.perf_counter()
import airflow_provider_qcache.transfers.sql_to_qcache
transfer = time.perf_counter()
print(json.dumps([registered - start, bare - registered, operators - bare, transfer - operators]))
"""

_LIMITS_MS = {
    "__init__ and provider info": 2.0,
    "Airflow alone": None,
    "operators": 10.0,
    "SqlToQCacheOperator after them": None,
}
"""The allowed milliseconds per part; Airflow's own time has no limit."""


def run(runs: int) -> str:
    """Measure and return the table."""
    with tempfile.TemporaryDirectory() as scratch:
        environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
            "AIRFLOW_HOME": scratch,
            "PYTHONPATH": str(_ROOT),
            "PYTHONPYCACHEPREFIX": str(Path(scratch) / "bytecode"),
        }
        _measure(environment)  # writes bytecode and Airflow's configuration
        measured = [_measure(environment) for _ in range(max(runs, 5))]
    versions = f"Airflow {version('apache-airflow')}, Python {platform.python_version()}"
    lines = [
        f"{versions}, {len(measured)} processes.",
        "",
        "| import | median, ms | least, ms | at most, ms |",
        "|---|---|---|---|",
    ]
    for place, (what, limit) in enumerate(_LIMITS_MS.items()):
        taken = [1000 * each[place] for each in measured]
        allowed = "" if limit is None else f"{limit:.0f}"
        lines.append(f"| {what} | {statistics.median(taken):.1f} | {min(taken):.1f} | {allowed} |")
    return "\n".join(lines)


def _measure(environment: dict[str, str]) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _MEASURED],
        env=environment,
        cwd=environment["AIRFLOW_HOME"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
    return seconds
