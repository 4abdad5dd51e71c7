"""The column headers of a store: what the client writes, what it refuses, and how the error names it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from airflow_provider_qcache.client.errors import InvalidTable
from airflow_provider_qcache.client.tables.headers import (
    STAND_INS,
    TYPES,
    ColumnHeaders,
    check_header,
    column_headers,
    header_text,
    is_csv,
    update_headers,
)

HAS = "the table has 'a', 'b'"
HINT = f"put a string in quotes: {HAS}"


def read(types: str | None = None, stand_ins: str | None = None, *, is_csv: bool = True) -> ColumnHeaders:
    described = {TYPES.lower(): types, STAND_INS.lower(): stand_ins}
    headers = {
        "content-type": "text/csv",
        **{name: value for name, value in described.items() if value is not None},
    }
    return ColumnHeaders.read(headers, is_csv=is_csv)


def check_refused(
    message: str, column: str | None, types: str | None = None, stand_ins: str | None = None
) -> None:
    """Check that reading the headers, or comparing them with columns a and b, raises this error."""
    with pytest.raises(InvalidTable) as raised:
        read(types, stand_ins).check(("a", "b"))
    assert str(raised.value) == message
    assert raised.value.column == column


@pytest.mark.parametrize(
    ("types", "stand_ins", "headers"),
    [
        (None, None, {}),
        ({}, {}, {}),
        ({"a": "float", "b": "enum"}, None, {TYPES: "a=float;b=enum"}),
        (None, {"c": 1.5, "d": "'x'"}, {STAND_INS: "c=1.5;d='x'"}),
        ({"a": "string"}, {"c": "a"}, {TYPES: "a=string", STAND_INS: "c=a"}),
    ],
)
def test_written_headers_are_read_back(
    types: Mapping[str, str] | None, stand_ins: Mapping[str, object] | None, headers: dict[str, str]
) -> None:
    written = column_headers(types, stand_ins)
    assert written == headers
    found = ColumnHeaders.read({name.lower(): value for name, value in written.items()}, is_csv=True)
    assert dict(found.types) == (types or {})
    assert dict(found.stand_ins) == {name: str(value) for name, value in (stand_ins or {}).items()}
    found.check(("a", "b"))


def test_spaces_around_names_and_values_are_ignored() -> None:
    assert read(" a = float ; b=enum", " c = 1 ") == ColumnHeaders(
        (("a", "float"), ("b", "enum")), (("c", "1"),)
    )


def test_the_last_type_of_a_column_counts() -> None:
    assert read("a=float;b=float;a=string;b=float").floats == {"b"}
    assert read("a=string;a=float").floats == {"a"}


@pytest.mark.parametrize("part", ["a", "", "=string", "a=", "a=string=b", " = "])
def test_the_error_of_a_malformed_pair_quotes_it(part: str) -> None:
    value = f"b=string;{part}"
    rest = f"is malformed at {part!r}: expected 'name=value' pairs separated by ';', without ';' at the end"
    check_refused(f"X-QCache-types: {value!r} {rest}", None, types=value)
    value = f"c=1;{part}"
    check_refused(f"X-QCache-stand-in-columns: {value!r} {rest}", None, stand_ins=value)


def test_the_error_of_an_unknown_type_or_column_names_it() -> None:
    check_refused(
        "X-QCache-types: 'int' for column 'b' is not a type: use enum, float, string",
        "b",
        types="a=string;b=int",
    )
    check_refused(
        f"X-QCache-types names column 'c', which the table does not have: {HAS}",
        "c",
        types="a=string;c=enum",
    )


@pytest.mark.parametrize(("count", "more"), [(10, ""), (11, " and 1 more"), (12, " and 2 more")])
def test_an_error_lists_at_most_ten_columns(count: int, more: str) -> None:
    columns = tuple(f"c{number}" for number in range(count))
    with pytest.raises(InvalidTable) as raised:
        read("a=float").check(columns)
    listed = ", ".join(map(repr, columns[:10]))
    assert str(raised.value) == (
        f"X-QCache-types names column 'a', which the table does not have: the table has {listed}{more}"
    )


def test_headers_for_json_may_name_any_column() -> None:
    read("c=string", "d=e", is_csv=False).check(None)


@pytest.mark.parametrize("value", ["x", "XyX", "'x", "x'", "'", '"', "'x\"", "xx'x'", "0x1", "1,5", "1_0"])
def test_a_stand_in_that_is_neither_a_literal_nor_a_column_is_refused(value: str) -> None:
    """A node would fill the column with the misspelled name."""
    check_refused(
        f"X-QCache-stand-in-columns: {value!r}, for column 'c', is not a column of the table; {HINT}",
        value,
        stand_ins=f"c={value}",
    )


@pytest.mark.parametrize("value", ["a", "1", "-1.5e3", "inf", "''", '"x"', "'it''s'"])
def test_a_stand_in_may_be_a_number_a_quoted_string_or_a_column(value: str) -> None:
    read(stand_ins=f"c={value}").check(("a", "b"))


def test_a_stand_in_may_name_an_earlier_stand_in_but_not_a_later_one() -> None:
    read(stand_ins="c=1;d=c").check(("a", "b"))
    check_refused(
        f"X-QCache-stand-in-columns: 'c', for column 'd', is not a column of the table; {HINT}",
        "c",
        stand_ins="d=c;c=1",
    )


def test_a_stand_in_outside_ascii_must_be_a_column() -> None:
    """A node accepts it as a column's name, and answers 500 to any other value."""
    read(stand_ins="c=größe").check(("größe",))
    read(stand_ins="größe=1;c=größe").check(("a",))
    for value in ("größe", "'größe'"):
        check_refused(
            f"X-QCache-stand-in-columns: {value!r}, for column 'c', is not ASCII, which a node refuses: use "
            "an ASCII value, or add the column to the table",
            "c",
            stand_ins=f"c={value}",
        )
    with pytest.raises(InvalidTable, match="is not ASCII"):
        read(stand_ins="c=größe", is_csv=False)
    with pytest.raises(InvalidTable, match="is not ASCII"):
        read(stand_ins="c='größe'")


@pytest.mark.parametrize(
    ("content_type", "csv"),
    [
        ("text/csv", True),
        ("text/csv;", True),
        ("text/csv; charset=utf-8", True),
        ("text/csv;  charset=utf-8; header=present", True),
        (
            "text/csv; header=present; charset=latin-1",
            True,
        ),  # the node does not read beyond the header parameter
        ("application/json", False),
        ("application/json;charset=utf-8", False),
    ],
)
def test_a_content_type_is_read_as_the_node_reads_it(content_type: str, csv: bool) -> None:
    assert is_csv(content_type) is csv


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "text/csv;charset=utf-16", "text/csv; charset=UTF-8", "json; text/csv"]
)
def test_the_error_of_an_unsupported_content_type_quotes_it(content_type: str) -> None:
    with pytest.raises(InvalidTable) as raised:
        is_csv(content_type)
    assert str(raised.value) == (
        f"Content-Type {content_type!r} is not supported by QCache: use 'text/csv' or 'application/json', "
        "in UTF-8"
    )


def test_headers_are_encoded_as_latin_1() -> None:
    assert check_header("X-Some", "ä b") == b"X-Some: \xe4 b\r\n"
    assert check_header("X-Some", b"\xe4") == b"X-Some: \xe4\r\n"
    assert check_header("X-Some", 5) == b"X-Some: 5\r\n"
    assert (header_text(b"\xe4"), header_text("ä"), header_text(5)) == ("ä", "ä", "5")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("", "x", "'' is not a valid name of an HTTP header"),
        ("X Some", "x", "'X Some' is not a valid name of an HTTP header"),
        ("X-Some", "x\ry", "the value of header 'X-Some' contains a line break"),
        ("X-Some", "x\n", "the value of header 'X-Some' contains a line break"),
        ("X-Some", b"x\0", "the value of header 'X-Some' contains a line break"),
        ("X-Some", "\u20ac", "the value of header 'X-Some' contains characters outside latin-1"),
    ],
)
def test_the_error_of_a_header_that_cannot_be_sent_hides_its_value(
    name: str, value: object, message: str
) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        check_header(name, value)
    assert str(raised.value) == message
    assert raised.value.__suppress_context__ == ("latin-1" in message)


def test_update_headers_replaces_names_case_insensitively() -> None:
    fields = {"Content-Type": "text/csv", "X-Some": "1", "x-some": "2", "X-Else": "3"}
    update_headers(fields, {"X-SOME": "4", "Accept": "*/*"})
    assert fields == {"Content-Type": "text/csv", "X-Else": "3", "X-SOME": "4", "Accept": "*/*"}


@pytest.mark.parametrize("name", ["Content-Length", "HOST", "transfer-encoding"])
def test_headers_that_frame_a_request_are_refused(name: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        update_headers({}, {name: "1"})
    assert str(raised.value) == f"the client sets header {name!r} itself: leave it out"
