"""doctor: each misconfiguration that is set up here is found, with what to do; a good connection has none."""

from __future__ import annotations

import contextlib
import datetime as dt
import email.utils
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from airflow_provider_qcache.testing import Cluster
from tests.cli.conftest import Run
from tests.harness.faults import FaultyNode, HungUp, Peer, Received
from tests.harness.nodes import Nodes
from tests.harness.ports import closed_port
from tests.harness.servers import Certificates, Server

Findings = Callable[..., list[dict[str, str]]]


@pytest.fixture
def found(run: Run) -> Findings:
    """What doctor finds; its exit code says whether it found anything.

    On a busy machine a TLS handshake takes longer than the default connect_timeout, 1 s.
    """

    def examine(nodes: list[str], *options: str) -> list[dict[str, str]]:
        patient = [] if "connect_timeout" in str(options) else ["--set", "connect_timeout=60"]
        done = run("doctor", "--nodes", *nodes, *patient, *options, "--output", "json")
        findings: list[dict[str, str]] = done.json
        assert done.code == bool(findings)
        assert all(finding["advice"] for finding in findings)
        return findings

    return examine


def only(findings: list[dict[str, str]], text: str) -> dict[str, str]:
    """The one finding that says so."""
    (finding,) = [finding for finding in findings if text in finding["what"]]
    return finding


@pytest.fixture
def answering() -> Iterator[Callable[..., str]]:
    """Start a node whose status answers have these headers; gives its URL."""
    with contextlib.ExitStack() as stack:

        def start(status: str = "200 OK", body: str = "OK", **headers: str) -> str:
            all_headers = {"Server": "TornadoServer/5.1.1", "Content-Length": str(len(body)), **headers}
            lines = [
                f"HTTP/1.1 {status}",
                *(f"{name.replace('_', '-')}: {value}" for name, value in all_headers.items()),
            ]
            answer = "\r\n".join([*lines, "", body]).encode()

            def reply(peer: Peer, request: Received) -> None:
                peer.send(answer)
                raise HungUp

            return stack.enter_context(FaultyNode(reply, status=reply)).url

        yield start


def test_a_good_connection_has_no_findings(found: Findings, nodes: Nodes, run: Run) -> None:
    assert found(nodes.urls) == []
    assert found(nodes.urls, "--statistics", "--table-bytes", "50000000") == []
    assert run("doctor", "--nodes", *nodes.urls).out == "Nothing is wrong.\n"


@pytest.mark.parametrize("size", ["-5", "0", "2MB"])
def test_an_invalid_size_of_tables_is_wrong_use(run: Run, size: str) -> None:
    done = run("doctor", "--nodes", "http://host1:9401", f"--table-bytes={size}")
    assert done.code == 2
    assert f"'{size}': expected a number of bytes, 1 or more" in done.err


def test_as_text_each_finding_has_what_to_do(run: Run, nodes: Nodes) -> None:
    done = run("doctor", "--nodes", *nodes.urls, "--set", "deadline=5")
    assert done.code == 1
    first, second = done.out.splitlines()
    assert first.startswith("warning: timeouts: deadline (5 s)")
    assert second.startswith("    Increase deadline")


# Misconfigurations, a test each.


def test_two_spellings_of_one_node(found: Findings, nodes: Nodes) -> None:
    finding = only(found([nodes.urls[0], nodes.urls[0] + "/"]), "one node twice")
    assert finding["level"] == "error"


def test_two_names_of_one_node(found: Findings, nodes: Nodes) -> None:
    other = nodes.urls[0].replace("127.0.0.1", "localhost")
    finding = only(found([nodes.urls[0], other]), "under another name")
    assert (finding["level"], finding["subject"]) == ("error", other)


def test_a_node_that_is_spelled_unlike_the_others(found: Findings, nodes: Nodes) -> None:
    urls = [*nodes.urls[:2], nodes.urls[2] + "/"]
    assert only(found(urls), "ends in a slash")["subject"] == urls[2]


def test_a_node_without_the_slash_of_the_others(found: Findings, nodes: Nodes) -> None:
    urls = [nodes.urls[0], *(f"{url}/" for url in nodes.urls[1:])]
    assert only(found(urls), "it differs from each other node, which ends in a slash")["subject"] == urls[0]


def test_a_wrong_port(found: Findings, nodes: Nodes) -> None:
    wrong = f"http://127.0.0.1:{closed_port()}"
    finding = only(found([*nodes.urls, wrong]), "connection refused")
    assert (finding["level"], finding["subject"]) == ("error", wrong)


def test_https_for_a_node_that_speaks_http(found: Findings, nodes: Nodes) -> None:
    https = nodes.urls[0].replace("http:", "https:")
    finding = only(found([https], "--set", "connect_timeout=2"), "http")
    assert "scheme" in finding["advice"]


@pytest.fixture(scope="module")
def encrypted(certificates: Certificates) -> Iterator[Server]:
    with Server.dev(f"--cert-file={certificates.server}", tls=certificates.context()) as server:
        yield server


def test_http_for_a_node_that_speaks_https(found: Findings, encrypted: Server) -> None:
    finding = only(found([encrypted.url.replace("https:", "http:")]), "https")
    assert "scheme" in finding["advice"]


def test_an_unknown_certificate_authority(found: Findings, encrypted: Server) -> None:
    finding = only(found([encrypted.url]), "certificate")
    assert finding["level"] == "error"
    assert "ca_file" in finding["advice"]


def test_certificates_that_are_not_checked(
    found: Findings, encrypted: Server, certificates: Certificates
) -> None:
    assert found([encrypted.url], "--set", f"ca_file={certificates.ca}") == []
    assert "not checked" in only(found([encrypted.url], "--set", "verify=false"), "false")["what"]


def test_a_certificate_that_ends_soon(found: Findings, tmp_path: Path) -> None:
    ca = trustme.CA()
    ends = dt.datetime.now(dt.UTC) + dt.timedelta(days=5, hours=1)
    ca.issue_cert("127.0.0.1", not_after=ends).private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "node.pem")
    )
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with Cluster(1, cert_file=tmp_path / "node.pem") as cluster:
        finding = only(
            found(cluster.node_list, "--set", f"ca_file={tmp_path / 'ca.pem'}"), "certificate ends on"
        )
    assert "in 5 days" in finding["what"]


def test_a_proxy_in_the_way(found: Findings, nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    port = closed_port()
    monkeypatch.setenv("http_proxy", f"http://user:s3cret@127.0.0.1:{port}")
    finding = only(found(nodes.urls[:1]), "the environment sets")
    assert f"127.0.0.1:{port}" in finding["what"]
    assert "s3cret" not in str(finding)
    assert "NO_PROXY" in finding["advice"]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert found(nodes.urls[:1]) == []


def test_credentials_from_netrc(
    found: Findings, nodes: Nodes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password s3cret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    finding = only(found(nodes.urls[:1]), "netrc")
    assert "s3cret" not in str(finding)
    assert found(nodes.urls[:1], "--set", "trust_env=false") == []


def test_a_silent_node(found: Findings, nodes: Nodes) -> None:
    nodes.pause(1)
    finding = only(found(nodes.urls, "--set", "read_timeout=0.3"), "does not answer")
    assert finding["subject"] == nodes.urls[1]
    assert "restart it" in finding["advice"]


def test_a_wrong_password(found: Findings, qcache_cluster: Cluster) -> None:
    qcache_cluster.refuse_auth(1)
    finding = only(found(qcache_cluster.node_list), "401")
    assert finding["subject"] == qcache_cluster.node_list[1]
    assert "login and password" in finding["advice"]


def test_credentials_without_encryption(
    found: Findings, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QCACHE_PASSWORD", "s3cret")
    options = ("--login", "someone", "--set", "allow_auth_over_http=true")
    assert only(found(nodes.urls, *options), "unencrypted")["subject"] == "allow_auth_over_http"
    assert only(found(nodes.urls, *options[:2]), "unencrypted")["level"] == "error"


def test_a_server_that_is_no_qcache(found: Findings, answering: Callable[..., str]) -> None:
    finding = only(found([answering(body="<html>Welcome</html>")]), "not a QCache")
    assert finding["level"] == "error"


def test_a_redirect(found: Findings, answering: Callable[..., str]) -> None:
    findings = found(
        [answering("301 Moved Permanently", "", Location="https://elsewhere.test/qcache/status")]
    )
    assert only(findings, "redirects to https://elsewhere.test/qcache/status")["level"] == "error"


@pytest.mark.parametrize("server", ["nginx/1.24.0", "TornadoServer/4.0"])
def test_a_server_header_that_differs(
    found: Findings, nodes: Nodes, answering: Callable[..., str], server: str
) -> None:
    other = answering(Server=server)
    finding = only(found([*nodes.urls, other]), "Server header")
    assert finding["subject"] == other
    assert repr(server) in finding["what"]


def test_a_proxy_that_answers_for_a_node(found: Findings, answering: Callable[..., str]) -> None:
    assert "Via" in only(found([answering(Via="1.1 varnish")]), "a proxy is between")["what"]


@pytest.mark.parametrize(("minutes", "message"), [(-10, "behind"), (10, "ahead of")])
def test_a_clock_that_differs(
    found: Findings, answering: Callable[..., str], minutes: int, message: str
) -> None:
    date = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=minutes)
    finding = only(found([answering(Date=email.utils.format_datetime(date, usegmt=True))]), "Date header")
    apart = re.search(r"is (\d+) s (.+) this clock", finding["what"])
    assert apart is not None
    assert apart[2] == message
    assert int(apart[1]) == pytest.approx(600, abs=30)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"deadline": 20, "read_timeout": 30}, "deadline (20 s) is not longer"),
        ({"store_timeout": 5, "read_timeout": 30}, "store_timeout (5 s) is shorter"),
    ],
)
def test_timeouts_that_do_not_fit_each_other(
    found: Findings, nodes: Nodes, fields: dict[str, Any], text: str
) -> None:
    options = [option for name, value in fields.items() for option in ("--set", f"{name}={value}")]
    only(found(nodes.urls, *options), text)


def test_timeouts_that_do_not_fit_the_tables(found: Findings, nodes: Nodes) -> None:
    options = ("--set", "read_timeout=2", "--table-bytes")
    finding = only(found(nodes.urls, *options, "200000000"), "while it parses 200,000,000 bytes")
    assert "Increase read_timeout" in finding["advice"]
    assert found(nodes.urls, *options, "50000000") == []


def test_a_node_that_was_silent_for_longer_than_the_timeout(found: Findings, nodes: Nodes) -> None:
    found(nodes.urls, "--statistics")
    # A fast machine took less than 20 ms for a twentieth of these.
    rows = b"a,b\n" + b"1,x\n" * 4_000_000
    assert nodes.ask(0, "POST", "large", rows).status == 201
    findings = found(nodes.urls, "--statistics", "--set", "read_timeout=0.05", "--set", "connect_timeout=0.5")
    assert only(findings, "one request kept it silent")["subject"] == nodes.urls[0]


def test_a_cache_that_is_too_small(found: Findings, qcache_cluster: Cluster, qcache_client: Any) -> None:
    node = qcache_cluster.home("one")
    qcache_cluster.configure(node, size=3000)
    assert qcache_client.post("one", b"a\n" + b"1\n" * 200).node == node
    other = next(key for key in map("k{}".format, range(99)) if qcache_cluster.home(key) == node)
    qcache_client.post(other, b"a\n" + b"1\n" * 1000)
    finding = only(found(qcache_cluster.node_list, "--statistics"), "it was full and evicted tables: 1 ")
    assert finding["subject"] == node
