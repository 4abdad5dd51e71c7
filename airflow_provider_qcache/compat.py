"""The one module that knows Airflow's versions: what differs between 2.11 and 3.x comes from here.

Most of the difference is carried by apache-airflow-providers-common-compat, whose names are loaded when they
are first used.
"""

from __future__ import annotations

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

try:
    from airflow.sdk.definitions._internal.mixins import ResolveMixin
except ImportError:
    from airflow.utils.mixins import ResolveMixin

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
]
