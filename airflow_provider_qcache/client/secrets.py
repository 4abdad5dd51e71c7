"""Remove credentials from texts, in every spelling in which a node or a proxy may send them back."""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, quote_plus, unquote, urlsplit

from airflow_provider_qcache.client.errors import with_causes

if TYPE_CHECKING:
    from collections.abc import Iterable

_NAMES: Final = re.compile(
    r"auth(?!or(?!i[sz]))|token(?!i[sz])|secret(?!ar)|passw|passphrase|api.?key|access.?key|private.?key"
    r"|credential|cookie|(?<![a-z])session|signature",
    re.IGNORECASE,
)
"""Names of headers with secrets: Authorization and X-Auth-Key, not X-Author or X-Authority."""

_SCHEMES: Final = frozenset({"basic", "bearer", "digest", "negotiate", "ntlm", "token", "apikey"})
_SHORT: Final = 4
"""Characters: a shorter secret is replaced only if no letter or digit is beside it."""


def secrets_of(headers: bytes) -> set[str]:
    """The secrets in whole header lines: credentials in an Authorization, and values of similar headers."""
    found: set[str] = set()
    for line in headers.split(b"\r\n"):
        name, _, value = line.decode("latin-1").partition(":")
        if _NAMES.search(name):
            found |= _of_value(name.lower(), value.strip())
    return found


def secrets_of_url(url: str) -> set[str]:
    """The password in a URL, as it is written and as it is sent."""
    try:
        password = urlsplit(url).password
    except ValueError:
        return set()
    return {password, unquote(password)} if password else set()


def _of_value(name: str, value: str) -> set[str]:
    if value.lower() in _SCHEMES:
        return set()  # of X-Token-Type, say: a common word
    found = {value}
    if "cookie" in name:
        found |= {pair.strip() for pair in value.split(";")}
    scheme, _, token = value.partition(" ")
    if scheme.lower() in _SCHEMES or name.endswith(("authorization", "authorisation")):
        found.add(token.strip())
    if scheme.lower() == "basic":
        try:
            decoded = base64.b64decode(token.strip(), validate=True)
        except (binascii.Error, ValueError):
            return found
        for text in {decoded.decode("latin-1"), decoded.decode("utf-8", "replace")}:
            found |= {text, text.partition(":")[2]}
    return found - {""}


def spellings(secrets: Iterable[str]) -> set[str]:
    """Each secret as it is, and as base64, URLs, HTML, JSON and Python encode it."""
    found: set[str] = set()
    for secret in secrets:
        if not secret:
            continue
        found |= {secret, quote(secret, safe=""), quote(secret), quote_plus(secret)}
        found |= {html.escape(secret), html.escape(secret, quote=False), repr(secret)[1:-1]}
        found |= {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
        found |= {json.dumps(secret)[1:-1].replace("/", r"\/"), secret.replace("/", r"\/")}
        raw = {secret.encode("utf-8"), secret.encode("latin-1", "replace")}
        codes = (base64.b64encode, base64.urlsafe_b64encode)
        for encoded in (code(data) for code in codes for data in raw):
            text = encoded.decode()
            found |= {text, text.rstrip("="), quote(text, safe="")}
    return found | {re.sub(r"%[0-9A-F]{2}", lambda code: code[0].lower(), text) for text in found}


class Redactor:
    """Replaces every spelling of some secrets by ``***``."""

    def __init__(self, secrets: Iterable[str]) -> None:
        texts = sorted(spellings(secrets), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(_pattern, texts))) if texts else None

    def clean(self, text: str) -> str:
        """The text without secrets."""
        return text if self._pattern is None else self._pattern.sub("***", text)

    def clean_bytes(self, data: bytes) -> bytes:
        """The bytes without secrets, UTF-8 or not."""
        if self._pattern is None:
            return data
        text = self.clean(data.decode("utf-8", "surrogateescape"))
        return self.clean(text.encode("utf-8", "surrogateescape").decode("latin-1")).encode("latin-1")

    def clean_error(self, error: BaseException) -> None:
        """Remove secrets from an error and its causes: a traceback shows each of them."""
        for one in with_causes(error) if self._pattern is not None else ():
            if any(isinstance(part, str | bytes) for part in one.args):
                one.args = tuple(map(self._clean_part, one.args))
            for name in ("line", "partial", "reason", "detail", "strerror", "filename", "_message"):
                value = getattr(one, name, None)
                if isinstance(value, str | bytes) and self._clean_part(value) != value:
                    setattr(one, name, self._clean_part(value))

    def _clean_part(self, part: Any) -> Any:
        if isinstance(part, str):
            return self.clean(part)
        return self.clean_bytes(part) if isinstance(part, bytes) else part


def _pattern(text: str) -> str:
    pattern = re.sub(r"%[0-9A-Fa-f]{2}", lambda code: f"(?i:{code[0]})", re.escape(text))
    return rf"(?<![A-Za-z0-9]){pattern}(?![A-Za-z0-9])" if len(text) < _SHORT else pattern
