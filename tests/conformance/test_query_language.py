"""docs/reference/query-language.md: each example of the page, asked of both servers.

A comment at the top of the page describes the form of its examples. Every example is asked on tables stored anew, since
the real server keeps what a query's stand-in columns and `update` change.
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
"""The first headings of tables that have a query in each row."""


@dataclass(frozen=True)
class Example:
    """A block or a table's row of the page, with the answer that the page shows."""

    kind: str
    line: int
    asked: str
    shown: tuple[str, ...]
    stores: tuple[WireRequest, ...]
    """What the page has stored before it."""

    @property
    def key(self) -> str:
        """The key of the table that was stored last."""
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
    """The examples of the page, in its order."""
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
            assert kind == ("http" if pending[0] == "http" else "text"), f"line {number}: no answer"
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
    """An example, with what the page has stored before it stored on both servers."""
    for store in request.param.stores:
        assert {answer.status for answer in pair.ask(store)} == {201}
    return request.param


def _ask(pair, key: str, text: str) -> tuple[WireAnswer, WireAnswer]:
    headers = (("Accept", "text/csv"),)
    return pair.ask(WireRequest("POST", f"/qcache/dataset/{key}/q", headers, text.encode()))


def _values(answer: WireAnswer) -> str:
    """The last column of an answer as the page shows it: the values, or the status of an error."""
    if answer.status != 200:
        return str(answer.status)
    rows = [row.rsplit(",", 1)[-1] for row in answer.body.decode().splitlines()[1:]]
    return ", ".join("null" if row in ("", '""') else row for row in rows)


def _error(answer: WireAnswer) -> str:
    if answer.status == 500:
        return "500"
    return f"{answer.status} {json.loads(answer.body)['error']}"


def _check_error(real: WireAnswer, dev: WireAnswer, shown: str) -> None:
    message, _, of_the_dev_node = shown.partition("\ndev node: ")
    assert _error(real) == message
    if of_the_dev_node:
        assert _error(dev) == of_the_dev_node
    assert dev.status == real.status
    assert len(dev.body) > len("500: Internal Server Error"), "the dev node says what was wrong"


def test_both_servers_answer_what_the_page_shows(example, pair):
    """Each example of the page."""
    CHECKS[example.kind](example, pair)


def _check_http(example: Example, pair) -> None:
    head, _, body = example.shown[0].partition("\n\n")
    status, *headers = head.split("\n")
    request = _request(example.asked)
    for answer in pair.ask(request):
        assert answer.status == int(status.split(" ")[1])
        for header in headers:
            name, _, value = header.partition(": ")
            assert answer.header(name) == value
        assert answer.body.decode().removesuffix("\n") == body


def _check_json(example: Example, pair) -> None:
    real, dev = _ask(pair, example.key, example.asked)
    shown = example.shown[0]
    if re.match(r"[45]00", shown):
        _check_error(real, dev, shown)
        return
    length = re.match(r"unsliced length: (\d+)\n", shown)
    csv = shown[length.end() :] if length else shown
    for answer in (real, dev):
        assert answer.status == 200
        assert answer.body.decode() == csv + "\n"
        assert answer.unsliced_length == (int(length[1]) if length else csv.count("\n"))


def _check_python(example: Example, pair) -> None:
    for server in pair.servers:
        code = example.asked.replace("http://127.0.0.1:8888", server.url)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
        )
        assert done.stdout.rstrip("\n") == example.shown[0], done.stderr


def _check_where(example: Example, pair) -> None:
    for answer in _ask(pair, example.key, f'{{"select": ["id"], "where": {example.asked}}}'):
        assert (_values(answer) or "none") == example.shown[0]


def _check_expression(example: Example, pair) -> None:
    for answer in _ask(pair, example.key, f'{{"select": [["=", "r", {example.asked}]]}}'):
        assert _values(answer) == example.shown[0]


def _check_aggregate(example: Example, pair) -> None:
    whole = _ask(pair, example.key, f'{{"select": [{example.asked}]}}')
    groups = _ask(pair, example.key, f'{{"group_by": ["kind"], "select": ["kind", {example.asked}]}}')
    for answers, shown in ((whole, example.shown[0]), (groups, example.shown[1])):
        assert [_values(answer) for answer in answers] == [shown, shown]


def _check_update(example: Example, pair) -> None:
    """The real server changes the table and answers 500; the dev node refuses."""
    before = [answer.body for answer in _ask(pair, example.key, "{}")]
    real, dev = _ask(pair, example.key, example.asked)
    assert (str(real.status), dev.status) == (example.shown[0], 400)
    changed, kept = _ask(pair, example.key, "{}")
    rows = [row.split(",") for row in changed.body.decode().splitlines()[1:]]
    assert ", ".join(" ".join(value or "null" for value in row) for row in rows) == example.shown[1]
    assert kept.body == before[1]


def _check_mistake(example: Example, pair) -> None:
    _check_error(*_ask(pair, example.key, example.asked), example.shown[0])


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
    """It has an example of all that the dev node knows, which is what the real server was seen to know."""

    @pytest.mark.parametrize(
        "clause", ["from", "where", "group_by", "distinct", "select", "order_by", "offset", "limit"]
    )
    def test_of_every_clause(self, clause):
        assert any(f'"{clause}":' in example.asked for example in EXAMPLES if example.kind == "json")

    def test_of_every_operator_of_where(self):
        from airflow_provider_qcache.devnode.filters import _Filter

        known = set(_Filter(None, None)._operators)
        asked = [json.loads(example.asked) for example in EXAMPLES if example.kind == "where"]
        assert known == {condition[0] for condition in asked if condition}

    def test_of_every_aggregate(self):
        from airflow_provider_qcache.devnode import aggregates

        known = {*aggregates._PLAIN, *aggregates._PLAIN_ANY_TYPE, *aggregates._GROUPED_NAMES}
        assert known == {json.loads(example.asked)[0] for example in EXAMPLES if example.kind == "aggregate"}

    def test_of_every_operator_and_function_of_expressions(self):
        from airflow_provider_qcache.devnode import expressions

        asked = [json.loads(example.asked) for example in EXAMPLES if example.kind == "expression"]
        shown = {part[0] for part in asked if isinstance(part, list)}
        text = " ".join(part for part in asked if isinstance(part, str)).split()
        assert {*expressions._INFIX, *expressions._FUNCTIONS, *expressions._UNARY} <= {
            *shown,
            *text,
            "not in",
            "+",
        }
