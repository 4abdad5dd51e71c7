"""The fuzzers: context managers that yield a function, which runs one case with a random generator."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from random import Random

from tests.fuzz.answers import answers
from tests.fuzz.content import content
from tests.fuzz.files import files
from tests.fuzz.moments import moments
from tests.fuzz.tables import tables

FUZZERS: dict[str, Callable[[], AbstractContextManager[Callable[[Random], None]]]] = {
    "files": files,
    "tables": tables,
    "content": content,
    "answers": answers,
    "moments": moments,
}
