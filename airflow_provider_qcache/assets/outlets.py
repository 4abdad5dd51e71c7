"""Update the assets of the tables that an operator stored or deleted: the outlets and the events' extra."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_qcache.assets.qcache import key_in, pattern_of, qcache_asset, statistics_uri
from airflow_provider_qcache.protocol import is_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_qcache.client import StoreResult

_ALIAS_NEEDED = (
    "emit_asset=True: the table's key is known only when the task runs: pass outlets=[AssetAlias(…)], or the "
    "asset itself in outlets"
)


def declare(operator: Any, key: str | None, conn_id: str | None) -> None:
    """Make the asset of the operator's table an outlet, unless the outlets have it or an alias.

    ``key``, a key or pattern, and ``conn_id`` are None where they are known only when the task runs.

    Raises:
        ValueError: the asset is not known yet, and the outlets have no alias for it.
    """
    if _has_alias(operator.outlets):
        return
    if key is None or conn_id is None:
        raise ValueError(_ALIAS_NEEDED)
    if not any(key_in(getattr(outlet, "uri", ""), conn_id) == key for outlet in operator.outlets or ()):
        operator.add_outlets([qcache_asset(key, conn_id)])


def check_mapped(arguments: Mapping[str, Any]) -> None:
    """Raise ValueError for arguments of ``partial()`` with ``emit_asset=True`` and no alias.

    Airflow reads the outlets of a mapped task before its keys are known.
    """
    outlets = arguments.get("outlets")
    listed = outlets if isinstance(outlets, list | tuple) else [outlets]
    if arguments.get("emit_asset") and not _has_alias(listed):
        raise ValueError(_ALIAS_NEEDED)


def attach(
    operator: Any, context: Mapping[str, Any], key: str, conn_id: str, extra: dict[str, Any], *, emit: bool
) -> None:
    """Set the extra of the event of each outlet for the key or pattern.

    With ``emit`` an alias gets the asset. ``extra`` has numbers, texts and lists of texts. A context without
    ``outlet_events``, as in a test without Airflow, changes nothing.
    """
    events = context.get("outlet_events")
    if events is None or not operator.outlets:
        return
    for outlet in operator.outlets:
        if _is_alias(outlet):
            if emit:
                # Airflow 2 puts an alias's extra into a set, so it must be hashable.
                hashable = {
                    name: tuple(value) if isinstance(value, list) else value for name, value in extra.items()
                }
                events[outlet].add(qcache_asset(key, conn_id), extra=hashable)
            continue
        # The URI is that of the key or pattern, or covers it by a "*" at its end.
        covered = key_in(getattr(outlet, "uri", ""), conn_id)
        if covered == key or (covered and covered.endswith("*") and key.startswith(covered[:-1])):
            events[outlet].extra.update(extra)


def keep_statistics(operator: Any, context: Mapping[str, Any], conn_id: str, nodes: dict[str, Any]) -> None:
    """Put the nodes' statistics into the event of ``qcache_statistics_asset``, if it is an outlet."""
    events = context.get("outlet_events")
    if events is None:
        return
    for outlet in operator.outlets:
        if getattr(outlet, "uri", None) == statistics_uri(conn_id):
            events[outlet].extra["nodes"] = nodes


def stored_table(stored: StoreResult) -> dict[str, Any]:
    """The extra of the event of one stored table."""
    values = stored.as_dict()
    names = ("key", "rows", "bytes", "node", "copies")
    return {"operation": "store", **{name: values[name] for name in names}}


def stored_tables(key: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The extra of the event of many stored tables, from the task's result."""
    counts = {name: summary[name] for name in ("stored", "were_there", "failed", "rows", "bytes")}
    return {"operation": "store", "keys": key, **counts, "nodes": sorted(summary["nodes"])}


def deleted_tables(key: str, number: int, counts: Mapping[str, int]) -> dict[str, Any]:
    """The extra of the event of deleted tables: how many deletes had each outcome."""
    return {"operation": "delete", "key" if number == 1 else "keys": key, "tables": number, **counts}


class KeysSeen:
    """Makes the pattern of keys that are iterated over, without keeping them."""

    def __init__(self) -> None:
        self.pattern: str | None = None

    def watch(self, keys: Any) -> Any:
        """The same keys, pairs of key and content, or mapping of them; other values are not changed."""
        if isinstance(keys, Mapping):
            return self._watched(keys.items())
        if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
            return keys
        return self._watched(keys)

    def _watched(self, items: Iterable[Any]) -> Iterator[Any]:
        for one in items:
            key = one[0] if isinstance(one, tuple | list) and one else one
            if isinstance(key, str) and is_key(key):  # the client refuses other keys
                self.pattern = key if self.pattern is None else pattern_of([self.pattern, key])
            yield one


def _is_alias(outlet: Any) -> bool:
    from airflow_provider_qcache.compat import AssetAlias  # noqa: PLC0415  # it loads Airflow's assets

    return isinstance(outlet, AssetAlias)


def _has_alias(outlets: Iterable[Any] | None) -> bool:
    return any(map(_is_alias, outlets or ()))
