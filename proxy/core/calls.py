"""Calls: from a request body to what must be known before it may go on. Pure.

What belongs here: checking documented parameters, finding the model, bounding what the call can produce, and the
patches that the upstream's copy of the body needs. What does not: who calls, and whether the limits have room.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw

from proxy.core.catalogue import Engine, Model
from proxy.core.errors import ApiError, invalid_parameter, invalid_request, model_not_found
from proxy.core.patching import patch_object

TEMPLATE_TOKENS: Final = 1024
"""What a chat template may add to a prompt beyond one token a byte."""

_CONTINUOUS: Final = frozenset({Engine.VLLM, Engine.SGLANG})
_PENALTY = Annotated[float, Meta(ge=-2, le=2)] | None
_TOKENS = Annotated[int, Meta(ge=1, le=2**31)] | None


class _ChatRequest(msgspec.Struct):
    """The members of a chat request that are documented or decide what it may cost; the rest passes unseen."""

    model: str
    messages: list[Raw]
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    max_tokens: _TOKENS = None
    max_completion_tokens: _TOKENS = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: _PENALTY = None
    frequency_penalty: _PENALTY = None
    user: str | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    tools: list[Raw] | None = None
    tool_choice: str | dict[str, Any] | None = None


_PROBLEMS: Final = {
    "model": "must be a string that names a model",
    "messages": "must be an array with at least one message object",
    "stream": "must be a boolean",
    "stream_options": "must be an object",
    "temperature": "must be between 0 and 2",
    "max_tokens": "must be an integer of at least 1",
    "max_completion_tokens": "must be an integer of at least 1",
    "top_p": "must be between 0 and 1",
    "presence_penalty": "must be between -2 and 2",
    "frequency_penalty": "must be between -2 and 2",
    "user": "must be a string",
    "n": "must be an integer between 1 and 128",
    "tools": "must be an array of tool objects",
    "tool_choice": "must be a string or an object",
}
_PATH: Final = re.compile(r"at `\$\.(\w+)")
_MISSING: Final = re.compile(r"missing required field `(\w+)`")


class PreparedCall(msgspec.Struct, frozen=True):
    """A call that may be admitted.

    Args:
        model: what it asks for.
        body: what the upstream gets.
        stream: whether the answer is streamed.
        forward_usage: whether the client asked for the usage chunk.
        strip_continuous: whether usage in content chunks is there only because we asked for it.
        choices: how many answers it asks for.
        output_tokens_max: most output tokens that it can produce, over all choices.
        input_tokens_max: most input tokens that it can be charged for.
        prompt_bytes: size of the request, for estimates.
    """

    model: Model
    body: bytes
    stream: bool
    forward_usage: bool
    strip_continuous: bool
    choices: int
    output_tokens_max: int
    input_tokens_max: int
    prompt_bytes: int


_decode: Final = msgspec.json.Decoder(_ChatRequest).decode


def prepare_chat(body: bytes, models: Mapping[str, Model], route: str, default_max_tokens: int) -> PreparedCall:
    """Check a chat request and make it ready for its model's engine.

    Raises:
        ApiError: 400 with the parameter's name, or 404 for an unknown model.
    """
    request = _decoded(body)
    model = models.get(request.model)
    if model is None or route not in model.endpoints:
        raise model_not_found(request.model)
    if not request.messages or any(bytes(message)[:1] != b"{" for message in request.messages):
        raise invalid_parameter("messages", _PROBLEMS["messages"])

    changes: dict[str, bytes] = {}
    asked = max(request.max_tokens or 0, request.max_completion_tokens or 0)
    if not asked:
        asked = min(default_max_tokens, model.max_model_len)
        changes["max_tokens"] = b"%d" % asked
    if model.upstream_model != request.model:
        changes["model"] = msgspec.json.encode(model.upstream_model)
    stream = bool(request.stream)
    options = request.stream_options or {}
    wants_usage = options.get("include_usage") is True
    wants_continuous = wants_usage and options.get("continuous_usage_stats") is True
    if stream:
        forced = {"include_usage": True}
        if model.upstreams[0].engine in _CONTINUOUS:
            forced["continuous_usage_stats"] = True
        if any(options.get(name) is not True for name in forced):
            changes["stream_options"] = msgspec.json.encode({**options, **forced})
    choices = request.n or 1
    return PreparedCall(
        model=model,
        body=patch_object(body, changes) if changes else body,
        stream=stream,
        forward_usage=wants_usage,
        strip_continuous=not wants_continuous,
        choices=choices,
        output_tokens_max=min(asked, model.max_model_len) * choices,
        input_tokens_max=_input_bound(body, model),
        prompt_bytes=len(body),
    )


def _decoded(body: bytes) -> _ChatRequest:
    try:
        return _decode(body)
    except msgspec.ValidationError as exc:
        raise _documented(str(exc)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise invalid_request("The request body is not valid JSON") from exc


def _documented(text: str) -> ApiError:
    """Turn msgspec's account of a fault into the documented one."""
    if (missing := _MISSING.search(text)) is not None:
        return invalid_parameter(missing[1], "is required")
    if (path := _PATH.search(text)) is not None and path[1] in _PROBLEMS:
        return invalid_parameter(path[1], _PROBLEMS[path[1]])
    return invalid_request("The request body must be a JSON object")


def _input_bound(body: bytes, model: Model) -> int:
    """No tokenizer makes more than one token of a byte of text; what is not text is bounded by the context length."""
    if b"image" in body or b"audio" in body or b"video" in body:
        return model.max_model_len
    return min(model.max_model_len, len(body) + TEMPLATE_TOKENS)
