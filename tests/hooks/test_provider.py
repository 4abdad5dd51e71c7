"""Airflow finds the provider and accepts how it is registered."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import airflow_provider_qcache
from tests.public_names import MEMBERS_WITH_AIRFLOW, WITH_AIRFLOW, missing, missing_arguments

NAME = "airflow-provider-qcache"


def run(command, home):
    return subprocess.run(
        command,
        env={**os.environ, "AIRFLOW_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_airflow_lists_the_provider(tmp_path):
    """Airflow itself checks the registration against its schema; what it lists, it accepted."""
    command = [sys.executable, "-m", "airflow", "providers", "list", "--output", "json"]
    listed = run(command, tmp_path)
    assert listed.returncode == 0, listed.stderr
    providers = json.loads(listed.stdout[listed.stdout.index("[{") :])
    (ours,) = [provider for provider in providers if provider["package_name"] == NAME]
    assert ours["version"] == airflow_provider_qcache.__version__
    assert ours["description"].startswith("Warm, query and invalidate QCache")


def test_airflow_accepts_the_registration_without_a_warning(tmp_path):
    """What does not fit Airflow's schema is left out, or warned about, when providers are loaded."""
    load = (
        "from airflow.providers_manager import ProvidersManager\n"
        f"print(ProvidersManager().providers[{NAME!r}].data['name'])"
    )
    loaded = run([sys.executable, "-c", load], tmp_path)
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.splitlines()[-1] == "QCache"
    assert NAME not in loaded.stdout + loaded.stderr


def test_every_public_name_of_hook_and_operators_is_importable():
    assert missing(WITH_AIRFLOW) == {}
    assert missing(MEMBERS_WITH_AIRFLOW) == {}
    assert missing_arguments() == {}
