"""In CI the suites' plugin fails whatever is skipped, wherever pytest learns of it."""

from __future__ import annotations

import pytest

from tests.harness.servers import ROOT

pytest_plugins = "pytester"

WAYS = {
    "in a test": "def test_it(): pytest.skip('no server')",
    "by a mark": "@pytest.mark.skip('no server')\ndef test_it(): pass",
    "in a fixture": "@pytest.fixture\ndef it(): pytest.skip('no server')\ndef test_it(it): pass",
    "a module": "pytest.skip('no server', allow_module_level=True)",
    "what cannot be imported": "pytest.importorskip('no_server')",
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("ci", [True, False], ids=["CI", "elsewhere"])
def test_a_skip_fails_in_ci_alone(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, way: str, ci: bool
) -> None:
    if ci:
        monkeypatch.setenv("CI", "true")
    else:
        monkeypatch.delenv("CI", raising=False)
    pytester.syspathinsert(ROOT)
    pytester.makeconftest(
        "from tests.harness.plugin import pytest_make_collect_report, pytest_runtest_makereport"
    )
    pytester.makepyfile(f"import pytest\n{way}")
    result = pytester.runpytest("-p", "no:xdist", "-p", "no:cacheprovider")
    if ci:
        assert result.ret != pytest.ExitCode.OK
        assert "skipped" not in result.parseoutcomes()
        result.stdout.re_match_lines([r".*Skipped, and in CI no test may be: .*no.server.*"])
    else:
        assert result.parseoutcomes() == {"skipped": 1}


def test_other_results_are_as_they_were_in_ci(
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
