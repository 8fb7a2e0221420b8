"""Fixtures of the events' tests: a migrated ledger on each engine, a clock, a receiver."""

from collections.abc import AsyncIterator

import pytest

from tests.events.receiver import Receiver, receiving
from tests.ledger.support import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running
