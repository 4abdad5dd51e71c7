"""The headers of a store: what the client writes, what a node would refuse, and how the refusal names it."""

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


def refused(message: str, column: str | None, types: str | None = None, stand_ins: str | None = None) -> None:
    """Reading the headers, or comparing them with the columns a and b, is refused so."""
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
def test_what_is_written_is_what_is_read(
    types: Mapping[str, str] | None, stand_ins: Mapping[str, object] | None, headers: dict[str, str]
) -> None:
    written = column_headers(types, stand_ins)
    assert written == headers
    found = ColumnHeaders.read({name.lower(): value for name, value in written.items()}, is_csv=True)
    assert dict(found.types) == (types or {})
    assert dict(found.stand_ins) == {name: str(value) for name, value in (stand_ins or {}).items()}
    found.check(("a", "b"))


def test_spaces_around_names_and_values_do_not_count() -> None:
    assert read(" a = float ; b=enum", " c = 1 ") == ColumnHeaders(
        (("a", "float"), ("b", "enum")), (("c", "1"),)
    )


def test_of_a_column_that_is_named_twice_the_last_type_counts() -> None:
    assert read("a=float;b=float;a=string;b=float").floats == {"b"}
    assert read("a=string;a=float").floats == {"a"}


@pytest.mark.parametrize("part", ["a", "", "=string", "a=", "a=string=b", " = "])
def test_a_pair_that_is_malformed_is_quoted(part: str) -> None:
    value = f"b=string;{part}"
    rest = f"is malformed at {part!r}: expected 'name=value' pairs separated by ';', without ';' at the end"
    refused(f"X-QCache-types: {value!r} {rest}", None, types=value)
    value = f"c=1;{part}"
    refused(f"X-QCache-stand-in-columns: {value!r} {rest}", None, stand_ins=value)


def test_a_type_or_column_that_is_not_there_is_named() -> None:
    refused(
        "X-QCache-types: 'int' for column 'b' is not a type: use enum, float, string",
        "b",
        types="a=string;b=int",
    )
    refused(
        f"X-QCache-types names column 'c', which the table does not have: {HAS}",
        "c",
        types="a=string;c=enum",
    )


@pytest.mark.parametrize(("count", "more"), [(10, ""), (11, " and 1 more"), (12, " and 2 more")])
def test_the_columns_of_a_table_are_listed_up_to_ten(count: int, more: str) -> None:
    columns = tuple(f"c{number}" for number in range(count))
    with pytest.raises(InvalidTable) as raised:
        read("a=float").check(columns)
    listed = ", ".join(map(repr, columns[:10]))
    assert str(raised.value) == (
        f"X-QCache-types names column 'a', which the table does not have: the table has {listed}{more}"
    )


def test_of_json_any_column_may_be_named() -> None:
    read("c=string", "d=e", is_csv=False).check(None)


@pytest.mark.parametrize("value", ["x", "XyX", "'x", "x'", "'", '"', "'x\"", "xx'x'", "0x1", "1,5"])
def test_a_stand_in_that_is_no_literal_must_be_a_column(value: str) -> None:
    """Else the node fills the column with the misspelled name."""
    refused(
        f"X-QCache-stand-in-columns: {value!r}, for column 'c', is not a column of the table; {HINT}",
        value,
        stand_ins=f"c={value}",
    )


@pytest.mark.parametrize("value", ["a", "1", "-1.5e3", "inf", "''", '"x"', "'it''s'"])
def test_a_stand_in_may_be_a_number_a_quoted_string_or_a_column(value: str) -> None:
    read(stand_ins=f"c={value}").check(("a", "b"))


def test_a_stand_in_may_be_taken_from_one_before_it_but_not_after_it() -> None:
    read(stand_ins="c=1;d=c").check(("a", "b"))
    refused(
        f"X-QCache-stand-in-columns: 'c', for column 'd', is not a column of the table; {HINT}",
        "c",
        stand_ins="d=c;c=1",
    )


def test_what_is_not_ascii_must_be_a_column() -> None:
    """A node takes the name of such a column, and answers 500 to any other value."""
    read(stand_ins="c=größe").check(("größe",))
    read(stand_ins="größe=1;c=größe").check(("a",))
    for value in ("größe", "'größe'"):
        refused(
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
        ("text/csv; header=present; charset=latin-1", True),  # where the node does not look
        ("application/json", False),
        ("application/json;charset=utf-8", False),
    ],
)
def test_a_content_type_is_read_as_the_node_reads_it(content_type: str, csv: bool) -> None:
    assert is_csv(content_type) is csv


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "text/csv;charset=utf-16", "text/csv; charset=UTF-8", "json; text/csv"]
)
def test_a_content_type_that_a_node_refuses_is_quoted(content_type: str) -> None:
    with pytest.raises(InvalidTable) as raised:
        is_csv(content_type)
    assert str(raised.value) == (
        f"Content-Type {content_type!r} is not supported by QCache: use 'text/csv' or 'application/json', "
        "in UTF-8"
    )


def test_a_header_goes_on_the_wire_in_latin_1() -> None:
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
def test_a_header_that_cannot_be_sent_is_named_without_its_value(
    name: str, value: object, message: str
) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        check_header(name, value)
    assert str(raised.value) == message
    assert raised.value.__suppress_context__ == ("latin-1" in message)


def test_further_headers_replace_those_of_the_same_name_in_any_case() -> None:
    fields = {"Content-Type": "text/csv", "X-Some": "1", "x-some": "2", "X-Else": "3"}
    update_headers(fields, {"X-SOME": "4", "Accept": "*/*"})
    assert fields == {"Content-Type": "text/csv", "X-Else": "3", "X-SOME": "4", "Accept": "*/*"}


@pytest.mark.parametrize("name", ["Content-Length", "HOST", "transfer-encoding"])
def test_headers_that_frame_a_request_are_the_client_s(name: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        update_headers({}, {name: "1"})
    assert str(raised.value) == f"the client sets header {name!r} itself: leave it out"
