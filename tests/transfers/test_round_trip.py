"""What a node answers is what the database says, by the rule for its type: any values, either way.

The oracle is the database's own driver, which fetches the same query; the rules are those of tabular.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import os
import sqlite3
import uuid
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from airflow_provider_qcache.client import InvalidTable
from airflow_provider_qcache.transfers import _source
from tests.client.tabular import matches_stored
from tests.client.test_tables_round_trip import TEXTS
from tests.transfers.conftest import Hook, stored

CASES = int(os.environ.get("QCACHE_ROUND_TRIPS", "0"))
"""Examples of each test, other ones in every run; 0 for a few, always the same."""

MOMENTS = st.datetimes(*map(dt.datetime.fromisoformat, ("0001-01-02", "9999-12-30")))
PLACES = st.decimals(-(10**9), 10**9, places=4)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "text": TEXTS,
    "varchar(40)": TEXTS,
    "uuid": st.uuids(),
    "boolean": st.booleans(),
    "smallint": st.integers(-(2**15), 2**15 - 1),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "real": st.floats(width=32, allow_infinity=False),
    "double precision": st.floats(-1.7e308, 1.7e308),
    "numeric": PLACES,
    "numeric(15, 4)": PLACES,
    "numeric(18, 0)": st.decimals(-(2**53), 2**53, places=0),
    "date": st.dates(),
    "timestamp": MOMENTS | MOMENTS.map(lambda moment: moment.replace(microsecond=0)),
    "timestamptz": MOMENTS.map(lambda moment: moment.replace(tzinfo=dt.UTC)),
    "time": st.times() | st.times().map(lambda time: time.replace(microsecond=0)),
    "interval": st.timedeltas(dt.timedelta(days=-(10**4)), dt.timedelta(days=10**4)),
}
LITE: dict[str, st.SearchStrategy[Any]] = {
    "text": TEXTS,
    "integer": VALUES["bigint"],
    "real": VALUES["double precision"],
}
DIGITS = {"real": 6}
ROUND_TRIPS = settings(
    max_examples=CASES or 25,
    deadline=None,
    derandomize=not CASES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def tables(draw: st.DrawFn, kinds: dict[str, st.SearchStrategy[Any]]) -> tuple[list[str], list[list[Any]]]:
    """Types of up to six columns, and up to eight rows of values; nulls in most columns."""
    chosen = draw(st.lists(st.sampled_from(list(kinds)), min_size=1, max_size=6))
    rows = draw(st.integers(0, 8))
    columns = []
    for kind in chosen:
        values = kinds[kind] if draw(st.booleans()) else kinds[kind] | st.none()
        column = draw(st.lists(values, min_size=rows, max_size=rows))
        if None in column and kind in ("bigint", "integer"):
            column = [value if value is None or abs(value) <= 2**53 else 2**53 for value in column]
        columns.append(column)
    return chosen, [list(row) for row in zip(*columns, strict=True)]


def compare(kinds: list[str], text: list[tuple[Any, ...]], answered: list[dict[str, Any]]) -> None:
    """The database's rows beside a node's."""
    assert len(answered) == len(text)
    for row, answer in zip(text, answered, strict=True):
        assert len(row) == len(answer)
        for place, (kind, value) in enumerate(zip(kinds, row, strict=True)):
            got = answer[f"c{place}"]
            known = str(value) if isinstance(value, uuid.UUID) else value
            right = matches_stored(got, known, digits=DIGITS.get(kind, 9), as_json=False)
            assert right, (kind, value, got)


@ROUND_TRIPS
@given(table=tables(VALUES))
def test_postgres(client, postgres, postgres_hook, way, table):
    kinds, rows = table
    with contextlib.closing(psycopg.connect(postgres.uri, autocommit=True)) as database:
        database.execute("DROP TABLE IF EXISTS round_trip")
        columns = ", ".join(f"c{place} {kind}" for place, kind in enumerate(kinds))
        database.execute(f"CREATE TABLE round_trip (n serial, {columns})")
        names = ", ".join(f"c{place}" for place in range(len(kinds)))
        marks = ", ".join(["%s"] * len(kinds))
        if rows:
            database.cursor().executemany(f"INSERT INTO round_trip ({names}) VALUES ({marks})", rows)
        query = f"SELECT {names} FROM round_trip ORDER BY n"
        text = database.execute(query).fetchall()
    how, answered = stored(client, postgres_hook, query)
    assert how == way
    compare(kinds, text, answered)


@ROUND_TRIPS
@given(table=tables(LITE), batch=st.sampled_from([1, 3, 256]))
def test_sqlite(client, tmp_path, table, batch):
    kinds, rows = table
    path = tmp_path / "round_trip.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("DROP TABLE IF EXISTS round_trip")
        names = ", ".join(f"c{place}" for place in range(len(kinds)))
        columns = ", ".join(f"c{place} {kind}" for place, kind in enumerate(kinds))
        database.execute(f"CREATE TABLE round_trip ({columns})")
        database.executemany(f"INSERT INTO round_trip VALUES ({', '.join('?' * len(kinds))})", rows)
        text = database.execute(f"SELECT {names} FROM round_trip ORDER BY rowid").fetchall()
    assume(not any(isinstance(value, float) and math.isinf(value) for row in text for value in row))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_source, "_FIRST_ROWS", batch)
        patch.setattr(_source, "_MOST_ROWS", batch)
        hook = Hook(lambda: sqlite3.connect(path))
        try:
            _, answered = stored(client, hook, f"SELECT {names} FROM round_trip ORDER BY rowid")
        except InvalidTable as error:
            if not any(isinstance(value, int) and abs(value) > 2**53 for row in text for value in row):
                raise AssertionError("there is nothing to refuse") from error
            return
    compare(kinds, text, answered)
