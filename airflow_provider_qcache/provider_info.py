"""What Airflow's provider registry is told about this package."""

from __future__ import annotations

from airflow_provider_qcache import connection_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider's registration, in the form of Airflow's ``provider_info`` schema.

    Airflow calls it in every process that imports ``airflow.sdk``; nothing beyond this package is imported.
    """
    return {
        "package-name": "airflow-provider-qcache",
        "name": "QCache",
        "description": "Warm, query and invalidate QCache, an in-memory cache of tables queried over HTTP.",
        "connection-types": [connection_fields.connection_type()],
    }
