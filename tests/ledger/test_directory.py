"""A call is authenticated from memory, and a revocation is felt on every replica within a second."""

import asyncio
import os
import time

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from proxy.core.accounts import format_key
from proxy.ledger.accounts import Accounts
from proxy.ledger.database import Database
from proxy.ledger.directory import Directory
from proxy.ledger.errors import LedgerUnavailableError
from proxy.ledger.keys import Keys
from tests.ledger.support import NOON_MS


@pytest.fixture
async def made(database, clock):
    account = await Accounts(database, clock).create("acme", "tier1")
    return account, await Keys(database, clock).create("acme")


async def loaded(database, **options):
    directory = Directory(database, **options)
    await directory.refresh()
    return directory


async def test_a_key_names_its_account(database, made):
    account, new = made
    principal = (await loaded(database)).authenticate(new.token, NOON_MS)
    assert (principal.account, principal.key) == (account, new.key)


async def test_what_is_no_key_is_nobody(database, made):
    directory = await loaded(database)
    token = made[1].token
    for wrong in ("", "tg-", token[:-1], token + "x", token.lower(), format_key(os.urandom(32)), "é" * len(token)):
        assert directory.authenticate(wrong, NOON_MS) is None


async def test_a_key_ends_at_its_expiry(database, made, clock):
    new = await Keys(database, clock).create("acme", expires_ms=NOON_MS + 1000)
    directory = await loaded(database)
    assert directory.authenticate(new.token, NOON_MS + 999)
    assert directory.authenticate(new.token, NOON_MS + 1000) is None


async def test_a_rotated_key_ends_after_the_overlap_without_another_load(database, made, clock):
    old = made[1]
    new = await Keys(database, clock).rotate(old.key.id, 5000)
    directory = await loaded(database)
    assert directory.authenticate(old.token, NOON_MS + 4999)
    assert directory.authenticate(old.token, NOON_MS + 5000) is None
    assert directory.authenticate(new.token, NOON_MS + 5000)


async def test_only_a_change_is_loaded(database, made, clock):
    directory = await loaded(database)
    assert not await directory.refresh()
    await Accounts(database, clock).set_tier("acme", "tier2")
    assert await directory.refresh()
    assert directory.authenticate(made[1].token, NOON_MS).account.tier == "tier2"
    assert [account.tier for account in directory.accounts.values()] == ["tier2"]


async def test_a_revocation_is_felt_on_every_replica_within_a_second(database_url, database, made, clock):
    replicas = [Database.open(database_url, pool_size=1) for _ in range(3)]
    directories = [Directory(replica) for replica in replicas]
    for directory in directories:
        await directory.start()
    assert all(directory.authenticate(made[1].token, NOON_MS) for directory in directories)
    await Keys(database, clock).revoke(made[1].key.id)
    revoked_at = time.monotonic()
    while any(directory.authenticate(made[1].token, NOON_MS) for directory in directories):
        assert time.monotonic() - revoked_at < 1
        await asyncio.sleep(0.01)
    for directory, replica in zip(directories, replicas, strict=True):
        await directory.close()
        await replica.close()


async def test_while_the_database_is_away_the_last_snapshot_serves_and_grows_old(database, made):
    now_s = 100.0
    directory = Directory(database, poll_s=0.01, monotonic_s=lambda: now_s)
    await directory.start()
    assert directory.age_s == 0
    with capture_logs() as logs:
        async with database.write() as connection:
            await connection.execute(text("ALTER TABLE directory_changes RENAME TO away"))
        await until_logged(logs, "directory_stale")
        now_s = 107.0
        await asyncio.sleep(0.05)
        assert directory.authenticate(made[1].token, NOON_MS)
        assert directory.age_s == 7
        async with database.write() as connection:
            await connection.execute(text("ALTER TABLE away RENAME TO directory_changes"))
        await until_logged(logs, "directory_fresh_again")
    assert directory.age_s == 0
    assert [line["event"] for line in logs] == ["directory_stale", "directory_fresh_again"]
    await directory.close()


async def until_logged(logs, event):
    async with asyncio.timeout(5):
        while event not in [line["event"] for line in logs]:
            await asyncio.sleep(0.005)


async def test_without_a_database_it_does_not_start(tmp_path):
    database = Database.open(f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(LedgerUnavailableError):
        await Directory(database).start()
    await database.close()


async def test_a_key_is_stored_as_its_digest_only(database, made):
    async with database.read() as connection:
        rows = (await connection.execute(text("SELECT * FROM keys"))).all()
    assert made[1].token not in repr(rows)
    assert made[1].key.digest in repr(rows)
    assert made[1].token not in repr(made[1])
