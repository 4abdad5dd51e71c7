"""What became of a table, in the log and as XCom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_qcache.operators._arguments import counted
from airflow_provider_qcache.operators.errors import StoredOnFailover

if TYPE_CHECKING:
    import logging

    from airflow_provider_qcache.client import StoreResult


def told(
    stored: StoreResult, log: logging.Logger, *, copies: int, require_home: bool, may_be_empty: bool = False
) -> dict[str, Any]:
    """Log what became of one table, and give it for XCom; that it has no rows is a warning, unless it may.

    Raises:
        StoredOnFailover: with ``require_home``, where its home was down.
    """
    rows = "rows not counted" if stored.rows is None else counted(stored.rows, "row")
    said = f"Stored table {stored.key!r} on {stored.node}: "
    said += f"{rows}, {stored.bytes:,} bytes, {stored.seconds:.2f} s"
    result = {
        "key": stored.key,
        "node": stored.node,
        "home_node": stored.home_node,
        "failed_over": stored.failed_over,
        "may_hold_old": list(stored.may_hold_old),
        "bytes": stored.bytes,
        "rows": stored.rows,
        "seconds": round(stored.seconds, 3),
        "attempts": [
            {
                "node": attempt.node,
                "phase": str(attempt.phase),
                "outcome": str(attempt.outcome),
                "status": attempt.status,
                "seconds": round(attempt.seconds, 3),
            }
            for attempt in stored.attempts
        ],
    }
    if copies > 1:
        result["copies"] = list(stored.copies)
        result["failed_copies"] = dict(stored.failed_copies)
        said += f", with {len(stored.copies)} of {copies - 1} further copies"
    if stored.may_hold_old:
        said += f"; an older table may be on {', '.join(stored.may_hold_old)}"
    if stored.failed_over:
        said += f"; its home {stored.home_node} was down"
        if require_home:
            raise StoredOnFailover(f"{said}, and require_home is set", result=result)
    if stored.failed_over or (stored.rows == 0 and not may_be_empty):
        log.warning("%s", said)
    else:
        log.info("%s", said)
    return result
