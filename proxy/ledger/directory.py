"""The directory: every key and account in memory, so that no call waits to be authenticated.

What belongs here: the snapshot, the look-up, and keeping the snapshot fresh. What does not: changing accounts
and keys (accounts.py, keys.py).

Every change counts up ``directory_changes.version`` in its own transaction. Each replica reads that number
every 0.4 s and loads everything when it has moved, so a revocation is felt everywhere within a second. While
the database is away the last snapshot serves on; ``age_s`` tells how old it is. A planned change of a tier is in the
snapshot with its instant: every replica makes it by its own clock, whether the database answers then or not.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Final

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.clock import unix_ms
from proxy.core.accounts import KEY_CHARS, Account, Principal, digest_of
from proxy.ledger.accounts import ACCOUNTS, account_of
from proxy.ledger.database import Database
from proxy.ledger.errors import LedgerUnavailableError
from proxy.ledger.keys import key_of
from proxy.ledger.overrides import overrides_by_account
from proxy.ledger.schema import directory_changes, keys

_log = structlog.get_logger(__name__)

POLL_S: Final = 0.4


class Directory:
    """Who may call.

    Args:
        database: migrated.
        poll_s: seconds between two looks at the version.
        monotonic_s: a clock that never runs back, seconds.
    """

    def __init__(
        self, database: Database, *, poll_s: float = POLL_S, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._poll_s = poll_s
        self._monotonic_s = monotonic_s
        self._by_digest: Mapping[str, Principal] = {}
        self._by_key_id: Mapping[str, Principal] = {}
        self._accounts: Mapping[str, Account] = {}
        self._version = -1
        self._fresh_at_s = monotonic_s()
        self._is_failing = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load everything, then keep it fresh.

        Raises:
            LedgerUnavailableError: the database does not answer: there would be nobody to let in.
        """
        await self.refresh()
        self._task = asyncio.create_task(self._keep_fresh(), name="directory")

    async def close(self) -> None:
        """Stop keeping it fresh."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def authenticate(self, token: str, now_ms: int) -> Principal | None:
        """Return who calls, or None. Nothing tells a caller why: unknown, expired and revoked look the same.

        The token is looked up by its SHA-256: how long that takes says nothing about any other token.
        """
        if len(token) != KEY_CHARS:
            return None
        principal = self._by_digest.get(digest_of(token))
        if principal is None or not principal.key.is_valid_at(now_ms):
            return None
        return principal if principal.account.planned is None else principal.at(now_ms)

    def principal(self, key_id: str, now_ms: int) -> Principal | None:
        """Return who called with a key, whether it is still valid or not; None: no key has this id.

        What was begun with a key, a batch, goes on when the key has ended.
        """
        principal = self._by_key_id.get(key_id)
        return None if principal is None else principal.at(now_ms)

    @property
    def accounts(self) -> Mapping[str, Account]:
        """Every account by id, as of the snapshot: ``Account.at`` tells the tier that one holds at a time."""
        return self._accounts

    @property
    def age_s(self) -> float:
        """Seconds since the snapshot was last known to be true."""
        return self._monotonic_s() - self._fresh_at_s

    async def refresh(self) -> bool:
        """Look whether anything has changed and load it; return whether it had.

        Raises:
            LedgerUnavailableError: the database does not answer; the snapshot stays.
        """
        asked_at_s = self._monotonic_s()
        async with self._database.read() as connection:
            version: int = (await connection.execute(select(directory_changes.c.version))).scalar_one()
            has_changed = version != self._version
            if has_changed:
                self._accounts, self._by_digest = await _load(connection)
                self._by_key_id = {principal.key.id: principal for principal in self._by_digest.values()}
                self._version = version
        self._fresh_at_s = asked_at_s
        return has_changed

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self.refresh()
            except Exception as exc:  # noqa: BLE001 - a revocation must be felt when the fault has passed
                self._note_failure(exc)
            else:
                if self._is_failing:
                    self._is_failing = False
                    _log.warning("directory_fresh_again")

    def _note_failure(self, exc: Exception) -> None:
        if not self._is_failing:
            self._is_failing = True
            expected = isinstance(exc, LedgerUnavailableError)
            _log.error("directory_stale", error=str(exc), exc_info=None if expected else exc)


async def _load(connection: AsyncConnection) -> tuple[dict[str, Account], dict[str, Principal]]:
    """Return accounts by id and principals by digest, a few hundred rows at a time: calls go on meanwhile."""
    found: dict[str, Account] = {}
    by_digest: dict[str, Principal] = {}
    overridden = await overrides_by_account(connection, unix_ms())
    async for rows in (await connection.stream(ACCOUNTS)).partitions(_ROWS_AT_ONCE):
        found.update((row.id, account_of(row)) for row in rows)
    async for key_rows in (await connection.stream(_KEYS)).partitions(_ROWS_AT_ONCE):
        for row in key_rows:
            key = key_of(row)
            overrides = overridden.get(key.account_id, ())
            by_digest[key.digest] = Principal(found[key.account_id], key, overrides)
    return found, by_digest


_ROWS_AT_ONCE: Final = 500
_KEYS: Final = select(keys)
