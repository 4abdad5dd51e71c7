"""What a template gave: None is text in a template of text, and 'None' is a key and a path as any other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from airflow_provider_qcache.operators._arguments import is_known_at_run_time_only, is_nothing


class RenderedToNothing:
    """In place of a value whose template, or upstream task, gave None, Undefined or an empty value."""

    def __init__(self, place: str = "", given: Any = "") -> None:
        self.place = place
        self.given = str(given)

    def __str__(self) -> str:
        return "(nothing)"

    __repr__ = __str__


class NoneWatch:
    """A Jinja ``finalize`` that notes an expression whose value is None, and changes nothing.

    Args:
        finalize: The environment's own, which is asked first.
        objects: Whether None is a value like others where it is rendered as an object.
    """

    def __init__(self, finalize: Callable[[Any], Any] | None, *, objects: bool) -> None:
        self._finalize = finalize
        self._objects = objects
        self._met = False

    def __call__(self, value: Any) -> Any:
        if self._finalize is not None:
            value = self._finalize(value)
        self._met |= value is None
        return value

    def judged(self, rendered: Any) -> Any:
        """What one template gave, or RenderedToNothing; the next is watched from here."""
        met, self._met = self._met, False
        return RenderedToNothing() if met and (isinstance(rendered, str) or not self._objects) else rendered


def watched(jinja_env: Any, *, objects: bool = False) -> Any:
    """The environment with a NoneWatch; as it is where its own ``finalize`` needs more than a value."""
    own = jinja_env.finalize
    if hasattr(own, "jinja_pass_arg"):
        return jinja_env
    # What is None as a template is compiled is met then, and not again: none is taken from a cache.
    return jinja_env.overlay(finalize=NoneWatch(own, objects=objects), cache_size=0)


def unwatched(jinja_env: Any) -> Any:
    """The environment that ``watched`` was given."""
    return jinja_env.linked_to if isinstance(jinja_env.finalize, NoneWatch) else jinja_env


def nothing_in(name: str, given: Any, rendered: Any, *, objects: bool) -> RenderedToNothing | None:
    """The first value inside an argument that came to nothing; with ``objects`` only where it became text."""
    for place, before, after in _pairs(name, given, rendered):
        came = not objects and is_known_at_run_time_only(before) and is_nothing(after)
        if came or isinstance(after, RenderedToNothing):
            return RenderedToNothing(place, before)
    return None


def _pairs(place: str, given: Any, rendered: Any) -> Iterator[tuple[str, Any, Any]]:
    """Each value inside an argument, as it was given and as it was rendered."""
    if isinstance(given, Mapping) and isinstance(rendered, Mapping):
        for name, value in given.items():
            yield from _pairs(f"{place}[{name!r}]", value, rendered.get(name))
    elif isinstance(given, list | tuple) and isinstance(rendered, list | tuple):
        for number, (before, after) in enumerate(zip(given, rendered, strict=False)):
            yield from _pairs(f"{place}[{number}]", before, after)
    elif isinstance(given, set) and isinstance(rendered, set):
        templates = " and ".join(sorted(filter(is_known_at_run_time_only, map(str, given))))
        for value in rendered:
            yield place, templates, value
    else:
        yield place, given, rendered
