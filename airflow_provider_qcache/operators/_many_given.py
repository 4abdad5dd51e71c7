"""The arguments that are about many tables, and every form in which one of them may come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from airflow_provider_qcache.operators import _arguments as rules
from airflow_provider_qcache.operators._content import check_description, table_headers, table_of
from airflow_provider_qcache.operators._failures import permanent
from airflow_provider_qcache.operators._wrapped import TableContent, named_callable, table_content

_PAIRS: Final = "a mapping of keys to tables, or an iterable of (key, table) pairs,"
_WANTED: Final = "a mapping of keys to tables, not empty, or a function that gives (key, table) pairs,"


def given_tables(value: Any, *, literal: bool) -> Any:
    """``tables`` as the operator keeps it: a function by its name, anything else as content."""
    return named_callable(value) if callable(value) else table_content(value, literal=literal)


def checked_tables(name: str, value: Any) -> Any:
    """The rule for ``tables``."""
    if callable(value):
        return value
    tables = value.value if isinstance(value, TableContent) else value
    if not isinstance(tables, Mapping) or not tables:
        raise rules.refused(name, tables, _WANTED)
    for key in tables:
        rules.key(f"{name}: key", key)
    return value


def pairs_of(returned: Any) -> Iterable[tuple[str, Any]]:
    """The (key, table) pairs in what a function returned; TypeError for what has none."""
    if isinstance(returned, Mapping):
        return returned.items()
    if isinstance(returned, str | bytes) or not isinstance(returned, Iterable):
        raise TypeError(f"tables: what the function returned is {rules.shown(returned)}: {_PAIRS} is wanted")
    return returned


def none_or_more(name: str, value: Any) -> int:
    """An integer of 0 or more; a template's string may say so."""
    wanted = "an integer of 0 or more"
    found = value
    if isinstance(value, str):
        try:
            found = int(value)
        except ValueError:
            raise rules.refused(name, value, wanted) from None
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise rules.refused(name, value, wanted)
    return found


def uploads(given: Mapping[str, Any]) -> Callable[[str, Any], Any]:
    """A function that gives, for a key and its table in any form, what the client sends."""
    from airflow_provider_qcache.client.tables import (  # noqa: PLC0415  # it loads the client
        is_table,
        table_upload,
        upload_for,
    )

    content_type, compression = given["content_type"], given["compression"]
    types, stand_ins = given["column_types"], given["stand_in_columns"]

    def upload(key: str, content: Any) -> Any:
        with permanent(ValueError, TypeError):
            if is_table(content):
                return table_upload(
                    content,
                    content_type=content_type,
                    headers=given["headers"],
                    column_types=types,
                    stand_in_columns=stand_ins,
                    compression=compression,
                )
            table = table_of(f"tables: {key!r}", content, content_type, functions=True)
            check_description(table.content_type, given["headers"], types, stand_ins)
            headers = table_headers(given["headers"], types, stand_ins)
            return upload_for(table.body, table.content_type, headers, compression)

    return upload
