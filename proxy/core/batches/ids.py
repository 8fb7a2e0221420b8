"""Ids: the call id of a line, and what may be an id that a customer names.

What belongs here: these. The call id of a line is the same whoever runs it, however often; it is what bills a line
once: an entry with it is taken once by the ledger, a hold with it once by the limiter.
"""

import hashlib
import re
from typing import Final

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")


def may_be_id(text: str) -> bool:
    """Whether a batch or a file could have this id: no store is asked for any other."""
    return _ID.fullmatch(text) is not None


def call_id_of(batch_id: str, created_ms: int, line: int) -> str:
    """Return the id of the call of a line (from 0): a UUIDv7 (RFC 9562, section 5.7) of the batch's creation.

    Its 74 random bits are those of a SHA-256 over batch and line.
    """
    bits = int.from_bytes(
        hashlib.sha256(b"tollgate batch line\0%b\0%d" % (batch_id.encode(), line)).digest()[:16], "big"
    )
    number = (created_ms & (1 << 48) - 1) << 80 | bits & (1 << 80) - 1
    number = number & ~(0xF << 76) | 7 << 76
    number = number & ~(0b11 << 62) | 0b10 << 62
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
