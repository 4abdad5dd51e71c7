"""Log what a task would do, for ``dry_run()``; no node is changed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.operators._arguments import counted, short_repr
from airflow_provider_qcache.operators._keys import KeyHandover
from airflow_provider_qcache.operators._report import format_error, log_failure

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from airflow_provider_qcache.client.tables.upload import Upload
    from airflow_provider_qcache.hooks.qcache import QCacheHook

_MOST_LOCATED: Final = 10
"""Keys for which every node is asked."""


def check_upload(upload: Upload) -> None:
    """Read the content to its end, with every check of a store. Raises InvalidTable."""
    upload.check_before_sending()
    for _ in upload.body()[0]:
        pass


def log_places(hook: QCacheHook, keys: Sequence[str], log: logging.Logger) -> None:
    """Log each key's nodes in the order in which readers ask them, with what each has now."""
    for key in keys[:_MOST_LOCATED]:
        places = "; ".join(map(str, hook.locate(key)))
        log.info("Nodes of %r, in the order in which they are asked: %s", key, places)
    if len(keys) > _MOST_LOCATED:
        log.info("And %s more", counted(len(keys) - _MOST_LOCATED, "key"))


def would_store(hook: QCacheHook, key: str, upload: Upload, log: logging.Logger) -> None:
    """Check a table, and log what a store would send and where."""
    check_upload(upload)
    rows = "rows not counted" if upload.rows is None else counted(upload.rows, "row")
    size = f"{rows}, {upload.bytes:,} bytes"
    log.info("Would store table %r on %s: %s", key, hook.node_for_key(key), size)
    types = ", ".join(f"{name} {kind or 'inferred by the node'}" for name, kind in upload.schema.items())
    log.info("Columns: %s", types)
    log_places(hook, [key], log)


def would_store_many(
    hook: QCacheHook,
    pairs: Iterable[tuple[str, Any]],
    prepare: Callable[[str, Any], Any] | None,
    arguments: Mapping[str, Any],
    log: logging.Logger,
) -> None:
    """Check many tables, one at a time, and log what would be stored on which node, and what deleted."""
    earlier = KeyHandover(arguments, log)
    nodes: Counter[str] = Counter()
    keys: list[str] = []
    rows = size = failed = 0
    for key, content in pairs:
        keys.append(key)
        try:
            with prepare(key, content) if prepare is not None else content as upload:
                check_upload(upload)
        except Exception as error:  # noqa: BLE001  # each key fails by itself, as in the task
            failed += 1
            log_failure(log, key, format_error(error), failed)
            continue
        rows += upload.rows or 0
        size += upload.bytes
        nodes[hook.node_for_key(key)] += 1
    absent = hook.find_absent((key, hook.node_for_key(key)) for key in keys)
    stored = f"{counted(len(keys) - failed, 'table')}: {counted(rows, 'row')}, {size:,} bytes"
    log.info("Would store %s; %s cannot be stored", stored, counted(failed, "table"))
    log.info("Home nodes: %s", ", ".join(f"{node}: {number:,}" for node, number in nodes.items()))
    log.info("On its home node now: %s of these keys", f"{len(keys) - len(absent):,}")
    if missing := earlier.missing(keys):
        would_delete(hook, missing, log)


def would_delete(hook: QCacheHook, keys: Sequence[str], log: logging.Logger) -> None:
    log.info("Would delete %s: %s", counted(len(keys), "table"), short_repr(list(keys)))
    log_places(hook, keys, log)
