"""Receives Airflow's metrics and spans in tests: a StatsD socket and a receiver of OpenTelemetry spans."""

from __future__ import annotations

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable

_TIMEOUT = 60.0
_TICK = 0.2


class Span(NamedTuple):
    """A span that arrived over OTLP."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    failed: bool


class Telemetry:
    """A StatsD socket and an OTLP receiver (HTTP, protobuf) on loopback: `with Telemetry() as telemetry`."""

    def __init__(self) -> None:
        self.metrics: list[str] = []
        """Lines of this package's metrics; Airflow's own are dropped."""
        self.spans: list[Span] = []
        self._statsd = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._statsd.bind(("127.0.0.1", 0))
        spans = self.spans

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v1/traces":
                    spans.extend(_spans_of(body))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._otlp = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        self._threads = [
            threading.Thread(target=work, daemon=True)
            for work in (self._otlp.serve_forever, self._receive_metrics)
        ]

    @property
    def environment(self) -> dict[str, str]:
        """Settings that make an Airflow send its metrics and spans here."""
        return {
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(self._statsd.getsockname()[1]),
            "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",
            "AIRFLOW__TRACES__OTEL_ON": "True",
            "OTEL_TRACES_EXPORTER": "otlp_proto_http",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._otlp.server_port}",
        }

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._otlp.shutdown()
        self._otlp.server_close()
        self._statsd.sendto(b"", self._statsd.getsockname())  # ends the thread that receives
        for thread in self._threads:
            thread.join()
        self._statsd.close()

    def _receive_metrics(self) -> None:
        while packet := self._statsd.recv(65535):
            self.metrics += [
                line for line in packet.decode().splitlines() if line.startswith("airflow.qcache.")
            ]

    def wait_until(self, what: str, arrived: Callable[[Self], bool]) -> None:
        """Wait until `arrived(self)` is true. Raises AssertionError after a minute."""
        deadline = time.monotonic() + _TIMEOUT
        while not arrived(self):
            assert time.monotonic() < deadline, (
                f"{what}: not within {_TIMEOUT:g} s; {self.metrics} {self.spans}"
            )
            time.sleep(_TICK)


def _spans_of(body: bytes) -> list[Span]:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.trace.v1.trace_pb2 import Status

    return [
        Span(
            span.name,
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes},
            span.status.code == Status.STATUS_CODE_ERROR,
        )
        for of_process in ExportTraceServiceRequest.FromString(body).resource_spans
        for of_library in of_process.scope_spans
        for span in of_library.spans
    ]
