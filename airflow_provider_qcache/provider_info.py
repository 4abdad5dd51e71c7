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
    return {
        "package-name": "airflow-provider-qcache",
        "name": "QCache",
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
                "integration-name": "QCache",
                "external-doc-url": "https://github.com/tobgu/qcache",
                "tags": ["service"],
            }
        ],
        "operators": [
            {"integration-name": "QCache", "python-modules": ["airflow_provider_qcache.operators.qcache"]}
        ],
        "hooks": [{"integration-name": "QCache", "python-modules": ["airflow_provider_qcache.hooks.qcache"]}],
        "task-decorators": [
            {
                "name": "qcache_post",
                "class-name": "airflow_provider_qcache.decorators.qcache.qcache_post_task",
            },
            {
                "name": "qcache_query",
                "class-name": "airflow_provider_qcache.decorators.qcache.qcache_query_task",
            },
        ],
        "sensors": [
            {"integration-name": "QCache", "python-modules": ["airflow_provider_qcache.sensors.qcache"]}
        ],
        "triggers": [
            {"integration-name": "QCache", "python-modules": ["airflow_provider_qcache.triggers.qcache"]}
        ],
        "asset-uris": [uris],
        "dataset-uris": [uris],
    }
