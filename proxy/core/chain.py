"""The chain that seals an account's month: what is hashed, in which order, down to the byte.

What belongs here: the format, pure. What does not: writing links (ledger/chain.py) and checking them (chain_audit.py).
docs/audit.md describes the format for whoever writes a checker of his own.

Every commit that brings an account entries of a month makes one link. A link's head is a SHA-256 over the head before
it and over its entries, so a head seals everything up to it. What is hashed is JSON without blanks, as RFC 8785 writes
it, behind a line that says what it is and in which version of the format: no two things have the same bytes.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

FORMAT: Final = 1
"""The version of the format. It is in everything that is hashed, and the first byte of ``chain_links.leaves``."""

NO_HEAD: Final = ""
"""The head before the first link."""

FIELDS: Final = (
    "account_id",
    "month",
    "call_id",
    "day",
    "key_id",
    "tier",
    "endpoint",
    "model",
    "tariff_class",
    "outcome",
    "admitted_ms",
    "settled_ms",
    "upstream",
    "streamed",
    "estimated",
    "sources",
    "price_version",
    "cost_pico",
    "input_quantity",
    "cached_input_quantity",
    "output_quantity",
    "reasoning_quantity",
    "rerank_quantity",
    "audio_minutes_quantity",
    "input_cost_pico",
    "cached_input_cost_pico",
    "output_cost_pico",
    "reasoning_cost_pico",
    "rerank_cost_pico",
    "audio_minutes_cost_pico",
)
"""What of an entry is sealed, in the order in which it is hashed: every column of its row but ``link``, whose number is
hashed with the link. One more column is another version of the format."""

FLAGS: Final = ("streamed", "estimated")
"""Fields that are ``true`` or ``false``."""

Value = str | int | bool

Leaf = tuple[str, bytes]
"""An entry as its link knows it: its call id, and the SHA-256 of its row (of unpacked leaves: its first bytes)."""

MARK_BYTES: Final = 8
"""How much of a row's SHA-256 is in a leaf: enough to tell which row it was; that it is the same says the head."""

BATCH_LINE: Final = b"tollgate batch %d\n" % FORMAT
"""What is hashed before the digests of a link's entries."""
_ENTRY: Final = b"tollgate entry %d\n" % FORMAT
_LINK: Final = b"tollgate link %d\n" % FORMAT
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_IS_UUID: Final = 0
_IS_TEXT: Final = 1
_TEXT_BYTES_MAX: Final = 65_535
_encode: Final = msgspec.json.Encoder().encode


def entry_bytes(values: Sequence[Value]) -> bytes:
    """Return an entry's canonical bytes: the JSON array of ``FIELDS``, without blanks, in UTF-8."""
    return _encode(values)


def entry_digest(canonical: bytes) -> bytes:
    """Return the SHA-256 of an entry, given its canonical bytes."""
    return hashlib.sha256(_ENTRY + canonical).digest()


def batch_digest(leaves: Iterable[Leaf]) -> str:
    """Return the SHA-256, in hex, of the entries of one link: of their digests, in the order of their call ids.

    Args:
        leaves: sorted, with whole digests.
    """
    return hashlib.sha256(BATCH_LINE + b"".join(digest for _, digest in leaves)).hexdigest()


def next_head(previous: str, account_id: str, month: str, link: int, entries: int, sealed_ms: int, batch: str) -> str:
    """Return the head of a link, in hex.

    Args:
        previous: the head before it; ``NO_HEAD`` for the first link.
        account_id: whose month.
        month: ``YYYY-MM``.
        link: its number, from 1.
        entries: how many it seals.
        sealed_ms: when, Unix milliseconds.
        batch: their digest.
    """
    said = _encode((previous, account_id, month, link, entries, sealed_ms, batch))
    return hashlib.sha256(_LINK + said).hexdigest()


def pack_leaves(leaves: Iterable[Leaf]) -> bytes:
    """Return what a link keeps of its entries, so that a changed, a missing and a foreign one can be named.

    After the format's version, for each entry: its call id (0 and the 16 bytes of a UUID, or 1, a length of two bytes,
    and UTF-8), and the first eight bytes of its digest.

    Args:
        leaves: in the order of their call ids.
    """
    parts = [b"%c" % FORMAT]
    for call_id, digest in leaves:
        if _UUID.fullmatch(call_id):
            parts.append(b"%c%b" % (_IS_UUID, bytes.fromhex(call_id.replace("-", ""))))
        else:
            text = call_id.encode()[:_TEXT_BYTES_MAX]
            parts.append(b"%c%b%b" % (_IS_TEXT, len(text).to_bytes(2), text))
        parts.append(digest[:MARK_BYTES])
    return b"".join(parts)


def unpack_leaves(packed: bytes) -> Mapping[str, bytes]:
    """Return the first bytes of each entry's digest, by call id.

    Raises:
        ValueError: these are no leaves of this version of the format.
    """
    if packed[:1] != b"%c" % FORMAT:
        raise ValueError("leaves of another format")
    leaves: dict[str, bytes] = {}
    place = 1
    while place < len(packed):
        kind, place = packed[place], place + 1
        if kind == _IS_UUID:
            end = place + 16
            hexes = packed[place:end].hex()
            call_id = "-".join((hexes[:8], hexes[8:12], hexes[12:16], hexes[16:20], hexes[20:]))
        elif kind == _IS_TEXT:
            place, end = place + 2, place + 2 + int.from_bytes(packed[place : place + 2])
            call_id = packed[place:end].decode(errors="replace")
        else:
            raise ValueError("leaves that cannot be read")
        place = end + MARK_BYTES
        if place > len(packed):
            raise ValueError("leaves that end too early")
        leaves[call_id] = packed[end:place]
    return leaves
