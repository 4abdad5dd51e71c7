"""Store, query and delete tables of a QCache cluster.

Importing this loads neither the client nor requests: a DAG file is parsed again and again.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from airflow_provider_qcache.assets import outlets
from airflow_provider_qcache.assets.qcache import pattern_of
from airflow_provider_qcache.compat import AirflowFailException, AirflowSkipException
from airflow_provider_qcache.files.listing import Format
from airflow_provider_qcache.operators import _arguments as rules
from airflow_provider_qcache.operators import _content
from airflow_provider_qcache.operators._base import QCacheOperator, QCacheStoreOperator
from airflow_provider_qcache.operators._check import QCacheBranchOperator, QCacheCheckOperator
from airflow_provider_qcache.operators.errors import (
    CheckFailed,
    NodesUnreachable,
    StoredOnFailover,
    TableMissing,
    TablesEvicted,
    TablesFailed,
    permanent,
)
from airflow_provider_qcache.protocol import CSV, JSON

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping

    from airflow_provider_qcache.client import QueryResult
    from airflow_provider_qcache.client.tables.upload import Upload
    from airflow_provider_qcache.hooks.qcache import QCacheHook

__all__ = [
    "CheckFailed",
    "NodesUnreachable",
    "QCacheBranchOperator",
    "QCacheCheckOperator",
    "QCacheDeleteOperator",
    "QCachePostOperator",
    "QCacheQueryOperator",
    "QCacheStatisticsOperator",
    "StoredOnFailover",
    "TableMissing",
    "TablesEvicted",
    "TablesFailed",
]

UNSLICED_LENGTH: Final = "unsliced_length"
"""The XCom key of the number of rows that a query has before its offset and limit."""


class QCachePostOperator(QCacheStoreOperator):
    """Store a table under a key, or thousands of tables, each under its own.

    Exactly one of ``content``, ``source_path`` and ``python_callable`` is the table of ``key``, or ``tables``
    has many tables. A table is checked before a node can act on it: invalid content leaves the old table.

    Args:
        key: The table's key: ASCII letters, digits, '-' and '_'. With ``{stem}`` or ``{parent}`` in it, the
            name of a file or of its directory, each file of ``source_path`` is a table. Templated. Not with
            ``tables``.
        content: The table: bytes, a string (the content itself), or what ``QClient.post_table`` takes: a
            DataFrame or other Arrow data, a list of dicts. From another task (an XComArg) also an
            ObjectStoragePath. Never rendered by Jinja, and shown in the UI by its size only.
        source_path: A local path or any URL of ObjectStoragePath: a file, a directory or a glob of CSV, JSON,
            Parquet or Arrow files; streamed. Templated.
        source_format: The format of the files: 'csv', 'json', 'jsonl', 'parquet' or 'arrow'. None to detect
            it from their names, or else from their first bytes.
        python_callable: A function that returns what ``content`` may be, a path, or a function that returns
            a fresh iterator of bytes, which is streamed.
        tables: Many tables: a mapping of keys to tables, here or from another task, or a function that
            returns (key, table) pairs, best a generator: a few for each node are in memory at a time. A table
            is what ``python_callable`` may return. All nodes receive tables at the same time. At the end they
            are asked whether they have every table, and on Airflow 3.3 a retry stores what is left:
            docs/reference/many-tables.md.
        op_args: Positional arguments of ``python_callable`` or ``tables``. Templated.
        op_kwargs: Their keyword arguments. Templated.
        content_type: 'text/csv' or 'application/json': the type of bytes and strings (None detects a JSON
            list of objects, else it is CSV), and how a table of another form is sent (None is CSV, or JSON if
            a column's name needs it).
        column_types: Types by column that a node must not infer: 'string' (a ZIP code keeps its zeros),
            'enum' or 'float'.
        stand_in_columns: Values for columns that the table lacks: a number, a quoted string or the name of a
            column, by column.
        headers: More headers of the store, by name.
        compression: 'gzip', or 'lz4' for a table in memory, to compress what is sent.
        copies, evict_stale, check_row_count, require_home, emit_asset: As for QCacheStoreOperator.
        max_failed_keys, allow_evicted, durable: For many tables, as for QCacheStoreOperator.
        return_keys, keys_path, delete_missing, allow_empty: For many tables, as for QCacheStoreOperator.

    Returns:
        As XCom: ``key``, ``node`` (has the table), ``home_node``, ``failed_over``, ``may_hold_old`` (nodes
        that could not be told to delete an older table), ``bytes`` (of the content), ``rows`` (None if they
        could not be counted), ``seconds``, ``attempts`` (the requests that failed), and with more than
        one copy ``copies`` and ``failed_copies``. With ``tables`` counts, and the keys that failed or are
        gone, 100 of each at most; also where the task fails.

    Raises:
        ValueError: when the DAG is parsed, for an invalid argument, with its name.
        AirflowFailException: for errors that no retry helps; docs/reference/errors.md lists every error.
        TablesFailed: more of ``tables`` than ``max_failed_keys`` could not be stored; the others are.
        TablesEvicted: nodes do not have some of ``tables`` any more.
    """

    template_fields: Sequence[str] = (
        "key",
        "content",
        "source_path",
        "tables",
        "op_args",
        "op_kwargs",
        "column_types",
        "stand_in_columns",
        "headers",
        *QCacheStoreOperator.template_fields,
        "qcache_conn_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = dict.fromkeys(
        ("op_args", "op_kwargs", "column_types", "stand_in_columns", "headers"), "json"
    )
    ui_color = "#d6efd8"

    _rules: ClassVar[Mapping[str, rules.Rule]] = {
        **QCacheStoreOperator._rules,
        "key": rules.optional(rules.key_of_files),
        "content": rules.optional(_content.checked_content),
        "source_path": rules.optional(rules.path),
        "source_format": rules.optional(rules.one_of(*map(str, Format))),
        "python_callable": rules.optional(rules.function),
        "tables": rules.optional(_content.checked_tables),
        "op_args": rules.optional(rules.sequence),
        "op_kwargs": rules.optional(rules.mapping),
        "content_type": rules.optional(rules.content_type),
        "column_types": rules.optional(rules.column_types),
        "stand_in_columns": rules.optional(rules.stand_in_columns),
        "headers": rules.optional(rules.headers),
        "compression": rules.optional(rules.one_of("gzip", "lz4")),
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
        op_args: Sequence[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        content_type: str | None = None,
        column_types: Mapping[str, str] | None = None,
        stand_in_columns: Mapping[str, str | float] | None = None,
        headers: Mapping[str, str] | None = None,
        compression: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.key = key
        self.content = _content.table_content(content)
        self.source_path = rules.text_of_path(source_path)
        self.source_format = source_format
        self.python_callable = python_callable
        self.tables = _content.table_content(tables)
        self.op_args = op_args
        self.op_kwargs = op_kwargs
        self.content_type = content_type
        self.column_types = column_types
        self.stand_in_columns = stand_in_columns
        self.headers = headers
        self.compression = compression
        self._check_when_parsed()

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """Airflow's ``partial``; the UI shows a table by its size."""
        for name in {"content", "tables"} & kwargs.keys():
            kwargs[name] = _content.table_content(kwargs[name])
        return super().partial(**kwargs)

    def _check_together(self, known: Mapping[str, Any]) -> None:
        self._check_exactly_one("content", "source_path", "python_callable", "tables")
        if (self.key is None) != (self.tables is not None):
            raise ValueError(
                f"key={self.key!r}: tables has the keys, so remove key"
                if self.tables is not None
                else "key=None: pass the key of the table"
            )
        many = self.tables is not None or "key" not in known or rules.has_placeholder(known["key"])
        if not many:
            self._check_several("only for several tables (tables, or a key with {stem} or {parent})")
        has_function = self.python_callable is not None or callable(getattr(self.tables, "value", None))
        if not has_function and (self.op_args or self.op_kwargs):
            raise ValueError("op_args and op_kwargs need python_callable")
        if self.source_path is None:
            if self.source_format is not None:
                raise ValueError("source_format needs source_path")
            if rules.has_placeholder(known.get("key")):
                raise ValueError(f"key={known['key']!r}: {{stem}} and {{parent}} need source_path")
        content = known.get("content")
        in_bytes = content is not None and isinstance(content.value, str | bytes | bytearray | memoryview)
        _content.check_description(known.get("content_type") if in_bytes else None, known)
        streams = self.source_path is not None or (content is not None and not in_bytes)
        if known.get("compression") == "lz4" and streams:
            raise ValueError("compression='lz4' needs bytes or a string; 'gzip' works for all tables")

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Store the table, or all of them."""
        from airflow_provider_qcache.lineage import collect_files  # noqa: PLC0415  # for a task that runs
        from airflow_provider_qcache.operators._report import report_stored  # noqa: PLC0415  # for a task that runs

        arguments = self._checked_arguments(context)
        if arguments["tables"] is not None or rules.has_placeholder(arguments["key"]):
            return self._store_many(context, arguments)
        literal = _is_literal(arguments["content"], context)
        with self._connected(arguments, literal_table=literal) as hook:
            table = self._table(arguments)
            with _content.upload_from(table, arguments) as upload:
                stored = hook.post(arguments["key"], upload, **rules.store_options(arguments))
            files = collect_files(hook, [table])
        result = report_stored(stored, self.log, arguments)
        self._changed(
            context, arguments, stored.key, outlets.stored_table(stored), schema=upload.schema, files=files
        )
        return result

    def _store_many(self, context: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
        from airflow_provider_qcache.lineage import collect_files  # noqa: PLC0415  # for a task that runs
        from airflow_provider_qcache.operators._many import store_tables  # noqa: PLC0415  # for a task that runs

        tables = arguments["tables"]
        with self._connected(arguments) as hook:
            known, pairs = self._pairs(arguments)
            seen = outlets.KeysSeen()
            result = store_tables(
                hook,
                lambda: seen.watch(pairs()),
                context=context,
                log=self.log,
                arguments=arguments,
                literal=_is_literal(tables, context),
                keys=None if known is None else list(known),
                prepare=functools.partial(_content.upload_of_pair, arguments),
            )
            files = collect_files(hook, (known or {}).values())
        key = arguments["key"] or seen.pattern or "*"
        self._changed(context, arguments, key, outlets.stored_tables(key, result), files=files)
        return result

    def dry_run(self) -> None:
        """Read and check what the task would store, and log it with its nodes; no node is changed."""
        from airflow_provider_qcache.operators import _dry_run  # noqa: PLC0415  # for a task that runs

        arguments = self._checked_arguments({})
        with self._connected(arguments) as hook:
            if arguments["tables"] is not None or rules.has_placeholder(arguments["key"]):
                _, pairs = self._pairs(arguments)
                prepare = functools.partial(_content.upload_of_pair, arguments)
                _dry_run.would_store_many(hook, pairs(), prepare, arguments, self.log)
            else:
                with _content.upload_from(self._table(arguments), arguments) as upload:
                    _dry_run.would_store(hook, arguments["key"], upload, self.log)

    def _pairs(
        self, arguments: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any] | None, Callable[[], Iterable[tuple[str, Any]]]]:
        """Many tables by key, or None if a function returns them; and a function that returns the pairs."""
        tables = arguments["tables"]
        if tables is not None and callable(tables.value):
            return None, lambda: _content.pairs_of(_called(tables.value, arguments))
        if tables is not None:
            return tables.value, tables.value.items
        from airflow_provider_qcache.files.tables import tables_in  # noqa: PLC0415  # it loads requests

        name, source_path, source_format = "source_path", arguments["source_path"], arguments["source_format"]
        with permanent(ValueError), _content.named_if_missing(name, source_path):
            path = _content.path_of(name, source_path)
            found = tables_in(arguments["key"], path, source_format, **_content.description_of(arguments))
        files = {key: _content.Table(name, table, is_typed=True) for key, table in found}
        return files, files.items

    def _table(self, arguments: Mapping[str, Any]) -> _content.Table:
        if arguments["source_path"] is not None:
            return _content.table_at("source_path", arguments["source_path"], arguments)
        if (content := arguments["content"]) is not None:
            return _content.table_of("content", content.value, arguments)
        returned = _called(arguments["python_callable"], arguments)
        return _content.table_of("what python_callable returned", returned, arguments)


def _called(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """What an author's function returns; its errors are not changed."""
    return function(*(arguments["op_args"] or ()), **(arguments["op_kwargs"] or {}))


def _is_literal(content: _content.TableContent | None, context: Mapping[str, Any]) -> bool:
    """Whether a table is written in the DAG, so that it is the same at every try.

    The arguments of a mapped task may come from another task.
    """
    is_mapped = getattr(context.get("ti"), "map_index", -1) >= 0
    return content is not None and content.literal and not is_mapped


class QCacheQueryOperator(QCacheOperator):
    """Query the table under a key, and return its rows as XCom or write the answer to a file.

    The number of rows before offset and limit is pushed as an XCom of its own, ``unsliced_length``.

    Args:
        key: The table's key. Templated.
        query: A dict, a string that holds one as JSON, or the name of a ``.json`` file in the folder of the
            DAG's templates. All are templated. ``{}`` selects everything.
        output_path: Write the answer to this local path or URL of ObjectStoragePath, whole or not at all;
            XCom gets a summary instead of rows. Templated.
        accept: The format of ``output_path``: 'application/json' or 'text/csv'. XCom is always JSON.
        load_callable: If there is no table, store what this function returns, and query that. It returns
            what QCachePostOperator's python_callable may.
        load_kwargs: Its keyword arguments. Templated.
        content_type: The type of what it returns, as for QCachePostOperator.
        column_types: As for QCachePostOperator.
        on_miss: If there is no table, and no ``load_callable``: 'fail' raises TableMissing, transient;
            'skip' skips the task; 'return_none' succeeds with None.
        result_processor: A function that gets the rows (a list of dicts); its result goes to XCom.

    Returns:
        As XCom: the rows, or what ``result_processor`` returns: 10,000 rows and 1 MiB of JSON at most.
        With ``output_path``: ``key``, ``node``, ``output_path``, ``bytes`` and ``unsliced_length``.

    Raises:
        ValueError: when the DAG is parsed, for an invalid argument, with its name.
        AirflowFailException: for errors that no retry helps, such as a result too large for XCom;
            docs/reference/errors.md lists every error.
    """

    template_fields: Sequence[str] = (
        "key",
        "query",
        "output_path",
        "load_kwargs",
        "column_types",
        "qcache_conn_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = dict.fromkeys(
        ("query", "load_kwargs", "column_types"), "json"
    )
    ui_color = "#d6e6f5"

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
        self.output_path = rules.text_of_path(output_path)
        self.accept = accept
        self.load_callable = load_callable
        self.load_kwargs = load_kwargs
        self.content_type = content_type
        self.column_types = column_types
        self.on_miss = on_miss
        self.result_processor = result_processor
        self._check_when_parsed()

    def _check_together(self, known: Mapping[str, Any]) -> None:
        if self.output_path is None and known.get("accept") == CSV:
            raise ValueError(f"accept={CSV!r} needs output_path: XCom is always JSON")
        if self.output_path is not None and self.result_processor is not None:
            raise ValueError(
                "result_processor and output_path exclude each other: it processes the rows for XCom"
            )
        if self.load_callable is None:
            for name in ("load_kwargs", "content_type", "column_types"):
                if getattr(self, name):
                    raise ValueError(f"{name} needs load_callable")
        _content.check_description(known.get("content_type"), known)

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Query the table."""
        from airflow_provider_qcache.client.errors import redacted  # noqa: PLC0415  # it loads requests
        from airflow_provider_qcache.lineage import of_query  # noqa: PLC0415  # for a task that runs
        from airflow_provider_qcache.operators._output import for_xcom, output_at, publish  # noqa: PLC0415  # for a task that runs

        arguments = self._checked_arguments(context)
        path = arguments["output_path"]
        output = None if path is None else output_at("output_path", path)
        with self._connected(arguments) as hook:
            result, loaded = self._ask(hook, arguments)
            if result is None:
                return self._missed(hook, arguments)
        if (ti := context.get("ti")) is not None and self.do_xcom_push:
            ti.xcom_push(key=UNSLICED_LENGTH, value=result.unsliced_result_len)
        key = arguments["key"]
        self._lineage = of_query(arguments, result, loaded)
        node = redacted(result.node)
        found = f"{'Loaded and queried' if loaded else 'Queried'} table {key!r} on {node}"
        found += f": {rules.counted(result.unsliced_result_len, 'row')} before offset and limit"
        if output is not None:
            publish(result.content, output)
            size = len(result.content)
            self.log.info("%s, %s bytes written to %s", found, f"{size:,}", path)
            written = {"key": key, "node": node, "output_path": str(path), "bytes": size}
            return {**written, UNSLICED_LENGTH: result.unsliced_result_len}
        returned = for_xcom(result.content, arguments["result_processor"])
        self.log.info("%s", found)
        return returned

    def _ask(
        self, hook: QCacheHook, arguments: Mapping[str, Any]
    ) -> tuple[QueryResult | None, Upload | None]:
        key, query, accept = arguments["key"], arguments["query"], arguments["accept"]
        load_callable = arguments["load_callable"]
        if load_callable is None:
            return hook.get(key, query, accept), None
        loaded: list[Upload] = []

        def load(**load_kwargs: Any) -> Any:
            returned = load_callable(**load_kwargs)
            table = _content.table_of("what load_callable returned", returned, arguments)
            loaded.append(at_the_end.enter_context(_content.upload_from(table, arguments)))
            return loaded[0]

        with contextlib.ExitStack() as at_the_end:
            result = hook.query(key, query, load, arguments["load_kwargs"], accept=accept)
        return result, loaded[0] if loaded else None

    def _missed(self, hook: QCacheHook, arguments: Mapping[str, Any]) -> None:
        from airflow_provider_qcache.operators._report import table_missing  # noqa: PLC0415  # for a task that runs

        if arguments["on_miss"] == "fail":
            raise table_missing(hook, arguments["key"])
        text = f"Readers find no table under {arguments['key']!r}"
        if arguments["on_miss"] == "skip":
            raise AirflowSkipException(text)
        self.log.info("%s", text)


class QCacheDeleteOperator(QCacheOperator):
    """Delete tables, so that no reader finds them any more. Every key is tried before the task fails.

    Args:
        key: One key. Templated.
        keys: Several keys: a list, a string that holds one as JSON or as a Python literal, or the result of a
            task with ``return_keys``. Templated.
        keys_path: Several keys, in a file with one a line: a local path or URL of ObjectStoragePath, such as
            the ``keys_path`` of a task that stored them. Templated. Exactly one of ``key``, ``keys`` and
            ``keys_path`` is required.
        all_nodes: Ask every configured node, even failing ones; else only each key's first living node.
        on_unreachable: Where a node cannot be asked or answers with an error, and so may still have a table,
            or where no node confirms a delete: 'fail' raises NodesUnreachable, transient; 'ignore' is a
            success with a warning. The tables of a node that refuses the connection are assumed gone with its
            process: as long as another node confirms, the task succeeds with a warning.
        emit_asset: Make the asset of ``key`` an outlet of the task, so that DAGs which wait for it start. If
            the key is known only when the task runs, this needs an AssetAlias in ``outlets``.

    Returns:
        As XCom: for each key the outcome on each node: 'confirmed', 'gone' or 'unreachable'. For more than
        1,000 keys: ``keys``, ``confirmed``, ``gone`` and ``unreachable`` (deletes with each outcome, over all
        keys and nodes), ``seconds``, and ``not_confirmed``, the outcomes of keys that have others than
        'confirmed', 100 keys at most.

    Raises:
        ValueError: when the DAG is parsed, for an invalid argument, with its name.
        AirflowFailException: for errors that no retry helps; docs/reference/errors.md lists every error.
    """

    template_fields: Sequence[str] = ("key", "keys", "keys_path", "qcache_conn_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {"keys": "json"}
    ui_color = "#f5dcd6"

    _rules: ClassVar[Mapping[str, rules.Rule]] = {
        **QCacheOperator._rules,
        "key": rules.optional(rules.key),
        "keys": rules.optional(rules.keys),
        "keys_path": rules.optional(rules.path),
        "all_nodes": rules.flag,
        "on_unreachable": rules.one_of("fail", "ignore"),
        "emit_asset": rules.flag,
    }

    def __init__(
        self,
        *,
        key: str | None = None,
        keys: Any = None,
        keys_path: str | os.PathLike[str] | None = None,
        all_nodes: bool = True,
        on_unreachable: str = "fail",
        emit_asset: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.key = key
        self.keys = keys
        self.keys_path = rules.text_of_path(keys_path)
        self.all_nodes = all_nodes
        self.on_unreachable = on_unreachable
        self.emit_asset = emit_asset
        self._check_when_parsed()

    def _check_together(self, known: Mapping[str, Any]) -> None:
        del known
        self._check_exactly_one("key", "keys", "keys_path")

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """Render as Airflow does, and make a list of the keys that mapped tasks returned."""
        super().render_template_fields(context, jinja_env)
        # Airflow's own sequence reads each key when it is used, and the UI would show only its type.
        if not isinstance(self.keys, str | list) and isinstance(self.keys, Sequence):
            self.keys = list(self.keys)

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Delete the tables."""
        from airflow_provider_qcache.operators._delete import delete_tables  # noqa: PLC0415  # for a task that runs

        arguments = self._checked_arguments(context)
        keys = _keys_of(arguments)
        with self._connected(arguments) as hook:
            deletion = delete_tables(
                hook,
                keys,
                all_nodes=arguments["all_nodes"],
                ignore_unreachable=arguments["on_unreachable"] == "ignore",
                context=context,
                log=self.log,
            )
        key = pattern_of(keys)
        extra = outlets.deleted_tables(key, len(keys), deletion.counts)
        self._changed(context, arguments, key, extra, keys=keys)
        return deletion.result()

    def dry_run(self) -> None:
        """Log what the task would delete, and which nodes have it now; no node is changed."""
        from airflow_provider_qcache.operators._dry_run import would_delete  # noqa: PLC0415  # for a task that runs

        arguments = self._checked_arguments({})
        with self._connected(arguments) as hook:
            would_delete(hook, _keys_of(arguments), self.log)


class QCacheStatisticsOperator(QCacheOperator):
    """Read every node's own statistics, as XCom and as metrics, which RESETS THEM on the nodes.

    Other readers (a command, another task) see only what happened since. With
    ``outlets=[qcache_statistics_asset()]`` the asset's events keep them, and the cluster page plots them.

    Returns:
        As XCom: for each node its numbers by name; of each list of durations or row counts ``count``,
        ``mean`` and ``max``. A node that could not be asked has ``error`` alone.

    Raises:
        NodesUnreachable: no node could be asked, transient.
    """

    template_fields: Sequence[str] = ("qcache_conn_id",)
    ui_color = "#f0ead6"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._check_when_parsed()

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Read the statistics."""
        from airflow_provider_qcache.client.errors import redacted  # noqa: PLC0415  # it loads requests

        arguments = self._checked_arguments(context)
        found: dict[str, Any] = {}
        with self._connected(arguments) as hook:
            for node, statistics in hook.node_statistics().items():
                name = redacted(node)
                if isinstance(statistics, Exception):
                    attempts = getattr(statistics, "attempts", ())
                    found[name] = {"error": attempts[-1].reason if attempts else str(statistics)}
                    self.log.warning("Cannot read the statistics of %s: %s", name, found[name]["error"])
                    continue
                found[name] = {field: _summary_of(value) for field, value in statistics.items()}
                for field, value in found[name].items():
                    for part, number in value.items() if isinstance(value, dict) else (("", value),):
                        hook.metrics.gauge(f"{field}.{part}".rstrip("."), number, name)
        if all("error" in statistics for statistics in found.values()):
            errors = "; ".join(f"{node}: {statistics['error']}" for node, statistics in found.items())
            raise NodesUnreachable(
                f"cannot read the statistics of any node of connection {arguments['qcache_conn_id']!r}: "
                f"{errors}. Check that the nodes run and that the connection has their addresses",
                outcomes={},
            )
        read = sum("error" not in statistics for statistics in found.values())
        of = "" if read == len(found) else f" of {len(found)}"
        self.log.info("Read the statistics of %s%s, which resets them", rules.counted(read, "node"), of)
        outlets.keep_statistics(self, context, arguments["qcache_conn_id"], found)
        return found


def _summary_of(value: Any) -> Any:
    """A number of a node's statistics as it is; for a list its count, mean and maximum."""
    if not isinstance(value, list):
        return value
    mean = sum(value) / len(value) if value else 0
    return {"count": len(value), "mean": mean, "max": max(value, default=0)}


def _keys_of(arguments: Mapping[str, Any]) -> list[str]:
    """The keys that a task deletes."""
    from airflow_provider_qcache.operators._keys import read_keys  # noqa: PLC0415  # for a task that runs

    if arguments["keys_path"] is None:
        return arguments["keys"] or [arguments["key"]]
    keys = list(dict.fromkeys(read_keys("keys_path", arguments["keys_path"])))
    if not keys:
        raise AirflowFailException(
            f"keys_path={str(arguments['keys_path'])!r}: the file is empty; expected one key a line"
        )
    return keys
