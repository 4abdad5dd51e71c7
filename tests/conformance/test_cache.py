"""Part 7 of the protocol: the cache's size and age limits, and the statistics."""

from __future__ import annotations

import gzip
import json

import lz4.block
import pytest

from tests.harness.servers import WireRequest

SIZE = "90000"

ALWAYS_PRESENT = {"dataset_count", "cache_size", "statistics_duration", "statistics_buffer_size"}


def statistics(pair) -> list[dict]:
    """The statistics of both servers; reading them resets them."""
    return [json.loads(answer.body) for answer in pair.ask_raw("GET", "/qcache/statistics")]


def table(cells: int, cell: str = "12345678") -> str:
    """A CSV of one column of ints."""
    return "a\n" + f"{cell}\n" * cells


THIRD = table(3000)
"""A store of it frees about 27 kB and takes about 24 kB in the cache: SIZE has room for three."""


# Statistics


def test_an_idle_node_reports_four_statistics(pair):
    """dataset_count, cache_size, statistics_duration and statistics_buffer_size are always present."""
    statistics(pair)
    for counted in statistics(pair):
        assert set(counted) == ALWAYS_PRESENT
        assert counted["statistics_buffer_size"] == 1000
        assert isinstance(counted["statistics_duration"], float)


def test_reading_resets_the_statistics(pair):
    """Except for the size of the cache and the number of its tables."""
    pair.csv("a\n1\n")
    pair.query()
    statistics(pair)
    for counted in statistics(pair):
        assert set(counted) == ALWAYS_PRESENT
        assert counted["dataset_count"] == 1
        assert counted["cache_size"] > 0


def test_statistics_count_events(pair):
    """A statistic appears once its event has occurred."""
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
            assert [
                seconds for seconds in counted[name] if not (isinstance(seconds, float) and seconds >= 0)
            ] == []
        assert set(counted) == {
            *ALWAYS_PRESENT, *lengths, "hit_count", "miss_count", "store_count", "replace_count", "size_evict_count",
            "store_row_counts", "durations_until_eviction",
        }  # fmt: skip


def test_failed_queries_and_stores_are_counted_as_requests_only(pair):
    """They are no hits or stores. The requests' durations are recorded, except for a query that is not JSON."""
    pair.csv("a\n1\n")
    statistics(pair)
    pair.query({"nosuch": 1})
    pair.query(b"{")
    pair.query({}, {"Accept": "*/*"})
    pair.csv("", key="other")
    pair.same("DELETE", "/qcache/dataset/other")
    for counted in statistics(pair):
        assert set(counted) == {*ALWAYS_PRESENT, "query_request_durations", "store_request_durations"}
        assert len(counted["query_request_durations"]) == 2
        assert len(counted["store_request_durations"]) == 1


def test_a_failed_store_over_a_table_counts_as_a_replacement(pair):
    """Because the node has dropped the old table."""
    pair.csv("a\n1\n")
    statistics(pair)
    pair.csv("", {})
    for counted in statistics(pair):
        assert counted["replace_count"] == 1
        assert "store_count" not in counted
        assert counted["dataset_count"] == 0


def test_the_cache_size_follows_stores_and_deletes(pair_with):
    """It is 0 at first and when everything is deleted; a larger table counts for more."""
    pair = pair_with("--size", SIZE)
    sizes = []
    for step in (lambda: None, lambda: pair.csv(table(10)), lambda: pair.csv(table(1000)), pair.delete_all):
        step()
        sizes.append([counted["cache_size"] for counted in statistics(pair)])
    for empty, small, large, deleted in zip(*sizes, strict=True):
        assert empty == deleted == 0
        assert 0 < small < large


def test_lists_keep_their_latest_entries_up_to_the_buffer_size(pair_with):
    """With `--statistics-buffer-size 3` a list keeps three entries; counts are not limited."""
    pair = pair_with("--statistics-buffer-size", "3")
    for rows in range(1, 6):
        pair.csv(table(rows))
        pair.query()
    for counted in statistics(pair):
        assert counted["statistics_buffer_size"] == 3
        assert counted["store_row_counts"] == [3, 4, 5]
        assert (counted["store_count"], counted["hit_count"]) == (5, 5)
        assert len(counted["query_durations"]) == 3


def test_statistics_of_an_expired_table(pair_with):
    """A query counts as a miss and an eviction by age; until then the table still counts as stored."""
    pair = pair_with("--age", "1000")
    pair.csv("a\n1\n")
    pair.advance_clock(1001)
    for counted in statistics(pair):
        assert counted["dataset_count"] == 1
    pair.query()
    for counted in statistics(pair):
        assert (counted["miss_count"], counted["age_evict_count"], counted["dataset_count"]) == (1, 1, 0)
        assert "hit_count" not in counted


# Age


def test_age_counts_from_the_store_and_is_checked_by_queries(pair_with):
    """A query does not make a table younger; a store of the same key does."""
    pair = pair_with("--age", "1000")
    pair.csv("a\n1\n", key="old")
    pair.csv("a\n1\n", key="renewed")
    pair.advance_clock(700)
    assert pair.has("old")
    pair.csv("a\n2\n", key="renewed")
    pair.advance_clock(500)
    assert not pair.has("old")
    assert pair.column("a", key="renewed") == [2]


def test_an_expired_key_can_be_stored_again(pair_with):
    pair = pair_with("--age", "1000")
    pair.csv("a\n1\n")
    pair.advance_clock(1001)
    assert not pair.has()
    pair.csv("a\n2\n")
    assert pair.column("a") == [2]


# Size


def test_the_least_recently_used_table_is_evicted_first(pair_with):
    """A query counts as a use, and so does a store that replaces."""
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
    """With the seconds for which the table was stored."""
    pair = pair_with("--size", SIZE)
    for key in ("one", "two", "three", "four"):
        pair.csv(THIRD, key=key)
    for counted in statistics(pair):
        assert counted["size_evict_count"] == 1
        assert len(counted["durations_until_eviction"]) == 1
        assert counted["dataset_count"] == 3


def test_replacing_frees_the_old_table_first(pair_with):
    """In a full cache, a table can be replaced without an eviction."""
    pair = pair_with("--size", SIZE)
    for key in ("one", "two", "three", "three"):
        pair.csv(THIRD, key=key)
    assert pair.has("one")
    assert pair.has("two")


def test_space_is_freed_by_the_length_of_the_body(pair_with):
    """So a table may be larger than `--size`, and remains until the next store."""
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
    """A body that cannot fit is 500, and the old table is dropped."""
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
    """A bare 400 before the body is read, after which the connection is closed; the old table remains."""
    pair = pair_with("--size", "3000")
    pair.csv("a\n1\n")
    for server in pair.servers:
        with server.connect() as connection:
            connection.send(WireRequest("POST", "/qcache/dataset/t", (("Content-Length", "3001"),)).encode())
            answer = connection.receive()
            assert (answer.status, answer.headers, answer.body) == (400, (), b"")
            assert not connection.is_open()
    assert pair.has()


def test_a_body_as_large_as_the_cache_is_accepted(pair_with):
    """The limit is inclusive."""
    pair = pair_with("--size", "3000")
    body = b"a\n" + b"1\n" * 1499
    head = WireRequest("POST", "/qcache/dataset/t", (("Content-Length", "3000"), ("Expect", "100-continue")))
    for server in pair.servers:
        with server.connect() as connection:
            # Without the wait for 100, the head would be in the same buffer and count too.
            assert connection.ask(head).status == 100
            connection.send(body)
            assert connection.receive().status == 201


def test_a_delete_removes_only_its_key(pair):
    pair.csv("a\n1\n")
    pair.csv("a\n2\n", key="other")
    pair.same("DELETE", "/qcache/dataset/t")
    assert not pair.has()
    assert pair.has("other")


def test_a_store_replaces_the_whole_table(pair):
    """Columns, types and rows are those of the new table only."""
    pair.csv("a,b\n1,x\n", {"X-QCache-types": "a=string"})
    pair.csv("b,c\n2,3\n")
    assert pair.rows() == [{"b": 2, "c": 3}]
