"""Images in chats: what is not text in a request, whatever its route.

What belongs here: the documented short form of an image, and what images and other attachments mean for the bound and
the estimate of a prompt. What does not: a chat's parameters (chat.py).

Nothing here parses a body: it is known to be valid JSON, and is searched. A plain text costs two searches.
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Final

from proxy.core import estimate
from proxy.core.patching import elements, has_escaped_letter, members, replace_spans, string_end

SHORT: Final = b'"image"'
"""What says that a part is an image in the short form: its type, and the key of its address."""

STANDARD: Final = b'"image_url"'

_MEDIA: Final = re.compile(rb'"(?:input_)?(?:image|audio|video)')
_ATTACHED: Final = re.compile(rb'"(?:image_url|audio_url|video_url|input_audio)"(?=\s*+:)')
_INLINED: Final = re.compile(rb'"data(?::|"\s*+:\s*+")')
_TYPE: Final = b'"type"'
_PARTS_MAX: Final = 1000


def has_media(body: bytes) -> bool:
    """Whether a request may hold anything but text: a word that begins like the type of such a part."""
    return _MEDIA.search(body) is not None or has_escaped_letter(body)


def with_standard_images(body: bytes) -> bytes:
    """Return a chat with every image in the standard form; all else stays, byte for byte.

    ``{"type": "image", "image": "data:…"}`` becomes ``{"type": "image_url", "image_url": {"url": "data:…"}}`` (API
    documentation, section Multimodal Requests): engines know no other. An object (``{"url": …}``) as the image stays
    an object. Only the parts of messages are looked at, the first thousand that may be images, and a part is left alone
    that has an ``image_url`` already, whose image is neither a text nor an object, or that spells these words with
    escapes.

    Raises:
        ApiError: 400 when an object has more members than anybody means.
    """
    if SHORT not in body:
        return body
    parts = islice(_parts(body), _PARTS_MAX)
    return replace_spans(body, [edit for part in parts for edit in _standard(body, part)])


def _parts(body: bytes) -> Iterator[int]:
    """Yield where each part begins that holds the word: an object in the ``content`` of one of the ``messages``."""
    for messages in _arrays(body, 0, b'"messages"'):
        for message in islice(_objects_with_word(body, *messages), _PARTS_MAX):
            for content in _arrays(body, message, b'"content"'):
                yield from _objects_with_word(body, *content)


def _arrays(body: bytes, start: int, name: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end of the arrays that an object has by a name."""
    for first, after, value, end in members(body, start):
        if body[first:after] == name and body.startswith(b"[", value):
            yield value, end


def _objects_with_word(body: bytes, start: int, end: int) -> Iterator[int]:
    """Yield where the objects of an array begin that hold the word."""
    for first, after in elements(body, start, end):
        if body.startswith(b"{", first) and body.find(SHORT, first, after) >= 0:
            yield first


def _standard(body: bytes, part: int) -> list[tuple[int, int, bytes]]:
    """Return what is to be replaced in a part; nothing, if it is not in the short form."""
    edits: list[tuple[int, int, bytes]] = []
    keys = set()
    for first, after, value, end in members(body, part):
        key = body[first:after]
        keys.add(key)
        if key == _TYPE and body[value:end] == SHORT:
            edits.append((value, end, STANDARD))
        elif key == SHORT and body.startswith(b'"', value):
            edits += [(first, after, STANDARD), (value, value, b'{"url":'), (end, end, b"}")]
        elif key == SHORT and body.startswith(b"{", value):
            edits.append((first, after, STANDARD))
        elif key in (_TYPE, SHORT, STANDARD):
            return []
    return edits if {_TYPE, SHORT} <= keys else []


def text_bytes(body: bytes) -> int:
    """Return the size of a request for estimates: with what is inlined left out, and each attachment as an image.

    Inlined is a data URI, or any ``data`` of an attachment; one with a blank in it is no Base64, and text.
    """
    attached = len(_ATTACHED.findall(body))
    inlined = 0
    for found in _INLINED.finditer(body):
        if body.startswith(b"\\", found.start() - 1):
            continue  # in the middle of a text
        start = found.start() if body.startswith(b":", found.end() - 1) else found.end() - 1
        end = string_end(body, start)
        if body.find(b" ", start, end) < 0:
            inlined += end - start
    return len(body) - inlined + attached * estimate.IMAGE_TOKENS * estimate.BYTES_PER_TOKEN
