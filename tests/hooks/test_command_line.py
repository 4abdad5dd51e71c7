"""What `airflow connections add` stores is read as it was meant; Airflow's command line knows the hook."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from scripts.airflow_runs import AirflowHome
from tests.harness.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NODES = ["http://Host1:9401", "http://host2:9401"]
EXTRA = {"nodes": NODES, "read_timeout": 2.5, "verify": False, "deadline": None}
URI = "qcache://?nodes=http%3A%2F%2FHost1%3A9401%2Chttp%3A%2F%2Fhost2%3A9401&read_timeout=2.5&verify=false"
ADDED = {
    "by_fields": ["--conn-type", "qcache", "--conn-extra", json.dumps(EXTRA)],
    "by_json": ["--conn-json", json.dumps({"conn_type": "qcache", "extra": EXTRA})],
    "by_uri": ["--conn-uri", URI],
}

# One process adds all and reads all: each `airflow` of its own would take seconds to start.
_SCRIPT = """
import dataclasses, json, sys
from airflow.cli import cli_parser
from airflow.models.connection import Connection
from airflow.providers.common.compat.sdk import BaseHook
from airflow.utils.session import create_session
from airflow_provider_qcache.connection import parse_connection

added = json.loads(sys.argv[1])
parser = cli_parser.get_parser()
for name, arguments in added.items():
    parsed = parser.parse_args(["connections", "add", name, *arguments])
    parsed.func(parsed)
with create_session() as session:
    stored = {one.conn_id: one for one in session.query(Connection).all() if one.conn_id in added}
    settings = {name: dataclasses.asdict(parse_connection(one)) for name, one in stored.items()}
    types = {name: one.conn_type for name, one in stored.items()}
print("\\n" + json.dumps([types, settings]))
"""


@pytest.fixture(scope="module")
def airflow() -> Iterator[Callable[..., str]]:
    """Run Python with a migrated database: `airflow("-m", "airflow", "providers", "hooks")`."""
    with AirflowHome(sys.executable) as home:
        number = itertools.count()

        def run(*arguments: str, fails: bool = False, **environment: str) -> str:
            log = home.path / f"{next(number)}.log"
            with home.start(list(arguments), log, environment=environment) as process:
                try:
                    code = process.wait(120)
                except subprocess.TimeoutExpired:
                    code = None
            assert code in ((0, 1) if fails else (0,)), log.read_text()
            return log.read_text()

        yield run


def test_connections_add(airflow):
    types, settings = json.loads(airflow("-W", "ignore", "-c", _SCRIPT, json.dumps(ADDED)).splitlines()[-1])
    assert types == dict.fromkeys(ADDED, "qcache")
    for name in ADDED:
        read: dict[str, Any] = settings[name]
        assert read.pop("conn_id") == name
        assert read == {k: v for k, v in settings["by_fields"].items() if k != "conn_id"}
    assert read["nodes"] == NODES
    assert (read["read_timeout"], read["verify"], read["deadline"]) == (2.5, False, 600)


def test_providers_hooks_lists_it(airflow):
    listed = airflow("-W", "ignore", "-m", "airflow", "providers", "hooks", "--output", "json")
    hooks = json.loads(listed[listed.index("[{") :].splitlines()[0])
    (ours,) = [hook for hook in hooks if hook["connection_type"] == "qcache"]
    assert ours["class"] == "airflow_provider_qcache.hooks.qcache.QCacheHook"
    assert ours["conn_id_attribute_name"] == "qcache_conn_id"
    assert ours["hook_name"] == "QCache"


def test_connections_test_names_each_node(airflow, living, dead):
    text = airflow(
        *("-W", "ignore", "-m", "airflow", "connections", "test", "nodes"),
        fails=True,  # on 3.3; 2.11 ends with 0
        AIRFLOW_CONN_NODES=json.dumps({"conn_type": "qcache", "extra": {"nodes": [living, dead[0]]}}),
        AIRFLOW__CORE__TEST_CONNECTION="Enabled",
        COLUMNS="1000",
    )
    assert "1 of 2 nodes cannot be used" in text
    assert f"{dead[0]}: connection refused" in text
    assert f"{living}: OK" in text


def test_the_command_of_the_docs_prints_every_node(airflow, living):
    """`airflow connections test` prints nothing of a success's message."""
    page = (ROOT / "docs" / "reference" / "connection.md").read_text()
    (code,) = re.findall(r"^\$ python -c '(.*test_connection.*)'$", page, re.MULTILINE)
    text = airflow(
        *("-W", "ignore", "-c", code),
        AIRFLOW_CONN_QCACHE_DEFAULT=json.dumps({"conn_type": "qcache", "extra": {"nodes": [living]}}),
    )
    assert re.search(rf"^the node answers\. {living}: OK, \d+ ms$", text, re.MULTILINE), text
