"""What a node holds, on a clock that the tests turn."""

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
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def table(rows: int = 1) -> pd.DataFrame:
    """A table whose size grows with its rows."""
    return pd.DataFrame({"a": range(rows)})


def test_the_least_recently_used_go_first():
    """A query counts as a use, and as many tables go as the bytes need."""
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


def test_a_store_takes_as_many_steps_in_a_full_cache_as_in_an_empty_one():
    """What the store calls is counted, with room for the table and without."""

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


def test_more_than_the_whole_cache_is_refused_and_costs_nothing():
    """The message names both numbers."""
    store = Store(1000, 0, Clock())
    store.put("a", table())
    with pytest.raises(RequestError, match="1001 bytes do not fit a cache of 1000 bytes"):
        store.make_room(1001)
    assert "a" in store


def test_a_table_may_outgrow_the_cache():
    """Room is made for the body's length; the table that comes of it is held whatever its size."""
    store = Store(1000, 0, Clock())
    store.make_room(100)
    store.put("a", table(1000))
    assert store.size > 1000


@pytest.mark.parametrize(("age", "expired"), [(0, False), (9, False), (10, False), (10.1, True)])
def test_age_is_counted_from_the_store(age, expired):
    """A use does not make a table younger; without a greatest age it never expires."""
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
def test_the_size_is_the_sum_of_what_is_held(steps):
    """Whatever is stored, replaced, deleted and evicted, and room is made where it was asked for."""
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
        sizes = {held: size for held, size in sizes.items() if held in store}
        assert store.size == sum(sizes.values())
        assert len(store) == len(sizes)


def test_reading_statistics_starts_them_anew():
    """What happened is counted once; the time is since the last reading."""
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
def test_the_estimate_of_a_size_is_near(rows):
    """Of pandas' own deep measure, where texts differ in length."""
    texts = [("x" * (number % 50)) for number in range(rows)]
    held = pd.DataFrame({"a": range(rows), "b": pd.Series(texts, dtype=object), "c": 0.5})
    held["d"] = held["b"].astype("category")
    exact = held.memory_usage(index=False, deep=True).sum()
    assert estimated_size(held) == pytest.approx(exact, rel=0.15, abs=5000)
