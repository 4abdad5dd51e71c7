"""What QCache's HTTP interface allows: keys, content types, column types, header names.

The module imports nothing of this package: a DAG file, which checks arguments when it is parsed, then loads
neither the client nor requests.
"""

from __future__ import annotations

import re
from typing import Final

CSV: Final = "text/csv"
JSON: Final = "application/json"

COLUMN_TYPES: Final = ("string", "enum", "float")
"""The types that X-QCache-types can name (QCache 0.9.3, qcache/app.py: DatasetHandler.dtypes)."""

FRAMING_HEADERS: Final = frozenset({"content-length", "transfer-encoding", "host", "connection", "expect"})
"""Headers, in lower case, that delimit a request: only the client sets them."""

is_key: Final = re.compile(r"[A-Za-z0-9_-]+").fullmatch
"""Matches a key, which a QCache URL contains without quoting."""

KEY_PATTERN_CHARACTERS: Final = frozenset("*?[%")
"""Characters that suggest a pattern of keys; QCache has no patterns."""

is_header_name: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
"""Matches the name of an HTTP header (RFC 9110, token)."""
