"""Tokens with their probabilities, in the two shapes that vLLM 0.32 has for them.

What belongs here: pure functions from sampled steps to JSON. Every token is certain (0.0) and has the same unlikely
neighbours. Of a character of several tokens the last one bears the text.
"""

from collections.abc import Iterable
from typing import Final

from proxy.simulator.scripts import Part, Step
from proxy.simulator.shapes import Json

END_TEXT: Final = "<|end|>"
_UNLIKELY: Final = -31.983627319335938
_TOKEN_BYTES: Final = 4
_NEIGHBOUR: Final = "!"
_FIRST_ID: Final = 64


def tokens_of(steps: Iterable[Step]) -> list[str]:
    """Return the text of each token; what is not yet a character is U+FFFD."""
    found: list[str] = []
    for step in steps:
        text = END_TEXT if step.part is Part.END else step.text
        found += ["\ufffd"] * (step.tokens - 1) + [text]
    return found


def prompt_pieces(prompt: str) -> list[str]:
    """Return the text of each token of a prompt: as many as it counts."""
    raw = prompt.encode("utf-8", "surrogatepass")
    return [raw[at : at + _TOKEN_BYTES].decode("utf-8", "replace") for at in range(0, len(raw), _TOKEN_BYTES)]


def of_chat(steps: Iterable[Step], top: int) -> Json:
    """Return a chat's ``logprobs``, with so many neighbours a token."""

    def entry(token: str, logprob: float) -> Json:
        return {"token": token, "logprob": logprob, "bytes": list(token.encode("utf-8", "surrogatepass"))}

    def neighbours(token: str) -> list[Json]:
        return [entry(token, 0.0), *(entry(_NEIGHBOUR * n, _UNLIKELY) for n in range(1, top))][:top]

    return {"content": [entry(token, 0.0) | {"top_logprobs": neighbours(token)} for token in tokens_of(steps)]}


def of_text(steps: Iterable[Step], echoed: list[str], offset: int = 0) -> Json:
    """Return a completion's ``logprobs``; those of a prompt that is echoed come first, its first token without one.

    Args:
        steps: sampled.
        echoed: tokens of the prompt.
        offset: characters before.
    """
    generated = tokens_of(steps)
    known: list[Json | None] = [{_NEIGHBOUR: 0.0, token: _UNLIKELY} for token in echoed]
    known[:1] = [None] * bool(echoed)
    offsets, at = [], offset
    for token in echoed + generated:
        offsets.append(at)
        at += len(token)
    return {
        "text_offset": offsets,
        "token_logprobs": [None if one is None else _UNLIKELY for one in known] + [0.0] * len(generated),
        "tokens": echoed + generated,
        "top_logprobs": known + [{token: 0.0} for token in generated],
    }


def of_prompt(echoed: list[str]) -> list[Json | None]:
    """Return ``prompt_logprobs``: by token id."""
    return [
        None
        if index == 0
        else {
            str(_FIRST_ID + index): {"logprob": _UNLIKELY, "rank": 1024, "decoded_token": token},
            "0": {"logprob": 0.0, "rank": 1, "decoded_token": _NEIGHBOUR},
        }
        for index, token in enumerate(echoed)
    ]
