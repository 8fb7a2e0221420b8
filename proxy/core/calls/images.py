"""Images in chats: what is not text in a request, whatever its route.

What belongs here: the documented short form of an image, and what images and other attachments mean for the bound and
the estimate of a prompt. What does not: a chat's parameters (chat.py).

Nothing here parses a body: it is known to be valid JSON, and is searched. A plain text costs two searches.
"""

import re
from collections.abc import Iterator
from typing import Final

from proxy.core import estimate
from proxy.core.patching import AFTER_KEY, has_escaped_letter, replace_spans, string_end, strings

SHORT: Final = b'"image"'
"""What says that a part is an image in the short form: its type, and the key of its address."""

STANDARD: Final = b'"image_url"'

_MEDIA: Final = re.compile(rb'"(?:input_)?(?:image|audio|video)')
_ATTACHED: Final = re.compile(rb'"(?:image_url|audio_url|video_url|input_audio)"(?=\s*+:)')
_INLINED: Final = re.compile(rb'"data(?::|"\s*+:\s*+")')
_MEMBER_DEPTH: Final = 1
_MESSAGE_DEPTH: Final = 3
_PART_DEPTH: Final = 5

_Member = tuple[int, int, int]
"""A member of a part: start and end of its key, start of its value."""


def has_media(body: bytes) -> bool:
    """Whether a request may hold anything but text: a word that begins like the type of such a part."""
    return _MEDIA.search(body) is not None or has_escaped_letter(body)


def with_standard_images(body: bytes) -> bytes:
    """Return a chat with every image in the standard form; all else stays, byte for byte.

    ``{"type": "image", "image": "data:…"}`` becomes ``{"type": "image_url", "image_url": {"url": "data:…"}}`` (API
    documentation, section Multimodal Requests): engines know no other. An object (``{"url": …}``) as the image stays
    an object. Only the parts of messages are looked at, and a part is left alone that has an ``image_url`` already,
    whose image is neither a text nor an object, or that spells these words with escapes.
    """
    if SHORT not in body:
        return body
    return replace_spans(body, [edit for part in _parts(body) for edit in _standard(body, part)])


def _parts(body: bytes) -> Iterator[list[_Member]]:
    """Yield the members of every part (an object in the ``content`` of one of the ``messages``) that has any."""
    part: list[_Member] = []
    in_messages = in_content = False
    for start, end, depth, lowest in strings(body):
        if lowest < _PART_DEPTH and part:
            yield part
            part = []
        if depth > _PART_DEPTH or (depth == _PART_DEPTH and not (in_messages and in_content)):
            continue
        colon = AFTER_KEY.match(body, end)
        if colon is None:
            continue
        if depth == _PART_DEPTH:
            part.append((start, end, colon.end()))
        elif depth == _MESSAGE_DEPTH:
            in_content = body[start:end] == b'"content"' and body.startswith(b"[", colon.end())
        elif depth == _MEMBER_DEPTH:
            in_messages = body[start:end] == b'"messages"'
    if part:
        yield part


def _standard(body: bytes, part: list[_Member]) -> list[tuple[int, int, bytes]]:
    """Return what is to be replaced in a part."""
    edits: list[tuple[int, int, bytes]] = []
    has_type = has_image = False
    for start, end, value in part:
        key = body[start:end]
        if key == b'"type"':
            if not body.startswith(SHORT, value):
                return []
            has_type = True
            edits.append((value, value + len(SHORT), STANDARD))
        elif key == SHORT:
            has_image = True
            edits.append((start, end, STANDARD))
            if body.startswith(b'"', value):
                after = string_end(body, value)
                edits += [(value, value, b'{"url":'), (after, after, b"}")]
            elif not body.startswith(b"{", value):
                return []
        elif key == STANDARD:
            return []
    return edits if has_type and has_image else []


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
