"""docs/tutorial.md, and how-tos for its nodes and environment, done as their reader does them."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.harness.pages import ON_AIRFLOW, Shell, ports_like
from tests.harness.ports import closed_port
from tests.harness.servers import ROOT


@pytest.mark.timeout(900)
def test_every_command_does_what_the_page_shows(tmp_path: Path) -> None:
    """In a directory beside the checkout, with an environment of its own.

    The packages are those of this environment: pip downloads nothing, and builds and installs this one.
    """
    (tmp_path / "airflow-provider-qcache").symlink_to(ROOT)
    own = ("AIRFLOW", "PIP_")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(own)},
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this as: without isolation
        "PIP_NO_INDEX": "1",
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "PYTHONUNBUFFERED": "1",
    }
    with Shell(tmp_path, environment, ports_like("orders") | {"8125": str(closed_port())}) as shell:
        for page in ON_AIRFLOW:
            shell.follow(ROOT / "docs" / page)
        shell.run("ls venv/lib/*/site-packages/airflow_provider_qcache/client/client.py", "", "the end")
