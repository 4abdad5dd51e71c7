"""Bad content is refused before a node can act on it, in whatever pieces it comes, with its place."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from airflow_provider_qcache.client.errors import InvalidKey, InvalidTable
from airflow_provider_qcache.client.ring import check_key
from airflow_provider_qcache.client.tables import checks
from airflow_provider_qcache.client.tables.checks import CsvCheck, JsonCheck, JsonRows
from airflow_provider_qcache.client.tables.headers import ColumnHeaders, check_header, is_csv
from airflow_provider_qcache.client.tables.sniffing import is_one_value


def feed(check: CsvCheck | JsonCheck, content: bytes, sizes: list[int] | None = None) -> CsvCheck | JsonCheck:
    start = 0
    for size in sizes or []:
        check.feed(content[start : start + size])
        start += size
    check.feed(content[start:])
    check.finish()
    return check


SIZES = st.lists(st.integers(1, 7), max_size=12)
CELLS = st.text(st.sampled_from('ab,"\n\r é'), max_size=6)


@settings(max_examples=200)
@given(rows=st.lists(st.lists(CELLS, min_size=3, max_size=3), max_size=6), sizes=SIZES)
def test_csv_written_by_python_is_accepted_in_any_pieces_and_its_rows_are_counted(
    rows: list[list[str]], sizes: list[int]
) -> None:
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(["one", "two, three", 'a "name"'])
    writer.writerows(rows)
    check = feed(CsvCheck(), written.getvalue().encode(), sizes)
    assert check.columns == ("one", "two, three", 'a "name"')
    assert check.rows == len(rows)


@settings(max_examples=200)
@given(text=st.text(st.sampled_from('a,"\n\r '), max_size=24), sizes=SIZES)
def test_a_row_is_too_wide_exactly_if_python_reads_more_fields(text: str, sizes: list[int]) -> None:
    text = "one,two\n" + text
    read = list(csv.reader(io.StringIO(text, newline="")))
    check = CsvCheck()
    try:
        feed(check, text.encode(), sizes)
    except InvalidTable as error:
        known = "inside a quoted field" in str(error) or "CR alone" in str(error)
        assert known or any(len(row) > 2 for row in read)
    else:
        assert [row for row in read if len(row) > 2] == []
        if '"' not in text:
            assert check.rows == sum(len(row) > 1 or bool("".join(row).strip()) for row in read[1:])


@given(text=st.text(st.sampled_from('a,"\n\r é'), max_size=30), sizes=SIZES)
def test_the_sizes_of_the_pieces_make_no_difference(text: str, sizes: list[int]) -> None:
    def result(sizes: list[int]) -> object:
        try:
            return feed(CsvCheck(), text.encode(), sizes).rows
        except InvalidTable as error:
            return str(error)

    assert result(sizes) == result([])


@pytest.mark.parametrize(("rest", "columns"), [(b"2,3\n", 3), (b"2\n", 2)])
def test_a_piece_that_begins_within_a_row_is_not_read_as_rows(rest: bytes, columns: int) -> None:
    """A row whose first piece ends with a comma goes on, although rows of the pattern begin there as well."""
    rows = b"1,2\n" * 5000
    check = CsvCheck()
    check.feed(b"a,b\n" + rows + b"1,")
    if columns == 2:
        check.feed(rest + rows)
        check.finish()
        assert check.rows == 10_001
    else:
        with pytest.raises(InvalidTable, match="more fields") as raised:
            check.feed(rest + rows)
        assert raised.value.row == 5001


FIELDS = st.sampled_from(
    [
        *("", "x", "1", "-1.5", "5.", ".5", "1e5", "n/a", " ", "\u00e9", '""', '"1"', '"x"', '"x, y"'),
        *('"x""y"', '"x\ny"', '"x\ry"', '"1"x', '1"', '"', "9" * 120, "+1E-99", "inf", "1\r2"),
    ]
)


@settings(max_examples=500)
@given(
    rows=st.lists(
        st.tuples(st.lists(FIELDS, min_size=1, max_size=4), st.sampled_from(["\n", "\r\n", "\n\n", "\r"])),
        max_size=6,
    ),
    columns=st.sampled_from(["a", "a,b,c", "a,b,c,d,e,f,g,h"]),
    floats=st.sampled_from(["", "a", "b", "ac", "abcdefgh"]),
    filled=st.booleans(),
    sizes=SIZES,
)
def test_reading_rows_by_a_pattern_gives_the_same_result_as_field_by_field(
    rows: list[tuple[list[str], str]], columns: str, floats: str, filled: bool, sizes: list[int]
) -> None:
    """The same number of rows, or a refusal in both cases."""
    width = columns.count(",") + 1
    if filled:
        rows = [((fields * width)[:width], line_end) for fields, line_end in rows]
    content = "".join([columns, "\n", *(",".join(fields) + line_end for fields, line_end in rows)]).encode()

    def result(worth: int) -> object:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checks, "_WORTH_A_PATTERN", worth)
            patch.setattr(checks, "_FEW_BYTES", 5)
            try:
                return feed(CsvCheck(floats), content, sizes).rows
            except InvalidTable:  # which of several faults is reported depends on the pieces
                return None

    assert result(0) == result(1 << 30)


@pytest.mark.parametrize(
    ("columns", "row", "rows"),
    [
        ("a,b,c", b"1,2,3,4\n1,2\n", None),
        ("a,b", b'"a,b\nc",d\n', 1),
        ("a,b", b"1,2\n\n \n", 1),
        ("a", b"x\n\n", 1),
        ("a,b", b"1,2\r3,4\n", 2),
        ("a,b", b'1,"2"x"3"\n', 1),
    ],
)
def test_rows_are_not_counted_by_their_separators_alone(columns: str, row: bytes, rows: int | None) -> None:
    """A row that is too wide and one that is too short have as many commas as two correct rows."""
    content = columns.encode() + b"\n" + row * 4000
    if rows is None:
        with pytest.raises(InvalidTable, match="more fields"):
            feed(CsvCheck(), content)
    else:
        assert feed(CsvCheck(), content).rows == 4000 * rows


@pytest.mark.parametrize(
    ("odd", "message", "column"),
    [(b"x,y,n/a", "'n/a'", "f"), (b"x,y,1,2", "more fields", None), (b'x,"y', "quoted", None)],
)
def test_a_fault_after_many_plain_rows_is_reported_with_its_row(
    odd: bytes, message: str, column: str | None
) -> None:
    content = b"t,u,f\n" + b'x,"y",1.5\r\n' * 30_000 + b"\n" + b"x,y,\n" * 4 + odd
    pieces = [128 * 1024] * (len(content) // (128 * 1024))
    with pytest.raises(InvalidTable, match=message) as raised:
        feed(CsvCheck({"f"}), content, pieces)
    assert (raised.value.row, raised.value.column) == (30_005, column)


TOO_WIDE = "has more fields than its header, which has {}: put a field that contains a comma in double quotes"
NO_FLOAT = (
    "which is typed float: a node would refuse the table, or store another number. Write numbers below "
    "1.797e308 like 1.5 or 1e-5, inf, -inf, or an empty field for null."
)
AFTER_CR = (
    "of the table begins with a space, a tab or a comma after a line that ends in CR alone, which a node "
    "misreads: end lines with LF or CR LF"
)
NO_HEADER = (
    "the table has no header that ends within its first 1048576 bytes: a CSV begins with a line of column "
    "names"
)
NO_NAME = (
    "column 2 of the table has no name: give it one (pandas writes its index without a name: "
    "to_csv(index=False))"
)
OPEN = "the table ends inside a quoted field, in row {}: close the quote, or double a quote within a field"


def refusal(check: CsvCheck | JsonCheck, content: bytes, sizes: list[int]) -> tuple[object, ...]:
    """The message, row, column and byte of a refusal."""
    with pytest.raises(InvalidTable) as raised:
        feed(check, content, sizes)
    return str(raised.value), raised.value.row, raised.value.column, raised.value.byte


@pytest.mark.parametrize(
    ("content", "message", "row", "column", "byte"),
    [
        (b"", "the table is empty: a CSV needs at least a header", None, None, 0),
        (b"\n \n", "the table is empty: a CSV needs at least a header", None, None, 0),
        (
            b"a,,c\n1,2,3\n",
            NO_NAME,
            None,
            "",
            None,
        ),
        (
            b"c,b,a,b\n",
            "column 'b' is in the table's header more than once: rename one of them",
            None,
            "b",
            None,
        ),
        (b"b,f\n1,2,3\n", f"row 1 of the table {TOO_WIDE.format('2 columns')}", 1, None, None),
        (b"b\n1\n2,3\n", f"row 2 of the table {TOO_WIDE.format('1 column')}", 2, None, None),
        (
            b"a,b\n1,2\n\n3,4\n5,6,7\n8,9\n",
            f"row 3 of the table {TOO_WIDE.format('2 columns')}",
            3,
            None,
            None,
        ),
        (b"a,b\n1,2,", f"row 1 of the table {TOO_WIDE.format('2 columns')}", 1, None, None),
        (b'a,b\n1,"2\n', OPEN.format(1), 1, None, 9),
        (b'a,b\n1,2\n3,4\n5,"', OPEN.format(3), 3, None, 15),
        (
            b"a,b\n1,\xff\n",
            "byte 6 of the table is not UTF-8 (invalid start byte): encode the table as UTF-8",
            None,
            None,
            6,
        ),
        (
            b"a,b\n1,\xc3",
            "byte 6 of the table is not UTF-8 (unexpected end of data): encode the table as UTF-8",
            None,
            None,
            6,
        ),
        (b'"a,b\n', "the table's header ends inside a quoted name: close the quote", None, None, 5),
        (b"\r a\n1\n", f"the header {AFTER_CR}", None, None, None),
        (b"a,b\n1,2\r\r,3\n", f"row 2 {AFTER_CR}", 2, None, None),
        (b"a,f\n1,2\n3,n/a\n", f"row 2 of the table has 'n/a' in column 'f', {NO_FLOAT}", 2, "f", None),
        (
            b'a,f\n1,"x, ""y"\n',
            f"""row 1 of the table has 'x, "y' in column 'f', {NO_FLOAT}""",
            1,
            "f",
            None,
        ),
        (
            b"f\n" + b"x" * 60 + b"\n",
            f"row 1 of the table has '{'x' * 60}' in column 'f', {NO_FLOAT}",
            1,
            "f",
            None,
        ),
        (
            b"f\n" + b"x" * 61 + b"\n",
            f"row 1 of the table has '{'x' * 60}…' in column 'f', {NO_FLOAT}",
            1,
            "f",
            None,
        ),
        (
            b"f\n" + b"x" * 59 + "\u00e9\n".encode(),
            f"row 1 of the table has '{'x' * 59}\ufffd…' in column 'f', {NO_FLOAT}",
            1,
            "f",
            None,
        ),
        (b'a,f\n1,"x"1\n', f"row 1 of the table has 'x1' in column 'f', {NO_FLOAT}", 1, "f", None),
        (b"\n" * (1 << 20) + b"a\n", NO_HEADER, None, None, 0),
        (b"a" * (1 << 20) + b"\n", NO_HEADER, None, None, 0),
        (b"a" * (3 << 19) + b"\n1\n", NO_HEADER, None, None, 0),
        (b"a,f\n1,1.2.3\n", f"row 1 of the table has '1.2.3' in column 'f', {NO_FLOAT}", 1, "f", None),
        (b"a,f\n1,2\n1,-\n", f"row 2 of the table has '-' in column 'f', {NO_FLOAT}", 2, "f", None),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_bad_csv_is_refused_with_row_column_or_byte_and_what_to_do(
    content: bytes, message: str, row: int | None, column: str | None, byte: int | None
) -> None:
    for sizes in ([], [1] * min(len(content), 100)):
        assert refusal(CsvCheck({"f"}), content, sizes) == (message, row, column, byte)


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"a,b", 0),
        (b"a,b\n", 0),
        (b"\xef\xbb\xbfa,b\r\n1,2\r\n", 1),
        (b"\n\na,b\n1\n", 1),
        (b'a\n""\n\n', 1),
        (b'a\n"" \n""\t\n" " \n', 3),
        (b'a\n1\r2\r\n3"4\n', 3),
        (b"a,b\r1,2\r,3\r\r4,\r", 3),
        (b'a,b\r\n 1,2\r\n,"\r ,"\r\n \r\n,\r\n', 3),
        (b"a\n" + b'"' + b"x" * 300_000 + b'"\n', 1),
    ],
)
def test_csv_that_a_node_can_read_is_accepted(content: bytes, rows: int) -> None:
    assert feed(CsvCheck(), content).rows == rows


@pytest.mark.parametrize(
    "content",
    [
        b"a\r 1\n",
        b"\r a\n1\n",
        b"a\n1\r\t2\n",
        b'a\n"x"\r\r \t"y"\n',
        b"a,b\n\r,1\n",
        b"a,b\n1,2\r\r,3\n",
        b"a,b\n \r,1\n",
    ],
)
def test_a_row_that_a_node_reads_wrongly_after_a_lone_cr_is_refused_in_any_pieces(content: bytes) -> None:
    for size in range(1, len(content) + 1):
        with pytest.raises(InvalidTable, match="CR alone"):
            feed(CsvCheck(), content, [size] * len(content))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(st.text(max_size=5), VALUES, max_size=4), max_size=5)


@settings(max_examples=200)
@given(rows=ROWS, sizes=SIZES, indent=st.sampled_from([None, 1]), ascii_only=st.booleans())
def test_a_json_list_of_objects_is_accepted_in_any_pieces(
    rows: list[object], sizes: list[int], indent: int | None, ascii_only: bool
) -> None:
    content = json.dumps(rows, indent=indent, ensure_ascii=ascii_only).encode()
    check, returned, start = JsonCheck(JsonRows()), b"", 0
    for size in (*sizes, len(content)):
        returned += check.feed(content[start : start + size])
        start += size
    returned += check.finish()
    assert check.rows == len(rows)
    assert json.loads(b"[" + returned + b"]") == rows


@settings(max_examples=200)
@given(rows=ROWS, data=st.data(), sizes=SIZES)
def test_json_with_a_changed_byte_is_refused_if_python_refuses_it(
    rows: list[object], data: st.DataObject, sizes: list[int]
) -> None:
    content = bytearray(json.dumps(rows).encode())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.sampled_from(b'[]{}",:x1 '))
    try:
        read = json.loads(bytes(content))
        good = isinstance(read, list) and all(isinstance(row, dict) for row in read)
    except ValueError:
        good = False
    assume(len(content) > 2)
    try:
        feed(JsonCheck(JsonRows()), bytes(content), sizes)
    except InvalidTable as error:
        assert not good or "integer" in str(error)
    else:
        assert good


BEYOND = (
    "is outside -9223372036854775808 to 9223372036854775807, the integers that a node returns correctly. "
    "Write the column's numbers as strings, or store the rows as dicts, CSV or Parquet with column_types "
    "'string' for the column"
)
ROUNDED = (
    "Write the column's numbers as strings, or store the rows as dicts, CSV or Parquet with "
    "column_types={'a': 'string'}"
)
BESIDE_NONE = (
    "of the table has in column 'a' 9007199254740993, beyond 2**53, and {}: a node converts the column to "
    "floats and rounds. {}"
)
BESIDE_FLOATS = (
    "of the table has in column 'a' 9007199254740993 among floats, which no float can represent: a node "
    "rounds it. {}"
)
TOO_LONG = (
    "row 1 of the table has more than 2097152 bytes, the longest that is checked: store the rows as dicts, "
    "CSV or Parquet"
)
LIST = "send a JSON list of objects"


@pytest.mark.parametrize(
    ("content", "message", "row", "column", "byte"),
    [
        (b"", "the table is empty: send a complete JSON list of objects", None, None, 0),
        (b" [", "the table is cut off after row 0: send a complete JSON list of objects", None, None, 2),
        (
            b'[{"a": 1}',
            "the table is cut off after row 1: send a complete JSON list of objects",
            None,
            None,
            9,
        ),
        (b' {"a": 1}', f"the table starts with '{{', at byte 1: {LIST}", None, None, 1),
        (b"[2]", f"the table has '2' instead of row 1, an object, at byte 1: {LIST}", 1, None, 1),
        (b'[{"a": 1}, 2]', f"the table has '2' instead of row 2, an object, at byte 11: {LIST}", 2, None, 11),
        (b'[{"a": 1},]', f"the table has ']' instead of row 2, an object, at byte 10: {LIST}", 2, None, 10),
        (
            b'[{"a": 1} {"a": 2}]',
            f"the table has '{{' after row 1 instead of ',' or ']', at byte 10: {LIST}",
            None,
            None,
            10,
        ),
        (
            b'[{"a": 1}] []',
            f"the table has '[' after the end of the list, at byte 11: {LIST}",
            None,
            None,
            11,
        ),
        (
            b'[{"a": 1}, {"a": tru}]',
            "row 2 of the table is not JSON: Expecting value, at byte 17",
            2,
            None,
            17,
        ),
        (
            b'[{"a": "\xff"}]',
            "byte 8 of the table is not UTF-8 (invalid start byte): encode the table as UTF-8",
            None,
            None,
            8,
        ),
        (
            b'[{"a": 1}, {"a": 9223372036854775808}]',
            f"row 2: the integer 9223372036854775808 {BEYOND}",
            2,
            None,
            None,
        ),
        (
            b'[{"a": -9223372036854775809}]',
            f"row 1: the integer -9223372036854775809 {BEYOND}",
            1,
            None,
            None,
        ),
        (b'[{"a": ' + b"1" * 40 + b"}]", f"row 1: the integer {'1' * 40} {BEYOND}", 1, None, None),
        (b'[{"a": ' + b"1" * 41 + b"}]", f"row 1: the integer {'1' * 40}… {BEYOND}", 1, None, None),
        (
            b'[{"a": 1}, {"a": 9007199254740993}, {"a": null}]',
            f"row 2 {BESIDE_NONE.format('a row has null', ROUNDED)}",
            2,
            "a",
            None,
        ),
        (
            b'[{"a": 9007199254740993}, {"b": 1}, {"b": 1}]',
            f"row 1 {BESIDE_NONE.format('2 rows have no value', ROUNDED)}",
            1,
            "a",
            None,
        ),
        (
            b'[{"a": 1.5}, {"a": 9007199254740994}, {"a": 9007199254740993}]',
            f"row 3 {BESIDE_FLOATS.format(ROUNDED)}",
            3,
            "a",
            None,
        ),
        (
            b'[{"a": ' + b"[" * 100_000,
            "row 1 of the table is nested too deeply: store nested values as text",
            1,
            None,
            None,
        ),
        (b'[{"a": "' + b"x" * (2 << 20), TOO_LONG, 1, None, None),
        (b'[{"a": "' + b"x" * (2 << 20) + b'"}]', TOO_LONG, 1, None, None),
        (b"[]", "the table has no columns: the list is empty", None, None, None),
        (b"[{}, {}]", "the table has no columns: all its objects are empty", None, None, None),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_bad_json_is_refused_with_row_column_or_byte_and_what_to_do(
    content: bytes, message: str, row: int | None, column: str | None, byte: int | None
) -> None:
    for sizes in ([], [1] * min(len(content), 100)):
        check = JsonCheck(may_be_empty=False)
        assert refusal(check, content, sizes) == (message, row, column, byte)


def test_a_sign_outside_ascii_in_place_of_a_row_is_named() -> None:
    message = f"the table has '\u00e9' after row 1 instead of ',' or ']', at byte 9: {LIST}"
    assert refusal(JsonCheck(), '[{"a": 1}\u00e9'.encode(), []) == (message, None, None, 9)


@pytest.mark.parametrize("size", [(2 << 20) - 10, (2 << 20) - 9])
def test_a_row_of_json_may_have_two_mebibytes(size: int) -> None:
    content = b'[{"a": "' + b"x" * size + b'"}]'
    if len(content) - 2 <= 2 << 20:
        assert feed(JsonCheck(), content).rows == 1
    else:
        assert refusal(JsonCheck(), content, []) == (TOO_LONG, 1, None, None)


@pytest.mark.parametrize("content", [b"[]", b" [ ]\n", b"[{}]", b"[{}, {}]"])
def test_a_json_list_without_columns_is_refused(content: bytes) -> None:
    """A node accepts it and drops the old table: see tests/conformance/test_csv_json.py."""
    for sizes in ([], [1] * len(content)):
        with pytest.raises(InvalidTable, match="the table has no columns"):
            feed(JsonCheck(may_be_empty=False), content, sizes)
        if b"{" in content:
            with pytest.raises(InvalidTable, match="the table has no columns"):
                feed(JsonCheck(), content, sizes)
        else:
            feed(JsonCheck(), content, sizes)
    feed(JsonCheck(), b'[{}, {"a": null}]')


@pytest.mark.parametrize(
    "content_type", ["text/plain", "text/csv; charset=latin-1", "Text/CSV", "application/json;charset=UTF-8"]
)
def test_a_content_type_that_a_node_answers_with_415_is_refused(content_type: str) -> None:
    with pytest.raises(InvalidTable, match="Content-Type"):
        is_csv(content_type)


def check_columns(header: str, value: str) -> None:
    ColumnHeaders.read({header: value}, is_csv=True).check(("a", "b"))


@pytest.mark.parametrize("value", ["a", "a=string;", "a=b=c", "=string", "a=", "a=int", "nope=string"])
def test_a_types_header_that_is_malformed_or_names_an_unknown_column_is_refused(value: str) -> None:
    with pytest.raises(InvalidTable, match="X-QCache-types"):
        check_columns("x-qcache-types", value)


@pytest.mark.parametrize("value", ["c", "c=1;", "c=d", "c=1=2"])
def test_a_stand_in_header_that_is_malformed_or_names_an_unknown_column_is_refused(value: str) -> None:
    with pytest.raises(InvalidTable, match="X-QCache-stand-in-columns"):
        check_columns("x-qcache-stand-in-columns", value)


def test_headers_that_name_existing_columns_are_accepted() -> None:
    check_columns("x-qcache-types", "a=string; b=enum")
    check_columns("x-qcache-stand-in-columns", "c=1;d='x';e=a;f=e;a=2")


@given(key=st.from_regex(r"[A-Za-z0-9_-]+", fullmatch=True))
def test_valid_keys_are_accepted(key: str) -> None:
    check_key(key)


@pytest.mark.parametrize("key", ["", "a b", "a/b", "../status", "a?b", "å", "a\n", "a%41", None, b"a"])
def test_any_other_key_is_refused(key: object) -> None:
    with pytest.raises(InvalidKey):
        check_key(key)


@pytest.mark.parametrize("key", ["sales_*", "sales_202?", "sales_[ab]", "sales_%"])
def test_the_error_of_a_pattern_as_key_says_that_qcache_has_no_patterns(key: str) -> None:
    with pytest.raises(InvalidKey, match="has no patterns: pass the whole key of each table"):
        check_key(key)
    with pytest.raises(InvalidKey) as caught:
        check_key("sales ")
    assert "pattern" not in str(caught.value)


def test_a_header_outside_latin_1_is_refused_without_its_value() -> None:
    with pytest.raises(ValueError, match="Authorization") as raised:
        check_header("Authorization", "Bearer s\u20accret")
    assert "cret" not in str(raised.value)


@pytest.mark.parametrize("number", ["1" * 21, "-" + "9" * 19, "1" * 5000])
def test_an_integer_of_any_length_that_a_node_cannot_hold_is_refused(number: str) -> None:
    with pytest.raises(InvalidTable, match="is outside"):
        feed(JsonCheck(), f'[{{"a": {number}}}]'.encode())


@pytest.mark.parametrize("number", ["123456789012345678901234.5", "123456789012345678901234e+5"])
def test_a_long_float_may_be_split_between_pieces(number: str) -> None:
    for cut in range(1, len(number)):
        check = JsonCheck()
        check.feed(f'[{{"a": {number[:cut]}'.encode())
        check.feed(f"{number[cut:]}}}]".encode())
        check.finish()
        assert check.rows == 1


LONG = b"x" * 100_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"a": 1}, {"a": 2}]', "not CSV but a JSON list of objects: pass content_type='application/json'"),
        (b'\xef\xbb\xbf\n[\n  {"a": 1}\n]\n', "a JSON list of objects"),
        (b'[\n{"a": 1},\n{"a": 2}\n]\n', "a JSON list of objects"),
        (b'[{"a": 36893488147419103232}]', "a JSON list of objects"),
        (b"[]", "a JSON list of objects"),
        (b'[{"a": "' + LONG + b'"}]', "a JSON list of objects"),
        (b'[{"a": "x"}, {"a": "' + LONG + b'"}]', "a JSON list of objects"),
        (b'[{"a": ' + b"[" * 100_000, "a JSON list of objects"),
        (b'{"error": {"code": 1}}', "JSON that is not a list of objects.*content_type='application/json'"),
        (b'{"data": "' + LONG + b'"}', "JSON that is not a list of objects"),
        (b'{"a": 1}\n{"a": 2}\n', "several JSON objects.*content_type='application/json'"),
        (b"<!DOCTYPE html>\n<p>", "HTML or XML"),
        (b"<html><body>,</body></html>", "HTML or XML"),
        (b'<?xml version="1.0"?>\n<a/>', "HTML or XML"),
        (b"id;name;price\n1;x;2\n", "separator seems to be ';'"),
        (b"id;price\n1;2,50\n", "separator seems to be ';'"),
        (b'"id"\t"name"\n1\tx\n', r"separator seems to be '\\t'"),
        (b"\xef\xbb\xbfid|name\r\n" + LONG, r"separator seems to be '\|'"),
        (b"sep=,\na,b\n1,2\n", "begins with 'sep=,'.*remove this line"),
        (b"sep=;\na;b\n1;2\n", "begins with 'sep=;'"),
        (b"id;name\r1;x\r", "separator seems to be ';'"),
        (b'"id\nhere";name\n1;x\n', "separator seems to be ';'"),
        (b"x" * 70_000 + b";name\n1;x\n", "separator seems to be ';'"),
    ],
)
def test_content_that_is_no_csv_is_refused_in_any_pieces(content: bytes, message: str) -> None:
    for sizes in ([], [1] * min(len(content), 200), [1 << 15] * 4):
        with pytest.raises(InvalidTable, match=message) as raised:
            feed(CsvCheck(), content, sizes)
        assert raised.value.byte == 0


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": 1},b\n1,2\n',
        b'{"a": 1},b\n' + b"1,2\n" * 30_000,
        b'[{"a": 1},b\n1,2\n',
        b'[{"a": 1},b\n' + b"1,2\n" * 30_000,
        b"[1,2]\n",
        b"<DATE>,<OPEN>\n1,2\n",
        b"/data/x.csv",
        b'"id;name"\n1\n',
        b"a;b,c\n1,2\n",
        b"a\n1;2\n",
        b"sep\n1\n",
        b'"a;\nb",c\n1,2\n',
        b'"Price | USD\nper unit"\n1\n',
        b"id\rfoo;bar\r",
    ],
)
def test_unusual_content_that_may_be_csv_is_accepted(content: bytes) -> None:
    for sizes in ([], [1] * min(len(content), 200), [1 << 15] * 4):
        feed(CsvCheck(), content, sizes)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        *((b"null", True), (b" true", True), (b"1.5", True), (b'"no data"', True), (b"9" * 5000, True)),
        *((b"None", True), (b"\xef\xbb\xbfTrue", True), (b"", False), (b" ", False), (b"null\n", False)),
        *((b"null\r", False), (b"[]", False), (b"{}", False), (b"a,b", False), (b"\xff", False)),
        (b"[" * 100_000, False),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_text_is_a_single_value_unless_it_may_be_a_table(text: bytes, is_one: bool) -> None:
    assert is_one_value(text) is is_one
