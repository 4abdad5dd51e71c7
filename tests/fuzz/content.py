"""Fuzzes stores with nearly valid CSV, JSON and column headers, and queries and keys as well."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from tests.fuzz import nodes
from tests.fuzz.mutate import rewritten

TABLES_OF_CSV = (
    b"a,b\n1,2\n3,4\n",
    b'name,"quoted, one",x\r\n"Anna ""A""",1,0.5\r\nBob,,-1e3\r\n',
    b"zip,city\n00501,Holtsville\n10115,Berlin\n",
    b"a\n",
    "größe,b\nä,1\n".encode(),
    b"flag,n,t\ntrue,9223372036854775807,\nFalse,-1,nan\n",
)
TABLES_OF_JSON = (
    b'[{"a":1,"b":"x"},{"a":2,"b":null}]',
    b'[{"a":1.5e3,"c":true},{"a":-0.0,"c":false},{}]',
    b'[{"\\u00e4":"\\ud83d\\ude00","n":9223372036854775807}]',
    b"[]",
    b'[{"a":"' + b"x" * 200 + b'"}]',
)
CSV_WORDS = (
    b",", b"\n", b"\r\n", b"\r", b'"', b'""', b"\0", b"\xff", b"\xef\xbb\xbf", b" ", b"\t", b";", b"=", b"1e400", b"inf",
    b"nan", b"-", b"0x1", b"1_0", b"00", b"18446744073709551616", b"9" * 400, b"true", b"\xe2\x80\xa8", b"\n\n", b",,,,",
    b"\x1a", b"'", b"\\",
)  # fmt: skip
JSON_WORDS = (
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u0000", b"\\ud800", b"\\udc00", b"null", b"NaN", b"Infinity",
    b"-Infinity", b"true", b"1e400", b"-1e400", b"-", b"0", b"01", b"18446744073709551615", b"18446744073709551616", b"-1",
    b"9" * 400, b"1." + b"0" * 400, b'{"a":1}', b'{"a":{"b":[1]}}', b'{"":1}', b'{"a":1,"a":2}', b"\0", b"\xff",
    b"\xef\xbb\xbf", b"\n", b" ", b"[" * 3000, b'{"a":' * 3000, b"/*", b"'",
)  # fmt: skip
_TYPES = ("string", "enum", "float", "int", "", "STRING", "string ")
_COLUMNS = ("a", "b", "x", "n", "zip", "c", "t", "ä", "no", "", " ", "a;b", "=", "\n")
_VALUES = ("1", "'x'", "", ";", "=", "ä", "a", "\r", "1e400", "'")
_QUERIES: tuple[Any, ...] = (
    {"where": ["==", "a", 1]},
    {"select": ["a", ["=", "b", ["+", "a", 1]]]},
    {"group_by": ["a"], "select": ["a", ["sum", "b"]]},
    {"limit": 1, "offset": -1},
)


def _headers(random: Random) -> dict[str, str]:
    headers = {}
    if random.random() < 0.4:
        pairs = (
            f"{random.choice(_COLUMNS)}={random.choice(_TYPES[:3] * 3 + _TYPES)}"
            for _ in range(random.choice((1, 1, 2, 3)))
        )
        headers["X-QCache-types"] = random.choice((";", ";", ";", ",")).join(pairs)
    if random.random() < 0.2:
        pairs = (
            f"{random.choice(_COLUMNS)}={random.choice(_VALUES)}" for _ in range(random.choice((1, 1, 2)))
        )
        headers["X-QCache-stand-in-columns"] = ";".join(pairs)
    if random.random() < 0.05:
        headers[random.choice(("X-Some", "", "X Y", "Content-Length", "x-ä"))] = random.choice(
            ("1", "ä", "€", "a\r\nb")
        )
    return headers


def odd_query(random: Random) -> Any:
    """A query that may be invalid in some way."""
    query: Any = random.choice(_QUERIES)
    kind = random.random()
    if kind < 0.2:
        deep: Any = []
        for _ in range(random.choice((50, 1100, 100_000))):
            deep = [deep] if random.random() < 0.9 else {"a": deep}
        return {**query, "where": deep}
    if kind < 0.4:
        return {
            **query,
            random.choice(("where", "select", "from", "x")): random.choice(
                (float("nan"), {1}, object(), "\ud800", b"x", {2: 3})
            ),
        }
    if kind < 0.5:
        return random.choice((None, "", 1, [], "x", {}, float("inf")))
    return query


@contextlib.contextmanager
def content() -> Iterator[Callable[[Random], None]]:
    """The client refuses the content, query or key, or the node accepts it."""
    with nodes.client() as client:

        def case(random: Random) -> None:
            key = random.choice((nodes.KEY,) * 20 + ("", "ä", "a/b", "x" * 3000, "a\n", None, 5))
            if random.random() < 0.15:
                client.get(
                    key,
                    odd_query(random),
                    random.choice(("application/json", "text/csv", "x/y", "", "ä")),
                    post_query=random.random() < 0.5,
                )
                return
            is_csv = random.random() < 0.6
            tables, words = (TABLES_OF_CSV, CSV_WORDS) if is_csv else (TABLES_OF_JSON, JSON_WORDS)
            data: Any = rewritten(random, random.choice(tables), words)
            content_type = "text/csv" if is_csv else "application/json"
            if random.random() < 0.05:
                content_type = random.choice(
                    ("text/plain", "", "text/csv; charset=utf-8", "text/csv;charset=latin-1", "ä")
                )
            headers = _headers(random)
            compression = random.choice((None, None, None, "gzip", "lz4"))
            if compression is None and random.random() < 0.1:
                headers["Content-Encoding"] = random.choice(("gzip", "lz4", "br", ""))
                data = gzip.compress(data) if random.random() < 0.5 else data
            kind = random.random()
            if kind < 0.1:
                data = data.decode(errors="surrogateescape")
            elif kind < 0.3:
                pieces = [data[at : at + 3] for at in range(0, len(data), 3)]
                data = lambda pieces=pieces: iter(pieces)  # noqa: E731
                compression = None if compression == "lz4" else compression
            with nodes.no_table_lost():
                client.post(key, data, content_type, headers, compression=compression)

        yield case
