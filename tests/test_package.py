"""What holds for the package and its repository as a whole: how it is registered, built and set up."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

import airflow_provider_qcache

ROOT = Path(__file__).resolve().parent.parent
NAME = "airflow-provider-qcache"


def run(*command: str | Path, **environment: str | None) -> subprocess.CompletedProcess[str]:
    """Run a command at the root of the tree, with variables set, or taken away where None is given."""
    merged = {**os.environ, **environment}
    return subprocess.run(
        command,
        cwd=ROOT,
        env={name: value for name, value in merged.items() if value is not None},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_installed_version_is_the_module_s():
    assert distribution(NAME).version == airflow_provider_qcache.__version__


def test_entry_point_gives_the_name_of_the_distribution():
    """Airflow finds the version by this name, and `airflow providers list` crashes on another."""
    (entry_point,) = distribution(NAME).entry_points.select(group="apache_airflow_provider")
    assert entry_point.name == "provider_info"
    assert entry_point.load()()["package-name"] == NAME


def test_airflow_lists_the_provider(tmp_path):
    """Airflow itself checks the registration against its schema; what it lists, it accepted."""
    command = [sys.executable, "-m", "airflow", "providers", "list", "--output", "json"]
    listed = run(*command, AIRFLOW_HOME=str(tmp_path))
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
    loaded = run(sys.executable, "-c", load, AIRFLOW_HOME=str(tmp_path))
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.splitlines()[-1] == "QCache"
    assert NAME not in loaded.stdout + loaded.stderr


@pytest.mark.parametrize("module", ["airflow_provider_qcache", "airflow_provider_qcache.provider_info"])
def test_import_loads_nothing_but_the_standard_library(module):
    """Every process that imports airflow.sdk imports both, and Airflow imported in them is a circle."""
    code = (
        f"import sys; before = set(sys.modules); import {module}\n"
        "roots = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(roots - sys.stdlib_module_names))"
    )
    imported = run(sys.executable, "-c", code)
    assert imported.stdout.split() == ["airflow_provider_qcache"], imported.stderr


def test_wheel_carries_the_types_and_the_licence_and_no_tests(tmp_path):
    built = run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "airflow_provider_qcache/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"airflow_provider_qcache"}


@pytest.mark.parametrize("file", ["airflow-3.3", "airflow-2.11", "lint", "qcache-0.9.3", "tools"])
def test_constraints_are_pins_and_nothing_else(file):
    """No address, path or option: the set-up takes packages from where the user's own configuration says."""
    lines = (ROOT / "constraints" / f"{file}.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert pins
    assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []


def test_make_alone_lists_every_target():
    declared = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert declared is not None
    listed = re.findall(r"^  make ([a-z-]+)  +\S", run("make", "--no-print-directory").stdout, re.MULTILINE)
    assert listed == declared[1].split()


def set_up_error(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that a failing set-up says, without what make adds to it."""
    assert result.returncode != 0
    (line,) = [line for line in result.stderr.splitlines() if not re.match(r"make.*: \*\*\* \[", line)]
    return line


def test_an_airflow_that_is_not_supported_is_one_line():
    assert "AIRFLOW=1.10 is not supported: use AIRFLOW=3.3 or AIRFLOW=2.11" in set_up_error(
        run("make", "test", "AIRFLOW=1.10", MAKEFLAGS=None)
    )


@pytest.mark.parametrize(
    ("release", "needed"),
    [("3.3", "Airflow 3.3 needs Python 3.11 to 3.14"), ("2.11", "Airflow 2.11 needs Python 3.11 to 3.12")],
)
def test_a_python_that_does_not_fit_is_one_line(release, needed, tmp_path):
    environment = tmp_path / "env"
    line = set_up_error(run("scripts/setup.sh", "airflow", release, environment, PYTHON="/nowhere/python"))
    assert line.startswith("set-up: PYTHON=/nowhere/python will not do")
    assert needed in line


def without_python27(tmp_path: Path) -> dict[str, str | None]:
    """The environment of a machine that has no Python 2.7 and no real server."""
    return {
        "PYTHON27": "/nowhere/python2.7",
        "XDG_CACHE_HOME": str(tmp_path),
        "QCACHE_PYTHON": None,
        "CI": None,
    }


def test_no_python27_is_one_line(tmp_path):
    line = set_up_error(run("scripts/setup.sh", "real-server", **without_python27(tmp_path)))
    assert "needs Python 2.7" in line
    assert "PYTHON27=" in line


def test_tests_go_on_without_python27_but_not_in_ci(tmp_path):
    """A developer's tests skip the real server; a CI run that skipped it would prove less than it says."""
    environment = without_python27(tmp_path)
    without = run("scripts/setup.sh", "real-server", "optional", **environment)
    assert without.returncode == 0
    assert without.stderr.endswith("; until then its tests are skipped\n")
    assert without.stderr.count("\n") == 1
    assert run("scripts/setup.sh", "real-server", "optional", **{**environment, "CI": "true"}).returncode != 0
