"""The kit for testing DAGs as docs/howto/test-a-dag.md shows it: the page's DAG and its tests, run."""

from __future__ import annotations

import re
from pathlib import Path

from scripts.airflow_runs import AirflowHome
from tests.harness.servers import ROOT


def test_the_tests_that_the_page_shows_pass(airflow_home: AirflowHome, tmp_path: Path) -> None:
    """In a session of pytest of their own, with nothing but what the page names; broken code fails them."""
    page = (ROOT / "docs" / "howto" / "test-a-dag.md").read_text()
    dag, tests, retries = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len([line for line in tests.splitlines() if line.strip()]) <= 20
    (tmp_path / "orders.py").write_text(dag)
    (tmp_path / "test_orders.py").write_text(tests)
    (tmp_path / "test_report.py").write_text(retries)
    log = tmp_path / "log"
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", str(tmp_path)]
    with airflow_home.start(command, log, dags=tmp_path) as session:
        session.wait(280)
    assert session.returncode == 0, log.read_text()[-5000:]
    assert "4 passed" in log.read_text()
