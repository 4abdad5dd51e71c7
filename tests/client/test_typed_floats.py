"""A field that a node cannot read in a column typed float is refused, and the old table remains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_qcache.client import InvalidTable, QClient
from airflow_provider_qcache.client.tables import checks
from airflow_provider_qcache.client.tables.checks import CsvCheck
from airflow_provider_qcache.files.tables import table_in
from tests.harness.servers import WireRequest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.harness.servers import Server

NUMBERS = st.sampled_from(
    [
        *("", "0", "-1", "+3", "1.5", ".5", "5.", "1e5", "1E-5", "inf", "-INF", " 1", "1\t"),
        *('"1.5"', '""', '"1"5', f"{'9' * 99}.{'9' * 99}e99", f"{'9' * 99}e+99", f"-0.{'9' * 99}e-99"),
        *(f"{'9' * 99}.{'9' * 99}e199", f"0.{'9' * 99}E-399", f"{'9' * 99}e-300", "1e200", "1e-0", '"+Inf"'),
    ]
) | st.floats(allow_nan=False, max_value=1.79e308, min_value=-1.79e308).map(repr)
NO_NUMBERS = st.sampled_from(
    [
        *("n/a", "nan", "-nan", "--1", "inf ", "Infinity"),
        *("1_0", "1e400", "0x10", ".", "1e", "\u0661", "1\xa0", "1e99999999999"),
        *("1.797693e308", "1e1025", "1e-1022", '"1,5"', "- 1", " ", '"1"""', "1 2"),
        *("9" * 400, "0." + "1" * 400),
    ]
)
ANY = NUMBERS | NO_NUMBERS | st.text(st.sampled_from('0159.+-eE infa"'), max_size=7)
TEXTS = st.sampled_from(["x", "", '"y, z"', '"a""b"', '"l\nm"', 'q"r', "\u00e9"])


def csv_of(rows: list[tuple[str, str, str]], line_end: str) -> bytes:
    return line_end.join(["a,b,c", *map(",".join, rows)]).encode()


def is_refused(content: bytes, size: int) -> bool:
    check = CsvCheck({"a", "c"})
    try:
        for start in range(0, len(content), size):
            check.feed(content[start : start + size])
        check.finish()
    except InvalidTable:
        return True
    return False


def is_stored(real: Server, content: bytes) -> bool:
    headers = (("Content-Type", "text/csv"), ("X-QCache-types", "a=float;b=string;c=float"))
    return real.ask(WireRequest("POST", "/qcache/dataset/typed", headers, content)).status == 201


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(NUMBERS, TEXTS, NUMBERS), max_size=3),
    other=st.tuples(ANY, TEXTS, NUMBERS),
    line_end=st.sampled_from(["\n", "\r\n"]),
    size=st.sampled_from([1, 2, 3, 1000]),
)
def test_the_check_refuses_exactly_what_a_real_server_refuses(
    real: Server, rows: list[tuple[str, str, str]], other: tuple[str, str, str], line_end: str, size: int
) -> None:
    content = csv_of([*rows, other], line_end)
    refused = not is_stored(real, content)
    with pytest.MonkeyPatch.context() as patch:
        assert is_refused(content, size) is refused
        patch.setattr(checks, "_WORTH_A_PATTERN", 0)
        assert is_refused(content, size) is refused
        patch.setattr(checks, "_FEW_BYTES", 0)
        assert is_refused(content, size) is refused


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        *(("1e-1021", True), ("1e-1022", False), ("1.5e-1020", True), ("1.5e-1021", False)),
        *(("0.1e-1020", True), ("0.1e-1021", False), ("0e-1021", True), ("0e-1022", False)),
        *(("1e308", True), ("1e309", False), ("0.001e311", True), ("0e1025", False), ("1e-0999", True)),
    ],
)
def test_the_check_accepts_the_exponents_that_a_real_server_reads(
    real: Server, value: str, stored: bool
) -> None:
    content = csv_of([(value, "x", "1")], "\n")
    assert is_stored(real, content) is stored
    for size in (1, 1000):
        assert is_refused(content, size) is not stored


@pytest.mark.parametrize("value", ["-1e400", "true", "FALSE", "0e999"])
def test_a_value_that_a_real_server_changes_is_refused_too(real: Server, value: str) -> None:
    """-1e400 becomes -inf and 0e999 NaN. With true in the column, a null becomes 1.0 and a number a 500."""
    content = csv_of([(value, "x", "1")], "\n")
    assert is_stored(real, content)
    assert is_refused(content, 1000)


BAD = b"id,a\n1,1.5\n2,\n3,n/a\n4,5\n"
TYPES = "a=string; a=float"


def test_the_old_table_remains_in_whatever_form_the_content_comes(client: QClient, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(BAD)
    headers = {"X-QCache-types": TYPES}
    floats = {"a": "float"}
    stores = {
        "bytes": lambda: client.post("foo", BAD, post_headers=headers),
        "copies": lambda: client.post("foo", BAD, post_headers=headers, copies=2),
        "stream": lambda: client.post("foo", lambda: [BAD[:7], BAD[7:]], post_headers=headers),
        "gzip": lambda: client.post("foo", path, post_headers=headers, compression="gzip"),
        "file": lambda: client.post("foo", table_in(path, column_types=floats)),
        "rows": lambda: client.post_table("foo", [{"a": "1"}, {"a": ""}, {"a": "n/a"}], column_types=floats),
    }
    for standby in client.successors("foo")[:2]:
        with QClient([standby], 5, 20, deadline=60) as one:
            one.post("foo", b"old\n1\n")
    for form, store in stores.items():
        with pytest.raises(InvalidTable, match=r"row 3.*n/a|n/a.*row 3") as raised:
            store()
        assert (raised.value.row, raised.value.column) == (3, "a"), form
    for node in client.successors("foo")[:2]:
        with QClient([node], 5, 20, deadline=60) as one:
            answer = one.get("foo", {"select": ["old"]})
            assert answer is not None
            assert answer.content == b'[{"old":1}]'


def test_only_the_last_type_of_a_column_counts(client: QClient) -> None:
    client.post("foo", BAD, post_headers={"X-QCache-types": "a=float;a=string"})


def test_a_long_field_of_another_column_is_not_kept_in_memory() -> None:
    check = CsvCheck({"b"})
    for piece in (b"a,b\nx", *[b"y" * 1000] * 100):
        check.feed(piece)
        assert len(check._open_field) <= checks._MOST_OF_A_NUMBER + 1
    check.feed(b",1\n")
    check.finish()
    assert check.rows == 1


def test_a_very_long_number_is_refused() -> None:
    check = CsvCheck({"b"})
    check.feed(b"a,b\nx,")
    for _ in range(4):
        check.feed(b"0" * 1000)
    with pytest.raises(InvalidTable, match="row 1 "):
        check.feed(b"0" * 1000)


@pytest.mark.parametrize("rows", [b"1,x\n2,y\n", b"x,1\ny,2\n"])
@pytest.mark.parametrize("name", ["a", "b"])
def test_each_field_is_checked_by_itself_if_rows_come_in_pieces(name: str, rows: bytes) -> None:
    """A field that was begun in one piece ends with its row."""
    is_float = (name == "a") == rows.startswith(b"1")
    for end in ("", "\n"):
        check = CsvCheck({name})
        content = b"a,b\n" + rows.rstrip() + end.encode()
        try:
            for at in range(len(content)):
                check.feed(content[at : at + 1])
            check.finish()
        except InvalidTable as error:
            assert not is_float
            assert error.row == 1
        else:
            assert is_float
            assert check.rows == 2


@pytest.mark.parametrize(
    "value",
    [
        *(repr(number * 7**0.5) for number in (1e-7, 1e20, 1e99, 1e199, 1e-100, 1e-307)),
        *("5e-324", "-inf", "INF"),
    ],
)
def test_the_pattern_for_plain_rows_matches_floats_as_python_writes_them(value: str) -> None:
    match = checks._plain_rows([True, False])
    for row in (f"{value},x\n", f'"{value}",x\n'):
        found = match(row.encode(), 0)
        assert found is not None
        assert found.end() == len(row)


@pytest.mark.parametrize(
    "value",
    [
        *("9" * 400, f"0.{'1' * 400}", "1e400", "1e-400", "1e200", "9e999", "infi", "n/a", "nan"),
        *('"1,5"', ".", '"1'),
    ],
)
def test_the_pattern_for_plain_rows_does_not_match_numbers_to_check_closely(value: str) -> None:
    match = checks._plain_rows([True, False])
    found = match(f"{value},x\n".encode(), 0)
    assert found is not None
    assert found.end() == 0


@pytest.mark.parametrize(
    ("floats", "row", "other"),
    [
        ([True], b"1.5\n", b"x\n"),
        ([True, False, False], b'1.5,"a, b",c\n', b"x,1,1\n"),
        ([False, True], b'a,"1.5"\r\n', b"1,x\n"),
        ([False, True, False], b"a,1e5,\n", b"1,b,1\n"),
    ],
)
def test_the_pattern_for_rows_with_floats_ends_at_a_float_to_check_closely(
    floats: list[bool], row: bytes, other: bytes
) -> None:
    match = checks._rows_of_floats(floats)
    found = match(row * 3 + other + row)
    assert found is not None
    assert found.end() == 3 * len(row)


def test_there_is_no_pattern_for_very_many_changes_between_floats_and_others() -> None:
    """A pattern of hundreds of runs of columns takes longer to compile than it saves."""
    for columns, has_pattern in ((100, True), (101, False)):
        check = CsvCheck({f"c{at}" for at in range(0, columns, 2)})
        check.feed(",".join(f"c{at}" for at in range(columns)).encode() + b"\n" + b"1\n" * 10_000)
        assert (check._plain is not None) is has_pattern


@pytest.mark.parametrize("columns", [1, 4, 5, 9])
def test_the_pattern_for_plain_rows_matches_rows_of_any_number_of_columns(columns: int) -> None:
    for floats, field in (([True] * columns, b"1.5"), ([False] * columns, b"x")):
        match = checks._plain_rows(floats)
        row = b",".join([field] * columns) + b"\n"
        found = match(row * 3 + field + b",,,,,,,,,,\n", 0)
        assert found is not None
        assert found.end() == 3 * len(row)
