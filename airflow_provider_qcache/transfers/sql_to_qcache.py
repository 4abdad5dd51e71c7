"""Store the rows of an SQL query: as one table, or as one for each partition."""

from __future__ import annotations

import contextlib
import re
import string
from typing import TYPE_CHECKING, Any, ClassVar, Final

from airflow_provider_qcache.assets.outlets import stored_table, stored_tables
from airflow_provider_qcache.compat import AirflowException, AirflowSkipException, BaseHook
from airflow_provider_qcache.operators import _arguments as rules
from airflow_provider_qcache.operators._base import QCacheStoreOperator
from airflow_provider_qcache.operators.errors import QueryEmpty, fail_for_good, permanent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from airflow_provider_qcache.client.tables.spool import Spool
    from airflow_provider_qcache.transfers._source import SqlSource
    from airflow_provider_qcache.transfers._tables import QueryTables

__all__ = ["QueryEmpty", "SqlToQCacheOperator"]

_PROVIDERS: Final[Mapping[str, str]] = {
    "databricks": "databricks",
    "drill": "apache-drill",
    "druid": "apache-druid",
    "gcpbigquery": "google",
    "gcpcloudsqldb": "google",
    "hiveserver2": "apache-hive",
    "impala": "apache-impala",
    "jdbc": "jdbc",
    "mssql": "microsoft-mssql",
    "mysql": "mysql",
    "odbc": "odbc",
    "oracle": "oracle",
    "pinot": "apache-pinot",
    "postgres": "postgres",
    "presto": "presto",
    "redshift": "amazon",
    "snowflake": "snowflake",
    "sqlite": "sqlite",
    "teradata": "teradata",
    "trino": "trino",
    "vertica": "vertica",
    "ydb": "ydb",
}
"""The Apache provider with the hook of each connection type."""


def _parameters(name: str, value: Any) -> Any:
    """Parameters of a query: a list or a dict; a string may hold one."""
    expected = "a list or a dict, or a string that holds one"
    found = rules.value_in(name, value, expected)
    if not isinstance(found, list | tuple | dict):
        raise rules.refused(name, value, expected)
    return found


def _columns(name: str, value: Any) -> list[str]:
    """Names of columns, at least one and each once."""
    found = rules.sequence(name, value)
    if not found or len(set(found)) != len(found) or not all(isinstance(one, str) and one for one in found):
        raise rules.refused(name, value, "a list of column names, each once")
    return found


def _check_partitions(key: str, columns: Sequence[str]) -> None:
    """Raise ValueError unless a key has exactly the columns of ``partition_by`` in braces."""
    names = []
    try:
        for _, name, form, conversion in string.Formatter().parse(key):
            if form or conversion:
                raise ValueError(f"{{{name}}} has a format or conversion: leave only the name")  # noqa: TRY301
            if name is not None:
                names.append(name)
    except ValueError as error:
        raise ValueError(
            f"key={key!r}: {error}; write a column's name in braces, and format its values in the SQL"
        ) from error
    for name in names:
        if name not in columns:
            raise ValueError(
                f"key={key!r}: {{{name}}} is not in partition_by, which names {', '.join(columns)}"
            )
    for name in columns:
        if name not in names:
            raise ValueError(
                f"key={key!r}: {{{name}}} is missing, which partition_by names: partitions would share a "
                "key, so add it"
            )


class SqlToQCacheOperator(QCacheStoreOperator):
    """Store the rows of a query: under one key, or in one table for each partition.

    All rows are read to a file on disk before any table is sent: memory does not grow with them, no node
    waits for the database, and rows that cannot be stored leave every old table in place. By the rules of
    docs/reference/tables.md every column keeps its type: texts stay texts, so that a ZIP code keeps its
    zeros. PostgreSQL's rows are read by COPY.

    Args:
        sql: One query, or the name of a ``.sql`` file in the folder of the DAG's templates. Its changes to a
            PostgreSQL database are not committed. For other databases the driver decides: DuckDB keeps what
            an ``INSERT … RETURNING`` did, SQLite what a ``DROP TABLE`` did. Templated.
        key: The table's key. With ``partition_by`` it has each of those columns in braces:
            ``"sales_{region}_{day}"``. Templated.
        sql_conn_id: The connection to the database, whose hook is a DbApiHook. Templated.
        parameters: The query's parameters, as the database's driver takes them. Templated.
        hook_params: Arguments of the database's hook, such as ``database``.
        partition_by: Columns whose values make the partitions; they stay in the tables. Nulls, values that a
            key cannot contain and two partitions with one key are refused before anything is stored.
            Templated.
        column_types: 'string', 'enum' or 'float' by column, instead of the type that the database has.
        on_empty: If there are no rows: 'fail' raises QueryEmpty, transient; 'skip' skips the task;
            'store' stores the empty table (not with ``partition_by``). Only 'store' replaces the old table.
        compression: 'gzip' to compress what is sent.
        copies, evict_stale, check_row_count, require_home, emit_asset: As for QCacheStoreOperator.
        max_failed_keys, allow_evicted, durable: With ``partition_by``, as for QCacheStoreOperator.
        return_keys, keys_path, delete_missing, allow_empty: With ``partition_by``, as for
            QCacheStoreOperator.

    Returns:
        As XCom: as QCachePostOperator, for one table or, with ``partition_by``, for many.

    Raises:
        ValueError: when the DAG is parsed, for an invalid argument, with its name.
        AirflowFailException: for errors that no retry helps; docs/reference/errors.md lists every error.
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
        *QCacheStoreOperator.template_fields,
        "qcache_conn_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "sql": "sql",
        **dict.fromkeys(("parameters", "hook_params", "partition_by", "column_types"), "json"),
    }
    ui_color = "#d6efd8"

    _rules: ClassVar[Mapping[str, rules.Rule]] = {
        **QCacheStoreOperator._rules,
        "sql": rules.text,
        "key": rules.text,
        "sql_conn_id": rules.text,
        "parameters": rules.optional(_parameters),
        "hook_params": rules.optional(rules.mapping),
        "partition_by": rules.optional(_columns),
        "column_types": rules.optional(rules.column_types),
        "on_empty": rules.one_of("fail", "skip", "store"),
        "compression": rules.optional(rules.one_of("gzip")),
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
        partition_by: str | Sequence[str] | None = None,
        column_types: Mapping[str, str] | None = None,
        on_empty: str = "fail",
        compression: str | None = None,
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
        self._check_when_parsed()

    def _check_together(self, known: Mapping[str, Any]) -> None:
        if self.partition_by is None:
            self._check_several("needs partition_by")
            if (key := known.get("key")) is not None:
                if names := re.findall(r"\{([^{}]*)\}", key):
                    raise ValueError(
                        f"key={key!r}: a column in braces needs partition_by. Pass partition_by={names!r} "
                        "for one table for each value, or remove the braces"
                    )
                rules.key("key", key)
            return
        if known.get("on_empty") == "store":
            raise ValueError("on_empty='store' cannot be used with partition_by: no rows make no tables")
        if "key" in known and "partition_by" in known:
            _check_partitions(known["key"], known["partition_by"])

    def get_db_hook(self, sql_conn_id: str, hook_params: Mapping[str, Any] | None) -> Any:
        """The database's hook: that of the connection's type.

        Raises:
            TypeError: it is no DbApiHook.
            ImportError: no provider that is installed has the hook.
        """
        from airflow.providers.common.sql.hooks.sql import DbApiHook  # noqa: PLC0415  # it loads sqlalchemy

        connection = BaseHook.get_connection(sql_conn_id)
        try:
            hook = connection.get_hook(hook_params=dict(hook_params or {}))
        except AirflowException as error:
            if "Unknown hook type" not in str(error):
                raise
            if (provider := _PROVIDERS.get(connection.conn_type)) is not None:
                todo = f"Install its provider: pip install apache-airflow-providers-{provider}"
            else:
                todo = "Install its provider, or correct the type: `airflow providers hooks` lists all"
            raise ImportError(
                f"sql_conn_id={sql_conn_id!r}: no installed provider has a hook for connections of type "
                f"{connection.conn_type!r}. {todo}"
            ) from error
        if not isinstance(hook, DbApiHook):
            raise TypeError(
                f"sql_conn_id={sql_conn_id!r}: its hook is {type(hook).__name__}; expected a DbApiHook"
            )
        return hook

    def on_kill(self) -> None:
        """End the query, and the request in progress."""
        if self._source is not None:
            self._source.cancel()
        super().on_kill()

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Read the query, then store its tables."""
        from airflow_provider_qcache.client.tables.spool import Spool  # noqa: PLC0415  # it loads requests
        from airflow_provider_qcache.lineage import Query, collect_query  # noqa: PLC0415  # for a task that runs
        from airflow_provider_qcache.operators._many import store_tables  # noqa: PLC0415  # for a task that runs
        from airflow_provider_qcache.operators._report import report_stored  # noqa: PLC0415  # for a task that runs

        arguments = self._checked_arguments(context)
        db_hook = self._checked_db_hook(arguments)
        with self._connected(arguments) as hook, Spool() as spool:
            tables = self._read(arguments, db_hook, spool)
            query = Query(hook=db_hook, conn_id=arguments["sql_conn_id"], sql=arguments["sql"])
            collect_query(query, arguments["parameters"], spool.rows)
            if not spool.rows and arguments["on_empty"] != "store":
                query_of = f"The query of {arguments['sql_conn_id']!r} for key {arguments['key']!r}"
                text = f"{query_of} returned no rows; nothing is stored"
                if arguments["on_empty"] == "skip":
                    raise AirflowSkipException(text)
                raise QueryEmpty(f"{text}. Pass on_empty='skip' or on_empty='store' if that is expected")
            schema: dict[str, str | None] = {column.name: str(column.type) for column in tables.columns}
            if arguments["partition_by"] is None:
                ((key, upload),) = tables.uploads(arguments["compression"])
                stored = hook.post(key, upload, **rules.store_options(arguments))
                result = report_stored(stored, self.log, arguments, may_be_empty=True)
                extra = stored_table(stored)
            else:
                result = store_tables(
                    hook,
                    lambda: tables.uploads(arguments["compression"]),
                    context=context,
                    log=self.log,
                    arguments=arguments,
                    keys=tables.keys,
                )
                extra = stored_tables(arguments["key"], result)
        self._changed(context, arguments, arguments["key"], extra, schema=schema, query=query)
        return result

    def dry_run(self) -> None:
        """Run the query, check its tables, and log them with their nodes; no node is changed."""
        from airflow_provider_qcache.client.tables.spool import Spool  # noqa: PLC0415  # it loads requests
        from airflow_provider_qcache.operators import _dry_run  # noqa: PLC0415  # for a task that runs

        arguments = self._checked_arguments({})
        db_hook = self._checked_db_hook(arguments)
        with self._connected(arguments) as hook, Spool() as spool:
            tables = self._read(arguments, db_hook, spool)
            uploads = tables.uploads(arguments["compression"])
            if arguments["partition_by"] is None:
                ((key, upload),) = uploads
                _dry_run.would_store(hook, key, upload, self.log)
            else:
                _dry_run.would_store_many(hook, uploads, None, arguments, self.log)

    def _checked_db_hook(self, arguments: Mapping[str, Any]) -> Any:
        with _missing_packages_are_permanent(), permanent(TypeError):
            return self.get_db_hook(arguments["sql_conn_id"], arguments["hook_params"])

    def _read(self, arguments: Mapping[str, Any], db_hook: Any, spool: Spool) -> QueryTables:
        """Read all rows of the query into tables in the spool."""
        from airflow_provider_qcache.transfers._source import SqlSource  # noqa: PLC0415  # it loads requests
        from airflow_provider_qcache.transfers._tables import QueryTables  # noqa: PLC0415

        tables = QueryTables(
            spool, arguments["key"], arguments["partition_by"] or (), arguments["column_types"]
        )
        source = self._source = SqlSource(db_hook, arguments["sql"], arguments["parameters"])
        try:
            with _missing_packages_are_permanent():
                how = source.read(tables)
        finally:
            self._source = None
        spool.flush()
        tables.check_rows()
        rows, number = rules.counted(spool.rows, "row"), rules.counted(len(tables.keys), "table")
        self.log.info("Read %s from %s by %s into %s", rows, arguments["sql_conn_id"], how, number)
        return tables


@contextlib.contextmanager
def _missing_packages_are_permanent() -> Iterator[None]:
    """Fail for good if a package is not installed: no retry of the task installs it.

    Some hooks raise their own RuntimeError or AirflowException for their driver's ImportError.
    """
    try:
        yield
    except (ImportError, RuntimeError, AirflowException) as error:
        if isinstance(error, ImportError) or isinstance(error.__context__, ImportError):
            raise fail_for_good(error) from error
        raise
