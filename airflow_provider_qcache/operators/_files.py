"""A table for each file, stored in one task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.operators._arguments import counted

if TYPE_CHECKING:
    from airflow_provider_qcache.client import BulkReport

_SHOWN: Final = 10


def summary_of(report: BulkReport) -> tuple[dict[str, Any], str]:
    """What became of many tables: as XCom, and in a line. Of a report without failures."""
    results: list[Any] = list(report.succeeded.values())
    may_hold_old: dict[str, int] = {}
    for stored in results:
        for node in stored.may_hold_old:
            may_hold_old[node] = may_hold_old.get(node, 0) + 1
    failed_over = [stored.key for stored in results if stored.failed_over]
    summary = {
        "tables": len(results),
        "rows": sum(stored.rows for stored in results),
        "bytes": sum(stored.bytes for stored in results),
        "seconds": round(report.seconds, 3),
        "failed_over": failed_over,
        "may_hold_old": may_hold_old,
        "attempts": sum(len(stored.attempts) for stored in results),
    }
    said = f"Stored {counted(len(results), 'table')}: {counted(summary['rows'], 'row')}, "
    said += f"{summary['bytes']:,} bytes, {report.seconds:.2f} s"
    if may_hold_old:
        said += f"; older tables may be on {', '.join(may_hold_old)}"
    if failed_over:
        more = f" and {len(failed_over) - _SHOWN} more" if len(failed_over) > _SHOWN else ""
        said += f"; the home was down of {', '.join(failed_over[:_SHOWN])}{more}"
    return summary, said
