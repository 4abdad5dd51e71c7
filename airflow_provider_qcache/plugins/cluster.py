"""What the cluster page shows: from the nodes, and from Airflow's database.

Each function answers one request of the page. It may take seconds and runs in a thread of its own.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, Final

from airflow.models.asset import AssetEvent, AssetModel
from airflow.models.connection import Connection
from airflow.utils.session import create_session
from sqlalchemy import func, select

from airflow_provider_qcache.assets.qcache import key_in, statistics_uri, tables_uri
from airflow_provider_qcache.cli.shares import change_of_shares, moved_share, ring_change, shares
from airflow_provider_qcache.cli.stores import fields_of, last_stores
from airflow_provider_qcache.client import QClient, Ring
from airflow_provider_qcache.compat import AirflowNotFoundException
from airflow_provider_qcache.connection import parse_connection
from airflow_provider_qcache.connection_fields import CONN_TYPE
from airflow_provider_qcache.hooks.node_check import check_nodes
from airflow_provider_qcache.plugins.queries import check_query

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from airflow_provider_qcache.connection import ConnectionSettings

_DEADLINE: Final = 8.0
"""Seconds for an operation on the nodes, which has less than the page's own limit for each request."""
_MOST_BYTES: Final = 1024 * 1024
"""Bytes of an answer."""
_DEFAULT: Final = "qcache_default"
_MOST_CONNECTIONS: Final = 100
_MOST_ASSETS: Final = 500
_MOST_READINGS: Final = 288
"""Of the statistics: a day, read every five minutes."""
_MOST_NUMBERS: Final = 60_000
"""Of all readings of all nodes together, so that a large cluster has fewer readings."""
_SHOWN: Final = ("cache_size", "dataset_count", "hit_count", "miss_count")
_NO_EVENT: Final = dict.fromkeys(("time", "operation", "dag_id", "run_id", "task_id", "rows", "node"))
_EXACT: Final = 2**53
"""Whole numbers from here on are rounded by JavaScript."""


class NoSuchConnection(LookupError):
    """There is no connection of this id, or it is none of a QCache."""


def _connection(conn_id: str) -> Connection:
    try:
        connection = Connection.get_connection_from_secrets(conn_id)
    except AirflowNotFoundException as error:
        raise NoSuchConnection(f"there is no connection {conn_id!r}") from error
    if connection.conn_type != CONN_TYPE:
        raise NoSuchConnection(
            f"connection {conn_id!r} has the type {connection.conn_type!r}, not {CONN_TYPE!r}"
        )
    return connection


def _settings(conn_id: str) -> ConnectionSettings:
    return parse_connection(_connection(conn_id))


def _arguments(settings: ConnectionSettings) -> dict[str, Any]:
    """Those of a client for whom someone waits, in a server that others use."""
    arguments = settings.client_arguments({"wait_for_nodes": False})
    return {
        **arguments,
        "connect_timeout": min(2.0, settings.connect_timeout),
        "read_timeout": min(5.0, settings.read_timeout),
        "deadline": min(_DEADLINE, settings.deadline),
        "max_response_bytes": min(_MOST_BYTES, settings.max_response_bytes),
    }


def connections(may_read: Callable[[str, str | None], bool]) -> list[str]:
    """The default connection, wherever it is, and those to a QCache that are in Airflow's database.

    Only connections that the user may read. Others of the environment and of secrets backends cannot be
    listed; the page takes them by name.
    """
    ours = select(Connection.conn_id).where(Connection.conn_type == CONN_TYPE).order_by(Connection.conn_id)
    with create_session() as session:
        known = list(session.scalars(ours.limit(_MOST_CONNECTIONS)))
    if _DEFAULT not in known:
        with contextlib.suppress(NoSuchConnection):
            known.insert(0, _connection(_DEFAULT).conn_id)
    return [conn_id for conn_id in known if may_read(conn_id, Connection.get_team_name(conn_id))]


def nodes(conn_id: str) -> dict[str, Any]:
    """Each node's health, latency and share of the ring, and the statistics that a task has kept."""
    settings = _settings(conn_id)
    share = shares(Ring(settings.nodes))
    checks = check_nodes(_arguments(settings), longest=_DEADLINE)
    return {
        "nodes": [
            {
                "node": check.node,
                "trouble": check.trouble,
                "same_as": check.same_as,
                "milliseconds": round(1000 * check.seconds, 1),
                "share": share[check.node],
            }
            for check in checks
        ],
        "readings": _readings(conn_id, settings.nodes),
    }


def _readings(conn_id: str, shown: Sequence[str]) -> list[dict[str, Any]]:
    """What QCacheStatisticsOperator has kept of these nodes, the oldest first."""
    most = min(_MOST_READINGS, max(2, _MOST_NUMBERS // (len(_SHOWN) * len(shown))))
    with create_session() as session:
        events = session.execute(
            select(AssetEvent.timestamp, AssetEvent.extra)
            .join(AssetModel, AssetModel.id == AssetEvent.asset_id)
            .where(AssetModel.uri == statistics_uri(conn_id))
            .order_by(AssetEvent.timestamp.desc())
            .limit(most)
        ).all()
    return [
        {
            "time": time.isoformat(timespec="seconds"),
            "nodes": {node: _numbers(extra["nodes"][node]) for node in shown if node in extra["nodes"]},
        }
        for time, extra in reversed(events)
        if isinstance(extra, dict) and isinstance(extra.get("nodes"), dict)
    ]


def _numbers(statistics: Any) -> dict[str, float]:
    """Those that the page shows of a node's statistics; an event's extra can be anybody's."""
    if not isinstance(statistics, dict):
        return {}
    return {name: value for name in _SHOWN if isinstance(value := statistics.get(name), int | float)}


def ring(conn_id: str, add: Sequence[str], remove: Sequence[str]) -> dict[str, Any]:
    """Each node's share of all keys before and after a change, and the share that moves; no node is asked.

    Raises ValueError if the change cannot be made.
    """
    before, after = ring_change(_settings(conn_id).nodes, add, remove)
    return {"moved": moved_share(before, after), "nodes": change_of_shares(before, after)}


def where(conn_id: str, key: str, readable_dags: Collection[str]) -> dict[str, Any]:
    """Which nodes have a table, in the order in which readers ask them, and which tasks stored it last."""
    with QClient(**_arguments(_settings(conn_id))) as client:
        places = client.locate(key)
    stores = last_stores(key, conn_id) or []
    return {
        "places": [place.as_dict() for place in places],
        "stores": [_without_dag(store, readable_dags) for store in stores],
    }


def _without_dag(store: dict[str, Any], readable: Collection[str]) -> dict[str, Any]:
    """A store, without the names of a DAG that the user may not read."""
    if store["dag_id"] is None or store["dag_id"] in readable:
        return store
    return {**store, **dict.fromkeys(("dag_id", "run_id", "task_id"))}


def assets(conn_id: str, readable_dags: Collection[str]) -> dict[str, Any]:
    """The assets of the cluster's tables with the last event of each: those without one, then the oldest.

    ``more`` is whether there are others.
    """
    _settings(conn_id)
    last = (
        select(func.max(AssetEvent.id))
        .where(AssetEvent.asset_id == AssetModel.id)
        .correlate(AssetModel)
        .scalar_subquery()
    )
    with create_session() as session:
        rows = session.execute(
            select(AssetModel.uri, AssetEvent)
            .outerjoin(AssetEvent, AssetEvent.id == last)
            .where(AssetModel.uri.startswith(tables_uri(conn_id), autoescape=True))
            .order_by(AssetEvent.id.is_not(None), AssetEvent.timestamp, AssetModel.uri)
            .limit(_MOST_ASSETS + 1)
        ).all()
        found = [
            {"key": key, **(_NO_EVENT if event is None else _without_dag(fields_of(event), readable_dags))}
            for uri, event in rows
            if (key := key_in(uri, conn_id)) is not None
        ]
    return {"assets": found[:_MOST_ASSETS], "more": len(found) > _MOST_ASSETS}


def query(conn_id: str, key: str, asked: Any) -> dict[str, Any] | None:
    """The rows of a query; None where there is no table. Raises RefusedQuery if it may do more than read."""
    checked = check_query(asked)
    with QClient(**_arguments(_settings(conn_id))) as client:
        result = client.get(key, checked)
    if result is None:
        return None
    rows = json.loads(result.content, parse_int=_exact)
    return {"rows": rows, "of": result.unsliced_result_len, "node": result.node}


def _exact(digits: str) -> int | str:
    """A whole number, as text where a browser would round it."""
    number = int(digits)
    return number if -_EXACT <= number <= _EXACT else digits
