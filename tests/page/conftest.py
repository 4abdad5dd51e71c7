"""An API server with the cluster page, users of different roles, and dev nodes."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from scripts.airflow_runs import AirflowHome
from scripts.ui import free_port
from tests.harness.servers import ROOT

if tuple(map(int, version("apache-airflow").split(".")[:2])) < (3, 1):
    collect_ignore = ["test_http.py", "test_plugin.py"]

START_TIMEOUT = 240.0
ROLES = ("admin", "op", "user", "viewer")
PAGE = {"X-QCache-Page": "1", "Sec-Fetch-Site": "same-origin"}


@dataclass(frozen=True)
class Answer:
    """What the server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class ApiServer:
    """The API server of an Airflow, as HTTP clients see it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._tokens: dict[str, str] = {}

    def ask(
        self,
        path: str,
        role: str | None = None,
        body: Any = None,
        headers: Mapping[str, str] = PAGE,
        data: bytes | None = None,
    ) -> Answer:
        """An answer for a user of this role, for nobody without one."""
        sent = dict(headers)
        if role is not None:
            sent["Authorization"] = f"Bearer {self._token(role)}"
        if body is not None:
            data = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        request = urllib.request.Request(self.address + path, data, sent)
        try:
            with self._opener.open(request, timeout=60) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read())

    def _token(self, role: str) -> str:
        if role not in self._tokens:
            login = self.ask("/auth/token", body={"username": role, "password": role}, headers={})
            assert login.status == 201, login.body
            self._tokens[role] = login.json["access_token"]
        return self._tokens[role]

    def is_up(self) -> bool:
        with contextlib.suppress(OSError):
            return self.ask("/api/v2/version").status == 200
        return False


@contextlib.contextmanager
def api_server(home: AirflowHome, environment: Mapping[str, str]) -> Iterator[ApiServer]:
    """The API server of a home, while the block runs."""
    port = free_port()
    passwords = home.path / "passwords.json"
    passwords.write_text(json.dumps({role: role for role in ROLES}))
    settings = {
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{role}:{role}" for role in ROLES),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of the tests that is long enough for HS512, as it is",
        **environment,
    }
    arguments = ["-m", "airflow", "api-server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    log = home.path / f"api-server-{port}.log"
    with home.start(arguments, log, environment=settings) as process:
        server = ApiServer(f"http://127.0.0.1:{port}")
        deadline = time.monotonic() + START_TIMEOUT
        while not server.is_up():
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.2)
        yield server


@pytest.fixture(scope="session")
def home() -> Iterator[AirflowHome]:
    """An Airflow with an empty database."""
    with AirflowHome(sys.executable) as home:
        yield home


DAGS = ROOT / "tests" / "page" / "dags"
EXAMPLE = ROOT / "example_dags" / "cluster_statistics.py"


def connection(nodes: list[str], **extra: Any) -> str:
    """A connection, as the value of an environment variable."""
    fields = {"nodes": nodes, "connect_timeout": 2, "read_timeout": 4, **extra}
    return json.dumps({"conn_type": "qcache", "extra": fields})


def dags_in(folder: Path) -> Path:
    """The DAGs that store tables and keep the statistics, in a folder."""
    for file in (*DAGS.glob("*.py"), EXAMPLE):
        (folder / file.name).write_text(file.read_text())
    return folder
