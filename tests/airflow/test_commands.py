"""``airflow qcache …``: the commands in Airflow's own parser, with what its database has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qclient.node_ring import NodeRing

from scripts.airflow_runs import AirflowHome
from tests.harness.nodes import Nodes

# One process runs all: each `airflow` of its own would take seconds to start.
_SCRIPT = """
import contextlib, datetime, io, json, sys
from airflow.cli import cli_parser
from airflow.models.asset import AssetEvent, AssetModel
from airflow.models.connection import Connection
from airflow.utils.session import create_session

nodes, commands = json.loads(sys.argv[1])
with create_session() as session:
    session.add(Connection(conn_id="kept_here", conn_type="qcache", extra=json.dumps({"nodes": nodes})))
    for day, (name, operation) in enumerate(
        [("cities", "store"), ("cit*", "store"), ("cities", "delete"), ("{region}_sales", "store")], 1
    ):
        asset = AssetModel(uri=f"qcache://kept_here/{name}", name=f"{name} {day}", group="asset")
        session.add(asset)
        session.flush()
        session.add(AssetEvent(
            asset_id=asset.id, source_dag_id="warm_cities", source_task_id=operation,
            source_run_id=f"run_{day}",
            timestamp=datetime.datetime(2026, 1, day, tzinfo=datetime.timezone.utc),
            extra={"operation": operation, "rows": day},
        ))
parser = cli_parser.get_parser()
results = []
for command in commands:
    parsed = parser.parse_args(["qcache", *command])
    out, code = io.StringIO(), 0
    with contextlib.redirect_stdout(out):
        try:
            parsed.func(parsed)
        except SystemExit as ended:
            code = ended.code
    results.append([code, out.getvalue()])
print("\\n" + json.dumps(results))
"""


def test_the_commands_with_airflow_s_own_connection_and_events(
    airflow_home: AirflowHome, nodes: Nodes, tmp_path: Path
) -> None:
    """The connection is kept in the database, as those of the UI are; `where` names who stored the table."""
    home = nodes.urls.index(NodeRing(nodes.urls).get_node("cities"))
    assert nodes.ask(home, "POST", "cities", b"a\n1\n").status == 201
    commands = [
        ["nodes", "--conn-id", "kept_here", "--output", "json"],
        ["where", "cities", "--conn-id", "kept_here", "--output", "json"],
        ["where", "cities", "--conn-id", "kept_here"],
        ["nodes", "--conn-id", "no_such"],
        ["where", "nosuch", "--conn-id", "kept_here", "--output", "json"],
        ["nodes", "--conn-id", "cut_off"],
    ]
    log = tmp_path / "log"
    arguments = ["-c", _SCRIPT, json.dumps([nodes.urls, commands])]
    cut_off = {"AIRFLOW_CONN_CUT_OFF": '{"conn_type": "qcache", "extra": {"nodes": ["http://host1:9401"'}
    with airflow_home.start(arguments, log, environment=cut_off) as process:
        process.wait(120)
    assert process.returncode == 0, log.read_text()[-5000:]
    listed, found, text, missing, nowhere, unreadable = json.loads(log.read_text().splitlines()[-1])

    assert listed[0] == 0
    assert [node["node"] for node in json.loads(listed[1])] == nodes.urls
    assert found[0] == 0
    stored: list[dict[str, Any]] = json.loads(found[1])["stored_by"]
    assert [(each["dag_id"], each["task_id"], each["run_id"], each["rows"]) for each in stored] == [
        ("warm_cities", "store", "run_2", 2),
        ("warm_cities", "store", "run_1", 1),
    ]
    assert stored[0]["time"] == "2026-01-02T00:00:00+00:00"
    assert "Last stored by" in text[1]
    assert "warm_cities" in text[1]
    assert missing[0] == 2
    assert (nowhere[0], json.loads(nowhere[1])["stored_by"]) == (1, [])
    assert unreadable[0] == 2
    assert "AIRFLOW_CONN_NO_SUCH is set" not in log.read_text()
    assert "AIRFLOW_CONN_CUT_OFF is set, but is neither valid JSON nor a URI" in log.read_text()
