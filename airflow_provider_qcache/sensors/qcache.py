"""Wait until tables are in a QCache cluster, or until its nodes answer."""

from __future__ import annotations

import time
from abc import abstractmethod
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final

from airflow_provider_qcache import compat
from airflow_provider_qcache.operators import _arguments as rules
from airflow_provider_qcache.operators._base import QCacheOperator
from airflow_provider_qcache.operators._condition import Condition
from airflow_provider_qcache.operators.errors import permanent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow_provider_qcache.hooks.qcache import QCacheHook
    from airflow_provider_qcache.triggers.qcache import QCacheTrigger

__all__ = ["QCacheClusterSensor", "QCacheTableSensor"]

_BACKSTOP: Final = 60.0
"""Seconds after the sensor's timeout at which Airflow ends a deferred task whose trigger does not run."""

_SHORTEST_INTERVAL: Final = 0.1
"""The least seconds between two polls of a trigger."""


class _QCacheSensor(QCacheOperator, compat.BaseSensorOperator):
    """The base of the sensors: they ask the nodes from a worker, or deferred from the triggerer.

    A deferred sensor asks once more from a worker when its trigger has found what it waits for. So the
    result, the errors and an author's function are the same in every mode.
    """

    def __init__(self, *, deferrable: bool | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if deferrable is None:
            deferrable = compat.conf.getboolean("operators", "default_deferrable", fallback=False)
        self.deferrable = deferrable
        self._started: float | None = None
        self._triggerer_error: str | None = None

    def poke(self, context: Mapping[str, Any]) -> compat.PokeReturnValue:
        """Ask the nodes once."""
        if self._started is None:
            resumes = self.mode == "reschedule" and not self.deferrable
            self._started = (compat.first_poke_time(context) if resumes else None) or time.time()
        arguments = self._checked_arguments(context)
        retry = arguments["request_retry"]
        if retry is None or isinstance(retry, dict):
            arguments["request_retry"] = {"wait_for_nodes": False, **(retry or {})}
        with self._connected(arguments) as hook:
            found = self._ask(hook, arguments)
        if found is not None:
            found["seconds"] = round(time.time() - self._started, 3)
            return compat.PokeReturnValue(is_done=True, xcom_value=found)
        if self._triggerer_error is not None:
            # An error of the nodes or the connection was raised above, with its class.
            raise compat.AirflowException(
                "the triggerer cannot ask the nodes, although this worker can. Check the connection, the "
                f"packages and the network of the triggerer's machine: {self._triggerer_error}"
            )
        if self.deferrable:
            self._defer_until_found(arguments)
        return compat.PokeReturnValue(is_done=False)

    @abstractmethod
    def _ask(self, hook: QCacheHook, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        """The result without its time, or None if what the sensor waits for is not there yet."""

    @abstractmethod
    def _trigger(self, arguments: Mapping[str, Any], **of_every_trigger: Any) -> QCacheTrigger:
        """The trigger that asks the same."""

    def _defer_until_found(self, arguments: Mapping[str, Any]) -> None:
        """Defer to the trigger: ``defer`` raises TaskDeferred, which frees the worker."""
        assert self._started is not None  # noqa: S101
        left = self._started + self.timeout - time.time()
        if left <= 0:
            raise compat.AirflowSensorTimeout(f"not found within the sensor's timeout of {self.timeout:g} s")
        longest = self.timeout if self.max_wait is None else self.max_wait.total_seconds()
        self.defer(
            trigger=self._trigger(
                arguments,
                qcache_conn_id=arguments["qcache_conn_id"],
                poll_interval=max(self.poke_interval, _SHORTEST_INTERVAL),
                started=self._started,
                timeout=self.timeout,
                longest_interval=float(longest) if self.exponential_backoff else None,
            ),
            method_name="resume",
            timeout=timedelta(seconds=left + _BACKSTOP),
        )

    def resume(self, context: Mapping[str, Any], event: Mapping[str, Any]) -> Any:
        """Ask from a worker again, after the trigger fired."""
        self._started = event["started"]
        self._triggerer_error = event["error"]
        return self.execute(context)


class QCacheTableSensor(_QCacheSensor):
    """Wait until a table, or every one of several, is stored and satisfies a condition.

    A node that does not answer counts as "not yet" until the sensor's ``timeout``. Errors that waiting does
    not help (refused credentials, a malformed query, an invalid key) fail the task at once.

    Args:
        key: One key. Templated.
        keys: Several: a list, or a string that holds one as JSON or as a Python literal. The sensor waits
            until all of them satisfy the condition in the same poll. Exactly one of ``key`` and ``keys`` is
            given. Templated.
        query: The rows that count: a dict, or a string that holds one as JSON, or the name of a ``.json``
            file; None for all rows of the table. Templated.
        min_rows: The rows that are required, before the query's offset and limit. With 0 and no query an
            empty table is enough, and the node has the least work.
        check: A function that gets the rows (a list of dicts) and returns whether they pass. Needs ``query``.
            It runs in a worker, never in the triggerer.
        on_home: Ask each key's home node alone, as readers do while every node answers. False asks the first
            node in the key's order that answers, as readers do now.
        deferrable: Wait in the triggerer, without a worker's slot; None for Airflow's
            ``[operators] default_deferrable``.

    Returns:
        As XCom: ``key``, ``node`` (where the table was found), ``rows`` (that the query has; None if the node
        was not asked for rows) and ``seconds`` since the first poll. With ``keys``: ``tables``, a list of
        such dicts without ``seconds``, and ``seconds``.

    Raises:
        ValueError: when the DAG is parsed, for an invalid argument, with its name.
        AirflowFailException: for errors that waiting does not help; docs/reference/errors.md lists every
            error.
        AirflowSensorTimeout: not found within ``timeout``; with ``soft_fail`` the task is skipped instead.
    """

    template_fields: Sequence[str] = ("key", "keys", "query", "qcache_conn_id")
    template_fields_renderers: ClassVar[dict[str, str]] = dict.fromkeys(("keys", "query"), "json")
    ui_color = "#e6e0f2"

    _rules: ClassVar[Mapping[str, rules.Rule]] = {
        **QCacheOperator._rules,
        "key": rules.optional(rules.key),
        "keys": rules.optional(rules.keys),
        "query": rules.optional(rules.query),
        "min_rows": rules.none_or_more,
        "check": rules.optional(rules.function),
        "on_home": rules.flag,
    }

    def __init__(
        self,
        *,
        key: str | None = None,
        keys: Any = None,
        query: Any = None,
        min_rows: int = 1,
        check: Callable[[list[dict[str, Any]]], Any] | None = None,
        on_home: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.key = key
        self.keys = keys
        self.query = query
        self.min_rows = min_rows
        self.check = check
        self.on_home = on_home
        self._check_when_parsed()

    def _check_together(self, known: Mapping[str, Any]) -> None:
        del known
        self._check_exactly_one("key", "keys")
        if self.check is not None and self.query is None:
            raise ValueError("check needs query: pass query={} to check all rows of the table")

    def _ask(self, hook: QCacheHook, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        from airflow_provider_qcache.triggers._asking import ask, problem, question, some  # noqa: PLC0415

        condition = Condition(arguments["query"], arguments["min_rows"], arguments["check"])
        keys = arguments["keys"] or [arguments["key"]]
        asked = [question(key, condition.question, on_home=arguments["on_home"]) for key in keys]
        findings = ask(hook, asked)
        missing: list[str] = []
        down: list[str] = []
        for finding in findings.values():
            if (text := problem(finding, condition)) is not None:
                (down if finding.state == "down" else missing).append(text)
        if down:
            self.log.warning("Not yet: %s", some(down))
        if missing:
            self.log.info("Not yet: %s", some(missing))
        if down or missing:
            return None
        tables = [{"key": one.key, "node": one.node, "rows": one.rows} for one in findings.values()]
        return tables[0] if arguments["keys"] is None else {"tables": tables}

    def _trigger(self, arguments: Mapping[str, Any], **of_every_trigger: Any) -> QCacheTrigger:
        from airflow_provider_qcache.triggers.qcache import QCacheTableTrigger  # noqa: PLC0415

        return QCacheTableTrigger(
            keys=arguments["keys"] or [arguments["key"]],
            query=arguments["query"],
            min_rows=arguments["min_rows"],
            on_home=arguments["on_home"],
            **of_every_trigger,
        )


class QCacheClusterSensor(_QCacheSensor):
    """Wait until enough nodes of a cluster answer.

    Args:
        min_nodes: The nodes that must answer; None for all nodes of the connection.
        deferrable: As for QCacheTableSensor.

    Returns:
        As XCom: ``nodes`` (those that answer), ``down`` (those that do not, each with the reason) and
        ``seconds`` since the first poll.

    Raises:
        AirflowFailException: the connection has fewer nodes than ``min_nodes``, or a node refuses the
            credentials or the certificate.
        AirflowSensorTimeout: too few nodes answer within ``timeout``; with ``soft_fail`` the task is skipped
            instead.
    """

    template_fields: Sequence[str] = ("qcache_conn_id",)
    ui_color = "#e6e0f2"

    _rules: ClassVar[Mapping[str, rules.Rule]] = {
        **QCacheOperator._rules,
        "min_nodes": rules.optional(rules.count),
    }

    def __init__(self, *, min_nodes: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.min_nodes = min_nodes
        self._check_when_parsed()

    def _ask(self, hook: QCacheHook, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        from airflow_provider_qcache.triggers._asking import checked_nodes, too_few  # noqa: PLC0415

        status = checked_nodes(hook)
        min_nodes, conn_id = arguments["min_nodes"], arguments["qcache_conn_id"]
        with permanent(ValueError):
            if min_nodes is not None and min_nodes > len(status):
                has = f"connection {conn_id!r} has only {rules.counted(len(status), 'node')}"
                raise ValueError(f"min_nodes={min_nodes}: {has}")
        if (text := too_few(status, min_nodes)) is None:
            return {
                "nodes": [node for node, one in status.items() if one.alive],
                "down": {node: one.last_error for node, one in status.items() if not one.alive},
            }
        self.log.warning("Not yet: %s", text)
        return None

    def _trigger(self, arguments: Mapping[str, Any], **of_every_trigger: Any) -> QCacheTrigger:
        from airflow_provider_qcache.triggers.qcache import QCacheClusterTrigger  # noqa: PLC0415

        return QCacheClusterTrigger(min_nodes=arguments["min_nodes"], **of_every_trigger)
