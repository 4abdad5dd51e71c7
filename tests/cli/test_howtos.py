"""Pages of docs/howto that need nodes alone, done as their reader does them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.harness.pages import ON_AIRFLOW, ON_NODES, Shell, blocks_of, ports_like
from tests.harness.ports import closed_port
from tests.harness.servers import ROOT

DOCS = ROOT / "docs"


@pytest.mark.parametrize("page", ON_NODES)
def test_every_command_does_what_the_page_shows(tmp_path: Path, page: str) -> None:
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }
    with Shell(tmp_path, environment, ports_like("orders") | {"8891": str(closed_port())}) as shell:
        shell.follow(DOCS / page)


def test_every_page_with_commands_is_followed() -> None:
    """But for blocks that are marked with the reason why they are not run."""
    for page in DOCS.rglob("*.md"):
        commands = [
            block.line
            for block in blocks_of(page)
            if block.language == "console" and not block.before.startswith("<!-- not run: ")
        ]
        followed = page.relative_to(DOCS).as_posix() in {*ON_NODES, *ON_AIRFLOW}
        assert followed or not commands, f"{page.name}: no test follows the block in line {commands[0]}"
