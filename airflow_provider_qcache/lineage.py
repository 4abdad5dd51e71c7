"""Report where tables come from and go to, to Airflow's hook lineage collector and to OpenLineage.

A table is the dataset ``<key>`` in the namespace ``qcache://<connection>``. Nothing here may fail a task:
errors are logged at debug level, as in Airflow's own providers.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from airflow_provider_qcache.assets.qcache import SCHEME, uri_of
from airflow_provider_qcache.protocol import CSV

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from airflow_provider_qcache.client import QueryResult
    from airflow_provider_qcache.client.tables.upload import Upload
    from airflow_provider_qcache.compat import Asset
    from airflow_provider_qcache.hooks.qcache import QCacheHook

_log = logging.getLogger("airflow_provider_qcache.lineage")

MOST_LISTED: Final = 100
"""The most files, and deleted tables, that are listed: the default limit of Airflow's collector."""

_FIRST_ROW: Final = 1 << 20
"""Bytes of an answer that may contain its first row."""

_TYPES: Final = {str: "string", bool: "bool", int: "int", float: "float"}


class Part(NamedTuple):
    """A dataset that a task read or wrote."""

    namespace: str
    name: str
    extra: Mapping[str, Any] = MappingProxyType({})
    """Of what was written, the extra of the asset's event: ``operation``, ``rows``, ``bytes``."""
    schema: Mapping[str, str | None] = MappingProxyType({})
    """The known columns, each with its type; None for an unknown type."""


def _table(conn_id: str, key: str, *facts: Mapping[str, Any]) -> Part:
    return Part(f"{SCHEME}://{quote(conn_id, safe='')}", key, *facts)


def _file(file: str, *facts: Mapping[str, Any]) -> Part:
    """A local path or a URL, named by OpenLineage's rules."""
    if "://" not in file:
        return Part("file", file, *facts)
    parts = urlsplit(file)
    return Part(f"{parts.scheme}://{parts.netloc}", parts.path.lstrip("/"), *facts)


class Query(NamedTuple):
    """An SQL query that a task read: its database's hook, the connection's id, and the text."""

    hook: Any
    conn_id: str
    sql: str


class Lineage(NamedTuple):
    """What a task read and wrote."""

    inputs: Sequence[Part] = ()
    outputs: Sequence[Part] = ()
    query: Query | None = None


def of_change(
    conn_id: str,
    key: str,
    extra: Mapping[str, Any],
    *,
    schema: Mapping[str, str | None] | None = None,
    files: Sequence[str] = (),
    query: Query | None = None,
    keys: Sequence[str] = (),
) -> Lineage:
    """The lineage of a task that stored or deleted tables.

    ``key`` is one, or the pattern of many; ``extra`` is that of its asset's event; ``files`` and ``query``
    are what it was read from; ``keys`` are those of many deleted tables.
    """
    listed = keys if 1 < len(keys) <= MOST_LISTED else (key,)
    outputs = [_table(conn_id, each, extra, schema or {}) for each in listed]
    return Lineage(inputs=[_file(file) for file in files[:MOST_LISTED]], outputs=outputs, query=query)


def of_query(arguments: Mapping[str, Any], result: QueryResult, loaded: Upload | None) -> Lineage:
    """The lineage of a query's task; ``loaded`` is the table that it stored first, if there was none."""
    conn_id, key = arguments["qcache_conn_id"], arguments["key"]
    answer = schema_of_answer(result.content, result.content_type)
    # Without these clauses the answer has the table's columns.
    whole = arguments["query"].keys().isdisjoint({"select", "group_by", "from"})
    outputs = []
    if arguments["output_path"] is not None:
        written = {"rows": _rows_of(result, arguments["query"]), "bytes": len(result.content)}
        outputs.append(_file(str(arguments["output_path"]), written, answer))
    if loaded is not None:
        stored = {"operation": "store", "rows": loaded.rows, "bytes": loaded.bytes}
        outputs.append(_table(conn_id, key, stored, loaded.schema))
    return Lineage(inputs=[_table(conn_id, key, {}, answer if whole else {})], outputs=outputs)


def schema_of_answer(content: bytes, content_type: str) -> dict[str, str | None]:
    """The columns of an answer, from its beginning; for JSON with the first row's types."""
    text = content[:_FIRST_ROW].decode("utf-8", "replace")
    try:
        if content_type == CSV:
            return dict.fromkeys(next(csv.reader(io.StringIO(text)), ()))
        row, _ = json.JSONDecoder().raw_decode(text[1:])
    except (ValueError, RecursionError, csv.Error):  # it has no rows, or a first row that is too long
        return {}
    return {name: _TYPES.get(type(value)) for name, value in row.items()} if isinstance(row, dict) else {}


def _rows_of(result: QueryResult, query: Mapping[str, Any]) -> int | None:
    """The number of rows of an answer; None if its offset or limit is negative or not an integer."""
    offset, limit = query.get("offset") or 0, query.get("limit") or result.unsliced_result_len
    if not (isinstance(offset, int) and isinstance(limit, int)) or offset < 0 or limit < 0:
        return None
    return min(limit, max(0, result.unsliced_result_len - offset))


# For OpenLineage.


def facets_of(lineage: Lineage | None) -> Any:
    """The lineage for ``get_openlineage_facets_on_complete``; an empty one for None, as of a failed task."""
    from airflow.providers.openlineage.extractors import OperatorLineage  # noqa: PLC0415  # it is optional

    inputs, outputs, query = lineage or Lineage()
    found = OperatorLineage(inputs=list(map(_dataset, inputs)), outputs=list(map(_dataset, outputs)))
    return found if query is None else found.merge(_read_by_sql(query))


def convert_asset_to_openlineage(asset: Asset, lineage_context: Any) -> Any:
    """The asset of a table as a dataset, with facets from its extra; Airflow calls it, by provider_info."""
    del lineage_context  # the URI is enough
    parts = urlsplit(asset.uri)
    return _dataset(_table(unquote(parts.netloc), unquote(parts.path.lstrip("/")), asset.extra or {}))


def _dataset(part: Part) -> Any:
    """A dataset of OpenLineage; what was written has its rows and bytes."""
    from airflow.providers.common.compat.openlineage import facet  # noqa: PLC0415  # it is optional

    facets: dict[str, Any] = {}
    changes = {"store": facet.LifecycleStateChange.OVERWRITE, "delete": facet.LifecycleStateChange.DROP}
    if (change := changes.get(part.extra.get("operation", ""))) is not None:
        facets["lifecycleStateChange"] = facet.LifecycleStateChangeDatasetFacet(lifecycleStateChange=change)
    if part.schema:
        fields = [facet.SchemaDatasetFacetFields(name=name, type=kind) for name, kind in part.schema.items()]
        facets["schema"] = facet.SchemaDatasetFacet(fields=fields)
    rows, size = part.extra.get("rows"), part.extra.get("bytes")
    if rows is None and size is None:
        return facet.Dataset(namespace=part.namespace, name=part.name, facets=facets)
    statistics = {"outputStatistics": facet.OutputStatisticsOutputDatasetFacet(rowCount=rows, size=size)}
    return facet.OutputDataset(
        namespace=part.namespace, name=part.name, facets=facets, outputFacets=statistics
    )


def _read_by_sql(query: Query) -> Any:
    """The tables that a query reads, by the parser of the OpenLineage provider, as common.sql's operators do.

    If the database's hook does not support OpenLineage, they are named by the connection's type and host.
    """
    from airflow.providers.openlineage import sqlparser  # noqa: PLC0415  # it is optional
    from airflow.providers.openlineage.extractors import OperatorLineage  # noqa: PLC0415

    found = sqlparser.get_openlineage_facets_with_sql(
        hook=query.hook, sql=query.sql, conn_id=query.conn_id, database=getattr(query.hook, "database", None)
    )
    if found is not None:
        # It may have outputs: a query can write a table too, such as SELECT INTO.
        return found
    from airflow.providers.common.compat.openlineage.facet import Dataset, SQLJobFacet  # noqa: PLC0415

    connection = query.hook.get_connection(query.conn_id)
    parser = sqlparser.SQLParser(dialect=query.hook.get_openlineage_database_dialect(connection))
    parsed = parser.parse(parser.split_sql_string(query.sql))
    if connection.host:
        port = f":{connection.port}" if connection.port else ""
        namespace = f"{connection.conn_type}://{connection.host}{port}"
    else:  # a file, such as SQLite's
        namespace = f"{connection.conn_type}:///{(connection.schema or '').lstrip('/')}"
    tables = parsed.in_tables if parsed else ()
    return OperatorLineage(
        inputs=[Dataset(namespace=namespace, name=table.qualified_name) for table in tables],
        job_facets={"sql": SQLJobFacet(query=parser.normalize_sql(query.sql))},
    )


# For Airflow's hook lineage collector.


def collect_result(hook: QCacheHook, key: str | None, result: object, *, stores: bool) -> None:
    """Report the tables that a hook has read, stored or deleted to Airflow's collector; not a miss.

    ``key`` is one, or the pattern of many; ``stores`` says whether an operation on many tables stored them.
    """
    from airflow_provider_qcache import client  # noqa: PLC0415  # the hook has loaded it

    extra: dict[str, Any] = {}
    if isinstance(result, client.StoreResult):
        extra = {"operation": "store", "rows": result.rows, "bytes": result.bytes}
    elif isinstance(result, client.DeleteResult):
        extra = {"operation": "delete"}
    elif isinstance(result, client.BulkReport):
        extra = {"operation": "store" if stores else "delete"}
    elif not isinstance(result, client.QueryResult):
        return
    if key is not None:
        method = "add_output_asset" if extra else "add_input_asset"
        _collect(method, hook, uri_of, key, hook.qcache_conn_id, extra=extra or None)


def collect_files(context: Any, tables: Iterable[Any]) -> list[str]:
    """Report the files that tables were read from to Airflow's collector, and return their names.

    ``tables`` are an operator's: the ``body`` of a table has ``files`` if it was read from files.
    """
    files = [file.name for table in tables for file in getattr(getattr(table, "body", None), "files", ())]
    for file in files[:MOST_LISTED]:
        _collect("add_input_asset", context, str, file if "://" in file else f"file://{file}")
    return files


def collect_query(query: Query, parameters: Any, rows: int) -> None:
    """Report an SQL query to Airflow's collector, as a hook's own ``run`` does."""
    try:
        from airflow.providers.common.sql.hooks.lineage import send_sql_hook_lineage  # noqa: PLC0415
    except ImportError:  # an older common.sql
        return
    send_sql_hook_lineage(context=query.hook, sql=query.sql, sql_parameters=parameters, row_count=rows)


def _collect(
    method: str, context: Any, uri: Any, *arguments: str, extra: dict[str, Any] | None = None
) -> None:
    try:
        from airflow_provider_qcache.compat import get_hook_lineage_collector  # noqa: PLC0415  # Airflow

        collector = get_hook_lineage_collector()
        getattr(collector, method)(context=context, uri=uri(*arguments), asset_extra=extra)
    except Exception:  # noqa: BLE001  # the table is stored, or read
        _log.debug("Cannot report %s to Airflow's lineage collector", arguments, exc_info=True)
