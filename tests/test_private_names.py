"""Private names of other packages that this package uses: each is a debt, listed here with its reason.

A new one makes a test fail. First look for a public name; where there is none, list the name and the reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import airflow_provider_qcache
from airflow_provider_qcache.compat import BaseHook, BaseOperator
from airflow_provider_qcache.hooks.qcache import QCacheHook
from airflow_provider_qcache.operators.qcache import (
    QCacheDeleteOperator,
    QCachePostOperator,
    QCacheQueryOperator,
)
from airflow_provider_qcache.transfers.sql_to_qcache import SqlToQCacheOperator

PACKAGE = Path(airflow_provider_qcache.__file__).parent

PRIVATE = {
    # Nothing public keeps a table out of Jinja and of Rendered Templates: tests/operators/test_templates.py.
    "airflow.sdk.definitions._internal.mixins.ResolveMixin",
    # fsspec documents it for those who write storages: tests/operators/test_sources.py.
    "_strip_protocol",
    # urllib3 has no public function that sets up a CONNECT through a proxy: tests/client/test_proxies.py.
    "_prepare_proxy",
    # urllib3 looks up this name and not the public host; here the time is divided among its addresses:
    # tests/client/test_matrix.py.
    "_dns_host",
    # http.client has no public function that reads one status line: tests/client/test_transport.py.
    "_read_status",
    # ipaddress has no public base of its addresses and networks: tests/transfers/test_types.py.
    "_BaseAddress",
    "_BaseNetwork",
}

DOCUMENTED = {"_asdict", "_exit", "_replace"}
"""Names of the standard library that begin with an underscore and are documented."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def trees() -> list[ast.Module]:
    return [ast.parse(file.read_text()) for file in PACKAGE.rglob("*.py")]


def own_names() -> set[str]:
    """Every name that the package defines."""
    names = set()
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
            elif isinstance(node, ast.arg):
                names.add(node.arg)
    return names


def used_names() -> Iterator[str]:
    """Private names that the package reads or imports and does not define."""
    own = own_names()
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
                yield node.attr
            elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith(PACKAGE.name):
                imported = [f"{node.module}.{one.name}" for one in node.names]
                yield from (name for name in imported if any(map(is_private, name.split("."))))
            elif (
                isinstance(node, ast.Constant) and isinstance(node.value, str) and "Operator__" in node.value
            ):
                yield node.value  # a mangled name, for getattr


def test_private_names_of_others_are_those_that_are_listed():
    used = set(used_names()) - DOCUMENTED
    assert used == PRIVATE


def test_no_class_of_ours_overrides_a_private_name_of_airflow():
    """Airflow may change what calls it, or rename it, in any release."""
    theirs = {*vars(object), *(name for base in (BaseOperator, BaseHook) for name in dir(base))}
    ours = {
        name
        for kind in (
            *(QCachePostOperator, QCacheQueryOperator, QCacheDeleteOperator, SqlToQCacheOperator),
            QCacheHook,
        )
        for base in kind.__mro__
        if base.__module__.startswith(PACKAGE.name)
        for name in vars(base)
        # What Airflow's and Python's metaclasses put into every class.
        if is_private(name) and not name.startswith(("_abc_", "_BaseOperator", "_AbstractOperator"))
    }
    assert ours & theirs == set()
