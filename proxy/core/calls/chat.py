"""Chat calls: ``/v1/chat/completions``.

What belongs here: the documented parameters of a chat, what bounds its output and its input, and the patches that the
upstream's copy of the body needs. What does not: decoding and its errors (checking.py).
"""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw

from proxy.core.calls.checking import Checker, find_model, json_of
from proxy.core.calls.contract import Form, PreparedCall, Terms
from proxy.core.catalogue import Engine, Model
from proxy.core.errors import invalid_parameter
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

_checked: Final = Checker(_ChatRequest, _PROBLEMS)


def prepare_chat(received: bytes | Form, route: str, terms: Terms) -> PreparedCall:
    """Check a chat request and make it ready for its model's engine.

    Raises:
        ApiError: 400 with the parameter's name, or 404 for an unknown model.
    """
    body = json_of(received)
    request = _checked.decoded(body)
    model = find_model(request.model, route, terms)
    if not request.messages or any(bytes(message)[:1] != b"{" for message in request.messages):
        raise invalid_parameter("messages", _PROBLEMS["messages"])

    changes: dict[str, bytes] = {}
    asked = max(request.max_tokens or 0, request.max_completion_tokens or 0)
    if not asked:
        asked = min(terms.default_max_tokens, model.max_model_len)
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
        upstream_route=route,
        body=patch_object(body, changes) if changes else body,
        stream=stream,
        forward_usage=wants_usage,
        strip_continuous=not wants_continuous,
        choices=choices,
        output_tokens_max=min(asked, model.max_model_len) * choices,
        input_tokens_max=input_bound(body, model),
        prompt_bytes=len(body),
    )


def input_bound(body: bytes, model: Model) -> int:
    """Return the most input tokens that a request can be charged for.

    No tokenizer makes more than one token of a byte of text; what is not text is bounded by the context length.
    """
    if b"image" in body or b"audio" in body or b"video" in body:
        return model.max_model_len
    return min(model.max_model_len, len(body) + TEMPLATE_TOKENS)
