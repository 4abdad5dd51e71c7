"""The TLS context of a client's nodes: the one place that reads files of certificates and keys."""

from __future__ import annotations

import contextlib
import os
import ssl
import stat
from typing import TYPE_CHECKING, Final

import requests.utils
from urllib3.util.ssl_ import create_urllib3_context

from airflow_provider_qcache.client.errors import LOCAL_ERRORS

if TYPE_CHECKING:
    from collections.abc import Iterator

_LARGEST_FILE: Final = 10 * 1024 * 1024


class CertificateFileError(ValueError):
    """A file of certificates or keys cannot be used. The text names argument and field, path and reason."""


def tls_context(verify: bool | str, cert: str | tuple[str, str] | None) -> ssl.SSLContext:  # noqa: FBT001
    """A context for a client's ``verify`` and ``cert``; each file is read once.

    Raises CertificateFileError if a file cannot be used, OSError if this machine lacks a resource.
    """
    context = create_urllib3_context()
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        bundle = requests.utils.DEFAULT_CA_BUNDLE_PATH if verify is True else verify
        path = os.path.expanduser(bundle)  # noqa: PTH111  # as requests reads it
        with _named(f"verify (ca_file)={verify!r}", "cannot read CA certificates there"):
            if os.path.isdir(path):  # noqa: PTH112
                context.load_verify_locations(capath=path)
            else:
                with _checked(path) as file:
                    context.load_verify_locations(cafile=file)
        context.verify_mode = ssl.CERT_REQUIRED
        context.check_hostname = True
    if cert is not None:
        certificate, key = cert if isinstance(cert, tuple) else (cert, None)
        names = f"cert (cert_file)={certificate!r}"
        unreadable = "cannot read the file"
        with contextlib.ExitStack() as files:
            with _named(names, unreadable):
                certificate_file = files.enter_context(_checked(certificate))
            key_file = None
            if key is not None:
                names += f" and its key (key_file)={key!r}"
                with _named(f"key (key_file)={key!r}", unreadable):
                    key_file = files.enter_context(_checked(key))
            with _named(names, "cannot read a certificate and its key, without a passphrase, there"):
                # Without a password the terminal would be asked for one.
                context.load_cert_chain(certificate_file, key_file, password="")  # nosec B106
    return context


def ca_bundle(verify: bool | str) -> bool | str:  # noqa: FBT001
    """``verify``, or the CA certificates that the environment names where it is True, as in requests."""
    if verify is not True:
        return verify
    return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True


@contextlib.contextmanager
def _named(names: str, what: str) -> Iterator[None]:
    """Raise CertificateFileError with these words for what goes wrong with a file."""
    try:
        yield
    except (OSError, ssl.SSLError) as error:
        if error.errno in LOCAL_ERRORS:
            raise
        raise CertificateFileError(f"{names}: {what}: {error}") from error


@contextlib.contextmanager
def _checked(path: str) -> Iterator[str]:
    """A path at which ssl reads a file of certificates or keys; on Linux the checked one, if it is replaced.

    Raises OSError for anything but a regular file of limited size: opening a FIFO waits for a writer, and
    /dev/zero has no end.
    """
    opened = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode):
            raise OSError("not a regular file")
        if found.st_size > _LARGEST_FILE:
            raise OSError(f"{found.st_size:,} bytes; a file of certificates has at most {_LARGEST_FILE:,}")
        descriptor = f"/proc/self/fd/{opened}"
        yield descriptor if os.path.exists(descriptor) else path  # noqa: PTH110
    finally:
        os.close(opened)
