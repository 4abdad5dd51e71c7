"""A real server and a dev node that are sent the same requests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from tests.conformance.compare import Finding, compare
from tests.conformance.differences import Context, explain
from tests.conformance.generate import Example, Query, Table
from tests.harness.clock import Clock
from tests.harness.servers import Connection, Server, WireAnswer, WireRequest

MAX_GET = 16_000


@dataclass(frozen=True)
class Case:
    """One query and both answers; if `query` is None, the store of the table."""

    table: Table
    query: Query | None
    real: WireAnswer
    dev: WireAnswer
    findings: list[Finding]
    """The findings that no listed difference explains."""
    differences: frozenset[str]
    """The names of the listed differences that explain the other findings."""

    def __str__(self) -> str:
        """Everything that is needed to understand and to repeat the case."""
        lines = ["", "table:", f"  headers {self.table.headers()!r}", f"  body    {self.table.body()!r}"]
        if self.query is not None:
            lines += [
                f"query:     {json.dumps(self.query.q)}",
                f"  headers {self.query.headers()!r}{' as GET' if self.query.by_get else ''}",
            ]
        for name, answer in (("real", self.real), ("dev", self.dev)):
            lines.append(f"{name} {answer.status} unsliced {answer.unsliced_length} {printable(answer)}")
        return "\n".join([*lines, *(f"  {finding}" for finding in self.findings[:5])])


def printable(answer: WireAnswer, limit: int = 600) -> str:
    """The start of the body as text."""
    text = answer.body.decode("utf-8", "backslashreplace")
    return text if len(text) <= limit else text[:limit] + "..."


def store_request(table: Table, key: str) -> WireRequest:
    """The request that stores a table."""
    return WireRequest("POST", f"/qcache/dataset/{key}", table.headers(), table.body())


def query_request(query: Query, key: str) -> WireRequest:
    """The request that queries a key."""
    text = json.dumps(query.q)
    if query.by_get and len(target := f"/qcache/dataset/{key}?q={quote(text)}") < MAX_GET:
        return WireRequest("GET", target, query.headers())
    return WireRequest("POST", f"/qcache/dataset/{key}/q", query.headers(), text.encode())


def assert_same(what: Any, real: WireAnswer, dev: WireAnswer) -> None:
    """Fail if two answers differ in a way that no listed difference explains."""
    findings, _ = explain(Context(real, dev), compare(real, dev))
    message = f"{what!r}\nreal {real.status} {printable(real)}\ndev  {dev.status} {printable(dev)}"
    assert not findings, "\n".join([message, *map(str, findings)])


class Pair:
    """Two servers; `ask` sends a request to both over persistent connections."""

    def __init__(self, real: Server, dev: Server, clock: Clock | None = None) -> None:
        self.real, self.dev = self.servers = (real, dev)
        self._connections: list[Connection | None] = [None, None]
        self._stored = {"t"}
        self._clock = clock

    def advance_clock(self, seconds: float) -> None:
        """Set both servers' clock forward; only servers started with their own options have one."""
        assert self._clock is not None, "these servers run on the system's clock"
        self._clock.advance(seconds)

    def ask(self, request: WireRequest) -> tuple[WireAnswer, WireAnswer]:
        """Both answers, the real server's first."""
        if request.method == "POST" and (
            stored := re.fullmatch(r"/qcache/dataset/([\w-]+)/?", request.target)
        ):
            self._stored.add(stored[1])
        return self._ask(0, request), self._ask(1, request)

    def _ask(self, which: int, request: WireRequest) -> WireAnswer:
        connection = self._connections[which] or self.servers[which].connect()
        answer = connection.ask(request)
        if answer.status == 0 or answer.header("Connection") == "close":
            connection.close()
            self._connections[which] = None
        else:
            self._connections[which] = connection
        return answer

    def _findings_with(self, table: Table, query: Query) -> list[Finding]:
        self.ask(store_request(table, "generated-other"))
        return self._case(table, query, query_request(query, "generated-other"), "generated-other").findings

    def same(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> WireAnswer:
        """The real server's answer. Fails if the dev node's answer differs."""
        request = WireRequest(method, target, tuple((headers or {}).items()), body)
        real, dev = self.ask(request)
        assert_same(request.encode()[:2000], real, dev)
        return real

    def ask_raw(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> tuple[WireAnswer, WireAnswer]:
        """Both answers, not compared."""
        return self.ask(WireRequest(method, target, tuple((headers or {}).items()), body))

    def status(self, *args: Any, **kwargs: Any) -> int:
        """The status of both answers; 0 if both servers close the connection without an answer."""
        return self.same(*args, **kwargs).status

    def csv(self, body: str | bytes, headers: dict[str, str] | None = None, *, key: str = "t") -> WireAnswer:
        """Store CSV on both servers."""
        data = body.encode() if isinstance(body, str) else body
        return self.same(
            "POST", f"/qcache/dataset/{key}", {"Content-Type": "text/csv", **(headers or {})}, data
        )

    def json(self, body: Any, headers: dict[str, str] | None = None, *, key: str = "t") -> WireAnswer:
        """Store JSON on both servers; the body is bytes or objects to encode."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **(headers or {})}
        return self.same("POST", f"/qcache/dataset/{key}", headers, data)

    def query(self, q: Any = None, headers: dict[str, str] | None = None, *, key: str = "t") -> WireAnswer:
        """The answer to a POST query, as JSON unless the headers ask for something else."""
        body = q if isinstance(q, bytes) else json.dumps({} if q is None else q).encode()
        headers = {"Accept": "application/json", **(headers or {})}
        return self.same("POST", f"/qcache/dataset/{key}/q", headers, body)

    def rows(self, q: Any = None, headers: dict[str, str] | None = None, *, key: str = "t") -> list[Any]:
        """The rows of a query, which must succeed."""
        answer = self.query(q, headers, key=key)
        assert answer.status == 200, printable(answer)
        return json.loads(answer.body)

    def column(self, name: str, q: Any = None, *, key: str = "t") -> list[Any]:
        """One column of a query, which must succeed."""
        return [row[name] for row in self.rows(q, key=key)]

    def as_csv(self, q: Any = None, headers: dict[str, str] | None = None, *, key: str = "t") -> str:
        """The CSV of a query, which must succeed."""
        answer = self.query(q, {**(headers or {}), "Accept": "text/csv"}, key=key)
        assert answer.status == 200, printable(answer)
        return answer.body.decode()

    def has(self, key: str = "t") -> bool:
        """Whether both servers have the key."""
        return self.query(key=key).status == 200

    def delete_all(self) -> None:
        """Delete all keys that were stored."""
        for key in self._stored:
            self.ask(WireRequest("DELETE", f"/qcache/dataset/{key}"))
        self._stored = {"t"}

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            if connection is not None:
                connection.close()
        self._connections = [None, None]

    def run(self, example: Example) -> Iterator[Case]:
        """Store the table and send each query; each is a case. Queries are left out if the store failed."""
        stored = self._case(example.table, None, store_request(example.table, "generated"))
        yield stored
        if stored.real.status != 201 or stored.dev.status != 201:
            return
        for query in example.queries:
            key = "generated"
            if query.stand_ins:
                # The real server keeps a query's stand-in columns in the stored table.
                key = "generated-once"
                self.ask(store_request(example.table, key))
            yield self._case(example.table, query, query_request(query, key), key)

    def _case(self, table: Table, query: Query | None, request: WireRequest, key: str = "") -> Case:
        real, dev = self.ask(request)
        context = Context(
            real, dev, table, query, lambda other: self.ask(query_request(other, key)), self._findings_with
        )
        findings, names = explain(context, compare(real, dev))
        return Case(table, query, real, dev, findings, frozenset(names))


def kind_of_difference(case: Case) -> tuple[Any, ...]:
    """What differs, roughly. A smaller case must differ in the same way."""
    first = case.findings[0]
    if first.kind == "status":
        return ("status", first.real, first.dev)
    if first.kind in ("cell", "csv cell"):
        return (first.kind, cell_kind(first.real), cell_kind(first.dev))
    return (first.kind,)


def cell_kind(value: Any) -> str:
    """The type of a cell, and for text whether it looks like a number."""
    if not isinstance(value, str):
        return type(value).__name__
    try:
        float(value)
    except ValueError:
        return "text" if value else "empty"
    return "float text" if "." in value or "e" in value else "int text"


def minimized(pair: Pair, case: Case, budget: int = 150) -> Case:
    """A smaller case that differs in the same way: fewer rows, columns and clauses."""
    difference = kind_of_difference(case)
    while budget > 0:
        for example in _reductions(case):
            budget -= 1
            tried = list(pair.run(example))[-1]
            if (
                (tried.query is None) == (case.query is None)
                and tried.findings
                and kind_of_difference(tried) == difference
            ):
                case = tried
                break
            if budget <= 0:
                break
        else:
            break
    return case


def _reductions(case: Case) -> Iterator[Example]:
    table, query = case.table, case.query
    queries = () if query is None else (query,)
    number = len(table.rows)
    for part in (number // 2, number // 4, 1):
        if part:
            for start in range(0, number, part):
                yield Example(replace(table, rows=table.rows[:start] + table.rows[start + part :]), queries)
    for drop in range(len(table.names)):
        if len(table.names) > 1 and all(len(row) == len(table.names) for row in table.rows):
            rows = tuple(row[:drop] + row[drop + 1 :] for row in table.rows)
            yield Example(
                replace(table, names=table.names[:drop] + table.names[drop + 1 :], rows=rows), queries
            )
    for name in ("types", "stand_ins"):
        items = getattr(table, name)
        for drop in range(len(items)):
            yield Example(replace(table, **{name: items[:drop] + items[drop + 1 :]}), queries)
    plain = replace(
        table, newline="\n", last_newline=True, bom=False, blank_line=False, quote_all=False, ascii_json=True
    )
    if plain != table:
        yield Example(plain, queries)
    if query is not None:
        if query.by_get or query.encoding or query.accept is None:
            accept = query.accept or "application/json"
            yield Example(table, (replace(query, by_get=False, encoding=None, accept=accept),))
        if query.stand_ins:
            yield Example(table, (replace(query, stand_ins=query.stand_ins[1:]),))
        for q in _smaller_queries(query.q):
            yield Example(table, (replace(query, q=q),))


def _smaller_queries(q: Any) -> Iterator[Any]:
    """The query without one of its parts, larger parts first."""
    if isinstance(q, dict):
        for name in q:
            yield {other: value for other, value in q.items() if other != name}
        for name, value in q.items():
            for inner in _smaller_queries(value):
                yield {**q, name: inner}
    elif isinstance(q, list) and q:
        if q[0] in ("&", "|", "!"):
            yield from (part for part in q[1:] if isinstance(part, list))
        for drop in range(len(q)):
            yield q[:drop] + q[drop + 1 :]
        for index, item in enumerate(q):
            for inner in _smaller_queries(item):
                yield [*q[:index], inner, *q[index + 1 :]]
