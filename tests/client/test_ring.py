"""A key's home node is the node at which qcache-client 0.5.1, which other readers use, looks for it."""

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
def test_every_key_has_the_same_home_node_as_in_qclient(nodes: list[str], keys: list[str]) -> None:
    theirs, ours = NodeRing(nodes), Ring(nodes)
    assert [ours.node_for_key(key) for key in keys] == [theirs.get_node(key) for key in keys]
    assert len(ours) == len(theirs.ring)


@settings(deadline=None)
@given(nodes=NODES, key=KEYS, data=st.data())
def test_the_first_living_successor_is_the_node_that_qclient_uses_when_nodes_are_down(
    nodes: list[str], key: str, data: st.DataObject
) -> None:
    nodes = list(dict.fromkeys(nodes))
    dead = set(data.draw(st.lists(st.sampled_from(nodes), max_size=len(nodes) - 1)))
    assume(len(dead) < len(nodes))
    theirs = NodeRing(nodes)
    # qclient fails when it removes a node of which a point collides with another node's.
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
def test_the_hash_is_the_same_as_in_qclient(text: str) -> None:
    assert ring_hash(text) == generate_key(text)


def test_a_ring_of_three_nodes_has_the_recorded_points_and_homes() -> None:
    ring = Ring(THREE)
    assert len(ring) == 1002
    assert repr(ring) == "Ring(3 nodes, 1002 points)"
    assert min((ring_hash(f"{node}-{i}"), node) for node in THREE for i in range(334)) == (9517695, THREE[0])
    assert ring_hash("http://host1:9401-0") == 3183563771
    hashes = {"foo": 3675831724, "bar": 421377335, "a": 3111502092}
    assert {key: ring_hash(key) for key in hashes} == hashes
    homes = {"foo": THREE[2], "bar": THREE[1], "a": THREE[0]}
    assert {key: ring.node_for_key(key) for key in homes} == homes


def test_a_colliding_point_belongs_to_the_node_listed_last() -> None:
    # Colliding points are rare: generate names until two nodes share one.
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
def test_the_points_and_their_owners_are_the_same_as_in_qclient(nodes: list[str]) -> None:
    assert Ring(nodes).points() == sorted(NodeRing(nodes).ring.items())


def test_a_key_beyond_the_last_point_belongs_to_the_owner_of_the_first() -> None:
    ring = Ring(THREE)
    (_, first), (_, second), *_, (last, _) = ring.points()
    assert first != second
    beyond = next(key for key in map(str, range(100_000)) if ring_hash(key) >= last)
    assert (
        ring.node_for_key(beyond) == ring.successors(beyond)[0] == NodeRing(THREE).get_node(beyond) == first
    )


def test_the_successors_of_a_key_are_computed_once() -> None:
    """For some nodes that is a walk over the whole ring, and thousands of tables ask for it."""
    ring = Ring(THREE)
    assert ring.successors("foo") is ring.successors("foo")


def test_the_ring_works_where_md5_is_forbidden_for_security(monkeypatch: pytest.MonkeyPatch) -> None:
    """FIPS mode forbids it."""
    md5 = hashlib.md5

    def md5_in_fips_mode(data: bytes, *, usedforsecurity: bool = True) -> object:
        if usedforsecurity is not False:
            raise ValueError("[digital envelope routines] unsupported")
        return md5(data)

    monkeypatch.setattr(hashlib, "md5", md5_in_fips_mode)
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
def test_a_node_list_that_is_invalid_is_refused(nodes: object, message: str) -> None:
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
def test_the_error_of_an_invalid_key_says_what_is_allowed_and_why(key: object, more: str) -> None:
    with pytest.raises(InvalidKey) as raised:
        check_key(key)
    assert str(raised.value) == (
        f"{key!r} is not a key of QCache: use ASCII letters, digits, '-' and '_', at least one. {more}"
    )


def test_the_error_of_a_string_as_node_list_hides_its_credentials() -> None:
    with pytest.raises(ValueError, match="node_list") as raised:
        Ring("http://login:secret@host1:9401")
    assert "secret" not in str(raised.value)
