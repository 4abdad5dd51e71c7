"""A key lives where qcache-client 0.5.1, which every other reader uses, looks for it."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from qclient.node_ring import NodeRing, generate_key

from airflow_provider_qcache.client.errors import InvalidKey
from airflow_provider_qcache.client.ring import Ring, check_key, ring_hash

NODES = st.lists(
    st.one_of(
        st.integers(1, 99).map(lambda number: f"http://host{number}:9401"),
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=12,
)
KEYS = st.one_of(st.text(max_size=20), st.from_regex(r"[A-Za-z0-9_-]+", fullmatch=True))
THREE = ["http://host1:9401", "http://host2:9401", "http://host3:9401"]


@given(nodes=NODES, keys=st.lists(KEYS, min_size=1, max_size=20))
def test_every_key_has_the_home_that_qclient_gives_it(nodes: list[str], keys: list[str]) -> None:
    theirs, ours = NodeRing(nodes), Ring(nodes)
    assert [ours.node_for_key(key) for key in keys] == [theirs.get_node(key) for key in keys]
    assert len(ours) == len(theirs.ring)


@settings(deadline=None)
@given(nodes=NODES, key=KEYS, data=st.data())
def test_the_first_living_successor_is_where_qclient_looks_when_nodes_are_down(
    nodes: list[str], key: str, data: st.DataObject
) -> None:
    nodes = list(dict.fromkeys(nodes))
    dead = set(data.draw(st.lists(st.sampled_from(nodes), max_size=len(nodes) - 1)))
    assume(len(dead) < len(nodes))
    theirs = NodeRing(nodes)
    # Where points collide qclient breaks once a node is dropped.
    assume(len(theirs.ring) == len(theirs.sorted_keys))
    for node in dead:
        theirs.remove_node(node)
    ours = next(node for node in Ring(nodes).successors(key) if node not in dead)
    assert ours == theirs.get_node(key)


@given(nodes=NODES, key=KEYS)
def test_successors_are_every_node_once_with_the_home_first(nodes: list[str], key: str) -> None:
    ring = Ring(nodes)
    order = list(ring.successors(key))
    assert order[0] == ring.node_for_key(key)
    assert sorted(order) == sorted(set(nodes))


@given(text=st.text())
def test_the_hash_is_qclients(text: str) -> None:
    assert ring_hash(text) == generate_key(text)


def test_the_ring_of_three_nodes_is_the_one_that_is_written_down() -> None:
    ring = Ring(THREE)
    assert len(ring) == 1002
    assert repr(ring) == "Ring(3 nodes, 1002 points)"
    assert min((ring_hash(f"{node}-{i}"), node) for node in THREE for i in range(334)) == (9517695, THREE[0])
    assert ring_hash("http://host1:9401-0") == 3183563771
    hashes = {"foo": 3675831724, "bar": 421377335, "a": 3111502092}
    assert {key: ring_hash(key) for key in hashes} == hashes
    homes = {"foo": THREE[2], "bar": THREE[1], "a": THREE[0]}
    assert {key: ring.node_for_key(key) for key in homes} == homes


def test_where_points_collide_the_node_listed_last_owns_them() -> None:
    # That two strings have a point in common needs luck, which is found here.
    nodes: list[str] = []
    points: dict[int, str] = {}
    number = 0
    while True:
        number += 1
        name = f"http://node{number}:80"
        count = 500
        for i in range(count):
            point = ring_hash(f"{name}-{i}")
            if points.get(point, name) != name:
                nodes = [points[point], name]
                break
            points[point] = name
        else:
            continue
        break
    colliding = {ring_hash(f"{nodes[0]}-{i}") for i in range(500)} & {
        ring_hash(f"{nodes[1]}-{i}") for i in range(500)
    }
    assert colliding
    for listed in (nodes, nodes[::-1]):
        ring = Ring(listed)
        for point in colliding:
            assert ring._owners[ring._points.index(point)] == listed[-1] == NodeRing(listed).ring[point]


@given(nodes=NODES)
def test_the_points_are_qclients_with_their_owners(nodes: list[str]) -> None:
    assert Ring(nodes).points() == sorted(NodeRing(nodes).ring.items())


def test_a_key_beyond_the_last_point_lives_on_the_owner_of_the_first() -> None:
    ring = Ring(THREE)
    (_, first), (_, second), *_, (last, _) = ring.points()
    assert first != second
    beyond = next(key for key in map(str, range(100_000)) if ring_hash(key) >= last)
    assert (
        ring.node_for_key(beyond) == ring.successors(beyond)[0] == NodeRing(THREE).get_node(beyond) == first
    )


def test_an_order_is_worked_out_once_for_all_keys_before_a_point() -> None:
    """Thousands of tables ask for theirs, which for some nodes is a walk over the whole ring."""
    ring = Ring(THREE)
    assert ring.successors("foo") is ring.successors("foo")


def test_keys_have_homes_on_a_machine_that_forbids_md5_for_security(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one in FIPS mode does."""
    md5 = hashlib.md5

    def of_fips(data: bytes, *, usedforsecurity: bool = True) -> object:
        if usedforsecurity is not False:
            raise ValueError("[digital envelope routines] unsupported")
        return md5(data)

    monkeypatch.setattr(hashlib, "md5", of_fips)
    assert Ring(THREE).node_for_key("foo") == THREE[2]


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ("http://host1:9401", "node_list='http://host1:9401' must be a list of nodes, not one string"),
        ([], "node_list is empty: at least one node is required"),
        ([None], "node_list has a NoneType: every node must be a string"),
        ([*THREE, 1], "node_list has a int: every node must be a string"),
    ],
)
def test_what_is_no_list_of_nodes_is_refused(nodes: object, message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        Ring(nodes)  # type: ignore[arg-type]
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("key", "more"),
    [
        ("a b", "With any other key a node answers 404, or stores the table under another one."),
        (5, "With any other key a node answers 404, or stores the table under another one."),
        ("a*", "QCache has no patterns: pass the whole key of each table."),
    ],
)
def test_the_refusal_of_a_key_says_which_are_taken_and_what_others_would_do(key: object, more: str) -> None:
    with pytest.raises(InvalidKey) as raised:
        check_key(key)
    assert str(raised.value) == (
        f"{key!r} is not a key of QCache: use ASCII letters, digits, '-' and '_', at least one. {more}"
    )


def test_a_list_that_is_a_string_is_refused_without_its_credentials() -> None:
    with pytest.raises(ValueError, match="node_list") as raised:
        Ring("http://login:secret@host1:9401")
    assert "secret" not in str(raised.value)
