"""A real server and a dev node asked the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from tests.conformance.compare import Finding, compare
from tests.conformance.differences import Met, explain
from tests.conformance.generate import Example, Query, Table
from tests.servers import Answer, Connection, Request, Server

MAX_GET = 16_000


@dataclass(frozen=True)
class Case:
    """One query (or, where `query` is None, the store itself) and both answers."""

    table: Table
    query: Query | None
    real: Answer
    dev: Answer
    findings: list[Finding]
    """What no listed difference explains."""
    met: frozenset[str]
    """The listed differences that were met."""

    def __str__(self) -> str:
        """Everything that is needed to see and to repeat the case."""
        lines = ["", "table:", f"  headers {self.table.headers()!r}", f"  body    {self.table.body()!r}"]
        if self.query is not None:
            lines += [
                f"query:     {json.dumps(self.query.q)}",
                f"  headers {self.query.headers()!r}{' as GET' if self.query.by_get else ''}",
            ]
        for name, answer in (("real", self.real), ("dev", self.dev)):
            lines.append(f"{name} {answer.status} unsliced {answer.unsliced_length} {printable(answer)}")
        return "\n".join([*lines, *(f"  {finding}" for finding in self.findings[:5])])


def printable(answer: Answer, limit: int = 600) -> str:
    """The start of a body."""
    text = answer.body.decode("utf-8", "backslashreplace")
    return text if len(text) <= limit else text[:limit] + "..."


def store_request(table: Table, key: str) -> Request:
    """The store of a table."""
    return Request("POST", f"/qcache/dataset/{key}", table.headers(), table.body())


def query_request(query: Query, key: str) -> Request:
    """The query of a key."""
    text = json.dumps(query.q)
    if query.by_get and len(target := f"/qcache/dataset/{key}?q={quote(text)}") < MAX_GET:
        return Request("GET", target, query.headers())
    return Request("POST", f"/qcache/dataset/{key}/q", query.headers(), text.encode())


class Pair:
    """Two servers; `ask` sends one request to both over kept connections."""

    def __init__(self, real: Server, dev: Server) -> None:
        self.servers = (real, dev)
        self._connections: list[Connection | None] = [None, None]

    def ask(self, request: Request) -> tuple[Answer, Answer]:
        """The answers of both, the real server's first."""
        return self._ask(0, request), self._ask(1, request)

    def _ask(self, which: int, request: Request) -> Answer:
        connection = self._connections[which] or self.servers[which].connect()
        answer = connection.ask(request)
        if answer.status == 0 or answer.header("Connection") == "close":
            connection.close()
            self._connections[which] = None
        else:
            self._connections[which] = connection
        return answer

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            if connection is not None:
                connection.close()
        self._connections = [None, None]

    def run(self, example: Example) -> Iterator[Case]:
        """Store the table, then each query: a case each. A query of a table that was not stored is none."""
        stored = self._case(example.table, None, store_request(example.table, "generated"))
        yield stored
        if stored.real.status != 201 or stored.dev.status != 201:
            return
        for query in example.queries:
            key = "generated"
            if query.stand_ins:
                # A query's stand-in columns stay in the real server's table.
                key = "generated-once"
                self.ask(store_request(example.table, key))
            yield self._case(example.table, query, query_request(query, key))

    def _case(self, table: Table, query: Query | None, request: Request) -> Case:
        real, dev = self.ask(request)
        findings, met = explain(Met(table, query, real, dev), compare(real, dev))
        return Case(table, query, real, dev, findings, frozenset(met))


def smaller(pair: Pair, case: Case, same: Any, budget: int = 150) -> Case:
    """A smaller case for which `same(case)` still holds: fewer rows, columns and clauses."""
    while budget > 0:
        for example in _reductions(case):
            budget -= 1
            tried = list(pair.run(example))[-1]
            if (tried.query is None) == (case.query is None) and tried.findings and same(tried):
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
            yield Example(replace(table, names=table.names[:drop] + table.names[drop + 1 :], rows=rows), queries)
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
    """The query without one of its parts, the largest parts first."""
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
