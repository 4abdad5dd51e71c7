"""A real Airflow with its own pages, and a browser to look at them."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser.running import OLD, PATIENCE, Ui
from tests.harness.needs import skip_or_fail
from tests.harness.telemetry import Telemetry

# Each Airflow has a form of its own. Scaling out is tried on the newest.
collect_ignore = (
    ["test_cluster_page.py", "test_form_of_3.py", "test_leaks.py", "test_scale_out.py"]
    if OLD
    else ["test_form_of_2.py"]
)

HOW_TO_GET_CHROMIUM = "no Chromium: `apt-get install chromium` brings it, or CHROMIUM names one"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the start of Airflow time, which it takes in the first test."""
    for item in items:
        if "tests/browser/" in item.nodeid:
            item.add_marker(pytest.mark.timeout(600))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say once why tests were skipped."""
    skipped = [report.longrepr for report in terminalreporter.getreports("skipped")]
    if any(isinstance(why, tuple) and HOW_TO_GET_CHROMIUM in why[2] for why in skipped):
        terminalreporter.write_line(f"The tests of the forms were skipped: {HOW_TO_GET_CHROMIUM}")


@pytest.fixture(scope="session")
def telemetry() -> Iterator[Telemetry]:
    """Where the Airflow of the session sends its metrics and spans."""
    with Telemetry() as telemetry:
        yield telemetry


@pytest.fixture(scope="session")
def session_ui(tmp_path_factory: pytest.TempPathFactory, telemetry: Telemetry) -> Iterator[Ui]:
    """The Airflow of the session, where a test has started it."""
    with contextlib.closing(Ui(tmp_path_factory.mktemp("ui"), environment=telemetry.environment)) as ui:
        yield ui


@pytest.fixture
def ui(session_ui: Ui) -> Ui:
    """An Airflow that is up; the first test, and one after a test that ended it, starts it."""
    if not session_ui.is_running:
        session_ui.start()
    return session_ui


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium; tests skip where there is none, and fail where CI should have one.

    It ends with this suite, since Playwright has an event loop running in the thread of the tests meanwhile.
    """
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        skip_or_fail(HOW_TO_GET_CHROMIUM)
    expect.set_options(timeout=PATIENCE * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS, timeout=PATIENCE * 1000)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, ui: Ui) -> Iterator[Page]:
    """A window of an empty profile."""
    context = browser.new_context(viewport={"width": 1280, "height": 1100})
    context.set_default_timeout(PATIENCE * 1000)
    yield context.new_page()
    context.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where the pictures of the docs go: QCACHE_PICTURES names it, which `make pictures` sets."""
    return Path(os.environ.get("QCACHE_PICTURES") or tmp_path)
