"""Makes nearly valid bytes: flipped bits, cuts, repeated parts, extreme numbers and significant words."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

_NUMBERS = (0, 1, -1, 2**15, 2**31 - 1, -(2**31), 2**32 - 1, 2**40, 2**63 - 1, -(2**63))


def damaged(random: Random, data: bytes, *, at_the_end: int = 0) -> bytes:
    """The data with some bytes changed; with ``at_the_end``, most changes are among that many last bytes."""
    if not data:
        return data
    if random.random() < 0.08:
        return data[: random.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4, 16))):
        at = random.randrange(len(changed))
        if at_the_end and random.random() < 0.6:
            at = len(changed) - random.randrange(1, min(len(changed), at_the_end) + 1)
        kind = random.random()
        if kind < 0.5:
            changed[at] ^= 1 << random.randrange(8)
        elif kind < 0.75:
            changed[at] = random.randrange(256)
        else:
            number = (random.choice(_NUMBERS) & (2**64 - 1)).to_bytes(8, "little")
            changed[at : at + 4] = number[: random.choice((4, 8))][: len(changed[at : at + 4]) or 1]
    return bytes(changed)


def rewritten(random: Random, data: bytes, words: Sequence[bytes]) -> bytes:
    """The text with parts inserted, removed, doubled or moved; inserted parts are some of the words."""
    for _ in range(random.choice((1, 1, 2, 3, 6))):
        at, to = sorted((random.randrange(len(data) + 1), random.randrange(len(data) + 1)))
        kind = random.random()
        if kind < 0.5:
            word = random.choice(words) * random.choice((1, 1, 1, 1, 2, 50))
            data = data[:at] + word + data[at:]
        elif kind < 0.65:
            data = data[:at] + data[to:]
        elif kind < 0.8:
            data = data[:to] + data[at:to] * random.choice((1, 2)) + data[to:]
        elif kind < 0.9 and data:
            data = damaged(random, data)
        else:
            data = data[to:] + data[at:to] + data[:at]
    return data
