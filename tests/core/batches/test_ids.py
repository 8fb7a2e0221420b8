"""The call id of a line bills it once: it is the same for ever, and a UUIDv7."""

import hashlib
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.batches.ids import call_id_of, may_be_id


def test_the_id_of_a_line_never_changes():
    assert call_id_of("batch_01", 1_764_374_400_000, 0) == "019acce8-cc00-74cd-beb6-1b0a6a0251b7"
    assert call_id_of("batch_01", 1_764_374_400_000, 1) == "019acce8-cc00-74ed-b455-567230b55a09"


@given(st.text("abcdef0123456789_", min_size=1), st.integers(0, (1 << 48) - 1), st.integers(0, 1_000_000))
def test_it_is_a_uuid_of_version_7_made_of_time_and_hash(batch_id, created_ms, line):
    made = uuid.UUID(call_id_of(batch_id, created_ms, line))
    digest = hashlib.sha256(b"tollgate batch line\0" + batch_id.encode() + b"\0" + str(line).encode()).digest()
    bits = int.from_bytes(digest[:16], "big")
    assert (made.version, made.variant, made.int >> 80) == (7, uuid.RFC_4122, created_ms)
    assert made.int >> 64 & 0xFFF == bits >> 64 & 0xFFF
    assert made.int & (1 << 62) - 1 == bits & (1 << 62) - 1


@pytest.mark.parametrize(("text", "may"), [("batch_1-A", True), ("", False), ("a/b", False), ("a" * 129, False)])
def test_what_may_be_an_id(text, may):
    assert may_be_id(text) is may
