"""Fixtures of the ledger's tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.ledger.database import Database
from proxy.ledger.outbox import Outbox
from proxy.ledger.store import Ledger
from tests.ledger.support import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(database: Database, clock: Clock) -> Ledger:
    return Ledger(database, clock_ms=clock)


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[Outbox]:
    opened = Outbox(tmp_path / "state" / "outbox-0.db")
    yield opened
    await opened.close()
