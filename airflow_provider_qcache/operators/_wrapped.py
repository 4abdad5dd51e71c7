"""Values that Airflow is to leave alone: neither rendered by Jinja, nor called, nor shown at length.

Airflow renders what ``template_fields`` names, sets dependencies from it and shows it. A table of 100,000
rows was with Jinja for 264 s; a function is called, and 2.11 shows it with its address, which is another one
at every parse and with it the DAG's hash. Wrapped, each is passed on as it is and shown in a few words.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from airflow_provider_qcache.compat import ResolveMixin, XComArg
from airflow_provider_qcache.operators._arguments import counted, is_path


class TableContent(ResolveMixin):
    """A table, or a reference to one that another task gives.

    ``value`` is what was given, or found in its place; ``literal`` says that it is written in the DAG.
    """

    def __init__(self, value: Any, *, literal: bool = True) -> None:
        self.value = value
        self._references = tuple(XComArg.iter_xcom_references(value))
        self.literal = literal and not self._references

    @property
    def resolved(self) -> bool:
        """Whether the table is here."""
        return not self._references

    def iter_references(self) -> Iterator[tuple[Any, str]]:
        """The tasks and XCom keys that the value comes from, for Airflow to make them upstream."""
        yield from self._references

    def resolve(self, context: Mapping[str, Any], **options: Any) -> TableContent:
        """The same with what other tasks gave in place of the references; what Airflow calls to render it."""
        if self.resolved:
            return self
        return TableContent(_resolved(self.value, context, options), literal=False)

    def __str__(self) -> str:
        """What it is and how much, for people: never the content."""
        if self._references:
            tasks = ", ".join(
                f"task {operator.task_id!r}" + (f" (XCom {key!r})" if key != "return_value" else "")
                for operator, key in self._references
            )
            return f"a table from {tasks}"
        value = self.value
        if isinstance(value, str):
            return counted(len(value), "character")
        if isinstance(value, bytes | bytearray | memoryview):
            return counted(len(value), "byte")
        if is_path(value):
            return str(value)
        if isinstance(value, Sequence):
            return counted(len(value), "row")
        if is_frame(value):
            return f"{type(value).__module__.partition('.')[0]} {type(value).__name__}"
        if isinstance(value, Mapping):
            return counted(len(value), "table")
        return type(value).__name__

    __repr__ = __str__


def is_frame(value: Any) -> bool:
    """Whether a value speaks Arrow: a DataFrame, a table, a stream of batches, a relation."""
    return hasattr(type(value), "__arrow_c_stream__") or hasattr(type(value), "__arrow_c_array__")


def _resolved(value: Any, context: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    if isinstance(value, ResolveMixin):
        return value.resolve(context, **options)
    if isinstance(value, list | tuple):
        return [_resolved(one, context, options) for one in value]
    if isinstance(value, dict):
        return {key: _resolved(one, context, options) for key, one in value.items()}
    return value


def table_content(value: Any, *, literal: bool = True) -> TableContent | None:
    """The value wrapped, once; None stays None."""
    if value is None or isinstance(value, TableContent):
        return value
    return TableContent(value, literal=literal)


class NamedCallable:
    """A function that is shown by its name."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        named = function
        while isinstance(named, functools.partial):
            named = named.func
        if not hasattr(named, "__qualname__"):
            named = type(named)
        functools.update_wrapper(self, named, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __str__(self) -> str:
        return f"<callable {self.__module__}.{self.__qualname__}>"  # type: ignore[attr-defined]

    __repr__ = __str__


def named_callable(value: Any) -> Any:
    """The function wrapped, once; what is no function is left for the argument's rule to refuse."""
    if not callable(value) or isinstance(value, NamedCallable):
        return value
    return NamedCallable(value)
