"""The connection form of Airflow before 3.2, from the table of fields.

Its libraries, wtforms and Flask-AppBuilder, are there where that form is shown, and are loaded when it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_qcache.connection import InvalidConnection, check_value
from airflow_provider_qcache.connection_fields import EXTRA, ui_field_behaviour

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_qcache.connection_fields import Field


def widgets() -> dict[str, Any]:
    """A form field for each field of the extra, by its name.

    All are texts, numbers and booleans too: Airflow 2.11 shows a field whose stored value is false or 0 as
    if nothing were stored, and would save it so. As text it is "false" or "0", and stays.
    """
    from flask_appbuilder.fieldwidgets import BS3TextFieldWidget  # noqa: PLC0415
    from wtforms import StringField  # noqa: PLC0415
    from wtforms.validators import Optional  # noqa: PLC0415

    return {
        field.name: StringField(
            field.label,
            validators=[Optional(), _check(field)],
            description=field.description,
            widget=BS3TextFieldWidget(),
        )
        for field in EXTRA
    }


def _check(field: Field) -> Callable[[Any, Any], None]:
    """A validator that says what the parsing would say."""

    def check(form: Any, form_field: Any) -> None:
        del form
        from wtforms.validators import ValidationError  # noqa: PLC0415

        try:
            check_value(field, form_field.data)
        except InvalidConnection as error:
            raise ValidationError(str(error)) from None

    return check


def field_behaviour() -> dict[str, Any]:
    """Labels and placeholders; nothing is hidden."""
    return {"hidden_fields": [], **ui_field_behaviour()}
