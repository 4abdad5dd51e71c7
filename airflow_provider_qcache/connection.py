"""Parse an Airflow connection into the arguments of a client, without network or Airflow.

It accepts values as Airflow's forms, URIs, JSON and command line write them. A URI and the form of 2.11 make
every value a string, and that form's test sends extras under a second, longer name. The form of 3.x stores
null for unset fields, and may end a list in an empty string.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import ipaddress
import json
import os
import re
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from airflow_provider_qcache.connection_fields import CONN_TYPE, EXTRA, MAX_HOST, STANDARD, Field
from airflow_provider_qcache.node_identity import identity
from airflow_provider_qcache.plain import literal

if TYPE_CHECKING:
    from airflow_provider_qcache.client import RequestRetry

_FIELDS: Final = {field.name: field for field in (*STANDARD, *EXTRA)}
_EXTRA_NAMES: Final = tuple(field.name for field in EXTRA)
_STANDARD_NAMES: Final = tuple(field.name for field in STANDARD)
_PREFIX: Final = f"extra__{CONN_TYPE}__"
"""The prefix of extra fields in the form of Airflow 2.11."""

_FLAGS: Final = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0"), False),
}
_NUMBER: Final = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_SEPARATORS: Final = re.compile(r"[,\s]+")
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
_LONGEST_NUMBER: Final = 40
_SCHEMES: Final = ("http", "https")
_PASSED_ON: Final = (
    "connect_timeout",
    "read_timeout",
    "store_timeout",
    "deadline",
    "max_response_bytes",
    "trust_env",
    "confirm_miss",
    "refused_means_gone",
)
"""Fields that are arguments of a QClient, by the same names."""


class InvalidConnection(ValueError):
    """A connection is invalid. The message has the field, the value and what is allowed."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSettings:
    """The checked fields of a connection. The repr has no credentials."""

    conn_id: str
    nodes: tuple[str, ...]
    auth: tuple[str, str] | None = dataclasses.field(default=None, repr=False)
    connect_timeout: float
    read_timeout: float
    store_timeout: float | None
    deadline: float
    consecutive_error_count_limit: int
    retry_wait_initial: float
    retry_wait_max: float
    wait_for_nodes: bool
    confirm_miss: bool
    refused_means_gone: bool
    verify: bool
    ca_file: str | None
    cert_file: str | None
    key_file: str | None
    trust_env: bool
    allow_auth_over_http: bool
    max_response_bytes: int

    def _check_netrc(self) -> None:
        """Refuse credentials from the environment's netrc if those of a connection would be refused."""
        from requests.utils import get_netrc_auth  # noqa: PLC0415  # heavy

        if self.auth is not None or self.allow_auth_over_http or not self.trust_env:
            return
        for node in self.nodes:
            if urlsplit(node).scheme == "http" and get_netrc_auth(node) is not None:
                raise InvalidConnection(
                    f"connection {self.conn_id!r}: the environment's netrc has credentials for {node}, which "
                    "would go unencrypted: use https, or set trust_env to false or allow_auth_over_http to "
                    "true"
                )

    def client_arguments(
        self, request_retry: RequestRetry | Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The keyword arguments of a QClient.

        Args:
            request_retry: None for the connection's settings, a RequestRetry that replaces them, or a mapping
                of RequestRetry's fields, each of which replaces the connection's. Its limit of failed
                requests, unless it is None, replaces the connection's.

        Raises:
            ValueError: request_retry has an unknown field or an invalid value, which the message has.
            InvalidConnection: the environment's netrc has credentials that would go unencrypted.
        """
        from airflow_provider_qcache.client import RequestRetry  # noqa: PLC0415  # it loads requests

        check_request_retry(request_retry)
        self._check_netrc()
        policy = RequestRetry(
            wait_initial=self.retry_wait_initial,
            wait_max=self.retry_wait_max,
            wait_for_nodes=self.wait_for_nodes,
        )
        if isinstance(request_retry, RequestRetry):
            policy = request_retry
        elif request_retry is not None:
            policy = dataclasses.replace(policy, **request_retry)
        # os.path: a Path would change their spelling.
        files = (self.ca_file, self.cert_file, self.key_file)
        ca_file, cert_file, key_file = (path and os.path.expanduser(path) for path in files)  # noqa: PTH111
        limit = policy.consecutive_error_count_limit or self.consecutive_error_count_limit
        return {
            "node_list": list(self.nodes),
            "verify": ca_file or self.verify,
            "cert": (cert_file, key_file) if key_file else cert_file,
            # As bytes: requests would send text as latin-1, and a node's options are UTF-8.
            "auth": self.auth and tuple(part.encode() for part in self.auth),
            "consecutive_error_count_limit": limit,
            "request_retry": policy,
            **{name: getattr(self, name) for name in _PASSED_ON},
        }


def check_request_retry(request_retry: Any) -> None:
    """Raise ValueError unless it is None, a RequestRetry, or a mapping of its fields with valid values."""
    from airflow_provider_qcache.client import RequestRetry  # noqa: PLC0415  # it loads requests

    if request_retry is None or isinstance(request_retry, RequestRetry):
        return
    if not isinstance(request_retry, Mapping):
        raise ValueError(f"request_retry={request_retry!r}: expected a RequestRetry or a dict of its fields")  # noqa: TRY004
    known = tuple(field.name for field in dataclasses.fields(RequestRetry))
    for name in request_retry:
        if name not in known:
            raise ValueError(f"request_retry has no field {name!r}{_near(str(name), known)}")
    RequestRetry(**request_retry)


def parse_connection(connection: Any) -> ConnectionSettings:
    """Read an Airflow Connection. Raises InvalidConnection, with the field, its value and what is allowed."""
    try:
        return _parse(connection)
    except InvalidConnection as error:
        raise InvalidConnection(f"connection {connection.conn_id!r}: {error}") from None


def settings_for(
    nodes: Iterable[str], *, login: str | None = None, password: str | None = None, **extra: Any
) -> ConnectionSettings:
    """The settings of a connection to these nodes, URLs or names, without Airflow.

    ``extra`` has the connection's extra fields by name.

    Raises:
        InvalidConnection: with the field, its value and what is allowed.
    """
    fields = {"login": login, "password": password, "extra": {"nodes": list(nodes), **extra}}
    unset = dict.fromkeys(("conn_type", "host", "schema", "port"))
    return _parse(SimpleNamespace(conn_id="", **fields, **unset))


def _parse(connection: Any) -> ConnectionSettings:
    if connection.conn_type not in (None, "", CONN_TYPE):
        raise InvalidConnection(
            f"its type is {connection.conn_type!r}, and type {CONN_TYPE!r} is required: change the type, or "
            "use another connection in qcache_conn_id"
        )
    extra = _extra_of(connection.extra)
    values = {field.name: _value(field, extra.get(field.name)) for field in EXTRA}
    nodes = _nodes(connection, values.pop("nodes"))
    auth = _auth(connection, nodes, allowed_over_http=values["allow_auth_over_http"])
    if values["ca_file"] is not None and not values["verify"]:
        raise InvalidConnection("ca_file is set and verify is false: clear ca_file or set verify to true")
    if values["key_file"] is not None and values["cert_file"] is None:
        raise InvalidConnection("key_file is set and cert_file is not: set cert_file too")
    return ConnectionSettings(conn_id=str(connection.conn_id), nodes=nodes, auth=auth, **values)


def check_value(field: Field, value: Any) -> None:
    """Check one value by itself, as a form does. Raises InvalidConnection."""
    read = _value(field, value)
    if field.kind == "nodes" and read is not None:
        for text in _items(field.name, read):
            _node(field.name, text, None, None)


# The extra.


def _extra_of(text: Any) -> dict[str, Any]:
    """The extra's values by the plain names of their fields."""
    if text is None or text == "":
        return {}
    try:
        fields = json.loads(text) if isinstance(text, str | bytes) else text
    except ValueError:
        raise InvalidConnection("extra is not JSON; expected a JSON object of its fields") from None
    if not isinstance(fields, dict):
        raise InvalidConnection(
            f"extra is a JSON {type(fields).__name__}; expected a JSON object of its fields"
        )
    extra: dict[str, Any] = {}
    for name, value in fields.items():
        plain = name.removeprefix(_PREFIX)
        if plain not in _EXTRA_NAMES:
            if plain in _STANDARD_NAMES:
                raise InvalidConnection(f"extra has a field {name!r}: set it in the connection itself")
            raise InvalidConnection(f"extra has an unknown field {name!r}{_near(plain, _EXTRA_NAMES)}")
        if _is_unset(value):
            continue
        if plain in extra and extra[plain] != value:
            raise InvalidConnection(
                f"extra has {plain} and {_PREFIX}{plain} with different values; remove one of them"
            )
        extra[plain] = value
    return extra


def _near(name: str, known: tuple[str, ...]) -> str:
    matches = difflib.get_close_matches(name, known, n=3)
    if matches:
        return f"; did you mean {' or '.join(matches)}?"
    return f"; its fields are {', '.join(known)}"


def _is_unset(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _value(field: Field, value: Any) -> Any:
    """A field's value, from any of its spellings; its default if it is unset."""
    if _is_unset(value):
        return field.default
    if field.kind == "nodes":
        return value
    if field.kind == "flag":
        return _flag(field, value)
    if field.kind in ("seconds", "count"):
        return _number(field, value)
    if not isinstance(value, str):
        raise _bad(field, value)
    return value.strip()


def _bad(field: Field, value: Any) -> InvalidConnection:
    text = repr(value)
    # It may be a URL with credentials in the wrong field.
    text = "***" if "@" in text else f"{text[:100]}{'…' if len(text) > 100 else ''}"
    return InvalidConnection(f"{field.name}={text}: expected {field.allowed}")


def _flag(field: Field, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | str):
        known = _FLAGS.get(str(value).strip().lower())
        if known is not None:
            return known
    raise _bad(field, value)


def _number(field: Field, value: Any) -> float | int:
    number = value
    if isinstance(value, str):
        text = value.strip()
        if not _NUMBER.fullmatch(text) or len(text) > _LONGEST_NUMBER:
            raise _bad(field, value)
        number = int(text) if text.lstrip("+-").isdecimal() else float(text)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise _bad(field, value)
    # Not-a-number fails the comparison.
    if field.minimum is None or field.maximum is None or not field.minimum <= number <= field.maximum:
        raise _bad(field, value)
    if field.kind == "seconds":
        return float(number)
    if number != int(number):
        raise _bad(field, value)
    return int(number)


# Nodes.


def _nodes(connection: Any, listed: Any) -> tuple[str, ...]:
    host = connection.host
    in_host = not _is_unset(host)
    texts = _items("nodes", listed) if listed is not None else []
    if texts and in_host:
        raise InvalidConnection("both host and the extra field nodes have nodes; clear host")
    if not texts and not in_host:
        raise InvalidConnection(
            "there are no nodes: list them in the extra field nodes, or in host: http://host1:9401 or host1"
        )
    schema = None if _is_unset(connection.schema) else connection.schema
    if schema not in (None, *_SCHEMES):
        raise _bad(_FIELDS["schema"], schema)
    port = None if _is_unset(connection.port) else int(_number(_FIELDS["port"], connection.port))
    if in_host:
        if not isinstance(host, str):
            raise _bad(_FIELDS["host"], host)
        if len(host) > MAX_HOST:
            raise InvalidConnection(
                f"host has {len(host)} characters, and {MAX_HOST} are allowed, since Airflow keeps 500 and "
                "may cut off the rest: move the nodes to the extra field nodes"
            )
        texts = _items("host", host)
        if not texts:
            raise _bad(_FIELDS["host"], host)
    place = "host" if in_host else "nodes"
    nodes: dict[tuple[str, str, int | None, str], str] = {}
    for text in texts:
        node = _node(place, text, schema, port)
        known = nodes.setdefault(identity(node), node)
        if known is not node:
            what = f"{node!r} twice" if known == node else f"one node twice, as {known!r} and {node!r}"
            raise InvalidConnection(f"{place} lists {what}; list each node once")
    return tuple(nodes.values())


def _items(place: str, value: Any) -> list[str]:
    """The nodes in a list, or in a text that is a list in JSON or Python, or that separates them."""
    if isinstance(value, str):
        _refuse_credentials(place, value)
        text, value = value, [value]
        if text.strip().startswith("["):
            # The form of 2.11 shows a list as Python spells it, and saves what it shows.
            with contextlib.suppress(ValueError):
                value = literal(text)
    if not isinstance(value, list | tuple):
        raise _bad(_FIELDS[place], value)
    items: list[str] = []
    for item in value:
        if item is not None and not isinstance(item, str):
            raise _bad(_FIELDS[place], item)
        _refuse_credentials(place, item or "")
        items += [part for part in _SEPARATORS.split(item or "") if part]
    return items


def _refuse_credentials(place: str, text: str) -> None:
    # No part of the text is shown, since a password may end anywhere.
    if "@" in text or "%40" in text:
        raise InvalidConnection(
            f"{place} contains an '@', as a URL with credentials does: move them to login and password"
        )


def _node(place: str, text: str, schema: str | None, port: int | None) -> str:
    """A node's URL: as it is spelled, or made of a name, the scheme and the port."""
    try:
        if "://" in text:
            return _url(text, schema, port if place == "host" else None)
        name, own_port = _name_and_port(text)
    except ValueError as error:
        raise InvalidConnection(f"{place} lists {text!r}: {error}") from None
    node_port = own_port or port or _FIELDS["port"].default
    return f"{schema or _FIELDS['schema'].default}://{name}:{node_port}"


def _name_and_port(text: str) -> tuple[str, int | None]:
    literal, bracket, rest = text[1:].partition("]") if text.startswith("[") else (text, "]", "")
    if text.count(":") > 1 or text.startswith("["):
        if not _is_ipv6(literal):
            raise ValueError("it is not an IPv6 address without a zone, such as ::1 or [::1]:9401")
        if not bracket:
            raise ValueError("its ']' is missing")
        return f"[{literal}]", _own_port(rest)
    name, colon, rest = text.partition(":")
    if not _NAME.fullmatch(name):
        raise ValueError("expected a name of letters, digits, '.', '-' and '_', or a URL")
    return name, _own_port(colon + rest)


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.IPv6Address(text).scope_id is None
    except ValueError:
        return False


def _own_port(text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r":[0-9]{1,5}", text) or not 1 <= int(text[1:]) <= 65_535:
        raise ValueError("its port is not an integer, 1 to 65535")
    return int(text[1:])


def _url(text: str, schema: str | None, port: int | None) -> str:
    """The URL; ``port`` is that of the connection if the node is listed in host."""
    invalid = "its host or its port, 1 to 65535, is not valid"
    try:
        parts = urlsplit(text)
        own_port, hostname = parts.port, parts.hostname
    except ValueError:
        raise ValueError(invalid) from None
    if parts.scheme not in _SCHEMES:
        raise ValueError("its scheme is neither http nor https")
    if "?" in text or "#" in text:
        raise ValueError("it has a query or a fragment: remove it")
    if not hostname or own_port == 0 or parts.netloc.endswith(":"):
        raise ValueError(invalid)
    if not (_is_ipv6(hostname) if "[" in parts.netloc else _NAME.fullmatch(hostname)):
        raise ValueError("its host is neither a name (letters, digits, '.', '-', '_') nor an address")
    if not text.isascii() or not text.isprintable() or "\\" in text:
        raise ValueError("it has a character that a URL cannot have")
    if "qcache" in parts.path.split("/"):
        raise ValueError("a node's URL ends before /qcache: remove /qcache and the rest")
    if schema is not None and schema != parts.scheme:
        raise ValueError(
            f"schema is {schema!r}: clear schema, which is for names without a scheme, or correct it"
        )
    if port is None or own_port is not None:
        return text
    # Airflow splits the URI qcache://http://host1:9401 into the host http://host1 and the port 9401.
    if parts.path:
        raise ValueError(
            f"it has a path and no port, while port is {port}: add the port to the URL, or move the URL to "
            "the extra field nodes, which keeps it as it is"
        )
    return f"{text}:{port}"


# Credentials.


def _auth(connection: Any, nodes: tuple[str, ...], *, allowed_over_http: bool) -> tuple[str, str] | None:
    login, password = connection.login or None, connection.password or None
    if login is None and password is None:
        return None
    if login is None or password is None:
        missing, present = ("login", "password") if login is None else ("password", "login")
        raise InvalidConnection(f"{present} is set and {missing} is not; basic auth needs both")
    for name, value in (("login", login), ("password", password)):
        if not isinstance(value, str) or ":" in value:
            raise InvalidConnection(
                f"{name} (not shown) contains a ':', and a node closes such a connection; expected text "
                "without ':'"
            )
    plain = [node for node in nodes if urlsplit(node).scheme == "http"]
    if plain and not allowed_over_http:
        raise InvalidConnection(
            f"login and password would go to {plain[0]} unencrypted: use https, in the node's URL or as "
            "schema, or set allow_auth_over_http to true"
        )
    return login, password
