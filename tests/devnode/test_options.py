"""NodeOptions refuses invalid values when it is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_qcache.devnode import NodeOptions

PEM = Path(__file__)
"""A file that exists. The options do not read it; the node does."""


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"host": ""}, "host: '' is not allowed: expected a name or an address"),
        ({"port": -1}, "port: -1 is not allowed: expected an integer from 0 to 65535"),
        ({"port": 65536}, "port: 65536 is not allowed: expected an integer from 0 to 65535"),
        ({"port": "8888"}, "port: '8888' is not allowed"),
        ({"port": True}, "port: True is not allowed"),
        ({"size": 0}, "size: 0 is not allowed: expected an integer 1 or more, a number of bytes"),
        ({"age": -1}, "age: -1 is not allowed: expected an integer 0 or more, a number of seconds"),
        ({"age": 0.5}, "age: 0.5 is not allowed"),
        (
            {"statistics_buffer_size": 0},
            "statistics_buffer_size: 0 is not allowed: expected an integer 1 or more",
        ),
        (
            {"cert_file": Path("/no/such")},
            "cert_file: '/no/such' is not allowed: expected the path of a PEM file",
        ),
        ({"cert_file": PEM.parent}, "cert_file: .* is not allowed: expected the path of a PEM file"),
        ({"ca_file": Path("/no/such"), "cert_file": PEM}, "ca_file: '/no/such' is not allowed"),
        ({"ca_file": PEM}, "ca_file: .* requires cert_file"),
        ({"basic_auth": "user:pass"}, "basic_auth: it requires TLS: set cert_file as well"),
    ],
)
def test_an_error_names_the_field_the_value_and_what_is_allowed(
    values: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        NodeOptions(**values)


@pytest.mark.parametrize("secret", ["s3cret", "", "user:s3:cret"])
def test_the_error_of_a_malformed_basic_auth_does_not_show_it(secret: str) -> None:
    with pytest.raises(
        ValueError, match=r"^basic_auth: the value is not allowed: expected user:password"
    ) as caught:
        NodeOptions(cert_file=PEM, basic_auth=secret)
    assert "s3" not in str(caught.value)


def test_the_password_is_not_in_the_repr_or_the_command_line() -> None:
    options = NodeOptions(cert_file=PEM, basic_auth="user:s3cret")
    assert "s3cret" not in repr(options)
    assert "s3cret" not in " ".join(options.arguments())


@pytest.mark.parametrize(
    ("options", "url"),
    [
        (NodeOptions(), "http://127.0.0.1:8888"),
        (NodeOptions(host="localhost", port=1), "http://localhost:1"),
        (NodeOptions(cert_file=PEM), "https://127.0.0.1:8888"),
        (NodeOptions(host="0.0.0.0"), "http://127.0.0.1:8888"),
        (NodeOptions(host="::1"), "http://[::1]:8888"),
        (NodeOptions(host="::"), "http://[::1]:8888"),
    ],
)
def test_the_url_reaches_the_node_from_this_machine(options: NodeOptions, url: str) -> None:
    assert options.url == url
