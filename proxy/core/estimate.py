"""Estimates: stated rules for quantities that no upstream reported.

What belongs here: the rules, from what was seen to tokens. What does not: seeing (meters/). Whoever uses a number
from here marks it ``Source.ESTIMATED``. The rules err on the customer's side: a delta is one token unless its text is
far too long for one.
"""

from typing import Final

BYTES_PER_TOKEN: Final = 4
"""The common rule of thumb for text in UTF-8."""

IMAGE_TOKENS: Final = 256
"""What an image, or anything else that is attached to a prompt, is taken for: few models spend less on one."""

BYTES_PER_DELTA_MAX: Final = 8
"""Mean length of a delta up to which it is believed to be one token: no language's mean token is longer."""


def input_tokens(prompt_bytes: int) -> int:
    """Return tokens for a prompt of so many bytes: a quarter, rounded up, and at least 1."""
    return max(1, -(-prompt_bytes // BYTES_PER_TOKEN))


def text_tokens(text_bytes: int) -> int:
    """Return tokens for a text of which only the length is known: a quarter of its bytes, rounded up."""
    return -(-text_bytes // BYTES_PER_TOKEN)


def delta_tokens(deltas: int, text_bytes: int) -> int:
    """Return tokens for so many deltas with so much text between them.

    One token a delta, and one more for every four bytes beyond eight a delta: some engines put several tokens into one
    delta. Never more than one token a byte, as no delta that is counted is empty.
    """
    return deltas + text_tokens(max(0, text_bytes - BYTES_PER_DELTA_MAX * deltas))
