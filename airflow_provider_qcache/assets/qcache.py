"""Tables as assets of Airflow, datasets on Airflow 2: ``qcache://<connection>/<key>``.

Airflow imports this module, by provider_info, when it creates the first asset of any provider, so it loads
neither the client nor requests.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from urllib.parse import SplitResult

    from airflow_provider_qcache.compat import Asset

__all__ = ["qcache_asset", "qcache_statistics_asset"]

SCHEME: Final = "qcache"

_PATTERN_CHARACTERS: Final = "{}*"
_KEY_OR_PATTERN: Final = re.compile(r"(?:[A-Za-z0-9_-]|\{[^{}]+\}|\*)+").fullmatch
_FORM: Final = "qcache://<connection>/<key>"


def qcache_asset(key: str, conn_id: str = "qcache_default") -> Asset:
    """The asset of a table, for ``schedule``, ``inlets`` and ``outlets``.

    Args:
        key: The table's key. For many tables their pattern: a key with columns in braces, as with
            ``partition_by`` (``sales_{region}``), or with ``*`` (``sales_*``).
        conn_id: The connection of the cluster.

    Raises:
        ValueError: the key is neither a key of QCache nor a pattern.
    """
    return create_asset(key=key, conn_id=conn_id)


def qcache_statistics_asset(conn_id: str = "qcache_default") -> Asset:
    """The asset of a cluster's statistics, for ``outlets`` of QCacheStatisticsOperator.

    Its events keep the statistics for the cluster page.
    """
    from airflow_provider_qcache.compat import Asset  # noqa: PLC0415  # it imports Airflow

    return Asset(uri=statistics_uri(conn_id))


def statistics_uri(conn_id: str) -> str:
    """The URI of a cluster's statistics; its scheme differs from that of tables, whose URIs have keys."""
    return f"x-qcache-statistics://{quote(conn_id, safe='')}"


def create_asset(*, key: str, conn_id: str, extra: Mapping[str, Any] | None = None) -> Asset:
    """The asset of a table, see ``qcache_asset``; Airflow's lineage collector calls this."""
    from airflow_provider_qcache.compat import Asset  # noqa: PLC0415  # it imports Airflow

    return Asset(uri=uri_of(key, conn_id), extra=dict(extra or {}))


def uri_of(key: Any, conn_id: Any) -> str:
    """The URI of a table, normalised."""
    if not isinstance(key, str) or _KEY_OR_PATTERN(key) is None:
        raise ValueError(
            f"key={key!r}: expected the key of a table (ASCII letters, digits, '-' and '_'), or a pattern of "
            "keys: columns in braces, or '*'"
        )
    if not isinstance(conn_id, str) or not conn_id.strip():
        raise ValueError(f"conn_id={conn_id!r}: expected the id of a connection")
    return tables_uri(conn_id) + quote(key, safe=_PATTERN_CHARACTERS)


def tables_uri(conn_id: str) -> str:
    """What the URIs of all tables of a connection begin with."""
    return f"{SCHEME}://{quote(conn_id, safe='')}/"


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """The URI in one spelling, so that equal tables are equal assets; Airflow calls this.

    Raises:
        ValueError: it is not ``qcache://<connection>/<key>``.
    """
    if not uri.netloc:
        raise ValueError(f"{uri.geturl()!r}: the connection is missing; expected {_FORM}")
    if not set(":@").isdisjoint(uri.netloc):
        raise ValueError(
            f"{uri.geturl()!r}: {uri.netloc!r} is not the id of a connection; expected {_FORM}, without the "
            "address of a node"
        )
    if uri.query or uri.fragment:
        raise ValueError(f"{uri.geturl()!r}: expected {_FORM}, without a query or a fragment")
    try:
        normal = urlsplit(uri_of(unquote(uri.path.strip("/")), unquote(uri.netloc)))
    except ValueError as error:
        raise ValueError(f"{uri.geturl()!r}: {error}") from error
    return uri._replace(netloc=normal.netloc, path=normal.path)


def key_in(uri: str, conn_id: str) -> str | None:
    """The key, or the pattern, of a URI of this connection's tables; None for every other URI."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    if parts.scheme != SCHEME or unquote(parts.netloc) != conn_id:
        return None
    return unquote(parts.path.strip("/"))


def pattern_of(keys: Iterable[str]) -> str:
    """The pattern of several keys: their common beginning and ``*``; for one key the key itself."""
    different = set(keys)
    if len(different) == 1:
        return different.pop()
    return f"{os.path.commonprefix(list(different))}*"  # noqa: RUF071  # by characters, as keys are no paths
