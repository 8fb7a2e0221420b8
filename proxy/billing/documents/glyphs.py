"""Which characters the shipped fonts can draw, read from the fonts themselves.

What belongs here: what becomes of a text before it is typeset. PDF/A forbids glyphs that a font does not have, so a
character that the fonts lack is drawn as a white square, and one without a shape of its own (a joiner, a control) is
left out. The XML keeps the text as it is.
"""

import re
import struct
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

FONTS: Final = Path(__file__).parent / "fonts"
REPLACEMENT: Final = "\u25a1"

_MAY_BREAK: Final = "\u200b"
_LONG_RUN: Final = re.compile("\\S{22}(?=\\S)(?![\u0300-\u036f])")
_SHAPELESS: Final = ("Cc", "Cf", "Cs")
_WINDOWS_UNICODE: Final = ((3, 10), (3, 1))


def drawable(text: str) -> str:
    """Return a text of which the shipped fonts have every character; any white space is a space.

    A run without a space may be broken after every so many characters: no name is wider than its column.
    """
    covered = coverage()
    drawn = []
    for character in unicodedata.normalize("NFC", text):
        if ord(character) in covered:
            drawn.append(character)
        elif character.isspace():
            drawn.append(" ")
        elif unicodedata.category(character) == "Cs" or unicodedata.category(character) not in _SHAPELESS:
            drawn.append(REPLACEMENT)
    return _LONG_RUN.sub(rf"\g<0>{_MAY_BREAK}", "".join(drawn))


@cache
def coverage() -> frozenset[int]:
    """Return the code points that every shipped font has, but for those without a shape."""
    fonts = sorted(FONTS.glob("*.otf"))
    assert fonts, "fonts are shipped with the package"
    common = set.intersection(*(set(_code_points(font.read_bytes())) for font in fonts))
    return frozenset(point for point in common if unicodedata.category(chr(point)) not in _SHAPELESS)


def _code_points(font: bytes) -> Iterator[int]:
    """Yield the code points of a font's widest Unicode table (OpenType 1.9, ``cmap``, formats 4 and 12)."""
    tables = struct.unpack_from(">H", font, 4)[0]
    records = (struct.unpack_from(">4sIII", font, 12 + 16 * number) for number in range(tables))
    start = next(offset for tag, _, offset, _ in records if tag == b"cmap")
    subtables = {}
    for number in range(struct.unpack_from(">H", font, start + 2)[0]):
        platform, encoding, offset = struct.unpack_from(">HHI", font, start + 4 + 8 * number)
        subtables[platform, encoding] = start + offset
    at = next(subtables[key] for key in _WINDOWS_UNICODE if key in subtables)
    if struct.unpack_from(">H", font, at)[0] == 12:  # noqa: PLR2004
        for group in range(struct.unpack_from(">I", font, at + 12)[0]):
            first, last, _ = struct.unpack_from(">III", font, at + 16 + 12 * group)
            yield from range(first, last + 1)
        return
    doubled = struct.unpack_from(">H", font, at + 6)[0]
    lasts = struct.unpack_from(f">{doubled // 2}H", font, at + 14)
    firsts = struct.unpack_from(f">{doubled // 2}H", font, at + 16 + doubled)
    for first, last in zip(firsts, lasts, strict=True):
        yield from range(first, min(last, 0xFFFE) + 1)
