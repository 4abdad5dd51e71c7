"""The libraries of this package's extras, and the error if one is not installed."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def how_to_install(extra: str) -> str:
    """How to install an extra, from a checkout or a wheel: there is no release of this package yet."""
    return (
        f"install the extra {extra!r}: pip install '.[{extra}]' in a checkout of airflow-provider-qcache, or "
        f"pip install 'PATH/TO/THE.whl[{extra}]' with its wheel"
    )


class MissingExtra(ImportError):
    """A library of an extra is not installed. No retry helps.

    Args:
        needs: What needs which library: "a zstd file needs pyarrow".
        extra: The extra that has the library.
    """

    def __init__(self, needs: str, extra: str) -> None:
        super().__init__(f"{needs}, which is not installed: {how_to_install(extra)}")


def library(name: str, needs: str, extra: str) -> Any:
    """Import a library of an extra for what ``needs`` it; raises MissingExtra if it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtra(f"{needs} needs {name}", extra) from error
