"""The link from a task of this package to the cluster page, and whether there is such a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode, urlsplit

from airflow_provider_qcache.compat import BaseOperatorLink, conf

if TYPE_CHECKING:
    from collections.abc import Mapping

ROUTE: Final = "qcache"
"""Where the page is: Airflow shows ``/plugin/qcache``, in which it frames ``/qcache/``."""


def page_is_on() -> bool:
    """Whether ``[qcache] cluster_page`` is set, on an Airflow that can show the page: 3.1 or newer."""
    if not conf.getboolean("qcache", "cluster_page", fallback=False):
        return False
    from airflow.plugins_manager import AirflowPlugin  # noqa: PLC0415  # parsing a DAG does without it

    return hasattr(AirflowPlugin, "external_views")


def root_path() -> str:
    """The path at which the API server is, such as ``/`` or ``/airflow/``."""
    return urlsplit(conf.get("api", "base_url", fallback="") or "").path.rstrip("/") + "/"


class QCacheClusterLink(BaseOperatorLink):
    """The button "QCache cluster" of a task instance: the page of its connection, with its key filled in."""

    name = "QCache cluster"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The page's address, without a host: whoever follows the link is on the right one."""
        del ti_key
        arguments: Mapping[str, Any] = {
            "connection": operator.qcache_conn_id,
            "key": getattr(operator, "key", None),
        }
        given = {name: value for name, value in arguments.items() if isinstance(value, str)}
        return f"{root_path()}plugin/{ROUTE}?{urlencode(given)}"
