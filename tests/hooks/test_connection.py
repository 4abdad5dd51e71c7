"""A connection is read the same from every spelling Airflow gives it, and is refused by the field's name."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
from airflow.models.connection import Connection as StoredConnection
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_qcache.client import QClient, RequestRetry
from airflow_provider_qcache.compat import Connection
from airflow_provider_qcache.connection import InvalidConnection, parse_connection
from airflow_provider_qcache.connection_fields import EXTRA, MAX_HOST

ONE = "http://host1:9401"
SECRET = "hunter2-secret"
CLASSES = sorted({StoredConnection, Connection}, key=str)
"""The database's connection, and a task's; on 2.11 they are the same class."""


def connection(extra: Any = None, **fields: Any) -> Any:
    text = json.dumps(extra) if extra is not None else None
    return Connection(conn_id="c", conn_type="qcache", extra=text, **fields)


def parsed(extra: Any = None, **fields: Any) -> Any:
    return parse_connection(connection(extra, **fields))


def nodes_of(extra: Any = None, **fields: Any) -> list[str]:
    return list(parsed(extra, **fields).nodes)


def refused(extra: Any = None, **fields: Any) -> str:
    with pytest.raises(InvalidConnection) as error:
        parsed(extra, **fields)
    assert str(error.value).startswith("connection 'c': ")
    assert error.value.__cause__ is None
    return str(error.value)


class TestNodes:
    @pytest.mark.parametrize(
        ("fields", "node"),
        [
            ({"host": "host1"}, "http://host1:8888"),
            ({"host": "host1", "port": 9401}, ONE),
            ({"host": "host1:9402", "port": 9401}, "http://host1:9402"),
            ({"host": "host1", "schema": "https"}, "https://host1:8888"),
            ({"host": "Host1", "schema": ""}, "http://Host1:8888"),
            ({"host": "127.0.0.1"}, "http://127.0.0.1:8888"),
            ({"host": "::1"}, "http://[::1]:8888"),
            ({"host": "[::1]", "port": 9401}, "http://[::1]:9401"),
            ({"host": "[FE80::A]:9401"}, "http://[FE80::A]:9401"),
            ({"host": "http://Host1:9401/"}, "http://Host1:9401/"),
            ({"host": "http://[::1]:9401", "port": 8888}, "http://[::1]:9401"),
            ({"host": "http://host1", "port": 9401}, ONE),
            ({"host": "http://[::1]", "port": 9401}, "http://[::1]:9401"),
            ({"host": "https://host1"}, "https://host1"),
            ({"host": "http://proxy:80/node1", "port": 8888}, "http://proxy:80/node1"),
        ],
    )
    def test_the_string_that_a_node_becomes(self, fields, node):
        """The page about the connection states these: the string decides which keys live there."""
        assert nodes_of(**fields) == [node]

    def test_a_url_in_nodes_is_never_changed(self):
        listed = ["http://host1", "HTTP://Host2:09401/", "https://[::1]/", "http://proxy/node1"]
        assert nodes_of({"nodes": listed}, port=9401) == listed

    def test_the_client_routes_by_these_strings(self):
        """The ring's own node list, and so the hashes, are of what was parsed."""
        listed = ["http://Host1:9401/", "http://[::1]:9401", "http://proxy:80/node1"]
        with QClient(**parsed({"nodes": listed}).client_arguments()) as client:
            assert sorted(client.successors("a")) == sorted(listed)

    @pytest.mark.parametrize(
        "spelled",
        [
            [ONE, "host2"],
            [ONE, "host2", ""],
            [f" {ONE} ", None, "host2\n"],
            f"{ONE},host2",
            f"{ONE}, host2,",
            f"{ONE} host2",
            f"{ONE}\nhost2\n",
            f"{ONE}\r\nhost2",
            json.dumps([ONE, "host2"]),
            str([ONE, "host2"]),
        ],
    )
    def test_every_way_to_list_them(self, spelled):
        assert nodes_of({"nodes": spelled}) == [ONE, "http://host2:8888"]
        if isinstance(spelled, str):
            assert nodes_of(host=spelled) == [ONE, "http://host2:8888"]

    def test_several_addresses(self):
        assert nodes_of(host="[::1]:1, ::2 [::3]") == [
            "http://[::1]:1",
            "http://[::2]:8888",
            "http://[::3]:8888",
        ]

    def test_no_nodes(self):
        for extra in (None, {}, {"nodes": None}, {"nodes": ["", " "]}, {"nodes": " , "}):
            assert "there are no nodes: list them in the extra field nodes" in refused(extra, host="")

    def test_nodes_in_both_places(self):
        assert "both host and the extra field nodes have nodes; clear host" in refused(
            {"nodes": [ONE]}, host="host1"
        )
        assert nodes_of({"nodes": [""]}, host="host1") == ["http://host1:8888"]
        assert nodes_of({"nodes": [ONE]}, host="") == [ONE]

    @pytest.mark.parametrize("second", ["http://HOST1:9401", "http://host1:9401/", "host1:9401", ONE])
    def test_one_node_twice(self, second):
        assert "list each node once" in refused({"nodes": [ONE, "host2", second]})

    def test_one_address_twice(self):
        assert "http://[0::1]:8888" in refused(host="::1,0::1")

    def test_a_host_that_airflow_may_have_cut(self):
        short = ",".join(f"host{number:03}" for number in range(60))[:MAX_HOST]
        assert len(short) <= MAX_HOST
        assert len(nodes_of(host=short)) == 60
        for length in (481, 499, 500, 501, 5000):
            host = ",".join(f"host{number:04}" for number in range(1000))[:length]
            message = refused(host=host)
            assert f"host has {length} characters" in message
            assert "move the nodes to the extra field nodes" in message

    @pytest.mark.parametrize(
        ("node", "line"),
        [
            ("ftp://host1", "neither http nor https"),
            ("://host1", "neither http nor https"),
            ("http://", "not valid"),
            ("http://:9401", "not valid"),
            ("http://host1:", "not valid"),
            ("http://host1:0", "not valid"),
            ("http://host1:65536", "not valid"),
            ("http://host1:port", "not valid"),
            ("http://host1:9401/?a=b", "a query or a fragment: remove it"),
            ("http://host1:9401?", "a query or a fragment"),
            ("http://host1#top", "a query or a fragment"),
            ("http://host1:9401/qcache", "ends before /qcache"),
            ("http://host1/x/qcache/dataset/a", "ends before /qcache"),
            ("http://ho;st1", "neither a name"),
            ("http://höst1", "neither a name"),
            ("http://host1/ä", "a character that a URL cannot have"),
            ("http://[::1", "not valid"),
            ("http://[::g]", "n"),
            ("http://[fe80::1%25eth0]:1", "nor an address"),
            ("host1/path", "or a URL"),
            ("host1;host2", "or a URL"),
            ("host1?q", "or a URL"),
            ("host1:", "its port is not an integer, 1 to 65535"),
            ("host1:0", "its port is not an integer"),
            ("host1:65536", "its port is not an integer"),
            ("host1:٣", "its port is not an integer"),
            ("host1:-1", "its port is not an integer"),
            ("1:2:3", "not an IPv6 address"),
            ("fe80::1%eth0", "not an IPv6 address without a zone"),
            ("[::1", "']' is missing"),
            ("[::1]9401", "its port is not an integer"),
            ("[host1]", "not an IPv6 address"),
        ],
    )
    def test_what_is_no_node(self, node, line):
        for place in ("nodes", "host"):
            message = refused({"nodes": [node]}) if place == "nodes" else refused(host=node)
            assert f"{place} lists {node!r}" in message
            assert line in message

    @pytest.mark.parametrize("listed", [5, True, {"host1": 1}, [1], [["host1"]], "[1]"])
    def test_what_is_no_list_of_nodes(self, listed):
        assert re.search(r"nodes=.*: expected node URLs such as ", refused({"nodes": listed}))

    def test_a_path_and_a_port_beside_it(self):
        message = refused(host="http://proxy/node1", port=9401)
        assert "add the port to the URL, or move the URL to the extra field nodes" in message

    @pytest.mark.parametrize("schema", ["HTTP", "ftp", "public", "http://"])
    def test_a_schema_that_is_no_scheme(self, schema):
        assert f"schema={schema!r}: expected http or https" in refused(host="host1", schema=schema)

    def test_a_schema_that_contradicts_a_url(self):
        """A user who set https must not find out later that a URL has http."""
        assert (
            "schema is 'https': clear schema, which is for names without a scheme, or correct it"
            in refused({"nodes": [ONE]}, schema="https")
        )

    @pytest.mark.parametrize("port", [0, -1, 65_536])
    def test_a_port_out_of_bounds(self, port):
        assert f"port={port}: expected an integer, 1 to 65535" in refused(host="host1", port=port)


class TestValues:
    def test_the_defaults_suit_batch_work(self):
        assert dataclasses.asdict(parsed({"nodes": [ONE]})) == {
            "conn_id": "c",
            "nodes": (ONE,),
            "auth": None,
            "connect_timeout": 1.0,
            "read_timeout": 30.0,
            "store_timeout": None,
            "deadline": 600.0,
            "consecutive_error_count_limit": 10,
            "retry_wait_initial": 0.1,
            "retry_wait_max": 5.0,
            "wait_for_nodes": True,
            "confirm_miss": True,
            "refused_means_gone": True,
            "verify": True,
            "ca_file": None,
            "cert_file": None,
            "key_file": None,
            "trust_env": True,
            "allow_auth_over_http": False,
            "max_response_bytes": 2**30,
        }

    @pytest.mark.parametrize("unset", [None, "", "  "])
    def test_null_and_nothing_mean_the_default(self, unset):
        extra = dict.fromkeys((field.name for field in EXTRA), unset)
        assert parsed({**extra, "nodes": [ONE]}) == parsed({"nodes": [ONE]})

    @pytest.mark.parametrize("field", [field for field in EXTRA if field.kind == "flag"], ids=repr)
    @pytest.mark.parametrize(
        ("value", "meant"),
        [
            *(
                (value, True)
                for value in (True, 1, "true", "True", "TRUE", "t", "y", "yes", "on", "1", " y ")
            ),
            *((value, False) for value in (False, 0, "false", "False", "f", "n", "no", "off", "0")),
        ],
    )
    def test_booleans(self, field, value, meant):
        assert getattr(parsed({"nodes": [ONE], field.name: value}), field.name) is meant

    @pytest.mark.parametrize("field", [field for field in EXTRA if field.kind == "flag"], ids=repr)
    @pytest.mark.parametrize("value", ["maybe", "truee", 2, -1, 0.5, [], {}, [True]])
    def test_what_is_no_boolean(self, field, value):
        assert f"{field.name}={value!r}: expected true or false" in refused(
            {"nodes": [ONE], field.name: value}
        )

    @pytest.mark.parametrize(
        ("value", "meant"), [(2.5, 2.5), ("2.5", 2.5), (3, 3.0), (" 3 ", 3.0), ("1e2", 100.0), (".5", 0.5)]
    )
    def test_seconds(self, value, meant):
        read = parsed({"nodes": [ONE], "read_timeout": value}).read_timeout
        assert (read, type(read)) == (meant, float)

    @pytest.mark.parametrize(
        ("value", "meant"), [(7, 7), ("7", 7), (7.0, 7), ("7.0", 7), ("+7", 7), ("1e2", 100)]
    )
    def test_counts(self, value, meant):
        read = parsed({"nodes": [ONE], "consecutive_error_count_limit": value}).consecutive_error_count_limit
        assert (read, type(read)) == (meant, int)

    @pytest.mark.parametrize("field", [field for field in EXTRA if field.minimum is not None], ids=repr)
    def test_bounds(self, field):
        for value in (field.minimum, field.maximum):
            assert getattr(parsed({"nodes": [ONE], field.name: value}), field.name) == value
        bad = [
            field.minimum - 1,
            field.maximum + 1,
            True,
            "ten",
            "0x10",
            "1_0",
            "٣",
            "9" * 5000,
            [],
            {},
            "nan",
        ]
        bad += [float("nan"), float("inf"), -5, "-5", "1e999"]
        bad += [3.7, "3.7"] if field.kind == "count" else []
        for value in bad:
            assert re.search(
                rf"{field.name}=.*: expected {re.escape(field.allowed)}",
                refused({"nodes": [ONE], field.name: value}),
            ), value

    @pytest.mark.parametrize("name", ["ca_file", "cert_file"])
    @pytest.mark.parametrize("value", [True, 5, ["/a"], {"a": 1}])
    def test_what_is_no_path(self, name, value):
        assert f"{name}={value!r}: expected the path of a PEM file" in refused({"nodes": [ONE], name: value})

    def test_files_that_contradict(self):
        assert "ca_file is set and verify is false" in refused(
            {"nodes": [ONE], "ca_file": "/ca.pem", "verify": False}
        )
        assert "key_file is set and cert_file is not" in refused({"nodes": [ONE], "key_file": "/key.pem"})


class TestExtra:
    def test_an_unknown_field_is_named_with_what_is_near(self):
        assert "unknown field 'read_timout'; did you mean read_timeout" in refused({"read_timout": SECRET})
        assert "unknown field 'zzz'; its fields are nodes, connect_timeout," in refused({"zzz": 1})
        assert "'extra__qcache__deadlin'; did you mean deadline?" in refused({"extra__qcache__deadlin": 1})
        assert "unknown field 'extra__http__verify'" in refused({"extra__http__verify": True})

    def test_the_value_of_an_unknown_field_is_not_shown(self):
        """It may be a password."""
        for name in ("password", "login", "token", "passwrd"):
            assert SECRET not in refused({"nodes": [ONE], name: SECRET})
        assert "'password': set it in the connection itself" in refused({"password": SECRET})

    def test_the_old_form_s_longer_names(self):
        both = {"nodes": ONE, "extra__qcache__nodes": ONE, "extra__qcache__deadline": "5", "deadline": ""}
        assert parsed(both) == parsed({"nodes": ONE, "deadline": 5})
        assert parsed({"extra__qcache__nodes": [ONE]}).nodes == (ONE,)
        assert "extra has deadline and extra__qcache__deadline with different values" in refused(
            {"nodes": ONE, "deadline": 5, "extra__qcache__deadline": 6}
        )

    @pytest.mark.parametrize("text", ['["http://host1"]', '"host1"', "5", "{", "host1"])
    def test_an_extra_that_is_no_object(self, text):
        class Raw:
            conn_id, conn_type, host, schema, login, password, port = (
                "c",
                "qcache",
                None,
                None,
                None,
                None,
                None,
            )
            extra = text

        with pytest.raises(InvalidConnection, match="expected a JSON object of its fields") as error:
            parse_connection(Raw())
        assert "host1" not in str(error.value)


class TestCredentials:
    def test_over_https(self):
        settings = parsed({"nodes": ["https://host1"]}, login="user", password=SECRET)
        assert settings.auth == ("user", SECRET)

    def test_over_http_they_are_refused(self):
        message = refused({"nodes": ["https://host2", ONE]}, login="user", password=SECRET)
        assert f"would go to {ONE} unencrypted" in message
        assert "allow_auth_over_http" in message
        allowed = parsed({"nodes": [ONE], "allow_auth_over_http": "y"}, login="user", password=SECRET)
        assert allowed.auth == ("user", SECRET)

    def test_a_colon_is_refused(self):
        """QCache hangs up on one, in either."""
        for login, password, name in ((f"a:{SECRET}", "b", "login"), ("a", f"{SECRET}:b", "password")):
            message = refused({"nodes": ["https://host1"]}, login=login, password=password)
            assert f"{name} (not shown) contains a ':'" in message
            assert SECRET not in message

    def test_one_without_the_other(self):
        assert "login is set and password is not" in refused({"nodes": ["https://host1"]}, login="a")
        message = refused({"nodes": ["https://host1"]}, password=SECRET, login="")
        assert "password is set and login is not" in message
        assert SECRET not in message
        assert parsed({"nodes": [ONE]}, login="", password="").auth is None

    @pytest.mark.parametrize(
        "node",
        [
            f"http://user:{SECRET}@host1",
            f"user:{SECRET}@host1:9401",
            f"http://user:a,{SECRET}@host1",
            f"http://user:a {SECRET}@host1",
            f"http://us/er:{SECRET}@x@host1",
            f"http://user:{SECRET}%40host1",
        ],
    )
    def test_in_a_node_they_are_refused_and_not_shown(self, node):
        for fields in ({"host": node}, {"extra": {"nodes": [node]}}, {"extra": {"nodes": f"host2, {node}"}}):
            message = refused(**fields)
            assert "move them to login and password" in message
            assert SECRET not in message

    def test_in_any_other_field_they_are_not_shown(self):
        for name in ("read_timeout", "verify"):
            assert SECRET not in refused({"nodes": [ONE], name: f"http://user:{SECRET}@host1"})

    def test_no_repr_shows_them(self):
        settings = parsed({"nodes": ["https://host1"]}, login="user", password=SECRET)
        with QClient(**settings.client_arguments()) as client:
            assert SECRET not in repr(settings) + str(settings) + repr(client)


class TestRequestRetry:
    settings = parsed({"nodes": [ONE], "retry_wait_initial": 2, "retry_wait_max": 3, "wait_for_nodes": False})

    def arguments(self, request_retry: Any) -> tuple[RequestRetry, int]:
        arguments = self.settings.client_arguments(request_retry)
        return arguments["request_retry"], arguments["consecutive_error_count_limit"]

    def test_none_is_the_connection_s(self):
        assert self.arguments(None) == (RequestRetry(wait_initial=2, wait_max=3, wait_for_nodes=False), 10)

    def test_a_dict_replaces_what_it_names(self):
        assert self.arguments({"wait_max": 9}) == (
            RequestRetry(wait_initial=2, wait_max=9, wait_for_nodes=False),
            10,
        )
        policy, limit = self.arguments({"consecutive_error_count_limit": 20})
        assert (policy.wait_initial, limit) == (2, 20)

    def test_a_policy_replaces_the_connection_s(self):
        policy = RequestRetry(wait_max=1, consecutive_error_count_limit=3)
        assert self.arguments(policy) == (policy, 3)

    @pytest.mark.parametrize(
        ("request_retry", "line"),
        [
            ({"wait_maxx": 1}, "no field 'wait_maxx'; did you mean wait_max"),
            ({5: 1}, "no field 5"),
            ({"wait_max": -1}, "wait_max=-1"),
            ({"wait_for_nodes": "y"}, "wait_for_nodes='y'"),
            (5, "request_retry=5: expected a RequestRetry or a dict of its fields"),
        ],
    )
    def test_what_makes_no_sense(self, request_retry, line):
        with pytest.raises(ValueError, match=re.escape(line)):
            self.settings.client_arguments(request_retry)


# Every way that Airflow itself carries a connection.

_names = st.from_regex(r"[a-z][a-z0-9-]{0,8}(\.[a-z][a-z0-9]{0,5})?", fullmatch=True)
_hosts = _names | st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(lambda address: f"[{address}]")
_urls = st.builds(
    "{}://{}:{}{}".format,
    st.sampled_from(["http", "https"]),
    _hosts,
    st.integers(1, 65_535),
    st.sampled_from(["", "/"]),
)
_values = {
    "seconds": lambda field: st.floats(max(field.minimum, 0.001), field.maximum),
    "count": lambda field: st.integers(field.minimum, field.maximum),
    "flag": lambda _: st.booleans(),
}
_extras = st.fixed_dictionaries(
    {"nodes": st.lists(_urls, min_size=1, max_size=4, unique_by=lambda url: url.rstrip("/"))},
    optional={
        field.name: _values[field.kind](field)
        for field in EXTRA
        if field.kind in _values and field.name not in ("allow_auth_over_http", "verify")
    },
)


def _as_text(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else json.dumps(value)


def _spellings(extra: dict[str, Any]) -> list[dict[str, Any]]:
    texts = {name: _as_text(value) for name, value in extra.items()}
    return [
        extra,
        texts,
        {name: str(value) for name, value in extra.items()},  # a list and a boolean as Python spells them
        {f"extra__qcache__{name}": value for name, value in texts.items()} | texts,
        dict.fromkeys(field.name for field in EXTRA) | extra | {"nodes": [*extra["nodes"], ""]},
    ]


@settings(deadline=None, max_examples=60)
@given(extra=_extras)
def test_every_spelling_in_every_carrier_is_one_connection(extra):
    """JSON and URI, by the classes of the database and of the task: what they give back is read the same."""
    expected = parsed(extra)
    assert expected.nodes == tuple(extra["nodes"])
    for name, value in extra.items():
        if name != "nodes":
            assert getattr(expected, name) == value
    for spelled in _spellings(extra):
        first = connection(spelled)
        for read in CLASSES:
            carried = [
                read(conn_id="c", uri=first.get_uri()),
                read.from_json(first.as_json(), conn_id="c"),
                read(conn_id="c", conn_type="qcache", extra=json.dumps(spelled)),
            ]
            assert [parse_connection(other) for other in carried] == [expected] * 3


@settings(deadline=None, max_examples=100)
@given(
    hosts=st.lists(_hosts, min_size=1, max_size=5, unique=True),
    port=st.none() | st.integers(1, 65_535),
    schema=st.sampled_from(["", "http", "https"]),
    separator=st.sampled_from([",", " ", "\n", ", "]),
)
def test_names_in_host_in_every_carrier(hosts, port, schema, separator):
    first = connection(host=separator.join(hosts), port=port, schema=schema)
    expected = tuple(f"{schema or 'http'}://{host}:{port or 8888}" for host in hosts)
    assert parse_connection(first).nodes == expected
    for read in CLASSES:
        assert parse_connection(read(conn_id="c", uri=first.get_uri())).nodes == expected
        assert parse_connection(read.from_json(first.as_json(), conn_id="c")).nodes == expected


@settings(deadline=None, max_examples=300)
@given(
    extra=st.dictionaries(
        st.sampled_from([field.name for field in EXTRA]) | st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
            ),
        ),
    ),
    host=st.none() | st.text(max_size=20),
    port=st.none() | st.integers(),
)
def test_whatever_it_holds_it_is_read_or_refused(extra, host, port):
    """No other error than the one that names a field, whatever is written into a connection."""
    try:
        parsed(extra, host=host, port=port)
    except InvalidConnection as error:
        assert str(error).startswith("connection 'c': ")  # noqa: PT017


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("qcache://host1,host2:9401", ("http://host1:9401", "http://host2:9401")),
        ("qcache://Host1:9401", ("http://host1:9401",)),
        ("qcache://http://host1:9401", ("http://host1:9401",)),
        ("qcache://https://host1:9401", ("https://host1:9401",)),
        ("qcache://host1/https", ("https://host1:8888",)),
        ("qcache://[::1]:9401", ("http://[::1]:9401",)),
        ("qcache://host1%3A1%2Chost2%3A2", ("http://host1:1", "http://host2:2")),
        ("qcache://?nodes=http%3A%2F%2FHost1%3A9401", ("http://Host1:9401",)),
        (
            "qcache://?nodes=%5B%22http%3A%2F%2FHost1%3A1%22%2C%22host2%22%5D",
            ("http://Host1:1", "http://host2:8888"),
        ),
        ("qcache://?__extra__=%7B%22nodes%22%3A%5B%22http%3A%2F%2Fhost1%22%5D%7D", ("http://host1",)),
    ],
)
def test_uris_as_people_write_them(uri, expected):
    """The page about the connection shows some of these; that Airflow lowercases a host is seen here."""
    for read in CLASSES:
        assert parse_connection(read(conn_id="c", uri=uri)).nodes == expected


def test_every_extra_of_a_uri_is_a_string():
    uri = "qcache://host1?read_timeout=2.5&wait_for_nodes=y&confirm_miss=false&max_response_bytes=1000&deadline="
    for read in CLASSES:
        settings_ = parse_connection(read(conn_id="c", uri=uri))
        assert (settings_.read_timeout, settings_.wait_for_nodes, settings_.confirm_miss) == (
            2.5,
            True,
            False,
        )
        assert (settings_.max_response_bytes, settings_.deadline) == (1000, 600)


@pytest.mark.parametrize("kind", ["http", "generic", "postgres"])
def test_a_connection_of_another_type_is_refused_by_name(kind):
    """QCache's default port is no guess for it."""
    other = connection(host="host1")
    other.conn_type = kind
    with pytest.raises(InvalidConnection, match=f"'{kind}'.*'qcache' is required"):
        parse_connection(other)
