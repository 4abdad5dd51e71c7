"""The entry of this package in Airflow's registry of providers."""

from __future__ import annotations

from airflow_provider_qcache import connection_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider's registration, in the form of Airflow's ``provider_info`` schema.

    Airflow calls it in every process that imports ``airflow.sdk``; nothing beyond this package is imported.
    """
    uris = {
        "schemes": ["qcache"],
        "handler": "airflow_provider_qcache.assets.qcache.sanitize_uri",
        "factory": "airflow_provider_qcache.assets.qcache.create_asset",
        "to_openlineage_converter": "airflow_provider_qcache.lineage.convert_asset_to_openlineage",
    }
    name = "QCache"
    return {
        "package-name": "airflow-provider-qcache",
        "name": name,
        "description": "Warm, query and invalidate QCache, an in-memory cache of tables queried over HTTP.",
        "connection-types": [connection_fields.connection_type()],
        "cli": ["airflow_provider_qcache.cli.definition.get_qcache_cli_commands"],
        "config": {
            "qcache": {
                "description": "Settings of airflow-provider-qcache.",
                "options": {
                    "cluster_page": {
                        "description": (
                            "Whether the API server has the cluster page, on Airflow 3.1 and newer. It shows "
                            "nodes and tables to users who may read connections."
                        ),
                        "version_added": None,
                        "type": "boolean",
                        "example": None,
                        "default": "False",
                    }
                },
            }
        },
        "extra-links": ["airflow_provider_qcache.links.qcache.QCacheClusterLink"],
        "integrations": [
            {
                "integration-name": name,
                "external-doc-url": "https://github.com/tobgu/qcache",
                "tags": ["service"],
            }
        ],
        **{
            kind: [{"integration-name": name, "python-modules": [f"airflow_provider_qcache.{kind}.qcache"]}]
            for kind in ("operators", "hooks", "sensors", "triggers")
        },
        "task-decorators": [
            {"name": name, "class-name": f"airflow_provider_qcache.decorators.qcache.{name}_task"}
            for name in ("qcache_post", "qcache_query")
        ],
        "asset-uris": [uris],
        "dataset-uris": [uris],
    }
