"""The hook: one Airflow connection, one client."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

from airflow_provider_qcache.client import (
    BulkReport,
    DeleteResult,
    NodeStatus,
    OperationCancelled,
    QClient,
    QueryResult,
    StoreResult,
)
from airflow_provider_qcache.compat import BaseHook
from airflow_provider_qcache.connection import ConnectionSettings, parse_connection
from airflow_provider_qcache.connection_fields import CONN_TYPE, HOOK_NAME

if TYPE_CHECKING:
    from collections import defaultdict
    from collections.abc import Callable, Iterable, Mapping

    from airflow_provider_qcache.client import QClientException, RequestRetry
    from airflow_provider_qcache.client.body import Content


class QCacheHook(BaseHook):
    """The tables of the QCache cluster that a connection names.

    It has the operations of its client, QClient, by the same names. The client is made at first use and is
    one for the hook's life; ``close()`` it, or use ``with``. Safe for threads.

    Args:
        qcache_conn_id: The connection, of type ``qcache``.
        request_retry: How failed requests are asked again: None for what the connection says, a RequestRetry
            in its place, or a dict of RequestRetry's fields, each in the place of the connection's.
    """

    conn_name_attr = "qcache_conn_id"
    default_conn_name = "qcache_default"
    conn_type = CONN_TYPE
    hook_name = HOOK_NAME

    def __init__(
        self,
        qcache_conn_id: str = default_conn_name,
        *,
        request_retry: RequestRetry | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.qcache_conn_id = qcache_conn_id
        self.request_retry = request_retry
        self._making = threading.Lock()
        self._client: QClient | None = None
        self._cancelled = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.qcache_conn_id!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def settings(self) -> ConnectionSettings:
        """The connection, read and checked.

        Raises:
            InvalidConnection: naming the field, the value and what is allowed.
        """
        return parse_connection(self.get_connection(self.qcache_conn_id))

    def get_conn(self) -> QClient:
        """The hook's client, made at first use."""
        client = self._client
        if client is None:
            with self._making:
                client = self._client
                if client is None:
                    client = self._client = QClient(**self.settings().client_arguments(self.request_retry))
        if self._cancelled:
            raise OperationCancelled(f"the hook of connection {self.qcache_conn_id!r} was cancelled")
        return client

    def close(self) -> None:
        """End the client, and what is in progress; a later use makes a new one."""
        with self._making:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def cancel(self) -> None:
        """End what is in progress with OperationCancelled, within a second, and let nothing more begin.

        It takes no lock: it may be called from any thread and from a signal handler, also before there is a
        client.
        """
        self._cancelled = True
        client = self._client
        if client is not None:
            client.cancel()

    # The client's operations.

    def get(
        self,
        key: str,
        q: Any,
        accept: str = "application/json",
        post_query: bool = False,  # noqa: FBT001, FBT002  # qclient's signature
        query_headers: Mapping[str, str] | None = None,
    ) -> QueryResult | None:
        """Query the table stored under a key; see QClient.get."""
        return self.get_conn().get(key, q, accept, post_query, query_headers)

    def post(
        self,
        key: str,
        content: Content,
        content_type: str = "text/csv",
        post_headers: Mapping[str, str] | None = None,
        *,
        compression: str | None = None,
        copies: int = 1,
        evict_stale: bool = False,
        check_row_count: bool = False,
    ) -> StoreResult:
        """Store a table under a key; see QClient.post."""
        return self.get_conn().post(
            key,
            content,
            content_type,
            post_headers,
            compression=compression,
            copies=copies,
            evict_stale=evict_stale,
            check_row_count=check_row_count,
        )

    def query(
        self,
        key: str,
        q: Any,
        load_fn: Callable[..., Content],
        load_fn_kwargs: Mapping[str, Any] | None = None,
        content_type: str = "text/csv",
        accept: str = "application/json",
        post_headers: Mapping[str, str] | None = None,
        post_query: bool = False,  # noqa: FBT001, FBT002  # qclient's signature
        query_headers: Mapping[str, str] | None = None,
    ) -> QueryResult:
        """Query a table, loading and storing it where there is none; see QClient.query."""
        return self.get_conn().query(
            key, q, load_fn, load_fn_kwargs, content_type, accept, post_headers, post_query, query_headers
        )

    def delete(self, key: str, *, all_nodes: bool = False) -> DeleteResult | None:
        """Delete the table under a key; see QClient.delete."""
        return self.get_conn().delete(key, all_nodes=all_nodes)

    def get_statistics(self) -> defaultdict[str, dict[str, int]]:
        """Take what the client counted per node since this was last called; see QClient.get_statistics."""
        return self.get_conn().get_statistics()

    def post_many(
        self,
        tables: Mapping[str, Content] | Iterable[tuple[str, Content]],
        content_type: str = "text/csv",
        post_headers: Mapping[str, str] | None = None,
        *,
        compression: str | None = None,
        copies: int = 1,
        evict_stale: bool = False,
        check_row_count: bool = False,
        raise_on_failure: bool = True,
    ) -> BulkReport:
        """Store many tables; see QClient.post_many."""
        return self.get_conn().post_many(
            tables,
            content_type,
            post_headers,
            compression=compression,
            copies=copies,
            evict_stale=evict_stale,
            check_row_count=check_row_count,
            raise_on_failure=raise_on_failure,
        )

    def delete_many(
        self, keys: Iterable[str], *, all_nodes: bool = False, raise_on_failure: bool = True
    ) -> BulkReport:
        """Delete many keys; see QClient.delete_many."""
        return self.get_conn().delete_many(keys, all_nodes=all_nodes, raise_on_failure=raise_on_failure)

    def node_for_key(self, key: str) -> str:
        """The key's home node, whether it is alive or not."""
        return self.get_conn().node_for_key(key)

    def successors(self, key: str) -> tuple[str, ...]:
        """Every node in the order in which the key is looked for, its home first."""
        return self.get_conn().successors(key)

    def node_status(self, *, probe: bool = False) -> dict[str, NodeStatus]:
        """Every node as the client knows it; see QClient.node_status."""
        return self.get_conn().node_status(probe=probe)

    def node_statistics(self) -> dict[str, dict[str, Any] | QClientException]:
        """Every node's own statistics; see QClient.node_statistics."""
        return self.get_conn().node_statistics()
