"""The hook: one Airflow connection, one client."""

from __future__ import annotations

import os
import ssl
import threading
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from requests.utils import get_netrc_auth

from airflow_provider_qcache.client import (
    Absence,
    BulkReport,
    DeleteResult,
    KeptTable,
    NodeStatus,
    OperationCancelled,
    QClient,
    QClientException,
    QueryResult,
    StoreResult,
)
from airflow_provider_qcache.compat import AirflowNotFoundException, BaseHook
from airflow_provider_qcache.connection import (
    ConnectionSettings,
    InvalidConnection,
    check_request_retry,
    parse_connection,
)
from airflow_provider_qcache.connection_fields import CONN_TYPE, HOOK_NAME
from airflow_provider_qcache.hooks import form
from airflow_provider_qcache.hooks.failovers import Failovers
from airflow_provider_qcache.hooks.node_check import check_nodes

if TYPE_CHECKING:
    from collections import defaultdict
    from collections.abc import Callable, Container, Iterable, Mapping

    from airflow_provider_qcache.client import RequestRetry
    from airflow_provider_qcache.client.body import Content
    from airflow_provider_qcache.client.upload import Upload


class QCacheHook(BaseHook):
    """The tables of the QCache cluster that a connection names.

    It has the operations of its client, QClient, by the same names. The client is made at first use and is
    one for the hook's life; ``close()`` it, or use ``with``. Safe for threads.

    Args:
        qcache_conn_id: The connection, of type ``qcache``.
        request_retry: How failed requests are asked again: None for what the connection says, a RequestRetry
            in its place, or a dict of RequestRetry's fields, each in the place of the connection's.

    Raises:
        ValueError: request_retry is none of these, or has an unknown field or a bad value.
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
        check_request_retry(request_retry)
        self.qcache_conn_id = qcache_conn_id
        self.request_retry = request_retry
        self._making = threading.Lock()
        self._client: QClient | None = None
        self._cancelled = False
        self._failovers = Failovers(self.log)

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
        """The hook's client, made at first use.

        Raises:
            InvalidConnection: naming the field, the value and what is allowed.
            OperationCancelled: after ``cancel()``.
        """
        client = self._client
        if client is None:
            with self._making:
                client = self._client
                if client is None:
                    client = QClient(**self._client_arguments())
                    client.add_listener(self._failovers)
                    self._client = client
        if self._cancelled:
            raise OperationCancelled(f"the hook of connection {self.qcache_conn_id!r} was cancelled")
        return client

    def _client_arguments(self) -> dict[str, Any]:
        settings = self.settings()
        _check_files(settings)
        _check_netrc(settings)
        return settings.client_arguments(self.request_retry)

    def test_connection(self) -> tuple[bool, str]:
        """Ask every node for its status, all at once: within connect plus read timeout, 10 s at most.

        Returns:
            Whether every node can be used, and a text that names each with its time or its trouble.
        """
        try:
            checks = check_nodes(self._client_arguments())
        except (InvalidConnection, AirflowNotFoundException) as error:
            return False, str(error)
        troubled = [check for check in checks if check.trouble is not None]
        if troubled:
            said = f"{len(troubled)} of {len(checks)} nodes cannot be used"
        else:
            said = f"{len(checks)} nodes answer" if len(checks) > 1 else "the node answers"
        # Those in trouble first: a form may show no more than the beginning.
        listed = sorted(checks, key=lambda check: check.trouble is None)
        return not troubled, f"{said}. " + "; ".join(map(str, listed))

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """The form's fields on Airflow before 3.2, by name; later ones read provider_info."""
        return form.widgets()

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """The form's labels and placeholders on Airflow before 3.2."""
        return form.field_behaviour()

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
        client = self.get_conn()
        with self._failovers.of(f"query table {key!r}", client, key) as way:
            result = client.get(key, q, accept, post_query, query_headers)
            way.node = result.node if result is not None else None
        return result

    def post(
        self,
        key: str,
        content: Content | Upload,
        content_type: str = "text/csv",
        post_headers: Mapping[str, str] | None = None,
        *,
        compression: str | None = None,
        copies: int = 1,
        evict_stale: bool = False,
        check_row_count: bool = False,
    ) -> StoreResult:
        """Store a table under a key; see QClient.post."""
        client = self.get_conn()
        return self._failovers.told(
            key,
            lambda: client.post(
                key,
                content,
                content_type,
                post_headers,
                compression=compression,
                copies=copies,
                evict_stale=evict_stale,
                check_row_count=check_row_count,
            ),
        )

    def post_table(
        self,
        key: str,
        table: Any,
        *,
        content_type: str | None = None,
        column_types: Mapping[str, str] | None = None,
        stand_in_columns: Mapping[str, Any] | None = None,
        post_headers: Mapping[str, str] | None = None,
        compression: str | None = None,
        copies: int = 1,
        evict_stale: bool = False,
        check_row_count: bool = False,
    ) -> StoreResult:
        """Store a data frame, an Arrow table or a list of dicts under a key; see QClient.post_table."""
        client = self.get_conn()
        return self._failovers.told(
            key,
            lambda: client.post_table(
                key,
                table,
                content_type=content_type,
                column_types=column_types,
                stand_in_columns=stand_in_columns,
                post_headers=post_headers,
                compression=compression,
                copies=copies,
                evict_stale=evict_stale,
                check_row_count=check_row_count,
            ),
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
        client = self.get_conn()
        with self._failovers.of(f"query table {key!r}", client, key) as way:
            result = client.query(
                key, q, load_fn, load_fn_kwargs, content_type, accept, post_headers, post_query, query_headers
            )
            way.node = result.node
        return result

    def delete(self, key: str, *, all_nodes: bool = False) -> DeleteResult:
        """Delete the table under a key; see QClient.delete."""
        client = self.get_conn()
        if all_nodes:
            return client.delete(key, all_nodes=True)
        with self._failovers.of(f"delete table {key!r}", client, key) as way:
            result = client.delete(key)
            way.node = list(result.outcomes)[-1]  # the one that answered, after those before it
        return result

    def get_statistics(self) -> defaultdict[str, dict[str, int]]:
        """Take what the client counted per node since this was last called; see QClient.get_statistics."""
        return self.get_conn().get_statistics()

    def post_many(
        self,
        tables: Mapping[str, Any] | Iterable[tuple[str, Any]],
        content_type: str | None = None,
        post_headers: Mapping[str, str] | None = None,
        *,
        compression: str | None = None,
        copies: int = 1,
        evict_stale: bool = False,
        check_row_count: bool = False,
        raise_on_failure: bool = True,
        prepare: Callable[[str, Any], Any] | None = None,
        keep: Container[str] = (),
        on_done: Callable[[str, StoreResult | KeptTable | Exception], object] | None = None,
    ) -> BulkReport:
        """Store many tables; see QClient.post_many. With ``on_done`` no failover of a key is logged."""
        report = self.get_conn().post_many(
            tables,
            content_type,
            post_headers,
            compression=compression,
            copies=copies,
            evict_stale=evict_stale,
            check_row_count=check_row_count,
            raise_on_failure=False,
            prepare=prepare,
            keep=keep,
            on_done=on_done,
        )
        for result in report.succeeded.values():
            if isinstance(result, StoreResult):
                self._failovers.tell_of_store(result)
        for key, error in report.failed.items():
            self._failovers.tell_of_failed_store(key, error)
        if raise_on_failure:
            report.raise_for_failures()
        return report

    def delete_many(
        self,
        keys: Iterable[str],
        *,
        all_nodes: bool = False,
        raise_on_failure: bool = True,
        on_done: Callable[[str, DeleteResult | Exception], object] | None = None,
    ) -> BulkReport:
        """Delete many keys; see QClient.delete_many."""
        return self.get_conn().delete_many(
            keys, all_nodes=all_nodes, raise_on_failure=raise_on_failure, on_done=on_done
        )

    def find_absent(self, places: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Absence]:
        """Which tables are not where they were stored; see QClient.find_absent."""
        return self.get_conn().find_absent(places)

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


def _check_files(settings: ConnectionSettings) -> None:
    """Refuse files that cannot be used by the names of their fields, as the client does not know them."""
    files: dict[str, str] = {}
    for name in ("ca_file", "cert_file", "key_file"):
        value = getattr(settings, name)
        if value is None:
            continue
        path = files[name] = os.path.expanduser(value)  # noqa: PTH111  # Path raises for an unknown user
        # A CA bundle may be a directory.
        if not os.path.exists(path):  # noqa: PTH110  # Path raises where it may not look
            raise InvalidConnection(
                f"connection {settings.conn_id!r}: {name}={value!r}: no such file on this machine, or it may "
                "not be read"
            )
    if any(urlsplit(node).scheme == "https" for node in settings.nodes):
        _check_certificates(settings, files)


def _check_certificates(settings: ConnectionSettings, files: Mapping[str, str]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def refused(what: str, error: Exception, *names: str) -> InvalidConnection:
        given = " and ".join(f"{name}={getattr(settings, name)!r}" for name in names)
        return InvalidConnection(f"connection {settings.conn_id!r}: {given}: {what} ({error})")

    if (ca := files.get("ca_file")) is not None:
        try:
            if os.path.isdir(ca):  # noqa: PTH112
                context.load_verify_locations(capath=ca)
            else:
                context.load_verify_locations(cafile=ca)
        except (OSError, ssl.SSLError) as error:
            raise refused("no CA certificates could be read there", error, "ca_file") from error
    if (certificate := files.get("cert_file")) is not None:
        try:
            # Without a password the terminal would be asked for one.
            context.load_cert_chain(certificate, files.get("key_file"), password="")
        except (OSError, ssl.SSLError) as error:
            names = [name for name in ("cert_file", "key_file") if name in files]
            what = "no certificate and key without a password could be read there"
            raise refused(what, error, *names) from error


def _check_netrc(settings: ConnectionSettings) -> None:
    """Refuse credentials of the environment's netrc where the connection's own would be."""
    if settings.auth is not None or settings.allow_auth_over_http or not settings.trust_env:
        return
    for node in settings.nodes:
        if urlsplit(node).scheme == "http" and get_netrc_auth(node) is not None:
            raise InvalidConnection(
                f"connection {settings.conn_id!r}: the environment's netrc has credentials for {node}, which "
                "would go unencrypted: use https, or set trust_env to false or allow_auth_over_http to true"
            )
