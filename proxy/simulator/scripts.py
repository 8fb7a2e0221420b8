"""What a simulated model says: the tokens of an answer, decided by nothing but the prompt and a seed.

What belongs here: pure functions from a prompt to a script. What does not: pacing, framing and counting.

A script is a row of steps. A step is what vLLM's detokenizer emits at once: usually one token; several where
a character takes more than one (an accent two, an emoji four): a delta never holds half a character.
"""

import hashlib
import re
from collections.abc import Iterator
from enum import StrEnum

import msgspec

_WORDS = (
    " the", " model", " answers", " with", " a", " café", " and", " some", " words", " about",
    " la", " forêt", " ,", " énergie", " light", " so", " that", " each", " token", " is",
    " counted", " .", " Été", " costs", " euros", " 😀", " once", " more", " over", " the", " wire",
    " naïve",
)  # fmt: skip
_THOUGHTS = (
    " Let", " me", " think", " about", " this", " carefully", " ;", " perhaps", " not", " déjà",
    " so", " .",
)  # fmt: skip
_PIECE = re.compile(r"[\x00-\x7f]+|[^\x00-\x7f]")
_REASONING_TOKENS_MAX = 48


class Part(StrEnum):
    """Which field of a message a step belongs to."""

    REASONING = "reasoning"
    CONTENT = "content"
    TOOL_NAME = "tool_name"
    TOOL_ARGUMENTS = "tool_arguments"
    END = "end"
    """The end-of-sequence token: counted, never seen."""


class Step(msgspec.Struct, frozen=True):
    """What is emitted at once: sampled tokens and the text that they complete, which may be empty."""

    part: Part
    text: str
    tokens: int = 1


class Script(msgspec.Struct, frozen=True):
    """A whole answer.

    Args:
        steps: in order; the last is END unless the answer was cut by its bound.
        finish_reason: ``stop``, ``length`` or ``tool_calls``.
        stop_reason: the word of the call at which it stopped.
    """

    steps: tuple[Step, ...]
    finish_reason: str
    stop_reason: str | None = None

    @property
    def tokens(self) -> int:
        """Sampled tokens, the end of sequence included."""
        return sum(step.tokens for step in self.steps)

    @property
    def reasoning_tokens(self) -> int:
        """Those of them that are reasoning."""
        return sum(step.tokens for step in self.steps if step.part is Part.REASONING)

    def text(self, part: Part) -> str:
        """Return the text of one part of the answer."""
        return "".join(step.text for step in self.steps if step.part is part)


class ToolCall(msgspec.Struct, frozen=True):
    """The function that an answer calls: its name and its arguments as JSON text."""

    name: str
    arguments: str


def _random_bytes(seed: int, salt: str, prompt: str, count: int) -> bytes:
    return hashlib.shake_128(f"{seed}\x00{salt}\x00{prompt}".encode("utf-8", "surrogatepass")).digest(count)


def _natural_length(seed: int, choice: int, prompt: str) -> int:
    """Return 16 to 415 tokens, short answers more often than long ones."""
    draw = int.from_bytes(_random_bytes(seed, f"length{choice}", prompt, 2), "big")
    return 16 + ((draw * draw >> 16) * 400 >> 16)


def _pieces(words: tuple[str, ...], draws: bytes, part: Part) -> Iterator[Step]:
    for draw in draws:
        for piece in _PIECE.findall(words[draw % len(words)]):
            yield Step(part, piece, 1 if piece.isascii() else len(piece.encode()))


def _take(steps: Iterator[Step], tokens: int) -> list[Step]:
    """Return steps of exactly so many tokens; a character that does not fit leaves tokens without text."""
    taken: list[Step] = []
    for step in steps:
        if tokens <= 0:
            break
        taken.append(step if step.tokens <= tokens else Step(step.part, "", tokens))
        tokens -= step.tokens
    return taken


def write_text(
    prompt: str,
    *,
    seed: int = 0,
    choice: int = 0,
    tokens: int | None = None,
    tokens_max: int | None = None,
    tokens_min: int = 0,
    reasons: bool = False,
) -> Script:
    """Return a text answer.

    Args:
        prompt: what is answered; the same prompt always gets the same answer.
        seed: of the cluster.
        choice: index among the n answers of a call; each is different.
        tokens: exact length, the end-of-sequence token included; None: a length drawn from the prompt.
        tokens_max: bound of the call; a longer answer is cut there and finishes with ``length``.
        tokens_min: shortest natural length.
        reasons: whether up to half of the answer is reasoning.
    """
    length = max(tokens if tokens is not None else _natural_length(seed, choice, prompt), tokens_min, 1)
    is_cut = tokens_max is not None and tokens_max < length
    visible = tokens_max if is_cut and tokens_max is not None else length - 1
    draws = _random_bytes(seed, f"text{choice}", prompt, visible)
    thought = min(length // 2, _REASONING_TOKENS_MAX, visible) if reasons else 0
    steps = _take(_pieces(_THOUGHTS, draws, Part.REASONING), thought)
    steps += _take(_pieces(_WORDS, draws, Part.CONTENT), visible - thought)
    if is_cut:
        return Script(tuple(steps), "length")
    return Script((*steps, Step(Part.END, "")), "stop")


def write_tool_call(call: ToolCall, tokens_max: int | None = None) -> Script:
    """Return an answer that calls a function, its arguments in pieces of one token."""
    pieces = re.findall(r"\s*[^\s:,{}]+[:,]?|.", call.arguments, re.DOTALL)
    steps = [Step(Part.TOOL_NAME, call.name), *(Step(Part.TOOL_ARGUMENTS, piece) for piece in pieces)]
    if tokens_max is not None and tokens_max <= len(steps):
        return Script(tuple(steps[:tokens_max]), "length")
    return Script((*steps, Step(Part.END, "")), "tool_calls")


def stop_at(script: Script, words: tuple[str, ...]) -> Script:
    """Return the script up to the first of these words: it is sampled, and counted, but not said."""
    said = "".join(step.text for step in script.steps)
    found = min(((said.find(word), word) for word in words if word and word in said), default=None)
    if found is None:
        return script
    at, word = found
    kept: list[Step] = []
    seen = 0
    for step in script.steps:
        kept.append(Step(step.part, step.text[: max(at - seen, 0)], step.tokens))
        seen += len(step.text)
        if seen >= at + len(word):
            break
    return Script(tuple(kept), "stop", word)
