"""Files and frames that become tables: what a node answers is what pandas and pyarrow read from the same."""

from __future__ import annotations

import datetime as dt
import decimal
import gzip
import io
import json
import math
import sys
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from airflow_provider_qcache.client import InvalidKey, InvalidTable
from airflow_provider_qcache.compat import AirflowFailException
from airflow_provider_qcache.files.columnar import FilesSource
from airflow_provider_qcache.files.listing import Format, find_files
from airflow_provider_qcache.operators.errors import StoredOnFailover, TablesFailed
from airflow_provider_qcache.operators.qcache import QCachePostOperator, QCacheQueryOperator
from tests.client.tabular import matches_stored
from tests.harness.servers import Server

NOON = dt.datetime(2024, 5, 6, 12)  # noqa: DTZ001  # a time without a zone is meant
TABLE = pa.table(
    {
        "zip": ["00501", "02139", "nan", None],
        "n": [1, 2, 3, 4],
        "some": [1, None, 3, 4],
        "x": [0.1, math.nan, math.inf, None],
        "flag": [True, False, None, True],
        "at": [NOON, NOON.replace(microsecond=5), None, NOON],
        "zoned": pa.array([NOON, None, NOON, NOON], pa.timestamp("ms", "Europe/Berlin")),
        "day": [dt.date(2024, 5, 6), None, dt.date(1, 1, 1), dt.date(9999, 12, 31)],
        "price": [decimal.Decimal("1.50"), None, decimal.Decimal("-2.25"), decimal.Decimal("0.00")],
        "kind": pa.array(["a", "b", None, "a"]).dictionary_encode(),
        "text": ['a "quoted", one', "two\nlines", "größe", " padded "],
        "lasted": pa.array([1500, None, 0, 250], pa.duration("ms")),
    }
)
FURTHER = TABLE.slice(0, 2)
CSV = "zip,n\n00501,1\n02139,2\n"
ROWS = [{"zip": 501, "n": 1}, {"zip": 2139, "n": 2}]


def post(**arguments):
    """Make a task of these arguments, render it and run it."""
    task = QCachePostOperator(task_id="post", **{"key": "zips", **arguments})
    task.render_template_fields({"ds": "2024-05-01"})
    return task.execute({})


COMPRESSIONS = {"": bytes, ".gz": gzip.compress, ".zst": lambda data: pa.compress(data, "zstd", asbytes=True)}


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=3)
    return sink.getvalue()


NANOSECONDS, MICROSECONDS = pa.timestamp("ns"), pa.timestamp("us")


def int96(path: Path, row_group_size: int | None = None, **columns: pa.Array) -> None:
    """Write a file as Spark, Hive and Impala do: without Arrow's schema."""
    pq.write_table(
        pa.table(columns),
        path,
        row_group_size,
        compression="none",
        use_dictionary=False,
        use_deprecated_int96_timestamps=True,
        store_schema=False,
    )


def feather(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pyarrow.feather.write_feather(table, sink)
    return sink.getvalue()


def arrow_stream(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table, max_chunksize=3)
    return sink.getvalue()


COLUMNAR = {".parquet": parquet, ".feather": feather, ".arrows": arrow_stream}


def assert_stored(rows, *tables):
    """What a node answers is what the tables hold, by the rules of docs/reference/tables.md."""
    expected_rows = pa.concat_tables(tables, promote_options="permissive").to_pylist()
    assert len(rows) == len(expected_rows)
    for got, row in zip(rows, expected_rows, strict=True):
        for name, value in row.items():
            if isinstance(value, float) and math.isinf(value):
                value = None  # noqa: PLW2901  # a node's JSON shows no infinity
            assert matches_stored(got[name], value, digits=10, as_json=False), (name, got[name], value)


class Place:
    """A directory on this machine, or of a storage."""

    def __init__(self, path):
        self.path = path

    def put(self, **files):
        """Write files by name, in directories of their own where the names have some."""
        for name, data in files.items():
            path = self.path / name
            if isinstance(path, Path):
                path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def __str__(self):
        return str(self.path)


@pytest.fixture(params=["local", "remote"])
def place(request, tmp_path, remote):
    """An empty directory."""
    if request.param == "local":
        return Place(tmp_path)
    remote.fs.mkdir("/operators/files")
    return Place(remote / "files")


class TestOneFile:
    @pytest.mark.parametrize("compression", COMPRESSIONS)
    @pytest.mark.parametrize("suffix", COLUMNAR)
    def test_columnar(self, reader, place, suffix, compression):
        (place.path / f"t{suffix}{compression}").write_bytes(
            COMPRESSIONS[compression](COLUMNAR[suffix](TABLE))
        )
        result = post(source_path=f"{place}/t{suffix}{compression}", check_row_count=True)
        assert result["rows"] == 4
        assert_stored(reader("zips"), TABLE)

    @pytest.mark.parametrize("compression", COMPRESSIONS)
    def test_csv(self, reader, place, compression):
        (place.path / f"t.csv{compression}").write_bytes(COMPRESSIONS[compression](CSV.encode()))
        result = post(source_path=f"{place}/t.csv{compression}")
        assert (result["rows"], result["bytes"]) == (2, len(CSV))
        assert reader("zips") == pd.read_csv(io.StringIO(CSV)).to_dict("records")

    @pytest.mark.parametrize("compression", COMPRESSIONS)
    @pytest.mark.parametrize("name", ["t.json", "t.jsonl", "t.ndjson"])
    def test_json(self, reader, place, name, compression):
        rows = [{"a": n, "b": f"ö{n}]"} for n in range(3)]
        data = json.dumps(rows) if name == "t.json" else "".join(json.dumps(row) + "\n" for row in rows)
        (place.path / (name + compression)).write_bytes(COMPRESSIONS[compression](data.encode()))
        assert post(source_path=f"{place}/{name}{compression}")["rows"] == 3
        assert reader("zips") == rows

    def test_gzip_of_several_members_and_zstd_of_several_frames(self, reader, tmp_path):
        for compression in (".gz", ".zst"):
            compress = COMPRESSIONS[compression]
            path = tmp_path / f"t.csv{compression}"
            path.write_bytes(compress(CSV[:9].encode()) + compress(CSV[9:].encode()))
            post(source_path=path)
            assert reader("zips") == ROWS

    def test_format_of_a_name_without_a_suffix(self, reader, tmp_path):
        (tmp_path / "a").write_bytes(parquet(TABLE))
        (tmp_path / "b.txt.gz").write_bytes(gzip.compress(CSV.encode()))
        post(source_path=tmp_path / "a", source_format="parquet")
        assert_stored(reader("zips"), TABLE)
        post(source_path=tmp_path / "b.txt.gz", source_format="csv")
        assert reader("zips") == ROWS
        (tmp_path / "b.txt").write_bytes(CSV.encode())
        post(source_path=tmp_path / "b.txt", content_type="text/csv")

    @pytest.mark.parametrize(
        ("data", "stored"),
        [
            (CSV.encode(), ROWS),
            (gzip.compress(CSV.encode()), ROWS),
            (b'\xef\xbb\xbf [{"a": 1}, {"a": 2}]\n', [{"a": 1}, {"a": 2}]),
            (parquet(pa.table({"a": ["x"]})), [{"a": "x"}]),
            (b"path/of,b\n1,2\n", [{"path/of": 1, "b": 2}]),
        ],
        ids=["CSV", "gzip", "JSON with a BOM", "Parquet", "CSV with a slash"],
    )
    def test_format_by_the_beginning_if_nothing_else_shows_it(self, reader, place, data, stored):
        place.put(part=data)
        post(source_path=f"{place}/part")
        assert reader("zips") == stored
        post(source_path=str(place), key="of_{stem}")
        assert reader("of_part") == stored

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b'{"a": 1}\n{"a": 2}\n', "several JSON objects.*source_format='jsonl'"),
            (
                b'{"error": "not found"}',
                "seems to be JSON that is not a list of objects.*source_format='csv'",
            ),
            (b"<!DOCTYPE html>\n<p>404", "an HTML or XML document.*error page.*source_format='csv'"),
            (b"/data/today/x.csv", "the path of a file: pass that path as source_path"),
            (b"PK\x03\x04\x14\0\0", "binary data.*source_format .csv, json, jsonl, parquet, arrow."),
            (b"id;name\n1;x\n", "separator seems to be ';'"),
        ],
    )
    def test_a_beginning_that_is_no_table_keeps_the_old_one(self, reader, place, data, message):
        post(content=CSV)
        place.put(part=data)
        with pytest.raises(InvalidTable, match=f"/part: .*{message}"):
            post(source_path=f"{place}/part")
        with pytest.raises(Exception, match=f"/part: .*{message}"):
            post(source_path=str(place), key="{parent}{stem}")
        assert reader("zips") == ROWS

    def test_a_csv_s_types_are_the_node_s_by_default(self, reader, tmp_path):
        (tmp_path / "t.csv").write_text(CSV)
        post(source_path=tmp_path / "t.csv", column_types={"zip": "string"}, stand_in_columns={"c": "'US'"})
        assert [row["zip"] for row in reader("zips")] == ["00501", "02139"]

    def test_column_types_come_before_a_schema_s(self, reader, tmp_path):
        pq.write_table(TABLE, tmp_path / "t.parquet")
        post(source_path=tmp_path / "t.parquet", column_types={"n": "string", "price": "string"})
        assert [(row["n"], row["price"]) for row in reader("zips")[:2]] == [("1", "1.50"), ("2", None)]

    def test_sent_as_json_keeps_the_empty_string(self, reader, tmp_path):
        pq.write_table(pa.table({"a": ["", None]}), tmp_path / "t.parquet")
        post(source_path=tmp_path / "t.parquet", content_type="application/json")
        assert reader("zips") == [{"a": ""}, {"a": None}]

    def test_an_index_without_a_name_is_dropped_as_with_a_frame(self, reader, tmp_path):
        frame = pd.DataFrame({"a": [1, 2]}, index=["x", "y"])
        frame.to_parquet(tmp_path / "t.parquet")
        post(source_path=tmp_path / "t.parquet")
        assert reader("zips") == [{"a": 1}, {"a": 2}]
        frame.rename_axis("name").to_parquet(tmp_path / "t.parquet")
        post(source_path=tmp_path / "t.parquet")
        assert reader("zips") == [{"a": 1, "name": "x"}, {"a": 2, "name": "y"}]

    @pytest.mark.parametrize("suffix", COLUMNAR)
    @pytest.mark.parametrize("key", ["zips", "zips_{stem}"])
    def test_columns_that_hold_no_nulls_and_have_notes(self, reader, tmp_path, suffix, key):
        schema = pa.schema(
            [
                pa.field("id", pa.int64(), nullable=False),
                pa.field("kind", pa.dictionary(pa.int8(), pa.string()), metadata={"unit": "none"}),
            ],
            metadata={"made": "by hand"},
        )
        data = COLUMNAR[suffix](pa.table({"id": [1, 2], "kind": ["x", "y"]}, schema=schema))
        (tmp_path / f"t{suffix}").write_bytes(data)
        post(key=key, source_path=tmp_path / f"t{suffix}")
        assert reader(key.format(stem="t")) == [{"id": 1, "kind": "x"}, {"id": 2, "kind": "y"}]

    @pytest.mark.parametrize("unit", ["us", "ns"])
    @pytest.mark.parametrize("with_arrow_schema", [True, False], ids=["Arrow's schema", "as Spark writes"])
    def test_int96_timestamps_are_the_dates_that_duckdb_reads(
        self, reader, tmp_path, unit, with_arrow_schema
    ):
        times = [dt.datetime(2024, 5, 6, 12, 0, 0, 5), None, dt.datetime(1700, 1, 1)]  # noqa: DTZ001
        if unit == "us":
            times += [dt.datetime(9999, 12, 31, 23, 59, 59), dt.datetime(1, 1, 1)]  # noqa: DTZ001
        table = pa.table({"n": range(len(times)), "at": pa.array(times, pa.timestamp(unit))})
        path = tmp_path / "t.parquet"
        pq.write_table(
            table,
            path,
            use_deprecated_int96_timestamps=True,
            store_schema=with_arrow_schema,
            row_group_size=2,
        )
        assert pq.read_schema(path).field("at").type == pa.timestamp("ns")
        post(source_path=path)
        read = duckdb.connect().sql(f"select \"at\" from '{path}' order by n").fetchall()
        stored = [row["at"] for row in sorted(reader("zips"), key=lambda row: row["n"])]
        assert [time and dt.datetime.fromisoformat(time) for time in stored] == [time for (time,) in read]

    def test_int96_timestamps_that_arrow_wrote_from_nanoseconds_keep_them(self, reader, tmp_path):
        at = pa.array([1714996800000000001], pa.timestamp("ns"))
        pq.write_table(pa.table({"at": at}), tmp_path / "t.parquet", use_deprecated_int96_timestamps=True)
        post(source_path=tmp_path / "t.parquet")
        assert reader("zips") == [{"at": "2024-05-06 12:00:00.000000001"}]

    def test_int96_timestamps_keep_nanoseconds_that_spark_or_hive_wrote(self, reader, tmp_path):
        """Whatever row group, or file, they are in."""
        at = [1577836800123456000] * 5 + [None, -1577836800123456789]
        int96(tmp_path / "1.parquet", row_group_size=2, n=pa.array(range(7)), at=pa.array(at, NANOSECONDS))
        post(source_path=tmp_path / "1.parquet")
        stored = {row["n"]: row["at"] for row in reader("zips")}
        assert (stored[0], stored[6]) == ("2020-01-01 00:00:00.123456000", "1920-01-01 23:59:59.876543211")
        whole = {"n": pa.array([7]), "at": pa.array([1], MICROSECONDS)}
        for name in ("0.parquet", "2.parquet"):
            int96(tmp_path / name, **whole)
            post(source_path=tmp_path)
            assert {row["at"] for row in reader("zips") if row["n"] == 7} == {"1970-01-01 00:00:00.000001000"}

    @pytest.mark.parametrize("years", [9999, 1])
    def test_int96_timestamps_that_no_unit_holds_are_refused(self, reader, tmp_path, years):
        post(content=CSV)
        fine = pa.array([1], NANOSECONDS)
        wide = pa.array([dt.datetime(years, 1, 1)], MICROSECONDS)  # noqa: DTZ001
        int96(tmp_path / "two.parquet", at=fine, until=wide)
        with pytest.raises(
            InvalidTable, match=r"column 'at' has .* nanoseconds, and column 'until'"
        ) as caught:
            post(source_path=tmp_path / "two.parquet")
        assert caught.value.column == "at"
        # pyarrow writes no column of both: a value is changed by a nanosecond of its day.
        int96(tmp_path / "one.parquet", at=pa.concat_arrays([pa.array([123_456_789], MICROSECONDS), wide]))
        day = [(123_456_789_000 + more).to_bytes(8, "little") for more in (0, 1)]
        data = (tmp_path / "one.parquet").read_bytes()
        assert data.count(day[0]) == 1
        (tmp_path / "one.parquet").write_bytes(data.replace(*day))
        with pytest.raises(InvalidTable, match=r"column 'at' has .* nanoseconds, and others outside"):
            post(source_path=tmp_path / "one.parquet")
        for names in ("12", "21"):
            for name, column in zip(names, (fine, wide), strict=True):
                int96(tmp_path / f"{name}.parquet", at=column)
            with pytest.raises(InvalidTable, match=r"column 'at' has timestamps outside .* in other files"):
                post(source_path=tmp_path / "[12].parquet")
        assert reader("zips") == ROWS

    def test_names_that_look_like_globs_are_names_where_they_exist(self, reader, place):
        (place.path / "a[1].csv").write_bytes(CSV.encode())
        post(source_path=f"{place}/a[1].csv")
        assert reader("zips") == ROWS


LONG = "y" * 20_000
TEXTS = {
    "all nulls": [None] * 1000,
    "short words": ["a", None, "bc"] * 400,
    "long words": [LONG, None, "", "x" * 300] * 300,
    "short words, then a long one": ["a"] * 20_000 + [LONG] * 1000 + [None],
    "long words, then as many texts as rows": [LONG] * 1000 + [f"{n}{'x' * 1000}" for n in range(6000)],
    "as many texts as rows": [f"{n}{'x' * 100}" for n in range(30_000)],
}
WRITTEN = {
    "by a dictionary": {},
    "plain": {"use_dictionary": False},
    "as what differs from the text before": {
        "use_dictionary": False,
        "column_encoding": {"t": "DELTA_BYTE_ARRAY"},
    },
}


TEXT_KINDS = (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()))


@pytest.mark.parametrize(
    ("how", "kind"),
    # All but the last of these: pyarrow reads no dictionaries of texts that are written so.
    [(how, kind) for how in WRITTEN for kind in TEXT_KINDS][:-1],
    ids=str,
)
def test_texts_of_parquet_are_what_pyarrow_reads_whole_and_come_in_small_batches(tmp_path, kind, how):
    for number, texts in enumerate(TEXTS.values()):
        table = pa.table({"n": range(len(texts)), "t": pa.array(texts, pa.string()).cast(kind)})
        path = tmp_path / f"{number}.parquet"
        pq.write_table(table, path, row_group_size=25_000, **WRITTEN[how])
    source = FilesSource(find_files(tmp_path), Format.PARQUET, None)
    assert source._schema.field("t").type == kind
    batches = list(source._parts())
    expected_rows = [pq.read_table(tmp_path / f"{number}.parquet") for number in range(len(TEXTS))]
    text = pa.large_string()
    assert [n for batch in batches for n in batch["n"].to_pylist()] == [
        n for table in expected_rows for n in table["n"].to_pylist()
    ]
    assert [t for batch in batches for t in batch["t"].cast(text).to_pylist()] == [
        t for table in expected_rows for t in table["t"].cast(text).to_pylist()
    ]
    if how == "by a dictionary":
        assert max(batch.column("t").cast(text).nbytes for batch in batches) < 5 << 20


class TestOneTableOfMany:
    @pytest.mark.parametrize("suffix", COLUMNAR)
    @pytest.mark.parametrize("as_path", ["{}", "{}/*", "{}/**/t*"])
    def test_columnar(self, reader, place, suffix, as_path):
        """In the order of their names; what others left beside them is no data."""
        place.put(**{f"t2{suffix}": COLUMNAR[suffix](FURTHER), f"t1{suffix}": COLUMNAR[suffix](TABLE)})
        place.put(**{"_SUCCESS": b"", ".t1.crc": b"junk"})
        assert post(source_path=as_path.format(place))["rows"] == 6
        assert_stored(reader("zips"), TABLE, FURTHER)

    def test_csv(self, reader, place):
        """One header; a file may end without a line break, have a BOM, CRLF or quotes, or no rows."""
        files = {
            "a.csv": b"zip,n\n00501,1",
            "b.csv": b'\xef\xbb\xbf"zip",n\r\n02139,2\r\n\r\n',
            "c.csv.gz": gzip.compress(b"zip,n"),
            "d.csv": b'\nzip,n\n"10115\n",3\n',
        }
        place.put(**files)
        post(source_path=str(place), column_types={"zip": "string"})
        texts = [gzip.decompress(data) if name.endswith("gz") else data for name, data in files.items()]
        frames = [pd.read_csv(io.BytesIO(data), dtype={"zip": str}) for data in texts]
        assert reader("zips") == pd.concat(frames).to_dict("records")

    @pytest.mark.parametrize("suffix", [".json", ".jsonl"])
    def test_json(self, reader, place, suffix):
        rows = [[{"a": 1, "b": "]"}], [], [{"a": 2, "b": "x"}, {"a": 3, "b": "[1, 2]"}]]
        for number, of_file in enumerate(rows):
            data = json.dumps(of_file) if suffix == ".json" else "\n".join(map(json.dumps, of_file))
            (place.path / f"{number}{suffix}").write_bytes(data.encode())
        assert post(source_path=str(place))["rows"] == 3
        assert reader("zips") == [row for of_file in rows for row in of_file]

    def test_types_that_differ_by_file_alone(self, reader, tmp_path):
        """Nulls alone have no type, and a library picks widths by what it sees."""
        one = pa.table(
            {"a": pa.nulls(1), "t": pa.array(["x"], pa.string()), "k": _dictionary(["x"], pa.int8())}
        )
        other = pa.table(
            {"a": [2], "t": pa.array(["y"], pa.large_string()), "k": _dictionary(["y"], pa.int32())}
        )
        for number, table in enumerate((one, other, one)):
            pq.write_table(table, tmp_path / f"{number}.parquet")
        post(source_path=tmp_path)
        assert reader("zips") == [
            {"a": None, "t": "x", "k": "x"},
            {"a": 2, "t": "y", "k": "y"},
            {"a": None, "t": "x", "k": "x"},
        ]

    def test_columns_that_may_hold_nulls_in_some_files_only(self, reader, tmp_path):
        for number, nullable in enumerate((True, False, True)):
            schema = pa.schema([pa.field("n", pa.int64(), nullable=nullable)])
            pq.write_table(pa.table({"n": [number]}, schema=schema), tmp_path / f"{number}.parquet")
        post(source_path=tmp_path)
        assert reader("zips") == [{"n": 0}, {"n": 1}, {"n": 2}]

    @pytest.mark.parametrize(
        ("pattern", "expected_rows"),
        [
            ("**/*.csv", ["day=1/a.csv"]),
            ("*/**/*.csv", ["day=1/a.csv"]),
            ("[_d]*/*.csv", ["day=1/a.csv"]),
            ("_archive/*.csv", ["_archive/a.csv"]),
            ("_archive/**/*.csv", ["_archive/a.csv", "_archive/more/a.csv"]),
            ("*/_kept/*.csv", ["day=1/_kept/a.csv"]),
            ("**/_kept/*.csv", ["day=1/_kept/a.csv"]),
            ("**/_k*/*.csv", ["day=1/_kept/a.csv"]),
            ("day=?/_kept/_*.csv", ["day=1/_kept/_b.csv"]),
            (".hidden/*", [".hidden/a.csv"]),
        ],
    )
    def test_what_others_keep_beside_the_data_is_read_where_it_is_asked_for(
        self, reader, place, pattern, expected_rows
    ):
        """Such as the files of a task of Spark that has not ended: all of them would be rows twice."""
        names = [
            "day=1/a.csv",
            "day=1/_b.csv",
            "day=1/_kept/a.csv",
            "day=1/_kept/_b.csv",
            "day=1/_kept/_more/a.csv",
            "_temporary/0/attempt_1/a.csv",
            "_temporary/0/_kept/a.csv",
            "_archive/a.csv",
            "_archive/more/a.csv",
            "_archive/_temporary/a.csv",
            "_delta_log/a.csv",
            ".hidden/a.csv",
        ]
        place.put(**{name: f"name\n{name}\n".encode() for name in names})
        post(source_path=f"{place}/{pattern}")
        assert [row["name"] for row in reader("zips")] == expected_rows


def _dictionary(words, index):
    return pa.DictionaryArray.from_arrays(pa.array(range(len(words)), index), words)


class TestWhatIsRefused:
    """The old table stays, and nothing is sent where it can be known before."""

    @pytest.fixture(autouse=True)
    def old_table(self, nodes, reader):
        post(content=CSV)
        yield
        assert reader("zips") == ROWS

    @pytest.mark.parametrize(
        ("further", "message"),
        [
            (pa.table({"a": [1.5], "b": ["x"]}), r"2\.parquet.*column 'a' is double, but int64"),
            (
                pa.table({"a": [1], "c": ["x"]}),
                r"2\.parquet.*column 2 is 'c', but .*1\.parquet has 'b' in its place",
            ),
            (pa.table({"a": [1]}), r"2\.parquet.*column 'b' of .*1\.parquet is missing"),
            (pa.table({"a": [1], "b": ["x"], "c": [1]}), r"2\.parquet.*3 is 'c', but .* has no such column"),
        ],
    )
    def test_schemas_that_differ(self, place, further, message):
        place.put(**{"1.parquet": parquet(pa.table({"a": [1], "b": ["x"]})), "2.parquet": parquet(further)})
        with pytest.raises(InvalidTable, match=message) as caught:
            post(source_path=str(place))
        assert caught.value.column
        assert not caught.value.attempts

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            (b"a,c\n1,2\n", r"2\.csv: column 2 of its header is 'c', but .*1\.csv has 'b' in its place"),
            (b"b,a\n1,2\n", r"2\.csv: column 1 of its header is 'b'"),
            (b"a\n1\n", r"2\.csv: column 'b' of .* is missing: all files"),
            (b"a,b,c\n1,2,3\n", r"2\.csv: column 3 of its header is 'c'.*no such column"),
            (b"", r"2\.csv: the table is empty"),
        ],
    )
    def test_headers_that_differ(self, place, header, message):
        place.put(**{"1.csv": b"a,b\n1,2\n", "2.csv": header})
        with pytest.raises(InvalidTable, match=message):
            post(source_path=str(place))

    def test_a_bad_file_late_in_a_directory(self, place):
        """Its fault shows when the files before it were sent."""
        rows = b"1,2\n" * 100_000
        bad = {
            "csv": {"1.csv": b"a,b\n" + rows, "2.csv": b"a,b\n1,2\n1,2,3\n"},
            "open quote": {"1.csv": b"a,b\n" + rows, "2.csv": b'a,b\n1,"2\n', "3.csv": b"a,b\n1,2\n"},
            "cut gzip": {"1.csv": b"a,b\n" + rows, "2.csv.gz": gzip.compress(b"a,b\n" + rows)[:-20]},
            "jsonl": {"1.jsonl": b'{"a": 1}\n' * 100_000, "2.jsonl": b'{"a": 1}\n{"a": \n1}'},
            "json": {"1.json": b"[" + b'{"a": 1},' * 100_000 + b"{}]", "2.json": b'[{"a": 1}'},
        }
        message = {
            "csv": r"2\.csv: row 2 .* more fields",
            "open quote": r"2\.csv: .*ends inside a quoted field",
            "cut gzip": r"2\.csv\.gz: it cannot be read as gzip",
            "jsonl": r"2\.jsonl: line 2: it is not JSON",
            "json": r"2\.json: .*is cut off",
        }
        for name, files in bad.items():
            directory = place.path / name.replace(" ", "_")
            if isinstance(directory, Path):
                directory.mkdir()
            else:
                directory.fs.mkdir(directory.path)
            for file, data in files.items():
                (directory / file).write_bytes(data)
            with pytest.raises(InvalidTable, match=message[name]):
                post(source_path=str(directory))

    def test_a_parquet_file_that_is_damaged_where_its_data_is(self, tmp_path):
        pq.write_table(pa.table({"a": range(200_000)}), tmp_path / "1.parquet", use_dictionary=False)
        pq.write_table(pa.table({"a": range(200_000)}), tmp_path / "2.parquet", use_dictionary=False)
        data = bytearray((tmp_path / "2.parquet").read_bytes())
        data[4:2000] = b"\xff" * 1996
        (tmp_path / "2.parquet").write_bytes(data)
        with pytest.raises(InvalidTable, match=r"2\.parquet: it cannot be read"):
            post(source_path=tmp_path)

    def test_a_value_is_found_in_its_file(self, tmp_path):
        pq.write_table(pa.table({"a": range(70_000)}), tmp_path / "1.parquet")
        pq.write_table(pa.table({"a": [1, None, 2**60]}), tmp_path / "2.parquet")
        with pytest.raises(
            InvalidTable, match=r"column 'a', row 70003: .*\(row 3 of .*2\.parquet\)"
        ) as caught:
            post(source_path=tmp_path)
        assert (caught.value.row, caught.value.column) == (70_003, "a")

    @pytest.mark.parametrize(
        ("name", "data", "message"),
        [
            ("t.parquet", b"PAR1", "t.parquet: it cannot be read as parquet"),
            ("t.arrow", b"ARROW1 or so", "t.arrow: it cannot be read as arrow"),
            ("t.arrows", b"no Arrow", "t.arrows: it cannot be read as arrow"),
            ("t.feather", b"FEA1", "t.feather: it is Feather version 1"),
            ("t.csv.gz", b"\x1f\x8bno gzip", "t.csv.gz: it cannot be read as gzip"),
            ("t.csv.zst", b"\x28\xb5\x2f\xfdno zstd", "t.csv.zst: it cannot be read"),
            ("t.json", b'{"a": 1}\n{"a": 2}\n', "t.json: .*source_format='jsonl'"),
            ("t.json", b'{"a": 1}\n', r"t.json: .*send a JSON list of objects$"),
            ("t.csv", b"id;name\n1;x\n", r"t\.csv: .*separator seems to be ';'"),
            ("part-0", b"null", "part-0: its format is not clear.*one JSON value.*source_format='csv'"),
            ("t.jsonl", b'[{"a": 1}]', "t.jsonl: line 1: it is a JSON list, not an object"),
            (
                "t.jsonl",
                b'{"a": 1}\n{"a": 36893488147419103232}',
                "t.jsonl: line 2: the integer 36893488147419103232 is outside",
            ),
            ("t.jsonl", b'{"a": 1 \n "b": 2}', "t.jsonl: line 1: it is not JSON"),
            ("t.jsonl", b'{"a": "\xff"}', "t.jsonl: line 1: it is not UTF-8"),
            ("t.parquet", parquet(pa.table({"l": [[1]]})), r"column 'l': list.*t\.parquet"),
        ],
    )
    def test_what_is_not_what_it_says(self, place, name, data, message):
        (place.path / name).write_bytes(data)
        with pytest.raises(InvalidTable, match=message):
            post(source_path=f"{place}/{name}")

    @pytest.mark.parametrize("named", ["", "/*.csv", "/missing.csv", "/missing/"])
    def test_nothing_there(self, place, named):
        place.put(_SUCCESS=b"")
        with pytest.raises(
            FileNotFoundError, match=f"^source_path='.*{str(place).rpartition('/')[2]}.*Check the path"
        ):
            post(source_path=f"{place}{named}")

    def test_directories_in_a_directory(self, tmp_path, remote):
        """They are reported, not left out."""
        (tmp_path / "more").mkdir()
        (remote / "files" / "more").mkdir(parents=True)
        for path in (tmp_path, remote / "files"):
            with pytest.raises(AirflowFailException, match=r"contains directories \(more\)"):
                post(source_path=str(path))

    def test_formats_that_differ(self, place):
        place.put(**{"1.csv": CSV.encode(), "2.parquet": parquet(TABLE)})
        with pytest.raises(AirflowFailException, match=r"2\.parquet is parquet, but .*1\.csv is csv"):
            post(source_path=str(place))

    def test_arguments_that_are_nothing_for_the_files(self, tmp_path):
        (tmp_path / "t.csv").write_text(CSV)
        (tmp_path / "t.json").write_text("[]")
        for arguments in (
            {"source_path": tmp_path / "t.csv", "content_type": "application/json"},
            {"source_path": tmp_path / "t.json", "column_types": {"a": "enum"}},
            {"source_path": tmp_path / "t.csv", "headers": {"Content-Encoding": "gzip"}},
        ):
            with pytest.raises(AirflowFailException):
                post(**arguments)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_column_that_only_directories_tell_is_warned_of_by_name(reader, tmp_path, caplog, suffix):
    """As Spark and Hive write it; DuckDB has it as a column."""
    for day in (1, 2):
        (tmp_path / f"day={day}").mkdir()
        getattr(duckdb.from_query(f"select {day} as n"), f"write_{suffix}")(
            str(tmp_path / f"day={day}/t.{suffix}")
        )
    assert duckdb.sql(f"from '{tmp_path}/*/*.{suffix}'").columns == ["n", "day"]
    post(source_path=f"{tmp_path}/*/*.{suffix}")
    assert reader("zips") == [{"n": 1}, {"n": 2}]
    (message,) = (record.getMessage() for record in caplog.records if "directories" in record.getMessage())
    assert "no column 'day'" in message
    assert "{parent}" in message


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_column_that_directories_and_files_tell_is_not_warned_of(reader, tmp_path, caplog, suffix):
    (tmp_path / "n=1").mkdir()
    getattr(duckdb.from_query("select 1 as n"), f"write_{suffix}")(str(tmp_path / f"n=1/t.{suffix}"))
    post(source_path=f"{tmp_path}/*/*.{suffix}")
    assert reader("zips") == [{"n": 1}]
    assert not [record for record in caplog.records if "directories" in record.getMessage()]


def test_parent_in_a_key_is_the_value_of_a_directory(reader, place):
    place.put(**{"region=eu/t.csv": b"n\n1\n", "region=us%2Deast/t.csv": b"n\n2\n"})
    assert post(key="sales_{parent}", source_path=f"{place}/*/*.csv")["stored"] == 2
    assert reader("sales_eu") == [{"n": 1}]
    assert reader("sales_us-east") == [{"n": 2}]


@pytest.mark.parametrize("name", ["t.csv.gz", "t.csv.zst", "t.jsonl.gz"])
def test_a_file_that_its_storage_has_decompressed_is_read(reader, place, name):
    place.put(**{name: CSV.encode() if "csv" in name else b'{"zip": 501, "n": 1}\n{"zip": 2139, "n": 2}\n'})
    post(source_path=f"{place}/{name}")
    assert reader("zips") == ROWS


def test_a_parquet_file_that_its_storage_has_decompressed_is_read(reader, tmp_path):
    (tmp_path / "t.parquet.gz").write_bytes(parquet(TABLE))
    post(source_path=tmp_path / "t.parquet.gz")
    assert_stored(reader("zips"), TABLE)


def test_json_files_may_begin_with_a_bom(reader, place):
    bom = "\ufeff".encode()
    place.put(**{"1.json": bom + json.dumps(ROWS).encode(), "2.json": bom + json.dumps(ROWS).encode()})
    place.put(**{"1.jsonl": bom + b'{"zip": 501, "n": 1}\n', "2.jsonl": bom + b'{"zip": 2139, "n": 2}\n'})
    post(source_path=f"{place}/*.json")
    assert reader("zips") == ROWS * 2
    post(source_path=f"{place}/*.jsonl")
    assert reader("zips") == ROWS


def test_an_empty_object_in_the_place_of_a_directory_is_no_file(reader, remote, monkeypatch):
    """Consoles of S3 make one for a new folder; what a glob of fsspec gives has it as a file."""
    fs = remote.fs
    fs.pipe("/operators/files/day/t.csv", CSV.encode())
    glob = fs.glob

    def with_marker(path, **options):
        marker = "/operators/files/day/"
        return {marker: {"name": marker, "size": 0, "type": "file"}, **glob(path, **options)}

    monkeypatch.setattr(fs, "glob", with_marker)
    post(source_path=str(remote / "files/**"))
    assert reader("zips") == ROWS


class TestOneTableForEach:
    def test_by_stem(self, reader, place, operator_log):
        files = {"a-1.csv.gz": gzip.compress(CSV.encode()), "b_2.parquet": parquet(TABLE), "c.json": b"[]"}
        place.put(**files)
        result = post(key="t_{stem}_{{ ds }}", source_path=f"{place}/*[12].*", check_row_count=True)
        expected = {"stored": 2, "rows": 6, "failed_over": 0, "may_hold_old": {}, "attempts": 0, "evicted": 0}
        assert {name: json.loads(json.dumps(result))[name] for name in expected} == expected
        assert reader("t_a-1_2024-05-01") == ROWS
        assert_stored(reader("t_b_2_2024-05-01"), TABLE)
        assert operator_log()[-1][1].startswith("Stored 2 tables: ")

    def test_by_directory(self, reader, place):
        for name in ("north", "south"):
            directory = place.path / name
            if isinstance(directory, Path):
                directory.mkdir()
            (directory / "part-0.csv").write_bytes(CSV.encode())
        assert post(key="sales_{parent}", source_path=f"{place}/*/part-*.csv")["stored"] == 2
        assert reader("sales_north") == reader("sales_south") == ROWS

    def test_a_failover_is_logged_and_require_home_fails(self, nodes, tmp_path):
        for key in nodes.keys(18):
            (tmp_path / f"{key}.csv").write_text(CSV)
        nodes.kill(1)
        result = post(key="{stem}", source_path=tmp_path)
        assert (result["stored"], result["failed_over"]) == (18, 6)
        with pytest.raises(StoredOnFailover, match="require_home") as caught:
            post(key="{stem}", source_path=tmp_path, require_home=True)
        assert caught.value.result["failed_over"] == 6

    @pytest.mark.parametrize(
        ("names", "key", "message"),
        [
            (["a.csv", "b c.csv"], "{stem}", r"b c\.csv: 'b c' is not a key"),
            (["a.csv", "a.json"], "{stem}", r"a\.csv and .*a\.json would both be stored under 'a'"),
            (["a.csv", "b.csv"], "{parent}", "would both be stored under"),
        ],
    )
    def test_keys_are_checked_before_anything_is_stored(self, nodes, place, names, key, message):
        place.put(**dict.fromkeys(names, CSV.encode()))
        post(key="a", content=CSV)
        with pytest.raises(AirflowFailException, match=message) as caught:
            post(key=key, source_path=str(place))
        assert isinstance(caught.value.__cause__, InvalidKey)

    def test_a_format_that_only_a_beginning_shows_is_detected_in_the_file_s_turn(self, nodes, reader, place):
        post(key="b", content="a\n1\n")
        place.put(**{"other.csv": CSV.encode(), "b.xml": b"<?xml version='1.0'?>"})
        with pytest.raises(TablesFailed, match=r"b\.xml: .*an HTML or XML document"):
            post(key="{stem}", source_path=str(place))
        assert reader("other") == ROWS
        assert reader("b") == [{"a": 1}]

    def test_one_that_fails_keeps_its_old_table_and_the_others_are_stored(self, nodes, reader, place):
        post(key="b", content="a\n1\n")
        place.put(**{"a.csv": CSV.encode(), "b.csv": b"a\n1,2\n", "c.parquet": b"", "d.csv": CSV.encode()})
        with pytest.raises(TablesFailed, match=r"^2 of 4 tables failed") as caught:
            post(key="{stem}", source_path=str(place))
        assert sorted(caught.value.result["failed_keys"]) == ["b", "c"]
        assert post(key="{stem}", source_path=str(place), max_failed_keys=2)["stored"] == 2
        assert reader("a") == reader("d") == ROWS
        assert reader("b") == [{"a": 1}]


FRAMES = {
    "pandas": lambda table: table.to_pandas(),
    "polars": pl.from_arrow,
    "pyarrow": lambda table: table,
    "a batch": lambda table: table.combine_chunks().to_batches()[0],
    "a reader": lambda table: table.to_reader(max_chunksize=2),
    "duckdb": lambda table: duckdb.connect().from_arrow(table),
    "dicts": lambda table: table.to_pylist(),
}
IN_FRAMES = TABLE.select(["zip", "n", "flag", "at", "day", "text"])


class TestFrames:
    @pytest.mark.parametrize("form", FRAMES)
    @pytest.mark.parametrize("source", ["content", "python_callable"])
    def test_every_form(self, reader, form, source):
        table = FRAMES[form](IN_FRAMES)
        post(**{source: table if source == "content" else lambda: table}, check_row_count=True)
        assert_stored(reader("zips"), IN_FRAMES)

    def test_a_reader_is_good_for_one_attempt(self, nodes):
        with pytest.raises(AirflowFailException, match="copies=2"):
            post(content=TABLE.to_reader(), copies=2)

    def test_types_and_stand_ins(self, reader):
        frame = pd.DataFrame({"n": [1]})
        post(content=frame, column_types={"n": "string"}, stand_in_columns={"c": "'US'"}, compression="gzip")
        assert reader("zips") == [{"n": "1", "c": "US"}]

    def test_dicts_are_typed(self, reader):
        """As CSV with its types, unless JSON is asked for."""
        rows = [{"zip": "00501", "t": ""}]
        post(content=rows)
        assert reader("zips") == [{"zip": "00501", "t": None}]
        post(content=rows, content_type="application/json")
        assert reader("zips") == rows

    def test_a_frame_is_shown_in_a_few_words(self):
        task = QCachePostOperator(task_id="post", key="k", content=pd.DataFrame({"a": [1]}))
        assert str(task.content) == "pandas DataFrame"

    def test_what_a_load_callable_returns(self, nodes, reader, tmp_path):
        pq.write_table(IN_FRAMES, tmp_path / "t.parquet")
        for number, load in enumerate(
            (IN_FRAMES.to_pandas, lambda: tmp_path / "t.parquet", IN_FRAMES.to_reader)
        ):
            task = QCacheQueryOperator(
                task_id="query",
                key=f"loaded{number}",
                query={},
                load_callable=load,
                column_types={"n": "string"},
            )
            rows = task.execute({})
            assert [row["n"] for row in rows] == ["1", "2", "3", "4"]
            assert rows == reader(f"loaded{number}")

    def test_a_series_is_no_table(self, nodes):
        with pytest.raises(AirflowFailException, match="Series is a single column, not a table"):
            post(content=pl.Series("a", [1]))


def test_files_are_read_anew_for_the_next_node(nodes, reader, place):
    place.put(**{"a.csv": CSV.encode(), "b.csv": CSV.encode()})
    (place.path / "t.parquet").write_bytes(parquet(TABLE))
    home = post(content=CSV)["home_node"]
    nodes.kill(nodes.urls.index(home))
    assert post(source_path=f"{place}/*.csv")["failed_over"]
    assert reader("zips") == ROWS * 2
    assert post(source_path=f"{place}/*.parquet", copies=2)["rows"] == 4
    assert_stored(reader("zips"), TABLE)


def test_a_dev_node_answers_the_same(dev: Server, monkeypatch, tmp_path):
    from tests.harness.connection import connect

    url = f"http://127.0.0.1:{dev.port}"
    connect(monkeypatch, [url])
    pq.write_table(TABLE, tmp_path / "1.parquet")
    pq.write_table(FURTHER, tmp_path / "2.parquet")
    post(source_path=tmp_path, check_row_count=True)
    assert_stored(QCacheQueryOperator(task_id="query", key="zips", query={}).execute({}), TABLE, FURTHER)


@pytest.mark.parametrize(("name", "what"), [("t.parquet", "Parquet or Arrow"), ("t.csv.zst", "zst")])
def test_a_library_that_is_missing_is_named_by_its_extra(nodes, tmp_path, monkeypatch, name, what):
    (tmp_path / name).write_bytes(b"\x28\xb5\x2f\xfd" if name.endswith(".zst") else b"")
    for module in ("airflow_provider_qcache.files.columnar", "airflow_provider_qcache.client.tables.arrow"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(AirflowFailException, match=rf"{what}.*needs pyarrow.*the extra 'arrow'"):
        post(source_path=tmp_path / name)
