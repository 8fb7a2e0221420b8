"""The steps from an empty database to the ledger's schema, in order, for both engines.

What belongs here: bringing a database up to date, whatever number of processes try it at once. What does not:
the schema as it stands (schema.py).

To change the schema: edit schema.py, write ``versions/vNNNN_what.py`` after the last one, raise ``HEAD``.
"""

import asyncio
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, inspect, text

from proxy.ledger.database import Database
from proxy.ledger.errors import LedgerSchemaError, LedgerUnavailableError

HEAD: Final = "0008"
"""The revision that this program works with."""

_LOCK: Final = 0x746F_6C6C_6761_7465  # "tollgate": the advisory lock that migrating replicas queue for
_PATIENCE_S: Final = 600.0
_ATTEMPTS: Final = 20


async def migrate(url: str) -> None:
    """Bring the database of a URL to ``HEAD``, from wherever it is; an empty one gets the whole schema.

    Raises:
        LedgerUnavailableError: the database does not answer.
        LedgerSchemaError: a newer program migrated it.
    """
    database = Database.open(url, pool_size=1, command_timeout_s=_PATIENCE_S)
    try:
        await _migrate(database)
    finally:
        await database.close()


async def is_migrated(database: Database) -> bool:
    """Whether a database is at ``HEAD``. Raises ``LedgerUnavailableError``."""
    return await _revision(database) == HEAD


async def _migrate(database: Database) -> None:
    if await _revision(database) == HEAD:
        return
    # BEGIN IMMEDIATE on SQLite; on PostgreSQL the lock lives as long as the transaction, which all steps
    # share.
    async with database.write() as connection:
        if database.is_postgresql:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        await connection.run_sync(_upgrade)


async def _revision(database: Database) -> str | None:
    for attempt in range(_ATTEMPTS):
        try:
            async with database.read() as connection:
                return await connection.run_sync(_read_revision)
        except LedgerUnavailableError:
            # The first processes that open a new SQLite file at once compete to switch it to WAL, which does
            # not wait.
            if database.is_postgresql or attempt == _ATTEMPTS - 1:
                raise
            await asyncio.sleep(0.05)
    raise AssertionError("unreachable")


def _read_revision(connection: Connection) -> str | None:
    # Read without Alembic, whose import takes longer than every other part of a command.
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return revision


def _upgrade(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 - see _read_revision
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, HEAD)
    except CommandError as exc:
        raise LedgerSchemaError("the ledger was migrated by a newer version of this program") from exc
