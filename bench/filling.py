"""A month of entries, written straight into a ledger: millions of rows in minutes, with their rollups.

What belongs here: making rows and bringing them into SQLite or PostgreSQL, fast. What does not: measuring.
"""

import random
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice

from sqlalchemy import Table

from proxy.core.calendar import day_of, month_bounds_ms
from proxy.core.usage import UsageType
from proxy.ledger.accounts import Accounts
from proxy.ledger.database import Database
from proxy.ledger.migrations import migrate
from proxy.ledger.schema import calls_daily, calls_monthly, entries, rollups_daily, rollups_monthly

MONTH = "2026-11"
ZONE = "Europe/Paris"
VERSION = "2026-01"
MODELS = ("gpt-oss:120b", "llama3.3:70b", "qwen3:235b", "mistral-small3.2:24b")
UPSTREAMS = ("vllm-1", "vllm-2", "vllm-3")
PRICES = {UsageType.INPUT: 1_800_000, UsageType.CACHED_INPUT: 900_000, UsageType.OUTPUT: 8_000_000}
TYPES = tuple(UsageType)
ROWS = 20_000

Row = tuple[str | int | bool, ...]


async def fill(url: str, count: int, accounts: int = 20) -> None:
    """Make a ledger whose month has ``count`` entries of accounts of very different size."""
    await migrate(url)
    database = Database.open(url, command_timeout_s=600)
    try:
        names = [f"account-{number:03d}" for number in range(accounts)]
        ids = [(await Accounts(database).create(name, "tier3")).id for name in names]
    finally:
        await database.close()
    sums = Sums()
    await write(url, entries, sums.of(rows_of(ids, count)))
    for table, rows in sums.tables():
        await write(url, table, iter(rows))


def rows_of(ids: list[str], count: int) -> Iterator[Row]:
    """Yield rows of ``entries``, in the order of time as a proxy makes them; the first accounts have most calls."""
    rng = random.Random(count)
    starts_ms, ends_ms = month_bounds_ms(MONTH, ZONE)
    weights = [1 / (place + 1) for place in range(len(ids))]
    day, day_ends_ms = "", 0
    for start in range(0, count, ROWS):
        accounts = rng.choices(ids, weights, k=ROWS)
        for place in range(min(ROWS, count - start)):
            number = start + place
            at_ms = starts_ms + (ends_ms - starts_ms) * number // count
            if at_ms >= day_ends_ms:
                day = day_of(at_ms, ZONE)
                day_ends_ms = (at_ms // 3_600_000 + 1) * 3_600_000
            yield _row(rng, accounts[place], number, at_ms, day)


def _row(rng: random.Random, account_id: str, number: int, at_ms: int, day: str) -> Row:
    made = f"{at_ms:012x}"
    quantities = [rng.randrange(10, 5000), rng.randrange(3) * 1024, rng.randrange(1, 1024), 0, 0, 0]
    costs = [quantity * PRICES.get(kind, 0) for kind, quantity in zip(TYPES, quantities, strict=True)]
    cached = "r" if quantities[1] else "-"
    return (
        account_id,
        MONTH,
        f"{made[:8]}-{made[8:]}-7{number & 0xFFF:03x}-8000-{number:012x}",
        day,
        f"key_{account_id[-8:]}",
        "tier3",
        "/v1/chat/completions",
        MODELS[number % len(MODELS)],
        "standard",
        "finished",
        at_ms,
        at_ms + rng.randrange(200, 40_000),
        UPSTREAMS[number % len(UPSTREAMS)],
        number % 2 == 0,
        False,
        f"r{cached}r---",
        VERSION,
        sum(costs),
        *quantities,
        *costs,
        number + 1,
    )


class Sums:
    """The rollups of rows that pass by."""

    def __init__(self) -> None:
        self._rollups: dict[tuple[str, ...], list[int]] = {}
        self._calls: dict[tuple[str, ...], int] = {}

    def of(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Pass rows on, and count them."""
        first = [column.name for column in entries.columns].index(f"{TYPES[0].value}_quantity")
        for row in rows:
            account_id, _, _, day, _, _, _, model, tariff_class = (str(value) for value in row[:9])
            key = (account_id, day, model, tariff_class)
            self._calls[key] = self._calls.get(key, 0) + 1
            for place, letter in enumerate(str(row[15])):
                if letter != "-":
                    self._add(key, place, int(row[first + place]), int(row[first + len(TYPES) + place]))
            yield row

    def _add(self, key: tuple[str, ...], place: int, quantity: int, cost_pico: int) -> None:
        account_id, day, model, tariff_class = key
        line = self._rollups.setdefault((account_id, day, model, TYPES[place].value, tariff_class, VERSION), [0, 0, 0])
        line[0] += quantity
        line[1] += cost_pico
        line[2] += 1

    def tables(self) -> Iterator[tuple[Table, list[Row]]]:
        """Yield each table of sums with its rows."""
        yield rollups_daily, [(*key, *line) for key, line in self._rollups.items()]
        monthly: dict[tuple[str, ...], list[int]] = {}
        for (account_id, _, *rest), line in self._rollups.items():
            total = monthly.setdefault((account_id, MONTH, *rest), [0, 0, 0])
            total[:] = (one + more for one, more in zip(total, line, strict=True))
        yield rollups_monthly, [(*key, *line) for key, line in monthly.items()]
        yield calls_daily, [(*key, count) for key, count in self._calls.items()]
        calls: dict[tuple[str, ...], int] = {}
        for (account_id, _, *rest), count in self._calls.items():
            key = (account_id, MONTH, *rest)
            calls[key] = calls.get(key, 0) + count
        yield calls_monthly, [(*key, count) for key, count in calls.items()]


async def write(url: str, table: Table, rows: Iterator[Row]) -> None:
    """Write rows in the order of the table's columns."""
    names = [column.name for column in table.columns]
    if url.startswith("sqlite:///"):
        _write_sqlite(url.removeprefix("sqlite:///"), table.name, names, rows)
    else:
        await _write_postgresql(url, table.name, names, rows)


def _write_sqlite(path: str, table: str, names: list[str], rows: Iterator[Row]) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous=OFF")
        marks = ", ".join("?" * len(names))
        while some := list(islice(rows, ROWS)):
            connection.execute("BEGIN")
            connection.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", some)
            connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()


async def _write_postgresql(url: str, table: str, names: list[str], rows: Iterator[Row]) -> None:
    import asyncpg  # noqa: PLC0415 - only where there is a PostgreSQL

    connection = await asyncpg.connect(url)
    try:
        while some := list(islice(rows, ROWS)):
            await connection.copy_records_to_table(table, records=some, columns=names)
        await connection.execute(f"ANALYZE {table}")
    finally:
        await connection.close()
