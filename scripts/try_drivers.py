"""Read queries by the drivers of Snowflake, Databricks and BigQuery, and say what was seen.

No such service is at hand. The drivers are their makers' own, and the hooks those of Airflow's providers, but
each talks to a server on loopback that answers in the service's protocol: HTTP and Arrow for Snowflake,
Thrift for Databricks, the REST API for BigQuery. `make drivers` runs this where the drivers are installed.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import gzip
import io
import json
import logging
import os
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import snowflake.connector
from airflow.providers.databricks.hooks.databricks_sql import DatabricksSqlHook
from airflow.providers.google.cloud.hooks.bigquery import BigQueryHook
from databricks.sql.thrift_api.TCLIService import TCLIService, ttypes
from google.api_core.client_options import ClientOptions
from google.cloud.bigquery import dbapi
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.transport.TTransport import TMemoryBuffer

from airflow_provider_qcache.client.tables.headers import column_headers
from airflow_provider_qcache.client.tables.spool import Spool
from airflow_provider_qcache.client.tables.types import typed
from airflow_provider_qcache.transfers._source import ARROW, CURSOR, SqlSource
from airflow_provider_qcache.transfers._tables import QueryTables
from tests.harness.sql import Hook

DRIVERS = ("snowflake-connector-python", "databricks-sql-connector", "google-cloud-bigquery")

EVERYTHING, NOTHING, SHOW, FAR = "SELECT everything", "SELECT nothing", "SHOW TABLES", "SELECT far"
"""What the servers are asked: two batches of rows, none, rows without Arrow, and times beyond nanoseconds."""

ROWS = [
    (1, "00501", dt.datetime(2024, 5, 6, 12, tzinfo=dt.UTC)),
    (2, None, None),
    (300, "b", dt.datetime(2024, 5, 6, 12, tzinfo=dt.UTC)),
]
FIRST, SECOND = ROWS[:2], ROWS[2:]

TEXT = 'n,t,at\n1,"00501","{at}"\n2,,\n300,"b","{at}"\n'


class NotAsItShouldBe(Exception):
    """What was seen is not what the documentation says."""


def expect(what: str, seen: Any, expected: Any) -> None:
    """Fail with both, unless they are equal."""
    if seen != expected:
        raise NotAsItShouldBe(f"{what}: {seen!r} instead of {expected!r}")


class Server(BaseHTTPRequestHandler):
    """An HTTP server: `with serve(Server) as address`."""

    protocol_version = "HTTP/1.1"

    def asked(self) -> bytes:
        """The body of the request."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def answer(self, body: Any, content_type: str = "application/json") -> None:
        """Send bytes, or what JSON has."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextlib.contextmanager
def serve(kind: type[Server]) -> Iterator[int]:
    """Run a server in a thread; gives its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


class Snowflake(Server):
    """The login, queries in Arrow or JSON, and the second part of an answer at an address of its own."""

    sql = ""
    columns: ClassVar[list[dict[str, Any]]] = [
        {
            "name": name,
            "type": kind,
            "scale": scale,
            "precision": 38,
            "nullable": True,
            "length": 9,
            "byteLength": 36,
        }
        for name, kind, scale in (("n", "fixed", 0), ("t", "text", 0), ("at", "timestamp_ntz", 9))
    ]

    def do_GET(self) -> None:
        late = dt.datetime(9999, 12, 31, tzinfo=dt.UTC)
        rows = [(300, "b", late)] if Snowflake.sql == FAR else SECOND
        self.answer(stream_of(snowflake_table(rows, pa.int16())), "application/octet-stream")

    def do_POST(self) -> None:
        body = self.asked()
        data: dict[str, Any] = {}
        if "/session/v1/login-request" in self.path:
            parameters = {"TIMEZONE": "UTC", "CLIENT_TELEMETRY_ENABLED": False}
            data = {
                "token": "session",
                "masterToken": "master",
                "sessionId": 1,
                "sessionInfo": {},
                "parameters": [{"name": name, "value": value} for name, value in parameters.items()],
            }
        elif "/queries/v1/query-request" in self.path:
            data = self.query(json.loads(body)["sqlText"])
        self.answer({"success": True, "code": None, "message": None, "data": data})

    def query(self, sql: str) -> dict[str, Any]:
        """The answer to a query."""
        Snowflake.sql = sql
        known = {
            "queryId": str(uuid.uuid4()),
            "rowtype": self.columns,
            "parameters": [],
            "statementTypeId": 4096,
        }
        if sql == SHOW:
            rows = [[str(n), t, at and f"{at.timestamp():.9f}"] for n, t, at in ROWS]
            return {**known, "queryResultFormat": "json", "rowset": rows, "total": 3, "returned": 3}
        known["queryResultFormat"] = "arrow"
        if sql == NOTHING:
            return {**known, "rowsetBase64": "", "total": 0, "returned": 0}
        first = stream_of(snowflake_table(FIRST, pa.int8()))
        address = f"http://127.0.0.1:{self.connection.getsockname()[1]}/second"
        second = {"url": address, "rowCount": 1, "uncompressedSize": 1000, "compressedSize": 1000}
        return {
            **known,
            "rowsetBase64": base64.b64encode(first).decode(),
            "rowsetFirstChunkRowCount": 2,
            "chunks": [second],
            "chunkHeaders": {},
            "total": 3,
            "returned": 3,
        }


def snowflake_table(rows: list[tuple[Any, ...]], integer: Any) -> Any:
    """Rows as Snowflake sends them: integers as wide as a part needs, times as seconds and nanoseconds."""
    times = [at and {"epoch": int(at.timestamp()), "fraction": 0} for _, _, at in rows]
    time = pa.struct([("epoch", pa.int64()), ("fraction", pa.int32())])
    kinds = {"n": ("FIXED", integer, 0), "t": ("TEXT", pa.string(), 0), "at": ("TIMESTAMP_NTZ", time, 9)}
    fields = [
        pa.field(name, kind, metadata={"logicalType": logical, "scale": str(scale), "precision": "38"})
        for name, (logical, kind, scale) in kinds.items()
    ]
    numbers, texts = [row[0] for row in rows], [row[1] for row in rows]
    arrays = [
        pa.array(values, kind)
        for values, (_, kind, _) in zip((numbers, texts, times), kinds.values(), strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def stream_of(table: Any) -> bytes:
    """A table in Arrow's format of streams."""
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


class Operations:
    """What Databricks does, by the interface that its driver has for it."""

    done = ttypes.TStatus(ttypes.TStatusCode.SUCCESS_STATUS)
    schema = pa.schema({"n": pa.int64(), "t": pa.string(), "at": pa.timestamp("us", "UTC")})
    kinds: ClassVar[dict[str, int]] = {
        "n": ttypes.TTypeId.BIGINT_TYPE,
        "t": ttypes.TTypeId.STRING_TYPE,
        "at": ttypes.TTypeId.TIMESTAMP_TYPE,
    }

    def __init__(self) -> None:
        self.parts: dict[bytes, list[list[tuple[Any, ...]]]] = {}

    def OpenSession(self, asked: Any) -> Any:
        del asked
        protocol = ttypes.TProtocolVersion.SPARK_CLI_SERVICE_PROTOCOL_V7
        session = ttypes.TSessionHandle(handle(), serverProtocolVersion=protocol)
        return ttypes.TOpenSessionResp(self.done, protocol, session, canUseMultipleCatalogs=True)

    def CloseSession(self, asked: Any) -> Any:
        del asked
        return ttypes.TCloseSessionResp(self.done)

    def CloseOperation(self, asked: Any) -> Any:
        del asked
        return ttypes.TCloseOperationResp(self.done)

    def ExecuteStatement(self, asked: Any) -> Any:
        operation = ttypes.TOperationHandle(
            handle(), ttypes.TOperationType.EXECUTE_STATEMENT, hasResultSet=True
        )
        columnar = asked.statement == SHOW
        self.parts[operation.operationId.guid] = [] if asked.statement == NOTHING else [FIRST, SECOND]
        status = ttypes.TGetOperationStatusResp(
            self.done, operationState=ttypes.TOperationState.FINISHED_STATE
        )
        results = ttypes.TSparkDirectResults(
            status, self.metadata(columnar=columnar), self.rows(operation, columnar)
        )
        return ttypes.TExecuteStatementResp(self.done, operation, directResults=results)

    def FetchResults(self, asked: Any) -> Any:
        return self.rows(asked.operationHandle, columnar=False)

    def metadata(self, *, columnar: bool) -> Any:
        """What is told of the columns."""
        kinds = ttypes.TSparkRowSetType
        columns = [
            ttypes.TColumnDesc(
                name,
                ttypes.TTypeDesc([ttypes.TTypeEntry(primitiveEntry=ttypes.TPrimitiveTypeEntry(kind))]),
                place,
            )
            for place, (name, kind) in enumerate(self.kinds.items(), 1)
        ]
        return ttypes.TGetResultSetMetadataResp(
            self.done,
            schema=ttypes.TTableSchema(columns),
            resultFormat=kinds.COLUMN_BASED_SET if columnar else kinds.ARROW_BASED_SET,
            lz4Compressed=False,
            arrowSchema=None if columnar else self.schema.serialize().to_pybytes(),
        )

    def rows(self, operation: Any, columnar: bool) -> Any:  # noqa: FBT001
        """The next part: as Arrow, or whole by columns."""
        left = self.parts[operation.operationId.guid]
        if columnar:
            values = ttypes.TRowSet(0, [], columns=columns_of(ROWS))
            return ttypes.TFetchResultsResp(self.done, hasMoreRows=False, results=values)
        batches = []
        if left:
            arrays = [
                pa.array(column, kind)
                for column, kind in zip(zip(*left.pop(0), strict=True), self.schema.types, strict=True)
            ]
            batch = pa.RecordBatch.from_arrays(arrays, schema=self.schema)
            batches = [ttypes.TSparkArrowBatch(batch.serialize().to_pybytes(), batch.num_rows)]
        return ttypes.TFetchResultsResp(
            self.done,
            hasMoreRows=bool(left),
            results=ttypes.TRowSet(0, [], arrowBatches=batches),
            resultSetMetadata=self.metadata(columnar=False),
        )


def handle() -> Any:
    """The name of a session or of an operation."""
    return ttypes.THandleIdentifier(uuid.uuid4().bytes, uuid.uuid4().bytes)


def columns_of(rows: list[tuple[Any, ...]]) -> list[Any]:
    """Rows by columns, with a bit for each null."""
    numbers, texts, times = zip(*rows, strict=True)
    shown = [at and f"{at:%Y-%m-%d %H:%M:%S}" for at in times]
    return [
        ttypes.TColumn(i64Val=ttypes.TI64Column(list(numbers), b"\0")),
        ttypes.TColumn(stringVal=ttypes.TStringColumn([text or "" for text in texts], nulls(texts))),
        ttypes.TColumn(stringVal=ttypes.TStringColumn([time or "" for time in shown], nulls(times))),
    ]


def nulls(values: Any) -> bytes:
    """The bits of up to eight values, which are set where one is null."""
    return bytes([sum(1 << place for place, value in enumerate(values) if value is None)])


class Databricks(Server):
    """Thrift by HTTP."""

    processor = TCLIService.Processor(Operations())

    def do_POST(self) -> None:
        out = TMemoryBuffer()
        self.processor.process(TBinaryProtocol(TMemoryBuffer(self.asked())), TBinaryProtocol(out))
        self.answer(out.getvalue(), "application/x-thrift")


class BigQuery(Server):
    """Jobs and the pages of their results. A query with the id of a job, or without one, is done at once."""

    sql: ClassVar[dict[str, str]] = {}
    schema: ClassVar[dict[str, Any]] = {
        "fields": [
            {"name": name, "type": kind, "mode": "NULLABLE"}
            for name, kind in {"n": "INTEGER", "t": "STRING", "at": "TIMESTAMP"}.items()
        ]
    }

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        options = {name: values[0] for name, values in parse_qs(address.query).items()}
        *_, kind, job = address.path.split("/")
        if kind == "jobs":
            self.answer(self.job(job))
        else:
            self.answer(
                self.results(job, int(options.get("pageToken", 0)), whole=options.get("maxResults") != "0")
            )

    def do_POST(self) -> None:
        asked = json.loads(self.asked())
        if urlsplit(self.path).path.endswith("/queries"):
            job = str(uuid.uuid4())
            self.sql[job] = asked["query"]
            self.answer(self.results(job, 0))
        else:
            job = asked["jobReference"]["jobId"]
            self.sql[job] = asked["configuration"]["query"]["query"]
            self.answer(self.job(job))

    def reference(self, job: str) -> dict[str, Any]:
        return {"projectId": "project", "jobId": job, "location": "US"}

    def job(self, job: str) -> dict[str, Any]:
        """A job that is done."""
        table = {"projectId": "project", "datasetId": "dataset", "tableId": "table"}
        return {
            "jobReference": self.reference(job),
            "status": {"state": "DONE"},
            "configuration": {
                "jobType": "QUERY",
                "query": {"query": self.sql[job], "destinationTable": table},
            },
            "statistics": {"query": {"statementType": "SELECT"}},
        }

    def results(self, job: str, page: int, *, whole: bool = True) -> dict[str, Any]:
        """A page of a job's rows; numbers and times are texts."""
        pages = [] if self.sql[job] == NOTHING else [FIRST, SECOND]
        found: dict[str, Any] = {
            "jobComplete": True,
            "jobReference": self.reference(job),
            "schema": self.schema,
            "totalRows": str(sum(map(len, pages))),
        }
        if whole and page < len(pages):
            rows = [(str(n), t, at and str(int(at.timestamp() * 1_000_000))) for n, t, at in pages[page]]
            found["rows"] = [{"f": [{"v": value} for value in row]} for row in rows]
            if page + 1 < len(pages):
                found["pageToken"] = str(page + 1)
        return found


def read(hook: Any, sql: str) -> tuple[str, str, str]:
    """How a query was read, as SqlToQCacheOperator does it; the CSV, and the types' header."""
    with Spool() as spool:
        tables = QueryTables(spool, "key", (), None)
        how = SqlSource(hook, sql, None).read(tables)
        spool.flush()
        ((_, upload),) = tables.uploads()
        body, _ = upload.body()
        text = (body if isinstance(body, bytes) else b"".join(body)).decode()
        return how, text, column_headers(typed(tables.columns)).get("X-QCache-types", "")


def try_snowflake() -> str:
    """Its driver, whose connection the hook of Airflow's provider gives as it is."""
    with serve(Snowflake) as port:
        hook = Hook(
            lambda: snowflake.connector.connect(
                account="account",
                user="user",
                password="password",
                host="127.0.0.1",
                port=port,
                protocol="http",
            )
        )
        at = "2024-05-06 12:00:00"
        types = "t=string;at=string"
        expect("Snowflake", read(hook, EVERYTHING), (ARROW, TEXT.format(at=at), types))
        expect("Snowflake's JSON", read(hook, SHOW), (CURSOR, TEXT.format(at=at), types))
        expect("Snowflake without rows", read(hook, NOTHING)[:2], (CURSOR, "n,t,at\n"))
        far = 'n,t,at\n1,"00501","2024-05-06 12:00:00"\n2,,\n300,"b","9999-12-31 00:00:00"\n'
        expect("Snowflake's years beyond 2262", read(hook, FAR)[:2], (ARROW, far))
    return "fetch_arrow_batches; JSON and an empty answer by rows"


def try_databricks() -> str:
    """Its driver, by the hook of Airflow's provider."""
    with serve(Databricks) as port:
        os.environ["AIRFLOW_CONN_DATABRICKS"] = json.dumps(
            {"conn_type": "databricks", "host": "127.0.0.1", "password": "token"}
        )

        def hook() -> DatabricksSqlHook:
            return DatabricksSqlHook(
                "databricks",
                http_path="/sql",
                _connection_uri=f"http://127.0.0.1:{port}/sql",
                enable_telemetry=False,
                use_cloud_fetch=False,
            )

        text, types = TEXT.format(at="2024-05-06 12:00:00+00:00"), "t=string;at=string"
        expect("Databricks", read(hook(), EVERYTHING), (ARROW, text, types))
        expect("Databricks without rows", read(hook(), NOTHING), (ARROW, "n,t,at\n", types))
        expect("Databricks by columns", read(hook(), SHOW), (CURSOR, text.replace("+00:00", ""), types))
    return "fetchmany_arrow; an answer by columns by rows"


def try_bigquery() -> str:
    """Google's DB-API, and the hook of Airflow's provider, which has a cursor of its own."""
    with serve(BigQuery) as port:
        os.environ["AIRFLOW_CONN_BIGQUERY"] = json.dumps(
            {"conn_type": "gcpbigquery", "extra": {"is_anonymous": True, "project": "project"}}
        )

        class OnLoopback(BigQueryHook):
            def get_client_options(self, *_: object) -> ClientOptions:
                return ClientOptions(api_endpoint=f"http://127.0.0.1:{port}")

        hook = OnLoopback(gcp_conn_id="bigquery", use_legacy_sql=False, location="US")
        client = hook.get_client("project", "US")
        at = "2024-05-06 12:00:00+00:00"
        types = "t=string;at=string"
        for name, each in (
            ("BigQuery's hook", hook),
            ("BigQuery's DB-API", Hook(lambda: dbapi.Connection(client, prefer_bqstorage_client=False))),
        ):
            expect(name, read(each, EVERYTHING), (ARROW, TEXT.format(at=at), types))
            expect(f"{name} without rows", read(each, NOTHING), (ARROW, "n,t,at\n", types))
    return "to_arrow_iterable, by Google's DB-API and by the hook of Airflow's provider"


def main() -> None:
    """Try each, one line for each."""
    logging.disable(logging.WARNING)
    for driver, attempt in zip(DRIVERS, (try_snowflake, try_databricks, try_bigquery), strict=True):
        print(f"{driver} {version(driver)}: {attempt()}", flush=True)


if __name__ == "__main__":
    main()
