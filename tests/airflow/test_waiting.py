"""Sensors in a real Airflow, in each of their modes."""

from __future__ import annotations

from airflow_provider_qcache.client.ring import Ring
from scripts.airflow_runs import Runner
from tests.harness.nodes import Nodes

MODES = ("poke", "reschedule", "deferrable")


def test_every_mode_finds_the_same(runner: Runner, nodes: Nodes) -> None:
    run = runner.run("waiting_found")
    assert run.state == "success", {name: task.log[-3000:] for name, task in run.tasks.items()}
    (holder,) = nodes.holding("waited")
    for mode in MODES:
        found = dict(run[f"table_{mode}"].result)
        assert found.pop("seconds") >= 0
        assert found == {"key": "waited", "node": holder, "rows": 1}
        assert run[f"cluster_{mode}"].result["nodes"] == nodes.urls


def test_the_time_of_a_rescheduled_sensor_begins_at_its_first_poke(runner: Runner, nodes: Nodes) -> None:
    home = nodes.urls.index(Ring(nodes.urls).node_for_key("waited"))
    assert nodes.ask(home, "POST", "waited", b"a\n1\n").status == 201
    run = runner.run("waiting_rescheduled")
    assert run["wait"].result["seconds"] >= 2, "two intervals of one second"


def test_every_mode_ends_at_the_timeout(runner: Runner, nodes: Nodes) -> None:
    run = runner.run("waiting_in_vain")
    assert {mode: run[mode].state for mode in MODES} == dict.fromkeys(MODES, "skipped"), {
        name: task.log[-3000:] for name, task in run.tasks.items()
    }
