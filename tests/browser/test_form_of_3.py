"""The form of Airflow 3.3 in a real browser, saved by a real Airflow and tested against dev nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect

from airflow_provider_qcache.connection import parse_connection
from airflow_provider_qcache.connection_fields import EXTRA, STANDARD
from airflow_provider_qcache.testing import Cluster
from tests.browser.running import Ui
from tests.browser.values import EXTRA_VALUES, STANDARD_VALUES

MARGIN = 16
"""Pixels below the last field of the picture."""

LABELS = {field.name: field.label for field in STANDARD}
KINDS = {field.name: field.kind for field in EXTRA}


class Form:
    """The dialog of a connection."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self.dialog = page.get_by_role("dialog")
        self.save_button = self.dialog.get_by_role("button", name="Save")

    def add(self, ui: Ui, conn_id: str) -> Form:
        """Open it empty, for a connection of our type."""
        self._page.goto(ui.link("The connection"))
        self._page.get_by_role("button", name="Add Connection").click()
        self.dialog.get_by_role("textbox", name="Connection ID").fill(conn_id)
        self.dialog.get_by_role("combobox").click()
        self.dialog.get_by_role("option", name="QCache").click()
        return self

    def edit(self, ui: Ui, conn_id: str) -> Form:
        """Open it for a connection that is stored, with nothing kept from an earlier visit."""
        self._page.goto(ui.link("The connection"))
        row(self._page, conn_id).get_by_role("button", name="Edit Connection").click()
        return self

    def open_extra(self) -> Form:
        """Open the section of our own fields."""
        self.dialog.get_by_role("button", name="Extra Fields", exact=True).click()
        expect(self.extra("nodes")).to_be_visible()
        return self

    def standard(self, name: str) -> Locator:
        """A field of Airflow's own, which is found by what it is called."""
        return self.dialog.get_by_label(LABELS[name], exact=True)

    def extra(self, name: str) -> Locator:
        """A field of ours."""
        return self.dialog.locator(f'[name="element_{name}"]')

    def around(self, name: str) -> Locator:
        """A field of ours with its label and description."""
        fields = self.dialog.locator('[data-scope="field"][data-part="root"]')
        return fields.filter(has=self._page.locator(f'[name="element_{name}"]'))

    def names(self) -> list[str]:
        """The fields of ours that can be seen, from top to bottom."""
        rows = self.dialog.locator('[data-scope="field"][data-part="root"]:visible [name^="element_"]').all()
        return [(field.get_attribute("name") or "").removeprefix("element_") for field in rows]

    def fill(self, values: dict[str, Any]) -> Form:
        """Type values into fields of ours."""
        for name, value in values.items():
            if KINDS[name] == "flag":
                if self.extra(name).is_checked() != value:
                    self.around(name).locator('[data-scope="switch"][data-part="control"]').click()
            else:
                self.extra(name).fill("\n".join(value) if isinstance(value, list) else str(value))
                self.extra(name).press("Tab")
        return self

    def value(self, name: str) -> Any:
        """What a field of ours shows, in the type of its values; None for nothing."""
        if KINDS[name] == "flag":
            return self.extra(name).is_checked()
        text = self.extra(name).input_value()
        if not text:
            return None
        if KINDS[name] == "nodes":
            return text.split("\n")
        return float(text) if KINDS[name] in ("seconds", "count") else text

    def save(self, conn_id: str) -> None:
        """Save, and see the connection in the list."""
        self.save_button.click()
        expect(self.dialog).to_be_hidden()
        expect(row(self._page, conn_id)).to_be_visible()


def row(page: Page, conn_id: str) -> Locator:
    """A connection in the list."""
    return page.get_by_role("row").filter(has=page.get_by_role("cell", name=conn_id, exact=True))


def test_the_form_shows_every_field_with_its_label_description_and_default(page: Page, ui: Ui) -> None:
    form = Form(page).add(ui, "empty")
    for field in STANDARD:
        expect(form.standard(field.name)).to_be_visible()
    for field in STANDARD[:2]:
        expect(form.standard(field.name)).to_have_attribute("placeholder", field.placeholder)
    assert STANDARD[0].label == "Nodes"  # what is needed first comes first
    form.open_extra()
    assert form.names() == [field.name for field in EXTRA]
    for field in EXTRA:
        around = form.around(field.name)
        expect(around.locator('[data-part="label"]').first).to_have_text(field.label)
        expect(around.locator('[data-part="helper-text"]')).to_have_text(field.description)
        assert form.value(field.name) == field.default, field


def test_what_is_typed_is_stored_by_plain_keys_and_shown_again(page: Page, ui: Ui) -> None:
    form = Form(page).add(ui, "filled")
    for name, value in STANDARD_VALUES.items():
        form.standard(name).fill(str(value))
    form.open_extra().fill(EXTRA_VALUES).save("filled")

    stored, extra = ui.stored("filled")
    assert extra == EXTRA_VALUES
    assert (stored.port, stored.schema, stored.login) == (9401, "https", "reader")

    form.edit(ui, "filled")
    for name in ("port", "schema", "login"):
        expect(form.standard(name)).to_have_value(str(STANDARD_VALUES[name]))
    form.open_extra()
    assert {name: form.value(name) for name in EXTRA_VALUES} == EXTRA_VALUES

    form.fill({"verify": True}).save("filled")
    stored, extra = ui.stored("filled", password=STANDARD_VALUES["password"])
    assert extra == {**EXTRA_VALUES, "verify": True}
    settings = parse_connection(stored)
    assert settings.nodes == tuple(EXTRA_VALUES["nodes"])
    assert settings.read_timeout == EXTRA_VALUES["read_timeout"]


def test_nodes_in_host_are_enough_and_the_rest_is_as_by_default(page: Page, ui: Ui) -> None:
    """The section of our fields stays closed, in which state a field could keep Save disabled."""
    form = Form(page).add(ui, "short")
    form.standard("host").fill("cache1, cache2")
    form.standard("port").fill("9401")
    form.save("short")

    stored, _ = ui.stored("short")
    settings = parse_connection(stored)
    assert settings.nodes == ("http://cache1:9401", "http://cache2:9401")
    for field in EXTRA[1:]:
        assert getattr(settings, field.name, field.default) == field.default, field


def test_the_test_is_green_with_live_nodes_and_red_with_the_name_of_a_dead_one(
    page: Page, ui: Ui, qcache_cluster: Cluster
) -> None:
    form = Form(page).add(ui, "tested")
    form.standard("port").fill("8888")
    form.open_extra().fill({"nodes": qcache_cluster.node_list}).save("tested")
    test = row(page, "tested").get_by_role("button", name="Test Connection")

    test.click()
    message = page.get_by_role("status").filter(has_text="Test Connection Successful")
    for node in qcache_cluster.node_list:
        expect(message).to_contain_text(f"{node}: OK")
    expect(test.locator("svg")).to_have_attribute("color", "green")

    qcache_cluster.kill(1)
    test.click()
    message = page.get_by_role("status").filter(has_text="Test Connection Failed")
    expect(message).to_contain_text(
        f"1 of 3 nodes cannot be used. {qcache_cluster.node_list[1]}: connection refused"
    )
    expect(test.locator("svg")).to_have_attribute("color", "red")


def test_a_picture_of_the_form(page: Page, ui: Ui, pictures: Path) -> None:
    """The one in the docs."""
    page.set_viewport_size({"width": 1000, "height": 1040})
    form = Form(page).add(ui, "qcache_default")
    form.standard("host").fill(", ".join(f"http://cache{number}:9401" for number in (1, 2, 3)))
    page.evaluate("document.activeElement.blur()")
    extra = form.dialog.get_by_role("button", name="Extra Fields", exact=True)
    clip, last = form.dialog.bounding_box(), extra.bounding_box()
    assert clip is not None
    assert last is not None
    clip["height"] = last["y"] + last["height"] - clip["y"] + MARGIN
    picture = pictures / "connection-form.png"
    page.screenshot(path=picture, clip=clip, animations="disabled")
    assert 10_000 < picture.stat().st_size < 200_000
