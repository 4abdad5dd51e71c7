"""Read Arrow data from a database's driver, if the driver offers it, without making rows in Python.

A driver is recognised by the names of its methods, so that none is imported here.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.client.tables.types import refuse
from airflow_provider_qcache.extras import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

try:
    import pyarrow as pa
except ImportError as error:
    raise MissingExtra("a query that is not read by PostgreSQL's COPY needs pyarrow", "sql") from error

from airflow_provider_qcache.client.tables import arrow


class ArrowStream:
    """A query's rows as record batches, of which one at a time is in memory; ``close`` it.

    It reads a RecordBatchReader, or an iterator of record batches or tables, which all have the columns of
    the first. ``close`` ends the query: a stream of DuckDB that is left open locks the database.
    """

    def __init__(self, batches: Any) -> None:
        self._batches = batches
        first: list[Any] = []
        schema = getattr(batches, "schema", None)
        if schema is None:
            first = list(itertools.islice(batches, 1))
            schema = first[0].schema if first else pa.schema([])
        self.schema = pa.schema([(field.name, _widest(field.type)) for field in schema])
        self._chunks = itertools.chain(first, batches)

    def close(self) -> None:
        if hasattr(self._batches, "close"):
            self._batches.close()

    def batches(self) -> Iterator[Any]:
        """Record batches of ``schema``, bounded by rows and bytes; InvalidTable for invalid Arrow data."""
        for batch in arrow.valid(self._whole()):
            yield from arrow.bounded(batch)

    def _whole(self) -> Iterator[Any]:
        for chunk in self._chunks:
            for batch in chunk.to_batches() if isinstance(chunk, pa.Table) else (chunk,):
                arrays = [
                    array if array.type == field.type else _like_earlier(field.name, array, field.type)
                    for array, field in zip(batch.columns, self.schema, strict=True)
                ]
                yield pa.RecordBatch.from_arrays(arrays, self.schema.names)


def _widest(arrow_type: Any) -> Any:
    """The type of a column for all batches: Snowflake's integers have a width of their own in each batch."""
    types = pa.types
    return pa.int64() if types.is_integer(arrow_type) and arrow_type != pa.uint64() else arrow_type


def _like_earlier(name: str, array: Any, arrow_type: Any) -> Any:
    """A batch's part of a column in the type of the batches before it. Raises InvalidTable.

    Snowflake gives nanoseconds in one batch and microseconds in another, which hold more years. Those stay:
    the encoder writes them alike.
    """
    try:
        return array.cast(arrow_type)
    except pa.ArrowInvalid as error:
        types = pa.types
        if types.is_timestamp(arrow_type) and types.is_timestamp(array.type) and arrow_type.unit == "ns":
            return array
        refuse(
            name,
            f"the driver gives {arrow_type} first and {array.type} later, which does not fit ({error}): "
            "cast the column to a text in the SQL",
        )


def of_connection(connection: Any) -> Callable[[str, Any], ArrowStream] | None:
    """A function that runs a query on a connection that streams Arrow itself, as DuckDB's does; else None.

    DuckDB's cursor reads all rows into memory before it returns them as Arrow; a relation streams them.
    """
    run = getattr(connection, "sql", None)
    if not callable(run) or not any(hasattr(connection, name) for name in _RELATION):
        return None

    def stream(sql: str, parameters: Any) -> ArrowStream:
        relation = run(sql) if parameters is None else run(sql, params=parameters)
        if relation is None:  # a statement without a result
            return ArrowStream(iter(()))
        read = next(getattr(relation, name) for name in _RELATION if hasattr(relation, name))
        return ArrowStream(read(arrow.BATCH_ROWS))

    return stream


_RELATION: Final = ("to_arrow_reader", "fetch_record_batch")
"""DuckDB's methods: of version 1.5 and later, and of earlier versions."""


def of_cursor(cursor: Any) -> ArrowStream | None:
    """The rows of a query that a cursor has run; None if the cursor does not offer Arrow for it."""
    try:
        if hasattr(cursor, "fetch_record_batch"):  # ADBC
            return ArrowStream(cursor.fetch_record_batch())
        if hasattr(cursor, "fetch_arrow_batches"):  # Snowflake
            return ArrowStream(iter(cursor.fetch_arrow_batches()))
        if hasattr(cursor, "fetchmany_arrow"):  # Databricks
            # Some answers, to SHOW for example, are columns of Python's values, without a schema.
            if not hasattr(cursor.fetchmany_arrow(0), "schema"):
                return None
            first = cursor.fetchmany_arrow(arrow.BATCH_ROWS)
            rest = iter(lambda: cursor.fetchmany_arrow(arrow.BATCH_ROWS), None)
            filled = itertools.takewhile(lambda table: table.num_rows, rest)
            return ArrowStream(itertools.chain([first], filled))
        if (job := _bigquery_job(cursor)) is not None:
            rows = job.result()
            if hasattr(rows, "to_arrow_iterable"):
                return ArrowStream(iter(rows.to_arrow_iterable()))
    except Exception as error:
        # Snowflake answers some statements, SHOW for example, as JSON.
        if type(error).__name__ != "NotSupportedError":
            raise
    return None


def _bigquery_job(cursor: Any) -> Any:
    """BigQuery's job of a cursor of Google's library, or of the hook of Airflow's provider; None for others.

    The rows of that hook's cursor have timestamps as floats, as BigQuery's REST API gives them.
    """
    if (job := getattr(cursor, "query_job", None)) is not None:
        return job
    hook: Any = getattr(cursor, "hook", None)
    job_id = getattr(cursor, "job_id", None)
    if job_id is None or not hasattr(hook, "get_client"):
        return None
    return hook.get_client(project_id=cursor.project_id, location=cursor.location).get_job(job_id)
