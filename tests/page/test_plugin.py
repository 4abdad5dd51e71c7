"""Where the page is made: in the API server, and nowhere unless it is switched on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LOAD = """
import json, sys
from airflow import plugins_manager
plugins_manager.ensure_plugins_loaded()
plugins_manager.get_flask_plugins() if hasattr(plugins_manager, "get_flask_plugins") else None
(plugin,) = [each for each in plugins_manager._get_plugins()[0] if each.name == "qcache"]
loaded = "airflow_provider_qcache.plugins.page" in sys.modules
import airflow_provider_qcache.operators.qcache as operators
task = operators.QCachePostOperator(task_id="a", key="orders", content="a\\n1\\n")
print(json.dumps({
    "page_loaded": loaded,
    "errors": plugins_manager.get_import_errors(),
    "links": [link.get_link(task, ti_key=None) for link in task.operator_extra_links],
    "views": plugin.external_views,
    "apps": [each["url_prefix"] for each in plugin.fastapi_apps],
}))
"""


def loaded(home: Path, **settings: str) -> Any:
    """What a process that has loaded Airflow's plugins sees of ours."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        env={**os.environ, "AIRFLOW_HOME": str(home), **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_page_is_off_until_it_is_switched_on(tmp_path: Path) -> None:
    assert loaded(tmp_path) == {"page_loaded": False, "errors": {}, "links": [], "views": [], "apps": []}


@pytest.mark.parametrize(("base_url", "root"), [("", "/"), ("https://host/airflow", "/airflow/")])
def test_switched_on_other_processes_than_the_api_server_do_not_load_the_page(
    base_url: str, root: str, tmp_path: Path
) -> None:
    """The address has no host: a task may know the server by another name than its users do."""
    seen = loaded(tmp_path, AIRFLOW__QCACHE__CLUSTER_PAGE="True", AIRFLOW__API__BASE_URL=base_url)
    assert seen["page_loaded"] is False
    assert seen["errors"] == {}
    assert seen["apps"] == ["/qcache"]
    (view,) = seen["views"]
    assert view["href"] == f"{root}qcache/"
    assert seen["links"] == [f"{root}plugin/qcache?connection=qcache_default&key=orders"]
