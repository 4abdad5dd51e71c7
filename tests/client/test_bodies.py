"""Bodies of stores: compressed, from pipes, from sources that are not ready, and with headers."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_qcache.client import (
    BulkError,
    InvalidTable,
    QClient,
)
from airflow_provider_qcache.client.tables.content import Content, body_of
from tests.client.kinds import key_with_home, make_server
from tests.harness import faults
from tests.harness.faults import FaultyNode, Peer, Received, healthy_node

TABLE = b"a\n1\n"
TIMEOUT = 10.0  # seconds; the timeouts of what may hang are 60 s


def test_a_source_is_closed_before_the_next_attempt_opens_it() -> None:
    """So its open files, or a batch of a Parquet file, are in memory only once."""
    events = []

    def content() -> Iterator[bytes]:
        events.append("opened")
        try:
            yield b"a\n"
            for _ in range(200):
                yield b"1\n" * 50_000
        finally:
            events.append("closed")

    def fails_once(peer: Peer, request: Received) -> None:
        if events.count("opened") == 1:
            peer.reset()
        peer.read_body(request)
        peer.send(faults.head(201, 0))

    with (
        FaultyNode(fails_once, read_bodies=False) as node,
        QClient([node.url], 5, 60, trust_env=False) as client,
    ):
        client.post("k", content)
    assert events == ["opened", "closed"] * 2


def test_a_string_is_refused_as_a_list_of_keys() -> None:
    node, tables = healthy_node()
    tables.tables.update(a=TABLE, abc=TABLE)
    with node, QClient([node.url], trust_env=False) as client:
        for keys in ("abc", b"abc"):
            for all_nodes in (False, True):
                with pytest.raises(TypeError, match=r"keys=b?'abc'"):
                    client.delete_many(keys, all_nodes=all_nodes)  # type: ignore[arg-type]
    assert set(tables.tables) == {"a", "abc"}


def test_gzip_with_very_many_members_is_checked_in_linear_time(tmp_path: Path) -> None:
    packed = gzip.compress(TABLE) + gzip.compress(b"") * 400_000
    path = tmp_path / "packed"
    path.write_bytes(packed)
    node, tables = healthy_node()
    headers = {"Content-Encoding": "gzip"}
    with node, QClient([node.url], 5, 60, trust_env=False) as client:
        for content in (packed, path):
            started = time.process_time()
            assert client.post("k", content, post_headers=headers).rows == 1
            assert time.process_time() - started < TIMEOUT
            assert tables.tables["k"] == packed


def test_json_is_sent_without_a_bom_in_any_form(tmp_path: Path) -> None:
    """A node cannot read JSON after a BOM; it skips a BOM before CSV."""
    table = b'[{"a": 1}]'
    with_bom = b"\xef\xbb\xbf" + table
    path = tmp_path / "t.json"
    path.write_bytes(with_bom)
    node, tables = healthy_node()
    with node, path.open("rb") as file, QClient([node.url], trust_env=False) as client:
        forms: list[Content] = [with_bom, with_bom.decode(), path, file, lambda: iter([with_bom])]
        for content in [*forms, iter([with_bom[:2], with_bom[2:]])]:
            tables.tables.clear()
            assert client.post("k", content, "application/json").rows == 1
            assert tables.tables["k"] == table


@pytest.mark.parametrize("size", [2 << 20, (2 << 20) + 1, 6 << 20])
@pytest.mark.parametrize("text", ["x", "é", "\U0001f600"])
def test_a_json_row_above_2_mib_is_refused_wherever_pieces_end(size: int, text: str) -> None:
    room = size - len('{"a":""}')
    some = text.encode()
    row = b'{"a":"%s"}' % (some * (room // len(some)) + b"x" * (room % len(some)))
    node, _ = healthy_node()
    forms: list[object] = [b"[%s]" % row, lambda: iter([b"[", row, b"]"])]
    with node, QClient([node.url], 5, 60, trust_env=False) as client:
        for content in forms:
            if size == 2 << 20:
                assert client.post("k", content, "application/json").rows == 1
            else:
                with pytest.raises(InvalidTable, match="row 1"):
                    client.post("k", content, "application/json")


def test_a_path_to_a_pipe_is_refused_at_once_and_an_open_pipe_is_read_once(tmp_path: Path) -> None:
    """The path is also checked at each attempt, in case a pipe has replaced the file."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    first, (second, tables) = FaultyNode(faults.close_in_the_head), healthy_node()
    with first, second, QClient([first.url, second.url], 5, 5, trust_env=False, deadline=60) as client:
        started = time.monotonic()
        with pytest.raises(ValueError, match="pipe' is not a regular file"):
            client.post("k", path)
        with pytest.raises(IsADirectoryError):
            client.post("k", tmp_path)
        body = body_of(path)
        with pytest.raises(ValueError, match="not a regular file"):
            next(body.pieces())
        assert time.monotonic() - started < TIMEOUT
        writer = threading.Thread(target=path.write_bytes, args=(TABLE,))
        writer.start()
        with path.open("rb") as file:
            client.post(key_with_home(client, second.url), file)
        writer.join(TIMEOUT)
        assert list(tables.tables.values()) == [TABLE]


@pytest.mark.parametrize("how", ["unbuffered", "buffered"])
def test_a_non_blocking_file_without_data_is_an_error_and_not_the_end_of_the_file(how: str) -> None:
    node, tables = healthy_node()
    tables.tables["k"] = b"old"
    out, into = os.pipe()
    os.set_blocking(out, False)
    os.write(into, TABLE)
    with node, QClient([node.url], 5, 5, trust_env=False) as client:
        with (
            os.fdopen(out, "rb", buffering=0 if how == "unbuffered" else -1) as file,
            pytest.raises(BlockingIOError, match="non-blocking"),
        ):
            client.post("k", file)
        os.close(into)
    assert tables.tables == {"k": b"old"}


@pytest.mark.parametrize(
    ("content", "stand_ins"),
    [
        (TABLE, "x='Zürich'"),
        (TABLE, b"x='Z\xfcrich'"),
        (TABLE, "x='東京'"),
        (TABLE, "x=Zürich"),
        (b'[{"Z\xc3\xbcrich": 1}]', "x=Zürich"),
        (lambda: iter([TABLE]), "x='Zürich'"),
    ],
    ids=["text", "bytes", "beyond latin-1", "no column", "JSON", "stream"],
)
def test_a_stand_in_outside_ascii_is_refused_before_anything_is_sent(
    content: Content, stand_ins: str
) -> None:
    content_type = "application/json" if isinstance(content, bytes) and content[:1] == b"[" else "text/csv"
    headers = {"X-QCache-stand-in-columns": stand_ins}
    node, _ = healthy_node()
    with node, QClient([node.url], trust_env=False) as client:
        with pytest.raises(InvalidTable, match="not ASCII"):
            client.post("k", content, content_type, headers)
        with pytest.raises(BulkError, match="not ASCII"):
            client.post_many({"k": content}, content_type, headers)
        assert node.requests == []


def test_a_stand_in_may_name_a_column_outside_ascii() -> None:
    with make_server("real") as node, QClient([node.url], trust_env=False) as client:
        client.post("k", "a,Zürich\n1,2\n", post_headers={"X-QCache-stand-in-columns": "x=Zürich"})
        assert json.loads(client.get("k", {}).content) == [{"a": 1, "Zürich": 2, "x": 2}]
        # The node compares names as latin-1: a name in UTF-8 is another name, whose type it does not apply.
        for name in (b"Z\xc3\xbcrich", "Zürch"):
            with pytest.raises(InvalidTable, match="does not have"):
                client.post("k", "Zürich\n1\n", post_headers={"X-QCache-types": _typed(name)})
        client.post("k", "Zürich\n01\n", post_headers={"X-QCache-types": "Zürich=string"})
        assert json.loads(client.get("k", {}).content) == [{"Zürich": "01"}]


def _typed(name: str | bytes) -> str | bytes:
    return name + (b"=string" if isinstance(name, bytes) else "=string")


def test_without_lz4_the_error_names_the_extra_and_answers_are_not_compressed() -> None:
    code = """
import sys
sys.modules["lz4"] = None
from airflow_provider_qcache.client import QClient
with QClient([sys.argv[1]], 30, 30, trust_env=False) as client:
    try:
        client.post("k", b"a\\n1\\n", compression="lz4")
    except ValueError as error:
        print(error)
    client.post("k", b"a\\n1\\n")
    print(client.get("k", {}).content)
"""
    node, _ = healthy_node()
    with node:
        command = [sys.executable, "-c", code, node.url]
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
    error, content = run.stdout.splitlines()
    assert error.startswith("compression='lz4' needs lz4, which is not installed: install the extra 'lz4'")
    assert content == repr(faults.ROWS)
    assert [request.kind for request in node.requests] == ["store", "query"]
    assert node.requests[1].headers["accept-encoding"] == "identity"
