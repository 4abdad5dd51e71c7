"""The options of a node, checked when they are created. This module imports no other library."""

import dataclasses
from pathlib import Path

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - named to be translated, not bound  # nosec B104


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeOptions:
    """The options of one node, with the names and defaults of the real server's.

    Raises:
        ValueError: For a value that is not allowed. The message names the field, the value and what is
            allowed, but never ``basic_auth``.
    """

    host: str = "127.0.0.1"
    """Address or name to listen on. The real server has no such option: it listens on every interface."""
    port: int = 8888
    """TCP port; 0 means any free one."""
    size: int = 1_000_000_000
    """Bytes of the cache. The node refuses a longer request body."""
    age: int = 0
    """Seconds after a store after which the table expires; 0 for never."""
    statistics_buffer_size: int = 1000
    """The number of entries in each list of the statistics."""
    cert_file: Path | None = None
    """PEM file with the private key and the certificate. If set, the node uses TLS."""
    ca_file: Path | None = None
    """PEM file of a CA. If set, clients must have a certificate of this CA."""
    basic_auth: str | None = dataclasses.field(default=None, repr=False)
    """``user:password`` that every request must have. As on the real server, only over TLS."""

    def __post_init__(self) -> None:
        if not self.host:
            raise ValueError(f"host: {self.host!r} is not allowed: expected a name or an address")
        self._check_integer("port", "a TCP port, or 0 for any free one", 0, 65535)
        self._check_integer("size", "a number of bytes", 1)
        self._check_integer("age", "a number of seconds, or 0 for ever", 0)
        self._check_integer("statistics_buffer_size", "a number of entries", 1)
        self._check_file("cert_file", "a PEM file with the private key and the certificate")
        self._check_file("ca_file", "a PEM file with a CA's certificate")
        if self.ca_file is not None and self.cert_file is None:
            raise ValueError(f"ca_file: {str(self.ca_file)!r} requires cert_file: set both")
        if self.basic_auth is not None:
            if self.basic_auth.count(":") != 1:
                raise ValueError("basic_auth: the value is not allowed: expected user:password, with one ':'")
            if self.cert_file is None:
                raise ValueError("basic_auth: it requires TLS: set cert_file as well")

    def _check_integer(self, field: str, meaning: str, least: int, most: int | None = None) -> None:
        value = getattr(self, field)
        if type(value) is not int or value < least or (most is not None and value > most):
            allowed = f"{least} or more" if most is None else f"from {least} to {most}"
            raise ValueError(f"{field}: {value!r} is not allowed: expected an integer {allowed}, {meaning}")

    def _check_file(self, field: str, meaning: str) -> None:
        value = getattr(self, field)
        if value is not None and not (isinstance(value, Path) and value.is_file()):
            path = str(value) if isinstance(value, Path) else value
            raise ValueError(f"{field}: {path!r} is not allowed: expected the path of {meaning}")

    @property
    def url(self) -> str:
        """The node's URL for clients on this machine, without a trailing slash.

        If the node listens on every interface (``0.0.0.0``, ``::``), it is that of loopback.
        """
        host = _WILDCARDS.get(self.host, self.host)
        scheme = "http" if self.cert_file is None else "https"
        return f"{scheme}://[{host}]:{self.port}" if ":" in host else f"{scheme}://{host}:{self.port}"

    def arguments(self) -> list[str]:
        """The arguments of ``python -m airflow_provider_qcache.devnode`` for these options.

        The caller writes ``basic_auth`` and a line feed to the command's stdin, since other users of the
        machine can read a command line.
        """
        arguments = [
            f"--host={self.host}",
            f"--port={self.port}",
            f"--size={self.size}",
            f"--age={self.age}",
            f"--statistics-buffer-size={self.statistics_buffer_size}",
        ]
        if self.cert_file is not None:
            arguments.append(f"--cert-file={self.cert_file}")
        if self.ca_file is not None:
            arguments.append(f"--ca-file={self.ca_file}")
        if self.basic_auth is not None:
            arguments.append("--basic-auth=-")
        return arguments
