"""Record which of many tables a task has stored, for its next try: a bitmap over the keys and their hash.

The record is in Airflow's task state store, which Airflow 3.3 introduced and which outlives the task's
process. Nothing here imports Airflow or the client.
"""

from __future__ import annotations

import base64
import hashlib
import threading
import zlib
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.operators._arguments import counted

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping, Sequence

_NAME: Final = "qcache_tables"
_VERSION: Final = 1

MOST_BYTES: Final = 60_000
"""The largest record that is written: Airflow warns above 64 kB. The bitmap of 360,000 keys has that size in
the worst case; if the keys are stored in their order it has a few hundred bytes."""


class ResumeRecord:
    """What the tries of a task have stored.

    The record holds a number of keys, the hash of that many first keys, and which of them are stored. If the
    keys come one by one, they can be compared with those of the earlier try once that many have come. Until
    then ``in`` trusts the record, and ``keys_differ`` says afterwards that the record was for other keys.

    A record belongs to one task in one run, and to one series of tries: clearing a task begins a new series
    (Airflow increases ``max_tries``), which stores every table again.
    """

    def __init__(
        self, context: Mapping[str, Any], keys: Sequence[str] | None, log: logging.Logger, *, durable: bool
    ) -> None:
        self._store = context.get("task_state_store") if durable else None
        self._log = log
        ti = context.get("ti")
        self._series = getattr(ti, "max_tries", None)
        self.is_retry = _is_retry(ti)
        """Whether an earlier try of this series may have stored other keys."""
        self._places: dict[str, int] = {}
        """Each key's place, from 0, in the order of the keys."""
        self._hash = hashlib.sha256()
        """The hash of the keys so far."""
        self._counting = threading.Lock()
        """Held while keys are added and compared with the earlier record, and while bits are set."""
        self._writing = threading.Lock()
        """Held while a record is made and written, so that the record written last is the newest."""
        self._before = 0
        """What an earlier try stored, as a bitmap over the places."""
        self._bits = 0
        """The next record: the earlier record, updated by what this try did."""
        self._stored = 0
        """What this try stored."""
        self._known: tuple[int, str] | None = None
        """The number of keys in the earlier try's record, and their hash, until they are compared."""
        self.is_orphan = False
        """Whether the process of Airflow that runs the task has ended, and so sends no more heartbeats."""
        self.keys_differ = False
        for key in keys or ():
            self.add(key)
        self._load(all_keys_known=keys is not None)

    def _load(self, *, all_keys_known: bool) -> None:
        if self._store is None:
            return
        try:
            record = self._store.get(_NAME)
        except Exception:  # noqa: BLE001  # this try stores everything
            self._log.warning("Cannot read the task state store: this try stores every table", exc_info=True)
            self._store = None
            return
        if not isinstance(record, dict):
            return
        if (record.get("version"), record.get("series")) != (_VERSION, self._series):
            return
        known = (record["keys"], record["hash"])
        if all_keys_known and known != (len(self._places), self._hash.hexdigest()):
            self._reject()
            return
        try:
            done = zlib.decompress(base64.b64decode(record["done"], validate=True))
        except (zlib.error, ValueError):
            return
        self._before = self._bits = int.from_bytes(done, "little")
        if not all_keys_known:
            self._known = known
        stored = f"{self.stored_before:,} of {counted(known[0], 'table')}"
        self._log.info("An earlier try stored %s: this try skips those that their node still has", stored)

    def _reject(self) -> None:
        self._log.info("The keys differ from those of the previous try: this try stores every table")
        self.keys_differ = True
        self._known = None
        self._bits = self._stored

    @property
    def keys(self) -> list[str]:
        return list(self._places)

    @property
    def stored_before(self) -> int:
        return 0 if self.keys_differ else self._before.bit_count()

    def add(self, key: str) -> int:
        """Add the next key; returns its place. ValueError if the key was there before."""
        with self._counting:
            place = len(self._places)
            if (before := self._places.setdefault(key, place)) != place:
                raise ValueError(f"tables: key {key!r} occurs twice, as numbers {before + 1} and {place + 1}")
            self._hash.update(f"{key}\n".encode())
            if self._known is not None and len(self._places) == self._known[0]:
                if self._hash.hexdigest() != self._known[1]:
                    self._reject()
                self._known = None
        return place

    def end(self) -> None:
        """Note that there are no more keys."""
        if self._known is not None:
            self._reject()

    def __contains__(self, key: object) -> bool:
        """Whether an earlier try stored the key's table."""
        place = self._places.get(key) if isinstance(key, str) else None
        return place is not None and not self.keys_differ and bool(self._before >> place & 1)

    def set(self, key: str, *, done: bool) -> None:
        bit = 1 << self._places[key]
        with self._counting:
            self._stored = self._stored | bit if done else self._stored & ~bit
            self._bits = self._bits | bit if done else self._bits & ~bit

    def save(self) -> None:
        """Write the record, if there is a store for it. Safe for threads."""
        with self._writing:
            if self._store is None or self._known is not None or not self._places:
                return  # until the keys are compared with those of the earlier record, that record stays
            with self._counting:
                count, digest, bits = len(self._places), self._hash.hexdigest(), self._bits
            done = base64.b64encode(
                zlib.compress(bits.to_bytes(bits.bit_length() // 8 + 1, "little"))
            ).decode()
            if len(done) > MOST_BYTES:
                self._log.warning(
                    "The record of %d keys has %d bytes, too many for the task state store: a retry repeats "
                    "the stores from here on",
                    count,
                    len(done),
                )
                self._store = None
                return
            try:
                self._store.set(
                    _NAME,
                    {
                        "version": _VERSION,
                        "series": self._series,
                        "keys": count,
                        "hash": digest,
                        "done": done,
                    },
                )
            except (EOFError, ConnectionError):  # the other end of the task's socket is closed
                self.is_orphan = True
                self._store = None
            except Exception:  # noqa: BLE001  # the tables are stored all the same
                self._log.warning(
                    "Cannot write the task state store: a retry may store every table again", exc_info=True
                )
                self._store = None

    def forget(self) -> None:
        """Delete the record: the task has succeeded, and when it runs again it stores every table."""
        with self._writing:
            store, self._store = self._store, None
            if store is None:
                return
            try:
                store.delete(_NAME)
            except Exception:  # noqa: BLE001
                self._log.info(
                    "All tables are stored, but Airflow did not delete this task's record of them",
                    exc_info=True,
                )


def _is_retry(ti: Any) -> bool:
    """Whether a try follows a failed one. Clearing a task raises ``max_tries``, and begins a new series."""
    tries, most = getattr(ti, "try_number", None), getattr(ti, "max_tries", None)
    retries = getattr(getattr(ti, "task", None), "retries", None)
    if not isinstance(tries, int) or not isinstance(most, int) or not isinstance(retries, int):
        return isinstance(tries, int) and tries > 1
    return tries > most - retries + 1
