"""The plugin that gives the API server the cluster page.

Every process of Airflow imports this module, so it imports nothing else of the page. Airflow reads
``fastapi_apps`` in the API server only, and only there the page is made.
"""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from airflow_provider_qcache.links.qcache import ROUTE, page_is_on, root_path


class QCachePlugin(AirflowPlugin):
    """The page ``/qcache/``, and its entry in the menu; neither unless ``[qcache] cluster_page`` is set."""

    name = "qcache"

    @property
    def fastapi_apps(self) -> list[dict[str, Any]]:
        """The page as an app of its own."""
        if not page_is_on():
            return []
        from airflow_provider_qcache.plugins.page import app  # noqa: PLC0415  # for the API server alone

        return [{"name": "QCache", "app": app, "url_prefix": f"/{ROUTE}"}]

    @property
    def external_views(self) -> list[dict[str, Any]]:
        """Airflow's frame around the page."""
        if not page_is_on():
            return []
        href = f"{root_path()}{ROUTE}/"
        return [
            {"name": "QCache", "href": href, "url_route": ROUTE, "destination": "nav", "category": "browse"}
        ]
