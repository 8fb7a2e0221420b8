"""Forms as they come in: measured and hashed piece by piece, so that an upload of any size needs no memory.

What belongs here: reading ``multipart/form-data``, and how long an audio file plays. What does not: what is answered.
"""

import hashlib
import struct
from typing import Final

import msgspec
from aiohttp import BodyPartReader, web

from proxy.simulator.requests import refuse

KEPT_BYTES_MAX: Final = 1024 * 1024
"""A longer file or body is not remembered, only its beginning, its size and its digest."""
_HEAD_BYTES: Final = 64 * 1024
_PIECE_BYTES: Final = 64 * 1024
_BYTES_PER_SECOND: Final = 16_000
"""Of audio that is not WAV: 128 kbit/s."""
_COMPRESSED: Final = (b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf1", b"fLaC", b"OggS", b"\x1aE\xdf\xa3")
_CHUNK_HEAD_BYTES: Final = 8


class Upload(msgspec.Struct, frozen=True):
    """A file of a form.

    Args:
        name: of the file as sent, "" when there was none.
        content_type: as sent, "" when there was none.
        content: the whole file up to ``KEPT_BYTES_MAX``, only its beginning beyond that.
        size: bytes.
        sha256: of all of them, hexadecimal.
    """

    name: str
    content_type: str
    content: bytes
    size: int
    sha256: str


class ReceivedForm(msgspec.Struct, frozen=True):
    """A form: its fields in the order sent, and its files by the name of their field."""

    fields: tuple[tuple[str, str], ...]
    files: dict[str, Upload]

    def get(self, name: str, default: str = "") -> str:
        """Return the last value of a field."""
        return dict(self.fields).get(name, default)


async def read_form(request: web.Request) -> ReceivedForm:
    """Return a form, every file of it measured as it came.

    Raises:
        RefusedError: 400, it cannot be read.
    """
    fields: list[tuple[str, str]] = []
    files: dict[str, Upload] = {}
    try:
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader):
                continue
            if part.filename is None and part.name != "file":
                fields.append((part.name or "", await part.text()))
            else:
                files[part.name or ""] = await _read_file(part)
    except ValueError as exc:
        refuse(f"There was an error parsing the body: {exc}", None, "Bad Request")
    return ReceivedForm(tuple(fields), files)


async def _read_file(part: BodyPartReader) -> Upload:
    digest, size, kept = hashlib.sha256(), 0, bytearray()
    while piece := await part.read_chunk(_PIECE_BYTES):
        digest.update(piece)
        size += len(piece)
        if size <= KEPT_BYTES_MAX:
            kept += piece
        elif len(kept) > _HEAD_BYTES:
            del kept[_HEAD_BYTES:]
    content_type = part.headers.get("Content-Type", "")
    return Upload(part.filename or "", content_type, bytes(kept), size, digest.hexdigest())


def duration_s(file: Upload) -> float | None:
    """Return how long a file plays: WAV exactly, compressed audio by its size; None: it is no audio."""
    head = file.content
    if head.startswith(_COMPRESSED) or head[4:8] == b"ftyp":
        return file.size / _BYTES_PER_SECOND
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    at, rate, frame_bytes = 12, 0, 0
    while at + _CHUNK_HEAD_BYTES <= len(head):
        name, size = head[at : at + 4], int.from_bytes(head[at + 4 : at + 8], "little")
        at += _CHUNK_HEAD_BYTES
        if name == b"fmt " and at + 16 <= len(head):
            rate, frame_bytes = struct.unpack_from("<I", head, at + 4)[0], struct.unpack_from("<H", head, at + 12)[0]
        if name == b"data":
            return min(size, file.size - at) // frame_bytes / rate if rate and frame_bytes else None
        at += size + size % 2
    return None
