"""The cluster page over HTTP: a real API server, users of every role of its auth manager, dev nodes."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_qcache.client import QClient, Ring
from airflow_provider_qcache.testing import Cluster
from scripts.airflow_runs import AirflowHome
from tests.page.conftest import PAGE, ROLES, ApiServer, api_server, connection, dags_in

MOST_AT_ONCE = 4
DATA = ("connections", "nodes/qcache_default", "ring/qcache_default", "where/qcache_default?key=orders",
        "assets/qcache_default")  # fmt: skip
MAY_NOT_READ_CONNECTIONS = ("user", "viewer")
QUERY = {"key": "orders", "query": {}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three dev nodes of this file's own, which the API server's connection names."""
    with Cluster(nodes=3) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def server(
    home: AirflowHome, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiServer]:
    """The server, after DAGs have stored and deleted tables and kept the statistics."""
    environment = {
        "AIRFLOW__QCACHE__CLUSTER_PAGE": "True",
        "AIRFLOW_CONN_QCACHE_DEFAULT": connection(cluster.node_list),
        "AIRFLOW_CONN_BROKEN": connection([]),
        "AIRFLOW_CONN_OTHER": '{"conn_type": "http", "host": "127.0.0.1"}',
    }
    with home.runner(dags_in(tmp_path_factory.mktemp("dags")), environment) as runner:
        for dag in ("page", "qcache_cluster_statistics"):
            run = runner.run(dag)
            assert run.state.rpartition(".")[2].lower() == "success", runner.printed()
    with api_server(home, environment) as server:
        yield server


@pytest.fixture(autouse=True)
def _all_up(cluster: Cluster) -> Iterator[None]:
    yield
    cluster.reset()
    with QClient(cluster.node_list) as client:
        client.post("orders", b"city,orders\nTokyo,7\nDelhi,12\n")


class TestRights:
    @pytest.mark.parametrize("path", ["", *DATA])
    def test_nobody_gets_401(self, server: ApiServer, path: str) -> None:
        assert server.ask(f"/qcache/{path}").status == 401

    def test_nobody_gets_401_for_a_query(self, server: ApiServer) -> None:
        assert server.ask("/qcache/query/qcache_default", body=QUERY).status == 401

    @pytest.mark.parametrize("role", MAY_NOT_READ_CONNECTIONS)
    @pytest.mark.parametrize("path", ["", *DATA])
    def test_who_may_not_read_connections_gets_403(self, server: ApiServer, path: str, role: str) -> None:
        assert server.ask(f"/qcache/{path}", role).status == 403

    @pytest.mark.parametrize("role", MAY_NOT_READ_CONNECTIONS)
    def test_who_may_not_read_connections_gets_403_for_a_query(self, server: ApiServer, role: str) -> None:
        assert server.ask("/qcache/query/qcache_default", role, QUERY).status == 403

    @pytest.mark.parametrize("role", sorted(set(ROLES) - set(MAY_NOT_READ_CONNECTIONS)))
    @pytest.mark.parametrize("path", ["", *DATA])
    def test_who_may_read_connections_gets_the_page(self, server: ApiServer, path: str, role: str) -> None:
        assert server.ask(f"/qcache/{path}", role).status == 200

    @pytest.mark.parametrize("path", ["docs", "redoc", "openapi.json"])
    def test_nothing_else_is_served(self, server: ApiServer, path: str) -> None:
        assert server.ask(f"/qcache/{path}", "admin").status == 404


class TestOtherSites:
    @pytest.mark.parametrize("path", DATA)
    def test_a_request_without_the_page_s_header_is_refused(self, server: ApiServer, path: str) -> None:
        """A page of another site cannot add it without a preflight, which Airflow does not answer."""
        answer = server.ask(f"/qcache/{path}", "admin", headers={})
        assert answer.status == 403
        assert "X-QCache-Page" in answer.json["detail"]

    @pytest.mark.parametrize("site", ["cross-site", "same-site", "none"])
    def test_a_request_from_another_site_is_refused(self, server: ApiServer, site: str) -> None:
        headers = {**PAGE, "Sec-Fetch-Site": site}
        assert server.ask("/qcache/query/qcache_default", "admin", QUERY, headers=headers).status == 403

    def test_no_consent_is_given_to_another_site(self, server: ApiServer) -> None:
        headers = {"Origin": "http://elsewhere.test", **PAGE, "Sec-Fetch-Site": "same-origin"}
        answer = server.ask("/qcache/nodes/qcache_default", "admin", headers=headers)
        assert answer.headers["Access-Control-Allow-Origin"] is None

    @pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded"])
    def test_a_query_of_a_form_is_refused(self, server: ApiServer, content_type: str) -> None:
        headers = {**PAGE, "Content-Type": content_type}
        answer = server.ask("/qcache/query/qcache_default", "admin", QUERY, headers=headers)
        assert answer.status == 415

    def test_the_page_loads_nothing_from_elsewhere_and_is_framed_by_airflow_alone(
        self, server: ApiServer
    ) -> None:
        page = server.ask("/qcache/", "admin")
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "connect-src 'self'" in policy
        assert "frame-ancestors 'self'" in policy
        assert "unsafe" not in policy
        addresses = set(re.findall(r"https?://[^\s\"'<>]+", page.body.decode()))
        assert addresses == {"http://www.w3.org/2000/svg", "http://host4:8888"}, "a namespace, an example"


class TestNodes:
    def test_each_node_has_health_latency_and_share(self, server: ApiServer, cluster: Cluster) -> None:
        found = server.ask("/qcache/nodes/qcache_default", "op").json["nodes"]
        assert [each["node"] for each in found] == cluster.node_list
        assert {each["trouble"] for each in found} == {None}
        assert all(each["milliseconds"] > 0 for each in found)
        assert sum(each["share"] for each in found) == pytest.approx(1)

    def test_a_node_in_trouble_says_why(self, server: ApiServer, cluster: Cluster) -> None:
        cluster.kill(1)
        found = server.ask("/qcache/nodes/qcache_default", "op").json["nodes"]
        assert [each["trouble"] for each in found] == [
            None,
            "connection refused: nothing listens there",
            None,
        ]

    def test_the_statistics_are_those_that_a_task_has_kept(self, server: ApiServer, cluster: Cluster) -> None:
        (reading,) = server.ask("/qcache/nodes/qcache_default", "op").json["readings"]
        assert set(reading["nodes"]) == set(cluster.node_list)
        assert sum(node["dataset_count"] for node in reading["nodes"].values()) == 1
        assert {"cache_size", "dataset_count"} <= set(reading["nodes"][cluster.node_list[0]])

    def test_the_page_resets_no_statistics(self, server: ApiServer, cluster: Cluster) -> None:
        with QClient(cluster.node_list) as client:
            client.node_statistics()
            client.get("orders", {})
            for path in DATA:
                assert server.ask(f"/qcache/{path}", "op").status == 200
            read = client.node_statistics()
        assert sum(each["hit_count"] for each in read.values() if "hit_count" in each) >= 1


class TestRing:
    def test_a_change_says_what_it_moves(self, server: ApiServer, cluster: Cluster) -> None:
        gone = cluster.node_list[0]
        found = server.ask(f"/qcache/ring/qcache_default?remove={gone}", "op").json
        before, after = Ring(cluster.node_list), Ring(cluster.node_list[1:])
        keys = [f"key{number}" for number in range(5000)]
        moving = sum(before.node_for_key(key) != after.node_for_key(key) for key in keys)
        assert found["moved"] == pytest.approx(moving / len(keys), abs=0.05)
        assert {each["node"]: each["share_after"] for each in found["nodes"]}[gone] is None

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ("remove=http://nowhere:1", "it is not one of the nodes"),
            ("add=ftp://host", "ftp"),
            ("add={first}", "the node is there already"),
        ],
    )
    def test_a_change_that_cannot_be_made_is_refused(
        self, server: ApiServer, cluster: Cluster, change: str, said: str
    ) -> None:
        answer = server.ask(f"/qcache/ring/qcache_default?{change.format(first=cluster.node_list[0])}", "op")
        assert answer.status == 400
        assert said in answer.json["detail"]


class TestTables:
    def test_a_key_is_found_with_the_task_that_stored_it(self, server: ApiServer, cluster: Cluster) -> None:
        found = server.ask("/qcache/where/qcache_default?key=orders", "op").json
        assert [place["node"] for place in found["places"] if place["absence"] is None] == [
            cluster.home("orders")
        ]
        assert [(each["dag_id"], each["task_id"], each["rows"]) for each in found["stores"]] == [
            ("page", "store", 2)
        ]

    def test_a_key_that_is_no_key_is_refused(self, server: ApiServer) -> None:
        assert server.ask("/qcache/where/qcache_default?key=a/b", "op").status == 400

    def test_the_assets_have_their_last_event(self, server: ApiServer) -> None:
        found = server.ask("/qcache/assets/qcache_default", "op").json
        assert [(each["key"], each["operation"], each["task_id"]) for each in found["assets"]] == [
            ("orders", "store", "store"),
            ("old", "delete", "delete"),
        ]
        assert found["more"] is False


class TestQuery:
    def ask(self, server: ApiServer, query: Any, **more: Any) -> Any:
        return server.ask("/qcache/query/qcache_default", "op", {"key": "orders", "query": query, **more})

    def test_a_query_has_rows(self, server: ApiServer, cluster: Cluster) -> None:
        found = self.ask(server, {"where": ["==", "city", "'Tokyo'"]}).json
        assert found == {"rows": [{"city": "Tokyo", "orders": 7}], "of": 1, "node": cluster.home("orders")}

    def test_no_table_is_null(self, server: ApiServer) -> None:
        answer = server.ask("/qcache/query/qcache_default", "op", {"key": "nothing", "query": {}})
        assert (answer.status, answer.json) == (200, None)

    def test_rows_are_limited(self, server: ApiServer, cluster: Cluster) -> None:
        with QClient(cluster.node_list) as client:
            client.post("orders", b"a\n" + b"1\n" * 1000)
        found = self.ask(server, {"limit": 900}).json
        assert (len(found["rows"]), found["of"]) == (200, 1000)

    def test_bytes_are_limited(self, server: ApiServer, cluster: Cluster) -> None:
        with QClient(cluster.node_list) as client:
            client.post("orders", b"a\n" + (b"x" * 20_000 + b"\n") * 100)
        answer = self.ask(server, {})
        assert answer.status == 502
        assert "max_response_bytes" in answer.json["detail"]

    def test_what_changes_a_table_is_refused_and_changes_nothing(
        self, server: ApiServer, cluster: Cluster
    ) -> None:
        before = cluster.table("orders")
        answer = self.ask(server, {"update": [["orders", 0]]})
        assert (answer.status, answer.json["detail"][:6]) == (400, "update")
        assert cluster.table("orders") == before

    def test_stand_in_columns_are_refused_by_name(self, server: ApiServer) -> None:
        in_body = self.ask(server, {}, stand_in_columns={"a": 1})
        headers = {**PAGE, "X-QCache-stand-in-columns": "a=1"}
        in_header = server.ask("/qcache/query/qcache_default", "op", QUERY, headers=headers)
        for answer in (in_body, in_header):
            assert answer.status == 400
            assert "stand-in columns" in answer.json["detail"]

    @pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"key": "a"}', b"[" * 20_000, b"\xff"])
    def test_what_is_no_query_is_refused(self, server: ApiServer, data: bytes) -> None:
        headers = {**PAGE, "Content-Type": "application/json"}
        answer = server.ask("/qcache/query/qcache_default", "op", headers=headers, data=data)
        assert answer.status == 400

    @pytest.mark.parametrize(
        "data",
        [
            r'{"key": "orders", "query": {"where": ["==", "city", "\ud800"]}}',
            r'{"key": "orders", "query": {"\ud800": 1}}',
            r'{"key": "orders", "query": {}, "\ud800": 1}',
            r'{"key": "\ud800", "query": {}}',
            r'{"key": "orders\u0000", "query": {}}',
            '{"key": 5, "query": {}}',
            '{"key": null, "query": {}}',
            '{"key": ["orders"], "query": {}}',
            '{"key": "orders", "query": {"limit": ' + "9" * 5000 + "}}",
            '{"key": "orders", "query": {"where": ["==", "orders", 1e999]}}',
            '{"key": "orders", "query": {"where": ["==", "orders", NaN]}}',
            '{"key": "orders", "query": {"where": ["in", "orders", [' + "9" * 4000 + "]]}}",
            '{"key": "orders", "query": ' + '{"from": ' * 3000 + "{}" + "}" * 3001,
            '{"key": "orders", "query": {"where": ' + '["!", ' * 3000 + "1" + "]" * 3000 + "}}",
        ],
    )
    def test_strange_queries_are_the_asker_s_error(self, server: ApiServer, data: str) -> None:
        """Lone surrogates, NUL, numbers that no node takes, and more levels than Python has."""
        headers = {**PAGE, "Content-Type": "application/json"}
        answer = server.ask("/qcache/query/qcache_default", "op", headers=headers, data=data.encode())
        assert (answer.status, isinstance(answer.json["detail"], str)) == (400, True), answer.body

    def test_numbers_that_a_browser_rounds_are_texts(self, server: ApiServer, cluster: Cluster) -> None:
        with QClient(cluster.node_list) as client:
            client.post("orders", b"a,b\n9007199254740993,9007199254740992\n")
        assert self.ask(server, {}).json["rows"] == [{"a": "9007199254740993", "b": 9007199254740992}]

    def test_a_long_query_is_refused(self, server: ApiServer) -> None:
        assert self.ask(server, {"where": "x" * 100_000}).status == 413

    def test_what_the_node_refuses_is_the_node_s_error(self, server: ApiServer) -> None:
        answer = self.ask(server, {"select": ["nothing"]})
        assert answer.status in (400, 502)
        assert "nothing" in answer.json["detail"]


class TestConnections:
    def test_the_default_connection_is_offered_first_also_if_it_is_not_in_the_database(
        self, server: ApiServer
    ) -> None:
        assert server.ask("/qcache/connections", "op").json[0] == "qcache_default"

    @pytest.mark.parametrize("name", ["nobody", "other"])
    @pytest.mark.parametrize("path", ["nodes", "assets", "ring"])
    def test_only_connections_to_a_qcache_are_shown(self, server: ApiServer, path: str, name: str) -> None:
        answer = server.ask(f"/qcache/{path}/{name}", "op")
        assert answer.status == 404
        assert name in answer.json["detail"]

    @pytest.mark.parametrize("name", ["%00", "a%00b", "..%2f..%2fetc", "%ff", "%ed%a0%80", "x" * 5000, "a'"])
    @pytest.mark.parametrize("path", ["nodes", "assets"])
    def test_strange_names_are_unknown(self, server: ApiServer, path: str, name: str) -> None:
        assert server.ask(f"/qcache/{path}/{name}", "op").status == 404

    def test_a_broken_connection_says_what_is_wrong(self, server: ApiServer) -> None:
        answer = server.ask("/qcache/nodes/broken", "op")
        assert answer.status == 400
        assert "nodes" in answer.json["detail"]


class TestLimits:
    def test_with_paused_nodes_the_server_answers_others_and_refuses_more(
        self, server: ApiServer, cluster: Cluster
    ) -> None:
        """Four requests wait for the nodes; a fifth is told so at once, and Airflow goes on."""
        path = "/qcache/where/qcache_default?key=orders"
        for node in cluster.node_list:
            cluster.pause(node)
        statuses: list[int] = []
        enough = threading.Event()

        def ask() -> None:
            while not enough.is_set():
                statuses.append(server.ask(path, "op").status)

        threads = [threading.Thread(target=ask) for _ in range(MOST_AT_ONCE + 1)]
        for thread in threads:
            thread.start()
        try:
            while (refused := server.ask(path, "op")).status != 503:
                pass
            assert server.ask("/api/v2/version").status == 200
        finally:
            enough.set()
            for thread in threads:
                thread.join()
        assert refused.headers["Retry-After"] == "1"
        assert "in progress" in refused.json["detail"]
        assert set(statuses) <= {200, 503, 504}
        cluster.reset()
        assert server.ask(path, "op").status == 200, "every place is free again"
