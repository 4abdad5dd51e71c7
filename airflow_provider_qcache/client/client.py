"""QClient: qcache-client's class and signatures, on the parts beside this module."""

from __future__ import annotations

import json
import logging
import os
import random
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self
from urllib.parse import quote_plus

from airflow_provider_qcache.client import encoding
from airflow_provider_qcache.client.arguments import check_count, check_seconds
from airflow_provider_qcache.client.bulk import Elsewhere, GatheredDeletes, gathered_delete, run_bulk
from airflow_provider_qcache.client.checks import MAX_HEAD_BYTES, check_header, check_key
from airflow_provider_qcache.client.clock import SystemClock
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
    Phase,
    QClientException,
    RowCountMismatch,
    TooManyConsecutiveErrors,
    UnexpectedServerResponse,
    shown,
    without_credentials,
)
from airflow_provider_qcache.client.nodes import NodePool, NodeStatus
from airflow_provider_qcache.client.outcome import MET_ON_A_LIVING_NODE, Kind
from airflow_provider_qcache.client.probe import Prober
from airflow_provider_qcache.client.results import (
    Absence,
    BulkReport,
    DeleteOutcome,
    DeleteResult,
    KeptTable,
    QueryResult,
    StoreResult,
)
from airflow_provider_qcache.client.retry import Engine, Request, RequestRetry, Span, home_unavailable
from airflow_provider_qcache.client.ring import Ring
from airflow_provider_qcache.client.tables import table_upload, upload_for
from airflow_provider_qcache.client.threads import Call, ask_all
from airflow_provider_qcache.client.transport import (
    Failure,
    Limit,
    NodeTransport,
    TransportSettings,
    check_auth,
    close_only_here,
    once_more_fresh,
)
from airflow_provider_qcache.client.upload import Upload, update_headers, upload_of

if TYPE_CHECKING:
    import threading
    from collections import defaultdict
    from collections.abc import Callable, Container, Iterable, Iterator

    from airflow_provider_qcache.client.body import Content
    from airflow_provider_qcache.client.clock import Clock
    from airflow_provider_qcache.client.retry import Done
    from airflow_provider_qcache.client.transport import Answer

_log = logging.getLogger("airflow_provider_qcache.client")

_FOREVER: Final = float("inf")
_LONGEST_GET: Final = 8 * 1024
"""A query whose request line would be longer goes as POST: proxies are known to stop there."""

_BAD_CONTENT: Final = frozenset({400, 413, 415, 422, 500})
"""What a node answers to a table that it cannot read: a 500 where its parser fails."""

_TO_SETTLE: Final = 4
"""How often the status of a node is asked for that was sent a store or a delete which was given up. QCache
0.9.3, stopped and woken, acts on what it has in some turn of its loop: of 85 small tables whose store was
cancelled 7 came after two statuses, none after three."""

_COUNT_ROWS: Final = {"select": [["count"]]}

_NO_QUERY: Final = quote_plus('{"is it there":0}')
"""A clause no node knows: it is looked at where there is a table, and refused."""

_PRESENCE_HEADERS: Final = b"Accept: application/json\r\nAccept-Encoding: identity\r\n"


class Listener:
    """What a client tells about its nodes. Override what is of interest.

    Called by the thread that met the event, outside every lock. An error raised here is logged and breaks
    nothing.
    """

    def node_failed(self, node: str, error: str) -> None:
        """A node was alive and is failing."""

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
        read_timeout: Seconds until the head of an answer is there, and between the parts of its body.
        verify: False, True (the environment's CA bundle, else requests') or the path of a CA bundle, which
            wins over the environment's.
        cert: A client certificate: the path of a file with the key in it, or (certificate, key).
        auth: (login, password) for basic auth, neither with a ':', or anything requests takes for auth;
            asked once per node.
        consecutive_error_count_limit: Failed requests that end an operation. Each operation counts for
            itself.
        trust_env: Look up proxies, the CA bundle and netrc in the environment, once per node.
        deadline: Seconds an operation may take in all, name look-ups aside; None for no end. It is passed by
            half a second at most.
        store_timeout: Seconds a node may take to receive and parse a table, once connected; None for
            max(10 x read_timeout, bytes / 5 MB/s).
        max_response_bytes: The longest answer, decoded; None for no limit.
        request_retry: How failed requests are asked again; see RequestRetry.
        confirm_miss: Raise HomeNodeUnavailable instead of reporting a miss when a node before the one that
            answered is silent, and so may have the table. False warns and returns None, as qclient does.

    Raises:
        ValueError: for an argument that makes no sense, naming it.
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
    ) -> None:
        check_seconds("connect_timeout", connect_timeout)
        check_seconds("read_timeout", read_timeout)
        if deadline is not None:
            check_seconds("deadline", deadline)
        if store_timeout is not None:
            check_seconds("store_timeout", store_timeout)
        if max_response_bytes is not None:
            check_count("max_response_bytes", max_response_bytes)
        check_count("consecutive_error_count_limit", consecutive_error_count_limit)
        if not (request_retry is None or isinstance(request_retry, RequestRetry)):
            raise ValueError(f"request_retry={request_retry!r}: a RequestRetry or None is wanted")
        if not isinstance(verify, bool | str | os.PathLike):
            raise ValueError(f"verify={verify!r}: True, False or the path of a CA bundle is wanted")  # noqa: TRY004
        policy = request_retry if request_retry is not None else RequestRetry()
        if policy.wait_for_nodes and deadline is None:
            raise ValueError(
                "request_retry waits for nodes (wait_for_nodes) and there is no deadline to end that"
            )
        if isinstance(auth, list):
            auth = tuple(auth)
        check_auth(auth)
        self._ring = Ring(node_list)
        _check_no_process_twice(self._ring.nodes)
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
        )
        self._transports = {node: NodeTransport(node, self._settings) for node in self._ring.nodes}
        bases = (transport.base for transport in self._transports.values())
        self._longest_target = _LONGEST_GET - len("GET  HTTP/1.1\r\n") - max(map(len, bases))
        self._listeners: tuple[Listener, ...] = ()
        # Not for secrets: it spreads waits, so that many clients do not ask at the same moment.
        rng = self._rng = random.Random()  # noqa: S311
        self._pool = NodePool(self._ring.nodes, clock=self._clock, rng=rng, on_change=self._node_changed)
        self._prober = Prober(self._pool, self._probe, self._clock)
        self._active: set[Limit] = set()
        self._closed = False
        self._engine = Engine(
            pool=self._pool,
            wire=_Wire(self),
            clock=self._clock,
            rng=rng,
            policy=policy,
            limit=consecutive_error_count_limit,
            read_timeout=read_timeout,
            store_timeout=self._store_time,
            on_attempt_failed=self._attempt_failed,
        )
        _clients.add(self)

    def __repr__(self) -> str:
        nodes = ", ".join(map(shown, self._ring.nodes))
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
    ) -> QueryResult | None:
        """Query the table stored under a key; None where there is none.

        Args:
            key: The table's key.
            q: The query, as QCache documents it: a dict that JSON can carry.
            accept: 'application/json' or 'text/csv'.
            post_query: Send the query as the body of a POST, whatever its length. One whose GET would pass
                8 KiB is.
            query_headers: Further headers, by name; these win.

        Raises:
            MalformedQueryException: q is None or was refused (400).
            UnsupportedAcceptType: 406.
            HomeNodeUnavailable: a miss that cannot be told from a node that is silent (with
                ``confirm_miss``).
            QClientException: every other error of the client.
        """
        span = self._begin(key)
        return self._get(key, q, accept, post_query=post_query, query_headers=query_headers, span=span)

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
        """Store a table under a key, replacing the one that is there.

        Args:
            key: The table's key.
            content: bytes, str, a path, an open binary file, or a function that returns a fresh iterator of
                bytes.
            content_type: 'text/csv' or 'application/json'.
            post_headers: Further headers, by name, such as X-QCache-types; these win.
            compression: 'gzip' or 'lz4' to compress what is sent; lz4 only for content in memory.
            copies: Nodes that get the table: the key's first so many in ring order, its home last. A standby
                that fails is reported, and the store a success where home, or its stand-in, has it. One that
                refuses the table itself (400, 413, 415, 422, 500) ends the store, before home would drop
                what it has.
            evict_stale: Afterwards tell every other configured node to delete the key, so that a later
                failover does not show an older table.
            check_row_count: At the end ask the node how many rows the table has.

        Raises:
            InvalidTable: the content, or a header about it, is one a node would refuse; the old table is
                still there.
            StoreUncertain: the node did not answer in time; it may or may not have the table.
            RowCountMismatch: the node has other rows than were sent.
            QClientException: every other error of the client.
        """
        span = self._begin(key)
        upload = upload_of(content, content_type, post_headers, compression)
        return self._post(
            key,
            upload,
            span=span,
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
        """Query a table; if there is none, store what ``load_fn(**load_fn_kwargs)`` returns, and query it.

        load_fn is called once, and its table stored twice at most. Its time counts towards the deadline.

        Raises:
            TooManyConsecutiveErrors: the table was stored twice and is not there.
            QClientException: what ``get`` and ``post`` raise.
        """
        span = self._begin(key)
        upload: Upload | None = None
        statistics: dict[str, float] = {}
        stores = 0
        while True:
            result = self._get(key, q, accept, post_query=post_query, query_headers=query_headers, span=span)
            if result is not None:
                result.add_stats(statistics)
                return result
            if stores >= min(2, self._engine.limit):
                raise TooManyConsecutiveErrors(
                    f"query table {key!r}: it was stored {stores} times and is not there when it is "
                    "queried. The cache may be too small for it, or another client deletes it."
                )
            if upload is None:
                content = load_fn(**(load_fn_kwargs or {}))
                upload = upload_of(content, content_type, post_headers, None)
            elif not upload.repeatable:
                raise TooManyConsecutiveErrors(
                    f"query table {key!r}: it was stored and is not there, and what load_fn gave cannot be "
                    "read again"
                )
            statistics = self._post(key, upload, span=span).statistics
            stores += 1

    def delete(self, key: str, *, all_nodes: bool = False) -> DeleteResult:
        """Delete the table under a key.

        Without ``all_nodes`` the key's first living node is asked, as qclient does; a table that an earlier
        failover left elsewhere stays there. The result has that node, and those before it in the key's order,
        which are gone or unreachable. With ``all_nodes`` every configured node is asked, failing ones too.

        Raises:
            HomeNodeUnavailable: a stand-in deleted it and a node before it is silent (with ``confirm_miss``).
            QClientException: every other error of the client. With ``all_nodes`` a node that cannot be
                reached is an outcome, not an error; refused credentials and certificates are errors, raised
                when every node was asked, with the DeleteResult as ``result``.
        """
        return self._delete(key, self._begin(key), all_nodes=all_nodes)

    def get_statistics(self) -> defaultdict[str, dict[str, int]]:
        """Take what was counted per node since this was last called.

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
            prepare: ``prepare(key, content)`` gives what is stored, in the thread of the key's node; what it
                raises is that key's error.
            keep: Keys whose table is left as it is where the node that readers ask has one: a KeptTable.
            on_done: ``on_done(key, outcome)`` is told each StoreResult, KeptTable or Exception as it is
                known, by the nodes' threads, one at a time. The report stays empty then, and nothing of what
                was stored is kept in memory. What it raises ends the call.

        Raises:
            BulkError: some failed, at the end, with the report; not with ``on_done``.
            OperationCancelled: cancel() was called.
        """
        call = Call()
        whole = self._span(call)
        pairs = tables.items() if isinstance(tables, Mapping) else tables

        # Rows are counted last, so that another node's thread would have to wait for that.
        elsewhere = evict_stale and not check_row_count and len(self._ring.nodes) > 1

        def store(
            key: str, content: Any, turns: Mapping[str, threading.Lock]
        ) -> StoreResult | KeptTable | Elsewhere:
            span = Span(self._begin(key).deadline, whole.cancellations, call)
            if key in keep and (node := self._holder(key, span)) is not None:
                return KeptTable(key=key, node=shown(node))
            if prepare is not None:
                content = prepare(key, content)
            upload = upload_for(content, content_type, post_headers, compression)
            with upload:
                if elsewhere:
                    return self._post_and_evict_elsewhere(key, upload, span=span, copies=copies, turns=turns)
                return self._post(
                    key,
                    upload,
                    span=span,
                    copies=copies,
                    evict_stale=evict_stale,
                    check_row_count=check_row_count,
                    turns=turns,
                )

        return self._bulk(
            pairs,
            store,
            whole,
            call,
            raise_on_failure=raise_on_failure,
            on_done=on_done,
            elsewhere=elsewhere,
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

        With ``all_nodes`` a key with an unreachable node is a success whose result says so. A node that is
        silent is not asked for every key, as each would cost a timeout: from the first on it is unreachable
        until it answers a probe. ``on_done`` and errors are ``post_many``'s. Raises TypeError for one string.
        """
        if isinstance(keys, str | bytes):
            raise TypeError(f"keys={keys!r}: several keys are wanted, not one string")
        call = Call()
        whole = self._span(call)
        if all_nodes:
            return self._delete_many_everywhere(keys, whole, call, raise_on_failure, on_done)

        def remove(key: str, _: None, turns: Mapping[str, threading.Lock]) -> DeleteResult:
            del turns
            span = Span(self._begin(key).deadline, whole.cancellations, call)
            return self._delete(key, span, all_nodes=False)

        pairs = ((key, None) for key in keys)
        return self._bulk(pairs, remove, whole, call, raise_on_failure=raise_on_failure, on_done=on_done)

    def find_absent(self, places: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Absence]:
        """Which tables are not where they were stored: pairs of key and node, of which those are given back.

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
        call = Call()
        whole = self._span(call)
        nodes = {shown(node): node for node in self._ring.nodes}
        absent: dict[tuple[str, str], Absence] = {}

        def node_of(place: tuple[str, str]) -> str:
            check_key(place[0])
            if (node := nodes.get(place[1])) is None:
                raise ValueError(f"node {place[1]!r} is none of {', '.join(nodes)}")
            return node

        def ask(place: tuple[str, str], _: None, turns: Mapping[str, threading.Lock]) -> Absence | None:
            del turns
            span = Span(self._begin(place[0]).deadline, whole.cancellations, call)
            return self._absence(place[0], nodes[place[1]], span)

        def note(place: tuple[str, str], outcome: Absence | Exception | None) -> None:
            if isinstance(outcome, Exception):
                raise outcome
            if outcome is not None:
                absent[place] = outcome

        pairs = ((place, None) for place in places)
        self._bulk(pairs, ask, whole, call, raise_on_failure=False, on_done=note, node_for_key=node_of)
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
        """Store a table that is no bytes yet: it is encoded as it is sent, in bounded memory.

        Every column goes as what it is: texts stay texts, so that a ZIP code keeps its zeros, and what a node
        could not hold truly is refused by its column and row, while the old table is still there.
        docs/tables.md has the rule for each type.

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
        span = self._begin(key)
        with table_upload(
            table,
            content_type=content_type,
            headers=post_headers,
            column_types=column_types,
            stand_in_columns=stand_in_columns,
            compression=compression,
        ) as upload:
            return self._post(
                key,
                upload,
                span=span,
                copies=copies,
                evict_stale=evict_stale,
                check_row_count=check_row_count,
            )

    def node_for_key(self, key: str) -> str:
        """The key's home node, whether it is alive or not."""
        check_key(key)
        return self._ring.node_for_key(key)

    def successors(self, key: str) -> tuple[str, ...]:
        """Every node in the order in which the key is looked for, its home first."""
        check_key(key)
        return tuple(self._ring.successors(key))

    def node_status(self, *, probe: bool = False) -> dict[str, NodeStatus]:
        """Every node as the client knows it; with ``probe`` each is first asked for its status."""
        call = Call()
        span = self._span(call)
        if probe:
            ask_all(self._ring.nodes, lambda node: self._check_node(node, span), call)
        return {shown(node): status for node, status in self._pool.snapshot().items()}

    def node_statistics(self) -> dict[str, dict[str, Any] | QClientException]:
        """Every node's own statistics, or the error met. Reading them resets the node's lists and counts."""
        call = Call()
        span = self._span(call)

        def ask(node: str) -> dict[str, Any] | QClientException:
            headers = b"Accept: application/json\r\nAccept-Encoding: identity\r\n"
            try:
                answer = self._ask_itself(node, _Payload("GET", "/statistics", headers), span)
                statistics: dict[str, Any] = json.loads(answer.content) if answer.status == 200 else {}
            except Failure as failure:
                self._raise_if_cancelled(span, f"statistics of {shown(node)}")
                return _node_error(f"statistics of {shown(node)}", node, failure)
            except (ValueError, RecursionError) as error:
                return UnexpectedServerResponse(f"statistics of {shown(node)}: not JSON: {error}", status=200)
            if answer.status != 200:
                return UnexpectedServerResponse(
                    f"statistics of {shown(node)}: it answered {answer.status}", status=answer.status
                )
            return statistics

        nodes = self._ring.nodes
        return dict(zip(map(shown, nodes), ask_all(nodes, ask, call), strict=True))

    def add_listener(self, listener: Listener) -> None:
        """Tell a Listener what happens from now on."""
        self._listeners = (*self._listeners, listener)

    def remove_listener(self, listener: Listener) -> None:
        """Tell it no more."""
        self._listeners = tuple(other for other in self._listeners if other is not listener)

    def cancel(self) -> None:
        """End every operation in progress with OperationCancelled, within a second; later ones run.

        Takes no lock and so may be called from a signal handler. A name look-up cannot be ended, nor the
        caller's own code (load_fn, a body's iterator).
        """
        self._engine.cancellations += 1
        # Copying a set is one step of the interpreter, whatever other threads do to it.
        for limit in self._active.copy():
            limit.cancel()

    def close(self) -> None:
        """End connections and probes, cancel what is in progress; later operations raise ClientClosed."""
        if not self._closed:
            self._closed = True
            self.cancel()
        # A second call does what one that was interrupted could not.
        try:
            self._prober.close(timeout=1.0)
        finally:
            for transport in self._transports.values():
                transport.close()

    def _after_fork(self) -> None:
        """Share nothing with the parent process, of whose threads this one has the caller's alone."""
        self._pool.start_anew()
        self._prober.start_anew()
        self._rng.seed()
        active, self._active = self._active, set()
        for limit in active:
            close_only_here(limit.sock)
        for transport in self._transports.values():
            transport.forget_connections()

    # How operations begin and end.

    def _span(self, call: Call | None = None) -> Span:
        """When an operation that begins now ends."""
        # First: a cancel() from here on ends it; and close() says that it closed before it counts one.
        cancellations = self._engine.cancellations
        deadline = _FOREVER if self._deadline is None else self._clock.now() + self._deadline
        span = Span(deadline, cancellations, call)
        if self._closed:
            raise ClientClosed("the client was closed")
        return span

    def _begin(self, key: str) -> Span:
        span = self._span()
        check_key(key)
        pool = self._pool
        pool.operation()
        if pool.failing and (due := pool.due()):
            self._prober.start(due)
        return span

    def _order(self, key: str) -> Sequence[str]:
        return _Successors(self._ring, key)

    def _confirm(self, request: Request, done: Done) -> HomeNodeUnavailable | None:
        """Nothing is there, says a node. Gives, or raises, an error where it may not know."""
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
        *,
        post_query: bool,
        query_headers: Mapping[str, str] | None,
        span: Span,
        node: str | None = None,
    ) -> QueryResult | None:
        if q is None:
            raise MalformedQueryException(
                f"query table {key!r}: None is no query (a node answers it with nothing); {{}} selects "
                "everything"
            )
        text = json.dumps(q)
        headers = {"Accept": accept, "Accept-Encoding": encoding.ACCEPT_ENCODING}
        target = f"/dataset/{key}?q={quote_plus(text)}"
        body = None
        method = "GET"
        if post_query or len(target) > self._longest_target:
            method, target, body = "POST", f"/dataset/{key}/q", text.encode()
            headers["Content-Type"] = "application/json"
        if query_headers:
            update_headers(headers, query_headers)
        lines = b"".join(check_header(name, value) for name, value in headers.items())
        nodes = self._order(key) if node is None else (node,)
        if len(lines) + len(target) > MAX_HEAD_BYTES - 2048:
            self._check_head(nodes[0], target, lines, MalformedQueryException)
        shortened = text if len(text) <= 200 else text[:200] + "…"
        request = Request(
            Kind.QUERY, key, f"query table {key!r} {shortened}", nodes, _Payload(method, target, lines, body)
        )
        done = self._engine.run(request, span)
        answer = done.answer
        if answer is None:
            self._confirm(request, done)
            return None
        return QueryResult(
            answer.content,
            int(answer.headers["X-QCache-unsliced-length"]),
            answer.encoding,
            _statistics(answer, "get_"),
            shown(done.node),
            (answer.headers.get("Content-Type") or accept).partition(";")[0].strip().lower(),
        )

    def _check_head(self, node: str, target: str, lines: bytes, error: type[QClientException]) -> None:
        size = self._transports[node].head_size(target, lines)
        if size > MAX_HEAD_BYTES:
            raise error(
                f"the request's head would be {size} bytes; {MAX_HEAD_BYTES} are sent at most, because "
                "a node hangs up without an answer on one that is a little longer. Shorten its headers."
            )

    # Stores.

    def _store_time(self, request: Request) -> float:
        return self._transports[request.nodes[0]].store_time(request.payload.upload.length)

    def _post(
        self,
        key: str,
        upload: Upload,
        *,
        span: Span,
        copies: int = 1,
        evict_stale: bool = False,
        check_row_count: bool = False,
        turns: Mapping[str, threading.Lock] | None = None,
    ) -> StoreResult:
        if check_row_count and not upload.countable:
            raise ValueError("check_row_count: lz4 is not installed here, so that the rows cannot be counted")
        stored = self._store(key, upload, span=span, copies=copies, turns=turns)
        told = {node: self._evict(key, node, span) for node in self._others(stored)} if evict_stale else {}
        if check_row_count:
            assert upload.rows is not None  # noqa: S101  # it is countable
            self._check_rows(key, stored.done.node, upload.rows, span)
        return self._store_result(stored, told)

    def _post_and_evict_elsewhere(
        self, key: str, upload: Upload, *, span: Span, copies: int, turns: Mapping[str, threading.Lock]
    ) -> Elsewhere:
        """As ``_post`` with ``evict_stale``, the other nodes being told by threads of their own."""
        stored = self._store(key, upload, span=span, copies=copies, turns=turns)
        return Elsewhere(
            self._others(stored),
            lambda node: self._evict(key, node, span),
            lambda told: self._store_result(stored, told),
        )

    def _store(
        self,
        key: str,
        upload: Upload,
        *,
        span: Span,
        copies: int,
        turns: Mapping[str, threading.Lock] | None,
    ) -> _Stored:
        started = self._clock.now()
        order = self._order(key)
        check_count("copies", copies)
        if copies > 1 and not upload.repeatable:
            raise ValueError(f"copies={copies}: the content can be read once only")
        upload.check_before_sending()
        target = f"/dataset/{key}"
        if len(upload.headers) > MAX_HEAD_BYTES - 8192:
            self._check_head(order[0], target, upload.headers, InvalidTable)
        payload = _Payload("POST", target, upload=upload, turns=turns)
        standbys = list(order)[1:copies] if copies > 1 else []
        stored: list[str] = []
        failed: dict[str, str] = {}
        for standby in standbys:
            if self._is_silent(standby):
                failed[shown(standby)] = self._pool.last_error(standby) or ""
                continue
            what = f"store a copy of table {key!r} on {shown(standby)}"
            only = Request(Kind.STORE, key, what, (standby,), payload, repeatable=True, wait_for_nodes=False)
            try:
                self._engine.run(only, span)
            except (InvalidTable, OperationCancelled):
                raise
            except QClientException as error:
                if isinstance(error, UnexpectedServerResponse) and error.status in _BAD_CONTENT:
                    # The table is to blame, and home would drop the one it has before it says so, too.
                    raise
                failed[shown(standby)] = f"{type(error).__name__}: {error}"
                _log.warning("%s failed: %s", what, error)
            else:
                stored.append(standby)
        request = Request(
            Kind.STORE, key, f"store table {key!r}", order, payload, repeatable=upload.repeatable
        )
        done = self._engine.run(request, span)
        return _Stored(key, order, done, upload.bytes, upload.rows, tuple(stored), failed, started)

    def _others(self, stored: _Stored) -> list[str]:
        """The nodes that are to have no table under the key now."""
        if len(self._ring.nodes) == 1:
            return []
        return [node for node in stored.order if node != stored.done.node and node not in stored.copies]

    def _store_result(self, stored: _Stored, told: Mapping[str, bool]) -> StoreResult:
        """What became of a store; ``told`` says of other nodes whether they could be."""
        done = stored.done
        home = stored.order[0]
        assert done.answer is not None  # noqa: S101  # a store has no miss
        others = self._others(stored) if told else ()
        return StoreResult(
            key=stored.key,
            node=shown(done.node),
            home_node=shown(home),
            failed_over=done.node != home,
            bytes=stored.bytes,
            rows=stored.rows,
            seconds=self._clock.now() - stored.started,
            attempts=done.attempts,
            statistics=_statistics(done.answer, "insert_"),
            copies=tuple(shown(node) for node in stored.copies if node != done.node),
            failed_copies=stored.failed,
            evicted=tuple(shown(node) for node in others if told[node]),
            may_hold_old=tuple(shown(node) for node in others if not told[node]),
        )

    def _check_rows(self, key: str, node: str, sent: int, span: Span) -> None:
        result = self._get(
            key,
            _COUNT_ROWS,
            "application/json",
            post_query=False,
            query_headers=None,
            span=span,
            node=node,
        )
        found = None
        if result is not None:
            try:
                found = int(json.loads(result.content)[0]["count"])
            except (ValueError, LookupError, TypeError, RecursionError) as error:
                raise UnexpectedServerResponse(
                    f"count rows of table {key!r}: {shown(node)} answered {result.content[:200]!r}",
                    status=200,
                ) from error
        if found != sent:
            holds = "no such table" if found is None else f"{found} rows"
            raise RowCountMismatch(
                f"store table {key!r}: {sent} rows were sent and {shown(node)} has {holds}. It may have "
                "evicted it, or another client stored at the same time.",
                sent=sent,
                found=found,
            )

    def _is_silent(self, node: str) -> bool:
        """Whether a node would cost a timeout for what is not needed, as each of many stores would ask it."""
        return node in self._pool.failing and not self._pool.is_gone(node)

    def _evict(self, key: str, node: str, span: Span) -> bool:
        """Have a node delete a key: whether it is sure not to hold it."""
        if self._is_silent(node):
            return False
        outcome, error = self._delete_on(key, node, span)
        if outcome is DeleteOutcome.UNREACHABLE:
            _log.warning("evict stale copies of table %r: %s", key, error)
            return False
        return True

    # Deletes.

    def _delete(self, key: str, span: Span, *, all_nodes: bool) -> DeleteResult:
        if all_nodes:
            return self._delete_everywhere(key, span)
        request = Request(
            Kind.DELETE,
            key,
            f"delete table {key!r}",
            self._order(key),
            _Payload("DELETE", f"/dataset/{key}"),
        )
        done = self._engine.run(request, span)
        error = self._confirm(request, done)
        outcomes = {}
        errors: dict[str, QClientException] = {}
        for node in request.nodes:
            if node == done.node:
                outcomes[shown(node)] = DeleteOutcome.CONFIRMED
                break
            outcomes[shown(node)] = DeleteOutcome.GONE
            if error is not None and node in done.unknown:
                outcomes[shown(node)] = DeleteOutcome.UNREACHABLE
                errors[shown(node)] = error
        return DeleteResult(key=key, outcomes=outcomes, errors=errors)

    def _delete_on(self, key: str, node: str, span: Span) -> tuple[DeleteOutcome, QClientException | None]:
        request = Request(
            Kind.DELETE,
            key,
            f"delete table {key!r} on {shown(node)}",
            (node,),
            _Payload("DELETE", f"/dataset/{key}"),
            wait_for_nodes=False,
        )
        started = self._clock.now()
        try:
            self._engine.run(request, span)
        except OperationCancelled:
            raise
        except (NoCacheAvailable, TooManyConsecutiveErrors) as error:
            # A refusal from before does not count: the node may have come back, and been stored to, since.
            gone = self._pool.is_gone(node, since=started)
            return (DeleteOutcome.GONE if gone else DeleteOutcome.UNREACHABLE), error
        except QClientException as error:
            return DeleteOutcome.UNREACHABLE, error
        return DeleteOutcome.CONFIRMED, None

    def _delete_everywhere(self, key: str, span: Span) -> DeleteResult:
        order = tuple(self._order(key))
        call = span.call or Call()
        span = span._replace(call=call)
        met = ask_all(order, lambda node: self._delete_on(key, node, span), call)
        result, error = gathered_delete(key, dict(zip(order, met, strict=True)))
        if error is not None:
            raise error
        return result

    # Many at once.

    def _bulk(
        self,
        pairs: Iterable[tuple[Any, Any]],
        work: Callable[..., Any],
        span: Span,
        call: Call,
        *,
        raise_on_failure: bool,
        on_done: Callable[[Any, Any], object] | None = None,
        node_for_key: Callable[[Any], str] | None = None,
        elsewhere: bool = False,
    ) -> BulkReport:
        report = run_bulk(
            pairs,
            work,
            nodes=self._ring.nodes,
            node_for_key=node_for_key or self._node_now,
            on_done=on_done,
            clock=self._clock,
            cancelled=lambda: self._engine.cancellations != span.cancellations,
            call=call,
            elsewhere=elsewhere,
        )
        if raise_on_failure:
            report.raise_for_failures()
        return report

    def _delete_many_everywhere(
        self,
        keys: Iterable[str],
        whole: Span,
        call: Call,
        raise_on_failure: bool,  # noqa: FBT001
        on_done: Callable[[str, DeleteResult | Exception], object] | None,
    ) -> BulkReport:
        nodes = self._ring.nodes
        gathered = GatheredDeletes(nodes, on_done)

        def node_of(place: tuple[str, str]) -> str:
            check_key(place[0])
            return place[1]

        def remove(
            place: tuple[str, str], _: None, turns: Mapping[str, threading.Lock]
        ) -> tuple[DeleteOutcome, QClientException | None]:
            del turns
            key, node = place
            span = Span(self._begin(key).deadline, whole.cancellations, call)
            if self._is_silent(node):
                return DeleteOutcome.UNREACHABLE, NoCacheAvailable(
                    f"delete table {key!r} on {shown(node)}: it is silent: {self._pool.last_error(node)}"
                )
            return self._delete_on(key, node, span)

        places = (((key, node), None) for key in dict.fromkeys(keys) for node in nodes)
        done = self._bulk(
            places,
            remove,
            whole,
            call,
            raise_on_failure=False,
            on_done=gathered.note,
            node_for_key=node_of,
        )
        report = BulkReport(succeeded=gathered.succeeded, failed=gathered.failed, seconds=done.seconds)
        if raise_on_failure:
            report.raise_for_failures()
        return report

    def _presence(self, key: str, nodes: Sequence[str], span: Span, *, wait_for_nodes: bool) -> Done:
        what = f"ask whether table {key!r} is there"
        payload = _Payload("GET", f"/dataset/{key}?q={_NO_QUERY}", _PRESENCE_HEADERS)
        request = Request(Kind.PRESENCE, key, what, nodes, payload, wait_for_nodes=wait_for_nodes)
        return self._engine.run(request, span)

    def _holder(self, key: str, span: Span) -> str | None:
        """The node that has a key's table and is the one that readers ask; None where there is none."""
        try:
            done = self._presence(key, self._order(key), span, wait_for_nodes=True)
        except OperationCancelled:
            raise
        except QClientException as error:
            if not error.transient:
                raise
            return None  # it is to be stored, and that tells what is wrong
        return None if done.answer is None else done.node

    def _absence(self, key: str, node: str, span: Span) -> Absence | None:
        if self._is_silent(node):
            return Absence.UNKNOWN
        started = self._clock.now()
        try:
            done = self._presence(key, (node,), span, wait_for_nodes=False)
        except (NoCacheAvailable, TooManyConsecutiveErrors):
            return Absence.GONE if self._pool.is_gone(node, since=started) else Absence.UNKNOWN
        except QClientException as error:
            if not error.transient:
                raise
            return Absence.UNKNOWN
        return Absence.MISSING if done.answer is None else None

    def _node_now(self, key: str) -> str:
        check_key(key)
        failing = self._pool.failing
        if failing:
            for node in self._ring.successors(key):
                if node not in failing:
                    return node
        return self._ring.node_for_key(key)

    # The way to the nodes.

    def _exchange(self, node: str, payload: _Payload, span: Span, *, fresh: bool) -> Answer:
        limit = Limit(self._clock.now, span.deadline)
        call = span.call
        self._active.add(limit)
        if call is not None:
            call.limits.add(limit)
        try:
            # A cancel from before the lines above has not seen this request.
            if self._engine.is_cancelled(span):
                limit.cancelled = True
            transport = self._transports[node]
            upload = payload.upload
            if upload is None:
                return transport.exchange(
                    payload.method,
                    payload.target,
                    payload.headers,
                    payload.body,
                    limit,
                    body_wanted=payload.method != "DELETE",
                    fresh=fresh,
                    anonymous=payload.anonymous,
                )
            turn = payload.turns[node] if payload.turns is not None else None
            if turn is not None:
                self._take_turn(turn, limit)
            try:
                wire_body = upload.wire_body()
                return transport.exchange(
                    payload.method,
                    payload.target,
                    upload.headers,
                    wire_body.in_memory,
                    limit,
                    stream=wire_body.stream,
                    length=wire_body.length,
                    store=True,
                    body_wanted=False,
                    fresh=fresh,
                )
            finally:
                if turn is not None:
                    turn.release()
        finally:
            if limit.given_up:
                self._pool.unsettle(node)
            self._active.discard(limit)
            if call is not None:
                call.limits.discard(limit)

    def _ask_itself(self, node: str, payload: _Payload, span: Span) -> Answer:
        """One request about the node, none of a table's."""
        return once_more_fresh(lambda fresh: self._exchange(node, payload, span, fresh=fresh))

    def _take_turn(self, turn: threading.Lock, limit: Limit) -> None:
        while not turn.acquire(timeout=0.2):
            if limit.cancelled:
                raise Failure(Outcome.CANCELLED, Phase.CONNECT)
            if self._clock.now() >= limit.deadline:
                raise Failure(Outcome.DEADLINE, Phase.CONNECT)

    def _ask_whether_it_lives(self, node: str, span: Span) -> None:
        # Twice: a node that wakes up acts on what was sent before in the turn of its loop in which it answers
        # first, and a store or delete that was given up must not come after one that follows.
        self._ask_status_as_it_can_be(node, span, twice=True)

    def _ask_status_as_it_can_be(self, node: str, span: Span, *, twice: bool) -> None:
        try:
            self._ask_status(node, span, twice=twice)
        except Failure as failure:
            if failure.outcome is not Outcome.CLOSED or not self._transports[node].authorized:
                raise
            self._ask_status_anonymously(node, span, twice=twice)

    def _ask_status_anonymously(self, node: str, span: Span, *, twice: bool) -> None:
        # A living node hangs up on an Authorization it cannot parse, its status included.
        try:
            self._ask_status(node, span, twice=twice, anonymous=True)
        except Failure as failure:
            if failure.outcome is not Outcome.UNAUTHORIZED:
                raise

    def _ask_status(self, node: str, span: Span, *, twice: bool, anonymous: bool = False) -> None:
        settings = self._settings
        end = min(span.deadline, self._clock.now() + settings.connect_timeout + settings.read_timeout)
        payload = _Payload("GET", "/status", b"Accept-Encoding: identity\r\n", anonymous=anonymous)
        given_up = self._pool.unsettled.get(node) if twice else None
        times = 1 if not twice else 2 if given_up is None else _TO_SETTLE
        for _ in range(times):
            answer = self._ask_itself(node, payload, span._replace(deadline=end))
            if answer.status == 401:
                raise Failure(Outcome.UNAUTHORIZED, Phase.HEAD, status=401)
            if answer.status != 200:
                raise Failure(
                    Outcome.UNAVAILABLE,
                    Phase.HEAD,
                    status=answer.status,
                    detail=f"it answered {answer.status}",
                )
        self._pool.settle(node, given_up)

    def _probe(self, node: str) -> None:
        self._ask_whether_it_lives(node, Span(_FOREVER, self._engine.cancellations))

    def _check_node(self, node: str, span: Span) -> None:
        what = f"status of {shown(node)}"
        if node in self._pool.failing:
            self._prober.start([node])
            self._prober.wait([node], span.deadline, lambda: self._raise_if_cancelled(span, what))
            return
        ticket = self._pool.ticket(node)
        try:
            self._ask_status_as_it_can_be(node, span, twice=False)
        except Failure as failure:
            self._raise_if_cancelled(span, what)
            if failure.outcome in MET_ON_A_LIVING_NODE:
                return
            self._pool.fail(
                node, ticket, f"status: {failure.outcome}: {failure}", gone=failure.outcome is Outcome.REFUSED
            )

    def _raise_if_cancelled(self, span: Span, what: str) -> None:
        if self._engine.is_cancelled(span):
            raise OperationCancelled(f"{what}: cancelled")

    # Events.

    def _node_changed(self, node: str, alive: bool, error: str | None) -> None:  # noqa: FBT001
        if alive:
            _log.info("node %s answers again", shown(node))
            self._tell(lambda listener: listener.node_recovered(shown(node)))
        else:
            _log.warning("node %s fails: %s", shown(node), error)
            self._tell(lambda listener: listener.node_failed(shown(node), error or ""))

    def _attempt_failed(self, attempt: Attempt) -> None:
        if self._listeners:
            self._tell(lambda listener: listener.attempt_failed(attempt))

    def _tell(self, call: Callable[[Listener], None]) -> None:
        for listener in self._listeners:
            try:
                call(listener)
            except Exception:  # noqa: BLE001
                _log.exception("a listener of the client failed")


_clients: weakref.WeakSet[QClient] = weakref.WeakSet()


def _start_anew_after_fork() -> None:
    for client in list(_clients):
        client._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew_after_fork)


class _Payload:
    """What is sent, whichever node it goes to."""

    __slots__ = ("anonymous", "body", "headers", "method", "target", "turns", "upload")

    def __init__(
        self,
        method: str,
        target: str,
        headers: bytes = b"",
        body: bytes | None = None,
        *,
        upload: Upload | None = None,
        turns: Mapping[str, threading.Lock] | None = None,
        anonymous: bool = False,
    ) -> None:
        self.anonymous = anonymous
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.upload = upload
        self.turns = turns


class _Stored(NamedTuple):
    """A store that was acknowledged; nothing of what was sent."""

    key: str
    order: Sequence[str]
    done: Done
    bytes: int
    rows: int | None
    copies: tuple[str, ...]
    failed: dict[str, str]
    started: float


class _Successors(Sequence[str]):
    """A key's order of nodes, worked out beyond its home only when a node fails."""

    __slots__ = ("_key", "_nodes", "_ring", "home")

    def __init__(self, ring: Ring, key: str) -> None:
        self._ring = ring
        self._key = key
        self._nodes: tuple[str, ...] | None = None
        self.home = ring.node_for_key(key)

    def _all(self) -> tuple[str, ...]:
        if self._nodes is None:
            self._nodes = tuple(self._ring.successors(self._key))
        return self._nodes

    def __len__(self) -> int:
        return len(self._ring.nodes)

    def __iter__(self) -> Iterator[str]:
        yield self.home
        yield from self._all()[1:]

    def __getitem__(self, index: Any) -> Any:
        return self.home if index == 0 else self._all()[index]


class _Wire:
    """retry's Wire over a client's transports."""

    def __init__(self, client: QClient) -> None:
        self._client = client

    def send(self, node: str, request: Request, span: Span, *, fresh: bool) -> Answer:
        return self._client._exchange(node, request.payload, span, fresh=fresh)

    def status(self, node: str, span: Span) -> None:
        self._client._ask_whether_it_lives(node, span)

    def probe(self, nodes: Iterable[str]) -> None:
        self._client._prober.start(nodes)

    def await_probes(self, nodes: Sequence[str], until: float, check: Callable[[], None]) -> None:
        self._client._prober.wait(nodes, until, check)


def _check_no_process_twice(nodes: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for node in nodes:
        address = without_credentials(node)
        if address in seen:
            raise ValueError(
                f"node_list: {seen[address]!r} and {shown(node)!r} differ in their credentials only and are "
                "one process; each is wanted once"
            )
        seen[address] = shown(node)


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
    met = Attempt(shown(node), failure.phase, failure.outcome, 0.0, failure.status, failure.cause)
    if failure.outcome is Outcome.DEADLINE:
        return DeadlineExceeded(f"{what}: the deadline passed", attempts=[met])
    return NoCacheAvailable(f"{what}: the node did not answer", attempts=[met], nodes={shown(node): str(met)})
