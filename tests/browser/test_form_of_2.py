"""The form of Airflow 2.11 in a real browser, saved and tested by its own web server."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import unescape
from typing import Any

from playwright.sync_api import Locator, Page, expect

from airflow_provider_qcache.connection import parse_connection
from airflow_provider_qcache.connection_fields import EXTRA, STANDARD
from airflow_provider_qcache.devnode import LocalCluster
from airflow_provider_qcache.hooks.qcache import QCacheHook
from tests.browser.running import PATIENCE, Ui
from tests.browser.values import EXTRA_VALUES, STANDARD_VALUES

PREFIX = "extra__qcache__"


def spelled(value: Any) -> str:
    """A value as one types it into a field of text."""
    if isinstance(value, list):
        return ", ".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


TYPED = {name: spelled(value) for name, value in EXTRA_VALUES.items()}


class Form:
    """The page of a connection."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self.alerts = page.locator(".alert")

    def add(self, ui: Ui, conn_id: str) -> Form:
        """Open it empty, for a connection of our type."""
        self._page.goto(f"{ui.address}/connection/add")
        self._page.locator("#conn_id").fill(conn_id)
        self._page.locator("#conn_type").select_option(
            "qcache", force=True
        )  # hidden behind a list made of divs
        expect(self.extra("nodes")).to_be_visible()
        return self

    def edit(self, ui: Ui, conn_id: str) -> Form:
        """Open it for a connection that is stored."""
        self._page.goto(ui.link("The connection"))
        row = self._page.get_by_role("row").filter(has=self._page.get_by_text(conn_id, exact=True))
        row.locator('a[href*="/connection/edit/"]').click()
        expect(self.extra("nodes")).to_be_visible()
        return self

    def field(self, name: str) -> Locator:
        """A field of Airflow's own."""
        return self._page.locator(f"#model_form #{name}")

    def extra(self, name: str) -> Locator:
        """A field of ours."""
        return self.field(PREFIX + name)

    def around(self, name: str) -> Locator:
        """A field of ours with its label and description."""
        return self._page.get_by_role("row").filter(has=self._page.locator(f"#{PREFIX}{name}"))

    def names(self) -> list[str]:
        """The fields of ours that can be seen, from top to bottom."""
        fields = self._page.locator(f'[name^="{PREFIX}"]:visible').all()
        return [(field.get_attribute("name") or "").removeprefix(PREFIX) for field in fields]

    def fill(self, values: Mapping[str, str]) -> Form:
        """Type values into fields of ours."""
        for name, value in values.items():
            self.extra(name).fill(value)
        return self

    def test(self) -> None:
        """Press the button."""
        self._page.locator("#test-connection").click()

    def save(self, message: str) -> None:
        """Save, and expect this message."""
        self._page.get_by_role("button", name="Save").click()
        expect(self.alerts.filter(has_text=message)).to_be_visible()


def test_the_form_shows_every_field_with_its_label_description_and_default(page: Page, ui: Ui) -> None:
    form = Form(page).add(ui, "empty")
    for field in STANDARD:
        expect(form.field(field.name)).to_be_visible()
        expect(form.field(field.name)).to_have_attribute("placeholder", field.placeholder)
        expect(page.locator(f'label[for="{field.name}"]')).to_have_text(field.label)
    assert form.names() == [field.name for field in EXTRA]
    for field in EXTRA:
        expect(form.extra(field.name)).to_have_attribute("placeholder", field.placeholder)
        expect(form.around(field.name).locator("label")).to_have_text(field.label)
        expect(form.around(field.name).locator(".help-block")).to_have_text(field.description)


def test_what_is_typed_is_stored_by_plain_keys_and_shown_again(page: Page, ui: Ui) -> None:
    form = Form(page).add(ui, "filled")
    for name, value in STANDARD_VALUES.items():
        form.field(name).fill(str(value))
    form.fill(TYPED).save("Added Row")

    stored, extra = ui.stored("filled")
    assert extra == TYPED
    assert (stored.port, stored.schema, stored.login) == (9401, "https", "reader")

    form.edit(ui, "filled")
    for name in ("port", "schema", "login"):
        expect(form.field(name)).to_have_value(str(STANDARD_VALUES[name]))
    for name, text in TYPED.items():
        expect(form.extra(name)).to_have_value(text)

    form.fill({"verify": "true"}).save("Changed Row")
    stored, extra = ui.stored("filled", password=STANDARD_VALUES["password"])
    assert extra == {**TYPED, "verify": "true"}
    settings = parse_connection(stored)
    assert settings.nodes == tuple(EXTRA_VALUES["nodes"])
    assert settings.read_timeout == EXTRA_VALUES["read_timeout"]
    assert settings.wait_for_nodes is False


def test_a_bad_value_is_refused_beside_its_field(page: Page, ui: Ui) -> None:
    """With what is allowed; a script of this Airflow's then writes a warning of its own over it."""
    form = Form(page).add(ui, "bad").fill({"nodes": "cache1", "read_timeout": "fast"})
    with page.expect_response(lambda response: response.request.method == "POST") as answer:
        page.get_by_role("button", name="Save").click()
    message = re.search(
        "read_timeout.*fast.*a number of seconds, 0.001 to 86400", unescape(answer.value.text())
    )
    assert message, "the page says it"
    expect(form.around("read_timeout").locator(".alert")).to_be_visible()
    assert page.locator("td .alert").count() == 1, "beside no other field"
    assert [made["connection_id"] for made in ui.ask("/connections")["connections"]].count("bad") == 0


def test_the_hook_reads_what_was_stored_and_the_test_names_a_dead_node(
    page: Page, ui: Ui, monkeypatch
) -> None:
    """This Airflow shows a failure in green, too; what it says is the message of the hook."""
    with LocalCluster(nodes=3, start_timeout=PATIENCE) as cluster:
        form = Form(page).add(ui, "tested")
        form.field("port").fill("8888")
        form.fill({"nodes": ", ".join(cluster.node_list)}).save("Added Row")
        stored, _ = ui.stored("tested")
        monkeypatch.setenv("AIRFLOW_CONN_TESTED", stored.get_uri())
        with QCacheHook("tested") as hook:
            hook.post("greetings", b"word\nhello\n")
            found = hook.get("greetings", {})
        assert found is not None
        assert json.loads(found.content) == [{"word": "hello"}]

        form.edit(ui, "tested").test()
        for node in cluster.node_list:
            expect(form.alerts.first).to_contain_text(f"{node}: OK")
        cluster.kill(1)
        form.test()
        expect(form.alerts.first).to_contain_text("1 of 3 nodes cannot be used.")
        expect(form.alerts.first).to_contain_text(f"{cluster.node_list[1]}: connection refused")
