"""Try the installed package as a user of its wheel does.

The interpreter of an environment that has the wheel with all its extras runs it; `make wheel` does so
for several releases of Airflow. It refuses a checkout on the path, which would hide what the wheel lacks.
With --triggerer it runs Airflow's triggerer too.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
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
RELEASE = tuple(map(int, version("apache-airflow").split(".")[:2]))
AIRFLOW_2 = RELEASE < (3,)
TRIGGERS_TIMEOUT = 120.0

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


def try_the_operators(home: AirflowHome, client: QClient, environment: Mapping[str, str]) -> None:
    """Run a DAG with every operator on three dev nodes and SQLite, and check its results."""
    database = home.path / "wheel.db"
    with closing(sqlite3.connect(database)):
        pass
    environment = {**environment, "AIRFLOW_CONN_WHEEL_SQL": f"sqlite://{database}"}
    with home.runner(SCRIPTS / "wheel_dags", environment) as runner:
        run = runner.run("wheel")
        expect("the run", run.state.rpartition(".")[2].lower(), "success", runner.printed())
        left = [client.get(key, {}) for key in ("rows", "decorated", run["sql"].result["key"])]
        expect("tables after the delete", left, [None, None, None])
    for task, result in RESULTS.items():
        seen = run[task].result
        part = {name: seen[name] for name in result} if isinstance(result, dict) else seen
        expect(f"the result of {task}", part, result)


def try_the_cluster_page(home: AirflowHome, environment: Mapping[str, str]) -> None:
    """From Airflow 3.1 on the API server has the page, for users who may read connections."""
    environment = {**environment, "AIRFLOW__QCACHE__CLUSTER_PAGE": "True"}
    expected = {"None": [401], "VIEWER": [403], "ADMIN": [200]} if RELEASE >= (3, 1) else {}
    seen = json.loads(output(home, "-c", PAGE, environment=environment).splitlines()[-1])
    expect("the statuses of the cluster page", seen, expected)


@contextlib.contextmanager
def deferred(home: AirflowHome, environment: Mapping[str, str]) -> Iterator[None]:
    """What is left to a triggerer, at the end of the block at the latest: Airflow takes seconds to start."""
    # Readers do not block a writer then: on a busy machine Airflow's parts find the database locked.
    with closing(sqlite3.connect(home.path / "airflow.db")) as database:
        database.execute("PRAGMA journal_mode=WAL")
    log = home.path / "defer.log"
    with home.start([str(SCRIPTS / "defer.py")], log, SCRIPTS / "wheel_triggers", environment) as process:
        yield
        code = process.wait(timeout=120)
    expect("exit code of defer.py", code, 0, log.read_text())


@contextlib.contextmanager
def triggerer(home: AirflowHome, environment: Mapping[str, str]) -> Iterator[Callable[[], str]]:
    """Airflow's own triggerer; gives what it has logged."""
    log = home.path / "triggerer.log"
    command = ["-m", "airflow", "triggerer", "--skip-serve-logs"]
    with home.start(command, log, SCRIPTS / "wheel_triggers", environment):
        yield log.read_text


def try_the_triggers(home: AirflowHome, client: QClient, logged: Callable[[], str]) -> None:
    """The triggerer resumes the sensor when its table is there, and on Airflow 3 sends the assets' events."""

    def found(query: str) -> list[tuple[str, ...]]:
        with closing(sqlite3.connect(home.path / "airflow.db")) as database:
            return database.execute(query).fetchall()

    def wait_until(what: str, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TRIGGERS_TIMEOUT
        while not holds():
            expect(f"{what} within {TRIGGERS_TIMEOUT:g} s", time.monotonic() < deadline, True, logged())  # noqa: FBT003
            time.sleep(0.2)

    def resumed() -> bool:
        ((state, event),) = found("SELECT state, next_kwargs FROM task_instance WHERE dag_id = 'wheel_waits'")
        return state == "scheduled" and '"error": null' in event

    def events() -> set[str]:
        extras = [json.loads(extra) for (extra,) in found("SELECT extra FROM asset_event")]
        return {extra["payload"]["key"] for extra in extras if extra.get("from_trigger")}

    if not AIRFLOW_2:
        wait_until("the event of a missing table", lambda: "missing" in events())
    client.post("waited", "n\n1\n")
    wait_until("the sensor's event", resumed)
    if not AIRFLOW_2:
        rows = itertools.count(2)

        def changed() -> bool:
            """It has come, or was looked at for the first time when it was there and has more rows since."""
            client.post("waited", "n\n" + "1\n" * next(rows))
            return "waited" in events()

        wait_until("the event of a table that has changed", changed)
    if RELEASE >= (3, 3):
        kept = found("SELECT asset_id FROM asset_state_store")
        expect("the watched assets whose triggers keep what they know", len(kept), 2)
    failed = re.findall(r".*cannot (?:store|read) the state.*", logged())
    expect("what the triggers could not keep", failed, [])


def try_the_extras() -> None:
    """Use the library of each extra once."""
    command = [sys.executable, "-P", str(SCRIPTS / "use_everything.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    expect("exit code of use_everything.py", done.returncode, 0, done.stdout + done.stderr)


def main() -> None:
    """Try everything, and print a line for each part."""
    parser = argparse.ArgumentParser(prog="scripts/try_wheel.py", description=__doc__)
    parser.add_argument("--triggerer", action="store_true", help="run Airflow's triggerer too")
    with_triggerer = parser.parse_args().triggerer
    place = Path(airflow_provider_qcache.__file__).resolve().parent
    expect(f"{place} in site-packages", "site-packages" in place.parts, expected=True)
    with (
        AirflowHome(sys.executable) as home,
        LocalCluster(nodes=3) as cluster,
        QClient(cluster.node_list) as client,
    ):
        extra = {"conn_type": "qcache", "extra": {"nodes": cluster.node_list}}
        environment = {"PYTHONPATH": "", "AIRFLOW_CONN_QCACHE_DEFAULT": json.dumps(extra)}
        with deferred(home, environment) if with_triggerer else contextlib.nullcontext():
            try_the_registration(home)
        print("providers list, providers get, the form", flush=True)
        with triggerer(home, environment) if with_triggerer else contextlib.nullcontext() as logged:
            try_the_operators(home, client, environment)
            try_the_cluster_page(home, environment)
            print("post, SQL, decorator, sensor, check, query, delete; the cluster page", flush=True)
            if logged is not None:
                try_the_triggers(home, client, logged)
                watched = "" if AIRFLOW_2 else " and watched assets"
                print(f"a triggerer with a sensor{watched}", flush=True)
    try_the_extras()
    print("every extra")
    airflow = version("apache-airflow")
    print(f"the wheel {version(NAME)} works on Airflow {airflow}, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
