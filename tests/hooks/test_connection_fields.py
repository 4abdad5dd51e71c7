"""The table of fields feeds provider_info, both forms and the page about the connection."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files

import jsonschema
import pytest
from airflow.providers_manager import ProvidersManager

from airflow_provider_qcache.connection import ConnectionSettings
from airflow_provider_qcache.connection_fields import EXTRA, STANDARD
from airflow_provider_qcache.provider_info import get_provider_info
from scripts.connection_table import PAGE, with_tables

NAMES = [field.name for field in EXTRA]


def schema_of(name: str) -> dict:
    return json.loads((files("airflow") / name).read_text())


def test_every_field_has_a_label_its_default_and_what_is_allowed():
    for field in (*STANDARD, *EXTRA):
        assert field.label
        assert f"Default: {field.default_text}" in field.description
        assert f"Allowed: {field.allowed}" in field.description
        if field.kind in ("seconds", "count"):
            assert field.minimum is not None
            assert field.maximum is not None
            assert field.default is None or field.minimum <= field.default <= field.maximum
        if field.kind == "seconds":
            assert "seconds" in field.description


def test_settings_have_the_fields_of_the_table_and_no_others():
    fields = set(ConnectionSettings.__dataclass_fields__)
    assert fields == {*NAMES, "conn_id", "auth"}


def test_provider_info_fits_the_schema_that_airflow_checks_it_with():
    jsonschema.validate(get_provider_info(), schema_of("provider_info.schema.json"))


def test_the_connection_type_fits_the_schema_of_providers_of_airflow_s_own():
    """It says more than the other about forms, on 3.x; 2.11's knows no forms."""
    items = schema_of("provider.yaml.schema.json")["properties"]["connection-types"]
    jsonschema.validate(get_provider_info()["connection-types"], items)


def test_every_field_of_the_form_takes_null_and_its_default():
    """Save stays disabled in 3.3's form where a field's type does not include null."""
    (connection_type,) = get_provider_info()["connection-types"]
    assert list(connection_type["conn-fields"]) == NAMES
    for field in connection_type["conn-fields"].values():
        jsonschema.Draft202012Validator.check_schema(field["schema"])
        jsonschema.validate(None, field["schema"])
        jsonschema.validate(field["schema"].get("default"), field["schema"])
    nodes = connection_type["conn-fields"]["nodes"]["schema"]
    jsonschema.validate(["http://host1:9401", ""], nodes)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(0, connection_type["conn-fields"]["read_timeout"]["schema"])


def test_no_field_of_airflow_s_own_is_hidden():
    """Test on 3.3.2 fails on a connection without a port, and what is hidden cannot be filled in."""
    (connection_type,) = get_provider_info()["connection-types"]
    assert connection_type["ui-field-behaviour"]["hidden-fields"] == []


def test_airflow_takes_the_hook_and_every_field_of_its_form():
    manager = ProvidersManager()
    hook = manager.hooks["qcache"]
    assert hook is not None
    assert (hook.hook_name, hook.connection_id_attribute_name) == ("QCache", "qcache_conn_id")
    assert hook.connection_testable
    widgets = manager.connection_form_widgets
    assert [name for name in widgets if name.startswith("extra__qcache__")] == [
        f"extra__qcache__{name}" for name in NAMES
    ]
    behaviour = manager.field_behaviours["qcache"]
    assert behaviour["placeholders"]["port"] == "default: 8888"
    assert behaviour["placeholders"]["extra__qcache__deadline"] == "default: 600.0"


def test_the_form_s_libraries_are_loaded_for_the_form_only():
    code = (
        "import sys\n"
        "import airflow_provider_qcache.hooks.qcache\n"
        "print(*sorted({'wtforms', 'flask_appbuilder'} & set(sys.modules)))"
    )
    before = "import sys, airflow.providers.common.compat.sdk as sdk; sdk.BaseHook; " + code.splitlines()[-1]
    assert output(code) == output(before)


@pytest.mark.parametrize("module", ["airflow_provider_qcache", "airflow_provider_qcache.provider_info"])
def test_what_airflow_imports_everywhere_imports_nothing(module):
    """Every process that imports airflow.sdk imports these, and asks for the info."""
    code = (
        "import sys; before = set(sys.modules)\n"
        f"import {module} as module\n"
        "getattr(module, 'get_provider_info', dict)()\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    allowed = {
        "__future__",
        "airflow_provider_qcache",
        "airflow_provider_qcache.connection_fields",
        "airflow_provider_qcache.provider_info",
    }
    assert set(output(code).split()) <= allowed


def output(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_the_page_has_the_tables_that_the_fields_make():
    """`python scripts/connection_table.py` writes them."""
    page = PAGE.read_text()
    assert page == with_tables(page)


def test_no_placeholder_looks_like_a_value():
    """A form shows it in the place of a value: it says in words that it is a default or an example."""
    for field in (*STANDARD, *EXTRA):
        assert field.placeholder.startswith(("default: ", "for example ")), field


def test_the_field_that_is_needed_first_comes_first():
    assert (STANDARD[0].name, STANDARD[0].label) == ("host", "Nodes")
    assert len({field.label for field in (*STANDARD, *EXTRA)}) == len(STANDARD) + len(EXTRA)
