"""Leases by name: work that one replica does for all.

What belongs here: taking, renewing and giving back such a lease. What does not: the leases of batches and their blocks,
which are of their own rows (batches/leasing.py).
"""

from sqlalchemy import update

from proxy.ledger.database import Database
from proxy.ledger.schema import leases


class Lease:
    """The lease of one kind of work.

    Both methods raise ``LedgerUnavailableError`` when the database does not answer.

    Args:
        database: migrated.
        name: of the work.
    """

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = name

    async def take(self, holder: str, now_ms: int, until_ms: int) -> bool:
        """Take it, or renew it; False: another one holds it."""
        table = leases.c
        async with self._database.write() as connection:
            first = {"name": self._name, "holder": holder, "until_ms": until_ms}
            if (await connection.execute(self._database.insert(leases).values(first))).rowcount:
                return True
            taken = await connection.execute(
                update(leases)
                .where(table.name == self._name, (table.holder == holder) | (table.until_ms <= now_ms))
                .values(holder=holder, until_ms=until_ms)
            )
        return taken.rowcount == 1

    async def drop(self, holder: str) -> None:
        """Give it back, if it is held: another replica need not wait for its end."""
        async with self._database.write() as connection:
            await connection.execute(
                update(leases).where(leases.c.name == self._name, leases.c.holder == holder).values(until_ms=0)
            )
