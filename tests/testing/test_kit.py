"""airflow_provider_qcache.testing: the fixtures and the cluster that users test their DAGs with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_qcache.client import AuthenticationFailed, NoCacheAvailable, QClient
from airflow_provider_qcache.testing import Cluster, Connect

CSV = b"city,orders\nTokyo,7\nDelhi,12\n"
ROWS = [{"city": "Tokyo", "orders": 7}, {"city": "Delhi", "orders": 12}]

HEAVY = (
    "airflow", "requests", "urllib3", "pandas", "numpy", "tornado", "tenacity",
    "airflow_provider_qcache.client", "airflow_provider_qcache.devnode",
)  # fmt: skip


def pytest_in(directory: Path, code: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a file of tests in a session of its own, as a user does."""
    (directory / "test_it.py").write_text(code)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "test_it.py"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


class TestCost:
    def test_pytest_loads_the_plugin_and_nothing_heavy(self, tmp_path: Path) -> None:
        code = f"""
import sys
def test_it(request):
    assert request.config.pluginmanager.get_plugin("qcache").__name__ == "airflow_provider_qcache.testing"
    assert [name for name in {HEAVY!r} if name in sys.modules] == []
"""
        alone = ["-p", "no:hypothesispytest", "-p", "no:anyio", "-p", "no:playwright"]
        done = pytest_in(tmp_path, code, *alone)
        assert done.returncode == 0, done.stdout

    def test_what_is_not_there_is_an_attribute_error(self) -> None:
        from airflow_provider_qcache import testing

        with pytest.raises(AttributeError, match="has no attribute 'Klaster'"):
            testing.Klaster  # noqa: B018

    def test_where_a_library_is_missing_the_error_says_what_to_install(self, tmp_path: Path) -> None:
        (tmp_path / "sitecustomize.py").write_text('import sys; sys.modules["tornado"] = None')
        done = pytest_in(
            tmp_path, f"import sys; sys.path.insert(0, {str(tmp_path)!r})\ndef test_it(qcache_cluster): ..."
        )
        assert done.returncode == 1
        assert "install the extra 'devnode'" in done.stdout


class TestCluster:
    def test_a_reader_finds_what_was_stored(self, qcache_cluster: Cluster, qcache_client: QClient) -> None:
        assert not qcache_cluster.has("orders")
        assert qcache_cluster.table("orders") is None
        qcache_client.post("orders", CSV)
        assert qcache_cluster.has("orders")
        assert qcache_cluster.table("orders") == ROWS

    def test_a_test_begins_with_an_empty_cluster(self, qcache_cluster: Cluster) -> None:
        """The one before has stored a table."""
        assert not qcache_cluster.has("orders")

    def test_the_home_of_a_key_has_its_table(self, qcache_cluster: Cluster, qcache_client: QClient) -> None:
        assert qcache_client.post("orders", CSV).node == qcache_cluster.home("orders")
        assert qcache_cluster.holding("orders") == [qcache_cluster.home("orders")]

    def test_all_nodes_that_have_a_table_are_named_its_home_first(
        self, qcache_cluster: Cluster, qcache_client: QClient
    ) -> None:
        qcache_client.post("orders", CSV, copies=2)
        assert qcache_cluster.holding("orders") == list(qcache_client.successors("orders")[:2])

    def test_with_its_home_killed_a_reader_finds_the_next_one(
        self, qcache_cluster: Cluster, qcache_client: QClient
    ) -> None:
        qcache_cluster.kill(qcache_cluster.home("orders"))
        assert qcache_client.post("orders", CSV).failed_over
        assert qcache_cluster.has("orders")

    def test_a_test_begins_with_every_node(self, qcache_cluster: Cluster, qcache_client: QClient) -> None:
        """The one before has killed a node."""
        assert {status.state.value for status in qcache_client.node_status().values()} == {"alive"}
        assert qcache_client.post("orders", CSV).node == qcache_cluster.home("orders")

    def test_a_paused_node_is_an_error_as_it_may_hold_the_table(
        self, qcache_cluster: Cluster, qcache_client: QClient
    ) -> None:
        home = qcache_cluster.home("orders")
        qcache_client.post("orders", CSV)
        qcache_cluster.pause(home)
        with pytest.raises(AssertionError, match=f"cannot tell which nodes have table 'orders': {home}"):
            qcache_cluster.holding("orders")

    def test_refused_credentials_are_the_client_s_error(
        self, qcache_cluster: Cluster, qcache_client: QClient
    ) -> None:
        qcache_cluster.refuse_auth(qcache_cluster.home("orders"))
        with pytest.raises(AuthenticationFailed):
            qcache_client.post("orders", CSV)

    def test_a_slow_node_is_busy_and_no_other_takes_the_table(
        self, qcache_cluster: Cluster, qcache_client: QClient
    ) -> None:
        qcache_cluster.slow(qcache_cluster.home("orders"), 0.2)
        assert qcache_client.post("orders", CSV).node == qcache_cluster.home("orders")

    def test_with_no_node_left_there_is_no_cache(self, qcache_cluster: Cluster) -> None:
        for node in qcache_cluster.node_list:
            qcache_cluster.kill(node)
        with pytest.raises(NoCacheAvailable):
            qcache_cluster.has("orders")


class TestConnection:
    def test_it_is_there_for_the_test(self, qcache_cluster: Cluster, qcache_connection: Connect) -> None:
        connection = json.loads(os.environ["AIRFLOW_CONN_QCACHE_DEFAULT"])
        assert connection["conn_type"] == "qcache"
        assert connection["extra"]["nodes"] == qcache_cluster.node_list

    def test_others_are_set_with_fields_of_their_own(self, qcache_connection: Connect) -> None:
        assert qcache_connection("orders_cache", read_timeout=7) == "orders_cache"
        assert json.loads(os.environ["AIRFLOW_CONN_ORDERS_CACHE"])["extra"]["read_timeout"] == 7

    def test_they_are_gone_after_the_test(self) -> None:
        """The ones before have set them."""
        assert not {"AIRFLOW_CONN_QCACHE_DEFAULT", "AIRFLOW_CONN_ORDERS_CACHE"} & set(os.environ)
