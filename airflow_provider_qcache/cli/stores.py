"""Which tasks stored a table last, from the events of its asset in Airflow's database."""

from __future__ import annotations

import re
from typing import Any, Final

from airflow_provider_qcache.assets.qcache import key_in, tables_uri

_MOST: Final = 5
_MOST_EVENTS: Final = 500
"""The most events that are read; those of deletes are left out."""
_ANY_KEYS: Final = re.compile(r"\{[^{}]+\}|\*")


def last_stores(key: str, conn_id: str) -> list[dict[str, Any]] | None:
    """The last stores of a table, the newest first; None if Airflow's database cannot be read.

    A task that stored many tables has one event for the pattern of their keys, which may cover others too.
    """
    try:
        from airflow.models.asset import AssetEvent, AssetModel  # noqa: PLC0415
        from airflow.utils.session import create_session  # noqa: PLC0415
        from sqlalchemy import select  # noqa: PLC0415
    except ImportError:
        return None
    found: list[dict[str, Any]] = []
    try:
        with create_session() as session:
            ours = select(AssetModel.id, AssetModel.uri).where(
                AssetModel.uri.startswith(tables_uri(conn_id), autoescape=True)
            )
            assets = {id_: uri for id_, uri in session.execute(ours) if _covers(key_in(uri, conn_id), key)}
            of_assets = select(AssetEvent).where(AssetEvent.asset_id.in_(assets))
            for event in session.scalars(of_assets.order_by(AssetEvent.timestamp.desc()).limit(_MOST_EVENTS)):
                fields = fields_of(event)
                if fields.pop("operation") == "delete":
                    continue
                found.append({**fields, "asset": assets[event.asset_id]})
                if len(found) == _MOST:
                    break
    except Exception:  # noqa: BLE001  # a database that is not there says so in many ways
        return None
    return found


def fields_of(event: Any) -> dict[str, Any]:
    """What an asset's event tells of a store or a delete: when, by which task, rows and node."""
    extra = event.extra if isinstance(event.extra, dict) else {}
    return {
        "time": event.timestamp.isoformat(timespec="seconds"),
        "operation": extra.get("operation", "store"),
        "dag_id": event.source_dag_id,
        "run_id": event.source_run_id,
        "task_id": event.source_task_id,
        "rows": extra.get("rows"),
        "node": extra.get("node"),
    }


def _covers(pattern: str | None, key: str) -> bool:
    """Whether a key, or a pattern of keys (``sales_{region}``, ``sales_*``), is or covers a key."""
    if pattern is None:
        return False
    return re.fullmatch(".+".join(map(re.escape, _ANY_KEYS.split(pattern))), key) is not None
