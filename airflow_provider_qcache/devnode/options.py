"""What a node is told when it starts: checked once, and light enough to import anywhere."""

import dataclasses
from pathlib import Path

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - named to be translated, not bound  # nosec B104


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeOptions:
    """The options of one node, by the names of the real server's and with its defaults.

    Raises:
        ValueError: For a value that is not allowed. The message names the field, the value and what is
            allowed; it never shows ``basic_auth``.
    """

    host: str = "127.0.0.1"
    """Address or name to listen on. The real server has no such option: it listens on every interface."""
    port: int = 8888
    """TCP port; 0 means any free one."""
    size: int = 1_000_000_000
    """How much the cache may hold, in bytes. A longer request body is refused."""
    age: int = 0
    """Seconds after its store at which a table is forgotten; 0 keeps it for ever."""
    statistics_buffer_size: int = 1000
    """How many entries each list of the statistics holds."""
    cert_file: Path | None = None
    """PEM file with the private key and the certificate. With it the node speaks TLS."""
    ca_file: Path | None = None
    """PEM file of a CA. With it a client must present a certificate that this CA signed."""
    basic_auth: str | None = dataclasses.field(default=None, repr=False)
    """``user:password`` that every request must carry. As on the real server, only over TLS."""

    def __post_init__(self) -> None:
        if not self.host:
            raise ValueError(f"host: {self.host!r} is not allowed; a name or an address is")
        self._check_integer("port", "a TCP port, or 0 for any free one", 0, 65535)
        self._check_integer("size", "a number of bytes", 1)
        self._check_integer("age", "a number of seconds, or 0 for ever", 0)
        self._check_integer("statistics_buffer_size", "a number of entries", 1)
        self._check_file("cert_file", "a PEM file with the private key and the certificate")
        self._check_file("ca_file", "a PEM file with a CA's certificate")
        if self.ca_file is not None and self.cert_file is None:
            raise ValueError(f"ca_file: {str(self.ca_file)!r} is allowed only together with cert_file")
        if self.basic_auth is not None:
            if self.basic_auth.count(":") != 1:
                raise ValueError("basic_auth: the value is not allowed; user:password with a single ':' is")
            if self.cert_file is None:
                raise ValueError("basic_auth: it is allowed only over TLS, together with cert_file")

    def _check_integer(self, field: str, meaning: str, least: int, most: int | None = None) -> None:
        value = getattr(self, field)
        if type(value) is not int or value < least or (most is not None and value > most):
            allowed = f"{least} or more" if most is None else f"from {least} to {most}"
            raise ValueError(f"{field}: {value!r} is not allowed; an integer {allowed} is: {meaning}")

    def _check_file(self, field: str, meaning: str) -> None:
        value = getattr(self, field)
        if value is not None and not (isinstance(value, Path) and value.is_file()):
            shown = str(value) if isinstance(value, Path) else value
            raise ValueError(f"{field}: {shown!r} is not allowed; the path of {meaning} is")

    @property
    def url(self) -> str:
        """Where a client on this machine reaches the node, without a trailing slash.

        A node that listens on every interface (``0.0.0.0``, ``::``) is reached on loopback.
        """
        host = _WILDCARDS.get(self.host, self.host)
        scheme = "http" if self.cert_file is None else "https"
        return f"{scheme}://[{host}]:{self.port}" if ":" in host else f"{scheme}://{host}:{self.port}"

    def arguments(self) -> list[str]:
        """The command line that gives ``python -m airflow_provider_qcache.devnode`` these options.

        Whoever uses it writes ``basic_auth`` and a line feed to the command's stdin: other users of the
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
