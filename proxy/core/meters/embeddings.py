"""Embeddings: what ``/v1/embeddings`` used, off its answer.

What belongs here: which number of an answer is the input, and when it is believed. What does not: finding it in
megabytes of vectors (large.py).

vLLM, SGLang, llama.cpp, Ollama, TEI and OpenAI report ``prompt_tokens`` and ``total_tokens``, which are the same: an
embedding has no output (vLLM says so: ``completion_tokens`` 0). Infinity reports both, but counts characters: its
numbers are not believed. A number is believed when it is a whole one, above 0 and not beyond what the input can be.
"""

from typing import Final

from proxy.core.calls import PreparedCall
from proxy.core.calls.embeddings import EmbeddingsCall
from proxy.core.catalogue import Engine
from proxy.core.meters.contract import Reading
from proxy.core.meters.large import BodyMeter, UsageRule, answers_with, read_large
from proxy.core.usage import Quantity, Source, Usage, UsageType

COUNTS_CHARACTERS: Final = frozenset({Engine.INFINITY})
"""Engines whose usage is no count of tokens."""

_EMBEDDINGS: Final = answers_with("data")


def read_embeddings(engine: Engine, body: bytes, call: PreparedCall) -> Reading:
    """Read a whole answer that has been collected."""
    return read_large(body, _EMBEDDINGS, _rule(engine, call))


def embeddings_meter(engine: Engine, call: PreparedCall) -> BodyMeter:
    """Return the meter of an answer that is relayed as it comes."""
    return BodyMeter(_EMBEDDINGS, _rule(engine, call))


def _rule(engine: Engine, call: PreparedCall) -> UsageRule:
    assert isinstance(call, EmbeddingsCall)
    estimated = Usage((Quantity(UsageType.INPUT, call.estimated_tokens, Source.ESTIMATED),))

    def rule(usage: object, _answer_bytes: int) -> Usage:
        if engine in COUNTS_CHARACTERS or not isinstance(usage, dict):
            return estimated
        for name in ("prompt_tokens", "total_tokens"):
            tokens = usage.get(name)
            if type(tokens) is int and 0 < tokens <= call.input_tokens_max:
                return Usage((Quantity(UsageType.INPUT, tokens),))
        return estimated

    return rule
