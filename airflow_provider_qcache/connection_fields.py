"""The fields of a connection of type ``qcache``, for both forms, the parsing and the docs.

Every process that imports ``airflow.sdk`` imports this module, by provider_info. So it imports nothing, and a
field is a plain class.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

CONN_TYPE: Final = "qcache"
HOOK_NAME: Final = "QCache"
HOOK_CLASS: Final = "airflow_provider_qcache.hooks.qcache.QCacheHook"

MAX_HOST: Final = 480
"""The most characters of host. Airflow's column holds 500 (``airflow.models.connection``): some databases cut
a longer list there without an error, so that it ends in half a node.
"""


class Field:
    """One field of the connection.

    ``name`` is its name in the connection or in its extra, ``label`` its name in a form. ``kind`` is one of
    'nodes', 'seconds' (a float), 'count' (an integer), 'flag' (a boolean), 'path', 'text' and 'secret'.
    ``allowed`` describes its values. ``default`` is the value of an unset field, and ``default_text``
    describes it if the value alone does not. ``minimum`` and ``maximum`` bound numbers, both inclusive, in
    ``unit``.
    """

    def __init__(
        self,
        name: str,
        label: str,
        kind: str,
        about: str,
        *,
        allowed: str,
        default: Any = None,
        default_text: str = "",
        unit: str = "",
        minimum: float | None = None,
        maximum: float | None = None,
        example: str = "",
    ) -> None:
        self.name = name
        self.label = label
        self.kind = kind
        self.about = about
        self.default = default
        self.default_text = default_text or str(default).lower()
        self.unit = unit
        self.minimum = minimum
        self.maximum = maximum
        self.allowed = allowed
        # In words, so that nobody mistakes it for a value.
        self.placeholder = f"for example {example}" if example else f"default: {self.default_text}"

    @property
    def description(self) -> str:
        """The text beside the field in a form: its purpose, default, unit and bounds."""
        unit = f" {self.unit}" if self.unit and self.default is not None else ""
        return f"{self.about} Default: {self.default_text}{unit}. Allowed: {self.allowed}."

    @property
    def json_schema(self) -> dict[str, Any]:
        """The field in Airflow 3's form. Every type takes null, or the form could not be saved."""
        types = {"nodes": "array", "seconds": "number", "count": "integer", "flag": "boolean"}
        schema: dict[str, Any] = {"type": [types.get(self.kind, "string"), "null"]}
        if self.kind == "nodes":
            schema["items"] = {"type": "string"}
        limits = {"default": self.default, "minimum": self.minimum, "maximum": self.maximum}
        return schema | {name: value for name, value in limits.items() if value is not None}

    def __repr__(self) -> str:
        return f"Field({self.name!r}, {self.kind!r})"


def _flag(name: str, label: str, about: str, *, default: bool) -> Field:
    return Field(name, label, "flag", about, allowed="true or false", default=default)


def _count(name: str, label: str, about: str, *, default: int, maximum: int, unit: str = "") -> Field:
    allowed = f"an integer, 1 to {maximum}"
    return Field(
        name, label, "count", about, allowed=allowed, default=default, unit=unit, minimum=1, maximum=maximum
    )


def _seconds(
    name: str, label: str, about: str, *, minimum: float = 0.001, maximum: float = 3600, **more: Any
) -> Field:
    allowed = f"a number of seconds, {minimum:g} to {maximum}"
    more |= {"unit": "seconds", "minimum": minimum, "maximum": maximum}
    return Field(name, label, "seconds", about, allowed=allowed, **more)


_NODES = "node URLs such as http://host1:9401, or names such as host1, each once"
_PATH = "the path of a PEM file that every worker can read"
_DAY = 86_400

STANDARD: Final = (
    Field(
        "host",
        "Nodes",
        "nodes",
        "The nodes, separated by commas, spaces or lines, spelled to the letter as every reader spells them. "
        "A longer list belongs into the extra field nodes.",
        allowed=f"{_NODES}; {MAX_HOST} characters at most",
        example="http://host1:9401, http://host2:9401",
    ),
    Field(
        "schema",
        "Scheme of names",
        "text",
        "The scheme of nodes given by name.",
        default="http",
        allowed="http or https",
    ),
    _count(
        "port",
        "Port of names",
        "The port of nodes given by name without one; 8888 is QCache's own default.",
        default=8888,
        maximum=65_535,
    ),
    Field(
        "login",
        "Login",
        "text",
        "The user of basic auth.",
        allowed="text without ':'; with a password, and with https unless allow_auth_over_http",
    ),
    Field(
        "password",
        "Password",
        "secret",
        "The password of basic auth.",
        allowed="text without ':'; with a login",
    ),
)
"""Airflow's own fields, as this type of connection uses them."""

EXTRA: Final = (
    Field(
        "nodes",
        "Nodes (long list)",
        "nodes",
        "In place of the first field, for more nodes than it holds: the nodes, one to a line or separated "
        "by commas or spaces, spelled to the letter as every reader spells them: the spelling decides which "
        "node holds a key.",
        default_text="the nodes in the first field (host)",
        allowed=_NODES,
        example="http://host1:9401, http://host2:9401",
    ),
    _seconds(
        "connect_timeout",
        "Connect timeout (s)",
        "Seconds for a connection to a node, TLS included.",
        default=1.0,
    ),
    _seconds(
        "read_timeout",
        "Read timeout (s)",
        "Seconds a node may be silent before its answer and within it. A node is silent while it parses.",
        default=30.0,
        maximum=_DAY,
    ),
    _seconds(
        "store_timeout",
        "Store timeout (s)",
        "Seconds a node may take to receive and parse a table.",
        default_text="10 times the read timeout, or the table's size at 5 MB/s where that is more",
        maximum=_DAY,
    ),
    _seconds(
        "deadline",
        "Deadline (s)",
        "Seconds one operation may take in all, with every retry and failover.",
        default=600.0,
        maximum=_DAY,
    ),
    _count(
        "consecutive_error_count_limit",
        "Failed requests allowed",
        "Failed requests that end an operation.",
        default=10,
        unit="requests",
        maximum=1000,
    ),
    _seconds(
        "retry_wait_initial",
        "First wait (s)",
        "Seconds: the longest first wait before the same node is asked again; it doubles each time.",
        default=0.1,
        minimum=0,
    ),
    _seconds(
        "retry_wait_max",
        "Longest wait (s)",
        "Seconds: the longest wait before the same node is asked again.",
        default=5.0,
        minimum=0,
    ),
    _flag(
        "wait_for_nodes",
        "Wait for nodes",
        "Where no node answers, wait for one until the deadline instead of failing at once.",
        default=True,
    ),
    _flag(
        "confirm_miss",
        "Confirm a miss",
        "Fail, for a retry, instead of reporting a miss when a silent node may hold the table.",
        default=True,
    ),
    _flag(
        "refused_means_gone",
        "Refused means gone",
        "A node that refuses the connection has lost its tables. Set false behind a Kubernetes service, "
        "another TCP forwarder or a firewall that rejects: they refuse for a node that runs.",
        default=True,
    ),
    _flag("verify", "Verify certificates", "Check the nodes' certificates and names (https).", default=True),
    Field(
        "ca_file",
        "CA file",
        "path",
        "The CA certificates that nodes' certificates are checked with (https).",
        default_text="the environment's CA bundle, else that of requests",
        allowed=f"{_PATH}; not with verify false",
    ),
    Field(
        "cert_file",
        "Client certificate file",
        "path",
        "The client's certificate, for nodes that ask for one (https), with its key unless key_file has it.",
        allowed=_PATH,
    ),
    Field(
        "key_file",
        "Client key file",
        "path",
        "The key of the client's certificate, without a passphrase.",
        default_text="the certificate file",
        allowed=f"{_PATH}; with cert_file",
    ),
    _flag(
        "trust_env",
        "Use environment settings",
        "Take proxies, the CA bundle and netrc from the environment.",
        default=True,
    ),
    _flag(
        "allow_auth_over_http",
        "Allow basic auth over http",
        "Send login and password unencrypted to nodes on http.",
        default=False,
    ),
    _count(
        "max_response_bytes",
        "Largest answer (bytes)",
        "Bytes of the largest answer that is read, decompressed.",
        default=2**30,
        unit="bytes",
        maximum=2**40,
    ),
)
"""The fields in the connection's extra."""


def ui_field_behaviour() -> dict[str, Any]:
    """Labels and placeholders of Airflow's own fields.

    No field is hidden: the Test button of Airflow 3.3.2 fails on a connection without a port.
    """
    return {
        "relabeling": {field.name: field.label for field in STANDARD},
        "placeholders": {field.name: field.placeholder for field in (*STANDARD, *EXTRA)},
    }


def connection_type() -> dict[str, Any]:
    """The entry of ``connection-types`` in provider_info: the form of Airflow 3.2 and later."""
    return {
        "connection-type": CONN_TYPE,
        "hook-class-name": HOOK_CLASS,
        "hook-name": HOOK_NAME,
        "ui-field-behaviour": {"hidden-fields": [], **ui_field_behaviour()},
        "conn-fields": {
            field.name: {"label": field.label, "description": field.description, "schema": field.json_schema}
            for field in EXTRA
        },
    }
