"""What a task has stored of many tables, for its next try: a bitmap over the keys, with a hash of their list.

It is kept in Airflow's task state store, which is there from 3.3 on and outlives the task's process. Nothing
here imports Airflow or the client.
"""

from __future__ import annotations

import base64
import binascii
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
"""Of a record, beyond which it is not written: Airflow warns above 64 kB. A bitmap over 360,000 keys has that
size at the worst; one whose keys are done in their order has a few hundred bytes."""


class KeyList:
    """Keys in order, each once, and a hash of those so far."""

    def __init__(self) -> None:
        self.position: dict[str, int] = {}
        self._hash = hashlib.sha256()

    def __len__(self) -> int:
        return len(self.position)

    def add(self, key: str) -> int:
        """Take the next key; gives its place, from 0. ValueError for one that was there."""
        place = len(self.position)
        if (before := self.position.setdefault(key, place)) != place:
            raise ValueError(f"tables: key {key!r} occurs twice, as numbers {before + 1} and {place + 1}")
        self._hash.update(f"{key}\n".encode())
        return place

    @property
    def hash(self) -> str:
        """Of the keys so far, in hex."""
        return self._hash.hexdigest()


def hash_of(keys: Sequence[str]) -> str:
    """The hash that a KeyList of these has."""
    return hashlib.sha256("".join(f"{key}\n" for key in keys).encode()).hexdigest()


class Bits:
    """A bitmap that grows."""

    def __init__(self, data: bytes = b"") -> None:
        self._data = bytearray(data)

    def __getitem__(self, place: int) -> bool:
        at, bit = divmod(place, 8)
        return at < len(self._data) and bool(self._data[at] >> bit & 1)

    def set(self, place: int, value: bool) -> None:  # noqa: FBT001
        """Set one."""
        at, bit = divmod(place, 8)
        if at >= len(self._data):
            self._data.extend(bytes(at + 1 - len(self._data)))
        if value:
            self._data[at] |= 1 << bit
        else:
            self._data[at] &= ~(1 << bit)

    def count(self) -> int:
        """How many are set."""
        return sum(map(int.bit_count, self._data))

    def encoded(self) -> str:
        """As text."""
        return base64.b64encode(zlib.compress(bytes(self._data))).decode()

    @classmethod
    def decoded(cls, text: str) -> Bits:
        """From text; ValueError where it is none."""
        try:
            return cls(zlib.decompress(base64.b64decode(text, validate=True)))
        except (zlib.error, binascii.Error) as error:
            raise ValueError(f"no bitmap: {error}") from error


class ResumeRecord:
    """What the tries of a task have stored.

    The record holds a number of keys, the hash of that many first ones, and which are done. Where the keys
    come one by one, whether they are those of the earlier try is known once that many have come: until then
    ``in`` trusts the record, and ``keys_differ`` tells afterwards that the record was of other keys.

    A record is of one task in one run, and of one series of tries: clearing a task begins a new one
    (Airflow raises ``max_tries`` then), which is to store everything anew.
    """

    def __init__(
        self,
        context: Mapping[str, Any],
        keys: Sequence[str] | None,
        log: logging.Logger,
        *,
        durable: bool = True,
    ) -> None:
        self._store = context.get("task_state_store") if durable else None
        self._log = log
        ti = context.get("ti")
        self._series = getattr(ti, "max_tries", None)
        self.is_retry = _is_retry(ti)
        """Whether an earlier try of this series may have stored other keys."""
        self._keys = KeyList()
        self._counting = threading.Lock()
        """Held while the number of keys, their hash and the earlier record are compared."""
        self._writing = threading.Lock()
        """Held from the making of a record until it is written: the one written last is the newest."""
        self._whole = None if keys is None else (len(keys), hash_of(keys))
        self._before = Bits()
        self._bits = Bits()
        """What will be recorded: the earlier record, updated by what this try did."""
        self._stored = Bits()
        """What this try stored."""
        self._known: tuple[int, str] | None = None
        """How many keys the earlier try's record is of, and their hash, until they are compared."""
        self.keys_differ = False
        self.count_before = 0
        """How many keys the record that is used is of."""
        self._load()

    def _load(self) -> None:
        if self._store is None:
            return
        try:
            record = self._store.get(_NAME)
        except Exception:  # noqa: BLE001  # a retry repeats everything then
            self._log.warning("The task state store cannot be read: every table is stored", exc_info=True)
            self._store = None
            return
        if not isinstance(record, dict) or record.get("version") != _VERSION:
            return
        if record.get("series") != self._series:
            return
        known = (record["keys"], record["hash"])
        if self._whole is not None and self._whole != known:
            self._log.info("The keys differ from those of the previous try: this try stores every table")
            return
        try:
            self._before, self._bits = Bits.decoded(record["done"]), Bits.decoded(record["done"])
        except ValueError:
            return
        self._known = known
        self.count_before = known[0]
        self._log.info(
            "An earlier try stored %s of %s: this try skips those that their node still has",
            f"{self.stored_before:,}",
            counted(known[0], "table"),
        )
        self._compare()

    def _compare(self) -> None:
        """Compare the keys with those of the record, as soon as there are enough."""
        if self._known is None:
            return
        if self._whole is not None:
            self._known = None
        elif len(self._keys) == self._known[0]:
            if self._keys.hash != self._known[1]:
                self._reject()
            self._known = None

    def _reject(self) -> None:
        self._log.info("The keys differ from those of the previous try: this try stores every table")
        self.keys_differ = True
        self._bits = self._stored

    @property
    def keys(self) -> list[str]:
        """The keys so far, in their order."""
        return list(self._keys.position)

    @property
    def stored_before(self) -> int:
        """How many tables an earlier try stored."""
        return 0 if self.keys_differ else self._before.count()

    def add(self, key: str) -> int:
        """Take the next key; gives its place. ValueError for one that was there."""
        with self._counting:
            place = self._keys.add(key)
            self._compare()
        return place

    def end(self) -> None:
        """No more keys come."""
        if self._known is not None:
            self._reject()
            self._known = None

    def __contains__(self, key: object) -> bool:
        """Whether an earlier try stored the key's table."""
        if not self.count_before or self.keys_differ:
            return False
        place = self._keys.position.get(key) if isinstance(key, str) else None
        return place is not None and place < self.count_before and self._before[place]

    def set(self, key: str, *, done: bool) -> None:
        """Note that a key's table is stored, or is not."""
        place = self._keys.position[key]
        # In this order: another thread may find in between that the keys differ.
        self._stored.set(place, done)
        self._bits.set(place, done)

    def save(self) -> None:
        """Write the record, where there is a store for it; any thread may."""
        with self._writing:
            self._save()

    def _save(self) -> None:
        if self._store is None:
            return
        if self._known is not None:
            return  # not yet compared with these keys: the earlier record stays valid
        with self._counting:
            count, digest = self._whole or (len(self._keys), self._keys.hash)
        if not len(self._keys):
            return
        done = self._bits.encoded()
        if len(done) > MOST_BYTES:
            self._log.warning(
                "What is stored of %d keys is %d bytes, too many for the task state store: a retry repeats "
                "what is stored from here on",
                count,
                len(done),
            )
            self._store = None
            return
        record = {
            "version": _VERSION,
            "series": self._series,
            "keys": count,
            "hash": digest,
            "done": done,
        }
        try:
            self._store.set(_NAME, record)
        except Exception:  # noqa: BLE001  # the tables are stored all the same
            self._log.warning("The task state store cannot be written", exc_info=True)
            self._store = None

    def forget(self) -> None:
        """Delete the record: the task has succeeded, and one that is run again is to store everything."""
        with self._writing:
            store, self._store = self._store, None
            if store is None:
                return
            try:
                store.delete(_NAME)
            except Exception:  # noqa: BLE001
                self._log.warning("The task state store cannot be written", exc_info=True)


def _is_retry(ti: Any) -> bool:
    """Whether a try follows a failed one. Clearing a task raises ``max_tries``, and begins a new series."""
    tries, most = getattr(ti, "try_number", None), getattr(ti, "max_tries", None)
    retries = getattr(getattr(ti, "task", None), "retries", None)
    if not isinstance(tries, int) or not isinstance(most, int) or not isinstance(retries, int):
        return isinstance(tries, int) and tries > 1
    return tries > most - retries + 1
