"""Who pays and who calls: the values behind a bearer token.

What belongs here: accounts, keys and the format of a key (pure). What does not: where they are stored (ledger/).
"""

import hashlib
import zlib
from typing import Final

import msgspec

from proxy.core.catalogue import OwnLimits
from proxy.core.levels import Override

KEY_PREFIX: Final = "tg-"
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_CHARS: Final = 40
_CHECK_CHARS: Final = 6
KEY_CHARS: Final = len(KEY_PREFIX) + _SECRET_CHARS + _CHECK_CHARS


class PlannedTier(msgspec.Struct, frozen=True):
    """The tier that an account will hold from an instant on, Unix milliseconds."""

    tier: str
    from_ms: int


class Account(msgspec.Struct, frozen=True):
    """Who pays.

    Args:
        id: ``acc_`` and a UUIDv7 in hex.
        name: unique, chosen by the operator.
        tier: id of the tier that the account holds until ``planned`` comes due.
        timezone: IANA name of the zone whose months it is billed in.
        prepaid_only: whether it can spend its credit only; otherwise what goes beyond it is invoiced.
        credit_paid_pico: all credit that it ever bought, pico-euros: it grows with each purchase.
        planned: the tier that comes next, which may be due by now: ``at`` tells; None: none.
    """

    id: str
    name: str
    tier: str
    timezone: str = "Europe/Paris"
    prepaid_only: bool = False
    credit_paid_pico: int = 0
    planned: PlannedTier | None = None

    def at(self, now_ms: int) -> "Account":
        """Return the account as it is at a time (Unix milliseconds): with the planned tier once that is due."""
        if self.planned is None or now_ms < self.planned.from_ms:
            return self
        return msgspec.structs.replace(self, tier=self.planned.tier, planned=None)


class Key(msgspec.Struct, frozen=True):
    """A bearer token of an account, without the token.

    Args:
        id: ``key_`` and a UUIDv7 in hex.
        account_id: whose key it is.
        digest: SHA-256 of the token, lower-case hex.
        expires_ms: Unix milliseconds from which on it is not valid; None: it does not expire.
        revoked_ms: Unix milliseconds of its revocation (which may lie ahead, for a rotation with an overlap); None.
        limits: its own, inside the account's; None: it never had any. A key that takes another's place goes on with
            the other's limits and with what has been used of them.
    """

    id: str
    account_id: str
    digest: str
    expires_ms: int | None = None
    revoked_ms: int | None = None
    limits: OwnLimits | None = None

    def is_valid_at(self, now_ms: int) -> bool:
        """Whether the key may be used at this time."""
        return (self.expires_ms is None or now_ms < self.expires_ms) and (
            self.revoked_ms is None or now_ms < self.revoked_ms
        )


class Principal(msgspec.Struct, frozen=True):
    """Who calls: the key that was shown, the account behind it, and what it has otherwise than its tier for a while."""

    account: Account
    key: Key
    overrides: tuple[Override, ...] = ()

    def at(self, now_ms: int) -> "Principal":
        """Return who calls as it is at a time: see ``Account.at``."""
        account = self.account.at(now_ms)
        return self if account is self.account else msgspec.structs.replace(self, account=account)


def _base62(number: int, chars: int) -> str:
    digits = []
    for _ in range(chars):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def format_key(entropy: bytes) -> str:
    """Return the token for 32 random bytes: prefix, 40 base-62 characters (238 bits) and a checksum of six.

    The checksum (CRC-32, as GitHub's tokens carry) lets a typing error and a scanner's false find be told from a key
    without a look-up; it is no secret.
    """
    secret = _base62(int.from_bytes(entropy, "big"), _SECRET_CHARS)
    return f"{KEY_PREFIX}{secret}{_checksum(secret)}"


def _checksum(secret: str) -> str:
    return _base62(zlib.crc32(secret.encode("ascii")), _CHECK_CHARS)


def digest_of(token: str) -> str:
    """Return the SHA-256 of a token in lower-case hex: the only form in which a key is stored."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
