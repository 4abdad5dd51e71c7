"""Tables as CSV, the same in every run."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

CITIES = ("Tokyo", "Delhi", "Zürich", "Oslo", "São Paulo", "Lagos", "Cairo", "Lima", "Osaka", "Turin")
COUNTRIES = ("JP", "IN", "CH", "NO", "BR")

Row = Callable[[random.Random, int], dict[str, object]]
"""Makes the row with a number; all rows have the same columns, and None is null."""


def mixed(pick: random.Random, number: int) -> dict[str, object]:
    """14 columns: integers, floats, booleans and texts; some have nulls, quotes or non-ASCII characters."""
    sparse = pick.random()
    return {
        "id": number,
        "shop": pick.randrange(1000),
        "stock": None if sparse < 0.05 else pick.randrange(500),
        "price": pick.randrange(1, 100_000) / 100,
        "ratio": pick.random(),
        "discount": None if sparse > 0.7 else pick.randrange(50) / 100,
        "open": pick.random() < 0.5,
        "country": pick.choice(COUNTRIES),
        "city": f"{pick.choice(CITIES)} {pick.randrange(20)}",
        "sku": f"sku-{pick.randrange(100_000):06}",
        "token": f"{pick.getrandbits(64):016x}",
        "day": f"2024-{pick.randint(1, 12):02}-{pick.randint(1, 28):02}",
        "seen": f"2024-05-{pick.randint(1, 31):02}T{pick.randrange(24):02}:{pick.randrange(60):02}:00Z",
        "note": None if sparse < 0.1 else f'"sold, {pick.randrange(100)} times"',
    }


def numeric(pick: random.Random, number: int) -> dict[str, object]:
    """10 columns: five of integers and five of floats."""
    return {
        "id": number,
        "shop": pick.randrange(1000),
        "change": pick.randrange(-1000, 1000),
        "part": pick.getrandbits(31),
        "token": pick.getrandbits(60),
        "price": pick.randrange(100_000) / 100,
        "ratio": pick.random(),
        "deviation": f"{pick.gauss(0, 1):.6f}",
        "balance": f"{pick.uniform(-1e6, 1e6):.3f}",
        "half": pick.randrange(100) / 2,
    }


def sales(pick: random.Random, number: int) -> dict[str, object]:
    """7 columns for queries: keys of 1,000 shops, 200 cities and 100,000 articles, and floats."""
    return {
        "id": number,
        "shop": pick.randrange(1000),
        "city": f"{pick.choice(CITIES)} {pick.randrange(20)}",
        "sku": f"sku-{pick.randrange(100_000):06}",
        "price": pick.randrange(1, 100_000) / 100,
        "ratio": pick.random(),
        "discount": None if pick.random() < 0.3 else pick.randrange(50) / 100,
    }


def cities(_: random.Random, number: int) -> dict[str, object]:
    """2 columns: a name and its length."""
    name = CITIES[number % len(CITIES)]
    return {"city": name, "length": len(name)}


def rows(row: Row, count: int) -> list[dict[str, object]]:
    """The first rows of a table."""
    pick = random.Random(row.__name__)
    return [row(pick, number) for number in range(count)]


def csv(table: Iterable[dict[str, object]]) -> bytes:
    """Rows as CSV. Texts that need quotes must have them already."""
    body = bytearray()
    for record in table:
        if not body:
            body += _line(record)
        body += _line("" if value is None else str(value) for value in record.values())
    return bytes(body)


def csv_of_size(row: Row, size: int) -> bytes:
    """CSV of about this many bytes."""
    sample = 1000
    return csv(rows(row, sample * size // len(csv(rows(row, sample)))))


def _line(fields: Iterable[str]) -> bytes:
    return (",".join(fields) + "\n").encode()
