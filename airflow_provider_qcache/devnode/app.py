"""The HTTP side of a node: routes, order of checks, negotiation, TLS and basic auth.

Like QCache it uses tornado: one thread handles one request at a time, with the same limits on heads and
bodies, and the same keep-alive and pipelining.
"""

import asyncio
import base64
import binascii
import json
import re
import ssl
import time
from collections.abc import Callable
from html import escape
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, OutputTransform, RequestHandler

from airflow_provider_qcache.devnode import codec
from airflow_provider_qcache.devnode.control import Control
from airflow_provider_qcache.devnode.errors import RequestError
from airflow_provider_qcache.devnode.headers import add_stand_ins, column_types, pairs
from airflow_provider_qcache.devnode.options import NodeOptions
from airflow_provider_qcache.devnode.query import query
from airflow_provider_qcache.devnode.store import Statistics, Store

_TYPES = f"{codec.JSON}, {codec.CSV}"
_CHARSET = re.compile(r"charset=([A-Za-z0-9_-]+)")


class _Compression(OutputTransform):
    """Compresses every answer with status 200, in one piece, according to the request's Accept-Encoding."""

    def __init__(self, request: HTTPServerRequest) -> None:
        super().__init__(request)
        self._encoding = codec.negotiate(request.headers.get("Accept-Encoding", ""))

    def transform_first_chunk(
        self,
        status_code: int,
        headers: HTTPHeaders,
        chunk: bytes,
        finishing: bool,  # noqa: ARG002, FBT001
    ) -> tuple[int, HTTPHeaders, bytes]:
        if status_code == 200 and self._encoding:
            chunk = codec.compress(chunk, self._encoding)
            headers["Content-Encoding"] = self._encoding
            headers["Content-Length"] = str(len(chunk))
        return status_code, headers, chunk


class _Handler(RequestHandler):
    """Checks basic auth first, and answers errors with small HTML pages, like QCache."""

    def initialize(self, basic_auth: str | None, control: Control | None) -> None:
        self._basic_auth = basic_auth
        self._control = control

    def prepare(self) -> None:
        if self._control is not None:
            self._control.hold()
            if self._control.refuses_auth:
                self._refuse()
                return
        if self._basic_auth is None:
            return
        header = self.request.headers.get("Authorization", "")
        if header.startswith("Basic "):
            try:
                user, password = base64.b64decode(header[6:]).decode("utf-8", "surrogateescape").split(":")
            except (binascii.Error, ValueError):
                # QCache closes the connection without an answer on a header that it cannot parse.
                self.detach().close()
                self._finished = True
                return
            if f"{user}:{password}" == self._basic_auth:
                return
        self._refuse()

    def _refuse(self) -> None:
        self.set_status(401)
        self.set_header("WWW-Authenticate", "Basic realm=Restricted")
        self.finish()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        message = kwargs.get("message")
        if message is None:
            error = kwargs["exc_info"][1]
            message = (
                error.get_message() if isinstance(error, HTTPError) else f"{type(error).__name__}: {error}"
            )
        page = escape(f"{status_code}: {message}")
        self.finish(f"<html><title>{page}</title><body>{page}</body></html>")


class _StatusHandler(_Handler):
    def get(self) -> None:
        self.write("OK")


class _StatisticsHandler(_Handler):
    def initialize(  # type: ignore[override]
        self, basic_auth: str | None, control: Control | None, store: Store, statistics: Statistics
    ) -> None:
        super().initialize(basic_auth, control)
        self._store = store
        self._statistics = statistics

    def get(self) -> None:
        self.set_header("Content-Type", "application/json; charset=utf-8")
        answer = {
            **self._statistics.read(),
            "dataset_count": len(self._store),
            "cache_size": self._store.size,
        }
        self.write(json.dumps(answer))


class _DatasetHandler(_Handler):
    def initialize(  # type: ignore[override]
        self, basic_auth: str | None, control: Control | None, store: Store, statistics: Statistics
    ) -> None:
        super().initialize(basic_auth, control)
        self._store = store
        self._statistics = statistics
        self._operation: str | None = None
        self._started = time.time()

    def on_finish(self) -> None:
        if self._operation:
            self._statistics.extend(f"{self._operation}_request_durations", [time.time() - self._started])

    def get(self, key: str, suffix: str | None) -> None:
        if suffix:
            raise HTTPError(404, "A query by GET has no /q: its query is the parameter q")
        self._answer(key, lambda: self.get_argument("q", default=""))

    def post(self, key: str, suffix: str | None) -> None:
        if suffix:
            self._answer(key, lambda: self._body().decode("utf-8"))
            return
        try:
            self._store_table(key)
        except RequestError as error:
            self.send_error(error.status, message=error.message)

    def delete(self, key: str, suffix: str | None) -> None:
        if suffix:
            raise HTTPError(404, "A key is deleted without /q")
        if key in self._store:
            self._store.delete(key)

    def _answer(self, key: str, read: Callable[[], str]) -> None:
        try:
            try:
                q = json.loads(read())
            except ValueError as error:
                raise RequestError(400, f"The query is not JSON: {error}") from error
            if q is not None:
                self._query(key, q)
        except RequestError as error:
            if error.status != 400:
                self.send_error(error.status, message=error.message)
                return
            self.set_status(400)
            self.write(json.dumps({"error": error.message}))

    def _query(self, key: str, q: object) -> None:
        started = time.time()
        self._operation = "query"
        accept = self._accept()
        if key not in self._store:
            self._statistics.count("miss_count")
            raise RequestError(404, "No table under this key")
        if self._store.expire(key):
            self._statistics.count("miss_count")
            self._statistics.count("age_evict_count")
            raise RequestError(404, "The table under this key is older than the node's --age")
        table = add_stand_ins(self._store.get(key), self._pairs("X-QCache-stand-in-columns"))
        result, unsliced_length = query(table, q)
        body = codec.to_csv(result) if accept == codec.CSV else codec.to_json(result)
        self.set_header("Content-Type", f"{accept}; charset=utf-8")
        self.set_header("X-QCache-unsliced-length", str(unsliced_length))
        self.write(body)
        self._statistics.count("hit_count")
        self._statistics.extend("query_durations", [time.time() - started])

    def _store_table(self, key: str) -> None:
        started = time.time()
        self._operation = "store"
        if key in self._store:
            self._statistics.count("replace_count")
            self._store.delete(key)
        content_type = self._content_type()
        body = self._body()
        if content_type == codec.CSV:
            held = self._store.make_room(len(body))
            table = codec.parse_csv(body, column_types(self._pairs("X-QCache-types")))
        else:
            held = self._store.make_room(len(body) // 2)
            table = codec.parse_json(body)
        self._store.put(key, add_stand_ins(table, self._pairs("X-QCache-stand-in-columns")))
        self.set_status(201)
        self._statistics.count("size_evict_count", len(held))
        self._statistics.count("store_count")
        self._statistics.extend("store_row_counts", [len(table)])
        self._statistics.extend("store_durations", [time.time() - started])
        self._statistics.extend("durations_until_eviction", held)

    def _pairs(self, header: str) -> list[list[str]]:
        return pairs(self.request.headers.get(header))

    def _accept(self) -> str:
        accept = self.request.headers.get("Accept", codec.JSON)
        for name in accept.split(","):
            if name.strip() in {codec.JSON, codec.CSV}:
                return name.strip()
        raise RequestError(406, f"Accept {accept!r} is not supported; allowed: {_TYPES}")

    def _content_type(self) -> str:
        header = self.request.headers.get("Content-Type", codec.CSV)
        content_type, *parameters = header.split(";")
        charset = _CHARSET.match(parameters[0].strip()) if parameters else None
        if content_type not in {codec.JSON, codec.CSV} or (charset and charset[1] != "utf-8"):
            raise RequestError(
                415,
                f"Content-Type {header!r} is not supported; allowed: {_TYPES}, with charset=utf-8 or none",
            )
        return content_type

    def _body(self) -> bytes:
        return codec.decompress(self.request.body, self.request.headers.get("Content-Encoding"))


def make_app(options: NodeOptions, store: Store, control: Control | None = None) -> Application:
    """The node as a tornado application, without a socket."""
    statistics = Statistics(options.statistics_buffer_size)
    common = {"basic_auth": options.basic_auth, "control": control}
    shared = {**common, "store": store, "statistics": statistics}
    return Application(
        [
            (r"/qcache/dataset/([A-Za-z0-9\-_]+)/?(q)?", _DatasetHandler, shared),
            (r"/qcache/status", _StatusHandler, common),
            (r"/qcache/statistics", _StatisticsHandler, shared),
        ],
        transforms=[_Compression],
        log_function=lambda _handler: None,
    )


def _tls(options: NodeOptions) -> ssl.SSLContext | None:
    if options.cert_file is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=options.ca_file)
    context.load_cert_chain(options.cert_file)
    if options.ca_file is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def serve(options: NodeOptions, on_ready: Callable[[int], None], control: Control | None = None) -> None:
    """Serve a node in this process until a signal's handler raises SystemExit.

    Args:
        options: port 0 takes any free port.
        on_ready: called with the port once the node answers.
        control: changes the node while it runs.

    Raises:
        OSError: the port is in use, or a certificate cannot be read.
    """
    asyncio.run(_serve(options, on_ready, control))


async def _serve(options: NodeOptions, on_ready: Callable[[int], None], control: Control | None) -> None:
    store = Store(options.size, options.age)
    app = make_app(options, store, control)
    server = HTTPServer(app, ssl_options=_tls(options), max_buffer_size=options.size)
    sockets = bind_sockets(options.port, options.host)
    server.add_sockets(sockets)
    if control is not None:

        def apply(values: dict[str, Any]) -> None:
            store.max_age = values.get("age", store.max_age)
            store.max_size = server.max_buffer_size = values.get("size", store.max_size)
            if values.get("clear"):
                store.clear()

        control.listen(apply)
    on_ready(sockets[0].getsockname()[1])
    # Python handles a signal that comes just before the event loop waits only after that.
    while True:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
