"""Keys, as operators make, rotate and revoke them.

What belongs here: the life of a key and its limits; each change in one transaction that also moves the directory's
version. What does not: the format of a key (core/accounts.py), and looking one up on the hot path (directory.py).

A token is returned by the call that makes it and never again: only its digest is stored.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.clock import unix_ms
from proxy.core.accounts import Key, digest_of, format_key
from proxy.core.catalogue import OwnLimits
from proxy.core.levels import Overridable
from proxy.core.limits import UNLIMITED
from proxy.core.quotas import UNLIMITED_PICO
from proxy.ledger.accounts import find_account, new_id, note_change
from proxy.ledger.database import Database
from proxy.ledger.errors import RefusedChangeError, UnknownKeyError
from proxy.ledger.overrides import check_number
from proxy.ledger.schema import accounts, keys

_ENTROPY_BYTES = 32
_REQUESTS_WINDOW_S = 60
_COLUMNS = {
    Overridable.OUTPUT_TOKENS_HOUR: "output_tokens_hour",
    Overridable.OUTPUT_TOKENS_DAY: "output_tokens_day",
    Overridable.REQUESTS: "requests",
    Overridable.REQUESTS_WINDOW_S: "requests_window_s",
    Overridable.MONTHLY_LIMIT: "monthly_limit_pico",
    Overridable.CALLS_IN_FLIGHT: "calls_in_flight",
}

Numbers = Mapping[Overridable, int | None]
"""Limits of a key: tokens, requests, seconds, calls, and pico-euros in a month; None: it has no such limit."""


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

    def __init__(self, database: Database, clock_ms: Callable[[], int] = unix_ms) -> None:
        self._database = database
        self._clock_ms = clock_ms

    async def create(self, account: str, expires_ms: int | None = None, limits: Numbers | None = None) -> NewKey:
        """Make a key for an account (by name or id), with limits of its own inside the account's.

        Raises:
            UnknownAccountError: there is no such account.
            RefusedChangeError: it would have expired already, or a limit is out of range.
        """
        numbers = _stored(limits or {})
        at_ms = self._clock_ms()
        if expires_ms is not None and expires_ms <= at_ms:
            raise RefusedChangeError("a key cannot expire in the past")
        async with self._database.write() as connection:
            owner = await find_account(connection, account)
            return await self._make(connection, owner.id, expires_ms, at_ms, numbers)

    async def limit(self, key_id: str, limits: Numbers) -> Key:
        """Change those of a key's own limits that are named; None takes one away.

        What was taken away is counted on, so that it finds everything when it is set again.

        Raises:
            UnknownKeyError: there is no such key.
            RefusedChangeError: no limit is named, or one is out of range.
        """
        if not limits:
            raise RefusedChangeError("nothing to be set: give at least one limit")
        changes = _stored(limits)
        async with self._database.write() as connection:
            row = await _find(connection, key_id)
            for name in [name for name, number in changes.items() if number is None]:
                if getattr(row, name) is None:
                    del changes[name]
                else:
                    changes[name] = _NO_LONGER.get(name, UNLIMITED)
            if changes:
                await connection.execute(update(keys).where(keys.c.id == key_id).values(changes))
                await note_change(connection)
            return key_of(await _find(connection, key_id))

    async def rotate(self, key_id: str, overlap_ms: int) -> NewKey:
        """Make a key that takes another's place; the old one stays valid for the overlap, or to its own end.

        The new one has the old one's limits, and what has been used of them.

        Raises:
            UnknownKeyError: there is no such key.
            RefusedChangeError: the key is no longer valid, or has been given an end by a rotation or
                revocation.
        """
        at_ms = self._clock_ms()
        async with self._database.write() as connection:
            row = await _find(connection, key_id)
            old = key_of(row)
            if old.revoked_ms is not None or not old.is_valid_at(at_ms):
                raise RefusedChangeError(f"key {key_id} has been revoked, rotated or has expired: create a new one")
            await self._end(connection, key_id, at_ms + overlap_ms)
            kept = {name: getattr(row, name) for name in _COLUMNS.values()}
            kept |= {"rotated_from": key_id, "limits_scope": row.limits_scope or key_id}
            return await self._make(connection, old.account_id, old.expires_ms, at_ms, kept)

    async def revoke(self, key_id: str) -> Key:
        """Revoke a key now. Of a key that was revoked already nothing changes.

        Raises:
            UnknownKeyError: there is no such key.
        """
        at_ms = self._clock_ms()
        async with self._database.write() as connection:
            key = key_of(await _find(connection, key_id))
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
            return [KeyInfo(key_of(row), row.name, row.created_ms, row.rotated_from) for row in rows]

    async def _make(
        self,
        connection: AsyncConnection,
        account_id: str,
        expires_ms: int | None,
        at_ms: int,
        more: Mapping[str, object],
    ) -> NewKey:
        token = format_key(os.urandom(_ENTROPY_BYTES))
        key_id, digest = new_id("key"), digest_of(token)
        row = {"id": key_id, "account_id": account_id, "digest": digest, "expires_ms": expires_ms, "created_ms": at_ms}
        await connection.execute(keys.insert().values({**row, **more}))
        await note_change(connection)
        return NewKey(key_of(await _find(connection, key_id)), token)

    async def _end(self, connection: AsyncConnection, key_id: str, revoked_ms: int) -> None:
        await connection.execute(update(keys).where(keys.c.id == key_id).values(revoked_ms=revoked_ms))
        await note_change(connection)


def key_of(row: Row[Any]) -> Key:
    """Return the key that a row of ``keys`` holds."""
    limits = None
    numbers = (row.output_tokens_hour, row.output_tokens_day, row.requests, row.monthly_limit_pico, row.calls_in_flight)
    if numbers != _NONE:
        hour, day, requests, monthly_pico, in_flight = numbers
        window_s = row.requests_window_s or _REQUESTS_WINDOW_S
        limits = OwnLimits(row.limits_scope or row.id, hour, day, requests, window_s, monthly_pico, in_flight)
    return Key(row.id, row.account_id, row.digest, row.expires_ms, row.revoked_ms, limits)


_NONE = (None,) * 5
_NO_LONGER = {"monthly_limit_pico": UNLIMITED_PICO, "requests_window_s": _REQUESTS_WINDOW_S}


def _stored(limits: Numbers) -> dict[str, int | None]:
    """Return limits by their column. Raises RefusedChangeError when one is out of range."""
    for limit, amount in limits.items():
        check_number(limit, amount)
    return {_COLUMNS[limit]: amount for limit, amount in limits.items()}


async def _find(connection: AsyncConnection, key_id: str) -> Row[Any]:
    row = (await connection.execute(select(keys).where(keys.c.id == key_id).with_for_update())).one_or_none()
    if row is None:
        raise UnknownKeyError(f"there is no key {key_id!r}")
    return row
