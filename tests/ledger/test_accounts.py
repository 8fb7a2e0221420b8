"""Accounts and keys change in one piece, or not at all."""

import pytest
from sqlalchemy import select

from proxy.ledger.accounts import Accounts
from proxy.ledger.credit import Credit
from proxy.ledger.errors import (
    DuplicateAccountError,
    RefusedChangeError,
    UnknownAccountError,
    UnknownKeyError,
)
from proxy.ledger.keys import Keys
from proxy.ledger.schema import directory_changes
from proxy.ledger.tiers import TierChange
from tests.ledger.support import NOON_MS

EURO = 10**12


@pytest.fixture
def accounts(database, clock):
    return Accounts(database, clock)


@pytest.fixture
def keys(database, clock):
    return Keys(database, clock)


async def directory_version(database):
    async with database.read() as connection:
        return (await connection.execute(select(directory_changes.c.version))).scalar_one()


async def test_an_account_is_found_by_name_and_by_id(accounts):
    account = await accounts.create("acme", "tier1", "Europe/Paris", by="root")
    assert await accounts.named("acme") == await accounts.named(account.id) == account
    assert await accounts.all() == [account]
    assert await accounts.tier_history(account.id) == [TierChange(NOON_MS, "tier1", "root", NOON_MS)]


async def test_a_name_is_taken_once(accounts, database):
    await accounts.create("acme", "tier1")
    before = await directory_version(database)
    with pytest.raises(DuplicateAccountError, match="acme"):
        await accounts.create("acme", "tier2", credit_pico=EURO)
    assert await directory_version(database) == before
    assert await Credit(database).lots() == []


@pytest.mark.parametrize("name", ["", " ", " acme", "acme\n", "a\x00b"])
async def test_a_name_is_something_to_read(accounts, name):
    with pytest.raises(RefusedChangeError, match="not a name"):
        await accounts.create(name, "tier1")


async def test_an_unknown_zone_is_refused(accounts):
    with pytest.raises(RefusedChangeError, match="not a time zone"):
        await accounts.create("acme", "tier1", "Europe/Pariss")


async def test_tiers_have_a_history(accounts, clock, database):
    account = await accounts.create("acme", "tier1", by="a")
    before = await directory_version(database)
    await accounts.set_tier("acme", "tier2", by="b")
    assert await directory_version(database) == before + 1
    clock.now_ms += 60_000
    assert (await accounts.set_tier("acme", "tier3", by="c")).tier == "tier3"
    await accounts.set_tier("acme", "tier3", by="d")
    assert await accounts.tier_history(account.id) == [
        TierChange(NOON_MS, "tier1", "a", NOON_MS),
        TierChange(NOON_MS + 1, "tier2", "b", NOON_MS + 1),
        TierChange(NOON_MS + 60_000, "tier3", "c", NOON_MS + 60_000),
    ]
    assert (await accounts.named("acme")).tier == "tier3"


async def test_what_is_unknown_is_said_to_be(accounts, keys):
    with pytest.raises(UnknownAccountError, match="nobody"):
        await accounts.set_tier("nobody", "tier1")
    with pytest.raises(UnknownAccountError):
        await accounts.set_prepaid_only("nobody", prepaid_only=True)
    with pytest.raises(UnknownAccountError):
        await keys.create("nobody")
    with pytest.raises(UnknownAccountError):
        await keys.all("nobody")
    with pytest.raises(UnknownKeyError):
        await keys.revoke("key_x")
    with pytest.raises(UnknownKeyError):
        await keys.rotate("key_x", 0)


async def test_a_rotation_keeps_both_keys_for_the_overlap(accounts, keys, clock):
    await accounts.create("acme", "tier1")
    old = await keys.create("acme", expires_ms=NOON_MS + 10_000)
    new = await keys.rotate(old.key.id, 3000)
    before, after = await keys.all("acme")
    assert (before.key.id, before.key.revoked_ms) == (old.key.id, NOON_MS + 3000)
    assert (after.key.id, after.rotated_from, after.key.expires_ms) == (new.key.id, old.key.id, NOON_MS + 10_000)
    assert old.token != new.token
    with pytest.raises(RefusedChangeError, match="rotated"):
        await keys.rotate(old.key.id, 3000)


async def test_a_revocation_ends_an_overlap_and_is_repeatable(accounts, keys, clock, database):
    await accounts.create("acme", "tier1")
    old = await keys.create("acme")
    await keys.rotate(old.key.id, 86_400_000)
    assert (await keys.revoke(old.key.id)).revoked_ms == NOON_MS
    version = await directory_version(database)
    clock.now_ms += 5000
    assert (await keys.revoke(old.key.id)).revoked_ms == NOON_MS
    assert await directory_version(database) == version


async def test_every_change_moves_the_directorys_version(accounts, keys, database):
    versions = [await directory_version(database)]
    await accounts.create("acme", "tier1")
    versions.append(await directory_version(database))
    key = (await keys.create("acme")).key
    versions.append(await directory_version(database))
    await keys.rotate(key.id, 1)
    versions.append(await directory_version(database))
    await keys.revoke(key.id)
    versions.append(await directory_version(database))
    assert versions == sorted(set(versions))


async def test_a_key_cannot_begin_after_its_end(accounts, keys):
    await accounts.create("acme", "tier1")
    with pytest.raises(RefusedChangeError, match="past"):
        await keys.create("acme", expires_ms=NOON_MS)
