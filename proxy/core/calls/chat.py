"""Chat calls: ``/v1/chat/completions``.

What belongs here: the documented parameters of a chat, what bounds its output and its input, and the patches that the
upstream's copy of the body needs. What does not: decoding and its errors (checking.py), and what is not text
(images.py).
"""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw

from proxy.core.calls.checking import Checker, find_model, json_of
from proxy.core.calls.contract import Form, PreparedCall, Terms
from proxy.core.calls.images import has_media, text_bytes, with_standard_images
from proxy.core.catalogue import Engine, Model
from proxy.core.errors import invalid_parameter
from proxy.core.patching import patch_object

TEMPLATE_TOKENS: Final = 1024
"""What a chat template may add to a prompt beyond one token a byte."""

_CONTINUOUS: Final = frozenset({Engine.VLLM, Engine.SGLANG})
_OBJECT: Final = ord("{")
_PENALTY = Annotated[float, Meta(ge=-2, le=2)] | None
_TOKENS = Annotated[int, Meta(ge=1, le=2**31)] | None


class ChatRequest(msgspec.Struct, kw_only=True):
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


PROBLEMS: Final = {
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

_checked: Final = Checker(ChatRequest, PROBLEMS)


class WantedUsage(msgspec.Struct, frozen=True):
    """What a client wants to see of usage in a stream.

    Args:
        at_end: the chunk without choices.
        continuous: usage in every chunk.
        patch: the ``stream_options`` that the upstream gets instead of the client's, so that a call is metered whatever
            its client wants to see; None: they need no change.
    """

    at_end: bool
    continuous: bool
    patch: bytes | None


_UNSEEN: Final = WantedUsage(at_end=False, continuous=False, patch=None)


def prepare_chat(received: bytes | Form, route: str, terms: Terms) -> PreparedCall:
    """Check a chat request and make it ready for its model's engine.

    Raises:
        ApiError: 400 with the parameter's name, or 404 for an unknown model.
    """
    body = json_of(received)
    request = _checked.decoded(body)
    return ready_chat(request, body, find_model(request.model, route, terms), route, terms)


def ready_chat(request: ChatRequest, body: bytes, model: Model, upstream_route: str, terms: Terms) -> PreparedCall:
    """Make a decoded chat request ready; ``body`` is what it was decoded from. Raises ApiError (400)."""
    check_messages(request.messages)
    has_more = has_media(body)
    sent = with_standard_images(body) if has_more else body
    changes: dict[str, bytes] = {}
    asked = max(request.max_tokens or 0, request.max_completion_tokens or 0)
    if not asked:
        asked = min(terms.default_max_tokens, model.max_model_len)
        changes["max_tokens"] = b"%d" % asked
    if model.upstream_model != request.model:
        changes["model"] = msgspec.json.encode(model.upstream_model)
    usage = wanted_usage(request, model)
    if usage.patch is not None:
        changes["stream_options"] = usage.patch
    choices = request.n or 1
    return PreparedCall(
        model=model,
        upstream_route=upstream_route,
        body=patch_object(sent, changes) if changes else sent,
        stream=bool(request.stream),
        forward_usage=usage.at_end,
        strip_continuous=not usage.continuous,
        choices=choices,
        output_tokens_max=min(asked, model.max_model_len) * choices,
        input_tokens_max=model.max_model_len if has_more else min(model.max_model_len, len(body) + TEMPLATE_TOKENS),
        prompt_bytes=text_bytes(sent) if has_more else len(body),
    )


def check_messages(messages: list[Raw]) -> None:
    """Check that there are messages, and that each is an object. Raises ApiError (400)."""
    for message in messages:
        if memoryview(message)[0] != _OBJECT:
            raise invalid_parameter("messages", PROBLEMS["messages"])
    if not messages:
        raise invalid_parameter("messages", PROBLEMS["messages"])


def wanted_usage(request: ChatRequest, model: Model) -> WantedUsage:
    """Return what a request says about usage."""
    if not request.stream:
        return _UNSEEN
    options = request.stream_options or {}
    at_end = options.get("include_usage") is True
    continuous = at_end and options.get("continuous_usage_stats") is True
    forced = {"include_usage": True}
    if model.upstreams[0].engine in _CONTINUOUS:
        forced["continuous_usage_stats"] = True
    if any(options.get(name) is not True for name in forced):
        return WantedUsage(at_end, continuous, msgspec.json.encode({**options, **forced}))
    return WantedUsage(at_end, continuous, None)
