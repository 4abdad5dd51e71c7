"""The form of Airflow 2.11: its own form class and the view's own code, on what a browser would send."""

from __future__ import annotations

import json
from typing import Any

import flask
import pytest
from airflow.models.connection import Connection
from airflow.www.forms import create_connection_form_class
from airflow.www.views import ConnectionModelView
from werkzeug.datastructures import MultiDict

from airflow_provider_qcache.connection import parse_connection
from airflow_provider_qcache.connection_fields import EXTRA, STANDARD
from airflow_provider_qcache.hooks.qcache import QCacheHook

# Its __init__ wants a database; the methods used here want nothing of it.
VIEW = ConnectionModelView.__new__(ConnectionModelView)
NODES = {"nodes": "http://Host1:9401, http://host2:9401"}


@pytest.fixture(autouse=True)
def request_context():
    app = flask.Flask("form")
    app.config.update(SECRET_KEY="none", WTF_CSRF_ENABLED=False)
    with app.test_request_context(method="POST"):
        yield


def posted(fields: dict[str, str]) -> Any:
    standard = [field.name for field in STANDARD]
    data = {"conn_id": "c", "conn_type": "qcache"}
    for name, value in fields.items():
        data[name if name in (*standard, "extra") else f"extra__qcache__{name}"] = value
    return create_connection_form_class()(MultiDict(data))


def save(fields: dict[str, str]) -> Connection:
    """What is stored of these texts, as the view does it."""
    form = posted(fields)
    assert form.validate(), form.errors
    VIEW.process_form(form, is_created=True)
    values = {name: form.data[name] for name in ("host", "schema", "login", "password", "port")}
    return Connection(conn_id="c", conn_type="qcache", extra=form.extra.data, **values)


def shown_again(connection: Connection) -> dict[str, str]:
    """The texts of the fields, and of Extra, when the connection is opened."""
    form = create_connection_form_class()(obj=connection)
    VIEW.prefill_form(form, 1)
    texts = {field.name: form[f"extra__qcache__{field.name}"]._value() for field in EXTRA}
    return {**texts, "extra": form.extra.data or ""}


def test_the_form_has_the_same_fields():
    assert list(QCacheHook.get_connection_form_widgets()) == [field.name for field in EXTRA]
    form = create_connection_form_class()()
    for field in EXTRA:
        form_field = form[f"extra__qcache__{field.name}"]
        assert (form_field.label.text, form_field.description) == (field.label, field.description)


def test_nothing_but_nodes_means_the_defaults():
    filled = dict.fromkeys((field.name for field in EXTRA), "")
    settings = parse_connection(save({**filled, **NODES}))
    assert settings.nodes == ("http://Host1:9401", "http://host2:9401")
    assert settings == parse_connection(Connection(conn_id="c", extra=json.dumps(NODES)))


def test_texts_are_numbers_and_booleans():
    settings = parse_connection(
        save({**NODES, "read_timeout": "2.5", "wait_for_nodes": "false", "confirm_miss": "y", "port": "9401"})
    )
    assert (settings.read_timeout, settings.wait_for_nodes, settings.confirm_miss) == (2.5, False, True)


def test_what_was_saved_is_shown_and_saved_again():
    """A false and a 0 among it: the form shows a stored JSON false as nothing, and saves what it shows."""
    saved = save({**NODES, "verify": "false", "retry_wait_initial": "0", "max_response_bytes": "1000"})
    again = save(shown_again(saved))
    assert parse_connection(again) == parse_connection(saved)
    assert parse_connection(again).verify is False
    assert parse_connection(again).retry_wait_initial == 0


def test_a_list_made_elsewhere_is_shown_as_python_spells_it_and_understood():
    made = Connection(conn_id="c", extra=json.dumps({"nodes": ["http://Host1:9401", "http://host2:9401"]}))
    texts = shown_again(made)
    assert texts["nodes"] == "['http://Host1:9401', 'http://host2:9401']"
    assert parse_connection(save(texts)).nodes == parse_connection(made).nodes


def test_the_test_button_sends_each_field_under_two_names():
    """connection_form.js: `extrasObj[this.name] = …` and the same without its prefix, then the view's URI."""
    sent = {**NODES, "deadline": "60"}
    both = {**sent, **{f"extra__qcache__{name}": value for name, value in sent.items()}}
    tested = Connection(conn_id="c", conn_type="qcache", port=8888, extra=json.dumps(both))
    read = Connection(conn_id="c", uri=tested.get_uri())
    assert parse_connection(read).nodes == ("http://Host1:9401", "http://host2:9401")
    assert parse_connection(read).deadline == 60


@pytest.mark.parametrize(
    ("field", "text"),
    [("read_timeout", "fast"), ("deadline", "0"), ("verify", "maybe"), ("nodes", "ftp://host1")],
)
def test_a_bad_value_is_reported_beside_its_field(field, text):
    form = posted({**NODES, field: text})
    assert not form.validate()
    ((name, (error,)),) = [item for item in form.errors.items() if item[0].startswith("extra__")]
    assert name == f"extra__qcache__{field}"
    assert field in error
    assert text in error
