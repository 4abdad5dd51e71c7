"""Triggers that wait for tables and nodes of a QCache cluster.

QCacheTableTrigger and QCacheClusterTrigger are behind the deferrable sensors. QCacheTableMissingTrigger and
QCacheTableChangedTrigger start DAGs, by an AssetWatcher of Airflow 3.

All triggers of one connection share one client and ask together, in a thread. A trigger is serialised to
plain values, with the connection's id: its nodes and credentials are read in the triggerer.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import importlib
import time
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_qcache.compat import BaseEventTrigger, BaseTrigger, TriggerEvent
from airflow_provider_qcache.operators import _arguments as rules
from airflow_provider_qcache.operators._condition import ONE_ROW, Condition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from airflow_provider_qcache.triggers import _incidents
    from airflow_provider_qcache.triggers._asking import Finding, Question

__all__ = [
    "QCacheClusterTrigger",
    "QCacheTableChangedTrigger",
    "QCacheTableMissingTrigger",
    "QCacheTableTrigger",
    "QCacheTrigger",
]


async def _polling() -> Any:
    """The module that polls, loaded in a thread: it loads the client, and the event loop must not wait."""
    return await asyncio.to_thread(importlib.import_module, "airflow_provider_qcache.triggers._polling")


class _Serialized:
    """A dataclass that Airflow stores as the class and its fields, all plain values."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        arguments = {field.name: getattr(self, field.name) for field in fields}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments


@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class QCacheTrigger(_Serialized, BaseTrigger):
    """The base of the triggers behind the sensors: ends with one event.

    The event is a dict: ``error`` is None if the sensor should ask again (what it waits for was found, or its
    timeout has passed), else why the triggerer cannot ask; ``started`` is when the sensor asked first.
    """

    qcache_conn_id: str
    poll_interval: float
    started: float
    timeout: float
    longest_interval: float | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def _interval(self, now: float) -> float:
        """Seconds until the next poll: with a ``longest_interval`` as many as have passed since the first.

        So the waits double, even after a restart of the triggerer, which does not remember earlier polls.
        """
        if self.longest_interval is None:
            return self.poll_interval
        return max(self.poll_interval, min(now - self.started, self.longest_interval))

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Ask every ``poll_interval`` seconds, first after one interval: the sensor itself has just asked."""
        polling = await _polling()
        ends_at = self.started + self.timeout
        error = None
        async with polling.poller_of(self.qcache_conn_id) as poller:
            while True:
                now = time.time()
                await polling.next_round(self.poll_interval, until=ends_at, after=now + self._interval(now))
                try:
                    if time.time() >= ends_at or await self._is_found(poller):
                        break
                except Exception as caught:  # noqa: BLE001  # the sensor's task reports it
                    error = f"{type(caught).__name__}: {caught}"
                    break
        yield TriggerEvent({"error": error, "started": self.started})

    @abstractmethod
    async def _is_found(self, poller: Any) -> bool:
        """Whether the sensor has what it waits for."""


@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class QCacheTableTrigger(QCacheTrigger):
    """Fires when every key has a table of ``min_rows`` rows; see QCacheTableSensor for the arguments.

    An author's ``check`` is not called here but by the sensor, in a worker.
    """

    keys: Sequence[str]
    query: Mapping[str, Any] | None = None
    min_rows: int = 1
    on_home: bool = True

    async def _is_found(self, poller: Any) -> bool:
        from airflow_provider_qcache.triggers._asking import problem, question  # noqa: PLC0415

        condition = Condition(self.query, self.min_rows)
        asked = [question(key, condition.question, on_home=self.on_home) for key in self.keys]
        findings = await poller.ask(asked)
        for one in asked:
            if (text := problem(findings[one], condition)) is not None:
                self.log.info("Not yet: %s", text)
                return False
        return True


@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class QCacheClusterTrigger(QCacheTrigger):
    """Fires when ``min_nodes`` nodes answer; None for all nodes of the connection."""

    min_nodes: int | None = None

    async def _is_found(self, poller: Any) -> bool:
        from airflow_provider_qcache.triggers._asking import too_few  # noqa: PLC0415

        if (text := too_few(await poller.ask_nodes(), self.min_nodes)) is not None:
            self.log.info("Not yet: %s", text)
        return text is None


@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class _QCacheEventTrigger(_Serialized, BaseEventTrigger):
    """The base of the triggers that send events for as long as an AssetWatcher runs them."""

    key: dataclasses.InitVar[str | None] = dataclasses.field(default=None, kw_only=False)
    keys: Any = None
    qcache_conn_id: str = "qcache_default"
    poll_interval: float = 10.0
    max_events_per_hour: int = 6
    _state: ClassVar[str]
    """The class in ``_incidents`` of what is known of one key."""

    def __post_init__(self, key: str | None) -> None:
        if BaseEventTrigger is BaseTrigger:
            raise RuntimeError(
                f"{type(self).__name__} needs Airflow 3: this Airflow has no AssetWatcher. Use "
                "QCacheTableSensor in a scheduled DAG instead, as docs/reference/sensors.md shows."
            )
        super().__init__()
        if (key is None) == (self.keys is None):
            raise ValueError("pass exactly one of key and keys")
        self.keys = rules.keys("keys", self.keys) if key is None else [rules.key("key", key)]
        rules.text("qcache_conn_id", self.qcache_conn_id)
        self.poll_interval = rules.positive_seconds("poll_interval", self.poll_interval)
        rules.count("max_events_per_hour", self.max_events_per_hour)
        self._known: dict[str, Any] = {}

    def _query(self) -> Mapping[str, Any] | None:
        """The query to ask for a key; None asks whether its table exists."""
        return None

    def _questions(self) -> list[Question]:
        from airflow_provider_qcache.triggers._asking import question  # noqa: PLC0415

        return [question(key, self._query()) for key in self.keys]

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll and send events until cancelled: what Airflow before 3.3 runs, which has no shared streams."""
        async with (await _polling()).poller_of(self.qcache_conn_id) as poller:
            rounds = poller.rounds(self.poll_interval, self._questions())
            async for event in self._events(rounds):
                yield event

    def shared_stream_key(self) -> tuple[str, str, float]:
        """Triggers of one connection and interval share a poll."""
        return __name__, self.qcache_conn_id, self.poll_interval

    @classmethod
    async def open_shared_stream(cls, kwargs: Mapping[str, Any]) -> AsyncIterator[Any]:
        """The findings of every poll, for all triggers that share it."""
        async with (await _polling()).poller_of(kwargs["qcache_conn_id"]) as poller:
            async for findings in poller.rounds(kwargs["poll_interval"]):
                yield findings

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        """This trigger's events, from the findings of the shared polls."""
        async with (await _polling()).poller_of(self.qcache_conn_id) as poller:
            with poller.watching(self.poll_interval, self._questions()):
                async for event in self._events(shared_stream):
                    yield event

    async def _events(self, rounds: AsyncIterator[Mapping[Question, Finding]]) -> AsyncIterator[TriggerEvent]:
        from airflow_provider_qcache.triggers import _incidents  # noqa: PLC0415  # for a trigger that runs

        state = getattr(_incidents, self._state)
        # Only Airflow 3.3 has this store, which keeps what is known while the triggerer is restarted.
        store = getattr(self, "asset_state_store", None)
        if store is not None:
            with self._warning_of("read"):
                self._known = _incidents.loaded(state, await store.aget(self._place))
        warned: dict[str, str] = {}
        questions = self._questions()
        async for findings in rounds:
            changed = False
            for one in questions:
                # A poll that began before this trigger watched has no answer for it.
                if (finding := findings.get(one)) is None:
                    continue
                self._warn_once(warned, finding)
                if one.key not in self._known:
                    self._known[one.key] = state()
                known = self._known[one.key]
                before = known.mark
                if (payload := self._judge(known, finding, time.time())) is not None:
                    self.log.info("Table %r on %s: %s", one.key, payload["node"], payload["why"])
                    yield TriggerEvent(payload)
                changed |= known.mark != before
            # After the events: an event that a crash lost is sent again.
            if changed and store is not None:
                with self._warning_of("store"):
                    await store.aset(self._place, _incidents.dumped(self._known))

    @abstractmethod
    def _judge(self, known: Any, finding: Finding, now: float) -> dict[str, Any] | None:
        """The payload of an event, or None if this finding is not one; notes it in ``known``."""

    def _warn_once(self, warned: dict[str, str], finding: Finding) -> None:
        """Log why a table's node cannot be asked, once until the state changes."""
        if finding.state not in ("down", "failed"):
            warned.pop(finding.key, None)
        elif warned.get(finding.key) != finding.state:
            warned[finding.key] = finding.state
            self.log.warning("Cannot check table %r: %s", finding.key, finding.why)

    @property
    def _place(self) -> str:
        """The name in the asset's state store, one for each set of arguments."""
        name, arguments = self.serialize()
        digest = hashlib.sha256(repr((name, sorted(arguments.items()))).encode()).hexdigest()[:16]
        return f"{name}:{digest}"

    @contextlib.contextmanager
    def _warning_of(self, what: str) -> Iterator[None]:
        """Log an error of the state store: without it, the state lasts as long as this process."""
        try:
            yield
        except Exception as error:  # noqa: BLE001
            keys = ", ".join(self.keys[:5])
            self.log.warning("The triggerer cannot %s the state of %s: %s", what, keys, error)


@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class QCacheTableMissingTrigger(_QCacheEventTrigger):
    """Sends an event when a table that should be there is missing on its home node, to an AssetWatcher.

    A table is missing if its home node answers and does not have it: the node was restarted, or it evicted
    the table, or the table expired or was deleted. While the home node does not answer nothing is sent, since
    a store would go to another node; when the node comes back empty, the event follows at the next poll.

    An incident begins with one event, and ends when the table is back. While it lasts the event is repeated
    after ``repeat_after`` seconds, then after twice that, and so on up to an hour. At most
    ``max_events_per_hour`` events are sent for each key, whatever the incidents, then a warning is logged.
    On Airflow 3.3 incidents are kept in the asset's state store and survive a restart of the triggerer; on
    earlier versions a table that is missing after a restart is a new incident.

    The payload of an event: ``key``, ``node`` (the home node), ``why`` (a sentence), ``missing_since`` (ISO
    8601) and ``event`` (1 for the first of its incident).

    Args:
        key: One key.
        keys: Several, each with its own events; exactly one of ``key`` and ``keys`` is given.
        qcache_conn_id: The connection.
        poll_interval: Seconds between two polls.
        repeat_after: Seconds after which the first event of an incident is repeated.
        max_events_per_hour: Events per key within an hour.

    Raises:
        RuntimeError: on Airflow 2.
        ValueError: for an invalid argument, with its name.
    """

    repeat_after: float = 60.0
    _state = "Missing"

    def __post_init__(self, key: str | None) -> None:
        super().__post_init__(key)
        self.repeat_after = rules.positive_seconds("repeat_after", self.repeat_after)

    def _judge(self, known: _incidents.Missing, finding: Finding, now: float) -> dict[str, Any] | None:
        if finding.state == "missing":
            return known.is_missing(
                now, finding.key, finding.node, repeat_after=self.repeat_after, most=self.max_events_per_hour
            )
        if finding.state == "there":
            known.is_there()
        elif finding.state == "down":
            known.is_down()
        return None


@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class QCacheTableChangedTrigger(_QCacheEventTrigger):
    """Sends an event when a table was stored on its home node, or changed there, to an AssetWatcher.

    The trigger compares the number of rows, or with ``query`` the whole answer. A reload of equal rows cannot
    be seen from outside. The first poll sends nothing, unless Airflow 3.3's asset state store has what was
    seen before the triggerer was restarted.

    The payload of an event: ``key``, ``node`` (the home node), ``why`` (a sentence), ``rows`` and
    ``rows_before`` (None if the table was missing).

    Args:
        key, keys, qcache_conn_id, poll_interval, max_events_per_hour: As for QCacheTableMissingTrigger.
        query: The query whose answers are compared, best a small aggregate such as
            ``{"select": [["max", "updated_at"]]}``.

    Raises:
        RuntimeError: on Airflow 2.
        ValueError: for an invalid argument, with its name.
    """

    max_events_per_hour: int = 60
    query: Mapping[str, Any] | None = None
    _state = "Changed"

    def __post_init__(self, key: str | None) -> None:
        super().__post_init__(key)
        self.query = rules.optional(rules.query)("query", self.query)

    def _query(self) -> Mapping[str, Any]:
        return ONE_ROW if self.query is None else self.query

    def _judge(self, known: _incidents.Changed, finding: Finding, now: float) -> dict[str, Any] | None:
        if finding.state == "missing":
            known.is_missing()
        elif finding.state == "there" and finding.result is not None:
            seen: dict[str, Any] = {"rows": finding.rows}
            if self.query is not None:
                seen["digest"] = hashlib.sha256(finding.result.content).hexdigest()
            return known.is_there(now, finding.key, finding.node, seen, most=self.max_events_per_hour)
        return None
