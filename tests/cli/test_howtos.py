"""Pages that need nodes alone, done as their reader does them, and what holds for the code of every page."""

from __future__ import annotations

import configparser
import json
import os
import re
import sys
from pathlib import Path

import pytest

from airflow_provider_qcache.provider_info import get_provider_info
from tests.harness.pages import (
    DOCS,
    ON_NODES,
    PAGES,
    TESTED_ELSEWHERE,
    Shell,
    blocks_of,
    is_followed_step_by_step,
    ports_like,
)
from tests.harness.ports import closed_port
from tests.harness.servers import ROOT

NO_CODE = "text", "{eval-rst}", "{toctree}", "{include}"


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


def test_every_block_of_every_page_is_run() -> None:
    """But for those that are marked with the reason why not.

    Airflow imports the Python that is written to no file: tests/airflow/test_pages.py.
    """
    for page in PAGES:
        name = page.relative_to(DOCS if page.is_relative_to(DOCS) else ROOT).as_posix()
        for block in blocks_of(page):
            if block.is_excluded or (name, block.language) in TESTED_ELSEWHERE:
                continue
            where = f"{name}, line {block.line}"
            if block.language == "console":
                assert is_followed_step_by_step(page), f"{where}: no test follows the page"
                words = block.introduction.removesuffix("<!-- another terminal -->\n")
                assert words == block.introduction or "terminal" in words, f"{where}: name the terminal"
            elif block.language == "json":
                assert json.loads(block.text), where
            elif block.language == "ini":
                options = configparser.ConfigParser()
                options.read_string(block.text)
                known = get_provider_info()["config"]
                for section in options.sections():
                    assert set(options[section]) <= set(known[section]["options"]), where
            else:
                assert block.language in ("python", *NO_CODE), f"{where}: no test runs {block.language}"


def test_every_target_of_make_that_a_page_names_is_there() -> None:
    """Since the tests run none of them."""
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)) | {"test"}
    named = {target for page in PAGES for target in re.findall(r"(?:`|\$ )make ([a-z-]+)", page.read_text())}
    assert len(named) > 5
    assert named <= targets
