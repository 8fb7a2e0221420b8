"""What a customer asks for with a file."""

import pytest

from proxy.core.batches.uploading import wanted_file
from proxy.core.calls import Form, FormFile


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
