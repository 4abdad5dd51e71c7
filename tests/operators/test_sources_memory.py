"""Files of any size are never whole in memory: what they add to the process does not grow with them."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

MEMORY = """
    import gzip, os, sys
    from pathlib import Path
    import numpy as np
    import pyarrow as pa, pyarrow.parquet as pq
    from fsspec.implementations.local import LocalFileSystem
    from airflow_provider_qcache.client import QClient
    from airflow_provider_qcache.files.tables import table_in
    from tests.harness.faults import FaultyNode, head

    ROWS = int(os.environ.get("QCACHE_MEMORY_ROWS", 2_500_000))

    def resident(name):
        return int(next(l for l in open("/proc/self/status") if l.startswith(name)).split()[1]) * 1024

    def forget_the_peak():
        pa.default_memory_pool().release_unused()
        Path("/proc/self/clear_refs").write_text("5")
        return resident("VmRSS")

    class Storage:
        protocol = "file"
        fs = LocalFileSystem()

        def __init__(self, path):
            self.path = str(path)

    def take(peer, request):
        tail, peer._buffer = bytes(peer._buffer[-5:]), bytearray()
        buffer = bytearray(1 << 16)
        while not tail.endswith(b"0\\r\\n\\r\\n"):
            count = peer.sock.recv_into(buffer)
            tail = (tail + bytes(buffer[max(0, count - 5):count]))[-5:]
        peer.send(head(201, 0))

    def compressed(path):
        data = path.read_bytes()
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(data, 1))
        path.with_name(path.name + ".zst").write_bytes(pa.compress(data, "zstd", asbytes=True))

    def write(directory, rows):
        directory.mkdir()
        random = np.random.default_rng(0)
        for part in range(2):
            table = pa.table({
                "n": random.integers(0, 2**50, rows // 2), "x": random.random(rows // 2),
                "t": pa.array(random.integers(0, 2**60, rows // 2)).cast(pa.string()),
            })
            pq.write_table(table, directory / f"{part}.parquet", row_group_size=rows)
            with pa.ipc.new_file(directory / f"{part}.arrow", table.schema) as file:
                file.write_table(table, max_chunksize=65536)
            row = b'{"n": 1234567890123, "t": "some text to make the row long"}'
            with (directory / f"{part}.csv").open("wb") as file:
                file.write(b"n,t\\n" + b"1234567890123,some text to make the row long\\n" * (rows // 10))
            with (directory / f"{part}.jsonl").open("wb") as file:
                file.write((row + b"\\n") * (rows // 10))
            with (directory / f"{part}.json").open("wb") as file:
                file.write(b"[" + (row + b",") * (rows // 10 - 1) + row + b"]")
            compressed(directory / f"{part}.csv")
            compressed(directory / f"{part}.parquet")

    patterns = (
        (Path, "*.parquet"), (Storage, "*.parquet"), (Path, "*.parquet.gz"), (Storage, "*.arrow"),
        (Path, "*.csv"), (Storage, "*.csv.gz"), (Path, "*.csv.zst"), (Path, "*.jsonl"), (Path, "*.json"),
    )
    small, large = Path(sys.argv[1]) / "small", Path(sys.argv[1]) / "large"
    write(small, 20_000)
    write(large, ROWS)
    with FaultyNode(take, read_bodies=False) as node, QClient([node.url], 5, 60, trust_env=False) as client:
        for directory in (small, large):
            for place, pattern in patterns:
                before = forget_the_peak()
                with table_in(place(directory / pattern)).upload() as upload:
                    stored = client.post("key", upload)
                grown = resident("VmHWM") - before
                if directory is large:
                    print(f"{place.__name__}:{pattern}", grown, stored.bytes)
"""
MOST = 64 << 20
MOST_OF_TEXT = 8 << 20


def measured(script: str, directory: Path) -> list[list[str]]:
    """The words of each line that a script prints in a process of its own."""
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(directory)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        timeout=240,
    )
    assert ran.returncode == 0, ran.stderr
    return [line.split() for line in ran.stdout.splitlines()]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_what_files_add_to_the_process_is_bounded(tmp_path: Path) -> None:
    """The tables are larger than the bound several times, and a row group of Parquet is half a table."""
    lines = measured(MEMORY, tmp_path)
    assert len(lines) == 9
    for name, grown, stored in lines:
        most = MOST if "parquet" in name or "arrow" in name else MOST_OF_TEXT
        assert int(stored) > 2 * most
        assert int(grown) < most, lines


REPEATED = """
    import sys
    from pathlib import Path
    import pyarrow as pa, pyarrow.parquet as pq
    from airflow_provider_qcache.files.columnar import FilesSource
    from airflow_provider_qcache.files.listing import Format
    from airflow_provider_qcache.files.listing import find_files

    def resident(name):
        return int(next(l for l in open("/proc/self/status") if l.startswith(name)).split()[1]) * 1024

    path = Path(sys.argv[1]) / "t.parquet"
    words = pa.array(["x" * 20_000, "y"])
    for layout in ("long", "short, then long"):
        rows = [0] * 10_000 if layout == "long" else [1] * 100_000 + [0] * 10_000
        table = pa.table({"t": pa.DictionaryArray.from_arrays(pa.array(rows, pa.int32()), words)})
        pq.write_table(table, path, store_schema=False)
        source = FilesSource(find_files(path), Format.PARQUET, None)
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        sent = sum(len(data) for data, _ in source.pieces("text/csv"))
        print(path.stat().st_size, sent, resident("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_long_texts_that_repeat_are_not_written_out_at_once(tmp_path: Path) -> None:
    """A file of a few kilobytes is a table of 200 MB."""
    for stored, sent, grown in measured(REPEATED, tmp_path):
        assert int(stored) < 1 << 20
        assert int(sent) > 2 * MOST
        assert int(grown) < MOST, grown
