"""`airflow tasks test --dry-run`, which Airflow 2 has: a task says what it would do."""

from __future__ import annotations

import shutil
from pathlib import Path

from scripts.airflow_runs import AirflowHome
from tests.airflow.conftest import connection
from tests.harness.nodes import Nodes


def test_the_command_says_what_a_store_would_do_and_stores_nothing(
    airflow_home: AirflowHome, nodes: Nodes, tmp_path: Path
) -> None:
    dags = tmp_path / "dags"
    dags.mkdir()
    shutil.copy(Path(__file__).parent / "dags" / "lineage.py", dags)
    command = ["-m", "airflow", "tasks", "test", "--dry-run", "lineage", "rows", "2026-01-01"]
    environment = {"AIRFLOW_CONN_QCACHE_DEFAULT": connection(nodes.urls), "TMPDIR": str(tmp_path)}
    log = tmp_path / "log"
    with airflow_home.start(command, log, dags, environment) as process:
        process.wait(120)
    said = log.read_text()
    assert process.returncode == 0, said
    assert "Would store table 'lineage_rows' on http://127.0.0.1:" in said
    assert "Columns: n int, text string, x float" in said
    assert nodes.holding("lineage_rows") == []
