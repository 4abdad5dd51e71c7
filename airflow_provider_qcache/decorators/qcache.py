"""``@task.qcache_post`` and ``@task.qcache_query``: a function returns the table, or the query, of a task.

Airflow finds them by the provider's registration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_qcache import compat
from airflow_provider_qcache.operators import _arguments as rules
from airflow_provider_qcache.operators.qcache import QCachePostOperator, QCacheQueryOperator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow_provider_qcache.compat import TaskDecorator

__all__ = ["qcache_post_task", "qcache_query_task"]


def _with_context(task: Any, context: Any) -> dict[str, Any]:
    """The function's keyword arguments: those of the call, and the items of Airflow's context it names."""
    compat.context_merge(context, task.op_kwargs or {})
    return dict(compat.determine_kwargs(task.python_callable, task.op_args or (), context))


class _Decorated(compat.DecoratedOperator):
    """Airflow's base of decorated operators, with what it lacks on Airflow 3.0."""

    @staticmethod
    def xcom_push(context: Any, key: str, value: Any) -> None:
        """Push an XCom; Airflow 3.0 calls this on the operator, whose base class does not have it."""
        context["ti"].xcom_push(key=key, value=value)


class _PostDecoratedOperator(_Decorated, QCachePostOperator):
    """Store what a function returns; see QCachePostOperator."""

    template_fields: Sequence[str] = QCachePostOperator.template_fields
    template_fields_renderers: ClassVar[dict[str, str]] = QCachePostOperator.template_fields_renderers
    custom_operator_name = "@task.qcache_post"

    def __init__(self, **kwargs: Any) -> None:
        function = {name: kwargs.get(name) for name in ("python_callable", "op_args", "op_kwargs")}
        # Airflow's base takes these arguments for itself and passes on only kwargs_to_upstream.
        super().__init__(kwargs_to_upstream=function, **kwargs)

    def execute(self, context: Any) -> Any:
        self.op_kwargs = _with_context(self, context)
        return super().execute(context)


class _QueryDecoratedOperator(_Decorated, QCacheQueryOperator):
    """Run the query that a function returns; see QCacheQueryOperator."""

    template_fields: Sequence[str] = (*QCacheQueryOperator.template_fields, "op_args", "op_kwargs")
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **QCacheQueryOperator.template_fields_renderers,
        **dict.fromkeys(("op_args", "op_kwargs"), "json"),
    }
    custom_operator_name = "@task.qcache_query"
    overwrite_rtif_after_execution = True  # so that Airflow shows the query

    _rules: ClassVar[Mapping[str, rules.Rule]] = {
        **QCacheQueryOperator._rules,
        "op_args": rules.optional(rules.sequence),
        "op_kwargs": rules.optional(rules.mapping),
    }

    def __init__(self, **kwargs: Any) -> None:
        # The function returns the query when the task runs.
        super().__init__(query={}, **kwargs)

    def execute(self, context: Any) -> Any:
        arguments = self._checked_arguments(context)
        self.op_args, self.op_kwargs = arguments["op_args"] or [], arguments["op_kwargs"] or {}
        self.query = self.python_callable(*self.op_args, **_with_context(self, context))
        return super().execute(context)


def qcache_post_task(
    python_callable: Callable[..., Any] | None = None, *, multiple_outputs: bool | None = None, **kwargs: Any
) -> TaskDecorator:
    """Store a function's return value: ``@task.qcache_post(key="orders")``.

    Args:
        python_callable: The function. It returns what QCachePostOperator's ``python_callable`` may.
        multiple_outputs: Whether each item of the result is an XCom of its own.
        kwargs: The other arguments of QCachePostOperator, ``key`` among them, and those of a task.
    """
    return compat.task_decorator_factory(
        python_callable=python_callable,
        multiple_outputs=multiple_outputs,
        decorated_operator_class=_PostDecoratedOperator,
        **kwargs,
    )


def qcache_query_task(
    python_callable: Callable[..., Any] | None = None, *, multiple_outputs: bool | None = None, **kwargs: Any
) -> TaskDecorator:
    """Query a table by the return value of a function: ``@task.qcache_query(key="orders")``.

    Args:
        python_callable: The function. It returns the query: a dict, or a string that holds one as JSON.
        multiple_outputs: Whether each item of the result is an XCom of its own.
        kwargs: The other arguments of QCacheQueryOperator, ``key`` among them, and those of a task.
    """
    return compat.task_decorator_factory(
        python_callable=python_callable,
        multiple_outputs=multiple_outputs,
        decorated_operator_class=_QueryDecoratedOperator,
        **kwargs,
    )
