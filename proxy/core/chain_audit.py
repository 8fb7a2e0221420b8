"""A month's chain, gone through link by link: what of it, and of its entries, is not as it was sealed.

What belongs here: the comparison, pure. What does not: the format (chain.py), and reading links and entries in order
(ledger/chain_reading.py).

The head decides whether a link's entries are those that were sealed; its leaves say which of them is not. Memory does
not grow with the month: entries are hashed as they come, and of what is wrong only so much is named.
"""

import hashlib
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

from proxy.core.chain import BATCH_LINE, MARK_BYTES, NO_HEAD, entry_digest, next_head, unpack_leaves

FINDINGS_MAX: Final = 1000
"""How much of what is wrong with a month is named; the rest is counted."""


class Wrong(StrEnum):
    """What is wrong.

    Attributes:
        CHANGED: an entry is not as it was sealed.
        MISSING: an entry that was sealed is not there.
        INSERTED: an entry is there that no link sealed.
        UNSEALED: an entry says that no link seals it.
        LINK_MISSING: a link is not there, or several in a row.
        LINK_ALTERED: what a link says beside its head is not what it sealed.
        HEAD_BROKEN: a link's head does not follow from the head before it and from its entries.
        LAST_HEAD: the head that the next commit would go on from is not the last link's.
        PRINTED_HEAD: the chain does not have a head that a document has printed.
        UNREADABLE: nobody can read any more what a document has printed.
    """

    CHANGED = "changed_entry"
    MISSING = "missing_entry"
    INSERTED = "inserted_entry"
    UNSEALED = "unsealed_entry"
    LINK_MISSING = "missing_link"
    LINK_ALTERED = "altered_link"
    HEAD_BROKEN = "broken_head"
    LAST_HEAD = "other_last_head"
    PRINTED_HEAD = "other_printed_head"
    UNREADABLE = "unreadable_document"


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong with a month.

    Args:
        wrong: what.
        link: of which link; 0: of none.
        last_link: the last of several that are missing; otherwise the same.
        call_id: of which entry; empty: of none, or the first of ``entries``.
        entries: how many it concerns.
        document: number of the document that printed a head; empty otherwise.
    """

    wrong: Wrong
    link: int
    last_link: int
    call_id: str = ""
    entries: int = 0
    document: str = ""


class StoredLink(msgspec.Struct, frozen=True):
    """A row of ``chain_links``."""

    link: int
    entries: int
    leaves: bytes
    head: str
    sealed_ms: int


class PrintedHead(msgspec.Struct, frozen=True):
    """A head that a document has printed: its number, the link and the head (ChainMark). Link 0: it cannot be read."""

    document: str
    link: int
    head: str


class MonthReport(msgspec.Struct, frozen=True):
    """What was found of a month.

    Args:
        links: how many there are.
        entries: how many there are.
        head: the last link's; ``NO_HEAD``: there is none.
        findings: what is wrong, the first ``FINDINGS_MAX``.
        unnamed: how much more is wrong.
    """

    links: int
    entries: int
    head: str
    findings: tuple[Finding, ...]
    unnamed: int


class _Link:
    """A link whose entries come one by one, in the order of their call ids."""

    def __init__(self, stored: StoredLink) -> None:
        self.stored = stored
        self.count = 0
        self.wrong: list[tuple[Wrong, str]] = []
        self.unnamed = 0
        self._batch = hashlib.sha256(BATCH_LINE)
        try:
            self._leaves = dict(unpack_leaves(stored.leaves))
            self.readable = True
        except ValueError:
            self._leaves, self.readable = {}, False

    def add(self, call_id: str, canonical: bytes) -> None:
        digest = entry_digest(canonical)
        self._batch.update(digest)
        self.count += 1
        mark = self._leaves.pop(call_id, None)
        if mark == digest[:MARK_BYTES] or not self.readable:
            return
        if len(self.wrong) < FINDINGS_MAX:
            self.wrong.append((Wrong.INSERTED if mark is None else Wrong.CHANGED, call_id))
        else:
            self.unnamed += 1

    def close(self) -> str:
        """Return the digest of the entries that came."""
        self.wrong += [(Wrong.MISSING, call_id) for call_id in self._leaves]
        return self._batch.hexdigest()


class MonthAudit:
    """An account's month. Links and entries come in rising order of their links, a link before its entries.

    Args:
        account_id: whose.
        month: ``YYYY-MM``.
        printed: heads of it that documents have printed.
    """

    def __init__(self, account_id: str, month: str, printed: Iterable[PrintedHead] = ()) -> None:
        self._key = account_id, month
        self._printed = tuple(printed)
        self._open: _Link | None = None
        self._may_precede = {NO_HEAD}
        """What the next link may follow from: what the last one says its head is, and what it should be."""
        self._links = self._entries = self._last = 0
        self._head = NO_HEAD
        self._heads = dict.fromkeys((mark.link for mark in self._printed), NO_HEAD)
        self._gaps: list[tuple[int, int]] = []
        self._strays: dict[int, tuple[str, int]] = {}
        self._findings: list[Finding] = []
        self._unnamed = 0

    def link(self, stored: StoredLink) -> None:
        """Begin the next link."""
        self._close_link()
        if stored.link < 1:
            self._open = None
            self._find(Wrong.LINK_ALTERED, stored.link)
            return
        if stored.link != self._last + 1:
            self._gaps.append((self._last + 1, stored.link - 1))
            self._may_precede = set()
        self._open = _Link(stored)
        self._links, self._last, self._head = self._links + 1, stored.link, stored.head
        if stored.link in self._heads:
            self._heads[stored.link] = stored.head

    def entry(self, link: int, call_id: str, canonical: bytes) -> None:
        """Take the next entry.

        Args:
            link: the one that it says it is sealed by.
            call_id: its own.
            canonical: its bytes (chain.py).
        """
        self._entries += 1
        if self._open is not None and link == self._last:
            self._open.add(call_id, canonical)
        elif link < 1:
            self._find(Wrong.UNSEALED, 0, call_id=call_id, entries=1)
        elif link in self._strays or len(self._strays) < FINDINGS_MAX:
            first, count = self._strays.get(link, (call_id, 0))
            self._strays[link] = first, count + 1
        else:
            self._unnamed += 1

    def close(self, last: tuple[int, str] | None) -> MonthReport:
        """End, and say what was found.

        Args:
            last: link and head that the next commit would go on from; None: none are kept.
        """
        self._close_link()
        self._compare_last(last)
        for first, end in self._gaps:
            inside = [self._strays.pop(link) for link in sorted(self._strays) if first <= link <= end]
            call_id = inside[0][0] if inside else ""
            self._find(Wrong.LINK_MISSING, first, end, call_id=call_id, entries=sum(count for _, count in inside))
        for link, (call_id, count) in sorted(self._strays.items()):
            self._find(Wrong.INSERTED, link, call_id=call_id, entries=count)
        for mark in self._printed:
            if mark.link == 0:
                self._find(Wrong.UNREADABLE, 0, document=mark.document)
            elif self._heads[mark.link] != mark.head:
                self._find(Wrong.PRINTED_HEAD, mark.link, document=mark.document)
        return MonthReport(self._links, self._entries, self._head, tuple(self._findings), self._unnamed)

    def _close_link(self) -> None:
        if (of := self._open) is None:
            return
        said, batch = of.stored, of.close()
        heads = {
            next_head(before, *self._key, said.link, of.count, said.sealed_ms, batch) for before in self._may_precede
        }
        self._may_precede = {said.head, *heads}
        if said.head in heads:  # its entries are what was sealed, whatever else it says of them
            if of.wrong or not of.readable or of.count != said.entries:
                self._find(Wrong.LINK_ALTERED, said.link)
            return
        for wrong, call_id in of.wrong:
            self._find(wrong, said.link, call_id=call_id, entries=1)
        self._unnamed += of.unnamed
        if not of.readable or (not of.wrong and of.count != said.entries):
            self._find(Wrong.LINK_ALTERED, said.link)
        elif heads and not of.wrong:
            self._find(Wrong.HEAD_BROKEN, said.link)

    def _compare_last(self, last: tuple[int, str] | None) -> None:
        link, head = last if last is not None else (0, NO_HEAD)
        if link > self._last:
            self._gaps.append((self._last + 1, link))
        elif (link, head) != (self._last, self._head):
            self._find(Wrong.LAST_HEAD, link)

    def _find(
        self, wrong: Wrong, link: int, last_link: int = 0, *, call_id: str = "", entries: int = 0, document: str = ""
    ) -> None:
        if len(self._findings) < FINDINGS_MAX:
            self._findings.append(Finding(wrong, link, last_link or link, call_id, entries, document))
        else:
            self._unnamed += 1
