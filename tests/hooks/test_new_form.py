"""The form of Airflow 3.2 and later, drawn from provider_info: the API that serves and saves it."""

from __future__ import annotations

import json
import os

import jsonschema
import pytest
from airflow.api_fastapi.core_api.datamodels.connections import ConnectionBody
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
from airflow.models.connection import Connection as StoredConnection
from airflow.sdk import Connection as TaskConnection

from airflow_provider_qcache.connection import parse_connection
from airflow_provider_qcache.connection_fields import EXTRA
from airflow_provider_qcache.provider_info import get_provider_info

NAMES = [field.name for field in EXTRA]


def test_the_form_of_airflow_3_is_served_every_field():
    (served,) = [meta for meta in HookMetaService.hook_meta_data() if meta.connection_type == "qcache"]
    assert served.hook_name == "QCache"
    assert served.standard_fields.port.placeholder == "default: 8888"
    assert not served.standard_fields.port.hidden
    assert list(served.extra_fields) == NAMES
    for field in EXTRA:
        form_field = served.extra_fields[field.name]
        assert form_field["schema"]["title"] == field.label
        assert form_field["description"] == field.description
        assert form_field["value"] == field.default


def saved(extra: dict, **fields) -> StoredConnection:
    """What the API stores of what the form sends: its values, checked with its schemas."""
    (connection_type,) = get_provider_info()["connection-types"]
    for name, value in extra.items():
        jsonschema.validate(value, connection_type["conn-fields"][name]["schema"])
    body = ConnectionBody.model_validate(
        {"connection_id": "c", "conn_type": "qcache", "extra": json.dumps(extra), **fields}
    )
    return StoredConnection(**body.model_dump(by_alias=True))


def test_a_form_saved_as_it_opened_means_the_defaults():
    """Unset fields are stored as null."""
    untouched = saved({**dict.fromkeys(NAMES), "nodes": ["http://host1:9401", ""]})
    shorter = saved({"nodes": ["http://host1:9401"]})
    assert parse_connection(untouched) == parse_connection(shorter)


def test_what_is_filled_in_is_what_is_meant():
    settings = parse_connection(
        saved(
            {
                "nodes": ["http://Host1:9401", "http://host2:9401", ""],
                "read_timeout": 2.5,
                "consecutive_error_count_limit": 3,
                "wait_for_nodes": False,
                "ca_file": None,
            },
            port=8888,
        )
    )
    assert settings.nodes == ("http://Host1:9401", "http://host2:9401")
    assert settings.read_timeout == 2.5
    assert settings.consecutive_error_count_limit == 3
    assert settings.wait_for_nodes is False


@pytest.mark.parametrize("node", ["http://Host1:9401", "http://[::1]:9401"])
def test_what_the_test_button_tests_is_what_the_form_says(node, monkeypatch):
    """It writes the connection to the environment as a URI and has the hook read that."""
    form = saved({**dict.fromkeys(NAMES), "nodes": [node, ""], "confirm_miss": False}, port=8888)
    monkeypatch.setitem(os.environ, "AIRFLOW_CONN_TRANSIENT", form.get_uri())
    read = TaskConnection.get("transient")
    assert parse_connection(read).nodes == (node,)
    assert parse_connection(read).confirm_miss is False
