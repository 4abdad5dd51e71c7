"""Print the results of commands: tables for people, JSON for scripts, and colours on a terminal only."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(rows: Sequence[Mapping[str, Any]], *, bad: Iterable[int] = ()) -> None:
    """Print rows under the names of their columns, those that are ``bad`` in red; None shows as nothing.

    On a terminal rich lays the table out, where it is installed. Else each column is as wide as its longest
    value, and no line is cut. Nothing is printed without rows.
    """
    if not rows:
        return
    columns = list(dict.fromkeys(name for row in rows for name in row))
    values = ([row.get(name) for name in columns] for row in rows)
    texts = [["" if value is None else str(value) for value in row] for row in values]
    if sys.stdout.isatty():
        try:
            from rich.console import Console  # noqa: PLC0415
            from rich.table import Table  # noqa: PLC0415
            from rich.text import Text  # noqa: PLC0415
        except ImportError:
            pass
        else:
            table = Table()
            for column in columns:
                table.add_column(Text(column), overflow="fold")
            red = set(bad)
            for number, row in enumerate(texts):
                table.add_row(*map(Text, row), style="red" if number in red else None)
            Console().print(table)
            return
    lines = [columns, *texts]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def print_note(text: str) -> None:
    """Print to stderr what is not a result."""
    if sys.stderr is not None:  # print would write to stdout
        print(text, file=sys.stderr)
