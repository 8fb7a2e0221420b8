"""Fixtures of the events' tests: a migrated ledger on each engine, a clock, a receiver."""

from collections.abc import AsyncIterator

import pytest

from proxy.ledger.database import Database
from proxy.ledger.migrations import migrate
from tests.events.receiver import Receiver, receiving
from tests.ledger.support import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    await migrate(database_url)
    opened = Database.open(database_url)
    yield opened
    await opened.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running
