"""The arguments that are about many tables, and every form in which one of them may come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from airflow_provider_qcache.operators import _arguments as rules
from airflow_provider_qcache.operators._content import Table, table_of, upload_from
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
    content_type = given["content_type"]

    def upload(key: str, content: Any) -> Any:
        if not isinstance(content, Table):
            with permanent(ValueError, TypeError):
                content = table_of(f"tables: {key!r}", content, content_type, functions=True)
        return upload_from(content, given)

    return upload
