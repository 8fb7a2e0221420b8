"""Ids: the call id of a line, and what may be an id that a customer names.

What belongs here: these. The call id of a line is the same whoever runs it, however often; it is what bills a line
once: an entry with it is taken once by the ledger, a hold with it once by the limiter.
"""

import hashlib
import re
from typing import Final

_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 0b11] for digit in "0123456789abcdef"}
"""The digit that holds the variant, two bits, and two that are free."""
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")


def may_be_id(text: str) -> bool:
    """Whether a batch or a file could have this id: no store is asked for any other."""
    return _ID.fullmatch(text) is not None


def call_id_of(batch_id: str, created_ms: int, line: int) -> str:
    """Return the id of the call of a line (from 0): a UUIDv7 (RFC 9562, section 5.7) of the batch's creation.

    Its 74 random bits are those of a SHA-256 over batch and line.
    """
    time = f"{created_ms & (1 << 48) - 1:012x}"
    bits = hashlib.sha256(b"tollgate batch line\0%b\0%d" % (batch_id.encode(), line)).hexdigest()
    return f"{time[:8]}-{time[8:]}-7{bits[13:16]}-{_VARIANT[bits[16]]}{bits[17:20]}-{bits[20:32]}"
