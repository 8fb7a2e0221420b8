"""What a customer asks for with a file."""

import pytest

from proxy.core.batches.uploading import expiry_ms, wanted_file
from proxy.core.calls import Form, FormFile

DAY_MS = 86_400_000


class Bytes:
    """A source in memory."""

    size = 3

    def pieces(self):
        return iter([b"abc"])


def form(name="in.jsonl", **fields):
    return Form(tuple({"purpose": "batch", **fields}.items()), {"file": FormFile(name, "", Bytes(), None)})


@pytest.mark.parametrize(
    ("name", "kept"),
    [("in.jsonl", "in.jsonl"), ("", "file"), ("a\0\r\n\x7fb", "ab"), ("\n", "file"), ("é" * 300, "é" * 255)],
)
def test_a_filename_is_kept_without_what_could_break_anything(name, kept):
    assert wanted_file(form(name)).filename == kept


@pytest.mark.parametrize(
    ("days", "wanted_s", "expires_ms"),
    [
        (30, None, 5 + 30 * DAY_MS),
        (0, None, None),
        (30, 3600, 5 + 3_600_000),
        (1, 30 * 86_400, 5 + DAY_MS),
        (0, 3600, 5 + 3_600_000),
    ],
)
def test_a_file_is_kept_as_long_as_its_owner_wants_and_no_longer_than_any(days, wanted_s, expires_ms):
    assert expiry_ms(5, days, wanted_s) == expires_ms
