"""What becomes of each database's types: docs/reference/tables.md, whichever way rows come."""

from __future__ import annotations

import csv
import io
import math

import pytest

from airflow_provider_qcache.client import InvalidTable
from airflow_provider_qcache.transfers import _source
from airflow_provider_qcache.transfers._source import ARROW, COPY, CURSOR
from tests.transfers.conftest import Hook, read, stored

LARGE = 2**53 + 1
UUID = "5a6e7a0c-2ad5-4a2c-8f49-000000000001"


def column(text):
    """The fields of the column ``v`` in a CSV; an empty one is null."""
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    return [row["v"] for row in rows]


# Each value of a column with its type in PostgreSQL; and its type on a node, and its texts in the CSV.
POSTGRES = [
    ("text", ["'007'", "'nan'", "'a\"b,c'", "E'x\\r\\ny'", "' é '", "NULL"], "v=string",
     ["007", "nan", 'a"b,c', "x\r\ny", " é ", ""]),
    ("varchar(3)", ["'01'"], "v=string", ["01"]),
    ("char(3)", ["'01'"], "v=string", ["01 "]),
    ("uuid", [f"'{UUID}'"], "v=string", [UUID]),
    ("boolean", ["true", "NULL", "false"], "", ["true", "", "false"]),
    ("smallint", ["-32768", "32767", "NULL"], "", ["-32768", "32767", ""]),
    ("integer", ["-1", "2147483647"], "", ["-1", "2147483647"]),
    ("bigint", [str(LARGE), str(2**63 - 1), str(-(2**63))], "", [str(LARGE), str(2**63 - 1), str(-(2**63))]),
    ("bigint", [str(2**53), "NULL"], "", [str(2**53), ""]),
    ("real", ["0.1", "'NaN'", "'Infinity'", "NULL"], "v=float", ["0.1", "", "inf", ""]),
    ("float8", ["0.1", "1e300", "'NaN'", "'-Infinity'", "5e-324", "NULL"], "v=float",
     ["0.1", "1e+300", "", "-inf", "5e-324", ""]),
    ("numeric(10, 2)", ["1.50", "-123456.78", "NULL", "'NaN'"], "v=float", ["1.5", "-123456.78", "", ""]),
    ("numeric(18, 0)", ["5", "'NaN'"], "", ["5", ""]),
    ("numeric", ["0.000001", "123456789.012345", "1.10000000000000000000"], "v=float",
     ["0.000001", "123456789.012345", "1.1"]),
    ("date", ["'2024-05-06'", "'0001-01-01'", "'9999-12-31'", "NULL"], "v=string",
     ["2024-05-06", "0001-01-01", "9999-12-31", ""]),
    ("timestamp", ["'2024-05-06 12:00:00'", "'2024-05-06 12:00:00.5'", "'0001-01-01'", "NULL"], "v=string",
     ["2024-05-06 12:00:00", "2024-05-06 12:00:00.500000", "0001-01-01 00:00:00", ""]),
    ("timestamptz", ["'2024-05-06 12:00:00+02'", "'2024-05-06 12:00:00.25-05:30'", "NULL"], "v=string",
     ["2024-05-06 10:00:00+00:00", "2024-05-06 17:30:00.250000+00:00", ""]),
    ("time", ["'12:34:56'", "'12:34:56.7'", "NULL"], "v=string", ["12:34:56", "12:34:56.700000", ""]),
    ("interval", ["'1.5 s'", "'-1 day'", "NULL"], "v=float", ["1.5", "-86400", ""]),
]  # fmt: skip


def is_same(one, other):
    """The same text, or the same number."""
    try:
        return float(one) == float(other) or one == other
    except ValueError:
        return one == other


@pytest.mark.parametrize(("kind", "values", "types", "texts"), POSTGRES, ids=[case[0] for case in POSTGRES])
def test_postgres(postgres_hook, way, kind, values, types, texts):
    rows = ", ".join(f"({number}, ({value})::{kind})" for number, value in enumerate(values))
    found = read(postgres_hook, f"SELECT v FROM (VALUES {rows}) AS t(n, v) ORDER BY n")
    assert found.how == way
    # A lone column's nulls are written as "", and read as null.
    assert len(column(found.text)) == len(texts)
    exact = types == "v=string"
    for got, text in zip(column(found.text), texts, strict=True):
        assert got == text if exact else is_same(got, text)
    assert found.types == types


REFUSED = [
    (f"bigint '{LARGE}'", "bigint '1' | NULL", "integer beyond 2**53 in a column with a null (row 3)", 2),
    (f"{2**63}::numeric(20, 0)", "1::numeric(20, 0)", f"{2**63} is outside", 2),
    ("1.797e308::float8", "1", "is too large: a node parses floats", 2),
    ("123456789.0123456789", "1", "123456789.0123456789 has more than 15 significant digits", 2),
    ("'Infinity'::numeric", "1", "Infinity cannot be stored", 2),
    ("'24:00:00'::time", "'01:00:00'", "24:00:00 is not a time of day", 2),
    ("timestamp 'infinity'", "'2024-01-01'", "outside the years 0001 to 9999", 2),
    ("date '10000-01-01'", "'2024-01-01'", "outside the years 0001 to 9999", 2),
    ("date '0044-03-15 BC'", "'2024-01-01'", "outside the years 0001 to 9999", 2),
    ("interval '1 month'", "'1 day'", "an interval of months or years", 2),
    ("time with time zone '12:00+02'", "'12:00+01'", "a time of day with a time zone", None),
    ("'\\x00'::bytea", "NULL", "cannot be stored", None),
    ("ARRAY[1]", "NULL", "cannot be stored", None),
    ("int4range(1, 2)", "NULL", "cannot be stored", None),
]


@pytest.mark.parametrize(("value", "others", "why", "row"), REFUSED, ids=[case[0] for case in REFUSED])
def test_what_postgres_has_and_a_node_cannot_hold_is_refused(postgres_hook, value, others, why, row):
    first, *more = others.split(" | ")
    sql = f"SELECT 1 AS n, {first} AS v UNION ALL SELECT 1, {value}"
    if more:
        sql += f" UNION ALL SELECT 1, {more[0]}"
    with pytest.raises(InvalidTable) as raised:
        read(postgres_hook, sql)
    assert why in str(raised.value)
    assert (raised.value.column, raised.value.row) == ("v", row)


def test_a_refused_value_is_named_by_its_own_column(postgres_hook):
    """Others in its row that are watched too, and have a null or are fine, are not."""
    moment, large = "timestamp '2024-01-01'", f"bigint '{2**60}'"
    found = read(postgres_hook, f"SELECT {moment} AS m, NULL::bigint AS b, {large} AS c, 1.5::numeric AS d")
    assert found.text == f"m,b,c,d\n2024-01-01 00:00:00,,{2**60},1.5\n"
    with pytest.raises(InvalidTable) as raised:
        read(postgres_hook, f"SELECT {moment} AS m, NULL::bigint AS b, date 'infinity' AS d, {large} AS c")
    assert raised.value.column == "d"


def test_types_that_are_texts_to_postgres(postgres_hook):
    sql = (
        'SELECT \'{"b": 1,  "a": [2]}\'::json AS j, \'{"b": 1,  "a": [2]}\'::jsonb AS jb, '
        "'<a/>'::xml AS x, '10.0.0.1/8'::inet AS i, B'01' AS bits, 'public'::name AS n"
    )
    found = read(postgres_hook, sql)
    assert found.how == COPY
    (row,) = csv.DictReader(io.StringIO(found.text))
    assert row == {
        "j": '{"b": 1,  "a": [2]}',
        "jb": '{"a": [2], "b": 1}',
        "x": "<a/>",
        "i": "10.0.0.1/8",
        "bits": "01",
        "n": "public",
    }


REQUESTED = [
    ("string", "12345678901234567890123::numeric", "12345678901234567890123"),
    ("string", "1.50::numeric(5, 2)", "1.50"),
    ("string", str(LARGE), str(LARGE)),
    ("enum", "'a'", "a"),
    ("float", str(LARGE), str(LARGE - 1)),
    ("float", "123456789.0123456789::numeric", "123456789.0123456789"),
    ("float", "true", "1"),
    ("float", "'1.5'::text", "1.5"),
]


@pytest.mark.parametrize(
    ("requested", "value", "text"), REQUESTED, ids=[f"{w} of {v}" for w, v, _ in REQUESTED]
)
def test_column_types_change_the_rule(postgres_hook, way, requested, value, text):
    found = read(postgres_hook, f"SELECT {value} AS v", column_types={"v": requested})
    assert found.types == f"v={requested}"
    (got,) = column(found.text)
    assert got == text if requested != "float" else float(got) == float(text)


def test_the_query_is_read_by_a_cursor_where_copy_cannot(postgres_hook, caplog):
    caplog.set_level("INFO")
    with postgres_hook.get_conn() as connection:
        connection.cursor().execute("CREATE TABLE IF NOT EXISTS gone (n integer)")
        connection.commit()
    found = read(postgres_hook, "INSERT INTO gone SELECT generate_series(1, 3) RETURNING n")
    assert (found.how, found.text) == (CURSOR, 'n\n"1"\n"2"\n"3"\n')
    assert "Reading the query row by row and not by COPY" in caplog.text
    assert read(postgres_hook, "SELECT count(*) AS n, 1 AS m FROM gone").text == "n,m\n0,1\n"


@pytest.mark.parametrize(
    ("sql", "parameters", "text"),
    [
        ("SELECT 1 AS n -- the end", None, 'n\n"1"\n'),
        ("WITH a AS (SELECT 1 AS n) TABLE a;", None, 'n\n"1"\n'),
        ("VALUES (1, 2)", None, "column1,column2\n1,2\n"),
        ("SELECT '%' AS p", None, 'p\n"%"\n'),
        ("SELECT '%%' AS p, %s AS q", ["it's; DROP"], "p,q\n%,it's; DROP\n"),
        ("SELECT %(b)s::text AS b", {"b": None}, 'b\n""\n'),
        ('SELECT 1 AS "a b", 2 AS "B", 3 AS c', None, "a b,B,c\n1,2,3\n"),
        ("SELECT 1 AS n WHERE false", None, "n\n"),
    ],
)
def test_queries(postgres_hook, sql, parameters, text):
    found = read(postgres_hook, sql, parameters)
    assert found.how == COPY
    assert found.text == text


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("SELECT 1 AS n, 2 AS n", "the table has this column more than once"),
        ('SELECT 1 AS "é"', "its name cannot be sent in CSV or headers"),
        ('SELECT 1 AS "a;b"', "its name cannot be sent in CSV or headers"),
    ],
)
def test_names_of_columns(postgres_hook, way, sql, why):
    with pytest.raises(InvalidTable, match=why):
        read(postgres_hook, sql)


def test_the_session_keeps_its_settings(postgres, driver):
    """Date styles, encodings and time zones of the session change nothing."""

    def connect():
        return driver.connect(postgres.uri, options="-c timezone=Asia/Kolkata -c client_encoding=latin1")

    found = read(Hook(connect), "SELECT timestamptz '2024-05-06 12:00+02' AS t, '€' AS e")
    assert (found.how, found.text) == (COPY, "t,e\n2024-05-06 10:00:00+00:00,€\n")


STYLES = "-c datestyle=German -c intervalstyle=iso_8601 -c extra_float_digits=0"


@pytest.mark.usefixtures("way")
def test_styles_of_a_session_change_nothing(postgres, driver):
    """A role may set any: psycopg 3 cannot read German timestamps, and neither version these intervals."""
    sql = (
        "SELECT '06.05.2024'::date AS d, timestamp '2024-05-06 12:00' AS t, '1 day'::interval AS i, "
        "timestamptz '2024-05-06 12:00+02' AS z, 0.1::float8 + 0.2::float8 AS f"
    )
    found = read(Hook(lambda: driver.connect(postgres.uri, options=STYLES)), sql)
    (row,) = csv.DictReader(io.StringIO(found.text))
    assert (float(row.pop("i")), float(row.pop("f"))) == (86400.0, 0.1 + 0.2)
    assert row == {"d": "2024-05-06", "t": "2024-05-06 12:00:00", "z": "2024-05-06 10:00:00+00:00"}
    with pytest.raises(InvalidTable, match="an interval of months or years"):
        read(Hook(lambda: driver.connect(postgres.uri, options=STYLES)), "SELECT '1 month'::interval AS i")


class TestSqlite:
    """It has types for values, and none for columns."""

    def test_each_type(self, sqlite_hook, client):
        sql = "SELECT 1 AS i, 1.5 AS f, '007' AS t, NULL AS n UNION ALL SELECT NULL, 2, '', NULL"
        assert stored(client, sqlite_hook, sql) == (
            CURSOR,
            [{"i": 1.0, "f": 1.5, "t": "007", "n": None}, {"i": None, "f": 2.0, "t": None, "n": None}],
        )

    @pytest.mark.parametrize(
        ("values", "why", "row"),
        [
            (["1", "'one'"], "type text, but type integer from row 1 on", 2),
            (["'one'", "NULL", "1.5"], "type float, but type text from row 1 on", 3),
            (["x'00'"], "bytes cannot be stored", 1),
            (["'a' || char(0)"], "a text with a NUL", 1),
            ([str(LARGE), "NULL"], "an integer beyond 2**53 in a column with a null (row 2)", 1),
            ([str(LARGE), "1.5"], "float", 1),
            (["1", "9e999"], None, None),
            (["1.797e308"], "is too large: a node parses floats", 1),
        ],
    )
    @pytest.mark.parametrize("batch", [1, 256])
    def test_values(self, sqlite_hook, monkeypatch, values, why, row, batch):
        monkeypatch.setattr(_source, "_FIRST_ROWS", batch)
        monkeypatch.setattr(_source, "_MOST_ROWS", batch)
        sql = " UNION ALL ".join(f"SELECT {number} AS n, {value} AS v" for number, value in enumerate(values))
        if why is None:
            assert column(read(sqlite_hook, sql).text) == ["1", "inf"]
            return
        with pytest.raises(InvalidTable) as raised:
            read(sqlite_hook, sql)
        assert why in str(raised.value)
        assert (raised.value.column, raised.value.row) == ("v", row)

    def test_numbers_and_texts_as_column_types_say(self, sqlite_hook):
        sql = "SELECT 1 AS v UNION ALL SELECT 1.5 UNION ALL SELECT 'one' UNION ALL SELECT NULL"
        found = read(sqlite_hook, sql, column_types={"v": "string"})
        assert (column(found.text), found.types) == (["1", "1.5", "one", ""], "v=string")

    @pytest.mark.parametrize("batch", [1, 3, 1000])
    def test_texts_with_line_breaks_in_partitions(self, sqlite_hook, monkeypatch, batch):
        monkeypatch.setattr(_source, "_FIRST_ROWS", batch)
        sql = (
            "WITH RECURSIVE t(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM t WHERE n < 99) "
            "SELECT n, n % 3 AS part, CASE n % 4 WHEN 0 THEN 'a\n\"b\"\n' WHEN 1 THEN '\"' ELSE 'c' END AS t "
            "FROM t"
        )
        found = read(sqlite_hook, sql, key="k{part}", partition_by=("part",))
        whole = list(csv.DictReader(io.StringIO(read(sqlite_hook, sql).text, newline="")))
        for part in "012":
            rows = list(csv.DictReader(io.StringIO(found.tables[f"k{part}"], newline="")))
            assert rows == [row for row in whole if row["part"] == part]
            assert len(rows) in (33, 34)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("value", ["1e400", "-1.798e308", "1797" + 306 * "0"])
@pytest.mark.parametrize("requested", [{}, {"v": "float"}])
def test_a_numeric_that_no_float_is(postgres_hook, value, requested):
    """A node answers 500, the old table gone, or stores an infinity."""
    sql = f"SELECT 1.5::numeric AS v UNION ALL SELECT {value}::numeric"
    with pytest.raises(InvalidTable, match="is too large: a node parses floats") as raised:
        read(postgres_hook, sql, column_types=requested)
    assert (raised.value.column, raised.value.row) == ("v", 2)


@pytest.mark.usefixtures("way")
def test_a_numeric_of_many_zeros(postgres_hook):
    sql = "SELECT 1.5::numeric AS v UNION ALL SELECT 1e300::numeric UNION ALL SELECT 2 UNION ALL SELECT 'NaN'"
    found = read(postgres_hook, sql)
    assert found.types == "v=float"
    assert [float(value) for value in column(found.text)[:3]] == [1.5, 1e300, 2.0]
    assert column(found.text)[3] == ""
    with pytest.raises(InvalidTable, match="significant digits") as raised:
        read(postgres_hook, "SELECT 1e300::numeric + 1 AS v")
    assert (raised.value.column, raised.value.row) == ("v", 1)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("value", "requested"),
    [
        (f"1.5{400 * '0'}::numeric", None),
        (f"-0.{1100 * '0'}15::numeric", None),
        (f"0.{400 * '3'}::numeric", "float"),
        (f"{300 * '9'}.{300 * '9'}::numeric", "float"),
        (f"-0.{320 * '0'}25::numeric", None),
        (f"'0.{400 * '3'}'::text", "float"),
        ("'nan'::text", "float"),
        ("''::text", "float"),
        ("'-inf'::text", "float"),
    ],
)
def test_a_number_of_many_places_is_stored_as_the_nearest_float(client, postgres_hook, value, requested):
    """A node sums the digits, and fails where they pass the largest float; the old table is gone then."""
    sql = f"SELECT 1 AS n, {value} AS v UNION ALL SELECT 2, {value}"
    _, rows = stored(client, postgres_hook, sql, column_types={"v": requested} if requested else {})
    text = value.partition("::")[0].strip("'")
    number = float(text) if text and text != "nan" else None
    right = None if number is not None and math.isinf(number) else number  # as a node's JSON has it
    assert [row["v"] for row in rows] == [right if right is None else pytest.approx(right)] * 2


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("requested", ["string", "enum"])
def test_nan_as_text_is_null(postgres_hook, requested):
    found = read(
        postgres_hook, "SELECT 'NaN'::numeric AS v UNION ALL SELECT 2.50", column_types={"v": requested}
    )
    assert sorted(column(found.text)) == ["", "2.50"]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("value", ["1 year", "2 months", "1 year 2 months 3 days", "-1 month"])
def test_an_interval_of_months_has_no_seconds(postgres_hook, value):
    assert column(read(postgres_hook, "SELECT interval '-1 day 00:00:01.5' AS v").text) == ["-86398.5"]
    with pytest.raises(InvalidTable, match="an interval of months or years") as raised:
        read(postgres_hook, f"SELECT interval '1 day' AS v UNION ALL SELECT interval '{value}'")
    assert (raised.value.column, raised.value.row) == ("v", 2)


def test_large_integers_as_floats(duckdb_hook):
    sql = "SELECT 1::HUGEINT AS v UNION ALL SELECT 20000000000000000000::HUGEINT UNION ALL SELECT NULL"
    found = read(duckdb_hook, sql, column_types={"v": "float"})
    assert [float(value) if value else None for value in column(found.text)] == [1.0, 2e19, None]


def test_duckdb(duckdb_hook, client):
    sql = (
        "SELECT '007' AS zip, 1::UTINYINT AS i, 1.5::DECIMAL(5, 2) AS d, 5::HUGEINT AS h, "
        "DATE '2024-05-06' AS day, TIMESTAMP '2024-05-06 12:00:00.5' AS at, TIME '12:34:56' AS t, true AS b, "
        "INTERVAL 90 SECOND AS s, 'a'::ENUM('a', 'b') AS e, uuid '5a6e7a0c-2ad5-4a2c-8f49-000000000001' AS u"
    )
    how, rows = stored(client, duckdb_hook, sql)
    assert how == ARROW
    assert rows == [
        {
            "zip": "007",
            "i": 1,
            "d": 1.5,
            "h": 5,
            "day": "2024-05-06",
            "at": "2024-05-06 12:00:00.500000",
            "t": "12:34:56",
            "b": True,
            "s": 90.0,
            "e": "a",
            "u": "5a6e7a0c-2ad5-4a2c-8f49-000000000001",
        }
    ]
    with pytest.raises(InvalidTable, match=r"list<.*> cannot be stored"):
        read(duckdb_hook, "SELECT [1] AS v")
    with pytest.raises(InvalidTable, match="is outside"):
        read(duckdb_hook, f"SELECT {2**64}::HUGEINT AS v")
