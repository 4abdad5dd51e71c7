"""Write the table of the connection's fields into docs/reference/connection.md, from the fields themselves.

python scripts/connection_table.py
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "connection.md"
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from airflow_provider_qcache.connection_fields import EXTRA, STANDARD  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_qcache.connection_fields import Field

_TYPES = {
    "nodes": "list of strings, or text",
    "seconds": "number",
    "count": "integer",
    "flag": "boolean",
    "path": "path",
    "text": "text",
    "secret": "text, secret",
}


def table(fields: Iterable[Field]) -> str:
    """A Markdown table of the fields."""
    lines = ["| field | type | default | allowed | |", "|---|---|---|---|---|"]
    for field in fields:
        unit = f" {field.unit}" if field.unit and field.default is not None else ""
        kind = "text" if field.name == "host" else _TYPES[field.kind]
        cells = (f"`{field.name}`", kind, f"{field.default_text}{unit}", field.allowed, field.about)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def with_tables(page: str) -> str:
    """The page with the tables of the fields between its markers."""
    for name, fields in (("standard", STANDARD), ("extra", EXTRA)):
        begin, end = f"<!-- fields: {name} -->\n", f"\n<!-- end: {name} -->"
        pattern = re.escape(begin) + ".*?" + re.escape(end)
        page, count = re.subn(pattern, lambda _: begin + table(fields) + end, page, flags=re.DOTALL)  # noqa: B023
        if count != 1:
            raise ValueError(f"{PAGE}: expected the markers of the table {name!r} exactly once")
    return page


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
