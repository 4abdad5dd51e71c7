"""Metrics by Airflow's own Stats to a StatsD socket, and spans by OpenTelemetry's SDK."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys

import pytest

from airflow_provider_qcache.client import InvalidTable, MalformedQueryException
from airflow_provider_qcache.hooks.metrics import node_tag
from airflow_provider_qcache.hooks.qcache import QCacheHook
from tests.harness.nodes import Nodes

PROGRAM = """
import json, sys
try:
    from airflow.sdk._shared.observability.metrics import stats
    from airflow.sdk.observability.metrics import stats_utils
    stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=False)
except ImportError:
    pass  # Airflow 2 starts its own
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)

from airflow_provider_qcache.hooks.qcache import QCacheHook
from airflow_provider_qcache.operators.qcache import QCachePostOperator, QCacheStatisticsOperator

QCachePostOperator(task_id="post", key="metrics", content="n,zip\\n1,00501\\n2,00502\\n").execute({})
with QCacheHook() as hook:
    hook.get("metrics", {})
    hook.get("metrics_never", {})
    hook.post_many({"metrics_a": "n\\n1\\n", "metrics_b": "n\\n1\\n"})
    hook.delete("metrics_a")
statistics = QCacheStatisticsOperator(task_id="statistics").execute({})
print(json.dumps({
    "statistics": statistics,
    "spans": [[span.name, dict(span.attributes)] for span in spans.get_finished_spans()],
}))
"""


@pytest.fixture
def metrics_and_spans(nodes: Nodes, tmp_path):
    """What arrived at a StatsD socket, and what the program printed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(0.5)
        environment = {
            **os.environ,
            "AIRFLOW_HOME": str(tmp_path),
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(statsd.getsockname()[1]),
            "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",
        }
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PROGRAM],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        arrived = []
        try:
            while True:
                arrived.append(statsd.recv(65535).decode())
        except TimeoutError:
            pass
    return arrived, json.loads(done.stdout.splitlines()[-1])


def test_arrive_with_their_tags(metrics_and_spans, nodes):
    arrived, printed = metrics_and_spans
    lines = [line for line in arrived if line.startswith("airflow.qcache.")]
    counts: dict[str, float] = {}
    for line in lines:
        name, _, rest = line.partition(":")
        name, *tags = name.split(",")
        tags = dict(tag.split("=") for tag in tags)
        assert tags.get("conn_id") == "qcache_default"
        assert "node" not in tags or re.fullmatch(r"127\.0\.0\.1_\d+", tags["node"])
        if rest.endswith("|c"):
            key = f"{name}/{tags['operator']}"
            counts[key] = counts.get(key, 0) + float(rest.partition("|")[0])
    assert counts == {
        "airflow.qcache.store.bytes/QCachePostOperator": 22,
        "airflow.qcache.store.rows/QCachePostOperator": 2,
        "airflow.qcache.query.bytes/QCacheHook": len('[{"n":1,"zip":501},{"n":2,"zip":502}]'),
        "airflow.qcache.query.misses/QCacheHook": 1,
        "airflow.qcache.store.bytes/QCacheHook": 8,
        "airflow.qcache.store.rows/QCacheHook": 2,
    }
    durations = {line.partition(",")[0] for line in lines if line.endswith("|ms")}
    assert durations == {f"airflow.qcache.{one}.duration" for one in ("store", "query", "delete")}
    gauges = [line for line in lines if line.startswith("airflow.qcache.node.dataset_count,")]
    assert len(gauges) == 3
    assert set(printed["statistics"]) == set(nodes.urls)
    assert sum(one.get("store_count", 0) for one in printed["statistics"].values()) >= 3


def test_spans_name_the_table_and_the_node(metrics_and_spans, nodes):
    _, printed = metrics_and_spans
    spans = printed["spans"]
    operations = ("post", "get", "get", "post_many", "delete")
    assert [name for name, _ in spans] == [f"qcache.{one}" for one in operations]
    first = spans[0][1]
    assert (first["qcache.key"], first["qcache.rows"], first["qcache.bytes"]) == ("metrics", 2, 22)
    assert first["qcache.node"] in nodes.urls


@pytest.fixture
def counted(monkeypatch):
    """What is counted, in place of Airflow's Stats: names with tags."""
    counted = []

    class Recorded:
        @staticmethod
        def incr(name, count, *, tags):
            assert count > 0
            counted.append((name, tags))

    from airflow_provider_qcache import compat

    monkeypatch.setattr(compat, "Stats", Recorded, raising=False)
    return counted


def test_a_node_that_fails_and_comes_back_is_counted_and_so_is_the_failover(nodes, counted):
    with QCacheHook() as hook:
        home, second = hook.successors("metrics")[:2]
        nodes.kill(nodes.urls.index(home))
        hook.post("metrics", "n\n1\n")
        hook.get("metrics", {})
        nodes.all_up()
        hook.node_status(probe=True)
    assert [(name, tags["node"]) for name, tags in counted] == [
        ("qcache.node.failed", node_tag(home)),
        ("qcache.store.bytes", node_tag(second)),
        ("qcache.store.rows", node_tag(second)),
        ("qcache.failovers", node_tag(second)),
        ("qcache.query.bytes", node_tag(second)),
        ("qcache.failovers", node_tag(second)),
        ("qcache.node.recovered", node_tag(home)),
    ]


def test_an_operation_that_fails_is_counted_by_its_error(nodes, counted):
    with QCacheHook() as hook:
        with pytest.raises(InvalidTable):
            hook.post("metrics", "n\n1,2\n")
        hook.post("metrics", "n\n1\n")
        assert [tags["error"] for name, tags in counted if name == "qcache.failures"] == ["InvalidTable"]
        counted.clear()
        with pytest.raises(MalformedQueryException):
            hook.get("metrics", {"no": "clause"})
    assert counted == [
        (
            "qcache.failures",
            {
                "conn_id": "qcache_default",
                "operator": "QCacheHook",
                "operation": "get",
                "error": "MalformedQueryException",
            },
        )
    ]
