"""Try the installed package as a user of its wheel does.

The interpreter of an environment that has the wheel with all its extras runs it; `make wheel` does so
for several releases of Airflow. It refuses a checkout on the path, which would hide what the wheel lacks.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent
sys.path.insert(0, str(SCRIPTS))

from airflow_runs import AirflowHome  # noqa: E402

import airflow_provider_qcache  # noqa: E402
from airflow_provider_qcache.client import QClient  # noqa: E402
from airflow_provider_qcache.connection_fields import EXTRA  # noqa: E402
from airflow_provider_qcache.devnode import LocalCluster  # noqa: E402

NAME = "airflow-provider-qcache"
FORM = """
import json
try:
    from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
except ImportError:  # Airflow 2
    from airflow.providers_manager import ProvidersManager
    manager = ProvidersManager()
    name = manager.hooks["qcache"].hook_name
    fields = [field for field in manager.connection_form_widgets if field.startswith("extra__qcache__")]
else:
    (served,) = [meta for meta in HookMetaService.hook_meta_data() if meta.connection_type == "qcache"]
    name, fields = served.hook_name, served.extra_fields
print(json.dumps({"hook": name, "fields": sorted(field.removeprefix("extra__qcache__") for field in fields)}))
"""
PAGE = """
import json
from airflow_provider_qcache.plugins.qcache import QCachePlugin
statuses = {}
if QCachePlugin().fastapi_apps:
    from airflow.api_fastapi.app import create_app, get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from starlette.testclient import TestClient
    client = TestClient(create_app(apps="core"))
    for role in (None, "VIEWER", "ADMIN"):
        headers = {"X-QCache-Page": "1"}
        if role is not None:
            token = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="someone", role=role))
            headers["Cookie"] = f"_token={token}"
        paths = ["", "connections"]
        paths += [f"{name}/qcache_default?key=rows" for name in ("nodes", "ring", "where", "assets")]
        found = [client.get(f"/qcache/{path}", headers=headers) for path in paths]
        asked = {"key": "rows", "query": {}}
        found.append(client.post("/qcache/query/qcache_default", headers=headers, json=asked))
        statuses[str(role)] = sorted({answer.status_code for answer in found})
print(json.dumps(statuses))
"""
RESULTS = {
    "post": {"key": "rows", "rows": 2},
    "sql": {"rows": 1},
    "query": [{"city": "Delhi", "zip": "0002", "orders": 12}],
}


class NotAsItShouldBe(Exception):
    """A result differs from the documentation."""


def expect(what: str, seen: Any, expected: Any, printed: str = "") -> None:
    """Fail unless both are equal; the error has both, and the end of the output."""
    if seen != expected:
        raise NotAsItShouldBe(f"{printed[-4000:]}\n{what}: {seen!r} instead of {expected!r}")


def output(home: AirflowHome, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Run Python in this home, and return its output."""
    log = home.path / "command.log"
    with home.start([*arguments], log, environment={"PYTHONPATH": "", **(environment or {})}) as process:
        code = process.wait(timeout=120)
    text = log.read_text()
    expect(f"exit code of {' '.join(arguments)}", code, 0, text)
    return text


def try_the_registration(home: AirflowHome) -> None:
    """Check that Airflow lists the provider and has every field of the connection's form."""
    listed = output(home, "-m", "airflow", "providers", "list", "--output", "json")
    names = {provider["package_name"] for provider in json.loads(listed[listed.index("[{") :])}
    expect("airflow providers list", NAME in names, expected=True)
    described = output(home, "-m", "airflow", "providers", "get", NAME, "--output", "json")
    expect("the version in airflow providers get", version(NAME) in described, expected=True)
    form = json.loads(output(home, "-c", FORM).splitlines()[-1])
    expect("the connection type in the form", form["hook"], "QCache")
    expect("the fields in the form", form["fields"], sorted(field.name for field in EXTRA))


def try_the_operators(home: AirflowHome) -> None:
    """Run a DAG with every operator on three dev nodes and SQLite, and check its results."""
    database = home.path / "wheel.db"
    with closing(sqlite3.connect(database)):
        pass
    with LocalCluster(nodes=3) as cluster:
        extra = {"conn_type": "qcache", "extra": {"nodes": cluster.node_list}}
        environment = {
            "PYTHONPATH": "",
            "AIRFLOW_CONN_QCACHE_DEFAULT": json.dumps(extra),
            "AIRFLOW_CONN_WHEEL_SQL": f"sqlite://{database}",
        }
        with home.runner(SCRIPTS / "wheel_dags", environment) as runner:
            run = runner.run("wheel")
            expect("the run", run.state.rpartition(".")[2].lower(), "success", runner.printed())
            with QClient(cluster.node_list) as reader:
                left = [reader.get(key, {}) for key in ("rows", "decorated", run["sql"].result["key"])]
                expect("tables after the delete", left, [None, None, None])
            try_the_cluster_page(home, environment)
    for task, result in RESULTS.items():
        seen = run[task].result
        part = {name: seen[name] for name in result} if isinstance(result, dict) else seen
        expect(f"the result of {task}", part, result)


def try_the_cluster_page(home: AirflowHome, environment: Mapping[str, str]) -> None:
    """From Airflow 3.1 on the API server has the page, for users who may read connections."""
    environment = {**environment, "AIRFLOW__QCACHE__CLUSTER_PAGE": "True"}
    release = tuple(map(int, version("apache-airflow").split(".")[:2]))
    expected = {"None": [401], "VIEWER": [403], "ADMIN": [200]} if release >= (3, 1) else {}
    seen = json.loads(output(home, "-c", PAGE, environment=environment).splitlines()[-1])
    expect("the statuses of the cluster page", seen, expected)


def try_the_extras() -> None:
    """Use the library of each extra once."""
    command = [sys.executable, "-P", str(SCRIPTS / "use_everything.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    expect("exit code of use_everything.py", done.returncode, 0, done.stdout + done.stderr)


def main() -> None:
    """Try everything, and print a line for each part."""
    place = Path(airflow_provider_qcache.__file__).resolve().parent
    expect(f"{place} in site-packages", "site-packages" in place.parts, expected=True)
    with AirflowHome(sys.executable) as home:
        try_the_registration(home)
        print("providers list, providers get, the form", flush=True)
        try_the_operators(home)
        print("post, SQL, decorator, sensor, check, query, delete; the cluster page", flush=True)
    try_the_extras()
    print("every extra")
    airflow = version("apache-airflow")
    print(f"the wheel {version(NAME)} works on Airflow {airflow}, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
