"""What the operators share: arguments that are checked twice, templates, the hook's life, the errors."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_qcache.compat import BaseOperator
from airflow_provider_qcache.operators import _arguments as rules
from airflow_provider_qcache.operators._failures import ends_the_task, fail_for_good, permanent
from airflow_provider_qcache.operators._rendering import (
    NoneWatch,
    RenderedToNothing,
    nothing_in,
    unwatched,
    watched,
)
from airflow_provider_qcache.operators._wrapped import TableContent, table_content

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from airflow_provider_qcache.client import RequestRetry
    from airflow_provider_qcache.hooks.qcache import QCacheHook


class QCacheOperator(BaseOperator):
    """The base of the operators. Every argument of ours is a template field, and so shown in the UI.

    Args:
        qcache_conn_id: The connection, of type ``qcache``.
        request_retry: How failed requests are asked again within one try of the task: a RequestRetry, or a
            dict of its fields, each in place of the connection's.
    """

    template_ext: Sequence[str] = ()

    _rules: ClassVar[Mapping[str, rules.Rule]] = {
        "qcache_conn_id": rules.text,
        "request_retry": rules.optional(rules.request_retry),
    }
    """The rule of each argument."""

    _callables: ClassVar[Collection[str]] = ()
    """Arguments that are functions: shown by name, and neither rendered nor called by Airflow."""

    _objects: ClassVar[Collection[str]] = ()
    """Arguments whose items are the author's own values, of which None, as an object, is one."""

    _hook: QCacheHook | None = None

    def __init__(
        self,
        *,
        qcache_conn_id: str = "qcache_default",
        request_retry: RequestRetry | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.qcache_conn_id = qcache_conn_id
        self.request_retry = request_retry

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """Airflow's ``partial``; a table is shown by its size."""
        for name in ("content", "tables"):
            if name in kwargs and not callable(kwargs[name]):
                kwargs[name] = table_content(kwargs[name])
        return super().partial(**kwargs)

    @property
    def _was_mapped(self) -> bool:
        """Whether this task was made, as it ran, from ``partial().expand()``."""
        return bool(getattr(self, "_BaseOperator__from_mapped", False))

    def on_kill(self) -> None:
        """End the request in progress."""
        if self._hook is not None:
            self._hook.cancel()

    # Arguments.

    def _check_when_parsed(self) -> None:
        """Raise ValueError for what the DAG alone tells; what is mapped is looked at as it runs."""
        if not self._was_mapped:
            known = {
                name: rule(name, value)
                for name, rule in self._rules.items()
                if not self._is_pending(name, value := getattr(self, name))
            }
            self._check_together(known)

    def _is_pending(self, name: str, value: Any) -> bool:
        """Whether an argument's value is known when the task runs, and not before."""
        del name
        if isinstance(value, TableContent):
            return not value.resolved
        return rules.is_known_at_run_time_only(value)

    def _checked_arguments(self) -> dict[str, Any]:
        """Every argument in the form that is used; AirflowFailException for what its rule refuses."""
        with permanent(ValueError, TypeError):
            for name in self._rules:
                value = getattr(self, name)
                if isinstance(value, RenderedToNothing):
                    raise ValueError(  # noqa: TRY004
                        f"{value.place}: {value.given} gave nothing (None, Undefined or an empty value)"
                    )
            arguments = {name: rule(name, getattr(self, name)) for name, rule in self._rules.items()}
            self._check_together(arguments)
        return arguments

    def _check_together(self, known: Mapping[str, Any]) -> None:
        """Raise ValueError for arguments that contradict each other; not yet known ones are not in it."""

    def _check_exactly_one(self, *names: str) -> None:
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            allowed = ", ".join(names[:-1]) + f" and {names[-1]}"
            raise ValueError(f"exactly one of {allowed} is wanted, not {' and '.join(given) or 'none'}")

    def _do_render_template_fields(
        self,
        parent: Any,
        template_fields: Collection[str],
        context: Mapping[str, Any],
        jinja_env: Any,
        seen_oids: set[int],
    ) -> None:
        """Render as Airflow does, but leave functions, which it would call, and note what gave nothing."""
        if parent is not self:
            env = unwatched(jinja_env)
            super()._do_render_template_fields(parent, template_fields, context, env, seen_oids)
            return
        for name in template_fields:
            given = getattr(self, name)
            if name in self._callables and not isinstance(given, TableContent):
                continue
            objects = name in self._objects
            env = watched(jinja_env, objects=objects)
            super()._do_render_template_fields(self, (name,), context, env, seen_oids)
            rendered = getattr(self, name)
            nothing = nothing_in(name, given, rendered, objects=objects)
            value = rendered.value if isinstance(rendered, TableContent) else rendered
            if rules.is_nothing(value) and QCacheOperator._is_pending(self, name, given):
                nothing = RenderedToNothing(name, given)
            if nothing is not None:
                setattr(self, name, nothing)

    def _render(self, template: Any, *arguments: Any, **options: Any) -> Any:
        rendered = super()._render(template, *arguments, **options)
        watch = template.environment.finalize
        return watch.judged(rendered) if isinstance(watch, NoneWatch) else rendered

    # The run.

    @contextlib.contextmanager
    def _connected(self, given: Mapping[str, Any], *, literal_table: bool = False) -> Iterator[QCacheHook]:
        """The hook, for the time of the block; what can never succeed leaves it as AirflowFailException."""
        from airflow_provider_qcache.hooks.qcache import QCacheHook  # noqa: PLC0415  # it loads requests

        with permanent(ValueError):
            hook = self._hook = QCacheHook(given["qcache_conn_id"], request_retry=given["request_retry"])
        try:
            with permanent(ValueError):
                hook.get_conn()
            yield hook
        except Exception as error:
            if ends_the_task(error, literal_table=literal_table):
                raise fail_for_good(error) from error
            raise
        finally:
            self._hook = None
            hook.close()
