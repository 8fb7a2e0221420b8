"""Subtitles: what was said and when, as SubRip (srt), WebVTT (vtt) and plain text.

What belongs here: the three formats. What does not: where segments come from.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

_HOUR_MS: Final = 3_600_000
_MINUTE_MS: Final = 60_000
_SECOND_MS: Final = 1000


class Cue(msgspec.Struct, frozen=True):
    """What is said between two moments, in milliseconds from the beginning."""

    start_ms: int
    end_ms: int
    text: str


def plain_text(text: str) -> str:
    """Return a text alone, as a line of its own."""
    return text.strip() + "\n"


def srt(cues: Sequence[Cue]) -> str:
    """Return SubRip: numbered cues."""
    return "".join(
        f"{number}\n{_time(cue.start_ms, ',')} --> {_time(cue.end_ms, ',')}\n{_lines(cue.text)}\n\n"
        for number, cue in enumerate(cues, 1)
    )


def vtt(cues: Sequence[Cue]) -> str:
    """Return WebVTT (W3C), in which a text's ``&``, ``<`` and ``>`` are escaped."""
    return "WEBVTT\n\n" + "".join(
        f"{_time(cue.start_ms, '.')} --> {_time(cue.end_ms, '.')}\n{_escaped(_lines(cue.text))}\n\n" for cue in cues
    )


def _time(moment_ms: int, point: str) -> str:
    hours, rest = divmod(max(0, moment_ms), _HOUR_MS)
    minutes, rest = divmod(rest, _MINUTE_MS)
    seconds, milliseconds = divmod(rest, _SECOND_MS)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{milliseconds:03}"


def _lines(text: str) -> str:
    """Return a text that cannot end its cue or look like the times of one: no blank line, no arrow."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip()).replace("-->", "->")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
