"""Import names that differ between Airflow 2.11 and 3.x; no other module knows Airflow's versions.

apache-airflow-providers-common-compat covers most of the differences. A name is loaded at its first use: on
2.11 Connection and BaseHook cost a DAG file 8 ms, and operators do not need them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector
    from airflow.providers.common.compat.sdk import (
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        AirflowSkipException,
        Asset,
        AssetAlias,
        BaseHook,
        BaseOperator,
        BaseOperatorLink,
        BaseSensorOperator,
        BranchMixIn,
        Connection,
        DecoratedOperator,
        ObjectStoragePath,
        PokeReturnValue,
        TaskDecorator,
        XComArg,
        conf,
        context_merge,
        determine_kwargs,
        mask_secret,
        task_decorator_factory,
    )
    from airflow.sdk.definitions._internal.mixins import ResolveMixin
    from airflow.sdk.observability.stats import Stats
    from airflow.sdk.serde import serialize
    from airflow.triggers.base import BaseEventTrigger, BaseTrigger, TriggerEvent

__all__ = [
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowSensorTimeout",
    "AirflowSkipException",
    "Asset",
    "AssetAlias",
    "BaseEventTrigger",
    "BaseHook",
    "BaseOperator",
    "BaseOperatorLink",
    "BaseSensorOperator",
    "BaseTrigger",
    "BranchMixIn",
    "Connection",
    "DecoratedOperator",
    "ObjectStoragePath",
    "PokeReturnValue",
    "ResolveMixin",
    "Stats",
    "TaskDecorator",
    "TriggerEvent",
    "XComArg",
    "conf",
    "context_merge",
    "determine_kwargs",
    "get_hook_lineage_collector",
    "mask_secret",
    "serialize",
    "task_decorator_factory",
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
    elif name == "get_hook_lineage_collector":
        from airflow.providers.common.compat.lineage import hook as module  # noqa: PLC0415
    elif name == "Stats":
        try:
            from airflow.sdk.observability import stats as module  # noqa: PLC0415
        except ImportError:  # before 3.2
            from airflow import stats as module  # noqa: PLC0415
    elif name == "mask_secret":
        try:
            from airflow.sdk import log as module  # noqa: PLC0415
        except ImportError:
            from airflow.utils.log import secrets_masker as module  # noqa: PLC0415
    elif name in ("BaseEventTrigger", "BaseTrigger", "TriggerEvent"):
        from airflow.triggers import base as module  # noqa: PLC0415

        if not hasattr(module, name):  # on 2.11, which has no event triggers
            name = "BaseTrigger"
    else:
        from airflow.providers.common.compat import sdk as module  # noqa: PLC0415
    found = getattr(module, name)
    globals()[name] = found
    return found


def first_poke_time(context: Mapping[str, Any]) -> float | None:
    """When a sensor in the mode "reschedule" poked first, in seconds of the epoch; None at its first poke."""
    ti = context.get("ti")
    if ti is None:
        return None
    if hasattr(ti, "get_first_reschedule_date"):
        first = ti.get_first_reschedule_date(context)
    else:
        from airflow.models.taskreschedule import TaskReschedule  # noqa: PLC0415
        from airflow.utils.session import create_session  # noqa: PLC0415

        with create_session() as session:
            found = session.scalar(TaskReschedule.stmt_for_task_instance(ti, descending=False))
            first = found.start_date if found is not None else None
    return None if first is None else first.timestamp()
