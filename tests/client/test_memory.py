"""Streamed bodies take a constant amount of memory, and an endless answer is refused."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from airflow_provider_qcache.client import (
    QClient,
    QClientException,
)
from tests.harness import faults
from tests.harness.faults import FaultyNode

MEMORY = """
    import os, sys, threading
    from pathlib import Path
    from airflow_provider_qcache.client import QClient
    from tests.harness import faults
    from tests.harness.faults import FaultyNode, head

    SIZE = int(os.environ.get("QCACHE_MEMORY_BYTES", 64_000_000))
    ROW = b"1,some text to make the row long,2.5\\n"

    def resident(name):
        return int(next(l for l in open("/proc/self/status") if l.startswith(name)).split()[1]) * 1024

    def reset_peak():
        Path("/proc/self/clear_refs").write_text("5")  # or memory freed before hides growth
        return resident("VmRSS")

    def growth(before):
        return resident("VmHWM") - before

    class CountingNode:
        def __init__(self, stop_after=None):
            self.stop_after = stop_after
            self.total = None

        def answer(self, peer, request):
            buffer = bytearray(1 << 16)
            total, tail, length = len(peer._buffer), b"", request.headers.get("content-length")
            tail, peer._buffer = bytes(peer._buffer[-5:]), bytearray()
            while (total < int(length)) if length else not tail.endswith(b"0\\r\\n\\r\\n"):
                count = peer.sock.recv_into(buffer)
                if not count:
                    return
                total += count
                tail = (tail + bytes(buffer[max(0, count - 5):count]))[-5:]
                if self.stop_after and total > self.stop_after:
                    peer.reset()
            self.total = total
            peer.send(head(201, 0))

    path = Path(sys.argv[1])
    with path.open("wb") as file:
        file.write(b"a,b,c\\n")
        while file.tell() < SIZE:
            file.write(ROW * 1000)
    size = path.stat().st_size

    def pieces():
        with path.open("rb") as file:
            while piece := file.read(65536):
                yield piece

    fails, stores = CountingNode(SIZE // 2), CountingNode()
    silent = lambda peer, request: peer.reset()
    first = FaultyNode(fails.answer, read_bodies=False, status=silent)
    second = FaultyNode(stores.answer, read_bodies=False)
    with first, second:
        client = QClient([first.url, second.url], 5, 30, trust_env=False)
        key = next(k for k in (f"k{i}" for i in range(99)) if client.node_for_key(k) == first.url)
        other = next(k for k in (f"k{i}" for i in range(99)) if client.node_for_key(k) == second.url)
        client.post(other, b"a\\n1\\n")
        with path.open("rb") as file:
            for name, content in (("path", path), ("file", file), ("function", pieces)):
                file.seek(0)
                before = reset_peak()
                client.post(other, content)
                print(name, growth(before), sep=chr(9))
                file.seek(0)
                ticket = client._pool.begin_probe(first.url)
                if ticket is not None:
                    client._pool.end_probe(first.url, ticket, None)
                stores.total = None
                before = reset_peak()
                result = client.post(key, content)
                print(name + ",failover", growth(before), sep=chr(9))
                assert result.failed_over and result.bytes == size, result
                assert stores.total >= size, stores.total
        client.close()
"""


PIECES = r"""
    import gzip, sys
    from pathlib import Path
    from airflow_provider_qcache.client import QClient
    from airflow_provider_qcache.client.tables.content import PIECE

    folder = Path(sys.argv[1])
    piece = b"12,x\n" * 800_000
    short = b"12\n" * (1 << 20)

    def long_row(name, text, count, tail=b""):
        with (folder / name).open("wb") as file:
            file.write(b'[{"a":1},{"a":"' + tail)
            for _ in range(count // 10_000):
                file.write(text * 10_000)
            file.write(b'"}]')
        return folder / name

    with gzip.open(folder / "packed", "wb", compresslevel=1) as file:
        for content in [b"a\n", *[short] * 8]:
            file.write(content)
    emoji = chr(0x1F600).encode()
    JSON, GZIP = "application/json", {"Content-Encoding": "gzip"}
    contents = {
        "iterator": (lambda: iter([b"a,b\n", *[piece] * 6]), "text/csv", {}),
        "gzip": (folder / "packed", "text/csv", GZIP),
        "ascii": (long_row("ascii", b"x", 2_090_000), JSON, {}),
        "wide": (long_row("wide", emoji, 520_000), JSON, {}),
        "mixed": (long_row("mixed", b"x", 2_090_000, emoji), JSON, {}),
        "escaped": (long_row("escaped", b"\\n", 1_040_000), JSON, {}),
        "escaped wide": (long_row("escaped wide", b"\\ud83d\\ude00", 170_000), JSON, {}),
    }
    node = FaultyNode(CountingNode().answer, read_bodies=False)
    with node, QClient([node.url], 5, 30, trust_env=False) as client:
        client.post("k", b"a\n1\n")
        client.post("k", lambda: iter([b'[{"a":"', b"x" * PIECE, b'"}]']), JSON)
        for name, (content, content_type, headers) in contents.items():
            before = reset_peak()
            client.post("k", content, content_type, headers)
            print(name, growth(before), sep=chr(9))
"""


def _memory_of(script: str, *arguments: str) -> dict[str, int]:
    """Run a script that begins like MEMORY; return by how many bytes the process grew in each case."""
    ran = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        timeout=240,
    )
    assert ran.returncode == 0, ran.stderr
    return {name: int(grew) for name, grew in (line.split(chr(9)) for line in ran.stdout.splitlines())}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_large_pieces_and_long_rows_add_less_than_8_mib(tmp_path: Path) -> None:
    helpers = textwrap.dedent(MEMORY).partition("path = Path(sys.argv[1])")[0]
    added = _memory_of(helpers + textwrap.dedent(PIECES), str(tmp_path))
    assert len(added) == 7
    assert all(grew < 8 * 1024 * 1024 for grew in added.values()), added


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_a_streamed_body_and_a_failover_during_it_add_less_than_8_mib(tmp_path: Path) -> None:
    added = _memory_of(textwrap.dedent(MEMORY), str(tmp_path / "large.csv"))
    assert set(added) == {
        f"{name}{how}" for name in ("path", "file", "function") for how in ("", ",failover")
    }
    assert all(grew < 8 * 1024 * 1024 for grew in added.values()), added


def test_an_endless_answer_is_refused_before_it_fills_the_memory() -> None:
    with (
        FaultyNode(faults.never_stop) as node,
        QClient([node.url], trust_env=False, max_response_bytes=10**6) as client,
        pytest.raises(QClientException, match="max_response_bytes"),
    ):
        client.get("foo", {})
