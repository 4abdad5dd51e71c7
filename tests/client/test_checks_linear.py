"""The checks take linear time and limited memory, whatever the content is."""

from __future__ import annotations

import re
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_qcache.client.errors import InvalidTable
from airflow_provider_qcache.client.tables import checks
from airflow_provider_qcache.files import reading, text
from airflow_provider_qcache.files.tables import table_in
from benchmarks import checks as benchmark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

MANY = 32 * 1024

HOSTILE: dict[str, Callable[[int], bytes]] = {
    "blank lines before the header": lambda size: b"\n" * size + b"a\n1\n",
    "blanks before the header": lambda size: b" " * size + b"a\n1\n",
    "a header without an end": lambda size: b"a" * size,
    "a header of many columns": lambda size: b",".join(b"%d" % number for number in range(size // 8)),
    "a quoted header": lambda size: b'"' + b"a\n" * (size // 2) + b'"\n1\n',
    "a header that stays open": lambda size: b'"' + b'""' * (size // 2),
    "quotes and commas": lambda size: b'a\n"' + b',"' * (size // 2),
    "quotes in quotes": lambda size: b"a\n" + b'"' * size,
    "quotes out of place": lambda size: b"a\n" + b'x"y\n' * (size // 4),
    "quotes after quotes": lambda size: b"a\n" + b'"x"y"\n' * (size // 6),
    "a CR and blanks": lambda size: b"a\n1\r" + b" " * size,
    "CRs": lambda size: b"a\n" + b"\r" * size,
    "CRs and blanks": lambda size: b"a\n" + b"\r " * (size // 2),
    "a long row": lambda size: b"a,b\n" + b"x" * size,
    "a long number": lambda size: b"f\n" + b"1" * size,
    "blank rows": lambda size: b"f\n" + b" \n" * (size // 2),
    "plain rows": lambda size: b"e,f,g\n" + b'x,1.5,"y, z"\n' * (size // 14),
    "every second row odd": lambda size: b"e,f\n" + b'x,1\nx,"1"5\n' * (size // 10),
    "long rows that are nearly plain": lambda size: b"e,f\n" + (b"x" * 2000 + b',1 "\n') * (size // 2005),
    "numbers that are nearly plain": lambda size: (
        b"f\n" + b"1" * 99 + b"." + (b"1" * 99 + b"\n") * (size // 100)
    ),
    "quotes that stay open": lambda size: b'e,f\nx,"' + b'"" ' * (size // 3),
}


HOSTILE_JSON: dict[str, Callable[[int], bytes]] = {
    "blanks before the list": lambda size: b" " * size + b'[{"a":1}]',
    "line ends before an object": lambda size: b'[{"a":1},' + b"\n" * size + b'{"a":2}]',
    "blanks before a comma": lambda size: b'[{"a":1}' + b" " * size + b',{"a":2}]',
    "blanks after the list": lambda size: b'[{"a":1}]' + b" " * size,
    "blanks in an object": lambda size: b'[{"a":' + b" " * size + b"1}]",
    "a long text": lambda size: b'[{"a":"' + b"x" * size + b'"}]',
    "a long number": lambda size: b'[{"a":1' + b"0" * size + b".5}]",
    "lists that stay open": lambda size: b'[{"a":' + b"[" * size,
    "many objects": lambda size: b"[" + (b'{"a":"' + b"x" * 91 + b'"},') * (size // 100) + b'{"a":1}]',
    "objects of many columns": lambda size: (
        b"[{" + b",".join(b'"%d":1' % number for number in range(size // 10)) + b"}]"
    ),
}


class Counted:
    """A compiled pattern, or a method of one, that counts the bytes it reads."""

    def __init__(self, inner: Any, work: list[int]) -> None:
        self._inner = inner
        self._work = work

    def __call__(self, text: Any, *rest: Any) -> Any:
        found = self._inner(text, *rest)
        whole = found is None or isinstance(found, list)  # of findall
        self._work[0] += (len(text) if whole else found.end()) - (rest[0] if rest else 0)
        return found

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name == "sub":
            return lambda by, text: (self._add(text), method(by, text))[1]
        return Counted(method, self._work)

    def _add(self, text: bytes) -> None:
        self._work[0] += len(text)


class CountedBytes(bytes):
    """A piece of a file that counts the bytes that are joined, stripped or sliced."""

    work: list[int]

    def __radd__(self, before: bytes) -> CountedBytes:
        return self._counted(before + bytes(self))

    def lstrip(self, *signs: Any) -> CountedBytes:
        return self._counted(super().lstrip(*signs))

    def rstrip(self, *signs: Any) -> CountedBytes:
        return self._counted(super().rstrip(*signs))

    def __getitem__(self, at: Any) -> Any:
        return self._counted(super().__getitem__(at))

    def _counted(self, found: Any) -> Any:
        self.work[0] += len(self)
        if not isinstance(found, bytes):
            return found
        self.work[0] += len(found)
        return _counted_bytes(found, self.work)


def _counted_bytes(piece: bytes, work: list[int]) -> CountedBytes:
    counted = CountedBytes(piece)
    counted.work = work
    return counted


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list of one number: the bytes that the checks' patterns and JSON parser read, and those copied."""
    count = [0]
    for module in (checks, text):
        for name, value in list(vars(module).items()):
            if isinstance(value, re.Pattern) or isinstance(getattr(value, "__self__", None), re.Pattern):
                monkeypatch.setattr(module, name, Counted(value, count))
    make = checks._plain_rows

    def counted_rows(floats: Iterable[bool]) -> Any:
        match = make(floats)

        def counted(text: bytes, start: int) -> Any:
            found = match(text, start)  # type: ignore[misc]
            # A row that does not match was read too, to its end at most.
            count[0] += (text.find(b"\n", found.end()) + 1 or len(text)) - start  # type: ignore[union-attr]
            return found

        return counted

    def counted_floats(floats: list[bool]) -> Any:
        match = make_floats(floats)
        return match and Counted(match, count)

    def counted_rows_of_json(text: str, at: int, decode: Any = checks._decode_row) -> Any:
        end = len(text)
        try:
            found, end = decode(text, at)
        finally:
            count[0] += end - at
        return found, end

    def counted_read(check: checks.JsonCheck, *, final: bool, read: Any = checks.JsonCheck._read) -> Any:
        count[0] += check._waiting
        return read(check, final=final)

    def counted_pieces(pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in skip_bom(pieces):
            yield _counted_bytes(piece, count)

    skip_bom = text.skip_bom
    monkeypatch.setattr(checks, "_decode_row", counted_rows_of_json)
    monkeypatch.setattr(checks.JsonCheck, "_read", counted_read)
    monkeypatch.setattr(text, "skip_bom", counted_pieces)
    make_floats = checks._rows_of_floats
    monkeypatch.setattr(checks, "_plain_rows", counted_rows)
    monkeypatch.setattr(checks, "_rows_of_floats", counted_floats)
    return count


def check(content: bytes, size: int) -> None:
    checker = checks.CsvCheck({"f"})
    try:
        for start in range(0, len(content), size):
            checker.feed(content[start : start + size])
        checker.finish()
    except InvalidTable:
        pass


def check_json(content: bytes, size: int) -> None:
    checker = checks.JsonCheck()
    try:
        for start in range(0, len(content), size):
            checker.feed(content[start : start + size])
        checker.finish()
    except InvalidTable:
        pass


def store(path: Path) -> None:
    try:
        for _ in table_in(path).upload().body()[0]:
            pass
    except InvalidTable:
        pass


KINDS = [("csv", kind) for kind in HOSTILE] + [("json", kind) for kind in HOSTILE_JSON]


@pytest.mark.parametrize(("suffix", "kind"), KINDS, ids=[f"{suffix}, {kind}" for suffix, kind in KINDS])
def test_the_work_grows_linearly_with_the_bytes(
    suffix: str, kind: str, work: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"hostile.{suffix}"
    make, run_check = (HOSTILE[kind], check) if suffix == "csv" else (HOSTILE_JSON[kind], check_json)
    monkeypatch.setattr(reading, "PIECE", 1000)

    def stored(content: bytes) -> None:
        path.write_bytes(content)
        store(path)

    for how in (lambda content: run_check(content, 100), lambda content: run_check(content, 20_000), stored):
        done = []
        for size in (MANY, 2 * MANY, 4 * MANY):
            content = make(size)
            work[0] = 0
            how(content)
            done.append(work[0])
        # A header is read again each time it has doubled; how often that happens depends on the sizes.
        assert done[2] <= 3 * done[1] + 1000, done
        assert done[1] <= 3 * done[0] + 1000, done
        assert done[2] <= 16 * 4 * MANY, done


KEPT = (
    "blanks in an object",
    "a long text",
    "a long number",
    "lists that stay open",
    "objects of many columns",
)
"""JSON with one long object, which is kept until it is complete or too long."""
NOT_KEPT = [one for one in KINDS if one[1] not in KEPT]


@pytest.mark.parametrize(("suffix", "kind"), NOT_KEPT, ids=[f"{suffix}, {kind}" for suffix, kind in NOT_KEPT])
def test_a_check_takes_the_same_memory_however_long_the_table_is(
    suffix: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a table is, the memory stays the same; a header is kept up to its limit of 1 MiB."""
    monkeypatch.setattr(reading, "PIECE", 16 * 1024)
    path = tmp_path / f"hostile.{suffix}"
    make, run_check = (HOSTILE[kind], check) if suffix == "csv" else (HOSTILE_JSON[kind], check_json)

    def peak(size: int) -> int:
        content = make(size)
        path.write_bytes(content)
        tracemalloc.start()
        run_check(content, 16 * 1024)
        if suffix == "json":  # for a CSV file, nothing but this check keeps content
            store(path)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    # The kept part of a header doubles until it exceeds the limit.
    least = 5 << 19 if "header" in kind else 1 << 18
    assert peak(least + (1 << 20)) < peak(least) + (1 << 19)


@pytest.mark.parametrize(
    "start", [b"\n", b" ", b"a", b'"a'], ids=["blank lines", "blanks", "no line end", "no closing quote"]
)
def test_a_header_is_read_no_further_than_its_limit(start: bytes) -> None:
    """Otherwise a header without an end would be kept in memory."""
    checker = checks.CsvCheck()
    fed = 0
    message = ""
    while not message and fed < 4 << 20:
        fed += 64 * 1024
        try:
            checker.feed(start * (64 * 1024 // len(start)))
        except InvalidTable as error:
            message = str(error)
    assert "1048576 bytes" in message
    assert fed <= 2 << 20


def test_a_quoted_name_may_be_longer_than_python_s_csv_module_allows() -> None:
    """That module refuses a field above 131,072 bytes."""
    checker = checks.CsvCheck()
    checker.feed(b'"' + b"a" * 200_000 + b'""","b"c\n1,2\n')
    checker.finish()
    assert checker.columns == ("a" * 200_000 + '"', "bc")


@pytest.mark.parametrize("floats", ["", "c", "ace"])
def test_nearly_all_rows_of_common_tables_are_read_by_one_pattern(
    monkeypatch: pytest.MonkeyPatch, floats: str
) -> None:
    """That makes the check faster than a node, with and without typed columns; see ``benchmarks checks``."""
    closely = 0
    read_rows = checks.CsvCheck._read_rows

    def counted(self: checks.CsvCheck, piece: bytes, *, final: bool = False) -> None:
        nonlocal closely
        closely += len(piece)
        read_rows(self, piece, final=final)

    monkeypatch.setattr(checks.CsvCheck, "_read_rows", counted)
    monkeypatch.setattr(benchmark, "ROWS", 10_000)
    for name, table in benchmark.tables().items():
        content = table.replace(b"true", b"1.25e3")  # column e is typed float here
        closely = 0
        benchmark.check(content, *floats)
        assert closely < len(content) / 100, name


def test_the_pattern_is_used_again_when_plain_rows_follow_unusual_ones() -> None:
    check = checks.CsvCheck()
    matched = []
    for piece in (b"a,b\n", b'x,"y\nz"\n' * 20_000, b"x,y\n" * 40_000):
        check.feed(piece)
        matched.append(check._without_pattern)
    check.finish()
    assert check.rows == 60_000
    assert matched[1] > 0
    assert matched[2] == 0
