"""Store, query and delete tables of a QCache cluster.

Importing this loads neither the client nor requests: a DAG file is parsed again and again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from airflow_provider_qcache.compat import AirflowSkipException
from airflow_provider_qcache.files.formats import Format
from airflow_provider_qcache.operators import _arguments as rules
from airflow_provider_qcache.operators._arguments import CSV, JSON
from airflow_provider_qcache.operators._base import QCacheOperator
from airflow_provider_qcache.operators._content import (
    Table,
    check_description,
    checked_content,
    path_of,
    table_at,
    table_of,
    upload_from,
)
from airflow_provider_qcache.operators._failures import ends_the_task, fail_for_good, permanent
from airflow_provider_qcache.operators._many import ManyOptions, store_tables
from airflow_provider_qcache.operators._many_deletes import MOST_TOLD, asked_nodes, delete_tables
from airflow_provider_qcache.operators._many_given import (
    checked_tables,
    given_tables,
    none_or_more,
    pairs_of,
    uploads,
)
from airflow_provider_qcache.operators._output import for_xcom, output_at, publish
from airflow_provider_qcache.operators._rendering import RenderedToNothing, watched
from airflow_provider_qcache.operators._stored import told
from airflow_provider_qcache.operators._wrapped import TableContent, named_callable, table_content
from airflow_provider_qcache.operators.errors import (
    NodesUnreachable,
    StoredOnFailover,
    TableMissing,
    TablesEvicted,
    TablesFailed,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Iterable, Mapping

    from airflow_provider_qcache.client import BulkReport, DeleteResult, QueryResult
    from airflow_provider_qcache.client.upload import Upload
    from airflow_provider_qcache.hooks.qcache import QCacheHook

__all__ = [
    "NodesUnreachable",
    "QCacheDeleteOperator",
    "QCachePostOperator",
    "QCacheQueryOperator",
    "StoredOnFailover",
    "TableMissing",
    "TablesEvicted",
    "TablesFailed",
]

UNSLICED_LENGTH: Final = "unsliced_length"
"""The XCom key of the number of rows that a query has before its offset and limit."""

_OUTCOMES: Final = ("confirmed", "gone", "unreachable")
"""What a delete comes to on a node, in the order in which it is told; the values of DeleteOutcome."""

_SHOWN: Final = 10


class QCachePostOperator(QCacheOperator):
    """Store a table under a key, or thousands of tables, each under its own.

    Exactly one of ``content``, ``source_path`` and ``python_callable`` gives the table under ``key``, or
    ``tables`` gives many. A table is checked before a node can act on it: a store that fails for its content
    leaves the table that was there.

    Args:
        key: The table's key: ASCII letters, digits, '-' and '_'. With ``{stem}`` or ``{parent}`` in it, the
            name of a file or of its directory, each file of ``source_path`` is a table. Templated. Not with
            ``tables``.
        content: The table: bytes, a string (the content itself), or what ``QClient.post_table`` takes: a
            DataFrame or other Arrow data, a list of dicts. From another task (an XComArg) also an
            ObjectStoragePath. Never rendered by Jinja, and shown in the UI by its size only.
        source_path: A local path or any URL of ObjectStoragePath: a file, a directory or a glob of CSV, JSON,
            Parquet or Arrow files; streamed. Templated.
        source_format: What the files hold: 'csv', 'json', 'jsonl', 'parquet' or 'arrow'. None where their
            names tell.
        python_callable: A function that returns what ``content`` may be, a path, or a function that returns
            a fresh iterator of bytes, which is streamed.
        tables: Many: a mapping of keys to tables, here or from another task, or a function that gives
            (key, table) pairs, best a generator: a few for each node are in memory at a time. A table is what
            ``python_callable`` may return. All nodes are stored to at once. At the end they are asked whether
            they have every table, and on Airflow 3.3 a retry stores what is left; docs/many.md tells how.
        max_failed_keys: Of many tables, how many may fail with the task a success.
        allow_evicted: Whether the task is a success, with a warning, where nodes have evicted some of many
            tables by its end.
        op_args: Positional arguments of ``python_callable`` or ``tables``. Templated.
        op_kwargs: Their keyword arguments. Templated.
        content_type: 'text/csv' or 'application/json': what bytes and strings are (None is CSV), and what a
            table of another form is sent as (None is CSV, or JSON where a column's name needs it).
        column_types: Columns whose type is not to be guessed: 'string' (a ZIP code keeps its
            zeros), 'enum' or 'float' by column.
        stand_in_columns: What stands in for columns that the table lacks: a number, a quoted string or the
            name of a column, by column.
        headers: Further headers of the store, by name.
        compression: 'gzip', or 'lz4' for a table in memory, to compress what is sent.
        copies: Nodes that get the table, its home included.
        evict_stale: Tell every other node to delete the key, so that no later failover shows an older table.
        check_row_count: Ask the node for its rows afterwards: RowCountMismatch, transient.
        require_home: Where the key's home node is down and the table went to the next one, raise
            StoredOnFailover, transient. Without it that is a success with a warning.

    Returns:
        As XCom: ``key``, ``node`` (has the table), ``home_node``, ``failed_over``, ``may_hold_old`` (nodes
        that could not be told to delete an older table), ``bytes`` (of the content), ``rows`` (None where
        they could not be counted), ``seconds``, ``attempts`` (the requests that failed), and with more than
        one copy ``copies`` and ``failed_copies``. With ``tables`` counts, and the keys that failed or are
        gone, 100 of each at most; also where the task fails.

    Raises:
        ValueError: as the DAG is parsed, for an argument that makes no sense, naming it.
        AirflowFailException: for what no retry makes better; docs/operators.md lists every error.
        TablesFailed: more of ``tables`` than ``max_failed_keys`` could not be stored; the others are.
        TablesEvicted: nodes do not have some of ``tables`` any more.
    """

    template_fields: Sequence[str] = (
        "key",
        "content",
        "source_path",
        "source_format",
        "python_callable",
        "tables",
        "max_failed_keys",
        "allow_evicted",
        "op_args",
        "op_kwargs",
        "content_type",
        "column_types",
        "stand_in_columns",
        "headers",
        "compression",
        "copies",
        "evict_stale",
        "check_row_count",
        "require_home",
        "qcache_conn_id",
        "request_retry",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "op_args": "json",
        "op_kwargs": "json",
        "column_types": "json",
        "stand_in_columns": "json",
        "headers": "json",
    }
    ui_color = "#d6efd8"

    _callables: ClassVar[Collection[str]] = ("python_callable", "tables")
    _objects: ClassVar[Collection[str]] = ("op_args", "op_kwargs")
    _rules: ClassVar[Mapping[str, rules.Rule]] = {
        **QCacheOperator._rules,
        "key": rules.optional(rules.key_of_files),
        "content": rules.optional(checked_content),
        "source_path": rules.optional(rules.path),
        "source_format": rules.optional(rules.one_of(*map(str, Format))),
        "python_callable": rules.optional(rules.function),
        "tables": rules.optional(checked_tables),
        "max_failed_keys": none_or_more,
        "allow_evicted": rules.flag,
        "op_args": rules.optional(rules.sequence),
        "op_kwargs": rules.optional(rules.mapping),
        "content_type": rules.optional(rules.content_type),
        "column_types": rules.optional(rules.column_types),
        "stand_in_columns": rules.optional(rules.stand_in_columns),
        "headers": rules.optional(rules.headers),
        "compression": rules.optional(rules.one_of("gzip", "lz4")),
        "copies": rules.count,
        "evict_stale": rules.flag,
        "check_row_count": rules.flag,
        "require_home": rules.flag,
    }

    def __init__(
        self,
        *,
        key: str | None = None,
        content: Any = None,
        source_path: str | os.PathLike[str] | None = None,
        source_format: str | None = None,
        python_callable: Callable[..., Any] | None = None,
        tables: Any = None,
        max_failed_keys: int = 0,
        allow_evicted: bool = False,
        op_args: Sequence[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        content_type: str | None = None,
        column_types: Mapping[str, str] | None = None,
        stand_in_columns: Mapping[str, str | float] | None = None,
        headers: Mapping[str, str] | None = None,
        compression: str | None = None,
        copies: int = 1,
        evict_stale: bool = True,
        check_row_count: bool = False,
        require_home: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.key = key
        self.content = table_content(content, literal=not self._was_mapped)
        self.source_path = source_path
        self.source_format = source_format
        self.python_callable = named_callable(python_callable)
        self.tables = given_tables(tables, literal=not self._was_mapped)
        self.max_failed_keys = max_failed_keys
        self.allow_evicted = allow_evicted
        self.op_args = op_args
        self.op_kwargs = op_kwargs
        self.content_type = content_type
        self.column_types = column_types
        self.stand_in_columns = stand_in_columns
        self.headers = headers
        self.compression = compression
        self.copies = copies
        self.evict_stale = evict_stale
        self.check_row_count = check_row_count
        self.require_home = require_home
        self._check_when_parsed()

    def _check_together(self, known: Mapping[str, Any]) -> None:
        self._check_exactly_one("content", "source_path", "python_callable", "tables")
        if (self.key is None) != (self.tables is not None):
            raise ValueError(
                f"key={self.key!r}: tables has its own keys"
                if self.tables is not None
                else "key=None: a key is wanted for the table"
            )
        many = self.tables is not None or "key" not in known or rules.has_placeholder(known["key"])
        if not many and (self.max_failed_keys or self.allow_evicted):
            raise ValueError("max_failed_keys and allow_evicted are for many tables, and here is one key")
        if self.python_callable is None and not callable(self.tables) and (self.op_args or self.op_kwargs):
            raise ValueError("op_args and op_kwargs are python_callable's, which is not given")
        if self.source_path is None:
            if self.source_format is not None:
                raise ValueError("source_format is source_path's, which is not given")
            if rules.has_placeholder(known.get("key")):
                raise ValueError(f"key={known['key']!r}: {{stem}} and {{parent}} are for source_path")
        content = known.get("content")
        in_bytes = content is not None and isinstance(content.value, str | bytes | bytearray | memoryview)
        check_description(
            known.get("content_type") if in_bytes else None,
            known.get("headers"),
            known.get("column_types"),
            known.get("stand_in_columns"),
        )
        streams = self.source_path is not None or (content is not None and not in_bytes)
        if known.get("compression") == "lz4" and streams:
            raise ValueError("compression='lz4' is for bytes and strings; 'gzip' is for all tables")

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Store the table, or all of them."""
        given = self._checked_arguments()
        if given["tables"] is not None or rules.has_placeholder(given["key"]):
            return self._store_many(context, given)
        literal = isinstance(self.content, TableContent) and self.content.literal
        with (
            self._connected(given, literal_table=literal) as hook,
            upload_from(self._table(given), given) as upload,
        ):
            stored = hook.post(
                given["key"],
                upload,
                copies=given["copies"],
                evict_stale=given["evict_stale"],
                check_row_count=given["check_row_count"],
            )
        return told(stored, self.log, copies=given["copies"], require_home=given["require_home"])

    def _store_many(self, context: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        tables = given["tables"]
        options = ManyOptions(
            copies=given["copies"],
            evict_stale=given["evict_stale"],
            check_row_count=given["check_row_count"],
            require_home=given["require_home"],
            max_failed_keys=given["max_failed_keys"],
            allow_evicted=given["allow_evicted"],
            literal=isinstance(self.tables, TableContent) and self.tables.literal,
        )
        with self._connected(given) as hook:
            known: Mapping[str, Any] | None = None
            if tables is None:
                known = self._files_by_key(given)
            elif isinstance(tables, TableContent):
                known = tables.value

            def pairs() -> Iterable[tuple[str, Any]]:
                if known is not None:
                    return known.items()
                # What the function raises is its own, and left as it is.
                returned = tables(*(given["op_args"] or ()), **(given["op_kwargs"] or {}))
                with permanent(TypeError):
                    return pairs_of(returned)

            return store_tables(
                hook,
                pairs,
                context=context,
                log=self.log,
                options=options,
                keys=None if known is None else list(known),
                prepare=uploads(given),
            )

    @staticmethod
    def _files_by_key(given: Mapping[str, Any]) -> dict[str, Any]:
        from airflow_provider_qcache.files.tables import tables_in  # noqa: PLC0415  # it loads requests

        content_type = given["content_type"]
        with permanent(ValueError):
            path = path_of("source_path", given["source_path"])
            tables = tables_in(given["key"], path, given["source_format"], content_type=content_type)
        return {key: Table(table, content_type, tells_itself=True) for key, table in tables}

    def _table(self, given: Mapping[str, Any]) -> Table:
        content_type = given["content_type"]
        if given["source_path"] is not None:
            with permanent(ValueError):
                return table_at("source_path", given["source_path"], content_type, given["source_format"])
        if given["content"] is not None:
            with permanent(ValueError, TypeError):
                return table_of("content", given["content"].value, content_type)
        # What the function raises is its own, and left as it is.
        returned = given["python_callable"](*(given["op_args"] or ()), **(given["op_kwargs"] or {}))
        with permanent(ValueError, TypeError):
            return table_of("what python_callable returned", returned, content_type, functions=True)


class QCacheQueryOperator(QCacheOperator):
    """Query the table under a key: its rows to XCom, or the answer to a file.

    The number of rows before offset and limit is pushed as an XCom of its own, ``unsliced_length``.

    Args:
        key: The table's key. Templated.
        query: A dict, a string that holds one as JSON, or the name of a ``.json`` file, which is looked for
            where the DAG's templates are and rendered. All are templated. ``{}`` selects everything.
        output_path: Write the answer to this local path or URL of ObjectStoragePath, whole or not at all;
            XCom gets a summary instead of rows. Templated.
        accept: What is written to ``output_path``: 'application/json' or 'text/csv'. XCom is always JSON.
        load_callable: Where there is no table, store what this function returns, and query that. It returns
            what QCachePostOperator's python_callable may.
        load_kwargs: Its keyword arguments. Templated.
        content_type: What it returns, as for QCachePostOperator.
        column_types: As for QCachePostOperator.
        on_miss: Where there is no table, and no ``load_callable``: 'fail' raises TableMissing, transient;
            'skip' skips the task; 'return_none' succeeds with None.
        result_processor: A function of the rows (a list of dicts); XCom gets what it returns.

    Returns:
        As XCom: the rows, or what ``result_processor`` makes of them: 10,000 rows and 1 MiB of JSON at most.
        With ``output_path``: ``key``, ``node``, ``output_path``, ``bytes`` and ``unsliced_length``.

    Raises:
        ValueError: as the DAG is parsed, for an argument that makes no sense, naming it.
        AirflowFailException: for what no retry makes better, a result too large for XCom among it;
            docs/operators.md lists every error.
    """

    template_fields: Sequence[str] = (
        "key",
        "query",
        "output_path",
        "accept",
        "load_callable",
        "load_kwargs",
        "content_type",
        "column_types",
        "on_miss",
        "result_processor",
        "qcache_conn_id",
        "request_retry",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "query": "json",
        "load_kwargs": "json",
        "column_types": "json",
    }
    ui_color = "#d6e6f5"

    _callables: ClassVar[Collection[str]] = ("load_callable", "result_processor")
    _objects: ClassVar[Collection[str]] = ("load_kwargs",)
    _rules: ClassVar[Mapping[str, rules.Rule]] = {
        **QCacheOperator._rules,
        "key": rules.key,
        "query": rules.query,
        "output_path": rules.optional(rules.path),
        "accept": rules.one_of(JSON, CSV),
        "load_callable": rules.optional(rules.function),
        "load_kwargs": rules.optional(rules.mapping),
        "content_type": rules.optional(rules.content_type),
        "column_types": rules.optional(rules.column_types),
        "on_miss": rules.one_of("fail", "skip", "return_none"),
        "result_processor": rules.optional(rules.function),
    }

    def __init__(
        self,
        *,
        key: str,
        query: Any,
        output_path: str | os.PathLike[str] | None = None,
        accept: str = JSON,
        load_callable: Callable[..., Any] | None = None,
        load_kwargs: Mapping[str, Any] | None = None,
        content_type: str | None = None,
        column_types: Mapping[str, str] | None = None,
        on_miss: str = "fail",
        result_processor: Callable[[list[dict[str, Any]]], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.key = key
        self.query = query
        self.output_path = output_path
        self.accept = accept
        self.load_callable = named_callable(load_callable)
        self.load_kwargs = load_kwargs
        self.content_type = content_type
        self.column_types = column_types
        self.on_miss = on_miss
        self.result_processor = named_callable(result_processor)
        self._check_when_parsed()

    def _check_together(self, known: Mapping[str, Any]) -> None:
        if self.output_path is None and known.get("accept") == CSV:
            raise ValueError(f"accept={CSV!r} is for output_path: XCom is always JSON")
        if self.output_path is not None and self.result_processor is not None:
            raise ValueError("result_processor is for rows that go to XCom, and output_path is given")
        if self.load_callable is None:
            for name in ("load_kwargs", "content_type", "column_types"):
                if getattr(self, name):
                    raise ValueError(f"{name} is for load_callable, which is not given")
        check_description(known.get("content_type"), None, known.get("column_types"), None)

    def _do_render_template_fields(
        self,
        parent: Any,
        template_fields: Collection[str],
        context: Mapping[str, Any],
        jinja_env: Any,
        seen_oids: set[int],
    ) -> None:
        super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)
        # Not template_ext, which would take every argument that ends in .json for a file to be read.
        if parent is self and "query" in template_fields and rules.names_json_file(self.query):
            if jinja_env.loader is None:
                raise ValueError(
                    f"query={self.query!r}: a file is looked for in its DAG's folder, and it has no DAG"
                )
            name = self.query.strip()
            rendered = self._render(watched(jinja_env).get_template(name), context)
            nothing = rules.is_nothing(rendered) or isinstance(rendered, RenderedToNothing)
            self.query = RenderedToNothing("query", name) if nothing else rendered

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Query the table."""
        given = self._checked_arguments()
        with permanent(ValueError):
            output = None if given["output_path"] is None else output_at(given["output_path"])
        with self._connected(given) as hook:
            result, loaded = self._ask(hook, given)
        if result is None:
            return self._missed(given)
        self._push_unsliced_length(context, result.unsliced_result_len)
        key = given["key"]
        found = f"{'Loaded and queried' if loaded else 'Queried'} table {key!r} on {_shown_node(result.node)}"
        found += f": {rules.counted(result.unsliced_result_len, 'row')} before offset and limit"
        if output is not None:
            publish(result.content, output)
            self.log.info(
                "%s, %s bytes written to %s", found, f"{len(result.content):,}", given["output_path"]
            )
            return {
                "key": key,
                "node": _shown_node(result.node),
                "output_path": str(given["output_path"]),
                "bytes": len(result.content),
                UNSLICED_LENGTH: result.unsliced_result_len,
            }
        returned = for_xcom(result.content, given["result_processor"])
        self.log.info("%s", found)
        return returned

    def _ask(self, hook: QCacheHook, given: Mapping[str, Any]) -> tuple[QueryResult | None, bool]:
        key, query, accept = given["key"], given["query"], given["accept"]
        load_callable = given["load_callable"]
        if load_callable is None:
            return hook.get(key, query, accept), False
        content_type = given["content_type"]
        loaded: list[Upload] = []

        def load(**load_kwargs: Any) -> Any:
            returned = load_callable(**load_kwargs)
            with permanent(ValueError, TypeError):
                table = table_of("what load_callable returned", returned, content_type, functions=True)
            loaded.append(at_the_end.enter_context(upload_from(table, given)))
            return loaded[0]

        with contextlib.ExitStack() as at_the_end:
            result = hook.query(key, query, load, given["load_kwargs"], accept=accept)
        return result, bool(loaded)

    def _is_pending(self, name: str, value: Any) -> bool:
        return (name == "query" and rules.names_json_file(value)) or super()._is_pending(name, value)

    def _missed(self, given: Mapping[str, Any]) -> None:
        said = f"No table is stored under {given['key']!r}"
        if given["on_miss"] == "fail":
            raise TableMissing(said)
        if given["on_miss"] == "skip":
            raise AirflowSkipException(said)
        self.log.info("%s", said)

    def _push_unsliced_length(self, context: Mapping[str, Any], length: int) -> None:
        ti = context.get("ti")
        if ti is not None and self.do_xcom_push:
            ti.xcom_push(key=UNSLICED_LENGTH, value=length)


def _shown_node(node: str) -> str:
    from airflow_provider_qcache.client.errors import shown  # noqa: PLC0415  # it loads requests

    return shown(node)


class QCacheDeleteOperator(QCacheOperator):
    """Delete tables, so that no reader finds them any more. Every key is tried on every node before it fails.

    Args:
        key: One key. Templated.
        keys: Many: a list, or a string that holds one as JSON or as a Python literal. Templated. Exactly one
            of ``key`` and ``keys`` is given.
        all_nodes: Ask every configured node, failing ones too; else each key's first living node only.
        on_unreachable: Where a node cannot be asked, and so may hold a table still: 'fail' raises
            NodesUnreachable, transient; 'ignore' is a success with a warning. A node that refuses the
            connection is gone, and its tables with it: that is no failure.

    Returns:
        As XCom: for each key the outcome on each node: 'confirmed', 'gone' or 'unreachable'. Of more than
        1,000 keys: ``keys``, ``confirmed``, ``gone`` and ``unreachable`` (how many keys on how many nodes, in
        all), ``seconds``, and ``not_confirmed``, the outcomes of the keys that have others than 'confirmed',
        100 at most.

    Raises:
        ValueError: as the DAG is parsed, for an argument that makes no sense, naming it.
        AirflowFailException: for what no retry makes better; docs/operators.md lists every error.
    """

    template_fields: Sequence[str] = (
        "key",
        "keys",
        "all_nodes",
        "on_unreachable",
        "qcache_conn_id",
        "request_retry",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"keys": "json"}
    ui_color = "#f5dcd6"

    _rules: ClassVar[Mapping[str, rules.Rule]] = {
        **QCacheOperator._rules,
        "key": rules.optional(rules.key),
        "keys": rules.optional(rules.keys),
        "all_nodes": rules.flag,
        "on_unreachable": rules.one_of("fail", "ignore"),
    }

    def __init__(
        self,
        *,
        key: str | None = None,
        keys: Any = None,
        all_nodes: bool = True,
        on_unreachable: str = "fail",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.key = key
        self.keys = keys
        self.all_nodes = all_nodes
        self.on_unreachable = on_unreachable
        self._check_when_parsed()

    def _check_together(self, known: Mapping[str, Any]) -> None:
        del known
        self._check_exactly_one("key", "keys")

    def _do_render_template_fields(
        self,
        parent: Any,
        template_fields: Collection[str],
        context: Mapping[str, Any],
        jinja_env: Any,
        seen_oids: set[int],
    ) -> None:
        super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)
        # What mapped tasks returned comes as a sequence that is read as it is used, and is shown by its type.
        if parent is self and not isinstance(self.keys, str | list) and isinstance(self.keys, Sequence):
            self.keys = list(self.keys)

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Delete the tables."""
        given = self._checked_arguments()
        keys = given["keys"] or [given["key"]]
        if len(keys) > MOST_TOLD:
            with self._connected(given) as hook:
                return delete_tables(
                    hook,
                    keys,
                    all_nodes=given["all_nodes"],
                    ignore_unreachable=given["on_unreachable"] == "ignore",
                    context=context,
                    log=self.log,
                )
        with self._connected(given) as hook:
            report = hook.delete_many(keys, all_nodes=given["all_nodes"], raise_on_failure=False)
            outcomes = {key: self._outcome(hook, key, report) for key in keys}
        errors = dict(report.failed)
        if given["on_unreachable"] == "ignore":
            errors = {key: error for key, error in errors.items() if not getattr(error, "transient", False)}
        self._raise_first(errors, report)
        unreachable = {
            node for nodes in outcomes.values() for node, outcome in nodes.items() if outcome == "unreachable"
        }
        if unreachable and given["on_unreachable"] == "fail":
            raise NodesUnreachable(_unreachable(report, outcomes), outcomes=outcomes)
        self._told(keys, outcomes, unreachable)
        return outcomes

    @staticmethod
    def _outcome(hook: QCacheHook, key: str, report: BulkReport) -> dict[str, str]:
        """What became of a key on each node that was asked."""
        error = report.failed.get(key)
        if error is None:
            deleted = cast("DeleteResult", report.succeeded[key])
            return {node: str(outcome) for node, outcome in deleted.outcomes.items()}
        return dict.fromkeys(asked_nodes(hook, key, error), "unreachable")

    @staticmethod
    def _raise_first(errors: Mapping[str, Exception], report: BulkReport) -> None:
        """Raise what some keys met: for good if any is, by its own class if it is one, else BulkError."""
        for error in errors.values():
            if ends_the_task(error):
                others = len(errors) - 1
                raise fail_for_good(error, f"\nMore keys that failed: {others}" if others else "") from error
        if len(errors) == 1 and len(report.failed) == 1:
            raise next(iter(errors.values()))
        if errors:
            report.raise_for_failures()

    def _told(
        self, keys: Sequence[str], outcomes: Mapping[str, Mapping[str, str]], unreachable: Iterable[str]
    ) -> None:
        met = [outcome for nodes in outcomes.values() for outcome in nodes.values()]
        counts = {outcome: met.count(outcome) for outcome in _OUTCOMES if outcome in met}
        what = f"table {keys[0]!r}" if len(keys) == 1 else rules.counted(len(keys), "table")
        said = f"Deleted {what}: " + ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items())
        if unreachable:
            self.log.warning("%s; tables may be left on %s", said, ", ".join(sorted(unreachable)))
        else:
            self.log.info("%s", said)


def _unreachable(report: BulkReport, outcomes: Mapping[str, Mapping[str, str]]) -> str:
    """Which keys may be left where, and why, in a message."""
    left = {
        key: [node for node, outcome in nodes.items() if outcome == "unreachable"]
        for key, nodes in outcomes.items()
    }
    lines = []
    for key, nodes in left.items():
        errors = getattr(report.succeeded.get(key), "errors", {})
        lines += [f"\n  {key} on {node}: {errors.get(node, 'not reached')}" for node in nodes]
    more = f"\n  and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    count = sum(map(bool, left.values()))
    listed = "".join(lines[:_SHOWN])
    return f"{count} of {len(outcomes)} keys may be left on nodes that could not be asked:{listed}{more}"
