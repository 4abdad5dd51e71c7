"""What holds for the package and its repository as a whole: how it is registered, built and set up."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

import airflow_provider_qcache
from tests.public_names import MEMBERS_WITHOUT_AIRFLOW, WITH_AIRFLOW, WITHOUT_AIRFLOW, missing

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


@pytest.mark.parametrize(
    "module",
    [
        "airflow_provider_qcache",
        "airflow_provider_qcache.cli.definition",
        "airflow_provider_qcache.provider_info",
    ],
)
def test_import_loads_nothing_but_the_standard_library(module):
    """Every process that imports airflow.sdk imports both, and Airflow imported in them is a circle."""
    code = (
        f"import sys; before = set(sys.modules); import {module}\n"
        "roots = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(roots - sys.stdlib_module_names))"
    )
    imported = run(sys.executable, "-c", code)
    assert imported.stdout.split() == ["airflow_provider_qcache"], imported.stderr


def test_every_public_name_is_importable_without_airflow():
    """Those of the operators and the hook are held by tests/hooks/test_provider.py, where Airflow is."""
    assert missing(WITHOUT_AIRFLOW) == {}
    assert missing(MEMBERS_WITHOUT_AIRFLOW) == {}


def test_public_names_are_all_that_the_client_exports():
    from airflow_provider_qcache import client

    assert WITHOUT_AIRFLOW["airflow_provider_qcache.client"].split() == sorted(client.__all__)


def test_public_names_are_all_that_docs_and_examples_import():
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("example_dags/*.py")]
    imported = {
        (module, name)
        for page in pages
        for module, names in re.findall(
            r"from (airflow_provider_qcache[.\w]*) import (\([^)]*\)|[^\n;]*)", page.read_text()
        )
        for name in re.findall(r"\w+", names.partition(" as ")[0])
    }
    assert imported
    public = {**WITHOUT_AIRFLOW, **WITH_AIRFLOW}
    packages = {module.rpartition(".")[::2] for module in public}
    assert {
        (module, name) for module, name in imported - packages if name not in public.get(module, "").split()
    } == set()


def test_wheel_has_every_file_of_the_package_and_the_licence_and_nothing_else(tmp_path):
    built = run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "airflow_provider_qcache")
    files = set(listed.stdout.split())
    assert {"airflow_provider_qcache/py.typed", "airflow_provider_qcache/plugins/page.html"} < files
    assert {name for name in names if ".dist-info/" not in name} == files
    assert {name.partition(".dist-info/")[2] for name in names - files} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
    }


def test_building_twice_gives_the_same_bytes(tmp_path):
    """So that whoever builds a release from its tag can compare it with what was published."""
    built = []
    for time in ("first", "second"):
        checkout = tmp_path / time / "checkout"
        shutil.copytree(ROOT / "airflow_provider_qcache", checkout / "airflow_provider_qcache")
        shutil.copytree(ROOT / "docs", checkout / "docs")
        for file in ("CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml", ".gitignore"):
            (checkout / file).write_bytes((ROOT / file).read_bytes())  # with another time of change
        command = (sys.executable, "-m", "hatchling", "build", "--directory", tmp_path / time / "dist")
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        built.append({file.name: file.read_bytes() for file in (tmp_path / time / "dist").iterdir()})
    assert {name.rpartition(".")[2] for name in built[0]} == {"whl", "gz"}
    assert built[0] == built[1]
    (sdist,) = (tmp_path / "first" / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2].partition("/")[0] for name in archive.getnames()}
    assert names == {
        ".gitignore",
        "CHANGELOG.md",
        "LICENSE",
        "PKG-INFO",
        "README.md",
        "airflow_provider_qcache",
        "docs",
        "pyproject.toml",
    }


@pytest.mark.parametrize(
    "file",
    [
        "airflow-3.3",
        "airflow-3.2",
        "airflow-3.1",
        "airflow-3.0",
        "airflow-2.11",
        "docs",
        "floors",
        "lint",
        "measure",
        "qcache-0.9.3",
        "tools",
    ],
)
def test_constraints_are_pins_and_nothing_else(file):
    """No address, path or option: the set-up takes packages from where the user's own configuration says."""
    lines = (ROOT / "constraints" / f"{file}.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert pins
    assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []


USED_BY_WHAT_RUNS_ONCE = (
    "apache-airflow-providers-common-sql",
    "duckdb",
    "hypothesis",
    "lz4",
    "numpy",
    "pandas",
    "polars",
    "psutil",
    "psycopg",
    "psycopg-binary",
    "psycopg2-binary",
    "pyarrow",
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "qcache-client",
    "requests",
    "tenacity",
    "tornado",
    "trustme",
    "urllib3",
)


def test_both_airflows_have_what_the_tests_that_run_once_use():
    """So that these need not run on each of them: they would run the same code twice."""
    pins = [
        dict(
            line.split("==")
            for line in (ROOT / "constraints" / f"airflow-{release}.txt").read_text().splitlines()
            if not line.startswith("#")
        )
        for release in ("3.3", "2.11")
    ]
    versions = {name: {each.get(name) for each in pins} for name in USED_BY_WHAT_RUNS_ONCE}
    assert {name: found for name, found in versions.items() if None in found or len(found) > 1} == {}


def test_each_lowest_version_is_in_the_list_that_make_floors_tries():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    needs = {need for needs in (project["dependencies"], *extras) for need in needs}
    lines = (ROOT / "constraints" / "floors.txt").read_text().splitlines()
    tried = {re.sub(r"(\.0)+$", "", line) for line in lines if not line.startswith("#")}
    assert {re.sub(r"(\.0)+$", "", need.replace(">=", "==")) for need in needs} == tried


def test_the_page_of_the_extras_has_each_with_what_it_installs():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    page = (ROOT / "docs" / "reference" / "extras.md").read_text()
    listed = dict(re.findall(r"^\| `([\w-]+)` \| ([^|]+?) \|", page, re.MULTILINE))
    assert listed == {
        name: ", ".join(need.partition(">=")[0] for need in needs) for name, needs in extras.items()
    }


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


def test_a_release_is_made_of_a_copy():
    """The dry run does what the release does: version, changelog, tag, wheel and sdist."""
    before = run("git", "status", "--porcelain").stdout
    made = run(sys.executable, "scripts/release.py", "97.0.1rc1", "--dry-run")
    assert made.returncode == 0, made.stderr
    assert "dist/airflow_provider_qcache-97.0.1rc1-py3-none-any.whl" in made.stdout
    assert "dist/airflow_provider_qcache-97.0.1rc1.tar.gz" in made.stdout
    assert re.search(r"CHANGELOG.md +\| 2 \+\+", made.stdout)
    assert run("git", "tag", "--list", "v97*").stdout == ""
    assert run("git", "status", "--porcelain").stdout == before


def test_a_release_without_a_version_is_refused():
    refused = run(sys.executable, "scripts/release.py", "next", "--dry-run")
    assert refused.returncode == 1
    assert refused.stderr == "release: 'next' is not a version: expected one such as 0.2.0 or 0.2.0rc1\n"


def test_the_architecture_page_names_files_that_are_there():
    page = (ROOT / "docs" / "contributing" / "architecture.md").read_text()
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)+\.py)`", page))
    assert len(named) > 15
    places = (ROOT / "airflow_provider_qcache", ROOT)
    assert {file for file in named if not any((place / file).is_file() for place in places)} == set()


WITHOUT_EXTRAS = """
    import builtins, sys
    from airflow_provider_qcache import client as qclient

    assert not {name.partition(".")[0] for name in sys.modules} & {"airflow", "pandas", "lz4", "tornado"}
    from tests.harness.faults import healthy_node
    node, tables = healthy_node()
    with node, qclient.QClient([node.url]) as client:
        client.post("foo", b"a\\n1\\n", compression="gzip", check_row_count=False)
        assert client.get("foo", {}).content == b'[{"a":1}]'
        assert "lz4" not in node.requests[-1].headers["accept-encoding"]
    print("ran")
"""


def test_the_client_runs_with_only_requests_and_tenacity_installed(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    import requests

    import certifi  # isort: skip
    import charset_normalizer
    import idna
    import tenacity
    import urllib3

    # An environment with nothing but requests, its dependencies and tenacity, as links, so that no package
    # index is needed.
    packages = tmp_path / "packages"
    packages.mkdir()
    for module in (requests, urllib3, idna, certifi, charset_normalizer, tenacity):
        source = Path(module.__file__).parent
        (packages / source.name).symlink_to(source)
    (packages / "airflow_provider_qcache").symlink_to(root / "airflow_provider_qcache")
    tests = packages / "tests"
    (tests / "harness").mkdir(parents=True)
    (tests / "harness" / "faults.py").symlink_to(root / "tests" / "harness" / "faults.py")
    environment = {"PYTHONPATH": str(packages), "PATH": os.environ.get("PATH", "")}
    ran = subprocess.run(
        [sys.executable, "-S", "-c", textwrap.dedent(WITHOUT_EXTRAS)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=tmp_path,
        timeout=60,
    )
    assert ran.stdout == "ran\n", ran.stderr


def test_all_lists_the_public_names_sorted_and_each_has_a_docstring() -> None:
    from airflow_provider_qcache import client

    assert client.__all__ == sorted(client.__all__)
    for name in client.__all__:
        assert getattr(client, name).__doc__
