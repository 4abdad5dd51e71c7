"""QClient, which has the signatures of qcache-client's class."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import random
import re
import threading
import weakref
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self
from urllib.parse import quote_plus

from airflow_provider_qcache.client import compression, errors
from airflow_provider_qcache.client.errors import (
    Attempt,
    InvalidTable,
    NoCacheAvailable,
    OperationCancelled,
    Outcome,
    QClientException,
    TooManyConsecutiveErrors,
    UnexpectedServerResponse,
    redacted,
)
from airflow_provider_qcache.client.many import ask_all, gathered_delete, run_bulk
from airflow_provider_qcache.client.nodes import NodePool, NodeStatus, Prober
from airflow_provider_qcache.client.operation import Done, Engine, Operation, Sender
from airflow_provider_qcache.client.outcome import OUTCOMES_OF_LIVING_NODES, Failure, RequestKind, count_in
from airflow_provider_qcache.client.results import (
    Absence,
    BulkReport,
    DeleteOutcome,
    DeleteResult,
    KeptTable,
    Place,
    QueryResult,
    StoreResult,
)
from airflow_provider_qcache.client.ring import Ring, check_key
from airflow_provider_qcache.client.secrets import spellings
from airflow_provider_qcache.client.settings import (
    ClientSettings,
    RequestRetry,
    SystemClock,
    check_count,
)
from airflow_provider_qcache.client.tables.headers import (
    MAX_HEAD_BYTES,
    check_header,
    header_text,
    update_headers,
)
from airflow_provider_qcache.client.tables.upload import Upload, is_table, table_upload, upload_of
from airflow_provider_qcache.client.transport import (
    NodeTransport,
    Request,
    SkippedPeer,
    close_only_here,
)
from airflow_provider_qcache.extras import how_to_install
from airflow_provider_qcache.node_identity import two_names
from airflow_provider_qcache.protocol import CSV, JSON

if TYPE_CHECKING:
    import ssl
    from collections import defaultdict
    from collections.abc import Callable, Container, Iterable, Iterator, Sequence

    from airflow_provider_qcache.client.outcome import Answer
    from airflow_provider_qcache.client.tables.content import Content
    from airflow_provider_qcache.client.transport import Peer

_log = logging.getLogger("airflow_provider_qcache.client")

_FOREVER: Final = float("inf")
_LONGEST_GET: Final = 8 * 1024
"""Bytes: a query whose request line would be longer is sent as POST, since proxies refuse longer ones."""

_BAD_CONTENT: Final = frozenset({400, 413, 415, 422, 500})
"""The statuses with which a node refuses a table; 500 if its parser fails."""

_ONE_ROW: Final = {"limit": 1}
_COUNT_ROWS: Final = {"select": [["count"]]}
_COUNT: Final = re.compile(rb'\s*\[\s*\{\s*"count"\s*:\s*([0-9]{1,20})\s*\}\s*\]\s*').fullmatch
"""Matches the answer to ``_COUNT_ROWS``."""

_DECIMAL: Final = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?").fullmatch

_NO_QUERY: Final = quote_plus('{"is it there":0}')
"""A clause that no node knows: a node that has the table refuses it, and any other answers 404."""

_JSON_UNCOMPRESSED: Final = b"Accept: application/json\r\nAccept-Encoding: identity\r\n"


class Listener:
    """Callbacks about a client's nodes: override the ones you need.

    The client calls them in the thread that noticed the event, and holds no lock. It logs the errors that
    they raise, and continues.
    """

    def node_failed(self, node: str, error: str) -> None:
        """A living node failed, with this error."""

    def node_recovered(self, node: str) -> None:
        """A failing node answered its status."""

    def attempt_failed(self, attempt: Attempt) -> None:
        """One request failed."""


class QClient:
    """A client for the tables of a QCache cluster: qclient 0.5.1's, with bounded time and clear errors.

    >>> client = QClient(["http://host1:9401", "http://host2:9401", "http://host3:9401"])
    >>> result = client.get("someKey", {"select": ["col1"], "where": ["<", "col", 1]})

    Safe for threads. ``close()`` it, or use ``with``.

    Args:
        node_list: The nodes' URLs, spelled as by every other reader and writer: the strings are hashed as
            written.
        connect_timeout: Seconds for a connection, TLS included.
        read_timeout: Seconds until the response headers, and between the parts of the response body.
        verify: False, True (the environment's CA bundle, else that of requests) or the path of a CA bundle,
            which replaces the environment's.
        cert: A client certificate: the path of a file with the key in it, or (certificate, key).
        auth: (login, password) for basic auth, both without ':', or an auth object of requests, which is
            called once per node.
        consecutive_error_count_limit: The number of failed requests that ends an operation. Each operation
            has its own count.
        trust_env: Look up proxies, the CA bundle and netrc in the environment, once per node.
        deadline: Seconds an operation may take in all, except name look-ups; None for no limit. An operation
            exceeds it by at most half a second.
        store_timeout: Seconds a node may take to receive and parse a table, once connected; None for
            max(10 x read_timeout, bytes / 5 MB/s).
        max_response_bytes: Bytes of the longest answer, decoded; None for no limit.
        request_retry: How the client retries failed requests; see RequestRetry.
        confirm_miss: Raise HomeNodeUnavailable instead of reporting a miss if a node earlier in the key's
            order does not respond, and so may have the table. False logs a warning and returns None, as
            qclient does.
        refused_means_gone: A node that refuses the connection counts as gone: its process has ended, and its
            tables are lost. Set False if something other than the node may refuse, such as a Kubernetes
            service or a firewall: such a node then counts as not responding, and may have its tables.

    Raises:
        ValueError: for an invalid argument, naming it.
    """

    def __init__(
        self,
        node_list: Iterable[str],
        connect_timeout: float = 1.0,
        read_timeout: float = 2.0,
        verify: bool | str = True,  # noqa: FBT001, FBT002  # qclient's signature
        cert: str | tuple[str, str] | None = None,
        auth: Any = None,
        consecutive_error_count_limit: int = 10,
        trust_env: bool = True,  # noqa: FBT001, FBT002  # qclient's signature
        *,
        deadline: float | None = None,
        store_timeout: float | None = None,
        max_response_bytes: int | None = 2**30,
        request_retry: RequestRetry | None = None,
        confirm_miss: bool = False,
        refused_means_gone: bool = True,
    ) -> None:
        self._settings = ClientSettings(
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            store_timeout=store_timeout,
            max_response_bytes=max_response_bytes,
            verify=verify,
            cert=cert,
            auth=tuple(auth) if isinstance(auth, list) else auth,
            trust_env=trust_env,
            refused_means_gone=refused_means_gone,
            deadline=deadline,
            consecutive_error_count_limit=consecutive_error_count_limit,
            request_retry=request_retry,
            confirm_miss=confirm_miss,
        )
        self._ring = Ring(node_list)
        self._node_names = {name: node for node in self._ring.nodes for name in (redacted(node), node)}
        self._clock = SystemClock()
        self._deadline = deadline
        contexts: dict[bool | str, ssl.SSLContext] = {}
        self._transports = {node: NodeTransport(node, self._settings, contexts) for node in self._ring.nodes}
        if (same := two_names(self._ring.nodes, seconds=connect_timeout)) is not None:
            raise ValueError(
                f"node_list: {redacted(same[0])!r} and {redacted(same[1])!r} are two names of one node. List "
                "the node once, spelled as by every other reader and writer of the cluster."
            )
        bases = (transport.base for transport in self._transports.values())
        self._longest_target = _LONGEST_GET - len("GET  HTTP/1.1\r\n") - max(map(len, bases))
        self._listeners: tuple[Listener, ...] = ()
        # Not for secrets: waits differ, so that many clients do not retry at the same moment.
        rng = self._rng = random.Random()  # noqa: S311  # nosec B311
        self._pool = NodePool(self._ring.nodes, clock=self._clock, rng=rng, on_change=self._node_changed)
        self._sender = Sender(self._transports, self._pool, self._settings, self._clock)
        self._prober = Prober(self._pool, self._probe, self._clock)
        self._active: set[Operation] = set()
        self._warned: set[str] = set()
        """The nodes for which a warning said that nothing is evicted there."""
        self._closed = False
        self._engine = Engine(
            pool=self._pool,
            sender=self._sender,
            prober=self._prober,
            clock=self._clock,
            rng=rng,
            policy=request_retry or RequestRetry(),
            limit=consecutive_error_count_limit,
            read_timeout=read_timeout,
            on_attempt_failed=lambda attempt: self._notify(lambda one: one.attempt_failed(attempt)),
        )
        _clients.add(self)

    def __repr__(self) -> str:
        nodes = ", ".join(map(redacted, self._ring.nodes))
        return f"QClient([{nodes}])"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # qclient's operations.

    def get(
        self,
        key: str,
        q: Any,
        accept: str = "application/json",
        post_query: bool = False,  # noqa: FBT001, FBT002  # qclient's signature
        query_headers: Mapping[str, str] | None = None,
        *,
        node: str | None = None,
    ) -> QueryResult | None:
        """Query the table stored under a key; returns None if there is no table.

        Args:
            key: The table's key.
            q: The query, a dict that JSON can carry, in the language of docs/reference/query-language.md.
            accept: 'application/json' or 'text/csv'.
            post_query: Send the query as the body of a POST. The client does so by itself if the GET would be
                longer than 8 KiB.
            query_headers: Further headers by name, which replace the client's. If they include
                Accept-Encoding, the content stays encoded as ``encoding`` says, except for gzip, which is
                decoded as qclient does.
            node: Ask only this node; None for the first living node in the key's order.

        Raises:
            MalformedQueryException: q is None or has ``update``, JSON cannot carry it, or the node refused
                it (400).
            UnsupportedAcceptType: 406.
            HomeNodeUnavailable: the home node, which may have the table, does not respond (with
                ``confirm_miss``).
            QClientException: every other error of the client.
        """
        only = None if node is None else self._node_named(node)
        get = partial(self._get, key, q, accept, post_query=post_query, query_headers=query_headers)
        with self._begin(key) as operation:
            return get(operation, node=only)

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
        """Store a table under a key, in place of the table that is there.

        Args:
            key: The table's key.
            content: bytes, str, a path, an open binary file, or a function that returns a fresh iterator of
                bytes.
            content_type: 'text/csv' or 'application/json'.
            post_headers: Further headers by name, such as X-QCache-types, which replace the client's.
            compression: 'gzip' or 'lz4' to compress what is sent; lz4 only for content in memory.
            copies: The number of nodes that get the table: the first ones in the key's order, the home node
                last. The result reports a standby that fails; the store succeeds if the home node, or its
                fallback, has the table. A standby that refuses the table itself (400, 413, 415, 422, 500)
                ends the store, before the home node drops the old table.
            evict_stale: Afterwards delete the key on every other configured node, so that a later failover
                does not show an older table.
            check_row_count: At the end, compare the number of rows on the node with the rows sent.

        Raises:
            InvalidTable: a node would refuse the content, or a header about it; the old table is still there.
            StoreUncertain: the node did not answer in time; it may or may not have the table.
            RowCountMismatch: the node has more or fewer rows than were sent.
            QClientException: every other error of the client.
        """
        build = partial(upload_of, content, content_type, post_headers, compression)
        options = _StoreOptions(copies, evict_stale, check_row_count)
        with self._begin(key) as operation:
            return self._build_and_post(key, build, operation, options)

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
        """Query a table; if there is none, store what ``load_fn(**load_fn_kwargs)`` returns, and query that.

        The client calls load_fn once, and stores its table twice at most. Its time counts towards the
        deadline.

        Raises:
            TooManyConsecutiveErrors: the table was stored twice, and is missing when it is queried.
            QClientException: what ``get`` and ``post`` raise.
        """
        upload: Upload | None = None
        statistics: dict[str, float] = {}
        stores = 0
        get = partial(self._get, key, q, accept, post_query=post_query, query_headers=query_headers)
        with self._begin(key) as operation:
            while True:
                result = get(operation)
                if result is not None:
                    result.add_stats(statistics)
                    return result
                if stores >= min(2, self._engine.limit):
                    raise TooManyConsecutiveErrors(
                        f"query table {key!r}: the client stored the table {stores} times, and it is missing "
                        "each time it is queried. Check whether the cache is too small for the table, or "
                        "another client deletes it."
                    )
                if upload is None:
                    content = load_fn(**(load_fn_kwargs or {}))
                    with _naming_key(key):
                        check_time = partial(self._check_time, operation, key)
                        upload = upload_of(content, content_type, post_headers, None, check_time)
                elif not upload.repeatable:
                    raise TooManyConsecutiveErrors(
                        f"query table {key!r}: the client stored the table, and it is missing when it is "
                        "queried. The content that load_fn returned cannot be read again: return bytes, a "
                        "path, or a function that returns a fresh iterator."
                    )
                with _naming_key(key):
                    statistics = self._post(key, upload, operation, _StoreOptions()).statistics
                stores += 1

    def delete(self, key: str, *, all_nodes: bool = False) -> DeleteResult:
        """Delete the table under a key.

        Without ``all_nodes`` the client asks the first living node in the key's order, as qclient does. The
        result has that node, and the nodes before it, which are gone or unreachable. A table that an earlier
        failover stored elsewhere stays there. With ``all_nodes`` the client asks every configured node,
        including failing ones.

        Raises:
            HomeNodeUnavailable: a fallback node deleted it, and a node before it does not respond (with
                ``confirm_miss``).
            NoCacheAvailable: no node confirmed the delete. With ``all_nodes``: every node refuses the
                connection or cannot be reached; ``result`` is the DeleteResult.
            QClientException: every other error of the client. With ``all_nodes`` a node that cannot be
                reached is an outcome, not an error, as long as another one confirms; refused credentials and
                certificates are errors, raised when every node was asked, with the DeleteResult as
                ``result``.
        """
        if not all_nodes:
            with self._begin(key) as operation:
                return self._delete(key, operation)
        nodes = self._ring.nodes
        try:
            with self._begin(key) as operation:
                found = ask_all(nodes, lambda node: self._delete_on(key, node, operation), operation)
        except OperationCancelled as cancelled:
            raise OperationCancelled(f"delete table {key!r}: cancelled") from cancelled
        result = gathered_delete(key, dict(zip(nodes, found, strict=True)))
        if isinstance(result, Exception):
            raise result
        if result.gone:
            _log.warning(
                "delete table %r: %s refused the connection: the client assumes that the node's process has "
                "ended, and its tables are lost. If the node should be running, check its address.",
                key,
                ", ".join(result.gone),
            )
        return result

    @property
    def statistics(self) -> defaultdict[str, dict[str, int]]:
        """The counters per node since the last call of ``get_statistics``; they keep counting."""
        return self._pool.statistics

    def get_statistics(self) -> defaultdict[str, dict[str, int]]:
        """Return the counters per node since the last call, and reset them.

        The counters are qclient's: connect_timeout, connection_error, read_timeout, unknown_error,
        resurrections and retry_error (failed probes).
        """
        return self._pool.take_statistics()

    # What is new.

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
        """Store many tables, on all nodes at once and one at a time on each, since a node has one thread.

        Each table is stored as by ``post`` or ``post_table``, with its own deadline and error count. A key
        that comes again waits for its first store.

        Args:
            tables: (key, content) pairs, or a mapping. They are read while tables are stored, a few per node
                ahead. A content is what ``post`` or ``post_table`` accepts.
            content_type: None for CSV, or JSON if a table's column names require it.
            post_headers: Further headers of every store.
            compression: As for ``post``, like the next three.
            copies: As for ``post``.
            evict_stale: As for ``post``.
            check_row_count: As for ``post``. It is a query, for which a node that has thousands of tables
                needs 0.1 s and more.
            raise_on_failure: Raise BulkError at the end if some failed.
            prepare: ``prepare(key, content)`` returns the content to store. The thread of the key's node
                calls it; if it raises an error, the key failed.
            keep: Keys whose table is not stored if the node that readers ask has one: the result is a
                KeptTable.
            on_done: The nodes' threads call ``on_done(key, outcome)`` with each StoreResult, KeptTable or
                Exception at once, one at a time. The report is then empty, and no result stays in memory. An
                error that it raises ends the call.

        Raises:
            BulkError: some failed; raised at the end, with the report; not with ``on_done``.
            OperationCancelled: cancel() was called.
        """
        pairs = tables.items() if isinstance(tables, Mapping) else tables
        turns = {node: threading.Lock() for node in self._ring.nodes}
        options = _StoreOptions(copies, evict_stale, check_row_count, turns)

        def store(key: str, content: Any) -> StoreResult | KeptTable:
            operation = self._begin(key, whole)
            if key in keep:
                # After an error the store follows, and raises what is wrong.
                found = self._presence(key, self._ring.successors(key), operation, wait_for_nodes=True)
                if isinstance(found, Done) and found.answer is not None:
                    return KeptTable(key=key, node=redacted(found.node))
            if prepare is not None:
                content = prepare(key, content)
            build: Callable[..., Upload] = partial(
                table_upload,
                content,
                content_type=content_type,
                headers=post_headers,
                compression=compression,
            )
            if not is_table(content):
                build = partial(upload_of, content, content_type or CSV, post_headers, compression)
            return self._build_and_post(key, build, operation, options)

        with self._begin_call() as whole:
            report = run_bulk(pairs, store, self._ring.nodes, self._node_now, whole, on_done)
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
        """Delete many keys, as ``delete`` does each, on all nodes at once and one at a time on each.

        With ``all_nodes`` a key succeeds if one node confirms the delete; its result names the unreachable
        nodes. Else it fails with NoCacheAvailable. The client asks a node that does not respond for the first
        key only, since each key would cost a timeout: the node counts as unreachable until it answers a
        probe. ``on_done`` and errors are as for ``post_many``. Raises TypeError if ``keys`` is a string.
        """
        if isinstance(keys, str | bytes):
            raise TypeError(f"keys={keys!r} must be a list of keys, not one string")

        def remove(key: str, _: None) -> DeleteResult:
            return self._delete(key, self._begin(key, whole))

        with self._begin_call() as whole:
            if all_nodes:
                report = self._delete_everywhere(keys, whole, on_done)
            else:
                pairs = ((key, None) for key in keys)
                report = run_bulk(pairs, remove, self._ring.nodes, self._node_now, whole, on_done)
        if raise_on_failure:
            report.raise_for_failures()
        return report

    def find_absent(self, places: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Absence]:
        """Find the tables that are missing where they were stored, among pairs of key and node.

        The client asks all nodes at once, and each for one table at a time. It sends a query that a node
        refuses if it has the table, which takes 0.6 ms: at every tenth successful query QCache 0.9.3 collects
        garbage, for 0.13 s with 12,600 tables. The query makes the table the most recently used one, so pass
        the tables in the order in which they were stored.

        Args:
            places: Keys and nodes, as in a StoreResult; read while nodes are asked.

        Raises:
            ValueError: a node is not one of the client's.
            OperationCancelled: cancel() was called.
            QClientException: refused credentials or certificates, or an answer that is not from QCache.
        """
        absent: dict[tuple[str, str], Absence] = {}

        def ask(place: tuple[str, str], _: None) -> Absence | None:
            return self._absence(place[0], self._node_named(place[1]), self._begin(place[0], whole))

        def note(place: tuple[str, str], outcome: Absence | Exception | None) -> None:
            if isinstance(outcome, Exception):
                raise outcome
            if outcome is not None:
                absent[place] = outcome

        pairs = ((place, None) for place in places)
        with self._begin_call() as whole:
            run_bulk(pairs, ask, self._ring.nodes, lambda place: self._node_named(place[1]), whole, note)
        return absent

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
        """Store a frame, Arrow data or a list of dicts, encoded while it is sent, in bounded memory.

        Every column keeps its type: a ZIP code stored as text keeps its zeros. The client refuses a value
        that a node cannot represent exactly, and names its column and row. docs/reference/tables.md has the
        rule for each type.

        Args:
            key: The table's key.
            table: An object with the Arrow PyCapsule interface (pandas, polars, pyarrow, duckdb), for which
                pyarrow is required, the extra ``arrow``; or a list of dicts. A named index of pandas becomes
                columns. A stream that can be read only once (a RecordBatchReader) gets one attempt.
            content_type: None for CSV, or JSON if a column's name requires it. 'application/json'
                distinguishes the empty string from null, at a fifth of the speed, and sorts the columns by
                name. 'text/csv' refuses names that require JSON.
            column_types: 'string', 'enum' or 'float' by column, instead of the type that follows from the
                column.
            stand_in_columns: Columns to add if the table lacks them, by name: a number, the name of a column,
                or a text within its own quotes (``"'none'"``).
            post_headers: Further headers.
            compression: 'gzip', or None.
            copies: As for ``post``, like the next two.
            evict_stale: As for ``post``.
            check_row_count: As for ``post``.

        Raises:
            TypeError: ``table`` is not a table.
            ImportError: pyarrow is required and not installed.
            InvalidTable: a node would refuse or change the table; the old table is still there.
            BodyNotRepeatable: a request failed, and the stream cannot be read again.
            QClientException: what ``post`` raises.
        """
        build = partial(
            table_upload,
            table,
            content_type=content_type,
            headers=post_headers,
            column_types=column_types,
            stand_in_columns=stand_in_columns,
            compression=compression,
        )
        options = _StoreOptions(copies, evict_stale, check_row_count)
        with self._begin(key) as operation:
            return self._build_and_post(key, build, operation, options)

    def node_for_key(self, key: str) -> str:
        """The key's home node, alive or not."""
        check_key(key)
        return self._ring.node_for_key(key)

    def successors(self, key: str) -> tuple[str, ...]:
        """Every node, in the order in which clients look for the key: its home node first."""
        check_key(key)
        return self._ring.successors(key)

    def locate(self, key: str) -> tuple[Place, ...]:
        """Ask every node for a key, all at once: which nodes have the table, and which should.

        The result has every node, including failing ones, in the order in which clients look for the key. The
        client sends a query for one row, which makes the table the most recently used one on its node.

        Raises:
            OperationCancelled: cancel() was called. Any other error is in the ``error`` of its Place.
        """
        peers: dict[str, Peer] = {}
        with self._begin(key) as operation:
            order = list(enumerate(self._ring.successors(key), 1))
            places = ask_all(order, lambda place: self._place(key, *place, operation, peers), operation)
        first: dict[tuple[str, int], str] = {}
        for number, (_, node) in enumerate(order):
            if node in peers and places[number].absence not in (Absence.GONE, Absence.UNKNOWN):
                one = first.setdefault(peers[node][:2], redacted(node))
                if one != redacted(node):
                    places[number] = dataclasses.replace(places[number], same_as=one)
        return tuple(places)

    def _place(
        self, key: str, position: int, node: str, operation: Operation, peers: dict[str, Peer]
    ) -> Place:
        started = self._clock.now()
        absence = rows = reason = None
        try:
            result = self._get(key, _ONE_ROW, JSON, operation, node=node, wait_for_nodes=False, peers=peers)
        except (NoCacheAvailable, TooManyConsecutiveErrors) as error:
            absence = self._gone_or_unknown(node, started, error)
            reason = self._pool.last_error(node)
        except QClientException as error:
            absence, reason = Absence.UNKNOWN, f"{type(error).__name__}: {str(error).splitlines()[0]}"
        else:
            absence = Absence.MISSING if result is None else None
            rows = None if result is None else result.unsliced_result_len
        return Place(node=redacted(node), position=position, absence=absence, rows=rows, error=reason)

    def node_status(self, *, probe: bool = False) -> dict[str, NodeStatus]:
        """The state of every node; with ``probe`` the client first asks each for its status."""
        with self._begin_call() as operation:
            if probe:
                ask_all(self._ring.nodes, lambda node: self._check_node(node, operation), operation)
        return {redacted(node): status for node, status in self._pool.snapshot().items()}

    def node_statistics(self) -> dict[str, dict[str, Any] | QClientException]:
        """The statistics of every node's server, or its error. Reading them resets the node's statistics."""

        def ask(node: str) -> dict[str, Any] | QClientException:
            what = f"statistics of {redacted(node)}"
            try:
                answer = self._sender.ask_once("/statistics", _JSON_UNCOMPRESSED, node, operation)
                statistics: dict[str, Any] = json.loads(answer.content) if answer.status == 200 else {}
            except Failure as failure:
                operation.check(what)
                return _node_error(what, node, failure)
            except (ValueError, RecursionError) as error:
                return UnexpectedServerResponse(f"{what}: the answer is not JSON: {error}", status=200)
            if answer.status != 200:
                why = f"{what}: the node answered {answer.status}"
                return UnexpectedServerResponse(why, status=answer.status)
            return statistics

        nodes = self._ring.nodes
        with self._begin_call() as operation:
            return dict(zip(map(redacted, nodes), ask_all(nodes, ask, operation), strict=True))

    def secrets(self) -> set[str]:
        """Every credential that requests contain, in every spelling, for a masker of logs."""
        return spellings({secret for transport in self._transports.values() for secret in transport.secrets})

    def add_listener(self, listener: Listener) -> None:
        """Call this Listener from now on."""
        self._listeners = (*self._listeners, listener)

    def remove_listener(self, listener: Listener) -> None:
        """Stop calling this Listener."""
        self._listeners = tuple(other for other in self._listeners if other is not listener)

    def cancel(self) -> None:
        """End every operation in progress with OperationCancelled, within a second. Later ones run.

        It takes no lock, and so may be called from a signal handler. It cannot end a name look-up or the
        caller's own code (load_fn, a body's iterator).
        """
        # The interpreter copies a set in one step: other threads cannot change it meanwhile.
        active = self._active.copy()
        # Marked first: an operation that waits for another one's probe must not take its end for silence.
        for operation in active:
            operation.mark_cancelled()
        for operation in active:
            operation.cancel()

    def close(self) -> None:
        """Cancel operations, end probes and connections; later operations raise ClientClosed."""
        if not self._closed:
            self._closed = True
            self.cancel()
        # A second call completes one that was interrupted.
        try:
            self._prober.close(timeout=1.0)
        finally:
            for transport in self._transports.values():
                transport.close()

    def _after_fork(self) -> None:
        """Share nothing with the parent process. A forked child has only the calling thread."""
        self._pool.reset_after_fork()
        self._prober.reset_after_fork()
        self._rng.seed()
        active, self._active = self._active, set()
        for operation in active:
            for limit in operation.limits:
                close_only_here(limit.sock)
        for transport in self._transports.values():
            transport.forget_connections()

    # How operations begin and end.

    def _begin_call(self) -> Operation:
        """An operation that begins now."""
        # Active first, so that a cancel() from here on ends it. close() sets _closed before it cancels.
        operation = Operation(_FOREVER, self._active)
        operation.deadline = self._end()
        if self._closed:
            operation.__exit__()
            raise errors.ClientClosed("the client is closed, and cannot be used any more: create a new one")
        return operation

    def _begin(self, key: str, whole: Operation | None = None) -> Operation:
        """An operation on a key that begins now. If it is a part of ``whole``, it is cancelled with it."""
        check_key(key)
        due = self._pool.operation()
        # If all nodes are failing, the operation itself asks them, and waits for that.
        if due and len(self._pool.failing) < len(self._ring.nodes):
            self._prober.start(due)
        return self._begin_call() if whole is None else whole.until(self._end())

    def _end(self) -> float:
        return _FOREVER if self._deadline is None else self._clock.now() + self._deadline

    def _confirm(self, request: Request, done: Done) -> errors.HomeNodeUnavailable | None:
        """Return or raise an error if a node before the one that answered may have the table."""
        if not done.unknown:
            return None
        silent = ", ".join(map(redacted, done.unknown))
        who = f"its home node {silent} does not respond"
        if done.unknown != (request.nodes[0],):
            do = "does" if len(done.unknown) == 1 else "do"
            who = f"{silent}, earlier in the key's order, {do} not respond"
        error = errors.HomeNodeUnavailable(
            f"{request.what}: cannot tell whether the table exists: {who}, and fallback node "
            f"{redacted(done.node)} does not have it. Retry when the node responds again.",
            attempts=done.attempts,
        )
        if self._settings.confirm_miss:
            raise error
        _log.warning("%s", error)
        return error

    # Queries.

    def _get(
        self,
        key: str,
        q: Any,
        accept: str,
        operation: Operation,
        *,
        post_query: bool = False,
        query_headers: Mapping[str, str] | None = None,
        node: str | None = None,
        wait_for_nodes: bool = True,
        peers: dict[str, Peer] | None = None,
    ) -> QueryResult | None:
        if q is None:
            raise errors.MalformedQueryException(
                f"query table {key!r}: the query is None: pass a dict; {{}} selects all rows"
            )
        if isinstance(q, dict) and "update" in q:
            raise errors.MalformedQueryException(
                f"query table {key!r}: a query with 'update' is not supported: a node changes its table and "
                "answers 500, a retry would change the table again, and copies would not change. Store the "
                "changed table instead."
            )
        try:
            text = json.dumps(q)
        except (TypeError, ValueError, RecursionError) as error:
            why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            what = f"query table {key!r}: the query cannot be written as JSON"
            raise errors.MalformedQueryException(f"{what}: {why}") from error
        headers = {"Accept": accept, "Accept-Encoding": compression.ACCEPT_ENCODING}
        target = f"/dataset/{key}?q={quote_plus(text)}"
        body = None
        method = "GET"
        if post_query or len(target) > self._longest_target:
            method, target, body = "POST", f"/dataset/{key}/q", text.encode()
            headers["Content-Type"] = JSON
        accept_encoding = None
        if query_headers:
            update_headers(headers, query_headers)
            own = [name for name in query_headers if name.lower() == "accept-encoding"]
            accept_encoding = header_text(query_headers[own[-1]]) if own else None
        lines = b"".join(check_header(name, value) for name, value in headers.items())
        nodes = self._ring.successors(key) if node is None else (node,)
        self._check_head(nodes[0], target, lines, errors.MalformedQueryException)
        shortened = text if len(text) <= 200 else text[:200] + "…"
        request = Request(
            method,
            target,
            lines,
            body,
            accept_encoding=accept_encoding,
            peers=peers,
            what=f"query table {key!r} {shortened}",
            nodes=nodes,
            wait_for_nodes=wait_for_nodes,
        )
        done = self._engine.run(request, operation)
        answer = done.answer
        if answer is None:
            self._confirm(request, done)
            return None
        return QueryResult(
            answer.content,
            count_in(answer.headers.get("X-QCache-unsliced-length")) or 0,
            answer.encoding,
            _statistics(answer, "get_"),
            redacted(done.node),
            answer.headers.media_type or accept.partition(";")[0].strip().lower(),
            decoded=not answer.still_encoded,
        )

    def _check_head(self, node: str, target: str, lines: bytes, error: type[QClientException]) -> None:
        size = self._transports[node].head_size(target, lines)
        if size > MAX_HEAD_BYTES:
            raise error(
                f"the request's headers have {size} bytes. A node closes the connection without an answer if "
                f"they have more than {MAX_HEAD_BYTES}: shorten them."
            )

    # Stores.

    def _build_and_post(
        self, key: str, build: Callable[..., Upload], operation: Operation, options: _StoreOptions
    ) -> StoreResult:
        with _naming_key(key), build(check_time=partial(self._check_time, operation, key)) as upload:
            return self._post(key, upload, operation, options)

    def _post(self, key: str, upload: Upload, operation: Operation, options: _StoreOptions) -> StoreResult:
        started = self._clock.now()
        if options.check_row_count and not upload.countable:
            raise ValueError(
                "check_row_count: the content is lz4, which is not installed, so that the client cannot "
                f"count the rows: {how_to_install('lz4')}"
            )
        stored = self._store(key, upload, operation, options)
        done, home = stored.done, stored.request.nodes[0]
        evicted: dict[str, bool] = {}
        if options.evict_stale:
            for node in stored.request.nodes:
                if node != done.node and node not in stored.copies:
                    evicted[node] = self._evict(stored, node, operation)
            self._store_again_what_was_evicted(stored, evicted, operation)
        if options.check_row_count:
            assert upload.rows is not None  # noqa: S101  # it is countable
            self._check_rows(key, done.node, upload.rows, operation)
        assert done.answer is not None  # noqa: S101  # a store has no miss
        return StoreResult(
            key=key,
            node=redacted(done.node),
            home_node=redacted(home),
            failed_over=done.node != home,
            bytes=upload.bytes,
            rows=upload.rows,
            seconds=self._clock.now() - started,
            attempts=done.attempts,
            statistics=_statistics(done.answer, "insert_"),
            copies=tuple(redacted(node) for node in stored.copies if node != done.node),
            failed_copies=stored.failed,
            evicted=tuple(redacted(node) for node, is_gone in evicted.items() if is_gone),
            may_hold_old=tuple(redacted(node) for node, is_gone in evicted.items() if not is_gone),
        )

    def _store(self, key: str, upload: Upload, operation: Operation, options: _StoreOptions) -> _Stored:
        copies, order = options.copies, self._ring.successors(key)
        check_count("copies", copies)
        if copies > 1 and not upload.repeatable:
            raise ValueError(
                f"copies={copies}: the content can be read only once: pass bytes, a path, a seekable file, "
                "or a function that returns a fresh iterator"
            )
        upload.check_before_sending(partial(self._check_time, operation, key))
        peers: dict[str, Peer] = {}
        request = Request(
            "POST",
            f"/dataset/{key}",
            upload.headers,
            upload=upload,
            peers=peers,
            kind=RequestKind.STORE,
            what=f"store table {key!r}",
            nodes=order,
            repeatable=upload.repeatable,
            turns=options.turns,
        )
        self._check_head(order[0], request.target, request.headers, InvalidTable)
        stored: list[str] = []
        failed: dict[str, str] = {}
        for standby in order[1:copies]:
            if self._is_silent(standby):
                failed[redacted(standby)] = self._pool.last_error(standby) or ""
                continue
            what = f"store a copy of table {key!r} on {redacted(standby)}"
            only = dataclasses.replace(request, what=what, nodes=(standby,), wait_for_nodes=False)
            try:
                self._engine.run(only, operation)
            except (InvalidTable, OperationCancelled):
                raise
            except QClientException as error:
                if isinstance(error, UnexpectedServerResponse) and error.status in _BAD_CONTENT:
                    # The table is the cause. The home node would refuse it after it dropped the old one.
                    raise
                failed[redacted(standby)] = f"{type(error).__name__}: {error}"
                _log.warning("%s failed: %s", what, error)
            else:
                stored.append(standby)
        done = self._engine.run(request, operation)
        peers = {node: peers[node] for node in (done.node, *stored) if node in peers}
        return _Stored(key, request, done, stored, failed, peers, {})

    def _check_rows(self, key: str, node: str, sent: int, operation: Operation) -> None:
        result = self._get(key, _COUNT_ROWS, JSON, operation, node=node)
        counted = None if result is None else _COUNT(result.content)
        if result is not None and counted is None:
            answer = self._transports[node].redactor().clean_bytes(result.content)[:200]
            why = f"count rows of table {key!r}: {redacted(node)} answered {answer!r}"
            raise UnexpectedServerResponse(why, status=200)
        found = None if counted is None else int(counted[1])
        if found != sent:
            has = "does not have the table" if found is None else f"has {_rows(found)}"
            raise errors.RowCountMismatch(
                f"store table {key!r}: the client sent {_rows(sent)}, and {redacted(node)} {has}. The node "
                "may have evicted the table, or another client stored one at the same time. Store it again.",
                sent=sent,
                found=found,
            )

    def _is_silent(self, node: str) -> bool:
        """Whether a node does not respond, as far as is known. A request to it would cost a timeout."""
        return node in self._pool.failing and not self._pool.is_gone(node)

    def _evict(self, stored: _Stored, node: str, operation: Operation) -> bool:
        """Delete an older table on a node: True if the node certainly lacks the key.

        The client skips an address that has just stored the key: a request there would delete the new table.
        If the table cannot be sent again, it also skips other addresses of the same process.
        """
        if self._is_silent(node):
            return False
        key, order, repeatable = stored.key, stored.request.nodes, stored.request.repeatable

        def skip(peer: Peer) -> bool:
            kept = stored.peers.values()
            return any(peer[:2] == one[:2] or (not repeatable and peer.may_be(one)) for one in kept)

        try:
            if order.index(node) < order.index(stored.done.node):
                # No delete: another writer may have stored the table there since, and deleted the fallback
                # node's. Then no node would have a table, which is worse than an older one.
                return self._absence(key, node, operation) in (Absence.MISSING, Absence.GONE)
            outcome, error = self._delete_on(key, node, operation, skip=skip, peers=stored.evicted_at)
        except SkippedPeer as skipped:
            if node not in self._warned:
                self._warned.add(node)
                _log.warning(
                    "evict stale copies of table %r: the client skips %s, because its address %s may be that "
                    "of a node that has just stored the table. If two names in the node list are one node, "
                    "list the node once. Behind a common proxy, the client cannot distinguish nodes, and "
                    "evicts nothing.",
                    key,
                    redacted(node),
                    skipped,
                )
            return False
        except OperationCancelled:
            raise
        except QClientException as failed:
            outcome, error = DeleteOutcome.UNREACHABLE, failed
        if outcome is DeleteOutcome.UNREACHABLE:
            _log.warning("evict stale copies of table %r: %s", key, error)
        return outcome is not DeleteOutcome.UNREACHABLE

    def _store_again_what_was_evicted(
        self, stored: _Stored, evicted: dict[str, bool], operation: Operation
    ) -> None:
        """Store the key again on a node whose new table an eviction deleted, under the node's other name."""
        key = stored.key
        for node, kept in stored.peers.items():
            names = [other for other, peer in stored.evicted_at.items() if peer.may_be(kept)]
            if not names or self._absence(key, node, operation) is None:
                continue
            _log.warning(
                "evict stale copies of table %r: %s are one node, which deleted the new table. The client "
                "stores it again. List the node once.",
                key,
                ", ".join(map(redacted, (node, *names))),
            )
            what = f"store table {key!r} again on {redacted(node)}"
            again = dataclasses.replace(stored.request, what=what, nodes=(node,), wait_for_nodes=False)
            self._engine.run(again, operation)
            evicted.update(dict.fromkeys(names, False))

    # Deletes.

    def _delete(self, key: str, operation: Operation) -> DeleteResult:
        request = Request(
            "DELETE",
            f"/dataset/{key}",
            kind=RequestKind.DELETE,
            what=f"delete table {key!r}",
            nodes=self._ring.successors(key),
        )
        done = self._engine.run(request, operation)
        error = self._confirm(request, done)
        before = map(redacted, request.nodes[: request.nodes.index(done.node)])
        unknown = {} if error is None else {redacted(node): error for node in done.unknown}
        outcomes = dict.fromkeys(before, DeleteOutcome.GONE)
        outcomes |= dict.fromkeys(unknown, DeleteOutcome.UNREACHABLE)
        outcomes[redacted(done.node)] = DeleteOutcome.CONFIRMED
        return DeleteResult(key=key, outcomes=outcomes, errors=dict(unknown))

    def _delete_on(
        self,
        key: str,
        node: str,
        operation: Operation,
        *,
        skip: Callable[[Peer], bool] | None = None,
        peers: dict[str, Peer] | None = None,
    ) -> tuple[DeleteOutcome, QClientException | None]:
        request = Request(
            "DELETE",
            f"/dataset/{key}",
            skip=skip,
            peers=peers,
            kind=RequestKind.DELETE,
            what=f"delete table {key!r} on {redacted(node)}",
            nodes=(node,),
            wait_for_nodes=False,
        )
        started = self._clock.now()
        try:
            self._engine.run(request, operation)
        except OperationCancelled:
            raise
        except QClientException as error:
            gone = self._gone_or_unknown(node, started, error) is Absence.GONE
            return (DeleteOutcome.GONE if gone else DeleteOutcome.UNREACHABLE), error
        return DeleteOutcome.CONFIRMED, None

    # Many at once.

    def _delete_everywhere(
        self,
        keys: Iterable[str],
        whole: Operation,
        on_done: Callable[[str, DeleteResult | Exception], object] | None = None,
    ) -> BulkReport:
        nodes = self._ring.nodes
        asked: set[str] = set()
        partly: dict[str, dict[str, Any]] = {}
        succeeded: dict[str, Any] = {}
        failed: dict[str, Exception] = {}

        def remove(place: tuple[str, str], _: None) -> tuple[DeleteOutcome, QClientException | None]:
            key, node = place
            operation = self._begin(key, whole)
            if node in asked and self._is_silent(node):
                name = redacted(node)
                return DeleteOutcome.UNREACHABLE, NoCacheAvailable(
                    f"delete table {key!r} on {name}: the node did not respond before, and is not asked "
                    "again until it answers a probe",
                    nodes={name: self._pool.last_error(node) or ""},
                )
            asked.add(node)
            return self._delete_on(key, node, operation)

        def note(place: tuple[str, str], found: Any) -> None:
            key, node = place
            by_node = partly.setdefault(key, {})
            by_node[node] = found
            if len(by_node) < len(nodes):
                return
            del partly[key]
            outcome = gathered_delete(key, {node: by_node[node] for node in nodes})
            if on_done is not None:
                on_done(key, outcome)
            elif isinstance(outcome, Exception):
                failed[key] = outcome
            else:
                succeeded[key] = outcome

        places = (((key, node), None) for key in dict.fromkeys(keys) for node in nodes)
        done = run_bulk(places, remove, nodes, lambda place: place[1], whole, note)
        return BulkReport(succeeded=succeeded, failed=failed, seconds=done.seconds)

    def _presence(
        self, key: str, nodes: Sequence[str], operation: Operation, *, wait_for_nodes: bool
    ) -> Done | QClientException:
        """The answer to whether a node has the table, or the transient error."""
        request = Request(
            "GET",
            f"/dataset/{key}?q={_NO_QUERY}",
            _JSON_UNCOMPRESSED,
            kind=RequestKind.PRESENCE,
            what=f"ask whether table {key!r} is there",
            nodes=nodes,
            wait_for_nodes=wait_for_nodes,
        )
        try:
            return self._engine.run(request, operation)
        except QClientException as error:
            if not error.transient:
                raise
            return error

    def _absence(self, key: str, node: str, operation: Operation) -> Absence | None:
        if self._is_silent(node):
            return Absence.UNKNOWN
        started = self._clock.now()
        found = self._presence(key, (node,), operation, wait_for_nodes=False)
        if isinstance(found, QClientException):
            return self._gone_or_unknown(node, started, found)
        return Absence.MISSING if found.answer is None else None

    def _gone_or_unknown(self, node: str, since: float, error: QClientException) -> Absence:
        """The Absence for a node that has failed with this error since then."""
        # An earlier refusal does not count: the node may have come back since, and have a new table.
        cannot_be_used = isinstance(error, NoCacheAvailable | TooManyConsecutiveErrors)
        return Absence.GONE if cannot_be_used and self._pool.is_gone(node, since=since) else Absence.UNKNOWN

    def _node_named(self, name: str) -> str:
        """The node by its URL, with or without its credentials."""
        node = self._node_names.get(name)
        if node is None:
            known = ", ".join(map(redacted, self._ring.nodes))
            raise ValueError(f"node={redacted(name)!r}: expected one of {known}")
        return node

    def _node_now(self, key: str) -> str:
        check_key(key)
        failing = self._pool.failing
        living = (node for node in self._ring.successors(key) if node not in failing)
        return next(living, None) or self._ring.node_for_key(key)

    # The nodes themselves.

    def _probe(self, node: str) -> None:
        with Operation(_FOREVER, self._active) as operation:
            self._sender.status(node, operation)

    def _check_node(self, node: str, operation: Operation) -> None:
        what = f"status of {redacted(node)}"
        if node in self._pool.failing:
            self._prober.start([node])
            local = self._prober.wait([node], operation.deadline, lambda: operation.check(what))
            if local is not None:
                raise errors.local_resource_error(what, local) from local
            return
        ticket = self._pool.ticket(node)
        try:
            self._sender.status(node, operation, after_writes=False)
        except Failure as failure:
            operation.check(what)
            if failure.outcome is Outcome.LOCAL:
                raise errors.local_resource_error(what, failure.cause) from failure
            if failure.outcome not in OUTCOMES_OF_LIVING_NODES:
                gone = failure.outcome is Outcome.REFUSED
                self._pool.fail(node, ticket, f"status request: {failure.reason}", gone=gone)

    def _check_time(self, operation: Operation, key: str) -> None:
        """Raise if a store was cancelled or its deadline passed, in the work before sending."""
        what = f"store table {key!r}"
        operation.check(what)
        if self._clock.now() >= operation.deadline:
            raise errors.DeadlineExceeded(
                f"{what}: the deadline passed while the client read, checked or compressed the table, "
                "before it was sent. Increase `deadline`, or store a smaller table."
            )

    # Events.

    def _node_changed(self, node: str, alive: bool, error: str | None) -> None:  # noqa: FBT001
        if alive:
            _log.info("node %s responds again", redacted(node))
            self._notify(lambda listener: listener.node_recovered(redacted(node)))
        else:
            _log.warning("node %s failed: %s", redacted(node), error)
            self._notify(lambda listener: listener.node_failed(redacted(node), error or ""))

    def _notify(self, call: Callable[[Listener], None]) -> None:
        for listener in self._listeners:
            try:
                call(listener)
            except Exception:  # noqa: BLE001
                _log.exception("a Listener of the client raised an error")


_clients: weakref.WeakSet[QClient] = weakref.WeakSet()


def _reset_after_fork() -> None:
    for client in list(_clients):
        client._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


class _StoreOptions(NamedTuple):
    """How a table is stored, see ``QClient.post``; ``turns`` has a lock for each node."""

    copies: int = 1
    evict_stale: bool = False
    check_row_count: bool = False
    turns: Mapping[str, threading.Lock] | None = None


class _Stored(NamedTuple):
    """A store that a node acknowledged, the standbys that have a copy, and the errors of the others."""

    key: str
    request: Request
    done: Done
    copies: list[str]
    failed: dict[str, str]
    peers: dict[str, Peer]
    """The peers of the nodes that stored the table."""
    evicted_at: dict[str, Peer]
    """The peers of the nodes that were asked to delete it."""


@contextlib.contextmanager
def _naming_key(key: str) -> Iterator[None]:
    """Begin the text of an InvalidTable with the operation and the key."""
    try:
        yield
    except InvalidTable as error:
        error.args = (f"store table {key!r}: {error.args[0]}",)
        raise


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _statistics(answer: Answer, prefix: str) -> dict[str, float]:
    """The numbers in X-QCache-stats, with a prefix for each name. QCache 0.9.3 never sends this header."""
    statistics: dict[str, float] = {}
    for part in (answer.headers.get("X-QCache-stats") or "").split(","):
        name, _, value = part.partition("=")
        if _DECIMAL(value.strip()):
            statistics[prefix + name.strip()] = float(value)
    return statistics


def _node_error(what: str, node: str, failure: Failure) -> QClientException:
    attempt = Attempt(redacted(node), failure.phase, failure.outcome, 0.0, failure.status, failure.cause)
    if failure.outcome is Outcome.LOCAL:
        return errors.local_resource_error(what, failure.cause, [attempt])
    if failure.outcome is Outcome.DEADLINE:
        return errors.DeadlineExceeded(
            f"{what}: the deadline passed. Increase `deadline`, or check the node.", attempts=[attempt]
        )
    nodes = {redacted(node): str(attempt)}
    return NoCacheAvailable(f"{what}: the node cannot be used", attempts=[attempt], nodes=nodes)
