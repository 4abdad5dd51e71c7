"""The suites' plugin: CI fails every skip, at whatever stage pytest reports it; groups run on one worker."""

from __future__ import annotations

import re

import pytest

from tests.harness.plugin import SHARE_AN_AIRFLOW, SHARE_LITTLE, START_THEIR_OWN, group_of
from tests.harness.servers import ROOT

pytest_plugins = "pytester"

SKIPS = {
    "in a test": "def test_it(): pytest.skip('no server')",
    "by a mark": "@pytest.mark.skip('no server')\ndef test_it(): pass",
    "in a fixture": "@pytest.fixture\ndef it(): pytest.skip('no server')\ndef test_it(it): pass",
    "a module": "pytest.skip('no server', allow_module_level=True)",
    "a failed import": "pytest.importorskip('no_server')",
}


@pytest.mark.parametrize("skip", SKIPS.values(), ids=SKIPS)
@pytest.mark.parametrize("ci", [True, False], ids=["CI", "elsewhere"])
def test_a_skip_fails_only_in_ci(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, skip: str, ci: bool
) -> None:
    if ci:
        monkeypatch.setenv("CI", "true")
    else:
        monkeypatch.delenv("CI", raising=False)
    pytester.syspathinsert(ROOT)
    pytester.makeconftest(
        "from tests.harness.plugin import pytest_make_collect_report, pytest_runtest_makereport"
    )
    pytester.makepyfile(f"import pytest\n{skip}")
    result = pytester.runpytest("-p", "no:xdist", "-p", "no:cacheprovider")
    if ci:
        assert result.ret != pytest.ExitCode.OK
        assert "skipped" not in result.parseoutcomes()
        result.stdout.re_match_lines([r".*Skipped, and in CI no test may be: .*no.server.*"])
    else:
        assert result.parseoutcomes() == {"skipped": 1}


def test_passes_and_failures_are_unchanged_in_ci(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    pytester.syspathinsert(ROOT)
    pytester.makeconftest(
        "from tests.harness.plugin import pytest_make_collect_report, pytest_runtest_makereport"
    )
    pytester.makepyfile("def test_good(): pass\ndef test_bad(): assert 1 == 2")
    result = pytester.runpytest("-p", "no:xdist", "-p", "no:cacheprovider")
    assert result.parseoutcomes() == {"passed": 1, "failed": 1}
    result.stdout.no_fnmatch_line("*in CI no test may be*")


def test_all_tests_of_a_file_run_on_one_worker(pytester: pytest.Pytester) -> None:
    pytester.syspathinsert(ROOT)
    pytester.makeconftest("from tests.harness.plugin import pytest_xdist_make_scheduler")
    test = "    @pytest.mark.parametrize('n', range(10))\n    def test_it(self, n): pass"
    body = f"import pytest\nclass TestOne:\n{test}\nclass TestTwo:\n{test}"
    pytester.makepyfile(test_a=body, test_b=body)
    result = pytester.runpytest_subprocess("-v", "-n2", "--dist=loadscope", "-p", "no:cacheprovider")
    assert result.parseoutcomes() == {"passed": 40}
    ran = re.findall(r"^\[(gw\d)\].* PASSED (\w+)\.py", "\n".join(result.outlines), re.MULTILINE)
    assert len(ran) == 40
    assert len(set(ran)) == 2


@pytest.mark.parametrize(
    ("test", "group"),
    [
        ("hooks/test_fork.py::test_it", "hooks/test_fork"),
        ("test_package.py::TestIt::test_it[x::y]", "test_package"),
        ("client/test_ring.py::test_it[1]", "tests/client/test_ring.py::test_it[1]"),
        ("airflow/test_sql.py::test_it", "airflow"),
        ("airflow/test_demo.py::test_it", "airflow/test_demo"),
    ],
)
def test_a_group_is_a_test_a_file_or_a_suite_that_shares_an_airflow(test: str, group: str) -> None:
    assert group_of(f"tests/{test}") == group


def test_the_groups_name_existing_files_and_suites() -> None:
    tests = ROOT / "tests"
    names = {*START_THEIR_OWN, *SHARE_AN_AIRFLOW, *SHARE_LITTLE}
    assert [
        name for name in names if not (tests / name).is_dir() and not (tests / f"{name}.py").is_file()
    ] == []
