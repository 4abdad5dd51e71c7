"""docs/reference/query-language.md: each example of the page is sent to both servers.

A comment at the top of the page describes the form of its examples. The tables are stored again for every
example, because the real server keeps what a query's stand-in columns and `update` change.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest

from tests.harness.servers import ROOT, WireAnswer, WireRequest

PAGE = ROOT / "docs" / "reference" / "query-language.md"
KINDS = "where", "expression", "aggregate", "update", "mistake"
"""The first headings of tables with a query in each row."""


@dataclass(frozen=True)
class Example:
    """A block, or a row of a table, with the answer that the page shows."""

    kind: str
    line: int
    query: str
    expected: tuple[str, ...]
    stores: tuple[WireRequest, ...]
    """The stores that the page shows before it."""

    @property
    def key(self) -> str:
        """The key that was stored last."""
        return self.stores[-1].target.rsplit("/", 1)[-1]


def _request(text: str) -> WireRequest:
    head, _, body = text.partition("\n\n")
    first, *lines = head.split("\n")
    method, target, _ = first.split(" ")
    headers = tuple((name, value) for name, _, value in (line.partition(": ") for line in lines))
    return WireRequest(method, target, headers, body.encode() if body else None)


def _is_store(request: WireRequest) -> bool:
    return request.method == "POST" and not request.target.endswith("/q")


def _cells(row: str) -> list[str]:
    cells = [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
    return [cell[1:-1] if re.fullmatch("`[^`]*`", cell) else cell for cell in cells]


def examples() -> list[Example]:
    """The page's examples in order."""
    lines = re.sub(
        r"<!--.*?-->", lambda match: "\n" * match[0].count("\n"), PAGE.read_text("utf-8"), flags=re.DOTALL
    )
    found: list[Example] = []
    stores: dict[str, WireRequest] = {}
    pending: tuple[str, int, str] | None = None
    table: list[str] = []
    rows = iter(enumerate(lines.split("\n"), 1))
    for number, row in rows:
        if row.startswith("```"):
            kind, text = row[3:], []
            for _, inner in rows:
                if inner == "```":
                    break
                text.append(inner)
            body = "\n".join(text)
            assert kind in {"http", "json", "text", "python"}, (
                f"line {number}: a block of {kind!r} is not run"
            )
            if pending is None:
                assert kind != "text", f"line {number}: a text block belongs after a query"
                pending = (kind, number, body)
                continue
            assert kind == ("http" if pending[0] == "http" else "text"), (
                f"line {number}: the block has no answer"
            )
            found.append(Example(*pending, (body,), tuple(stores.values())))
            if pending[0] == "http" and _is_store(request := _request(pending[2])):
                stores.pop(request.target, None)
                stores[request.target] = request
            pending = None
        elif row.startswith("|"):
            assert pending is None, f"line {number}: an example without its answer"
            cells = _cells(row)
            table = table or cells
            if table[0] in KINDS and cells is not table and not cells[0].startswith("---"):
                found.append(Example(table[0], number, cells[0], tuple(cells[1:]), tuple(stores.values())))
        else:
            table = []
    assert pending is None, "the last example has no answer"
    return found


EXAMPLES = examples()


@pytest.fixture(params=EXAMPLES, ids=[f"line-{example.line}" for example in EXAMPLES])
def example(request, pair) -> Example:
    """An example, after the page's earlier stores were sent to both servers."""
    for store in request.param.stores:
        assert {answer.status for answer in pair.ask(store)} == {201}
    return request.param


def _ask(pair, key: str, text: str) -> tuple[WireAnswer, WireAnswer]:
    headers = (("Accept", "text/csv"),)
    return pair.ask(WireRequest("POST", f"/qcache/dataset/{key}/q", headers, text.encode()))


def _values(answer: WireAnswer) -> str:
    """The last column of an answer, in the form of the page: its values, or the status of an error."""
    if answer.status != 200:
        return str(answer.status)
    rows = [row.rsplit(",", 1)[-1] for row in answer.body.decode().splitlines()[1:]]
    return ", ".join("null" if row in ("", '""') else row for row in rows)


def _error(answer: WireAnswer) -> str:
    if answer.status == 500:
        return "500"
    return f"{answer.status} {json.loads(answer.body)['error']}"


def _check_error(real: WireAnswer, dev: WireAnswer, expected: str) -> None:
    message, _, dev_node_message = expected.partition("\ndev node: ")
    assert _error(real) == message
    if dev_node_message:
        assert _error(dev) == dev_node_message
    assert dev.status == real.status
    assert len(dev.body) > len("500: Internal Server Error"), "the dev node does not say what is wrong"


def test_both_servers_answer_as_the_page_shows(example, pair):
    CHECKS[example.kind](example, pair)


def _check_http(example: Example, pair) -> None:
    head, _, body = example.expected[0].partition("\n\n")
    status, *headers = head.split("\n")
    request = _request(example.query)
    for answer in pair.ask(request):
        assert answer.status == int(status.split(" ")[1])
        for header in headers:
            name, _, value = header.partition(": ")
            assert answer.header(name) == value
        assert answer.body.decode().removesuffix("\n") == body


def _check_json(example: Example, pair) -> None:
    real, dev = _ask(pair, example.key, example.query)
    expected = example.expected[0]
    if re.match(r"[45]00", expected):
        _check_error(real, dev, expected)
        return
    length = re.match(r"unsliced length: (\d+)\n", expected)
    csv = expected[length.end() :] if length else expected
    for answer in (real, dev):
        assert answer.status == 200
        assert answer.body.decode() == csv + "\n"
        assert answer.unsliced_length == (int(length[1]) if length else csv.count("\n"))


def _check_python(example: Example, pair) -> None:
    for server in pair.servers:
        code = example.query.replace("http://127.0.0.1:8888", server.url)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
        )
        assert done.stdout.rstrip("\n") == example.expected[0], done.stderr


def _check_where(example: Example, pair) -> None:
    for answer in _ask(pair, example.key, f'{{"select": ["id"], "where": {example.query}}}'):
        assert (_values(answer) or "none") == example.expected[0]


def _check_expression(example: Example, pair) -> None:
    for answer in _ask(pair, example.key, f'{{"select": [["=", "r", {example.query}]]}}'):
        assert _values(answer) == example.expected[0]


def _check_aggregate(example: Example, pair) -> None:
    whole = _ask(pair, example.key, f'{{"select": [{example.query}]}}')
    groups = _ask(pair, example.key, f'{{"group_by": ["kind"], "select": ["kind", {example.query}]}}')
    for answers, expected in ((whole, example.expected[0]), (groups, example.expected[1])):
        assert [_values(answer) for answer in answers] == [expected, expected]


def _check_update(example: Example, pair) -> None:
    """The real server changes the table and answers 500; the dev node refuses."""
    before = [answer.body for answer in _ask(pair, example.key, "{}")]
    real, dev = _ask(pair, example.key, example.query)
    assert (str(real.status), dev.status) == (example.expected[0], 400)
    changed, kept = _ask(pair, example.key, "{}")
    rows = [row.split(",") for row in changed.body.decode().splitlines()[1:]]
    assert ", ".join(" ".join(value or "null" for value in row) for row in rows) == example.expected[1]
    assert kept.body == before[1]


def _check_mistake(example: Example, pair) -> None:
    _check_error(*_ask(pair, example.key, example.query), example.expected[0])


CHECKS = {
    "http": _check_http,
    "json": _check_json,
    "python": _check_python,
    "where": _check_where,
    "expression": _check_expression,
    "aggregate": _check_aggregate,
    "update": _check_update,
    "mistake": _check_mistake,
}


class TestThePageIsComplete:
    """It has an example of everything that the dev node accepts."""

    @pytest.mark.parametrize(
        "clause", ["from", "where", "group_by", "distinct", "select", "order_by", "offset", "limit"]
    )
    def test_it_has_every_clause(self, clause):
        assert any(f'"{clause}":' in example.query for example in EXAMPLES if example.kind == "json")

    def test_it_has_every_operator_of_where(self):
        from airflow_provider_qcache.devnode.filters import _Filter

        known = set(_Filter(None, None)._operators)
        queries = [json.loads(example.query) for example in EXAMPLES if example.kind == "where"]
        assert known == {condition[0] for condition in queries if condition}

    def test_it_has_every_aggregate(self):
        from airflow_provider_qcache.devnode import aggregates

        known = {*aggregates._PLAIN, *aggregates._PLAIN_ANY_TYPE, *aggregates._GROUPED_NAMES}
        assert known == {json.loads(example.query)[0] for example in EXAMPLES if example.kind == "aggregate"}

    def test_it_has_every_operator_and_function_of_expressions(self):
        from airflow_provider_qcache.devnode import expressions

        queries = [json.loads(example.query) for example in EXAMPLES if example.kind == "expression"]
        lists = {part[0] for part in queries if isinstance(part, list)}
        text = " ".join(part for part in queries if isinstance(part, str)).split()
        assert {*expressions._INFIX, *expressions._FUNCTIONS, *expressions._UNARY} <= {
            *lists,
            *text,
            "not in",
            "+",
        }
