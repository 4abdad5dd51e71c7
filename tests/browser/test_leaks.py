"""No page of Airflow shows the password of a connection, whatever was done with it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Error, Page, Response, expect

from tests.browser.running import Ui

DAG = "qcache_many_tables"
LOGIN = "reader-of-pages"
PASSWORD = "correct horse/battery+staple"
SPELLINGS = (
    PASSWORD,
    quote(PASSWORD),
    quote(PASSWORD, safe=""),
    json.dumps(PASSWORD)[1:-1].replace("/", "\\/"),
    base64.b64encode(f"{LOGIN}:{PASSWORD}".encode()).decode(),
)


@pytest.fixture
def with_password(ui: Ui) -> Iterator[Ui]:
    """The connection of the examples, with a login and a password for a while."""
    was = ui.ask("/connections/qcache_default")
    extra = {**json.loads(was["extra"]), "allow_auth_over_http": True}
    sent = {"connection_id": "qcache_default", "conn_type": "qcache", "port": was["port"]}
    secret = {"login": LOGIN, "password": PASSWORD, "extra": json.dumps(extra)}
    ui.ask("/connections/qcache_default", {**sent, **secret}, "PATCH")
    yield ui
    # An update does not remove a password.
    ui.ask("/connections", {"actions": [{"action": "delete", "entities": ["qcache_default"]}]}, "PATCH")
    ui.ask("/connections", {**sent, "description": was["description"], "extra": was["extra"]})


def test_no_page_and_no_file_of_a_run_has_the_password(page: Page, with_password: Ui) -> None:
    """The pages as they are drawn, every answer that they are made of, and every file of Airflow."""
    ui = with_password
    seen: dict[str, str] = {}

    def note(response: Response) -> None:
        try:
            seen[response.url] = response.text()
        except (Error, UnicodeDecodeError):
            return  # an image, or a page that is left

    page.on("response", note)
    run = ui.finished_run(DAG)
    task = f"/dags/{DAG}/runs/{quote(run)}/tasks/warm/mapped/0"
    places = {
        "/connections": "qcache_default",
        f"/dags/{DAG}": DAG,
        f"/dags/{DAG}/runs/{quote(run)}": "warm",
        task: "Stored table",
        f"{task}/rendered_templates": "sales_north",
        f"{task}/xcom": "return_value",
        f"{task}/details": "QCachePostOperator",
        f"/dags/{DAG}/code": "read_region",
        "/xcoms": "return_value",
    }
    for place, shows in places.items():
        page.goto(ui.address + place)
        expect(page.locator("body")).to_contain_text(shows)
        seen[f"drawn: {place}"] = page.content()
    page.goto(ui.link("The connection"))
    row = page.get_by_role("row").filter(has=page.get_by_role("cell", name="qcache_default", exact=True))
    row.get_by_role("button", name="Test Connection").click()
    expect(page.get_by_role("status").filter(has_text="Test Connection")).to_be_visible()
    seen["drawn: Test"] = page.content()
    row.get_by_role("button", name="Edit Connection").click()
    expect(page.get_by_role("dialog")).to_contain_text("Password")
    seen["drawn: the form"] = page.content()

    assert any("/api/v2/" in url and LOGIN in text for url, text in seen.items()), "answers of the API"
    assert any("/logs/" in url for url in seen), "a task's log"
    assert [place for place, text in seen.items() if any(word in text for word in SPELLINGS)] == []
    home = Path(ui.output.partition("Its AIRFLOW_HOME: ")[2].partition("\n")[0])
    files = {file: file.read_bytes() for file in home.rglob("*") if file.is_file()}
    assert any(LOGIN.encode() in held for held in files.values())
    assert [file for file, held in files.items() if any(word.encode() in held for word in SPELLINGS)] == []
