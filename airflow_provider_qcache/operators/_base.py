"""The base classes of the operators: they check arguments, render templates, and open and close a hook."""

from __future__ import annotations

import contextlib
import functools
import os
from typing import TYPE_CHECKING, Any, ClassVar, Final

from airflow_provider_qcache.assets.outlets import attach, check_mapped, declare
from airflow_provider_qcache.compat import BaseOperator
from airflow_provider_qcache.operators import _arguments as rules
from airflow_provider_qcache.operators._content import Nothing, TableContent
from airflow_provider_qcache.operators.errors import InvalidArgument, ends_the_task, fail_for_good, permanent
from airflow_provider_qcache.operators.retry import ERROR_WAIT, qcache_retry_policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from airflow_provider_qcache.client import RequestRetry
    from airflow_provider_qcache.hooks.qcache import QCacheHook
    from airflow_provider_qcache.lineage import Lineage


_FILES: Final = {"query": ".json", "sql": ".sql"}
"""The arguments that may be the name of a file with a template, and the suffix of such a name.

Airflow's ``template_ext`` would read a file for every argument, and every item of one, with that suffix."""

_OBJECTS: Final = frozenset({"op_args", "op_kwargs", "load_kwargs", "parameters", "hook_params"})
"""The arguments whose items are the author's own values, which may be None or empty."""


class QCacheOperator(BaseOperator):
    """The base of the operators.

    Args:
        qcache_conn_id: The connection, of type ``qcache``. Templated.
        request_retry: How failed requests are retried within one try of the task: a RequestRetry, or a dict
            of its fields, each of which replaces the connection's.
    """

    template_ext: Sequence[str] = ()

    _rules: ClassVar[Mapping[str, rules.Rule]] = {
        "qcache_conn_id": rules.text,
        "request_retry": rules.optional(rules.request_retry),
    }
    """The rule of each argument."""

    _hook: QCacheHook | None = None
    _files_read = False
    _rendering_an_object = False
    _lineage: Lineage | None = None

    def __init__(
        self,
        *,
        qcache_conn_id: str = "qcache_default",
        request_retry: RequestRetry | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # Before 3.3 there is no such attribute. None that an author passed turns the policy off.
        if getattr(self, "retry_policy", self) is None and "retry_policy" not in kwargs:
            self.retry_policy = qcache_retry_policy(error_wait=min(ERROR_WAIT, self.retry_delay))
        self.qcache_conn_id = qcache_conn_id
        self.request_retry = request_retry

    @property
    def operator_extra_links(self) -> tuple[Any, ...]:
        """The link to the cluster page, if the page is on: each link costs a task one XCom."""
        from airflow_provider_qcache.links.qcache import QCacheClusterLink, page_is_on  # noqa: PLC0415

        return (QCacheClusterLink(),) if page_is_on() else ()

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """Airflow's ``partial``; with it ``emit_asset=True`` needs an alias."""
        check_mapped(kwargs)
        return super().partial(**kwargs)

    def on_kill(self) -> None:
        if self._hook is not None:
            self._hook.cancel()

    def dry_run(self) -> None:
        """Check the arguments, and log which nodes have each key now; no node is changed."""
        from airflow_provider_qcache.operators._dry_run import log_places  # noqa: PLC0415  # for a task that runs

        arguments = self._checked_arguments({})
        with self._connected(arguments) as hook:
            log_places(
                hook, arguments.get("keys") or [key for key in (arguments.get("key"),) if key], self.log
            )

    # Arguments.

    def _check_when_parsed(self) -> None:
        """Check the arguments that are known when the DAG is parsed, or when a mapped task is created."""
        try:
            known = {
                name: rule(name, value)
                for name, rule in self._rules.items()
                if not self._is_pending(name, value := getattr(self, name))
            }
            self._check_together(known)
            if known.get("emit_asset"):
                declare(self, known.get("key"), known.get("qcache_conn_id"))
        except ValueError as error:
            raise InvalidArgument(str(error)) from error.__cause__

    def _is_pending(self, name: str, value: Any) -> bool:
        """Whether an argument's value is known only when the task runs."""
        if isinstance(value, TableContent):
            return not value.resolved
        if name in self.template_fields:
            return self._is_file(name) or rules.is_known_at_run_time_only(value)
        if rules.is_known_at_run_time_only(value):
            raise ValueError(f"{name}={rules.short_repr(value)}: {name} is not templated, so pass its value")
        return False

    @permanent(ValueError, TypeError)
    def _checked_arguments(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Every argument in the form that is used; AirflowFailException if its rule refuses it."""
        if not self._files_read and any(map(self._is_file, _FILES)):
            # Airflow renders a mapped task without calling its render_template_fields.
            self._read_files(context, self.get_template_env())
            self.overwrite_rtif_after_execution = True
        self._files_read = True
        arguments = {}
        for name, rule in self._rules.items():
            value = getattr(self, name)
            if isinstance(value, Nothing) and name == "delete_missing":
                value = None  # there was no earlier run
            elif name in self.template_fields:
                value = filled(name, value, objects=name in _OBJECTS)
            arguments[name] = rule(name, value)
        self._check_together(arguments)
        return arguments

    def _check_together(self, known: Mapping[str, Any]) -> None:
        """Raise ValueError for contradicting arguments; ``known`` lacks those that are not known yet."""

    def _check_exactly_one(self, *names: str) -> None:
        passed = [name for name in names if getattr(self, name) is not None]
        if len(passed) != 1:
            allowed = ", ".join(names[:-1]) + f" and {names[-1]}"
            raise ValueError(f"pass exactly one of {allowed}: {' and '.join(passed) or 'none'} passed")

    # Templates.

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """Render as Airflow does, then read the files that arguments name."""
        jinja_env = jinja_env or self.get_template_env()
        super().render_template_fields(context, jinja_env)
        self._read_files(context, jinja_env)

    def _is_file(self, name: str) -> bool:
        value = getattr(self, name) if name in self._rules else None  # else an author's own attribute
        return name in _FILES and isinstance(value, str) and value.strip().endswith(_FILES[name])

    def _read_files(self, context: Mapping[str, Any], jinja_env: Any) -> None:
        for name in filter(self._is_file, _FILES):
            file = getattr(self, name)
            if jinja_env.loader is None:
                raise ValueError(
                    f"{name}={file!r}: the file is read from the folder of the task's DAG, and the task has "
                    "no DAG: create the task in a DAG, or pass the text instead"
                )
            source = jinja_env.loader.get_source(jinja_env, file.strip())[0]
            rendered = self.render_template(source, context, jinja_env)
            empty = isinstance(rendered, Nothing) or rules.is_nothing(rendered)
            setattr(self, name, Nothing(file, "") if empty else rendered)
        self._files_read = True

    def render_template(
        self, content: Any, context: Any, jinja_env: Any = None, seen_oids: set[int] | None = None
    ) -> Any:
        """Render as Airflow does, but leave text without a template, and a path, as they are.

        In a DAG that renders templates as native objects, a template renders to text, unless it is one single
        expression. None, Undefined and an empty value become a Nothing.
        """
        render = super().render_template
        seen = seen_oids is not None and id(content) in seen_oids
        if seen or self._rendering_an_object:
            return render(content, context, jinja_env, seen_oids)
        if isinstance(content, os.PathLike) and not rules.is_remote(content):
            return content  # Airflow before 3.2 calls resolve(context) on it
        jinja_env = jinja_env or self.get_template_env()
        if isinstance(content, str):
            return rendered_text(
                content, jinja_env, lambda source: render(source, context, jinja_env, seen_oids)
            )
        # An object with templates of its own renders its attributes itself.
        self._rendering_an_object = hasattr(content, "template_fields")
        try:
            rendered = render(content, context, jinja_env, seen_oids)
        finally:
            self._rendering_an_object = False
        is_reference = hasattr(content, "iter_references")
        return Nothing(str(content), rendered) if is_reference and rules.is_nothing(rendered) else rendered

    # The run.

    @contextlib.contextmanager
    def _connected(
        self, arguments: Mapping[str, Any], *, literal_table: bool = False
    ) -> Iterator[QCacheHook]:
        """A hook that is closed after the block. Errors that no retry helps become AirflowFailException."""
        from airflow_provider_qcache.hooks.qcache import QCacheHook  # noqa: PLC0415  # it loads requests

        with permanent(ValueError):
            hook = self._hook = QCacheHook(
                arguments["qcache_conn_id"], request_retry=arguments["request_retry"]
            )
            hook.used_by = type(self).__name__
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

    def _changed(
        self,
        context: Mapping[str, Any],
        arguments: Mapping[str, Any],
        key: str,
        extra: dict[str, Any],
        **lineage: Any,
    ) -> None:
        """Record the tables that the task has changed, in its asset events and for OpenLineage.

        ``key`` is one, or a pattern; ``extra`` is that of its asset's event; ``lineage`` has further
        arguments of ``lineage.of_change``. An asset event that Airflow refuses fails the task, since DAGs
        may wait for it.
        """
        from airflow_provider_qcache.lineage import of_change  # noqa: PLC0415  # for a task that runs

        attach(self, context, key, arguments["qcache_conn_id"], extra, emit=arguments["emit_asset"])
        self._lineage = of_change(arguments["qcache_conn_id"], key, extra, **lineage)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """The datasets that the task read and wrote; Airflow's OpenLineage provider calls this."""
        del task_instance
        from airflow_provider_qcache.lineage import facets_of  # noqa: PLC0415  # for a task that runs

        return facets_of(self._lineage)


class QCacheStoreOperator(QCacheOperator):
    """The base of the operators that store one table, or many.

    Args:
        copies: Nodes that get a table, its home included.
        evict_stale: Delete the key on every other node, so that no later failover shows an older table.
        check_row_count: Ask the node for its rows afterwards: RowCountMismatch, transient.
        require_home: If a key's home node is down and its table went to the next node, raise
            StoredOnFailover, transient, after everything is stored. Else it is a warning.
        emit_asset: Make the table's asset an outlet of the task, so that DAGs which wait for it start. If
            the key is known only when the task runs, this needs an AssetAlias in ``outlets``:
            docs/reference/assets.md.
        max_failed_keys: Of many tables, how many may fail with the task a success.
        allow_evicted: Whether the task is a success, with a warning, where nodes have evicted some of many
            tables by its end.
        durable: On Airflow 3.3, a retry stores only what is left of many tables. False stores all of them.
        return_keys: The result has ``keys``, every key of many tables: 10,000 at most.
        keys_path: Write the keys of many tables to this local path or URL of ObjectStoragePath, one a line,
            when the task succeeds. Templated.
        delete_missing: The keys of an earlier run: the path of their list, a list, or the result of a task
            with ``return_keys``. The keys that this run does not store are deleted on every node, after every
            table is stored. docs/reference/many-tables.md has what a failed key and a retry do. Templated.
        allow_empty: With ``delete_missing``, a run without tables may delete all of the earlier run's.
    """

    template_fields: Sequence[str] = ("keys_path", "delete_missing")

    _rules: ClassVar[Mapping[str, rules.Rule]] = {
        **QCacheOperator._rules,
        **dict.fromkeys(("evict_stale", "check_row_count", "require_home", "emit_asset"), rules.flag),
        **dict.fromkeys(("allow_evicted", "durable", "return_keys", "allow_empty"), rules.flag),
        "copies": rules.count,
        "max_failed_keys": rules.none_or_more,
        "keys_path": rules.optional(rules.path),
        "delete_missing": rules.optional(rules.earlier_keys),
    }

    def __init__(
        self,
        *,
        copies: int = 1,
        evict_stale: bool = True,
        check_row_count: bool = False,
        require_home: bool = False,
        emit_asset: bool = False,
        max_failed_keys: int = 0,
        allow_evicted: bool = False,
        durable: bool = True,
        return_keys: bool = False,
        keys_path: str | os.PathLike[str] | None = None,
        delete_missing: Any = None,
        allow_empty: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.copies = copies
        self.evict_stale = evict_stale
        self.check_row_count = check_row_count
        self.require_home = require_home
        self.emit_asset = emit_asset
        self.max_failed_keys = max_failed_keys
        self.allow_evicted = allow_evicted
        self.durable = durable
        self.return_keys = return_keys
        self.keys_path = rules.text_of_path(keys_path)
        self.delete_missing = rules.text_of_path(delete_missing)
        self.allow_empty = allow_empty

    def _check_several(self, needs: str) -> None:
        """Raise ValueError for arguments that need several tables."""
        flags = ("max_failed_keys", "allow_evicted", "return_keys", "allow_empty")
        passed = [name for name in flags if getattr(self, name)]
        passed += [name for name in ("keys_path", "delete_missing") if getattr(self, name) is not None]
        passed += [] if self.durable else ["durable"]
        if passed:
            raise ValueError(f"{' and '.join(passed)}: {needs}")


# How a template becomes a value. In a DAG that renders templates as native objects, Jinja reads the result as
# a Python literal: "'city'" would lose the quotes that make it a literal of a query.

_NO_LITERAL: Final = "\0\n"
"""Put before a template so that the rendered text is no Python literal. The template still begins a line."""

_KEEP: Final = "qcache_keep"
"""The name of a Jinja filter that keeps the value of an expression."""


class _Kept:
    """Wraps the value of an expression: Jinja passes it on as it is, or converts it to text."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __str__(self) -> str:
        return str(self.value)


def rendered_text(text: str, jinja_env: Any, render: Callable[[str], Any]) -> Any:
    """Render a template to text, or with native objects to the value of the expression that is all of it.

    ``render`` renders a template as Airflow does. None, Undefined and an empty value become a Nothing.
    """
    if not has_template(text, jinja_env):
        return text
    expression = _whole_expression(text, jinja_env)
    if expression is None:
        # "{%-" strips the line break before it.
        found = render(_NO_LITERAL + text).removeprefix(_NO_LITERAL).removeprefix(_NO_LITERAL[0])
        return Nothing(text, found) if rules.is_nothing(found) else found
    kept: list[_Kept] = []

    def keep(value: Any) -> _Kept:
        kept.append(_Kept(value))
        return kept[-1]

    jinja_env.filters[_KEEP] = keep
    rendered = render(
        f"{jinja_env.variable_start_string}({expression})|{_KEEP}{jinja_env.variable_end_string}"
    )
    value = kept[-1].value
    found = value if isinstance(rendered, _Kept) else rendered
    return Nothing(text, found) if value is None or rules.is_nothing(found) else found


def has_template(text: str, jinja_env: Any) -> bool:
    """Whether a text has anything for Jinja to render."""
    starts = (
        jinja_env.variable_start_string,
        jinja_env.block_start_string,
        jinja_env.comment_start_string,
        jinja_env.line_statement_prefix,
        jinja_env.line_comment_prefix,
    )
    return any(start in text for start in starts if start)


def _whole_expression(text: str, jinja_env: Any) -> str | None:
    """The expression that is the whole of a template."""
    if jinja_env.finalize is not None:
        return None  # the DAG's own function converts values to text
    tokens = [(kind, source) for _, kind, source in jinja_env.lex(text)]
    kinds = [kind for kind, _ in tokens]
    if kinds[:1] != ["variable_begin"] or kinds.index("variable_end") != len(kinds) - 1:
        return None
    return "".join(source for _, source in tokens[1:-1])


def filled(place: str, value: Any, *, objects: bool, whole: bool = True) -> Any:
    """A rendered value; ValueError for a Nothing, or for a Nothing inside it, with its place.

    ``place`` is the value's name in an error: ``query['where'][2]``; ``whole`` says that it is the whole
    argument. With ``objects``, items may be None or empty; a text "None" that stands for None may not.
    """
    if isinstance(value, Nothing):
        if objects and not whole and not (isinstance(value.value, str) and value.value.strip()):
            return value.value
        raise ValueError(f"{place}: {value.template} rendered to {value.description}")
    fill = functools.partial(filled, objects=objects, whole=False)
    if isinstance(value, dict):
        return {key: fill(f"{place}[{key!r}]", one) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(fill(f"{place}[{number}]", one) for number, one in enumerate(value))
    if isinstance(value, set):
        return {fill(place, one) for one in value}
    return value
