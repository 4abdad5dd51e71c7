"""The rows of an SQL query to QCache: as one table, or as one for each partition.

Importing this loads neither the client nor requests: a DAG file is parsed again and again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_qcache.compat import AirflowSkipException, BaseHook
from airflow_provider_qcache.operators import _arguments as rules
from airflow_provider_qcache.operators._base import QCacheOperator
from airflow_provider_qcache.operators._failures import permanent
from airflow_provider_qcache.operators._many import ManyOptions, store_tables
from airflow_provider_qcache.operators._many_given import none_or_more
from airflow_provider_qcache.operators._stored import told
from airflow_provider_qcache.operators.errors import QueryEmpty
from airflow_provider_qcache.transfers._partitions import KeyPattern

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from airflow_provider_qcache.hooks.qcache import QCacheHook
    from airflow_provider_qcache.transfers._source import SqlSource
    from airflow_provider_qcache.transfers._tables import QueryTables

__all__ = ["QueryEmpty", "SqlToQCacheOperator"]


def _parameters(name: str, value: Any) -> Any:
    """Parameters of a query: a list or a dict; a string may hold one."""
    found = value
    if isinstance(value, str):
        try:
            found = rules.literal(value)
        except ValueError as error:
            raise rules.refused(name, value, "a list or a dict, or a string that holds one,") from error
    if not isinstance(found, list | tuple | dict):
        raise rules.refused(name, value, "a list or a dict")
    return found


def _columns(name: str, value: Any) -> list[str]:
    """Names of columns, one at least and each once."""
    found = rules.sequence(name, value)
    if not found or len(set(found)) != len(found) or not all(isinstance(one, str) and one for one in found):
        raise rules.refused(name, value, "a list of names of columns, each once,")
    return found


class SqlToQCacheOperator(QCacheOperator):
    """Store the rows of a query: under one key, or in one table for each partition.

    The rows are read whole before anything is sent, to a file on disk: memory does not grow with them, no
    node waits for the database, and what cannot be stored leaves every table that is there. By the rules of
    docs/tables.md every column goes as what it is: texts stay texts, so that a ZIP code keeps its zeros.
    From PostgreSQL they come by COPY.

    Args:
        sql: One query, or the name of a ``.sql`` file, which is looked for where the DAG's templates are.
            What it does to a PostgreSQL database is not committed. Elsewhere that is the driver's: DuckDB
            keeps what an ``INSERT … RETURNING`` did, SQLite what a ``DROP TABLE`` did. Templated.
        key: The table's key. With ``partition_by`` it has every one of those columns in braces:
            ``"sales_{region}_{day}"``. Templated.
        sql_conn_id: The connection to the database, whose hook is a DbApiHook. Templated.
        parameters: The query's parameters, as the database's driver takes them. Templated.
        hook_params: Arguments of the database's hook, such as ``database``.
        partition_by: Columns whose values make the partitions; they stay in the tables. A null among them
            is refused, and so are values that have no place in a key and two partitions with one key, all
            before anything is stored. Templated.
        column_types: 'string', 'enum' or 'float' by column, before what its type says.
        on_empty: Where there are no rows: 'fail' raises QueryEmpty, transient; 'skip' skips the task;
            'store' stores the empty table (there is none with ``partition_by``). Only 'store' touches a
            table that is there.
        compression: 'gzip' to compress what is sent.
        copies: Nodes that get a table, its home included.
        evict_stale: Tell every other node to delete the key, so that no later failover shows an older table.
        check_row_count: Ask the node for its rows afterwards: RowCountMismatch, transient.
        require_home: Where a key's home node is down and its table went to the next one, raise
            StoredOnFailover, transient, when everything is stored. Without it that is a warning.
        max_failed_keys: With ``partition_by``, how many tables may fail with the task a success.
        allow_evicted: With ``partition_by``, whether the task is a success, with a warning, where nodes have
            evicted some of the tables by its end.

    Returns:
        As XCom: what QCachePostOperator returns, of one table or, with ``partition_by``, of many.

    Raises:
        ValueError: as the DAG is parsed, for an argument that makes no sense, naming it.
        AirflowFailException: for what no retry makes better; docs/operators.md lists every error.
        TablesFailed: some of many tables could not be stored; the others are.
        TablesEvicted: some of many tables are not on their nodes any more.
    """

    template_fields: Sequence[str] = (
        "sql",
        "key",
        "sql_conn_id",
        "parameters",
        "hook_params",
        "partition_by",
        "column_types",
        "on_empty",
        "compression",
        "copies",
        "evict_stale",
        "check_row_count",
        "require_home",
        "max_failed_keys",
        "allow_evicted",
        "qcache_conn_id",
        "request_retry",
    )
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "sql": "sql",
        "parameters": "json",
        "hook_params": "json",
        "partition_by": "json",
        "column_types": "json",
    }
    ui_color = "#d6efd8"

    _objects: ClassVar[Collection[str]] = ("parameters", "hook_params")
    _rules: ClassVar[Mapping[str, rules.Rule]] = {
        **QCacheOperator._rules,
        "sql": rules.text,
        "key": rules.text,
        "sql_conn_id": rules.text,
        "parameters": rules.optional(_parameters),
        "hook_params": rules.optional(rules.mapping),
        "partition_by": rules.optional(_columns),
        "column_types": rules.optional(rules.column_types),
        "on_empty": rules.one_of("fail", "skip", "store"),
        "compression": rules.optional(rules.one_of("gzip")),
        "copies": rules.count,
        "evict_stale": rules.flag,
        "check_row_count": rules.flag,
        "require_home": rules.flag,
        "max_failed_keys": none_or_more,
        "allow_evicted": rules.flag,
    }

    _source: SqlSource | None = None

    def __init__(
        self,
        *,
        sql: str,
        key: str,
        sql_conn_id: str,
        parameters: Sequence[Any] | Mapping[str, Any] | None = None,
        hook_params: Mapping[str, Any] | None = None,
        partition_by: Sequence[str] | None = None,
        column_types: Mapping[str, str] | None = None,
        on_empty: str = "fail",
        compression: str | None = None,
        copies: int = 1,
        evict_stale: bool = True,
        check_row_count: bool = False,
        require_home: bool = False,
        max_failed_keys: int = 0,
        allow_evicted: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sql = sql
        self.key = key
        self.sql_conn_id = sql_conn_id
        self.parameters = parameters
        self.hook_params = hook_params
        self.partition_by = partition_by
        self.column_types = column_types
        self.on_empty = on_empty
        self.compression = compression
        self.copies = copies
        self.evict_stale = evict_stale
        self.check_row_count = check_row_count
        self.require_home = require_home
        self.max_failed_keys = max_failed_keys
        self.allow_evicted = allow_evicted
        self._check_when_parsed()

    def _check_together(self, known: Mapping[str, Any]) -> None:
        if self.partition_by is None:
            if self.max_failed_keys or self.allow_evicted:
                raise ValueError("max_failed_keys and allow_evicted are for partition_by, which is not given")
            if "key" in known:
                rules.key("key", known["key"])
            return
        if known.get("on_empty") == "store":
            raise ValueError("on_empty='store' is for one table: with partition_by no rows are no tables")
        if "key" in known and "partition_by" in known:
            KeyPattern(known["key"], known["partition_by"])

    def get_db_hook(self, sql_conn_id: str, hook_params: Mapping[str, Any] | None) -> Any:
        """The database's hook: that of the connection's type.

        Raises:
            TypeError: it is no DbApiHook.
        """
        from airflow.providers.common.sql.hooks.sql import DbApiHook  # noqa: PLC0415  # it loads sqlalchemy

        hook = BaseHook.get_connection(sql_conn_id).get_hook(hook_params=dict(hook_params or {}))
        if not isinstance(hook, DbApiHook):
            raise TypeError(
                f"sql_conn_id={sql_conn_id!r}: its hook is {type(hook).__name__}, and a DbApiHook is wanted"
            )
        return hook

    def on_kill(self) -> None:
        """End the query, and the request in progress."""
        if self._source is not None:
            self._source.cancel()
        super().on_kill()

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Read the query, then store its tables."""
        from airflow_provider_qcache.transfers._source import SqlSource  # noqa: PLC0415  # it loads requests
        from airflow_provider_qcache.transfers._spool import Spool  # noqa: PLC0415
        from airflow_provider_qcache.transfers._tables import QueryTables  # noqa: PLC0415

        given = self._checked_arguments()
        with permanent(TypeError):
            db_hook = self.get_db_hook(given["sql_conn_id"], given["hook_params"])
        with self._connected(given) as hook, Spool() as spool:
            tables = QueryTables(spool, given["key"], given["partition_by"] or (), given["column_types"])
            source = self._source = SqlSource(db_hook, given["sql"], given["parameters"])
            try:
                how = source.read(spool, tables)
            finally:
                self._source = None
            spool.flush()
            tables.check_rows()
            self.log.info(
                "Read %s of %s by %s into %s",
                rules.counted(spool.rows, "row"),
                given["sql_conn_id"],
                how,
                rules.counted(len(tables), "table"),
            )
            if not spool.rows and given["on_empty"] != "store":
                said = f"{given['sql_conn_id']} gave no rows for {given['key']!r}; nothing is stored"
                if given["on_empty"] == "skip":
                    raise AirflowSkipException(said)
                raise QueryEmpty(said)
            if given["partition_by"] is None:
                return self._store_one(hook, tables, given)
            return self._store_many(hook, tables, given, context)

    def _store_one(self, hook: QCacheHook, tables: QueryTables, given: Mapping[str, Any]) -> dict[str, Any]:
        ((key, upload),) = tables.uploads(compression=given["compression"])
        stored = hook.post(key, upload, **_options(given))
        return told(
            stored, self.log, copies=given["copies"], require_home=given["require_home"], may_be_empty=True
        )

    def _store_many(
        self, hook: QCacheHook, tables: QueryTables, given: Mapping[str, Any], context: Mapping[str, Any]
    ) -> dict[str, Any]:
        options = ManyOptions(
            **_options(given),
            require_home=given["require_home"],
            max_failed_keys=given["max_failed_keys"],
            allow_evicted=given["allow_evicted"],
        )
        return store_tables(
            hook,
            lambda: tables.uploads(compression=given["compression"]),
            context=context,
            log=self.log,
            options=options,
            keys=tables.keys,
        )


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in ("copies", "evict_stale", "check_row_count")}
