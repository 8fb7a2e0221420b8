"""A migrated ledger on either engine."""

from collections.abc import AsyncIterator

import pytest

from proxy.ledger.database import Database
from proxy.ledger.migrations import migrate


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A migrated ledger of one's own."""
    await migrate(database_url)
    database = Database.open(database_url)
    yield database
    await database.close()
