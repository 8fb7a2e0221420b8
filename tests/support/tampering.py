"""What a test needs that changes what nobody may change: the database's guards out of the way."""

from sqlalchemy import text

from proxy.ledger.database import Database


async def unguard(database: Database, *tables: str) -> None:
    """Drop the triggers that refuse to change or remove rows of some tables."""
    async with database.write() as connection:
        for table in tables:
            if database.is_postgresql:
                query = text(
                    "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = CAST(:name AS regclass)"
                )
            else:
                query = text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = :name")
            for (trigger,) in (await connection.execute(query, {"name": table})).all():
                on = f" ON {table}" if database.is_postgresql else ""
                await connection.execute(text(f"DROP TRIGGER {trigger}{on}"))
