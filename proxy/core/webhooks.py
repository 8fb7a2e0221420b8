"""Webhooks: how a message is signed, and when it is tried again. Pure.

What belongs here: the symmetric scheme of Standard Webhooks 1.0 (github.com/standard-webhooks), and the pauses. What
does not: sending (events/delivery.py).
"""

import base64
import binascii
import hashlib
import hmac
from typing import Final

import msgspec

_PREFIX: Final = "whsec_"
_SECRET_BYTES: Final = range(24, 65)

PAUSES_S: Final = (5, 30, 120, 600, 1800, 3600, 7200, 14_400, 28_800)
"""After the first, second, … attempt that was not acknowledged; the last one from then on."""


class Webhook(msgspec.Struct, frozen=True):
    """Where events are sent.

    Args:
        url: of the operator's receiver.
        secret: the key that messages are signed with.
        timeout_s: how long one attempt may take, seconds.
        give_up_after_ms: how old an event may become before nothing more is tried.
    """

    url: str
    secret: bytes
    timeout_s: float
    give_up_after_ms: int

    def __repr__(self) -> str:
        """Leave the secret out, and the URL, whose path may be one: a repr ends up in logs."""
        return f"Webhook(timeout_s={self.timeout_s!r}, give_up_after_ms={self.give_up_after_ms!r})"


def parse_secret(text: str) -> bytes:
    """Return the key of a secret as Standard Webhooks writes it: ``whsec_`` and base64 of 24 to 64 bytes.

    Raises:
        ValueError: it is none; the message holds nothing of it.
    """
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith(_PREFIX) or len(key) not in _SECRET_BYTES:
        raise ValueError("whsec_ and 24 to 64 bytes in base64")
    return key


def signature(secret: bytes, message_id: str, timestamp_s: int, body: bytes) -> str:
    """Return the value of the header ``webhook-signature``."""
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp_s, body)
    return f"v1,{base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()}"


def signed_headers(secret: bytes, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """Return the headers of a message; the timestamp is that of the attempt, the id stays."""
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": signature(secret, message_id, timestamp_s, body),
    }


def pause_ms(attempts: int) -> int:
    """Return how long to wait after so many attempts, at least one, before the next."""
    return PAUSES_S[min(attempts, len(PAUSES_S)) - 1] * 1000
