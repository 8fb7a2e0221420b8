"""The migrated schema is the one in schema.py, on both engines, whoever migrates and however many at once."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from proxy.ledger import batch_schema, invoice_schema, migrations  # noqa: F401 - their tables join the others
from proxy.ledger.database import Database
from proxy.ledger.errors import LedgerRefusedError, LedgerSchemaError, LedgerUnavailableError
from proxy.ledger.migrations import migrate
from proxy.ledger.schema import accounts, metadata
from tests.support.ports import free_port


def described(connection):
    """Everything that an engine knows about its tables, in a form to compare."""
    inspector = inspect(connection)
    tables = {}
    for name in sorted(set(inspector.get_table_names()) - {"alembic_version"}):
        tables[name] = {
            "columns": [(c["name"], str(c["type"]), c["nullable"], c["default"]) for c in inspector.get_columns(name)],
            "key": (
                inspector.get_pk_constraint(name)["name"],
                inspector.get_pk_constraint(name)["constrained_columns"],
            ),
            "unique": sorted((u["name"], u["column_names"]) for u in inspector.get_unique_constraints(name)),
            "foreign": sorted(
                (f["name"], f["constrained_columns"], f["referred_table"], f["referred_columns"])
                for f in inspector.get_foreign_keys(name)
            ),
            "checks": sorted((c["name"], c["sqltext"]) for c in inspector.get_check_constraints(name)),
            "indexes": sorted((i["name"], i["column_names"], bool(i["unique"])) for i in inspector.get_indexes(name)),
            "options": {k: v for k, v in inspector.get_table_options(name).items() if not k.startswith("oracle")},
        }
    return tables


async def test_the_migrated_schema_is_the_one_that_the_code_describes(database_url, tmp_path, request):
    await migrate(database_url)
    migrated = Database.open(database_url)
    async with migrated.read() as connection:
        by_migration = await connection.run_sync(described)
        differences = await connection.run_sync(
            lambda sync: compare_metadata(
                MigrationContext.configure(sync, opts={"compare_type": True, "compare_server_default": True}), metadata
            )
        )
    async with migrated.write() as connection:
        await connection.run_sync(metadata.drop_all)
        await connection.run_sync(metadata.create_all)
    async with migrated.read() as connection:
        by_metadata = await connection.run_sync(described)
    await migrated.close()
    assert differences == []
    assert by_migration == by_metadata
    assert "entries" in by_migration


def test_head_is_the_last_step_that_there_is():
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_current_head() == migrations.HEAD


async def test_migrating_twice_changes_nothing(database_url):
    await migrate(database_url)
    await migrate(database_url)
    database = Database.open(database_url)
    async with database.read() as connection:
        versions = (await connection.execute(text("SELECT version FROM directory_changes"))).all()
    await database.close()
    assert versions == [(0,)]


def test_many_processes_may_migrate_an_empty_database_at_once(database_url):
    code = (
        "import asyncio, sys; from proxy.ledger.migrations import migrate; sys.stdin.read(1); "
        "asyncio.run(migrate(sys.argv[1]))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, database_url], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(5)
    ]
    for process in processes:  # all have imported what they need when the first byte comes
        process.stdin.write(b"!")
        process.stdin.flush()
    results = [(process.communicate(timeout=60)[1], process.returncode) for process in processes]
    assert results == [(b"", 0)] * 5


async def test_a_database_of_a_newer_program_is_refused(database_url):
    await migrate(database_url)
    database = Database.open(database_url)
    async with database.write() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    await database.close()
    with pytest.raises(LedgerSchemaError, match="newer version"):
        await migrate(database_url)


async def test_a_database_that_is_not_there_is_unavailable_and_its_password_untold():
    with pytest.raises(LedgerUnavailableError) as caught:
        await migrate(f"postgresql://tollgate:hunter2@127.0.0.1:{free_port()}/ledger")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["mysql://h/d", "sqlite://", "sqlite:///:memory:", "not a url", "postgresql://u:hunter2@h:x/d"]
)
def test_a_url_of_anything_else_is_refused_without_showing_it(url):
    with pytest.raises(ValueError, match="database URL") as caught:
        Database.open(url)
    assert "hunter2" not in str(caught.value)


async def test_an_integer_beyond_64_bits_is_refused_and_never_becomes_a_float(database):
    async with database.write() as connection:
        await connection.execute(
            accounts.insert().values(id="a", name="a", tier="tier1", timezone="UTC", created_ms=2**63 - 1)
        )
    with pytest.raises(LedgerRefusedError):
        await change(database, "UPDATE accounts SET created_ms = created_ms + 1")


async def test_a_reader_sees_one_snapshot_while_others_write(database):
    query = text("SELECT version FROM directory_changes")
    async with database.read() as reader:
        before = (await reader.execute(query)).scalar_one()
        async with database.write() as writer:
            await writer.execute(text("UPDATE directory_changes SET version = version + 1"))
        assert (await reader.execute(query)).scalar_one() == before


async def change(database, statement):
    async with database.write() as connection:
        await connection.execute(text(statement))


async def begin(database):
    async with database.read():
        pass


async def test_a_pool_that_is_used_up_is_unavailable_and_not_waited_for_for_ever(database_url, monkeypatch):
    monkeypatch.setattr("proxy.ledger.database._POOL_TIMEOUT_S", 0.05)
    database = Database.open(database_url, pool_size=1)
    async with database.read():
        with pytest.raises(LedgerUnavailableError):
            await begin(database)
    await begin(database)
    await database.close()


async def change_and_raise(database):
    async with database.write() as connection:
        await connection.execute(text("UPDATE directory_changes SET version = 77"))
        raise asyncio.CancelledError


async def test_a_block_that_raises_leaves_nothing(database):
    with pytest.raises(asyncio.CancelledError):
        await change_and_raise(database)
    async with database.read() as connection:
        assert (await connection.execute(text("SELECT version FROM directory_changes"))).scalar_one() == 0
