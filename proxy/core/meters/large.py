"""Large bodies: usage off a whole answer of any size, without parsing it.

What belongs here: a meter of whole answers as they pass (``BodyMeter``, the contract of ``StreamMeter``), the same
reading of one that has been collected (``read_large``), and what makes an answer of a body. What does not: finding
members (members.py), and what their numbers are worth (the rule of each family: ``UsageRule``).

An answer is an object with a list under a name of its own (``data``, ``choices``, ``results``), and without an error.
Cost: 0.8 ms a megabyte of vectors (numbers or base64), 6 ms of text with many escapes, or of probabilities for every
token; a piece of 256 KiB 0.3 ms, or 3 ms. Memory: what is held back, and a few small members.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from proxy.core.meters.contract import Reading, StreamMeter
from proxy.core.meters.members import BLANKS, Members, Names
from proxy.core.usage import NOTHING, Usage

UsageRule = Callable[[object, int], Usage]
"""Makes quantities of a decoded usage member (None: there is none that can be read) and the bytes of the answer."""

HELD_BYTES_MAX: Final = 4096
"""Most that is held back. Blanks beyond this after an answer's end are left out: they mean nothing in JSON."""

_decode: Final = msgspec.json.Decoder(Any).decode


class Kind(msgspec.Struct, frozen=True):
    """What the answers of a route look like.

    Args:
        names: its answers' list, ``usage`` and ``error``, ready to be looked for.
        list_name: name of the list.
        may_be_bare: whether an answer may also be the list itself, without an object around it.
    """

    names: Names
    list_name: bytes
    may_be_bare: bool


def answers_with(list_name: str, *, may_be_bare: bool = False) -> Kind:
    """Return the kind of answers whose list has that name; to be made once, when a module is loaded."""
    name = list_name.encode()
    return Kind(Names((name, b"usage", b"error")), name, may_be_bare)


class BodyMeter:
    """Reads a whole answer as it passes.

    Held back until ``tail``: everything from the last byte on that is no blank, so that no client takes an answer for
    whole before its call is committed.

    Args:
        kind: what an answer looks like.
        rule: what its usage member is worth.
    """

    __slots__ = ("_bytes", "_held", "_kind", "_members", "_rule")

    def __init__(self, kind: Kind, rule: UsageRule) -> None:
        self._kind = kind
        self._rule = rule
        self._members = Members(kind.names)
        self._held = b""
        self._bytes = 0

    def feed(self, piece: bytes) -> bytes:
        """Take the next bytes of the body, cut anywhere; return what may go to the client now."""
        self._members.feed(piece)
        self._bytes += len(piece)
        last = len(piece.rstrip(BLANKS)) - 1
        if last >= 0:
            passing, held = b"".join((self._held, memoryview(piece)[:last])), piece[last:]
        else:
            passing, held = b"", self._held + piece
        if len(held) > HELD_BYTES_MAX:
            if self._members.is_whole:
                held = held[:HELD_BYTES_MAX]
            else:
                passing, held = passing + held[:-HELD_BYTES_MAX], held[-HELD_BYTES_MAX:]
        self._held = held
        return passing

    def judge_like(self, other: StreamMeter) -> None:
        """Take the rule of another meter: more is known of the call than when this one was made."""
        assert isinstance(other, BodyMeter)
        self._rule = other._rule  # noqa: SLF001 - of its own kind

    def known(self) -> Usage:
        """Return the usage as far as it is known now."""
        return self._rule(_decoded(self._members.found.get(b"usage")), self._bytes)

    def tail(self) -> bytes:
        """Return what was held back."""
        held, self._held = self._held, b""
        return held

    def finish(self) -> Reading:
        """Return the final reading."""
        members, found = self._members, self._members.found
        if _is_said(found.get(b"error")):
            return Reading(NOTHING, complete=False, failed=True)
        has_list = found.get(self._kind.list_name) == b"["
        if not members.is_object:
            has_list = members.is_whole and self._kind.may_be_bare
        usage = found.get(b"usage", b"")
        if members.is_whole and not has_list and not usage.startswith(b"{"):
            return Reading(NOTHING, complete=False)
        return Reading(self.known(), complete=members.is_whole and has_list)


def read_large(body: bytes, kind: Kind, rule: UsageRule) -> Reading:
    """Read a whole answer that has been collected, as ``BodyMeter`` would.

    One that is cut off or no JSON at all is not complete: what its usage says, or the rule's estimate. One that holds
    an error, or neither list nor usage, is no answer: nothing was used.
    """
    meter = BodyMeter(kind, rule)
    meter.feed(body)
    return meter.finish()


def _decoded(text: bytes | None) -> object:
    if not text:
        return None
    try:
        return _decode(text)
    except (ValueError, RecursionError):  # msgspec's errors and those of UTF-8 are ValueErrors
        return None


def _is_said(error: bytes | None) -> bool:
    """Whether an error member says that there is one: anything but null and the like, even what cannot be read."""
    if error is None:
        return False
    try:
        return bool(_decode(error)) if error else True
    except (ValueError, RecursionError):
        return True
