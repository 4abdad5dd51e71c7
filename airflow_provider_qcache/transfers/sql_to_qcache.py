"""The rows of an SQL query to QCache: as one table, or as one for each partition.

Importing this loads neither the client nor requests: a DAG file is parsed again and again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from airflow_provider_qcache.compat import AirflowException, AirflowSkipException, BaseHook
from airflow_provider_qcache.operators import _arguments as rules
from airflow_provider_qcache.operators._base import QCacheOperator
from airflow_provider_qcache.operators._failures import permanent
from airflow_provider_qcache.operators.errors import StoredOnFailover
from airflow_provider_qcache.transfers._partitions import KeyPattern

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_qcache.client import BulkReport, StoreResult
    from airflow_provider_qcache.hooks.qcache import QCacheHook
    from airflow_provider_qcache.transfers._source import SqlSource
    from airflow_provider_qcache.transfers._tables import QueryTables

__all__ = ["QueryEmpty", "SqlToQCacheOperator"]

_SHOWN: Final = 10


class QueryEmpty(AirflowException):
    """With ``on_empty="fail"``: the query gave no rows. Nothing was stored."""

    transient = True


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
            What it does is not committed. Templated.
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

    Returns:
        As XCom: what QCachePostOperator returns of the one table. With ``partition_by``: ``tables``, ``rows``
        and ``bytes`` in all, ``seconds``, ``failed_over`` (keys whose home was down), ``may_hold_old`` (nodes
        that could not be told to delete older tables, each with its number of keys) and ``attempts`` (how
        many requests failed).

    Raises:
        ValueError: as the DAG is parsed, for an argument that makes no sense, naming it.
        AirflowFailException: for what no retry makes better; docs/operators.md lists every error.
        BulkError: some of many tables could not be stored; the others are.
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
        self._check_when_parsed()

    def _check_together(self, known: Mapping[str, Any]) -> None:
        if self.partition_by is None:
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
        del context
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
            return self._store_many(hook, tables, given)

    def _store_one(self, hook: QCacheHook, tables: QueryTables, given: Mapping[str, Any]) -> dict[str, Any]:
        ((key, upload),) = tables.uploads(compression=given["compression"])
        return self._told_one(hook.post(key, upload, **_options(given)), given)

    def _store_many(self, hook: QCacheHook, tables: QueryTables, given: Mapping[str, Any]) -> dict[str, Any]:
        uploads = tables.uploads(compression=given["compression"])
        return self._told_many(hook.post_many(uploads, **_options(given)), given)

    def _told_one(self, stored: StoreResult, given: Mapping[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = {
            "key": stored.key,
            "node": stored.node,
            "home_node": stored.home_node,
            "failed_over": stored.failed_over,
            "may_hold_old": list(stored.may_hold_old),
            "bytes": stored.bytes,
            "rows": stored.rows,
            "seconds": round(stored.seconds, 3),
            "attempts": [
                {
                    "node": attempt.node,
                    "phase": str(attempt.phase),
                    "outcome": str(attempt.outcome),
                    "status": attempt.status,
                    "seconds": round(attempt.seconds, 3),
                }
                for attempt in stored.attempts
            ],
        }
        said = f"Stored table {stored.key!r} on {stored.node}: "
        said += f"{rules.counted(stored.rows or 0, 'row')}, {stored.bytes:,} bytes, {stored.seconds:.2f} s"
        if given["copies"] > 1:
            result |= {"copies": list(stored.copies), "failed_copies": dict(stored.failed_copies)}
            said += f", with {len(stored.copies)} of {given['copies'] - 1} further copies"
        if stored.may_hold_old:
            said += f"; an older table may be on {', '.join(stored.may_hold_old)}"
        if stored.failed_over:
            said += f"; its home {stored.home_node} was down"
        self._say(said, result, failed_over=stored.failed_over, given=given)
        return result

    def _told_many(self, report: BulkReport, given: Mapping[str, Any]) -> dict[str, Any]:
        results: Sequence[Any] = list(report.succeeded.values())
        failed_over = [stored.key for stored in results if stored.failed_over]
        may_hold_old: dict[str, int] = {}
        failed_copies = 0
        for stored in results:
            failed_copies += len(stored.failed_copies)
            for node in stored.may_hold_old:
                may_hold_old[node] = may_hold_old.get(node, 0) + 1
        result: dict[str, Any] = {
            "tables": len(results),
            "rows": sum(stored.rows for stored in results),
            "bytes": sum(stored.bytes for stored in results),
            "seconds": round(report.seconds, 3),
            "failed_over": failed_over,
            "may_hold_old": may_hold_old,
            "attempts": sum(len(stored.attempts) for stored in results),
        }
        said = f"Stored {rules.counted(len(results), 'table')}: {rules.counted(result['rows'], 'row')}, "
        said += f"{result['bytes']:,} bytes, {report.seconds:.2f} s"
        if given["copies"] > 1:
            result["failed_copies"] = failed_copies
            said += f", {failed_copies} further copies failed"
        if may_hold_old:
            said += f"; older tables may be on {', '.join(may_hold_old)}"
        if failed_over:
            more = "" if len(failed_over) <= _SHOWN else f" and {len(failed_over) - _SHOWN} more"
            said += f"; the home was down of {', '.join(failed_over[:_SHOWN])}{more}"
        self._say(said, result, failed_over=bool(failed_over), given=given)
        return result

    def _say(
        self, said: str, result: Mapping[str, Any], *, failed_over: bool, given: Mapping[str, Any]
    ) -> None:
        if not failed_over:
            self.log.info("%s", said)
        elif given["require_home"]:
            raise StoredOnFailover(f"{said}, and require_home is set", result=result)
        else:
            self.log.warning("%s", said)


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in ("copies", "evict_stale", "check_row_count")}
