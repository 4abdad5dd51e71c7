"""Send the hook's metrics by Airflow's Stats, and spans by OpenTelemetry if Airflow records them.

Nothing here may fail an operation: errors are logged at debug level.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import re
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.client import BulkReport, DeleteResult, Listener, QueryResult, StoreResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_qcache.hooks.qcache import QCacheHook

_log = logging.getLogger("airflow_provider_qcache.metrics")

_MEASURED: Final = frozenset({"get", "query", "post", "post_table", "post_many", "delete", "delete_many"})
"""The operations that are measured and traced."""

_NO_TAG: Final = re.compile(r"[^A-Za-z0-9_.-]")
"""Characters with another meaning in a line of StatsD, or in Airflow."""


def node_tag(node: str) -> str:
    """A node as the value of a tag: ``host1_8888``."""
    return _NO_TAG.sub("_", node.rpartition("@")[2].partition("://")[2] or node)


class Metrics(Listener):
    """The metrics of one hook, which listens to its client for nodes that fail and recover."""

    def __init__(self, hook: QCacheHook) -> None:
        self._hook = hook

    def _send(self, method: str, name: str, value: Any, **tags: str) -> None:
        try:
            from airflow_provider_qcache.compat import Stats  # noqa: PLC0415  # it loads Airflow's metrics

            tags = {"conn_id": self._hook.qcache_conn_id, "operator": self._hook.used_by, **tags}
            tags = {tag: _NO_TAG.sub("_", text) for tag, text in tags.items()}
            getattr(Stats, method)(f"qcache.{name}", value, tags=tags)
        except Exception:  # noqa: BLE001  # the operation is done
            _log.debug("Cannot send the metric qcache.%s", name, exc_info=True)

    def node_failed(self, node: str, error: str) -> None:
        """Count a node that failed."""
        del error
        self._send("incr", "node.failed", 1, node=node_tag(node))

    def node_recovered(self, node: str) -> None:
        """Count a node that recovered."""
        self._send("incr", "node.recovered", 1, node=node_tag(node))

    def gauge(self, name: str, value: float, node: str) -> None:
        """Send a number from a node's own statistics."""
        self._send("gauge", f"node.{name}", value, node=node_tag(node))

    @contextlib.contextmanager
    def of(self, operation: str, key: str | None) -> Iterator[Callable[[object], None]]:
        """Measure an operation; yields a function to call with each result, None for a miss."""
        if operation not in _MEASURED:
            yield lambda _: None
            return
        started = dt.datetime.now(dt.UTC)
        with _span(f"qcache.{operation}", self._hook.qcache_conn_id, key) as span:

            def note(result: object) -> None:
                try:
                    for field in ("node", "rows", "bytes"):
                        value = getattr(result, field, None)
                        if span is not None and key is not None and value is not None:
                            span.set_attribute(f"qcache.{field}", value)
                    self._note(result, started, key)
                except Exception:  # noqa: BLE001  # metrics never fail an operation
                    _log.debug("Cannot send the metrics of an operation", exc_info=True)

            try:
                yield note
            except Exception as error:
                self._send("incr", "failures", 1, operation=operation, error=type(error).__name__)
                raise

    def _note(self, result: object, started: dt.datetime, key: str | None) -> None:
        taken = dt.datetime.now(dt.UTC) - started
        if isinstance(result, StoreResult):
            node = node_tag(result.node)
            self._send("timing", "store.duration", dt.timedelta(seconds=result.seconds), node=node)
            self._send("incr", "store.bytes", result.bytes, node=node)
            if result.rows is not None:
                self._send("incr", "store.rows", result.rows, node=node)
            if result.failed_over:
                self._send("incr", "failovers", 1, node=node)
        elif isinstance(result, QueryResult):
            node = node_tag(result.node)
            self._send("timing", "query.duration", taken, node=node)
            self._send("incr", "query.bytes", len(result.content), node=node)
            if key is not None and result.node != self._hook.get_conn().node_for_key(key):
                self._send("incr", "failovers", 1, node=node)
        elif isinstance(result, BulkReport):
            for one in result.succeeded.values():
                self._note(one, started, one.key)
        elif isinstance(result, DeleteResult):
            self._send("timing", "delete.duration", taken)
        elif result is None:
            self._send("incr", "query.misses", 1)


@contextlib.contextmanager
def _span(name: str, conn_id: str, key: str | None) -> Iterator[Any]:
    """A span of OpenTelemetry, which is recorded if Airflow's tracing has set a tracer provider, or None."""
    try:
        from opentelemetry import trace  # noqa: PLC0415  # it is optional
    except ImportError:
        yield None
        return
    with trace.get_tracer("airflow_provider_qcache").start_as_current_span(name) as span:
        span.set_attribute("qcache.conn_id", conn_id)
        if key is not None:
            span.set_attribute("qcache.key", key)
        yield span
