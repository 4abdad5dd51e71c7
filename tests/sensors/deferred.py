"""Run a deferrable task as Airflow does: its trigger, serialised and made anew, in an event loop."""

from __future__ import annotations

import asyncio
import importlib
import json
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred


def made_anew(trigger: Any) -> Any:
    """The trigger as a triggerer gets it: the class by its name, the arguments through JSON."""
    path, arguments = trigger.serialize()
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)(**json.loads(json.dumps(arguments)))


async def first_event(trigger: Any) -> Any:
    """The payload of the trigger's first event."""
    events = trigger.run()
    try:
        return (await anext(events)).payload
    finally:
        await events.aclose()


def deferral(task: Any, context: Any = None) -> TaskDeferred:
    """What a task raises to be deferred."""
    with pytest.raises(TaskDeferred) as caught:
        task.execute(context or {})
    return caught.value


def resume(task: Any, deferred: TaskDeferred, event: Any) -> Any:
    """What the task does after an event."""
    return task.resume_execution(deferred.method_name, {**(deferred.kwargs or {}), "event": event}, {})


def run_deferred(task: Any, meanwhile: Any = None) -> Any:
    """The result of a task that is deferred once; ``meanwhile`` is called in between."""
    deferred = deferral(task)
    if meanwhile is not None:
        meanwhile()
    return resume(task, deferred, asyncio.run(first_event(made_anew(deferred.trigger))))
