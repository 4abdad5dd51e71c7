"""QClient: qcache-client's class and signatures, on the parts beside this module."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import random
import threading
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self
from urllib.parse import quote_plus

from airflow_provider_qcache.client import compression
from airflow_provider_qcache.client.errors import (
    Attempt,
    ClientClosed,
    DeadlineExceeded,
    HomeNodeUnavailable,
    InvalidTable,
    MalformedQueryException,
    NoCacheAvailable,
    OperationCancelled,
    Outcome,
    QClientException,
    RowCountMismatch,
    TooManyConsecutiveErrors,
    UnexpectedServerResponse,
    local_resource_error,
    redacted,
)
from airflow_provider_qcache.client.many import GatheredDeletes, ask_all, run_bulk
from airflow_provider_qcache.client.nodes import NodePool, NodeStatus, Prober
from airflow_provider_qcache.client.operation import Engine, Operation, Sender, home_unavailable
from airflow_provider_qcache.client.outcome import OUTCOMES_OF_LIVING_NODES, Failure, RequestKind
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
    RequestRetry,
    SystemClock,
    TransportSettings,
    check_count,
    check_seconds,
)
from airflow_provider_qcache.client.tables.headers import (
    MAX_HEAD_BYTES,
    check_header,
    header_text,
    update_headers,
)
from airflow_provider_qcache.client.tables.upload import Upload, table_upload, upload_for, upload_of
from airflow_provider_qcache.client.transport import (
    NodeTransport,
    Request,
    SparedPeer,
    check_auth,
    close_only_here,
)
from airflow_provider_qcache.node_identity import two_names

if TYPE_CHECKING:
    import ssl
    from collections import defaultdict
    from collections.abc import Callable, Container, Iterable, Sequence

    from airflow_provider_qcache.client.operation import Done
    from airflow_provider_qcache.client.outcome import Answer
    from airflow_provider_qcache.client.settings import Clock
    from airflow_provider_qcache.client.tables.content import Content
    from airflow_provider_qcache.client.transport import Peer

_log = logging.getLogger("airflow_provider_qcache.client")

_FOREVER: Final = float("inf")
_LONGEST_GET: Final = 8 * 1024
"""A query whose request line would be longer goes as POST: proxies are known to stop there."""

_BAD_CONTENT: Final = frozenset({400, 413, 415, 422, 500})
"""What a node answers to a table that it cannot read: a 500 where its parser fails."""

_ONE_ROW: Final = {"limit": 1}
_COUNT_ROWS: Final = {"select": [["count"]]}

_NO_QUERY: Final = quote_plus('{"is it there":0}')
"""A clause no node knows: it is looked at where there is a table, and refused."""

_JSON_UNCOMPRESSED: Final = b"Accept: application/json\r\nAccept-Encoding: identity\r\n"


class Listener:
    """Callbacks about a client's nodes: override the ones you need.

    The client calls them in the thread that noticed the event, and holds no lock. It logs errors that they
    raise, and goes on.
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
        node_list: The nodes' URLs, spelled as every other reader and writer spells them: the strings are
            hashed as written.
        connect_timeout: Seconds for a connection, TLS included.
        read_timeout: Seconds until the response headers, and between the parts of the response body.
        verify: False, True (the environment's CA bundle, else requests') or the path of a CA bundle, which
            wins over the environment's.
        cert: A client certificate: the path of a file with the key in it, or (certificate, key).
        auth: (login, password) for basic auth, neither with a ':', or an auth object of requests, which is
            called once per node.
        consecutive_error_count_limit: The number of failed requests that ends an operation. Each operation
            has its own count.
        trust_env: Look up proxies, the CA bundle and netrc in the environment, once per node.
        deadline: Seconds an operation may take in all, except name look-ups; None for no limit. An operation
            ends half a second after it at most.
        store_timeout: Seconds a node may take to receive and parse a table, once connected; None for
            max(10 x read_timeout, bytes / 5 MB/s).
        max_response_bytes: The longest answer, decoded; None for no limit.
        request_retry: How the client retries failed requests; see RequestRetry.
        confirm_miss: Raise HomeNodeUnavailable instead of reporting a miss if a node earlier in the key's
            order does not respond, and so may have the table. False warns and returns None, as qclient does.
        refused_means_gone: Take a node that refuses the connection for gone, and its tables with its process.
            Set False if something other than the node may refuse, such as a Kubernetes service or a firewall:
            a node that refuses then counts as silent, and may have its tables.

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
        if deadline is not None:
            check_seconds("deadline", deadline)
        check_count("consecutive_error_count_limit", consecutive_error_count_limit)
        if not (request_retry is None or isinstance(request_retry, RequestRetry)):
            raise ValueError(f"request_retry={request_retry!r} must be a RequestRetry or None")
        policy = request_retry if request_retry is not None else RequestRetry()
        if policy.wait_for_nodes and deadline is None:
            raise ValueError(
                "request_retry: wait_for_nodes needs a deadline, which ends the wait: set `deadline`"
            )
        if isinstance(auth, list):
            auth = tuple(auth)
        check_auth(auth)
        self._ring = Ring(node_list)
        self._node_names = {name: node for node in self._ring.nodes for name in (redacted(node), node)}
        self._clock: Clock = SystemClock()
        self._deadline = deadline
        self._confirm_miss = confirm_miss
        self._settings = TransportSettings(
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            store_timeout=store_timeout,
            max_response_bytes=max_response_bytes,
            verify=verify,
            cert=cert,
            auth=auth,
            trust_env=trust_env,
            refused_means_gone=refused_means_gone,
        )
        contexts: dict[bool | str, ssl.SSLContext] = {}
        self._transports = {node: NodeTransport(node, self._settings, contexts) for node in self._ring.nodes}
        _check_no_process_twice(self._ring.nodes, connect_timeout)
        bases = (transport.base for transport in self._transports.values())
        self._longest_target = _LONGEST_GET - len("GET  HTTP/1.1\r\n") - max(map(len, bases))
        self._listeners: tuple[Listener, ...] = ()
        # Not for secrets: it spreads waits, so that many clients do not ask at the same moment.
        rng = self._rng = random.Random()  # noqa: S311  # nosec B311
        self._pool = NodePool(self._ring.nodes, clock=self._clock, rng=rng, on_change=self._node_changed)
        self._sender = Sender(self._transports, self._pool, self._settings, self._clock)
        self._prober = Prober(self._pool, self._probe, self._clock)
        self._active: set[Operation] = set()
        self._spared: set[str] = set()
        """The nodes for which a warning said that nothing is evicted there."""
        self._closed = False
        self._engine = Engine(
            pool=self._pool,
            sender=self._sender,
            prober=self._prober,
            clock=self._clock,
            rng=rng,
            policy=policy,
            limit=consecutive_error_count_limit,
            read_timeout=read_timeout,
            on_attempt_failed=self._attempt_failed,
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
            query_headers: Further headers by name, which replace the client's. With an Accept-Encoding of the
                caller's own, the content stays encoded as ``encoding`` says, except for gzip, which is
                decoded as qclient does.
            node: Ask this node alone; None for the first living node in the key's order.

        Raises:
            MalformedQueryException: q is None or has ``update``, JSON cannot carry it, or the node refused
                it (400).
            UnsupportedAcceptType: 406.
            HomeNodeUnavailable: the home node, which may have the table, does not respond (with
                ``confirm_miss``).
            QClientException: every other error of the client.
        """
        with self._begin(key) as operation:
            return self._get(
                key,
                q,
                accept,
                operation,
                post_query=post_query,
                query_headers=query_headers,
                node=None if node is None else self._node_named(node),
            )

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
                last. A standby that fails is reported; the store succeeds if the home node, or its fallback,
                has the table. A standby that refuses the table itself (400, 413, 415, 422, 500) ends the
                store, before the home node would drop the old table.
            evict_stale: Afterwards delete the key on every other configured node, so that a later failover
                does not show an older table.
            check_row_count: At the end, compare the number of rows on the node with the rows sent.

        Raises:
            InvalidTable: a node would refuse the content, or a header about it; the old table is still there.
            StoreUncertain: the node did not answer in time; it may or may not have the table.
            RowCountMismatch: the node has more or fewer rows than were sent.
            QClientException: every other error of the client.
        """
        with self._begin(key) as operation:
            upload = upload_of(content, content_type, post_headers, compression)
            return self._post(
                key,
                upload,
                operation,
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
        with self._begin(key) as operation:
            while True:
                result = self._get(
                    key, q, accept, operation, post_query=post_query, query_headers=query_headers
                )
                if result is not None:
                    result.add_stats(statistics)
                    return result
                if stores >= min(2, self._engine.limit):
                    raise TooManyConsecutiveErrors(
                        f"query table {key!r}: it was stored {stores} times, and is missing when it is "
                        "queried. The cache may be too small for it, or another client deletes it."
                    )
                if upload is None:
                    content = load_fn(**(load_fn_kwargs or {}))
                    upload = upload_of(content, content_type, post_headers, None)
                elif not upload.repeatable:
                    raise TooManyConsecutiveErrors(
                        f"query table {key!r}: it was stored and is missing when it is queried, and the "
                        "content that load_fn returned can be read once only"
                    )
                statistics = self._post(key, upload, operation).statistics
                stores += 1

    def delete(self, key: str, *, all_nodes: bool = False) -> DeleteResult:
        """Delete the table under a key.

        Without ``all_nodes`` the client asks the first living node in the key's order, as qclient does; a
        table that an earlier failover left elsewhere stays there. The result has that node, and the nodes
        before it, which are gone or unreachable. With ``all_nodes`` the client asks every configured node,
        failing ones too.

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
        try:
            with self._begin_call() as operation:
                report = self._delete_everywhere([key], operation)
        except OperationCancelled as cancelled:
            raise OperationCancelled(f"delete table {key!r}: cancelled") from cancelled
        for error in report.failed.values():
            raise error
        result = report.succeeded[key]
        assert isinstance(result, DeleteResult)  # noqa: S101  # of a delete
        if result.gone:
            _log.warning(
                "delete table %r: %s refused the connection: the node's process, and its tables with it, "
                "count as gone. If the node should be running, check its address.",
                key,
                ", ".join(result.gone),
            )
        return result

    @property
    def statistics(self) -> defaultdict[str, dict[str, int]]:
        """The counters per node since the last call of ``get_statistics``; they go on counting."""
        return self._pool.statistics

    def get_statistics(self) -> defaultdict[str, dict[str, int]]:
        """Return the counters per node since the last call, and start again at zero.

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

        Each store is what ``post`` does, or ``post_table``, with its own deadline and count. A key that comes
        again waits for its first store.

        Args:
            tables: (key, content) pairs, or a mapping, read as they are stored: a few per node are waiting
                at a time. A content is what ``post`` or ``post_table`` takes.
            content_type: None for CSV, or JSON where a table's names need it.
            post_headers: Further headers of every store.
            compression: As for ``post``, like the next three.
            copies: See there.
            evict_stale: See there.
            check_row_count: See there. Each is a query, and a node that has thousands of tables takes 0.1 s
                and more for it.
            raise_on_failure: Raise BulkError at the end where some failed.
            prepare: ``prepare(key, content)`` returns the content to store. It is called in the thread of the
                key's node, and an error that it raises is the key's.
            keep: Keys whose table is not stored if the node that readers ask has one: the result is a
                KeptTable.
            on_done: The nodes' threads call ``on_done(key, outcome)`` with each StoreResult, KeptTable or
                Exception as it is known, one at a time. The report stays empty then, and no result is kept in
                memory. An error that it raises ends the call.

        Raises:
            BulkError: some failed, at the end, with the report; not with ``on_done``.
            OperationCancelled: cancel() was called.
        """
        pairs = tables.items() if isinstance(tables, Mapping) else tables
        turns = {node: threading.Lock() for node in self._ring.nodes}

        def store(key: str, content: Any) -> StoreResult | KeptTable:
            operation = self._begin(key, whole)
            if key in keep and (node := self._holder(key, operation)) is not None:
                return KeptTable(key=key, node=redacted(node))
            if prepare is not None:
                content = prepare(key, content)
            check_time = self._time_check(operation, key)
            upload = upload_for(content, content_type, post_headers, compression, check_time)
            with upload:
                return self._post(
                    key,
                    upload,
                    operation,
                    copies=copies,
                    evict_stale=evict_stale,
                    check_row_count=check_row_count,
                    turns=turns,
                )

        with self._begin_call() as whole:
            return self._bulk(
                pairs,
                store,
                whole,
                raise_on_failure=raise_on_failure,
                on_done=on_done,
            )

    def delete_many(
        self,
        keys: Iterable[str],
        *,
        all_nodes: bool = False,
        raise_on_failure: bool = True,
        on_done: Callable[[str, DeleteResult | Exception], object] | None = None,
    ) -> BulkReport:
        """Delete many keys, as ``delete`` does each, on all nodes at once and one at a time on each.

        With ``all_nodes`` a key with an unreachable node is a success whose result says so, if another node
        confirmed the delete; else it failed with NoCacheAvailable. A node that does not respond is asked for
        the first key only, as each key would cost a timeout: it counts as unreachable until it answers a
        probe. ``on_done`` and errors are ``post_many``'s. Raises TypeError for one string.
        """
        if isinstance(keys, str | bytes):
            raise TypeError(f"keys={keys!r} must be a list of keys, not one string")
        with self._begin_call() as whole:
            if all_nodes:
                report = self._delete_everywhere(keys, whole, on_done)
                if raise_on_failure:
                    report.raise_for_failures()
                return report

            def remove(key: str, _: None) -> DeleteResult:
                return self._delete(key, self._begin(key, whole))

            pairs = ((key, None) for key in keys)
            return self._bulk(pairs, remove, whole, raise_on_failure=raise_on_failure, on_done=on_done)

    def find_absent(self, places: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Absence]:
        """Find the tables that are missing where they were stored, among pairs of key and node.

        The nodes are asked all at once, one question at a time each. A question is a query that a node
        refuses where it has the table: that takes it 0.6 ms, while every tenth query that succeeds has
        QCache 0.9.3 collect its garbage, 0.13 s a query with 12,600 tables. It makes the table the one most
        recently used, so ask in the order in which they were stored.

        Args:
            places: Keys and nodes, as a StoreResult names them; read as they are asked.

        Raises:
            ValueError: a node is not one of the client's.
            OperationCancelled: cancel() was called.
            QClientException: refused credentials or certificates, an answer that is not QCache's.
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
            self._bulk(
                pairs,
                ask,
                whole,
                raise_on_failure=False,
                on_done=note,
                node_for_key=lambda place: self._node_named(place[1]),
            )
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

        Every column keeps its type: texts stay texts, so that a ZIP code keeps its zeros. A value that a node
        cannot hold exactly is refused, with its column and row, while the old table is still there.
        docs/reference/tables.md has the rule for each type.

        Args:
            key: The table's key.
            table: What speaks the Arrow PyCapsule interface (pandas, polars, pyarrow, duckdb), which needs
                pyarrow, the extra ``arrow``; or a list of dicts, which needs nothing. A named index of pandas
                becomes columns. A stream that can be read once (a RecordBatchReader) gets one attempt.
            content_type: None for CSV, or JSON where a column's name needs it; 'application/json' keeps the
                empty string apart from null, at a fifth of the speed, with the columns in alphabetical order;
                'text/csv' refuses such names.
            column_types: 'string', 'enum' or 'float' by column, before what its type says.
            stand_in_columns: Columns that are added where the table lacks them, by name: a number, the name
                of a column, or a text in quotes of its own (``"'none'"``).
            post_headers: Further headers.
            compression: 'gzip', or None.
            copies: As for ``post``, like the next two.
            evict_stale: See there.
            check_row_count: See there.

        Raises:
            TypeError: it is no table.
            ImportError: it needs pyarrow, which is not installed.
            InvalidTable: it holds what a node cannot; the old table is still there.
            BodyNotRepeatable: a request failed, and the stream cannot be read again.
            QClientException: what ``post`` raises.
        """
        with (
            self._begin(key) as operation,
            table_upload(
                table,
                content_type=content_type,
                headers=post_headers,
                column_types=column_types,
                stand_in_columns=stand_in_columns,
                compression=compression,
                check_time=self._time_check(operation, key),
            ) as upload,
        ):
            return self._post(
                key,
                upload,
                operation,
                copies=copies,
                evict_stale=evict_stale,
                check_row_count=check_row_count,
            )

    def node_for_key(self, key: str) -> str:
        """The key's home node, alive or not."""
        check_key(key)
        return self._ring.node_for_key(key)

    def successors(self, key: str) -> tuple[str, ...]:
        """Every node in the order in which clients look for the key, its home node first."""
        check_key(key)
        return self._ring.successors(key)

    def locate(self, key: str) -> tuple[Place, ...]:
        """Ask every node for a key, all at once: which nodes have the table, and which should.

        The nodes come in the order in which the key is looked for, its home first, failing ones too. The
        question is a query of one row, which makes the table the most recently used one where it is.

        Raises:
            OperationCancelled: cancel() was called. What else goes wrong is the node's ``error``.
        """
        with self._begin(key) as operation:
            order = list(enumerate(self._ring.successors(key), 1))
            places = ask_all(order, lambda place: self._place(key, *place, operation), operation)
        first: dict[tuple[str, int], str] = {}
        for number, (_, node) in enumerate(order):
            peer = self._transports[node].peer
            if peer is not None and places[number].absence not in (Absence.GONE, Absence.UNKNOWN):
                one = first.setdefault((peer.address, peer.port), redacted(node))
                if one != redacted(node):
                    places[number] = dataclasses.replace(places[number], same_as=one)
        return tuple(places)

    def _place(self, key: str, position: int, node: str, operation: Operation) -> Place:
        started = self._clock.now()
        absence, rows, reason = None, None, None
        try:
            result = self._get(
                key,
                _ONE_ROW,
                "application/json",
                operation,
                node=node,
                wait_for_nodes=False,
            )
        except OperationCancelled:
            raise
        except (NoCacheAvailable, TooManyConsecutiveErrors):
            absence = self._gone_or_unknown(node, started)
            reason = self._pool.last_error(node)
        except QClientException as error:
            absence, reason = Absence.UNKNOWN, f"{type(error).__name__}: {str(error).splitlines()[0]}"
        else:
            if result is None:
                absence = Absence.MISSING
            else:
                rows = result.unsliced_result_len
        return Place(node=redacted(node), position=position, absence=absence, rows=rows, error=reason)

    def node_status(self, *, probe: bool = False) -> dict[str, NodeStatus]:
        """Every node as the client knows it; with ``probe`` each is first asked for its status."""
        with self._begin_call() as operation:
            if probe:
                ask_all(self._ring.nodes, lambda node: self._check_node(node, operation), operation)
        return {redacted(node): status for node, status in self._pool.snapshot().items()}

    def node_statistics(self) -> dict[str, dict[str, Any] | QClientException]:
        """Every node's own statistics, or its error. Reading them resets the node's lists and counts."""

        def ask(node: str) -> dict[str, Any] | QClientException:
            what = f"statistics of {redacted(node)}"
            try:
                answer = self._sender.ask_once("/statistics", _JSON_UNCOMPRESSED, node, operation)
                statistics: dict[str, Any] = json.loads(answer.content) if answer.status == 200 else {}
            except Failure as failure:
                operation.check(what)
                return _node_error(what, node, failure)
            except (ValueError, RecursionError) as error:
                return UnexpectedServerResponse(f"{what}: not JSON: {error}", status=200)
            if answer.status != 200:
                return UnexpectedServerResponse(f"{what}: it answered {answer.status}", status=answer.status)
            return statistics

        nodes = self._ring.nodes
        with self._begin_call() as operation:
            return dict(zip(map(redacted, nodes), ask_all(nodes, ask, operation), strict=True))

    def secrets(self) -> set[str]:
        """Every credential that requests carry, in every spelling, for a masker of logs."""
        return spellings({secret for transport in self._transports.values() for secret in transport.secrets})

    def add_listener(self, listener: Listener) -> None:
        """Call this Listener from now on."""
        self._listeners = (*self._listeners, listener)

    def remove_listener(self, listener: Listener) -> None:
        """Stop calling this Listener."""
        self._listeners = tuple(other for other in self._listeners if other is not listener)

    def cancel(self) -> None:
        """End every operation in progress with OperationCancelled, within a second; later ones run.

        Takes no lock and so may be called from a signal handler. A name look-up cannot be ended, nor the
        caller's own code (load_fn, a body's iterator).
        """
        # Copying a set is one step of the interpreter, whatever other threads do to it.
        for operation in self._active.copy():
            operation.cancel()

    def close(self) -> None:
        """Cancel operations, end probes and connections; later operations raise ClientClosed."""
        if not self._closed:
            self._closed = True
            self.cancel()
        # A second call does what an interrupted one did not.
        try:
            self._prober.close(timeout=1.0)
        finally:
            for transport in self._transports.values():
                transport.close()

    def _after_fork(self) -> None:
        """Share nothing with the parent process: a forked child has the calling thread only."""
        self._pool.start_anew()
        self._prober.start_anew()
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
        # Active first, so that a cancel() from here on ends it; close() says that it closed before it
        # cancels.
        operation = Operation(_FOREVER, self._active)
        operation.deadline = self._end()
        if self._closed:
            operation.__exit__()
            raise ClientClosed("the client was closed")
        return operation

    def _begin(self, key: str, whole: Operation | None = None) -> Operation:
        """An operation on a key that begins now; it is cancelled with the ``whole`` that it is one of."""
        check_key(key)
        pool = self._pool
        pool.operation()
        # Where no node is left, the operation itself asks them all, and waits for that.
        if 0 < len(pool.failing) < len(self._ring.nodes) and (due := pool.due()):
            self._prober.start(due)
        return self._begin_call() if whole is None else whole.until(self._end())

    def _end(self) -> float:
        return _FOREVER if self._deadline is None else self._clock.now() + self._deadline

    def _confirm(self, request: Request, done: Done) -> HomeNodeUnavailable | None:
        """Return or raise an error if a miss is not certain, as a node before the answering one is silent."""
        if not done.unknown:
            return None
        error = home_unavailable(request, done)
        if self._confirm_miss:
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
    ) -> QueryResult | None:
        if q is None:
            raise MalformedQueryException(
                f"query table {key!r}: the query is None, which a node does not answer; {{}} selects all rows"
            )
        if isinstance(q, dict) and "update" in q:
            raise MalformedQueryException(
                f"query table {key!r}: the client sends no `update`: one node would change its table and "
                "answer 500, so that success looks like failure, a retry changes the table again, and copies "
                "stay as they were. Store the changed table instead."
            )
        try:
            text = json.dumps(q)
        except (TypeError, ValueError, RecursionError) as error:
            why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise MalformedQueryException(
                f"query table {key!r}: JSON cannot carry the query: {why}"
            ) from error
        headers = {"Accept": accept, "Accept-Encoding": compression.ACCEPT_ENCODING}
        target = f"/dataset/{key}?q={quote_plus(text)}"
        body = None
        method = "GET"
        if post_query or len(target) > self._longest_target:
            method, target, body = "POST", f"/dataset/{key}/q", text.encode()
            headers["Content-Type"] = "application/json"
        accept_encoding = None
        if query_headers:
            update_headers(headers, query_headers)
            own = [name for name in query_headers if name.lower() == "accept-encoding"]
            accept_encoding = header_text(query_headers[own[-1]]) if own else None
        lines = b"".join(check_header(name, value) for name, value in headers.items())
        nodes = self._ring.successors(key) if node is None else (node,)
        if len(lines) + len(target) > MAX_HEAD_BYTES - 2048:
            self._check_head(nodes[0], target, lines, MalformedQueryException)
        shortened = text if len(text) <= 200 else text[:200] + "…"
        request = Request(
            method,
            target,
            lines,
            body,
            accept_encoding=accept_encoding,
            kind=RequestKind.QUERY,
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
            int(answer.headers["X-QCache-unsliced-length"]),
            answer.encoding,
            _statistics(answer, "get_"),
            redacted(done.node),
            (answer.headers.get("Content-Type") or accept).partition(";")[0].strip().lower(),
            decoded=not answer.as_it_came,
        )

    def _check_head(self, node: str, target: str, lines: bytes, error: type[QClientException]) -> None:
        size = self._transports[node].head_size(target, lines)
        if size > MAX_HEAD_BYTES:
            raise error(
                f"the request's headers would be {size} bytes, more than {MAX_HEAD_BYTES}: a node closes the "
                "connection on longer ones without an answer. Shorten them."
            )

    # Stores.

    def _post(
        self,
        key: str,
        upload: Upload,
        operation: Operation,
        *,
        copies: int = 1,
        evict_stale: bool = False,
        check_row_count: bool = False,
        turns: Mapping[str, threading.Lock] | None = None,
    ) -> StoreResult:
        if check_row_count and not upload.countable:
            raise ValueError("check_row_count: lz4 is not installed here, so that the rows cannot be counted")
        stored = self._store(key, upload, operation, copies=copies, turns=turns)
        evicted: dict[str, bool] = {}
        if evict_stale:
            for node in self._others(stored):
                evicted[node] = self._evict(stored, node, operation, store_again=upload.repeatable)
            self._store_again_what_was_evicted(stored, evicted, upload, operation, turns)
        if check_row_count:
            assert upload.rows is not None  # noqa: S101  # it is countable
            self._check_rows(key, stored.done.node, upload.rows, operation)
        return self._store_result(stored, evicted)

    def _store(
        self,
        key: str,
        upload: Upload,
        operation: Operation,
        *,
        copies: int,
        turns: Mapping[str, threading.Lock] | None,
    ) -> _Stored:
        started = self._clock.now()
        order = self._ring.successors(key)
        check_count("copies", copies)
        if copies > 1 and not upload.repeatable:
            raise ValueError(f"copies={copies}: the content can be read once only")
        what = f"store table {key!r}"
        upload.check_before_sending(self._time_check(operation, key))
        peers: dict[str, Peer] = {}
        request = Request(
            "POST",
            f"/dataset/{key}",
            upload=upload,
            peers=peers,
            kind=RequestKind.STORE,
            what=what,
            nodes=order,
            repeatable=upload.repeatable,
            turns=turns,
        )
        if len(upload.headers) > MAX_HEAD_BYTES - 8192:
            self._check_head(order[0], request.target, upload.headers, InvalidTable)
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
                    # The table is to blame, and the home node would drop the old one before it says so, too.
                    raise
                failed[redacted(standby)] = f"{type(error).__name__}: {error}"
                _log.warning("%s failed: %s", what, error)
            else:
                stored.append(standby)
        done = self._engine.run(request, operation)
        peers = {node: peers[node] for node in (done.node, *stored) if node in peers}
        return _Stored(key, order, done, upload.bytes, upload.rows, tuple(stored), failed, started, peers, {})

    def _others(self, stored: _Stored) -> list[str]:
        """The nodes that must not have a table under the key now."""
        if len(self._ring.nodes) == 1:
            return []
        return [node for node in stored.order if node != stored.done.node and node not in stored.copies]

    def _store_result(self, stored: _Stored, evicted: Mapping[str, bool]) -> StoreResult:
        """The result of a store; ``evicted`` says which other nodes are sure not to hold the key."""
        done = stored.done
        home = stored.order[0]
        assert done.answer is not None  # noqa: S101  # a store has no miss
        others = self._others(stored) if evicted else ()
        return StoreResult(
            key=stored.key,
            node=redacted(done.node),
            home_node=redacted(home),
            failed_over=done.node != home,
            bytes=stored.bytes,
            rows=stored.rows,
            seconds=self._clock.now() - stored.started,
            attempts=done.attempts,
            statistics=_statistics(done.answer, "insert_"),
            copies=tuple(redacted(node) for node in stored.copies if node != done.node),
            failed_copies=stored.failed,
            evicted=tuple(redacted(node) for node in others if evicted[node]),
            may_hold_old=tuple(redacted(node) for node in others if not evicted[node]),
        )

    def _check_rows(self, key: str, node: str, sent: int, operation: Operation) -> None:
        result = self._get(key, _COUNT_ROWS, "application/json", operation, node=node)
        found = None
        if result is not None:
            try:
                found = int(json.loads(result.content)[0]["count"])
            except (ValueError, LookupError, TypeError, RecursionError) as error:
                raise UnexpectedServerResponse(
                    f"count rows of table {key!r}: {redacted(node)} answered "
                    f"{self._transports[node].redactor().clean_bytes(result.content)[:200]!r}",
                    status=200,
                ) from error
        if found != sent:
            holds = "no such table" if found is None else f"{found} rows"
            raise RowCountMismatch(
                f"store table {key!r}: {sent} rows were sent and {redacted(node)} has {holds}. It may have "
                "evicted it, or another client stored at the same time.",
                sent=sent,
                found=found,
            )

    def _is_silent(self, node: str) -> bool:
        """Whether a node is known not to respond: each optional request to it would cost a timeout."""
        return node in self._pool.failing and not self._pool.is_gone(node)

    def _evict(self, stored: _Stored, node: str, operation: Operation, *, store_again: bool) -> bool:
        """Delete an older table on a node: whether the node is sure not to have the key.

        Nothing is sent to an address that has just stored the key: it would delete the new table. If
        ``store_again`` is not possible, that applies to other addresses of the same process, too.
        """
        if self._is_silent(node):
            return False
        key = stored.key
        if stored.order.index(node) < stored.order.index(stored.done.node):
            return self._has_none(key, node, operation)

        def spare(peer: Peer) -> bool:
            return any(
                peer.is_at(kept) or (not store_again and peer.may_be(kept)) for kept in stored.peers.values()
            )

        try:
            outcome, error = self._delete_on(key, node, operation, spare=spare, peers=stored.evicted_at)
        except SparedPeer as spared:
            stored.evicted_at.pop(node, None)  # it was not asked to delete
            if node not in self._spared:
                self._spared.add(node)
                _log.warning(
                    "evict stale copies of table %r: %s is not asked, because its address %s may be that of "
                    "a node that has just stored the table. Two names of the node list may be one node: list "
                    "each once. Behind one proxy, the client cannot distinguish nodes, and evicts nothing.",
                    key,
                    redacted(node),
                    spared,
                )
            return False
        if outcome is DeleteOutcome.UNREACHABLE:
            _log.warning("evict stale copies of table %r: %s", key, error)
            return False
        return True

    def _has_none(self, key: str, node: str, operation: Operation) -> bool:
        """Whether a node before the one that stored is sure to have no table under the key.

        The client does not delete there. Another writer may have stored the table there since, and have
        deleted the fallback node's: no node would have a table then, which is worse than an older one.
        """
        try:
            return self._absence(key, node, operation) in (Absence.MISSING, Absence.GONE)
        except OperationCancelled:
            raise
        except QClientException as error:
            _log.warning("evict stale copies of table %r: %s", key, error)
            return False

    def _store_again_what_was_evicted(
        self,
        stored: _Stored,
        evicted: dict[str, bool],
        upload: Upload,
        operation: Operation,
        turns: Mapping[str, threading.Lock] | None,
    ) -> None:
        """Store the key again on a node that an eviction reached under another name."""
        key = stored.key
        for node, kept in stored.peers.items():
            names = [other for other, peer in stored.evicted_at.items() if peer.may_be(kept)]
            if not names or self._absence(key, node, operation) is None:
                continue
            listed = ", ".join(map(redacted, (node, *names)))
            _log.warning(
                "evict stale copies of table %r: %s are names of one node, which deleted the new table. The "
                "client stores it again. List each node once.",
                key,
                listed,
            )
            request = Request(
                "POST",
                f"/dataset/{key}",
                upload=upload,
                kind=RequestKind.STORE,
                what=f"store table {key!r} again on {redacted(node)}",
                nodes=(node,),
                wait_for_nodes=False,
                turns=turns,
            )
            self._engine.run(request, operation)
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
        outcomes = {}
        errors: dict[str, QClientException] = {}
        for node in request.nodes:
            if node == done.node:
                outcomes[redacted(node)] = DeleteOutcome.CONFIRMED
                break
            outcomes[redacted(node)] = DeleteOutcome.GONE
            if error is not None and node in done.unknown:
                outcomes[redacted(node)] = DeleteOutcome.UNREACHABLE
                errors[redacted(node)] = error
        return DeleteResult(key=key, outcomes=outcomes, errors=errors)

    def _delete_on(
        self,
        key: str,
        node: str,
        operation: Operation,
        *,
        spare: Callable[[Peer], bool] | None = None,
        peers: dict[str, Peer] | None = None,
    ) -> tuple[DeleteOutcome, QClientException | None]:
        request = Request(
            "DELETE",
            f"/dataset/{key}",
            spare=spare,
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
        except (NoCacheAvailable, TooManyConsecutiveErrors) as error:
            # A refusal from before does not count: the node may have come back, and been stored to, since.
            gone = self._pool.is_gone(node, since=started)
            return (DeleteOutcome.GONE if gone else DeleteOutcome.UNREACHABLE), error
        except QClientException as error:
            return DeleteOutcome.UNREACHABLE, error
        return DeleteOutcome.CONFIRMED, None

    # Many at once.

    def _bulk(
        self,
        pairs: Iterable[tuple[Any, Any]],
        work: Callable[..., Any],
        operation: Operation,
        *,
        raise_on_failure: bool,
        on_done: Callable[[Any, Any], object] | None = None,
        node_for_key: Callable[[Any], str] | None = None,
    ) -> BulkReport:
        report = run_bulk(
            pairs,
            work,
            nodes=self._ring.nodes,
            node_for_key=node_for_key or self._node_now,
            on_done=on_done,
            clock=self._clock,
            operation=operation,
        )
        if raise_on_failure:
            report.raise_for_failures()
        return report

    def _delete_everywhere(
        self,
        keys: Iterable[str],
        whole: Operation,
        on_done: Callable[[str, DeleteResult | Exception], object] | None = None,
    ) -> BulkReport:
        nodes = self._ring.nodes
        gathered = GatheredDeletes(nodes, on_done)
        asked: set[str] = set()

        def remove(place: tuple[str, str], _: None) -> tuple[DeleteOutcome, QClientException | None]:
            key, node = place
            operation = self._begin(key, whole)
            if node in asked and self._is_silent(node):
                return DeleteOutcome.UNREACHABLE, NoCacheAvailable(
                    f"delete table {key!r} on {redacted(node)}: the node does not respond: "
                    f"{self._pool.last_error(node)}"
                )
            asked.add(node)
            return self._delete_on(key, node, operation)

        places = (((key, node), None) for key in dict.fromkeys(keys) for node in nodes)
        done = self._bulk(
            places,
            remove,
            whole,
            raise_on_failure=False,
            on_done=gathered.note,
            node_for_key=lambda place: place[1],
        )
        return BulkReport(succeeded=gathered.succeeded, failed=gathered.failed, seconds=done.seconds)

    def _presence(
        self, key: str, nodes: Sequence[str], operation: Operation, *, wait_for_nodes: bool
    ) -> Done:
        request = Request(
            "GET",
            f"/dataset/{key}?q={_NO_QUERY}",
            _JSON_UNCOMPRESSED,
            kind=RequestKind.PRESENCE,
            what=f"ask whether table {key!r} is there",
            nodes=nodes,
            wait_for_nodes=wait_for_nodes,
        )
        return self._engine.run(request, operation)

    def _holder(self, key: str, operation: Operation) -> str | None:
        """The node that has a key's table, if it is the node that readers ask; None if there is none."""
        try:
            done = self._presence(key, self._ring.successors(key), operation, wait_for_nodes=True)
        except OperationCancelled:
            raise
        except QClientException as error:
            if not error.transient:
                raise
            return None  # the store, which follows, says what is wrong
        return None if done.answer is None else done.node

    def _absence(self, key: str, node: str, operation: Operation) -> Absence | None:
        if self._is_silent(node):
            return Absence.UNKNOWN
        started = self._clock.now()
        try:
            done = self._presence(key, (node,), operation, wait_for_nodes=False)
        except (NoCacheAvailable, TooManyConsecutiveErrors):
            return self._gone_or_unknown(node, started)
        except QClientException as error:
            if not error.transient:
                raise
            return Absence.UNKNOWN
        return Absence.MISSING if done.answer is None else None

    def _gone_or_unknown(self, node: str, since: float) -> Absence:
        """Why a node that could not be used since then is not known to have a table."""
        return Absence.GONE if self._pool.is_gone(node, since=since) else Absence.UNKNOWN

    def _node_named(self, name: str) -> str:
        """The node of a name, with or without the credentials that its URL has."""
        node = self._node_names.get(name)
        if node is None:
            raise ValueError(f"node={name!r}: expected one of {', '.join(map(redacted, self._ring.nodes))}")
        return node

    def _node_now(self, key: str) -> str:
        check_key(key)
        failing = self._pool.failing
        if failing:
            for node in self._ring.successors(key):
                if node not in failing:
                    return node
        return self._ring.node_for_key(key)

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
                raise local_resource_error(what, local) from local
            return
        ticket = self._pool.ticket(node)
        try:
            self._sender.status(node, operation, after_writes=False)
        except Failure as failure:
            operation.check(what)
            if failure.outcome in OUTCOMES_OF_LIVING_NODES:
                return
            if failure.outcome is Outcome.LOCAL:
                raise local_resource_error(what, failure.cause) from failure
            self._pool.fail(
                node, ticket, f"status: {failure.outcome}: {failure}", gone=failure.outcome is Outcome.REFUSED
            )

    def _time_check(self, operation: Operation, key: str) -> Callable[[], None]:
        """A function for work before a store is sent: it raises once the store was cancelled or is late."""
        what = f"store table {key!r}"

        def check_time() -> None:
            operation.check(what)
            if self._clock.now() >= operation.deadline:
                raise DeadlineExceeded(
                    f"{what}: the deadline passed while this machine read, checked or compressed the table; "
                    "no node was asked. Increase `deadline`, or store a smaller table."
                )

        return check_time

    # Events.

    def _node_changed(self, node: str, alive: bool, error: str | None) -> None:  # noqa: FBT001
        if alive:
            _log.info("node %s responds again", redacted(node))
            self._notify(lambda listener: listener.node_recovered(redacted(node)))
        else:
            _log.warning("node %s failed: %s", redacted(node), error)
            self._notify(lambda listener: listener.node_failed(redacted(node), error or ""))

    def _attempt_failed(self, attempt: Attempt) -> None:
        if self._listeners:
            self._notify(lambda listener: listener.attempt_failed(attempt))

    def _notify(self, call: Callable[[Listener], None]) -> None:
        for listener in self._listeners:
            try:
                call(listener)
            except Exception:  # noqa: BLE001
                _log.exception("a Listener of the client raised an error")


_clients: weakref.WeakSet[QClient] = weakref.WeakSet()


def _start_anew_after_fork() -> None:
    for client in list(_clients):
        client._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew_after_fork)


class _Stored(NamedTuple):
    """A store that was acknowledged, without the table."""

    key: str
    order: tuple[str, ...]
    done: Done
    bytes: int
    rows: int | None
    copies: tuple[str, ...]
    failed: dict[str, str]
    started: float
    peers: dict[str, Peer]
    """Where the nodes that stored it were reached."""
    evicted_at: dict[str, Peer]
    """Where the nodes that were asked to delete it were reached."""


def _check_no_process_twice(nodes: Iterable[str], seconds: float) -> None:
    same = two_names(nodes, seconds=seconds)
    if same is not None:
        raise ValueError(
            f"node_list: {redacted(same[0])!r} and {redacted(same[1])!r} are two names of one node. List "
            "each node once, spelled as every other reader and writer of the cluster spells it."
        )


def _statistics(answer: Answer, prefix: str) -> dict[str, float]:
    """X-QCache-stats, ``name=number`` by commas, each name with a prefix. 0.9.3 never sends it."""
    statistics: dict[str, float] = {}
    said = answer.headers.get("X-QCache-stats")
    if not said:
        return statistics
    for part in said.split(","):
        name, _, value = part.partition("=")
        try:
            statistics[prefix + name.strip()] = float(value)
        except ValueError:
            continue
    return statistics


def _node_error(what: str, node: str, failure: Failure) -> QClientException:
    attempt = Attempt(redacted(node), failure.phase, failure.outcome, 0.0, failure.status, failure.cause)
    if failure.outcome is Outcome.LOCAL:
        return local_resource_error(what, failure.cause, [attempt])
    if failure.outcome is Outcome.DEADLINE:
        return DeadlineExceeded(f"{what}: the deadline passed", attempts=[attempt])
    nodes = {redacted(node): str(attempt)}
    return NoCacheAvailable(f"{what}: the node did not respond", attempts=[attempt], nodes=nodes)
