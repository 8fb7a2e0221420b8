"""Keys, as operators make, rotate and revoke them.

What belongs here: the life of a key; each change in one transaction that also moves the directory's version.
What does not: the format of a key (core/accounts.py), and looking one up on the hot path (directory.py).

A token is returned by the call that makes it and never again: only its digest is stored.
"""

import os
from collections.abc import Callable

import msgspec
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.core.accounts import Key, digest_of, format_key
from proxy.ledger.accounts import find_account, new_id, note_change, now_ms
from proxy.ledger.database import Database
from proxy.ledger.errors import RefusedChangeError, UnknownKeyError
from proxy.ledger.schema import accounts, keys

_ENTROPY_BYTES = 32


class NewKey(msgspec.Struct, frozen=True):
    """A key and its token, this once."""

    key: Key
    token: str

    def __repr__(self) -> str:
        """Leave the token out: a repr ends up in logs."""
        return f"NewKey(key={self.key!r})"


class KeyInfo(msgspec.Struct, frozen=True):
    """A key for operators to look at."""

    key: Key
    account: str
    created_ms: int
    rotated_from: str | None


class Keys:
    """The keys of accounts, as operators change them.

    Every method raises ``LedgerUnavailableError`` when the database does not answer.
    """

    def __init__(self, database: Database, clock_ms: Callable[[], int] = now_ms) -> None:
        self._database = database
        self._clock_ms = clock_ms

    async def create(self, account: str, expires_ms: int | None = None) -> NewKey:
        """Make a key for an account (by name or id).

        Raises:
            UnknownAccountError: there is no such account.
            RefusedChangeError: it would have expired already.
        """
        at_ms = self._clock_ms()
        if expires_ms is not None and expires_ms <= at_ms:
            raise RefusedChangeError("a key cannot expire in the past")
        async with self._database.write() as connection:
            owner = await find_account(connection, account)
            return await self._make(connection, owner.id, expires_ms, at_ms, None)

    async def rotate(self, key_id: str, overlap_ms: int) -> NewKey:
        """Make a key that takes another's place; the old one stays valid for the overlap, or to its own end.

        Raises:
            UnknownKeyError: there is no such key.
            RefusedChangeError: the key is no longer valid, or has been given an end by a rotation or
                revocation.
        """
        at_ms = self._clock_ms()
        async with self._database.write() as connection:
            old = await _find_key(connection, key_id)
            if old.revoked_ms is not None or not old.is_valid_at(at_ms):
                raise RefusedChangeError(f"key {key_id} has been revoked, rotated or has expired: create a new one")
            await self._end(connection, key_id, at_ms + overlap_ms)
            return await self._make(connection, old.account_id, old.expires_ms, at_ms, key_id)

    async def revoke(self, key_id: str) -> Key:
        """Revoke a key now. Of a key that was revoked already nothing changes.

        Raises:
            UnknownKeyError: there is no such key.
        """
        at_ms = self._clock_ms()
        async with self._database.write() as connection:
            key = await _find_key(connection, key_id)
            if key.revoked_ms is not None and key.revoked_ms <= at_ms:
                return key
            await self._end(connection, key_id, at_ms)
        return msgspec.structs.replace(key, revoked_ms=at_ms)

    async def all(self, account: str | None = None) -> list[KeyInfo]:
        """Return the keys of an account (by name or id), or of all, oldest first.

        Raises:
            UnknownAccountError: there is no such account.
        """
        query = select(keys, accounts.c.name).join(accounts, accounts.c.id == keys.c.account_id)
        async with self._database.read() as connection:
            if account is not None:
                owner = await find_account(connection, account)
                query = query.where(keys.c.account_id == owner.id)
            rows = await connection.execute(query.order_by(keys.c.created_ms, keys.c.id))
            return [
                KeyInfo(
                    Key(row.id, row.account_id, row.digest, row.expires_ms, row.revoked_ms),
                    row.name,
                    row.created_ms,
                    row.rotated_from,
                )
                for row in rows
            ]

    async def _make(
        self,
        connection: AsyncConnection,
        account_id: str,
        expires_ms: int | None,
        at_ms: int,
        old: str | None,
    ) -> NewKey:
        token = format_key(os.urandom(_ENTROPY_BYTES))
        key = Key(new_id("key"), account_id, digest_of(token), expires_ms)
        row = {"created_ms": at_ms, "rotated_from": old, **msgspec.structs.asdict(key)}
        await connection.execute(keys.insert().values(row))
        await note_change(connection)
        return NewKey(key, token)

    async def _end(self, connection: AsyncConnection, key_id: str, revoked_ms: int) -> None:
        await connection.execute(update(keys).where(keys.c.id == key_id).values(revoked_ms=revoked_ms))
        await note_change(connection)


async def _find_key(connection: AsyncConnection, key_id: str) -> Key:
    table = keys.c
    query = select(table.id, table.account_id, table.digest, table.expires_ms, table.revoked_ms)
    row = (await connection.execute(query.where(table.id == key_id).with_for_update())).one_or_none()
    if row is None:
        raise UnknownKeyError(f"there is no key {key_id!r}")
    return Key(*row)
