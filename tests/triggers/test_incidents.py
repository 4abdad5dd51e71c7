"""When a missing or changed table is an event: pure logic, on a clock of the test's."""

from __future__ import annotations

import json

import pytest

from airflow_provider_qcache.triggers import _incidents
from airflow_provider_qcache.triggers._incidents import Changed, Missing

NOON = 1_800_000_000.0
MOST = 6


def look(missing, at, **options):
    """What a look that misses the table at a time gives."""
    return missing.is_missing(NOON + at, "k", "node", **{"repeat_after": 60.0, "most": MOST, **options})


def event_times(missing, seconds, every=5, **options):
    """The times of the events of an incident that lasts so long."""
    return [at for at in range(0, seconds, every) if look(missing, at, **options)]


class TestMissing:
    def test_one_event_at_once_and_then_after_growing_pauses(self):
        assert event_times(Missing(), 1000) == [0, 60, 180, 420, 900]

    def test_the_pause_is_an_hour_at_most(self):
        times = event_times(Missing(), 30 * 3600, every=60)
        assert {later - earlier for earlier, later in zip(times[-20:], times[-19:], strict=False)} == {3600}

    def test_an_incident_ends_when_the_table_is_back(self):
        missing = Missing()
        assert look(missing, 0)["event"] == 1
        assert look(missing, 60)["event"] == 2
        missing.is_there()
        assert look(missing, 65)["event"] == 1

    def test_tables_that_evict_each_other_stop_after_so_many_events(self, caplog):
        """Each time the table comes back, and is gone at the next look."""
        missing = Missing()
        sent = []
        for at in range(0, 2 * 3600, 10):
            if look(missing, at):
                sent.append(at)
                missing.is_there()
        assert sent == [0, 10, 20, 30, 40, 50, *range(3600, 3660, 10)]
        text = [record.getMessage() for record in caplog.records]
        assert len(text) == 2, "one warning for each time that no more are sent"
        until = "2027-01-15T09:00:00+00:00"
        assert text[0].startswith(f"table 'k' is missing on node: no event is sent before {until}, because 6")
        assert "--size" in text[0]

    def test_says_why(self):
        first, down, gone = Missing(), Missing(), Missing()
        down.is_there()
        down.is_down()
        gone.is_there()
        assert look(first, 0)["why"] == "the node did not have the table at the first poll"
        assert look(down, 0)["why"] == "the node did not answer for a time, and came back without the table"
        assert "evicted, expired or deleted" in look(gone, 0)["why"]

    def test_the_payload_is_plain(self):
        payload = look(Missing(), 0)
        assert json.loads(json.dumps(payload)) == payload
        assert {name: payload[name] for name in ("key", "node", "missing_since", "event")} == {
            "key": "k",
            "node": "node",
            "missing_since": "2027-01-15T08:00:00+00:00",
            "event": 1,
        }

    def test_a_clock_that_is_set_back_does_not_silence_it(self):
        missing = Missing()
        for at in range(0, 50, 10):
            look(missing, at)
            missing.is_there()
        assert look(missing, -7200)


class TestChanged:
    def seen(self, changed, rows, at=0, **more):
        return changed.is_there(NOON + at, "k", "node", {"rows": rows, **more}, most=MOST)

    def test_the_first_look_is_no_event(self):
        assert self.seen(Changed(), 3) is None

    def test_other_rows_are(self):
        changed = Changed()
        self.seen(changed, 3)
        assert self.seen(changed, 3) is None
        assert self.seen(changed, 4) == {
            "key": "k",
            "node": "node",
            "why": "the rows were 3 and are 4",
            "rows": 4,
            "rows_before": 3,
        }

    def test_a_table_that_comes_is(self):
        changed = Changed()
        changed.is_missing()
        assert self.seen(changed, 0)["why"] == "the table was stored"
        changed.is_missing()
        assert self.seen(changed, 0)["rows_before"] is None

    def test_another_answer_of_as_many_rows_is(self):
        changed = Changed()
        self.seen(changed, 1, digest="a")
        assert self.seen(changed, 1, digest="b")["why"] == "the answer to the query changed"

    def test_no_more_than_so_many_an_hour(self, caplog):
        changed = Changed()
        self.seen(changed, 0)
        assert sum(self.seen(changed, n, at=n) is not None for n in range(1, 20)) == MOST
        assert len(caplog.records) == 1


@pytest.mark.parametrize("kind", [Missing, Changed])
def test_what_is_known_survives_json(kind):
    known = {"new": kind(), "k": kind()}
    if kind is Missing:
        look(known["k"], 0)
    else:
        known["k"].is_there(NOON, "k", "node", {"rows": 1}, most=MOST)
        known["k"].is_there(NOON, "k", "node", {"rows": 2}, most=MOST)
    kept = json.loads(json.dumps(_incidents.dumped(known)))
    assert _incidents.loaded(kind, kept) == {"k": known["k"]}
    assert _incidents.loaded(kind, None) == {}
