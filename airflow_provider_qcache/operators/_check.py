"""Check a table: fail the task, or choose a branch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_qcache.compat import BranchMixIn
from airflow_provider_qcache.operators import _arguments as rules
from airflow_provider_qcache.operators._base import QCacheOperator
from airflow_provider_qcache.operators._condition import ONE_ROW, Condition
from airflow_provider_qcache.operators.errors import CheckFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow_provider_qcache.client import QueryResult
    from airflow_provider_qcache.hooks.qcache import QCacheHook


_value = rules.rule_for(
    lambda value: isinstance(value, str | int | float), "a number, a string, True or False"
)


def _task_ids(name: str, value: Any) -> list[str]:
    ids = [value] if isinstance(value, str) else value
    if not isinstance(ids, list | tuple) or not all(isinstance(one, str) and one for one in ids):
        raise rules.refused(name, value, "the id of a task or of a task group, or a list of them")
    return list(ids)


class _ConditionOperator(QCacheOperator):
    """The base of the check and the branch: whether a table satisfies a condition."""

    template_fields: Sequence[str] = ("key", "query", "value", "qcache_conn_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {"query": "json"}
    ui_color = "#e6f5d6"

    _rules: ClassVar[Mapping[str, rules.Rule]] = {
        **QCacheOperator._rules,
        "key": rules.key,
        "query": rules.optional(rules.query),
        "min_rows": rules.none_or_more,
        "max_rows": rules.optional(rules.none_or_more),
        "value": rules.optional(_value),
        "check": rules.optional(rules.function),
    }

    def __init__(
        self,
        *,
        key: str,
        query: Any = None,
        min_rows: int = 1,
        max_rows: int | None = None,
        value: str | float | None = None,
        check: Callable[[list[dict[str, Any]]], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.key = key
        self.query = query
        self.min_rows = min_rows
        self.max_rows = max_rows
        self.value = value
        self.check = check

    def _check_together(self, known: Mapping[str, Any]) -> None:
        del known
        if self.value is not None and self.query is None:
            raise ValueError("value needs query: one that gives one row of one column")
        if self.max_rows is not None and self.max_rows < self.min_rows:
            raise ValueError(f"max_rows={self.max_rows}: expected min_rows={self.min_rows} or more")

    @staticmethod
    def _evaluate(hook: QCacheHook, arguments: Mapping[str, Any]) -> tuple[QueryResult | None, str | None]:
        """The answer, and why it does not satisfy the condition."""
        condition = Condition(**{name: arguments[name] for name in Condition._fields})
        question = condition.question
        result = hook.get(arguments["key"], ONE_ROW if question is None else question)
        if result is None:
            return None, f"no table is stored under {arguments['key']!r}"
        violation = condition.violation(result)
        return result, violation and f"table {arguments['key']!r} on {result.node}: {violation}"


class QCacheCheckOperator(_ConditionOperator):
    """Check that a table exists and that its rows, or those of a query, are as they should be.

    Args:
        key: The table's key. Templated.
        query: The rows that count: a dict, a string that holds one as JSON, or the name of a ``.json`` file;
            None for all rows of the table. Templated.
        min_rows: The fewest rows that pass, before the query's offset and limit.
        max_rows: The most rows that pass; None for any number.
        value: What the query's only row has in its only column, such as a count or a sum. Templated.
        check: A function that gets the rows (a list of dicts) and returns whether they pass. Without a query
            it gets all rows of the table.

    Returns:
        As XCom: ``key``, ``node`` and ``rows`` (that the query has before its offset and limit).

    Raises:
        ValueError: when the DAG is parsed, for an invalid argument, with its name.
        CheckFailed: the condition is not satisfied; the message has what was found.
        TableMissing: no table is stored under the key.
        AirflowFailException: for errors that no retry helps; docs/reference/errors.md lists every error.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._check_when_parsed()

    def execute(self, context: Mapping[str, Any]) -> Any:
        from airflow_provider_qcache.operators._report import table_missing  # noqa: PLC0415  # for a task that runs

        arguments = self._checked_arguments(context)
        with self._connected(arguments) as hook:
            result, violation = self._evaluate(hook, arguments)
            if result is None:
                raise table_missing(hook, arguments["key"])
        if violation is not None:
            raise CheckFailed(violation)
        rows = rules.counted(result.unsliced_result_len, "row")
        self.log.info("Table %r on %s passes: %s", arguments["key"], result.node, rows)
        return {"key": arguments["key"], "node": result.node, "rows": result.unsliced_result_len}


class QCacheBranchOperator(_ConditionOperator, BranchMixIn):
    """Choose the tasks to run next by the condition of QCacheCheckOperator.

    A missing table does not satisfy it. A node that may have the table and does not respond is an error, as
    for a query: neither branch is chosen.

    Args:
        follow_task_ids_if_true: Tasks or task groups to run if the table satisfies the condition: an id or a
            list of them, directly downstream of this task.
        follow_task_ids_if_false: Those to run if it does not, or if there is no table.
        key, query, min_rows, max_rows, value, check: As for QCacheCheckOperator.
    """

    inherits_from_skipmixin = True

    _rules: ClassVar[Mapping[str, rules.Rule]] = {
        **_ConditionOperator._rules,
        "follow_task_ids_if_true": _task_ids,
        "follow_task_ids_if_false": _task_ids,
    }

    def __init__(
        self,
        *,
        follow_task_ids_if_true: str | Sequence[str],
        follow_task_ids_if_false: str | Sequence[str],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.follow_task_ids_if_true = follow_task_ids_if_true
        self.follow_task_ids_if_false = follow_task_ids_if_false
        self._check_when_parsed()

    def execute(self, context: Mapping[str, Any]) -> Any:
        arguments = self._checked_arguments(context)
        with self._connected(arguments) as hook:
            _, violation = self._evaluate(hook, arguments)
        if violation is None:
            return self.do_branch(context, arguments["follow_task_ids_if_true"])
        self.log.info("Not satisfied: %s", violation)
        return self.do_branch(context, arguments["follow_task_ids_if_false"])
