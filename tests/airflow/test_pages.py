"""The Python that the pages of the docs show, imported by Airflow as a file of the DAGs folder is."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.models import Connection

from airflow_provider_qcache.connection import parse_connection
from tests.harness.nodes import Nodes
from tests.harness.pages import DOCS, PAGES, PORTS, TESTED_ELSEWHERE, module_of


def name_of(page: Path) -> str:
    """A page's path within the docs."""
    return page.relative_to(DOCS).as_posix() if page.is_relative_to(DOCS) else page.name


WITH_PYTHON = [
    pytest.param(module, id=name_of(page))
    for page in PAGES
    if (name_of(page), "python") not in TESTED_ELSEWHERE and (module := module_of(page))
]


@pytest.mark.parametrize("module", WITH_PYTHON)
def test_airflow_imports_the_python_of_the_page(
    module: str, nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a page defines stands before what uses it, and what talks to nodes talks to real ones.

    An error names the line of the page.
    """
    ports = dict(zip(map(str, PORTS), (url.rpartition(":")[2] for url in nodes.urls), strict=True))
    (tmp_path / "page.py").write_text(re.sub("|".join(ports), lambda port: ports[port[0]], module))
    monkeypatch.chdir(tmp_path)
    bag = DagBag(tmp_path, safe_mode=False)
    assert bag.import_errors == {}
    assert len(bag.dags) == len(re.findall(r"^with DAG\(", module, re.MULTILINE))


def test_every_connection_of_the_pages_can_be_read() -> None:
    """Those to QCache that a page has as an environment variable."""
    found = [
        json_or_uri.replace("\n> ", "").replace("'$PWD'", os.curdir)
        for page in PAGES
        for json_or_uri in re.findall(
            r"AIRFLOW_CONN_QCACHE_DEFAULT='((?:[^']|'\$PWD')+)'", page.read_text("utf-8")
        )
    ]
    assert len(found) >= 4
    for value in found:
        connection = Connection.from_json(value) if value.startswith("{") else Connection(uri=value)
        assert parse_connection(connection).nodes, value
