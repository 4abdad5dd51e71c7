"""The cluster page in a real browser, framed by a real Airflow, on dev nodes."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, FrameLocator, Page, Request, expect

from airflow_provider_qcache.client import QClient
from tests.browser.running import PATIENCE, Ui
from tests.harness.ports import closed_port

STATISTICS = "qcache_cluster_statistics"
STORING = "qcache_scheduled_healing"
WIDE = {"width": 1180, "height": 900}
NARROW = {"width": 390, "height": 800}
PICTURES = {
    ("light", 1180): "cluster-page.png",
    ("dark", 1180): "cluster-page-dark.png",
    ("light", 390): "cluster-page-narrow.png",
}


def first_run(ui: Ui, dag: str) -> str:
    """The id of the run that Airflow starts when a DAG is switched on, which has succeeded."""
    ui.ask(f"/dags/{dag}", {"is_paused": False}, "PATCH")
    runs = ui.wait_for(f"/dags/{dag}/dagRuns?state=success", lambda answer: answer["dag_runs"])
    return str(runs[0]["dag_run_id"])


@pytest.fixture(scope="module")
def filled(session_ui: Ui) -> str:
    """The id of the run that stored a table; after it the statistics were read twice."""
    if not session_ui.is_running:
        session_ui.start()
    wanted = {STATISTICS, STORING}
    session_ui.wait_for("/dags", lambda answer: wanted <= {dag["dag_id"] for dag in answer["dags"]})
    with QClient(session_ui.nodes) as client:
        client.delete("cities", all_nodes=True)
        run = first_run(session_ui, STORING)
        client.node_statistics()
        for misses, read in ((8, first_run), (1, Ui.finished_run)):
            for number in range(30):
                client.get(f"missing{number}" if number < misses else "cities", {})
            read(session_ui, STATISTICS)
    for dag in wanted:  # no run of the schedule changes what the tests see
        session_ui.ask(f"/dags/{dag}", {"is_paused": True}, "PATCH")
    return run


@pytest.fixture(scope="module")
def half(session_ui: Ui, filled: str) -> str:
    """A connection to a node that answers, and to one that is not there; nobody reads their statistics."""
    nodes = [f"http://127.0.0.1:{closed_port()}", session_ui.nodes[0].replace("127.0.0.1", "localhost")]
    extra = json.dumps({"nodes": nodes, "connect_timeout": 1})
    session_ui.ask("/connections", {"connection_id": "half", "conn_type": "qcache", "extra": extra})
    return "half"


def shown_page(page: Page, ui: Ui, arguments: str = "connection=qcache_default") -> Page:
    """The page without Airflow's frame, once the nodes have answered."""
    page.goto(f"{ui.address}/qcache/?{arguments}")
    expect(page.get_by_role("table").first).to_be_visible()
    return page


def fill(page: Page) -> None:
    """Use every part of the page once."""
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_text("Last stored by")).to_be_visible()
    page.get_by_label("Remove a node").select_option(index=1)
    page.get_by_role("button", name="Calculate").click()
    expect(page.get_by_role("region", name="Shares before and after")).to_be_visible()
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("cell", name="NO", exact=True)).to_be_visible()


def row_of(page: Page | FrameLocator, table: str, name: str) -> Any:
    return page.get_by_role("region", name=table).get_by_role("row").filter(has_text=name)


def test_airflow_s_menu_leads_to_the_page(page: Page, ui: Ui, filled: str) -> None:
    page.goto(ui.address)
    page.get_by_role("button", name="Browse").click()
    page.get_by_role("menuitem", name="QCache").click()
    frame = page.frame_locator("iframe")
    expect(frame.get_by_text("3 of 3 nodes answer")).to_be_visible()
    for node in ui.nodes:
        expect(row_of(frame, "Table of nodes", node)).to_contain_text("answers")


def test_the_task_of_the_picture_links_to_its_key(page: Page, ui: Ui, filled: str, pictures: Path) -> None:
    """A picture of the task's log is in the docs."""
    page.set_viewport_size({"width": 1180, "height": 480})
    page.goto(f"{ui.address}/dags/{STORING}/runs/{filled}/tasks/warm")
    expect(page.get_by_text("Stored table 'cities' on").first).to_be_visible()
    page.screenshot(path=pictures / "task-log.png", animations="disabled")
    page.get_by_role("link", name="Details").click()
    link = page.get_by_role("link", name="QCache cluster")
    assert link.get_attribute("href") == "/plugin/qcache?connection=qcache_default&key=cities"
    link.click()
    frame = page.frame_locator("iframe")
    expect(frame.get_by_text("Its home node has the table.").first).to_be_visible()
    expect(row_of(frame, "Tasks that stored it last", f"{STORING}.warm")).to_contain_text("2 rows")


def test_a_reload_shows_the_same_key(page: Page, ui: Ui, filled: str) -> None:
    page.goto(f"{ui.address}/plugin/qcache?connection=qcache_default&key=cities")
    key = page.frame_locator("iframe").get_by_label("Key", exact=True).first
    expect(key).to_have_value("cities")
    page.reload()
    expect(key).to_have_value("cities")


def test_the_statistics_of_the_task_are_plotted(page: Page, ui: Ui, filled: str) -> None:
    shown_page(page, ui)
    for title in ("Latency", "Hit rate", "Size", "Tables"):
        expect(page.get_by_role("img", name=title)).to_be_visible()
    with QClient(ui.nodes) as client:
        home = client.node_for_key("cities")
    expect(row_of(page, "Table of nodes", home)).to_contain_text("1")
    expect(page.locator("#statistics-note")).to_contain_text("a task read")


def test_without_the_task_the_page_says_that_statistics_are_not_known(page: Page, ui: Ui, half: str) -> None:
    shown_page(page, ui, f"connection={half}")
    expect(page.locator("#statistics-note")).to_contain_text("no task keeps the nodes' statistics")
    expect(page.get_by_role("img", name="Latency")).to_be_visible()
    expect(page.get_by_role("img", name="Hit rate")).to_have_count(0)
    rows = page.get_by_role("region", name="Table of nodes").get_by_role("row")
    expect(rows.nth(1)).to_contain_text("connection refused: nothing listens there")
    expect(rows.nth(2)).to_contain_text("answers")
    expect(page.get_by_text("1 of 2 nodes answer")).to_be_visible()


def test_an_asset_is_marked_as_stale_by_its_age(page: Page, ui: Ui, filled: str) -> None:
    """The clock of the browser goes on by two days."""
    page.clock.install()
    shown_page(page, ui)
    asset = row_of(page, "Table of assets", "cities")
    expect(asset).to_contain_text("fresh")
    expect(asset).to_contain_text(f"{STORING}.warm")
    page.clock.set_system_time(time.time() + 2 * 86400)
    page.get_by_label("Stale after, in hours").press("Enter")
    expect(asset).to_contain_text("stale")
    page.get_by_label("Stale after, in hours").fill("72")
    page.get_by_label("Stale after, in hours").press("Enter")
    expect(asset).to_contain_text("fresh")


def test_a_query_shows_rows_and_a_refused_one_says_why(page: Page, ui: Ui, filled: str) -> None:
    shown_page(page, ui, "connection=qcache_default&key=cities")
    query = page.get_by_label("Query, in JSON")
    query.fill('{"where": ["==", "city", "\'Oslo\'"]}')
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_text("1 of 1 rows").last).to_be_visible()
    for refused, said in (
        ('{"update": [["city", 1]]}', "update: it changes the stored table"),
        ('{"select": [["=", "a", "city + 1"]]}', "expression as text"),
        ('{"stand_in_columns": {"a": 1}}', "stand-in columns"),
        ("{", "The query is not JSON"),
    ):
        query.fill(refused)
        page.get_by_role("button", name="Run").click()
        expect(page.get_by_role("alert")).to_contain_text(said)


def test_the_keyboard_is_enough(page: Page, ui: Ui, filled: str) -> None:
    shown_page(page, ui)
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "key":
            break
    page.keyboard.type("cities")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Its home node has the table.").first).to_be_visible()


def test_the_browser_asks_nobody_but_airflow(page: Page, ui: Ui, filled: str) -> None:
    asked: list[str] = []

    def note(request: Request) -> None:
        asked.append(request.url)

    page.on("request", note)
    shown_page(page, ui, "connection=qcache_default&key=cities")
    fill(page)
    assert len(asked) > 6
    assert [address for address in asked if not address.startswith((ui.address, "data:"))] == []


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_what_the_pictures_show(
    browser: Browser, ui: Ui, filled: str, half: str, pictures: Path, scheme: Any, size: Any
) -> None:
    """In every part of the page, with an error and a node in trouble; it is never wider than the screen."""
    context = browser.new_context(viewport=size, color_scheme=scheme)
    context.set_default_timeout(PATIENCE * 1000)
    page = context.new_page()
    shown_page(page, ui, "connection=qcache_default&key=cities")
    fill(page)
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    found = [Axe().run(page).response["violations"]]
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    if (name := PICTURES.get((scheme, size["width"]))) is not None:
        page.screenshot(path=pictures / name, full_page=size is WIDE, animations="disabled")
    shown_page(page, ui, f"connection={half}")
    page.get_by_label("Query, in JSON").fill("{")
    page.get_by_label("Key", exact=True).last.fill("cities")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("alert")).to_be_visible()
    found.append(Axe().run(page).response["violations"])
    context.close()
    assert [(each["id"], each["impact"]) for each in itertools.chain(*found)] == []


def test_the_page_follows_airflow_s_own_theme(browser: Browser, ui: Ui, filled: str) -> None:
    """Which a user may set otherwise than the system's."""
    context = browser.new_context(color_scheme="light")
    context.set_default_timeout(PATIENCE * 1000)
    page = context.new_page()
    page.goto(f"{ui.address}/plugin/qcache")
    frame = page.frame_locator("iframe")
    expect(frame.locator("html")).to_have_attribute("data-theme", "light")
    page.evaluate("document.documentElement.classList.replace('light', 'dark')")
    expect(frame.locator("html")).to_have_attribute("data-theme", "dark")
    context.close()
