"""Tables in one file, written in any order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_qcache.client.tables.content import PIECE
from airflow_provider_qcache.client.tables.spool import Spool, SpooledTable
from tests.transfers.conftest import read


@given(
    added=st.lists(st.tuples(st.integers(0, 4), st.binary(max_size=20))),
    held=st.sampled_from([0, 1, 50, 500, 10_000]),
)
def test_each_table_has_what_was_added_to_it(added: list[tuple[int, bytes]], held: int) -> None:
    with Spool(held) as spool:
        tables = [SpooledTable(spool, ("a",), b"%d\n" % number) for number in range(5)]
        for number, piece in added:
            spool.add(tables[number], piece)
        spool.flush()
        for number, table in enumerate(tables):
            pieces = [piece for to, piece in added if to == number]
            expected = b"%d\n" % number + b"".join(pieces)
            for _ in range(2):  # for every attempt
                assert b"".join(piece for piece, _ in table.pieces("text/csv")) == expected
            assert (table.length, table.rows) == (len(expected), sum(map(bool, pieces)))


def test_a_large_table_is_read_in_pieces() -> None:
    with Spool() as spool:
        table = SpooledTable(spool, ("a",), b"a\n")
        for number in range(5):
            spool.add(table, b"%d" % number * PIECE)
        spool.flush()
        pieces = [piece for piece, _ in table.pieces("text/csv")]
    assert max(map(len, pieces)) < 2 * PIECE
    assert b"".join(pieces) == b"a\n" + b"".join(b"%d" % number * PIECE for number in range(5))


def test_rows_of_a_copy_that_end_with_a_batch(postgres_hook) -> None:
    for rows in (255, 256, 257, 512):
        found = read(postgres_hook, f"SELECT n, 1 AS m FROM generate_series(1, {rows}) AS t(n)", held=0)
        assert found.text == "n,m\n" + "".join(f"{n},1\n" for n in range(1, rows + 1))
