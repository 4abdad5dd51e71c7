"""Import names that differ between Airflow 2.11 and 3.x; no other module knows Airflow's versions.

apache-airflow-providers-common-compat covers most of the differences. A name is loaded at its first use: on
2.11 Connection and BaseHook cost a DAG file 8 ms, and operators do not need them.
"""

from __future__ import annotations

import importlib
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
        Stats,
        TaskDecorator,
        XComArg,
        conf,
        context_merge,
        determine_kwargs,
        mask_secret,
        task_decorator_factory,
    )
    from airflow.sdk.definitions._internal.mixins import ResolveMixin
    from airflow.sdk.serde import serialize
    from airflow.triggers.base import BaseEventTrigger, BaseTrigger, TriggerEvent

_SDK = "airflow.providers.common.compat.sdk"
_ELSEWHERE = {
    "BaseEventTrigger": ("airflow.triggers.base",),
    "BaseTrigger": ("airflow.triggers.base",),
    "ResolveMixin": ("airflow.sdk.definitions._internal.mixins", "airflow.utils.mixins"),
    "TriggerEvent": ("airflow.triggers.base",),
    "get_hook_lineage_collector": ("airflow.providers.common.compat.lineage.hook",),
    "mask_secret": ("airflow.sdk.log", "airflow.utils.log.secrets_masker"),
    "serialize": ("airflow.sdk.serde", "airflow.serialization.serde"),
}
"""The modules of names that common-compat's ``sdk`` lacks: in the newest Airflow, and in earlier ones."""


def __getattr__(name: str) -> Any:
    if name.startswith("_"):  # what Python itself asks a module for, such as __path__
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    newest, *earlier = _ELSEWHERE.get(name, (_SDK,))
    try:
        module = importlib.import_module(newest)
    except ImportError:
        if not earlier:
            raise
        module = importlib.import_module(earlier[0])
    if name == "BaseEventTrigger" and not hasattr(module, name):  # on Airflow 2.11
        name = "BaseTrigger"
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
