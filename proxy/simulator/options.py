"""What a simulated cluster can be told: when it starts, and call by call through the switches of a prompt.

What belongs here: the frozen options, and the reading of switches (pure). What does not: acting on them
(generation.py, answers.py).

Switches stand in the last user message (in the prompt, the input, the query, or an audio form's field ``prompt`` or
``initial_prompt``), each as a word of its own that begins with ``SIM:``, or, without that prefix and separated by
blanks, in the header ``X-Sim``. The header wins.

Of calls that generate text:

- ``tokens=N``: generate exactly N tokens (the end of sequence included), unless max_tokens cuts it.
- ``rate=N``: tokens per second of this call; 0: as fast as the client takes them.
- ``cached=N``: report N prompt tokens as found in the prefix cache.

Of the others:

- ``prompt-tokens=N``: report N, whatever was read (embeddings, rerank, score).
- ``seconds=N``: report so much audio, whatever it was (transcriptions).
- ``answer-bytes=N``: an embeddings answer of exactly N bytes, made as it is sent: its first vector has what it takes.
- ``chunked``: send the answer without a Content-Length.

Of all:

- ``status=N``: answer with this HTTP status and an error body.
- ``drop``: cut the connection before the first byte of the answer.
- ``drop-after=N``: cut the connection after N tokens (not streamed: in the middle of the body).
- ``error-after=N``: send an error event after N tokens, then ``[DONE]``, as vLLM does when its engine fails.
- ``stall``: accept the call and answer nothing, until the client leaves.
- ``stall-after=N``: fall silent after N tokens, until the client leaves.
- ``garbage``: a body that is no JSON; streamed: events that are no JSON or no UTF-8 before the usual ones.
- ``not-http``: answer with bytes that are no HTTP.
- ``no-usage``: leave out every usage.
- ``split``: cut each event into HTTP chunks in the middle of characters and of fields.
"""

import msgspec

from proxy.core.catalogue import Engine

SWITCH_PREFIX = "SIM:"


class Options(msgspec.Struct, frozen=True):
    """How a simulated cluster behaves.

    Args:
        tokens_per_second: pace of each answer; 0: as fast as the client takes them.
        models: names that it serves; empty: any name is accepted.
        max_model_len: context length in tokens, prompt and output together.
        seed: changes every text and length; the same seed gives the same answer to the same prompt.
        force_include_usage: usage in every event of every stream, as with ``--enable-force-include-usage``.
        engine: the server software whose routes, embeddings, rerank and transcriptions it has (engines.py). What it
            generates has vLLM's shape, whatever the engine.
        routes: those that it serves; empty: all that its engine has.
        shortens_vectors: whether ``dimensions`` is obeyed; vLLM refuses it for most models.
    """

    tokens_per_second: float = 60.0
    models: tuple[str, ...] = ()
    max_model_len: int = 131_072
    seed: int = 0
    force_include_usage: bool = False
    engine: Engine = Engine.VLLM
    routes: tuple[str, ...] = ()
    shortens_vectors: bool = True


class Switches(msgspec.Struct, frozen=True):
    """The switches of one call; see the module for their meaning."""

    tokens: int | None = None
    rate: float | None = None
    cached: int | None = None
    status: int | None = None
    drop: bool = False
    drop_after: int | None = None
    error_after: int | None = None
    stall: bool = False
    stall_after: int | None = None
    garbage: bool = False
    not_http: bool = False
    no_usage: bool = False
    split: bool = False
    prompt_tokens: int | None = None
    seconds: float | None = None
    answer_bytes: int | None = None
    chunked: bool = False


_FLAGS = frozenset(field.name for field in msgspec.structs.fields(Switches) if field.type is bool)
_NAMES = frozenset(field.name for field in msgspec.structs.fields(Switches))


class UnknownSwitchError(ValueError):
    """A switch that does not exist, or whose value is no number: a test with a typing error must not pass."""


def read_switches(prompt: str, header: str = "") -> Switches:
    """Return the switches of a call.

    Args:
        prompt: last user message.
        header: value of ``X-Sim``.

    Raises:
        UnknownSwitchError: see there.
    """
    words = [word.removeprefix(SWITCH_PREFIX) for word in prompt.split() if word.startswith(SWITCH_PREFIX)]
    values: dict[str, object] = {}
    for word in [*words, *header.split()]:
        name, _, value = word.partition("=")
        field = name.replace("-", "_")
        if field not in _NAMES or (field in _FLAGS) == bool(value):
            raise UnknownSwitchError(word)
        values[field] = True if field in _FLAGS else value
    try:
        return msgspec.convert(values, Switches, strict=False)
    except msgspec.ValidationError as exc:
        raise UnknownSwitchError(" ".join(words) or header) from exc
