"""A dev node's store: eviction, expiry, sizes and statistics, on a clock that the tests set."""

import sys
from types import FrameType

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_qcache.devnode import store as store_module
from airflow_provider_qcache.devnode.errors import RequestError
from airflow_provider_qcache.devnode.store import Statistics, Store, estimated_size


class Clock:
    """A clock that moves only when a test sets `now`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def table(rows: int = 1) -> pd.DataFrame:
    """A table whose size grows with its rows."""
    return pd.DataFrame({"a": range(rows)})


def test_the_least_recently_used_table_is_evicted_first():
    """A query counts as a use. Only as many tables are evicted as the needed bytes require."""
    clock = Clock()
    store = Store(10_000, 0, clock)
    for key in "abc":
        clock.now += 1
        store.put(key, table())
    clock.now += 1
    store.get("a")
    size = store.size / 3
    clock.now += 1
    assert store.make_room(10_000 - int(store.size) + 1) == [clock.now - 1002]
    assert ["a" in store, "b" in store, "c" in store] == [True, False, True]
    assert store.make_room(10_000 - int(size)) == [clock.now - 1003]
    assert ["a" in store, "c" in store] == [True, False]


def test_a_store_takes_as_many_steps_in_a_full_cache_as_in_a_small_one():
    """Counts the calls that the store makes, with enough room for the table and without."""

    def calls(tables: int, max_size: int) -> int:
        store = Store(max_size, 0, Clock())
        for number in range(tables):
            store.put(f"k{number}", table())
        counted = 0

        def count(frame: FrameType, event: str, _argument: object) -> None:
            nonlocal counted
            counted += event in {"call", "c_call"} and frame.f_code.co_filename == store_module.__file__

        sys.setprofile(count)
        try:
            store.make_room(100)
            store.put("new", table())
        finally:
            sys.setprofile(None)
        return counted

    assert calls(1000, 10**9) == calls(10, 10**9)
    one = Store(10**9, 0, Clock())
    one.put("k", table())
    size = int(one.size)
    assert calls(1000, 1000 * size) == calls(10, 10 * size)


def test_a_body_larger_than_the_cache_is_refused_without_evicting():
    """The error names both sizes."""
    store = Store(1000, 0, Clock())
    store.put("a", table())
    with pytest.raises(RequestError, match="1001 bytes do not fit a cache of 1000 bytes"):
        store.make_room(1001)
    assert "a" in store


def test_a_table_may_outgrow_the_cache():
    """Room is made for the length of the body; the table that is made from it is stored whatever its size."""
    store = Store(1000, 0, Clock())
    store.make_room(100)
    store.put("a", table(1000))
    assert store.size > 1000


@pytest.mark.parametrize(("age", "expired"), [(0, False), (9, False), (10, False), (10.1, True)])
def test_a_table_expires_by_the_time_since_it_was_stored(age, expired):
    """Reading a table does not make it younger. With a maximum age of 0 no table expires."""
    clock = Clock()
    for max_age in (10, 0):
        store = Store(10_000, max_age, clock)
        store.put("a", table())
        clock.now += age
        store.get("a")
        assert store.expire("a") is (expired and max_age > 0)
        assert ("a" in store) is not (expired and max_age > 0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "delete", "room", "get"]), st.sampled_from("abcd"), st.integers(0, 2000)
        )
    )
)
def test_the_size_is_the_sum_of_the_stored_tables_sizes(steps):
    """After any sequence of stores, replacements, deletes and evictions. `make_room` makes enough room."""
    clock = Clock()
    store = Store(4000, 0, clock)
    sizes = {}
    for step, key, number in steps:
        clock.now += 1
        if step == "put":
            before = store.size - sizes.pop(key, 0)
            store.put(key, table(number % 50))
            sizes[key] = store.size - before
        elif step == "room":
            store.make_room(number)
            assert store.size + number <= 4000
        elif key in store:
            store.get(key) if step == "get" else store.delete(key)
        sizes = {stored: size for stored, size in sizes.items() if stored in store}
        assert store.size == sum(sizes.values())
        assert len(store) == len(sizes)


def test_reading_statistics_resets_counts_and_duration():
    clock = Clock()
    statistics = Statistics(2, clock)
    statistics.count("hit_count")
    statistics.count("size_evict_count", 0)
    statistics.extend("query_durations", [1.0, 2.0, 3.0])
    clock.now += 5
    assert statistics.read() == {
        "statistics_buffer_size": 2,
        "statistics_duration": 5,
        "hit_count": 1,
        "size_evict_count": 0,
        "query_durations": [2.0, 3.0],
    }
    clock.now += 1
    assert statistics.read() == {"statistics_buffer_size": 2, "statistics_duration": 1}


@pytest.mark.parametrize("rows", [0, 1, 1000, 30_000])
def test_the_estimated_size_is_close_to_pandas_exact_one(rows):
    """The texts differ in length."""
    texts = [("x" * (number % 50)) for number in range(rows)]
    frame = pd.DataFrame({"a": range(rows), "b": pd.Series(texts, dtype=object), "c": 0.5})
    frame["d"] = frame["b"].astype("category")
    exact = frame.memory_usage(index=False, deep=True).sum()
    assert estimated_size(frame) == pytest.approx(exact, rel=0.15, abs=5000)
