"""Part 7: what is kept, for how long, and what the statistics say of it."""

from __future__ import annotations

import gzip
import json

import lz4.block
import pytest

from tests.harness.servers import WireRequest

SIZE = "90000"

ALWAYS = {"dataset_count", "cache_size", "statistics_duration", "statistics_buffer_size"}


def statistics(pair) -> list[dict]:
    """The statistics of both, which reading resets."""
    return [json.loads(answer.body) for answer in pair.ask_raw("GET", "/qcache/statistics")]


def table(cells: int, cell: str = "12345678") -> str:
    """A CSV of one column of ints."""
    return "a\n" + f"{cell}\n" * cells


THIRD = table(3000)
"""About 27 kB to free, about 24 kB in the cache: three of them are all that SIZE holds."""


# Statistics


def test_statistics_of_a_quiet_node_are_four(pair):
    """dataset_count, cache_size, statistics_duration and statistics_buffer_size are always there."""
    statistics(pair)
    for counted in statistics(pair):
        assert set(counted) == ALWAYS
        assert counted["statistics_buffer_size"] == 1000
        assert isinstance(counted["statistics_duration"], float)


def test_reading_resets_the_statistics(pair):
    """All but the state of the cache."""
    pair.csv("a\n1\n")
    pair.query()
    statistics(pair)
    for counted in statistics(pair):
        assert set(counted) == ALWAYS
        assert counted["dataset_count"] == 1
        assert counted["cache_size"] > 0


def test_statistics_count_what_happened(pair):
    """Each key appears once its event has happened."""
    statistics(pair)
    pair.csv("a\n1\n2\n")
    pair.csv("a\n1\n2\n3\n")
    pair.query()
    pair.query()
    pair.query(key="missing")
    for counted in statistics(pair):
        assert counted["hit_count"] == 2
        assert counted["miss_count"] == 1
        assert counted["store_count"] == 2
        assert counted["replace_count"] == 1
        assert counted["size_evict_count"] == 0
        assert counted["store_row_counts"] == [2, 3]
        assert counted["durations_until_eviction"] == []
        lengths = {
            "query_durations": 2,
            "query_request_durations": 3,
            "store_durations": 2,
            "store_request_durations": 2,
        }
        for name, length in lengths.items():
            assert len(counted[name]) == length, name
            assert all(isinstance(seconds, float) and seconds >= 0 for seconds in counted[name])
        assert set(counted) == {
            *ALWAYS, *lengths, "hit_count", "miss_count", "store_count", "replace_count", "size_evict_count",
            "store_row_counts", "durations_until_eviction",
        }  # fmt: skip


def test_failed_queries_and_stores_are_counted_as_requests_only(pair):
    """No hit and no store; the requests have their durations, save a query that was no JSON."""
    pair.csv("a\n1\n")
    statistics(pair)
    pair.query({"nosuch": 1})
    pair.query(b"{")
    pair.query({}, {"Accept": "*/*"})
    pair.csv("", key="other")
    pair.same("DELETE", "/qcache/dataset/other")
    for counted in statistics(pair):
        assert set(counted) == {*ALWAYS, "query_request_durations", "store_request_durations"}
        assert len(counted["query_request_durations"]) == 2
        assert len(counted["store_request_durations"]) == 1


def test_a_failed_store_over_a_table_counts_as_a_replacement(pair):
    """The old table is gone."""
    pair.csv("a\n1\n")
    statistics(pair)
    pair.csv("", {})
    for counted in statistics(pair):
        assert counted["replace_count"] == 1
        assert "store_count" not in counted
        assert counted["dataset_count"] == 0


def test_the_cache_size_follows_stores_and_deletes(pair_with):
    """0 at first and when everything is deleted; a larger table counts for more."""
    pair = pair_with("--size", SIZE)
    sizes = []
    for step in (lambda: None, lambda: pair.csv(table(10)), lambda: pair.csv(table(1000)), pair.forget):
        step()
        sizes.append([counted["cache_size"] for counted in statistics(pair)])
    for empty, small, large, deleted in zip(*sizes, strict=True):
        assert empty == deleted == 0
        assert 0 < small < large


def test_lists_keep_the_last_of_the_buffer_size(pair_with):
    """`--statistics-buffer-size 3`: three entries, the latest; counts go on."""
    pair = pair_with("--statistics-buffer-size", "3")
    for rows in range(1, 6):
        pair.csv(table(rows))
        pair.query()
    for counted in statistics(pair):
        assert counted["statistics_buffer_size"] == 3
        assert counted["store_row_counts"] == [3, 4, 5]
        assert (counted["store_count"], counted["hit_count"]) == (5, 5)
        assert len(counted["query_durations"]) == 3


def test_statistics_of_an_aged_table(pair_with):
    """A miss and an eviction for age; the table is no longer counted once it was asked for."""
    pair = pair_with("--age", "1000")
    pair.csv("a\n1\n")
    pair.later(1001)
    for counted in statistics(pair):
        assert counted["dataset_count"] == 1
    pair.query()
    for counted in statistics(pair):
        assert (counted["miss_count"], counted["age_evict_count"], counted["dataset_count"]) == (1, 1, 0)
        assert "hit_count" not in counted


# Age


def test_age_counts_from_the_store_and_is_checked_at_a_query(pair_with):
    """Being asked for does not keep a table; being stored again does."""
    pair = pair_with("--age", "1000")
    pair.csv("a\n1\n", key="old")
    pair.csv("a\n1\n", key="renewed")
    pair.later(700)
    assert pair.has("old")
    pair.csv("a\n2\n", key="renewed")
    pair.later(500)
    assert not pair.has("old")
    assert pair.column("a", key="renewed") == [2]


def test_an_aged_table_is_found_again_once_stored(pair_with):
    """It is a miss, not a grave."""
    pair = pair_with("--age", "1000")
    pair.csv("a\n1\n")
    pair.later(1001)
    assert not pair.has()
    pair.csv("a\n2\n")
    assert pair.column("a") == [2]


# Size


def test_the_least_recently_used_goes_first(pair_with):
    """A query is a use; a store that replaces is one."""
    pair = pair_with("--size", SIZE)
    for key in ("one", "two", "three"):
        pair.csv(THIRD, key=key)
    assert pair.has("one")
    pair.csv(THIRD, key="four")
    assert pair.has("four")
    assert pair.has("one")
    assert not pair.has("two")
    assert pair.has("three")


def test_an_eviction_is_counted(pair_with):
    """With the seconds that the table was there."""
    pair = pair_with("--size", SIZE)
    for key in ("one", "two", "three", "four"):
        pair.csv(THIRD, key=key)
    for counted in statistics(pair):
        assert counted["size_evict_count"] == 1
        assert len(counted["durations_until_eviction"]) == 1
        assert counted["dataset_count"] == 3


def test_replacing_frees_the_old_table_first(pair_with):
    """A table of a full cache can be stored again without evicting another."""
    pair = pair_with("--size", SIZE)
    for key in ("one", "two", "three", "three"):
        pair.csv(THIRD, key=key)
    assert pair.has("one")
    assert pair.has("two")


def test_space_is_freed_by_the_length_of_the_body(pair_with):
    """So a table may end up larger than `--size`, and stays until the next store."""
    pair = pair_with("--size", "3000")
    body = "a,b,c\n" + "x,y,z\n" * 400
    assert len(body) < 3000
    assert pair.csv(body).status == 201
    for counted in statistics(pair):
        assert counted["cache_size"] > 3000
    assert pair.has()
    assert pair.csv("a\n1\n", key="next").status == 201
    assert not pair.has()
    assert pair.has("next")


@pytest.mark.parametrize("encoding", ["gzip", "lz4"])
def test_a_compressed_body_counts_uncompressed(pair_with, encoding):
    """One that cannot fit is 500, and the old table is gone."""
    pair = pair_with("--size", "3000")
    pair.csv("a\n1\n")
    compress = gzip.compress if encoding == "gzip" else lz4.block.compress
    body = compress(b"a\n" + b"1\n" * 5000)
    assert len(body) < 3000
    assert pair.csv(body, {"Content-Encoding": encoding}).status == 500
    assert not pair.has()


def test_half_the_length_counts_for_json(pair_with):
    """30,000 bytes of JSON need 15,000."""
    pair = pair_with("--size", SIZE)
    body = json.dumps([{"a": 1}] * 3000).encode()
    assert len(body) == 30_000
    for key in ("one", "two", "three"):
        pair.csv(THIRD, key=key)
    pair.json(body)
    assert pair.has("one")


def test_a_body_larger_than_the_cache_is_refused_at_its_head(pair_with):
    """A bare 400, before a byte of the body is read, and the connection is closed; the old table stays."""
    pair = pair_with("--size", "3000")
    pair.csv("a\n1\n")
    for server in pair.servers:
        with server.connect() as connection:
            connection.send(WireRequest("POST", "/qcache/dataset/t", (("Content-Length", "3001"),)).encode())
            answer = connection.receive()
            assert (answer.status, answer.headers, answer.body) == (400, (), b"")
            assert not connection.is_open()
    assert pair.has()


def test_a_body_as_large_as_the_cache_is_taken(pair_with):
    """The limit is inclusive."""
    pair = pair_with("--size", "3000")
    body = b"a\n" + b"1\n" * 1499
    head = WireRequest("POST", "/qcache/dataset/t", (("Content-Length", "3000"), ("Expect", "100-continue")))
    for server in pair.servers:
        with server.connect() as connection:
            # A head that waits in the same buffer would count too.
            assert connection.ask(head).status == 100
            connection.send(body)
            assert connection.receive().status == 201


def test_deleting_forgets(pair):
    """The key is a miss, others are untouched."""
    pair.csv("a\n1\n")
    pair.csv("a\n2\n", key="other")
    pair.same("DELETE", "/qcache/dataset/t")
    assert not pair.has()
    assert pair.has("other")


def test_storing_replaces(pair):
    """Columns, types and rows are those of the new table alone."""
    pair.csv("a,b\n1,x\n", {"X-QCache-types": "a=string"})
    pair.csv("b,c\n2,3\n")
    assert pair.rows() == [{"b": 2, "c": 3}]
