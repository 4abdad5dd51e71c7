"""The one module that knows Airflow's versions: what differs between 2.11 and 3.x comes from here.

Most of the difference is carried by apache-airflow-providers-common-compat. Names are loaded when they are
first used: on 2.11 Connection and BaseHook cost a DAG file 8 ms that its operators do without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import (
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSkipException,
        AirflowTaskTimeout,
        BaseHook,
        BaseOperator,
        Connection,
        ObjectStoragePath,
        XComArg,
    )
    from airflow.sdk.definitions._internal.mixins import ResolveMixin
    from airflow.sdk.serde import serialize

__all__ = [
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowSkipException",
    "AirflowTaskTimeout",
    "BaseHook",
    "BaseOperator",
    "Connection",
    "ObjectStoragePath",
    "ResolveMixin",
    "XComArg",
    "serialize",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "ResolveMixin":
        try:
            from airflow.sdk.definitions._internal import mixins as module  # noqa: PLC0415
        except ImportError:
            from airflow.utils import mixins as module  # noqa: PLC0415
    elif name == "serialize":
        try:
            from airflow.sdk import serde as module  # noqa: PLC0415
        except ImportError:
            from airflow.serialization import serde as module  # noqa: PLC0415
    else:
        from airflow.providers.common.compat import sdk as module  # noqa: PLC0415
    found = getattr(module, name)
    globals()[name] = found
    return found
