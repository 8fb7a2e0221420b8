"""Going through a chain takes no more memory than one link, however much is wrong."""

import pytest

from proxy.core import chain_audit
from proxy.core.chain import batch_digest, entry_digest, next_head, pack_leaves
from proxy.core.chain_audit import FINDINGS_MAX, MonthAudit, StoredLink, Wrong

KEY = ("acc_a", "2026-11")


def link_of(number, previous, rows):
    leaves = sorted((call_id, entry_digest(row)) for call_id, row in rows.items())
    head = next_head(previous, *KEY, number, len(leaves), 5, batch_digest(leaves))
    return StoredLink(number, len(leaves), pack_leaves(leaves), head, 5)


@pytest.mark.parametrize("link", [1, 0, 7])
def test_of_very_much_that_is_wrong_so_much_is_named_and_the_rest_counted(link):
    rows = {f"call-{number:05d}": b"[%d]" % number for number in range(1500)}
    audit = MonthAudit(*KEY)
    stored = link_of(1, "", rows)
    audit.link(stored)
    for call_id, row in rows.items():
        audit.entry(link, call_id, row + b" ")
    report = audit.close((1, stored.head))
    assert report.entries == 1500
    if link == 7:  # whose entries are told together
        assert report.findings[-1] == chain_audit.Finding(Wrong.MISSING, 1, 1, "call-00999", 1)
        assert report.unnamed == 501
    else:
        assert len(report.findings) == FINDINGS_MAX
        assert len(report.findings) + report.unnamed == (1500 if link else 3000)


def test_entries_of_very_many_links_that_are_not_there_are_counted():
    audit = MonthAudit(*KEY)
    for number in range(1500):
        audit.entry(number + 1, f"call-{number}", b"[]")
    report = audit.close(None)
    assert {finding.wrong for finding in report.findings} == {Wrong.INSERTED}
    assert (len(report.findings), report.unnamed) == (FINDINGS_MAX, 500)


def test_one_altered_head_is_not_taken_for_two():
    first = link_of(1, "", {"a": b"[1]"})
    second = link_of(2, first.head, {"b": b"[2]"})
    third = link_of(3, second.head, {"c": b"[3]"})
    audit = MonthAudit(*KEY)
    for stored, call_id, row in ((first, "a", b"[1]"), (second, "b", b"[2]"), (third, "c", b"[3]")):
        head = "0" * 64 if stored is second else stored.head
        audit.link(StoredLink(stored.link, stored.entries, stored.leaves, head, stored.sealed_ms))
        audit.entry(stored.link, call_id, row)
    assert [(found.wrong, found.link) for found in audit.close((3, third.head)).findings] == [(Wrong.HEAD_BROKEN, 2)]
