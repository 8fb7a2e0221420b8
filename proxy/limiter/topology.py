"""The map of a Redis Cluster: which primary has which account.

What belongs here: slots, and reading what nodes say about them. What does not: asking them (router.py).

A cluster divides its keys into 16,384 slots, each of which one primary serves. What stands in braces in a key decides
its slot, and all keys of an account hold its id there (commands.py): an account is wholly on one primary. Source: the
Redis Cluster specification, "Key distribution model", "Hash tags" and "Redirection and resharding".
"""

from binascii import crc_hqx
from collections.abc import Sequence
from typing import Any, NamedTuple

SLOTS = 16_384


class Address(NamedTuple):
    """Where a node listens, as its cluster says."""

    host: str
    port: int


class Redirection(NamedTuple):
    """What a node answers that does not have a slot: for good (``MOVED``), or for this command only (``ASK``)."""

    is_for_good: bool
    slot: int
    address: Address


def slot_of(account_id: str) -> int:
    """Return the slot of all keys of an account: CRC16 (XMODEM) of the id, modulo 16,384."""
    return crc_hqx(account_id.encode(), 0) % SLOTS


def read_slots(answer: Sequence[Any], asked: Address) -> tuple[Address | None, ...]:
    """Return the primary of each slot from the answer to ``CLUSTER SLOTS``; None: nobody serves it.

    Args:
        answer: lists of first slot, last slot, primary, replicas...; a node is a list of host, port, id...
        asked: who answered: a node that does not know its own host leaves it out.

    Raises:
        ValueError: it is no such answer.
    """
    owners: list[Address | None] = [None] * SLOTS
    try:
        for entry in answer:
            first, last, (host, port, *_) = entry[:3]
            address = _address((host or b"").decode(), port, asked)
            for slot in range(first, last + 1):
                owners[slot] = address
    except (TypeError, ValueError, IndexError, AttributeError) as exc:
        raise ValueError("no answer to CLUSTER SLOTS") from exc
    return tuple(owners)


def read_redirection(error: str, asked: Address) -> Redirection | None:
    """Read ``MOVED 3999 host:port`` or ``ASK 3999 host:port``; None: it is another error."""
    word, _, rest = error.partition(" ")
    if word not in ("MOVED", "ASK"):
        return None
    slot, _, where = rest.partition(" ")
    host, _, port = where.partition(" ")[0].rpartition(":")  # an IPv6 address has colons of its own
    if not (slot.isdecimal() and port.isdecimal() and int(slot) < SLOTS):
        return None
    return Redirection(word == "MOVED", int(slot), _address(host, int(port), asked))


def _address(host: str, port: int, asked: Address) -> Address:
    return Address(asked.host if host in ("", "?") else host, port or asked.port)
