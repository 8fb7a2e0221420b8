"""The format of the chain, down to the byte: whoever follows docs/audit.md comes to the same heads."""

import hashlib
import json

import pytest

from proxy.core import chain
from proxy.core.usage import UsageType
from proxy.ledger import schema
from proxy.ledger.rows import values_of
from tests.ledger.support import entry

UUID = "019ab000-0000-7000-8000-00000000000a"


def sha256(line: str, rest: bytes) -> bytes:
    return hashlib.sha256(line.encode() + b"\n" + rest).digest()


def plain(value: object) -> bytes:
    """The JSON of docs/audit.md, from the standard library."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def test_every_column_of_an_entry_is_sealed_but_the_number_of_its_link():
    assert [column.name for column in schema.entries.columns] == [*chain.FIELDS, "link"]


def test_flags_are_the_columns_that_are_true_or_false():
    kinds = {column.name for column in schema.entries.columns if column.type is schema.FLAG}
    assert kinds == set(chain.FLAGS)


@pytest.mark.parametrize("model", ["gpt-oss:120b", 'é"\\/\x00\x01\x08\t\n\x0b\x0c\r\x1f\x7f\u2028😀', ""])
def test_an_entry_is_the_json_array_of_its_columns(model):
    made = entry(UUID, model=model, streamed=True, used=[(UsageType.INPUT, 15), (UsageType.AUDIO_MINUTES, 2)])
    expected = [
        "acc_a", "2026-11", UUID, "2026-11-24", "key_1", "tier1", "/v1/chat/completions", model, "standard", "finished",
        1795518000000, 1795518001000, "vllm-1", True, False, "r----r", "2026-01", 20027000000,
        15, 0, 0, 0, 0, 2,
        27000000, 0, 0, 0, 0, 20000000000,
    ]  # fmt: skip
    canonical = chain.entry_bytes(values_of(made))
    assert canonical == plain(expected)
    assert chain.entry_digest(canonical) == sha256("tollgate entry 1", plain(expected))


def test_a_head_follows_from_the_head_before_and_from_everything_that_its_link_says():
    digests = [("a", bytes([1]) * 32), ("b", bytes([2]) * 32)]
    batch = chain.batch_digest(digests)
    assert batch == sha256("tollgate batch 1", bytes([1]) * 32 + bytes([2]) * 32).hex()
    said = ["", "acc_a", "2026-11", 1, 2, 1795518000000, batch]
    first = chain.next_head(*said)
    assert first == sha256("tollgate link 1", plain(said)).hex()
    again = {
        chain.next_head(first, "acc_a", "2026-11", 1, 2, 1795518000000, batch),
        chain.next_head("", "acc_b", "2026-11", 1, 2, 1795518000000, batch),
        chain.next_head("", "acc_a", "2026-12", 1, 2, 1795518000000, batch),
        chain.next_head("", "acc_a", "2026-11", 2, 2, 1795518000000, batch),
        chain.next_head("", "acc_a", "2026-11", 1, 3, 1795518000000, batch),
        chain.next_head("", "acc_a", "2026-11", 1, 2, 1795518000001, batch),
        chain.next_head("", "acc_a", "2026-11", 1, 2, 1795518000000, first),
    }
    assert len(again | {first}) == 8


def test_leaves_tell_each_entry_and_what_it_was():
    digests = [bytes([number]) * 32 for number in range(4)]
    # A name that only looks like a UUID is kept as it is written.
    ids = [UUID, UUID.upper(), "é", ""]
    packed = chain.pack_leaves(zip(ids, digests, strict=True))
    assert packed[:1] == b"\x01"
    assert packed[1:26] == b"\x00" + bytes.fromhex(UUID.replace("-", "")) + bytes(8)
    assert packed[-24:] == b"\x01\x00\x02\xc3\xa9" + bytes([2]) * 8 + b"\x01\x00\x00" + bytes([3]) * 8
    assert chain.unpack_leaves(packed) == {call_id: digest[:8] for call_id, digest in zip(ids, digests, strict=True)}


@pytest.mark.parametrize("packed", [b"", b"\x02", b"\x01\x02", b"\x01\x00", b"\x01\x00" + bytes(23), b"\x01\x01\x00"])
def test_what_is_no_leaves_is_not_read_as_some(packed):
    with pytest.raises(ValueError, match="leaves"):
        chain.unpack_leaves(packed)
