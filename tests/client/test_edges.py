"""What is easily got wrong: nodes that come back unseen, interrupted callers, answers that are traps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from ssl import SSLContext
from typing import Any

import pytest
from requests import PreparedRequest
from requests.auth import HTTPBasicAuth

from airflow_provider_qcache.client import (
    AuthenticationFailed,
    ClosedWithoutAnswer,
    HomeNodeUnavailable,
    NoCacheAvailable,
    QClient,
    RequestRetry,
    StoreUncertain,
)
from airflow_provider_qcache.client.errors import Outcome
from airflow_provider_qcache.client.nodes import NodeState
from airflow_provider_qcache.client.outcome import Kind
from airflow_provider_qcache.client.retry import Span
from tests.client import faults
from tests.client.faults import Node, closed_port, sound_node
from tests.client.simulated import Meets
from tests.client.test_retry import World
from tests.conftest import need_the_real_server
from tests.servers import Certificates, Server

TABLE = b"a\n1\n"
OF_BOTH = pytest.mark.parametrize("kind", ["real", "dev"])


def a_key_of(client: QClient, node: str) -> str:
    return next(key for key in (f"k{number}" for number in range(99)) if client.node_for_key(key) == node)


def a_server(kind: str, *options: str, tls: SSLContext | None = None) -> Server:
    if kind == "real":
        need_the_real_server()
    return (Server.real if kind == "real" else Server.dev)(*options, tls=tls)


def url(server: Server) -> str:
    return f"http{'s' if server.tls else ''}://127.0.0.1:{server.port}"


# A node that was gone and is back, unseen.


@OF_BOTH
def test_a_table_on_a_home_that_is_back_is_neither_missed_nor_left_there_by_a_delete(kind: str) -> None:
    home = a_server(kind)
    with a_server(kind) as other:
        nodes = [url(home), url(other)]
        with QClient(nodes, trust_env=False, confirm_miss=True) as client, QClient(nodes) as elsewhere:
            keys = (f"k{number}" for number in range(99))
            first, second = [key for key in keys if client.node_for_key(key) == url(home)][:2]
            assert client.get(first, {}) is None  # it refuses: its memory is gone
            with home:
                for key in (first, second):
                    assert elsewhere.post(key, TABLE).node == url(home)
                assert client.get(first, {}) is not None
                # Again as it was, for the delete.
                client._pool.fail(url(home), client._pool.ticket(url(home)), "refused", gone=True)
                assert client.delete(second).outcomes == {url(home): "confirmed"}
                assert elsewhere.get(second, {}) is None


def test_a_home_that_is_gone_still_is_asked_once_for_each_miss_and_costs_no_failure() -> None:
    world = World([Meets(Outcome.REFUSED), Meets(status=404)], [Meets(Outcome.REFUSED)])
    for _ in range(3):
        done = world.run()
        assert (done.answer, done.unknown) == (None, ())
    status = world.pool.snapshot()[world.nodes[0]]
    assert (status.gone, status.failures, status.state) == (True, 1, NodeState.FAILING)
    assert world.pool.statistics[world.nodes[0]]["retry_error"] == 0


@pytest.mark.parametrize("kind", [Kind.QUERY, Kind.DELETE])
def test_a_home_that_was_gone_and_is_silent_now_is_not_known(kind: Kind) -> None:
    world = World(
        [Meets(Outcome.REFUSED), Meets(status=404), Meets(status=404 if kind is Kind.QUERY else 200)],
        [Meets(Outcome.TIMEOUT)],
    )
    assert world.run().unknown == ()
    assert world.run(kind).unknown == (world.nodes[0],)
    assert not world.pool.is_gone(world.nodes[0])


def test_a_home_that_answers_again_is_asked_though_a_stand_in_answered_first() -> None:
    world = World([Meets(Outcome.REFUSED), Meets(status=404), Meets(status=404), Meets()])
    assert world.run().answer is None
    done = world.run()
    assert done.answer is not None
    assert (done.node, done.attempts) == (world.nodes[0], ())
    assert [node for node, _ in world.wire.sent] == [*world.nodes[:2], world.nodes[1], world.nodes[0]]


def test_a_result_of_a_stand_in_has_no_node_asked_for_it() -> None:
    world = World([Meets(Outcome.REFUSED), Meets()], [Meets(Outcome.TIMEOUT)])
    for _ in range(3):
        assert world.run().answer is not None
    assert world.pool.is_gone(world.nodes[0])


def test_a_silent_home_that_refused_once_makes_the_miss_uncertain() -> None:
    port = closed_port()
    sound, _ = sound_node()
    home = f"http://127.0.0.1:{port}"
    with sound, QClient([home, sound.url], 0.5, 0.3, trust_env=False, confirm_miss=True) as client:
        key = a_key_of(client, home)
        assert client.get(key, {}) is None
        with silent_at(port):
            with pytest.raises(HomeNodeUnavailable):
                client.get(key, {})
            client._pool.fail(home, client._pool.ticket(home), "refused", gone=True)
            with pytest.raises(HomeNodeUnavailable):
                client.delete(key)


@pytest.mark.parametrize("silent", [False, True])
def test_a_delete_names_the_node_that_answered_and_those_before_it(silent: bool) -> None:
    port = closed_port()
    sound, tables = sound_node()
    home = f"http://127.0.0.1:{port}"
    with sound, QClient([home, sound.url], 0.5, 0.3, trust_env=False) as client:
        key = a_key_of(client, home)
        tables.tables[key] = TABLE
        with silent_at(port) if silent else nullcontext():
            result = client.delete(key)
            report = client.delete_many([key])
        assert result.outcomes == {home: "unreachable" if silent else "gone", sound.url: "confirmed"}
        assert list(result.outcomes) == [home, sound.url]
        assert (list(result.errors), result.complete) == ([home] if silent else [], not silent)
        assert report.succeeded[key].outcomes == result.outcomes
        assert tables.tables == {}


@contextmanager
def silent_at(port: int) -> Iterator[Node]:
    node = Node(faults.silent, status=faults.silent)
    node.listener.close()
    node.listener = faults.socket.create_server(("127.0.0.1", port))
    node.port = port
    with node:
        yield node


def test_a_node_is_gone_to_a_delete_only_if_it_refuses_this_one() -> None:
    port = closed_port()
    node = f"http://127.0.0.1:{port}"
    with QClient([node], 5, 5, trust_env=False, deadline=0.5) as client:
        assert client.delete("k", all_nodes=True).outcomes == {node: "gone"}
        with silent_at(port):
            # The deadline ends the probe; what the node did before says nothing of now.
            assert client.delete("k", all_nodes=True).outcomes == {node: "unreachable"}


def test_what_a_busy_node_refused_before_it_came_back_does_not_fail_it() -> None:
    world = World([Meets(Outcome.TIMEOUT), Meets()], [Meets(Outcome.REFUSED), Meets()])
    ask = world.wire.status

    def while_another_operation_sees_it_fail_and_recover(node: str, span: Span) -> None:
        pool = world.pool
        if node not in pool.failing and not world.changes:
            pool.fail(node, pool.ticket(node), "refused", gone=True)
            probe = pool.begin_probe(node)
            assert probe is not None
            pool.end_probe(node, probe, None)
        ask(node, span)

    world.wire.status = while_another_operation_sees_it_fail_and_recover  # type: ignore[method-assign]
    assert world.run(Kind.STORE).node == world.nodes[0]
    assert [alive for _, alive, _ in world.changes] == [False, True]


# Waits of nothing.


@pytest.mark.parametrize("kind", [Kind.QUERY, Kind.STORE])
def test_a_policy_without_waits_does_not_ask_for_statuses_without_end(kind: Kind) -> None:
    policy = RequestRetry(wait_initial=0, wait_max=0, wait_for_nodes=True)
    met = Outcome.REFUSED if kind is Kind.QUERY else Outcome.TIMEOUT
    world = World([Meets(met)], [Meets(Outcome.CLOSED)], policy=policy)
    with pytest.raises(NoCacheAvailable if kind is Kind.QUERY else StoreUncertain):
        world.run(kind, 5.0)
    assert 50 < len(world.clock.slept) <= 101


# Credentials a node cannot parse.

SECRET = "hunter2:x"


@pytest.mark.parametrize(
    "given",
    [
        {"auth": ("login", SECRET)},
        {"auth": [SECRET, "password"]},
        {"auth": HTTPBasicAuth("login", SECRET)},
        {"node_list": [f"http://login:{SECRET}@host1:9401"]},
        {"node_list": [f"http://login:{SECRET.replace(':', '%3A')}@host1:9401"]},
    ],
    ids=["password", "login", "HTTPBasicAuth", "node", "node, quoted"],
)
def test_a_colon_in_a_login_or_password_is_refused_and_not_shown(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"auth: the|node 'http://") as raised:
        QClient(**{"node_list": ["http://host1:9401"], **given})
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("source", ["netrc", "callable"])
@OF_BOTH
def test_an_authorization_that_a_node_cannot_parse_is_told_from_a_node_that_is_down(
    kind: str,
    source: str,
    certificates: Certificates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login user password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(netrc))

    def auth(request: PreparedRequest) -> PreparedRequest:
        return HTTPBasicAuth("user", SECRET)(request)

    options = [f"--cert-file={certificates.server}", "--basic-auth=user:s3cret"]
    node = a_server(kind, *options, tls=certificates.context())
    given = {"auth": auth, "trust_env": False} if source == "callable" else {}
    with node, QClient([url(node)], 5, 5, verify=str(certificates.ca), **given) as client:
        for operation in (
            lambda: client.get("k", {}),
            lambda: client.post("k", TABLE),
            lambda: client.delete("k"),
        ):
            with pytest.raises(ClosedWithoutAnswer, match="netrc") as raised:
                operation()
            assert "hunter2" not in str(raised.value)
        with QClient([url(node)], 5, 5, verify=str(certificates.ca), auth=("user", "s3cret")) as other:
            other.post("k", TABLE)
            assert other.get("k", {}) is not None
        with (
            QClient([url(node)], verify=str(certificates.ca), auth=("user", "other")) as other,
            pytest.raises(AuthenticationFailed),
        ):
            other.get("k", {})
